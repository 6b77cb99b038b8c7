"""Something to find: real photographs, each hidden among shuffled pieces of others.

    python results/clutter.py data/cifar10 data/clutter
    python train.py --dataset clutter --image-size 64 --patch-size 8 --rate 0.25 --init scratch

The first folder holds {train,test}/CLASS/* as for train.py (where there is none, cifar10 and
cifar100 are downloaded); the second is made. A canvas has 8 x 8 patches. The photograph has 4 x 4
of them, anywhere; around it are tiles of other photographs of any class. Tiles are half as wide as
a patch: of whole patches, one would look the same inside and outside the photograph, but for the
seams that train.py's crops put into training images, which test images do not have.

Where each photograph is, the folder's truth/ tells: a picture of the same name for each canvas,
truth/{train,test}/CLASS/NAME.png, white where the photograph is and black elsewhere.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.transforms.functional import to_pil_image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data as datasets  # noqa: E402
from data import UserError  # noqa: E402

SIDE = 32  # pixels of a photograph; bigger ones are made smaller
TILES = 8  # on a side of a photograph; a canvas has twice as many
PATCH = 2  # tiles on a side of a patch


def hide(tiles, i):
    """Photograph i of tiles (n, TILES^2, 3 t t), t pixels a side, among tiles of others, somewhere
    -> canvas (3, 2 S, 2 S), truth (1, 2 S, 2 S) uint8, 0 or 255."""
    n, count, values = tiles.shape
    t = math.isqrt(values // 3)
    other = torch.randint(n - 1, (4 * count,))
    other += other >= i  # never the photograph itself
    canvas = tiles[other, torch.randint(count, (4 * count,))]         # (4 count, 3 t t)
    top, left = PATCH * torch.randint(TILES // PATCH + 1, (2,))
    inside = torch.zeros(2 * TILES, 2 * TILES, dtype=torch.bool)
    inside[top:top + TILES, left:left + TILES] = True
    canvas[inside.flatten()] = tiles[i]
    canvas = canvas.mT.unflatten(1, inside.shape)                     # (3 t t, 2 TILES, 2 TILES)
    truth = 255 * inside.byte().expand(t * t, -1, -1)                 # (t t, 2 TILES, 2 TILES)
    return F.pixel_shuffle(canvas, t), F.pixel_shuffle(truth, t)


def write_split(examples, classes, folder, part):
    """A canvas and its truth for each photograph."""
    t = examples.inputs.shape[-1] // TILES
    tiles = F.pixel_unshuffle(examples.inputs, t)                     # (n, 3 t t, TILES, TILES)
    tiles = tiles.flatten(2).mT                                       # (n, TILES^2, 3 t t)
    for i, y in enumerate(examples.y):
        place = Path(part, classes[y], f"{i:06}.png")
        canvas, truth = hide(tiles, i)
        for path, pixels in ((folder / place, canvas), (folder / "truth" / place, truth)):
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(pixels).save(path)


def make(source, target):
    """The whole folder; it has its name only once it is finished."""
    if target.exists():
        raise UserError(f"{target} exists: remove it, or name another folder")
    train, test, classes = datasets.read_dataset(source.name, source.parent, SIDE)
    if isinstance(train.inputs, list):
        raise UserError(f"{source} holds texts: give a folder of photographs")
    folder = Path(f"{target}.part")
    with datasets.seeded(0):
        write_split(train, classes, folder, "train")
        write_split(test, classes, folder, "test")
    folder.rename(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path, help="photographs: {train,test}/CLASS/*")
    parser.add_argument("target", type=Path, help="the folder to make")
    args = parser.parse_args()
    try:
        make(args.source, args.target)
    except (UserError, OSError) as error:
        print(f"clutter.py: {error}", file=sys.stderr)
        sys.exit(2)
