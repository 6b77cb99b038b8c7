"""The data: glyphs, splits, images, class folders, downloads from a server on this machine."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import shutil
import tarfile
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import datasets

import data
from data import UserError, fetch_hub, glyphs, load_dataset, read_image, stratified_order, to_input

# ---------------------------------------------------------------- glyphs


@pytest.mark.parametrize("patch_size, counts", [(4, {4}), (8, {1, 2, 4})])
def test_the_truth_is_the_patches_that_the_digit_touches(patch_size, counts):
    truth = load_dataset("glyphs", limit=200, patch_size=patch_size).train.truth
    assert truth.shape == (200, (32 // patch_size) ** 2)
    assert set(truth.sum(1).tolist()) == counts


def test_neither_colour_nor_place_nor_brightness_gives_the_digit_away():
    """A linear classifier of the truth's place and the image's mean colour: chance is 10 %."""
    split = glyphs(4000, 0)
    place = F.avg_pool2d(split.truth.float()[:, None], 4).flatten(1)
    colour = split.x.float().mean((2, 3)) / 255
    features = torch.cat([place, colour, torch.ones(4000, 1)], 1).double()
    target = F.one_hot(split.y, 10).double()
    weights = torch.linalg.lstsq(features[:3000], target[:3000], driver="gelsd").solution
    guess = (features[3000:] @ weights).argmax(1)
    assert (guess == split.y[3000:]).double().mean() < 0.15


# ---------------------------------------------------------------- splits


def test_every_prefix_of_the_stratified_order_holds_the_classes_in_their_shares():
    y = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    order = stratified_order(y)
    assert sorted(order.tolist()) == list(range(1000))
    for n in (10, 100, 400):
        counts = y[order[:n]].bincount(minlength=3)
        assert (counts - torch.tensor([0.6, 0.3, 0.1]) * n).abs().max() <= 1


def images_of(split):
    return {x.numpy().tobytes() for x in split.x}


def test_dev_is_a_fifth_apart_from_train_and_limits_are_nested():
    whole, small, smaller = (load_dataset("glyphs", limit=limit) for limit in (None, 400, 100))
    assert len(whole.train) == 4 * len(whole.dev)
    assert not images_of(whole.train) & images_of(whole.dev)
    assert len(small.train) == 400 and len(small.dev) == 100
    assert images_of(smaller.train) < images_of(small.train) < images_of(whole.train)
    assert images_of(small.dev) < images_of(whole.dev)
    assert len({whole.fingerprint, small.fingerprint, smaller.fingerprint}) == 3
    with pytest.raises(UserError, match="--limit 9"):          # below one example a class
        load_dataset("glyphs", limit=9)


# ---------------------------------------------------------------- pixels


def test_to_input_normalises_and_resizes():
    white = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    x = to_input(white, 64)
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


def test_views_are_even_and_the_same_whatever_the_limit_or_batch(tmp_path):
    make_folder(tmp_path, n=60)
    whole = load_dataset("pets", tmp_path, views=3)
    views = whole.views
    assert views.shape == (3, 96, 3)                           # of 120 images, 24 are dev
    assert views[..., :2].amin() == 0 and views[..., :2].amax() == 8
    assert views[..., 2].unique().tolist() == [0, 1]
    assert abs(views[..., 2].float().mean() - 0.5) < 0.1
    few = load_dataset("pets", tmp_path, views=3, limit=40)
    assert torch.equal(few.views, whole.views[:, :40])

    def seen(batch_size, view, order=None):
        batches = whole.batches(whole.train, batch_size, order, view)
        return torch.cat([x for _, x, _ in batches])

    images, order = seen(7, view=1), torch.randperm(96)
    assert torch.equal(seen(32, 4, order), images[order])      # of three views, 4 is 1 again
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
    pixels = read_image(path)
    assert pixels.shape == (3, 10, 20) and pixels.dtype == torch.uint8
    if mode != "1":
        assert (pixels.float() - 200).abs().max() < 4
    assert read_image(path, 8).shape == (3, 8, 8)


def test_transparent_pixels_are_white_and_photographs_stand_upright(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6                                           # turned by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 20, 10)


# ---------------------------------------------------------------- class folders


def make_folder(root, *, classes=("cat", "dog"), n=10, size=lambda i: (32, 32)):
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            folder = root / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                w, h = size(i)
                pixels = generator.integers(0, 256, (h, w, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{'PNG' if i % 2 else 'jpeg'}")
    return root / "pets"


@pytest.mark.parametrize("size, image_size, kept", [
    (lambda i: (32, 32), 64, 32),              # small squares of one size stay as they are
    (lambda i: (32, 32), 16, 16),              # larger ones are resized as they are read
    (lambda i: (20 + i, 50), 64, 64),          # and so are those of several sizes
])
def test_images_are_kept_at_their_own_size_or_the_models(tmp_path, size, image_size, kept):
    make_folder(tmp_path, size=size)
    dataset = load_dataset("pets", tmp_path, image_size=image_size)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.train.x.shape == (16, 3, kept, kept)
    assert len(dataset.dev) == 4 and len(dataset.test) == 20
    _, x, _ = next(dataset.batches(dataset.train, 3))
    assert x.shape == (3, 3, image_size, image_size)


def empty_class(pets):
    for file in (pets / "train" / "cat").iterdir():
        file.unlink()


MISTAKES = {
    "dog/4.jpeg cannot be read as an image":
        lambda pets: (pets / "train" / "dog" / "4.jpeg").write_bytes(b"\xff\xd8\xff"),
    "class folder .*train/cat has no .png, .jpg, .jpeg file": empty_class,
    "at least two": lambda pets: (pets / "train" / "cat").rename(pets / "train" / ".cat"),
    "must be the same": lambda pets: (pets / "test" / "dog").rename(pets / "test" / "wolf"),
    r"'dog'\] in train and \[\] in test": lambda pets: (pets / "test").rename(pets / "exam"),
    "no data set 'pets'": lambda pets: pets.rename(pets.with_name("pests")),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_in_a_folder_is_named(tmp_path, sentence):
    folder = make_folder(tmp_path)
    MISTAKES[sentence](folder)
    with pytest.raises(UserError, match=sentence) as error:
        load_dataset("pets", tmp_path)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- downloads


class Web(http.server.SimpleHTTPRequestHandler):
    """Serves a folder. Files in `server.cut` break off half-way, those in `server.broken` fail."""

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(self.path)
        if name in self.server.broken:
            self.send_error(500)
        elif name in self.server.cut:
            content = (self.server.folder / self.path[1:]).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:len(content) // 2])
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A web server of tmp_path/www."""
    folder = tmp_path / "www"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Web, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.folder, server.address = folder, f"http://127.0.0.1:{server.server_port}"
        server.asked, server.cut, server.broken = [], [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def cifar100(web, monkeypatch):
    """An archive in the published layout, but of 40 + 10 images, and torchvision told of it."""
    generator = np.random.default_rng(0)
    names = {"fine_label_names": ["apple", "pear", "cat", "dog"],
             "coarse_label_names": ["fruit", "animal"]}
    files = {"meta": pickle.dumps(names)}
    for part, n in (("train", 40), ("test", 10)):
        pixels = generator.integers(0, 256, (n, 3072), dtype=np.uint8)
        fine = [i % 4 for i in range(n)]
        files[part] = pickle.dumps({"data": pixels, "fine_labels": fine,
                                    "coarse_labels": [c // 2 for c in fine]})
    archive = web.folder / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = datasets.CIFAR100
    monkeypatch.setattr(source, "url", f"{web.address}/{archive.name}")
    monkeypatch.setattr(source, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setattr(source, "train_list", [["train", md5(files["train"])]])
    monkeypatch.setattr(source, "test_list", [["test", md5(files["test"])]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": md5(files["meta"])}
    monkeypatch.setattr(source, "meta", meta)
    return archive


def test_cifar100_has_fine_and_coarse_labels_from_one_download(tmp_path, web, cifar100):
    fine = load_dataset("cifar100", tmp_path / "data")
    web.asked.clear()
    coarse = load_dataset("cifar100_coarse", tmp_path / "data")
    assert not web.asked
    assert fine.classes == ["apple", "pear", "cat", "dog"]
    assert coarse.classes == ["fruit", "animal"]
    assert fine.test.x.shape == (10, 3, 32, 32) and torch.equal(fine.test.x, coarse.test.x)
    assert coarse.test.y.tolist() == [c // 2 for c in fine.test.y.tolist()]
    # The pixels are rows of red, green and blue.
    raw = pickle.loads((tmp_path / "data" / "cifar-100-python" / "test").read_bytes())["data"]
    assert fine.test.x.flatten(1).tolist() == raw.tolist()


FAULTS = {
    "cut archive": lambda web, archive: archive.write_bytes(archive.read_bytes()[:-100]),
    "cut connection": lambda web, archive: web.cut.append(archive.name),
    "missing": lambda web, archive: archive.unlink(),
    "nobody there": lambda web, archive: setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/x"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_download_says_what_to_do_by_hand(tmp_path, web, cifar100, fault):
    whole = cifar100.read_bytes()
    FAULTS[fault](web, cifar100)
    by_hand = tmp_path / "data" / "cifar-100-python.tar.gz"
    sentence = f"cannot download {datasets.CIFAR100.url} .*put it at {by_hand}"
    with pytest.raises(UserError, match=sentence) as error:
        load_dataset("cifar100", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").glob("*"))             # nothing is left
    by_hand.parent.mkdir(exist_ok=True)
    by_hand.write_bytes(whole)                                 # put there, as told
    assert len(load_dataset("cifar100", tmp_path / "data").test) == 10


# ---------------------------------------------------------------- files of Hugging Face's hub

NAMES = "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def hub(web, tmp_path, monkeypatch):
    """The server as hub of the repository org/name; hub.cache: where its files are kept."""
    monkeypatch.setenv("HF_ENDPOINT", web.address + "/")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    web.files = web.folder / "org" / "name" / "resolve" / "main"
    web.files.mkdir(parents=True)
    web.cache = tmp_path / "torch" / "hub" / "checkpoints" / "org--name"
    return web


def test_the_first_file_that_the_repository_has_is_fetched_once(hub, monkeypatch):
    (hub.files / NAMES[1]).write_bytes(b"[PAD]\n" * 1_000_000)
    path = fetch_hub("org/name", *NAMES)
    assert path == hub.cache / NAMES[1] and list(hub.cache.iterdir()) == [path]
    assert path.read_bytes() == (hub.files / NAMES[1]).read_bytes()
    (hub.files / NAMES[0]).write_bytes(b"safe")
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")      # no one there
        assert fetch_hub("org/name", *NAMES) == path           # what is there is used
    path.unlink()
    assert fetch_hub("org/name", *NAMES).read_bytes() == b"safe"


@pytest.mark.parametrize("fault, reason", [("cut", ""), ("broken", ".*500"), ("missing", ".*404")])
def test_a_cut_failing_or_missing_file_leaves_nothing(hub, fault, reason):
    names = ["x.bin", "a.bin"] if fault == "missing" else ["a.bin", "b.bin"]
    if fault != "missing":
        (hub.files / "a.bin").write_bytes(bytes(range(256)) * 20_000)
        (hub.files / "b.bin").write_bytes(b"another file, which must not be taken for a.bin")
        getattr(hub, fault).append("a.bin")
    url = f"{hub.address}/org/name/resolve/main/a.bin"
    sentence = f"cannot download {url} {reason}.*put it at {hub.cache}/a.bin.*--init scratch"
    with pytest.raises(UserError, match=sentence):
        fetch_hub("org/name", *names)
    assert not list(hub.cache.glob("*"))




# ---------------------------------------------------------------- what is kept, and what is refused


CACHES = {
    "as it was": lambda raw: raw,
    "torn": lambda raw: raw[:1000],
    "empty": lambda raw: b"",
    "a flipped bit": lambda raw: raw[:500] + bytes([raw[500] ^ 1]) + raw[501:],
    "a pickle": lambda raw: b"cbuiltins\nprint\n(S'boom'\ntR.",
}


@pytest.mark.parametrize("kind, read", [("colours", "read_image"), ("words", "read_text")])
@pytest.mark.parametrize("damage", CACHES)
def test_a_cache_is_read_where_it_is_whole(folders, tmp_path, spy, capsys, kind, read, damage):
    """It holds where the folder moves, and until a file changes."""
    shutil.copytree(folders, tmp_path / "a")
    expected = load_dataset(kind, tmp_path / "a", image_size=16)
    root = (tmp_path / "a").rename(tmp_path / "b")
    cache = root / kind / ".rekd-cache"
    cache.write_bytes(CACHES[damage](cache.read_bytes()))
    reads = spy(data, read)
    again = load_dataset(kind, root, image_size=16)
    assert torch.equal(again.train.x, expected.train.x) and bool(reads) == (damage != "as it was")
    assert again.fingerprint == expected.fingerprint and "boom" not in capsys.readouterr().out
    reads.clear()
    os.utime(next((root / kind / "train").glob("*/*")), (0, 0))
    load_dataset(kind, root, image_size=16)
    assert reads


def test_the_fingerprint_is_of_every_pixel_label_and_name(monkeypatch):
    """What a teacher said of other data must not be reused."""
    def fingerprint(change=lambda train, classes, row: None):
        train, classes = glyphs(200, 0), list("0123456789")
        change(train, classes, int(stratified_order(train.y)[len(train) // 5 + 37]))
        monkeypatch.setitem(data.BUILT_IN, "glyphs", lambda: (train, glyphs(10, 1), classes, None))
        return load_dataset("glyphs", limit=100).fingerprint

    changed = {fingerprint(lambda train, classes, row: train.x[row, 1, 5, 7].bitwise_xor_(1)),
               fingerprint(lambda train, classes, row: train.y[row].add_(1).remainder_(10)),
               fingerprint(lambda train, classes, row: classes.reverse())}
    assert len(changed) == 3 and fingerprint() == fingerprint() not in changed


@pytest.mark.parametrize("name", ["pest", "{}/pets", "../x/pets", "pets/train", "."])
def test_an_unknown_name_is_answered_with_what_there_is(tmp_path, name):
    """A path is no name: runs are kept under it, and would go into the folder of the data."""
    make_folder(tmp_path / "x", n=1)
    with pytest.raises(UserError, match="no data set '.*': there are .*glyphs, cifar10, .*, pets"):
        load_dataset(name.format(tmp_path / "x"), tmp_path / "x")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=f"cannot write {path}: No space left"):
        data.write_atomically(path, write)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(os, "replace", lambda *_: write(io.BytesIO()))   # a cache is no must
    assert data.cached(tmp_path, [], lambda paths: b"content") == b"content"


def test_a_pickle_that_is_not_theirs_is_never_opened(tmp_path, cifar100, capsys):
    """It is made again from the archive, which has a checksum."""
    first = load_dataset("cifar100_coarse", tmp_path / "data")
    bomb = b"cbuiltins\nprint\n(S'boom'\ntR."
    (tmp_path / "data" / "cifar-100-python" / "train").write_bytes(bomb)
    assert load_dataset("cifar100_coarse", tmp_path / "data").fingerprint == first.fingerprint
    assert "boom" not in capsys.readouterr().out


def test_imdb_is_a_class_folder_in_an_archive(folders, tmp_path, monkeypatch):
    """The archive that lies beside it has another checksum, and the real one cannot be had."""
    archive = tmp_path / "aclImdb_v1.tar.gz"
    archive.write_bytes(b"another file")
    for name in ("https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UserError, match=f"cannot download https.*put it at {archive}"):
        load_dataset("imdb", tmp_path)
    shutil.copytree(folders / "words", tmp_path / "aclImdb")
    assert load_dataset("imdb", tmp_path).classes == ["bad", "good"]


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path):
    Image.new("1", (14000, 14000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot be read as an image .*decompression bomb"):
        data.read_image(tmp_path / "a.png", 16)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_class_folder_is_not_waited_for(tmp_path):
    os.mkfifo(make_folder(tmp_path) / "train" / "cat" / "pipe.png")
    assert len(load_dataset("pets", tmp_path).train) == 16
