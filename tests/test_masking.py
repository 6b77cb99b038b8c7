"""masking="drop": what was not selected takes no part, its gradient tells what it would do, and packing changes no logit."""

import math

import pytest
import torch

from models import BERT, Generator, Predictor, ViT, build, masked_attention
from rekd import Rationalist, sample_mask

KINDS = pytest.mark.parametrize("kind", ["vit", "bert"])
N = {"vit": 16, "bert": 12}
VOCAB = 50


def network(kind, masking="drop", **options):
    """A small predictor in eval mode whose attention is sharp enough that tokens do influence each other."""
    if kind == "vit":
        backbone = ViT(**{**dict(dim=16, depth=2, heads=2, image_size=16, patch_size=4, masking=masking), **options})
    else:
        backbone = BERT(**{**dict(dim=16, depth=2, heads=2, vocab_size=VOCAB, max_len=12, masking=masking), **options})
    with torch.no_grad():
        for block in backbone.blocks:
            block.qkv.weight *= 2
    return Predictor(backbone, 5).eval()


def inputs(kind, B=4):
    """Pixels (B, 3, 16, 16), or tokens (B, 12) of ragged length: [CLS] = 1, words, [SEP] = 2, padding = 0."""
    if kind == "vit":
        return torch.randn(B, 3, 16, 16)
    tokens, place, last = torch.randint(3, VOCAB, (B, 12)), torch.arange(12), torch.randint(5, 11, (B, 1))
    last[:2] = torch.tensor([[11], [5]])  # one text without padding, the others with
    tokens = torch.where(place < last, tokens, torch.where(place == last, 2, 0))
    tokens[:, 0] = 1
    return tokens


def random_mask(predictor, x, rate=0.4):
    selectable = predictor.backbone.selectable(x)
    return ((torch.rand(selectable.shape) < rate) & selectable).float()


def features(mask):
    """(B, 16) -> (B, 1, 16, 16): the mask of patches as one of pixels."""
    return mask.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)


def changed(kind, x, where):
    """x with other content at the features where `where` is 1: huge pixels, other words."""
    if kind == "vit":
        return torch.where(features(where).bool(), 1e4 * torch.randn_like(x), x)
    return torch.where(where.bool(), 3 + (x + 7) % (VOCAB - 3), x)


def both_ways(predictor, x, mask):
    """Logits on the two unpacked paths: a mask that asks for a gradient, and one that does not."""
    return predictor(x, mask.clone().requires_grad_()).detach(), predictor(x, mask, packed=False).detach()


# ---------------------------------------------------------------- the formula

def attend(keys, values, mask, requires_grad=True):
    """One head, one query, width 1: the query is 1, so that the scores are the keys. -> (result, mask as a leaf)."""
    k, v = (torch.tensor(t, dtype=torch.float32).view(1, 1, -1, 1) for t in (keys, values))
    mask = torch.tensor(mask, dtype=torch.float32).requires_grad_(requires_grad)
    return masked_attention(torch.ones_like(k), k, v, mask.view(1, 1, 1, -1))[0, 0, 0, 0], mask


@pytest.mark.parametrize("requires_grad", [True, False])
def test_attention_by_hand(requires_grad):
    keys, values = [0.0, math.log(2), math.log(3)], [1.0, 10.0, 100.0]  # exp(score) = 1, 2, 3
    for mask, expected in [([1, 1, 1], (1 * 1 + 2 * 10 + 3 * 100) / 6),
                           ([1, 0, 1], (1 * 1 + 3 * 100) / 4),          # weights 1/4, 0, 3/4
                           ([1, 0, 0], 1.0),
                           ([1, .5, 1], (1 * 1 + 1 * 10 + 3 * 100) / 5)]:  # relaxed: the second counts half
        assert attend(keys, values, mask, requires_grad)[0].item() == pytest.approx(expected)


def test_the_gradient_of_a_hidden_token_by_hand():
    result, mask = attend([0.0, math.log(2), math.log(3)], [1.0, 10.0, 100.0], [1, 0, 1])
    result.backward()
    # y = sum M e v / sum M e = 301 / 4, so dy / dM_l = e_l (v_l - y) / 4: for the hidden one 2 (10 - 75.25) / 4.
    assert mask.grad.tolist() == pytest.approx([(1 - 75.25) / 4, 2 * (10 - 75.25) / 4, 3 * (100 - 75.25) / 4])


def test_a_hidden_token_that_would_dominate_changes_nothing_and_its_gradient_is_finite():
    usual, _ = attend([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [1, 0, 1])
    for key in (1e4, 1e30, -1e4):
        result, mask = attend([0.0, key, 0.0], [1.0, 1e6, 3.0], [1, 0, 1])
        assert result.item() == usual.item() == attend([0.0, key, 0.0], [1.0, 1e6, 3.0], [1, 0, 1], requires_grad=False)[0].item() == 2
        result.backward()
        assert mask.grad.isfinite().all()
    # The visible ones may be as far apart as they like: the maximum is theirs.
    result, mask = attend([-1e4, 1e4, -2e4], [5.0, 1e6, 3.0], [1, 0, 1])
    result.backward()
    assert result.item() == 5 and mask.grad.isfinite().all()


@KINDS
def test_gradients_stay_finite_where_scores_are_in_the_thousands(kind):
    predictor, x = network(kind), inputs(kind)
    with torch.no_grad():
        predictor.backbone.blocks[0].qkv.weight *= 100
    mask = random_mask(predictor, x).requires_grad_()
    logits = predictor(x, mask)
    logits.sum().backward()
    assert logits.isfinite().all() and mask.grad.isfinite().all() and all(p.grad.isfinite().all() for p in predictor.parameters())
    other = changed(kind, x, predictor.backbone.selectable(x) * (1 - mask.detach()))
    assert torch.equal(predictor(other, mask), logits)


# ---------------------------------------------------------------- isolation

@KINDS
def test_what_was_not_selected_does_not_matter_bit_for_bit(kind):
    predictor, x = network(kind), inputs(kind)
    mask = random_mask(predictor, x)
    other = changed(kind, x, predictor.backbone.selectable(x) * (1 - mask))
    assert not torch.equal(x, other)
    for before, after in zip(both_ways(predictor, x, mask), both_ways(predictor, other, mask)):
        assert torch.equal(before, after)
    assert torch.equal(predictor(x, mask), predictor(other, mask))                           # packed
    for l in mask[0].nonzero()[:, 0].tolist():                                               # each selected one does count
        one = torch.zeros_like(mask)
        one[0, l] = 1
        assert not torch.allclose(predictor(x, mask)[0], predictor(changed(kind, x, one), mask)[0], atol=1e-4)


@KINDS
def test_where_the_unselected_are_does_not_matter_bit_for_bit(kind):
    """Permute the position table's rows of unselected features. `zero` fails here: it leaves the positions in sight."""
    for masking in ("drop", "zero"):
        predictor, x = network(kind, masking), inputs(kind)
        mask = random_mask(predictor, x)[:1].expand(4, -1).contiguous()                      # one table serves the whole batch
        before = both_ways(predictor, x, mask) + (predictor(x, mask),)
        table = predictor.backbone.positions[0] if kind == "vit" else predictor.backbone.positions.weight
        hidden = (mask[0] == 0).nonzero()[:, 0] + (kind == "vit")                            # the ViT's table begins with [CLS]
        hidden = hidden[hidden > 0]
        with torch.no_grad():
            table[hidden] = table[hidden.roll(1)]
        for old, new in zip(before, both_ways(predictor, x, mask) + (predictor(x, mask),)):
            assert torch.equal(old, new) == (masking == "drop")


@KINDS
def test_an_empty_mask_is_cls_alone(kind):
    predictor, x = network(kind), inputs(kind)
    empty, others = torch.zeros(4, N[kind]), changed(kind, x, predictor.backbone.selectable(x).float())
    for before, after in zip(both_ways(predictor, x, empty), both_ways(predictor, others, empty)):
        assert before.isfinite().all() and torch.equal(before, after)
    assert torch.allclose(predictor(x, empty), predictor(x, empty, packed=False), atol=1e-6)
    assert torch.allclose(predictor(x, empty)[0], predictor(x, empty)[1:], atol=1e-6)


def test_a_full_mask_is_the_whole_input():
    predictor, x = network("vit"), inputs("vit")
    for logits in both_ways(predictor, x, torch.ones(4, 16)):
        assert torch.allclose(logits, predictor(x), atol=1e-6)
    predictor, x = network("bert"), inputs("bert")
    without_sep = torch.where(x == 2, 0, x)                                                  # [SEP] is no word: a mask never shows it
    for logits in both_ways(predictor, x, torch.ones(4, 12)):
        assert torch.allclose(logits, predictor(without_sep), atol=1e-6)
        assert not torch.allclose(logits, predictor(x), atol=1e-6)                           # without a mask it is in sight


def test_padding_is_hidden_and_gets_no_gradient_whatever_the_mask_says():
    predictor, x = network("bert"), inputs("bert")
    mask = torch.ones(4, 12).requires_grad_()
    logits = predictor(x, mask)
    logits.sum().backward()
    unselectable = ~predictor.backbone.selectable(x)
    assert (x == 0).any() and (mask.grad[unselectable] == 0).all() and (mask.grad[~unselectable] != 0).all()
    assert torch.allclose(predictor(x[1:, :11], torch.ones(3, 11)), logits[1:], atol=1e-6)   # the last column is padding in these


# ---------------------------------------------------------------- the straight-through gradient

@KINDS
def test_the_gradient_of_the_mask_is_that_of_the_relaxed_function(kind):
    """In double precision, against finite differences of the path that has no gradient. At M = 0 exactly: from the right."""
    predictor, x = network(kind).double(), inputs(kind, 2)
    x = x.double() if kind == "vit" else x
    selectable, weight, h = predictor.backbone.selectable(x), torch.randn(2, 5, dtype=torch.float64), 1e-6

    def loss(mask):
        return (predictor(x, mask, packed=None if mask.requires_grad else False) * weight).sum()

    relaxed = 0.2 + 0.6 * torch.rand(2, N[kind], dtype=torch.float64)
    hard = random_mask(predictor, x).double()
    for start in (relaxed * selectable, hard, torch.where(torch.rand(hard.shape) < 0.5, hard, relaxed) * selectable):
        mask = start.clone().requires_grad_()
        loss(mask).backward()
        for b, l in selectable.nonzero().tolist():
            def at(step):
                moved = start.clone()
                moved[b, l] += step
                return loss(moved).item()
            slope = (4 * at(h) - 3 * at(0) - at(2 * h)) / (2 * h) if start[b, l] == 0 else (at(h) - at(-h)) / (2 * h)
            assert mask.grad[b, l].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
        assert (mask.grad[selectable].abs() > 1e-7).all()                                    # also where the mask is 0


@KINDS
def test_the_content_of_unselected_features_stays_real(kind):
    """Multiplied by 0 as well as hidden, the gradient would tell what attending to an empty token does: masks collapse."""
    predictor, x, seen = network(kind), inputs(kind), []
    predictor.backbone.blocks[0].register_forward_pre_hook(lambda block, arguments: seen.append(arguments[0]))
    for mask in (None, random_mask(predictor, x), random_mask(predictor, x).requires_grad_()):
        predictor(x, mask, packed=False)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


@KINDS
def test_the_prediction_reaches_the_generator_through_unselected_features(kind):
    predictor, x = network(kind), inputs(kind)
    selectable = predictor.backbone.selectable(x)
    logits = torch.randn(4, N[kind], 2, requires_grad=True)
    mask, _ = sample_mask(logits, 1.0, selectable)
    predictor(x, mask).sum().backward()
    unselected = selectable & (mask == 0)
    assert unselected.any() and (logits.grad[unselected].abs().sum(-1) > 0).all() and (logits.grad[~selectable] == 0).all()


# ---------------------------------------------------------------- packed evaluation

def lengths(predictor, x, mask, **options):
    """How many tokens the first block gets to see."""
    seen = []
    hook = predictor.backbone.blocks[0].register_forward_pre_hook(lambda block, arguments: seen.append(arguments[0].shape[1]))
    predictor(x, mask, **options)
    hook.remove()
    return seen[0]


@KINDS
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_packed_logits_equal_the_others(kind, rate):
    predictor, x = network(kind), inputs(kind, 16)
    mask = random_mask(predictor, x, rate)
    mask[1], mask[2] = 0, predictor.backbone.selectable(x)[2]                                # nothing and everything, side by side
    assert lengths(predictor, x, mask) == 1 + int(mask.sum(1).max())
    for logits in both_ways(predictor, x, mask):
        assert torch.allclose(predictor(x, mask), logits, atol=1e-5)
    assert torch.allclose(predictor(x, mask.bool()), logits, atol=1e-5) and torch.allclose(predictor(x, mask.bool(), packed=False), logits, atol=1e-5)
    weak = mask * (0.1 + 0.9 * torch.rand_like(mask))                                        # a relaxed mask packs too
    assert torch.allclose(predictor(x, weak), predictor(x, weak.requires_grad_()), atol=1e-5)


@KINDS
def test_packing_is_for_evaluation_of_a_mask_without_gradient(kind):
    predictor, x = network(kind), inputs(kind)
    mask = random_mask(predictor, x)
    full, short = N[kind] + (kind == "vit"), 1 + int(mask.sum(1).max())
    assert short < full
    assert lengths(predictor, x, mask) == lengths(predictor, x, mask, packed=True) == short
    assert lengths(predictor, x, mask, packed=False) == lengths(predictor, x, None) == full
    assert lengths(predictor.train(), x, mask) == full and lengths(predictor, x, mask, packed=True) == short
    predictor.eval()
    assert lengths(network(kind, "zero"), x, mask) == full
    wants = mask.clone().requires_grad_()
    assert lengths(predictor, x, wants) == full
    with torch.no_grad():                                                                    # a frozen teacher that reads the student's mask
        assert lengths(predictor, x, wants) == short


@KINDS
@pytest.mark.parametrize("masking", ["zero", "drop"])
def test_the_last_block_of_a_predictor_computes_cls_alone_and_says_the_same(kind, masking):
    predictor, x, rows = network(kind, masking), inputs(kind), []
    mask = random_mask(predictor, x).requires_grad_()
    predictor.backbone.blocks[-1].fc1.register_forward_hook(lambda layer, arguments, output: rows.append(output.shape[1]))
    for argument in (mask, mask.detach(), None):
        short, whole = predictor(x, argument, packed=False), predictor.head(predictor.backbone(x, argument)[:, 0])
        assert torch.allclose(short, whole, atol=1e-6) and rows[-2:] == [1, N[kind] + (kind == "vit")]
        if argument is mask:
            for ours, theirs in zip(*(torch.autograd.grad(logits.square().sum(), [mask, *predictor.parameters()]) for logits in (short, whole))):
                assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_only_selected_patches_are_embedded():
    predictor, x, seen = network("vit"), inputs("vit"), []
    mask = random_mask(predictor, x)
    predictor.backbone.patch_embedding.register_forward_pre_hook(lambda layer, arguments: seen.append(arguments[0].shape))
    predictor(x, mask)
    assert seen == [(4, int(mask.sum(1).max()), 48)]


@KINDS
def test_what_cannot_be_packed_fails_with_a_sentence(kind):
    x = inputs(kind)
    mask = random_mask(network(kind), x)
    with pytest.raises(ValueError, match="masking='drop'"):
        network(kind, "zero")(x, mask, packed=True)
    with pytest.raises(ValueError, match="without gradient"):
        network(kind)(x, mask.requires_grad_(), packed=True)
    with pytest.raises(ValueError, match="no masking 'blur': choose zero or drop"):
        network(kind, "blur")


# ---------------------------------------------------------------- the rest

@KINDS
def test_bfloat16_autocast_is_finite_and_near(kind):
    predictor, x = network(kind), inputs(kind)
    mask = random_mask(predictor, x).requires_grad_()
    exact = predictor(x, mask)
    exact.sum().backward()
    gradient, mask.grad = mask.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        logits, packed = predictor(x, mask), predictor(x, mask.detach())
    logits.float().sum().backward()
    for near in (logits, packed):
        assert torch.allclose(near.float(), exact, atol=0.05)
    assert torch.nn.functional.cosine_similarity(mask.grad.flatten(), gradient.flatten(), dim=0) > 0.99


@KINDS
@pytest.mark.parametrize("masking", ["zero", "drop"])
def test_a_training_step_never_waits_for_the_device(kind, masking):
    """Tensors on "meta" have shapes but no values: what would make the host wait for one (.item(), nonzero, `if tensor`) raises."""
    generator, predictor = Generator(network(kind, masking).backbone), network(kind, masking)
    model, x = Rationalist(generator, predictor).train().to("meta"), inputs(kind).to("meta")
    model(x, tau=1.0).logits.sum().backward()
    assert model(x).logits.shape == (4, 5)
    if masking == "drop":                                                                    # packing has to: it needs a length
        with torch.no_grad(), pytest.raises(RuntimeError, match="item"):
            predictor(x, predictor.backbone.selectable(x), packed=True)


def test_build_passes_the_masking_on_and_it_has_no_weights_of_its_own():
    shape = dict(preset="vit_nano", method="re", num_classes=10, image_size=32, patch_size=4)
    drop, zero = build(masking="drop", **shape), build(**shape)
    drop.load_state_dict(zero.state_dict())
    assert drop.predictor.backbone.masking == "drop" and zero.predictor.backbone.masking == "zero"
    out = drop.eval()(torch.randn(4, 3, 32, 32))
    assert out.logits.shape == (4, 10) and out.logits.isfinite().all()
