"""The look and the words of results/README.md: tables, charts, what to read there.

`found` is the runs of an arm, {"cls": {seed: line}, "re": ..., "rekd": ..., "teacher": ...}, with
the lines of runs.jsonl; `arms` is {arm: its runs}.
"""
import contextlib
import re
from statistics import mean, stdev
from textwrap import fill

from charts import chart, interval
from questions import (
    EPOCHS,
    LEAST,
    QUESTIONS,
    SETS,
    answer,
    base,
    compare,
    counts,
    epochs_arm,
    variance_ratio,
)

from rekd import sign_flip_test

COLUMNS = {  # of a line, or of its "test": head, digits
    "accuracy": ("accuracy", 4), "rate_mean": ("rate", 3), "rate_empty": ("empty", 3),
    "f1": ("F1", 3), "iou": ("IoU", 3), "parameters": ("parameters", 0), "seconds": ("seconds", 0),
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
    return aligned(rows)


def aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(["```", *lines, "```"])


def page(arms):
    """results/README.md."""
    sections = [section(arm, arms[arm]) for arm in TITLES if arms[arm]["re"]]
    parts = [INTRODUCTION.strip(), *findings(arms), *chart_sections(arms), *answers(arms),
             variances(arms), *rationales(arms), ASK.strip(), "## The main arms, one by one",
             *sections, every_arm(arms)]
    return "\n\n".join(filter(None, parts)) + "\n"


# ------------------------------------------------------------------------------- charts and answers
AXES = {  # of the arms whose name goes on so
    "epochs": ("by training", "epochs of the student"),
    "examples": ("by size of the training set", "training examples"),
    "size": ("by size of the student", "parameters of the CLS student"),
    "rate": ("by rate", "share of the features that is kept"),
}


MINILM = {"epochs": "12", "examples": "2000", "size": "bert_nano"}  # where the base arm stands


def charts_of(arms):
    """-> {file: (title, what the x axis is, [(what stands there, the arm's runs)])}"""
    found = {}
    for name, title in SETS.items():
        for axis, (by, what) in AXES.items():
            start = f"{name}-{axis}-"
            places = {arm.removeprefix(start): runs for arm, runs in arms.items()
                      if arm.startswith(start) and runs["re"]}
            if name == "minilm" and places and arms["minilm"]["re"]:
                places[MINILM[axis]] = arms["minilm"]
            if axis == "size":
                places = {f"{parameters(runs):,}": runs for runs in places.values()}
            ordered = sorted(places.items(), key=lambda place: float(place[0].replace(",", "")))
            found[f"{axis}-{name}"] = f"{title}, {by}", what, ordered
    return {file: drawn for file, drawn in found.items() if len(drawn[2]) > 1}


def draw_charts(arms):
    """-> {file: SVG}"""
    drawn = {}
    for file, (title, axis, places) in charts_of(arms).items():
        panels = {}
        for head, key in (("accuracy", "accuracy"), ("F1 with the true rationale", "f1")):
            series = {label: [measured(found[method], key) for _, found in places]
                      for label, method in LABELS.items()}
            series = {label: points for label, points in series.items() if any(points)}
            if series:
                panels[head] = series
        drawn[file] = chart(title, axis, [place for place, _ in places], panels)
    return drawn


LABELS = {"CLS": "cls", "RE": "re", "REKD": "rekd", "teacher": "teacher"}


def span(counts):
    """ "10", or "5 to 10" where they differ."""
    counts = [*counts]
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def parameters(found):
    return next(iter(found["cls"].values()))["parameters"]


def chart_sections(arms):
    parts = ["## Charts", CHARTS.strip()]
    for file, (title, _, places) in charts_of(arms).items():
        told = span(len(found["re"]) for _, found in places)
        parts.append(f"![{title}](charts/{file}.svg)\n\n*{title}: {told} seeds"
                     f"{cost(places[-1][1])}.*")
    return parts


def cost(found):
    """What the teacher of an arm took, beside its REKD student."""
    told, students = list(found["teacher"].values()), list(found["rekd"].values())
    if not told or not students:
        return ""
    seconds = mean(line["seconds"] for line in students)
    return (f"; at the last place the teacher trained for {number(told[-1]['seconds'], 0)} s and a "
            f"REKD student for {number(seconds, 0)} s")


def answers(arms):
    """Each question: its table and a sentence."""
    parts = ["## Questions", PAIRED.strip()]
    for question, rows in QUESTIONS.items():
        compared = compare(arms, rows)
        if not compared:
            continue
        table = [["comparison", "seeds", "accuracy, difference", "p", "p, Holm", "F1, difference"]]
        for row in compared:
            f1 = around(mean(row["f1"]), interval(row["f1"])) if len(row["f1"]) > 1 else "-"
            ps = [number(row[key], 3) if "holm" in row else "-" for key in ("p", "holm")]
            table.append([row["what"], str(row["n"]), around(row["mean"], row["half"]), *ps, f1])
        parts += [f"### {question}", aligned(table), answer(compared)]
        parts += paragraphs(READINGS.get(question, ""), {}, arms)
    return parts


def around(middle, half):
    return f"{'+' if middle >= 0 else ''}{number(middle, 3)} +- {number(half, 3)}"


def variances(arms):
    rows = [["students", "seeds", "RE", "REKD", "variance of RE / of REKD"]]
    for name in SETS:
        for epochs in EPOCHS[name]:
            found = arms[epochs_arm(name, epochs)]
            if min(len(found["re"]), len(found["rekd"])) < 5:
                continue
            ratio = variance_ratio(found["re"], found["rekd"])
            told = "{:.2g} ({:.2g} to {:.2g})".format(*ratio)
            cells = [spread(measured(found[method], "accuracy"), 4) for method in ("re", "rekd")]
            rows.append([f"{SETS[name]}, {epochs} epochs", str(len(found["re"])), *cells, told])
    if len(rows) == 1:
        return ""
    return f"### Does REKD vary less from seed to seed?\n\n{aligned(rows)}\n\n{VARIANCE.strip()}"


def rationales(arms):
    """Are they right, and faithful?"""
    parts = ["### Are the rationales right, and faithful?", RIGHT.strip()]
    for name, title in SETS.items():
        found = arms[base(name)]
        if any("judge" in line for line in found["re"].values()):
            parts += [f"{title}:", table_of_masks(found)]
    return parts if len(parts) > 2 else []


def every_arm(arms):
    """Accuracies of all arms, none left out."""
    rows = [["arm", "seeds", "CLS", "RE", "REKD", "F1 of RE", "F1 of REKD"]]
    for arm, found in arms.items():
        seeds = max(len(found[method]) for method in ("cls", "re", "rekd"))
        if seeds:
            cells = [spread(measured(found[method], "accuracy"), 3)
                     for method in ("cls", "re", "rekd")]
            cells += [spread(measured(found[method], "f1"), 2) for method in ("re", "rekd")]
            rows.append([arm, str(seeds), *cells])
    return "## Every arm\n\nAccuracy on the test set.\n\n" + aligned(rows)


def small_table(arms):
    """The table of the repository's README, and the line under it."""
    rows = ["| data | CLS | RE | REKD | random |", "|" + "---|" * 5]
    seeds = set()
    for arm, name in SMALL.items():
        if not arms[arm]["re"]:
            continue
        cells = [spread(measured(arms[arm][method], "accuracy"), 3)
                 for method in ("cls", "re", "rekd")]
        control = arms.get(f"{arm.removesuffix('-base')}-random")
        cells.append(spread(measured(control["re"], "accuracy"), 3) if control else "-")
        rows.append(f"| {' | '.join([name, *cells])} |")
        seeds.add(len(arms[arm]["re"]))
    return "\n".join([*rows, "", fill(SMALL_NOTE.strip().format(seeds=span(seeds)), 100)])


def findings(arms):
    return ["## Findings", *paragraphs(FINDINGS, {}, arms)]


# ------------------------------------------------------------------------------------------- tables
MASKS = ["by rank", "sampled", "random", "saliency", "attention"]


def table_of_masks(found):
    """Accuracy of the predictor, by the mask it reads; and what the masks by rank alone tell."""
    rows = [["method", *MASKS, "alone", "F1", "sufficiency", "comprehensiveness"]]
    for method in ("cls", "re", "rekd"):
        judged = [line["judge"] for line in found[method].values() if "judge" in line]
        if judged:
            own = "saliency" if method == "cls" else "by rank"  # which has no other rationale
            cells = [[masks[name]["accuracy"] for masks in judged if name in masks]
                     for name in MASKS]
            cells += [[masks[own][key.lower()] for masks in judged if key.lower() in masks[own]]
                      for key in rows[0][len(MASKS) + 1:]]
            rows.append([method.upper(), *(spread(values, 3) for values in cells)])
    return aligned(rows)


def gap_recovered(found):
    """(REKD - RE) / (CLS - RE), where CLS - RE is more than two standard errors above 0."""
    gap = counts(found["cls"], found["re"])
    if len(gap) < 2:
        return "-"
    if mean(gap) <= 2 * stdev(gap) / len(gap) ** 0.5:
        return "no gap to recover"
    return f"{mean(counts(found['rekd'], found['re'])) / mean(gap):.0%}"


def verdict(found):
    """What stands below a table: the teacher, REKD - RE, the gap."""
    line = list(found["rekd"].values())[-1]
    told = line["teacher"]
    more, examples = counts(found["rekd"], found["re"]), line["test"]["examples"]
    p = f", p = {number(sign_flip_test(more), 3)}" if len(more) >= LEAST else ""
    return (f"- Teacher: {told['preset']}, dev accuracy {number(told['dev']['accuracy'], 4)} at "
            f"rate {number(told['dev']['rate_mean'], 3)}.\n- REKD - RE, paired by seed: "
            f"{spread([count / examples for count in more], 4)}{p}.\n"
            f"- Gap recovered: {gap_recovered(found)}.")


def budget(found):
    """-> "6 seeds, 4 epochs (teacher: 8)" """
    runs, teachers = list(found["re"].values()), list(found["teacher"].values())
    text = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
    text += f", {runs[0]['config']['epochs']} epochs"
    return text + (f" (teacher: {teachers[-1]['config']['epochs']})" if teachers else "")


class NotMeasured(Exception):
    """No line has this figure (yet)."""


class Figures(dict):
    """The mean of {re_accuracy}, and of {glyphs-base/re_accuracy}, when a text asks for it.

    {arm/re_spread} is the mean accuracy and its standard deviation, {arm/re_seeds} of how many
    seeds, {arm/re_below} how far it is below that of the arm's base.
    """

    def __init__(self, found, arms):
        super().__init__(found=found, arms=arms)

    def __missing__(self, name):
        arm, _, name = name.rpartition("/")
        found = self["arms"][arm] if arm else self["found"]
        method, _, key = name.partition("_")
        values = measured(found[method], "accuracy" if key in ("spread", "seeds", "below") else key)
        if not values:
            raise NotMeasured(name)
        if key == "spread":
            return spread(values, 3)
        if key == "seeds":
            return "one seed" if len(values) == 1 else f"{len(values)} seeds"
        if key == "below":  # the base, by so much
            base_arm = self["arms"][base(arm.partition("-")[0])]
            return mean(measured(base_arm[method], "accuracy")) - mean(values)
        return mean(values)


def paragraphs(text, found, arms=None):
    """Words with figures, see Figures. A paragraph whose figures no line has is left out."""
    parts = []
    for part in text.split("\n\n"):
        with contextlib.suppress(NotMeasured):
            parts.append(part.format_map(Figures(found, arms)))
    return [fill(part.strip(), 100, break_on_hyphens=False) for part in parts if part]


def section(arm, found):
    commits = sorted({line["commit"] for runs in found.values() for line in runs.values()})
    parts = [f"## {TITLES[arm]}", f"`python results/study.py {arm}`: {budget(found)}; "
             f"commit {', '.join(commits)}.", table(found, COLUMNS)]
    parts += [verdict(found)] if found["rekd"] else []
    if any("judge" in line for line in found["re"].values()):
        parts.append(table_of_masks(found))
    parts += paragraphs(NOTES.get(arm, ""), found)
    return "\n\n".join(parts)


# -------------------------------------------------------------------------------------- the words
INTRODUCTION = """\
# Results

`python results/study.py --report` writes this page, its charts and the table of the repository's
README from `runs.jsonl`. That file holds one line for every run: its options, its results on the
test and dev sets, losses, accuracy, F1 and sampled rate of each epoch, its command, the versions of
Python and torch, the hardware, and the commit of the code that made it.
`python results/study.py ARM` makes the runs of an arm that have no line yet.

Lines of commits before f087382 were made with another gradient of hidden positions in attention
under `drop` (e / Z, at most e^3, instead of e / (Z + e)). What was made again since then (CIFAR-10;
IMDB with 2,000 reviews, RE, first seed: .722, before .714) is the line that counts.

The checkpoint of a run is chosen on dev examples. The test set is used once, by that checkpoint.
The columns:

- *accuracy*: on the test set. All figures are means over the seeds +- sample standard deviation.
  Where all seeds have the same value, it stands alone.
- *rate*: the share of patches or words that the rationale keeps, the same for every example but for
  rounding. CLS has no rationale: it reads everything.
- *empty*: the share of test examples whose rationale keeps nothing.
- *F1*, *IoU*: agreement of the rationale with the true one, where that is known.
- *parameters*: of the student. *seconds*: its training, on one thread of a busy CPU.
- *p*: exact two-sided sign-flip test of REKD - RE, on counts of right answers. Six seeds cannot
  give less than 0.031; with fewer than six there is no test.
- The second table of an arm: the accuracy of the same predictors, of three seeds, on at most 2,000
  test examples, when they read their generator's best features (*by rank*, as above), a draw as in
  training (*sampled*), and as many features chosen at *random*, by *saliency* (gradient x
  input) or by *attention* (of [CLS] in the last block). *alone*: how well a small network tells the
  class from the masks by rank, without any content. *sufficiency* (low is good) and
  *comprehensiveness* (high is good) follow ERASER.
- *gap recovered*: (REKD - RE) / (CLS - RE), the share of what RE loses that the teacher brings
  back. It is given only where CLS - RE is more than two standard errors above 0.
"""

FINDINGS = """
1. **A pretrained teacher makes a small student better than it would be by itself.** On IMDB with
2,000 reviews (`bert_nano`, 64 tokens), REKD has {minilm/rekd_accuracy:.3f}, from a tenth of the
words; at the same data, vocabulary, epochs and steps RE has {minilm/re_accuracy:.3f}, and CLS,
which reads everything, {minilm/cls_accuracy:.3f}. (A bigger student that reads 128 tokens for
longer needs no teacher for more: CLS {imdb-2000/cls_accuracy:.3f}.)

2. **That gain is the teacher's, not the rationale's.** A CLS student that learns from the same
teacher's predictions, and reads everything, has {minilm-everything/rekd_accuracy:.3f}. What REKD
adds is that its reasons are known, at that accuracy.

3. On IMDB both distillations are needed: predictions alone give
{minilm-prediction-only/rekd_accuracy:.3f}, rationales alone
{minilm-rationale-only/rekd_accuracy:.3f}. On the built-in sets no difference was found.

4. **Where a teacher knows no more than its student could learn, REKD saves time at most.** On
phrases it is ahead of RE after 4 epochs ({phrases-epochs-4/rekd_accuracy:.3f} and
{phrases-epochs-4/re_accuracy:.3f}), hardly after 8 ({phrases-base/rekd_accuracy:.3f} and
{phrases-base/re_accuracy:.3f}); on glyphs it is never clearly ahead, and behind after 1. After the
correction none of these differences is significant.

Where the teacher is better than its students by being bigger, it helps: IMDB, 10,000 reviews, from
scratch, three seeds: teacher {imdb-10000/teacher_accuracy:.3f}, REKD
{imdb-10000/rekd_accuracy:.3f}, RE {imdb-10000/re_accuracy:.3f}, CLS {imdb-10000/cls_accuracy:.3f}.

5. **Once REKD has learned, it varies less from seed to seed than RE.** Phrases, 16 epochs: RE
{phrases-epochs-16/re_spread}, REKD {phrases-epochs-16/rekd_spread}; IMDB: {minilm/re_spread} and
{minilm/rekd_spread}. In the first epochs on phrases it varies more.

6. **A bad teacher is worse than none.** On phrases, one of 2 epochs costs its students
{phrases-teacher-weak/rekd_below:.3f}, and rationales that are one word off cost
{phrases-shifted/rekd_below:.3f}; on glyphs the same costs {glyphs-teacher-weak/rekd_below:.3f} and
{glyphs-shifted/rekd_below:.3f}. One of its student's size teaches almost as well, and its students'
rationales are nearer to the truth. With 500 examples on phrases the teacher itself reaches only
{phrases-examples-500/teacher_accuracy:.3f}; its students have
{phrases-examples-500/rekd_accuracy:.3f}, RE {phrases-examples-500/re_accuracy:.3f}.

7. **The shared annealing hardly matters.** On phrases, exponential, linear, tau at .5, 1 or 5
throughout, and annealed noise are all within .003 of the cosine. On glyphs the exponential is
{glyphs-exponential/rekd_below:.3f} below it, the only difference that is significant.

8. **Something is selected where there is something to find.** A predictor that is trained on random
masks has {glyphs-random/re_accuracy:.3f} on glyphs, {phrases-random/re_accuracy:.3f} on phrases,
{minilm-random/re_accuracy:.3f} on IMDB, where RE has {glyphs-base/re_accuracy:.3f},
{phrases-base/re_accuracy:.3f} and {minilm/re_accuracy:.3f}.

On photographs of CIFAR-10 in clutter (`clutter.py`; 2,000 images, {fresh-clutter/re_seeds}), random
masks have {fresh-clutter-random/re_accuracy:.3f}, RE {fresh-clutter/re_accuracy:.3f}, REKD
{fresh-clutter/rekd_accuracy:.3f} and CLS {fresh-clutter/cls_accuracy:.3f}.

9. **What a mask's gradient weighs decides whether anything is selected.** The objects of CIFAR-10
fill their images, and any patches tell something. Four crops and flips of each image, 10,000 images
and 20 epochs: a predictor of random patches has
{cifar10-10000-random/re_accuracy:.3f}, one that reads the same ten
patches of every image {cifar10-10000-same/re_accuracy:.3f}. With the softmax's gradient RE stays
below both, at {softmax-cifar10-10000/re_accuracy:.3f} ({softmax-cifar10-10000/re_seeds}): its masks
stay random in training. With the balanced gradient (`balanced_slope` in rekd.py; the default for
images from scratch) it has {cifar10-10000/re_accuracy:.3f} ({cifar10-10000/re_seeds}).

A bigger teacher that was trained for 60 epochs, {cifar10-10000/teacher_accuracy:.3f}, adds little:
REKD has {cifar10-10000/rekd_accuracy:.3f} ({cifar10-10000/rekd_seeds}).

After 60 epochs ({cifar10-long/re_seeds}) RE has {cifar10-long/re_accuracy:.3f} with the balanced
gradient, {softmax-cifar10-long/re_accuracy:.3f} with the softmax's, random patches
{cifar10-long-random/re_accuracy:.3f}, CLS {cifar10-long/cls_accuracy:.3f}.

10. **A sure generator needs new crops in every epoch.** From four crops of 2,000 images, in 80
epochs, both networks learn the training images by heart: RE has {cifar10-2000/re_accuracy:.3f}
({cifar10-2000/re_seeds}), a predictor of random patches, which change all the time,
{cifar10-2000-random/re_accuracy:.3f}. With other crops in each of 100 epochs (the default from
scratch) RE has {fresh-2000/re_accuracy:.3f} ({fresh-2000/re_seeds}), random patches
{fresh-2000-random/re_accuracy:.3f}, CLS {fresh-2000/cls_accuracy:.3f}; a teacher of the student's
own size lifts it to {fresh-2000/rekd_accuracy:.3f} ({fresh-2000/rekd_seeds}).

With 10,000 images and 57 epochs RE has {fresh-10000/re_accuracy:.3f} ({fresh-10000/re_seeds}), REKD
{fresh-10000/rekd_accuracy:.3f} ({fresh-10000/rekd_seeds}), random patches
{fresh-10000-random/re_accuracy:.3f}, CLS {fresh-10000/cls_accuracy:.3f}.

A bigger teacher (vit:64:4:4, one seed) learned less in the same steps than RE of the student's
size: {fresh-2000-big/teacher_accuracy:.3f} from 2,000 images,
{fresh-10000-big/teacher_accuracy:.3f} from 10,000.

Nor did pretrained weights make a teacher of images yet: DINOv2's ViT-Small, trained by RE on 2,000
images of 112 px for 6 epochs (lr 5e-5, one try), has {vitsmall/teacher_accuracy:.3f}, less than
small networks from scratch, so nobody was taught by it.

11. A post-hoc explanation can leak: on phrases, the *places* of the words that CLS finds salient,
without the words, tell the class (column *alone* of CLS); those of RE and REKD do not.

12. A student's rationales become its teacher's. After one epoch on phrases, REKD's agree with the
truth with F1 {phrases-epochs-1/rekd_f1:.2f} and RE's with {phrases-epochs-1/re_f1:.2f}; at the end,
REKD has its teacher's ({phrases-epochs-16/rekd_f1:.2f}; teacher {phrases-base/teacher_f1:.2f}), and
RE {phrases-epochs-16/re_f1:.2f}, which is more.
"""

CHARTS = """
Mean of the seeds with its 95 % interval. Base of the built-in sets: 2,000 training examples, 8
epochs, glyphs with masking `drop` and phrases with `zero`; one point is changed at a time. Of IMDB:
2,000 reviews of up to 64 tokens, masking `drop`, students (`bert_nano`) from scratch, a teacher of
six pretrained layers, whose vocabulary all of them read. CLS, RE and REKD students of a place have
the same data, epochs and steps.

The REKD students of Phrases with 32 epochs, and of other sizes than `bert_nano`, had a second
training of their teacher, with the same options on another machine. It turned out weaker, and REKD
with it (each line of `runs.jsonl` tells its teacher's accuracy on dev): read those points by
themselves.
"""

PAIRED = """
Differences are paired by seed, +- half of a 95 % interval (Student's t). p: exact two-sided
sign-flip test; *Holm*: corrected for the number of tests in its table. Fewer than six seeds are not
tested.
"""

READINGS = {}

VARIANCE = """
Accuracy, mean +- standard deviation; the ratio with a 95 % bootstrap interval over the seeds.
"""

RIGHT = """
Three seeds, at most 2,000 test examples; columns as in the introduction. CLS has no rationale: its
row shows random features, those of largest gradient x input (saliency) or attention, and what
saliency gives away, its sufficiency and comprehensiveness. Its predictor never learned to read a
part.
"""

ASK = """
### Do people find them better? Not asked yet

`python results/ask.py RUN RUN`, with the folders of an RE and a REKD student of the same data and
rate, writes `ask.html`: one file that needs no network, for a computer or a phone. It shows 30 test
examples (`--examples`), each with its label and the two rationales, unnamed and in random order; a
reader picks the one that explains the label better, or neither. Equal rationales are left out and
counted. Answers stay in the browser until the reader saves them to a small file.

`python results/ask.py answers-*.json` counts such files: for each reader and in all, how often
REKD, RE or neither was picked, REKD's share of the decided with its exact (Clopper-Pearson) 95 %
interval, and an exact two-sided binomial test. Answers of several readers to the same examples are
not independent, so the line "by majority", where every example counts once, is the safer one.
"""

SMALL = {  # the rows of the repository's README
    "glyphs-base": "Glyphs, 2,000 images",
    "phrases-epochs-4": "Phrases, `zero`, 2,000 texts, 4 epochs",
    "phrases-base": "the same, 8 epochs",
    "minilm": "IMDB, 2,000 reviews of 64 tokens, pretrained teacher",
    "imdb-2000": "IMDB, 2,000 reviews, from scratch",
    "fresh-10000": "CIFAR-10, 10,000 images, 57 epochs",
    "fresh-2000": "the same, 2,000 images, 100 epochs",
}

SMALL_NOTE = """
Test accuracy, mean +- standard deviation of {seeds} seeds. *Random*: a predictor trained on random
features. In a row, data, epochs and steps are equal. A pretrained teacher's students are smallest.
More in [results/README.md](results/README.md).
"""

TITLES = {
    "glyphs-drop": "Glyphs, masking drop",
    "glyphs-zero": "Glyphs, masking zero",
    "phrases-drop": "Phrases, masking drop",
    "phrases-zero": "Phrases, masking zero",
    "glyphs-zero-lambda": "Glyphs, masking zero, the rate steered by L_select as in the paper",
    "phrases-zero-lambda": "Phrases, masking zero, the rate steered by L_select as in the paper",
    "glyphs-zero-cold": "Glyphs, masking zero, at the target rate from the first step",
    "glyphs-drop-unpacked": "Glyphs, masking drop, all features computed in training",
    "phrases-drop-unpacked": "Phrases, masking drop, all features computed in training",
    "imdb-2000": "IMDB from scratch, 2,000 training reviews, masking drop",
    "fresh-2000": "CIFAR-10 from scratch, 2,000 images, new crops in every epoch",
    "fresh-10000": "CIFAR-10 from scratch, 10,000 images, new crops in every epoch",
    "fresh-2000-random": "The same, 2,000 images, a predictor that is trained on random masks",
    "fresh-10000-random": "The same, 10,000 images, a predictor that is trained on random masks",
    "cifar10-2000": "CIFAR-10 from scratch, 2,000 training images, four crops, masking drop",
    "softmax-cifar10-2000": "CIFAR-10, 2,000 images, the softmax's gradient of a mask",
    "softmax-cifar10-2000-annealed": "CIFAR-10, 2,000 images, softmax's gradient, noise annealed",
    "fresh-clutter": "Photographs of CIFAR-10 in clutter, from scratch, new crops in every epoch",
    "fresh-clutter-random": "Photographs in clutter, new crops, a predictor of random masks",
    "clutter-2000": "Photographs of CIFAR-10 in clutter, four crops, masking drop",
    "softmax-clutter-2000": "Photographs in clutter, four crops, the softmax's gradient of a mask",
    "clutter-2000-random": "Photographs in clutter, a predictor that is trained on random masks",
    "imdb-10000": "IMDB from scratch, 10,000 training reviews, masking drop",
    "imdb-10000-random": "IMDB, 10,000 reviews, a predictor that is trained on random masks",
    "cifar10-10000": "CIFAR-10 from scratch, 10,000 training images, four crops, masking drop",
    "softmax-cifar10-10000": "CIFAR-10, 10,000 images, the softmax's gradient of a mask",
    "cifar10-10000-random": "CIFAR-10, 10,000 images, a predictor that is trained on random masks",
    "cifar10-10000-same": "CIFAR-10, 10,000 images, the same patches of every image",
    "cifar10-long": "CIFAR-10 from scratch, 10,000 training images, four crops, 60 epochs",
    "softmax-cifar10-long": "CIFAR-10, 10,000 images, 60 epochs, the softmax's gradient of a mask",
    "softmax-cifar10-long-annealed": "CIFAR-10, 60 epochs, softmax's gradient, noise annealed",
    "cifar10-long-random": "CIFAR-10, 10,000 images, 60 epochs, a predictor of random masks",
    "minilm": "IMDB, 2,000 training reviews of up to 64 tokens, a pretrained teacher, masking drop",
    "imdb-2000-random": "IMDB, 2,000 reviews, a predictor that is trained on random masks",
    "cifar10-2000-random": "CIFAR-10, 2,000 images, a predictor that is trained on random masks",
}

NOTES = {  # what to read from an arm's tables
    "glyphs-drop": """\
All three methods tell the digit. What the teacher changes is the rationale: F1 is {rekd_f1:.2f}
with it and {re_f1:.2f} without, on the average, and it differs less from seed to seed.""",
    "glyphs-zero-lambda": """\
The same students as in glyphs-zero, but without `at_rate` and without the rate's curriculum:
`--lambda-select 1e-2`.""",
    "phrases-zero-lambda": """\
As for glyphs: `--lambda-select 1e-2` instead of `at_rate` and the rate's curriculum.""",
    "glyphs-zero-cold": """\
With `at_rate`, but without the rate's curriculum.""",
    "glyphs-drop-unpacked": """\
What packing costs in accuracy: compare with glyphs-drop, which computes the selected patches and a
random part of the others.""",
    "phrases-drop-unpacked": """\
As for glyphs: compare with phrases-drop.""",
    "fresh-clutter": """\
Each photograph stands at a random place among small pieces of others (`results/clutter.py`), and
covers a quarter of the patches: here it matters what is kept. *F1* tells how much of what is kept
lies in the photograph; a mask of random patches has .25.""",
    "cifar10-10000": """\
Balanced gradient of a mask. Compare with a predictor that is trained on random patches
(cifar10-10000-random), and with the softmax's gradient (softmax-cifar10-10000).""",
    "softmax-cifar10-10000": """\
RE stays below a predictor that is trained on random patches (cifar10-10000-random), and its own
predictor reads random patches better than those that its generator chose.""",
    "cifar10-long": """\
Compare with cifar10-long-random and softmax-cifar10-long, and with fresh-10000, whose crops are new
in every epoch.""",
    "fresh-2000": """\
What `train.py` does by default for a folder of small images, here 2,000. Its teacher is RE of the
first seed.""",
    "fresh-10000": """\
The same with 10,000.""",
    "imdb-10000": """\
RE and REKD reach {re_accuracy:.3f} and {rekd_accuracy:.3f} from a tenth of the words, CLS
{cls_accuracy:.3f} from all of them.""",
    "imdb-2000": """\
RE and REKD reach {re_accuracy:.3f} and {rekd_accuracy:.3f} from a tenth of the words; CLS,
{cls_accuracy:.3f} from all of them. The same predictors on random words of that number are far
below, so it matters which words are kept.""",
    "cifar10-2000": """\
The object fills the image, and any patches will do. A predictor that is trained on random patches
(cifar10-2000-random) is better than RE: it never sees the same patches of an image twice, while
RE's generator soon is sure, and both networks learn the training images by heart.""",
}
