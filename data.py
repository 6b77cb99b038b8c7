"""The data of REKD: whole tensors in, batches out. No worker processes, no per-image Python.

A data set is a few tensors on the training device: uint8 pixels at their native size, or int32 token ids. A batch is an index select; crop,
flip, resize and normalise are batched (the paper's recipe: crop and flip at 32 px, then resize); texts are trimmed to the longest of a batch.

`load_dataset(NAME)` finds, in this order,
    a built-in set    glyphs (digits among clutter), phrases (opinions among small talk), made in a second, with the true rationale of every example
    a local folder    <data-dir>/NAME/{train,test}/<class>/*.(png|jpg|jpeg|txt)
    a download        cifar10, cifar100 (100 classes), cifar100_coarse (the 20 of the paper's "CIFAR 100"), imdb
This file imports no other file of the repository and can be copied alone. See it at work:    python train.py
"""

import contextlib, functools, hashlib, http.client, os, pickle, random, re, string, sys, tempfile, time, unicodedata, urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps  # comes with torchvision
from tqdm import tqdm

DATA_SEED = 2026  # fixes what is train and what is dev; --seed does not touch it, so a teacher never saw its student's dev data
FILES = {"image": (".png", ".jpg", ".jpeg"), "text": (".txt",)}

class UserError(ValueError):
    """A mistake that the user can mend: its text is one sentence that says how."""

@dataclass
class Split:
    x: torch.Tensor                      # (n, 3, H, W) uint8 pixels, or (n, max_length) int32 token ids, 0 = padding
    y: torch.Tensor                      # (n,) int64 class
    truth: torch.Tensor | None = None    # (n, N) bool, the true rationale on the grid of features, where it is known
    lengths: torch.Tensor | None = None  # text: (n,) tokens without padding; stays on the host
    docs: torch.Tensor | None = None     # text: (n,) which texts of Dataset.corpus these are; on the host

    def __len__(self):
        return len(self.y)

    def select(self, index):
        return Split(*(None if t is None else t[index] for t in vars(self).values()))

    def to(self, device):
        return Split(self.x.to(device), self.y.to(device), None if self.truth is None else self.truth.to(device), self.lengths, self.docs)

@dataclass
class Dataset:
    name: str
    classes: list           # names, in the order of their numbers
    train: Split
    dev: Split              # a stratified 20 % of the training set: chooses the checkpoint
    test: Split             # touched once, at the end
    input: dict             # what turns a file, or raw pixels, into an input of the model, see `read_input`
    views: torch.Tensor | None  # images that are augmented: (V, n, 3), how training example i is cropped and flipped in view v
    fingerprint: str        # of the training data: a teacher is reused only where it is the same
    corpus: object = None   # text: the words, for showing them

    def batches(self, split, batch_size, order=None, view=None):
        """Yields x (B, 3, S, S) float or (B, T) ids, y (B,). `order`: (n,) index on the host; None: all, as they come.

        A view is a fixed crop and flip of each training image, so what a frozen teacher says of it can be computed once.

        T is the longest of the batch, rounded up to a multiple of 32 so that shapes are few; read on the host: nothing waits for the device.
        """
        order = torch.arange(len(split)) if order is None else order
        for rows, index in zip(order.split(batch_size), order.to(split.y.device).split(batch_size)):
            x = split.x[index]
            if split.lengths is not None:
                x = x[:, :-(-int(split.lengths[rows].max()) // 32) * 32]
            else:
                x = x if view is None or self.views is None else crop_and_flip(x, self.views[view % len(self.views), index])
                x = to_input(x, self.input["image_size"])
            yield x, split.y[index]

def kind_of(name, data_dir="data"):
    """ "image" or "text", by the name of the set or the endings of its files. A set that is nowhere is a UserError."""
    folder = Path(data_dir) / name
    if name not in (*BUILT_IN, *DOWNLOADS) and not (folder.is_dir() and len(Path(name).parts) == 1):  # a name: runs are kept under it
        local = sorted(p.parent.name for p in Path(data_dir).glob("*/train") if p.is_dir())
        raise UserError(f"no data set {name!r}: there are {', '.join([*BUILT_IN, *DOWNLOADS])}, and in {data_dir}/ "
                        f"{', '.join(local) or 'none yet'}; your own goes into {Path(data_dir) / folder.name}/{{train,test}}/<class>/")
    folders = sorted(path for path in (folder / "train").glob("[!.]*") if path.is_dir())
    if name not in BUILT_IN and folders:
        names = [name.lower() for name in os.listdir(folders[0])]  # by majority: a folder of images may hold a readme.txt
        return max(FILES, key=lambda kind: sum(name.endswith(FILES[kind]) for name in names))
    return "text" if name in ("phrases", "imdb") else "image"

def load_dataset(name, data_dir="data", *, limit=None, image_size=32, patch_size=4, max_length=128, vocab=None, views=4, device="cpu"):
    """-> Dataset on `device`. Trains on a stratified `limit` of examples, all if None. A user's mistake is a UserError.

    Texts become at most max_length tokens, by the WordPiece vocabulary of the file `vocab`, or else by the words of the training texts.
    """
    kind_of(name, data_dir)  # a UserError if there is no such set
    folder = Path(data_dir) / name
    if name in BUILT_IN:
        train, test, classes, corpus = BUILT_IN[name]()
    else:
        train, test, classes, corpus = read_folder(folder, image_size) if folder.is_dir() else DOWNLOADS[name](Path(data_dir))
    order = stratified_order(train.y)
    dev, rest = order.tensor_split([max(len(order) // 5, 1)])
    if limit is not None:
        if limit < len(classes):
            raise UserError(f"--limit {limit} is less than one example for each of the {len(classes)} classes of {name}")
        dev, rest = dev[:max(limit // 4, 1)], rest[:limit]
    crops = None
    if not corpus and name not in BUILT_IN:  # crop: 0 .. 1/4 of a side, two of them; flip: 0 or 1; by (data seed, view, example), whatever the limit
        size = torch.tensor([train.x.shape[2] // 8 * 2 + 1, train.x.shape[3] // 8 * 2 + 1, 2])
        draws = [torch.rand(len(train), 3, generator=torch.Generator().manual_seed(DATA_SEED + view)) for view in range(views)]
        crops = (torch.stack(draws)[:, rest] * size).long().to(device)
    train, dev = train.select(rest), train.select(dev)
    input = {"kind": "image", "image_size": image_size}
    if corpus:
        tokenizer = WordPiece(vocab or corpus.vocabulary(train.x))
        ids, lengths = corpus.encode(tokenizer, max_length)
        input = {"kind": "text", "max_length": max_length, "vocabulary": tokenizer.vocabulary}
    for split in (train, dev, test):
        if corpus:
            split.x, split.lengths, split.docs = ids[split.x], lengths[split.x], split.x
        if split.truth is not None and corpus:  # of every piece of a true word, after [CLS]
            rows = [[t for w, t in zip(corpus[doc], row) for _ in tokenizer.pieces(w)] for doc, row in zip(split.docs, split.truth.tolist())]
            split.truth = torch.tensor([[False, *row[:max_length - 1], *[False] * (max_length - 1 - len(row))] for row in rows])
        elif split.truth is not None:           # (n, H, W) -> (n, N): a feature is part of the truth if it touches it
            split.truth = F.adaptive_max_pool2d(split.truth.float(), image_size // patch_size).flatten(1).bool()
    digest = hashlib.sha256(rest.numpy())
    digest.update(train.y.numpy()), digest.update(train.x.contiguous().numpy())
    return Dataset(name, classes, train.to(device), dev.to(device), test.to(device),
                   input, crops, digest.hexdigest()[:16], corpus)

def stratified_order(y):
    """An order of the examples, random but for this: every prefix holds the classes in their shares. (n,) -> (n,) index."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    key = torch.empty(len(y), dtype=torch.float64)
    for c in y.unique():
        of_class = (y == c).nonzero().squeeze(1)
        shuffled = of_class[torch.randperm(len(of_class), generator=generator)]
        key[shuffled] = (torch.arange(len(of_class), dtype=torch.float64) + 0.5) / len(of_class)
    return key.argsort(stable=True)

# ---------------------------------------------------------------- from pixels to inputs
def to_input(pixels, image_size):
    """uint8 (B, 3, H, W) -> float (B, 3, image_size, image_size), normalised by ImageNet's mean and standard deviation of each colour."""
    x = pixels.float() / 255
    if x.shape[2:] != (image_size, image_size):
        x = F.interpolate(x, size=(image_size, image_size), mode="bilinear", antialias=True)
    red, green, blue = x.unbind(1)  # plain numbers: a tensor of them would have to travel to the device, and wait for it
    return torch.stack([(red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225], 1)

def crop_and_flip(pixels, views):
    """Zero-pad by 1/8 (4 px at 32) and crop, flip: one gather for the batch. (B, C, H, W), views (B, 3): top, left, flip."""
    B, C, H, W = pixels.shape
    device, pad = pixels.device, H // 8
    top, left, flip = views.unsqueeze(1).unbind(2)                                                # (B, 1) each
    rows, columns = top + torch.arange(H, device=device), torch.arange(W, device=device).expand(B, W)
    columns = left + torch.where(flip.bool(), columns.flip(1), columns)                           # (B, W) in the padded image
    padded = F.pad(pixels, (pad, pad, pad, pad)).permute(0, 2, 3, 1)                              # (B, H + 2 pad, W + 2 pad, C)
    example = torch.arange(B, device=device)[:, None, None]
    return padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)             # (B, C, H, W)

def read_image(path, size=None):
    """A PNG or JPEG of any size and mode -> uint8 (3, H, W) RGB; with `size`, resized (not cropped) to size x size."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits a pixel: PIL would clip at 255
                image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
            if image.has_transparency_data:  # on white: what lies under transparent pixels is arbitrary
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    except FileNotFoundError:
        raise UserError(f"no image file {path}") from None
    except Exception as error:  # a damaged file fails in many ways: OSError, SyntaxError, struct.error, ...
        raise UserError(f"{path} cannot be read as an image ({error}): mend or remove it") from None

def read_input(path, input):
    """A file of your own -> x, ready for a model whose `info["input"]` is `input`: (1, 3, S, S), or (1, T) token ids."""
    if input["kind"] == "text":
        return torch.tensor([WordPiece(input["vocabulary"]).encode(read_text(path)[0], input["max_length"])], dtype=torch.int32)
    return to_input(read_image(path, input["image_size"])[None], input["image_size"])

def read_text(path):
    """A UTF-8 file -> its text, with undecodable bytes replaced, and their count. An empty or binary one is a UserError."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the text file {path}: {error.strerror}") from None
    text = raw.decode("utf-8", errors="replace")
    if not text.strip() or "\0" in text:  # pictures and UTF-16 hold the byte 0
        raise UserError(f"{path} is {'no text in UTF-8' if text.strip() else 'empty'}: give it a text, or remove it")
    return text, text.count("\ufffd") - raw.count("\ufffd".encode())

# ---------------------------------------------------------------- text
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # typed in a text, they stay whole and upper-case
CJK = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
       (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F))  # 2B920: the block starts at 2B820, a slip of the reference kept for equal ids

@functools.cache
def basic_form(c):
    """What becomes of a character of a text before it is split at white space."""
    category = unicodedata.category(c)
    if c in "\t\n\r" or category[0] == "Z":  # these three are control characters by category, yet part words
        return " "
    if c in "\0\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):  # not Cn: unassigned characters are kept
        return ""  # no space instead: a zero-width joiner, and even a vertical tab, leaves its neighbours one word
    # NFD (not NFKD: ½ and ﬁ stay) parts é into e and a mark (Mn), which goes, and ≠ into = and a stroke, so that punctuation
    # is asked for last. All by character: lower() of a whole word would make a final Σ a ς, the reference a σ.
    letters = [x.lower() for x in unicodedata.normalize("NFD", c) if unicodedata.category(x) != "Mn"]
    alone = any(first <= ord(c) <= last for first, last in CJK)  # Hangul and kana are not: they form words
    return "".join(f" {x} " if alone or x in string.punctuation or unicodedata.category(x)[0] == "P" else x for x in letters)

class WordPiece:
    """BERT's uncased tokenizer (Devlin et al. 2019): text -> words -> pieces, each the longest that the vocabulary has.

    vocab: a vocab.txt (one token a line, the line's number its id) or a list of tokens; of plain words, it makes a word vocabulary.
    UserError if it cannot be read or lacks [PAD] (as id 0), [UNK], [CLS] or [SEP]. The ids are those of `transformers`' BertTokenizer
    but for 503 of 1,112,064 characters (with Python 3.11's Unicode 14): rare marks and signs that its Unicode 8 tables do not know.
    """
    def __init__(self, vocab):
        if isinstance(vocab, (str, Path)):
            try:
                vocab = Path(vocab).read_text("utf-8").removesuffix("\n").split("\n")  # splitlines() also parts at U+2028
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"cannot read the vocabulary {vocab} ({error}): it must be UTF-8 text, one token a line") from None
        self.vocabulary, self.ids = list(vocab), {token: i for i, token in enumerate(vocab)}
        if self.ids.get("[PAD]") != 0 or not {"[UNK]", "[CLS]", "[SEP]"} <= self.ids.keys():
            raise UserError("a vocabulary must start with [PAD] and hold [UNK], [CLS] and [SEP]: is this BERT's vocab.txt?")
        self.cache = {}  # word -> ids: texts repeat their words

    @staticmethod
    def words(text):
        """-> list of str: lower case, no accents; each punctuation mark and CJK character its own. Needs no vocabulary: can count one."""
        parts = re.split(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])", text)  # special tokens at the odd places
        return [word for i, part in enumerate(parts) for word in ([part] if i % 2 else "".join(map(basic_form, part)).split())]

    def pieces(self, word):
        """-> tuple of ids. One part without a piece makes the whole word [UNK], and so do more than 100 characters."""
        if word not in self.cache:
            ids, start, end = [], 0, len(word)
            while start < end and len(word) <= 100:
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:  # the longest from start: go on behind it
                    ids.append(self.ids[piece])
                    start, end = end, len(word)
                else:
                    end -= 1
            self.cache[word] = tuple(ids) if start == len(word) else (self.ids["[UNK]"],)
        return self.cache[word]

    def encode(self, text, max_length=None):
        """-> list of ids: [CLS] pieces [SEP], cut to max_length. Whose pieces? [w for w in words(text) for _ in pieces(w)]"""
        if max_length is not None and max_length < 2:
            raise UserError(f"max_length {max_length} leaves no room for [CLS] and [SEP]: it must be at least 2")
        ids = [i for word in self.words(text) for i in self.pieces(word)]
        return [self.ids["[CLS]"], *ids[:max_length and max_length - 2], self.ids["[SEP]"]]

@dataclass
class Corpus:
    """Texts as the numbers of their words. Counting and encoding need no second look at the texts, and a cache is small."""
    words: list   # the distinct words of all texts
    texts: list   # of each text, the numbers of its words: an int32 array

    @staticmethod
    def of(texts):
        number = {}  # texts: an iterable of lists of words
        texts = [np.array([number.setdefault(word, len(number)) for word in words], np.int32) for words in texts]
        return Corpus(list(number), texts)

    def __getitem__(self, doc):
        return [self.words[w] for w in self.texts[doc]]

    def vocabulary(self, docs, size=15000):
        """The `size` most frequent words of the texts `docs`, after the special tokens."""
        counts = np.bincount(np.concatenate([self.texts[doc] for doc in docs]))
        ranked = (-counts).argsort(kind="stable")[:(counts > 0).sum()]
        return [*SPECIAL, *[self.words[w] for w in ranked if self.words[w] not in SPECIAL][:size]]

    def encode(self, tokenizer, max_length):
        """-> ids (texts, max_length) int32, lengths (texts,): as tokenizer.encode, for all texts at once."""
        pieces = [tokenizer.pieces(word) for word in self.words]
        longest = max(map(len, pieces))
        table = np.array([[*p, *[-1] * (longest - len(p))] for p in pieces], np.int32)  # (words, longest), -1: no piece
        ids, lengths = np.zeros((len(self.texts), max_length), np.int32), []
        ids[:, 0] = tokenizer.ids["[CLS]"]
        for row, text in zip(ids, self.texts):
            found = table[text[:max_length - 2]]                                        # a word is one piece at least
            found = found[found >= 0][:max_length - 2]
            row[1:len(found) + 1], row[len(found) + 1] = found, tokenizer.ids["[SEP]"]
            lengths.append(len(found) + 2)
        return torch.from_numpy(ids), torch.tensor(lengths)

# ---------------------------------------------------------------- class folders
def read_folder(folder, image_size=32):
    """<folder>/{train,test}/<class>/* -> train, test, classes, corpus (of texts; None for images).

    Images that all have one square size of at most image_size stay as they are (CIFAR at 32 px, whatever the model wants: batches are resized on
    the device); else all become image_size. What was read is kept in <folder>/.rekd-cache.pt, and read again when a file has changed.
    """
    kind, files = kind_of(folder.name, folder.parent), {}  # files[part][class]: the paths
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no folder {part!r}: files go into {folder}/{{train,test}}/<class>/")
        names = sorted(entry.name for entry in os.scandir(folder / part) if entry.is_dir() and not entry.name.startswith("."))
        files[part] = {name: [f"{folder / part / name}/{file}" for file in sorted(os.listdir(folder / part / name))
                              if file.lower().endswith(FILES[kind])] for name in names if name != "unsup"}  # IMDB's unlabelled reviews
    classes, test_classes = list(files["train"]), list(files["test"])
    if len(classes) < 2:
        raise UserError(f"{folder / 'train'} has the class folders {classes}, but at least two are needed")
    if test_classes != classes:
        raise UserError(f"{folder / 'test'} has the class folders {test_classes}, but the training set has {classes}: they must be the same")
    empty = [folder / part / name for part in files for name in classes if not files[part][name]]
    if empty:
        raise UserError(f"the class folder {empty[0]} has no {', '.join(FILES[kind])} file")
    paths, y = zip(*((path, c) for part in files.values() for c, of_class in enumerate(part.values()) for path in of_class))
    listing = [f"{path[len(str(folder)):]} {stat.st_size} {stat.st_mtime_ns}" for path, stat in zip(paths, map(os.stat, paths))]
    key = hashlib.sha256("\n".join([f"{kind} {image_size * (kind == 'image')}", *listing]).encode(errors="surrogateescape")).hexdigest()
    cache, content = folder / ".rekd-cache.pt", None
    with contextlib.suppress(Exception):  # none yet, a torn one, or one of other files
        content = torch.load(cache, weights_only=True)[key]
    if content is None:
        content = read_texts(paths) if kind == "text" else read_images(paths, image_size)
        try:
            write_atomically(cache, lambda file: torch.save({key: content}, file))
        except UserError as error:
            print(f"what was read is not kept for the next start: {error}", file=sys.stderr)
    x, corpus = content, None
    if kind == "text":
        words, flat, lengths = content
        x, corpus = torch.arange(len(paths)), Corpus(words.split("\n"), np.split(flat.numpy(), lengths.cumsum(0)[:-1]))
    y, n = torch.tensor(y), sum(map(len, files["train"].values()))
    return Split(x[:n], y[:n]), Split(x[n:], y[n:]), classes, corpus

def read_images(paths, image_size):
    """-> (n, 3, S, S) uint8."""
    sizes = set()
    for path in paths:
        with contextlib.suppress(Exception), Image.open(path) as image:  # reads the header only; a damaged file is named below
            sizes.add(image.size)
    size = next((s for s in range(1, image_size) if sizes == {(s, s)}), image_size)
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    for i, path in enumerate(tqdm(paths, "decoding images", unit="", disable=None)):  # None: where stderr is no terminal
        pixels[i] = read_image(path, size)
    return pixels

def read_texts(paths):
    """-> a Corpus as a file can hold it: its words in one string (none holds white space), the texts in a row, their lengths."""
    read = [read_text(path) for path in paths]
    replaced = {path: count for path, (_, count) in zip(paths, read) if count}
    if replaced:
        total, first = sum(replaced.values()), next(iter(replaced))
        print(f"{total} undecodable bytes in {len(replaced)} files were replaced (the first: {first})", file=sys.stderr)
    corpus = Corpus.of(WordPiece.words(text) for text, _ in tqdm(read, "reading texts", unit="", disable=None))
    return "\n".join(corpus.words), torch.from_numpy(np.concatenate(corpus.texts)), torch.tensor([len(text) for text in corpus.texts])

def write_atomically(path, write):
    """write(binary file) beside the target, then rename: there is never half a file under the final name."""
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # RuntimeError is how torch.save reports a full disk
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or 'is the disk full?'}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()

# ---------------------------------------------------------------- downloads
class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps what their headers tell: the hub names a file's size and SHA-256 there, not where the file lies."""
    told = {}
    def redirect_request(self, request, response, code, message, headers, address):
        self.told = self.told | {k.lower(): v for k, v in headers.items() if k.lower().startswith("x-linked")}
        return super().redirect_request(request, response, code, message, headers, address)

def fetch(url, md5):
    """One attempt -> the bytes at url. OSError unless they have the md5, and the size and SHA-256 where the server tells them."""
    redirects, content = Redirects(), bytearray()
    with urllib.request.build_opener(redirects).open(url, timeout=30) as response:
        told = redirects.told | {k.lower(): v for k, v in response.headers.items()}
        sizes = {int(told[k]) for k in ("x-linked-size", "content-length") if k in told}
        with tqdm.wrapattr(response, "read", max(sizes, default=None), disable=None) as body:
            while chunk := body.read(1 << 20):
                content += chunk
    etag = told.get("x-linked-etag", told.get("etag", "")).strip('W/"')
    if sizes - {len(content)} or md5 and md5 != hashlib.md5(content).hexdigest() \
            or len(etag) == 64 and etag != hashlib.sha256(content).hexdigest():  # other marks than a SHA-256 tell nothing of the content
        raise OSError("the file is incomplete or has another checksum")
    return content

def download(url, path, md5=None, otherwise="", optional=False):
    """url -> path -> path (None: an optional file is not there). A failure leaves nothing behind and says what to do by hand."""
    print(f"downloading {url}", file=sys.stderr)
    for pause in (1, 3, None):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = fetch(url, md5)
            break
        except (OSError, http.client.HTTPException) as error:
            code = getattr(error, "code", 0 if isinstance(error, urllib.error.URLError) else 500)
            if optional and code == 404:
                return None
            if code < 500 or not pause:  # a cut connection or a 500 may pass; a 404 or no network will not
                reason = getattr(error, "reason", error)
                raise UserError(f"cannot download {url} ({reason}): fetch it by hand and put it at {path}{otherwise}") from None
            time.sleep(pause)
    write_atomically(path, lambda file: file.write(content))
    return path

def fetch_hub(repo, *filenames):
    """The first of these files that a Hugging Face repository has -> Path in torch's cache; what lies there needs no network."""
    address = f"{(os.environ.get('HF_ENDPOINT') or 'https://huggingface.co').rstrip('/')}/{repo}/resolve/main"
    paths = [Path(torch.hub.get_dir(), "checkpoints", repo.replace("/", "--"), name) for name in filenames]
    otherwise = f"{''.join(f' (or {name} from there beside it)' for name in filenames[1:])}, or choose --init scratch"
    here = (path for path in paths if path.is_file())
    fetched = (download(f"{address}/{path.name}", path, otherwise=otherwise, optional=path != paths[-1]) for path in paths)
    return next(here, None) or next(filter(None, fetched))

def fetch_archive(url, md5, archive, name):
    """-> the folder `name` beside the archive: unless it is there, the archive is downloaded where missing, verified and unpacked."""
    folder = archive.parent / name
    if not folder.is_dir():
        from torchvision.datasets.utils import check_integrity, extract_archive  # imported here: it takes 1.5 s
        if not archive.exists():
            download(url, archive, md5)
        if not check_integrity(archive, md5):
            raise UserError(f"{archive} is incomplete or another file: remove it, or put the one from {url} there")
        with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:  # renamed at the end: there is never half a folder
            extract_archive(archive, scratch)
            os.replace(Path(scratch) / name, folder)
    return folder

def fetch_cifar(root, source, prefix):
    """CIFAR by torchvision's addresses and checksums. The archive of CIFAR-100 holds "fine_" and "coarse_" labels."""
    import torchvision.datasets
    source, check_integrity = getattr(torchvision.datasets, source), torchvision.datasets.utils.check_integrity
    folder = fetch_archive(source.url, source.tgz_md5, root / source.filename, source.base_folder)

    def read(filename, md5):
        if not check_integrity(folder / filename, md5):  # a pickle can run code: only theirs
            raise UserError(f"{folder / filename} is damaged: remove {folder} and start again")
        return pickle.loads((folder / filename).read_bytes(), encoding="latin1")
    def part(files):
        pixels, y = zip(*((batch["data"], batch[f"{prefix}labels"]) for batch in (read(*file) for file in files)))
        return Split(torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32), torch.tensor(np.concatenate(y)))
    names = read(source.meta["filename"], source.meta["md5"])[f"{prefix}label_names"]
    return part(source.train_list), part(source.test_list), list(names), None

def fetch_imdb(root):
    """The Large Movie Review Dataset (Maas et al. 2011): a class folder like any other."""
    url, md5 = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz", "7c2ac02c03563afcf9b574c7e56c153a"
    return read_folder(fetch_archive(url, md5, root / "aclImdb_v1.tar.gz", "aclImdb"))

DOWNLOADS = {"cifar10": lambda root: fetch_cifar(root, "CIFAR10", ""), "cifar100": lambda root: fetch_cifar(root, "CIFAR100", "fine_"),
             "cifar100_coarse": lambda root: fetch_cifar(root, "CIFAR100", "coarse_"), "imdb": fetch_imdb}

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

def glyphs(n, seed, *, distractors=3, noise=25):
    """n images of 32 x 32 -> Split. The label is the one small digit; its 8 x 8 px (2 x 2 patches of 4 px) are the truth.

    Around it: soft coloured clutter, noise, and distractors, which are digits with their pixels shuffled, so that no colour, brightness or
    place gives the digit away: only its shape does.
    """
    generator = torch.Generator().manual_seed(seed)
    rand, randint = (functools.partial(f, generator=generator) for f in (torch.rand, torch.randint))
    font = torch.tensor([[[c == "#" for c in row] for row in digit] for digit in zip(*map(str.split, FONT.split("\n")[1:-1]))]).float()
    font = F.pad(font, (0, 1)).flatten(1)                                                                 # (10, 8, 7) -> (10, 8 * 8)
    image = F.interpolate(10 + 90 * rand(n, 3, 3, 3), size=32, mode="bilinear", align_corners=True)
    x, y = torch.arange(32), torch.arange(32)[:, None]
    for _ in range(3):  # rectangles
        left, top, width, height = (rand(4, n, 1, 1) * torch.tensor([32, 32, 10, 10]).view(4, 1, 1, 1)).ceil()
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)                       # (n, 32, 32)
        image += inside[:, None] * (80 * rand(n, 3, 1, 1) - 24)
    image += noise * torch.randn(n, 3, 32, 32, generator=generator)
    K, pixel = 1 + distractors, torch.arange(64)  # stamp 0 is the digit
    digit = randint(10, (n, K))
    shuffle = rand(n, K, 64).argsort(-1)
    shuffle[:, 0] = pixel
    stamps = font[digit].gather(2, shuffle)                                                               # (n, K, 64)
    cell = rand(n, 9).argsort(1)[:, :K]       # different cells of a 3 x 3 grid of 8 px, shifted by 0, 4 or 8 px
    shift = 4 * randint(3, (2, n, 1))
    top, left = shift[0] + 8 * (cell // 3), shift[1] + 8 * (cell % 3)                                     # (n, K) each
    place = (top[..., None] + pixel // 8) * 32 + left[..., None] + pixel % 8                              # (n, K, 64) in 32 * 32
    colour = 90 + 60 * rand(n, K, 3, 1)
    for k in range(K):
        image.view(n, 3, -1).scatter_add_(2, place[:, k, None].expand(-1, 3, -1), stamps[:, k, None] * colour[:, k])
    truth = torch.zeros(n, 32 * 32, dtype=torch.bool).scatter_(1, place[:, 0], True).view(n, 32, 32)
    return Split(image.clamp(0, 255).byte(), digit[:, 0].clone(), truth)

# ---------------------------------------------------------------- built-in: phrases
ADJECTIVES = ("awful bad boring dull shallow silly".split(), "brilliant clever funny good gripping moving".split())
SMALL_TALK = [part.split() for part in (
    "on a rainy monday, with my sister, after work, we met outside, she told us about it, they came late, in the dark, by the river, "
    "my brother laughed, before dinner, the phone rang, near the station, we walked home, it was full, nobody spoke, i sat down, "
    "two hours later, for his birthday").split(", ")]
OTHER_THINGS = "bus coffee parking popcorn queue seat ticket weather".split()
OTHER_WAYS = "cold crowded early expensive long quiet red small sticky warm wet".split()

def phrases(n, seed, *, negated=0.3, distractors=2):
    """n reviews of 19 to 30 words -> Split (x: the number of the text), and the texts as lists of words. The label is the opinion of the film:

        they came late the coffee was quite cold the story was hardly gripping by the river ...       negative

    The two last words of that sentence are the truth: "not", "never" or "hardly" turns the adjective round, and another word stands there
    otherwise. Everything else (sentences of the same form about other things, small talk, order, length) is drawn without a look at the label.
    """
    rng, texts, labels, truth = random.Random(seed), [], [], torch.zeros(n, 30, dtype=torch.bool)
    plain = ["quite", "really", "truly"]
    for i in range(n):
        label, turned = rng.randrange(2), rng.random() < negated
        opinion = ["the", rng.choice(["film", "movie", "story", "acting"]), "was", rng.choice(["not", "never", "hardly"] if turned else plain),
                   rng.choice(ADJECTIVES[label ^ turned])]
        parts = [["the", thing, "was", rng.choice(plain), rng.choice(OTHER_WAYS)] for thing in rng.sample(OTHER_THINGS, distractors)]
        parts += rng.sample(SMALL_TALK, 2 + rng.randrange(2))
        rng.shuffle(parts)
        place = rng.randrange(len(parts) + 1)
        before, after = sum(parts[:place], []), sum(parts[place:], [])
        texts.append(before + opinion + after)
        labels.append(label)
        truth[i, len(before) + 3:len(before) + 5] = True
    return Split(torch.arange(n), torch.tensor(labels), truth), texts

def load_phrases():
    (train, texts), (test, test_texts) = phrases(7500, DATA_SEED), phrases(3000, DATA_SEED + 1)
    test.x += len(texts)
    return train, test, ["negative", "positive"], Corpus.of(texts + test_texts)

BUILT_IN = {"phrases": load_phrases,
            "glyphs": lambda: (glyphs(7500, DATA_SEED), glyphs(3000, DATA_SEED + 1), [str(d) for d in range(10)], None)}
