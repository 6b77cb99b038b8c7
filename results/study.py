"""The evidence: makes the runs behind the tables, keeps one line a run, writes the tables.

    python results/study.py glyphs-zero phrases-zero     # the runs of these arms that are missing
    python results/study.py --collect runs/glyphs        # keep the finished runs of a folder
    python results/study.py --report                     # results/README.md, the README's table

Remove a line of runs.jsonl to have its run made again; of two lines for one student, the later
counts. One run at a time, on one thread: a student of glyphs or phrases takes half a minute, its
teacher some minutes, an arm of imdb half an hour. What the pages look like stands in pages.py.
"""
import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import fill

RESULTS = Path(__file__).resolve().parent
ROOT = RESULTS.parent
RUNS = RESULTS / "runs.jsonl"
sys.path[:0] = [str(RESULTS), str(ROOT)]
import torch  # noqa: E402
from pages import INTRODUCTION, TITLES, budget, gap_recovered, measured, section, spread  # noqa

from models import load  # noqa: E402
from results.judge import COLUMNS, data_of, judge_masks  # noqa: E402
from train import COMMON, DEPENDS, recipe_of  # noqa: E402

GLYPHS = dict(dataset="glyphs", student="vit_nano", teacher="vit:48:2:3", rate=0.0625)
PHRASES = dict(dataset="phrases", student="bert_nano", teacher="bert_micro", rate=0.15)
IMDB = dict(dataset="imdb", student="bert_micro", teacher="bert:128:2:4", rate=0.1,
            init="scratch", teacher_init="scratch", masking="drop")
CIFAR = dict(dataset="cifar10", student="vit_micro", teacher="vit:96:4:4", rate=0.15,
             init="scratch", teacher_init="scratch", masking="drop")
ARMS = {  # name: the options of train.py
    "glyphs-drop": dict(GLYPHS, masking="drop"),
    "glyphs-zero": dict(GLYPHS, masking="zero"),
    "phrases-drop": dict(PHRASES, masking="drop"),
    "phrases-zero": dict(PHRASES, masking="zero"),
    "glyphs-zero-lambda": dict(GLYPHS, masking="zero", method="re", lambda_select=1e-2),
    "phrases-zero-lambda": dict(PHRASES, masking="zero", method="re", lambda_select=1e-2),
    "glyphs-zero-cold": dict(GLYPHS, masking="zero", method="re", without="curriculum"),
    "glyphs-drop-unpacked": dict(GLYPHS, masking="drop", method="re", without="packing"),
    "phrases-drop-unpacked": dict(PHRASES, masking="drop", method="re", without="packing"),
    "imdb-2000": dict(IMDB, limit=2000, epochs=32),
    "cifar10-2000": dict(CIFAR, limit=2000, epochs=80),
    "cifar10-2000-random": dict(CIFAR, limit=2000, epochs=80, method="re", without="generator"),
    "imdb-2000-random": dict(IMDB, limit=2000, epochs=32, method="re", without="generator"),
}
SEEDS = {"glyphs": 6, "phrases": 6, "imdb": 3, "cifar10": 3}  # so many, from 2026 on
JUDGED = range(2026, 2029)  # the seeds whose models --judge looks at


# -------------------------------------------------------------------------------------- the lines
def belongs(config, arm):
    """Is this the config of one of the arm's students, or of their teacher? All options count."""
    options = {"init": "scratch", **ARMS[arm]}
    kind = "image" if "image_size" in config else "text"
    wanted = {"limit": None, "without": None, **COMMON, **recipe_of(options, kind), **options}
    role, method = config["role"], config["method"]
    if wanted.get("method", method) != method or config["preset"] != wanted[role]:
        return False
    keys = {"without", *DEPENDS[method]} & wanted.keys()
    keys -= {"precision", "teacher"}  # "auto" is recorded as what it was; a teacher names itself
    if role == "teacher":
        keys -= {"epochs"}  # it may have more
    return all(config.get(key) == wanted[key] for key in keys)


def read(text, digits):
    """JSON, with its floats rounded to so many significant digits."""
    return json.loads(text, parse_float=lambda x: float(f"{float(x):.{digits}g}"))


def line_of(folder, commit):
    """A finished run's folder -> its line."""
    config = json.loads((folder / "config.json").read_text())
    result = read((folder / "result.json").read_text(), 8)
    curve = [read(text, 6) for text in (folder / "log.jsonl").read_text().splitlines()]
    keys = ["test", "dev", "teacher", "epoch", "parameters", "seconds", "command", "versions",
            "hardware"]
    return {"config": {key: value for key, value in config.items() if value is not None},
            **{key: result[key] for key in keys if result.get(key) is not None},
            "commit": commit, "curve": curve}


def judged(folder):
    """What --judge says of a finished run -> {mask: {column: value}}."""
    model, info = load(folder / "best.pt")
    config = argparse.Namespace(**info["config"])
    here = argparse.Namespace(checkpoint=folder / "best.pt", data_dir=None,
                              device=torch.device("cpu"))
    masks = judge_masks(model, data_of(config, info, here), config)
    return {name: {key: float(f"{row[key]:.6g}") for key in COLUMNS if key in row}
            for name, row in masks.items()}


def read_lines():
    return [json.loads(text) for text in RUNS.read_text().splitlines()] if RUNS.exists() else []


def collect(folder, arm=None):
    """Append a line for every finished run under the folder (of an arm) whose config has none."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    known = [line["config"] for line in read_lines()]
    for result in sorted(Path(folder).rglob("result.json")):  # written last: the run is finished
        line = line_of(result.parent, commit)
        without = re.search(r"runs-without-(\w+)", str(result))
        if without:
            line["config"]["without"] = without[1]
        if line["config"] in known or (arm and not belongs(line["config"], arm)):
            continue
        config = line["config"]
        has_generator = config["method"] != "cls" and config.get("without") != "generator"
        if has_generator and config["seed"] in JUDGED:
            line["judge"] = judged(result.parent)
        known.append(line["config"])
        with RUNS.open("a") as file:
            file.write(json.dumps(line) + "\n")


def run(arm):
    """Make the arm's missing runs, one at a time; train.py makes their teacher."""
    found, methods = students(read_lines(), arm), ["cls", "re", "rekd"]
    if "method" in ARMS[arm]:
        methods = [ARMS[arm]["method"]]
    options = [text for key, value in ARMS[arm].items() if key not in ("method", "without")
               for text in ("--" + key.replace("_", "-"), str(value))]
    program, out = ["train.py"], "runs"
    if "without" in ARMS[arm]:
        program = ["results/without.py", ARMS[arm]["without"]]
        out = "runs-without-" + ARMS[arm]["without"]
    for seed in range(2026, 2026 + SEEDS[ARMS[arm]["dataset"]]):
        for method in methods:
            if seed not in found[method]:
                command = [sys.executable, *program, *options, "--seed", str(seed), "--method",
                           method, "--out", out]
                if subprocess.call(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}):
                    sys.exit(1)  # train.py has said why
                collect(ROOT / out, arm)


# ------------------------------------------------------------------------------------- the tables
def students(lines, arm):
    """-> {"cls": {seed: line}, "re": ..., "rekd": ..., "teacher": ...}"""
    found = {"cls": {}, "re": {}, "rekd": {}, "teacher": {}}
    for line in sorted(lines, key=lambda line: line["config"]["seed"]):
        config = line["config"]
        if belongs(config, arm):
            name = "teacher" if config["role"] == "teacher" else config["method"]
            found[name][config["seed"]] = line
    return found


def page(lines):
    """results/README.md, from the lines of runs.jsonl."""
    found = {arm: students(lines, arm) for arm in ARMS}
    parts = [section(arm, found[arm]) for arm in ARMS if found[arm]["re"]]
    return "\n\n".join([INTRODUCTION.strip(), *parts]) + "\n"


def small_table(lines):
    """The table of the repository's README, and the line under it."""
    rows, budgets = ["| data, masking | CLS | RE | REKD | gap recovered |", "|" + "---|" * 5], {}
    for arm in ARMS:
        found = students(lines, arm)
        if found["rekd"] and found["re"]:
            name, masking = TITLES[arm].split()[0].strip(","), ARMS[arm]["masking"]
            cells = [spread(measured(found[method], "accuracy"), 3)
                     for method in ("cls", "re", "rekd")]
            rows.append(f"| {' | '.join([f'{name}, {masking}', *cells, gap_recovered(found)])} |")
            budgets[name] = f"{name}: {budget(found)}."
    below = " ".join(["Test accuracy, mean +- standard deviation over seeds.", *budgets.values(),
                      "More in [results/README.md](results/README.md)."])
    return "\n".join([*rows, "", fill(below, 100)])


def with_table(text, content):
    """The README with this between its markers, if it has them."""
    before, start, rest = text.partition("<!-- results -->\n")
    _, end, after = rest.partition("<!-- /results -->")
    return before + start + content + "\n" + end + after if end else text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--collect", metavar="FOLDER", help="keep the finished runs under it")
    parser.add_argument("--report", action="store_true", help="write the tables")
    args = parser.parse_args()
    if not set(args.arms) <= {*ARMS}:
        parser.error(f"the arms are {', '.join(ARMS)}")
    for arm in args.arms:
        run(arm)
    if args.collect:
        collect(args.collect)
    if args.report:
        lines, readme = read_lines(), ROOT / "README.md"
        (RESULTS / "README.md").write_text(page(lines))
        readme.write_text(with_table(readme.read_text(), small_table(lines)))


if __name__ == "__main__":
    main()
