"""The look of results/README.md: tables, charts, findings. What it says stands in words.py.

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
from words import (
    ASK,
    CHARTS,
    EVERY_ARM,
    FINDINGS,
    INTRODUCTION,
    NOTES,
    PAIRED,
    READINGS,
    RIGHT,
    SMALL,
    SMALL_NOTE,
    TITLES,
    VARIANCE,
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
    parts = ["## Charts", *paragraphs(CHARTS, {}, arms)]
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
    parts = ["### Are the rationales right, and faithful?"]
    for name, title in SETS.items():
        found = arms[base(name)]
        if judgements(found["re"]):
            parts += [f"{title}:", table_of_masks(found)]
    return [*parts, *paragraphs(RIGHT, {}, arms), opinions(arms)] if len(parts) > 1 else []


def opinions(arms):
    """Of each arm that was judged so, what share of the kept words is an opinion."""
    rows = [["opinion words among the kept", "CLS, saliency", "RE", "REKD"]]
    for arm, found in arms.items():
        shares = [given(judgements(found[method]), mask, "opinions")
                  for method, mask in OWN.items()]
        if any(shares):
            rows.append([arm, *(spread(values, 3) for values in shares)])
    return aligned(rows) if len(rows) > 1 else ""


def every_arm(arms):
    """Accuracies of all arms, none left out."""
    rows = [["arm", "seeds", "CLS", "RE", "REKD", "F1 of RE", "F1 of REKD"]]
    for arm, found in arms.items():
        seeds = [str(len(found[method])) for method in ("cls", "re", "rekd")]
        if any(map(int, seeds)):
            cells = [spread(measured(found[method], "accuracy"), 3)
                     for method in ("cls", "re", "rekd")]
            cells += [spread(measured(found[method], "f1"), 2) for method in ("re", "rekd")]
            if arm.endswith("everything"):
                cells[-1] = "-"  # a CLS student chose nothing
            rows.append([arm, "/".join(seeds), *cells])
    return "\n\n".join(["## Every arm", EVERY_ARM.strip(), aligned(rows)])


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
    note = paragraphs(SMALL_NOTE.replace("SEEDS", span(seeds)), {}, arms)
    return "\n".join([*rows, "", *note])


def findings(arms):
    return ["## Findings", *paragraphs(FINDINGS, {}, arms)]


# ------------------------------------------------------------------------------------------- tables
MASKS = ["by rank", "sampled", "random", "saliency", "attention"]
OWN = {"cls": "saliency", "re": "by rank", "rekd": "by rank"}  # CLS has no other rationale
GIVEN = {"alone": "alone", "F1": "f1", "sufficiency": "sufficiency",  # head: key
         "comprehensiveness": "comprehensiveness", "opinions": "opinions"}


def judgements(runs):
    """What --judge says of the seeds that were judged."""
    return [line["judge"] for line in runs.values() if "judge" in line]


def given(judged, mask, key):
    return [masks[mask][key] for masks in judged if key in masks.get(mask, {})]


def table_of_masks(found):
    """Accuracy of the predictor, by the mask it reads; and how good its own mask is. Last, how good
    random features are."""
    rows = [["method", *MASKS, *GIVEN]]
    for method, own in (*OWN.items(), ("rekd", "random")):
        judged = judgements(found[method])
        if judged:
            cells = [given(judged, name, "accuracy") for name in MASKS]
            if own == "random":
                cells = [[]] * len(MASKS)  # they stand one line above
            cells += [given(judged, own, key) for key in GIVEN.values()]
            label = "random" if own == "random" else method.upper()
            rows.append([label, *(spread(values, 3) for values in cells)])
    columns = [column for column in zip(*rows) if {*column[1:]} != {"-"}]  # none measured
    return aligned([*zip(*columns)])


def gap_recovered(found):
    """(REKD - RE) / (CLS - RE), where both differences are sure."""
    gap, gain = counts(found["cls"], found["re"]), counts(found["rekd"], found["re"])
    if len(gap) < 2 or len(gain) < 2:
        return "-"
    if not is_sure(gap):
        return "no sure gap to recover"
    return f"{mean(gain) / mean(gap):.0%}" if is_sure(gain) else "nothing that is sure"


def is_sure(differences):
    """More than two standard errors above 0."""
    return mean(differences) > 2 * stdev(differences) / len(differences) ** 0.5


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
    seeds, {arm/re_below} how far it is below that of the arm's base. {arm/re_ceiling} is the best
    F1 that a rationale of that length can have, {arm/re_judged_f1} what --judge says of its mask
    ({arm/random_judged_f1}: of a random one).
    """

    def __init__(self, found, arms):
        super().__init__(found=found, arms=arms)

    def __missing__(self, name):
        arm, _, name = name.rpartition("/")
        found = self["arms"][arm] if arm else self["found"]
        method, _, key = name.partition("_")
        words = "spread", "seeds", "below"
        if key == "ceiling":
            values = [ceiling(line["test"]) for line in found[method].values()]
        elif key.startswith("judged_"):
            of = "rekd" if method == "random" else method
            values = given(judgements(found[of]), OWN.get(method, "random"),
                           key.removeprefix("judged_"))
        else:
            values = measured(found[method], "accuracy" if key in words else key)
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


def ceiling(test):
    """The best F1 that is possible when so many features are kept."""
    kept = test["recall"] / test["precision"]  # for each true one
    return 2 * min(kept, 1) / (kept + 1)


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
    if judgements(found["re"]):
        parts.append(table_of_masks(found))
    parts += paragraphs(NOTES.get(arm, ""), found)
    return "\n\n".join(parts)
