"""The tools of results/: each on an example that can be checked by hand."""

import pytest
import torch
from conftest import finished, student

from results import judge, report


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


def test_the_report_is_reproducible_and_its_interval_right(tmp_path, monkeypatch):
    lines = [{"arm": "glyphs-compare-64", "method": method, "seed": seed,
              "test": {"accuracy": (seed + (method == "rekd")) / 10, "examples": 9}}
             for method in report.METHODS for seed in (1, 2, 3)]
    # Of 1, 2, 3: mean 2, standard deviation 1, Student's t of 2 degrees of freedom 4.30.
    assert report.interval({1: 1, 2: 2, 3: 3}) == pytest.approx((2, 4.30 * 1 / 3**0.5))
    assert report.teacher_means({0: 1, 3: 3, 1: 5}) == {2026: 2, 2027: 5}  # one of three each
    (tmp_path / "results").mkdir()
    (tmp_path / "results/prose.md").write_text(
        "{{labels}} {{tests}} {{glyphs-compare-64 rekd accuracy - glyphs-compare-64}} "
        "{{glyphs-compare-64 rekd-re accuracy}}")
    (tmp_path / "README.md").write_text("a\n<!-- results -->\nold\n<!-- /results -->\nb\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)

    def pages(lines):
        report.write(lines)
        return {path: path.read_text() for path in tmp_path.rglob("*.*")}
    assert pages(lines) == pages(lines[::-1])
    assert "| glyphs | 64 | 0.200 +- 0.248 |" in (tmp_path / "README.md").read_text()
    page = (tmp_path / "results/README.md").read_text()
    assert page.endswith(" 0.000 +- 0.000 0.100 +- 0.000")
    assert "| glyphs, 64 labels | 0.2500 | 0.5000 | 0.2500 | 0.5000 |" in page  # Holm: 2 p
    with pytest.raises(KeyError):
        report.fill("{{glyphs-compare-64 re f1}}", report.read_numbers(lines))
