"""The look and the words of results/README.md: tables, what stands below them, what to read there.

`found` is the runs of an arm, {"cls": {seed: line}, "re": ..., "rekd": ..., "teacher": ...}, with
the lines of runs.jsonl.
"""
import contextlib
import re
from statistics import mean, stdev
from textwrap import fill

from rekd import sign_flip_test

COLUMNS = {  # of a line, or of its "test": head, digits
    "accuracy": ("accuracy", 4), "rate_mean": ("rate", 3), "rate_empty": ("empty", 3),
    "f1": ("F1", 3), "iou": ("IoU", 3), "parameters": ("parameters", 0), "seconds": ("seconds", 0),
}
MORE_COLUMNS = {
    "sufficiency": ("sufficiency", 3), "sufficiency_random": ("(random)", 3),
    "comprehensiveness": ("comprehensiveness", 3), "comprehensiveness_random": ("(random)", 3),
    "probe": ("mask alone", 3), "chance": ("(chance)", 3),
}


def number(value, digits):
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:,.{digits}f}")


def spread(values, digits):
    """Mean +- sample standard deviation (none where all values are the same)."""
    deviation = f" +- {number(stdev(values), digits)}" if len({*values}) > 1 else ""
    return number(mean(values), digits) + deviation if values else "-"


def measured(runs, key):
    """What the seeds' runs have under this key, of the line or of its test."""
    values = [{**run, **run["test"]}.get(key) for run in runs.values()]
    return [] if None in values else values


def table(found, columns):
    rows = [["method", *(head for head, _ in columns.values())]]
    for method in ("cls", "re", "rekd"):
        if found[method]:
            rows.append([method.upper(), *(spread(measured(found[method], key), digits)
                                           for key, (_, digits) in columns.items())])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(["```", *lines, "```"])


def differences(better, worse):
    """By seed, how many more test examples are right."""
    def right(line):
        return round(line["test"]["accuracy"] * line["test"]["examples"])
    return [right(better[seed]) - right(worse[seed]) for seed in better if seed in worse]


def gap_recovered(found):
    """(REKD - RE) / (CLS - RE), where CLS - RE is more than two standard errors above 0."""
    gap = differences(found["cls"], found["re"])
    if len(gap) < 2:
        return "-"
    if mean(gap) <= 2 * stdev(gap) / len(gap) ** 0.5:
        return "no gap to recover"
    return f"{mean(differences(found['rekd'], found['re'])) / mean(gap):.0%}"


def verdict(found):
    """What stands below a table: the teacher, REKD - RE, the gap."""
    line, teachers = list(found["rekd"].values())[-1], list(found["teacher"].values())
    told = line.get("teacher")
    if not told:  # in an old line
        told = {"preset": teachers[-1]["config"]["preset"], "dev": teachers[-1]["dev"]}
    counts, examples = differences(found["rekd"], found["re"]), line["test"]["examples"]
    p = f", p = {number(sign_flip_test(counts), 3)}" if len(counts) >= 6 else ""
    return (f"- Teacher: {told['preset']}, dev accuracy {number(told['dev']['accuracy'], 4)} at "
            f"rate {number(told['dev']['rate_mean'], 3)}.\n- REKD - RE, paired by seed: "
            f"{spread([count / examples for count in counts], 4)}{p}.\n"
            f"- Gap recovered: {gap_recovered(found)}.")


def budget(found):
    """-> "6 seeds, 4 epochs (teacher: 8)" """
    runs, teachers = list(found["re"].values()), list(found["teacher"].values())
    text = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
    text += f", {runs[0]['config']['epochs']} epochs"
    return text + (f" (teacher: {teachers[-1]['config']['epochs']})" if teachers else "")


def paragraphs(text, found):
    """Words with figures: {re_accuracy} is a mean, {re_2028_accuracy} the value of one seed.

    A paragraph whose figures the lines (no longer) have is left out.
    """
    figures = {}
    for method, runs in found.items():
        for seed, line in runs.items():
            figures |= {f"{method}_{seed}_{key}": value for key, value in line["test"].items()}
            figures |= {f"{method}_{key}": mean(measured(runs, key)) for key in line["test"]
                        if measured(runs, key)}
    parts = []
    for part in text.split("\n\n"):
        with contextlib.suppress(KeyError):
            parts.append(part.format(**figures))
    return [fill(part, 100, break_on_hyphens=False) for part in parts if part]


def section(arm, found):
    commits = sorted({line["commit"] for runs in found.values() for line in runs.values()})
    parts = [f"## {TITLES[arm]}", f"`python results/study.py {arm}`: {budget(found)}; "
             f"commit {', '.join(commits)}.", table(found, COLUMNS)]
    parts += [verdict(found)] if found["rekd"] else []
    parts += paragraphs(NOTES[arm], found)
    if measured(found["re"], "sufficiency"):
        parts += [table(found, MORE_COLUMNS), *paragraphs(FAITHFULNESS.get(arm, ""), found)]
    return "\n\n".join(parts)


# -------------------------------------------------------------------------------------- the words
INTRODUCTION = """\
# Results

`python results/study.py --report` writes this page from `runs.jsonl`. That file holds one line for
every run: its options, its results on the test and dev sets, what was logged after each epoch, its
command, the versions of Python and torch, the hardware, and the commit of the code that made it.
`python results/study.py ARM` makes the runs of an arm that have no line yet.

The first {old} lines were made before the file existed. Their commit is the one that their logs
were committed on top of, and their commands use options of that commit. They were measured with
masks that keep a feature where its keep score is above its drop score (`"eval_mask": "hard"`). The
rate of such masks comes near the target, but need not meet it.

The checkpoint of a run is chosen on dev examples. The test set is used once, by that checkpoint.
The columns:

- *accuracy*: on the test set. All figures are means over the seeds +- sample standard deviation.
  Where all seeds have the same value, it stands alone.
- *rate*: the share of patches or words that the rationale keeps. CLS has no rationale: it reads
  everything.
- *empty*: the share of test examples whose rationale keeps nothing.
- *F1*, *IoU*: agreement of the rationale with the true one, where that is known. For CLS, the
  features with the largest gradient x input stand in for a rationale.
- *parameters*: of the student. *seconds*: its training, on one thread of a busy CPU.
- *p*: exact two-sided sign-flip test of REKD - RE, on counts of right answers. Six seeds cannot
  give less than 0.031; with fewer than six there is no test.
- *gap recovered*: (REKD - RE) / (CLS - RE), the share of what RE loses that the teacher brings
  back. It is given only where CLS - RE is more than two standard errors above 0.

The second table of an arm shows what only the old lines have, their faithfulness:

- *sufficiency*: how much less probable the predicted class is when only the rationale is shown
  (low is good). *comprehensiveness*: how much less probable it is when everything else is shown
  (high is good). Both follow ERASER. *random*: the same for a random mask of equal size. For CLS,
  the rationale is again its features with the largest gradient x input.
- *mask alone*: the accuracy of a small network that sees the masks and nothing else. *chance*: the
  share of the largest class. For CLS it was measured wrongly, and has been removed.
"""

TITLES = {
    "glyphs-zero": "Glyphs, masking zero",
    "glyphs-drop": "Glyphs, masking drop",
    "phrases-zero": "Phrases, masking zero",
    "phrases-drop": "Phrases, masking drop",
    "imdb-zero": "IMDB from scratch, 8,000 training reviews, masking zero",
    "imdb-drop": "IMDB from scratch, 8,000 training reviews, masking drop",
    "imdb_2k-scratch": "2,000 reviews of IMDB, one layer from scratch, masking drop",
    "imdb_2k-published": "2,000 reviews of IMDB, one published layer, masking drop",
}

NOTES = {  # what to read from an arm's first table
    "glyphs-zero": """\
Whether an RE student finds the digit depends on its seed. A REKD student finds it with every seed.
The failed RE students keep few patches or none: the worst one (seed 2028) keeps nothing at all of
{re_2028_rate_empty:.0%} of the images, the next (seed 2031) nothing of {re_2031_rate_empty:.0%}.
No RE student keeps a whole image. Their masks in training do hold 10% of the patches, but these
are drawn at random: the generator itself would rather drop almost every patch.

Students have 4 epochs and the teacher has 8, so this is REKD's advantage at a short budget. With 8
epochs instead of 4, RE closes most of it by itself; that measurement has no line here yet.""",
    "glyphs-drop": """\
With drop, RE finds the digit with every seed and is as accurate as CLS is on the whole image.
Nothing is left for a teacher to improve.""",
    "phrases-zero": """\
RE misses part of what it needs: the student in `phrases.png` misses the word "not". Students have
5 epochs and the teacher has 8, so this, too, is REKD's advantage at a short budget.""",
    "phrases-drop": """\
Every method answers every test text right. The teacher improves the rationale only: F1 is
{rekd_f1:.2f} with it and {re_f1:.2f} without.""",
    "imdb-zero": """\
The teacher is of no use here. It had 3 epochs, as its students had, and is no better than they
are.""",
    "imdb-drop": """\
Drop makes RE and REKD three points better than zero does. The teacher is of no use here either.""",
    "imdb_2k-scratch": """\
One seed, reviews cut after 64 tokens. This arm is what the next one is compared with.""",
    "imdb_2k-published": """\
The same layer, but started from the first layer of a small published BERT
(`sentence-transformers/all-MiniLM-L6-v2`) and with its vocabulary, hence more parameters. RE gains
more from this start than CLS does. One seed shows that such weights load and help, and no more.

For both arms, `data/imdb_2k` must hold the reviews in class folders (here the test set had 2,000),
and `data/minilm` the model's files.""",
}

FAITHFULNESS = {  # what to read from an arm's second table
    "phrases-zero": """\
There is a covert channel. The teacher leaves {teacher_rate_empty:.0%} of the texts without any
word, its REKD students {rekd_rate_empty:.0%}, and all of them still know the class. So the masks
alone tell the class better than chance: {rekd_probe:.2f} against {rekd_chance:.2f}.""",
    "phrases-drop": """\
The masks alone are no better than chance here: the covert channel is closed.""",
    "imdb-drop": """\
A caution: REKD's sufficiency ({rekd_sufficiency:.2f}) and comprehensiveness
({rekd_comprehensiveness:.3f}) are no better than those of a random mask
({rekd_sufficiency_random:.2f} and {rekd_comprehensiveness_random:.3f}). Of the three methods, this
is true of REKD only, on the average over seeds. Both measures compare with the prediction from the
whole review, and a predictor that has only seen rationales never learned to read one.""",
}
