"""The method: each formula by an example to check by hand, then what training must do with it."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rekd
from rekd import Rationalist, hard_mask, packed_length, re_losses, rekd_losses, sample_mask


# ---------------------------------------------------------------- 1. sampling
@pytest.mark.parametrize("shape, taus", [
    ("cosine", [4, 1 + 3 * (1 + math.cos(math.pi / 4)) / 2, 2.5, 1, 1]),
    ("exponential", [4, 4 / 2**0.5, 2, 1, 1]),
    ("linear", [4, 3.25, 2.5, 1, 1]), ("constant", [4] * 5)])
def test_temperature_by_hand(shape, taus):
    """At the start, after a quarter and a half of the way, at the end and long after it."""
    assert [rekd.temperature(k, 101, start=4.0, end=1.0, shape=shape)
            for k in (0, 25, 50, 100, 1000)] == pytest.approx(taus)
    pytest.raises(ValueError, rekd.temperature, 0, 9, shape=shape + "s").match("choose cosine, exp")

@pytest.mark.parametrize("tau, keep", [(1.0, 3 / 4), (0.5, 9 / 10)])
def test_sample_mask_by_hand(tau, keep):
    """Z + G = (0, ln 3), so S = (1, 3) / 4, and at tau = 1/2 (1, 9) / 10. The larger one wins."""
    logits, noise = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.0, math.log(3) - 1]]])
    mask, log_probs = sample_mask(logits, tau, noise=noise)
    assert mask.tolist() == [[1]]
    assert log_probs.exp().flatten().tolist() == pytest.approx([1 - keep, keep])

def test_straight_through_gradient_is_that_of_the_soft_sample():
    logits, noise = torch.randn(2, 4, 6, 2, dtype=torch.float64).requires_grad_()
    hard = sample_mask(logits, 0.8, noise=noise)[0]
    soft = ((logits + noise) / 0.8).softmax(-1)[..., 1]
    weight = torch.randn(4, 6).double()
    found, expected = (torch.autograd.grad((m * weight).sum(), logits)[0] for m in (hard, soft))
    assert torch.allclose(found, expected, atol=1e-12)

def test_what_is_not_selectable_is_never_kept_nor_gets_a_gradient():
    logits = torch.tensor([[[-2.0, 2.0]] * 3 + [[2.0, 2.0]]], requires_grad=True)
    selectable = torch.tensor([[True, False, True, True]])
    mask, _ = sample_mask(logits, 1.0, selectable, noise=torch.zeros(1, 4, 2))
    assert mask.tolist() == [[1, 0, 1, 0]] == hard_mask(logits, selectable).tolist()  # a tie is 0
    mask.sum().backward()
    assert (logits.grad[0] != 0).any(-1).tolist() == selectable[0].tolist()

@pytest.mark.parametrize("balanced, tau", [(True, 5.0), (True, 0.1), (False, 5.0)])
def test_a_mask_has_the_softmaxs_probability_and_if_balanced_an_exact_gradient(balanced, tau):
    """P(argmax(Z + G) = keep) = softmax(Z)_keep =: P, the Gumbel-max trick: tau softens S, not M.

    loss = M^2 - 3 M is 0 where M = 0, and -2 where M = 1. Its expectation is -2 P, the slope of
    that -2 P (1 - P); loss' itself is -3 where hidden, -1 where kept: each is wrong by 1."""
    Z = torch.tensor(0.15).logit().requires_grad_()
    logits = torch.stack([torch.zeros(()), Z]).expand(100_000, 1, 2)
    mask, _ = sample_mask(logits, tau, balanced=balanced)
    other, _ = sample_mask(torch.randn(1, 1000, 2), tau, balanced=balanced)
    assert torch.cat([mask.flatten(), other[0]]).unique().tolist() == [0, 1]  # exactly
    assert mask.mean().item() == pytest.approx(0.15, abs=0.01)
    (mask**2 - 3 * mask).mean().backward()
    assert (Z.grad.item() == pytest.approx(-2 * 0.15 * 0.85, rel=0.02)) == balanced

def test_rate_mask_keeps_the_best_and_exactly_the_rate_of_the_selectable():
    scores = torch.arange(20.0).expand(5, 20)
    selectable = scores < torch.tensor([[20], [13], [7], [2], [0]])
    best = [row.nonzero().flatten().tolist() for row in rekd.rate_mask(scores, 0.3, selectable)]
    assert best == [[*range(14, 20)], [*range(9, 13)], [5, 6], [1], []]  # round(.6) is 1
    assert rekd.rate_mask(scores, 0.01).sum(1).tolist() == [1] * 5  # at least one

# ---------------------------------------------------------------- 2. the rate in training
def keep_probabilities(logits, rate, selectable=None):
    return rekd.at_rate(logits, rate, selectable).softmax(-1)[..., 1]

def test_at_rate_by_hand():
    """Equal features share the rate. With Z = (0, ln 4): p = x / (1 + x), 4 x / (1 + 4 x), and
    p + q = 1 for x = 1/2: 1/3 and 2/3."""
    assert keep_probabilities(torch.ones(1, 4, 2), 0.25)[0].tolist() == pytest.approx([0.25] * 4)
    logits = torch.tensor([[[7.0, 7.0], [7.0, 7.0 + math.log(4)]]])
    assert keep_probabilities(logits, 0.5)[0].tolist() == pytest.approx([1 / 3, 2 / 3])

@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("rate", [0.01, 0.15, 1.0])
def test_each_example_has_exactly_the_rate_whatever_its_logits(spread, rate):
    logits = spread * torch.randn(4, 40, 2) + 50 * torch.randn(4, 1, 2)
    selectable = torch.arange(40) < torch.tensor([[40], [30], [10], [0]])
    count = (keep_probabilities(logits, rate, selectable) * selectable).sum(1).tolist()
    assert count == pytest.approx([max(rate * n, 1) for n in (40, 30, 10)] + [0], rel=1e-2)

def test_the_gradient_through_at_rate_is_that_of_the_shift_too():
    """The count stays, so it has no gradient; and one feature's rise is the others' fall."""
    logits, step = torch.randn(1, 10, 2, requires_grad=True), torch.zeros(1, 10, 2)
    step[0, 0, 1] = 1e-2
    p, up, down = (keep_probabilities(z, 0.3)[0] for z in (logits, logits + step, logits - step))
    assert torch.autograd.grad(p.sum(), logits, retain_graph=True)[0].abs().max() < 1e-5
    gradient = torch.autograd.grad(p[0], logits)[0][0, :, 1]
    assert gradient[0].item() == pytest.approx((up - down)[0].item() / 2e-2, rel=1e-2)
    assert gradient[0] > 0 > gradient[1:].max()

def test_annealed_rate_by_hand():
    assert [rekd.annealed_rate(k, 80, 0.2) for k in (0, 20, 40)] == pytest.approx([1, 0.3, 0.2])

def test_packed_length_by_hand():
    """A sampled mask: 16 on average, and 3 * 4 more; all of a few. Without a rate: all."""
    assert [packed_length(64, 0.25, sampled) for sampled in (False, True)] == [16, 16 + 3 * 4]
    assert [packed_length(3, 0.01, sampled) for sampled in (False, True)] == [1, 3]
    assert packed_length(64, None, sampled=True) is packed_length(64, None, sampled=False) is None

# ---------------------------------------------------------------- 3. losses
def test_selection_loss_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])  # 1.5 kept on average
    assert rekd.selection_loss(mask, 0.25).item() == pytest.approx((1.5 - 0.25 * 4) ** 2)
    selectable = torch.tensor([[True, True, True, False], [True, False, False, False]])  # 2
    assert rekd.selection_loss(mask, 0.25, selectable).item() == pytest.approx((1.5 - 0.5) ** 2)

def test_the_prediction_loss_leaves_out_whose_class_is_not_known():
    logits, y = torch.randn(3, 4), torch.tensor([1, -1, 2])
    known = F.cross_entropy(logits[[0, 2]], y[[0, 2]]).item()
    assert rekd.prediction_loss(logits, y).item() == pytest.approx(known)
    assert rekd.prediction_loss(logits, torch.full((3,), -1)) == 0

def test_rationale_kd_by_hand():
    """KL((.5, .5) || (.25, .75)) = .5 ln 2 + .5 ln(2/3), in one of two examples: halved."""
    teacher = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[0.2, 0.8], [0.3, 0.7]]]).log()
    student = teacher.clone()
    student[0, 0] = torch.tensor([0.25, 0.75]).log()
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert rekd.rationale_kd_loss(student, teacher).item() == pytest.approx(kl / 2, rel=1e-5)
    selectable = torch.tensor([[False, True], [True, True]])
    assert rekd.rationale_kd_loss(student, teacher, selectable).item() == 0
    assert not rekd.rationale_kd_loss(student, teacher.requires_grad_()).requires_grad

def test_prediction_kd_by_hand():
    """tau = 2: KL((1, 3) / 4 || (1, 1) / 2) = 1/4 ln(1/2) + 3/4 ln(3/2), in one of two: halved."""
    teacher = torch.tensor([[0, 2 * math.log(3)], [1, 1]], requires_grad=True)
    kl = math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4
    found = rekd.prediction_kd_loss(torch.zeros(2, 2), teacher, 2.0)
    assert found.item() == pytest.approx(kl / 2) and not found.requires_grad

def test_rekd_loss_by_hand():
    """L_RE = 1 + .1 * 2 = 1.2; L_KD = 10 * 3 + 2 * .5^2 * 4 = 32; L = 1/4 * 1.2 + 3/4 * 32"""
    weights = dict(alpha=0.25, lambda_select=0.1, lambda_rationale=10, lambda_prediction=2)
    assert rekd.rekd_loss(1, 2, 3, 4, tau=0.5, **weights) == pytest.approx(0.3 + 24)

# ---------------------------------------------------------------- 4. any two modules, trained
class Predictor(nn.Linear):
    def forward(self, x, mask):
        return super().forward((x * mask.unsqueeze(-1)).sum(1))  # (B, N, 8) -> (B, 3)

def pair(rate=None):
    return Rationalist(nn.Linear(8, 2), Predictor(8, 3), rate)

HELD = dict(tau=1.0, rate=0.25)
RE = dict(**HELD, lambda_select=0.1)
KD = dict(alpha=0.5, lambda_rationale=0.5)
TEACHER = pair().eval().requires_grad_(False)
STEPS = pytest.mark.parametrize("step", [  # CLS, RE, KD, REKD
    rekd.cls_losses, lambda model, x, y: re_losses(model, x, y, **RE),
    lambda model, x, y: rekd.kd_losses(model, TEACHER, x, y, tau=1.0, alpha=0.5),
    lambda model, x, y: rekd_losses(model, TEACHER, x, y, **RE, **KD)])

def drawn(step, *args, **options):
    """The losses, as numbers; each call draws the same noise."""
    torch.manual_seed(1)
    return {name: loss.item() for name, loss in step(*args, **options).items()}

@pytest.fixture
def batch():
    return torch.randn(12, 16, 8), torch.randint(3, (12,))

@STEPS
def test_a_pair_learns(batch, step):
    model, losses = pair(), []
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        losses.append(step(model, *batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])

def test_evaluation_draws_no_noise_and_keeps_exactly_the_rate(batch):
    model, x = pair(0.3), batch[0]
    out = model(x)
    assert [tuple(t.shape) for t in out[:4]] == [(12, 16), (12, 16, 2), (12, 3), (12, 16)]
    assert torch.equal(out.mask, rekd.rate_mask(model.generator(x).diff().squeeze(-1), 0.3))
    assert torch.equal(out.logits, model.predictor(x, out.mask)) and out.selectable is None
    model.rate = None
    assert torch.equal(model(x).mask, hard_mask(model.generator(x)))

def test_a_generator_tells_what_is_selectable(batch):
    """12 of 16 features are content, a fourth of which is 3. No loss sees the other four."""
    words, (x, y), model, teacher = torch.arange(16).expand(12, 16) < 12, batch, pair(0.25), pair()
    model.generator.selectable = teacher.generator.selectable = lambda x: words
    assert model(x).mask.sum(1).tolist() == [3] * 12 and model(x).selectable is words
    other = torch.where(words.unsqueeze(-1), x, 3 * x)
    before, after = (drawn(rekd_losses, model, teacher, z, y, **HELD, **KD) for z in (x, other))
    assert after == pytest.approx(before)
    assert before["selection"] == pytest.approx((12 * before["rate_sampled"] - 3) ** 2, rel=1e-3)

def test_a_predictor_that_packs_is_told_how_much(batch):
    """A rate of 1/4 of 16: 4 in evaluation, 4 + 3 * 2 in training, where the rate is held. A
    teacher that reads its student's mask computes what that keeps."""
    told, kept = [], []
    predictor = lambda x, mask, packed=None: (
        told.append(packed) or kept.append(int(mask.sum(1).max())) or mask[:, :3])
    predictor.packs = True
    nets = [Rationalist(nn.Linear(8, 2), predictor, 0.25) for _ in range(2)]
    nets[0](batch[0])
    rekd_losses(*nets, *batch, **HELD, **KD)                            # student, then teacher
    rekd_losses(*nets, *batch, **HELD, **KD, teacher_reads="teacher")   # teacher's own mask first
    rekd_losses(*nets, *batch, **RE, **KD)                              # any count may come
    assert told == [4, 10, kept[1], 4, 10, None, None]

def test_the_rate_is_held_unless_lambda_select_steers_it(batch):
    eager = pair()
    eager.generator.bias.data = torch.tensor([0.0, 9.0])  # it would keep everything
    held = [re_losses(eager, *batch, **HELD)["rate_sampled"] for _ in range(20)]
    assert sum(held) / 20 == pytest.approx(0.25, abs=0.03)
    losses = re_losses(eager, *batch, **RE)
    assert losses["rate_sampled"] > 0.9
    assert losses["loss"] == losses["prediction"] + 0.1 * losses["selection"]

def test_with_shared_noise_alone_identical_networks_have_no_distance(batch):
    options = {**RE, "tau": 0.1, "alpha": 0.0, "lambda_rationale": 1.0}
    losses = rekd_losses(TEACHER, TEACHER, *batch, **options)
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)
    assert rekd_losses(TEACHER, TEACHER, *batch, **options, kd_noise="independent")["loss"] > 10

@pytest.mark.parametrize("weights, reached", [
    ((1, 0), (True, False)), ((0, 1), (True, True)), ((0, 0), (False, False))])
def test_each_kd_reaches_the_networks_that_it_is_about(batch, weights, reached):
    """L_KD_R: the generator. L_KD_Y: both, by the straight-through mask. Both are always told."""
    student, teacher = pair(), pair().eval()
    losses = rekd_losses(student, teacher, *batch, **RE, alpha=0.0, lambda_rationale=weights[0],
                         lambda_prediction=weights[1])
    losses["loss"].backward()
    assert losses["rationale_kd"] > 0 and losses["prediction_kd"] > 0
    assert all(p.grad is None for p in teacher.parameters())  # whose parameters want one
    assert reached == (student.generator.weight.grad.any(), student.predictor.weight.grad.any())

@pytest.mark.parametrize("reads", ["teacher", "student"])
def test_the_teacher_reads_the_rationale_it_is_told_to(batch, reads):
    student, teacher, seen, read = pair(), pair(), [], []
    student.predictor.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    teacher.predictor.register_forward_pre_hook(lambda _, given: read.append(given[1]))
    rekd_losses(student, teacher, *batch, teacher_reads=reads, **RE, **KD)
    own = hard_mask(teacher.generator(batch[0]))
    assert len(read) == 1 and not torch.equal(own, seen[0])  # no work for nothing
    assert torch.equal(read[0], own if reads == "teacher" else seen[0])
    # Known answers stand for the teacher, and leave it what it will read.
    known, options = rekd.teacher_outputs(teacher, batch[0], reads), dict(**RE, **KD)
    expected = drawn(rekd_losses, student, teacher, *batch, teacher_reads=reads, **options)
    teacher = teacher if reads == "student" else None
    assert expected == drawn(rekd_losses, student, teacher, *batch, teacher_reads=reads,
                             known=known, **options)

# ---------------------------------------------------------------- 5. how good is a rationale?
def test_statistics_of_masks_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])  # 2/2, 0/2, 1/2 of
    selectable = torch.tensor([True, True, False, False]).expand(3, 4)
    assert rekd.selection_stats(mask, selectable) == pytest.approx({
        "rate_mean": 1 / 2, "rate_std": math.sqrt(1 / 6), "rate_empty": 1 / 3, "rate_full": 1 / 3})

def test_agreement_by_hand_counts_are_pooled():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 1]])
    truth = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    but_last = torch.tensor([True, True, True, False]).expand(2, 4)  # 2 in common, 3 kept, 4 true
    assert rekd.agreement(mask, truth, but_last) == pytest.approx({
        "precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "iou": 2 / 5})
    assert {*rekd.agreement(torch.zeros(2, 4), torch.zeros(2, 4)).values()} == {0}

def test_faithfulness_by_hand():
    """A predictor whose probability of class 1 is sigmoid(the sum of the features it sees)."""
    predictor = lambda x, mask: F.pad((x * mask).sum(1, keepdim=True), (1, 0))
    full, kept, rest = torch.tensor([2 + 1, 2, 1]).sigmoid().tolist()
    found = rekd.faithfulness(predictor, torch.tensor([[2.0, 1, -1]]), torch.tensor([[1.0, 0, 0]]),
                              selectable=torch.tensor([[True, True, False]]))
    assert torch.cat(found).tolist() == pytest.approx([full - kept, full - rest], abs=1e-6)

GAINS = (2900 + torch.tensor([8, 6, 6, 16, -6, 9, 9])) / 3000 - torch.tensor(2900) / 3000
@pytest.mark.parametrize("differences, p", [
    ([0.1] * 6, 2 / 64), ([3.0, -1.0], 1),                      # all agree: the floor; +-3 +-1
    ([-1.0, -2.0, -3.0], 2 / 8), (GAINS.tolist(), 0.0625)])     # ties of float32 are ties
def test_sign_flip_test_by_hand(differences, p):
    assert rekd.sign_flip_test(differences) == p
