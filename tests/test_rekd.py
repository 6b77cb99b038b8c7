"""The method: worked examples by hand, the paper's formulas once more in float64, properties."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import rekd
from rekd import Rationalist, hard_mask, rekd_losses, sample_mask, selection_loss, temperature
from results import judge

# ---------------------------------------------------------------- temperature

@pytest.mark.parametrize("shape", ["cosine", "exponential", "linear"])
def test_temperature_falls_from_start_to_end(shape):
    taus = [temperature(k, 101, shape=shape) for k in range(101)]
    assert (taus[0], taus[-1]) == pytest.approx((5.0, 0.1))
    assert all(a >= b for a, b in zip(taus, taus[1:]))

@pytest.mark.parametrize("step, steps, shape, tau", [
    (50, 101, "cosine", 2.5), (50, 101, "exponential", 2.0), (50, 101, "linear", 2.5),
    (50, 101, "constant", 4.0), (25, 101, "cosine", 1 + 3 * (1 + math.cos(math.pi / 4)) / 2),
    (0, 1, "cosine", 4.0), (1000, 101, "cosine", 1.0)])  # one step; past the end it stays
def test_temperature_by_hand(step, steps, shape, tau):
    assert temperature(step, steps, start=4.0, end=1.0, shape=shape) == pytest.approx(tau)

def test_temperature_refuses_nonsense():
    with pytest.raises(ValueError, match="cosine, exponential, linear or constant"):
        temperature(0, 10, shape="cubic")
    with pytest.raises(ValueError, match="positive"):
        temperature(0, 10, end=0.0)

# ---------------------------------------------------------------- sampling

def test_gumbel_noise_has_the_moments_of_gumbel():
    noise = rekd.gumbel_noise((200_000,), generator=torch.Generator().manual_seed(0))
    expected = 0.5772, math.pi**2 / 6  # Euler's constant
    assert (noise.mean().item(), noise.var().item()) == pytest.approx(expected, abs=0.02)

@pytest.mark.parametrize("tau", [5.0, 0.7, 0.1, 0.01])
def test_a_sampled_mask_is_exactly_0_or_1(tau):
    mask, log_probs = sample_mask(3 * torch.randn(50, 40, 2), tau)
    assert ((mask == 0) | (mask == 1)).all() and (log_probs.exp().sum(-1) - 1).abs().max() < 1e-5

@pytest.mark.parametrize("tau", [5.0, 0.1])
def test_keeping_has_the_probability_of_the_softmax_whatever_tau(tau):
    """P(argmax(Z + G) = keep) = softmax(Z)_keep, the Gumbel-max trick: tau softens S, not M."""
    logits = torch.tensor([0.0, 1.0]).expand(1, 100_000, 2)
    expected = 1 / (1 + math.exp(-1))
    assert sample_mask(logits, tau)[0].mean().item() == pytest.approx(expected, abs=0.01)

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

def test_hard_mask_by_hand_a_tie_is_dropped():
    assert hard_mask(torch.tensor([[[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]])).tolist() == [[1, 0, 0]]

def test_one_draw_of_noise_gives_identical_networks_identical_masks():
    logits, noise = torch.randn(8, 16, 2), rekd.gumbel_noise((8, 16, 2))
    first, second, other = (sample_mask(logits, 0.5, noise=n)[0] for n in (noise, noise, None))
    assert torch.equal(first, second) and not torch.equal(first, other)

def test_bfloat16_logits_are_sampled_in_float32():
    mask, log_probs = sample_mask(torch.randn(2, 3, 2).bfloat16(), 0.1)
    assert mask.dtype == log_probs.dtype == torch.float32

# ---------------------------------------------------------------- the rate in training

def keep_probabilities(logits, rate, selectable=None, noise_scale=1.0):
    shifted = rekd.at_rate(logits, rate, selectable, noise_scale)
    p = (shifted.diff(dim=-1).squeeze(-1) / noise_scale).sigmoid()
    return p if selectable is None else p * selectable

def test_at_rate_by_hand():
    """Equal features share the rate. With Z = (0, ln 4): p = x / (1 + x), 4 x / (1 + 4 x), and
    p + q = 1 for x = 1/2: 1/3 and 2/3."""
    assert keep_probabilities(torch.ones(2, 4, 2), 0.25).tolist() == [[pytest.approx(0.25)] * 4] * 2
    logits = torch.tensor([[[7.0, 7.0], [7.0, 7.0 + math.log(4)]]])
    assert keep_probabilities(logits, 0.5)[0].tolist() == pytest.approx([1 / 3, 2 / 3])

@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("rate", [0.01, 0.15, 0.9, 1.0])
def test_each_example_has_exactly_the_rate_whatever_its_logits(spread, rate):
    logits = spread * torch.randn(6, 40, 2) + 50 * torch.randn(6, 1, 2)
    selectable = torch.arange(40) < torch.tensor([[40], [40], [30], [20], [20], [10]])
    for scale in (1.0, 5.0):
        count = keep_probabilities(logits, rate, selectable, scale).sum(1)
        expected = [max(rate * n, 1) for n in selectable.sum(1).tolist()]
        assert count.tolist() == pytest.approx(expected, rel=1e-2)
    assert keep_probabilities(logits, rate, selectable & False).sum() == 0

def test_noise_of_any_scale_keeps_the_rate():
    for scale in (0.1, 1.0, 5.0):
        logits = rekd.at_rate(torch.randn(500, 40, 2), 0.15, None, scale)
        mask, _ = sample_mask(logits, 1.0, noise=scale * rekd.gumbel_noise((500, 40, 2)))
        assert mask.mean().item() == pytest.approx(0.15, abs=0.01)

def test_the_gradient_through_at_rate_is_that_of_the_shift_too():
    """The count stays, so it has no gradient; and one feature's rise is the others' fall."""
    logits = torch.randn(3, 10, 2, requires_grad=True)
    p = keep_probabilities(logits, 0.3)
    (gradient,) = torch.autograd.grad(p.sum(), logits, retain_graph=True)
    assert gradient.abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(p[0, 0], logits)
    moved = torch.zeros(3, 10, 2)
    moved[0, 0, 1] = 1e-2
    rise = (keep_probabilities(logits + moved, 0.3) - keep_probabilities(logits - moved, 0.3))[0, 0]
    assert gradient[0, 0, 1].item() == pytest.approx(rise.item() / 2e-2, rel=1e-2)
    assert gradient[0, 0, 1] > 0 > gradient[0, 1:, 1].max() and (gradient[1:] == 0).all()

def test_annealed_rate_by_hand():
    rates = [rekd.annealed_rate(step, 100, 0.2) for step in (0, 25, 50, 99)]
    assert rates == pytest.approx([1.0, 0.2 + 0.8 / 8, 0.2, 0.2])

def test_sampling_stats_by_hand():
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    stats = {key: value.item() for key, value in rekd.sampling_stats(mask, None, packed=2).items()}
    assert stats == {"rate_sampled": 0.5, "unpacked": 0.25}  # one of four does not fit
    assert rekd.sampling_stats(mask)["unpacked"] == 0

# ---------------------------------------------------------------- losses

def test_selection_loss_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])  # 1.5 kept on average
    assert selection_loss(mask, 0.25).item() == pytest.approx((1.5 - 0.25 * 4) ** 2)
    selectable = torch.tensor([[True, True, True, False], [True, False, False, False]])  # 2
    assert selection_loss(mask, 0.25, selectable).item() == pytest.approx((1.5 - 0.25 * 2) ** 2)

def test_rationale_kd_by_hand():
    """KL((.5, .5) || (.25, .75)) = .5 ln 2 + .5 ln(2/3), in one of two examples: halved."""
    teacher = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[0.2, 0.8], [0.3, 0.7]]]).log()
    student = teacher.clone()
    student[0, 0] = torch.tensor([0.25, 0.75]).log()
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert rekd.rationale_kd_loss(student, teacher).item() == pytest.approx(kl / 2, rel=1e-5)
    selectable = torch.tensor([[False, True], [True, True]])
    assert rekd.rationale_kd_loss(student, teacher, selectable).item() == 0

def test_prediction_kd_divides_bfloat16_logits_in_float32():
    student = torch.tensor([[1.3, -0.7, 3.1], [0.2, 2.9, -1.1]]).bfloat16()
    teacher = torch.tensor([[2.7, -0.3, 1.9], [0.6, 2.3, -1.7]]).bfloat16()
    ours = rekd.prediction_kd_loss(student, teacher, 0.1)
    expected = rekd.prediction_kd_loss(student.double(), teacher.double(), 0.1)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)

def test_losses_agree_with_the_formulas_in_float64():
    B, N, C, tau, rate, alpha, lambda_s, lambda_r, lambda_y = 6, 20, 5, 0.7, 0.15, 0.3, 1e-2, 0.5, 2
    selectable = torch.rand(B, N) < 0.8
    zs, zt, noise = (torch.randn(B, N, 2) for _ in range(3))
    qs, qt, y = torch.randn(B, C), torch.randn(B, C), torch.randint(C, (B,))
    mask, student = sample_mask(zs, tau, selectable, noise)
    _, teacher = sample_mask(zt, tau, selectable, noise)
    ours = (F.cross_entropy(qs, y), selection_loss(mask, rate, selectable),
            rekd.rationale_kd_loss(student, teacher, selectable),
            rekd.prediction_kd_loss(qs, qt, tau))
    total = rekd.rekd_loss(*ours, tau=tau, alpha=alpha, lambda_select=lambda_s,
                           lambda_rationale=lambda_r, lambda_prediction=lambda_y)
    zs, zt, noise, qs, qt = (t.double().tolist() for t in (zs, zt, noise, qs, qt))

    def softmax(z, tau=1):
        e = [math.exp(v / tau) for v in z]
        return [v / sum(e) for v in e]
    kl = lambda p, q: sum(a * math.log(a / b) for a, b in zip(p, q))
    soft = lambda z, b, n: softmax([v + g for v, g in zip(z[b][n], noise[b][n])], tau)
    content = [(b, n) for b in range(B) for n in range(N) if selectable[b, n]]
    pred = -sum(math.log(softmax(qs[b])[y[b]]) for b in range(B)) / B
    kept = sum(soft(zs, b, n)[1] > 0.5 for b, n in content)
    select = (kept / B - rate * len(content) / B) ** 2
    kd_r = sum(kl(soft(zt, b, n), soft(zs, b, n)) for b, n in content) / B
    kd_y = sum(kl(softmax(qt[b], tau), softmax(qs[b], tau)) for b in range(B)) / B
    kd = lambda_r * kd_r + lambda_y * tau**2 * kd_y
    expected = pred, select, kd_r, kd_y, alpha * (pred + lambda_s * select) + (1 - alpha) * kd
    assert [v.item() for v in (*ours, total)] == pytest.approx(expected, 1e-6, 1e-6)

# ---------------------------------------------------------------- any two modules: a tiny CNN pair

class CNNGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, kernel_size=4, stride=4)

    def forward(self, x):
        return self.conv(x).flatten(2).transpose(1, 2)  # (B, 2, 4, 4) -> (B, 16, 2)

class CNNPredictor(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, kernel_size=4, stride=4), nn.Linear(8, classes)

    def forward(self, x, mask):
        return self.head((self.conv(x).relu() * mask.view(-1, 1, 4, 4)).mean((2, 3)))

cnn = lambda: Rationalist(CNNGenerator(), CNNPredictor())
RE = dict(tau=1.0, rate=0.2, lambda_select=0.1)
REKD = {**RE, "alpha": 0.5, "lambda_rationale": 0.5}
TEACHER = cnn().eval().requires_grad_(False)

@pytest.fixture
def batch():
    return torch.randn(12, 3, 16, 16), torch.randint(3, (12,))

@pytest.mark.parametrize("step", [
    rekd.cls_losses, lambda model, x, y: rekd.re_losses(model, x, y, **RE),
    lambda model, x, y: rekd_losses(model, TEACHER, x, y, **REKD)], ids=["CLS", "RE", "REKD"])
def test_a_cnn_pair_learns(batch, step):
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    history = []
    for _ in range(60):
        loss = step(model, *batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-10:]) < 0.9 * sum(history[:10])

def test_evaluation_draws_no_noise(batch):
    model, (x, _) = cnn(), batch
    out = model(x)
    assert [tuple(t.shape) for t in out] == [(12, 16), (12, 16, 2), (12, 3), (12, 16)]
    assert torch.equal(out.mask, (out.keep_logits > 0).float())
    assert not torch.equal(model(x, tau=1.0).mask, model(x, tau=1.0).mask)

def test_a_rate_makes_evaluation_keep_the_best_of_exactly_that_share(batch):
    model, (x, _) = cnn(), batch
    model.rate = 0.3
    out = model(x)
    assert out.mask.sum(1).tolist() == [5] * 12  # round(.3 * 16)
    kept, left = (out.keep_logits.masked_fill(out.mask == no, far) for no, far in
                  ((0, torch.inf), (1, -torch.inf)))
    assert (kept.amin(1) >= left.amax(1)).all()
    assert torch.equal(out.logits, model.predictor(x, out.mask))

def test_the_rate_is_held_unless_lambda_select_steers_it(batch):
    model, common = cnn(), dict(tau=1.0, rate=0.25)
    with torch.no_grad():
        model.generator.conv.bias.copy_(torch.tensor([0.0, 9.0]))  # it would keep everything
    held = [rekd.re_losses(model, *batch, **common)["rate_sampled"] for _ in range(20)]
    assert sum(held) / 20 == pytest.approx(0.25, abs=0.03)
    assert rekd.re_losses(model, *batch, **common, lambda_select=0.1)["rate_sampled"] > 0.9
    losses = rekd_losses(model, TEACHER, *batch, **common, alpha=0.5, lambda_rationale=0.5)
    assert losses["rate_sampled"] < 0.5

def test_a_held_rate_holds_for_the_teacher_in_the_rationale_kd_too(batch):
    """Networks that differ in how much they would keep, but not in what, have nothing to learn."""
    eager = copy.deepcopy(TEACHER)
    eager.generator.conv.bias[1] += 3
    losses = rekd_losses(eager, TEACHER, *batch, tau=0.5, rate=0.25, alpha=0.5,
                         lambda_rationale=0.5)
    assert losses["rationale_kd"].item() == pytest.approx(0, abs=1e-4)

def kd_alone(student, teacher, batch, **options):
    return rekd_losses(student, teacher, *batch, **{
        **REKD, "tau": 0.1, "alpha": 0.0, "lambda_rationale": 1.0, **options})

def test_kd_is_0_for_identical_networks(batch):
    assert kd_alone(TEACHER, TEACHER, batch)["loss"].item() == pytest.approx(0, abs=1e-6)

def test_independent_noise_sets_identical_networks_far_apart(batch):
    assert kd_alone(TEACHER, TEACHER, batch, kd_noise="independent")["rationale_kd"] > 10

@pytest.mark.parametrize("weights, reached", [((1, 1), (True, True)), ((1, 0), (True, False)),
                                              ((0, 1), (True, True)), ((0, 0), (False, False))])
def test_each_kd_reaches_the_networks_that_it_is_about(batch, weights, reached):
    """L_KD_R: the generator. L_KD_Y: both, the generator through the straight-through mask."""
    student, teacher = cnn(), cnn().eval()
    losses = kd_alone(student, teacher, batch, lambda_rationale=weights[0],
                      lambda_prediction=weights[1])
    losses["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())  # whose parameters want one
    assert reached == tuple(any(p.grad is not None and p.grad.any() for p in net.parameters())
                            for net in (student.generator, student.predictor))
    assert bool(losses["prediction_kd"] > 0) == bool(weights[1])

@pytest.mark.parametrize("reads", ["teacher", "student"])
def test_the_teacher_reads_the_rationale_it_is_told_to(batch, reads):
    student, teacher, seen, read = cnn(), cnn(), [], []
    teacher.predictor.register_forward_hook(lambda module, inputs, out: read.append(inputs[1]))
    student.predictor.register_forward_hook(lambda module, inputs, out: seen.append(inputs[1]))
    rekd_losses(student, teacher, *batch, teacher_reads=reads, **REKD)
    own = hard_mask(teacher.generator(batch[0]))
    assert len(read) == 1 and not torch.equal(own, seen[-1])  # no work for nothing
    assert torch.equal(read[-1], own if reads == "teacher" else seen[-1])

@pytest.mark.parametrize("reads", ["teacher", "student"])
def test_known_answers_stand_for_the_teacher(batch, reads):
    student, losses, zeros = cnn(), [], (torch.zeros(12, 16), torch.zeros(12, 3))
    for known in (None, rekd.ask(TEACHER, batch[0], reads), rekd.ask(TEACHER, batch[0]), zeros):
        torch.manual_seed(1)
        losses.append(rekd_losses(student, TEACHER, *batch, teacher_reads=reads, known=known,
                                  **REKD)["loss"].item())
    assert losses[:3] == pytest.approx(losses[:1] * 3) and losses[3] != pytest.approx(losses[0])

# ---------------------------------------------------------------- how good is a rationale?

def test_selection_stats_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    selectable = torch.tensor([[True, True, False, False]] * 3)
    for found, mean, variance, full in ((rekd.selection_stats(mask), 1 / 2, 1 / 6, 1 / 3), (
            rekd.selection_stats(mask * selectable, selectable), 2 / 3, 2 / 9, 2 / 3)):
        assert found == pytest.approx({"rate_mean": mean, "rate_std": math.sqrt(variance),
                                       "rate_empty": 1 / 3, "rate_full": full}, abs=1e-6)

def test_agreement_by_hand_counts_are_pooled():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])
    truth = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])  # 2 in common, 3 kept, 4 true
    assert rekd.agreement(mask, truth) == pytest.approx({
        "precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "iou": 2 / 5})
    assert {*rekd.agreement(torch.zeros(2, 4), torch.zeros(2, 4)).values()} == {0}

@pytest.mark.parametrize("mask, selectable, sums", [
    ([1, 0, 0], None, (2, 2, 0)),     # the sum of all, of the rationale, of the rest
    ([1, 0, 0], [1, 1, 0], (3, 2, 1)),
    ([1, 1, 1], None, (2, 2, 0)),
    ([0, 0, 0], None, (2, 0, 2))])
def test_faithfulness_by_hand(mask, selectable, sums):
    """A predictor whose probability of class 1 is sigmoid(the sum of the features it sees)."""
    predictor = lambda x, mask: torch.stack([torch.zeros(len(x)), (x * mask).sum(1)], dim=1)
    full, kept, rest = (1 / (1 + math.exp(-total)) for total in sums)
    sufficiency, comprehensiveness = rekd.faithfulness(
        predictor, torch.tensor([[2.0, 1, -1]]), torch.tensor([mask]).float(),
        selectable and torch.tensor([selectable]).bool())
    assert sufficiency.tolist() == pytest.approx([full - kept], abs=1e-6)
    assert comprehensiveness.tolist() == pytest.approx([full - rest], abs=1e-6)

def test_top_mask_keeps_the_best_of_what_is_selectable():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    assert rekd.top_mask(scores, 2).tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]]
    selectable = torch.tensor([[True, False, True, True], [False, False, False, True]])
    # never more than there are
    assert rekd.top_mask(scores, 2, selectable).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    assert rekd.top_mask(scores, torch.tensor([[1.0], [3.0]])).sum(1).tolist() == [1, 3]

def test_rate_mask_keeps_exactly_the_rate_of_the_selectable():
    scores, selectable = torch.rand(5, 20), torch.arange(20) < torch.tensor([[20, 13, 7, 2, 0]]).T
    mask = rekd.rate_mask(scores, 0.3, selectable)
    assert mask.sum(1).tolist() == [6, 4, 2, 1, 0]  # round(.6) is 1; of none, none
    assert not mask[~selectable].any()
    assert rekd.rate_mask(scores, 0.01).sum(1).tolist() == [1] * 5  # at least one
    assert rekd.rate_mask(torch.tensor([[0.2, 0.9, 0.4]]), 0.6).tolist() == [[0, 1, 1]]

def test_saliency_of_a_linear_predictor_is_each_features_share():
    weight, x = torch.tensor([[1.0, -2, 3], [0, 0, 0]]), torch.tensor([[1.0, 1, 2]])
    linear = lambda x, mask: (x * mask) @ weight.T  # class 0: 1 - 2 + 6
    assert judge.saliency(linear, x, torch.ones(1, 3).bool()).tolist() == [[1, -2, 6]]

Y = torch.arange(600) % 3

@pytest.mark.parametrize("masks, least, most", [
    (F.one_hot(Y * 2, 8).float(), 0.99, 1),                  # where = which class
    ((torch.arange(4800).view(600, 8) % 7 < 2).float(), 0.2, 0.45)])  # nothing
def test_the_probe_finds_a_covert_channel_where_there_is_one(masks, least, most):
    before = torch.random.get_rng_state()
    assert least <= judge.probe(masks[:400], Y[:400], masks[400:], Y[400:]) <= most
    assert torch.equal(before, torch.random.get_rng_state())  # disturbs no other draw

@pytest.mark.parametrize("differences, p", [
    ([0.1] * 6, 2 / 64),                                            # all agree: the floor
    ([3.0, -1.0], 1), ([0.0], 1),                                   # +-3 +-1: 2, 2, 4, 4
    ([1.0, 2.0, 3.0], 2 / 8), ([-1.0, -2.0, -3.0], 2 / 8),
    ([8, 6, 6, 16, -6, 9, 9], 0.0625), ([2, 1, 1], 2 / 8), ([2, -1, -1], 1)])
def test_sign_flip_test_by_hand(differences, p):
    assert rekd.sign_flip_test(differences) == p

def test_ties_of_float32_accuracies_stay_ties():
    correct = 2900 + torch.tensor([[8, 6, 6, 16, -6, 9, 9], [0] * 7])
    accuracy = correct / 3000  # float32
    assert rekd.sign_flip_test((accuracy[0] - accuracy[1]).tolist()) == 0.0625
    assert rekd.sign_flip_test(((correct - 2900) / 3000)[0].tolist()) == 0.0625
