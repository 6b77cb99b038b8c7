"""The data of REKD: whole tensors in, batches out. No worker processes, no per-image Python.

A data set is a few tensors on the training device: uint8 pixels at their native size, or int32
token ids. A batch is an index select; crop, flip, resize and normalise are batched (the paper's
recipe: crop and flip at 32 px, then resize); texts are trimmed to the longest of a batch.

`load_dataset(NAME)` finds, in this order,
    a built-in set    glyphs (digits among clutter), phrases (opinions among small talk): made in
                      a second, with the true rationale of every example
    a local folder    <data-dir>/NAME/{train,test}/<class>/*.(png|jpg|jpeg|txt)
    a download        cifar10, cifar100 (100 classes), cifar100_coarse (the 20 of the paper's
                      "CIFAR 100"), imdb
This file imports no other file of the repository and can be copied alone. See it at work:

    python train.py
"""

import hashlib
import math
import os
import pickle
import random
import re
import string
import sys
import tempfile
import unicodedata
import urllib.request
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps  # comes with torchvision
from torch import Tensor
from tqdm import tqdm

# Fixes what is train and what is dev, the views and the vocabulary. --seed does not touch it, so
# one teacher serves all seeds and never saw its student's dev data.
DATA_SEED = 2026
FILES = {"image": [".png", ".jpg", ".jpeg"], "text": [".txt"]}
MOST_PIXELS = 70 * 10**6  # of an image: more would fill the memory, and PIL only warns
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class UserError(ValueError):
    """A mistake that the user can mend: its text is one sentence that says how."""


# ---------------------------------------------------------------- a data set and its batches


@dataclass
class Split:
    # (n, 3, H, W) uint8 pixels, or (n, max_length) int32 token ids, 0 = padding. None: the texts
    # are not encoded yet, see `text_split`.
    x: Tensor
    y: Tensor                      # (n,) int64 class
    truth: Tensor = None           # (n, N) bool, the true rationale, if known
    lengths: Tensor = None         # text: (n,) tokens without padding; stays on the host
    docs: Tensor = None            # text: (n,) which texts of the corpus; on the host

    def __len__(self):
        return len(self.y)

    def select(self, rows):
        return Split(*(None if t is None else t[rows] for t in vars(self).values()))

    def to(self, device):
        moved = [None if t is None else t.to(device) for t in (self.x, self.y, self.truth)]
        return Split(*moved, self.lengths, self.docs)


@dataclass
class Dataset:
    name: str
    classes: list           # names, in the order of their numbers
    train: Split
    dev: Split              # a stratified 20 % of the training set: chooses the checkpoint
    test: Split             # touched once, at the end
    input: dict             # what turns a file into an input of the model, see `read_input`
    views: object           # images: view -> (n, 3), crop and flip of each training example
    fingerprint: str        # of the training data: a teacher is reused only where it is the same
    corpus: object = None   # text: the words and where they come from, for showing them
    test_fingerprint: str = ""  # a result holds for these test data alone

    def batches(self, split, batch_size, order=None, view=None):
        """Yields rows (B,) of the split, on the host; x (B, 3, S, S) or token ids (B, T); y (B,).

        order: (n,) rows in their order, on the host; None: all, as they come. A view is a fixed
        crop and flip of each training image, so that what a frozen teacher says of it can be
        computed once.
        """
        if order is None:
            order = torch.arange(len(split))
        crops = self.views(view) if self.views and view is not None else None
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


def load_dataset(name, data_dir="data", *, limit=None, image_size=32, patch_size=4,
                 max_length=128, vocab=None, views=4, device="cpu"):
    """-> Dataset on `device`. A user's mistake is a UserError.

    Trains on a stratified `limit` of examples, all if None. Texts become at most max_length
    tokens, by the WordPiece vocabulary of the file `vocab`, or else by the words of the training
    texts.
    """
    whole, test, classes, corpus = read_dataset(name, Path(data_dir), image_size)
    # Dev is a fifth of all. The rows of a smaller limit are among those of a greater one.
    dev_rows, train_rows = stratified_order(whole.y).tensor_split([max(len(whole) // 5, 1)])
    train_rows = train_rows[:limit]
    if len(whole.y[train_rows].unique()) < len(classes):
        raise UserError(
            f"some of {len(classes)} classes have no training example: add files or raise --limit")
    dev_rows = dev_rows[:max(len(train_rows) // 4, 1)]
    splits = [whole.select(train_rows), whole.select(dev_rows), test]
    crops = None
    if corpus is None:
        input = {"kind": "image", "image_size": image_size}
        splits = [image_split(split, image_size // patch_size) for split in splits]
        if name not in BUILT_IN:  # a glyph's mirror image is no digit
            shape = whole.x.shape

            def crops(view):
                return draw_view(shape, view % views)[train_rows].to(device)
    else:
        tokenizer = WordPiece(vocab or corpus.vocabulary(splits[0].docs))
        input = {"kind": "text", "max_length": max_length, "vocabulary": tokenizer.vocabulary}
        splits = [text_split(split, corpus, tokenizer, max_length) for split in splits]
    train, dev, test = splits
    return Dataset(name, classes, train.to(device), dev.to(device), test.to(device), input, crops,
                   checksum(classes, train_rows, train.y, train.x), corpus,
                   checksum(classes, test.y, test.y, test.x))  # y twice: as before


def read_dataset(name, data_dir, image_size):
    """-> the training set with dev, the test set, classes, corpus (of texts; None for images)."""
    kind_of(name, data_dir)  # a UserError if there is no such set
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if (data_dir / name).is_dir():
        return read_folder(data_dir / name, image_size)
    return DOWNLOADS[name](data_dir)


def kind_of(name, data_dir="data"):
    """ "image" or "text", by the set's name or the endings of its files. UserError: no such set."""
    local = sorted(path.parent.name for path in Path(data_dir).glob("*/train"))
    known = [*BUILT_IN, *DOWNLOADS, *local]
    if name not in known:
        raise UserError(f"no data set {name!r}: there are {', '.join(known)}; your own goes into "
                        f"{Path(data_dir, Path(name).name)}/{{train,test}}/<class>/")
    folder = Path(data_dir, name, "train")
    classes = class_names(folder)
    if classes and name not in BUILT_IN:
        # by majority: a folder of images may hold a readme.txt
        return max(FILES, key=lambda kind: len(files_of(folder / classes[0], kind)))
    return "text" if name in ("phrases", "imdb") else "image"


@contextmanager
def seeded(seed):
    """Draws in here depend on the seed alone, and change nothing that is drawn elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@seeded(DATA_SEED)
def stratified_order(y):
    """(n,) classes -> (n,) rows, in random order but for this: every prefix holds the classes in
    their shares."""
    key = torch.empty(len(y), dtype=torch.float64)
    for c, n in enumerate(y.bincount().tolist()):
        place = torch.randperm(n).argsort()  # in a shuffle of the class
        key[y == c] = (place.double() + 0.5) / n
    return key.argsort(stable=True)


def image_split(split, grid):
    """Truth of pixels -> of the grid of patches: one is part of it if it touches it."""
    if split.truth is None:
        return split
    truth = F.adaptive_max_pool2d(split.truth.float(), grid).flatten(1)  # (n, H, W) -> (n, N)
    return replace(split, truth=truth.bool())


def text_split(split, corpus, tokenizer, max_length):
    """Documents -> token ids and their lengths, truth of characters -> of tokens."""
    ids = [tokenizer.encode(corpus.texts[doc].split(), max_length) for doc in split.docs]
    split = replace(split, x=padded(ids, max_length), lengths=torch.tensor([*map(len, ids)]))
    if split.truth is not None:
        truth = []
        for doc, (first, last) in zip(split.docs, split.truth.tolist()):
            spans = tokenizer.spans(corpus.texts[doc])
            # [CLS] is no part of it, every piece of a true word is.
            truth.append([False] + [first <= start < last for start, _ in spans])
        split.truth = padded(truth, max_length).bool()
    return split


def padded(rows, width):
    """Lists of different lengths -> (n, width) int32: each is cut, or has 0 behind its end."""
    rows = [row[:width] + [0] * (width - len(row)) for row in rows]
    return torch.tensor(rows).int()


def checksum(lines, *arrays):
    """Of a list of str and of arrays or tensors on the host -> 16 hexadecimal digits."""
    digest = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape"))
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
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
    colours = [(colour - mean) / std for colour, mean, std in zip(x.unbind(1), MEAN, STD)]
    return torch.stack(colours, 1)


def open_file(path):
    """A UserError if it cannot be read, or is a pipe or a device, which might never end."""
    if not (os.path.isfile(path) and os.access(path, os.R_OK)):
        raise UserError(f"cannot read {path}: it must be there, readable, and no folder or pipe")
    return open(path, "rb")


def read_image(path, size=None):
    """A PNG or JPEG of any size and mode -> uint8 (3, H, W) RGB; with `size`, resized (not
    cropped) to size x size."""
    file = open_file(path)
    try:
        with file, Image.open(file) as image:
            if math.prod(image.size) > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
            image = to_rgb(ImageOps.exif_transpose(image))
            if size:
                image = image.resize((size, size), Image.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    except Exception as error:  # it is damaged: OSError, SyntaxError, struct.error, ...
        raise UserError(f"{path} cannot be read as an image ({error}): mend or remove it") from None


def to_rgb(image):
    if image.mode.startswith("I"):  # 16 bits a pixel: PIL would clip at 255
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.has_transparency_data:  # on white: under transparent pixels lies anything
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def read_input(path, input):
    """A file of your own -> x, ready for a model whose `info["input"]` is `input`: (1, 3, S, S),
    or (1, T) token ids."""
    if input["kind"] == "image":
        pixels = read_image(path, input["image_size"])
        return to_input(pixels[None], input["image_size"])
    text, _ = read_text(path)
    ids = WordPiece(input["vocabulary"]).encode(text, input["max_length"])
    return torch.tensor([ids]).int()


# ---------------------------------------------------------------- text

SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
# Typed in a text, they stay whole and upper-case. Splitting by it keeps them as parts.
SPECIAL_TOKEN = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")
# The last block but one starts at 2B820: a slip of the reference, for equal ids.
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

    vocab: a vocab.txt (one token a line, the line's number its id) or a list of tokens; of plain
    words, it makes a word vocabulary. UserError if it cannot be read or lacks [PAD] (as id 0),
    [UNK], [CLS] or [SEP]. The ids are those of `transformers`' BertTokenizer but for 503 of
    1,112,064 characters (with Python 3.11's Unicode 14): rare marks and signs that its Unicode 8
    tables do not know.
    """

    def __init__(self, vocab):
        if isinstance(vocab, (str, Path)):
            text, is_replaced = read_text(vocab, most=10**8)
            if is_replaced:
                raise UserError(f"the vocabulary {vocab} is not all UTF-8: is this BERT's?")
            text = text.replace("\r\n", "\n").removesuffix("\n")
            vocab = text.split("\n")  # splitlines() also parts at U+2028
        self.vocabulary = list(vocab)
        self.ids = dict(zip(vocab, range(len(vocab))))
        self.pieces = cache(self.pieces)  # texts repeat their words
        if self.ids.get("[PAD]") != 0 or {"[UNK]", "[CLS]", "[SEP]"} - self.ids.keys():
            raise UserError("the vocabulary lacks [PAD], first, [UNK], [CLS] or [SEP]: take BERT's")

    @staticmethod
    def words(text):
        """-> list of str: lower case, no accents; each punctuation mark and CJK character its
        own. Needs no vocabulary, so that it can count one."""
        return [word for word, _ in located_words(text)]

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

    def encode(self, text, max_length=sys.maxsize):
        """A text, or its words -> list of ids: [CLS] pieces [SEP], cut to max_length."""
        if max_length < 2:
            raise UserError(f"max_length {max_length} has no room for [CLS] and [SEP]: at least 2")
        words = self.words(text) if isinstance(text, str) else text
        ids = [i for word in words for i in self.pieces(word)]
        return [self.ids["[CLS]"], *ids[:max_length - 2], self.ids["[SEP]"]]

    def spans(self, text):
        """Where each token of `encode(text)` but [CLS] and [SEP] stands: [(start, end), ...].

        text[start:end] is the token as it was written, with the marks that follow it. Two pieces
        of one character, which decomposition gives (ᄒ and ᅡ of 하), both have that character.
        """
        spans = []
        for word, places in located_words(text):
            start = 0
            for i in self.pieces(word):
                token = self.vocabulary[i].removeprefix("##")
                end = len(word) if token == "[UNK]" else start + len(token)
                spans.append((places[start], max(places[end], places[end - 1] + 1)))
                start = end
        return spans


def located_words(text):
    """Yields the words, see `WordPiece.words`, and the place in the text of each character of the
    word and of whatever follows it."""
    offset = 0
    for part in SPECIAL_TOKEN.split(text):
        forms = list(part) if part in SPECIAL else [basic_form(c) for c in part]
        places = [offset + i for i, form in enumerate(forms) for _ in form]
        offset += len(part)
        places.append(offset)
        for word in re.finditer(r"\S+", "".join(forms)):
            yield word[0], places[word.start():word.end() + 1]


def read_text(path, most=10**6):
    """A UTF-8 file -> its text, and whether bytes of it could not be decoded and are replaced. An
    empty or binary one is a UserError, and one of more than `most` bytes."""
    with open_file(path) as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise UserError(f"{path} has more than {most:,} bytes: cut it, few are read anyway")
    text = raw.decode(errors="replace")
    if not text.strip() or "\0" in text:  # pictures and UTF-16 hold the byte 0
        raise UserError(f"{path} is empty or no text in UTF-8: give it a text, or remove it")
    return text, text.encode() != raw


@dataclass
class Corpus:
    """Texts as their words, so that counting and encoding need no second look at the files."""
    texts: list           # of each text, its words in one string: a list takes 8 times the room
    paths: list = None    # of each text, its file, if they are files

    def vocabulary(self, docs, size=15000):
        """The `size` most frequent words of the texts `docs`, after the special tokens. Of equally
        frequent ones, those that the whole corpus has first."""
        words = (word for text in self.texts for word in text.split())
        counts = Counter(dict.fromkeys(words, 0))
        for doc in docs:
            counts.update(self.texts[doc].split())
        words = [word for word, count in counts.most_common() if count and word not in SPECIAL]
        return SPECIAL + words[:size]


# ---------------------------------------------------------------- class folders


def read_folder(folder, image_size=32):
    """<folder>/{train,test}/<class>/* -> train, test, classes, corpus (of texts; None for images).

    Images that all have one square size of at most image_size stay as they are (CIFAR at 32 px,
    whatever the model wants: batches are resized on the device); else all become image_size.
    """
    kind = kind_of(folder.name, folder.parent)
    classes, in_test = (class_names(folder / part) for part in ("train", "test"))
    if len(classes) < 2 or in_test != classes:
        raise UserError(f"{folder} has the class folders {classes} in train and {in_test} in test: "
                        f"they must be the same, and at least two")
    files = list_files(folder / "train", classes, kind)
    n = len(files)
    paths, labels = zip(*files, *list_files(folder / "test", classes, kind))
    both, corpus = Split(None, torch.tensor(labels)), None
    if kind == "image":
        pixels = cached(folder, paths, read_images, image_size)
        side = math.isqrt(pixels.size // (3 * len(paths)))  # they are square
        both.x = torch.from_numpy(pixels).view(-1, 3, side, side)
    else:
        lines = cached(folder, paths, read_texts)
        corpus = Corpus(str(lines, "utf-8").split("\n"), paths)
        both.docs = torch.arange(len(paths))
    return both.select(slice(n)), both.select(slice(n, None)), classes, corpus


def class_names(folder):
    """The class folders in it, in order: not the hidden ones, nor IMDB's unlabelled reviews."""
    return [place.name for place in sorted(folder.glob("[!.]*"))
            if place.is_dir() and place.name != "unsup"]


def list_files(folder, classes, kind):
    """-> [(path, label), ...], ordered by class and name."""
    found = []
    for c, name in enumerate(classes):
        paths = files_of(folder / name, kind)
        if not paths:
            raise UserError(f"the class folder {folder / name} has no {', '.join(FILES[kind])}")
        found += [(path, c) for path in paths]
    return found


def files_of(folder, kind):
    return [path for path in sorted(folder.glob("[!.]*"))  # a Mac's zip holds ._0.png
            if path.suffix.lower() in FILES[kind] and path.is_file()]


def cached(folder, paths, read, *options):
    """The bytes that read(paths, *options) returns, as a uint8 array. They are kept in the folder,
    which may move, until the name, size or time of a file changes: its content alone is not looked
    at.

    The cache is a checksum, of the files' state and the bytes, and then the bytes: one that is
    torn, altered or of other files is made again, and nothing in it can run.
    """
    files = [f"{read.__name__} {options}"]
    for path in paths:
        stat = path.stat()
        files.append(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}")
    cache = folder / ".rekd-cache"
    with suppress(OSError), open(cache, "rb") as file:  # there may be none yet
        head, content = file.read(16), np.fromfile(file, np.uint8)
        if head == checksum(files, content).encode():
            return content
    content = read(paths, *options)
    head = checksum(files, content).encode()
    remove_parts(folder)
    try:
        write_atomically(cache, lambda file: file.writelines([head, content]))
    except UserError as error:  # others' folders can often not be written to
        print(f"what was read is not kept for the next start: {error}", file=sys.stderr)
    return content


def read_images(paths, image_size):
    """-> (n, 3, S, S) uint8 array. S: the side of the images if all are squares of one size of at
    most image_size, else that."""
    sides = set()
    for path in paths:  # reads the header only; a damaged file is named later
        with suppress(Exception), Image.open(path) as image:
            sides.update(image.size)
    size = min(*sides, image_size) if len(sides) == 1 else image_size
    pixels = np.empty((len(paths), 3, size, size), np.uint8)  # a list would take the room twice
    # disable=None: no bar where stderr is no terminal
    for i, path in enumerate(tqdm(paths, "decoding images", disable=None)):
        pixels[i] = read_image(path, size)
    return pixels


def read_texts(paths):
    """-> uint8 array: of each text a line, its words with spaces between them."""
    lines = []
    replaced = []
    for path in tqdm(paths, "reading texts", disable=None):
        text, is_replaced = read_text(path)
        lines.append(" ".join(WordPiece.words(text)))
        replaced += [path] * is_replaced
    if replaced:
        print(f"undecodable bytes in {len(replaced)} files were replaced (first: {replaced[0]})",
              file=sys.stderr)
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def write_atomically(path, write):
    """write(binary file) beside the target, then rename: the final name never has half a file."""
    part = Path(f"{path}.{os.getpid()}.rekd-part")  # others' downloads end in .part
    try:
        with open(part, "wb") as file:
            lock(file)  # so that no other process takes it for a dead one's: see `remove_parts`
            write(file)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch.save reports a full disk
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise UserError(f"cannot write {path}: {reason}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def lock(file):
    """Lock an open file -> True; False if another process has. A lock ends with its process,
    however that ends. Where there are no locks (Windows, some network disks), None."""
    try:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None


def remove_parts(folder):
    """Half files of processes that were killed."""
    for part in folder.glob("*.rekd-part"):
        with suppress(OSError), open(part, "rb") as file:
            if lock(file):
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
                        f"fetch it by hand and put it at {path}{hint}") from error


def fetch_hub(repo, *filenames):
    """The first of these files that a Hugging Face repository has -> its Path in torch's cache.
    What lies there needs no network."""
    folder = Path(torch.hub.get_dir(), "checkpoints", repo.replace("/", "--"))
    for name in filenames:
        if (folder / name).is_file():
            return folder / name
    folder.mkdir(parents=True, exist_ok=True)
    server = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    for name in filenames:
        url, path = f"{server.rstrip('/')}/{repo}/resolve/main/{name}", folder / name
        print(f"downloading {url}", file=sys.stderr)
        try:
            with by_hand(url, path, ", or choose --init scratch"):
                # All at once: so a connection that is cut is an exception.
                content = urllib.request.urlopen(url, timeout=30).read()
            break
        except UserError as error:
            if getattr(error.__cause__, "code", None) != 404 or name == filenames[-1]:
                raise
    write_atomically(path, lambda file: file.write(content))
    return path


def fetch_cifar(name, root, coarse=False):
    """CIFAR by torchvision, which downloads what is missing and verifies the md5 of each file
    before it reads it: a pickle can run code."""
    from torchvision import datasets  # takes 1.5 s
    source = getattr(datasets, name)
    splits = []
    for part in ("train", "test"):
        with by_hand(source.url, root / source.filename):
            found = source(root, train=part == "train", download=True)
        classes, labels = found.classes, found.targets
        if coarse:  # torchvision reads the fine labels only
            classes = unpickle(root / source.base_folder / "meta")["coarse_label_names"]
            labels = unpickle(root / source.base_folder / part)["coarse_labels"]
        pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2)  # (n, H, W, 3) -> (n, 3, H, W)
        splits.append(Split(pixels, torch.tensor(labels)))
    return *splits, classes, None


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


def glyphs(n, seed):
    """n images of 32 x 32 -> Split. The label is the one small digit; its 8 x 8 px (2 x 2 patches
    of 4 px) are the truth, here still (n, 32, 32): of pixels.

    Around it: soft coloured clutter, noise, and a distractor, which is a digit with its pixels
    shuffled, so that no colour, brightness or place gives the digit away: only its shape does.
    """
    with seeded(seed):
        image = clutter(n) + 25 * torch.randn(n, 3, 32, 32)
        digit = torch.randint(10, (n, 2))
        shuffle = torch.rand(n, 2, 64).argsort(-1)
        cell = torch.rand(n, 9).argsort(1)[:, :2]
        down, right = 4 * torch.randint(3, (2, n, 1))
        colour = 90 + 60 * torch.rand(n, 2, 3)
    # What is stamped on an image: its digit, and another one with its pixels shuffled.
    bits = torch.tensor([[c == "#" for c in line] for line in FONT.split()]).float()
    font = bits.view(8, 10, 8).transpose(0, 1).flatten(1)           # (10, 8 * 8)
    shuffle[:, 0] = torch.arange(64)
    stamps = font[digit].gather(2, shuffle)                         # (n, 2, 8 * 8)
    # Where: in different cells of a 3 x 3 grid of 8 px, which is shifted by 0, 4 or 8 px.
    row = down + 8 * (cell // 3)                                    # (n, 2)
    column = right + 8 * (cell % 3)
    inside = 32 * torch.arange(8)[:, None] + torch.arange(8)        # (8, 8)
    place = (32 * row + column)[..., None] + inside.flatten()       # (n, 2, 8 * 8)
    light = torch.zeros(n, 2, 32 * 32).scatter_(2, place, stamps)
    image += torch.einsum("nkc,nkp->ncp", colour, light).view_as(image)
    truth = torch.zeros(n, 32 * 32).scatter_(1, place[:, 0], 1).view(n, 32, 32).bool()
    return Split(image.clamp(0, 255).byte(), digit[:, 0], truth)


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
    """n reviews of 19 to 30 words -> Split, and the texts. The label is the opinion of the film:

        they came late the coffee was quite cold the story was hardly gripping by the river ...
        -> negative

    The last two words of that sentence are the truth, here still (n, 2): from which character of
    the text to which. Everything else is drawn without a look at the label.
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
        truth.append([start, start + len(opinion)])
    return Split(None, torch.tensor(labels), torch.tensor(truth), docs=torch.arange(n)), texts


# ---------------------------------------------------------------- the data sets by name


def load_glyphs():
    return glyphs(7500, DATA_SEED), glyphs(3000, DATA_SEED + 1), list("0123456789"), None


def load_phrases():
    train, texts = phrases(7500, DATA_SEED)
    test, test_texts = phrases(3000, DATA_SEED + 1)
    test.docs += len(texts)
    return train, test, ["negative", "positive"], Corpus(texts + test_texts)


# A new set is one function that returns train, test, classes, corpus (None for images).
BUILT_IN = {"phrases": load_phrases, "glyphs": load_glyphs}
DOWNLOADS = {  # of the folder that the files go into
    "cifar10": partial(fetch_cifar, "CIFAR10"),
    "cifar100": partial(fetch_cifar, "CIFAR100"),
    "cifar100_coarse": partial(fetch_cifar, "CIFAR100", coarse=True),
    "imdb": fetch_imdb
}
