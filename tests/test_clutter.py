"""Photographs among shuffled patches of others: what is on the canvas, and where."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import finished, judged, only
from PIL import Image

import data
from results import clutter


@pytest.fixture
def photos(tmp_path):
    """The pixels of a photograph hold its number and their place: (number, y, x)."""
    y, x = np.mgrid[:8, :8]
    names = [(part, name, i) for part, n in (("train", 12), ("test", 5))
             for name in ("cat", "dog") for i in range(n)]
    for number, (part, name, i) in enumerate(names):
        folder = tmp_path / "photos" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.stack([np.full((8, 8), number), y, x], -1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("tile", [2, 1])
def test_the_truth_is_where_the_photograph_is(photos, tmp_path, tile):
    clutter.make(photos, tmp_path / "hidden", tile=tile)
    found = data.load_dataset("hidden", tmp_path, image_size=16, patch_size=2)
    clutter.add_truth(found, tmp_path / "hidden", 2)
    whole = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
    places = set()
    for image, truth, y in zip(found.test.x, found.test.truth.view(-1, 8, 8), found.test.y):
        top, left = truth.nonzero()[0].tolist()
        places.add((top, left))
        assert truth.sum() == truth[top:top + 4, left:left + 4].sum() == 16
        photo = image[:, 2 * top:2 * top + 8, 2 * left:2 * left + 8]
        assert photo[1:].equal(whole.byte())       # all of it, each pixel in its place
        number, = photo[0].unique().tolist()
        assert 24 + 5 * y <= number < 29 + 5 * y   # a photograph of the class, of the test set
        # Around it: whole tiles of others of the test set.
        patches = image.unfold(1, 2, 2).unfold(2, 2, 2)[:, ~truth]  # (3, 48, 2, 2)
        others = patches.unfold(2, tile, tile).unfold(3, tile, tile).flatten(1, 3).flatten(2)
        assert (others[0] >= 24).all() and (others[0] != number).all()
        assert (others[0] == others[0, :, :1]).all()
        assert (others[1:] // tile == others[1:, :, :1] // tile).all()
        assert others[1:].max() == 7               # not only their first tiles
    assert len(places) > 3


def test_a_seed_gives_the_same_folder_and_a_limit_takes_all_classes(photos, tmp_path):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        clutter.make(photos, tmp_path / name, limit=6, seed=seed)
        files = sorted((tmp_path / name).rglob("*.png"))
        assert len(files) == 2 * sum(file.parent.name == "dog" for file in files) == 12
        found.append([file.read_bytes() for file in files])
    assert found[0] == found[1] != found[2]


def test_mistakes_are_refused_in_one_sentence(photos, folders, tmp_path, capsys, monkeypatch):
    for source, target, options, sentence in (
            (photos, photos, [], "exists: remove it"),
            (folders / "words", "new", [], "holds texts"),
            ("none", "new", [], "no data set 'none'"),
            (photos, "new", ["--limit", 1], "--limit 1"),
            (photos, "new", ["--tile", 3], "tiles of 3 px")):
        arguments = ["clutter.py", tmp_path / source, tmp_path / target, *options]
        monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
        with pytest.raises(SystemExit, match="2"):
            clutter.main()
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    # Nor does an interrupted folder get its name.
    monkeypatch.setattr(json, "dumps", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clutter.make(photos, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_model_is_judged_by_the_truth(run, photos, tmp_path):
    clutter.make(photos, tmp_path / "hidden")
    finished(run(f"--student vit:8:1:1 --method re --epochs 1 --batch-size 8 --rate 0.25 "
                 f"--image-size 16 --patch-size 2 --data-dir {tmp_path}", "hidden"))
    table = judged(run, only("hidden/*/best.pt", run.runs), f"--data-dir {tmp_path}")
    assert 0 < float(table["random"]["f1"]) < 1
