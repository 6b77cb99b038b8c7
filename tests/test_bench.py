"""The benchmark runs, at nano sizes, and prints every row; how fast anything is, no test asks."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

# What it prints, and how often: most for a ViT and for a BERT.
PRINTED = {
    " ours ": 4, "of the matrix product's FLOP/s": 4, "outputs differ by": 12,
    "zero, teacher reads student  ": 4, "drop, cache, teacher reads teacher  ": 2,
    " sampling and losses  ": 2, " data.batches  ": 2, " asking the teacher  ": 2,
    "  parts of": 2, " drop, packed ": 4, " MiB, ": 2, "\nRE step, ": 8, "time grows as": 4,
}


def test_quick_prints_all_rows(monkeypatch, capsys):
    bench = Path(__file__).with_name("bench.py")
    monkeypatch.setattr(sys, "argv", [str(bench), "--quick"])
    runpy.run_path(str(bench), run_name="__main__")
    out = capsys.readouterr().out
    assert "nan" not in out.replace("nano", "")
    for package, rows in {"transformers": 6, "timm": 2}.items():
        skipped = 0 if importlib.util.find_spec(package) else rows
        assert out.count(f"skipped: {package} is not installed") == skipped
    print(out)
