"""What a newcomer's first command shows, whatever the seed and the number of threads.

    python results/first.py    # 5 seeds x 1, 2 and 4 threads x both built-in sets: half an hour

Each is one `python train.py --compare --seed k` with a folder, and so a teacher, of its own.
Finished ones are not repeated. The table goes into results/first.txt.
"""
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parent
ROOT = RESULTS.parent
sys.path.insert(0, str(ROOT))
from results.tables import aligned  # noqa: E402

SETS = ["glyphs", "phrases"]
SEEDS = range(2026, 2031)
THREADS = [1, 2, 4]


def compare(name, seed, threads):
    """One command, unless it has been run before."""
    out = ROOT / "runs-first" / f"{name}-seed{seed}-threads{threads}"
    if (out / "wall.json").exists():
        return
    command = [sys.executable, "train.py", "--compare", "--dataset", name, "--seed", str(seed)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    shutil.rmtree(out, ignore_errors=True)  # half a command: its teacher would be reused
    start = time.time()
    subprocess.run([*command, "--out", out], cwd=ROOT, env=env, check=True,
                   stdout=subprocess.DEVNULL)
    (out / "wall.json").write_text(json.dumps({"seconds": time.time() - start}))


def row(out):
    """A command's folder -> what its table shows."""
    found = {}
    for path in out.rglob("result.json"):
        config = json.loads((path.parent / "config.json").read_text())
        found[config["role"], config["method"]] = json.loads(path.read_text())
    teacher = found["teacher", "re"]["dev"]
    accuracy = [found["student", method]["test"]["accuracy"] for method in ("cls", "re", "rekd")]
    f1 = [found["student", method]["test"]["f1"] for method in ("re", "rekd")]
    seconds = json.loads((out / "wall.json").read_text())["seconds"]
    return [teacher["accuracy"], teacher["f1"], *accuracy, accuracy[2] - accuracy[0], *f1, seconds]


def report():
    """What was measured where, then a line for each command."""
    heads = ["command's folder", "teacher (dev)", "its F1", "CLS", "RE", "REKD", "REKD - CLS",
             "RE's F1", "REKD's F1", "seconds"]
    rows = [heads]
    for wall in sorted((ROOT / "runs-first").glob("*/wall.json")):
        *numbers, seconds = row(wall.parent)
        rows.append([wall.parent.name, *(f"{x:.4f}" for x in numbers), f"{seconds:.0f}"])
    result = json.loads(next((ROOT / "runs-first").rglob("result.json")).read_text())
    processor, _ = result["hardware"].split(", ")
    where = "{}, {} cores, Python {python}, torch {torch}".format(
        processor, os.cpu_count(), **result["versions"])
    return "\n".join([__doc__.strip(), "", where, "", *aligned(rows)]) + "\n"


def main():
    for threads, name, seed in itertools.product(THREADS, SETS, SEEDS):
        compare(name, seed, threads)
    (RESULTS / "first.txt").write_text(report())


if __name__ == "__main__":
    main()
