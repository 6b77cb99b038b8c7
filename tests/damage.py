"""The files of faults.py, and what it does to them."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data
import models


# ---------------------------------------------------------------- the files
def make_data():
    """Class folders of images and of texts."""
    generator = np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 3)):
        for c, name in enumerate(("red", "green", "blue")):
            folder = Path("data/colours", part, name)
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                pixels[4:12, 4:12, c] += 150
                Image.fromarray(pixels).save(folder / f"{i}.{('png', 'jpg')[i % 2]}")
        for name in ("good", "bad"):
            folder = Path("data/words", part, name)
            folder.mkdir(parents=True)
            for i in range(n):
                (folder / f"{i}.txt").write_text(f"one {name} film, number {i}, in the {part}")


def make_weights(network):
    """Published weights, and a vocabulary."""
    slots = models.published_slots(network, "vit")
    torch.save(slots, "weights.bin")
    write_safetensors("weights.safetensors", slots)
    Path("vocab.txt").write_text("\n".join([*data.SPECIAL, "one", "good", "film", "##s"]))


def write_safetensors(path, tensors):
    header, blob = {}, b""
    for name, x in tensors.items():
        raw = x.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": [*x.shape],
                        "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    header = json.dumps(header).encode()
    Path(path).write_bytes(len(header).to_bytes(8, "little") + header + blob)


# ---------------------------------------------------------------- mutations
def mutate_bytes(rng, path):
    """Some bits are flipped; a part is cut out, zeroed, doubled or replaced; or the end is lost."""
    raw = bytearray(path.read_bytes())
    a, b = sorted(rng.randrange(len(raw)) for _ in range(2))
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 8)):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    else:
        parts = [b"", bytes(b - a), raw[a:b] * 2, rng.randbytes(b - a), rng.randbytes(9)]
        raw = rng.choice([raw[:a] + rng.choice(parts) + raw[b:], raw[:a], rng.randbytes(a), b""])
    path.write_bytes(raw)


def odd_values(is_json):
    values = [None, -1, 0, 99, 2.5, 10**30, float("nan"), float("inf"), True, "", "x", "..", "\0",
              [], {}, [1, 2], {"a": 1}, [None] * 3, "\ud800", "9" * 5000]
    if is_json:
        return values
    one = torch.ones(3)
    return values + [
        one, one.bool(), one * torch.nan, one.to_sparse(), one.to("meta"), torch.ones(()),
        torch.ones(1).expand(10**12), one[:0], one.long(), one.double(), one.to(torch.complex64),
        torch.quantize_per_tensor(one, 1.0, 0, torch.quint8)]


def mutate_field(rng, path):
    """A random field of a .pt or .json is lost, renamed, or becomes something else."""
    is_json = path.suffix == ".json"
    part = content = json.loads(path.read_text()) if is_json else torch.load(path)
    while True:
        key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
        if not (isinstance(part[key], (dict, list)) and part[key]) or rng.random() < 0.2:
            break
        part = part[key]
    change = rng.random()
    if change < 0.25:
        del part[key]
    elif change < 0.4 and isinstance(part, dict):
        part["new"] = part.pop(key)
    else:
        part[key] = rng.choice(odd_values(is_json))
    path.write_text(json.dumps(content)) if is_json else torch.save(content, path)


# ---------------------------------------------------------------- bombs
class Bomb:
    """Unpickled without care, it leaves a folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def planted(path, way):
    """A file whose pickle runs code."""
    if way == "a pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif way == "a list":
        torch.save([Bomb()], path)
    else:
        content = torch.load(path)
        content[next(iter(content))] = Bomb()
        torch.save(content, path, _use_new_zipfile_serialization=way == "a field")


def zip_bomb(path):
    """A file that is small and unpacks to 2 GB."""
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        top = names[0].split("/")[0]
        with file.open(f"{top}/data/9999", "w", force_zip64=True) as entry:
            for _ in range(2000):
                entry.write(bytes(10**6))


def claim(path, preset):
    """A checkpoint that says it is a giant."""
    content = torch.load(path)
    content["model"]["preset"] = content["config"]["preset"] = preset
    torch.save(content, path)


def bombs():
    """-> {name: (file, what is done to it)}"""
    files = ["runs/colours/student-rekd-*/best.pt", "runs/colours/teacher-re-*/best.pt",
             "runs/words/*/best.pt", "interrupted.pt", "weights.bin", "runs/colours/answers-*.pt",
             "data/colours/.rekd-cache.pt", "data/words/.rekd-cache.pt"]
    made = {}
    for file in files:
        for way in ("a pickle", "a list", "a field", "an old .pt"):
            made[f"{file}, {way}"] = file, lambda path, way=way: planted(path, way)
        made[f"{file}, 2 GB"] = file, zip_bomb
    for preset in ("vit:9999:99:1", "vit:100000:1:1", "vit:8:100000:1", f"vit:{'9' * 30}:1:1"):
        for file in files[:2]:
            made[f"{file}, {preset}"] = file, lambda path, preset=preset: claim(path, preset)
    image, text = "data/colours/test/red/0.png", "data/words/test/good/0.txt"
    for side in (7900, 14000, 30000):
        made[f"image, {side} pixels a side"] = (
            image, lambda path, side=side: Image.new("1", (side, side)).save(path))
    for mode in ("I;16", "RGBA"):
        made[f"image, {mode}, 7900 pixels a side"] = (
            image, lambda path, mode=mode: Image.new(mode, (7900, 7900)).save(path))
    made["text, 200 MB"] = text, lambda path: path.write_text("word " * 40_000_000)
    made["safetensors, a header of exabytes"] = (
        "weights.safetensors",
        lambda path: path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:]))
    for name in ("student-rekd-*/result.json", "teacher-re-*/config.json"):
        made[f"{name}, a million deep"] = (
            f"runs/colours/{name}", lambda path: path.write_text("[" * 10**6))
    return made
