"""The method: each formula by an example to check by hand, then what training must do with it."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rekd
from rekd import Rationalist, hard_mask, re_losses, rekd_losses, sample_mask
from results import judge

# ---------------------------------------------------------------- 1. sampling

@pytest.mark.parametrize("shape, taus", [
    ("cosine", [4, 1 + 3 * (1 + math.cos(math.pi / 4)) / 2, 2.5, 1, 1]),
    ("exponential", [4, 4 / 2**0.5, 2, 1, 1]),
    ("linear", [4, 3.25, 2.5, 1, 1]),
    ("constant", [4, 4, 4, 4, 4])])
def test_temperature_by_hand(shape, taus):
    """At the start, after a quarter and a half of the way, at the end and long after it."""
    steps = (0, 25, 50, 100, 1000)
    found = [rekd.temperature(k, 101, start=4.0, end=1.0, shape=shape) for k in steps]
    assert found == pytest.approx(taus)
    assert rekd.temperature(0, 1, start=4.0, shape=shape) == 4  # of a single step

def test_an_unknown_shape_of_the_temperature_is_refused():
    with pytest.raises(ValueError, match="cosine, exponential, linear or constant"):
        rekd.temperature(0, 10, shape="cubic")

def test_gumbel_noise_has_the_moments_of_gumbel():
    noise = rekd.gumbel_noise((200_000,))
    expected = 0.5772, math.pi**2 / 6  # Euler's constant
    assert (noise.mean().item(), noise.var().item()) == pytest.approx(expected, abs=0.02)

@pytest.mark.parametrize("tau, keep", [(1.0, 3 / 4), (0.5, 9 / 10)])
def test_sample_mask_by_hand(tau, keep):
    """Z + G = (0, ln 3), so S = (1, 3) / 4, and at tau = 1/2 (1, 9) / 10. The larger one wins."""
    logits, noise = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.0, math.log(3) - 1]]])
    mask, log_probs = sample_mask(logits, tau, noise=noise)
    assert mask.tolist() == [[1]]
    assert log_probs.exp().flatten().tolist() == pytest.approx([1 - keep, keep])

@pytest.mark.parametrize("tau", [5.0, 0.1])
def test_keeping_has_the_probability_of_the_softmax_whatever_tau(tau):
    """P(argmax(Z + G) = keep) = softmax(Z)_keep, the Gumbel-max trick: tau softens S, not M."""
    mask, _ = sample_mask(torch.tensor([0.0, 1.0]).expand(1, 100_000, 2), tau)
    assert mask.unique().tolist() == [0, 1]  # exactly
    assert mask.mean().item() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)

def test_straight_through_gradient_is_that_of_the_soft_sample():
    logits = torch.randn(4, 6, 2, dtype=torch.float64, requires_grad=True)
    noise, weight = torch.randn(4, 6, 2).double(), torch.randn(4, 6).double()
    (sample_mask(logits, 0.8, noise=noise)[0] * weight).sum().backward()
    soft = ((logits + noise) / 0.8).softmax(-1)[..., 1]
    expected, = torch.autograd.grad((soft * weight).sum(), logits)
    assert torch.allclose(logits.grad, expected, atol=1e-12)

def test_what_is_not_selectable_is_never_kept_nor_gets_a_gradient():
    logits = torch.tensor([[[-2.0, 2.0]] * 4], requires_grad=True)  # all would be kept
    selectable = torch.tensor([[True, False, True, False]])
    mask, _ = sample_mask(logits, 1.0, selectable, noise=torch.zeros(1, 4, 2))
    assert mask.tolist() == [[1, 0, 1, 0]] == hard_mask(logits, selectable).tolist()
    mask.sum().backward()
    assert (logits.grad[0] != 0).any(-1).tolist() == selectable[0].tolist()

def test_a_balanced_mask_weighs_both_sides_alike():
    """P(kept) = 1/5: dM/dZ is 2/5 where it is kept, 1/10 where hidden; 1/5 * 2/5 = 4/5 * 1/10."""
    keep = torch.tensor([0.25, 0.25]).log()
    assert rekd.balanced_slope(torch.tensor([1.0, 0.0]), keep).tolist() == pytest.approx([0.4, 0.1])

@pytest.mark.parametrize("balanced, tau, exact", [(True, 5.0, True), (True, 0.1, True),
                                                  (False, 5.0, False)])
def test_a_balanced_gradient_is_exact_where_the_loss_is_a_parabola(balanced, tau, exact):
    """loss = M^2 - 3 M is 0 where M = 0, and -2 where M = 1. Its expectation is -2 P, the slope of
    that -2 P (1 - P); loss' itself is -3 where hidden, -1 where kept: each is wrong by 1."""
    P = torch.tensor(0.15)
    Z = torch.logit(P).requires_grad_()
    logits = torch.stack([torch.zeros(()), Z]).expand(100_000, 1, 2)
    mask, _ = sample_mask(logits, tau, balanced=balanced)
    (mask**2 - 3 * mask).mean().backward()
    slope = -2 * (P * (1 - P)).item()
    assert (Z.grad.item() == pytest.approx(slope, rel=0.02)) == exact

def test_hard_mask_by_hand_a_tie_is_dropped():
    assert hard_mask(torch.tensor([[[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]])).tolist() == [[1, 0, 0]]

def test_top_mask_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    selectable = torch.tensor([[True, False, True, True], [False, False, False, True]])
    assert rekd.top_mask(scores, 2).tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]]
    assert rekd.top_mask(scores, 2, selectable).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    assert rekd.top_mask(scores, torch.tensor([[1], [3]])).sum(1).tolist() == [1, 3]

def test_rate_mask_keeps_exactly_the_rate_of_the_selectable():
    selectable = torch.arange(20) < torch.tensor([[20], [13], [7], [2], [0]])
    mask = rekd.rate_mask(torch.rand(5, 20), 0.3, selectable)
    assert mask.sum(1).tolist() == [6, 4, 2, 1, 0]  # round(.6) is 1; of none, none
    assert not mask[~selectable].any()
    assert rekd.rate_mask(torch.rand(5, 20), 0.01).sum(1).tolist() == [1] * 5  # at least one

# ---------------------------------------------------------------- the rate in training

def keep_probabilities(logits, rate, selectable=None):
    return rekd.at_rate(logits, rate, selectable).softmax(-1)[..., 1]

def test_at_rate_by_hand():
    """Equal features share the rate. With Z = (0, ln 4): p = x / (1 + x), 4 x / (1 + 4 x), and
    p + q = 1 for x = 1/2: 1/3 and 2/3."""
    assert keep_probabilities(torch.ones(2, 4, 2), 0.25).tolist() == [[pytest.approx(0.25)] * 4] * 2
    logits = torch.tensor([[[7.0, 7.0], [7.0, 7.0 + math.log(4)]]])
    assert keep_probabilities(logits, 0.5)[0].tolist() == pytest.approx([1 / 3, 2 / 3])

@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("rate", [0.01, 0.15, 1.0])
def test_each_example_has_exactly_the_rate_whatever_its_logits(spread, rate):
    logits = spread * torch.randn(4, 40, 2) + 50 * torch.randn(4, 1, 2)
    selectable = torch.arange(40) < torch.tensor([[40], [30], [10], [0]])
    count = (keep_probabilities(logits, rate, selectable) * selectable).sum(1).tolist()
    assert count == pytest.approx([max(rate * n, 1) for n in (40, 30, 10)] + [0], rel=1e-2)

@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_noise_of_any_scale_keeps_the_rate(scale):
    def generator(x):
        return torch.randn(500, 40, 2)
    model = rekd.Rationalist(generator, lambda x, mask: mask)
    mask = model(None, tau=1.0, rate=0.15, noise_scale=scale).mask
    assert mask.mean().item() == pytest.approx(0.15, abs=0.01)

def test_at_rate_shifts_all_features_of_an_example_alike():
    logits = torch.randn(5, 40, 2)
    shift = (rekd.at_rate(logits, 0.15) - logits).diff()
    assert torch.allclose(shift, shift[:, :1], atol=1e-5)

def test_the_gradient_through_at_rate_is_that_of_the_shift_too():
    """The count stays, so it has no gradient; and one feature's rise is the others' fall."""
    logits = torch.randn(3, 10, 2, requires_grad=True)
    step = torch.zeros(3, 10, 2)
    step[0, 0, 1] = 1e-2
    p, up, down = (keep_probabilities(z, 0.3) for z in (logits, logits + step, logits - step))
    of_count, = torch.autograd.grad(p.sum(), logits, retain_graph=True)
    gradient, = torch.autograd.grad(p[0, 0], logits)
    assert of_count.abs().max() < 1e-5
    assert gradient[0, 0, 1].item() == pytest.approx((up - down)[0, 0].item() / 2e-2, rel=1e-2)
    assert gradient[0, 0, 1] > 0 > gradient[0, 1:, 1].max()

def test_annealed_rate_by_hand():
    rates = [rekd.annealed_rate(step, 100, 0.2) for step in (0, 25, 50, 99)]
    assert rates == pytest.approx([1.0, 0.2 + 0.8 / 8, 0.2, 0.2])

# ---------------------------------------------------------------- 2. losses

def test_selection_loss_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])  # 1.5 kept on average
    assert rekd.selection_loss(mask, 0.25).item() == pytest.approx((1.5 - 0.25 * 4) ** 2)
    selectable = torch.tensor([[True, True, True, False], [True, False, False, False]])  # 2
    assert rekd.selection_loss(mask, 0.25, selectable).item() == pytest.approx((1.5 - 0.5) ** 2)

def test_rationale_kd_by_hand():
    """KL((.5, .5) || (.25, .75)) = .5 ln 2 + .5 ln(2/3), in one of two examples: halved."""
    teacher = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[0.2, 0.8], [0.3, 0.7]]]).log()
    student = teacher.clone()
    student[0, 0] = torch.tensor([0.25, 0.75]).log()
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert rekd.rationale_kd_loss(student, teacher).item() == pytest.approx(kl / 2, rel=1e-5)
    selectable = torch.tensor([[False, True], [True, True]])
    assert rekd.rationale_kd_loss(student, teacher, selectable).item() == 0

def test_prediction_kd_by_hand():
    """tau = 2: KL((1, 3) / 4 || (1, 1) / 2) = 1/4 ln(1/2) + 3/4 ln(3/2), in one of two: halved."""
    teacher = torch.tensor([[0, 2 * math.log(3)], [1, 1]])
    kl = math.log(1 / 2) / 4 + 3 * math.log(3 / 2) / 4
    found = rekd.prediction_kd_loss(torch.zeros(2, 2), teacher, 2.0)
    assert found.item() == pytest.approx(kl / 2)

def test_prediction_kd_divides_bfloat16_logits_in_float32():
    student = torch.tensor([[1.3, -0.7, 3.1], [0.2, 2.9, -1.1]]).bfloat16()
    teacher = torch.tensor([[2.7, -0.3, 1.9], [0.6, 2.3, -1.7]]).bfloat16()
    exact = F.kl_div((student.double() / 0.1).log_softmax(-1), (teacher.double() / 0.1).softmax(-1),
                     reduction="sum") / 2
    assert rekd.prediction_kd_loss(student, teacher, 0.1).item() == pytest.approx(exact.item())

def test_rekd_loss_by_hand():
    """L_RE = 1 + .1 * 2 = 1.2; L_KD = 10 * 3 + 2 * .5^2 * 4 = 32; L = 1/4 * 1.2 + 3/4 * 32"""
    found = rekd.rekd_loss(1, 2, 3, 4, tau=0.5, alpha=0.25, lambda_select=0.1, lambda_rationale=10,
                           lambda_prediction=2)
    assert found == pytest.approx(0.3 + 24)

# ---------------------------------------------------------------- 3, 4. any two modules, trained

class Predictor(nn.Linear):
    def forward(self, x, mask):
        return super().forward((x * mask.unsqueeze(-1)).sum(1))  # (B, N, 8) -> (B, 3)

def pair(rate=None):
    return Rationalist(nn.Linear(8, 2), Predictor(8, 3), rate)

RE = dict(tau=1.0, rate=0.25, lambda_select=0.1)
KD = dict(alpha=0.5, lambda_rationale=0.5)
TEACHER = pair().eval().requires_grad_(False)

@pytest.fixture
def batch():
    return torch.randn(12, 16, 8), torch.randint(3, (12,))

@pytest.mark.parametrize("step", [
    rekd.cls_losses, lambda model, x, y: re_losses(model, x, y, **RE),
    lambda model, x, y: rekd_losses(model, TEACHER, x, y, **RE, **KD)], ids=["CLS", "RE", "REKD"])
def test_a_pair_learns(batch, step):
    model = pair()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    history = []
    for _ in range(60):
        loss = step(model, *batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-10:]) < 0.9 * sum(history[:10])

def test_evaluation_draws_no_noise_and_keeps_exactly_the_rate(batch):
    for model, keep in ((pair(), hard_mask),
                        (pair(0.3), lambda z: rekd.rate_mask(z.diff().squeeze(-1), 0.3))):
        out = model(batch[0])
        assert [tuple(t.shape) for t in out] == [(12, 16), (12, 16, 2), (12, 3), (12, 16)]
        assert torch.equal(out.mask, keep(model.generator(batch[0])))
        assert torch.equal(out.logits, model.predictor(batch[0], out.mask))
    assert not torch.equal(model(batch[0], tau=1.0).mask, model(batch[0], tau=1.0).mask)

def test_the_rate_is_held_unless_lambda_select_steers_it(batch):
    eager, common = pair(), dict(tau=1.0, rate=0.25)
    eager.generator.bias.data = torch.tensor([0.0, 9.0])  # it would keep everything
    held = [re_losses(eager, *batch, **common)["rate_sampled"] for _ in range(20)]
    assert sum(held) / 20 == pytest.approx(0.25, abs=0.03)
    losses = re_losses(eager, *batch, **common, lambda_select=0.1)
    assert losses["rate_sampled"] > 0.9
    assert losses["loss"] == losses["prediction"] + 0.1 * losses["selection"]
    assert rekd_losses(eager, TEACHER, *batch, **common, **KD)["rate_sampled"] < 0.5

def test_a_held_rate_holds_for_the_teacher_in_the_rationale_kd_too(batch):
    """Networks that differ in how much they would keep, but not in what, have nothing to learn."""
    eager = copy.deepcopy(TEACHER)
    eager.generator.bias[1] += 3
    losses = rekd_losses(eager, TEACHER, *batch, tau=0.5, rate=0.25, **KD)
    assert losses["rationale_kd"].item() == pytest.approx(0, abs=1e-4)

def test_with_shared_noise_alone_identical_networks_have_no_distance(batch):
    options = {**RE, "tau": 0.1, "alpha": 0.0, "lambda_rationale": 1.0}
    losses = rekd_losses(TEACHER, TEACHER, *batch, **options)
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)
    assert rekd_losses(TEACHER, TEACHER, *batch, **options, kd_noise="independent")["loss"] > 10

@pytest.mark.parametrize("weights, reached", [((1, 1), (True, True)), ((1, 0), (True, False)),
                                              ((0, 1), (True, True)), ((0, 0), (False, False))])
def test_each_kd_reaches_the_networks_that_it_is_about(batch, weights, reached):
    """L_KD_R: the generator. L_KD_Y: both, the generator through the straight-through mask."""
    student, teacher = pair(), pair().eval()
    rekd_losses(student, teacher, *batch, **RE, alpha=0.0, lambda_rationale=weights[0],
                lambda_prediction=weights[1])["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())  # whose parameters want one
    networks = student.generator, student.predictor
    assert reached == tuple(bool(network.weight.grad.any()) for network in networks)

@pytest.mark.parametrize("reads", ["teacher", "student"])
def test_the_teacher_reads_the_rationale_it_is_told_to(batch, reads):
    student, teacher, seen, read = pair(), pair(), [], []
    teacher.predictor.register_forward_hook(lambda module, inputs, out: read.append(inputs[1]))
    student.predictor.register_forward_hook(lambda module, inputs, out: seen.append(inputs[1]))
    rekd_losses(student, teacher, *batch, teacher_reads=reads, **RE, **KD)
    own = hard_mask(teacher.generator(batch[0]))
    assert len(read) == 1 and not torch.equal(own, seen[0])  # no work for nothing
    assert torch.equal(read[0], own if reads == "teacher" else seen[0])

def test_known_answers_stand_for_the_teacher(batch):
    student, losses = pair(), []
    for teacher, known in ((TEACHER, None), (None, rekd.ask(TEACHER, batch[0]))):
        torch.manual_seed(1)
        losses.append(rekd_losses(student, teacher, *batch, teacher_reads="teacher", known=known,
                                  **RE, **KD)["loss"].item())
    assert losses[0] == losses[1]

# ---------------------------------------------------------------- 5. how good is a rationale?

def test_statistics_of_masks_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert rekd.selection_stats(mask) == pytest.approx({
        "rate_mean": 1 / 2, "rate_std": math.sqrt(1 / 6), "rate_empty": 1 / 3, "rate_full": 1 / 3})
    half = torch.tensor([True, True, False, False]).expand(3, 4)
    assert rekd.selection_stats(mask * half, half) == pytest.approx({
        "rate_mean": 2 / 3, "rate_std": math.sqrt(2 / 9), "rate_empty": 1 / 3, "rate_full": 2 / 3})
    stats = rekd.sampling_stats(mask, half, packed=3)  # one of the six that are kept does not fit
    assert [value.item() for value in stats.values()] == pytest.approx([6 / 6, 1 / 6])
    assert rekd.sampling_stats(mask)["unpacked"] == 0
    wordless = rekd.sampling_stats(0 * mask, half & False)
    assert [value.item() for value in wordless.values()] == [0, 0]

def test_agreement_by_hand_counts_are_pooled():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])
    truth = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])  # 2 in common, 3 kept, 4 true
    assert rekd.agreement(mask, truth) == pytest.approx({
        "precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "iou": 2 / 5})
    no_second = torch.tensor([True, False, True, True]).expand(2, 4)  # 2 in common, 2 kept, 3 true
    assert rekd.agreement(mask, truth, no_second) == pytest.approx({
        "precision": 1, "recall": 2 / 3, "f1": 4 / 5, "iou": 2 / 3})
    assert {*rekd.agreement(torch.zeros(2, 4), torch.zeros(2, 4)).values()} == {0}

@pytest.mark.parametrize("mask, selectable, sums", [
    ([1, 0, 0], [1, 1, 1], (2, 2, 0)),     # the sum of all, of the rationale, of the rest
    ([1, 0, 0], [1, 1, 0], (3, 2, 1)),
    ([0, 0, 0], None, (2, 0, 2))])
def test_faithfulness_by_hand(mask, selectable, sums):
    """A predictor whose probability of class 1 is sigmoid(the sum of the features it sees)."""
    predictor = lambda x, mask: F.pad((x * mask).sum(1, keepdim=True), (1, 0))
    full, kept, rest = torch.tensor(sums).sigmoid().tolist()
    found = rekd.faithfulness(predictor, torch.tensor([[2.0, 1, -1]]), torch.tensor([mask]).float(),
                              selectable and torch.tensor([selectable]).bool())
    assert torch.cat(found).tolist() == pytest.approx([full - kept, full - rest], abs=1e-6)

def test_saliency_of_a_linear_predictor_is_each_features_share():
    weight, x = torch.tensor([[1.0, -2, 3], [0, 0, 0]]), torch.tensor([[1.0, 1, 2]])
    linear = lambda x, mask: (x * mask) @ weight.T  # class 0: 1 - 2 + 6
    assert judge.saliency(linear, x, torch.ones(1, 3).bool()).tolist() == [[1, -2, 6]]

Y = torch.arange(600) % 3

@pytest.mark.parametrize("masks, least, most", [
    (F.one_hot(Y * 2, 8).float(), 0.99, 1),                           # where = which class
    ((torch.arange(4800).view(600, 8) % 7 < 2).float(), 0.2, 0.45)])  # nothing
def test_the_probe_finds_a_covert_channel_where_there_is_one(masks, least, most):
    before = torch.random.get_rng_state()
    assert least <= judge.probe(masks[:400], Y[:400], masks[400:], Y[400:]) <= most
    assert torch.equal(before, torch.random.get_rng_state())  # disturbs no other draw

GAIN = (2900 + torch.tensor([8, 6, 6, 16, -6, 9, 9])) / 3000 - torch.tensor(2900) / 3000

@pytest.mark.parametrize("differences, p", [
    ([0.1] * 6, 2 / 64),                                   # all agree: the floor
    ([3.0, -1.0], 1), ([-1.0, -2.0, -3.0], 2 / 8),         # +-3 +-1: 2, 2, 4, 4
    (GAIN.tolist(), 0.0625)])                              # ties of float32 accuracies are ties
def test_sign_flip_test_by_hand(differences, p):
    assert rekd.sign_flip_test(differences) == p
