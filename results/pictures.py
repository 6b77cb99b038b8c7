"""Rationales to look at: of images a picture, of texts a page; and --explain, of your own files.

    python train.py --explain FILE ... --checkpoint runs/.../best.pt

Each run leaves one, of eight test examples, beside its checkpoint; --compare one of all its models.
A picture shows what was not selected darker; a page shows a text as it was written, marked.
"""

import html
import itertools
import re
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import data as datasets
import models
from data import write_atomically


class Example(NamedTuple):
    x: Tensor              # (1, ...), what a network reads
    shown: Tensor | str    # what it looks like: pixels (3, H, W) uint8, or the text as written
    name: str
    spans: list | None     # text: (start, end) of each token after [CLS]
    label: str | None = None
    truth: Tensor | None = None  # (N,) bool, the true rationale where it is known


class Finding(NamedTuple):
    """What a model made of an example."""
    name: str
    mask: Tensor           # (N,)
    says: str              # "ok: " or "WRONG: " where the label is known, the class, how sure
    right: bool            # or not known
    selects: bool          # False: a CLS model, which reads everything


def test_examples(data, n=8):
    """n examples evenly spread over the test set."""
    examples = []
    for i in torch.linspace(0, len(data.test) - 1, min(n, len(data.test))).long():
        one = data.test.select(i[None])
        _, x, y = next(data.batches(one, 1))
        shown = one.x[0].cpu() if one.docs is None else text_of(data, one, 0)
        truth = None if one.truth is None else one.truth[0].cpu()
        examples.append(Example(x, shown, f"test example {int(i)}", spans_of(shown, data.input),
                                data.classes[y], truth))
    return examples


def text_of(data, split, i):
    """Example i as it was written."""
    doc, corpus = split.docs[i], data.corpus
    return datasets.read_text(corpus.paths[doc])[0] if corpus.paths else corpus.texts[doc]


def spans_of(shown, data_input):
    """Where the tokens of a text stand in it; None of an image."""
    if not isinstance(shown, str):
        return None
    spans = datasets.WordPiece(data_input["vocabulary"]).spans(shown)
    # IMDB's line breaks, "<br />", are four tokens each, and are shown as one thing.
    breaks = {i: tag.span() for tag in re.finditer("<br />", shown) for i in range(*tag.span())}
    return [breaks.get(start, (start, end)) for start, end in spans]


@torch.no_grad()
def find(example, name, model, classes):
    """-> Finding: what the model makes of the example."""
    out = model.eval()(example.x)
    confidence, label = out.logits[0].float().softmax(-1).max(-1)
    right = example.label in (None, classes[label])
    verdict = "" if example.label is None else "ok: " if right else "WRONG: "
    return Finding(name, out.mask[0].cpu(), f"{verdict}{classes[label]}, {confidence:.0%}", right,
                   not isinstance(model.generator, models.SelectAll))


def picture(path, data, shown):
    """What models make of some test examples. shown: {name: (model, its preset, its metrics)}
    -> the file written, path.png of images or path.html of texts."""
    return save(path, data.name, *findings_of(test_examples(data), data.classes, shown))


def findings_of(examples, classes, shown):
    """-> a line for each model, [(Example, [Finding])]."""
    lines = []
    for name, (_, preset, metrics) in shown.items():
        lines.append(f"{name}: {preset}, accuracy {metrics['accuracy']:.3f}, "
                     f"rate {metrics['rate_mean']:.3f}")
    return lines, [(example, [find(example, name, model, classes)
                              for name, (model, *_) in shown.items()]) for example in examples]


def save(path, title, lines, rows):
    """-> the file written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if rows[0][0].spans is None:
        path = path.with_name(path.name + ".png")
        image = draw([title, *lines], rows)
        write_atomically(path, lambda file: image.save(file, format="PNG"))
    else:
        path = path.with_name(path.name + ".html")
        page = html_page([title, *lines], rows).encode(errors="backslashreplace")
        write_atomically(path, lambda file: file.write(page))
    return path


SIDE = 128  # pixels of an image in a picture


def tiles(example, found, side=SIDE):
    """A row of the picture -> [(image (3, side, side), caption, its colour)]."""
    def zoom(image):  # nearest, so that pixels stay pixels
        return F.interpolate(image[None].float(), size=(side, side))[0]

    def kept(mask):  # the rest is dark
        grid = mask.reshape(1, int(len(mask) ** 0.5), -1)  # (N,) -> (1, grid, grid)
        return pixels * (0.2 + 0.8 * zoom(grid))

    pixels = zoom(example.shown)
    row = [(pixels, f"input\n{example.label or example.name}", "black")]
    if example.truth is not None:
        row.append((kept(example.truth), "truth", "black"))
    return row + [(kept(finding.mask), f"{finding.name}\n{finding.says}",
                   "black" if finding.right else "red") for finding in found]


def draw(lines, rows):
    """A PIL image: the lines, then an example a row."""
    rows = [tiles(example, found) for example, found in rows]
    top = 8 + 18 * len(lines)
    size = max((SIDE + 8) * len(rows[0]) + 8, 500), top + (SIDE + 40) * len(rows)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    pen.text((8, 4), "\n".join(lines), "black", font)
    for j, row in enumerate(rows):
        for i, (image, caption, colour) in enumerate(row):
            place = 8 + i * (SIDE + 8), top + j * (SIDE + 40)
            array = image.permute(1, 2, 0).byte().numpy()  # (3, SIDE, SIDE) -> (SIDE, SIDE, 3)
            canvas.paste(Image.fromarray(array), place)
            caption = "\n".join(fitting(line, font) for line in caption.split("\n"))
            pen.text((place[0], place[1] + SIDE), caption, colour, font)
    return canvas


def fitting(line, font):
    """As much of the line as a tile is wide: names of classes can be long."""
    if font.getlength(line) <= SIDE:
        return line
    while font.getlength(f"{line}..") > SIDE:
        line = line[:-1]
    return f"{line}.."


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.6 Georgia, serif; max-width: 46em; margin: 2em auto; padding: 0 1em }}
article {{ border-left: 6px solid #bbb; padding: .1em 1em; margin: 2em 0 }}
h2, b {{ font: bold 15px sans-serif; margin: 0 }}
p {{ margin: .5em 0; overflow-wrap: anywhere }}
.text {{ white-space: pre-wrap }}
.unread {{ color: #777 }}
.wrong b {{ background: #111; color: #fff; padding: 0 .3em }}
mark {{ background: #ffe08a; color: #000; outline: 1.5px solid #000; border-radius: 2px }}
u {{ text-decoration: underline 2px; text-underline-offset: 3px }}
* {{ print-color-adjust: exact; -webkit-print-color-adjust: exact }}
</style>
<h1>{title}</h1>
<p>{captions}</p>
<p>Key: <mark>selected</mark>, <u>true rationale</u> where it is known,
<span class="unread">beyond what the model reads</span></p>
{articles}
</html>
"""


ARTICLE = """<article><h2>{name}{label}</h2>
<p class="text">{text}</p>
{rows}
</article>"""


def html_page(lines, rows):
    title, *captions = map(html.escape, lines)
    return PAGE.format(title=title, captions="<br>".join(captions),
                       articles="\n".join(html_article(*row) for row in rows))


def html_article(example, found):
    """The text once, as it was written, then a row for each model. No meaning hangs on a colour.

    Of one model, what it selected is marked in the text; of several, each row shows its stretches.
    """
    alone = [finding.mask for finding in found if len(found) == 1 and finding.selects]
    rows = []
    for finding in found:
        parts = [] if alone or not finding.selects else stretches(example, finding.mask)
        marked = " &hellip; ".join(f"<mark>{escape(example.shown[start:end])}</mark>"
                                   for start, end in parts).replace("<br>", "")
        says = html.escape(f"{finding.name}: {finding.says}")
        kind = "right" if finding.right else "wrong"
        rows.append(f'<p class="{kind}"><b>{says}</b> {marked}</p>')
    label = html.escape(f", label {example.label}") if example.label else ""
    text = html_text(example, alone, len(found[0].mask))
    return ARTICLE.format(name=html.escape(example.name), label=label, text=text,
                          rows="\n".join(rows))


def escape(text):
    return html.escape(text).replace("&lt;br /&gt;", "&crarr;<br>")


def html_text(example, masks, width):
    """The whole text: marked by the masks, the true rationale, what lies beyond `width` tokens."""
    marked = [part for mask in masks for part in stretches(example, mask)]
    true = [] if example.truth is None else stretches(example, example.truth)
    end = read_to(example, width)

    def style(i):
        return any(a <= i < b for a, b in marked), any(a <= i < b for a, b in true), i >= end

    parts = []
    for (is_marked, is_true, unread), group in itertools.groupby(range(len(example.shown)), style):
        part = escape("".join(example.shown[i] for i in group))
        if is_true:
            part = f"<u>{part}</u>"
        part = f"<mark>{part}</mark>" if is_marked else part.replace("&crarr;", "")
        parts.append(f'<span class="unread">{part}</span>' if unread else part)
    return "".join(parts)


def stretches(example, mask):
    """What was selected of the text -> [(start, end)]; neighbours are one stretch."""
    found = []
    for keep, (start, end) in zip(mask[1:-1], example.spans):  # the text may be cut
        if keep and found and not example.shown[found[-1][1]:start].strip():
            found[-1] = found[-1][0], end
        elif keep:
            found.append((start, end))
    return found


def read_to(example, width):
    """Where the part of the text ends that is read: [CLS], width - 2 tokens, [SEP]."""
    cut = len(example.spans) > width - 2
    return example.spans[width - 3][1] if cut else len(example.shown)


def keep_comparison(text, runs, results, teacher, data):
    """The table in a file, beside it the first seed's models side by side in one picture."""
    folder = runs[-1].folder  # REKD's, whose options the comparison bears in its name
    name = folder.name.removeprefix("student-rekd-")
    path = folder.with_name(f"compare-{name}-{len(results['rekd'])}seeds")
    record = teacher.record
    shown = {"teacher": (teacher.network, record["preset"] + " (dev)", record["dev"])}
    for config in runs:
        model, _ = models.load(config.folder / "best.pt", config.device)
        test = results[config.method][0]["test"]
        shown[config.method.upper()] = (model, config.preset, test)
    table = path.with_name(path.name + ".txt")
    write_atomically(table, lambda file: file.write(
        f"{text}\n".encode(errors="backslashreplace")))
    # One example at a time: of that not even a teacher under torchrun shares with other processes.
    print(f"table: {table}\npicture: {picture(path, data, shown)}")


def explain(args):
    """--explain: the rationales of the user's own files, printed and pictured."""
    model, info = models.load(args.checkpoint, args.device)
    examples = []
    for path in args.explain:
        x = datasets.read_input(path, info["input"]).to(args.device)
        if info["input"]["kind"] == "text":
            shown, _ = datasets.read_text(path)
        else:
            shown = datasets.read_image(path, info["input"]["image_size"])
        examples.append(Example(x, shown, path, spans_of(shown, info["input"])))
    config = info["config"]
    shown = {config["method"].upper(): (model, config["preset"] + " (dev)", info["metric"])}
    lines, rows = findings_of(examples, info["classes"], shown)
    title = f"{config['dataset']}: {args.checkpoint}"
    file = save(Path(args.out) / "explained", title, lines, rows)
    for example, [finding] in rows:
        print(f"{example.name}: {finding.says}")
        lines = bracketed(example, finding) if example.spans is not None else grid(finding.mask)
        print("\n".join(f"  {line}" for line in lines))
    print(f"picture: {file}")


def bracketed(example, finding):
    """The lines of the text as it was written, what was selected in brackets."""
    end = read_to(example, len(finding.mask))
    text = example.shown[:end]
    for start, stop in reversed(stretches(example, finding.mask) if finding.selects else []):
        text = f"{text[:start]}[{text[start:stop]}]{text[stop:]}"
    lines = text.replace("<br />", "\n").splitlines()
    if end < len(example.shown):
        lines.append(f"(cut: the model reads the first {len(finding.mask) - 2} tokens)")
    # What a file holds must not steer the terminal.
    return ["".join(c if c.isprintable() else " " for c in line) for line in lines]


def grid(mask):
    rows = mask.view(int(len(mask) ** 0.5), -1)  # (N,) -> (grid, grid)
    return ["".join("# " if keep else ". " for keep in row) for row in rows]
