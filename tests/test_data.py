"""The data: glyphs, class folders, downloads (from a server on this machine), splits, augmentation."""

import functools
import hashlib
import http.server
import pickle
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

import data
from data import UserError, crop_and_flip, glyphs, load_dataset, read_image, stratified_order, to_input


# ---------------------------------------------------------------- glyphs

def test_glyphs_are_the_same_every_time_and_another_seed_is_another_set():
    one, two, other = glyphs(50, 0), glyphs(50, 0), glyphs(50, 1)
    assert torch.equal(one.x, two.x) and torch.equal(one.y, two.y) and not torch.equal(one.x, other.x)
    assert one.x.shape == (50, 3, 32, 32) and one.x.dtype == torch.uint8


def test_the_truth_is_four_patches_that_hold_the_digit():
    dataset = load_dataset("glyphs", limit=200)
    assert dataset.train.truth.shape == (200, 64) and (dataset.train.truth.sum(1) == 4).all()
    assert load_dataset("glyphs", limit=200, image_size=32, patch_size=8).train.truth.shape == (200, 16)
    # inside the truth the digit itself is brighter than what surrounds it, where its font says so
    split = glyphs(300, 0)
    sevens = (split.y == 7).nonzero().squeeze(1)
    inside = torch.stack([split.x[i].float().mean(0)[split.truth[i]].view(8, 8) for i in sevens]).mean(0)
    assert inside[0, :7].min() > inside[7, 4:].max() + 50        # a seven has a top bar, and nothing at the bottom right


def test_neither_colour_nor_place_nor_brightness_gives_the_digit_away():
    """A linear classifier of the place of the truth and of each image's mean colour stays near chance (10 %)."""
    split = glyphs(4000, 0)
    features = torch.cat([torch.nn.functional.avg_pool2d(split.truth.float()[:, None], 4).flatten(1), split.x.float().mean((2, 3)) / 255,
                          torch.ones(4000, 1)], 1).double()
    target = torch.nn.functional.one_hot(split.y, 10).double()
    weights = torch.linalg.lstsq(features[:3000], target[:3000], driver="gelsd").solution
    accuracy = ((features[3000:] @ weights).argmax(1) == split.y[3000:]).double().mean()
    assert accuracy < 0.15


# ---------------------------------------------------------------- splits

def test_every_prefix_of_the_stratified_order_holds_the_classes_in_their_shares():
    y = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    order = stratified_order(y)
    assert sorted(order.tolist()) == list(range(1000))
    for n in (10, 100, 400):
        counts = y[order[:n]].bincount(minlength=3)
        assert (counts - torch.tensor([0.6, 0.3, 0.1]) * n).abs().max() <= 1


def test_dev_is_a_fifth_apart_from_train_and_limits_are_nested():
    whole, small, smaller = (load_dataset("glyphs", limit=limit) for limit in (None, 400, 100))
    assert len(whole.train) == 4 * len(whole.dev) and len(small.train) == 400 and len(small.dev) == 100
    rows = lambda split: {t.numpy().tobytes() for t in split.x}
    assert not rows(whole.train) & rows(whole.dev)
    assert rows(smaller.train) < rows(small.train) < rows(whole.train) and rows(small.dev) < rows(whole.dev)
    assert len({whole.fingerprint, small.fingerprint, smaller.fingerprint}) == 3
    assert small.fingerprint == load_dataset("glyphs", limit=400).fingerprint
    with pytest.raises(UserError, match="--limit 9"):
        load_dataset("glyphs", limit=9)


# ---------------------------------------------------------------- pixels

def test_to_input_normalises_and_resizes():
    white = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    x = to_input(white, 64)
    assert x.shape == (2, 3, 64, 64)
    assert x[0, :, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])


def test_crop_and_flip_are_shifts_and_mirrors_of_the_padded_image():
    image = torch.arange(1, 3 * 16 * 16 + 1).view(1, 3, 16, 16)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))[0]
    choices = {}
    for top in range(5):
        for left in range(5):
            crop = padded[:, top:top + 16, left:left + 16]
            choices[crop.numpy().tobytes()], choices[crop.flip(2).numpy().tobytes()] = (top, left, 0), (top, left, 1)
    views = torch.tensor([(top, left, flip) for top in range(5) for left in range(5) for flip in range(2)])
    for view, x in zip(views.tolist(), crop_and_flip(image.expand(50, -1, -1, -1), views)):
        assert choices[x.contiguous().numpy().tobytes()] == tuple(view)


def test_a_view_is_a_function_of_the_example_and_its_number_whatever_the_batch_or_the_limit(tmp_path):
    make_folder(tmp_path, n=60)
    whole, few = load_dataset("pets", tmp_path, views=3), load_dataset("pets", tmp_path, views=3, limit=40)
    assert whole.views.shape == (3, 96, 3) and whole.views[..., :2].amax() == 8 and whole.views[..., 2].float().mean().sub(0.5).abs() < 0.1
    assert torch.equal(few.views, whole.views[:, :40])
    images = torch.cat([x for x, _ in whole.batches(whole.train, 7, view=1)])
    order = torch.randperm(96)
    assert torch.equal(torch.cat([x for x, _ in whole.batches(whole.train, 32, order, view=4)]), images[order])   # view 4 is view 1 again
    assert not torch.equal(torch.cat([x for x, _ in whole.batches(whole.train, 32, view=2)]), images)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "I;16", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.fromarray(np.full((10, 20), 51400, np.uint16)).save(path)                        # 200 / 255
    else:
        Image.new("RGB", (20, 10), (200, 200, 200)).convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    image = read_image(path)
    assert image.shape == (3, 10, 20) and image.dtype == torch.uint8
    if mode != "1":
        assert (image.float() - 200).abs().max() < 4
    assert read_image(path, 8).shape == (3, 8, 8)


def test_transparent_pixels_are_white_and_photographs_stand_upright(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 20, 10)


# ---------------------------------------------------------------- class folders

def make_folder(root, *, classes=("cat", "dog"), n=10, size=lambda i: (32, 32)):
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (root / "pets" / part / name).mkdir(parents=True)
            for i in range(n):
                w, h = size(i)
                Image.fromarray(generator.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(root / "pets" / part / name / f"{i}.{'PNG' if i % 2 else 'jpeg'}")
    return root / "pets"


def test_a_folder_of_one_square_size_stays_at_it_and_other_sizes_are_resized(tmp_path):
    make_folder(tmp_path / "a")
    dataset = load_dataset("pets", tmp_path / "a", image_size=64, patch_size=16)
    assert dataset.classes == ["cat", "dog"] and dataset.train.x.shape == (16, 3, 32, 32) and len(dataset.dev) == 4 and len(dataset.test) == 20
    assert next(dataset.batches(dataset.train, 3))[0].shape == (3, 3, 64, 64)                # resized batch by batch
    assert load_dataset("pets", tmp_path / "a", image_size=16, patch_size=4).train.x.shape[2:] == (16, 16)
    make_folder(tmp_path / "b", size=lambda i: (20 + i, 50))
    assert load_dataset("pets", tmp_path / "b", image_size=48, patch_size=16).train.x.shape[2:] == (48, 48)


def test_the_cache_is_used_until_a_file_changes_and_a_torn_one_is_rebuilt(tmp_path, monkeypatch):
    folder = make_folder(tmp_path)
    first = load_dataset("pets", tmp_path)
    reads = []
    monkeypatch.setattr(data, "read_image", lambda path, size: reads.append(path) or read_image(path, size))
    assert torch.equal(load_dataset("pets", tmp_path).train.x, first.train.x) and not reads    # second start: nothing decoded
    Image.new("RGB", (32, 32)).save(folder / "train" / "cat" / "3.PNG")
    assert load_dataset("pets", tmp_path).fingerprint != first.fingerprint or reads            # noticed
    assert len(reads) == 40
    cache = folder / ".rekd-cache.pt"
    cache.write_bytes(cache.read_bytes()[:1000])
    load_dataset("pets", tmp_path)
    assert len(reads) == 80


def test_mistakes_in_a_folder_are_named(tmp_path):
    folder = make_folder(tmp_path / "corrupt")
    (folder / "train" / "dog" / "4.jpeg").write_bytes((folder / "train" / "dog" / "4.jpeg").read_bytes()[:600])
    with pytest.raises(UserError, match=r"dog/4.jpeg cannot be read as an image"):
        load_dataset("pets", tmp_path / "corrupt")
    folder = make_folder(tmp_path / "empty")
    for file in (folder / "train" / "cat").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="class folder .*train/cat has no .png, .jpg, .jpeg file"):
        load_dataset("pets", tmp_path / "empty")
    make_folder(tmp_path / "one", classes=["cat"])
    with pytest.raises(UserError, match="at least two"):
        load_dataset("pets", tmp_path / "one")
    folder = make_folder(tmp_path / "uneven")
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(UserError, match="must be the same"):
        load_dataset("pets", tmp_path / "uneven")
    (tmp_path / "notest" / "pets" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="no folder 'test'"):
        load_dataset("pets", tmp_path / "notest")
    with pytest.raises(UserError, match="no data set 'pest': there are .*glyphs, cifar10, .* pets"):
        load_dataset("pest", tmp_path / "corrupt")


# ---------------------------------------------------------------- downloads, from a server on this machine

@pytest.fixture
def server(tmp_path):
    """A web server of tmp_path/www; yields (its address, the folder)."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}", tmp_path / "www"
        web.shutdown()


def fake_cifar100(www, address, monkeypatch):
    """A CIFAR-100 archive in the published layout, but of 40 + 10 images, and torchvision told of its address and checksums."""
    md5 = lambda b: hashlib.md5(b).hexdigest()
    generator = np.random.default_rng(0)
    files = {}
    for part, n in (("train", 40), ("test", 10)):
        fine = [i % 4 for i in range(n)]
        files[part] = pickle.dumps({"data": generator.integers(0, 256, (n, 3072), dtype=np.uint8), "fine_labels": fine, "coarse_labels": [c // 2 for c in fine]})
    files["meta"] = pickle.dumps({"fine_label_names": ["apple", "pear", "cat", "dog"], "coarse_label_names": ["fruit", "animal"]})
    base = www.parent / "cifar-100-python"
    base.mkdir()
    for name, content in files.items():
        (base / name).write_bytes(content)
    with tarfile.open(www / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(base, "cifar-100-python")
    source = datasets.CIFAR100
    monkeypatch.setattr(source, "url", f"{address}/cifar-100-python.tar.gz")
    monkeypatch.setattr(source, "tgz_md5", md5((www / "cifar-100-python.tar.gz").read_bytes()))
    monkeypatch.setattr(source, "train_list", [["train", md5(files["train"])]])
    monkeypatch.setattr(source, "test_list", [["test", md5(files["test"])]])
    monkeypatch.setattr(source, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5(files["meta"])})


def test_cifar100_has_fine_and_coarse_labels_from_one_download(tmp_path, server, monkeypatch):
    fake_cifar100(server[1], server[0], monkeypatch)
    fine, coarse = load_dataset("cifar100", tmp_path / "data"), load_dataset("cifar100_coarse", tmp_path / "data")
    assert fine.classes == ["apple", "pear", "cat", "dog"] and coarse.classes == ["fruit", "animal"]
    assert fine.test.x.shape == (10, 3, 32, 32) and torch.equal(fine.test.x, coarse.test.x)
    assert coarse.test.y.tolist() == [c // 2 for c in fine.test.y.tolist()]


def test_a_failed_download_leaves_nothing_and_says_what_to_do_by_hand(tmp_path, server, monkeypatch):
    monkeypatch.setattr(data.time, "sleep", lambda seconds: None)           # between attempts
    fake_cifar100(server[1], server[0], monkeypatch)
    archive = server[1] / "cifar-100-python.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-100])                                     # cut on its way
    with pytest.raises(UserError, match="incomplete.*put it at .*cifar-100-python.tar.gz"):
        load_dataset("cifar100", tmp_path / "data")
    archive.unlink()                                                      # 404
    with pytest.raises(UserError, match=f"cannot download {server[0]}.*put it at"):
        load_dataset("cifar100", tmp_path / "data")
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/x.tar.gz")  # no one there
    with pytest.raises(UserError, match="cannot download http://127.0.0.1:9/x.tar.gz"):
        load_dataset("cifar100", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
    (tmp_path / "data" / "cifar-100-python.tar.gz").write_bytes(whole)    # put there by hand, as told
    assert len(load_dataset("cifar100", tmp_path / "data").test) == 10


def test_the_fingerprint_is_of_every_pixel(monkeypatch):
    """What a teacher said of other pixels must not be reused."""
    before, original = load_dataset("glyphs", limit=100), data.BUILT_IN["glyphs"]

    def one_pixel_changed():
        train, *others = original()
        train.x[data.stratified_order(train.y)[len(train) // 5 + 37], 1, 5, 7] ^= 1               # of the 38th training example
        return train, *others
    monkeypatch.setitem(data.BUILT_IN, "glyphs", one_pixel_changed)
    after = load_dataset("glyphs", limit=100)
    assert (after.train.x != before.train.x).sum() == 1 and after.fingerprint != before.fingerprint
