"""torchrun: plain DistributedDataParallel. Here two processes share a CPU."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import ROOT, log, only, read

import rekd

SMALL = "--limit 64 --batch-size 32 --epochs 2 --lr 3e-3"
GLYPHS = f"--dataset glyphs --student vit:8:1:1 --teacher vit:16:1:2 --teacher-epochs 1 {SMALL}"
TORCHRUN = "-m torch.distributed.run --standalone --nproc_per_node=2"


def start(options, out, launcher=""):
    """What a person types -> the exit code, out and err."""
    command = [sys.executable, *launcher.split(), ROOT / "train.py", *options.split(), "--out", out]
    return subprocess.run(command, capture_output=True, text=True, timeout=200,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_processes_train_teacher_and_students_and_one_goes_on(tmp_path):
    done = start(f"{GLYPHS} --compare", tmp_path / "two", TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is trained first") == done.stdout.count("REKD   ") == 1
    for method in ("cls", "re", "rekd"):
        folder = only(f"two/glyphs/student-{method}-*", tmp_path)
        assert len(log(folder)) == 2 and "2 x" in read(folder / "result.json")["hardware"]
    # What two began, one finishes, and the other way round.
    folder = only("two/glyphs/student-rekd-*", tmp_path)
    (folder / "result.json").unlink()
    done = start(f"{GLYPHS} --resume", tmp_path / "two")
    assert done.returncode == 0 and (folder / "result.json").exists(), done.stderr
    (folder / "result.json").unlink()
    done = start(f"{GLYPHS} --resume", tmp_path / "two", TORCHRUN)
    assert done.returncode == 0 and (folder / "result.json").exists(), done.stderr


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path):
    done = start(f"{GLYPHS} --batch-size 33", tmp_path, TORCHRUN)
    assert "train.py: 2 processes cannot share 33 examples" in done.stderr


def half_of_a_batch(rank, folder):
    """A process: L_select of its half of the batch, and its gradient."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mask = torch.load(f"{folder}/mask.pt")[2 * rank:2 * rank + 2].requires_grad_()
    loss = rekd.selection_loss(mask, 0.25)
    loss.backward()
    torch.save((loss.detach(), mask.grad), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_l_select_is_that_of_the_whole_batch(tmp_path):
    """Its gradient too, once DistributedDataParallel has averaged it over the processes."""
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    torch.save(mask, tmp_path / "mask.pt")
    mp.spawn(half_of_a_batch, (tmp_path,), nprocs=2)
    whole = mask.clone().requires_grad_()
    loss = rekd.selection_loss(whole, 0.25)
    loss.backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert [part.item() for part, _ in found] == pytest.approx([loss.item()] * 2)
    # A row's gradient is halved by the average over two processes, and doubled by its own mean
    # over half as many rows.
    assert torch.allclose(torch.cat([grad for _, grad in found]) / 2, whole.grad)
