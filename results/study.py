"""The evidence: makes the runs behind the tables, and keeps a line of each in runs.jsonl.

    python results/study.py                        all that is missing: hours
    python results/study.py glyphs-compare-100     of these arms; arms may run side by side

An arm is a command of train.py and its seeds. Each seed is a process of its own, with one thread;
once it is finished, its runs have their lines. An interrupted one is run again (it goes on where it
stopped), a finished one never: remove its lines to have it made anew. A line holds the arm, its
options, seed and method, a hash of the four files, and all that result.json tells.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "results/runs.jsonl"
OUT = Path("runs/study")

# Accuracy against labels: DATASET-compare-LABELS.
ARMS = {}  # name: (options of train.py, seeds)
LIMITS = {"glyphs": (32, 64, 128, 256, 1000, 0), "phrases": (60, 125, 250, 500, 1000, 0)}
for dataset, limits in LIMITS.items():
    for limit in limits:  # 0: all
        options = f"--dataset {dataset} --compare --limit {limit}"
        seeds = range(2026, 2031 if limit in (64, 250) else 2029)  # more of the default
        ARMS[f"{dataset}-compare-{limit or 'all'}"] = options, seeds


def read_lines():
    return [json.loads(text) for text in RUNS.read_text().splitlines()] if RUNS.exists() else []


def hash_of_code():
    """Of the four files -> 16 hexadecimal digits."""
    files = [(ROOT / name).read_bytes() for name in ("rekd.py", "models.py", "data.py", "train.py")]
    return hashlib.sha256(b"".join(files)).hexdigest()[:16]


def cpu_model():
    if not Path("/proc/cpuinfo").exists():
        return platform.processor()
    return re.search("model name.*: (.*)", Path("/proc/cpuinfo").read_text())[1]


def run_missing(names, run=subprocess.run):
    """The seeds of these arms that have no line."""
    for arm in names:
        options, seeds = ARMS[arm]
        for seed in seeds:
            if any(line["arm"] == arm and line["seed"] == seed for line in read_lines()):
                continue
            code = hash_of_code()
            out = OUT / code / arm
            command = [sys.executable, "train.py", *options.split(), f"--seed={seed}",
                       f"--out={out}"]
            if any((ROOT / out).glob(f"*/student-*-seed{seed}*")):  # it was interrupted
                command.append("--resume")
            share_teachers(ROOT / out)
            run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
            keep({"arm": arm, "options": options, "seed": seed, "code": code}, ROOT / out)


def share_teachers(out):
    """A teacher is the same for all arms of a data set: it is trained once."""
    for result in out.parent.glob("*/*/teacher-*/result.json"):
        folder = result.parent
        target = out / folder.parent.name / folder.name
        if not target.exists():
            shutil.copytree(folder, target)


def keep(line, out):
    """Append a line for each run of this seed; in one stroke, so that none is there alone."""
    text = ""
    for path in sorted(out.rglob("result.json")):
        config = json.loads(path.with_name("config.json").read_text())
        if config["role"] == "student" and config["seed"] == line["seed"]:
            result = json.loads(path.read_text())
            result["hardware"] += f", {cpu_model()}"
            text += json.dumps({**line, "method": config["method"], **result}) + "\n"
    with RUNS.open("a") as file:
        file.write(text)


if __name__ == "__main__":
    run_missing(sys.argv[1:] or ARMS)
