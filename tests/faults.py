"""Faults of every kind, drawn from a seed: does train.py lose anything, or show a traceback?

    python tests/faults.py                                           a few minutes
    python tests/faults.py --kills 200 --mutations 10000 --seed 1    what tests/README.md reports

kills       SIGKILL at a random moment, or just before a file gets its name; then --resume: the
            result, log and weights are those of a run that nobody killed, and no half file is left
mutations   a random change of a random file: refused by one sentence, or nothing of it is seen
bombs       files that would run code, or fill the memory: nothing runs, and it is refused
mistakes    a wrong command line (mistakes.txt): exit code 2 and one line
No case may take 10 seconds or 1.7 GB, and none may end in a traceback. Needs fork (Linux, macOS).
"""
import argparse
import contextlib
import fnmatch
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import conftest
import damage
import torch
from cases import Lost, run_cases

import data
import models
import train

HERE = Path()  # every case is run in a copy of the world, by relative paths
IMAGES = ("--dataset colours --student vit:8:1:1 --teacher vit:8:1:2 --image-size 16 "
          "--patch-size 4 --epochs 3 --batch-size 8 --views 2")
TEXTS = ("--dataset words --student bert:8:1:1 --max-length 16 --rate 0.3 --epochs 1 "
         "--batch-size 8 --method re")
only = partial(conftest.only, folder=HERE)

# ---------------------------------------------------------------- a small world, and train.py in it

def make_world():
    """Folders of images and texts, and finished runs on them -> seconds of a command."""
    damage.make_data()
    begin = time.time()
    os.waitpid(start(IMAGES, "*student*last.pt", 2), 0)
    seconds = time.time() - begin
    shutil.copy(only("runs/colours/student*/last.pt"), "interrupted.pt")
    finished(f"{IMAGES} --resume")
    finished(TEXTS)
    damage.make_weights(models.published_slots(small_vit(), "vit"))
    return seconds

def small_vit():
    return models.ViT(dim=8, depth=1, heads=1, image_size=16, patch_size=4)

def cli(command):
    """train.py in this process -> exit code, out, err. A traceback is the exception itself."""
    arguments = ["train.py", *command.split()]
    with mock.patch.multiple(sys, argv=arguments, stdout=None, stderr=io.StringIO()):
        code = 0
        try:
            train.cli()
        except SystemExit as stop:
            code = stop.code
        return SimpleNamespace(code=code, out="", err=sys.stderr.getvalue())

def finished(command):
    run = cli(command)
    if run.code:
        raise Lost(f"exit code {run.code}: {run.err[-300:]}")

def refused(command):
    conftest.refused(cli(command), "")

def state():
    """All that the runs on images have learned and measured."""
    return [conftest.state(folder) for folder in sorted(HERE.glob("runs/colours/*-seed*"))]

def unchanged(expected):
    if state() != expected:
        raise Lost("another result")

# ---------------------------------------------------------------- kills

def start(command, file="", nth=1):
    """A process of train.py. file: it kills itself before the nth time that such a one is named."""
    pid = os.fork()
    if pid:
        return pid
    rename, left = os.replace, [nth]

    def replace(part, path):
        left[0] -= fnmatch.fnmatch(path, file)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(part, path)
    with mock.patch.object(os, "replace", replace):
        os._exit(cli(command).code)

def kill_case(seed, expected, seconds):
    """Killed once or twice, then resumed: as if nobody had killed it."""
    rng = random.Random(seed)
    files = ["*best.pt", "*last.pt", "*log.jsonl", "*answers*", "*cache*", "*config*", "*result*"]
    shutil.rmtree("runs/colours")
    Path("data/colours/.rekd-cache").unlink()
    for _ in range(rng.randint(1, 2)):
        file = rng.choice(files) if rng.random() < 0.5 else ""
        pid = start(resuming(), file, rng.randint(1, 4))
        if not file:
            time.sleep(rng.random() * seconds)
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finished(resuming())
    unchanged(expected)
    if half := [*HERE.glob("runs/**/*.rekd-part")]:
        raise Lost(f"left: {half}")

def resuming():
    return IMAGES + " --resume" * any(HERE.glob("runs/colours/*/config.json"))

# ---------------------------------------------------------------- mutations and bombs

BEST = "runs/colours/student-rekd-*/best.pt"
RESUME = f"{IMAGES} --resume"
SEEN = {  # file -> commands that read it, as FILE
    BEST: ["--explain data/colours/test/red/0.png --checkpoint FILE", RESUME,
           "--judge --checkpoint FILE"],
    "runs/words/*/best.pt": ["--explain data/words/test/good/0.txt --checkpoint FILE",
                             "--judge --checkpoint FILE"],
    "runs/colours/teacher-re-*/best.pt": [RESUME, IMAGES.replace("--teacher vit:8:1:2", "--seed 7 "
                                                                 "--teacher-checkpoint FILE")],
    "interrupted.pt": [RESUME],
    "runs/colours/student-rekd-*/result.json": [RESUME],
    "runs/colours/student-rekd-*/config.json": [RESUME, IMAGES],
    "runs/colours/teacher-re-*/config.json": [RESUME],
    "runs/colours/student-rekd-*/log.jsonl": [RESUME],
    "runs/colours/answers-*.pt": [IMAGES],
    "data/colours/.rekd-cache": [RESUME],
    "data/words/.rekd-cache": [f"{TEXTS} --resume"],
    "data/colours/train/red/1.jpg": [f"{IMAGES} --seed 7"],
    "data/words/train/good/1.txt": [f"{TEXTS} --seed 7"]}
READ = {  # file -> a function that reads it
    "weights.bin": lambda path: models.load_pretrained(small_vit(), path),
    "weights.safetensors": lambda path: models.load_pretrained(small_vit(), path),
    "data/colours/test/red/0.png": lambda path: data.read_image(path, 16),
    "data/colours/test/red/1.jpg": data.read_image,
    "data/words/test/good/0.txt": lambda path: data.WordPiece.words(data.read_text(path)[0]),
    "vocab.txt": lambda path: data.WordPiece(path).encode("one good film")}

def mutation_case(seed, pattern, expected):
    rng = random.Random(seed)
    by_field = pattern.endswith((".pt", ".json", ".bin")) and rng.random() < 0.6
    (damage.mutate_field if by_field else damage.mutate_bytes)(rng, only(pattern))
    use(pattern, rng, expected, not by_field)

def bomb_case(pattern, fault, expected):
    fault(only(pattern))
    use(pattern, random.Random(0), expected, True)
    if Path("ran").exists():
        raise Lost("its code ran")

def use(pattern, rng, expected, is_torn):
    """Read the file as train.py does: it is refused, or nothing of the fault is seen."""
    path = only(pattern)
    if pattern in READ:
        with contextlib.suppress(models.UserError, data.UserError):
            READ[pattern](path)
        return
    if pattern == "interrupted.pt":
        path = path.rename(only("runs/colours/student-rekd-*/last.pt"))
        path.with_name("result.json").unlink()
    command = rng.choice(SEEN[pattern])
    run = cli(command.replace("FILE", str(path)))
    made_again = "answers" in pattern or "cache" in pattern and "--dataset colours" in command
    refusals = run.err.count("train.py: ")
    expected_code = 2 if refusals and not made_again else 0
    if "Traceback" in run.err or refusals > 1 or run.code != expected_code:
        raise Lost(f"exit code {run.code}: {run.err[-300:]!r}")
    if made_again or (run.code == 0 and is_torn and pattern == "interrupted.pt"):
        unchanged(expected)

# ---------------------------------------------------------------- the campaign

def campaign(world, kills, mutations, seed, every=1):
    """Yields of each group its name, how many were tried and {case: what was lost}. Of bombs and
    mistakes, one of `every` is tried."""
    os.chdir(world)
    seconds = make_world()
    expected = state()
    files = [*SEEN, *READ]
    groups = {"kills": {}, "mutations": {}, "bombs": {}, "mistakes": {}}
    for i in range(kills):
        groups["kills"][f"kill {i}"] = partial(kill_case, f"{seed} {i}", expected, seconds)
    for i in range(mutations):
        file = files[i % len(files)]
        case = partial(mutation_case, f"{seed} {i}", file, expected)
        groups["mutations"][f"mutation {i} of {file}"] = case
    for name, bomb in [*damage.bombs().items()][::every]:
        groups["bombs"][name] = partial(bomb_case, *bomb, expected)
    lines = Path(__file__).with_name("mistakes.txt").read_text().splitlines()
    for line in [line for line in lines if line and line[0] != "#"][::every]:
        groups["mistakes"][line] = partial(refused, line)
    for group, cases in groups.items():
        yield group, len(cases), run_cases(cases, world)

def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    torch.set_num_threads(1)  # nano networks; and a forked process has no other threads
    all_lost = {}
    with tempfile.TemporaryDirectory() as world:
        print(f"{'group':<12}{'tried':>8}{'lost':>8}", flush=True)
        for group, tried, lost in campaign(world, **options):
            print(f"{group:<12}{tried:>8}{len(lost):>8}", flush=True)
            for name, problem in lost.items():
                print(f"    {name}: {problem}", flush=True)
            all_lost |= lost
        os.chdir("/")
    sys.exit(bool(all_lost))


if __name__ == "__main__":
    main()
