"""The data of REKD: whole tensors in, batches out. No worker processes, no per-image Python.

A data set is a few tensors on the training device: uint8 pixels at their native size, or int32
token ids. A batch is an index select; crop, flip, resize and normalise are batched (the paper's
recipe: crop and flip at 32 px, then resize); texts are trimmed to the longest of a batch.

`load_dataset(NAME)` finds, in this order,
    a built-in set    glyphs (digits among clutter), phrases (opinions among small talk): made in
                      a second, with the true rationale of every example
    a local folder    <data-dir>/NAME/{train,test}/<class>/*, images or texts; where they are
                      known, their true rationales in <data-dir>/NAME/truth/{train,test}/<class>/*
    a download        cifar10, cifar100 (100 classes), cifar100_coarse (the 20 of the paper's
                      "CIFAR 100"), imdb
This file imports no other file of the repository and can be copied alone. See it at work:

    python train.py
"""

import hashlib
import json
import math
import os
import pickle
import random
import re
import shutil
import statistics
import string
import sys
import tempfile
import unicodedata
import urllib.request
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, PngImagePlugin  # with torchvision
from torch import Tensor
from tqdm import tqdm

# Fixes what is train and what is dev, the crops and the vocabulary. --seed does not touch it, so
# one teacher serves all seeds and never saw its student's dev data.
DATA_SEED = 2026
# Other formats, such as EPS, start outside programs when they are opened.
FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]
PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # a picture may tell in megabytes how it was made
FILES = {"image": ".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff".split(), "text": [".txt"]}


class UserError(ValueError):
    """A mistake that the user can mend: its text is one sentence that says how."""


# ---------------------------------------------------------------- a data set and its batches


class Table:
    """Fields with one row an example; one that is not known is None."""

    def __len__(self):
        return len(self.y)

    def select(self, rows):
        return type(self)(*(select(field, rows) for field in vars(self).values()))


def select(field, rows):
    """The rows (a tensor) of a tensor or a list; of None, None."""
    if isinstance(field, list):
        return [field[i] for i in rows.tolist()]
    return None if field is None else field[rows]


@dataclass
class Examples(Table):
    """Examples as they were read."""
    inputs: object            # (n, 3, H, W) uint8 pixels, or a list of n texts
    y: Tensor                 # (n,) int64 class
    truth: object = None      # true rationales, where known: (n, H, W) bool of pixels, or of each
    #                           text its stretches [(start, end), ...] of characters


@dataclass
class Split(Table):
    """Examples as a network reads them."""
    x: Tensor                 # (n, 3, H, W) uint8 pixels, or (n, max_length) int32 token ids
    y: Tensor                 # (n,) int64 class
    truth: Tensor = None      # (n, N) bool, the true rationale, where known
    lengths: Tensor = None    # text: (n,) tokens without padding; stays on the host
    texts: list = None        # text: as it was written

    def to(self, device):
        moved = [None if t is None else t.to(device) for t in (self.x, self.y, self.truth)]
        return Split(*moved, self.lengths, self.texts)


@dataclass
class Dataset:
    name: str
    classes: list           # names, in the order of their numbers
    train: Split
    dev: Split              # a stratified fifth of the training set: chooses the checkpoint
    test: Split             # touched once, at the end
    input: dict             # what turns a file into an input of the model, see `read_input`
    crops: object           # images: view -> (n, 3), crop and flip of each training example
    fingerprint: str = ""   # of all that a run sees: it goes on where that is the same

    def draw(self, limit, seed, unlabelled=False):
        """-> the data of one run: `limit` labelled examples of train, 0: all, and a quarter as
        many of dev; both are stratified and drawn by the seed, so that seeds vary which labels one
        has. unlabelled: the rest of train stays, with class -1."""
        train, dev, crops = self.train, self.dev, self.crops
        if 0 < limit < len(train):
            rows = stratified_order(train.y, seed)[:limit]
            dev = dev.select(stratified_order(dev.y, seed)[:max(limit // 4, 1)])
            if unlabelled:
                y = torch.full_like(train.y, -1)
                y[rows] = train.y[rows]
                train = replace(train, y=y)
            else:
                train = train.select(rows)
                crops = self.crops and (lambda view: self.crops(view)[rows])
        if len(train.y[train.y >= 0].unique()) < len(self.classes):
            raise UserError(f"some of {len(self.classes)} classes have no training example: add "
                            "files or raise --limit")
        seen = [field for part in (train, dev, self.test)
                for field in (part.x, part.y, part.truth)]
        fingerprint = checksum(self.classes, seen)
        return replace(self, train=train, dev=dev, crops=crops, fingerprint=fingerprint)

    def batches(self, split, batch_size, order=None, view=None):
        """Yields rows (B,) of the split, on the host; x (B, 3, S, S) or token ids (B, T); y (B,).

        order: (n,) rows in their order, on the host; None: all, as they come. A view is a fixed
        crop and flip of each training image, so that a frozen teacher's rationale of it can be
        computed once.
        """
        if order is None:
            order = torch.arange(len(split))
        crops = self.crops(view) if self.crops and view is not None else None
        for rows in order.split(batch_size):
            index = rows.to(split.y.device, non_blocking=True)
            x = split.x[index]
            if split.lengths is not None:
                # The longest of the batch, rounded up to a multiple of 32: few shapes. Lengths
                # are on the host, so nothing waits for the device.
                longest = int(split.lengths[rows].max())
                x = x[:, :32 * math.ceil(longest / 32)]
            else:
                if crops is not None:
                    x = crop_and_flip(x, crops[index])
                x = to_input(x, self.input["image_size"])
            yield rows, x, split.y[index]


def load_dataset(name, data_dir="data", *, image_size=32, patch_size=4, max_length=128, vocab=None,
                 device="cpu"):
    """-> Dataset on `device`, with all examples. A user's mistake is a UserError.

    Texts become at most max_length tokens, by the WordPiece vocabulary of the file `vocab`, or else
    by the words of the training texts.
    """
    whole, test, classes = read_dataset(name, Path(data_dir), image_size)
    dev_rows, rows = stratified_order(whole.y).tensor_split([max(len(whole) // 5, 1)])
    parts = [whole.select(rows), whole.select(dev_rows), test]
    crops = None
    if isinstance(test.inputs, list):
        tokenizer = WordPiece(vocab or count_words(whole.inputs))
        input = {"kind": "text", "max_length": max_length, "vocabulary": tokenizer.vocabulary}
        splits = [text_split(part, tokenizer, max_length) for part in parts]
    else:
        input = {"kind": "image", "image_size": image_size}
        splits = [image_split(part, image_size // patch_size) for part in parts]
        if name not in BUILT_IN:  # a glyph's mirror image is no digit
            def crops(view):
                return draw_view(whole.inputs.shape, view)[rows].to(device)
    return Dataset(name, classes, *(split.to(device) for split in splits), input, crops)


def read_dataset(name, data_dir, image_size):
    """-> the training set with dev, the test set, the names of the classes."""
    kind_of(name, data_dir)  # a UserError if there is no such set
    if name in BUILT_IN:
        make, classes = BUILT_IN[name]
        return make(7500, DATA_SEED), make(3000, DATA_SEED + 1), classes
    if (data_dir / name).is_dir():
        return read_folder(data_dir / name, image_size)
    return fetch_imdb(data_dir) if name == "imdb" else fetch_cifar(name, data_dir)


def kind_of(name, data_dir="data"):
    """ "image" or "text", by the set's name or the endings of its files. UserError: no such set."""
    local = sorted(path.parent.name for path in Path(data_dir).glob("*/train"))
    known = [*BUILT_IN, *DOWNLOADS, *local]
    if name not in known:
        raise UserError(f"no data set {name!r}: there are {', '.join(known)}; your own goes into "
                        f"{Path(data_dir, Path(name).name)}/{{train,test}}/<class>/")
    if name in local and name not in BUILT_IN:
        # By majority: a folder of images may hold a readme.txt.
        endings = [path.suffix.lower() for path in Path(data_dir, name).glob("train/*/*")]
        return max(FILES, key=lambda kind: sum(ending in FILES[kind] for ending in endings))
    return "text" if name in ("phrases", "imdb") else "image"


@contextmanager
def seeded(seed):
    """Draws in here depend on the seed alone, and change nothing that is drawn elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def stratified_order(y, seed=DATA_SEED):
    """(n,) classes -> (n,) rows, in random order but for this: every prefix holds the classes in
    their shares."""
    y = y.cpu()
    key = torch.empty(len(y), dtype=torch.float64)
    with seeded(seed):
        for c, n in enumerate(y.bincount().tolist()):
            place = torch.randperm(n).argsort()  # in a shuffle of the class
            key[y == c] = (place.double() + 0.5) / n
    return key.argsort(stable=True)


def image_split(examples, grid):
    """Truth of pixels -> of the grid of patches: one is part of it if it touches it."""
    truth = examples.truth
    if truth is not None:
        truth = F.adaptive_max_pool2d(truth.float(), grid).bool().flatten(1)  # (n, N)
    return Split(examples.inputs, examples.y, truth)


def text_split(examples, tokenizer, max_length):
    """Texts -> token ids and their lengths, truth of characters -> of tokens."""
    texts, truth = examples.inputs, examples.truth
    ids = [tokenizer.encode(text, max_length) for text in texts]
    if truth is not None:
        truth = [true_tokens(tokenizer.spans(text), true) for text, true in zip(texts, truth)]
        truth = padded([row[:max_length - 1] for row in truth], max_length).bool()  # no [SEP]
    lengths = torch.tensor([len(row) for row in ids])
    return Split(padded(ids, max_length), examples.y, truth, lengths, texts)


def true_tokens(spans, stretches):
    """Of each token of a text: does it lie in a true stretch? [CLS], the first, does not."""
    return [False] + [any(first <= start and end <= last for first, last in stretches)
                      for start, end in spans]


def padded(rows, width):
    """Lists of different lengths -> (n, width) int32: each is cut, or has 0 behind its end."""
    rows = [row[:width] + [0] * (width - len(row)) for row in rows]
    return torch.tensor(rows).int()


def checksum(lines, tensors):
    """Of a list of str and a list of tensors or None -> 16 hexadecimal digits."""
    digest = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape"))
    for tensor in tensors:
        if tensor is not None:
            digest.update(np.ascontiguousarray(tensor.cpu()))
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- images


def draw_view(shape, view):
    """For images of shape (n, 3, S, S) -> (n, 3): top and left of the crop in the padded image,
    0 .. 1/4 of a side; flip 0 or 1. They depend on the data seed, the view and the example."""
    places = shape[-1] // 8 * 2 + 1
    with seeded(DATA_SEED + view):
        draws = torch.rand(shape[0], 3)
    return (draws * torch.tensor([places, places, 2])).long()


def crop_and_flip(pixels, views):
    """Zero-pad by 1/8 (4 px at 32) and crop, flip: one gather for the batch.

    pixels (B, C, H, W), views (B, 3): top, left, flip -> (B, C, H, W)
    """
    B, C, H, W = pixels.shape
    top, left, flip = views.unbind(1)                                  # (B,) each
    padded = F.pad(pixels, [H // 8] * 4)                               # on all four sides
    windows = padded.unfold(2, H, 1).unfold(3, W, 1)                   # (B, C, tops, lefts, H, W)
    crops = windows[torch.arange(B, device=pixels.device), :, top, left]  # (B, C, H, W)
    return torch.where(flip[:, None, None, None].bool(), crops.flip(3), crops)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


def to_input(pixels, image_size):
    """uint8 (B, 3, H, W) -> float (B, 3, image_size, image_size), normalised by ImageNet's mean
    and standard deviation of each colour."""
    x = pixels.float() / 255
    if x.shape[-1] != image_size:
        x = F.interpolate(x, image_size, mode="bilinear", antialias=True)
    # Plain numbers: a tensor of them would have to travel to the device, and wait for it.
    for colour, mean, std in zip(x.unbind(1), MEAN, STD):
        colour.sub_(mean).div_(std)
    return x


def read_image(path, size=None, background="white"):
    """An image file of any size and mode -> uint8 (3, H, W) RGB; with `size`, resized (not cropped)
    to size x size. Where it is transparent, the background is seen."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image = to_rgb(ImageOps.exif_transpose(image), background)
            if size:
                image = image.resize((size, size), Image.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    except Exception as error:  # it is damaged: OSError, SyntaxError, struct.error, ...
        raise UserError(f"{path} cannot be read as an image ({error}): mend or remove it") from None


def to_rgb(image, background):
    if image.mode[0] in "IF":  # more than 8 bits a pixel: PIL would clip at 255
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("its pixels are no whole numbers of 16 bits")
        alpha = 255 * (pixels != image.info.get("transparency", -1))
        image = Image.fromarray(np.stack([pixels // 257, alpha], -1).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        behind = Image.new("RGBA", image.size, background)  # under transparent pixels lies anything
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert("RGB")


def read_input(path, input):
    """A file of your own -> x, ready for a model whose `info["input"]` is `input`: (1, 3, S, S),
    or (1, T) token ids."""
    if input["kind"] == "image":
        pixels = read_image(path, input["image_size"])
        return to_input(pixels[None], input["image_size"])
    ids = WordPiece(input["vocabulary"]).encode(read_text(path), input["max_length"])
    return torch.tensor([ids]).int()


# ---------------------------------------------------------------- text

SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()  # typed in a text, they stay whole
# A text in parts beyond which no word reaches: special tokens, and what lies between spaces.
CHUNK = re.compile(r"\[(?:PAD|UNK|CLS|SEP|MASK)\]|\[|[^ \n[]+")
# The last block but one starts at 2B820: the reference's slip, copied so that ids are equal.
CJK = re.compile("[\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U0002A6DF"
                 "\U0002A700-\U0002B73F\U0002B740-\U0002B81F\U0002B920-\U0002CEAF"
                 "\U0002F800-\U0002FA1F]")


@cache
def basic_form(c):
    """What becomes of a character of a text before it is split at white space."""
    category = unicodedata.category(c)
    # These three are control characters by category, yet part words.
    if c in "\t\n\r" or category[0] == "Z":
        return " "
    # No space instead: a zero-width joiner, and even a vertical tab, leaves its neighbours one
    # word. Not Cn: unassigned characters are kept.
    if c in "\0\ufffd" or category in "Cc Cf Co Cs".split():
        return ""
    is_cjk = CJK.match(c)  # Hangul, kana: form words
    # NFD (not NFKD: ½ and ﬁ stay) parts é into e and a mark (Mn), which goes, and ≠ into = and a
    # stroke, so that punctuation is asked for last. All by character: lower() of a whole word
    # would make a final Σ a ς, the reference a σ.
    form = ""
    for letter in unicodedata.normalize("NFD", c):
        category = unicodedata.category(letter)
        if is_cjk or letter in string.punctuation or category[0] == "P":
            form += f" {letter.lower()} "
        elif category != "Mn":
            form += letter.lower()
    return form


class WordPiece:
    """BERT's uncased tokenizer (Devlin et al. 2019): text -> words -> pieces, each the longest
    that the vocabulary has.

    vocab: a file, see `read_vocabulary`, or a list of tokens; of plain words, it makes a word
    vocabulary. UserError if it cannot be read or lacks [PAD] (as id 0), [UNK], [CLS] or [SEP]. The
    ids are those of `transformers`' BertTokenizer but for 503 of 1,112,064 characters (with Python
    3.11's Unicode 14): rare marks and signs that its Unicode 8 tables do not know.
    """

    def __init__(self, vocab):
        if isinstance(vocab, (str, Path)):
            vocab = read_vocabulary(vocab)
        self.vocabulary = list(vocab)
        self.ids = dict(zip(vocab, range(len(vocab))))
        self.pieces = cache(self.pieces)  # texts repeat their words
        if self.ids.get("[PAD]") != 0 or {"[UNK]", "[CLS]", "[SEP]"} - self.ids.keys():
            raise UserError("the vocabulary lacks [PAD], first, [UNK], [CLS] or [SEP]: take BERT's")

    @staticmethod
    def words(text):
        """-> list of str: lower case, no accents; each punctuation mark and CJK character its
        own. Needs no vocabulary, so that it can count one."""
        return [word for word, _, _ in located_words(text)]

    def pieces(self, word):
        """-> tuple of ids. One part without a piece makes the whole word [UNK], and so do more
        than 100 characters."""
        ids = ()
        start, end = 0, len(word)
        while start < end and len(word) <= 100:
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in self.ids:  # the longest from start: go on behind it
                ids += (self.ids[piece],)
                start, end = end, len(word)
            else:
                end -= 1
        return ids if start == len(word) else (self.ids["[UNK]"],)

    def tokens(self, text):
        """The pieces of a text, as they come: (id, start, end), see `spans`."""
        for word, offset, places in located_words(text):
            start = 0
            for i in self.pieces(word):
                token = self.vocabulary[i].removeprefix("##")
                end = len(word) if token == "[UNK]" else start + len(token)
                yield i, offset + places[start], offset + max(places[end], places[end - 1] + 1)
                start = end

    def encode(self, text, max_length=sys.maxsize):
        """A text -> list of ids: [CLS] pieces [SEP], cut to max_length."""
        if max_length < 2:
            raise UserError(f"max_length {max_length} has no room for [CLS] and [SEP]: at least 2")
        ids = [i for i, _, _ in islice(self.tokens(text), max_length - 2)]
        return [self.ids["[CLS]"], *ids, self.ids["[SEP]"]]

    def spans(self, text):
        """Where each token of `encode(text)` but [CLS] and [SEP] stands: [(start, end), ...].

        text[start:end] is the token as it was written, with the marks that follow it. Two pieces
        of one character, which decomposition gives (ᄒ and ᅡ of 하), both have that character.
        """
        return [(start, end) for _, start, end in self.tokens(text)]


def read_vocabulary(path):
    """A vocab.txt (a token a line, the line's number its id), or an uncased tokenizer.json of the
    package `tokenizers` -> list of tokens."""
    text = read_text(path)
    if Path(path).suffix != ".json":
        # splitlines() also parts at U+2028
        return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    try:
        found = json.loads(text)
        ids, rules = found["model"]["vocab"], found["normalizer"]
        is_fit = (found["model"]["type"] == "WordPiece" and rules["lowercase"]
                  and rules.get("strip_accents") is not False
                  and rules.get("handle_chinese_chars") is not False
                  and all(token["content"] in ids for token in found.get("added_tokens", []))
                  and sorted(ids.values()) == [*range(len(ids))])
    except (ValueError, LookupError, TypeError):
        is_fit = False
    if not is_fit:
        raise UserError(f"{path} is not of an uncased WordPiece: give BERT's")
    return sorted(ids, key=ids.get)


def located_words(text):
    """The words of a text, see `WordPiece.words`: (word, offset, places). offset + places[i] is
    the place in the text of the word's i-th character; the last, of whatever follows the word."""
    for chunk in CHUNK.finditer(text):
        for word, places in chunk_words(chunk[0]):
            yield word, chunk.start(), places


@lru_cache(2**16)  # texts repeat their words
def chunk_words(chunk):
    """-> [(word, places), ...], the places in the chunk."""
    if chunk in SPECIAL:
        return [(chunk, range(len(chunk) + 1))]
    forms = [basic_form(c) for c in chunk]
    places = [i for i, form in enumerate(forms) for _ in form]
    places.append(len(chunk))
    words = re.finditer(r"\S+", "".join(forms))
    return [(word[0], places[word.start():word.end() + 1]) for word in words]


def read_text(path):
    """A UTF-8 file -> its text; bytes that cannot be decoded become U+FFFD. An empty or binary one,
    and one that loses more than a tenth so, is a UserError."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    is_lost = text.count("\ufffd") > len(text) / 10
    if not text.strip() or "\0" in text or is_lost:  # pictures and UTF-16 hold the byte 0
        raise UserError(f"{path} is empty or no text in UTF-8: give it a text, or remove it")
    return text


def count_words(texts, size=15000):
    """A vocabulary: special tokens, then the `size` most frequent words of the texts. Those that
    occur once are left out, so that [UNK] is learned: new texts will hold many."""
    counts = Counter(word for text in texts for word in WordPiece.words(text))
    words = [word for word, n in counts.most_common() if n > 1 and word not in SPECIAL]
    return SPECIAL + words[:size]


# ---------------------------------------------------------------- class folders


def read_folder(folder, image_size=32):
    """<folder>/{train,test}/<class>/* -> train, test, classes.

    Images that all have one square size of at most image_size stay as they are (CIFAR at 32 px,
    whatever the model wants: batches are resized on the device); else all become image_size.
    """
    kind = kind_of(folder.name, folder.parent)
    train, test = (list_files(folder / part, kind) for part in ("train", "test"))
    classes, in_test = (sorted({path.parent.name for path in part}) for part in (train, test))
    if len(classes) < 2 or in_test != classes:
        raise UserError(f"{folder} has the class folders {classes} in train and {in_test} in test: "
                        f"they must be the same, and at least two")
    paths = train + test
    files = {*files_in(folder / "train"), *files_in(folder / "test")}
    tell_files(files - {*files_in(folder / "train/unsup"), *paths}, "skipped",
               f": no {kind}s, or not right in a class folder")
    inputs = read_images(paths, image_size) if kind == "image" else read_texts(paths)
    truth = read_truth(folder, paths, inputs) if (folder / "truth").is_dir() else None
    y = torch.tensor([classes.index(path.parent.name) for path in paths])
    both = Examples(inputs, y, truth)
    rows = torch.arange(len(paths)).tensor_split([len(train)])
    return both.select(rows[0]), both.select(rows[1]), classes


def read_truth(folder, paths, inputs):
    """The true rationales of files, from truth/{train,test}/<class>/<same name>, see Examples. Of
    files without one there are none: all False, or no stretch."""
    places = [folder / "truth" / path.relative_to(folder) for path in paths]
    files = files_in(folder / "truth")
    if isinstance(inputs, list):
        truth = [true_stretches(place, text) for place, text in zip(places, inputs)]
    else:  # the picture may have another ending
        drawn = {path.with_suffix(""): path for path in files}
        places = [place if place.exists() else drawn.get(place.with_suffix("")) for place in places]
        truth = torch.stack([true_pixels(place, path, inputs.shape[-1])
                             for place, path in zip(places, paths)])
    tell_files({*files} - {*places}, "skipped", ": the truth of no example")
    return truth


def true_pixels(place, path, size):
    """A picture of what is true of an image: where a channel exceeds 32 -> (size, size) bool."""
    if place is None:
        return torch.zeros(size, size, dtype=torch.bool)
    picture = read_image(place, background="black")
    if picture.shape != read_image(path).shape:
        raise UserError(f"{place} has another size than {path}: draw it anew")
    true = (picture > 32).any(0, keepdim=True).float()           # (1, H, W)
    if picture.any() and not true.any():
        raise UserError(f"{place} is nowhere brighter than 32 of 255: draw what is true in white")
    return F.adaptive_max_pool2d(true, size)[0].bool()


def true_stretches(place, text):
    """Everywhere that an excerpt of the file, each a line, stands in a text, whatever the white
    space -> [(start, end), ...]."""
    stretches = []
    for excerpt in read_text(place).splitlines() if place.exists() else []:
        pattern = r"\s*".join(re.escape(c) for c in "".join(excerpt.split()))
        found = [match.span(1) for match in re.finditer(f"(?=({pattern}))", text)]
        if not found:
            raise UserError(f"{place} has an excerpt that is not in its text: {excerpt[:60]!r}")
        for start, end in found:  # a token's span has the marks and signs that are dropped after it
            while end < len(text) and not basic_form(text[end]):
                end += 1
            stretches.append((start, end))
    return stretches


def files_in(folder):
    """All files below a folder but hidden ones, through links as well, in order."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [Path(place, name) for name in names if name[0] != "."]
    return sorted(found)


def printable(text):
    """What a file holds, or is called, must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def tell_files(files, what, reason=""):
    """In one line, how many files something happened to, and the first of them."""
    if files:
        print(printable(f"{what} {len(files)} files (first: {min(files)}){reason}"),
              file=sys.stderr)


def list_files(folder, kind):
    """The files of the class folders in it, ordered by class and name."""
    files = []
    for place in sorted(folder.glob("[!.]*")):
        if not place.is_dir() or place.name == "unsup":  # IMDB's unlabelled reviews
            continue
        found = [path for path in sorted(place.glob("[!.]*"))  # a Mac's zip holds ._0.png
                 if path.suffix.lower() in FILES[kind] and path.is_file()]
        if not found:
            raise UserError(f"the class folder {place} has no {', '.join(FILES[kind])}")
        files += found
    return files


def sizes_of(name, data_dir="data"):
    """What a network from scratch should read of people's own data -> image_size and patch_size, or
    max_length, and what it was in the data, in words. {} for other data sets."""
    folder = Path(data_dir, name)
    if name in BUILT_IN or not folder.is_dir():
        return {}, ""
    kind = kind_of(name, data_dir)
    paths = list_files(folder / "train", kind)
    if kind == "image":
        sides = [size for path in paths for size in image_sizes(path)] or [32]
        image_size, patch_size = (64, 8) if statistics.median(sides) > 48 else (32, 4)
        ends = " to ".join(map(str, sorted({min(sides), max(sides)})))
        told = f"images of {ends} pixels a side"
        return {"image_size": image_size, "patch_size": patch_size}, told
    some = paths[::math.ceil(len(paths) / 2000)]
    lengths = sorted(len(WordPiece.words(read_text(path))) + 2 for path in some)
    longest = lengths[math.ceil(0.95 * len(lengths)) - 1]
    max_length = min(16 * math.ceil(longest / 16), 128)
    return {"max_length": max_length}, f"95 % of the texts have at most {longest} tokens"


def image_sizes(path):
    """The sides of an image by its header; a damaged file is named later."""
    with suppress(Exception), Image.open(path, formats=FORMATS) as image:
        return image.size
    return ()


def read_images(paths, image_size):
    """-> (n, 3, S, S) uint8. S: the side of the images if all are squares of one size of at most
    image_size, else that."""
    sides = {side for path in paths for side in image_sizes(path)}
    size = min(*sides, image_size) if len(sides) == 1 else image_size
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    # disable=None: no bar where stderr is no terminal
    for i, path in enumerate(tqdm(paths, "decoding images", disable=None)):
        pixels[i] = read_image(path, size)
    dark = [path for path, brightest in zip(paths, pixels.amax((1, 2, 3))) if brightest < 16]
    tell_files(dark, "nearly black:", "; of 12 bits? save them as 8 or 16")
    return pixels


def read_texts(paths):
    texts = [read_text(path) for path in tqdm(paths, "reading texts", disable=None)]
    replaced = [path for path, text in zip(paths, texts) if "\ufffd" in text]
    tell_files(replaced, "replaced undecodable bytes in")
    return texts


def write_atomically(path, write):
    """write(binary file) beside the target, then rename: the final name never has half a file."""
    part = Path(f"{path}.part")
    try:
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch.save reports a full disk
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise UserError(f"cannot write {path}: {reason}") from None
    finally:
        with suppress(OSError):
            part.unlink()


# ---------------------------------------------------------------- downloads


@contextmanager
def by_hand(url, path, hint=""):
    """A download of url to path that fails leaves nothing there and says what to do by hand."""
    try:
        yield
    except Exception as error:  # OSError, HTTPException, RuntimeError of torchvision, ...
        with suppress(OSError):
            path.unlink()
        raise UserError(f"cannot download {url} ({error}): "
                        f"start again, or fetch it by hand and put it at {path}{hint}") from error


def fetch_hub(repo, *filenames, read=Path.read_bytes):
    """The first of these files that a Hugging Face repository has -> its Path in torch's cache.
    What lies there needs no network.

    read(path) fails on a damaged file or a login page: it is removed, the next start tries again.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints", repo.replace("/", "--"))
    folder.mkdir(parents=True, exist_ok=True)
    server = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    there = [name for name in filenames if (folder / name).is_file()]
    for name in there[:1] or filenames:
        url, path = f"{server.rstrip('/')}/{repo}/resolve/main/{name}", folder / name
        try:
            with by_hand(url, path, ", or choose --init scratch"):
                download(url, path)
                read(path)
            return path
        except UserError as error:
            if getattr(error.__cause__, "code", None) != 404 or name == filenames[-1]:
                raise


def download(url, path):
    if path.is_file():
        return
    with urllib.request.urlopen(url, timeout=30) as response:
        size = f"{response.length / 1e6:.1f} MB" if response.length else "of unknown size"
        print(f"downloading {url}, {size}", file=sys.stderr)
        with tqdm.wrapattr(response, "read", total=response.length, disable=None) as bar:
            write_atomically(path, lambda file: shutil.copyfileobj(bar, file))
        if response.length:  # bytes that did not come
            raise OSError("the connection was cut")


def fetch_cifar(name, root):
    """CIFAR by torchvision, which downloads what is missing and verifies the md5 of each file
    before it reads it: a pickle can run code."""
    from torchvision import datasets  # takes 1.5 s
    source = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    splits = []
    for part in ("train", "test"):
        with by_hand(source.url, root / source.filename):
            found = source(root, part == "train", download=True)
        classes, labels = found.classes, found.targets
        if name == "cifar100_coarse":  # torchvision reads the fine labels only
            folder = root / source.base_folder
            classes = unpickle(folder / "meta")["coarse_label_names"]
            labels = unpickle(folder / part)["coarse_labels"]
        pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2)  # (n, H, W, 3) -> (n, 3, H, W)
        splits.append(Examples(pixels, torch.tensor(labels)))
    return *splits, classes


def unpickle(path):
    return pickle.loads(path.read_bytes(), encoding="latin1")


def fetch_imdb(root):
    """The Large Movie Review Dataset (Maas et al. 2011): a class folder like any other."""
    url = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
    archive, folder = root / "aclImdb_v1.tar.gz", root / "aclImdb"
    if not folder.is_dir():
        from torchvision.datasets.utils import download_url, extract_archive
        with by_hand(url, archive):
            download_url(url, root, md5="7c2ac02c03563afcf9b574c7e56c153a")
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            extract_archive(archive, scratch)
            os.replace(Path(scratch, "aclImdb"), folder)  # there is never half a folder
    return read_folder(folder)


# ---------------------------------------------------------------- built-in: glyphs

FONT = """
..###... ...#.... .#####.. ######.. ....##.. #######. ...###.. #######. .#####.. ..####..
.#...#.. ..##.... #.....#. .....##. ...#.#.. #....... ..#..... #....##. ##...##. .#....#.
#.....#. .#.#.... ......#. .....##. ..#..#.. #....... .#...... ....##.. ##...##. #.....#.
#.....#. ...#.... .....#.. ..####.. .#...#.. ######.. ######.. ....#... .#####.. .#....#.
#.....#. ...#.... ...##... .....##. #....#.. ......#. #.....#. ...##... ##...##. ..#####.
#.....#. ...#.... ..#..... .....##. #######. ......#. #.....#. ..##.... #.....#. ......#.
.#...#.. ...#.... .#...... #....##. .....#.. #....#.. #....#.. ..##.... ##...##. ....##..
..###... .#####.. #######. #####... .....#.. .####... .####... ..##.... .#####.. .###....
"""


def glyphs(n, seed, distractors=5):
    """n images of 32 x 32 -> Examples. The label is the one small digit; its 8 x 8 px (2 x 2
    patches of 4 px) are the truth.

    Around it: soft coloured clutter, noise, and distractors, which are digits with their pixels
    shuffled, so that no colour, brightness or place gives the digit away: only its shape does.
    """
    stamped = 1 + distractors
    with seeded(seed):
        image = clutter(n) + 25 * torch.randn(n, 3, 32, 32)
        digit = torch.randint(10, (n, stamped))
        shuffle = torch.rand(n, stamped, 64).argsort(-1)
        cell = torch.rand(n, 9).argsort(1)[:, :stamped]
        down, right = 4 * torch.randint(3, (2, n, 1))
        colour = 90 + 60 * torch.rand(n, stamped, 3)
    # What is stamped on an image: its digit, and others with their pixels shuffled.
    bits = torch.tensor([[c == "#" for c in line] for line in FONT.split()]).float()
    font = bits.view(8, 10, 8).transpose(0, 1).flatten(1)           # (10, 8 * 8)
    shuffle[:, 0] = torch.arange(64)
    stamps = font[digit].gather(2, shuffle)                         # (n, stamped, 8 * 8)
    # Where: in different cells of a 3 x 3 grid of 8 px, which is shifted by 0, 4 or 8 px.
    row = down + 8 * (cell // 3)                                    # (n, stamped)
    column = right + 8 * (cell % 3)
    inside = 32 * torch.arange(8)[:, None] + torch.arange(8)        # (8, 8)
    place = (32 * row + column)[..., None] + inside.flatten()       # (n, stamped, 8 * 8)
    light = torch.zeros(n, stamped, 32 * 32).scatter_(2, place, stamps)
    image += torch.einsum("nkc,nkp->ncp", colour, light).view_as(image)
    truth = torch.zeros(n, 32 * 32).scatter_(1, place[:, 0], 1).view(n, 32, 32).bool()
    return Examples(image.clamp(0, 255).byte(), digit[:, 0], truth)


def clutter(n):
    """-> (n, 3, 32, 32): soft colours, with three rectangles on them."""
    coarse = 10 + 90 * torch.rand(n, 3, 3, 3)
    image = F.interpolate(coarse, 32, mode="bilinear", align_corners=True)
    x = torch.arange(32)
    y = x[:, None]
    for _ in range(3):
        drawn = torch.rand(4, n, 1, 1)
        left, top = (32 * drawn[:2]).ceil()                                # (n, 1, 1) each
        width, height = (10 * drawn[2:]).ceil()
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        colour = 80 * torch.rand(n, 3, 1, 1) - 24
        image += inside[:, None] * colour                                  # (n, 1, 32, 32) * ...
    return image


# ---------------------------------------------------------------- built-in: phrases

ADJECTIVES = [  # by label
    "awful bad boring dull shallow silly".split(),
    "brilliant clever funny good gripping moving".split()
]
FILM_THINGS = "film movie story acting".split()
NEGATIONS = "not never hardly".split()
DEGREES = "quite really truly".split()
SMALL_TALK = (
    "on a rainy monday, with my sister, after work, we met outside, she told us about it, "
    "they came late, in the dark, by the river, my brother laughed, before dinner, "
    "the phone rang, near the station, we walked home, it was full, nobody spoke, i sat down, "
    "two hours later, for his birthday"
).split(", ")
OTHER_THINGS = "bus coffee parking popcorn queue seat ticket weather".split()
OTHER_WAYS = "cold crowded early expensive long quiet red small sticky warm wet".split()


def phrases(n, seed):
    """n reviews of 19 to 30 words -> Examples. The label is the opinion of the film:

        they came late the coffee was quite cold the story was hardly gripping by the river ...
        -> negative

    The last two words of that sentence are the truth. Everything else is drawn without a look at
    the label.
    """
    rng = random.Random(seed)
    texts, labels, truth = [], [], []
    for _ in range(n):
        label = rng.randrange(2)
        # "the story was hardly gripping": a negation turns the adjective round.
        turned = rng.random() < 0.3
        thing = rng.choice(FILM_THINGS)
        degree = rng.choice(NEGATIONS if turned else DEGREES)
        opinion = f"{degree} {rng.choice(ADJECTIVES[label ^ turned])}"
        # Around it: sentences of the same form about other things, and small talk.
        parts = [f"the {other} was {rng.choice(DEGREES)} {rng.choice(OTHER_WAYS)}"
                 for other in rng.sample(OTHER_THINGS, 2)]
        parts += rng.sample(SMALL_TALK, 2 + rng.randrange(2))
        rng.shuffle(parts)
        parts.insert(rng.randrange(len(parts) + 1), f"the {thing} was {opinion}")
        text = " ".join(parts)
        start = text.index(opinion)
        texts.append(text)
        labels.append(label)
        truth.append([(start, start + len(opinion))])
    return Examples(texts, torch.tensor(labels), truth)


# ---------------------------------------------------------------- the data sets by name
# What makes a set by (n, seed), and the names of its classes.
BUILT_IN = {
    "phrases": (phrases, ["negative", "positive"]),
    "glyphs": (glyphs, list("0123456789")),
}
DOWNLOADS = "cifar10 cifar100 cifar100_coarse imdb".split()
