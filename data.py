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

import contextlib
import errno
import hashlib
import http.client
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
import zipfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps  # comes with torchvision
from tqdm import tqdm

# Fixes what is train and what is dev, the views and the vocabulary. --seed does not touch it, so
# one teacher serves all seeds and never saw its student's dev data.
DATA_SEED = 2026
FILES = {"image": (".png", ".jpg", ".jpeg"), "text": (".txt",)}
LONGEST = 10**6  # bytes of a text
MOST_PIXELS = 70 * 10**6  # of an image: more would fill the memory, and PIL only warns
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class UserError(ValueError):
    """A mistake that the user can mend: its text is one sentence that says how."""


# ---------------------------------------------------------------- a data set and its batches


@dataclass
class Split:
    # (n, 3, H, W) uint8 pixels, or (n, max_length) int32 token ids, 0 = padding. None: the texts
    # are not encoded yet, see `text_split`.
    x: torch.Tensor | None
    y: torch.Tensor                      # (n,) int64 class
    truth: torch.Tensor | None = None    # (n, N) bool, the true rationale, if known
    lengths: torch.Tensor | None = None  # text: (n,) tokens without padding; stays on the host
    docs: torch.Tensor | None = None     # text: (n,) which texts of the corpus; on the host

    def __len__(self):
        return len(self.y)

    def select(self, rows):
        return Split(*(None if t is None else t[rows] for t in vars(self).values()))

    def to(self, device):
        truth = None if self.truth is None else self.truth.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), truth=truth)


@dataclass
class Dataset:
    name: str
    classes: list           # names, in the order of their numbers
    train: Split
    dev: Split              # a stratified 20 % of the training set: chooses the checkpoint
    test: Split             # touched once, at the end
    input: dict             # what turns a file into an input of the model, see `read_input`
    views: torch.Tensor | None  # (V, n, 3): crop and flip of training example i in view v
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
        on_device = order.to(split.y.device)
        for rows, index in zip(order.split(batch_size), on_device.split(batch_size)):
            x = split.x[index]
            if split.lengths is not None:
                # The longest of the batch, rounded up to a multiple of 32: few shapes. Lengths
                # are on the host, so nothing waits for the device.
                longest = int(split.lengths[rows].max())
                x = x[:, :32 * ((longest + 31) // 32)]
            else:
                if view is not None and self.views is not None:
                    x = crop_and_flip(x, self.views[view % len(self.views), index])
                x = to_input(x, self.input["image_size"])
            yield rows, x, split.y[index]

    def text(self, split, i):
        """Example i as it was written."""
        doc, corpus = int(split.docs[i]), self.corpus
        return read_text(corpus.paths[doc])[0] if corpus.paths else corpus.texts[doc]


def load_dataset(name, data_dir="data", *, limit=None, image_size=32, patch_size=4,
                 max_length=128, vocab=None, views=4, device="cpu"):
    """-> Dataset on `device`. A user's mistake is a UserError.

    Trains on a stratified `limit` of examples, all if None. Texts become at most max_length
    tokens, by the WordPiece vocabulary of the file `vocab`, or else by the words of the training
    texts.
    """
    whole, test, classes, corpus = read_dataset(name, Path(data_dir), image_size)
    if limit is not None and limit < len(classes):
        raise UserError(f"--limit {limit} is less than one example for each of the {len(classes)} "
                        f"classes of {name}")
    # Dev is a fifth of all. The rows of a smaller limit are among those of a greater one.
    order = stratified_order(whole.y)
    dev_rows, train_rows = order.tensor_split([max(len(order) // 5, 1)])
    if limit is not None:
        train_rows, dev_rows = train_rows[:limit], dev_rows[:max(limit // 4, 1)]
    splits = [whole.select(train_rows), whole.select(dev_rows), test]
    crops = None
    if corpus is None:
        input = {"kind": "image", "image_size": image_size}
        splits = [image_split(split, image_size // patch_size) for split in splits]
        if name not in BUILT_IN:  # a glyph's mirror image is no digit
            crops = draw_views(whole.x, views)[:, train_rows].to(device)
    else:
        tokenizer = WordPiece(vocab or corpus.vocabulary(splits[0].docs))
        input = {"kind": "text", "max_length": max_length, "vocabulary": tokenizer.vocabulary}
        splits = [text_split(split, corpus, tokenizer, max_length) for split in splits]
    digest = fingerprint(train_rows, splits[0], classes)
    test_digest = fingerprint(test.y, splits[2], classes)
    train, dev, test = (split.to(device) for split in splits)
    return Dataset(name, classes, train, dev, test, input, crops, digest, corpus, test_digest)


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
    known = [*BUILT_IN, *DOWNLOADS]
    local = sorted(path.parent.name for path in Path(data_dir).glob("*/train"))
    if name not in known + local:
        raise UserError(f"no data set {name!r}: there are {', '.join(known)}, and in {data_dir}/ "
                        f"{', '.join(local) or 'none yet'}; your own goes into "
                        f"{Path(data_dir, Path(name).name)}/{{train,test}}/<class>/")
    folder = Path(data_dir, name, "train")
    classes = class_names(folder)
    if classes and name not in BUILT_IN:
        names = [file.lower() for file in os.listdir(folder / classes[0])]
        # by majority: a folder of images may hold a readme.txt
        return max(FILES, key=lambda kind: sum(file.endswith(FILES[kind]) for file in names))
    return "text" if name in ("phrases", "imdb") else "image"


def stratified_order(y):
    """(n,) classes -> (n,) rows, in random order but for this: every prefix holds the classes in
    their shares."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    key = torch.empty(len(y), dtype=torch.float64)
    for c in y.unique():
        of_class = torch.where(y == c)[0]
        n = len(of_class)
        shuffled = of_class[torch.randperm(n, generator=generator)]
        key[shuffled] = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return key.argsort(stable=True)


def image_split(split, grid):
    """Truth of pixels -> of the grid of patches: one is part of it if it touches it."""
    if split.truth is None:
        return split
    truth = F.adaptive_max_pool2d(split.truth.float(), grid)  # (n, H, W) -> (n, grid, grid)
    return replace(split, truth=truth.flatten(1).bool())      # (n, N)


def text_split(split, corpus, tokenizer, max_length):
    """Documents -> token ids and their lengths, truth of words -> of tokens: every piece of a true
    word is true."""
    ids = [tokenizer.encode_words(corpus[doc], max_length) for doc in split.docs]
    split = replace(split, x=padded(ids, max_length), lengths=torch.tensor([*map(len, ids)]))
    if split.truth is not None:
        truth = []
        for doc, true in zip(split.docs, split.truth.tolist()):
            truth.append([False])  # [CLS]
            for word, is_true in zip(corpus[doc], true):
                truth[-1] += [is_true] * len(tokenizer.pieces(word))
        split.truth = padded(truth, max_length).bool()
    return split


def padded(rows, width):
    """Lists of different lengths -> (n, width) int32: each is cut, or has 0 behind its end."""
    rows = [row[:width] + [0] * (width - len(row)) for row in rows]
    return torch.tensor(rows, dtype=torch.int32)


def fingerprint(rows, train, classes):
    digest = hashlib.sha256("\n".join(classes).encode(errors="surrogateescape"))
    for tensor in (rows, train.y, train.x.contiguous()):
        digest.update(tensor.numpy())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- images


def draw_views(x, views):
    """-> (V, n, 3): top and left of the crop in the padded image, 0 .. 1/4 of a side; flip 0 or 1.

    They hang on the data seed, the view and the example, whatever the limit.
    """
    height, width = x.shape[2:]
    choices = torch.tensor([height // 8 * 2 + 1, width // 8 * 2 + 1, 2])
    generators = [torch.Generator().manual_seed(DATA_SEED + view) for view in range(views)]
    draws = [torch.rand(len(x), 3, generator=generator) for generator in generators]
    return (torch.stack(draws) * choices).long()


def crop_and_flip(pixels, views):
    """Zero-pad by 1/8 (4 px at 32) and crop, flip: one gather for the batch.

    pixels (B, C, H, W), views (B, 3): top, left, flip -> (B, C, H, W)
    """
    B, C, H, W = pixels.shape
    pad = H // 8
    top, left, flip = views.unbind(1)                                  # (B,) each
    padded = F.pad(pixels, (pad, pad, pad, pad))
    windows = padded.unfold(2, H, 1).unfold(3, W, 1)                   # (B, C, tops, lefts, H, W)
    crops = windows[torch.arange(B, device=pixels.device), :, top, left]  # (B, C, H, W)
    return torch.where(flip[:, None, None, None].bool(), crops.flip(3), crops)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


def to_input(pixels, image_size):
    """uint8 (B, 3, H, W) -> float (B, 3, image_size, image_size), normalised by ImageNet's mean
    and standard deviation of each colour."""
    x = pixels.float() / 255
    size = (image_size, image_size)
    if x.shape[2:] != size:
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    # Plain numbers: a tensor of them would have to travel to the device, and wait for it.
    colours = [(colour - mean) / std for colour, mean, std in zip(x.unbind(1), MEAN, STD)]
    return torch.stack(colours, 1)


def regular(path):
    """The path; of a pipe or a device, which might never end, an OSError."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe or a device")
    return path


def read_image(path, size=None):
    """A PNG or JPEG of any size and mode -> uint8 (3, H, W) RGB; with `size`, resized (not
    cropped) to size x size."""
    try:
        with Image.open(regular(path)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
            image = to_rgb(ImageOps.exif_transpose(image))
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    except Exception as error:  # none there, or damaged: OSError, SyntaxError, struct.error, ...
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
    tokenizer = WordPiece(input["vocabulary"])
    return torch.tensor([tokenizer.encode(text, input["max_length"])], dtype=torch.int32)


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
            try:
                text = Path(vocab).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"cannot read the vocabulary {vocab} ({error}): "
                                "it must be UTF-8 text, one token a line") from None
            vocab = text.removesuffix("\n").split("\n")  # splitlines() also parts at U+2028
        self.vocabulary = list(vocab)
        self.ids = {token: i for i, token in enumerate(vocab)}
        self.cache = {}  # word -> ids: texts repeat their words
        if self.ids.get("[PAD]") != 0 or {"[UNK]", "[CLS]", "[SEP]"} - self.ids.keys():
            raise UserError("a vocabulary must start with [PAD] and hold [UNK], [CLS] and [SEP]: "
                            "is this BERT's vocab.txt?")

    @staticmethod
    def words(text):
        """-> list of str: lower case, no accents; each punctuation mark and CJK character its
        own. Needs no vocabulary, so that it can count one."""
        return [word for word, _ in located_words(text)]

    def pieces(self, word):
        """-> tuple of ids. One part without a piece makes the whole word [UNK], and so do more
        than 100 characters."""
        if word not in self.cache:
            ids = []
            start, end = 0, len(word)
            while start < end and len(word) <= 100:
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self.ids:  # the longest from start: go on behind it
                    ids.append(self.ids[piece])
                    start, end = end, len(word)
                else:
                    end -= 1
            self.cache[word] = tuple(ids) if start == len(word) else (self.ids["[UNK]"],)
        return self.cache[word]

    def encode(self, text, max_length=sys.maxsize):
        """-> list of ids: [CLS] pieces [SEP], cut to max_length."""
        return self.encode_words(self.words(text), max_length)

    def encode_words(self, words, max_length=sys.maxsize):
        if max_length < 2:
            raise UserError(f"max_length {max_length} leaves no room for [CLS] and [SEP]: "
                            "it must be at least 2")
        ids = []
        for word in words[:max_length]:  # no more: each has a piece at least
            ids += self.pieces(word)
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
                token = self.vocabulary[i]
                length = len(word) if token == "[UNK]" else len(token.removeprefix("##"))
                end = start + length
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


def read_text(path):
    """A UTF-8 file -> its text, and whether bytes of it could not be decoded and are replaced. An
    empty or binary one is a UserError."""
    try:
        with open(regular(path), "rb") as file:
            raw = file.read(LONGEST + 1)
    except OSError as error:
        raise UserError(f"cannot read the text file {path}: {error.strerror}") from None
    if len(raw) > LONGEST:
        raise UserError(f"{path} has more than {LONGEST:,} bytes: cut it, only its first words "
                        f"are read anyway")
    text = raw.decode("utf-8", errors="replace")
    if not text.strip():
        raise UserError(f"{path} is empty: give it a text, or remove it")
    if "\0" in text:  # pictures and UTF-16 hold the byte 0
        raise UserError(f"{path} is no text in UTF-8: give it a text, or remove it")
    # A file may hold the replacement sign itself.
    return text, text.count("\ufffd") > raw.count("\ufffd".encode())


@dataclass
class Corpus:
    """Texts as their words, so that counting and encoding need no second look at the files."""
    texts: list           # of each text, its words in one string: a list takes 8 times the room
    paths: list = None    # of each text, its file, if they are files

    def __getitem__(self, doc):
        return self.texts[doc].split()

    def vocabulary(self, docs, size=15000):
        """The `size` most frequent words of the texts `docs`, after the special tokens. Of equally
        frequent ones, those that the whole corpus has first."""
        words = (word for text in self.texts for word in text.split())
        counts = Counter(dict.fromkeys(words, 0))
        for doc in docs:
            counts.update(self[doc])
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
    if len(classes) < 2:
        raise UserError(f"{folder / 'train'} has the class folders {classes}, but at least two "
                        f"are needed: files go into {folder}/{{train,test}}/<class>/")
    if in_test != classes:
        raise UserError(f"{folder / 'test'} has the class folders {in_test}, but the training "
                        f"set has {classes}: they must be the same")
    files = list_files(folder / "train", classes, kind)
    n = len(files)
    paths, labels = zip(*files, *list_files(folder / "test", classes, kind))
    both, corpus = Split(None, torch.tensor(labels)), None
    if kind == "image":
        read = lambda: read_images(paths, image_size)
        both.x = cached(folder, paths, f"image {image_size}", read)
    else:
        corpus = Corpus(cached(folder, paths, "words", lambda: read_texts(paths)), paths)
        both.docs = torch.arange(len(paths))
    return both.select(slice(0, n)), both.select(slice(n, None)), classes, corpus


def class_names(folder):
    """The class folders in it, in order: not the hidden ones, nor IMDB's unlabelled reviews."""
    places = sorted(folder.glob("[!.]*"))
    return [place.name for place in places if place.is_dir() and place.name != "unsup"]


def list_files(folder, classes, kind):
    """-> [(path, label), ...], ordered by class and name."""
    found = []
    for c, name in enumerate(classes):
        paths = sorted((folder / name).iterdir())
        files = [(path, c) for path in paths if path.name.lower().endswith(FILES[kind])]
        if not files:
            raise UserError(f"the class folder {folder / name} has no "
                            f"{', '.join(FILES[kind])} file")
        found += files
    return found


def cached(folder, paths, what, read):
    """What read() returns of these files, kept in the folder until the name, size or time of one
    of them changes: its content alone is not looked at. The folder may move."""
    lines = [what]
    for path in paths:
        stat = path.stat()
        lines.append(f"{str(path).removeprefix(str(folder))} {stat.st_size} {stat.st_mtime_ns}")
    key = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    cache = folder / ".rekd-cache.pt"
    with contextlib.suppress(Exception):  # none yet, a torn one, or one of other files
        check_zip(cache)
        content = torch.load(cache, weights_only=True)[key]
        if is_whole(content, what, len(paths)):
            return content
    content = read()
    try:
        remove_parts(folder)
        write_atomically(cache, lambda file: torch.save({key: content}, file))
    except UserError as error:
        print(f"what was read is not kept for the next start: {error}", file=sys.stderr)
    return content


def check_zip(path):
    """torch.load does not look at the checksums of its file, and would unpack what is small on the
    disk and fills the memory. An exception of some kind if either is wrong."""
    with zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist())
        if size > Path(path).stat().st_size or file.testzip():
            raise zipfile.BadZipFile


def is_whole(content, what, n):
    """n texts, or n square images with all their pixels; else False, or some exception."""
    if what == "words":
        return len(content) == n and all(isinstance(text, str) for text in content)
    pixels = content.numpy()  # this has no sparse tensor, nor one without numbers
    side = pixels.shape[3]
    is_full = pixels.flags.c_contiguous and side > 0
    return is_full and pixels.dtype == np.uint8 and pixels.shape == (n, 3, side, side)


def read_images(paths, image_size):
    """-> (n, 3, S, S) uint8. S: the side of the images if all are squares of one size of at most
    image_size, else that."""
    sides = set()
    for path in paths:  # reads the header only; a damaged file is named later
        with contextlib.suppress(Exception), Image.open(regular(path)) as image:
            sides.update(image.size)
    size = min(*sides, image_size) if len(sides) == 1 else image_size
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    # disable=None: no bar where stderr is no terminal
    for i, path in enumerate(tqdm(paths, "decoding images", unit="", disable=None)):
        pixels[i] = read_image(path, size)
    return pixels


def read_texts(paths):
    """-> the words of each text, separated by spaces."""
    words = []
    replaced = []
    for path in tqdm(paths, "reading texts", unit="", disable=None):
        text, is_replaced = read_text(path)
        words.append(" ".join(WordPiece.words(text)))
        replaced += [path] * is_replaced
    if replaced:
        print(f"undecodable bytes in {len(replaced)} files were replaced (the first: "
              f"{replaced[0]})", file=sys.stderr)
    return words


def write_atomically(path, write):
    """write(binary file) beside the target, then rename: the final name never has half a file."""
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            lock(file)  # so that no other process takes it for a dead one's: see `remove_parts`
            write(file)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch.save reports a full disk
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise UserError(f"cannot write {path}: {reason}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def lock(file):
    """Lock an open file -> True; False if another process has. A lock ends with its process,
    however that ends. Where there are no locks (Windows, some network disks), None."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def remove_parts(folder):
    """Half files of processes that were killed."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            if lock(file):
                part.unlink()


# ---------------------------------------------------------------- downloads


@contextlib.contextmanager
def by_hand(url, path, hint=""):
    """A download of url to path that fails leaves nothing there and says what to do by hand."""
    try:
        yield
    except (OSError, RuntimeError, http.client.HTTPException) as error:  # URLError is an OSError
        path.unlink(missing_ok=True)
        raise UserError(f"cannot download {url} ({error}): "
                        f"fetch it by hand and put it at {path}{hint}") from error


def fetch_hub(repo, *filenames):
    """The first of these files that a Hugging Face repository has -> its Path in torch's cache.
    What lies there needs no network."""
    folder = Path(torch.hub.get_dir(), "checkpoints", repo.replace("/", "--"))
    for name in filenames:
        if (folder / name).is_file():
            return folder / name
    server = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    for name in filenames:
        url = f"{server.rstrip('/')}/{repo}/resolve/main/{name}"
        try:
            return fetch_file(url, folder / name)
        except UserError as error:
            if getattr(error.__cause__, "code", None) != 404 or name == filenames[-1]:
                raise


def fetch_file(url, path):
    print(f"downloading {url}", file=sys.stderr)
    with by_hand(url, path, ", or choose --init scratch"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read()  # all at once: so a cut connection is an HTTPException
    write_atomically(path, lambda file: file.write(content))
    return path


def fetch_archive(url, md5, path, name):
    """-> the folder `name` of the archive, beside it. A verified archive that lies there needs no
    network, and an unpacked folder needs no archive."""
    folder = path.parent / name
    if not folder.is_dir():
        from torchvision.datasets.utils import download_url, extract_archive  # takes 1.5 s
        with by_hand(url, path):
            download_url(url, path.parent, path.name, md5)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            extract_archive(path, scratch)
            os.replace(Path(scratch, name), folder)  # there is never half a folder
    return folder


def fetch_cifar(root, name, coarse=False):
    """CIFAR by torchvision, which verifies the md5 of each file before it reads it: a pickle can
    run code."""
    import torchvision.datasets
    source = getattr(torchvision.datasets, name)
    folder = fetch_archive(source.url, source.tgz_md5, root / source.filename, source.base_folder)
    try:
        parts = [source(root, train=is_train) for is_train in (True, False)]
    except RuntimeError:
        raise UserError(f"{folder} is damaged: remove it and start again") from None
    classes = parts[0].classes
    if coarse:  # torchvision reads the fine labels only
        for part, file in zip(parts, ("train", "test")):
            part.targets = unpickle(folder / file)["coarse_labels"]
        classes = unpickle(folder / "meta")["coarse_label_names"]
    splits = []
    for part in parts:
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2)  # (n, H, W, 3) -> (n, 3, H, W)
        splits.append(Split(pixels, torch.tensor(part.targets)))
    return *splits, classes, None


def unpickle(path):
    return pickle.loads(path.read_bytes(), encoding="latin1")


def fetch_imdb(root):
    """The Large Movie Review Dataset (Maas et al. 2011): a class folder like any other."""
    url = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
    md5 = "7c2ac02c03563afcf9b574c7e56c153a"
    return read_folder(fetch_archive(url, md5, root / "aclImdb_v1.tar.gz", "aclImdb"))


# ---------------------------------------------------------------- built-in: glyphs

FONT = """
..###.. ...#... .#####. ######. ....##. ####### ...###. ####### .#####. ..####.
.#...#. ..##... #.....# .....## ...#.#. #...... ..#.... #....## ##...## .#....#
#.....# .#.#... ......# .....## ..#..#. #...... .#..... ....##. ##...## #.....#
#.....# ...#... .....#. ..####. .#...#. ######. ######. ....#.. .#####. .#....#
#.....# ...#... ...##.. .....## #....#. ......# #.....# ...##.. ##...## ..#####
#.....# ...#... ..#.... .....## ####### ......# #.....# ..##... #.....# ......#
.#...#. ...#... .#..... #....## .....#. #....#. #....#. ..##... ##...## ....##.
..###.. .#####. ####### #####.. .....#. .####.. .####.. ..##... .#####. .###...
"""


def glyphs(n, seed, *, distractors=1, noise=25):
    """n images of 32 x 32 -> Split. The label is the one small digit; its 8 x 8 px (2 x 2 patches
    of 4 px) are the truth, here still (n, 32, 32): of pixels.

    Around it: soft coloured clutter, noise, and a distractor, which is a digit with its pixels
    shuffled, so that no colour, brightness or place gives the digit away: only its shape does.
    """
    generator = torch.Generator().manual_seed(seed)
    image = clutter(n, generator)
    image += noise * torch.randn(n, 3, 32, 32, generator=generator)
    K = 1 + distractors  # stamps on each image; stamp 0 is the digit
    digit, stamps, place = draw_stamps(n, K, generator)             # (n, K), (n, K, 64) twice
    colour = 90 + 60 * torch.rand(n, K, 3, 1, generator=generator)
    light = stamps[:, None] * colour.transpose(1, 2)                # (n, 3, K, 64)
    index = place.flatten(1)[:, None].expand(-1, 3, -1)             # (n, 3, K * 64)
    pixels = image.view(n, 3, 32 * 32)                              # the same memory
    pixels.scatter_add_(2, index, light.flatten(2))
    truth = torch.zeros(n, 32 * 32, dtype=torch.bool).scatter_(1, place[:, 0], True)
    return Split(image.clamp(0, 255).byte(), digit[:, 0].clone(), truth.view(n, 32, 32))


def clutter(n, generator):
    """-> (n, 3, 32, 32): soft colours, with three rectangles on them."""
    coarse = 10 + 90 * torch.rand(n, 3, 3, 3, generator=generator)
    image = F.interpolate(coarse, size=32, mode="bilinear", align_corners=True)
    x = torch.arange(32)
    y = x[:, None]
    ranges = torch.tensor([32, 32, 10, 10]).view(4, 1, 1, 1)
    for _ in range(3):
        drawn = ranges * torch.rand(4, n, 1, 1, generator=generator)
        left, top, width, height = drawn.ceil()                            # (n, 1, 1) each
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        colour = 80 * torch.rand(n, 3, 1, 1, generator=generator) - 24
        image += inside[:, None] * colour                                  # (n, 1, 32, 32) * ...
    return image


def draw_stamps(n, K, generator):
    """-> K digits of each image, (n, K); their pixels, (n, K, 8 * 8), which are shuffled but for
    the first digit's; where these go in the 32 * 32 of the image, (n, K, 8 * 8).

    The stamps have different cells of a 3 x 3 grid of 8 px, which is shifted by 0, 4 or 8 px.
    """
    lines = FONT.replace(" ", "").split()
    bits = torch.tensor([[c == "#" for c in line] for line in lines]).float()
    font = bits.view(8, 10, 7).transpose(0, 1)                             # (10, 8, 7)
    font = F.pad(font, (0, 1)).flatten(1)                                  # (10, 8 * 8)
    digit = torch.randint(10, (n, K), generator=generator)
    shuffle = torch.rand(n, K, 64, generator=generator).argsort(-1)
    shuffle[:, 0] = torch.arange(64)
    stamps = font[digit].gather(2, shuffle)
    cell = torch.rand(n, 9, generator=generator).argsort(1)[:, :K]
    down, right = 4 * torch.randint(3, (2, n, 1), generator=generator)
    top = down + 8 * (cell // 3)                                           # (n, K)
    left = right + 8 * (cell % 3)
    pixel = torch.arange(64)
    row = top[..., None] + pixel // 8                                      # (n, K, 64)
    column = left[..., None] + pixel % 8
    return digit, stamps, row * 32 + column


# ---------------------------------------------------------------- built-in: phrases

BAD = "awful bad boring dull shallow silly".split()
GOOD = "brilliant clever funny good gripping moving".split()
ADJECTIVES = BAD, GOOD  # by label
FILM_THINGS = "film movie story acting".split()
NEGATIONS = "not never hardly".split()
DEGREES = "quite really truly".split()
SMALL_TALK = [part.split() for part in """
on a rainy monday, with my sister, after work, we met outside, she told us about it,
they came late, in the dark, by the river, my brother laughed, before dinner, the phone rang,
near the station, we walked home, it was full, nobody spoke, i sat down, two hours later,
for his birthday
""".split(",")]
OTHER_THINGS = "bus coffee parking popcorn queue seat ticket weather".split()
OTHER_WAYS = "cold crowded early expensive long quiet red small sticky warm wet".split()


def phrases(n, seed, *, negated=0.3, distractors=2):
    """n reviews of 19 to 30 words -> Split, and the texts as lists of words. The label is the
    opinion of the film:

        they came late the coffee was quite cold the story was hardly gripping by the river ...
        -> negative

    The last two words of that sentence are the truth, here still (n, 30): of words. Everything
    else is drawn without a look at the label.
    """
    rng = random.Random(seed)
    texts, labels = [], []
    truth = torch.zeros(n, 30, dtype=torch.bool)
    for i in range(n):
        label = rng.randrange(2)
        # "the story was hardly gripping": a negation turns the adjective round.
        turned = rng.random() < negated
        thing = rng.choice(FILM_THINGS)
        degree = rng.choice(NEGATIONS if turned else DEGREES)
        opinion = ["the", thing, "was", degree, rng.choice(ADJECTIVES[label ^ turned])]
        # Around it: sentences of the same form about other things, and small talk.
        parts = []
        for thing in rng.sample(OTHER_THINGS, distractors):
            parts.append(["the", thing, "was", rng.choice(DEGREES), rng.choice(OTHER_WAYS)])
        parts += rng.sample(SMALL_TALK, 2 + rng.randrange(2))
        rng.shuffle(parts)
        place = rng.randrange(len(parts) + 1)
        start = sum(map(len, parts[:place])) + 3
        parts.insert(place, opinion)
        texts.append(sum(parts, []))
        labels.append(label)
        truth[i, start:start + 2] = True
    return Split(None, torch.tensor(labels), truth, docs=torch.arange(n)), texts


# ---------------------------------------------------------------- the data sets by name


def load_glyphs():
    classes = [str(digit) for digit in range(10)]
    return glyphs(7500, DATA_SEED), glyphs(3000, DATA_SEED + 1), classes, None


def load_phrases():
    train, texts = phrases(7500, DATA_SEED)
    test, test_texts = phrases(3000, DATA_SEED + 1)
    test.docs += len(texts)
    corpus = Corpus([" ".join(words) for words in texts + test_texts])
    return train, test, ["negative", "positive"], corpus


# A new set is one function that returns train, test, classes, corpus (None for images).
BUILT_IN = {"phrases": load_phrases, "glyphs": load_glyphs}
DOWNLOADS = {  # of the folder that the files go into
    "cifar10": lambda root: fetch_cifar(root, "CIFAR10"),
    "cifar100": lambda root: fetch_cifar(root, "CIFAR100"),
    "cifar100_coarse": lambda root: fetch_cifar(root, "CIFAR100", coarse=True),
    "imdb": fetch_imdb,
}
