"""The evidence: results/README.md and the README's table are what runs.jsonl says."""

import json
import sys
from pathlib import Path

import pytest
import torch

import models
import rekd

RESULTS = Path(__file__).parent.parent / "results"
sys.path.insert(0, str(RESULTS))
import charts  # noqa: E402
import pages  # noqa: E402
import questions  # noqa: E402
import study  # noqa: E402
import without  # noqa: E402
import words  # noqa: E402


def test_pages_and_charts_are_made_from_the_runs():
    lines = study.read_lines()
    arms = study.all_students(lines)
    assert (RESULTS / "README.md").read_text() == pages.page(arms)
    drawn = {path.stem: path.read_text() for path in (RESULTS / "charts").glob("*.svg")}
    assert drawn == pages.draw_charts(arms)
    text = (RESULTS.parent / "README.md").read_text()
    assert "<!-- results -->" in text
    assert study.with_table(text, pages.small_table(arms)) == text
    # No paragraph was left out for a figure that no line has.
    for text in (words.FINDINGS, words.CHARTS, words.RIGHT, *words.READINGS.values()):
        assert len(pages.paragraphs(text, {}, arms)) == len(text.split("\n\n"))
    for arm, text in words.NOTES.items():
        assert len(pages.paragraphs(text, arms[arm])) == len(text.split("\n\n"))
    for line in lines:
        assert any(study.belongs(line, arm) for arm in study.ARMS), line["command"]


def test_a_finished_run_is_collected_once(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RUNS", tmp_path / "runs.jsonl")
    test = {"accuracy": 0.9933333396911621, "examples": 3000}
    result = {"test": test, "dev": test, "epoch": 1, "parameters": 5, "seconds": 1.5,
              "command": "python train.py", "versions": {}, "hardware": "a CPU"}
    for seed in (1, 2, 3):
        run = tmp_path / "runs" / f"student-seed{seed}"
        run.mkdir(parents=True)
        config = {"role": "student", "method": "cls", "seed": seed, "dataset": "x", "limit": None,
                  "preset": "?", "max_length": 9}
        (run / "config.json").write_text(json.dumps(config))
        (run / "log.jsonl").write_text('{"epoch": 1, "loss": 0.123456789, "lr": 1}\n')
        if seed < 3:
            (run / "result.json").write_text(json.dumps(result))
    for _ in range(2):
        study.collect(tmp_path / "runs")
    lines = study.read_lines()
    assert [line["config"]["seed"] for line in lines] == [1, 2]
    assert "limit" not in lines[0]["config"]  # it was null
    assert lines[0]["test"]["accuracy"] == 0.99333334
    assert lines[0]["curve"] == {"loss": [0.1235]}


def test_a_command_for_each_stretch_of_missing_seeds():
    options = {"init": "scratch", **study.ARMS["glyphs-random"]}
    config = {**study.COMMON, **study.recipe_of(options, "image"), **options, "role": "student",
              "preset": "vit_nano", "seed": 2028, "lr": 1e-3}
    assert study.missing("glyphs-random", []) == [("re", 2026, 10)]
    found = study.missing("glyphs-random", [{"config": config}])
    assert found == [("re", 2026, 2), ("re", 2029, 7)]


def test_the_control_without_an_input_keeps_the_same_patches_of_each():
    shape = dict(num_classes=2, image_size=32, patch_size=4, rate=0.15)
    generator = models.build(preset="vit:8:1:1", method="re", **shape).generator
    logits = without.same_scores(generator, torch.randn(5, 3, 32, 32))
    assert without.same_scores(generator, torch.randn(2, 3, 32, 32)).equal(logits[:2])
    mask = rekd.rate_mask(logits.diff().squeeze(-1), 0.15)
    assert mask.sum(1).tolist() == [10] * 5 and (mask == mask[0]).all()
    # In training 9.6 on average: nine of them always, none of the others ever.
    held = rekd.at_rate(logits, 0.15)
    sampled = torch.stack([rekd.sample_mask(held, 1.0)[0] for _ in range(50)])
    assert (sampled <= mask).all() and (sampled.mean((0, 1)) == 1).sum() == 9


def test_holm_multiplies_the_smallest_p_by_the_number_of_comparisons():
    # Sorted: .01 * 3 = .03; .02 * 2 = .04; .04 * 1 = .04 (no smaller than the one before).
    assert questions.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert questions.holm([0.5, 0.6]) == [1.0, 1.0]  # .6 may not fall below it


def runs(*accuracies):
    return {seed: {"test": {"accuracy": accuracy, "examples": 100, "rate_mean": 0.1}}
            for seed, accuracy in enumerate(accuracies, start=2026)}


def test_a_comparison_is_paired_by_seed():
    better, worse = runs(0.9, 0.8, 0.7, 0.1), runs(0.8, 0.7, 0.6, 0.1)
    worse[2030] = worse.pop(2029)
    found = {"a": {"rekd": better}, "b": {"re": worse}}
    row, = questions.compare(found, [("a - b", ("a", "rekd"), ("b", "re")),
                                     ("not run", ("a", "rekd"), ("c", "re"))])
    assert row["n"] == 3  # the fourth seeds have no partner
    assert row["mean"] == pytest.approx(0.1) and row["p"] == 0.25  # 2 of 2^3 signs
    assert "holm" not in row  # three seeds are too few for a test


def test_intervals_by_hand():
    # Of 1, 2, 3: standard deviation 1, t of 2 degrees of freedom 4.303, so 4.303 / sqrt(3).
    assert charts.interval([1.0, 2.0, 3.0]) == pytest.approx(2.484, abs=1e-3)
    assert charts.interval([1.0]) == 0
    # Twice as far apart: four times the variance, in every draw.
    ratio = questions.variance_ratio(runs(.1, .3, .5, .7), runs(.2, .3, .4, .5))
    assert ratio == pytest.approx((4, 4, 4))
    assert questions.variance_ratio(runs(.1, .2), runs(.3, .3))[0] == float("inf")


def test_a_chart_shows_each_mean_at_its_height():
    svg = charts.chart("t < u", "x", [1, 2], {"accuracy": {"RE": [[0.0], [1.0]]}})
    bottom, top = charts.TOP + charts.HIGH, charts.TOP
    assert "t &lt; u" in svg and f",{bottom:.1f} " in svg and f',{top:.1f}"' in svg


def test_figures_in_words_are_means_of_the_seeds():
    found = runs(0.5, 0.6)
    for line, share in zip(found.values(), (0.2, 0.4)):
        line["judge"] = {"by rank": {"opinions": share}, "random": {"opinions": 0.1}}
    arms = {"a": {"rekd": found, "re": runs(0.7)}}
    text = "{a/rekd_spread}, {a/re_seeds}, {a/rekd_judged_opinions:.2f}, {a/random_judged_opinions}"
    assert pages.paragraphs(text, {}, arms) == [".550 +- .071, one seed, 0.30, 0.1"]
    never = "{a/re_judged_opinions}\n\nkept"
    assert pages.paragraphs(never, {}, arms) == ["kept"]
