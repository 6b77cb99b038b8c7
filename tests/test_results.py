"""The evidence: results/README.md and the README's table are what runs.jsonl says."""
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "results"))
import study  # noqa: E402


def test_the_page_of_results_is_made_from_the_runs():
    assert (ROOT / "results" / "README.md").read_text() == study.page(study.read_lines())


def test_the_readme_has_the_table_of_the_runs():
    text = (ROOT / "README.md").read_text()
    assert "<!-- results -->" in text
    assert study.with_table(text, study.small_table(study.read_lines())) == text


def test_a_table_goes_between_the_markers_only():
    text = "a\n<!-- results -->\nold\n<!-- /results -->\nb\n"
    assert study.with_table(text, "new") == text.replace("old", "new")
    assert study.with_table("no markers\n", "new") == "no markers\n"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with two finished runs and one that is not, and a runs.jsonl of its own."""
    monkeypatch.setattr(study, "RUNS", tmp_path / "runs.jsonl")
    for seed in (1, 2, 3):
        run = tmp_path / "runs" / f"student-seed{seed}"
        run.mkdir(parents=True)
        config = {"role": "student", "method": "cls", "seed": seed, "dataset": "x", "limit": None}
        (run / "config.json").write_text(json.dumps(config))
        (run / "log.jsonl").write_text('{"epoch": 1, "loss": 0.123456789}\n')
        if seed < 3:
            test = {"accuracy": 0.9933333396911621, "examples": 3000}
            result = {"test": test, "dev": test, "epoch": 1, "parameters": 5, "seconds": 1.5,
                      "command": "python train.py", "versions": {}, "hardware": "a CPU"}
            (run / "result.json").write_text(json.dumps(result))
    return tmp_path / "runs"


def test_a_finished_run_is_collected_once(runs):
    study.collect(runs)
    study.collect(runs)
    lines = study.read_lines()
    assert [line["config"]["seed"] for line in lines] == [1, 2]
    assert "limit" not in lines[0]["config"]  # it was null
    assert lines[0]["test"]["accuracy"] == 0.99333334
    assert lines[0]["curve"] == [{"epoch": 1, "loss": 0.123457}]


def test_every_line_belongs_to_one_arm():
    for line in study.read_lines():
        assert sum(study.belongs(line["config"], arm) for arm in study.ARMS) == 1
