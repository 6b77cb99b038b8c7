"""The command line, end to end on tiny folders: runs, resume, teachers, tables, pages, mistakes."""

import html
import io
import itertools
import json
import math
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import finished, judged, log, only, other_images, read, refused, state, stop_after
from PIL import Image, ImageFont

import data
import models
import rekd
import train
from results import judge, pictures, progress, tables


def student(run, pattern="*", dataset="colours"):
    """The folder of the student that was trained."""
    return only(f"student-{pattern}", run.runs / dataset)


# ---------------------------------------------------------------- runs and what they leave

def test_a_student_run_trains_its_teacher_first_and_the_next_reuses_it(run):
    out = finished(run(""))
    assert "vit:16:1:2 is trained first" in out and "teacher: vit:16:1:2 (RE)" in out
    teacher, first = only("teacher-re-*", run.colours), student(run, "rekd-*")
    for folder in (teacher, first):
        assert {file.name for file in folder.iterdir()} == {
            ".lock", "config.json", "log.jsonl", "best.pt", "last.pt", "result.json",
            "rationales.png"}
        Image.open(folder / "rationales.png").verify()
    line = log(first)[-1]
    assert line.keys() >= set("lr loss prediction selection rationale_kd prediction_kd accuracy "
                              "rate_mean rate_std rate_empty rate_sampled seconds".split())
    assert line["epoch"] == 3 and line["tau"] == pytest.approx(0.1)
    for name in ("result.json", "best.pt", "last.pt"):  # each tells who taught it
        taught_by = read(first / name)["teacher"]
        assert re.fullmatch("[0-9a-f]{64}", taught_by["sha256"])
        assert taught_by["path"] == str(teacher / "best.pt")

    before = (teacher / "best.pt").stat().st_mtime_ns
    assert f"teacher: {teacher / 'best.pt'}, 3 epochs" in finished(run("--seed 7 --alpha 0.3"))
    assert (teacher / "best.pt").stat().st_mtime_ns == before
    assert log(student(run, "*seed7*alpha0.3*")) != log(first)


def test_compare_leaves_a_table_with_a_picture(run, tmp_path):
    out = finished(run(f"--compare --seeds 2 --epochs 1 --out {tmp_path}/student-rekd-\udcff"))
    folder = tmp_path / "student-rekd-\udcff" / "colours"  # whatever its name
    table = only("compare-*2seeds.txt", folder).read_text()
    assert table.split("teacher:")[0] in out and "+-" in table
    assert "takes 6 seeds" in table and "p =" not in table
    rows = [line.split() for line in table.splitlines()[2:6]]
    assert rows[0] == ["method", "accuracy", "rate", "F1", "parameters", "seconds"]
    # 0.15 of 16 patches, rounded; CLS reads them all.
    assert [(row[0], row[4:7]) for row in rows[1:]] == [
        ("CLS", ["1.000", "+-", "0.000"]), ("RE", ["0.125", "+-", "0.000"]),
        ("REKD", ["0.125", "+-", "0.000"])]
    assert Image.open(only("compare-*2seeds.png", folder)).size[0] > 500
    assert len(list(folder.glob("student-*"))) == 6 and only("teacher-*", folder)


@pytest.mark.parametrize("script", [[0.7, 0.9, 0.8], [0.8, 0.8, 0.7]])  # a tie: the later
def test_the_checkpoint_is_the_best_epoch_on_dev(run, monkeypatch, script):
    metrics = iter([*script, 0])
    monkeypatch.setattr(train, "evaluate", lambda *args: {
        "accuracy": next(metrics), "rate_mean": 0.15, "rate_std": 0.0, "examples": 9})
    finished(run("--method re --rate 0.15"))
    assert read(student(run) / "best.pt")["epoch"] == 2


@pytest.mark.parametrize("options, epochs", [("", 100), ("--epochs 2", 2)])
def test_from_scratch_a_small_set_is_passed_more_often(run, monkeypatch, options, epochs):
    seen = []
    monkeypatch.setattr(train, "train", lambda config, *rest: seen.append(config) or sys.exit(0))
    run(f"--method re --student vit:8:1:1 --image-size 16 --patch-size 4 {options}", net_of="none")
    assert [config.epochs for config in seen] == [epochs]  # 48 images are one step


def test_bfloat16_computes_less_exactly(run):
    losses = []
    for precision in ("float32", "bfloat16"):
        assert precision in finished(run(f"--method re --precision {precision}")).splitlines()[0]
        losses.append(log(student(run, f"*{precision}"))[0]["loss"])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("schedule, factors", [("constant", [1] * 5),
                                               ("decay", [1, 1, 1, 2 / 3, 1 / 6])])
def test_the_learning_rate_decays_over_the_last_40_percent(run, schedule, factors):
    finished(run(f"--method cls --epochs 5 --lr 0.003 --lr-schedule {schedule}"))
    assert [line["lr"] / 0.003 for line in log(student(run))] == pytest.approx(factors)


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds): each look at the clock, one a step, comes so long after the last."""
    def set_clock(seconds):
        looks = itertools.count(0, seconds)
        for module in (train, progress):
            monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: next(looks)))
    return set_clock


def test_a_pipe_hears_how_long_the_whole_command_takes(run, clock):
    clock(2.5)
    out = finished(run("--method cls --epochs 1 --batch-size 1 --seeds 2"))  # 2 x 48 steps
    # After 20 steps; then after more than a minute. The first run knows of the second.
    assert re.findall(r"step (\d+) of 48: about (\S+) left in all", out) == [
        ("20", "0:03:20"), ("45", "0:02:10"), ("20", "0:01:14"), ("45", "0:00:08")]
    assert "will take" not in out


def test_what_takes_days_is_said_before_the_first_step(run, clock):
    clock(3000)  # 1.5 times as long for each of 16 examples, 9 steps of the teacher, 9 after it
    before, days, after = re.split(r".*will take about (\d+) days.*--student vit_micro.*--limit.*",
                                   finished(run("")), maxsplit=1)
    assert days == "15" and "step" not in before and "epoch  1/3" in after


# ---------------------------------------------------------------- the same seed, interrupted or not

@pytest.mark.parametrize("dataset", ["colours", "words"])
def test_a_run_interrupted_anywhere_ends_as_an_uninterrupted_one(run, monkeypatch, dataset):
    run("", dataset)
    folder = student(run, "rekd-*", dataset)
    expected, resumed_after = state(folder), set()
    for writes in range(1, 20):
        stop_after(writes, monkeypatch)
        stopped = run("", dataset)
        if stopped.code == 0:
            break
        assert stopped.code == 130 and "Traceback" not in stopped.err and "--resume" in stopped.err
        out = finished(run("--resume", dataset))
        resumed_after |= {*re.findall(r"resumed after epoch (\d)", out)}
        assert state(folder) == expected
    assert resumed_after == {"1", "2", "3"}  # it did not begin anew


def test_resume_goes_on_to_other_seeds_and_repeats_nothing(run, monkeypatch):
    command = "--method re --seeds 2"
    stop_after(7, monkeypatch)  # in the second of three epochs
    assert run(command).code == 130
    (student(run) / "log.jsonl").unlink()  # a lost log does not make a run longer
    assert "resumed after epoch" in finished(run(f"{command} --resume"))
    assert [line["epoch"] for line in log(student(run, "*seed2026-*"))] == [1, 2, 3]
    assert finished(run(f"{command} --resume")).count("finished before") == 2


def test_how_a_step_samples(run, monkeypatch):
    """16 patches, 3 epochs of 3 steps: the rate falls to 0.25 over the first half."""
    steps, original = [], rekd.re_losses
    monkeypatch.setattr(rekd, "re_losses", lambda *args, **options: (
        steps.append(options) or original(*args, **options)))
    finished(run("--method re --rate 0.25"))
    assert [step["rate"] for step in steps] == [rekd.annealed_rate(k, 9, 0.25) for k in range(9)]
    assert steps[0]["packed"] == 16 and steps[-1]["packed"] == 10  # 4 + 3 * sqrt(4)
    assert steps[-1]["lambda_select"] is None and {step["noise_scale"] for step in steps} == {1.0}
    last = log(student(run))[-1]
    assert last["rate_sampled"] == pytest.approx(0.25, abs=0.04) and last["unpacked"] < 0.05

    steps.clear()
    finished(run("--method re --rate 0.25 --lambda-select 0.01 --noise annealed"))
    # L_select holds no example's count.
    assert {(step["rate"], step["packed"], step["lambda_select"]) for step in steps} == {
        (0.25, 16, 0.01)}
    assert all(step["noise_scale"] == step["tau"] for step in steps)


def test_nothing_within_an_epoch_waits_for_the_device(run, monkeypatch):
    """On a GPU, reading a value (.item(), nonzero) makes the host wait."""
    events, original, aten = [], rekd.rekd_losses, torch.ops.aten

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (aten._local_scalar_dense.default, aten.nonzero.default):
                events.append("wait ")
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(rekd, "rekd_losses", lambda *args, **options: (
        events.append("step ") or original(*args, **options)))
    with Watch():  # on a CPU, a predictor that reads its student's mask may wait
        finished(run("--teacher-reads teacher"))
    assert "".join(events).count("step step step ") == 3 and "wait " in events  # 3 epochs of 3


def test_evaluation_is_repeatable_and_leaves_the_mode_as_it_was(folders):
    shape = dict(image_size=16, patch_size=4)
    dataset = data.load_dataset("colours", folders, **shape)
    model = models.build(preset="vit:8:1:1", method="re", num_classes=3, dropout=0.9, **shape)
    config = SimpleNamespace(method="re", precision="float32")
    found = []
    for mode in (True, False):
        found.append(train.evaluate(model.train(mode), dataset, dataset.test, config))
        assert model.training == mode
    assert found[0] == found[1]  # no noise, no dropout


# ---------------------------------------------------------------- the teacher

@pytest.mark.parametrize("dataset, width", [("colours", 16), ("words", 32)])
def test_a_student_hears_what_a_frozen_teacher_says_of_the_very_batch(
        run, monkeypatch, dataset, width):
    """Of images in this epoch's crop and flip; texts are cut to the longest of the batch."""
    original = rekd.rekd_losses

    def compare(model, teacher, x, y, *, known, **options):
        assert model.training and not teacher.training
        assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
        assert not {*map(id, model.parameters())} & {*map(id, teacher.parameters())}
        keep, logits = rekd.ask(teacher, x)
        assert torch.allclose(known[0].float(), keep, atol=5e-3)  # kept as float16
        assert torch.allclose(known[1], logits, atol=5e-3) and keep.shape[1] == width
        return original(model, teacher, x, y, known=known, **options)

    monkeypatch.setattr(rekd, "rekd_losses", compare)
    views = "--views 4" if dataset == "colours" else ""
    # More epochs than views.
    finished(run(f"--epochs 6 --teacher-reads teacher {views}", dataset))


def test_answers_are_asked_for_once(run):
    run("--epochs 1")
    expected, path = state(student(run)), only("answers-*.pt", run.colours)
    stamp, answers = path.stat().st_mtime_ns, read(path)
    run("--epochs 1 --seed 5")
    assert path.stat().st_mtime_ns == stamp
    torch.save({**answers, "logits": answers["logits"] * math.nan}, path)  # not whole
    run("--epochs 1")
    assert state(student(run, "*seed2026*")) == expected
    assert all(read(path)[name].equal(answers[name]) for name in answers)
    assert not answers["logits"].any()  # the teacher will read its student's mask
    for count, options in enumerate(("--epochs 2", "--rate 0.6", "--precision bfloat16",
                                     "--teacher-reads teacher"), start=2):
        finished(run(f"--epochs 1 --seed 7 {options}"))
        assert len(list(run.colours.glob("answers-*"))) == count, options
    newest = max(run.colours.glob("answers-*"), key=lambda path: path.stat().st_mtime_ns)
    assert read(newest)["logits"].any()
    assert {len(read(path)["keep"]) for path in run.colours.glob("answers-*")} == {1, 2}  # views


def test_images_that_are_not_cropped_are_asked_about_once(run, monkeypatch):
    monkeypatch.setitem(data.BUILT_IN, "glyphs", lambda: (
        data.glyphs(80, 0), data.glyphs(9, 1), [*"0123456789"], None))
    finished(run("--dataset glyphs --epochs 2 --views 2", net_of="none"))
    assert len(read(only("answers-*", run.runs / "glyphs"))["keep"]) == 1


def test_a_teacher_of_anything_else_is_not_reused(run, tmp_path):
    assert "RE " in finished(run("", net_of="teacher"))
    assert only("*", run.colours).name.startswith("teacher-re-")  # no student
    start = models.ViT(dim=16, depth=1, heads=2, image_size=16, patch_size=4)
    published = models.published_slots(start, "vit")
    torch.save({key: value.clone() for key, value in published.items()}, tmp_path / "start.pt")
    for option in ("--limit 40", "--rate 0.3", "--patch-size 8", "--teacher vit:24:1:2",
                   "--masking zero", f"--teacher-init {tmp_path / 'start.pt'}"):
        assert "is trained first" in finished(run(f"{option} --epochs 1")), option
        assert "is trained first" not in finished(run(f"{option} --epochs 1 --seed 3")), option
    assert "is trained first" not in finished(run("--epochs 2 --tau-start 4"))


def test_a_student_from_scratch_takes_the_vocabulary_of_a_finished_teacher(run, tmp_path):
    finished(run("--teacher bert:16:1:2", "words"))
    checkpoint = read(only("teacher-*", run.words) / "best.pt")
    words = checkpoint["input"]["vocabulary"]
    words[1:] = words[:0:-1]  # [PAD] stays the first
    torch.save(checkpoint, tmp_path / "other.pt")
    for method, pattern in (("rekd", "*-teachercheckpoint*"), ("re", "re-*")):  # all read the same
        finished(run(f"--teacher-checkpoint {tmp_path / 'other.pt'} --method {method}", "words"))
        best = read(student(run, pattern, "words") / "best.pt")
        assert best["input"]["vocabulary"] == words


def test_only_a_finished_teacher_with_its_weights_teaches(run, monkeypatch):
    stop_after(4, monkeypatch)
    assert run("").code == 130
    out = finished(run("--resume"))
    assert "is trained first" in out and "resumed after epoch 1" in out
    best = only("teacher-*", run.colours) / "best.pt"
    for more in ("", "--resume"):
        best.unlink()
        best.with_name("last.pt").unlink()
        assert "is trained first" in finished(run(more))  # a clone has result.json alone
        assert best.exists()


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_goes_on_under_its_teacher_and_with_its_data_alone(run, folders, tmp_path,
                                                                 is_finished):
    root = shutil.copytree(folders, tmp_path / "mine")
    for command in ("", f"--method re --data-dir {root}"):
        finished(run(command))
    for path in run.colours.glob("student-*/result.json"):
        if not is_finished:
            path.unlink()
    best = only("teacher-*", run.colours) / "best.pt"
    checkpoint = read(best)
    next(iter(checkpoint["weights"].values())).mul_(1.5)
    torch.save(checkpoint, best)
    refused(run("--resume"), "another teacher")
    shutil.rmtree(root)
    other_images(folders, root)
    refused(run(f"--method re --data-dir {root} --resume"), "other training data")


def test_a_given_teacher_teaches_and_needs_no_published_weights(run, monkeypatch):
    run("--epochs 1 --method re")
    monkeypatch.setattr(data, "fetch_hub", lambda *names: pytest.fail("nothing is to be fetched"))
    best = student(run, "re-*") / "best.pt"
    command = (f"--student vit:8:1:1 --teacher vit_base --teacher-checkpoint {best} --epochs 1 "
               "--image-size 16 --init scratch --patch-size")
    assert f"teacher: {best}" in finished(run(f"{command} 4", net_of="none"))
    assert not list(run.colours.glob("teacher-*"))
    refused(run(f"{command} 8", net_of="none"), "same grid of features")


def test_a_caption_is_no_wider_than_its_image():
    font = ImageFont.load_default(13)
    assert pictures.fitting("shark", font) == "shark"
    cut = pictures.fitting("household_electrical_devices", font)
    assert cut.startswith("household_electric") and font.getlength(cut) <= pictures.SIDE


# ---------------------------------------------------------------- the table

def results(*accuracies):
    return [{"test": {"accuracy": accuracy, "rate_mean": 0.1, "examples": 3000}, "seconds": 9.0,
             "parameters": 10_000_000, "teacher": {"preset": "vit_base", "path": "runs/best.pt",
                                                   "dev": {"accuracy": 0.9, "rate_mean": 0.1}}}
            for accuracy in accuracies]


FEW = "significance: takes 6 seeds"


@pytest.mark.parametrize("cls, re_, rekd_, line, significance", [
    ([0.99], [0.60], [0.97], "gap recovered.*: 95%", FEW),
    ([0.99], [0.985], [0.99], "no gap to recover", FEW),  # .005 of 3,000 examples
    ([0.9] * 5, [0.50, 0.51, 0.52, 0.53, 0.54], [0.86] * 5, "gap recovered.*: 89%", FEW),
    ([0.9] * 6, [0.50, 0.51, 0.52, 0.53, 0.54, 0.55], [0.86] * 6, "gap recovered.*: 89%",
     "p = 0.031 .6 seeds cannot go below 0.031"),
    ([0.9] * 6, [0.5, 1.0, 0.9, 1.0, 0.9, 0.8], [0.95] * 6, "no gap to recover", "p = "),
    ([0.9] * 6, [0.95] * 6, [0.97] * 6, "no gap to recover", "p = 0.031")])
def test_what_the_table_says_of_rekd(cls, re_, rekd_, line, significance):
    text = tables.table("title", dict(cls=results(*cls), re=results(*re_), rekd=results(*rekd_)))
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(line, text) and ("gap recovered" in text) != ("no gap to recover" in text)
    assert re.search(significance, text) and ("p = " in text) != (FEW in text)
    assert tables.spread([0.50, 0.51, 0.52, 0.53, 0.54, 0.55], 4) == "0.5250 +- 0.0187"


# ---------------------------------------------------------------- --judge

@pytest.mark.parametrize("dataset, method", [("colours", "cls"), ("colours", "re"),
                                             ("words", "re")])
def test_judge_compares_masks_of_exactly_the_rate(run, spy, dataset, method):
    finished(run(f"--method {method} --rate 0.3", dataset))
    best = student(run, dataset=dataset) / "best.pt"
    selectable, probed = spy(judge, "saliency"), spy(judge, "probe")
    rows = judged(run, best, "--rate 0.3")
    of_generator = {"sampled", "by rank"} if method == "re" else set()
    assert rows.keys() == {"noise-free", "random", "saliency", "attention"} | of_generator
    assert all(row["f1"] == row["iou"] == "-" for row in rows.values())
    accuracy = read(best.with_name("result.json"))["test"]["accuracy"]
    own = "by rank" if method == "re" else "noise-free"  # what the run was measured by
    assert float(rows[own]["accuracy"]) == pytest.approx(accuracy, abs=6e-4)
    batches = [len(x) for _, x, _ in selectable]
    assert max(batches) <= 32  # a gradient keeps activations
    counts = [max(round(0.3 * n), 1) for *_, free in selectable for n in free.sum(1).tolist()]
    for name, (learned, _, tested, _) in zip(rows, probed):
        if name not in ("sampled", "noise-free"):
            assert tested.sum(1).tolist() + learned.sum(1).tolist() == counts, name


def test_judge_counts_the_opinions_among_the_kept_words(run, spy, folders, tmp_path, monkeypatch):
    package = tmp_path / "vaderSentiment"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "vader_lexicon.txt").write_text("good\t1.9\t0.9\nbad\t-2.5\t0.7\n,\t-1\t0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    finished(run("--method re", "words"))
    best = student(run, dataset="words") / "best.pt"
    probed = spy(judge, "probe")
    rows = judged(run, best)
    vocabulary = read(best)["input"]["vocabulary"]
    listed = torch.tensor([word in ("good", "bad") for word in vocabulary])  # a comma is no word
    texts = [path.read_text() for path in sorted(folders.glob("words/test/*/*.txt"))]
    encode = data.WordPiece(vocabulary).encode
    x = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(encode(text, max_length=40)) for text in texts], batch_first=True)
    for (name, row), (_, _, masks, _) in zip(rows.items(), probed, strict=True):
        share = masks[:, :x.shape[1]][listed[x]].sum() / masks.sum()
        if not masks.any():  # noise-free, of a network that has learned little
            assert row["opinions"] == "-"
            continue
        assert float(row["opinions"]) == pytest.approx(share.item(), abs=6e-4), name
    assert 0 < float(rows["random"]["opinions"]) < 0.5


def test_judge_refuses_other_data_than_trained_on(run, folders, tmp_path):
    finished(run("--method re --epochs 1"))
    options = f"--judge --checkpoint {student(run) / 'best.pt'} --data-dir"
    finished(run(f"{options} {shutil.copytree(folders, tmp_path / 'same')}"))
    refused(run(f"{options} {other_images(folders, tmp_path / 'other')}"), "--data-dir")


# ---------------------------------------------------------------- pages, --explain

def test_a_page_marks_what_was_selected_of_the_text_as_it_was_written():
    text = "A <b>Fine</b>,  film.<br />Bye & \x1b[31m"
    vocabulary = [*data.SPECIAL, *data.WordPiece.words(text)]
    spans = pictures.spans_of(text, {"vocabulary": vocabulary})

    def mask_of(*words):  # [CLS] first, [SEP] last
        return torch.tensor([0, *(word in words for word in data.WordPiece.words(text)), 0])

    example = pictures.Example(None, text, "<i>", spans, "good", mask_of("film", "."))
    re_ = pictures.Finding("RE", mask_of("fine", ",", "film"), "ok: good", True, True)
    cls = pictures.Finding("CLS", mask_of(*vocabulary), "WRONG: bad", False, False)

    one = pictures.html_article(example, [re_])
    assert "<i>" not in one and "<b>RE: ok: good</b>" in one
    assert ("A &lt;b&gt;<mark>Fine</mark>&lt;/b&gt;<mark>,  </mark><mark><u>film</u></mark>"
            "<u>.</u><br>Bye &amp; ") in one
    several = pictures.html_article(example, [cls, re_])  # the text once, then what each selected
    shown, of_cls, of_re = re.findall(r"<p.*?</p>", several, re.S)
    assert "<mark>" not in shown + of_cls and "WRONG: bad" in of_cls and "Bye" not in of_re
    assert "<mark>Fine</mark> &hellip; <mark>,  film</mark>" in of_re

    first, second = pictures.bracketed(example, re_)
    assert first == "A <b>[Fine]</b>[,  film]." and second.startswith("Bye & ")
    assert "\x1b" not in second and "[" not in pictures.bracketed(example, cls)[0]


def test_explain_shows_your_own_texts(run, tmp_path, monkeypatch):
    finished(run("--method re", "words"))
    written = "<script>alert('Good')</script>  A GOOD film, gr\u00fc\u00dfe \x1b[2J\a" + "so " * 50
    (own := tmp_path / "mine.txt").write_text(written, "utf-8")
    options = f"--explain {own} --checkpoint {student(run, dataset='words') / 'best.pt'}"
    out = finished(run(options, net_of="none"))
    assert re.search(r"mine.txt: (good|bad), \d+%", out) and "first 38 tokens" in out
    assert not {"\x1b", "\a"} & set(out)
    page = Path(re.search("picture: (.*)", out)[1]).read_text("utf-8")
    text = re.search(r'<p class="text">(.*?)</p>', page, re.S)[1]
    assert "<script" not in page
    assert html.unescape(re.sub("<[^>]*>", "", text)) == written  # also what the model cannot read
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert run(options, net_of="none").code == 0  # a terminal that cannot show it all


# ---------------------------------------------------------------- a user's mistakes

ALONE = "without --student only the teacher is trained"


# mistakes.txt has many more command lines, without what is said of them.
@pytest.mark.parametrize("options, sentence", [
    ("--student vit:8:1:1 --method cls --patch-size 5", "32 is not divisible by patch size 5"),
    ("--student vit:9:1:2", "width 9 is not divisible by 2 heads"),  # before a teacher is trained
    (f"--batch-size {'9' * 30}", "--batch-size: must be"),
    ("--image-size 4097", "1 <= n <= 4096, not 4097"), ("--views 101", "n <= 100, not 101"),
    ("--seeds 21", "n <= 20, not 21"), ("--epochs 1.5", "must be a whole number 1 <= n"),
    ("--seed 20000000000000", "--seed: must be a whole number 0 <= n"),  # would leave 64 bits
    ("--student vit:8:1:1 --method cls --limit 2", "some of 3 classes have no training"),
    ("--compare --method re", "leave --method out"), ("--device quantum", "no device 'quantum'"),
    ("--teacher-checkpoint nowhere.pt --student vit_nano", "cannot read the checkpoint nowhere.pt"),
    ("--teacher-checkpoint x.pt --teacher-init scratch", "leave --teacher-init out"),
    ("--resume", "nothing to resume"),
    ("--student vit:9000:99:1", "over a billion weights"),
    ("--student bert_nano", "bert_nano does not read images"),
    ("--dataset words --teacher vit_nano", "vit_nano does not read texts"),
    ("--dataset words --views 2", "--views is for images"),
    ("--max-length 16", "--max-length is for texts"),
    ("--teacher vit_nano --method rekd", ALONE), ("--teacher vit_nano --teacher-init x", ALONE),
    ("--teacher vit_nano --teacher-checkpoint best.pt", ALONE),
    ("--explain x.png", "give both"), ("--judge --explain x.png --checkpoint x.pt", "one of"),
    ("--judge --checkpoint none.pt", "cannot read the checkpoint none.pt"),
    ("--rate 0", "--rate: must be a number 0 < x <= 1"), ("--init weights.bin", "no file of"),
    (f"--init {train.__file__}", "cannot read the file of weights"),  # before a teacher is trained
    (f"--init scratch --method cls --out {train.__file__}", "train.py")])
def test_bad_options(run, options, sentence):
    refused(run(options, net_of="none"), sentence)
    assert not list(run.runs.glob("**/*.pt"))


@pytest.mark.parametrize("command", ["--judge", "--explain x.png"])
def test_a_finished_model_is_for_one_process(run, monkeypatch, command):
    monkeypatch.setattr(train, "WORLD", 2)
    refused(run(f"{command} --checkpoint x.pt"), "start them without torchrun")


def test_a_run_with_other_options_is_not_overwritten(run):
    run("--method re --epochs 1")
    refused(run("--method re --epochs 1 --lr 1e-4 --resume"), "nothing to resume")
    config = student(run) / "config.json"
    config.write_text(json.dumps({**read(config), "lr": 0.5}))
    for more in ("", "--resume"):
        refused(run(f"--method re --epochs 1 {more}"), "other options")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(run, monkeypatch):
    factors, original = iter([1, 1, 1, 1, float("nan"), 1]), rekd.re_losses  # 3 steps an epoch
    monkeypatch.setattr(rekd, "re_losses", lambda *args, **options: {
        name: loss * next(factors) if name == "loss" else loss
        for name, loss in original(*args, **options).items()})
    refused(run("--method re"), r"not finite at step 4 \(epoch 2\)")
    last = read(student(run) / "last.pt")
    assert last["epoch"] == 1 and all(x.isfinite().all() for x in last["weights"].values())


def test_weights_that_are_not_finite_are_not_kept(run, monkeypatch):
    """The loss of the only step was still finite."""
    monkeypatch.setattr(train, "learning_rate", lambda step, config: float("nan"))
    refused(run("--method re --epochs 1 --batch-size 48"),
            r"not finite at step 1 \(epoch 1\): lower --lr or")
    assert not list(run.colours.glob("*/*.pt"))


@pytest.mark.parametrize("error, is_memory", [
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB"), True),
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
    (RuntimeError("shapes do not match"), False)])
def test_a_full_memory_is_one_line_and_a_bug_is_a_traceback(run, monkeypatch, error, is_memory):
    monkeypatch.setattr(rekd, "re_losses", mock.Mock(side_effect=error))
    if is_memory:
        refused(run("--method re"), "the memory is full: lower --batch-size")
    else:
        with pytest.raises(RuntimeError, match="shapes do not match"):
            run("--method re")


# ---------------------------------------------------------------- what lies in a run's folder

def broken(content, *path_and_value):
    """A copy in which what stands at the path is that value, or is missing (None)."""
    *path, last, value = path_and_value
    whole = part = pickle.loads(pickle.dumps(content))
    for key in path:
        part = part[key]
    part.pop(last) if value is None else part.__setitem__(last, value)
    return whole


def test_what_is_damaged_is_not_resumed(run, monkeypatch):
    """Each of these once was a traceback, some after all epochs had trained."""
    stop_after(7, monkeypatch)
    assert run("--method re").code == 130
    path = student(run) / "last.pt"
    last = read(path)
    moments = "optimizer", "state", 0
    for change in [
            ("log", None), ("log", "two"), ("log", []), ("log", 0, "seconds", "1"),
            ("log", 0, "epoch", 99), ("log", 1, "epoch", -1), ("log", 0, "loss", math.nan),
            ("log", 0, "accuracy", math.inf), ("log", 0, "seconds", 10**400),
            ("log", 0, "loss", torch.ones(1)), ("best", "a"), ("best", math.nan),
            ("log", [{"epoch": k, "seconds": 1.0} for k in (1, 2, 3, 4)]),  # of three epochs
            ("weights", None), ("weights", "generator.head.0.bias", None),
            ("optimizer", None), ("optimizer", "state", 0, None),
            (*moments, "exp_avg", torch.zeros(1)), (*moments, "exp_avg_sq", "x"),
            (*moments, "step", torch.ones(3)), ("fingerprint", None)]:
        torch.save(broken(last, *change), path)
        refused(run("--method re --resume"), "damaged: remove it")
    torch.save(last, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(last["weights"]["predictor.head.1.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(raw)
    refused(run("--method re --resume"), "damaged or no checkpoint: remove it")
    torch.save(broken(last, "optimizer", "param_groups", "any"), path)  # those of the command count
    best = path.with_name("best.pt")
    content = best.read_bytes()
    best.unlink()  # missed before the other epochs
    refused(run("--method re --resume"), "cannot read the checkpoint .*best.pt")
    best.write_bytes(content)
    assert "resumed after epoch 2" in finished(run("--method re --resume"))


def test_a_damaged_result_is_named(run):
    finished(run("--epochs 1"))
    path = student(run) / "result.json"
    result = read(path)
    for change in [("test", None), ("test", "accuracy", "high"), ("seconds", "long"),
                   ("parameters", []), ("test", "rate_mean", None), ("test", "accuracy", math.nan),
                   ("test_fingerprint", "other"), ("teacher", None), ("teacher", 3),
                   ("teacher", "dev", 3)]:
        path.write_text(json.dumps(broken(result, *change)))
        refused(run("--epochs 1 --resume"), "remove it to measure again")


def test_half_files_of_a_killed_run_are_removed(run):
    finished(run("--method re --epochs 1 --device cpu:0"))  # a CPU has no number
    (student(run) / "last.pt.123.rekd-part").write_text("half")
    (run.colours / "answers-0.pt.123.rekd-part").write_text("half")
    (run.colours / "paper.pdf.part").write_text("a download of the user's")
    with open(run.colours / "answers-1.pt.124.rekd-part", "wb") as file:
        data.lock(file)  # its process lives
        finished(run("--method re --epochs 1 --resume"))
    left = sorted(path.name for path in run.colours.rglob("*part"))
    assert left == ["answers-1.pt.124.rekd-part", "paper.pdf.part"]


def test_of_two_runs_in_one_folder_the_second_is_refused(run):
    finished(run("--method re --epochs 1"))
    before = state(student(run))
    with open(student(run) / ".lock") as held:
        assert data.lock(held)
        for more in ("", "--resume"):
            refused(run(f"--method re --epochs 1 {more}"), "in use by another process: wait")
    assert state(student(run)) == before
    finished(run("--method re --epochs 1"))


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize("output, reason", [("| head -1", "Broken pipe"),
                                            ("> /dev/full", "No space left on device")])
def test_an_output_that_is_closed_or_full_is_one_line(run, output, reason):
    run("--resume")  # fills sys.argv
    command = shlex.join([sys.executable, train.__file__, *sys.argv[1:-1], "--method", "re"])
    shell = subprocess.run(["bash", "-c", f"{command} {output}"], capture_output=True, text=True)
    assert shell.stderr == f"train.py: the output: {reason}\n"


@needs_full
def test_a_full_disk_is_one_line(run, monkeypatch):
    def full(path, mode="r", **options):
        return open("/dev/full" if "w" in mode else path, mode, **options)

    monkeypatch.setattr(data, "open", full, raising=False)
    refused(run("--method re"), "cannot write .*: No space left on device")
