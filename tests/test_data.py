"""The data: built-in sets, batches, class folders, downloads from a server on this machine."""

import functools
import http.server
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc
import urllib.request

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import calculate_md5

import data
from data import SPECIAL, UserError, WordPiece, fetch_hub, glyphs, load_dataset, phrases
from results.pictures import text_of


@pytest.fixture
def own(folders, tmp_path):
    """A copy of the folders, to be changed."""
    return shutil.copytree(folders, tmp_path / "data")


# ---------------------------------------------------------------- glyphs
@pytest.mark.parametrize("patch_size, counts", [(4, {4}), (8, {1, 2, 4})])
def test_the_truth_is_the_patches_that_the_digit_touches(patch_size, counts):
    truth = load_dataset("glyphs", limit=200, patch_size=patch_size).train.truth
    assert truth.shape == (200, (32 // patch_size) ** 2)
    assert set(truth.sum(1).tolist()) == counts


def test_the_digit_lies_inside_its_truth():
    """A seven is bright along its top, and has nothing at the bottom right."""
    split = glyphs(300, 0)
    sevens = split.y == 7
    grey = split.x[sevens].float().mean(1)                      # (n, 32, 32)
    digit = grey[split.truth[sevens]].view(-1, 8, 8).mean(0)
    assert digit[0, :7].min() > digit[7, 4:].max() + 50
    assert torch.equal(split.x, glyphs(300, 0).x) and not torch.equal(split.x, glyphs(300, 1).x)


def linear_accuracy(x, y):
    """Of a linear classifier on the last quarter, trained on the others."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    n = len(x) * 3 // 4
    target = F.one_hot(y).double()
    weights = torch.linalg.lstsq(x[:n], target[:n], driver="gelsd").solution
    return ((x[n:] @ weights).argmax(1) == y[n:]).double().mean()


def test_neither_colour_nor_place_nor_brightness_gives_the_digit_away():
    split = glyphs(4000, 0)
    place = F.avg_pool2d(split.truth.float()[:, None], 4).flatten(1)
    colour = split.x.float().mean((2, 3)) / 255
    assert linear_accuracy(torch.cat([place, colour], 1), split.y) < 0.15    # chance: .1


# ---------------------------------------------------------------- phrases
def test_the_truth_of_phrases_decides_the_label():
    """... the film was hardly gripping ...: the truth is the last two words, and "hardly" turns
    the good adjective into a bad opinion."""
    split, texts = phrases(300, seed=5)
    assert phrases(5, seed=5)[1] == texts[:5] != phrases(5, seed=6)[1]
    for (start, end), label, text in zip(split.truth.tolist(), split.y, texts, strict=True):
        degree, adjective = text[start:end].split()
        assert text[:start].split()[-2] in {"film", "movie", "story", "acting"}
        is_good = adjective in "brilliant clever funny good gripping moving".split()
        assert label == is_good ^ (degree in {"not", "never", "hardly"})


def test_the_rest_of_phrases_tells_nothing_about_the_label():
    """Which other words there are, how many, and the place of the opinion among them."""
    split, texts = phrases(8000, seed=1)
    before = [text[:start].split() for text, (start, _) in zip(texts, split.truth.tolist())]
    after = [text[end:].split() for text, (_, end) in zip(texts, split.truth.tolist())]
    others = [first + last for first, last in zip(before, after)]
    words = sorted(set(sum(others[:500], [])))
    bags = torch.tensor([[word in found for word in words] for found in others])
    place, length = (F.one_hot(torch.tensor([*map(len, found)])) for found in (before, others))
    assert abs(linear_accuracy(torch.cat([bags, place, length], 1), split.y) - 0.5) < 0.04


def test_every_piece_of_a_true_word_is_true(tmp_path):
    """A vocabulary of letters: the opinion "not good" is 7 tokens of truth."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL, *letters, *("##" + letter for letter in letters)]))
    dataset = load_dataset("phrases", limit=20, max_length=200, vocab=vocab)
    texts = phrases(7500, data.DATA_SEED)[1]
    for i, doc in enumerate(dataset.train.docs):
        text = text_of(dataset, dataset.train, i)
        assert text == texts[doc]
        spans = zip(WordPiece(vocab).spans(text), dataset.train.truth[i, 1:], strict=False)
        true = [span for span, is_true in spans if is_true]
        degree, adjective = text[true[0][0]:true[-1][1]].split()
        assert degree in data.NEGATIONS + data.DEGREES and adjective in sum(data.ADJECTIVES, [])
        assert len(true) == len(degree) + len(adjective)


# ---------------------------------------------------------------- splits and batches
def test_every_prefix_of_the_stratified_order_holds_the_classes_in_their_shares():
    y = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    order = data.stratified_order(y)
    assert sorted(order.tolist()) == list(range(1000))
    for n in (10, 100, 400):
        counts = y[order[:n]].bincount(minlength=3)
        assert (counts - torch.tensor([0.6, 0.3, 0.1]) * n).abs().max() <= 1


def images_of(split):
    return {x.numpy().tobytes() for x in split.x}


def test_dev_is_a_fifth_apart_from_train_and_limits_are_nested(folders):
    whole, small, smaller = (load_dataset("colours", folders, limit=limit)
                             for limit in (None, 24, 12))
    assert [len(split) for split in (whole.train, whole.dev, whole.test)] == [48, 12, 24]
    assert not images_of(whole.train) & images_of(whole.dev)
    assert len(small.train) == 24 and len(small.dev) == 6
    assert images_of(smaller.train) < images_of(small.train) < images_of(whole.train)
    assert images_of(small.dev) < images_of(whole.dev)
    assert len({whole.fingerprint, small.fingerprint, smaller.fingerprint}) == 3
    with pytest.raises(UserError, match="raise --limit"):       # below one example a class
        load_dataset("colours", folders, limit=2)


def test_each_class_has_a_training_example(own):
    def refused(limit):
        with pytest.raises(UserError, match="some of 3 classes have no training example"):
            load_dataset("colours", own, limit=limit)

    for name in ("red", "blue", "green"):
        for path in [*(own / "colours" / "train" / name).iterdir()][1:]:
            path.unlink()
        if name == "red":  # the only one of 41
            assert load_dataset("colours", own).classes == ["blue", "green", "red"]
            refused(limit=10)
    refused(limit=None)  # of three examples, one is for dev


def test_the_fingerprint_is_of_every_pixel_label_and_name(monkeypatch):
    """What a teacher said of other data must not be reused."""
    def fingerprint(change=lambda train, classes, row: None):
        train, classes = glyphs(200, 0), list("0123456789")
        change(train, classes, int(data.stratified_order(train.y)[len(train) // 5 + 37]))
        monkeypatch.setitem(data.BUILT_IN, "glyphs", lambda: (train, glyphs(10, 1), classes, None))
        return load_dataset("glyphs", limit=100).fingerprint

    changed = {fingerprint(lambda train, classes, row: train.x[row, 1, 5, 7].bitwise_xor_(1)),
               fingerprint(lambda train, classes, row: train.y[row].add_(1).remainder_(10)),
               fingerprint(lambda train, classes, row: classes.reverse())}
    assert len(changed) == 3 and fingerprint() == fingerprint() not in changed


def test_batches_follow_the_order_and_texts_are_cut_to_their_longest_in_steps_of_32(own):
    for i in range(10):                                         # more than go into dev
        (own / "words" / "train" / "good" / f"0{i}.txt").write_text("good " * 50)
    dataset = load_dataset("words", own, max_length=128)
    order = dataset.train.lengths.argsort()
    batches = list(dataset.batches(dataset.train, 5, order))
    assert torch.equal(torch.cat([rows for rows, _, _ in batches]), order)
    assert batches[0][1].shape == (5, 32)
    assert batches[-1][1].shape == (2, 64)                      # for 52 tokens
    for rows, x, y in batches:
        assert torch.equal(x, dataset.train.x[rows, :x.shape[1]])
        assert (dataset.train.x[rows, x.shape[1]:] == 0).all()
        assert torch.equal(y, dataset.train.y[rows])


# ---------------------------------------------------------------- pixels
def test_to_input_normalises_and_resizes():
    white = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    x = data.to_input(white, 64)
    assert x.shape == (2, 3, 64, 64)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert x[0, :, 0, 0].tolist() == pytest.approx(expected)


def test_crop_and_flip_are_shifts_and_mirrors_of_the_padded_image():
    image = torch.arange(1, 3 * 16 * 16 + 1).view(1, 3, 16, 16)
    padded = F.pad(image, (2, 2, 2, 2))[0]
    corners = [(top, left) for top in range(5) for left in range(5)]
    views = torch.tensor([(*corner, flip) for corner in corners for flip in range(2)])
    found = data.crop_and_flip(image.expand(50, -1, -1, -1), views)
    for x, (top, left, flip) in zip(found, views.tolist(), strict=True):
        crop = padded[:, top:top + 16, left:left + 16]
        assert torch.equal(x, crop.flip(2) if flip else crop)


def test_views_are_even_and_the_same_whatever_the_limit_or_batch(folders):
    whole = load_dataset("colours", folders, image_size=16, views=3)
    views = torch.stack([whole.views(view) for view in range(3)])
    assert views.shape == (3, 48, 3)
    assert views[..., :2].unique().tolist() == [0, 1, 2, 3, 4]  # of 16 px, an eighth on each side
    assert views[..., 2].unique().tolist() == [0, 1]
    assert abs(views[..., 2].float().mean() - 0.5) < 0.1
    few = load_dataset("colours", folders, image_size=16, views=3, limit=20)
    assert torch.equal(few.views(1), views[1, :20])

    def seen(batch_size, view, order=None):
        batches = whole.batches(whole.train, batch_size, order, view)
        return torch.cat([x for _, x, _ in batches])

    images, order = seen(7, view=1), torch.randperm(48)
    assert torch.equal(seen(32, 4, order), images[order])       # of three views, 4 is 1 again
    assert not torch.equal(seen(32, view=2), images)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "I;16", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        image = Image.fromarray(np.full((10, 20), 51400, np.uint16))        # 200 / 255
    else:
        grey = Image.new("RGB", (20, 10), (200, 200, 200))
        image = grey.convert(mode, palette=Image.Palette.ADAPTIVE)
    image.save(path)
    pixels = data.read_image(path)
    assert pixels.shape == (3, 10, 20) and pixels.dtype == torch.uint8
    if mode != "1":
        assert (pixels.float() - 200).abs().max() < 4
    assert data.read_image(path, 8).shape == (3, 8, 8)


def test_transparent_pixels_are_white_and_photographs_stand_upright(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (data.read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6                                            # turned by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert data.read_image(tmp_path / "turned.jpg").shape == (3, 20, 10)


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    """Without PIL's own warning, which is all that PIL has for one of 100 megapixels."""
    for name, side in (("a.png", 8400), ("b.png", 10000)):
        Image.new("1", (side, side)).save(tmp_path / name)
        os.truncate(tmp_path / name, 100)                       # there is nothing to decode
    with pytest.raises(UserError, match="a.png cannot .* more than 70,000,000 pixels"):
        data.read_image(tmp_path / "a.png")
    call = [sys.executable, "-c", f"import data; data.read_image('{tmp_path}/b.png')"]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(data.__file__)}
    found = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert "70,000,000 pixels" in found.stderr and "Warning" not in found.stderr


# ---------------------------------------------------------------- texts
def test_without_a_vocabulary_the_words_of_the_training_texts_are_counted(folders):
    dataset = load_dataset("words", folders, max_length=12)
    vocabulary = dataset.input["vocabulary"]
    assert vocabulary[:7] == [*SPECIAL, "so", ","]              # 3 a text: the most frequent
    assert "training" in vocabulary and "testing" not in vocabulary
    assert dataset.train.x.shape == (32, 12) and dataset.train.x.dtype == torch.int32
    tokenizer = WordPiece(vocabulary)
    for i in range(len(dataset.test)):
        ids = tokenizer.encode(text_of(dataset, dataset.test, i), 12)
        assert dataset.test.x[i].tolist() == ids + [0] * (12 - len(ids))
        assert dataset.test.lengths[i] == len(ids)
    assert text_of(dataset, dataset.test, 0) == "one  bad film<br />testing"  # as it was written
    corpus = data.Corpus(["b b a c", "a b [SEP]", "d d d d"])
    assert corpus.vocabulary([0, 1], size=2) == [*SPECIAL, "b", "a"]


def test_a_vocabulary_file_is_used_by_a_folder_of_texts(folders, tmp_path):
    vocabulary = [*SPECIAL, "good", "b", "##ad"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    dataset = load_dataset("words", folders, max_length=12, vocab=tmp_path / "vocab.txt")
    assert dataset.input["vocabulary"] == vocabulary
    assert {5, 6, 7} <= set(dataset.test.x.unique().tolist())


def test_undecodable_bytes_are_replaced_with_one_warning(tmp_path, capsys):
    (tmp_path / "x.txt").write_bytes(b"caf\xe9 good \xff\xfe film")
    (tmp_path / "y.txt").write_text("the sign itself: \ufffd", "utf-8")
    assert data.read_text(tmp_path / "x.txt") == ("caf\ufffd good \ufffd\ufffd film", True)
    assert not data.read_text(tmp_path / "y.txt")[1]
    data.read_texts([tmp_path / "x.txt", tmp_path / "y.txt", tmp_path / "x.txt"])
    assert "undecodable bytes in 2 files" in capsys.readouterr().err


def test_a_text_of_more_than_a_megabyte_is_refused(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("a" * 10**6)
    assert len(data.read_text(file)[0]) == 10**6
    file.write_text("a" * (10**6 + 1))
    with pytest.raises(UserError, match="more than 1,000,000 bytes: cut it"):
        data.read_text(file)


# ---------------------------------------------------------------- class folders
@pytest.mark.parametrize("image_size, odd, kept", [
    (32, (16, 16), 16),                # small squares of one size stay as they are
    (8, (16, 16), 8),                  # larger ones are resized as they are read
    (32, (20, 50), 32),                # and so are those of several sizes
])
def test_images_are_kept_at_their_own_size_or_the_models(own, image_size, odd, kept):
    red = own / "colours" / "train" / "red"
    Image.new("RGB", odd).save(red / "0.png")
    (red / "1.png").rename(red / "1.PNG")
    (red / "2.png").rename(red / "2.jpeg")                      # PIL looks at the content
    dataset = load_dataset("colours", own, image_size=image_size)
    assert dataset.classes == ["blue", "green", "red"]
    assert dataset.train.x.shape == (48, 3, kept, kept) and len(dataset.dev) == 12  # of 60
    _, x, _ = next(dataset.batches(dataset.train, 3))
    assert x.shape == (3, 3, image_size, image_size)


def test_what_is_no_class_and_what_kind_a_folder_is(own):
    """A file of the other kind, and one that is hidden by its folder, change nothing."""
    for part in ("train/.ipynb_checkpoints", "train/unsup"):    # unsup: unlabelled reviews
        (own / "words" / part).mkdir()
    Image.new("RGB", (1, 1)).save(own / "words" / "train" / "bad" / "logo.png")
    (own / "colours" / "train" / "blue" / "readme.txt").write_text("of 2026")
    (own / "colours" / "train" / "blue" / "._0.png").write_text("a Mac's, in its zips")
    for name, kind, classes in (("words", "text", ["bad", "good"]),
                                ("colours", "image", ["blue", "green", "red"])):
        assert data.kind_of(name, own) == kind
        assert load_dataset(name, own).classes == classes
    for part in ("train", "test"):
        (own / "words" / part / "bad").rename(own / "words" / part / ".bad")
    with pytest.raises(UserError, match=r"\['good'\] in train .* at least two"):
        load_dataset("words", own)


@pytest.mark.parametrize("name, place, change, sentence", [
    ("colours", "train/red/4.png", b"\xff\xd8\xff", "red/4.png cannot be read as an image"),
    ("colours", "train/red", None, "class folder .*train/red has no .png, .jpg, .jpeg"),
    ("colours", "test/red", "test/wolf", "they must be the same"),
    ("words", "test", "exam", r"'good'\] in train and \[\] in test"),
    ("words", ".", "../word", "no data set 'words'"),
    ("words", "test/bad/07.txt", b" \n", "bad/07.txt is empty or no text"),
    ("words", "test/bad/07.txt", "good".encode("utf-16"), "bad/07.txt .* no text in UTF-8"),
    ("words", "test/bad/07.txt", b"\x89PNG\r\n\x1a\n\0", "bad/07.txt .* no text in UTF-8"),
])
def test_a_mistake_in_a_folder_is_named(own, name, place, change, sentence):
    """The change: a file's content, a new name, or that a folder is empty."""
    path = own / name / place
    if isinstance(change, bytes):
        path.write_bytes(change)
    elif change:
        path.rename(own / name / change)
    else:
        shutil.rmtree(path)
        path.mkdir()
    with pytest.raises(UserError, match=sentence) as error:
        load_dataset(name, own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["pest", "{}/words", "../data/words", "words/train", "."])
def test_an_unknown_name_is_answered_with_what_there_is(own, name):
    """A path is no name: runs are kept under it, and would go into the folder of the data."""
    sentence = "no data set '.*': there are .*glyphs, cifar10, .*, colours, words; your own goes"
    with pytest.raises(UserError, match=sentence):
        load_dataset(name.format(own), own)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("read", [
    data.read_image, data.read_text, WordPiece,
    lambda path: data.read_input(path, {"kind": "text"}),
])
def test_what_is_no_file_is_refused_at_once(own, monkeypatch, read):
    """A pipe would be waited for, and /dev/zero fill the memory."""
    os.mkfifo(own / "pipe")
    for name in ("none", "words", "pipe", "/dev/zero"):
        with pytest.raises(UserError, match=f"^cannot read {own / name}: it must be there"):
            read(own / name)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(UserError, match="^cannot read .*00.txt"):
        read(own / "words" / "test" / "bad" / "00.txt")
    monkeypatch.undo()
    os.mkfifo(own / "words" / "train" / "bad" / "pipe.txt")
    assert len(load_dataset("words", own).train) == 32


# ---------------------------------------------------------------- what is kept
@pytest.mark.parametrize("kind, read", [("colours", "read_image"), ("words", "read_text")])
@pytest.mark.parametrize("damage", [
    None,
    lambda raw: raw[:1000],
    lambda raw: b"",
    lambda raw: raw[:500] + bytes([raw[500] ^ 1]) + raw[501:],
    lambda raw: b"cbuiltins\nprint\n(S'boom'\ntR.",
], ids=["as it was", "torn", "empty", "a flipped bit", "a pickle"])
def test_a_cache_is_read_where_it_is_whole(own, tmp_path, spy, capsys, kind, read, damage):
    """It holds where the folder moves, and until a file changes."""
    expected = load_dataset(kind, own, image_size=16)
    root = own.rename(tmp_path / "moved")
    cache = root / kind / ".rekd-cache"
    if damage:
        cache.write_bytes(damage(cache.read_bytes()))
    reads = spy(data, read)
    again = load_dataset(kind, root, image_size=16)
    assert torch.equal(again.train.x, expected.train.x) and bool(reads) == bool(damage)
    assert again.fingerprint == expected.fingerprint and "boom" not in capsys.readouterr().out
    reads.clear()
    os.utime(next((root / kind / "train").glob("*/*")), (0, 0))
    load_dataset(kind, root, image_size=16)
    assert reads


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=f"cannot write {path}: No space left"):
        data.write_atomically(path, write)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    # A cache is no must.
    monkeypatch.setattr(os, "replace", lambda *_: write(io.BytesIO()))
    assert data.cached(tmp_path, [], lambda paths: b"content") == b"content"
    warning = capsys.readouterr().err
    assert re.fullmatch("what was read is not kept for the next start: cannot write .*\n", warning)


def test_decoded_images_are_held_once(monkeypatch):
    monkeypatch.setattr(data, "read_image", lambda path, size: np.ones((3, size, size), np.uint8))
    tracemalloc.start()
    pixels = data.read_images(["x"] * 500, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.all() and peak < 1.5 * pixels.nbytes


# ---------------------------------------------------------------- downloads
class Web(http.server.SimpleHTTPRequestHandler):
    """Serves a folder. Of a file named "cut" it serves half, and one named "broken" it cannot."""

    def do_GET(self):
        if "broken" in self.path:
            self.send_error(500)
        elif "cut" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"half")
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The address of a web server of tmp_path/www."""
    (tmp_path / "www").mkdir()
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Web, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cifar100(web, tmp_path, monkeypatch):
    """An archive in the published layout, but of 40 + 10 images, and torchvision told of it."""
    folder = tmp_path / "made" / "cifar-100-python"
    folder.mkdir(parents=True)
    files = {"meta": {"fine_label_names": ["apple", "pear", "cat", "dog"],
                      "coarse_label_names": ["fruit", "animal"]}}
    for part, n in (("train", 40), ("test", 10)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 3072), dtype=np.uint8)
        fine = [i % 4 for i in range(n)]
        files[part] = {"data": pixels, "fine_labels": fine, "coarse_labels": [c // 2 for c in fine]}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    name = "cifar-100-python.tar.gz"
    archive = shutil.make_archive(tmp_path / "www" / folder.name, "gztar", folder.parent)
    md5 = {name: calculate_md5(folder / name) for name in files}
    for key, value in {"url": f"{web}/{name}", "tgz_md5": calculate_md5(archive),
                       "train_list": [["train", md5["train"]]],
                       "test_list": [["test", md5["test"]]],
                       "meta": {**CIFAR100.meta, "md5": md5["meta"]}}.items():
        monkeypatch.setattr(CIFAR100, key, value)
    return tmp_path / "www" / name


def test_cifar100_has_fine_and_coarse_labels_from_one_download(tmp_path, cifar100, capsys):
    fine = load_dataset("cifar100", tmp_path)
    cifar100.unlink()                                           # of the server
    coarse = load_dataset("cifar100_coarse", tmp_path)
    assert fine.classes == ["apple", "pear", "cat", "dog"]
    assert coarse.classes == ["fruit", "animal"]
    assert fine.test.x.shape == (10, 3, 32, 32) and torch.equal(fine.test.x, coarse.test.x)
    assert coarse.test.y.tolist() == [c // 2 for c in fine.test.y.tolist()]
    # The pixels are rows of red, green and blue.
    raw = pickle.loads((tmp_path / "cifar-100-python" / "test").read_bytes())["data"]
    assert fine.test.x.flatten(1).tolist() == raw.tolist()
    # A pickle that is not theirs is never opened, but made again from the archive.
    bomb = b"cbuiltins\nprint\n(S'boom'\ntR."
    (tmp_path / "cifar-100-python" / "train").write_bytes(bomb)
    assert load_dataset("cifar100_coarse", tmp_path).fingerprint == coarse.fingerprint
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("url", ["{web}/cifar-100-python.tar.gz", "{web}/cut", "{web}/none",
                                 "http://127.0.0.1:9/nobody"])
def test_a_failed_download_says_what_to_do_by_hand(tmp_path, web, cifar100, monkeypatch, url):
    whole = cifar100.read_bytes()
    cifar100.write_bytes(whole[:-100])
    monkeypatch.setattr(CIFAR100, "url", url.format(web=web))
    by_hand = tmp_path / "data" / "cifar-100-python.tar.gz"
    sentence = f"cannot download {CIFAR100.url} .*put it at {by_hand}"
    with pytest.raises(UserError, match=sentence) as error:
        load_dataset("cifar100", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").glob("*"))              # nothing is left
    by_hand.write_bytes(whole)                                  # put there, as told
    assert len(load_dataset("cifar100", tmp_path / "data").test) == 10


def test_imdb_is_a_class_folder_in_an_archive(folders, tmp_path, monkeypatch):
    """The archive that lies beside it has another checksum, and the real one cannot be had."""
    archive = tmp_path / "aclImdb_v1.tar.gz"
    archive.write_bytes(b"another file")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UserError, match=f"cannot download https.*put it at {archive}"):
        load_dataset("imdb", tmp_path)
    shutil.copytree(folders / "words", tmp_path / "aclImdb")
    assert load_dataset("imdb", tmp_path).classes == ["bad", "good"]


# ---------------------------------------------------------------- files of Hugging Face's hub
NAMES = "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def hub(web, tmp_path, monkeypatch):
    """The server's folder of org/name, and the cache of its files."""
    monkeypatch.setenv("HF_ENDPOINT", web + "/")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    files = tmp_path / "www" / "org" / "name" / "resolve" / "main"
    files.mkdir(parents=True)
    return files, tmp_path / "hub" / "checkpoints" / "org--name"


def test_the_first_file_that_the_repository_has_is_fetched_once(hub):
    files, cache = hub
    (files / NAMES[1]).write_bytes(b"[PAD]\n" * 1_000_000)
    path = fetch_hub("org/name", *NAMES)
    assert path == cache / NAMES[1] and list(cache.iterdir()) == [path]
    assert path.read_bytes() == (files / NAMES[1]).read_bytes()
    (files / NAMES[0]).write_bytes(b"safe")
    assert fetch_hub("org/name", *NAMES) == path                # what is there is used
    path.unlink()
    assert fetch_hub("org/name", *NAMES).read_bytes() == b"safe"


def test_a_file_in_the_cache_needs_no_network(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")    # no one there
    with pytest.raises(UserError, match=f"put it at {hub[1]}/{NAMES[0]}") as error:
        fetch_hub("org/name", *NAMES)
    assert "\n" not in str(error.value)
    (hub[1] / NAMES[1]).write_bytes(b"by hand")
    assert fetch_hub("org/name", *NAMES) == hub[1] / NAMES[1]


def test_an_empty_endpoint_is_the_default_server(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(url.encode()))
    url = "https://huggingface.co/org/name/resolve/main/a.bin"
    assert fetch_hub("org/name", "a.bin").read_text() == url


@pytest.mark.parametrize("names, named, reason", [
    (["cut.bin", "b.bin"], "cut.bin", ""),
    (["broken.bin", "b.bin"], "broken.bin", ".*500"),
    (["none.bin", "neither.bin"], "neither.bin", ".*404")])
def test_a_cut_failing_or_missing_file_leaves_nothing(hub, web, names, named, reason):
    files, cache = hub
    (files / "b.bin").write_bytes(b"another file, which must not be taken for the first")
    url = f"{web}/org/name/resolve/main/{named}"
    sentence = f"cannot download {url} {reason}.*put it at {cache}/{named}.*--init scratch"
    with pytest.raises(UserError, match=sentence):
        fetch_hub("org/name", *names)
    assert not list(cache.iterdir())
