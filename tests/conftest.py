"""Small data and small networks, and train.py called as from the command line."""
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)  # nano models: a second thread costs more than it brings
import train  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """--data-dir: colours (images of 3 classes) and words (texts of 2, the label in one word)."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part, n in (("train", 20), ("test", 8)):
        for c, name in enumerate(("red", "green", "blue")):
            (folder := root / "colours" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                pixels[4:12, 4:12, c] += 150
                Image.fromarray(pixels).save(folder / f"{i}.png")
        for name in ("good", "bad"):
            (folder := root / "words" / part / name).mkdir(parents=True)
            for i in range(n):
                text = f"{'So, ' * (i % 7)}one  {name} film<br />{'indeed ' * (i % 5)}{part}ing"
                (folder / f"{i:02}.txt").write_text(text)
    return root


SMALL = {
    "colours": "--student vit:8:1:1 --teacher vit:16:1:2 --image-size 16 --patch-size 4",
    "words": "--student bert:8:1:1 --teacher bert:16:1:2 --max-length 40 --rate 0.2", "none": ""}


@pytest.fixture
def run(folders, tmp_path, monkeypatch, capsys):
    """run("--method re ...") -> code, out, err of train.py, in this process, on tiny networks."""
    def run(options, dataset="colours", small=None):
        arguments = ["--dataset", dataset, "--data-dir", folders, "--out", tmp_path / "runs",
                     *SMALL[small or dataset].split()]
        if small != "none":
            arguments += ["--epochs", 3, "--batch-size", 16, "--lr", 3e-3]
        if small is None and "--method re" not in options and "--explain" not in options:
            arguments += ["--teacher-epochs", 3]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments), *options.split()])
        code = 0
        try:
            train.cli()
        except SystemExit as stop:
            code = stop.code
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    run.runs = tmp_path / "runs"
    return run


# ---------------------------------------------------------------- what a run was and left
def finished(run):
    assert (run.code, run.err) == (0, "")
    return run.out


def refused(run, sentence):
    """A user's mistake: exit code 2 and one sentence that says what to do."""
    assert run.code == 2 and run.err.startswith("train.py: ") and run.err.count("\n") == 1, run.err
    assert re.search(sentence, run.err), run.err


def only(pattern, folder):
    found, = folder.glob(pattern)
    return found


def student(run, pattern="*", dataset="colours"):
    """The folder of the student that was trained."""
    return only(f"student-{pattern}", run.runs / dataset)


def read(path):
    return json.loads(path.read_text()) if path.suffix == ".json" else torch.load(path)


def log(folder):
    """Without how long it took."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{**line, "seconds": 0} for line in lines]


def state(folder):
    """All that a run has learned and measured."""
    weights = {name: x.tolist() for name, x in read(folder / "best.pt")["weights"].items()}
    return log(folder), weights, read(folder / "result.json")["test"]


def stop_after(writes, monkeypatch):
    """Ctrl-C comes right after so many files were written."""
    write, left = train.write_atomically, [writes]

    def stopping(*args):
        write(*args)
        left[0] -= 1
        if not left[0]:
            monkeypatch.setattr(train, "write_atomically", write)
            raise KeyboardInterrupt
    monkeypatch.setattr(train, "write_atomically", stopping)
