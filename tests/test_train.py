"""The command line, end to end on tiny folders: runs, resume, teachers, --paper, mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT, SMALL, finished, log, only, read, refused, state, stop_after, student
from PIL import Image

import data
import models
import rekd
import train


# ---------------------------------------------------------------- runs and what they leave
def test_a_student_run_trains_its_teacher_first_and_the_next_reuses_it(run):
    assert "is trained first" in finished(run(""))
    teacher, first = only("colours/teacher-re-*", run.runs), student(run, "rekd-*")
    for folder in (teacher, first):
        assert {file.name for file in folder.iterdir()} == {
            ".lock", "config.json", "log.jsonl", "best.pt", "result.json", "rationales.png"}
        Image.open(folder / "rationales.png").verify()
    line = log(first)[-1]
    assert line.keys() >= set("lr loss prediction selection rationale_kd prediction_kd accuracy "
                              "rate_mean rate_std rate_empty rate_sampled seconds".split())
    assert line["epoch"] == 3 and line["tau"] == pytest.approx(0.1)
    for name in ("result.json", "best.pt"):  # each tells who taught it
        assert read(first / name)["teacher"]["path"] == str(teacher / "best.pt")

    before = (teacher / "best.pt").stat().st_mtime_ns  # a student's options do not touch it
    assert "is trained first" not in finished(run("--seed 7 --alpha 0.3"))
    assert (teacher / "best.pt").stat().st_mtime_ns == before
    assert log(student(run, "*seed7*alpha0.3*")) != log(first)


@pytest.mark.parametrize("options", [
    "--teacher-limit 40", "--rate 0.3", "--patch-size 8", "--masking zero",
    "--teacher vit:24:1:2", "--teacher-epochs 2", "--teacher-seed 5", "--precision bfloat16"])
def test_a_teacher_of_other_options_is_trained_anew(run, options):
    finished(run("--epochs 1 --teacher-epochs 1"))
    assert "is trained first" in finished(run(f"--epochs 1 --teacher-epochs 1 {options}"))


def test_a_teacher_trained_by_its_own_command_is_found_by_a_student(run):
    its = "--teacher vit:16:1:2 --image-size 16 --patch-size 4 --teacher-epochs 2 --teacher-seed 5"
    for says in ("epoch  2/2", "finished before"):
        assert says in finished(run(f"{its} --init scratch", small="none"))  # as by default
    only("colours/*", run.runs)  # and no student
    out = finished(run(f"{its} --student vit:8:1:1 --epochs 1", small="none"))
    assert "is trained first" not in out


def test_compare_leaves_a_table_with_a_picture(run):
    out = finished(run("--compare --seeds 2 --epochs 1"))
    table = only("colours/compare-*2seeds.txt", run.runs).read_text()
    assert table in out and max(map(len, table.splitlines())) <= 100
    rows = [re.split(r"\s{2,}", line) for line in table.splitlines()[2:7]]
    assert rows[0] == ["method", "accuracy", "random", "f1", "rate", "parameters", "seconds"]
    # 0.15 of 16 patches, rounded; CLS and KD read them all.
    assert [(row[0], row[4]) for row in rows[1:]] == [("CLS", "1.000"), ("KD", "1.000"),
                                                      ("RE", "0.125"), ("REKD", "0.125")]
    for base in ("RE", "KD"):
        assert re.search(rf"REKD - {base}: .* \(95 % interval over 2 seeds; .*p = ", table)
    assert Image.open(only("colours/compare-*2seeds.png", run.runs)).size[0] > 500


def test_the_gain_and_its_interval_by_hand():
    """Gains .1 and .3: mean .2, standard error .1, and t of one degree of freedom is 12.71."""
    better, base = ([{"test": {"accuracy": x}} for x in values] for values in ((.5, .8), (.4, .5)))
    assert train.gain("REKD - RE", better, base).startswith("REKD - RE: +0.2000 +- 1.2710 (95 %")


@pytest.mark.parametrize("options, best", [
    ("--method re", 3), ("--method cls", 1), ("--method re --choose-by loss", 1)])
def test_the_checkpoint_is_the_best_epoch_on_dev(run, monkeypatch, options, best):
    """By accuracy, of RE once its rate has arrived, after half of the epochs; a tie goes to the
    later one. Or by the lowest loss."""
    metrics = iter([(0.9, 0.3), (0.8, 0.5), (0.8, 0.6), (0.7, 0.4), (0, 0)])

    def evaluate(*args):
        accuracy, loss = next(metrics)
        return {"accuracy": accuracy, "balanced_accuracy": accuracy, "eval_loss": loss,
                "rate_mean": 0.15, "confusion": [], "class_recall": [], "examples": 9}
    monkeypatch.setattr(train, "evaluate", evaluate)
    finished(run(f"{options} --epochs 4"))
    assert read(student(run) / "best.pt")["epoch"] == best


@pytest.mark.parametrize("schedule, factors", [("constant", [1] * 5),
                                               ("decay", [1, 1, 1, 2 / 3, 1 / 6])])
def test_the_learning_rate_decays_over_the_last_40_percent(run, schedule, factors):
    finished(run(f"--method cls --epochs 5 --lr 0.003 --lr-schedule {schedule}"))
    assert [line["lr"] / 0.003 for line in log(student(run))] == pytest.approx(factors)


# ---------------------------------------------------------------- the same seed, interrupted or not
@pytest.mark.parametrize("dataset", ["colours", "words"])
def test_a_run_interrupted_anywhere_ends_as_an_uninterrupted_one(run, monkeypatch, dataset):
    finished(run("", dataset))
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


def test_a_killed_process_resumes_to_the_same_bits(folders, tmp_path):
    """SIGKILL, at a moment that nobody chose."""
    def command(out, *more):
        options = f"--dataset colours --data-dir {folders} {SMALL['colours']} --epochs 12"
        return [sys.executable, ROOT / "train.py", *options.split(), "--method", "re",
                "--out", tmp_path / out, *more]
    quiet = dict(stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    subprocess.run(command("whole"), **quiet, check=True)
    process = subprocess.Popen(command("killed"), **quiet)
    while not list(tmp_path.glob("killed/*/*/last.pt")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("killed/*/*/result.json"))
    subprocess.run(command("killed", "--resume"), **quiet, check=True)
    whole, killed = (only("*/student-*", tmp_path / out) for out in ("whole", "killed"))
    assert state(whole) == state(killed) and not list(killed.glob("*.part"))


def test_a_run_goes_on_with_its_teacher_data_and_weights(run, folders, tmp_path, monkeypatch):
    root = shutil.copytree(folders, tmp_path / "mine")
    options = f"--data-dir {root}"
    finished(run(f"{options} --teacher-seed 1"))
    teacher, = (run.runs / "colours").glob("teacher-*")
    own = shutil.copy(teacher / "best.pt", tmp_path / "teacher.pt")
    stop_after(4, monkeypatch)  # config, best, log, last: the first epoch
    assert run(f"{options} --teacher-checkpoint {own}").code == 130
    checkpoint = read(own)
    checkpoint["weights"]["predictor.head.1.bias"] += 1
    torch.save(checkpoint, own)
    refused(run(f"{options} --teacher-checkpoint {own} --resume"), "of another teacher: remove it")
    stop_after(4, monkeypatch)
    assert run(f"{options} --method re").code == 130
    Image.new("RGB", (16, 16), "white").save(root / "colours" / "train" / "red" / "0.png")
    refused(run(f"{options} --method re --resume"), "of other options, data or weights")
    config = SimpleNamespace(folder=tmp_path, init=str(own))
    origin = {"fingerprint": "", "teacher": None}
    for _ in range(2):
        train.open_run(config, origin, True).close()
    own.write_bytes(b"other weights")
    with pytest.raises(data.UserError, match="weights"):
        train.open_run(config, origin, True)


def test_of_two_runs_in_one_folder_the_second_is_refused(run):
    fcntl = pytest.importorskip("fcntl")
    finished(run("--method re --epochs 1"))
    with open(student(run) / ".lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(run("--method re --epochs 1"), "is in use: wait")
    finished(run("--method re --epochs 1"))


# ---------------------------------------------------------------- a step
def test_how_a_step_samples(run, monkeypatch):
    """16 patches, 3 epochs of 3 steps: the rate falls to 0.25 over the first half."""
    steps, original = [], rekd.re_losses
    monkeypatch.setattr(rekd, "re_losses", lambda *args, **options: (
        steps.append(options) or original(*args, **options)))
    finished(run("--method re --rate 0.25"))
    assert [step["rate"] for step in steps] == [rekd.annealed_rate(k, 9, 0.25) for k in range(9)]
    assert {step["lambda_select"] for step in steps} == {None}
    assert log(student(run))[-1]["rate_sampled"] == pytest.approx(0.25, abs=0.04)
    steps.clear()
    finished(run("--method re --rate 0.25 --lambda-select 0.01"))
    assert {(step["rate"], step["lambda_select"]) for step in steps} == {(0.25, 0.01)}


@pytest.mark.parametrize("dataset, width", [("colours", 16), ("words", 32)])
def test_a_student_hears_what_a_frozen_teacher_says_of_the_very_batch(
        run, monkeypatch, dataset, width):
    """Of images in this epoch's crop and flip; texts are cut to the longest of the batch."""
    original = rekd.rekd_losses

    def compare(model, teacher, x, y, *, known, **options):
        assert model.training and not teacher.training
        assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
        assert not {*map(id, model.parameters())} & {*map(id, teacher.parameters())}
        keep, logits = rekd.teacher_outputs(teacher, x)
        assert torch.allclose(known[0].float(), keep, atol=5e-3)  # kept as float16
        assert torch.allclose(known[1], logits, atol=5e-3)
        assert keep.shape[1] == width and options["teacher_reads"] == "teacher"
        return original(model, teacher, x, y, known=known, **options)

    monkeypatch.setattr(rekd, "rekd_losses", compare)
    views = "--views 4" if dataset == "colours" else ""
    finished(run(f"--epochs 6 --teacher-reads teacher {views}", dataset))  # epochs > views


def test_a_teachers_rationale_is_computed_once_a_view(run, monkeypatch):
    asked, original = [], rekd.teacher_outputs
    monkeypatch.setattr(rekd, "teacher_outputs", lambda teacher, x, reads: (
        asked.append(len(x)) or original(teacher, x, reads)))
    finished(run("--seeds 2 --epochs 4 --views 2"))
    assert sum(asked) == 2 * 48
    asked.clear()
    finished(run("--compare --epochs 4", "words"))  # once for KD and REKD
    assert sum(asked) == 32
    asked.clear()
    finished(run("--seeds 2 --epochs 4 --limit 16", "words"))  # about the rows in use
    assert sum(asked) == 2 * 16
    results = [read(path) for path in run.runs.glob("words/student-rekd-*limit16*/result.json")]
    assert results[0]["fingerprint"] != results[1]["fingerprint"]  # each seed draws its own


@pytest.fixture
def evaluate(folders):
    """evaluate(model, ...) -> of the 24 test images; 16 patches, at a rate of 1/4."""
    shape = dict(image_size=16, patch_size=4)
    dataset = data.load_dataset("colours", folders, **shape)

    def evaluate(model, evaluation="exact", seed=1):
        config = SimpleNamespace(method="re", precision="float32", seed=seed, rate=0.25,
                                 tau_end=0.1, lambda_select=None, evaluation=evaluation,
                                 batch_size=16)
        return train.evaluate(model, dataset, dataset.test, config)

    evaluate.model = models.build(preset="vit:8:1:1", method="re", num_classes=3, rate=0.25,
                                  dropout=0.9, **shape)
    return evaluate


@pytest.mark.parametrize("evaluation", ["exact", "sampled"])
def test_evaluation_is_repeatable_and_leaves_the_mode_as_it_was(evaluate, evaluation):
    model = evaluate.model
    found = evaluate(model.train(), evaluation)
    assert model.training
    assert found == evaluate(model.eval(), evaluation)  # the same noise, no dropout
    assert not model.training
    other = evaluate(model, evaluation, seed=2)
    assert (found["rate_mean"] != other["rate_mean"]) == (evaluation == "sampled")


# ---------------------------------------------------------------- labels, and what they are worth
def test_without_labels_the_rest_is_still_taught(run, monkeypatch):
    """40 texts of 2 classes, 32 to train on; all pass in an epoch, 8 of them with a label."""
    steps = {f"{name}_losses": getattr(rekd, f"{name}_losses") for name in train.METHODS}
    seen = {name: [] for name in steps}
    for name in steps:
        def noted(*args, name=name, **options):
            seen[name].append(next(x for x in args if torch.is_tensor(x) and x.ndim == 1))  # y
            return steps[name](*args, **options)
        monkeypatch.setattr(rekd, name, noted)
    finished(run("--compare --limit 8 --unlabelled --epochs 2 --teacher-epochs 1", "words"))
    for name in ("kd_losses", "rekd_losses"):
        y = torch.cat(seen[name])
        assert len(y) == 2 * 32 and (y >= 0).sum() == 2 * 8
    for name in ("cls_losses", "re_losses"):  # as many steps, on labels alone
        y = torch.cat(seen[name][-4:])
        assert len(y) == 2 * 32 and (y >= 0).all()
    assert all(line["loss"] > 0 for line in log(student(run, "kd-*", "words")))
    for more, alpha in (("", .02), ("--alpha 0.5", .5), ("--lambda-select 1", .5), ("--paper", .5)):
        assert configs(f"--limit 40 --unlabelled {more}")[0].alpha == alpha  # of 1,000 examples


def test_class_counts_by_hand():
    """Of class 0 two of three are found, of class 1 none of one; of class 2 there is none."""
    found = train.class_counts(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 0, 1]), 3)
    assert found["confusion"] == [[2, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert found["class_recall"] == pytest.approx([2 / 3, 0, 0])
    assert (found["accuracy"], found["balanced_accuracy"]) == pytest.approx((1 / 2, 1 / 3))


@pytest.mark.parametrize("random, said", [(0.5, False), (0.79, True), (0.9, True)])
def test_a_rationale_that_is_not_clearly_better_than_random_features_is_told(random, said):
    """Of 1,000 examples with .8, two standard errors of a difference are .036."""
    lines = train.verdict("re", [{"test": {"accuracy": 0.8, "random": random, "examples": 1000}}])
    assert bool(lines) == said and all("not clearly better" in line for line in lines)
    assert train.verdict("cls", [{"test": {"accuracy": 0.8, "examples": 1000}}]) == []


def test_random_masks_keep_as_many_features_as_the_own(evaluate):
    """The predictor reads 4 patches of each image, its own and at random."""
    masks = []
    evaluate.model.predictor.register_forward_hook(lambda _, given, out: masks.append(given[1]))
    found = evaluate(evaluate.model)
    own, by_chance = masks
    assert own.sum(1).tolist() == by_chance.sum(1).tolist() == [4] * 24
    assert 0 <= found["random"] <= 1 and not torch.equal(own, by_chance)


def test_a_student_that_is_its_own_teacher_is_trained_once(run):
    same = "--student vit:16:1:2 --teacher vit:16:1:2 --image-size 16 --patch-size 4 --epochs 10"
    out = finished(run(f"{same} --compare --teacher-epochs 10", small="none"))
    assert "is the same run as the teacher" in out and not list(run.runs.glob("*/student-re-*"))
    assert len(re.findall("^RE  ", out, re.M)) == 1


def test_uneven_classes_are_told_and_chosen_by_their_recalls(run, folders, tmp_path):
    root = shutil.copytree(folders, tmp_path / "mine")
    for path in sorted((root / "words" / "train" / "bad").iterdir())[5:]:
        path.unlink()
    out = finished(run(f"--method re --data-dir {root}", "words"))
    assert re.search(r"4 bad, 16 good", " ".join(out.split())) and "balanced" in out
    result = read(student(run, dataset="words") / "result.json")["test"]
    assert result["balanced_accuracy"] == pytest.approx(sum(result["class_recall"]) / 2)
    assert ("never finds: " in out) == (0 in result["class_recall"])


# ---------------------------------------------------------------- options
def configs(options, method="rekd"):
    """-> of the student and of the teacher that a command names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *options.split()])
        args = train.parse_args()
    return (train.make_config(args, args.role, method, 1, 1000),
            train.make_config(args, "teacher", "re", 2026, 1000))


def test_paper_sets_every_departure_for_student_and_teacher():
    student, teacher = configs("--paper --dataset cifar10 --student vit_tiny")
    for config in (student, teacher):
        for key, value in vars(train.parse(train.PAPER)).items():
            if key not in (*train.COMMAND, *train.NAMED) and value is not None:
                assert getattr(config, key) == value
        assert config.epochs == 35 and config.lr == 1e-5 and config.batch_size == 32
    assert (student.lambda_select, teacher.lambda_select) == (1e-2, 5e-3)  # tiny's REKD, base's RE
    assert (student.teacher_reads, student.tau_start, student.alpha) == ("student", 5, 0.5)  # ours
    assert "-paper" in student.folder.name and "-paper" in teacher.folder.name
    cls, _ = configs("--paper --dataset cifar10 --student vit_tiny", "cls")
    re, _ = configs("--paper --dataset cifar10 --student vit_tiny", "re")
    assert (cls.epochs, re.epochs, re.lambda_select) == (20, 35, 5e-2)
    given, _ = configs("--paper --masking drop --epochs 7 --dataset imdb --lambda-select 0.5")
    assert (given.masking, given.epochs, given.lambda_select) == ("drop", 7, 0.5)  # win
    grid, _ = configs("--paper --dataset cifar10 --image-size 112")  # L_select's unit: a count^2
    assert grid.lambda_select == pytest.approx(1e-2 * 16)


def test_the_paper_s_setting_runs(run):
    finished(run("--paper --compare", "words"))
    config = read(student(run, "rekd-*", "words") / "config.json")
    found = config["masking"], config["evaluation"], config["choose_by"]
    assert found == ("zero", "sampled", "loss")


def test_two_sets_of_options_never_share_a_folder():
    long = f"--init /home/somebody{'/with/a/long/path' * 10}"
    options = ["", "--rate 0.3", "--rate 0.31", "--paper", "--init a_b", "--init a/b", long,
               "--limit 40", "--teacher vit_micro", "--teacher-epochs 3", "--unlabelled",
               f"{long} --views 3", f"{long} --views 4"]
    names = [configs(option)[0].folder.name for option in options]
    assert len({*names}) == len(names) and max(map(len, names)) <= 200


# ---------------------------------------------------------------- pages, --explain
def test_a_page_marks_what_was_selected_of_the_text_as_it_was_written():
    text = "A <b>Fine</b>,  film. Bye & \u202e then"
    all_words = data.WordPiece.words(text)
    words = data.WordPiece([*data.SPECIAL, *(word for word in all_words if word not in "a film")])
    mask = torch.tensor([0, *(word in ("fine", "film") for word in all_words[:11]), 0])
    assert train.marked(text, words, mask, train.PAGE) == (
        "<u>A</u> &lt;b&gt;<mark>Fine</mark>&lt;/b&gt;,  <mark><u>film</u></mark>"
        "<small>. Bye &amp; \u202e then</small>")
    assert train.marked(text, words, mask, train.TERMINAL, str).startswith(
        "A(?) <b>[Fine]</b>,  [film(?)](not read: . Bye")
    assert "\x1b" not in train.printable("\x1b[2J\a\r") and train.printable("a\nb") == "a\nb"


def test_explain_answers_files_and_folders(run, tmp_path):
    finished(run("--method re", "words"))
    (folder := tmp_path / "mine").mkdir()
    written = "<script>alert('Good')</script>  A GOOD film, gr\u00fc\u00dfe \x1b[2J\a" + "so " * 50
    (folder / "a.txt").write_text(written, "utf-8")
    (folder / "b.txt").write_bytes(b"")
    (folder / "c.txt").write_text("elsewhere")
    best = student(run, dataset="words") / "best.pt"
    found = run(f"--explain {folder} --checkpoint {best}", small="none")
    assert found.code == 2 and "b.txt is empty" in found.err  # the others are answered
    assert re.search(r"a.txt: (good|bad), \d+%", found.out) and "(not read: " in found.out
    assert "c.txt" in found.out and "the vocabulary lacks" in found.out
    assert not {"\x1b", "\a"} & set(found.out)
    page = (run.runs / "explained.html").read_text("utf-8")
    assert "<script" not in page and "alert" in page
    lines = [json.loads(line) for line in (run.runs / "explained.jsonl").read_text().splitlines()]
    assert [line["file"][-5:] for line in lines] == ["a.txt", "c.txt"]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    assert lines[0]["class"] in ("good", "bad") and len(lines[0]["kept"]) == 8  # .2 of 38


# ---------------------------------------------------------------- a user's mistakes
@pytest.mark.parametrize("options, sentence", [
    ("--student vit:8:1:1 --patch-size 5", "32 is not divisible by patch size 5"),
    ("--student vit:9:1:2", "width 9 is not divisible by 2 heads"),  # before a teacher is trained
    ("--student vit_huge", "no preset 'vit_huge'"), ("--dataset /tmp", "no data set '/tmp'"),
    ("--epochs 1.5", "must be a whole number from 1"), ("--seeds 21", "from 1 to 20, not 21"),
    ("--rate nan", "--rate: must be a number"), ("--epoch 3", "unrecognized arguments"),
    ("--student vit:8:1:1 --method cls --limit 2", "some of 3 classes have no training"),
    ("--compare --method re", "leave --method out"), ("--device quantum", "no device 'quantum'"),
    ("--teacher-checkpoint nowhere.pt", "cannot read the checkpoint nowhere.pt"),
    ("--resume", "nothing to resume"), ("--student bert_nano", "bert_nano does not read images"),
    ("--dataset words --student bert_nano --teacher vit_nano", "vit_nano does not read texts"),
    ("--dataset words --views 2", "holds texts: leave --views out"),
    ("--max-length 16", "holds images: leave --max-length out"),
    ("--teacher vit_nano --method rekd", "without --student only the teacher is trained"),
    ("--explain x.png", "give both"), ("--rate 0", "no rate 0"),
    ("--init none.bin", "cannot read the file of weights none.bin"),
    (f"--init {train.__file__}", "cannot read .*train.py: it is damaged"),
    (f"--init scratch --method cls --out {train.__file__}", "train.py")])
def test_bad_options(run, options, sentence):
    refused(run(options, small="none"), sentence)
    assert not list(run.runs.glob("**/*.pt"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(run, monkeypatch):
    factors, original = iter([1, 1, 1, 1, float("nan"), 1]), rekd.re_losses  # 3 steps an epoch
    monkeypatch.setattr(rekd, "re_losses", lambda *args, **options: {
        name: loss * next(factors) if name == "loss" else loss
        for name, loss in original(*args, **options).items()})
    refused(run("--method re"), r"not finite in epoch 2")
    last = read(student(run) / "last.pt")
    assert last["epoch"] == 1 and all(x.isfinite().all() for x in last["weights"].values())


@pytest.mark.parametrize("error", [
    RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")])
def test_a_full_memory_is_one_line(run, monkeypatch, error):
    monkeypatch.setattr(rekd, "re_losses", Mock(side_effect=error))
    refused(run("--method re"), "the memory is full: lower --batch-size")


# ---------------------------------------------------------------- alone
def test_the_four_files_are_the_whole_program(tmp_path):
    """Copied into an empty folder they train, compare, draw and explain."""
    for name in ("rekd.py", "models.py", "data.py", "train.py"):
        shutil.copy(ROOT / name, tmp_path)
    Image.new("RGB", (50, 50)).save(tmp_path / "digit.png")

    def run(options):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        command = [sys.executable, "train.py", *options.split()]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True,
                              text=True, check=True).stdout
    out = run("--compare --teacher-limit 64 --epochs 1 --teacher-epochs 1")
    assert re.findall("^(CLS|KD|RE|REKD)  ", out, re.M) == ["CLS", "KD", "RE", "REKD"]
    best = only("runs/glyphs/student-rekd-*/best.pt", tmp_path)
    assert "digit.png: " in run(f"--explain digit.png --checkpoint {best}")
    only("runs/explained.png", tmp_path)
