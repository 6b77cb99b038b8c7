"""runs.jsonl -> the pages: results/README.md, a chart for each data set, the README's table.

    python results/report.py

The prose stands in prose.md, its figures in double braces:

    {{ARM METHOD KEY}}     the test's KEY, or the seconds of training: mean +- 95 % interval over
                           seeds, by Student's t; of a METHOD like rekd-re the difference, paired
                           by seed
    {{A METHOD KEY - B}}   the difference to the same METHOD of arm B, paired by seed
    {{... by teacher}}     over the means of three teachers, whom seeds share
    {{tests}}, {{labels}}  tables that are made here

Anything else in such braces is an error. The top README gets its table where it has marks for it.
The same lines give the same pages, to the byte.
"""

import re
import sys
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from rekd import sign_flip_test  # noqa: E402
from results import study  # noqa: E402
from train import METHODS, T95  # noqa: E402

MARKED = re.compile("(?<=<!-- results -->\n).*(?=<!-- /results -->)", re.DOTALL)


# ---------------------------------------------------------------- figures
def read_numbers(lines):
    """-> {(arm, method, key): {seed: number}}, of what the test set said; of a method like
    "rekd-re" the differences, paired by seed. A teacher of several seeds counts once."""
    numbers = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        which = line["seed"]
        if line["method"] == "teacher":
            which = study.teacher_seed(line["teacher_options"], which)
        for key, number in {**line["test"], "seconds": line.get("seconds")}.items():
            if isinstance(number, float):
                name = line["arm"], line["method"], key
                numbers.setdefault(name, {})[which] = number
    for (arm, method, key), found in [*numbers.items()]:
        if method == "teacher":  # whose seeds are its own
            continue
        for base in METHODS:
            pairs = paired(found, numbers.get((arm, base, key), {}))
            if pairs:
                numbers[arm, f"{method}-{base}", key] = pairs
    return numbers


def paired(found, others):
    return {seed: found[seed] - others[seed] for seed in found if seed in others}


def interval(found):
    """{seed: number} -> their mean, half of its 95 % interval; of a single number, none: 0."""
    n = len(found)
    half = T95[n - 2] * stdev(found.values()) / n**0.5 if n > 1 else 0.0
    return mean(found.values()), half


def teacher_means(found):
    """{seed: number} -> {teacher's seed: mean of the seeds that drew it}"""
    shared = {}
    for seed, number in found.items():
        shared.setdefault(study.one_of_three(seed), []).append(number)
    return {teacher: mean(numbers) for teacher, numbers in shared.items()}


def figure(found):
    if not found:
        return "-"
    centre, half = interval(found)
    digits = 3 if centre < 2 else 0  # shares, or seconds
    centre = round(centre, digits) + 0.0  # no -0.000
    return f"{centre:.{digits}f}" + f" +- {half:.{digits}f}" * (len(found) > 1)


def fill(text, numbers):
    """The prose with its figures; KeyError: no run tells it."""
    def figure_of(match):
        name, by_teacher, _ = match[1].partition(" by teacher")
        name, _, base = name.partition(" - ")
        arm, method, key = re.fullmatch(r"(\S*) ?(.*?) ?(\S*)", name).groups()
        found = numbers[arm, method, key]
        found = paired(found, numbers[base, method, key]) if base else found
        if not found:
            raise KeyError(f"{match[0]}: no seed is in both")
        return figure(teacher_means(found) if by_teacher else found)
    return re.sub(r"\{\{(.*?)\}\}", figure_of, text)


# ---------------------------------------------------------------- tables
def markdown(rows):
    """The first row is the head."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def arms_of(numbers):
    """Those that compare all methods and have runs, in their order."""
    return [arm for arm in study.ARMS
            if "-compare-" in arm and (arm, "rekd", "accuracy") in numbers]


def labels_table(numbers, arms):
    """An arm a row."""
    names = [method.upper() for method in METHODS]
    rows = [["data", "labels", *names, "bag of words", "REKD - RE", "REKD - KD",
             "REKD, random masks", "its F1", "seeds"]]
    for arm in arms:
        cells = [figure(numbers.get((arm, name, "accuracy"))) for name in METHODS]
        cells.append(figure(numbers.get((arm.replace("compare", "bag"), "bag", "accuracy"))))
        cells += [figure(numbers.get((arm, name, "accuracy"))) for name in ("rekd-re", "rekd-kd")]
        cells += [figure(numbers.get((arm, "rekd", key))) for key in ("random", "f1")]
        seeds = str(len(numbers[arm, "rekd", "accuracy"]))
        rows.append([*arm.split("-compare-"), *cells, seeds])
    return markdown(rows)


def tests_table(numbers):
    """Exact sign-flip tests of the default arms, and Holm's correction for their number."""
    found = {}
    for dataset, few in study.DEFAULT.items():
        for method in ("rekd-re", "rekd-kd"):
            gains = numbers.get((f"{dataset}-compare-{few}", method, "accuracy"), {})
            if len(gains) > 1:
                found[f"{dataset}, {few} labels", method] = sign_flip_test(gains.values())
    corrected = holm(found)
    names = dict.fromkeys(name for name, _ in found)
    rows = [["p (by Holm)", *names]]
    for method in ("rekd-re", "rekd-kd"):
        cells = [f"{found[name, method]:.4f} ({corrected[name, method]:.4f})" for name in names]
        rows.append([method.upper().replace("-", " - "), *cells])
    return markdown(rows)


def holm(found):
    """{name: p} -> {name: p corrected for their number}"""
    corrected, highest = {}, 0.0
    for i, name in enumerate(sorted(found, key=found.get)):
        highest = max(highest, min(1.0, found[name] * (len(found) - i)))
        corrected[name] = highest
    return corrected


# ---------------------------------------------------------------- charts
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 690 330" font-size="13"
 font-family="sans-serif" fill="none" stroke-width="2">
<style>text {{ fill: #000; text-anchor: middle }}</style>
<rect width="690" height="330" fill="#fff"/>
<text x="300" y="20">{}: test accuracy against labels, 95 % intervals over seeds</text>
<path d="M50 290H500" stroke="#ddd"/><text x="30" y="294">.0</text>
<path d="M50 240H500" stroke="#ddd"/><text x="30" y="244">.2</text>
<path d="M50 190H500" stroke="#ddd"/><text x="30" y="194">.4</text>
<path d="M50 140H500" stroke="#ddd"/><text x="30" y="144">.6</text>
<path d="M50 90H500" stroke="#ddd"/><text x="30" y="94">.8</text>
<path d="M50 40H500" stroke="#ddd"/><text x="30" y="44">1</text>
"""
# A line of the chart: where its figures are, its name, colour and dashes.
CURVES = [
    ("compare", "teacher", "accuracy", "teacher", "#000", "1 4"),
    ("compare", "rekd", "accuracy", "REKD", "#c03", ""),
    ("compare", "re", "accuracy", "RE", "#06c", ""),
    ("compare", "kd", "accuracy", "KD", "#b70", ""),
    ("compare", "cls", "accuracy", "CLS", "#777", ""),
    ("rekdunlabelled", "rekd", "accuracy", "REKD, rest unlabelled", "#c03", "6 3"),
    ("kdunlabelled", "kd", "accuracy", "KD, rest unlabelled", "#b70", "6 3"),
    ("bag", "bag", "accuracy", "bag of words", "#080", "2 2"),
    ("compare", "re", "random", "RE on random masks", "#06c", "2 2"),
]


def chart(numbers, dataset):
    """SVG: labels from left to right, a line a method."""
    parts = [SVG.format(dataset)]
    places = {labels or "all": 80 + 380 * i / (len(study.LIMITS[dataset]) - 1)
              for i, labels in enumerate(study.LIMITS[dataset])}
    for labels, x in places.items():
        parts.append(f'<text x="{x:.0f}" y="315">{labels}</text>')
    for i, (question, method, key, name, colour, dashes) in enumerate(CURVES):
        points = {x + 2 * i: numbers.get((f"{dataset}-{question}-{labels}", method, key))
                  for labels, x in places.items()}  # bars do not hide each other
        path = line({x: interval(found) for x, found in points.items() if found})
        if path:
            style = f'stroke="{colour}" stroke-dasharray="{dashes}"'
            parts.append(f'<path d="{path}" {style}/><path d="M505 {56 + 20 * i}h16" {style}/>'
                         f'<text x="526" y="{60 + 20 * i}" style="text-anchor: start">{name}'
                         "</text>")
    return "\n".join([*parts, "</svg>\n"])


def line(points):
    """{x: (mean, half of the interval)} -> the path of an SVG; at each point a bar, and a dash, so
    that one that stands alone is seen."""
    height = lambda accuracy: round(290 - 250 * accuracy, 1)
    means = " ".join(f"{x:.0f},{height(centre)}" for x, (centre, _) in points.items())
    bars = "".join(f"M{x:.0f} {height(centre - half)}V{height(centre + half)}"
                   f"M{x - 4:.0f} {height(centre)}h8" for x, (centre, half) in points.items())
    return f"M{means}{bars}" if points else ""


# ---------------------------------------------------------------- the pages
def write(lines):
    """The pages of these lines."""
    numbers = read_numbers(lines)
    arms = arms_of(numbers)
    readme = ROOT / "README.md"
    defaults = [f"{dataset}-compare-{few}" for dataset, few in study.DEFAULT.items()]
    several = [arm for arm in arms if len(numbers[arm, "rekd", "accuracy"]) > 1]
    short = labels_table(numbers, [arm for arm in several if arm in defaults])
    prose = (ROOT / "results/prose.md").read_text()
    prose = prose.replace("{{labels}}", labels_table(numbers, arms))
    prose = prose.replace("{{tests}}", tests_table(numbers))
    page = fill(prose, numbers)  # before anything is written
    (ROOT / "results/README.md").write_text(page)
    readme.write_text(MARKED.sub(f"{short}\n", readme.read_text()))
    of_arms = [arm.partition("-")[0] for arm in several]
    for dataset in {name for name in of_arms if of_arms.count(name) > 1}:
        (ROOT / f"results/{dataset}.svg").write_text(chart(numbers, dataset))


if __name__ == "__main__":
    write(study.read_lines())
