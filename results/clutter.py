"""Something to find: real photographs, each hidden among shuffled pieces of others.

    python results/clutter.py data/cifar10 data/clutter --limit 10000
    python train.py --dataset clutter --student vit_micro --image-size 64 --patch-size 8 --rate 0.25

The first folder holds {train,test}/CLASS/* as for train.py (where there is none, cifar10 and
cifar100 are downloaded); the second is made. A canvas has 8 x 8 patches. The photograph has 4 x 4
of them, anywhere, and around it are tiles of other photographs of any class, half as wide as a
patch. Of tiles as wide as a patch (--tile 8), a single patch would look the same inside and
outside the photograph; but train.py crops its training images at any pixel, which puts seams into
patches, and a model that looks for them would not find any in the test images.

`truth.json`, beside train/ and test/, holds the place of every photograph; `python train.py
--judge` compares rationales with it.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from tqdm import tqdm  # noqa: E402

import data as datasets  # noqa: E402
from data import UserError  # noqa: E402
from models import read_dict  # noqa: E402

GRID, OBJECT = 8, 4  # patches on a side: of a canvas, of the photograph on it
SIDE = 32  # pixels of a photograph; bigger ones are made smaller


# ---------------------------------------------------------------- canvases
def to_tiles(photos, tile):
    """(n, 3, S, S) -> (n, K * K, 3, tile, tile), row by row, with K = S / tile"""
    tiles = photos.unfold(2, tile, tile).unfold(3, tile, tile)        # (n, 3, K, K, tile, tile)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)


def to_canvas(tiles):
    """(m, 2 K * 2 K, 3, tile, tile) -> (m, 3, 2 S, 2 S)"""
    side = math.isqrt(tiles.shape[1])
    rows = tiles.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5)
    return rows.flatten(4, 5).flatten(2, 3)


def hide(tiles, chosen, generator):
    """The photographs `chosen` (m,) of tiles (n, K * K, 3, tile, tile), each among tiles of others.

    -> canvases (m, 3, 2 S, 2 S); the place of each photograph, (m, 2): left and top, in patches.
    """
    m, n, count = len(chosen), len(tiles), tiles.shape[1]
    K = math.isqrt(count)
    other = torch.randint(n - 1, (m, 4 * count), generator=generator)
    other += other >= chosen[:, None]  # never the photograph itself
    part = torch.randint(count, (m, 4 * count), generator=generator)
    canvas = tiles[other, part]                                       # (m, 2 K * 2 K, 3, ...)
    place = torch.randint(GRID - OBJECT + 1, (m, 2), generator=generator)
    left, top = (K // OBJECT * place).unsqueeze(-1).unbind(1)         # (m, 1) each, in tiles
    cell = torch.arange(count)
    inside = (top + cell // K) * 2 * K + left + cell % K              # (m, K * K)
    canvas[torch.arange(m)[:, None], inside] = tiles[chosen]
    return to_canvas(canvas), place


# ---------------------------------------------------------------- the folder
def write_split(split, tile, classes, folder, limit, generator):
    """PNG files in folder/CLASS/ -> {"FOLDER/CLASS/00000.png": box}, see `add_truth`."""
    rows = datasets.stratified_order(split.y)[:limit].sort().values
    tiles = to_tiles(split.x, tile)
    truth = {}
    bar = tqdm(desc=f"writing {folder.name}", total=len(rows), unit="", disable=None)
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        canvases, places = hide(tiles, rows[split.y[rows] == c], generator)
        for i, (canvas, place) in enumerate(zip(canvases, places.tolist())):
            left, top = (cells / GRID for cells in place)
            file = folder / name / f"{i:05}.png"
            Image.fromarray(canvas.permute(1, 2, 0).numpy()).save(file)  # (3, H, W) -> (H, W, 3)
            box = [left, top, left + OBJECT / GRID, top + OBJECT / GRID]
            truth[f"{folder.name}/{name}/{file.name}"] = box
            bar.update()
    return truth


def make(source, target, limit=None, tile=None, seed=0):
    """The whole folder; it has its name only once it is finished. tile: in pixels, None: half a
    patch."""
    if target.exists():
        raise UserError(f"{target} exists: remove it, or name another folder")
    *splits, classes, corpus = datasets.read_dataset(source.name, source.parent, SIDE)
    if corpus:
        raise UserError(f"{source} holds texts, not photographs")
    if limit is not None and limit < len(classes):
        raise UserError(f"--limit {limit} is less than one photograph of each class")
    side = splits[0].x.shape[-1]
    tile = tile or side // OBJECT // 2
    if tile < 1 or side % (OBJECT * tile):
        raise UserError(f"tiles of {tile} px do not fill the {OBJECT} x {OBJECT} patches of a "
                        f"photograph of {side} px")
    generator = torch.Generator().manual_seed(seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch, target.name)
        truth = {}
        for part, split in zip(("train", "test"), splits):
            truth |= write_split(split, tile, classes, folder / part, limit, generator)
        (folder / "truth.json").write_text(json.dumps(truth, indent=0))
        os.replace(folder, target)


# ---------------------------------------------------------------- the truth
def add_truth(data, folder, patch_size):
    """Give the test set of images its truth, where its folder has a truth.json.

    That holds of every file the box of what there is to find: left, top, right, bottom, as shares
    of the image's sides. The truth are the patches that the box touches.
    """
    file = folder / "truth.json"
    if data.test.truth is not None or not file.is_file():
        return
    boxes = read_dict(file, "truth", "make the folder again")
    n, _, height, width = data.test.x.shape
    truth = torch.zeros(n, height, width, dtype=torch.bool)
    paths = datasets.list_files(folder / "test", data.classes, "image")  # in the order of the set
    for pixels, (path, _) in zip(truth, paths, strict=True):
        name = path.relative_to(folder).as_posix()
        if name not in boxes:
            raise UserError(f"{file} lacks {name}: make the folder again")
        left, top, right, bottom = boxes[name]
        pixels[round(top * height):round(bottom * height),
               round(left * width):round(right * width)] = True
    split = datasets.Split(None, data.test.y, truth)
    split = datasets.image_split(split, data.input["image_size"] // patch_size)
    data.test.truth = split.truth.to(data.test.y.device)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="photographs: {train,test}/CLASS/*")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--limit", type=int, help="at most so many in each of train and test")
    parser.add_argument("--tile", type=int, help="side of a tile in pixels (default: half a patch)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        make(args.source, args.target, args.limit, args.tile, args.seed)
    except (UserError, OSError) as error:
        print(f"clutter.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
