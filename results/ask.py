"""Do people find the rationales of a REKD student better than those of an RE student?

    python results/ask.py RUN RUN                 two run folders or best.pt -> a page, ask.html
    python results/ask.py answers-*.json          what its readers saved -> a table

The page shows test examples, each with its label and the two rationales, unnamed and in random
order; a reader picks the one that explains the label better, or neither. It is one file that needs
no network: send it to people, and collect the answers that its button saves. Nothing in the page
tells whose a rationale is; this script draws the order again from the page's key.
"""
import argparse
import base64
import hashlib
import html
import io
import json
import math
import sys
from collections import Counter
from pathlib import Path
from string import Template

RESULTS = Path(__file__).resolve().parent
sys.path[:0] = [str(RESULTS), str(RESULTS.parent)]
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import models  # noqa: E402
import train  # noqa: E402
from data import UserError  # noqa: E402
from results import pictures  # noqa: E402
from results.judge import data_of  # noqa: E402
from results.tables import aligned  # noqa: E402

NEITHER, FIRST, SECOND = 0, 1, 2  # an answer
FIELDS = {"page": str, "reader": str, "examples": int, "same": int, "answers": dict}  # of a file


# --------------------------------------------------------------------------------- which side is it
def lot(page, example):
    """Random bytes that the page's key and the example's name decide: they can be drawn again."""
    return hashlib.sha256(f"{page}, {example}".encode()).digest()


def rekd_is_first(page, example):
    return lot(page, example)[-1] % 2 == 0


# ---------------------------------------------------------------------------------------- the page
TASK = {"image": "Two programs told the label of an image from a few patches of it alone. The "
                 "patches that each one kept are bright, all others dark.",
        "text": "Two programs told the label of a text from a few of its words alone. The words "
                "that each one kept are marked."}
QUESTION = """<section data-example="{name}" hidden>
<h2 tabindex="-1">Label: <b>{label}</b></h2>
<div class="row">
{whole}
<figure><figcaption>1</figcaption>{first}</figure>
<figure><figcaption>2</figcaption>{second}</figure>
</div>
</section>"""
WHOLE = '<figure class="whole"><figcaption>Image</figcaption>{}</figure>'


def make_page(paths, args):
    """Two runs -> the page in args.out, and what is said of it."""
    runs, data = read_pair(paths, args)
    asked = []
    examples = pictures.test_examples(data, args.examples)
    for example in examples:
        found = [pictures.find(example, "", model, data.classes) for model in runs]
        whole, re, rekd = drawn(example, found, data.input)
        if re != rekd:
            asked.append((example.name, example.label, whole, re, rekd))
    if not asked:
        raise UserError(f"in all {len(examples)} examples both rationales are the same: there is "
                        f"nothing to ask")
    # The key hangs on all that is shown: the same runs make the same page, and others another.
    page = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
    asked.sort(key=lambda question: lot(page, question[0]))  # no class by class
    same = len(examples) - len(asked)
    template = Template((RESULTS / "ask_page.html").read_text("utf-8"))
    text = template.substitute(
        page=page, examples=len(examples), same=same, count=len(asked),
        task=TASK[data.input["kind"]], kind=data.input["kind"],
        questions="\n".join(question(page, *parts) for parts in asked))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    train.write_text(args.out, text)
    return (f"{args.out}: {len(asked)} questions; {same} of {len(examples)} examples left out, as "
            f"both rationales are the same")


def read_pair(paths, args):
    """-> [RE model, REKD model], their data. Refused where the two cannot be compared."""
    found = {}
    for path in map(Path, paths):
        path = path / "best.pt" if path.is_dir() else path
        model, info = models.load(path)
        role, method = info["config"]["role"], info["config"]["method"]
        found[f"{role} {method}"] = path, model, info
    if {*found} != {"student re", "student rekd"}:
        raise UserError(f"give an RE student and a REKD student, not {' and '.join(found)}")
    (path, re, info), (other, rekd, its_info) = found["student re"], found["student rekd"]
    for field in ("fingerprint", "classes", "input"):
        if info.get(field) != its_info.get(field):
            raise UserError(f"{path} and {other} are not of the same data: give two runs of one "
                            f"--compare")
    if re.rate != rekd.rate:
        raise UserError(f"{path} keeps {re.rate} of an input and {other} {rekd.rate}: give two "
                        f"runs of the same --rate")
    where = argparse.Namespace(checkpoint=path, data_dir=args.data_dir, device=torch.device("cpu"))
    return [re, rekd], data_of(argparse.Namespace(**info["config"]), info, where)


def drawn(example, found, data_input):
    """-> as HTML: the whole input (nothing, of a text), what each of two models kept of it."""
    example = example._replace(truth=None)  # which is not the question
    if example.spans is None:
        tiles = pictures.tiles(example, found, data_input["image_size"])
        images = [png(image) for image, *_ in tiles]
        whole = WHOLE.format(f'<img alt="The whole image" src="{images[0]}">')
        return [whole, *(f'<img alt="What one program kept of it" src="{image}">'
                         for image in images[1:])]
    width = data_input["max_length"]
    end = pictures.read_to(example, width)
    rest = "" if end == len(example.shown) else ' <span class="unread">[&hellip;]</span>'
    example = example._replace(shown=example.shown[:end])
    return ["", *(f'<p class="text">{pictures.html_text(example, [finding.mask], width)}{rest}</p>'
                  for finding in found)]


def png(image):
    """(3, H, W), 0 to 255 -> a data URI."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).byte().numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def question(page, name, label, whole, re, rekd):
    first, second = (rekd, re) if rekd_is_first(page, name) else (re, rekd)
    return QUESTION.format(name=html.escape(name), label=html.escape(label), whole=whole,
                           first=first, second=second)


# ------------------------------------------------------------------------------------- the answers
HEADER = ["reader", "answers", "REKD", "RE", "neither", "share", "95 % interval", "p"]
NOTE = """
share: of REKD among the decided, with its exact (Clopper-Pearson) interval
p: exact two-sided binomial test of a share of one half"""
MANY = """
all: as if no answer hung on another; of the same examples they do, so it is too sure of itself
by majority: every example counts once, for the one that more readers picked; ties as neither"""


def count(paths):
    """Files of answers -> the table: a line for each reader, then all of them."""
    files = [(path, read_answers(path)) for path in paths]
    readers, pages, votes, rows = {}, {}, {}, [HEADER]
    for path, file in files:
        page, reader = file["page"], file["reader"]
        if (page, reader) in readers:
            raise UserError(f"{readers[page, reader]} and {path} are of the same reader and page: "
                            f"give the later one alone")
        readers[page, reader] = path
        pages[page] = file
        picks = {example: winner(page, example, side) for example, side in file["answers"].items()}
        for example, pick in picks.items():
            votes.setdefault((page, example), []).append(pick)
        rows.append(row(Path(path).stem, picks.values(), file["examples"] - file["same"]))
    if len(files) > 1:
        asked = sum(file["examples"] - file["same"] for _, file in files)
        rows.append(row("all", [pick for picks in votes.values() for pick in picks], asked))
        rows.append(row("by majority", map(majority, votes.values()), len(votes)))
    examples, same = (sum(file[key] for file in pages.values()) for key in ("examples", "same"))
    title = (f"readers: {len(files)}; pages: {len(pages)}; examples: {examples}, of which {same} "
             f"were left out, as both rationales are the same\n")
    return "\n".join([title, *aligned(rows), NOTE + (MANY if len(files) > 1 else "")])


def read_answers(path):
    """What the page's button saved -> a dict; a UserError if it is not that."""
    try:
        file = json.loads(Path(path).read_text("utf-8"))
        answers, asked = file["answers"], file["examples"] - file["same"]
        whole = all(type(file[key]) is kind for key, kind in FIELDS.items())
        sides = all(type(side) is int and side in (NEITHER, FIRST, SECOND)
                    for side in answers.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = sides = False
    if not (whole and sides and len(answers) <= asked):
        raise UserError(f"{path} is damaged, or not what the page's button saved: leave it out")
    return file


def winner(page, example, side):
    """A reader's answer -> whose rationale that was."""
    if side == NEITHER:
        return "neither"
    return "REKD" if (side == FIRST) == rekd_is_first(page, example) else "RE"


def majority(picks):
    rekd, re = picks.count("REKD"), picks.count("RE")
    return "neither" if rekd == re else "REKD" if rekd > re else "RE"


def row(name, picks, asked):
    """A line of the table."""
    counts = Counter(picks)
    k, n = counts["REKD"], counts["REKD"] + counts["RE"]
    low, high = interval(k, n)
    share = f"{k / n:.3f}" if n else "-"
    numbers = [str(counts[pick]) for pick in HEADER[2:5]]
    return [name, f"{counts.total()} of {asked}", *numbers, share, f"{low:.3f} - {high:.3f}",
            f"{two_sided(k, n):.2g}"]


# ------------------------------------------------------------------------------------- statistics
def at_least(k, n, p):
    """The probability of k or more successes in n trials of probability 0 < p < 1."""
    return sum(math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
                        + i * math.log(p) + (n - i) * math.log(1 - p)) for i in range(k, n + 1))


def interval(k, n, level=0.95):
    """Clopper and Pearson 1934: all p for which neither k or more, nor k or fewer of n successes
    is a surprise of less than (1 - level) / 2."""
    def bound(k):  # where k or more successes begin to be likely enough
        low, high = 0.0, 1.0
        for _ in range(50):
            p = (low + high) / 2
            likely = at_least(k, n, p) > (1 - level) / 2
            low, high = (low, p) if likely else (p, high)
        return p

    return bound(k) if k else 0.0, 1 - bound(n - k) if k < n else 1.0  # k or fewer: n - k failures


def two_sided(k, n):
    """The probability of so uneven a split, or a more uneven one, if both are as likely."""
    return min(1.0, 2 * at_least(max(k, n - k), n, 0.5))


# ------------------------------------------------------------------------------------------- start
def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail
    parser.add_argument("files", nargs="+", metavar="FILE", help="two runs, or files of answers")
    parser.add_argument("--examples", type=lambda text: train.number("1 <= n", text), default=30,
                        help="of the test set, evenly spread (default: 30)")
    parser.add_argument("--out", default="ask.html", help="the page (default: ask.html)")
    parser.add_argument("--data-dir", help="where the data is (default: as in training)")
    return parser.parse_args()


def fail(message):
    print("ask.py:", str(message).replace("\n", " "), file=sys.stderr)
    sys.exit(2)


def main():
    args = parse_args()
    answers = [path.endswith(".json") for path in args.files]
    try:
        if all(answers):
            print(count(args.files))
        elif len(answers) == 2 and not any(answers):
            print(make_page(args.files, args))
        else:
            fail("give two runs to make a page, or files of answers (.json) to count")
    except (UserError, models.UserError) as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
