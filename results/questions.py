"""What results/README.md asks, with the arms that answer it, and the statistics.

Every comparison is paired by seed: the same data, split, epochs and steps on both sides. `p` is the
exact two-sided sign-flip test on counts of right test examples; `p, Holm` corrects it for the
number of comparisons in the question. Intervals are 95 % (Student's t over the seeds' differences).
"""
import random
from statistics import mean, stdev
from textwrap import fill

from charts import interval

from rekd import sign_flip_test

SETS = {"glyphs": "Glyphs", "phrases": "Phrases", "minilm": "IMDB"}  # by prefix of an arm's name
CIFAR = {"fresh-2000": "CIFAR-10, 2,000 images", "fresh-10000": "CIFAR-10, 10,000 images",
         "fresh-clutter": "CIFAR-10 in clutter, 2,000 images",
         "vitsmall": "CIFAR-10, 112 px, pretrained teacher",
         "vitsmall-cut": "CIFAR-10, 112 px, students of its first 3 layers",
         "vitsmall-clutter": "CIFAR-10 in clutter, 112 px, pretrained teacher"}
IMDB = {"minilm-128": "IMDB, 128 tokens", "minilm-zero": "IMDB, masking zero",
        "minilm-cut-1": "IMDB, student of the teacher's first layer",
        "minilm-cut-2": "IMDB, student of its first two layers",
        "minilm-size-bert:16:1:1": "IMDB, half as wide, one layer",
        "minilm-size-bert:64:2:4": "IMDB, twice as wide",
        "minilm-size-bert:128:2:4": "IMDB, four times as wide"}
LEAST = 6  # seeds for a test: with five, p is .0625 at the least
EPOCHS = {"glyphs": (1, 2, 4, 8, 16, 32), "phrases": (1, 2, 4, 8, 16, 32), "minilm": (3, 6, 12, 24)}


def base(name):
    return "minilm" if name == "minilm" else f"{name}-base"


def epochs_arm(name, epochs):
    return "minilm" if (name, epochs) == ("minilm", 12) else f"{name}-epochs-{epochs}"


BASES = {**{base(name): title for name, title in SETS.items()}, **CIFAR}  # {arm: title}


def beside_base(variants):
    """REKD as it is by default, beside a variant of it."""
    return [(f"{title}: default - {label}", (base(name), "rekd"), (f"{name}-{arm}", "rekd"))
            for name, title in SETS.items() for arm, label in variants.items()]


QUESTIONS = {  # question: [(what, (arm, method), (arm, method) to compare with)]
    "Is anything selected?": [
        (f"{title}: {method.upper()} - predictor trained on random masks",
         (arm, method), (f"{arm.removesuffix('-base')}-random", "re"))
        for arm, title in BASES.items() for method in ("re", "rekd")],
    "Where is REKD better than RE, at equal epochs?": [
        (f"{title}: REKD - RE", (arm, "rekd"), (arm, "re"))
        for arm, title in [*((epochs_arm(name, epochs), f"{title}, {epochs} epochs")
                             for name, title in SETS.items() for epochs in EPOCHS[name]),
                           *IMDB.items(), *CIFAR.items()]],
    "And with fewer examples, at equal steps?": [
        (f"{SETS[name]}, {n} examples: REKD - RE", (f"{name}-examples-{n}", "rekd"),
         (f"{name}-examples-{n}", "re"))
        for name in SETS for n in (250, 500, 1000, 2000, 4000, 8000, 25000)],
    "Does the shared annealing matter?": beside_base({
        "exponential": "exponential", "linear": "linear", "constant-0.5": "tau .5 throughout",
        "constant-1": "tau 1 throughout", "constant-5": "tau 5 throughout",
        "annealed-noise": "annealed noise"}),
    "Does the mask's gradient matter?": [
        (f"{title}, {label}: balanced - softmax", (balanced, method), (softmax, method))
        for title, balanced, softmax in (
            ("CIFAR-10, 10,000 images, 60 epochs", "cifar10-long", "softmax-cifar10-long"),
            ("CIFAR-10, 2,000 images", "cifar10-2000", "softmax-cifar10-2000"),
            ("CIFAR-10 in clutter", "clutter-2000", "softmax-clutter-2000"),
            ("Glyphs, 4 epochs", "balanced-glyphs-epochs-4", "glyphs-epochs-4"),
            ("Glyphs, 8 epochs", "balanced-glyphs-base", "glyphs-base"))
        for method, label in (("re", "RE"), ("rekd", "REKD and its teacher"))],
    "What does packing cost?": [
        (f"{title}, RE: packed - all features computed", (packed, "re"), (unpacked, "re"))
        for title, packed, unpacked in (
            ("Glyphs, 6,000 images", "glyphs-drop", "glyphs-drop-unpacked"),
            ("Phrases, 6,000 texts", "phrases-drop", "phrases-drop-unpacked"),
            ("IMDB, 2,000 reviews, from scratch", "imdb-packed", "imdb-unpacked"),
            ("CIFAR-10, 2,000 images, 40 epochs", "cifar10-packed", "cifar10-unpacked"))],
    "Which distillation helps?": beside_base({
        "prediction-only": "predictions alone", "rationale-only": "rationales alone",
        "alpha-0": "alpha 0", "alpha-0.3": "alpha .3", "alpha-0.7": "alpha .7"}),
    "Were rationales worth distilling?": [
        row for arm, title in BASES.items() for row in (
            (f"{title}: REKD - CLS student taught by predictions", (arm, "rekd"),
             (f"{arm.removesuffix('-base')}-everything", "rekd")),
            (f"{title}: CLS student taught by predictions - CLS",
             (f"{arm.removesuffix('-base')}-everything", "rekd"), (arm, "cls")),
            (f"{title}: REKD - CLS", (arm, "rekd"), (arm, "cls")))],
    "Whose mask, whose noise?": beside_base({
        "own-mask": "teacher reads its own mask", "independent": "independent noise"}),
    "Which teacher?": beside_base({
        "teacher-same": "of the student's size", "teacher-weak": "weak, 2 epochs",
        "shifted": "rationales one place off"}),
}


def holm(ps):
    """Holm's step-down correction: the i-th smallest of m is multiplied by m - i, and none may
    fall below the one before it."""
    corrected, least = {}, 0.0
    for i, p in enumerate(sorted(ps)):
        least = max(least, min(1.0, p * (len(ps) - i)))
        corrected.setdefault(p, least)
    return [corrected[p] for p in ps]


def paired(better, worse, key):
    """{seed: line} twice -> the differences of a metric of the test, seed by seed."""
    pairs = [(better[seed]["test"].get(key), worse[seed]["test"].get(key))
             for seed in better if seed in worse]
    return [a - b for a, b in pairs if None not in (a, b)]


def counts(better, worse):
    """By seed, how many more test examples are right: whole numbers, so that ties stay ties."""
    return [round(difference * next(iter(better.values()))["test"]["examples"])
            for difference in paired(better, worse, "accuracy")]


def compare(found, rows):
    """found: {arm: students}. -> [dict of one comparison], of the rows that have runs."""
    compared = []
    for what, (arm, method), (other, its_method) in rows:
        if not {arm, other} <= found.keys():
            continue  # not every set has every arm
        better, worse = found[arm][method], found[other][its_method]
        differences = paired(better, worse, "accuracy")
        if len(differences) < 2:
            continue
        chosen = all(line["test"]["rate_mean"] < 1 for line in (*better.values(), *worse.values()))
        f1 = paired(better, worse, "f1") if chosen else []  # who reads everything chose nothing
        compared.append({"what": what, "mean": mean(differences), "half": interval(differences),
                         "n": len(differences), "f1": f1,
                         "p": sign_flip_test(counts(better, worse))})
    tested = [row for row in compared if row["n"] >= LEAST]
    for row, p in zip(tested, holm([row["p"] for row in tested])):
        row["holm"] = p
    return compared


def variance_ratio(re, rekd, draws=2000):
    """Variance of RE's accuracy over that of REKD's, with a 95 % bootstrap interval over seeds.
    Where REKD does not vary it is infinite."""
    seeds = [seed for seed in re if seed in rekd]
    accuracy = [(re[seed]["test"]["accuracy"], rekd[seed]["test"]["accuracy"]) for seed in seeds]

    def ratio(pairs):
        a, b = (stdev(values) for values in zip(*pairs))
        return (a / b) ** 2 if b else float("inf")

    generator = random.Random(0)
    drawn = sorted(ratio(generator.choices(accuracy, k=len(accuracy))) for _ in range(draws))
    return ratio(accuracy), drawn[draws // 40], drawn[-1 - draws // 40]


def answer(compared):
    """One sentence: which differences are significant after the correction."""
    tested = [row for row in compared if "holm" in row]
    sure = [row for row in tested if row["holm"] < 0.05]
    if not tested:
        return "Too few seeds for a test: read the intervals."
    up = [row["what"] for row in sure if row["mean"] > 0]
    down = [row["what"] for row in sure if row["mean"] < 0]
    verb = "differs" if len(sure) == 1 else "differ"
    parts = [f"Of {len(tested)} tested (six seeds or more), {len(sure)} {verb} in accuracy at .05 "
             f"after the correction"]
    if up:
        parts.append("the first is better in: " + ", ".join(up))
    if down:
        parts.append("the second is better in: " + ", ".join(down))
    return fill("; ".join(parts) + ".", 100)
