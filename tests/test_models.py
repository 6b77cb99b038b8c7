"""The networks: isolation of what was not selected, shapes, gradients, checkpoints."""

import pytest
import torch

import models
from models import PRESETS, Generator, Predictor, SelectAll, ViT, build, load, parse_preset
from rekd import Rationalist, hard_mask

SHAPE = dict(preset="vit_nano", num_classes=10, image_size=32, patch_size=4)


def vit(**options):
    return ViT(**{**dict(dim=24, depth=2, heads=2, image_size=32, patch_size=4), **options})


def test_shapes():
    pixels = torch.randn(3, 3, 32, 32)
    backbone = vit()
    assert backbone(pixels).shape == (3, 1 + 64, 24)
    assert backbone.selectable(pixels).shape == (3, 64) and backbone.selectable(pixels).all()
    assert Generator(backbone)(pixels).shape == (3, 64, 2)
    assert Predictor(backbone, 7)(pixels, torch.ones(3, 64)).shape == (3, 7)


def test_patches_are_read_row_by_row_as_a_strided_convolution_does():
    backbone, pixels = vit(depth=1), torch.randn(2, 3, 32, 32)
    weight = backbone.patch_embedding.weight.view(24, 3, 4, 4)
    expected = torch.nn.functional.conv2d(pixels, weight, backbone.patch_embedding.bias, stride=4).flatten(2).transpose(1, 2)
    seen = []
    backbone.patch_embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    backbone(pixels)
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_changing_unselected_pixels_leaves_the_logits_bit_equal():
    predictor, mask = Predictor(vit(), 10).eval(), (torch.rand(4, 64) < 0.15).float()
    pixels = torch.randn(4, 3, 32, 32)
    selected = mask.view(4, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)          # (4, 1, 32, 32)
    changed = torch.where(selected.bool(), pixels, 100 * torch.randn_like(pixels))
    assert not torch.equal(pixels, changed)
    assert torch.equal(predictor(pixels, mask), predictor(changed, mask))
    assert not torch.equal(predictor(pixels, mask), predictor(pixels * (1 - selected), mask))  # what is selected does count


def test_a_full_mask_is_the_whole_input_and_an_empty_one_is_finite():
    predictor, pixels = Predictor(vit(), 10).eval(), torch.randn(2, 3, 32, 32)
    assert torch.equal(predictor(pixels), predictor(pixels, torch.ones(2, 64)))
    empty = predictor(pixels, torch.zeros(2, 64))
    assert empty.isfinite().all() and torch.allclose(empty[0], empty[1])                      # nothing of the images is left


def test_the_prediction_reaches_the_generator_through_the_mask():
    model, pixels = Rationalist(Generator(vit()), Predictor(vit(), 10)), torch.randn(2, 3, 32, 32)
    model(pixels, tau=1.0).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.generator.head.parameters())


def test_dropout_sits_in_the_heads_only():
    backbone, pixels = vit().train(), torch.randn(2, 3, 32, 32)
    assert torch.equal(backbone(pixels), backbone(pixels))
    generator = Generator(backbone, dropout=0.5).train()
    assert not torch.equal(generator(pixels), generator(pixels))
    assert torch.equal(generator.eval()(pixels), generator(pixels))


def test_cls_keeps_everything_and_has_the_predictors_parameters_only():
    model, pixels = build(method="cls", **SHAPE), torch.randn(2, 3, 32, 32)
    assert isinstance(model.generator, SelectAll) and not list(model.generator.parameters())
    assert (model(pixels).mask == 1).all()
    assert torch.equal(model.eval()(pixels).logits, model.predictor(pixels))


def test_generator_and_predictor_share_no_parameter():
    model = build(method="re", **SHAPE)
    assert not {id(p) for p in model.generator.parameters()} & {id(p) for p in model.predictor.parameters()}


def test_presets_and_spelled_sizes():
    assert parse_preset("vit_tiny") == ("vit", 192, 12, 3) == parse_preset("vit:192:12:3")
    for wrong in ("vit_huge", "vit:192:12", "vit:a:b:c", "vit:0:1:1", "cnn:1:1:1"):
        with pytest.raises(ValueError, match=", ".join(PRESETS)):
            parse_preset(wrong)


@pytest.mark.parametrize("options, sentence", [(dict(patch_size=5), "32 is not divisible by patch size 5"),
                                               (dict(heads=5), "width 24 is not divisible by 5 heads"),
                                               (dict(masking="blur"), "no masking 'blur'")])
def test_misuse_fails_with_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        vit(**options)


def test_vit_base_has_the_published_number_of_parameters():
    backbone = ViT(dim=768, depth=12, heads=12, image_size=224, patch_size=16)
    assert sum(p.numel() for p in backbone.parameters()) == 85_798_656  # ViT-Base/16 without its classifier


def test_load_gives_back_the_model_in_eval_mode(tmp_path):
    model, pixels = build(method="re", **SHAPE).eval(), torch.randn(2, 3, 32, 32)
    torch.save({"weights": model.state_dict(), "model": {"method": "re", **SHAPE}, "classes": list("0123456789"),
                "input": {"kind": "image", "image_size": 32}, "config": {"seed": 1}}, tmp_path / "best.pt")
    loaded, info = load(tmp_path / "best.pt")
    assert isinstance(loaded, Rationalist) and not loaded.training
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)
    assert info["classes"][3] == "3" and info["config"] == {"seed": 1} and "weights" not in info
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())            # it can be trained on
    saved = torch.load(tmp_path / "best.pt", weights_only=True)
    torch.save({**saved, "weights": {name: p.bfloat16() for name, p in saved["weights"].items()}}, tmp_path / "half.pt")
    assert load(tmp_path / "half.pt")[0](pixels).logits.dtype == torch.float32                     # a file of half the size


def test_load_refuses_missing_damaged_foreign_and_malicious_files_with_a_sentence(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("boom",))

    torch.save({"weights": Bomb()}, tmp_path / "bomb.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    torch.save({"weights": build(method="re", **SHAPE).state_dict(), "model": {"method": "re", **SHAPE}}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, sentence in [("none.pt", "cannot read"), ("cut.pt", "damaged"), ("empty.pt", "damaged"), ("bomb.pt", "damaged"), ("foreign.pt", "not a checkpoint of train.py")]:
        with pytest.raises(ValueError, match=sentence):
            load(tmp_path / name)


def test_models_needs_only_torch_rekd_and_the_standard_library():
    source = open(models.__file__).read()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"json", "pathlib", "re", "torch", "torch.nn", "torch.nn.functional", "rekd"}
