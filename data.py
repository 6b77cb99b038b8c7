"""The data of REKD: whole tensors in, batches out. No worker processes, no per-image Python.

A data set is a few tensors on the training device: uint8 pixels at their native size. A batch is an index select;
crop, flip, resize and normalise are batched tensor operations (the paper's recipe: crop and flip at 32 px, then resize).

`load_dataset(NAME)` finds, in this order,
    a built-in set        glyphs (digits among clutter; the true rationale of every image is known), made in a second
    a local folder        <data-dir>/NAME/{train,test}/<class>/*.(png|jpg|jpeg)
    a download            cifar10, cifar100 (100 classes), cifar100_coarse (the 20 of the paper's "CIFAR 100")
This file imports no other file of the repository and can be copied alone. See it at work:    python train.py
"""

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps  # comes with torchvision
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, extract_archive
from tqdm import tqdm

DATA_SEED = 2026  # fixes what is train and what is dev; --seed does not touch it, so a teacher never saw its student's dev data
IMAGE_FILES = (".png", ".jpg", ".jpeg")


class UserError(Exception):
    """A mistake that the user can mend: its text is one sentence that says how."""


@dataclass
class Split:
    x: Tensor                     # (n, 3, H, W) uint8 pixels
    y: Tensor                     # (n,) int64 class
    truth: Tensor | None = None   # (n, N) bool, the true rationale on the grid of features, where it is known

    def __len__(self):
        return len(self.y)

    def select(self, index):
        return Split(self.x[index], self.y[index], None if self.truth is None else self.truth[index])

    def to(self, device):
        return Split(self.x.to(device), self.y.to(device), None if self.truth is None else self.truth.to(device))


@dataclass
class Dataset:
    name: str
    classes: list       # names, in the order of their numbers
    train: Split
    dev: Split          # a stratified 20 % of the training set: chooses the checkpoint
    test: Split         # touched once, at the end
    input: dict         # what turns a file or raw pixels into an input of the model, see `read_input`
    augment: bool       # crop and flip in training?
    fingerprint: str    # of the training data: a teacher is reused only where it is the same

    def batch(self, split, index, training=False):
        """index: (B,) tensor or slice -> x (B, 3, S, S) float, y (B,)."""
        pixels = split.x[index]
        if training and self.augment:
            pixels = crop_and_flip(pixels)
        return to_input(pixels, self.input["image_size"]), split.y[index]


def load_dataset(name, data_dir="data", *, limit=None, image_size=32, patch_size=4, device="cpu"):
    """-> Dataset on `device`. Trains on a stratified `limit` of examples, all if None. A user's mistake is a UserError."""
    folder = Path(data_dir) / name
    if name in BUILT_IN:
        train, test, classes = BUILT_IN[name]()
    elif folder.is_dir():
        train, test, classes = read_folder(folder, image_size)
    elif name in DOWNLOADS:
        train, test, classes = DOWNLOADS[name](Path(data_dir))
    else:
        local = sorted(p.parent.name for p in Path(data_dir).glob("*/train") if p.is_dir())
        raise UserError(f"no data set {name!r}: there are {', '.join([*BUILT_IN, *DOWNLOADS])}, and in {data_dir}/ "
                        f"{', '.join(local) or 'none yet'}; your own goes into {folder}/{{train,test}}/<class>/")
    order = stratified_order(train.y)
    dev, rest = order[:max(len(order) // 5, 1)], order[max(len(order) // 5, 1):]
    if limit is not None:
        if limit < len(classes):
            raise UserError(f"--limit {limit} is less than one example for each of the {len(classes)} classes of {name}")
        dev, rest = dev[:max(limit // 4, 1)], rest[:limit]
    digest = hashlib.sha256(rest.numpy().tobytes() + train.y[rest].numpy().tobytes() + train.x[rest[::16]].numpy().tobytes())
    grid = image_size // patch_size
    for split in (train, test):  # a feature is part of the truth if it touches it
        if split.truth is not None:
            split.truth = F.adaptive_max_pool2d(split.truth.float(), grid).flatten(1).bool()  # (n, H, W) -> (n, N)
    return Dataset(name, classes, train.select(rest).to(device), train.select(dev).to(device), test.to(device),
                   {"kind": "image", "image_size": image_size}, name not in BUILT_IN, digest.hexdigest()[:16])


def stratified_order(y):
    """An order of the examples, random but for this: every prefix holds the classes in their shares. (n,) -> (n,) index."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    key = torch.empty(len(y), dtype=torch.float64)
    for c in y.unique():
        of_class = (y == c).nonzero().squeeze(1)
        shuffled = of_class[torch.randperm(len(of_class), generator=generator)]
        key[shuffled] = (torch.arange(len(of_class), dtype=torch.float64) + 0.5) / len(of_class)
    return key.argsort(stable=True)


# ---------------------------------------------------------------- from pixels to inputs

@functools.lru_cache
def normalisation(device):
    """ImageNet's mean and standard deviation, (3, 1, 1) each, for pixels in 0 .. 1."""
    return (torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1),
            torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1))


def to_input(pixels, image_size):
    """uint8 (B, 3, H, W) -> normalised float (B, 3, image_size, image_size)."""
    x = pixels.float() / 255
    if x.shape[2:] != (image_size, image_size):
        x = F.interpolate(x, size=(image_size, image_size), mode="bilinear", antialias=True)
    mean, std = normalisation(x.device)
    return (x - mean) / std


def crop_and_flip(pixels):
    """Zero-pad by 1/8 (4 px at 32) and crop at random, flip half of the images: one gather for the batch. (B, C, H, W)."""
    B, C, H, W = pixels.shape
    device, pad = pixels.device, H // 8
    rows = torch.arange(H, device=device) + torch.randint(2 * pad + 1, (B, 1), device=device)     # (B, H) in the padded image
    columns = torch.arange(W, device=device).expand(B, W)
    columns = torch.where(torch.rand(B, 1, device=device) < 0.5, columns.flip(1), columns)
    columns = columns + torch.randint(2 * pad + 1, (B, 1), device=device)                         # (B, W)
    padded = F.pad(pixels, (pad, pad, pad, pad)).permute(0, 2, 3, 1)                              # (B, H + 2 pad, W + 2 pad, C)
    example = torch.arange(B, device=device)[:, None, None]
    return padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)             # (B, C, H, W)


def read_image(path, size=None):
    """A PNG or JPEG of any size and mode -> uint8 (3, H, W) RGB; with `size`, resized (not cropped) to size x size."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits a pixel: PIL would clip at 255
                image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
            if image.has_transparency_data:  # on white: what lies under transparent pixels is arbitrary
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    except FileNotFoundError:
        raise UserError(f"no image file {path}") from None
    except Exception as error:  # a damaged file fails in many ways: OSError, SyntaxError, struct.error, ...
        raise UserError(f"{path} cannot be read as an image ({error}): mend or remove it") from None


def read_input(path, input):
    """An image file of your own -> x (1, 3, S, S), ready for a model whose `info["input"]` is `input`."""
    return to_input(read_image(path, input["image_size"])[None], input["image_size"])


# ---------------------------------------------------------------- class folders

def read_folder(folder, image_size):
    """<folder>/{train,test}/<class>/* -> train, test, classes.

    Images that all have one square size of at most image_size stay as they are (CIFAR at 32 px, whatever the model
    wants: a batch is resized on the device); all others are resized to image_size. The decoded pixels are kept in
    <folder>/.rekd-cache.pt, and decoded again when a file has changed.
    """
    files, classes = {}, None
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no folder {part!r}: images go into {folder}/{{train,test}}/<class>/")
    for part in ("train", "test"):
        names = sorted(entry.name for entry in os.scandir(folder / part) if entry.is_dir() and not entry.name.startswith("."))
        classes = classes or names
        if len(classes) < 2 or names != classes:
            raise UserError(f"{folder / part} has the class folders {names}, " + (
                f"but the training set has {classes}: they must be the same" if len(classes) > 1 else "but at least two are needed"))
        files[part] = [sorted((entry for entry in os.scandir(folder / part / name) if entry.name.lower().endswith(IMAGE_FILES)),
                              key=lambda entry: entry.name) for name in classes]
        for name, entries in zip(classes, files[part]):
            if not entries:
                raise UserError(f"the class folder {folder / part / name} has no {', '.join(IMAGE_FILES)} file")
    entries = [entry for part in files.values() for of_class in part for entry in of_class]
    listing = "\n".join(f"{e.path[len(str(folder)):]} {e.stat().st_size} {e.stat().st_mtime_ns}" for e in entries)
    key = hashlib.sha256(listing.encode()).hexdigest()
    pixels = read_cached(folder / ".rekd-cache.pt", key, image_size, entries)
    y = torch.cat([torch.full((len(of_class),), c) for part in files.values() for c, of_class in enumerate(part)])
    n = sum(map(len, files["train"]))
    return Split(pixels[:n], y[:n]), Split(pixels[n:], y[n:]), classes


def read_cached(path, key, image_size, entries):
    """All images as one uint8 tensor (n, 3, S, S), from the cache if it was made from the same files and fits image_size."""
    try:
        cache = torch.load(path, weights_only=True)
        side = cache["native_side"]
        if cache["key"] == key and cache["pixels"].shape[2] == (side if side and side <= image_size else image_size):
            return cache["pixels"]
    except Exception:  # none yet, or torn
        pass
    sizes = set()
    for entry in entries:  # opening reads the header only
        try:
            with Image.open(entry.path) as image:
                sizes.add(image.size)
        except Exception as error:
            raise UserError(f"{entry.path} cannot be read as an image ({error}): mend or remove it") from None
    side = max(sizes.pop()) if len(sizes) == 1 and len({*next(iter(sizes))}) == 1 else None  # all of one square size
    size = side if side and side <= image_size else image_size
    pixels = torch.empty(len(entries), 3, size, size, dtype=torch.uint8)
    for i, entry in enumerate(tqdm(entries, "decoding images", unit="", disable=not sys.stderr.isatty())):
        pixels[i] = read_image(entry.path, size)
    try:
        write_atomically(path, lambda file: torch.save({"key": key, "native_side": side, "pixels": pixels}, file))
    except UserError as error:
        print(f"the decoded images are not kept for the next start: {error}", file=sys.stderr)
    return pixels


def write_atomically(path, write):
    """write(binary file) beside the target, then rename: there is never half a file under the final name."""
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # RuntimeError is how torch.save reports a full disk
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or 'is the disk full?'}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


# ---------------------------------------------------------------- downloads

class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps their headers: the hub tells the size and SHA-256 of a file there, not where the file lies."""
    told = {}

    def redirect_request(self, request, response, code, message, headers, address):
        self.told = self.told | {k.lower(): v for k, v in headers.items() if k.lower().startswith("x-linked")}
        return super().redirect_request(request, response, code, message, headers, address)


def fetch(url, file, md5):
    """One attempt at url -> open file. OSError unless it has the md5, and the size and SHA-256 where the server tells them."""
    redirects, sha256, hash = Redirects(), hashlib.sha256(), hashlib.md5()
    file.seek(0), file.truncate()
    with urllib.request.build_opener(redirects).open(url, timeout=30) as response:
        told = redirects.told | {k.lower(): v for k, v in response.headers.items()}
        sizes = {int(told[k]) for k in ("x-linked-size", "content-length") if k in told}
        etag = told.get("x-linked-etag", told.get("etag", "")).strip('W/"')
        with tqdm(total=max(sizes, default=None), unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
            while chunk := response.read(1 << 20):
                file.write(chunk), sha256.update(chunk), hash.update(chunk), bar.update(len(chunk))
    if sizes - {file.tell()} or len(etag) == 64 and etag != sha256.hexdigest() or md5 not in (None, hash.hexdigest()):
        raise OSError("the file is incomplete or has another checksum")


def download(url, path, md5=None, otherwise="", optional=False):
    """url -> path -> True (False: an optional one is not there). A failure leaves nothing behind and names what to do by hand."""
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"downloading {url}", file=sys.stderr)
        with open(part, "wb") as file:
            for pause in (1, 3, None):
                try:
                    fetch(url, file, md5)
                    break
                except (OSError, HTTPException) as error:  # a cut connection or 500 may pass; no network (URLError) or 404 will not
                    if pause is None or isinstance(error, URLError) and getattr(error, "code", 0) < 500:
                        raise
                    time.sleep(pause)
        os.replace(part, path)
        return True
    except (OSError, HTTPException) as error:
        if optional and getattr(error, "code", None) == 404:
            return False
        raise UserError(f"cannot download {url} ({getattr(error, 'reason', error)}): fetch it by hand and put it at {path}{otherwise}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def fetch_hub(repo, *filenames):
    """The first of these files that a Hugging Face repository has -> Path in torch's cache; what lies there needs no network."""
    folder = Path(torch.hub.get_dir(), "checkpoints", repo.replace("/", "--"))
    address = f"{(os.environ.get('HF_ENDPOINT') or 'https://huggingface.co').rstrip('/')}/{repo}/resolve/main"
    otherwise = f"{''.join(f' (or {name} from there beside it)' for name in filenames[1:])}, or choose --init scratch"
    here = [folder / name for name in filenames if (folder / name).is_file()]
    return here[0] if here else next(folder / name for name in filenames if download(
        f"{address}/{name}", folder / name, otherwise=otherwise, optional=name != filenames[-1]))


def fetch_cifar(root, source, label_key, names_key):
    """CIFAR by torchvision's addresses and checksums. The python archive holds fine and coarse labels of CIFAR-100."""
    folder, archive = root / source.base_folder, root / source.filename
    if not folder.is_dir():
        if not check_integrity(archive, source.tgz_md5):
            if archive.exists():
                raise UserError(f"{archive} is incomplete or another file: remove it, or put the one from {source.url} there")
            download(source.url, archive, source.tgz_md5)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            extract_archive(archive, scratch)
            os.replace(Path(scratch) / source.base_folder, folder)
    for filename, md5 in [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]:
        if not check_integrity(folder / filename, md5):
            raise UserError(f"{folder / filename} is damaged: remove {folder} and start again")

    def part(filenames):
        batches = [pickle.loads((folder / f).read_bytes(), encoding="latin1") for f, _ in filenames]  # checksums were verified
        pixels = torch.from_numpy(np.concatenate([b["data"] for b in batches])).view(-1, 3, 32, 32)
        return Split(pixels, torch.tensor([label for b in batches for label in b[label_key]]))

    meta = pickle.loads((folder / source.meta["filename"]).read_bytes(), encoding="latin1")
    return part(source.train_list), part(source.test_list), list(meta[names_key])


DOWNLOADS = {"cifar10": lambda root: fetch_cifar(root, datasets.CIFAR10, "labels", "label_names"),
             "cifar100": lambda root: fetch_cifar(root, datasets.CIFAR100, "fine_labels", "fine_label_names"),
             "cifar100_coarse": lambda root: fetch_cifar(root, datasets.CIFAR100, "coarse_labels", "coarse_label_names")}


# ---------------------------------------------------------------- built-in: glyphs

FONT = """
..###.. ...#... .#####. ######. ....##. ####### ...###. ####### .#####. ..####.
.#...#. ..##... #.....# .....## ...#.#. #...... ..#.... #....## ##...## .#....#
#.....# .#.#... ......# .....## ..#..#. #...... .#..... ....##. ##...## #.....#
#.....# ...#... .....#. ..####. .#...#. ######. ######. ....#.. .#####. .#....#
#.....# ...#... ...##.. .....## #....#. ......# #.....# ...##.. ##...## ..#####
#.....# ...#... ..#.... .....## ####### ......# #.....# ..##... #.....# ......#
.#...#. ...#... .#..... #....## .....#. #....#. #....#. ..##... ##...## ....##.
..###.. .#####. ####### #####.. .....#. .####.. .####.. ..##... .#####. .###...
"""


def glyphs(n, seed, *, distractors=3, noise=25):
    """n images of 32 x 32 -> Split. The label is the one small digit; its 8 x 8 px (2 x 2 patches of 4 px) are the truth.

    Around it: soft coloured clutter, noise, and distractors, which are digits with their pixels shuffled, so that no
    colour, brightness or place gives the digit away: only its shape does.
    """
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.rand, generator=generator)
    randint = functools.partial(torch.randint, generator=generator)
    rows = [row.split() for row in FONT.split("\n")[1:-1]]
    font = torch.tensor([[[c == "#" for c in row[digit]] for row in rows] for digit in range(10)]).float()  # (10, 8, 7)
    font = F.pad(font, (0, 1)).flatten(1)                                                                 # (10, 8 * 8)

    image = F.interpolate(10 + 90 * rand(n, 3, 3, 3), size=32, mode="bilinear", align_corners=True)
    x, y = torch.arange(32), torch.arange(32)[:, None]
    for _ in range(3):  # rectangles
        left, top, width, height = (rand(4, n, 1, 1) * torch.tensor([32, 32, 10, 10]).view(4, 1, 1, 1)).ceil()
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)                       # (n, 32, 32)
        image += inside[:, None] * (80 * rand(n, 3, 1, 1) - 24)
    image += noise * torch.randn(n, 3, 32, 32, generator=generator)

    K = 1 + distractors  # stamp 0 is the digit
    digit = randint(10, (n, K))
    shuffle = rand(n, K, 64).argsort(-1)
    shuffle[:, 0] = torch.arange(64)
    stamps = font[digit].gather(2, shuffle)                                                               # (n, K, 64)
    cell = rand(n, 9).argsort(1)[:, :K]       # different cells of a 3 x 3 grid of 8 px, shifted by 0, 4 or 8 px
    shift = 4 * randint(3, (2, n, 1))
    top, left = shift[0] + 8 * (cell // 3), shift[1] + 8 * (cell % 3)                                     # (n, K) each
    pixel = torch.arange(64)
    place = (top[..., None] + pixel // 8) * 32 + left[..., None] + pixel % 8                              # (n, K, 64) in 32 * 32
    colour = 90 + 60 * rand(n, K, 3, 1)
    for k in range(K):
        image.view(n, 3, -1).scatter_add_(2, place[:, k, None].expand(-1, 3, -1), stamps[:, k, None] * colour[:, k])
    truth = torch.zeros(n, 32 * 32, dtype=torch.bool).scatter_(1, place[:, 0], True).view(n, 32, 32)
    return Split(image.clamp(0, 255).byte(), digit[:, 0].clone(), truth)


BUILT_IN = {"glyphs": lambda: (glyphs(7500, DATA_SEED), glyphs(3000, DATA_SEED + 1), [str(d) for d in range(10)])}
