"""The benchmark runs, at nano sizes, and prints every row; how fast anything is, no test asks."""
import importlib.util
import re
import runpy
import sys
from pathlib import Path

PRINTED = {  # and how often, ViT and BERT together
    "matrix product's FLOP/s": 4, "float32 ours ": 4, "float32 zero, teacher reads student ": 2,
    "float32 drop, cache, teacher reads teacher ": 2, "float32 sampling and losses ": 2,
    "float32 data.batches ": 2, "float32 asking the teacher ": 2, "parts of": 2,
    "float32 drop, packed ": 4, " MiB, ": 2, "RE step, ": 8, "examples/s": 2, "time grows as": 4}

def test_quick_prints_all_rows(monkeypatch, capsys):
    bench = str(Path(__file__).with_name("bench.py"))
    monkeypatch.setattr(sys, "argv", [bench, "--quick"])
    runpy.run_path(bench, run_name="__main__")
    out = re.sub(" +", " ", capsys.readouterr().out)
    assert {text: out.count(text) for text in PRINTED} == PRINTED
    for package, rows in {"transformers": 6, "timm": 2}.items():
        skipped = 0 if importlib.util.find_spec(package) else rows
        assert out.count(f"skipped: {package} is not installed") == skipped
        assert len(re.findall(rf"float32 {package} \d", out)) == rows - skipped
    assert all(float(apart) < 1e-4 for apart in re.findall(r"differ by (\S+)", out))
