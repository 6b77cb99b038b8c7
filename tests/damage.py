"""The files of faults.py, and what it does to them."""
import json
import os
import pickle
import random
import zipfile
from functools import partial
from pathlib import Path

import torch
from PIL import Image

import data

# ---------------------------------------------------------------- the files

def make_data():
    """Class folders of images (noise) and of texts."""
    rng = random.Random(0)
    for name in ("red", "green", "blue", "good", "bad"):
        dataset = "words" if name in ("good", "bad") else "colours"
        for part, n in (("train", 10), ("test", 3)):
            folder = Path("data", dataset, part, name)
            folder.mkdir(parents=True)
            for i in range(n):
                if dataset == "words":
                    (folder / f"{i}.txt").write_text(f"one {name} film, number {i}, in the {part}")
                else:
                    image = Image.frombytes("RGB", (16, 16), rng.randbytes(16 * 16 * 3))
                    image.save(folder / f"{i}.{'jpg' if i % 2 else 'png'}")

def make_weights(tensors):
    """Published weights in both formats, and a vocabulary."""
    torch.save(tensors, "weights.bin")
    header, blob = {}, b""
    for name, x in tensors.items():
        raw = x.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": [*x.shape],
                        "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    header = json.dumps(header).encode()
    Path("weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + blob)
    Path("vocab.txt").write_text("\n".join([*data.SPECIAL, "one", "good", "film", "##s"]))

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

def plant(path, way):
    """A file whose pickle runs code."""
    if way == "a pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif way == "a list":
        torch.save([Bomb()], path)
    else:
        content = torch.load(path)
        content[next(iter(content))] = Bomb()
        torch.save(content, path, _use_new_zipfile_serialization=way == "a field")

def inflate(path):
    """A file that is small and unpacks to 2 GB."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        top = file.namelist()[0].split("/")[0]
        with file.open(f"{top}/data/9999", "w", force_zip64=True) as entry:
            for _ in range(2000):
                entry.write(bytes(10**6))

def claim(path, preset):
    """A checkpoint that says it is a giant."""
    content = torch.load(path)
    content["model"]["preset"] = content["config"]["preset"] = preset
    torch.save(content, path)

def repeat(path, text, times):
    path.write_text(text * times)

def paint(path, mode, side):
    Image.new(mode, (side, side)).save(path)

def exabytes(path):
    """Safetensors that claim a header of them."""
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])

def bombs():
    """-> {name: (file, what is done to it)}"""
    student, teacher = "runs/colours/student-rekd-*/", "runs/colours/teacher-re-*/"
    networks = [f"{student}best.pt", f"{teacher}best.pt"]
    found = [("weights.safetensors", exabytes, {}),
             (f"{student}result.json", repeat, {"text": "[", "times": 10**6}),
             (f"{teacher}config.json", repeat, {"text": "[", "times": 10**6}),
             ("data/words/test/good/0.txt", repeat, {"text": "word ", "times": 40_000_000})]
    for file in [*networks, "runs/words/*/best.pt", "interrupted.pt", "weights.bin",
                 "runs/colours/answers-*.pt"]:
        found.append((file, inflate, {}))
        for way in ("a pickle", "a list", "a field", "an old .pt"):
            found.append((file, plant, {"way": way}))
    for kind in ("colours", "words"):  # these are no zip
        found.append((f"data/{kind}/.rekd-cache", plant, {"way": "a pickle"}))
    for preset in ("vit:9999:99:1", "vit:100000:1:1", "vit:8:100000:1", f"vit:{'9' * 30}:1:1"):
        for file in networks:
            found.append((file, claim, {"preset": preset}))
    for mode, side in (("1", 7900), ("1", 14000), ("1", 30000), ("I;16", 7900), ("RGBA", 7900)):
        found.append(("data/colours/test/red/0.png", paint, {"mode": mode, "side": side}))
    return {f"{file}, {fault.__name__} {options}": (file, partial(fault, **options))
            for file, fault, options in found}
