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

SHAPE = "--image-size 16 --patch-size 2 --rate 0.25"


@pytest.fixture
def photos(tmp_path):
    """The pixels of a photograph hold its number and their place: (number, y, x)."""
    number = 0
    y, x = np.mgrid[:8, :8]
    for part, n in (("train", 12), ("test", 5)):
        for name in ("cat", "dog"):
            (folder := tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.stack([np.full((8, 8), number), y, x], -1).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
                number += 1
    return tmp_path / "photos"


def dataset(folder):
    found = data.load_dataset(folder.name, folder.parent, image_size=16, patch_size=2)
    clutter.add_truth(found, folder, 2)
    return found


@pytest.mark.parametrize("tile", [2, 1])
def test_the_truth_is_where_the_photograph_is(photos, tmp_path, tile):
    clutter.make(photos, tmp_path / "hidden", tile=tile)
    test = dataset(tmp_path / "hidden").test
    whole = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
    places = set()
    for image, truth, y in zip(test.x, test.truth.view(-1, 8, 8), test.y):
        top, left = (2 * truth.nonzero()[0]).tolist()
        places.add((top, left))
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[top // 2:top // 2 + 4, left // 2:left // 2 + 4] = True
        assert truth.equal(expected)
        photo = image[:, top:top + 8, left:left + 8]
        assert photo[1:].equal(whole.byte())       # all of it, each pixel in its place
        number, = photo[0].unique().tolist()
        assert 24 + 5 * y <= number < 29 + 5 * y   # a photograph of the class, of the test set
        # Around it: whole tiles of others of the test set.
        patches = image.unfold(1, 2, 2).unfold(2, 2, 2)[:, ~truth]  # (3, 48, 2, 2)
        others = patches.unfold(2, tile, tile).unfold(3, tile, tile).flatten(1, 3).flatten(2)
        assert (others[0] >= 24).all() and (others[0] != number).all()
        assert (others[0] == others[0, :, :1]).all()
        assert (others[1:] // tile == others[1:, :, :1] // tile).all()
    assert len(places) > 3


def test_a_seed_gives_the_same_folder_and_a_limit_takes_all_classes(photos, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        clutter.make(photos, tmp_path / name, limit=6, seed=seed)
    files = {name: sorted(file for file in (tmp_path / name).rglob("*.*")) for name in "abc"}
    a, b, c = ([file.read_bytes() for file in files[name]] for name in "abc")
    assert a == b and a != c
    assert len(a) == 6 + 6 + 1
    assert len([file for file in files["a"] if "dog" in str(file)]) == 3 + 3
    assert len(json.loads((tmp_path / "a" / "truth.json").read_text())) == 12


def command(*arguments):
    """-> the exit code of the command."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["clutter.py", *map(str, arguments)])
        clutter.main()
    return stop.value.code


def test_mistakes_are_refused_in_one_sentence(photos, folders, tmp_path, capsys):
    for source, target, sentence in [(photos, photos, "exists: remove it"),
                                     (folders / "words", tmp_path / "new", "holds texts"),
                                     (tmp_path / "none", tmp_path / "new", "no data set 'none'")]:
        assert command(source, target) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    assert command(photos, tmp_path / "new", "--limit", 1) == 2
    assert command(photos, tmp_path / "new", "--tile", 3) == 2
    assert not (tmp_path / "new").exists()


def test_an_interrupted_folder_is_not_there(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clutter.make(photos, tmp_path / "hidden")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_model_is_judged_by_the_truth(run, photos, tmp_path):
    clutter.make(photos, tmp_path / "hidden")
    where = f"--data-dir {tmp_path} {SHAPE}"
    finished(run(f"--student vit:8:1:1 --method re --epochs 1 --batch-size 8 {where}", "hidden"))
    best = only("hidden/*/best.pt", run.runs)
    table = judged(run, best, f"--data-dir {tmp_path}")
    assert 0 < float(table["random"]["f1"]) < 1
