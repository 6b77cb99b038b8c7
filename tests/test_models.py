"""The networks, both kinds under both maskings: what is hidden stays hidden, bit for bit; what its
gradient tells; packing changes no logit; a checkpoint comes back, or a sentence says why not."""

import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models import Generator, Predictor, UserError, build, load, load_teacher, pack, parse_preset
from rekd import Rationalist, sample_mask

KINDS = pytest.mark.parametrize("kind", ["vit", "bert"])
MASKINGS = pytest.mark.parametrize("masking", ["zero", "drop"])
N = {"vit": 16, "bert": 12}
VOCAB = 50


def network(kind, masking="drop", **options):
    """A small predictor in eval mode, with attention sharp enough that tokens influence others."""
    shape = (dict(image_size=16, patch_size=4) if kind == "vit" else
             dict(vocab_size=VOCAB, max_len=12))
    size = dict(dim=16, depth=2, heads=2, masking=masking)
    backbone = (models.ViT if kind == "vit" else models.BERT)(**{**size, **shape, **options})
    with torch.no_grad():
        for block in backbone.blocks:
            block.qkv.weight *= 2
    return Predictor(backbone, 5).eval()


def inputs(kind, B=4):
    """Pixels (B, 3, 16, 16), or ragged tokens (B, 12): [CLS] = 1, words, [SEP] = 2, padding = 0."""
    if kind == "vit":
        return torch.randn(B, 3, 16, 16)
    place, last = torch.arange(12), torch.randint(5, 11, (B, 1))
    last[:2] = torch.tensor([[11], [5]])  # one text without padding, the others with
    tokens = torch.randint(3, VOCAB, (B, 12))
    tokens = torch.where(place < last, tokens, torch.where(place == last, 2, 0))
    tokens[:, 0] = 1
    return tokens


def random_mask(predictor, x, rate=0.4):
    selectable = predictor.backbone.selectable(x)
    return ((torch.rand(selectable.shape) < rate) & selectable).float()


def case(kind, masking="drop"):
    predictor, x = network(kind, masking), inputs(kind)
    return predictor, x, random_mask(predictor, x)


def changed(kind, x, where, shift=7):
    """x with other content at the features where `where` is 1: huge pixels, other words."""
    if kind == "bert":
        return torch.where(where.bool(), 1 + (x + shift) % (VOCAB - 1), x)  # typed [SEP]s too
    pixels = where.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.where(pixels.bool(), 1e4 * torch.randn_like(x), x)


def all_ways(predictor, x, mask):
    """Logits of a mask that needs a gradient, of one that does not, and packed where possible."""
    with_gradient = predictor(x, mask.clone().requires_grad_()).detach()
    return with_gradient, predictor(x, mask, packed=False), predictor(x, mask)


# ---------------------------------------------------------------- the formula

def attend(keys, values, mask, requires_grad=True):
    """One head, one query, width 1: the query is 1, so scores are keys. -> (result, mask leaf)."""
    k, v = (torch.tensor(t, dtype=torch.float32).view(1, 1, -1, 1) for t in (keys, values))
    mask = torch.tensor(mask, dtype=torch.float32).requires_grad_(requires_grad)
    result = models.masked_attention(torch.ones_like(k), k, v, mask.view(1, 1, 1, -1))
    return result[0, 0, 0, 0], mask


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("mask, expected", [
    ([1, 1, 1], (1 * 1 + 2 * 10 + 3 * 100) / 6),
    ([1, 0, 1], (1 * 1 + 3 * 100) / 4),             # weights 1/4, 0, 3/4
    ([1, 0, 0], 1.0),
    ([1, .5, 1], (1 * 1 + 1 * 10 + 3 * 100) / 5)])  # relaxed: the second counts half
def test_attention_by_hand(mask, expected, requires_grad):
    keys, values = [0.0, math.log(2), math.log(3)], [1.0, 10.0, 100.0]  # exp(score) = 1, 2, 3
    result, leaf = attend(keys, values, mask, requires_grad)
    assert result.item() == pytest.approx(expected)
    if requires_grad:  # y = sum M e v / sum M e, so dy / dM_l = e_l (v_l - y) / sum M e
        result.backward()
        total = sum(m * e for m, e in zip(mask, (1, 2, 3)))
        slopes = [e * (v - expected) / total for e, v in zip((1, 2, 3), values)]
        assert leaf.grad.tolist() == pytest.approx(slopes)


@pytest.mark.parametrize("keys, expected", [
    ([0, 1e4, 0], 2), ([0, 1e30, 0], 2), ([0, -1e4, 0], 2),
    ([-1e4, 1e4, -2e4], 1)])  # the visible ones may be as far apart as they like
def test_a_hidden_token_that_would_dominate_changes_nothing(keys, expected):
    result, mask = attend(keys, [1, 1e6, 3], [1, 0, 1])
    assert result == attend(keys, [1, 1e6, 3], [1, 0, 1], requires_grad=False)[0] == expected
    result.backward()
    assert mask.grad.isfinite().all()


@KINDS
def test_gradients_stay_finite_where_scores_are_in_the_thousands(kind):
    predictor, x = network(kind), inputs(kind)
    with torch.no_grad():
        predictor.backbone.blocks[0].qkv.weight *= 100
    mask = random_mask(predictor, x).requires_grad_()
    logits = predictor(x, mask)
    logits.sum().backward()
    assert logits.isfinite().all() and mask.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in predictor.parameters())
    hidden = predictor.backbone.selectable(x) * (1 - mask.detach())
    assert torch.equal(predictor(changed(kind, x, hidden), mask), logits)


# ---------------------------------------------------------------- isolation

@KINDS
@MASKINGS
def test_what_was_not_selected_does_not_matter_bit_for_bit(kind, masking):
    predictor, x, mask = case(kind, masking)
    mask[3] = 0
    for shift in range(1, VOCAB - 1, 5):
        other = changed(kind, x, predictor.backbone.selectable(x) * (1 - mask), shift)
        assert not torch.equal(x, other)
        for before, after in zip(all_ways(predictor, x, mask), all_ways(predictor, other, mask)):
            assert torch.equal(before, after)
    for i in mask[0].nonzero()[:, 0]:  # each selected one does count
        one = torch.zeros_like(mask)
        one[0, i] = 1
        after = predictor(changed(kind, x, one), mask)
        assert not torch.allclose(predictor(x, mask)[0], after[0], atol=1e-4)


@KINDS
@MASKINGS
def test_where_the_unselected_are_matters_under_zero_alone(kind, masking):
    """Permute the position table's rows of unselected features: `zero` leaves them in sight."""
    predictor, x = network(kind, masking), inputs(kind)
    mask = random_mask(predictor, x)[:1].expand(4, -1).contiguous()  # one table, so one mask
    before = all_ways(predictor, x, mask)
    positions = predictor.backbone.positions
    table = positions[0] if kind == "vit" else positions.weight
    hidden = (mask[0] == 0).nonzero()[:, 0] + (kind == "vit")  # the ViT's table begins with [CLS]
    hidden = hidden[hidden > 0]
    with torch.no_grad():
        table[hidden] = table[hidden.roll(1)]
    for old, new in zip(before, all_ways(predictor, x, mask), strict=True):
        assert torch.equal(old, new) == (masking == "drop")


@KINDS
@MASKINGS
def test_an_empty_mask_shows_nothing_and_a_full_one_the_whole_input(kind, masking):
    predictor, x, empty = network(kind, masking), inputs(kind), torch.zeros(4, N[kind])
    other = changed(kind, x, predictor.backbone.selectable(x).float())
    for before, after in zip(all_ways(predictor, x, empty), all_ways(predictor, other, empty)):
        assert before.isfinite().all() and torch.equal(before, after)
        assert torch.allclose(before, predictor(x, empty), atol=1e-6)
        if masking == "drop" or kind == "vit":  # `zero` shows the length of a text
            assert torch.allclose(before[0], before[1:], atol=1e-6)
    full, whole = torch.ones(4, N[kind]), predictor(x)
    if kind == "bert" and masking == "drop":  # [SEP] is no word: under `drop`, a mask hides it
        whole = predictor(torch.where(x == 2, 0, x))
        assert not torch.allclose(whole, predictor(x), atol=1e-6)
    for logits in all_ways(predictor, x, full):
        assert torch.allclose(logits, whole, atol=1e-6)
        assert masking == "drop" or torch.equal(logits, whole)


@MASKINGS
def test_padding_changes_nothing_and_cls_is_always_in_sight(masking):
    predictor, x = network("bert", masking), inputs("bert")
    tight, mask = x[1:, :11], torch.ones(3, 12)  # the last column is padding in these
    assert torch.allclose(predictor(tight), predictor(x)[1:], atol=1e-6)
    assert torch.allclose(predictor(tight, mask[:, :11]), predictor(x[1:], mask), atol=1e-6)
    hidden = torch.cat([torch.zeros(4, 1), torch.ones(4, 11)], 1)  # [CLS] is in sight all the same
    assert torch.equal(predictor(x, hidden), predictor(x, torch.ones(4, 12)))
    with pytest.raises(UserError, match="14 tokens are more than the 12 positions"):
        predictor(torch.ones(1, 14, dtype=torch.int32))


def test_special_tokens_and_padding_are_not_selectable():
    tokens = torch.tensor([[1, 9, 8, 7, 2, 0], [1, 9, 2, 8, 2, 0], [1, 2, 0, 0, 0, 0]])
    selectable = network("bert").backbone.selectable(tokens).int().tolist()
    assert selectable == [[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6]  # a typed [SEP] counts


# ---------------------------------------------------------------- the straight-through gradient

@KINDS
def test_the_gradient_of_the_mask_is_that_of_the_relaxed_function(kind):
    """In float64, against finite differences of the path without gradient; at M = 0 exactly, from
    the right."""
    predictor, x = network(kind).double(), inputs(kind, 2)
    x = x.double() if kind == "vit" else x
    selectable, h = predictor.backbone.selectable(x), 1e-6
    weight = torch.randn(2, 5, dtype=torch.float64)

    def loss(mask):
        return (predictor(x, mask, packed=None if mask.requires_grad else False) * weight).sum()

    def slope(start, b, i):
        def at(step):
            moved = start.clone()
            moved[b, i] += step
            return loss(moved).item()
        if start[b, i] == 0:
            return (4 * at(h) - 3 * at(0) - at(2 * h)) / (2 * h)
        return (at(h) - at(-h)) / (2 * h)

    relaxed = 0.2 + 0.6 * torch.rand(2, N[kind], dtype=torch.float64)
    hard = random_mask(predictor, x).double()
    mixed = torch.where(torch.rand(hard.shape) < 0.5, hard, relaxed)
    for start in (relaxed * selectable, hard, mixed * selectable):
        mask = start.clone().requires_grad_()
        loss(mask).backward()
        for b, i in selectable.nonzero().tolist():
            assert mask.grad[b, i].item() == pytest.approx(slope(start, b, i), rel=1e-4, abs=1e-6)
        assert (mask.grad[selectable].abs() > 1e-7).all()  # also where the mask is 0


def first_input(predictor, x, mask, **options):
    """What the first block gets to see: (B, T, dim)."""
    seen = []
    hook = predictor.backbone.blocks[0].register_forward_pre_hook(
        lambda block, arguments: seen.append(arguments[0]))
    predictor(x, mask, **options)
    hook.remove()
    return seen[0]


@KINDS
def test_the_content_of_unselected_features_stays_real_under_drop(kind):
    """Multiplied by 0 as well as hidden, the gradient would be that of attending to an empty token:
    masks collapse."""
    predictor, x, mask = case(kind)
    whole = first_input(predictor, x, None)
    for given in (mask, mask.clone().requires_grad_()):
        assert torch.equal(first_input(predictor, x, given, packed=False), whole)


@KINDS
@MASKINGS
def test_the_prediction_reaches_the_generator_through_every_selectable_feature(kind, masking):
    predictor, x = network(kind, masking), inputs(kind)
    selectable = predictor.backbone.selectable(x)
    generator = Generator(network(kind, masking).backbone)
    logits = generator(x)
    logits.retain_grad()
    mask, _ = sample_mask(logits, 1.0, selectable)
    predictor(x, mask).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.head.parameters())
    assert (selectable & (mask == 0)).any()  # unselected ones too
    assert torch.equal(logits.grad.abs().sum(-1) > 0, selectable)
    if masking == "drop":  # padding, [CLS] and [SEP] get none, even where a mask shows them
        mask = torch.ones(4, N[kind]).requires_grad_()
        predictor(x, mask).sum().backward()
        assert torch.equal(mask.grad != 0, selectable)


# ---------------------------------------------------------------- packed evaluation

def length(predictor, x, mask, **options):
    return first_input(predictor, x, mask, **options).shape[1]


def test_pack_by_hand():
    x, mask = torch.tensor([[10, 11, 12], [20, 21, 22]]), torch.tensor([[0, 1, 1], [0, 0, 1.]])
    content = torch.ones(2, 3, dtype=torch.bool)
    kept, packed = pack(mask, content, True, x)
    assert packed.tolist() == [[11, 12], [22, 20]]  # the 20 fills up; its mask is 0:
    assert kept.tolist() == [[1, 1], [1, 0]]


def test_packing_for_training_by_hand():
    """Two features computed: the selected one, and one of the two others in the name of both."""
    mask = torch.tensor([[0, 1, 0, 0.]]).requires_grad_()
    content = torch.tensor([[True, True, True, False]])  # the last is padding
    x = torch.tensor([[10, 11, 12, 13]])
    for _ in range(20):
        kept, packed = pack(mask, content, 2, x)
        assert kept.tolist() == [[1, 0]] and packed[0, 0] == 11 and packed[0, 1] in (10, 12)
        (gradient,) = torch.autograd.grad(kept.sum(), mask)
        expected = [2, 1, 0, 0] if packed[0, 1] == 10 else [0, 1, 2, 0]
        assert gradient.tolist() == [expected]
    kept, packed = pack(torch.ones(1, 4), content, 2, x)  # two of four do not fit: not selected
    assert kept.tolist() == [[1, 1]]


@KINDS
def test_packed_training_has_the_same_logits_and_on_average_the_same_gradient(kind):
    predictor, x, mask = case(kind)
    mask.requires_grad_()
    parameters = list(predictor.parameters())

    def step(packed):
        logits = predictor(x, mask, packed)
        gradients = torch.autograd.grad(logits[:, 0].sum(), [mask, *parameters])
        return logits.detach(), gradients[0], gradients[1:]
    logits, expected, weights = step(packed=False)
    fit = int(mask.sum(1).max()) + 1
    assert fit < N[kind] - 3
    total = torch.zeros_like(expected)
    for _ in range(600):
        packed_logits, gradient, packed_weights = step(packed=fit)
        assert torch.allclose(packed_logits, logits, atol=1e-5)
        total += gradient
    selected = mask.detach() > 0
    assert torch.allclose(gradient[selected], expected[selected], atol=1e-5)
    assert (total / 600 - expected).norm() < 0.2 * expected[~selected].norm()
    for ours, theirs in zip(packed_weights, weights):  # of the networks: the same in every draw
        assert torch.allclose(ours, theirs, atol=1e-4)


@KINDS
def test_packed_training_never_leaves_cls_out(kind):
    predictor, x, mask = case(kind)
    everything = predictor.backbone.selectable(x).float().requires_grad_()
    first = []
    predictor.backbone.blocks[0].register_forward_pre_hook(
        lambda block, arguments: first.append(arguments[0]))
    predictor(x, everything, packed=2)
    predictor(x, mask, packed=False)
    assert first[0].shape[1] == 3  # [CLS] and two
    assert torch.allclose(first[0][:, 0], first[1][:, 0])


@KINDS
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_packed_logits_equal_the_others(kind, rate):
    predictor, x = network(kind), inputs(kind, 16)
    mask = random_mask(predictor, x, rate)
    mask[1], mask[2] = 0, predictor.backbone.selectable(x)[2]  # nothing and everything
    assert length(predictor, x, mask) == 1 + int(mask.sum(1).max())
    logits = predictor(x, mask)
    for other in (*all_ways(predictor, x, mask), *all_ways(predictor, x, mask.bool().float()),
                  predictor(x, mask.bool()), predictor(x, mask.bool(), packed=False)):
        assert torch.allclose(other, logits, atol=1e-5)
    relaxed = mask * (0.1 + 0.9 * torch.rand_like(mask))  # packs too
    for other in all_ways(predictor, x, relaxed):
        assert torch.allclose(other, predictor(x, relaxed), atol=1e-5)


@KINDS
def test_packing_is_for_evaluation_of_a_mask_without_gradient(kind):
    predictor, x, mask = case(kind)
    with_gradient = mask.clone().requires_grad_()
    full, short = N[kind] + (kind == "vit"), 1 + int(mask.sum(1).max())
    assert short < full
    assert length(predictor, x, mask) == length(predictor, x, mask, packed=True) == short
    assert length(predictor, x, mask, packed=False) == length(predictor, x, None) == full
    assert length(predictor, x, with_gradient) == full
    with torch.no_grad():  # a frozen teacher that reads the student's mask
        assert length(predictor, x, with_gradient) == short
    assert length(network(kind, "zero"), x, mask) == full
    with pytest.raises(UserError, match="masking='drop'"):
        network(kind, "zero")(x, mask, packed=True)
    with pytest.raises(UserError, match="without gradient"):
        predictor(x, with_gradient, packed=True)
    predictor.train()
    assert length(predictor, x, mask) == full
    assert length(predictor, x, mask, packed=True) == short


@KINDS
@MASKINGS
@pytest.mark.parametrize("given", ["nothing", "a mask", "a mask with gradient"])
def test_the_last_block_of_a_predictor_computes_cls_alone(kind, masking, given):
    predictor, x, rows = network(kind, masking), inputs(kind), []
    mask = None if given == "nothing" else random_mask(predictor, x)
    predictor.backbone.blocks[-1].fc1.register_forward_hook(
        lambda layer, arguments, output: rows.append(output.shape[1]))
    leaves = list(predictor.parameters())
    if given == "a mask with gradient":
        leaves.append(mask.requires_grad_())
    short = predictor(x, mask, packed=False)
    whole = predictor.head(predictor.backbone(x, mask)[:, 0])
    assert torch.allclose(short, whole, atol=1e-6)
    assert rows == [1, N[kind] + (kind == "vit")]
    gradients = [torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
                 for y in (short, whole)]
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is theirs or torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- modules

@KINDS
@MASKINGS
def test_a_training_step_never_waits_for_the_device(kind, masking):
    """Tensors on "meta" have shapes but no values: what would make the host wait for one (.item(),
    nonzero, `if tensor`) raises."""
    generator, predictor = Generator(network(kind, masking).backbone), network(kind, masking)
    model, x = Rationalist(generator, predictor).train().to("meta"), inputs(kind).to("meta")
    model(x, tau=1.0).logits.sum().backward()
    assert model(x).logits.shape == (4, 5)
    if masking == "drop":  # packing has to: it needs a length
        with torch.no_grad(), pytest.raises(RuntimeError, match="item"):
            predictor(x, predictor.backbone.selectable(x), packed=True)


@KINDS
@MASKINGS
def test_bfloat16_autocast_is_finite_and_near(kind, masking):
    predictor, x = network(kind, masking), inputs(kind)
    mask = random_mask(predictor, x).requires_grad_()
    exact = predictor(x, mask)
    exact.sum().backward()
    gradient, mask.grad = mask.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        logits, packed = predictor(x, mask), predictor(x, mask.detach())
    logits.float().sum().backward()
    assert torch.allclose(logits.float(), exact, atol=0.05)
    assert torch.allclose(packed.float(), exact, atol=0.05)
    assert F.cosine_similarity(mask.grad.flatten(), gradient.flatten(), dim=0) > 0.99


@KINDS
def test_shapes_and_dropout(kind):
    backbone, x = network(kind).backbone, inputs(kind, 3)
    assert backbone(x).shape == (3, N[kind] + (kind == "vit"), 16)
    assert backbone(x, rows=1).shape == (3, 1, 16)
    assert backbone.selectable(x).shape == (3, N[kind])
    assert kind == "bert" or backbone.selectable(x).all()
    assert Generator(backbone)(x).shape == (3, N[kind], 2)
    assert Predictor(backbone, 7)(x, torch.ones(3, N[kind])).shape == (3, 7)
    backbone.train()  # dropout sits in the heads alone
    assert torch.equal(backbone(x), backbone(x))
    generator = Generator(backbone, dropout=0.5).train()
    assert not torch.equal(generator(x), generator(x))
    assert torch.equal(generator.eval()(x), generator(x))


def test_patches_are_read_row_by_row_as_a_strided_convolution_does():
    predictor, pixels, seen = network("vit"), inputs("vit"), []
    layer, mask = predictor.backbone.patch_embedding, random_mask(predictor, pixels)
    layer.register_forward_hook(lambda module, arguments, output: seen.append(output))
    predictor(pixels), predictor(pixels, mask)
    expected = F.conv2d(pixels, layer.weight.view(16, 3, 4, 4), layer.bias, stride=4)
    assert torch.allclose(seen[0], expected.flatten(2).mT, atol=1e-5)
    assert seen[1].shape[1] == mask.sum(1).max()  # packed: of the selected patches alone


@pytest.mark.parametrize("kind, options, sentence", [
    ("vit", dict(patch_size=5), "16 is not divisible by patch size 5"),
    ("vit", dict(heads=5), "width 16 is not divisible by 5 heads"),
    ("vit", dict(masking="blur"), "no masking 'blur': choose zero or drop"),
    ("bert", dict(masking="blur"), "no masking 'blur': choose zero or drop")])
def test_options_and_images_that_cannot_be_fail_with_a_sentence(kind, options, sentence):
    with pytest.raises(UserError, match=sentence):
        network(kind, **options)
    for size in ((16, 20), (8, 32), (32, 32)):
        with pytest.raises(UserError, match="this ViT reads 16 x 16"):
            network("vit")(torch.randn(1, 3, *size))


# ---------------------------------------------------------------- build and load

RE = dict(preset="vit_nano", method="re", num_classes=3, image_size=16, patch_size=4)
CLASSES = ["cat", "dog", "owl"]
MISSING = object()


def test_presets_and_spelled_sizes():
    assert parse_preset("vit_tiny") == ("vit", 192, 12, 3) == parse_preset("vit:192:12:3")
    for wrong in ("vit_huge", "vit:192:12", "vit:a:b:c", "vit:0:1:1", "cnn:1:1:1"):
        with pytest.raises(UserError, match=", ".join(models.PRESETS)):
            parse_preset(wrong)


def test_cls_keeps_everything_and_has_the_predictors_parameters_only():
    model, pixels = build(**{**RE, "method": "cls"}), inputs("vit")
    assert isinstance(model.generator, models.SelectAll) and not list(model.generator.parameters())
    assert (model(pixels).mask == 1).all()
    assert torch.equal(model.eval()(pixels).logits, model.predictor(pixels))


def test_a_built_network_shares_no_parameter_and_begins_as_the_identity():
    """From PyTorch's own initialisation masks become all or nothing."""
    model, x = build(**RE), torch.randn(2, 5, 24)
    assert len({id(p) for p in model.parameters()}) == len(list(model.state_dict()))
    for part in (model.generator, model.predictor):
        assert all(torch.equal(block(x), x) for block in part.backbone.blocks)
    drop, zero = build(masking="drop", **RE), build(**RE)
    drop.load_state_dict(zero.state_dict())  # a masking has no weights of its own
    assert drop.predictor.backbone.masking == "drop" and zero.predictor.backbone.masking == "zero"
    assert drop.eval()(inputs("vit")).logits.isfinite().all()


@pytest.fixture
def saved(tmp_path):
    """saved("model.preset", value): the path of a finished checkpoint with this field altered."""
    def save(field="fingerprint", value="f"):
        torch.manual_seed(0)
        checkpoint = {"weights": build(**RE).state_dict(), "model": {**RE}, "classes": [*CLASSES],
                      "input": {"kind": "image", "image_size": RE["image_size"]},
                      "config": {"preset": RE["preset"], "method": RE["method"]},
                      "metric": {"accuracy": 0.5, "rate_mean": 0.15}, "fingerprint": "f",
                      "epoch": 1}
        part, _, key = field.partition(".")
        owner, key = (checkpoint[part], key) if key else (checkpoint, part)
        owner[key] = value
        if value is MISSING:
            del owner[key]
        torch.save(checkpoint, tmp_path / "best.pt")
        return tmp_path / "best.pt"
    return save


def test_load_gives_back_the_model_in_eval_mode_and_float32(saved):
    model, info = load(saved("config.seed", 1))
    torch.manual_seed(0)
    same, pixels = build(**RE).eval(), inputs("vit")
    assert torch.equal(model(pixels).logits, same(pixels).logits)
    assert isinstance(model, Rationalist) and not model.training
    assert info["classes"] == CLASSES and info["config"]["seed"] == 1 and "weights" not in info
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    half = {name: p.bfloat16() for name, p in build(**RE).state_dict().items()}
    assert load(saved("weights", half))[0](inputs("vit")).logits.dtype == torch.float32


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


def test_what_is_no_checkpoint_is_refused_with_a_sentence(saved, tmp_path, capsys):
    (tmp_path / "cut.pt").write_bytes(saved().read_bytes()[:5000])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"weights": Bomb()}, tmp_path / "bomb.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    for name, sentence in [("none.pt", "cannot read.*No such file"), ("cut.pt", "damaged"),
                           ("empty.pt", "damaged"), ("bomb.pt", "damaged"), (".", "directory"),
                           ("foreign.pt", "not a checkpoint of train.py .it has no weights.")]:
        with pytest.raises(UserError, match=sentence):
            load(tmp_path / name)
    assert "boom" not in capsys.readouterr().out


BIAS = "weights.predictor.head.1.bias"


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("field, value, offender", [
    ("classes", MISSING, "no classes"), ("classes", 7, "no classes"), ("input", "x", "no input"),
    ("model", ["vit_nano"], "no model"), ("weights", [torch.zeros(3)], "no weights"),
    ("model.preset", "vit_huge", "no preset 'vit_huge'"), ("model.preset", 7, "string"),
    ("model.method", MISSING, "method"), ("model.colour", "red", "colour"),
    ("model.vocab_size", 50, "vocab_size"), ("model.num_classes", -1, "its classes"),
    ("model.num_classes", "many", "its classes"), ("model.patch_size", 0, "patch size 0"),
    ("model.patch_size", -4, "patch size -4"), ("model.preset", "vit_micro", "its config"),
    ("model.preset", "vit:8:100000:1", "no preset"),  # would take minutes to build
    ("model.method", "cls", "its config"), ("model.image_size", 32, "its input"),
    ("model.rate", "many", "not supported"), ("model.rate", -1, "no rate -1"),
    ("model.masking", "none", "no masking"), ("classes", ["cat", "dog", 3], "a name is no text"),
    ("input", {"kind": "text"}, "its input"), ("fingerprint", 7, "no fingerprint"),
    ("metric.accuracy", MISSING, "accuracy"), ("metric.rate_mean", "x", "metric is no number"),
    ("metric.f1", torch.ones(()), "metric is no number"),
    ("weights.two\nlines", torch.zeros(3), r"unexpected: 'two\\nlines'"),
    (BIAS, MISSING, "it has no predictor.head.1.bias"),
    (BIAS, torch.zeros(4), r"\(4,\) in predictor.head.1.bias, not \(3,\)"),
    (BIAS, torch.zeros(()), r"\(\) in predictor.head.1.bias"),
    *[(BIAS, x, "no finite numbers in predictor.head.1.bias")
      for x in ([0.0] * 3, "zeros", torch.tensor([0, 1, 2]), torch.tensor([0, 1, torch.nan]),
                torch.zeros(3).to_sparse(), torch.zeros(3, device="meta"),
                torch.zeros(1).expand(3), torch.quantize_per_tensor(torch.ones(3), 1.0, 0,
                                                                    torch.quint8))]])
def test_load_names_what_is_wrong_in_a_checkpoint(saved, field, value, offender):
    path = saved(field, value)
    with pytest.raises(UserError, match=offender) as error:
        load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


STUDENT = dict(classes=CLASSES, image_size=16, patch_size=4)


def test_a_teacher_is_frozen_and_no_cls_model(saved, tmp_path):
    teacher, info = load_teacher(saved(), **STUDENT)
    assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.training
    assert info["model"] == RE
    cls = RE | {"method": "cls"}
    checkpoint = torch.load(saved("model", cls))
    checkpoint.update(weights=build(**cls).state_dict(), config=cls)
    torch.save(checkpoint, tmp_path / "cls.pt")
    with pytest.raises(UserError, match="no rationales to teach"):
        load_teacher(tmp_path / "cls.pt", **STUDENT)


@pytest.mark.parametrize("student, sentence", [
    (dict(classes=["cat", "dog", "elk"]), r"other classes \(cat, dog, owl\) .* \(cat, dog, elk\)"),
    (dict(vocabulary=["a"]), "another vocabulary"), (dict(patch_size=8), "same grid of features"),
    (dict(vocab_size=50), "same grid of features")])
def test_a_teacher_of_another_student_is_refused(saved, student, sentence):
    with pytest.raises(UserError, match=sentence):
        load_teacher(saved(), **STUDENT | student)


def test_models_needs_only_torch_rekd_and_the_standard_library():
    lines = Path(models.__file__).read_text().splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"json", "pathlib", "re", "zipfile", "torch", "torch.nn",
                        "torch.nn.functional", "rekd"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["a.json", "a.pt", "a.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="damaged or no file of weights: take another"):
        models.read_dict(tmp_path / name, "file of weights", "take another")
