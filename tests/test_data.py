"""The data: built-in sets, draws, batches, folders, own truth, downloads from this machine."""

import functools
import http.server
import os
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, PngImagePlugin
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import calculate_md5

import data
from data import SPECIAL, UserError, WordPiece, fetch_hub, glyphs, load_dataset, phrases
from models import read_weights


@pytest.fixture
def own(folders, tmp_path):
    """A copy of the folders, to be changed."""
    return shutil.copytree(folders, tmp_path / "data")

def write(root, files):
    """Files by their places in a folder: {"a/0.txt": "text", "a/0.png": image}."""
    for path, content in ((root / place, content) for place, content in files.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8") if isinstance(content, str) else content.save(path)

# ---------------- glyphs
@pytest.mark.parametrize("patch_size, counts", [(4, {4}), (8, {1, 2, 4})])
def test_the_truth_is_the_patches_that_the_digit_touches(patch_size, counts):
    truth = load_dataset("glyphs", patch_size=patch_size).test.truth
    assert set(truth.sum(1).tolist()) == counts and truth.shape == (3000, 1024 // patch_size**2)

def linear_accuracy(x, y):
    """Of a linear classifier on the last quarter, trained on the others."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    n = len(x) * 3 // 4
    weights = torch.linalg.lstsq(x[:n], F.one_hot(y[:n]).double(), driver="gelsd").solution
    return ((x[n:] @ weights).argmax(1) == y[n:]).double().mean()

def test_only_its_shape_gives_the_digit_away():
    """Not colour, place or brightness, nor what is seen where the digit is covered."""
    made = glyphs(4000, 0)
    grey = made.inputs.float().mean(1) / 255                    # (n, 32, 32)
    colour = made.inputs.float().mean((2, 3)) / 255
    place = F.avg_pool2d(made.truth.float()[:, None], 4).flatten(1)
    rest = F.avg_pool2d(grey.masked_fill(made.truth, 0.4)[:, None], 2).flatten(1)
    for tells in (torch.cat([place, colour], 1), rest):
        assert linear_accuracy(tells, made.y) < 0.15            # chance: .1
    assert linear_accuracy(grey[made.truth].view(-1, 64), made.y) > 0.9
    # Among five distractors, the digit is the brightest square of 2 x 2 patches in a quarter.
    brightest, true = (F.avg_pool2d(x[:, None], 8, stride=4).flatten(1).argmax(1)
                       for x in (grey, made.truth.float()))
    assert 0.1 < (brightest == true).float().mean() < 0.3

# ---------------- phrases
def test_the_truth_of_phrases_decides_the_label():
    """... the film was hardly gripping ...: "hardly" makes the good adjective a bad opinion."""
    made = phrases(300, seed=5)
    assert phrases(5, seed=5).inputs == made.inputs[:5] != phrases(5, seed=6).inputs
    for text, label, ((start, end),) in zip(made.inputs, made.y, made.truth, strict=True):
        degree, adjective = text[start:end].split()
        assert text[:start].split()[-2] in {"film", "movie", "story", "acting"}
        is_good = adjective in "brilliant clever funny good gripping moving".split()
        assert label == is_good ^ (degree in {"not", "never", "hardly"})

def test_the_rest_of_phrases_tells_nothing_about_the_label():
    """Which other words there are, how many, and the place of the opinion among them."""
    made = phrases(8000, seed=1)
    before = [text[:true[0][0]].split() for text, true in zip(made.inputs, made.truth)]
    others = [first + text[true[0][1]:].split()
              for first, text, true in zip(before, made.inputs, made.truth)]
    words = sorted(set(sum(others[:500], [])))
    bags = torch.tensor([[word in found for word in words] for found in others])
    place, length = (F.one_hot(torch.tensor([*map(len, found)])) for found in (before, others))
    assert abs(linear_accuracy(torch.cat([bags, place, length], 1), made.y) - 0.5) < 0.04

# ---------------- draws and batches
def test_every_prefix_of_the_stratified_order_holds_the_classes_in_their_shares():
    y = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    assert sorted((order := data.stratified_order(y)).tolist()) == list(range(1000))
    for n in (10, 100, 400):
        counts = y[order[:n]].bincount(minlength=3)
        assert (counts - torch.tensor([0.6, 0.3, 0.1]) * n).abs().max() <= 1

def images_of(split):
    return {x.numpy().tobytes() for x in split.x}

def sizes(dataset):
    return [len(dataset.train), len(dataset.dev), len(dataset.test)]

def test_labels_are_drawn_by_the_seed_and_nested(folders):
    """The unlabelled rest has class -1. An example keeps the crops that it has in the whole set."""
    whole = load_dataset("colours", folders, image_size=16)
    small, smaller, other = (whole.draw(*draw) for draw in ((24, 0), (12, 0), (12, 1)))
    assert [sizes(x) for x in (whole, small, smaller)] == [[48, 12, 24], [24, 6, 24], [12, 3, 24]]
    assert small.train.y.bincount().tolist() == [8, 8, 8]
    assert whole.crops(1)[:, :2].unique().tolist() == [0, 1, 2, 3, 4]  # of 16 px: 2 on each side
    assert not images_of(whole.train) & images_of(whole.dev)
    assert images_of(smaller.train) < images_of(small.train) < images_of(whole.train)
    assert images_of(smaller.dev) < images_of(small.dev) < images_of(whole.dev)
    assert images_of(other.train) != images_of(smaller.train)
    for limit in (0, 48, 1000):
        assert torch.equal(whole.draw(limit, 3).train.x, whole.train.x)
    drawn = whole.draw(12, 1, unlabelled=True)
    known = drawn.train.y >= 0
    assert torch.equal(drawn.train.x, whole.train.x) and sizes(drawn) == [48, 3, 24]
    assert torch.equal(drawn.train.y, torch.where(known, whole.train.y, -1))
    assert images_of(drawn.train.select(known.nonzero()[:, 0])) == images_of(other.train)
    crop = {x.numpy().tobytes(): row for x, row in zip(whole.train.x, whole.crops(1).tolist())}
    for data_set in (small, other, drawn, whole.draw(0, 4)):
        assert data_set.crops(1).tolist() == [crop[x.numpy().tobytes()] for x in data_set.train.x]

def test_the_fingerprint_is_of_all_that_a_run_sees():
    splits = [data.image_split(glyphs(n, seed), 8) for seed, n in enumerate((200, 100, 50))]
    made = data.Dataset("made", list("0123456789"), *splits, {}, None)
    found = [made.draw(*draw).fingerprint for draw in ((40, 0), (40, 1), (41, 0), (40, 0, True))]
    rows = data.stratified_order(made.train.y, 0)
    made.train.x[rows[40:]] = 0                                 # not drawn, not seen
    assert made.draw(40, 0).fingerprint == found[0]
    for x in (made.train.x, made.test.x, made.test.y, made.test.truth):
        x[rows[0] % len(x)] = x[rows[0] % len(x)] == 0
        found.append(made.draw(40, 0).fingerprint)
    made.classes.reverse()
    found.append(made.draw(40, 0).fingerprint)
    assert len(set(found)) == len(found)

def test_batches_follow_the_order_and_texts_are_cut_to_their_longest_in_steps_of_32(own):
    write(own / "words/train/good", {f"0{i}.txt": "good " * 50 for i in range(10)})
    dataset = load_dataset("words", own, max_length=128)
    order = dataset.train.lengths.argsort()
    batches = list(dataset.batches(dataset.train, 5, order))
    assert torch.equal(torch.cat([rows for rows, _, _ in batches]), order)
    assert batches[0][1].shape == (5, 32) and batches[-1][1].shape == (2, 64)  # for 52 tokens
    for rows, x, y in batches:
        assert torch.equal(F.pad(x, (0, 128 - x.shape[1])), dataset.train.x[rows])
        assert torch.equal(y, dataset.train.y[rows])

# ---------------- pixels
def test_to_input_normalises_and_resizes():
    x = data.to_input(torch.full((2, 3, 32, 32), 255, dtype=torch.uint8), 64)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert x.shape == (2, 3, 64, 64) and x[0, :, 0, 0].tolist() == pytest.approx(expected)

def test_crop_and_flip_are_shifts_and_mirrors_of_the_padded_image():
    image = torch.arange(1, 3 * 16 * 16 + 1).view(1, 3, 16, 16)
    padded = F.pad(image, (2, 2, 2, 2))[0]
    views = torch.cartesian_prod(torch.arange(5), torch.arange(5), torch.arange(2))
    found = data.crop_and_flip(image.expand(50, -1, -1, -1), views)
    for x, (top, left, flip) in zip(found, views.tolist(), strict=True):
        crop = padded[:, top:top + 16, left:left + 16]
        assert torch.equal(x, crop.flip(2) if flip else crop)

@pytest.mark.parametrize("mode, seen, clear", [
    ("RGBA", (76, 76, 76, 255), (9, 9, 9, 0)), ("LA", (76, 255), (9, 0)), ("L", 76, 9),
    ("RGB", (76, 76, 76), (0, 9, 0)), ("P", 1, 0), ("1", 255, 0), ("CMYK", (0, 0, 0, 179), None),
    ("I;16", 76 * 257, None), ("I;16", 76 * 257, 1000)])
def test_images_of_any_mode_become_rgb_on_a_background(tmp_path, mode, seen, clear):
    """The last pixel is clear: as such, or because it has the file's transparent colour."""
    image = Image.new(mode, (20, 10), seen)
    if mode == "P":
        image.putpalette([0, 9, 0, 76, 76, 76])
    if clear is not None:
        image.putpixel((19, 9), clear)
    image.save(path := tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"),
               **({} if "A" in mode or clear is None else {"transparency": clear}))
    for background, value in (("white", 255), ("black", 0)):
        pixels = data.read_image(path, background=background)
        assert pixels.shape == (3, 10, 20) and pixels.dtype == torch.uint8
        assert (pixels[:, :9].float() - (255 if mode == "1" else 76)).abs().max() < 3
        assert clear is None or pixels[:, 9, 19].tolist() == [value] * 3

def test_images_of_six_formats_are_read(own):
    red = own / "colours/train/red"
    for i, ending in enumerate("webp bmp gif tiff tif jfif JPG jpeg".split()):
        with Image.open(red / f"{i}.png") as image:
            image.save(red / f"{i}.{ending}", "JPEG" if ending == "jfif" else None)
        (red / f"{i}.png").unlink()
        assert data.read_image(red / f"{i}.{ending}").float().mean((1, 2)).argmax() == 0  # red
    assert sizes(load_dataset("colours", own)) == [48, 12, 24]
    exif = Image.Exif()
    exif[0x0112] = 6                                            # a photograph, turned by 90 degrees
    Image.new("RGB", (20, 10)).save(own / "turned.jpg", exif=exif)
    assert data.read_image(own / "turned.jpg").shape == (3, 20, 10)

def test_a_picture_may_hold_megabytes_of_text(tmp_path):
    told = PngImagePlugin.PngInfo()
    told.add_text("workflow", "{}" * 1_500_000, zip=True)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png", pnginfo=told)
    assert data.read_image(tmp_path / "a.png")[0].eq(255).all()

def test_no_picture_starts_a_program(own, tmp_path, monkeypatch):
    """PIL would have Ghostscript open this one, whatever its name."""
    write(tmp_path, {"gs": f"#!/bin/sh\necho started > {tmp_path}/marker\n"})
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = own / "colours/train/red/e.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n%%EOF\n")
    for read, given in ((data.read_image, path), (lambda own: load_dataset("colours", own), own)):
        with pytest.raises(UserError, match="^.*e.png cannot be read as an image .*: mend .*$"):
            read(given)
    assert not (tmp_path / "marker").exists()

# ---------------- texts
def test_without_a_vocabulary_the_words_of_all_training_texts_are_counted(own):
    """Those of dev as well, but not those that occur once: they teach what [UNK] is."""
    texts = {f"train/bad/{i}.txt": f"only{i} only{i} once{i}" for i in range(40)}
    write(own / "words", texts)                                 # 16 go to dev
    dataset = load_dataset("words", own, max_length=12)
    vocabulary = dataset.input["vocabulary"]
    assert vocabulary[:7] == [*SPECIAL, "so", ","]              # 3 a text: the most frequent
    assert {f"only{i}" for i in range(40)} < set(vocabulary) and "testing" not in vocabulary
    assert "once0" not in vocabulary and (dataset.train.x == 1).any()
    assert dataset.draw(4, 0).input == dataset.input
    for text, x, length in zip(dataset.test.texts, dataset.test.x, dataset.test.lengths):
        ids = WordPiece(vocabulary).encode(text, 12)
        assert x.tolist() == ids + [0] * (12 - len(ids)) and length == len(ids)
    assert dataset.test.texts[0] == "one  bad film<br />testing"  # as it was written
    assert data.count_words(["b b a c", "a b [SEP]"]) == [*SPECIAL, "b", "a"]
    write(own, {"vocab.txt": "\n".join([*SPECIAL, "good", "b", "##ad"]) + "\n"})
    test = load_dataset("words", own, vocab=own / "vocab.txt").test
    assert test.x.unique().tolist() == [0, 1, 2, 3, 5, 6, 7]

@pytest.mark.parametrize("sides, told, size, patch", [
    ([28, 40], "28 to 40", 32, 4), ([48], "48", 32, 4), ([300, 200], "200 to 300", 64, 8)])
def test_images_from_scratch_are_read_at_32_or_64_pixels(tmp_path, sides, told, size, patch):
    write(tmp_path, {f"set/train/a/{i}.png": Image.new("L", (n, n)) for i, n in enumerate(sides)})
    sizes = {"image_size": size, "patch_size": patch}
    assert data.sizes_of("set", tmp_path) == (sizes, f"images of {told} pixels a side")

@pytest.mark.parametrize("words, longest, size", [
    ([14] * 40, 16, 16), ([15] * 40, 17, 32),
    ([10] * 38 + [300] * 2, 12, 16), ([10] * 37 + [300] * 3, 302, 128)])
def test_texts_from_scratch_are_read_to_the_length_of_95_percent(tmp_path, words, longest, size):
    """In 16s, with [CLS] and [SEP], at most 128: of 40 texts, two may be longer."""
    write(tmp_path, {f"set/train/a/{i}.txt": "word " * n for i, n in enumerate(words)})
    assert data.sizes_of("set", tmp_path) == ({"max_length": size}, (
        f"95 % of the texts have at most {longest} tokens"))

# ---------------- own truth
@pytest.mark.parametrize("image_size, patch_size", [(16, 4), (8, 2), (32, 8)])
def test_the_true_patches_of_an_image_are_those_that_drawn_pixels_touch(
        own, image_size, patch_size):
    """A grid of 4 x 4 for 16 px: (3, 3) lies in patch 0, (13, 5) in 7; what is clear is black."""
    drawn = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    for place, colour in {(3, 3): (0, 0, 33), (4, 3): (32, 32, 32), (13, 5): (255, 0, 0)}.items():
        drawn.putpixel(place, (*colour, 255))
    write(own, {"colours/truth/test/red/0.tiff": drawn})        # of 0.png: the stem counts
    dataset = load_dataset("colours", own, image_size=image_size, patch_size=patch_size)
    assert dataset.classes == ["blue", "green", "red"] and dataset.test.truth.shape == (24, 16)
    assert dataset.test.truth.nonzero().tolist() == [[16, 0], [16, 7]]
    assert not dataset.train.truth.any() and not dataset.dev.truth.any()
    for size, light, sentence in ((15, 0, "another size than .*/1.png"), (16, 1, "nowhere bright")):
        write(own, {"colours/truth/train/red/1.png": Image.new("L", (size, 16), light)})
        with pytest.raises(UserError, match=f"truth/train/red/1.png [a-z]+ {sentence}"):
            load_dataset("colours", own)

def true_words(tmp_path, text, excerpts, max_length=16):
    """Of a text, by its true excerpts: the tokens that are true."""
    texts = {f"{part}/{c}/{i}.txt": "a film" for part in ("train", "test") for c in "ab"
             for i in range(5)}
    write(tmp_path / "set", {**texts, "train/a/0.txt": text, "train/b/0.txt": text,
                             "test/a/0.txt": text, "truth/test/a/0.txt": excerpts})
    dataset = load_dataset("set", tmp_path, max_length=max_length)
    assert not dataset.train.truth.any() and not dataset.test.truth[1:].any()
    true = dataset.test.x[0, dataset.test.truth[0]]
    return " ".join(dataset.input["vocabulary"][i] for i in true)

@pytest.mark.parametrize("text, excerpts, expected", [
    ("So dull. So  very\ndull, this.", "very dull", "very dull"),
    ("So dull. So  very\ndull, this.", "Sovery\n\n dull", "dull so very dull"),
    ("Die Café-Crème?! (中国) ok", "Crème?!\n中", "creme ? ! 中"),
    ("on and on and on", "on and on\n", "on and on and on"),
    ("nothing is not it", "\ufeffnot", "not"),                     # "nothing" only begins so
    ("so dull\u200b it is", "dull", "dull")])                       # a mark that no token has
def test_every_occurrence_of_each_true_excerpt_is_true(tmp_path, text, excerpts, expected):
    assert true_words(tmp_path, text, excerpts) == expected
    with pytest.raises(UserError, match="/truth/test/a/0.txt has an .* not in its text: 'a good'"):
        true_words(tmp_path, text, excerpts + "\na good")

@pytest.mark.parametrize("max_length, expected", [(6, "c d"), (5, "c"), (4, ""), (3, "")])
def test_what_lies_beyond_the_max_length_is_not_true(tmp_path, max_length, expected):
    """[CLS] a b c d [SEP] are 6 tokens; of 4, the last is [SEP]."""
    assert true_words(tmp_path, "a b c d", "c d", max_length) == expected

# ---------------- class folders
def test_what_is_no_class_and_what_kind_a_folder_is(own, capsys):
    """The kind is that of most files of all folders; hidden ones and those of no class are none."""
    (own / "words/train/bad/linked").symlink_to(own / "colours")
    write(own, {f"colours/train/blue/{i}.txt": "notes" for i in range(30)})  # 20 images
    write(own, {"colours/train/blue/._0.png": "a Mac's, in its zips", "words/train/x.txt": "x",
                "words/train/unsup/0.txt": "IMDB's, without a label",
                "words/train/.ipynb_checkpoints/x.txt": "hidden",
                "words/train/bad/logo.png": Image.new("RGB", (1, 1)),
                "colours/test/red/0.png": Image.new("I;16", (16, 16), 4000)})
    for name, kind, classes, n, skipped in (  # x.txt, the logo, the linked folder's 114 files
            ("words", "text", ["bad", "good"], 32, 116),
            ("colours", "image", ["blue", "green", "red"], 48, 30)):
        dataset = load_dataset(name, own)
        assert (data.kind_of(name, own), dataset.classes, len(dataset.train)) == (kind, classes, n)
        err = capsys.readouterr().err
        assert f"skipped {skipped} files" in err and ("black: 1 files" in err) == (kind == "image")

@pytest.mark.parametrize("name, place, change, sentence", [
    ("colours", "train/red/4.png", b"\xff\xd8\xff", "red/4.png cannot be read as an image"),
    ("colours", "train/__MACOSX", None, "class folder .*train/__MACOSX has no .png, .jpg, .jpeg"),
    ("colours", "test/red", "test/wolf", "they must be the same"),
    ("words", "test", "exam", r"'good'\] in train and \[\] in test"),
    ("words", ".", "../word", "no data set 'words': there are .*cifar10, .*, colours, word; your"),
    ("words", "test/bad/07.txt", b" \n", "bad/07.txt is empty or no text"),
    ("words", "test/bad/07.txt", "good".encode("utf-16"), "bad/07.txt .* no text in UTF-8")])
def test_a_mistake_in_a_folder_is_named_in_one_sentence(own, name, place, change, sentence):
    """The change: a file's content, a new name, or a folder that is empty."""
    path = own / name / place
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        path.rename(own / name / change) if change else path.mkdir()
    with pytest.raises(UserError, match=f"^.*{sentence}.*$"):
        load_dataset(name, own)

@pytest.mark.parametrize("error, sentence", [
    (OSError(28, "No space left"), "No space left"), (RuntimeError("torch's"), "the disk full"),
    (KeyboardInterrupt("Ctrl-C"), "Ctrl-C")])
def test_a_failed_write_leaves_the_old_file(tmp_path, error, sentence):
    def half(file):
        file.write(b"half")
        raise error
    (path := tmp_path / "x").write_bytes(b"old")
    with pytest.raises((UserError, KeyboardInterrupt), match=sentence):
        data.write_atomically(path, half)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

# ---------------- downloads
class Web(http.server.SimpleHTTPRequestHandler):
    """Serves a folder. Of a file "cut" that is not there, it gives half."""
    log_message = lambda *_: None

    def do_GET(self):
        if "cut" in self.path and not os.path.exists(self.translate_path(self.path)):
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"half")
        else:
            super().do_GET()

@pytest.fixture
def web(tmp_path, monkeypatch):
    """The address of a web server of tmp_path/www."""
    (tmp_path / "www").mkdir()
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Web, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # a client that hangs up
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()

@pytest.fixture
def cifar100(web, tmp_path, monkeypatch):
    """An archive in the published layout, but of 40 + 10 images, and torchvision told of it."""
    (folder := tmp_path / "made" / "cifar-100-python").mkdir(parents=True)
    files = {"meta": {"fine_label_names": ["apple", "pear", "cat", "dog"],
                      "coarse_label_names": ["fruit", "animal"]}}
    for part, n in (("train", 40), ("test", 10)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 3072), dtype=np.uint8)
        files[part] = {"data": pixels, "fine_labels": [i % 4 for i in range(n)],
                       "coarse_labels": [i % 4 // 2 for i in range(n)]}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    archive = shutil.make_archive(tmp_path / "www" / folder.name, "gztar", folder.parent)
    train, test, meta = ([name, calculate_md5(folder / name)] for name in ("train", "test", "meta"))
    for key, value in {"url": f"{web}/{folder.name}.tar.gz", "tgz_md5": calculate_md5(archive),
                       "train_list": [train], "test_list": [test],
                       "meta": {**CIFAR100.meta, "md5": meta[1]}}.items():
        monkeypatch.setattr(CIFAR100, key, value)
    return tmp_path / "www" / f"{folder.name}.tar.gz"

def test_cifar100_has_fine_and_coarse_labels_from_one_download(tmp_path, cifar100, capsys):
    fine = load_dataset("cifar100", tmp_path)
    cifar100.unlink()                                           # of the server
    coarse = load_dataset("cifar100_coarse", tmp_path)
    assert (fine.classes, coarse.classes) == (["apple", "pear", "cat", "dog"], ["fruit", "animal"])
    assert coarse.test.y.tolist() == [c // 2 for c in fine.test.y.tolist()]
    # The pixels are rows of red, green and blue.
    folder = tmp_path / "cifar-100-python"
    raw = pickle.loads((folder / "test").read_bytes())["data"]
    assert fine.test.x.shape == (10, 3, 32, 32) and fine.test.x.flatten(1).tolist() == raw.tolist()
    # A pickle that is not theirs is never opened, but made again from the archive.
    (folder / "train").write_bytes(b"cbuiltins\nprint\n(S'boom'\ntR.")
    assert torch.equal(load_dataset("cifar100_coarse", tmp_path).train.x, coarse.train.x)
    assert "boom" not in capsys.readouterr().out

@pytest.mark.parametrize("url", ["{web}/cifar-100-python.tar.gz", "{web}/cut", "{web}/none",
                                 "http://127.0.0.1:9/nobody"])
def test_a_failed_download_says_what_to_do_by_hand(tmp_path, web, cifar100, monkeypatch, url):
    whole = cifar100.read_bytes()
    cifar100.write_bytes(whole[:-100])
    monkeypatch.setattr(CIFAR100, "url", url.format(web=web))
    by_hand = tmp_path / "data" / "cifar-100-python.tar.gz"
    with pytest.raises(UserError, match=f"^cannot download {CIFAR100.url} .*put it at {by_hand}$"):
        load_dataset("cifar100", tmp_path / "data")
    assert not list((tmp_path / "data").glob("*"))              # nothing is left
    by_hand.write_bytes(whole)                                  # put there, as told
    assert len(load_dataset("cifar100", tmp_path / "data").test) == 10

def test_imdb_is_a_class_folder_in_an_archive(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")     # no one there
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UserError, match=f"cannot download https.*put it at {tmp_path}/aclImdb_v1"):
        load_dataset("imdb", tmp_path)
    (tmp_path / "aclImdb").symlink_to(folders / "words")
    assert load_dataset("imdb", tmp_path).classes == ["bad", "good"]

NAMES = "model.safetensors", "pytorch_model.bin"
@pytest.fixture
def hub(web, tmp_path, monkeypatch):
    """The server's folder of org/name, and the cache of its files."""
    monkeypatch.setenv("HF_ENDPOINT", web + "/")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    files = tmp_path / "www" / "org" / "name" / "resolve" / "main"
    files.mkdir(parents=True)
    return files, tmp_path / "hub" / "checkpoints" / "org--name"

def test_the_first_file_that_the_repository_has_is_fetched_once(hub, capsys):
    files, cache = hub
    (files / NAMES[1]).write_bytes(content := b"[PAD]\n" * 1_000_000)
    path = fetch_hub("org/name", *NAMES)
    assert list(cache.iterdir()) == [path] and path.read_bytes() == content
    assert f"{NAMES[1]}, 6.0 MB\n" in capsys.readouterr().err   # it was told
    (files / NAMES[0]).write_bytes(b"safe")
    assert fetch_hub("org/name", *NAMES) == path                # what is there is used
    path.unlink()
    assert fetch_hub("org/name", *NAMES) == cache / NAMES[0]

@pytest.mark.parametrize("names, named, reason", [
    (["cut.pt", "b.pt"], "cut.pt", "the connection was cut"),
    (["none.pt", "neither.pt"], "neither.pt", ".*404"),
    (["page.pt", "b.pt"], "page.pt", "cannot read .*page.pt: it is damaged or no weights")])
def test_of_a_download_that_failed_nothing_is_left_and_the_next_start_heals_it(
        hub, web, names, named, reason):
    files, cache = hub
    torch.save(weights := {"a": torch.ones(3)}, files / "b.pt")  # not to be taken for the first
    (files / "page.pt").write_text("<html>Please log in to this network</html>")
    url = f"{web}/org/name/resolve/main/{named}"
    sentence = rf"cannot download {url} \({reason}.*put it at {cache}/{named}.*--init scratch"
    def read(path):
        return read_weights(path, "weights")
    with pytest.raises(UserError, match=sentence):
        fetch_hub("org/name", *names, read=read)
    assert not list(cache.iterdir())
    (files / named).write_bytes((files / "b.pt").read_bytes())
    assert read(fetch_hub("org/name", *names, read=read))["a"].equal(weights["a"])
