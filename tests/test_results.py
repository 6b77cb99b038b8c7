"""The tools of results/: each on an example that can be checked by hand."""
import pytest
import torch
from conftest import ROOT, finished, student

import train
from results import judge, report, study


def test_saliency_of_a_linear_predictor_is_weight_times_content():
    x = torch.tensor([[1.0, -2.0, 3.0]])                           # (B, N)
    weight = torch.tensor([[2.0, 0.5], [1.0, -1.0], [1.0, 1.0]])   # (N, C): class 1, 5.5 > 3
    found = judge.saliency(lambda x, mask: (x * mask) @ weight, x, torch.ones(1, 3).bool())
    assert found.tolist() == [[0.5, 2.0, 3.0]]

def test_probe_finds_a_covert_channel_where_there_is_one():
    y = torch.randint(2, (600,))
    masks = (torch.rand(600, 6) < 0.5).float()
    assert 0.35 < judge.probe(masks[:400], y[:400], masks[400:], y[400:]) < 0.65
    masks[:, 2] = y.float()  # this place tells the class
    assert judge.probe(masks[:400], y[:400], masks[400:], y[400:]) > 0.95

def test_a_finished_model_is_judged(run):
    finished(run("--method re --rate 0.25"))
    lines = judge.table(judge.judge(student(run) / "best.pt")).splitlines()[:7]
    rows = {line[:12].strip(): line[12:].split()[1] for line in lines}
    assert {"noise-free", "sampled"} < rows.keys() and rows["random"] == rows["by rank"] == "0.250"

def test_the_figures_of_a_page_by_hand():
    arm = "glyphs-compare-64"
    numbers = report.read_numbers([
        {"arm": arm, "method": method, "seed": seed,
         "test": {"accuracy": (seed + (method == "rekd")) / 10, "examples": 9}}
        for method in report.METHODS for seed in (1, 2, 3)])
    found = report.fill(f"{{{{{arm} kd accuracy}}}} {{{{{arm} rekd-re accuracy}}}}", numbers)
    # Of .1, .2, .3: mean .2, standard deviation .1, Student's t of 2 degrees of freedom 4.30.
    assert found == f"0.200 +- {4.30 * .1 / 3**.5:.3f} 0.100 +- 0.000"
    assert report.fill(f"{{{{{arm} kd accuracy - {arm}}}}}", numbers) == "0.000 +- 0.000"
    assert "| glyphs | 64 | 0.200 +- 0.248 |" in report.labels_table(numbers, [arm])
    assert report.teacher_means({0: 1, 3: 3, 1: 5}) == {2026: 2, 2027: 5}  # one of three each
    assert "| REKD - KD | 0.2500 (0.5000) |" in report.tests_table(numbers)  # Holm: 2 p
    with pytest.raises(KeyError):
        report.fill(f"{{{{{arm} re f1}}}}", numbers)

def test_the_pages_are_those_of_the_runs(tmp_path, monkeypatch):
    """No figure is typed by hand or out of date, and the order of the lines does not matter."""
    (tmp_path / "results").mkdir()
    for name in ("README.md", "results/prose.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(report, "ROOT", tmp_path)
    report.write(study.read_lines()[::-1])
    for path in tmp_path.rglob("*.*"):
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text(), path
    assert len({line["code"] for line in study.read_lines()}) == 1  # "the same in all"

def test_each_arm_is_a_command_that_train_understands():
    commands = [arm.options for arm in study.ARMS.values() if "words.py" not in arm.script]
    for options in [*commands, *study.TEACHERS.values()]:
        train.parse(options.format(seed=1, t=1, minilm="scratch"))  # SystemExit: it does not
    assert {arm.teacher for arm in study.ARMS.values()} - {""} == study.TEACHERS.keys()
