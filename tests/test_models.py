"""The networks, both kinds under both maskings: what is hidden stays hidden, bit for bit; what its
gradient tells; packing changes no logit; a checkpoint comes back, or a sentence says why not."""

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import models
from models import Generator, Predictor, UserError, build, load, load_teacher, pack, parse_preset
from rekd import Rationalist

N = {"vit": 16, "bert": 12}
VOCAB = 50


@pytest.fixture(params=["vit", "bert"])
def kind(request):
    return request.param


@pytest.fixture(params=["zero", "drop"])
def masking(request):
    return request.param


def network(kind, masking="drop", sharpness=2, **options):
    """A small predictor in eval mode, with attention sharp enough that tokens influence others."""
    shape = (dict(image_size=16, patch_size=4) if kind == "vit" else
             dict(vocab_size=VOCAB, max_len=12))
    size = dict(dim=16, depth=2, heads=2, masking=masking)
    backbone = (models.ViT if kind == "vit" else models.BERT)(**{**size, **shape, **options})
    with torch.no_grad():
        for block in backbone.blocks:
            block.qkv.weight *= sharpness
    return Predictor(backbone, 5).eval()


def inputs(kind):
    """Pixels (4, 3, 16, 16), or ragged tokens (4, 12): [CLS] = 1, words, [SEP] = 2, padding = 0."""
    if kind == "vit":
        return torch.randn(4, 3, 16, 16)
    tokens = torch.randint(3, VOCAB, (4, 12))
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
        return torch.where(where.bool(), 1 + (x + 7) % (VOCAB - 1), x)
    pixels = where.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.where(pixels.bool(), 1e4 * torch.randn_like(x), x)


def all_ways(predictor, x, mask):
    """Logits of a mask that needs a gradient, of one that does not, and packed where possible."""
    with_gradient = predictor(x, mask.clone().requires_grad_()).detach()
    return with_gradient, predictor(x, mask, packed=False), predictor(x, mask)


# ---------------------------------------------------------------- the formula
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("mask, e, expected", [
    ([1, 1, 1], [1, 2, 3], (1 * 1 + 2 * 10 + 3 * 100) / 6),
    ([1, 0, 1], [1, 2, 3], (1 * 1 + 3 * 100) / 4),             # weights 1/4, 0, 3/4
    ([1, 0, 0], [1, 2, 3], 1.0),
    ([1, .5, 1], [1, 2, 3], (1 * 1 + 1 * 10 + 3 * 100) / 5),   # relaxed: the second counts half
    ([1, 0, 1], [1, 1e38, 1], (1 + 100) / 2),                  # hidden, else it would dominate
    ([1, 0, 1], [1e38, 1, 1e-38], 1.0)])                       # visible ones as far apart
def test_attention_by_hand(mask, e, expected, requires_grad):
    """One head, one query of 1, width 1, so that the scores are the keys; e = exp(score)."""
    def tensor(numbers):
        return torch.tensor(numbers, dtype=torch.float32).view(1, 1, 1, -1)
    leaf, values = tensor(mask).requires_grad_(requires_grad), [1, 10, 100]
    result = models.masked_attention(
        torch.ones(1, 1, 1, 1), tensor(e).log().mT, tensor(values).mT, leaf)
    assert result.item() == pytest.approx(expected)
    if requires_grad:
        result.backward()
        assert leaf.grad.isfinite().all()
        if max(e) == 3:
            # y = sum M e v / sum M e. The slope of a visible one is dy / dM = e (v - y) / sum M e;
            # of a hidden one, what showing it would add to y: e (v - y) / (sum M e + e).
            total = sum(m * e for m, e in zip(mask, e))
            shown = [total if m else total + e for m, e in zip(mask, e)]
            slopes = [e * (v - expected) / whole for e, v, whole in zip(e, values, shown)]
            assert leaf.grad.flatten().tolist() == pytest.approx(slopes)


# ---------------------------------------------------------------- isolation
@pytest.mark.parametrize("sharpness", [2, 200])  # 200: scores in the thousands
def test_what_was_not_selected_does_not_matter_bit_for_bit(kind, masking, sharpness):
    predictor, x, mask = case(kind, masking, sharpness=sharpness)
    mask[3] = 0
    other = changed(kind, x, predictor.backbone.selectable(x) * (1 - mask))
    assert not torch.equal(x, other)
    for before, after in zip(all_ways(predictor, x, mask), all_ways(predictor, other, mask)):
        assert torch.equal(before, after)
    predictor(x, mask.clone().requires_grad_()).sum().backward()
    assert all(p.grad.isfinite().all() for p in predictor.parameters())
    for i in mask[0].nonzero()[:, 0]:  # each selected one counts
        one = F.one_hot(i, N[kind]).expand(4, -1)
        assert not torch.allclose(predictor(changed(kind, x, one), mask)[0], before[0], atol=1e-4)


def test_where_the_unselected_are_matters_under_zero_alone(kind, masking):
    """Permute the position table's rows of unselected features: `zero` leaves them in sight."""
    predictor, x, mask = case(kind, masking)
    mask = mask[:1].expand(4, -1).contiguous()  # one table, so one mask
    before = all_ways(predictor, x, mask)
    positions = predictor.backbone.positions
    table = positions[0, 1:] if kind == "vit" else positions.weight  # without a ViT's [CLS]
    hidden = mask[0] == 0
    hidden[0] = False  # a BERT's [CLS]
    with torch.no_grad():
        table[hidden] = table[hidden].roll(1, 0)
    for old, new in zip(before, all_ways(predictor, x, mask)):
        assert torch.equal(old, new) == (masking == "drop")


def test_an_empty_mask_shows_nothing_and_a_full_one_the_whole_input(kind, masking):
    predictor, x, _ = case(kind, masking)
    whole = predictor(x)
    if kind == "bert" and masking == "drop":  # [SEP] is no word: under `drop`, a mask hides it
        whole = predictor(torch.where(x == 2, 0, x))
        assert not torch.allclose(whole, predictor(x), atol=1e-6)
    for logits in all_ways(predictor, x, torch.ones(4, N[kind])):
        assert torch.allclose(logits, whole, atol=1e-6)
    for logits in all_ways(predictor, x, torch.zeros(4, N[kind])):
        assert logits.isfinite().all()
        if kind == "vit" or masking == "drop":  # `zero` shows the length of a text
            assert torch.allclose(logits[0], logits[1:], atol=1e-6)


def test_padding_changes_nothing_and_cls_is_always_in_sight(masking):
    predictor, x = network("bert", masking), inputs("bert")
    tight, mask = x[1:, :11], torch.ones(3, 12)  # the last column is padding in these
    assert torch.allclose(predictor(tight), predictor(x)[1:], atol=1e-6)
    assert torch.allclose(predictor(tight, mask[:, :11]), predictor(x[1:], mask), atol=1e-6)
    without_cls = (torch.arange(12) > 0).float().expand(4, -1)
    assert torch.equal(predictor(x, without_cls), predictor(x, torch.ones(4, 12)))


def test_special_tokens_and_padding_are_not_selectable():
    tokens = torch.tensor([[1, 9, 8, 7, 2, 0], [1, 9, 2, 8, 2, 0], [1, 2, 0, 0, 0, 0]])
    selectable = network("bert").backbone.selectable(tokens).int().tolist()
    assert selectable == [[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6]  # a typed [SEP] counts


def test_the_gradient_of_the_mask_is_that_of_the_relaxed_function(kind, masking):
    """In float64, against finite differences of the path without gradient; at M = 0 exactly, from
    the right (`zero`; under `drop`, see attention by hand). A part of the mask is 0, a part 1, the
    rest between."""
    predictor, x = network(kind, masking).double(), inputs(kind)
    x = x.double() if kind == "vit" else x
    selectable, h = predictor.backbone.selectable(x), 1e-6
    start = (1.4 * torch.rand(selectable.shape).double() - 0.2).clamp(0, 1) * selectable

    def loss(b, i, step):
        moved = start.clone()
        moved[b, i] += step
        return predictor(x, moved, packed=False)[:, 0].sum().item()
    mask = start.clone().requires_grad_()
    predictor(x, mask)[:, 0].sum().backward()
    has_slope = start > 0 if masking == "drop" else selectable
    for b, i in has_slope.nonzero().tolist():
        slope = (loss(b, i, h) - loss(b, i, -h)) / (2 * h)
        if start[b, i] == 0:
            slope = (4 * loss(b, i, h) - 3 * loss(b, i, 0) - loss(b, i, 2 * h)) / (2 * h)
        assert mask.grad[b, i].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert (mask.grad[selectable] != 0).all()  # also where the mask is 0
    assert masking == "zero" or (mask.grad[~selectable] == 0).all()


# ---------------------------------------------------------------- packing
def test_packing_by_hand():
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
    kept, packed = pack(mask.detach(), content, True, x)  # for evaluation: as many as are selected
    assert kept.tolist() == [[1]] and packed.tolist() == [[11]]


def test_packed_training_has_the_same_logits_and_on_average_the_same_gradient(kind):
    predictor, x, mask = case(kind)
    mask.requires_grad_()

    def step(packed):
        logits = predictor(x, mask, packed)
        return logits, *torch.autograd.grad(logits[:, 0].sum(), [mask, *predictor.parameters()])
    logits, expected, *weights = step(packed=False)
    total = torch.zeros_like(mask)
    for _ in range(600):
        packed_logits, gradient, *packed_weights = step(packed=int(mask.sum(1).max()) + 1)
        assert torch.allclose(packed_logits, logits, atol=1e-5)
        total += gradient
    hidden = mask == 0
    assert torch.allclose(gradient[~hidden], expected[~hidden], atol=1e-5)
    assert (total / 600 - expected).norm() < 0.2 * expected[hidden].norm()
    for ours, theirs in zip(packed_weights, weights):  # of the networks: the same in every draw
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_packed_logits_equal_the_others(kind, rate):
    predictor, x, mask = case(kind, rate=rate)
    mask[1], mask[2] = 0, predictor.backbone.selectable(x)[2]  # nothing and everything
    relaxed = mask * (0.1 + 0.9 * torch.rand_like(mask))
    for logits in (*all_ways(predictor, x, mask), predictor(x, mask.bool(), packed=False)):
        assert torch.allclose(logits, predictor(x, mask.bool()), atol=1e-5)
    for logits in all_ways(predictor, x, relaxed):
        assert torch.allclose(logits, predictor(x, relaxed), atol=1e-5)


def test_packing_is_for_evaluation_of_a_mask_without_gradient(kind):
    predictor, x, mask = case(kind)
    seen = []  # by the first block: (B, T, dim)
    predictor.backbone.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    def length(mask, **options):
        predictor(x, mask, **options)
        return seen[-1].shape[1]
    with_gradient = mask.clone().requires_grad_()
    full, short = N[kind] + (kind == "vit"), 1 + int(mask.sum(1).max())
    assert length(mask) == short < full and length(mask, packed=2) == 1 + 2
    assert length(None) == length(mask, packed=False) == length(with_gradient) == full
    # Multiplied by 0 as well as hidden, unselected content would give the gradient of attending to
    # an empty token: masks collapse.
    assert torch.equal(seen[-1], seen[-3]) and torch.equal(seen[-2], seen[-3])
    with torch.no_grad():  # a frozen teacher that reads the student's mask
        assert length(with_gradient) == short
    predictor.train()
    assert length(mask) == full
    predictor.backbone.masking = "zero"
    assert length(mask, packed=2) == full


def test_the_last_block_of_a_predictor_computes_cls_alone(kind, masking):
    predictor, x, mask = case(kind, masking)
    rows = []
    predictor.backbone.blocks[-1].fc1.register_forward_pre_hook(
        lambda _, given: rows.append(given[0].shape[1]))
    whole = predictor.head(predictor.backbone(x, mask)[:, 0])
    assert torch.allclose(predictor(x, mask), whole, atol=1e-6)
    assert rows == [N[kind] + (kind == "vit"), 1]


# ---------------------------------------------------------------- modules
def test_a_training_step_never_waits_for_the_device(kind, masking):
    """Tensors on "meta" have shapes but no values: what would make the host wait for one (.item(),
    nonzero, `if tensor`) raises."""
    generator, predictor = Generator(network(kind, masking).backbone), network(kind, masking)
    model, x = Rationalist(generator, predictor).train().to("meta"), inputs(kind).to("meta")
    model(x, tau=1.0, packed=3).logits.sum().backward()
    assert model(x).logits.shape == (4, 5)


def test_bfloat16_autocast_is_finite_and_near(kind, masking):
    predictor, x, mask = case(kind, masking)
    exact = predictor(x, mask.requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        logits, packed = predictor(x, mask).float(), predictor(x, mask.detach()).float()
    assert torch.allclose(logits, exact, atol=0.05) and torch.allclose(packed, exact, atol=0.05)
    gradient, rounded = (torch.autograd.grad(y.sum(), mask)[0].flatten() for y in (exact, logits))
    assert F.cosine_similarity(rounded, gradient, dim=0) > 0.99


def test_dropout_sits_in_the_heads_alone(kind):
    backbone, x = network(kind).backbone.train(), inputs(kind)
    assert torch.equal(backbone(x), backbone(x))
    for head in (Generator(backbone, dropout=0.5), Predictor(backbone, 7, dropout=0.5)):
        assert not torch.equal(head(x), head(x))
        assert torch.equal(head.eval()(x), head(x))


@pytest.mark.parametrize("kind, options, x, sentence", [
    ("vit", dict(patch_size=5), None, "16 is not divisible by patch size 5"),
    ("vit", dict(heads=5), None, "width 16 is not divisible by 5 heads"),
    ("bert", dict(masking="blur"), None, "no masking 'blur': choose zero or drop"),
    ("vit", {}, torch.ones(1, 3, 8, 32), "images of 8 x 32 pixels, but this ViT reads 16 x 16"),
    ("bert", {}, torch.ones(1, 14).int(), "14 tokens are more than this BERT's 12 positions")])
def test_what_cannot_be_fails_with_a_sentence(kind, options, x, sentence):
    with pytest.raises(UserError, match=sentence):
        network(kind, **options)(x)


def test_models_needs_only_torch_rekd_and_the_standard_library():
    lines = Path(models.__file__).read_text().splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imported - sys.stdlib_module_names == {
        "torch", "torch.nn", "torch.nn.functional", "rekd"}


# ---------------------------------------------------------------- build and load
RE = dict(preset="vit_nano", method="re", num_classes=3, image_size=16, patch_size=4)
CLASSES = ["cat", "dog", "owl"]
MISSING = object()


def test_presets_and_spelled_sizes():
    assert parse_preset("vit_tiny") == ("vit", 192, 12, 3) == parse_preset("vit:192:12:3")
    for wrong in ("vit_huge", "vit:192:12", "vit:a:b:c", "vit:0:1:1", "vit:8:100000:1"):
        with pytest.raises(UserError, match=", ".join(models.PRESETS)):
            parse_preset(wrong)


def test_cls_keeps_everything_and_has_the_predictors_parameters_only():
    model, pixels = build(**{**RE, "method": "cls"}).eval(), inputs("vit")
    assert not list(model.generator.parameters()) and (model(pixels).mask == 1).all()
    assert torch.equal(model(pixels).logits, model.predictor(pixels))


def test_a_built_network_shares_no_parameter_and_begins_as_the_identity():
    """From PyTorch's own initialisation masks become all or nothing."""
    model, x = build(**RE), torch.randn(2, 5, 24)
    assert len({id(p) for p in model.parameters()}) == len(model.state_dict())
    assert all(torch.equal(block(x), x) for block in model.generator.backbone.blocks)


@pytest.fixture
def saved(tmp_path):
    """saved("model.preset", value): the path of a finished checkpoint with this field altered."""
    def save(field="epoch", value=1, method="re"):
        torch.manual_seed(0)
        model = {**RE, "method": method}
        content = {"weights": build(**model).state_dict(), "model": model, "classes": [*CLASSES],
                   "config": {"preset": RE["preset"], "method": method, "seed": 7},
                   "input": {"kind": "image", "image_size": 16}, "fingerprint": "f", "epoch": 1,
                   "metric": {"accuracy": 0.5, "rate_mean": 0.15}}
        part, _, key = field.partition(".")
        owner, key = (content[part], key) if key else (content, part)
        owner[key] = value
        if value is MISSING:
            del owner[key]
        torch.save(content, tmp_path / "best.pt")
        return tmp_path / "best.pt"
    return save


def test_load_gives_back_the_model_in_eval_mode_and_float32(saved):
    model, info = load(saved())
    torch.manual_seed(0)
    same, pixels = build(**RE).eval(), inputs("vit")
    assert torch.equal(model(pixels).logits, same(pixels).logits) and not model.training
    assert info["classes"] == CLASSES and info["config"]["seed"] == 7 and "weights" not in info
    half = {name: x.bfloat16() for name, x in same.state_dict().items()}
    assert load(saved("weights", half))[0](pixels).logits.dtype == torch.float32


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


@pytest.mark.parametrize("suffix", [".pt", ".json", ".safetensors"])
def test_what_cannot_be_read_is_refused_with_a_sentence(saved, tmp_path, capsys, suffix):
    whole = saved().read_bytes()
    middle = len(whole) // 2  # among the weights
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]
    files = [tmp_path / f"{i}{suffix}" for i in range(7)]
    for file, content in zip(files, (b"", whole[:5000], flipped, b"[1]")):
        file.write_bytes(content)
    torch.save({"weights": Bomb()}, files[4])
    files[5].mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(files[6])  # not waited for
    for file in files:
        with pytest.raises(UserError, match="cannot read the X .*: .* damaged or no X: advice"):
            models.read_dict(file, "X", "advice")
    with pytest.raises(UserError, match="cannot read the X .*none: No such file"):
        models.read_dict(tmp_path / "none", "X", "advice")
    assert "boom" not in capsys.readouterr().out


BIAS = "weights.predictor.head.1.bias"


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("field, value, offender", [
    ("classes", MISSING, "it has no classes"), ("input", "x", "string"), ("model", [1], "list"),
    ("model.method", MISSING, "method"), ("model.colour", "red", "colour"),
    ("model.num_classes", -1, "num_classes"), ("model.image_size", 32, "image_size"),
    ("model.patch_size", -4, "patch size -4"), ("model.masking", "none", "no masking"),
    ("model.rate", 0, "no rate 0"), ("classes", ["cat", "dog", 3], "a name is no text"),
    ("metric.accuracy", MISSING, "accuracy"), ("metric.f1", torch.ones(()), "no number"),
    ("weights.two\nlines", torch.zeros(3), r"unexpected: 'two\\nlines'"),
    (BIAS, MISSING, "it has no predictor.head.1.bias"), (BIAS, "zeros", "str"),
    (BIAS, torch.zeros(4), r"\(4,\) in predictor.head.1.bias, not \(3,\)"),
    (BIAS, torch.tensor([0, 1, torch.nan]), "no finite numbers in predictor.head.1.bias"),
    (BIAS, torch.tensor([0, 1, 2]), "no finite"), (BIAS, torch.zeros(1).expand(3), "no finite"),
    (BIAS, torch.zeros(3).to_sparse(), "sparse"), (BIAS, torch.zeros(3, device="meta"), "meta")])
def test_load_names_what_is_wrong_in_a_checkpoint(saved, field, value, offender):
    path = saved(field, value)
    with pytest.raises(UserError, match=offender) as error:
        load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("method, student, sentence", [
    ("re", {}, None), ("cls", {}, "no rationales to teach"),
    ("re", {"vocabulary": ["a"]}, "another vocabulary"),
    ("re", {"classes": ["a"]}, r"the classes \['cat', 'dog', 'owl'\], not on \['a'\]"),
    ("re", {"patch_size": 8}, "grid of features"), ("re", {"vocab_size": 5}, "grid of features")])
def test_a_teacher_is_frozen_and_fits_its_student(saved, method, student, sentence):
    student = {"classes": CLASSES, "image_size": 16, "patch_size": 4, **student}
    if sentence is None:
        teacher, info = load_teacher(saved(), **student)
        assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.training
        return
    with pytest.raises(UserError, match=sentence):
        load_teacher(saved(method=method), **student)
