"""The method: worked examples that can be checked by hand, float64 re-computations of the paper's formulas, properties."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import rekd
from rekd import (Rationalist, agreement, cls_losses, faithfulness, gumbel_noise, hard_mask, prediction_kd_loss, rationale_kd_loss,
                  re_losses, rekd_loss, rekd_losses, sample_mask, selection_loss, selection_stats, sign_flip_test, temperature)


# ---------------------------------------------------------------- temperature

@pytest.mark.parametrize("shape", ["cosine", "exponential", "linear"])
def test_temperature_goes_from_start_to_end_and_never_up(shape):
    taus = [temperature(k, 101, start=5.0, end=0.1, shape=shape) for k in range(101)]
    assert taus[0] == pytest.approx(5.0) and taus[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(taus, taus[1:]))


def test_temperature_by_hand():
    half = {shape: temperature(50, 101, start=4.0, end=1.0, shape=shape) for shape in ("cosine", "exponential", "linear", "constant")}
    assert half == pytest.approx({"cosine": 2.5, "exponential": 2.0, "linear": 2.5, "constant": 4.0})  # exponential: the geometric mean
    assert temperature(25, 101, start=4.0, end=1.0) == pytest.approx(1 + 3 * (1 + math.cos(math.pi / 4)) / 2)
    assert temperature(0, 1) == 5.0                      # a run of one step
    assert temperature(1000, 101) == pytest.approx(0.1)  # past the end it stays


def test_temperature_refuses_nonsense():
    with pytest.raises(ValueError, match="cosine, exponential, linear or constant"):
        temperature(0, 10, shape="cubic")
    with pytest.raises(ValueError, match="positive"):
        temperature(0, 10, end=0.0)


# ---------------------------------------------------------------- sampling

def test_gumbel_noise_has_the_moments_of_gumbel():
    noise = gumbel_noise((200_000,), generator=torch.Generator().manual_seed(0))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)            # Euler's constant
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_a_sampled_mask_is_exactly_0_or_1_at_any_temperature():
    for tau in (5.0, 0.7, 0.1, 0.01):
        mask, log_probs = sample_mask(3 * torch.randn(50, 40, 2), tau)
        assert ((mask == 0) | (mask == 1)).all()
        assert torch.allclose(log_probs.exp().sum(-1), torch.ones(50, 40))


def test_keeping_has_the_probability_of_the_softmax_whatever_tau():
    """P(argmax(Z + G) = keep) = softmax(Z)_keep, the Gumbel-max trick: tau softens S, it does not change M."""
    logits = torch.tensor([0.0, 1.0]).expand(1, 100_000, 2)
    for tau in (5.0, 0.1):
        assert sample_mask(logits, tau)[0].mean().item() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)


def test_straight_through_gradient_is_that_of_the_soft_sample():
    logits = torch.randn(4, 6, 2, dtype=torch.float64, requires_grad=True)
    noise, weight = gumbel_noise((4, 6, 2), dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    (sample_mask(logits, 0.8, noise=noise)[0] * weight).sum().backward()
    soft = ((logits + noise) / 0.8).softmax(-1)[..., 1]
    expected, = torch.autograd.grad((soft * weight).sum(), logits)
    assert torch.allclose(logits.grad, expected, atol=1e-12)


def test_what_is_not_selectable_is_never_kept_and_gets_no_gradient():
    logits = torch.tensor([[[-2.0, 2.0]] * 4], requires_grad=True)           # all would be kept
    selectable = torch.tensor([[True, False, True, False]])
    mask, _ = sample_mask(logits, 1.0, selectable, noise=torch.zeros(1, 4, 2))
    assert mask.tolist() == [[1, 0, 1, 0]] == hard_mask(logits, selectable).tolist()
    mask.sum().backward()
    assert (logits.grad[0, ~selectable[0]] == 0).all() and (logits.grad[0, selectable[0]] != 0).all()


def test_hard_mask_by_hand_a_tie_is_dropped():
    assert hard_mask(torch.tensor([[[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]])).tolist() == [[1, 0, 0]]


def test_one_draw_of_noise_gives_identical_networks_identical_masks():
    logits, noise = torch.randn(8, 16, 2), gumbel_noise((8, 16, 2))
    assert torch.equal(sample_mask(logits, 0.5, noise=noise)[0], sample_mask(logits, 0.5, noise=noise)[0])
    assert not torch.equal(sample_mask(logits, 0.5)[0], sample_mask(logits, 0.5)[0])


def test_bfloat16_logits_are_sampled_in_float32():
    mask, log_probs = sample_mask(torch.randn(2, 3, 2).bfloat16(), 0.1)
    assert mask.dtype == log_probs.dtype == torch.float32


# ---------------------------------------------------------------- losses

def test_selection_loss_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])                      # 1.5 kept on average
    assert selection_loss(mask, 0.25).item() == pytest.approx((1.5 - 0.25 * 4) ** 2)
    selectable = torch.tensor([[True, True, True, False], [True, False, False, False]])  # 2 selectable on average
    assert selection_loss(mask, 0.25, selectable).item() == pytest.approx((1.5 - 0.25 * 2) ** 2)


def test_rationale_kd_by_hand():
    """KL((.5, .5) || (.25, .75)) = .5 ln 2 + .5 ln(2/3), for one feature of two, in a batch of two: summed, then halved."""
    teacher = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[0.2, 0.8], [0.3, 0.7]]]).log()
    student = teacher.clone()
    student[0, 0] = torch.tensor([0.25, 0.75]).log()
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert rationale_kd_loss(student, teacher).item() == pytest.approx(kl / 2, rel=1e-5)
    assert rationale_kd_loss(student, teacher, torch.tensor([[False, True], [True, True]])).item() == 0


def test_losses_agree_with_the_formulas_in_float64():
    g = torch.Generator().manual_seed(0)
    B, N, C, tau, rate, alpha, lambda_s, lambda_r = 6, 20, 5, 0.7, 0.15, 0.3, 1e-2, 0.5
    selectable = torch.rand(B, N, generator=g) < 0.8
    zs, zt, noise = (torch.randn(B, N, 2, generator=g) for _ in range(3))
    qs, qt, y = torch.randn(B, C, generator=g), torch.randn(B, C, generator=g), torch.randint(C, (B,), generator=g)
    mask, student = sample_mask(zs, tau, selectable, noise)
    _, teacher = sample_mask(zt, tau, selectable, noise)
    ours = (F.cross_entropy(qs, y), selection_loss(mask, rate, selectable), rationale_kd_loss(student, teacher, selectable),
            prediction_kd_loss(qs, qt, tau))
    total = rekd_loss(*ours, tau=tau, alpha=alpha, lambda_select=lambda_s, lambda_rationale=lambda_r)

    zs, zt, noise, qs, qt = (t.double().tolist() for t in (zs, zt, noise, qs, qt))

    def softmax(z):
        e = [math.exp(v) for v in z]
        return [v / sum(e) for v in e]

    def kl(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p, q))

    def soft(z, b, l):
        return softmax([(z[b][l][i] + noise[b][l][i]) / tau for i in (0, 1)])

    content = [(b, l) for b in range(B) for l in range(N) if selectable[b, l]]
    pred = -sum(math.log(softmax(qs[b])[y[b]]) for b in range(B)) / B
    kept = sum(soft(zs, b, l)[1] > 0.5 for b, l in content)
    select = (kept / B - rate * len(content) / B) ** 2
    kd_r = sum(kl(soft(zt, b, l), soft(zs, b, l)) for b, l in content) / B
    kd_y = sum(kl(softmax([v / tau for v in qt[b]]), softmax([v / tau for v in qs[b]])) for b in range(B)) / B
    theirs = (pred, select, kd_r, kd_y)
    assert [v.item() for v in ours] == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert total.item() == pytest.approx(alpha * (pred + lambda_s * select) + (1 - alpha) * (lambda_r * kd_r + tau**2 * kd_y), rel=1e-6)


# ---------------------------------------------------------------- any two modules that meet the contract: a tiny CNN pair

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


def cnn():
    return Rationalist(CNNGenerator(), CNNPredictor())


def test_a_cnn_pair_learns_by_all_three_kinds_of_step():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, 16, 16), torch.randint(3, (12,))
    teacher = cnn().eval().requires_grad_(False)
    for step in (lambda m: cls_losses(m, x, y), lambda m: re_losses(m, x, y, tau=1.0, rate=0.2, lambda_select=0.1),
                 lambda m: rekd_losses(m, teacher, x, y, tau=1.0, rate=0.2, alpha=0.5, lambda_select=0.1, lambda_rationale=0.5)):
        model = cnn()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        history = []
        for _ in range(60):
            loss = step(model)["loss"]
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            history.append(loss.item())
        assert sum(history[-10:]) < 0.9 * sum(history[:10])
    out = model(x)
    assert out.mask.shape == out.keep_logits.shape == (12, 16) and out.log_probs.shape == (12, 16, 2) and out.logits.shape == (12, 3)
    assert torch.equal(out.mask, (out.keep_logits > 0).float())


def test_evaluation_draws_no_noise_and_training_does():
    model, x = cnn(), torch.randn(5, 3, 16, 16)
    assert torch.equal(model(x).mask, model(x).mask)
    assert not torch.equal(model(x, tau=1.0).mask, model(x, tau=1.0).mask)


@pytest.mark.parametrize("distil", ["both", "rationale", "prediction"])
def test_kd_is_0_for_identical_networks_and_reaches_both_networks_of_the_student_never_the_teacher(distil):
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, 16, 16), torch.randint(3, (12,))
    options = dict(tau=0.1, rate=0.2, alpha=0.0, lambda_select=0.0, lambda_rationale=1.0, distil=distil)
    teacher, student = cnn(), cnn()
    student.load_state_dict(teacher.state_dict())
    teacher.eval()
    same = rekd_losses(student, teacher, x, y, **options)
    assert same["rationale_kd"].item() == pytest.approx(0, abs=1e-6) and same["prediction_kd"].item() == pytest.approx(0, abs=1e-6)

    student = cnn()
    losses = rekd_losses(student, teacher, x, y, **options)
    losses["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    reached = [any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters()) for net in (student.generator, student.predictor)]
    # L_KD_R is about masks alone; L_KD_Y reaches the generator through the straight-through mask
    assert reached == [True, distil != "rationale"]
    assert (losses["rationale_kd"] > 0) == (distil != "prediction") and (losses["prediction_kd"] > 0) == (distil != "rationale")


def test_independent_noise_sets_identical_networks_far_apart_and_no_noise_does_not():
    torch.manual_seed(0)
    x, y, model = torch.randn(12, 3, 16, 16), torch.randint(3, (12,)), cnn().eval()
    kd = {noise: rekd_losses(model, model, x, y, tau=0.1, rate=0.2, alpha=0.5, lambda_select=0.0, lambda_rationale=1.0, kd_noise=noise)
          ["rationale_kd"].item() for noise in ("shared", "independent", "none")}
    assert kd["shared"] == pytest.approx(0, abs=1e-5) and kd["none"] == pytest.approx(0, abs=1e-5) and kd["independent"] > 10


def test_the_teacher_reads_the_rationale_it_is_told_to():
    """A teacher whose predictor counts what it reads: its soft labels tell whose mask that was."""
    x, y = torch.randn(6, 3, 16, 16), torch.zeros(6, dtype=torch.long)
    student, teacher = cnn(), cnn().eval()
    read = []
    teacher.predictor.forward = lambda x, mask: read.append(mask) or torch.zeros(len(x), 3)
    common = dict(tau=1.0, rate=0.2, alpha=0.5, lambda_select=0.0, lambda_rationale=1.0)
    rekd_losses(student, teacher, x, y, teacher_reads="teacher", **common)
    assert torch.equal(read[-1], hard_mask(teacher.generator(x)))
    seen = []
    student.predictor.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    rekd_losses(student, teacher, x, y, teacher_reads="student", **common)
    assert torch.equal(read[-1], seen[-1])


# ---------------------------------------------------------------- how good is a rationale?

def test_selection_stats_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert selection_stats(mask) == pytest.approx({"rate_mean": 0.5, "rate_std": math.sqrt(1 / 6), "rate_empty": 1 / 3, "rate_full": 1 / 3}, abs=1e-6)
    selectable = torch.tensor([[True, True, False, False]] * 3)
    assert selection_stats(mask * selectable, selectable) == pytest.approx(
        {"rate_mean": 2 / 3, "rate_std": math.sqrt(2) / 3, "rate_empty": 1 / 3, "rate_full": 2 / 3}, abs=1e-6)


def test_agreement_by_hand_counts_are_pooled():
    mask, truth = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])  # 2 in common, 3 kept, 4 true
    assert agreement(mask, truth) == pytest.approx({"precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "iou": 2 / 5})
    assert agreement(torch.zeros(2, 4), torch.zeros(2, 4)) == {"precision": 0, "recall": 0, "f1": 0, "iou": 0}


def test_faithfulness_by_hand():
    """A predictor whose probability of class 1 is sigmoid(the sum of the features it sees): 2, 1, -1."""
    def predictor(x, mask):
        return torch.stack([torch.zeros(len(x)), (x * mask).sum(1)], dim=1)

    def p(total):
        return 1 / (1 + math.exp(-total))

    x = torch.tensor([[2.0, 1.0, -1.0]])
    sufficiency, comprehensiveness = faithfulness(predictor, x, torch.tensor([[1.0, 0, 0]]))
    assert sufficiency.tolist() == pytest.approx([p(2) - p(2)], abs=1e-6)
    assert comprehensiveness.tolist() == pytest.approx([p(2) - p(0)], abs=1e-6)
    sufficiency, comprehensiveness = faithfulness(predictor, x, torch.tensor([[1.0, 0, 0]]), torch.tensor([[True, True, False]]))
    assert sufficiency.tolist() == pytest.approx([p(3) - p(2)], abs=1e-6)      # full is now 2 + 1
    assert comprehensiveness.tolist() == pytest.approx([p(3) - p(1)], abs=1e-6)
    assert faithfulness(predictor, x, torch.ones(1, 3))[0].item() == 0         # everything is sufficient
    assert faithfulness(predictor, x, torch.zeros(1, 3))[1].item() == 0        # taking nothing away changes nothing


def test_sign_flip_test_by_hand():
    assert sign_flip_test([0.1] * 6) == pytest.approx(2 / 64)                  # all agree: the floor
    assert sign_flip_test([3.0, -1.0]) == 1.0 == sign_flip_test([0.0])         # of |+-3 +-1|, two are 2 and two are 4: all >= 2
    assert sign_flip_test([1.0, 2.0, 3.0]) == sign_flip_test([-1.0, -2.0, -3.0]) == pytest.approx(2 / 8)


# ---------------------------------------------------------------- baselines, and the covert channel

def test_top_mask_keeps_the_best_of_what_is_selectable():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    assert rekd.top_mask(scores, 2).tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]]
    selectable = torch.tensor([[True, False, True, True], [False, False, False, True]])
    assert rekd.top_mask(scores, 2, selectable).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]          # never more than there are
    assert rekd.top_mask(scores, torch.tensor([[1.0], [3.0]])).sum(1).tolist() == [1, 3]


def test_the_mask_of_evaluation_is_noise_free_or_one_draw_or_exactly_the_rate():
    class Given(nn.Module):                                                                        # keep minus drop is x itself
        def forward(self, x):
            return torch.stack([torch.zeros_like(x), x], -1)

    class Sum(nn.Module):
        def forward(self, x, mask):
            return (x * mask).sum(1, keepdim=True)
    model, x = Rationalist(Given(), Sum()), torch.tensor([[3.0, -1.0, 2.0, 1.0]])
    mask, logits = rekd.evaluation_mask(model, x)
    assert mask.tolist() == [[1, 0, 1, 1]] and logits.item() == 6
    mask, logits = rekd.evaluation_mask(model, x, "topk", rate=0.5)
    assert mask.tolist() == [[1, 0, 1, 0]] and logits.item() == 5                                  # the predictor reads that very mask
    draws = torch.cat([rekd.evaluation_mask(model, x, "sample", tau=0.1)[0] for _ in range(100)])
    assert 0 < draws[:, 1].mean() < draws[:, 0].mean() < 1                                         # sigmoid(-1), sigmoid(3)


def test_saliency_is_gradient_times_input_and_of_a_linear_predictor_each_features_share():
    weight, x = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 2.0]])
    predictor = lambda x, mask: (x * mask) @ weight.T                                              # class 0: 1 - 2 + 6
    assert rekd.saliency(predictor, x, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[1, -2, 6]]


def test_the_probe_finds_a_covert_channel_and_nothing_in_masks_that_say_nothing():
    y = torch.arange(600) % 3
    place = torch.nn.functional.one_hot(y * 2, 8).float()                                          # where = which class
    random = (torch.rand(600, 8) < 0.3).float()
    assert rekd.probe(place[:400], y[:400], place[400:], y[400:]) > 0.99
    assert rekd.probe(random[:400], y[:400], random[400:], y[400:]) < 0.45
    before = torch.random.get_rng_state()
    rekd.probe(random, y, random, y, epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())                                       # disturbs no other draw
