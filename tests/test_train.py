"""The command line, end to end on a tiny folder of images: runs, resume, determinism, checkpoints, errors."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
import models
import rekd
import train

ROOT = Path(train.__file__).parent
NET = "--student vit:8:1:1 --teacher vit:16:1:2 --image-size 16 --patch-size 4 --epochs 3 --batch-size 16 --lr 3e-3".split()


@pytest.fixture(scope="session")
def pets(tmp_path_factory):
    """--data-dir with one data set: 3 colours, 20 + 8 images of each."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part, n in (("train", 20), ("test", 8)):
        for c, name in enumerate(("red", "green", "blue")):
            (root / "colours" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                pixels[4:12, 4:12, c] += 150
                Image.fromarray(pixels).save(root / "colours" / part / name / f"{i}.png")
    return root


@pytest.fixture
def run(pets, tmp_path, monkeypatch, capsys):
    """run("--method re ...") -> (exit code, stdout, stderr), in this process, with runs in tmp_path/runs."""
    def run(options, net=NET, dataset="colours"):
        arguments = ["--dataset", dataset, "--data-dir", str(pets), "--out", str(tmp_path / "runs"), *net, *options.split()]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        code = 0
        try:
            train.cli()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err
    run.folder = tmp_path / "runs" / "colours"
    return run


def losses(folder):
    keep = ("epoch", "tau", "loss", "prediction", "selection", "rationale_kd", "prediction_kd", "accuracy", "rate_mean")
    return [{key: line[key] for key in keep if key in line} for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())]


def weights(folder, name="last.pt"):
    state = torch.load(folder / name, weights_only=True)["weights"]
    return hashlib.sha256(b"".join(state[key].numpy().tobytes() for key in sorted(state))).hexdigest()


def only(pattern, folder):
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


# ---------------------------------------------------------------- runs and what they leave

def test_a_student_run_trains_its_teacher_first_and_the_next_reuses_it(run):
    code, out, err = run("")
    assert code == 0 and err == "" and "is trained first" in out
    teacher, student = only("teacher-re-*", run.folder), only("student-rekd-*", run.folder)
    for folder in (teacher, student):
        assert {f.name for f in folder.iterdir()} == {"config.json", "log.jsonl", "best.pt", "last.pt", "result.json", "rationales.png"}
        Image.open(folder / "rationales.png").verify()
    line = json.loads((student / "log.jsonl").read_text().splitlines()[-1])
    assert {"epoch", "tau", "lr", "loss", "prediction", "selection", "rationale_kd", "prediction_kd", "accuracy", "rate_mean", "rate_std",
            "rate_empty", "rate_sampled", "seconds", "examples_per_s"} <= line.keys()
    assert line["epoch"] == 3 and line["tau"] == pytest.approx(0.1)
    assert re.search(r"method +accuracy +selection rate", out) and "teacher: vit:16:1:2 (RE)" in out
    before = (teacher / "best.pt").stat().st_mtime_ns
    code, out, err = run("--seed 7 --alpha 0.3")
    assert code == 0 and f"reusing {teacher / 'best.pt'}" in out and (teacher / "best.pt").stat().st_mtime_ns == before
    assert (run.folder / "student-rekd-vit_8_1_1-seed7-alpha0.3").exists() or list(run.folder.glob("*seed7*alpha0.3*"))


def test_teacher_mode_trains_only_the_teacher(run):
    net = [option for option in NET if option not in ("--student", "vit:8:1:1")]
    code, out, _ = run("", net=net)
    assert code == 0 and [f.name.split("-")[:2] for f in run.folder.iterdir()] == [["teacher", "re"]]
    assert "RE " in out


def test_compare_prints_the_table_the_gap_and_no_p_value_under_six_seeds(run):
    code, out, _ = run("--compare --seeds 2 --epochs 1")
    assert code == 0
    table = only("compare-*2seeds.txt", run.folder).read_text()
    assert table in out and [line.split()[0] for line in table.splitlines()[3:6]] == ["CLS", "RE", "REKD"]
    assert "+-" in table and "gap" in table and "p =" not in table.split("takes 6 seeds")[0] and "takes 6 seeds" in table
    assert Image.open(only("compare-*2seeds.png", run.folder)).size[0] > 500
    assert len(list(run.folder.glob("student-*"))) == 6 and len(list(run.folder.glob("teacher-*"))) == 1


def test_with_six_seeds_the_table_tells_p_and_its_floor():
    def result(accuracy):
        scores = dict.fromkeys(("sufficiency", "comprehensiveness", "sufficiency_random", "comprehensiveness_random"), 0.0)
        return {"test": {"accuracy": accuracy, "rate_mean": 0.1, "rate_empty": 0.0, **scores}, "parameters": 10, "seconds": 1.0}
    args = type("Args", (), dict(dataset="d", student="s", role="student", compare=True, seeds=6, seed=0))
    runs = {"cls": [result(0.9)] * 6, "re": [result(0.5 + i / 100) for i in range(6)], "rekd": [result(0.86)] * 6}
    text = train.report(runs, args, None)
    assert "p = 0.031 (6 seeds cannot go below 0.031)" in text
    assert "0.5250 +- 0.0187" in text and f"{(0.86 - 0.525) / (0.9 - 0.525):.0%}" in text


def test_cls_has_no_temperature_and_selects_everything(run):
    code, out, _ = run("--method cls")
    folder = only("student-cls-*", run.folder)
    assert code == 0 and "rate" not in json.loads((folder / "config.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    assert result["test"]["rate_mean"] == 1.0 and result["test"]["accuracy"] > 0.8   # colours are easy


def test_the_checkpoint_is_the_best_epoch_that_keeps_to_the_rate(run, monkeypatch):
    """Dev metrics played back by a script: epoch 1 selects everything and is the most accurate; of the others, 2 is the best."""
    script = [(0.99, 1.0), (0.80, 0.18), (0.70, 0.15)]
    calls = []

    def evaluate(model, data, split, config, rate=None):
        accuracy, rate = script[min(len(calls), 2)]
        calls.append(1)
        return {"accuracy": accuracy, "rate_mean": rate, "rate_std": 0.0, "rate_empty": 0.0, "rate_full": 0.0,
                **dict.fromkeys(("sufficiency", "comprehensiveness", "sufficiency_random", "comprehensiveness_random"), 0.0)}, None
    monkeypatch.setattr(train, "evaluate", evaluate)
    assert run("--method re --rate 0.15")[0] == 0
    assert torch.load(only("student-re-*", run.folder) / "best.pt", weights_only=True)["epoch"] == 2
    calls.clear()
    script[:] = [(0.99, 1.0), (0.80, 0.5), (0.90, 0.7)]                          # none keeps to it: the closest rate
    assert run("--method re --rate 0.15 --seed 1")[0] == 0
    assert torch.load(only("student-re-*seed1*", run.folder) / "best.pt", weights_only=True)["epoch"] == 2


def test_a_finished_model_is_used_in_three_lines(run, pets):
    run("--method re")
    best = only("student-re-*", run.folder) / "best.pt"
    model, info = models.load(best)
    x = data.read_input(pets / "colours" / "test" / "red" / "0.png", info["input"])
    rationale = model(x)
    assert info["classes"] == ["blue", "green", "red"] and rationale.mask.shape == (1, 16) and rationale.logits.shape == (1, 3)


# ---------------------------------------------------------------- the same seed gives the same run, interrupted or not

@pytest.mark.parametrize("method", ["cls", "re", "rekd"])
def test_the_same_command_gives_the_same_losses_and_weights_twice_over(run, tmp_path, method):
    run(f"--method {method}")
    folder = only(f"student-{method}-*", run.folder)
    first = losses(folder), weights(folder)
    run(f"--method {method}")
    assert (losses(folder), weights(folder)) == first
    run(f"--method {method} --seed 1")
    assert weights(only(f"student-{method}-*seed1*", run.folder)) != first[1]


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(run, monkeypatch):
    run("")
    student = only("student-rekd-*", run.folder)
    expected = losses(student), weights(student), weights(student, "best.pt")
    save = train.write_atomically
    for when in range(1, 8):                         # killed after so many checkpoint writes, best.pt and last.pt alike
        left = [when]

        def killed(path, write):
            save(path, write)
            left[0] -= path.suffix == ".pt"
            if not left[0]:
                raise KeyboardInterrupt
        monkeypatch.setattr(train, "write_atomically", killed)
        code, _, err = run("")
        if code == 0:
            break
        assert code == 130 and "Traceback" not in err and "--resume" in err
        monkeypatch.setattr(train, "write_atomically", save)
        assert run("--resume")[0] == 0
        assert (losses(student), weights(student), weights(student, "best.pt")) == expected
    assert when > 3


def test_a_run_resumed_after_its_last_epoch_ends_with_the_same_result(run):
    """Random masks (--eval-mask sample, the chance beside faithfulness) are drawn at the end too."""
    run("--method re --eval-mask sample")
    folder, results = only("student-re-*", run.folder), []
    for _ in range(2):
        results.append(json.loads((folder / "result.json").read_text())["test"])
        (folder / "result.json").unlink()
        assert run("--method re --eval-mask sample --resume")[0] == 0
    assert {**results[0], "examples_per_s": 0} == {**results[1], "examples_per_s": 0}


def test_resume_does_not_repeat_finished_runs(run):
    run("--method re")
    before = (only("student-re-*", run.folder) / "last.pt").stat().st_mtime_ns
    code, out, _ = run("--method re --resume")
    assert code == 0 and "finished before" in out
    assert (only("student-re-*", run.folder) / "last.pt").stat().st_mtime_ns == before


def test_ctrl_c_and_kill_in_a_real_process(pets, tmp_path):
    """SIGINT: exit 130, no traceback. SIGKILL, then --resume: the weights of a run that nobody killed."""
    def start(out, *more):
        arguments = ["--dataset", "colours", "--data-dir", str(pets), "--out", str(out), *NET, "--epochs", "30", "--method", "re", *more]
        return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"},  # a shell's background job ignores SIGINT, and its children with it
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def stop_after(process, epochs, signum):
        for line in process.stdout:
            if f"epoch {epochs:>2}/" in line:
                process.send_signal(signum)
        process.stdout.close()
        return process.wait(), process.stderr.read()

    whole = start(tmp_path / "whole")
    assert whole.communicate()[1] == "" and whole.returncode == 0
    code, err = stop_after(start(tmp_path / "cut"), 3, signal.SIGINT)
    assert code == 130 and "Traceback" not in err and "--resume" in err
    code, _ = stop_after(start(tmp_path / "cut", "--resume"), 9, signal.SIGKILL)
    assert code == -signal.SIGKILL
    again = start(tmp_path / "cut", "--resume")
    assert again.communicate()[1] == "" and again.returncode == 0
    folders = [only("student-re-*", tmp_path / name / "colours") for name in ("whole", "cut")]
    assert losses(folders[0]) == losses(folders[1]) and weights(folders[0]) == weights(folders[1])


# ---------------------------------------------------------------- the teacher

def test_the_teacher_is_frozen_in_eval_mode_and_outside_the_student(run, monkeypatch):
    seen = []
    original = train.rekd_losses

    def spy(model, teacher, *rest, **options):
        seen.append((model, teacher))
        return original(model, teacher, *rest, **options)
    monkeypatch.setattr(train, "rekd_losses", spy)
    run("")
    student, teacher = seen[0]
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters()) and all(p.grad is None for p in teacher.parameters())
    assert not {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}
    saved = torch.load(only("teacher-*", run.folder) / "best.pt", weights_only=True)["weights"]
    assert all(torch.equal(saved[key], value) for key, value in teacher.state_dict().items())
    assert student.training


def test_a_teacher_of_other_data_rate_grid_or_preset_is_not_reused(run):
    run("")
    for option in ("--limit 40", "--rate 0.3", "--patch-size 8", "--teacher vit:24:1:2"):
        code, out, _ = run(f"{option} --epochs 1")
        assert code == 0 and "is trained first" in out, option
    assert "reusing" in run("--epochs 2 --tau-start 4")[1]


# ---------------------------------------------------------------- a user's mistakes: exit code 2 and one sentence

def refused(result, sentence):
    code, out, err = result
    assert code == 2 and err.startswith("train.py: ") and err.count("\n") == 1 and "Traceback" not in err, (code, err)
    assert re.search(sentence, err), err


@pytest.mark.parametrize("options, sentence", [
    ("--dataset nowhere", "no data set 'nowhere': there are .*glyphs, cifar10"),
    ("--student vit_huge", "no preset 'vit_huge': choose one of vit_nano"),
    ("--teacher resnet", "no preset 'resnet'"),
    ("--patch-size 5", "16 is not divisible by patch size 5"),
    ("--rate 0", r"--rate: must be above 0"), ("--rate 1.5", "at most 1"), ("--rate nan", "--rate"),
    ("--epochs 0", "--epochs"), ("--lr -1", "--lr"), ("--tau-end 0", "--tau-end"), ("--epochs three", "--epochs"),
    ("--limit 2", "less than one example for each of the 3 classes"),
    ("--nonsense 3", "unrecognized arguments: --nonsense 3"),
    ("--compare --method re", "leave --method out"),
    ("--device quantum", "no device 'quantum'"),
    ("--teacher-checkpoint nowhere.pt", "cannot read the checkpoint nowhere.pt"),
    ("--resume", "nothing to resume"),
    ("--rates 0", "--rates: must be above 0"), ("--rates 0.1,abc", "invalid rates value: '0.1,abc'"),
    ("--seed 20000000000000", "--seed: must be at least 0 and at most"),        # seeds of epochs would leave 64 bits
    ("--device meta", "no device 'meta'"),
])
def test_bad_options(run, options, sentence):
    refused(run(options), sentence)


@pytest.mark.parametrize("option", ["--method rekd", "--teacher-checkpoint best.pt", "--teacher-init scratch"])
def test_in_teacher_mode_what_only_a_student_wants_is_refused(run, option):
    refused(run(option, net=["--teacher", "vit:16:1:2"]), "without --student only the teacher is trained")


def test_a_data_set_is_a_name_and_not_a_path(run, pets):
    """Else runs would be written into the folder of the data."""
    refused(run("", dataset=str(pets / "colours")), f"no data set .* and in {pets}/ colours")
    assert not list(pets.glob("colours/teacher-*"))


def test_views_are_of_images(run, pets):
    refused(run("--views 2", dataset="phrases", net=[]), "--views is for images")


def test_out_of_memory_is_one_line(run, monkeypatch):
    def full(*args, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    monkeypatch.setattr(train, "re_losses", full)
    refused(run("--method re"), "lower --batch-size")


def test_the_table_of_a_comparison_lies_in_out_whatever_its_name(pets, tmp_path, monkeypatch, capsys):
    out = tmp_path / "student-rekd-try"
    arguments = ["--dataset", "colours", "--data-dir", str(pets), "--out", str(out), *NET, "--compare", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    train.cli()
    only("compare-*.txt", out / "colours"), only("compare-*.png", out / "colours")


def test_a_teacher_checkpoint_that_does_not_fit(run, tmp_path):
    run("--method re --limit 40")
    best = only("student-re-*", run.folder) / "best.pt"
    refused(run(f"--patch-size 8 --teacher-checkpoint {best}"), "same grid of features")
    checkpoint = torch.load(best, weights_only=True)
    torch.save({**checkpoint, "classes": ["cat", "dog"]}, tmp_path / "other.pt")
    refused(run(f"--teacher-checkpoint {tmp_path / 'other.pt'}"), "other classes")
    (tmp_path / "cut.pt").write_bytes(best.read_bytes()[:9999])
    refused(run(f"--teacher-checkpoint {tmp_path / 'cut.pt'}"), "damaged")
    torch.save({"epoch": 3}, tmp_path / "foreign.pt")
    refused(run(f"--teacher-checkpoint {tmp_path / 'foreign.pt'}"), "not a checkpoint of train.py")
    run("--method cls")
    refused(run(f"--teacher-checkpoint {only('student-cls-*', run.folder) / 'best.pt'}"), "CLS model")


def test_resume_with_other_options_and_a_folder_of_another_run(run, pets, tmp_path):
    run("--method re")
    refused(run("--method re --lr 1e-4 --resume"), "nothing to resume")
    config = only("student-re-*", run.folder) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lr": 0.5}))
    refused(run("--method re"), r"other options \(lr 0.5 -> 0.003\)")
    refused(run("--method re --resume"), r"other options \(lr 0.5 -> 0.003\)")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(run, monkeypatch):
    original, calls = train.re_losses, []

    def poisoned(*args, **options):
        calls.append(1)
        out = original(*args, **options)
        return {**out, "loss": out["loss"] * float("nan")} if len(calls) == 5 else out        # 3 steps an epoch: the second of epoch 2
    monkeypatch.setattr(train, "re_losses", poisoned)
    refused(run("--method re"), r"not finite at step 4 \(epoch 2\)")
    last = torch.load(only("student-re-*", run.folder) / "last.pt", weights_only=True)
    assert last["epoch"] == 1 and all(value.isfinite().all() for value in last["weights"].values())


def test_a_full_disk_and_a_folder_that_cannot_be_written(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    refused(run(f"--method re --out {tmp_path / 'file'}"), "file")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    real = open
    monkeypatch.setattr(data, "open", lambda path, mode: real("/dev/full" if str(path).endswith(".part") else path, mode), raising=False)
    refused(run("--method re"), "cannot write .*: No space left on device")


def test_evaluation_leaves_the_mode_as_it_was_and_draws_no_noise(pets):
    dataset = data.load_dataset("colours", pets, image_size=16, patch_size=4)
    model = models.build(preset="vit:8:1:1", method="re", num_classes=3, image_size=16, patch_size=4).train()
    (first, mask), (second, again) = (train.evaluate(model, dataset, dataset.test, {"method": "re"}) for _ in range(2))
    assert first == second and torch.equal(mask, again) and model.training
    model.eval()
    train.evaluate(model, dataset, dataset.test, {"method": "re"})
    assert not model.training


def test_the_saliency_of_a_cls_model_never_takes_more_memory_than_a_training_step(pets, monkeypatch):
    """Of 100 pictures at once, a gradient would keep the activations of all."""
    dataset, sizes, original = data.load_dataset("colours", pets, image_size=16, patch_size=4), [], train.saliency
    model = models.build(preset="vit:8:1:1", method="cls", num_classes=3, image_size=16, patch_size=4)
    split = data.Split(dataset.test.x.repeat(5, 1, 1, 1)[:100], dataset.test.y.repeat(5)[:100])
    _, whole = train.evaluate(model, dataset, data.Split(split.x[:32], split.y[:32]), {"method": "cls"}, 0.25)
    monkeypatch.setattr(train, "saliency", lambda predictor, x, selectable: sizes.append(len(x)) or original(predictor, x, selectable))
    _, mask = train.evaluate(model, dataset, split, {"method": "cls"}, 0.25)
    assert sum(sizes) == 100 and max(sizes) <= 32 and mask.shape == (100, 16)
    assert torch.equal(mask[:32], whole) and (mask.sum(1) == 4).all()


def test_eval_mask_topk_keeps_exactly_the_rate_and_sample_draws_noise(pets):
    dataset = data.load_dataset("colours", pets, image_size=16, patch_size=4)
    model = models.build(preset="vit:8:1:1", method="re", num_classes=3, image_size=16, patch_size=4)
    config = {"method": "re", "rate": 0.3, "tau_end": 0.1}
    result, mask = train.evaluate(model, dataset, dataset.test, {**config, "eval_mask": "topk"})
    assert (mask.sum(1) == round(0.3 * 16)).all() and result["rate_std"] == 0
    masks = [train.evaluate(model, dataset, dataset.test, {**config, "eval_mask": "sample"})[1] for _ in range(2)]
    assert not torch.equal(*masks)


def test_the_probe_the_faithfulness_and_the_rates_reach_the_table_and_a_picture(run):
    code, out, err = run("--compare --rates 0.2,0.5 --probe --epochs 1")
    assert code == 0 and err == "", err
    result = json.loads((only("student-re-*rate0.5*", run.folder) / "result.json").read_text())["test"]
    assert {"sufficiency", "comprehensiveness", "sufficiency_random", "comprehensiveness_random", "probe", "chance", "examples_per_s"} <= result.keys()
    assert result["chance"] == pytest.approx(1 / 3) and "comprehensiveness (random)" in out
    svg = only("rates-*.svg", run.folder).read_text()
    assert svg.count("<polyline") == 3 and svg.count("<circle") == 6
    code, out, _ = run("--compare --rates 0.2,0.5 --probe --epochs 1 --resume")
    assert code == 0 and out.count("finished before") == 4     # RE and REKD; CLS is measured again, at each rate


def test_a_finished_cls_run_is_measured_again_at_another_rate(run):
    """Its rationale, the features of largest gradient x input, is as large as the command's rate: no number of another rate is shown."""
    run("--method cls --epochs 1 --rate 0.25")
    folder = only("student-cls-*", run.folder)
    before, stamp = json.loads((folder / "result.json").read_text()), (folder / "last.pt").stat().st_mtime_ns
    assert "finished before" in run("--method cls --epochs 1 --rate 0.25 --resume")[1]
    code, out, err = run("--method cls --epochs 1 --rate 0.75 --resume")
    after = json.loads((folder / "result.json").read_text())
    assert code == 0 and "finished before" not in out and (folder / "last.pt").stat().st_mtime_ns == stamp
    assert (before["rate"], after["rate"]) == (0.25, 0.75) and before["test"]["sufficiency"] != after["test"]["sufficiency"]


def test_resume_goes_on_to_rates_that_were_not_begun(run, monkeypatch):
    save, left = train.write_atomically, [2]

    def killed(path, write):
        save(path, write)
        left[0] -= path.suffix == ".pt"
        if not left[0]:
            raise KeyboardInterrupt
    monkeypatch.setattr(train, "write_atomically", killed)
    assert run("--method re --rates 0.2,0.5")[0] == 130
    monkeypatch.setattr(train, "write_atomically", save)
    code, out, err = run("--method re --rates 0.2,0.5 --resume")
    assert code == 0 and err == "" and len(list(run.folder.glob("student-re-*/result.json"))) == 2


def test_nothing_within_an_epoch_waits_for_the_device(run, monkeypatch):
    """On a GPU, reading a value (.item(), nonzero) makes the host wait: none may stand between the steps of an epoch."""
    events, original = [], train.rekd_losses

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                events.append("wait ")
            return function(*args, **(kwargs or {}))
    monkeypatch.setattr(train, "rekd_losses", lambda *args, **options: events.append("step ") or original(*args, **options))
    with Watch():
        assert run("--masking zero")[0] == 0        # with drop, a frozen teacher's predictor packs, which reads a length
    assert "".join(events).count("step step step ") == 3 and "wait " in events       # 3 steps an epoch, 3 epochs, and waits between them


def test_seeds_with_and_without_probe_share_a_table(run):
    assert run("--method re --epochs 1 --probe")[0] == 0
    code, out, err = run("--method re --epochs 1 --seeds 2 --resume")                                # the first is finished, and has a probe
    assert code == 0 and "finished before" in out and re.search(r"mask alone +ex/s", out), err


# ---------------------------------------------------------------- the teacher's answers, computed once

def test_the_answers_of_the_teacher_are_kept_reused_and_rebuilt_when_torn(run, monkeypatch):
    run("--epochs 2")
    file = only("answers-*.pt", run.folder)
    kept, stamp = torch.load(file, weights_only=True), file.stat().st_mtime_ns
    assert kept["keep_logits"].shape == (4, 48, 16) and kept["logits"].shape == (4, 48, 3) and kept["keep_logits"].dtype == torch.float16
    run("--epochs 2 --seed 5")
    assert file.stat().st_mtime_ns == stamp and len(list(run.folder.glob("answers-*"))) == 1
    file.write_bytes(file.read_bytes()[:500])
    run("--epochs 2 --seed 6")
    assert torch.equal(torch.load(file, weights_only=True)["logits"], kept["logits"])
    run("--epochs 2 --seed 7 --views 2")
    assert len(list(run.folder.glob("answers-*"))) == 2                         # other views, other answers
    run("--epochs 2 --rate 0.6")
    assert len(list(run.folder.glob("answers-*"))) == 3                         # another teacher


@pytest.mark.parametrize("teacher_reads", ["teacher", "student"])
def test_training_by_known_answers_is_training_by_the_teacher(teacher_reads):
    torch.manual_seed(0)
    build = lambda preset: models.build(preset=preset, method="re", num_classes=3, image_size=16, patch_size=4, masking="drop")
    teacher, x, y = build("vit:16:1:2").eval().requires_grad_(False), torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    options = dict(tau=0.7, rate=0.3, alpha=0.5, lambda_select=0.01, lambda_rationale=0.5, teacher_reads=teacher_reads)
    out = teacher(x)
    results = []
    for known in (None, (out.keep_logits, out.logits), (out.keep_logits.half(), out.logits.half())):
        torch.manual_seed(1)
        model = build("vit:8:1:1").eval()
        loss = rekd.rekd_losses(model, teacher, x, y, known=known, **options)["loss"]
        loss.backward()
        results.append((loss.item(), model.generator.head[-1].weight.grad.clone()))
    for i, tolerance in ((1, 1e-5), (2, 1e-2)):                                   # float32: the same; float16: its rounding
        assert results[i][0] == pytest.approx(results[0][0], rel=tolerance, abs=tolerance)
        assert torch.allclose(results[i][1], results[0][1], atol=tolerance, rtol=tolerance)
