"""REKD, the method: rationale extraction with knowledge distillation (arXiv 2601.22531), in plain PyTorch.

A generator looks at N features of an input (image patches, words) and keeps a few of them; a predictor classifies from
those alone, so that the prediction comes with its reason, the *rationale*. Both learn together through Gumbel-Softmax
sampling. A small student learns from the rationales and predictions of a big teacher: that is REKD.

Everything that the paper defines by a formula is here, as a pure function; the networks themselves are in models.py.
This file imports torch only and can be copied alone. See it at work:    python train.py

Shapes: B examples, N features, C classes. A mask is (B, N): 1 = kept. Logits of a generator are (B, N, 2): (drop, keep).
`selectable`, where a function takes it, is (B, N) bool and False for what is no content (padding, special tokens): such
a feature is never kept and never counted. None means that every feature is selectable.
"""

import math
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- sampling (the paper's "rationale extraction")
def temperature(step, total_steps, *, start=5.0, end=0.1, shape="cosine"):
    """tau at `step` of 0 .. total_steps - 1: `start` at step 0, `end` at the last step; one tau serves sampling and both KDs.

    High tau asks "which regions, roughly", low tau "exactly these". The paper anneals exponentially, tau_0 exp(-gamma k);
    a cosine stays warm for longer and lands softly. `constant` stays at `start`. Steps outside the range are clamped.
    """
    if start <= 0 or end <= 0:
        raise ValueError(f"temperatures must be positive, not {start} and {end}")
    progress = min(max(step / max(total_steps - 1, 1), 0.0), 1.0)
    if shape == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
    if shape == "exponential":
        return start * (end / start) ** progress  # = start * exp(-gamma * step), gamma chosen to arrive at `end`
    if shape == "linear":
        return start + (end - start) * progress
    if shape == "constant":
        return start
    raise ValueError(f"no temperature shape {shape!r}: choose cosine, exponential, linear or constant")

def gumbel_noise(shape, *, device=None, dtype=torch.float32, generator=None):
    """G ~ Gumbel(0, 1), drawn per logit. -log(Exponential(1)) is Gumbel(0, 1); the clamp keeps log(0) out."""
    noise = torch.empty(shape, device=device, dtype=dtype).exponential_(generator=generator)
    return -noise.clamp_min_(torch.finfo(dtype).tiny).log_()

def sample_mask(logits, tau, selectable=None, noise=None):
    """Gumbel-Softmax with the straight-through estimator: S = softmax((Z + G) / tau), M = argmax S.

    logits (B, N, 2), tau > 0, noise (B, N, 2) or None for a fresh draw -> mask (B, N), log_probs (B, N, 2).
    The mask is exactly 0 or 1 forward; backward, its gradient is that of S[..., keep]. log_probs is log S, for L_KD_R.
    Give the same `noise` to teacher and student and two identical networks draw identical masks.
    """
    if noise is None:
        noise = gumbel_noise(logits.shape, device=logits.device)
    noisy = logits + noise                               # (B, N, 2), float32 even if the logits are bfloat16
    log_probs = F.log_softmax(noisy / tau, dim=-1)       # (B, N, 2)
    hard = (noisy[..., 1] > noisy[..., 0]).to(log_probs.dtype)
    soft = log_probs[..., 1].exp()
    if selectable is not None:
        hard, soft = hard.masked_fill(~selectable, 0), soft.masked_fill(~selectable, 0)
    # The order matters: soft - soft is exactly 0, while (hard - soft) + soft may be 0.99999994.
    return hard + (soft - soft.detach()), log_probs

def hard_mask(logits, selectable=None):
    """The noise-free mask of evaluation: logits (B, N, 2) -> (B, N) float 0/1, kept where keep > drop (a tie is dropped)."""
    keep = logits[..., 1] > logits[..., 0]
    return (keep if selectable is None else keep & selectable).float()

# ---------------------------------------------------------------- losses (all KLs: summed over features, mean over batch)
def selection_loss(mask, rate, selectable=None):
    """L_select = (mean_b sum_l M - rate * mean_b n_b)^2, n_b selectable features in example b: a squared *count*.

    The batch's mean is steered, not each example's count: an easy example may use fewer features than a hard one.
    """
    features = float(mask.shape[1]) if selectable is None else selectable.sum(1).to(mask.dtype).mean()
    return (mask.sum(1).mean() - rate * features) ** 2

def rationale_kd_loss(student_log_probs, teacher_log_probs, selectable=None):
    """L_KD_R = sum_l KL(S_l^teacher || S_l^student), log S (B, N, 2) each, both at the same tau; no tau^2 factor.

    The teacher is a constant here: no gradient reaches it.
    """
    kl = F.kl_div(student_log_probs, teacher_log_probs.detach(), log_target=True, reduction="none").sum(-1)  # (B, N)
    if selectable is not None:
        kl = kl.masked_fill(~selectable, 0)
    return kl.sum(1).mean()  # over the batch only: reduction="mean" would also divide by N and 2

def prediction_kd_loss(student_logits, teacher_logits, tau):
    """L_KD_Y = KL(softmax(Q^teacher / tau) || softmax(Q^student / tau)), Q (B, C); the tau^2 is in `rekd_loss`."""
    student = F.log_softmax(student_logits / tau, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach() / tau, dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")  # "mean" would divide by C too

def rekd_loss(prediction, selection, rationale_kd, prediction_kd, *, tau, alpha, lambda_select, lambda_rationale):
    """L_REKD = alpha * L_RE + (1 - alpha) * L_KD.

    L_RE = L_pred + lambda_select * L_select;   L_KD = lambda_rationale * L_KD_R + tau^2 * L_KD_Y.
    (tau^2 keeps the gradient of the softened L_KD_Y at the size of that of L_pred, as in Hinton et al. 2015.)
    """
    rationale_extraction = prediction + lambda_select * selection
    distillation = lambda_rationale * rationale_kd + tau**2 * prediction_kd
    return alpha * rationale_extraction + (1 - alpha) * distillation

# ---------------------------------------------------------------- the select-predict model
class Rationale(NamedTuple):
    mask: Tensor         # (B, N) 0/1, 1 = kept
    log_probs: Tensor    # (B, N, 2) log S; without tau: log softmax(Z)
    logits: Tensor       # (B, C) of the predictor
    keep_logits: Tensor  # (B, N) keep minus drop: the higher, the surer that the feature is kept

class Rationalist(nn.Module):
    """A generator and a predictor: any two modules, a transformer, a CNN or an MLP, that meet this contract.

        generator(x) -> (B, N, 2) logits (drop, keep)        optional: generator.selectable(x) -> (B, N) bool
        predictor(x, mask) -> (B, C) logits, from the features with mask 1 alone

    Keep a teacher *outside* its student: as a submodule it would be trained with it.
    """

    def __init__(self, generator, predictor):
        super().__init__()
        self.generator, self.predictor = generator, predictor

    def selectable(self, x):
        """(B, N) bool, or None where the generator has no `selectable`: every feature is."""
        return self.generator.selectable(x) if hasattr(self.generator, "selectable") else None

    def forward(self, x, tau=None, noise=None):
        """tau given: a sampled mask, for training (noise as in `sample_mask`). tau None: the noise-free mask, for evaluation."""
        logits = self.generator(x)  # (B, N, 2)
        if tau is None:
            mask, log_probs = hard_mask(logits, self.selectable(x)), F.log_softmax(logits, dim=-1)
        else:
            mask, log_probs = sample_mask(logits, tau, self.selectable(x), noise)
        return Rationale(mask, log_probs, self.predictor(x, mask), logits[..., 1] - logits[..., 0])

# ---------------------------------------------------------------- one training step of each of the three kinds of model
# x a batch of inputs, y (B,) classes -> dict of scalars by name; "loss" is the one to minimise.

def cls_losses(model, x, y):
    """CLS: L_pred alone. The generator of `model` keeps everything (SelectAll in models.py)."""
    prediction = F.cross_entropy(model(x).logits, y)
    return {"loss": prediction, "prediction": prediction}

def re_losses(model, x, y, *, tau, rate, lambda_select):
    """L_RE = L_pred + lambda_select * L_select. Also "rate_sampled": the sampled masks' rate, which is what L_select steers."""
    selectable, out = model.selectable(x), model(x, tau)
    prediction, selection = F.cross_entropy(out.logits, y), selection_loss(out.mask, rate, selectable)
    return {"loss": prediction + lambda_select * selection, "prediction": prediction, "selection": selection,
            "rate_sampled": sampled_rate(out.mask, selectable)}

def rekd_losses(model, teacher, x, y, *, tau, rate, alpha, lambda_select, lambda_rationale,
                distil="both", teacher_reads="student", kd_noise="shared", known=None):
    """L_REKD. `teacher`: a Rationalist, frozen and in eval mode, which is no part of `model`.

    distil          both KDs, or one of "rationale" (L_KD_R) and "prediction" (L_KD_Y)
    teacher_reads   the teacher's predictor reads the "student"'s sampled mask, or the "teacher"'s own noise-free one
    kd_noise        Gumbel noise of the teacher in L_KD_R: one draw "shared" with the student (the only choice with which
                    the loss of two identical networks is 0 whatever the draw), "independent", or "none" for both
    known           (keep_logits (B, N), logits (B, C)) of teacher(x), where they were computed before: it is frozen
    """
    selectable = model.selectable(x)
    with torch.no_grad():
        keep = teacher.generator(x).diff(dim=-1) if known is None else known[0].unsqueeze(-1)   # (B, N, 1)
    teacher_keep = F.pad(keep.float(), (1, 0))             # (B, N, 2): softmax and argmax see the difference of the two only
    noise = gumbel_noise(teacher_keep.shape, device=teacher_keep.device)   # (B, N, 2)
    out = model(x, tau, noise)
    prediction, selection = F.cross_entropy(out.logits, y), selection_loss(out.mask, rate, selectable)
    rationale_kd = prediction_kd = prediction.new_zeros(())
    if distil != "prediction":
        student_log_probs, teacher_noise = out.log_probs, {"shared": noise, "independent": None}.get(kd_noise, 0 * noise)
        if kd_noise == "none":
            drop_keep = F.pad(out.keep_logits.unsqueeze(-1), (1, 0))       # (B, N, 2): softmax sees the difference only
            student_log_probs = F.log_softmax(drop_keep / tau, dim=-1)
        teacher_log_probs = sample_mask(teacher_keep, tau, selectable, teacher_noise)[1]
        rationale_kd = rationale_kd_loss(student_log_probs, teacher_log_probs, selectable)
    if distil != "rationale":
        with torch.no_grad():
            if teacher_reads == "teacher" and known is not None:
                teacher_logits = known[1].float()                          # (B, C)
            else:
                teacher_logits = teacher.predictor(x, out.mask if teacher_reads == "student" else hard_mask(teacher_keep, selectable))
        prediction_kd = prediction_kd_loss(out.logits, teacher_logits, tau)
    loss = rekd_loss(prediction, selection, rationale_kd, prediction_kd,
                     tau=tau, alpha=alpha, lambda_select=lambda_select, lambda_rationale=lambda_rationale)
    return {"loss": loss, "prediction": prediction, "selection": selection, "rationale_kd": rationale_kd,
            "prediction_kd": prediction_kd, "rate_sampled": sampled_rate(out.mask, selectable)}

def sampled_rate(mask, selectable=None):
    return mask.detach().mean() if selectable is None else mask.detach().sum() / selectable.sum()

# ---------------------------------------------------------------- how good is a rationale?
def selection_stats(mask, selectable=None):
    """Selection rate per example, kept / selectable -> dict of floats: its mean and (population) standard deviation,
    and the shares of examples with an empty and with a full mask."""
    count = mask.float().sum(1)                                                                    # (B,)
    features = torch.full_like(count, mask.shape[1]) if selectable is None else selectable.float().sum(1)
    rate = count / features.clamp_min(1)
    return {"rate_mean": rate.mean().item(), "rate_std": rate.std(correction=0).item(),
            "rate_empty": (count == 0).float().mean().item(),
            "rate_full": ((count >= features) & (features > 0)).float().mean().item()}

def agreement(mask, truth, selectable=None):
    """Plausibility: mask against the true rationale, both (B, N) -> dict of floats: precision, recall, f1, iou.

    Counts are pooled over all examples (micro average); a ratio with nothing to count is 0.
    """
    mask, truth = mask.bool(), truth.bool()
    if selectable is not None:
        mask, truth = mask & selectable, truth & selectable
    both, kept, true = (int(t.sum()) for t in (mask & truth, mask, truth))
    return {"precision": both / max(kept, 1), "recall": both / max(true, 1),
            "f1": 2 * both / max(kept + true, 1), "iou": both / max(kept + true - both, 1)}

@torch.no_grad()
def faithfulness(predictor, x, mask, selectable=None):
    """Sufficiency and comprehensiveness of a rationale, each (B,) (ERASER, DeYoung et al. 2020). `predictor` in eval mode.

    With p the probability of the class that is predicted on the full input (mask = all selectable features):
    sufficiency = p(full) - p(rationale), low if the rationale is enough;
    comprehensiveness = p(full) - p(full without the rationale), high if nothing outside it would do.
    """
    full = torch.ones_like(mask) if selectable is None else selectable.to(mask.dtype)
    whole = predictor(x, full).softmax(-1)                      # (B, C)
    label = whole.argmax(-1, keepdim=True)                      # (B, 1)
    p_full, p_kept, p_rest = (p.gather(1, label).squeeze(1) for p in (    # (B,) each
        whole, predictor(x, full * mask).softmax(-1), predictor(x, full * (1 - mask)).softmax(-1)))
    return p_full - p_kept, p_full - p_rest

def top_mask(scores, count, selectable=None):
    """The `count` best-scored features of each example; scores (B, N), count an int or (B, 1) -> (B, N) float 0/1."""
    if selectable is not None:
        scores = scores.masked_fill(~selectable, -torch.inf)
    rank = scores.argsort(1, descending=True).argsort(1)  # 0 = the best
    return (rank < (count if selectable is None else selectable.sum(1, keepdim=True).clamp(max=count))).float()

def evaluation_mask(model, x, how="hard", tau=None, rate=None):
    """What `model` keeps in evaluation, and what it says then -> mask (B, N), logits (B, C). `how`: "hard", noise-free;
    "sample", one Gumbel draw at tau; "topk", exactly round(rate * n) of each example's n selectable features."""
    out, selectable = model(x, tau if how == "sample" else None), model.selectable(x)
    if how != "topk":
        return out.mask, out.logits
    features = (torch.ones_like(out.mask) if selectable is None else selectable).sum(1, keepdim=True)  # (B, 1)
    mask = top_mask(out.keep_logits, (rate * features).round(), selectable)
    return mask, model.predictor(x, mask)

def faithfulness_and_chance(predictor, x, mask, selectable=None):
    """-> `faithfulness` of mask, then that of a random mask of the same counts: four (B,)."""
    chance = top_mask(torch.rand_like(mask), mask.sum(1, keepdim=True), selectable)
    return *faithfulness(predictor, x, mask, selectable), *faithfulness(predictor, x, chance, selectable)

def saliency(predictor, x, selectable):
    """Gradient x input, the post-hoc explanation that a rationale is compared with: (B, N).

    Where the mask multiplies the content, the predicted class's logit has dQ / dM_l = dQ / dR_l . X_l at the full mask. (With `drop`,
    dQ / dM_l is that of attending to l.) As in training, activations are kept for the gradient: give x in small batches.
    """
    with torch.enable_grad():
        full = selectable.float().requires_grad_()
        return torch.autograd.grad(predictor(x, full).max(1).values.sum(), full)[0]

def probe(masks, y, test_masks, test_y, epochs=20):
    """The covert channel: how well do the masks *alone*, (n, N) without any content, tell the class? -> test accuracy, float.

    A small network learns it from the training masks. Near chance (the largest class's share), the answer is in what was
    selected; far above, the generator also writes it into where and how much it selects.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(masks.shape[1], 64), nn.ReLU(), nn.Linear(64, int(y.max()) + 1)).to(masks.device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        for _ in range(epochs):
            for batch in torch.randperm(len(y)).to(y.device).split(128):
                optimizer.zero_grad()
                F.cross_entropy(network(masks[batch]), y[batch]).backward()
                optimizer.step()
    return (network(test_masks).argmax(1) == test_y).float().mean().item()

def sign_flip_test(differences):
    """Is REKD - RE, paired by seed, significant? The exact two-sided sign-flip permutation test -> p.

    If the two were alike, each difference could as well have had the other sign: p is the share of the 2^n choices of
    signs whose sum is at least as far from 0 as the one observed. With n differences, p cannot go below 2 / 2^n.
    """
    sums = torch.zeros(1, dtype=torch.float64)
    for difference in differences:
        sums = torch.cat([sums + difference, sums - difference])  # (2^n,)
    return (sums.abs() >= sums[0].abs() - 1e-9).double().mean().item()  # sums[0]: all signs as observed
