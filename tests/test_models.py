"""The networks, both kinds under both maskings: what is hidden stays hidden, bit for bit; what its
gradient tells; packing changes no logit; a checkpoint comes back, or a sentence says why not."""
import re

import pytest
import torch
import torch.nn.functional as F

import models
from data import UserError
from models import Predictor, build, load, load_teacher, pack, read_weights

N = {"vit": 16, "bert": 12}
SHAPE = {"vit": dict(image_size=16, patch_size=4), "bert": dict(vocab_size=50, max_len=12)}

@pytest.fixture(params=["vit", "bert"])
def kind(request):
    return request.param

@pytest.fixture(params=["zero", "drop"])
def masking(request):
    return request.param

def network(kind, masking="drop", sharpness=2, **options):
    """A small predictor in eval mode, with attention sharp enough that tokens influence others."""
    size = dict(dim=16, depth=2, heads=2, masking=masking) | SHAPE[kind] | options
    backbone = models.ViT(**size) if kind == "vit" else models.BERT(**size)
    with torch.no_grad():
        for block in backbone.blocks:
            block.qkv.weight *= sharpness
    return Predictor(backbone, 5).eval()

def inputs(kind):
    """Pixels (4, 3, 16, 16), or ragged tokens (4, 12): [CLS] = 1, words, [SEP] = 2, padding = 0."""
    if kind == "vit":
        return torch.randn(4, 3, 16, 16)
    tokens = torch.randint(3, 50, (4, 12))
    for row, length in zip(tokens, (12, 6, 8, 11)):
        row[0], row[length - 1], row[length:] = 1, 2, 0
    return tokens

def case(kind, masking="drop", rate=0.4, **options):
    """A predictor, its inputs, a random mask."""
    predictor, x = network(kind, masking, **options), inputs(kind)
    selectable = predictor.backbone.selectable(x)
    return predictor, x, ((torch.rand(selectable.shape) < rate) & selectable).float()

def changed(kind, x, where):
    """x with other content at the features where `where` is 1: huge pixels, other words."""
    if kind == "bert":
        return torch.where(where.bool(), 1 + (x + 7) % 49, x)
    pixels = where.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.where(pixels.bool(), 1e4 * torch.randn_like(x), x)

def all_ways(predictor, x, mask):
    """Logits with and without a gradient of the mask; of all features, and packed with room for
    what an example selects at most, and for one more, if there is one."""
    torch.manual_seed(1)  # packing in training draws
    most, trained = int((mask > 0).sum(1).max()), mask.clone().requires_grad_()
    return [predictor(x, m, packed).detach() for m in (trained, mask)
            for packed in (None, max(most, 1), min(most + 1, mask.shape[1]))]

# ---------------------------------------------------------------- the formula
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("mask, e, expected", [
    ([1, 1, 1], [1, 2, 3], (1 * 1 + 2 * 10 + 3 * 100) / 6),
    ([1, 0, 1], [1, 2, 3], (1 * 1 + 3 * 100) / 4),             # weights 1/4, 0, 3/4
    ([1, .5, 1], [1, 2, 3], (1 * 1 + 1 * 10 + 3 * 100) / 5),   # relaxed: the second counts half
    ([1, 0, 1], [1, 1e38, 1], (1 + 100) / 2),                  # hidden, else it would dominate
    ([1, 0, 1], [1e38, 1, 1e-38], 1.0)])                       # visible ones as far apart
def test_attention_by_hand(mask, e, expected, requires_grad):
    """One head, one query of 1, width 1, so that the scores are the keys; e = exp(score)."""
    M, values = torch.tensor(mask).float().requires_grad_(requires_grad), (1, 10, 100)
    k, v = torch.tensor(e).log().view(1, 1, 3, 1), torch.tensor(values).float().view(1, 1, 3, 1)
    y = models.masked_attention(torch.ones(1, 1, 1, 1), k, v, M.view(1, 1, 1, 3))
    assert y.item() == pytest.approx(expected)
    if requires_grad:
        y.backward()
        assert M.grad.isfinite().all()
        if max(e) == 3:
            # y = sum M e v / sum M e. The slope of a visible one is dy / dM = e (v - y) / sum M e;
            # of a hidden one, what showing it would add to y: e (v - y) / (sum M e + e).
            total = sum(m * e for m, e in zip(mask, e))
            slopes = [e * (v - expected) / (total if m else total + e)
                      for m, e, v in zip(mask, e, values)]
            assert M.grad.tolist() == pytest.approx(slopes)

# ---------------------------------------------------------------- isolation
@pytest.mark.parametrize("sharpness", [2, 200])  # 200: scores in the thousands
def test_what_was_not_selected_does_not_matter_bit_for_bit(kind, masking, sharpness):
    predictor, x, mask = case(kind, masking, sharpness=sharpness)
    mask[3] = 0
    other = changed(kind, x, predictor.backbone.selectable(x) * (1 - mask))
    before, after = (all_ways(predictor, content, mask) for content in (x, other))
    assert not torch.equal(x, other) and all(map(torch.equal, before, after))
    assert not torch.allclose(predictor(changed(kind, x, mask), mask), before[0], atol=1e-4)
    predictor(x, mask.requires_grad_()).sum().backward()
    assert all(p.grad.isfinite().all() for p in predictor.parameters())

def test_where_the_unselected_are_matters_under_zero_alone(kind, masking):
    """Permute the position table's rows of unselected features: `zero` leaves them in sight."""
    predictor, x, mask = case(kind, masking)
    mask = mask[:1].expand(4, -1)  # one table, so one mask
    before, table = predictor(x, mask), predictor.backbone.positions
    table = table[0, 1:] if kind == "vit" else table.weight  # without a ViT's [CLS]
    hidden = (mask[0] == 0) & (torch.arange(N[kind]) >= (kind == "bert"))  # nor a BERT's
    with torch.no_grad():
        table[hidden] = table[hidden].roll(1, 0)
    assert torch.equal(predictor(x, mask), before) == (masking == "drop")

def test_an_empty_mask_shows_nothing_and_a_full_one_the_whole_input(kind, masking):
    predictor, x, _ = case(kind, masking)
    nothing, everything = (predictor(x, torch.full((4, N[kind]), m)) for m in (0.0, 1.0))
    if kind == "bert" and masking == "drop":
        x = torch.where(x == 2, 0, x)  # [SEP] is no word: under `drop`, a mask hides it
    assert torch.allclose(everything, predictor(x), atol=1e-6) and nothing.isfinite().all()
    if kind == "vit" or masking == "drop":  # `zero` shows the length of a text
        assert torch.allclose(nothing[0], nothing[1:], atol=1e-6)

def test_padding_changes_nothing_and_cls_is_always_in_sight(masking):
    predictor, x = network("bert", masking), inputs("bert")
    tight, mask = x[1:, :11], torch.ones(3, 12)  # the last column is padding in these
    assert torch.allclose(predictor(tight), predictor(x)[1:], atol=1e-6)
    assert torch.allclose(predictor(tight, mask[:, :11]), predictor(x[1:], mask), atol=1e-6)
    without_cls = (torch.arange(12) > 0).float().expand(4, -1)
    assert torch.equal(predictor(x, without_cls), predictor(x, torch.ones(4, 12)))

def test_special_tokens_and_padding_are_not_selectable():
    tokens = torch.tensor([[1, 9, 8, 2, 0], [1, 9, 2, 2, 0], [1, 2, 0, 0, 0]])  # a [SEP] is typed
    selectable = network("bert").backbone.selectable(tokens).int().tolist()
    assert selectable == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5]

def test_the_gradient_of_the_mask_is_that_of_the_relaxed_function(kind, masking):
    """In float64, against finite differences without gradient; at M = 0 exactly, from the right
    (`zero`; under `drop`, see attention by hand). The mask is 0, 1 and between."""
    predictor, x = network(kind, masking).double(), inputs(kind)
    x = x.double() if kind == "vit" else x
    selectable, h = predictor.backbone.selectable(x), 1e-6
    mask = (1.4 * torch.rand(selectable.shape).double() - 0.2).clamp(0, 1) * selectable

    def loss(place, step):
        moved = mask.detach().clone()
        moved[place] += step
        return predictor(x, moved)[:, 0].sum().item()
    predictor(x, mask.requires_grad_())[:, 0].sum().backward()
    for i in map(tuple, (mask > 0 if masking == "drop" else selectable).nonzero().tolist()):
        slope = (loss(i, h) - loss(i, -h)) / (2 * h)
        if mask[i] == 0:
            slope = (4 * loss(i, h) - 3 * loss(i, 0) - loss(i, 2 * h)) / (2 * h)
        assert mask.grad[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert (mask.grad[selectable] != 0).all()  # also where the mask is 0
    assert masking == "zero" or (mask.grad[~selectable] == 0).all()

# ---------------------------------------------------------------- packing
def test_packing_by_hand():
    """Two features computed: the selected one, and one of the two others in the name of both."""
    mask, x = torch.tensor([[0, 1, 0, 0.]]).requires_grad_(), torch.tensor([[10, 11, 12, 13]])
    content, seen = torch.tensor([[True, True, True, False]]), set()  # the last is padding
    for _ in range(20):
        kept, packed = pack(mask, content, 2, x)
        assert kept.tolist() == [[1, 0]]
        gradient, = torch.autograd.grad(kept.sum(), mask)
        seen.add((*packed[0].tolist(), *gradient[0].tolist()))
    assert seen == {(11, 10, 2, 1, 0, 0), (11, 12, 0, 1, 2, 0)}

def test_packing_without_a_gradient_draws_nothing_and_keeps_the_order():
    content, x, before = torch.ones(1, 4).bool(), torch.arange(4)[None], torch.get_rng_state()
    packed = [pack(torch.tensor([[0., 1, 0, 1]]), content, length, x) for length in (1, 2, 3)]
    assert [kept.tolist() for _, kept in packed] == [[[1]], [[1, 3]], [[1, 3, 0]]]
    assert [mask.tolist() for mask, _ in packed] == [[[1]], [[1, 1]], [[1, 1, 0]]]
    assert torch.equal(torch.get_rng_state(), before)

def test_packed_logits_equal_the_others(kind, masking):
    predictor, x, mask = case(kind, masking)
    mask[1], mask[2] = 0, predictor.backbone.selectable(x)[2]  # nothing and everything
    for given in (mask, mask * (0.1 + 0.9 * torch.rand_like(mask))):  # and relaxed
        expected, *others = all_ways(predictor, x, given)
        assert all(torch.allclose(logits, expected, atol=1e-5) for logits in others)

def test_packed_training_has_on_average_the_same_gradient(kind):
    predictor, x, mask = case(kind)

    def gradients(packed):
        loss = predictor(x, mask.requires_grad_(), packed)[:, 0].sum()
        return torch.autograd.grad(loss, [mask, *predictor.parameters()])
    expected, *weights = gradients(None)
    draws = [gradients(int(mask.sum(1).max()) + 1) for _ in range(200)]
    for found, *of_weights in draws[:10]:  # of networks and selected features: the same every time
        assert torch.allclose(found[mask > 0], expected[mask > 0], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(of_weights, weights))
    mean = torch.stack([found[0] for found in draws]).mean(0)
    assert (mean - expected).norm() < 0.3 * expected[mask == 0].norm()

def test_no_gradient_depends_on_which_thread_is_first():
    predictor, x = network("vit", dim=64), torch.randn(64, 3, 16, 16)
    mask, gradients = torch.randint(2, (64, 16)).float(), set()
    torch.set_num_threads(2)
    for _ in range(20):
        predictor.zero_grad()
        predictor(x, mask, 12).square().sum().backward()
        gradients.add(predictor.backbone.positions.grad.numpy().tobytes())
    torch.set_num_threads(1)
    assert len(gradients) == 1

def test_only_what_is_needed_is_computed(kind, masking):
    """Under `drop`, [CLS] and what is packed; in a predictor's last block, [CLS] alone."""
    predictor, x, mask = case(kind, masking)
    rows, full = [], N[kind] + (kind == "vit")
    for block in predictor.backbone.blocks:
        block.fc1.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
    whole = predictor.head(predictor.backbone(x, mask)[:, 0])
    assert torch.allclose(predictor(x, mask), whole, atol=1e-6)
    predictor(x, mask, packed=3)
    assert rows == [full, full, full, 1, 1 + 3 if masking == "drop" else full, 1]

# ---------------------------------------------------------------- modules
def test_bfloat16_autocast_is_near(kind, masking):
    predictor, x, mask = case(kind, masking)
    exact = predictor(x, mask.requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        half = predictor(x, mask).float()
    assert torch.allclose(half, exact, atol=0.05)
    gradient, rounded = (torch.autograd.grad(y.sum(), mask)[0].flatten() for y in (exact, half))
    assert F.cosine_similarity(rounded, gradient, dim=0) > 0.99

@pytest.mark.parametrize("kind, options, x, sentence", [
    ("bert", dict(masking="blur"), None, "no masking 'blur': choose zero or drop"),
    ("vit", {}, torch.ones(1, 3, 8, 32), "images of 8 x 32 pixels, but this ViT reads 16 x 16"),
    ("bert", {}, torch.ones(1, 14).int(), "14 tokens are more than this BERT's 12 positions")])
def test_what_cannot_be_fails_with_a_sentence(kind, options, x, sentence):
    with pytest.raises(UserError, match=sentence):
        network(kind, **options)(x)

# ---------------------------------------------------------------- build and load
RE = dict(preset="vit_nano", method="re", num_classes=3, **SHAPE["vit"])

def saved(folder, model=RE, **fields):
    """The path of a finished checkpoint, some fields of it changed."""
    content = {"weights": build(**RE).state_dict(), "model": model, "classes": ["cat", "dog"],
               "input": {"kind": "image", "image_size": 16}, "config": {}, "metric": {},
               "fingerprint": ""}
    torch.save({**content, **fields}, folder / "best.pt")
    return folder / "best.pt"

def test_load_gives_back_the_model_in_eval_mode_and_float32(tmp_path):
    same, x = build(**RE).eval(), inputs("vit")
    model, info = load(saved(tmp_path, weights=same.state_dict()))
    assert torch.equal(model(x).logits, same(x).logits) and not model.training
    assert info["classes"] == ["cat", "dog"] and "weights" not in info
    assert load(saved(tmp_path, weights=same.half().state_dict()))[0](x).logits.dtype == x.dtype

class Bomb:
    __reduce__ = lambda self: (print, ("boom",))

@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_cannot_be_read_is_refused_and_no_code_in_it_runs(tmp_path, capsys, suffix):
    files = [tmp_path / f"{name}{suffix}" for name in ("none", "folder", "empty", "cut", "bomb")]
    files[1].mkdir()
    files[2].touch()
    files[3].write_bytes(saved(tmp_path).read_bytes()[:5000])
    torch.save({"weights": Bomb()}, files[4])
    reasons = "No such file", "Is a directory", *["damaged or no checkpoint, give another"] * 3
    for file, reason in zip(files, reasons):
        error = pytest.raises(UserError, read_weights, file, "checkpoint")
        error.match(f"cannot read .*{re.escape(str(file))}: .*{reason}")
    assert "boom" not in capsys.readouterr().out

@pytest.mark.parametrize("fields, reason", [
    ({"model": None}, "NoneType"), ({"weights": {}}, "loading state_dict")])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, fields, reason):
    error = pytest.raises(UserError, load, saved(tmp_path, **fields))
    error.match(rf"^[^\n]*best.pt is no best.pt [^\n]*{reason}[^\n]*: give one$")

def test_a_teacher_fits_its_student(tmp_path):
    student, path = {"classes": ["cat", "dog"], **SHAPE["vit"]}, saved(tmp_path)
    load_teacher(path, **student)
    for wish, sentence in (
            ({"vocabulary": ["a"]}, "another vocabulary"), ({"patch_size": 8}, "grid of features"),
            ({"classes": ["a"]}, r"the classes \['cat', 'dog'\], not on \['a'\]")):
        pytest.raises(UserError, load_teacher, path, **{**student, **wish}).match(sentence)
    for method in ("cls", "kd"):
        whole = {**RE, "method": method}
        saved(tmp_path, whole, weights=build(**whole).state_dict())
        pytest.raises(UserError, load_teacher, path, **student).match("rationales to teach")
