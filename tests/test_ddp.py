"""torchrun: several processes train what one trains. Here two share a CPU."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import finished, log, only, read, stop_after

import train

# Batches of 33 are shared as 16 and 17.
SMALL = "--limit 70 --batch-size 33 --epochs 2 --lr 3e-3"
GLYPHS = f"--data-dir data --dataset glyphs --student vit:8:1:1 --teacher vit:16:1:2 {SMALL}"
PHRASES = f"--dataset phrases --student bert:8:1:1 --teacher bert:16:1:2 {SMALL}"
TORCHRUN = "-m torch.distributed.run --standalone --nproc_per_node=2"


def two(options, out, script=train.__file__):
    """What a person types -> the launcher's exit code, out and err."""
    command = [sys.executable, *TORCHRUN.split(), script, *options.split(), "--out", out]
    return subprocess.run(command, capture_output=True, text=True, timeout=100,
                          env={**os.environ, "OMP_NUM_THREADS": "1",
                               "PYTHONPATH": str(Path(train.__file__).parent)})


def same(one, other):
    """Two runs: losses and gradients to 1e-5, and what was measured on the test set.

    AdamW's averages tell the gradients. Weights whose gradient is 0 but for rounding (a key's bias)
    move by it.
    """
    assert len(log(one)) == len(log(other)) == 2
    for line, its in zip(log(one), log(other)):
        assert its == pytest.approx(line, rel=1e-5, abs=1e-5)
    averages, theirs = ([weight["exp_avg"] for weight in read(folder / "last.pt")["optimizer"]
                         ["state"].values()] for folder in (one, other))
    torch.testing.assert_close(theirs, averages, rtol=1e-5, atol=1e-5)
    test, its = (read(folder / "result.json")["test"] for folder in (one, other))
    # Of two patches that all but tie for the last place, rounding may select the other.
    assert its == pytest.approx(test, abs=2e-4) and its["accuracy"] == test["accuracy"]


@pytest.mark.parametrize("options", [
    GLYPHS, f"{PHRASES} --masking zero --lambda-select 1e-3 --kd-noise independent"])
def test_two_processes_train_what_one_trains(run, tmp_path, options):
    """CLS, RE and REKD, dropout and packing included: noise, order and L_select are the batch's.

    The teacher's answers are one's: a last bit may round them to another float16.
    """
    finished(run(f"{options} --compare", net_of="none"))
    one = only("*", run.runs)
    place = tmp_path / "two" / one.name
    for path in one.glob("teacher-*"):
        shutil.copytree(path, place / path.name)
    shutil.copy(only("answers-*", one), place)
    done = two(f"{options} --compare", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "is trained first" not in done.stdout and done.stdout.count("REKD  ") == 1
    for method in ("cls", "re", "rekd"):
        same(only(f"student-{method}-*", one), only(f"student-{method}-*", place))


def test_a_run_of_two_goes_on_with_one_and_the_other_way(run, tmp_path, monkeypatch):
    options = f"{GLYPHS} --method re"
    finished(run(options, net_of="none"))
    whole = only("student-*", only("*", run.runs))

    stop_after(4, monkeypatch)  # config, best, log, last: the first epoch
    assert run(f"{options} --out {tmp_path}/one", net_of="none").code == 130
    done = two(f"{options} --resume", tmp_path / "one")
    assert done.returncode == 0 and "resumed after epoch 1" in done.stdout, done.stderr
    same(whole, only("glyphs/student-*", tmp_path / "one"))

    dies = tmp_path / "dies.py"  # one of two processes, when the second epoch begins
    dies.write_text("""import os, train
train_epoch = train.train_epoch
def train_one_epoch(*args):
    if args[5] == 1 and train.RANK == 0:
        os._exit(7)
    return train_epoch(*args)
train.train_epoch = train_one_epoch
train.cli()""")
    done = two(options, tmp_path / "two", script=dies)
    assert done.returncode == 1 and re.search("exitcode *: 7", done.stderr), done.stderr
    resumed = finished(run(f"{options} --resume --out {tmp_path}/two", net_of="none"))
    assert "resumed after epoch 1" in resumed
    same(whole, only("glyphs/student-*", tmp_path / "two"))


def test_a_mistake_of_all_is_said_once(tmp_path):
    done = two(f"{GLYPHS} --method cls --lr 1e9 --epochs 20", tmp_path)
    assert re.search("exitcode *: 2", done.stderr), done.stderr
    said, = re.findall("^train.py: (.*)", done.stderr, re.M)
    assert "is not finite at step" in said
    assert done.stderr.count("Traceback") == 1  # torchrun's own


def test_a_teacher_that_is_missing_is_trained_by_both_and_asked_by_both(run, tmp_path):
    finished(run(GLYPHS, net_of="none"))
    one = only("*", run.runs)
    done = two(GLYPHS, tmp_path / "two")
    assert done.returncode == 0 and "is trained first" in done.stdout, done.stderr
    place = tmp_path / "two" / one.name
    same(only("teacher-*", one), only("teacher-*", place))
    ours, theirs = (read(only("answers-*", folder)) for folder in (one, place))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)  # a float16 has 11 bits
