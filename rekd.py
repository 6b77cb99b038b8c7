"""REKD, the method: Rationale Extraction with Knowledge Distillation (arXiv 2601.22531).

A generator looks at N features of an input (image patches, words) and keeps a few of them; a
predictor classifies from those alone, so that the prediction comes with its reason, the
*rationale*. Both learn together through Gumbel-Softmax sampling. A small student learns from the
rationales and predictions of a big teacher: that is REKD.

Everything that the paper defines by a formula is here, as a pure function; the networks are in
models.py. This file imports torch only and can be copied alone. See it at work:    python train.py

Shapes: B examples, N features, C classes. A mask is (B, N): 1 = kept. A generator's logits Z are
(B, N, 2): (drop, keep). `selectable`, where a function takes it, is (B, N) bool and False for what
is no content (padding, special tokens): such a feature is never kept and never counted. None means
that every feature is selectable.
"""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


# ---------------------------------------------------------------- 1. what the paper defines
def temperature(step, total_steps, *, start=5.0, end=0.1, shape="cosine"):
    """tau at `step` of 0 .. total_steps - 1: `start` at step 0, `end` at the last step.

    One tau serves sampling and both KDs. High tau asks "which regions, roughly", low tau "exactly
    these". The paper anneals exponentially, tau_0 exp(-gamma k); a cosine stays warm for longer and
    lands softly; `constant` stays at `start`. Steps outside the range are clamped.
    """
    if start <= 0 or end <= 0:
        raise ValueError(f"temperatures must be positive, not {start} and {end}")
    progress = min(max(step / max(total_steps - 1, 1), 0.0), 1.0)
    if shape == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
    if shape == "exponential":
        return start * (end / start) ** progress  # gamma is chosen to arrive at `end`
    if shape == "linear":
        return start + (end - start) * progress
    if shape == "constant":
        return start
    raise ValueError(f"no shape {shape!r}: choose cosine, exponential, linear or constant")


def gumbel_noise(shape, *, device=None, dtype=torch.float32, generator=None):
    """G ~ Gumbel(0, 1), one draw for each logit: -log of an Exponential(1) variable."""
    noise = torch.empty(shape, device=device, dtype=dtype).exponential_(generator=generator)
    return -noise.clamp(min=torch.finfo(dtype).tiny).log()  # no log(0)


def masked(x, selectable=None, other=0):
    """x (B, N), `other` where a feature is not selectable."""
    return x if selectable is None else x.masked_fill(~selectable, other)


def selectable_ones(x, selectable=None):
    """(B, N) like x: 1 where a feature is selectable, else 0."""
    return masked(torch.ones_like(x), selectable)


def hard_mask(logits, selectable=None):
    """The noise-free mask: logits (B, N, 2) -> (B, N) float 0/1, kept where keep > drop."""
    return masked(logits[..., 1] > logits[..., 0], selectable).float()  # a tie is dropped


def sample_mask(logits, tau, selectable=None, noise=None, *, balanced=False):
    """Gumbel-Softmax with the straight-through estimator: S = softmax((Z + G) / tau), M = argmax S.

    logits (B, N, 2), tau > 0, noise (B, N, 2) or None for a fresh draw
    -> mask (B, N), log_probs (B, N, 2).

    The mask is exactly 0 or 1 forward; backward, its gradient is that of S[..., keep], or, where
    `balanced`, see `balanced_slope`. log_probs is log S, for L_KD_R. Give teacher and student the
    same `noise`, and two identical networks draw identical masks.
    """
    if noise is None:
        noise = gumbel_noise(logits.shape, device=logits.device)
    noisy = logits + noise                         # (B, N, 2), float32 even of bfloat16 logits
    log_probs = (noisy / tau).log_softmax(-1)      # (B, N, 2)
    hard = hard_mask(noisy)                        # (B, N)
    soft = log_probs[..., 1].exp()                 # (B, N)
    if balanced:
        keep = logits.diff().squeeze(-1).float()   # (B, N), keep - drop
        soft = balanced_slope(hard, keep) * keep   # linear in keep: its derivative is the slope
    # The order matters: soft - soft is exactly 0, while (hard - soft) + soft may be 0.99999994.
    mask = hard + (soft - soft.detach())
    return masked(mask, selectable), log_probs


# Losses. All KLs are summed over features or classes and averaged over the batch.

def selection_loss(mask, rate, selectable=None):
    """L_select = (mean_b sum_l M - rate * mean_b n_b)^2, n_b selectable features in example b.

    The batch's mean is steered, not each example's count: an easy example may use fewer features
    than a hard one. The unit is a squared *count*, so more features want a smaller lambda_select.
    """
    kept = mask.sum(1).mean()
    features = selectable_ones(mask, selectable).sum(1).mean()
    return mean_over_processes(kept - rate * features) ** 2


def mean_over_processes(x):
    """In training under torchrun a batch is spread over processes: the mean of their scalars x.

    Forward it is the whole batch's value. Backward the gradient is that of this process's x, since
    DistributedDataParallel averages gradients.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return x + (total / dist.get_world_size() - x).detach()


def rationale_kd_loss(student_log_probs, teacher_log_probs, selectable=None):
    """L_KD_R = sum_l KL(S_l^teacher || S_l^student), both at the same tau; no tau^2 factor.

    log S (B, N, 2) each -> scalar. The teacher is a constant here: no gradient reaches it.
    """
    teacher = teacher_log_probs.detach()
    kl = F.kl_div(student_log_probs, teacher, log_target=True, reduction="none").sum(-1)  # (B, N)
    # The mean is over the batch only: reduction="mean" would also divide by N and 2.
    return masked(kl, selectable).sum(1).mean()


def prediction_kd_loss(student_logits, teacher_logits, tau):
    """L_KD_Y = KL(softmax(Q^teacher / tau) || softmax(Q^student / tau)), Q (B, C) -> scalar.

    The factor tau^2 is in `rekd_loss`. The division is done in float32 at least: in bfloat16, a
    logit near 10 divided by tau = 0.1 would be off by up to 0.25.
    """
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = (student_logits.to(dtype) / tau).log_softmax(-1)
    teacher = (teacher_logits.detach().to(dtype) / tau).log_softmax(-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")  # "mean": by C too


def rekd_loss(prediction, selection, rationale_kd, prediction_kd, *,
              tau, alpha, lambda_select, lambda_rationale, lambda_prediction=1.0):
    """L_REKD = alpha * L_RE + (1 - alpha) * L_KD, of scalars.

    L_RE = L_pred + lambda_select * L_select
    L_KD = lambda_rationale * L_KD_R + lambda_prediction * tau^2 * L_KD_Y

    tau^2 keeps the gradient of the softened L_KD_Y at the size of that of L_pred (Hinton et al.
    2015). The paper has no lambda_prediction, that is, 1; a weight of 0 switches that KD off.
    """
    rationale_extraction = prediction + lambda_select * selection
    distillation = lambda_rationale * rationale_kd + lambda_prediction * tau**2 * prediction_kd
    return alpha * rationale_extraction + (1 - alpha) * distillation


# ---------------------------------------------------------------- 2. what we add to the paper
# The exact rate and its curriculum stand in for L_select; the balanced gradient for the softmax's.

def at_rate(logits, rate, selectable=None):
    """Shift each example's logits so that its sampled mask keeps `rate` of it on average.

    logits (B, N, 2) -> (B, N, 2): (0, z_l + b), z = keep - drop. b, one for each example, is such
    that sum_l P(M_l = 1) = max(rate * n, 1), n selectable features; with Gumbel noise,
    P(M_l = 1) = sigmoid(z_l + b).

    So the rate is right from the first step on, with any N and no weight to tune. To raise all
    features of an example alike changes nothing: one rises only at the expense of others.
    Without a rate, the logits stay as they are.
    """
    if rate is None:
        return logits
    keep = logits.diff().squeeze(-1).float()                         # (B, N)
    counted = selectable_ones(keep, selectable)
    n = counted.sum(1, keepdim=True)                                 # (B, 1)
    wanted = (rate * n).clamp(min=1)                                 # (B, 1), as `rate_mask`
    with torch.no_grad():  # bisection: the count grows with b
        low = -keep.amax(1, keepdim=True) - 20                       # (B, 1), too few are kept
        high = -keep.amin(1, keepdim=True) + 20                      # (B, 1), too many
        for _ in range(25):
            b = (low + high) / 2
            count = (counted * (keep + b).sigmoid()).sum(1, keepdim=True)
            too_few = count < wanted
            low = low.where(~too_few, b)
            high = high.where(too_few, b)
    # One Newton step. It hardly changes b, but bisection has no gradient: this gives db/dz.
    p = counted * (keep + b).sigmoid()
    slope = (p * (1 - p)).sum(1, keepdim=True).detach()
    b = b - (p.sum(1, keepdim=True) - wanted) / slope.clamp(min=1e-3)
    return F.pad((keep + b).unsqueeze(-1), (1, 0))


def annealed_rate(step, total_steps, rate):
    """The rate at `step`: from 1, down to `rate` over the first half of the steps.

    A predictor that begins with a tenth of the features, drawn at random, learns little, and so
    does the generator, whose gradient comes through it. So it first sees everything. The cubic is
    that of gradual pruning (Zhu and Gupta 2017): fast while much is superfluous, then slower.
    """
    rest = max(0.0, 1 - 2 * step / total_steps)
    return rate + (1 - rate) * rest**3


def top_mask(scores, count, selectable=None):
    """The `count` best-scored features of each example.

    scores (B, N), count an int or (B, 1) -> (B, N) float 0/1.
    """
    scores = masked(scores, selectable, -torch.inf)
    rank = scores.argsort(1, descending=True).argsort(1)  # (B, N), 0 = the best
    return masked(rank < count, selectable).float()


def rate_mask(scores, rate, selectable=None):
    """Exactly round(rate * n) of each example's n selectable features, at least one: the best.

    scores (B, N) -> (B, N) float 0/1.
    """
    features = selectable_ones(scores, selectable)
    n = features.sum(1, keepdim=True, dtype=torch.double)  # (B, 1); float32 misrounds 0.15 * 190
    count = (rate * n).round().clamp(min=1)                # (B, 1)
    return top_mask(scores, count, selectable)


def packed_length(N, rate, sampled):
    """How many of N features a predictor computes of a mask of this rate, so that the rest costs
    nothing. None: all of them, as nothing is known of a mask without a rate.

    `rate_mask` keeps round(rate * N) at most. A sampled mask keeps rate * N on average; three
    standard deviations more are enough for nearly all examples. The shape alone tells it, so that
    nothing waits for the device.
    """
    if rate is None:
        return None
    if not sampled:
        return max(round(rate * N), 1)
    mean = max(rate * N, 1)
    return min(N, math.ceil(mean + 3 * mean**0.5))


@torch.no_grad()
def balanced_slope(mask, keep):
    """dM/dz = |M - P| / 2, P = P(M = 1) = sigmoid(z), z = keep - drop; (B, N) each -> (B, N).

    What a feature is worth is the loss without it minus the loss with it. As each further feature
    helps less, the loss's derivative at M says too little of a kept feature and too much of a
    hidden one. These errors cancel where both cases have the same weight in the expectation,
    P(kept) (1 - P) / 2 = P(hidden) P / 2: that is ReinMax (Liu et al. 2023, arXiv 2304.08612),
    exact to second order, and free of tau.

    The softmax weighs the two cases by how often they occur. At a rate of 15 % and high tau the
    hidden one dominates: kept features are pushed down, and masks stay random. Where any features
    tell something, no selection is then learned; with few examples that helps, as dropout does.
    """
    return (mask - keep.sigmoid()).abs() / 2


# ---------------------------------------------------------------- 3. the select-predict model
class Rationale(NamedTuple):
    mask: Tensor         # (B, N) 0/1, 1 = kept
    log_probs: Tensor    # (B, N, 2) log S; without tau: log softmax(Z)
    logits: Tensor       # (B, C) of the predictor
    keep_logits: Tensor  # (B, N) keep minus drop: the higher, the surer that it is kept
    selectable: Tensor   # (B, N) bool, or None: every feature is


class Rationalist(nn.Module):
    """A generator and a predictor: any two modules, transformer, CNN or MLP, of this contract.

        generator(x) -> (B, N, 2) logits (drop, keep)
        generator.selectable(x) -> (B, N) bool            optional
        predictor(x, mask) -> (B, C) logits, from the features with mask 1 alone
        predictor(x, mask, packed)                        if `predictor.packs`: see `predict`

    Keep a teacher *outside* its student: as a submodule it would be trained with it.
    """

    def __init__(self, generator, predictor, rate=None):
        super().__init__()
        self.generator = generator
        self.predictor = predictor
        self.rate = rate

    def forward(self, x, tau=None, noise=None, *, rate=None, balanced=False):
        """tau given: a sampled mask, for training. tau None: the noise-free one, for evaluation.

        That one has exactly round(self.rate * n) of an example's n selectable features, at least
        one, the best by keep - drop: the same budget for every model. Without a rate it is
        `hard_mask`.

        rate          of the sampled mask, see `at_rate`; None: whatever the generator says
        noise         (B, N, 2), or None for a fresh draw
        balanced      the gradient of the sampled mask, see `balanced_slope`
        """
        logits = self.generator(x)                     # (B, N, 2)
        keep_logits = logits.diff().squeeze(-1)        # (B, N), keep - drop
        selectable = self.selectable(x)
        if tau is not None:
            logits = at_rate(logits, rate, selectable)
            mask, log_probs = sample_mask(logits, tau, selectable, noise, balanced=balanced)
        else:
            rate = self.rate
            log_probs = logits.log_softmax(-1)
            mask = hard_mask(logits, selectable)
            if rate is not None:
                mask = rate_mask(keep_logits, rate, selectable)
        packed = packed_length(mask.shape[1], rate, sampled=tau is not None)
        return Rationale(mask, log_probs, self.predict(x, mask, packed), keep_logits, selectable)

    def selectable(self, x):
        """(B, N) bool, or None where the generator has no `selectable`: every feature is."""
        return self.generator.selectable(x) if hasattr(self.generator, "selectable") else None

    def predict(self, x, mask, packed=None):
        """(B, C) logits. packed: compute so many features, <= N, to save time; None: all.

        Only a predictor that can do so is told the number: it has an attribute `packs`, True.
        """
        if packed is None or not getattr(self.predictor, "packs", False):
            return self.predictor(x, mask)
        return self.predictor(x, mask, packed)


# ---------------------------------------------------------------- 4. one training step
# x a batch of inputs, y (B,) classes -> dict of scalars by name; "loss" is the one to minimise.
# A class of -1 is not known: L_pred leaves the example out, what a teacher says of it still counts.
# Where few of a batch are known, their mean is noisy: give it a lower alpha.

def prediction_loss(logits, y):
    """L_pred: cross-entropy, the mean over the examples whose class is known."""
    known = mean_over_processes((y >= 0).sum().float()).clamp(min=1e-3)  # of none the sum is 0
    return F.cross_entropy(logits, y, ignore_index=-1, reduction="sum") / known


def cls_losses(model, x, y):
    """CLS: L_pred alone. The generator of `model` keeps everything (SelectAll in models.py)."""
    prediction = prediction_loss(model(x).logits, y)
    return {"loss": prediction, "prediction": prediction}


def kd_losses(model, teacher, x, y, *, tau, alpha, lambda_prediction=1.0, known=None):
    """KD: ordinary distillation (Hinton et al. 2015), which rationales must beat; not in the paper.

    L = alpha * L_pred + (1 - alpha) * lambda_prediction * tau^2 * L_KD_Y, of the same network as
    CLS. The teacher reads its own rationale. known: as in `rekd_losses`.
    """
    _, teacher_logits = known or teacher_outputs(teacher, x)
    out = model(x)
    terms = {"prediction": prediction_loss(out.logits, y),
             "prediction_kd": prediction_kd_loss(out.logits, teacher_logits, tau)}
    loss = rekd_loss(**terms, selection=0, rationale_kd=0, tau=tau, alpha=alpha, lambda_select=0,
                     lambda_rationale=0, lambda_prediction=lambda_prediction)
    return {"loss": loss, **terms}


def re_losses(model, x, y, *, tau, rate, lambda_select=None, balanced=False):
    """RE: L_RE = L_pred + lambda_select * L_select.

    rate            of the features to keep
    lambda_select   None: the rate is held by `at_rate`, and L_select has nothing left to do
    balanced        the mask's gradient is `balanced_slope`, not that of the softmax (the paper)
    """
    exact_rate = rate if lambda_select is None else None
    out = model(x, tau, rate=exact_rate, balanced=balanced)
    terms = re_terms(out, y, rate)
    loss = terms["prediction"] + (lambda_select or 0.0) * terms["selection"]
    return {"loss": loss, **terms, "rate_sampled": sampled_rate(out)}


def rekd_losses(model, teacher, x, y, *, tau, rate, alpha, lambda_rationale, lambda_select=None,
                lambda_prediction=1.0, teacher_reads="student", kd_noise="shared", balanced=False,
                known=None):
    """REKD: L_REKD. `teacher` is a Rationalist, frozen, in eval mode and no part of `model`.

    teacher_reads   the teacher's predictor reads the "student"'s sampled mask (the release), or
                    the "teacher"'s own mask of evaluation (the paper's figure)
    kd_noise        teacher and student draw "shared" Gumbel noise for L_KD_R, the only choice with
                    which two identical networks have a loss of 0; or "independent" (the release)
    known           what `teacher_outputs` says of x, where it was asked before: it is frozen
    rate, lambda_select, balanced   as in `re_losses`
    """
    teacher_keep, teacher_logits = known or teacher_outputs(teacher, x, teacher_reads)
    exact_rate = rate if lambda_select is None else None
    noise = gumbel_noise((*teacher_keep.shape, 2), device=teacher_keep.device)  # (B, N, 2)

    # The student, as in `re_losses`.
    out = model(x, tau, noise, rate=exact_rate, balanced=balanced)
    terms = re_terms(out, y, rate)

    # The teacher's rationale, at this step's tau and rate: else L_KD_R would pull against it.
    if kd_noise == "independent":
        noise = gumbel_noise(noise.shape, device=noise.device)
    # (0, keep - drop) has the S of (drop, keep): a softmax sees only differences.
    teacher_pair = F.pad(teacher_keep.float().unsqueeze(-1), (1, 0))  # (B, N, 2)
    teacher_pair = at_rate(teacher_pair, exact_rate, out.selectable)
    _, teacher_log_probs = sample_mask(teacher_pair, tau, out.selectable, noise)
    terms["rationale_kd"] = rationale_kd_loss(out.log_probs, teacher_log_probs, out.selectable)

    # Its prediction.
    if teacher_reads == "student":
        packed = packed_length(noise.shape[1], exact_rate, sampled=True)
        if packed and out.mask.is_cpu:  # what is kept can be counted without waiting for a device
            packed = max(int(out.mask.sum(1).max()), 1)
        with torch.no_grad():
            teacher_logits = teacher.predict(x, out.mask.detach(), packed)
    terms["prediction_kd"] = prediction_kd_loss(out.logits, teacher_logits, tau)

    loss = rekd_loss(**terms, tau=tau, alpha=alpha, lambda_select=lambda_select or 0.0,
                     lambda_rationale=lambda_rationale, lambda_prediction=lambda_prediction)
    return {"loss": loss, **terms, "rate_sampled": sampled_rate(out)}


def re_terms(out, y, rate):
    """The terms of L_RE, of a Rationale: L_pred and L_select."""
    return {"prediction": prediction_loss(out.logits, y),
            "selection": selection_loss(out.mask, rate, out.selectable)}


def sampled_rate(out):
    """Kept / selectable over the batch: the rate that L_select, or `at_rate`, steers."""
    mask = out.mask.detach()
    return mask.sum() / selectable_ones(mask, out.selectable).sum().clamp(min=1)


@torch.no_grad()
def teacher_outputs(teacher, x, teacher_reads="teacher"):
    """-> keep_logits (B, N), logits (B, C): what the teacher says of its own rationale.

    The logits are None where it will read its student's: its predictor has no work to do yet.
    """
    if teacher_reads == "student":
        return teacher.generator(x).diff().squeeze(-1), None
    out = teacher(x)
    return out.keep_logits, out.logits


# ---------------------------------------------------------------- 5. how good is a rationale?
def selection_stats(mask, selectable=None):
    """Selection rate of each example, kept / selectable -> dict of floats over the examples.

    rate_mean and rate_std (population), rate_empty and rate_full: the shares of examples with an
    empty and with a full mask.
    """
    features = selectable_ones(mask, selectable)
    rate = mask.sum(1) / features.sum(1).clamp(min=1)         # (B,)
    return {"rate_mean": rate.mean().item(), "rate_std": rate.std(correction=0).item(),
            "rate_empty": (rate == 0).float().mean().item(),
            "rate_full": (rate >= 1).float().mean().item()}


def agreement(mask, truth, selectable=None):
    """Plausibility: mask against the true rationale, (B, N) each -> precision, recall, f1, iou.

    Counts are pooled over all examples (micro average); a ratio with nothing to count is 0.
    """
    mask = masked(mask.bool(), selectable)
    truth = masked(truth.bool(), selectable)
    both = int((mask & truth).sum())
    kept = int(mask.sum())
    true = int(truth.sum())
    return {"precision": both / max(kept, 1), "recall": both / max(true, 1),
            "f1": 2 * both / max(kept + true, 1), "iou": both / max(kept + true - both, 1)}


@torch.no_grad()
def faithfulness(predictor, x, mask, selectable=None):
    """Sufficiency and comprehensiveness of a rationale, each (B,) (ERASER, DeYoung et al. 2020).

    With p the probability of the class predicted on the full input (mask = all selectable):
    sufficiency = p(full) - p(rationale), low if the rationale is enough;
    comprehensiveness = p(full) - p(full without the rationale), high if the rest is not enough.
    `predictor` in eval mode.
    """
    full = selectable_ones(mask, selectable)
    p_full, label = predictor(x, full).softmax(-1).max(-1)     # (B,) each

    def p(mask):
        return predictor(x, mask).softmax(-1).gather(1, label.unsqueeze(1)).squeeze(1)  # (B,)

    return p_full - p(full * mask), p_full - p(full * (1 - mask))


def sign_flip_test(differences):
    """Exact two-sided sign-flip permutation test of differences paired by seed -> p.

    If the two methods were alike, each difference could as well have had the other sign: p is the
    share of the 2^n choices of signs whose sum is at least as far from 0 as the one observed. With
    n differences, p cannot go below 2 / 2^n.
    """
    sums = torch.zeros(1).double()
    for difference in differences:
        sums = torch.cat([sums + difference, sums - difference])  # doubles: (2^n,) at the end
    # The observed sum comes first: all signs as they were. Sums of accuracies over less than
    # 500,000 examples are equal, or further apart than 2e-6.
    return (sums.abs() >= sums[0].abs() - 2e-6).double().mean().item()
