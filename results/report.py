"""runs.jsonl -> the pages: results/README.md, a chart for each data set, the README's table.

    python results/report.py

The prose stands in prose.md. {{tables}} in it becomes the table and the charts of all arms, and
{{ARM METHOD KEY}} a figure: the test's KEY, mean +- 95 % interval over seeds, by Student's t. Of a
METHOD like "rekd-re" it is the difference, paired by seed. Anything else in such braces is an
error. The top README gets the table where it has marks for it, once there are runs. The same lines
give the same pages, to the byte.
"""

import re
import sys
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from results.study import ARMS, read_lines  # noqa: E402
from train import METHODS, T95  # noqa: E402

MARKED = re.compile("(?<=<!-- results -->\n).*(?=<!-- /results -->)", re.DOTALL)
DEFAULT = "glyphs-compare-64", "phrases-compare-250"  # shown in the top README
COLOURS = "#777", "#b70", "#06c", "#c03"  # of METHODS
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 330" font-size="13"
 font-family="sans-serif" fill="none" stroke-width="2">
<style>text {{ fill: #000; text-anchor: middle }}</style>
<rect width="600" height="330" fill="#fff"/>
<text x="300" y="20">{}: test accuracy against labels, 95 % intervals over seeds</text>
<path d="M50 290H500" stroke="#ddd"/><text x="30" y="294">.0</text>
<path d="M50 240H500" stroke="#ddd"/><text x="30" y="244">.2</text>
<path d="M50 190H500" stroke="#ddd"/><text x="30" y="194">.4</text>
<path d="M50 140H500" stroke="#ddd"/><text x="30" y="144">.6</text>
<path d="M50 90H500" stroke="#ddd"/><text x="30" y="94">.8</text>
"""


# ---------------------------------------------------------------- figures
def read_numbers(lines):
    """-> {(arm, method, key): {seed: number}}, of what the test set said; of a method like
    "rekd-re" the differences, paired by seed."""
    numbers = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        for key, number in line["test"].items():
            if isinstance(number, float):
                name = line["arm"], line["method"], key
                numbers.setdefault(name, {})[line["seed"]] = number
    for (arm, method, key), found in [*numbers.items()]:
        for base in METHODS:
            others = numbers.get((arm, base, key), {})
            pairs = {seed: found[seed] - others[seed] for seed in found if seed in others}
            if pairs:
                numbers[arm, f"{method}-{base}", key] = pairs
    return numbers


def interval(found):
    """{seed: number} -> their mean, half of its 95 % interval; of a single number, that is 0."""
    n = len(found)
    half = T95[n - 2] * stdev(found.values()) / n**0.5 if n > 1 else 0.0
    return mean(found.values()), half


def figure(found):
    return "{:.3f} +- {:.3f}".format(*interval(found)) if found else "-"


def fill(text, numbers):
    """The prose with its figures; KeyError: no run tells it."""
    return re.sub(r"\{\{(.*?)\}\}", lambda match: figure(numbers[tuple(match[1].split())]), text)


# ---------------------------------------------------------------- table and charts
def arms_of(numbers, dataset=""):
    """Those that have runs, in their order."""
    return [arm for arm in ARMS
            if arm.startswith(dataset) and (arm, "rekd", "accuracy") in numbers]


def table(numbers, arms):
    """Markdown, an arm a row; random and F1 are REKD's."""
    names = [method.upper() for method in METHODS]
    rows = [["data", "labels", *names, "REKD - RE", "random", "F1", "seeds"]]
    rows.append(["---"] * len(rows[0]))
    for arm in arms:
        cells = [figure(numbers.get((arm, name, "accuracy"))) for name in (*METHODS, "rekd-re")]
        cells += [figure(numbers.get((arm, "rekd", key))) for key in ("random", "f1")]
        seeds = str(len(numbers[arm, "rekd", "accuracy"]))
        rows.append([*arm.split("-compare-"), *cells, seeds])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def chart(numbers, dataset):
    """SVG: labels from left to right, a line a method."""
    height = lambda accuracy: round(290 - 250 * accuracy, 1)
    places = {arm: 80 + 80 * i for i, arm in enumerate(arms_of(numbers, dataset))}
    parts = [SVG.format(dataset)]
    for arm, x in places.items():
        parts.append(f'<text x="{x}" y="315">{arm.split("-")[-1]}</text>')
    for i, (method, colour) in enumerate(zip(METHODS, COLOURS)):
        means, bars = "M", ""
        for arm, x in places.items():
            centre, half = interval(numbers[arm, method, "accuracy"])
            means += f" {x},{height(centre)}"
            bars += f"M{x} {height(centre - half)}V{height(centre + half)}"
        parts.append(f'<path d="{means}{bars}" stroke="{colour}"/><text x="550" y="{60 + 20 * i}" '
                     f'style="fill: {colour}">{method.upper()}</text>')
    return "\n".join([*parts, "</svg>\n"])


def write(lines):
    """The pages of these lines."""
    numbers = read_numbers(lines)
    tables = table(numbers, arms_of(numbers))
    readme = ROOT / "README.md"
    if lines:
        short = table(numbers, [arm for arm in arms_of(numbers) if arm in DEFAULT])
        readme.write_text(MARKED.sub(f"{short}\n", readme.read_text()))
    for dataset in sorted({arm.split("-")[0] for arm in arms_of(numbers)}):
        (ROOT / f"results/{dataset}.svg").write_text(chart(numbers, dataset))
        tables += f"\n\n![Accuracy against labels on {dataset}]({dataset}.svg)"
    prose = (ROOT / "results/prose.md").read_text().replace("{{tables}}", tables)
    (ROOT / "results/README.md").write_text(fill(prose, numbers))


if __name__ == "__main__":
    write(read_lines())
