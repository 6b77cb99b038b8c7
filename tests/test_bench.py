"""The benchmark runs, at nano sizes, and prints every row; how fast anything is, no test asks."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path


def test_quick_prints_all_rows(monkeypatch, capsys):
    bench = Path(__file__).with_name("bench.py")
    monkeypatch.setattr(sys, "argv", [str(bench), "--quick"])
    runpy.run_path(str(bench), run_name="__main__")
    out = capsys.readouterr().out
    for theirs, rows in (("transformers", 6), ("timm", 2)):  # 4 forward rows and 2 steps; 2 forward rows
        there, skipped = len(re.findall(rf"float32 +{theirs} +[\d.]+ ", out)), out.count(f"skipped: {theirs} is not installed")
        assert (there, skipped) == ((rows, 0) if importlib.util.find_spec(theirs) else (0, rows))
    rows = {r"forward, float32 +ours": 2, r"forward \+ backward, float32 +ours": 2, r"float32 +zero, teacher reads student +[\d.]+ ": 2,
            "float32 +drop, teacher reads student ": 2, "float32 +drop, cache, teacher reads teacher ": 2, "sampling and losses  ": 2, "data.batches  ": 2,
            "parts of .drop, cache": 2, "asking the teacher": 2, "predictor, float32 +drop, packed": 4,
            r"at most \d+ MiB": 2, "RE step": 8, "examples/s": 2, "matrix product.s FLOP": 4, "to the power of": 4}
    for row, times in rows.items():
        assert len(re.findall(row, out)) == times, row
    assert all(float(apart) < 1e-4 for apart in re.findall(r"differ by (\S+)", out)), "unequal work"
