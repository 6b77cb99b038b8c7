"""How good are a finished model's rationales? All masks, baselines, faithfulness, covert channel.

    python results/judge.py runs/.../best.pt [--data-dir FOLDER]

Every kind of mask is read by the model's own predictor, on test examples:

    by rank       exactly the rate, the best features: the mask of evaluation
    noise-free    what is kept more often than not; of a CLS or KD model, everything
    sampled       a draw as in the last step of training
    random        as many features as by rank, any
    saliency      as many, of the largest gradient by the mask: a post-hoc explanation
    attention     as many, which [CLS] attends to most: another

Of more than 2,000 test examples every second, third, ... is taken. All is in float32. Shapes as in
rekd.py: B examples, N features, masks (B, N).
"""

import argparse
import math
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data as datasets  # noqa: E402
import models  # noqa: E402
import rekd  # noqa: E402
from data import UserError  # noqa: E402
from train import EVAL_BATCH, TAUGHT, choose_device, widen  # noqa: E402

OPTIONAL = "image_size", "patch_size", "max_length", "lambda_select", "unlabelled"
MOST = 2000  # test examples: a gradient, faithfulness and six masks of each take their time
COLUMNS = ("accuracy", "rate", "sufficiency", "comprehensiveness", "f1", "iou", "alone")
FORM = "{:12}{:>8}{:>8}{:>13}{:>19}{:>7}{:>7}{:>8}"
NOTE = """
accuracy             of the model's predictor, which reads the features of this mask alone
sufficiency          low is good: how much less probable the predicted class is from them
comprehensiveness    high is good: how much less probable it is without them (ERASER)
f1, iou              with the true rationale, where it is known
alone                how well a small network tells the class from such masks without any content"""


def judge(path, data_dir=None):
    """A finished best.pt -> {kind of mask: {column: value}}, see `judge_masks`."""
    device = choose_device("auto")
    model, info = models.load(path, device)
    config = argparse.Namespace(**(dict.fromkeys(OPTIONAL) | info["config"]))
    data = datasets.load_dataset(
        config.dataset, data_dir or config.data_dir, image_size=config.image_size,
        patch_size=config.patch_size, max_length=config.max_length,
        vocab=info["input"].get("vocabulary"), device=device)
    unlabelled = config.unlabelled and config.method in TAUGHT
    data = data.draw(config.limit, config.seed, unlabelled)
    if data.fingerprint != info["fingerprint"]:
        raise UserError(f"this {config.dataset} is not the data that {path} was trained on: give "
                        f"the --data-dir that holds it")
    return judge_masks(model, data, config)


def table(masks):
    lines = [FORM.format("mask", *COLUMNS)]
    for name, row in masks.items():
        cells = [f"{row[key]:.3f}" if key in row else "-" for key in COLUMNS]
        lines.append(FORM.format(name, *cells))
    return "\n".join([*lines, NOTE])


def judge_masks(model, data, config):
    """-> {kind of mask: {column: value}}

    What masks alone tell is learned from training examples, whose masks are made in the same way.
    """
    torch.manual_seed(0)  # of the random and the sampled masks
    train, test = some_of(data.train, 4 * MOST), some_of(data.test, MOST)
    train_masks = masks_of(model, data, train, config)
    masks = masks_of(model, data, test, config)
    selectable = masks.pop("selectable").bool()
    judged = {}
    for name, mask in masks.items():
        row = judged[name] = read_masked(model, data, test, mask)
        row["rate"] = rekd.selection_stats(mask, selectable)["rate_mean"]
        row["alone"] = probe(train_masks[name], train.y, mask, test.y)
        if test.truth is not None:
            known = test.truth.any(1)  # of your own data, some examples may have none
            row.update(rekd.agreement(mask[known], test.truth[known], selectable[known]))
    return judged


def some_of(split, most):
    """At most so many labelled examples: every second, third, ..."""
    labelled = (split.y >= 0).nonzero().squeeze(1).cpu()
    return split.select(labelled[::math.ceil(len(labelled) / most)])


@torch.no_grad()
def masks_of(model, data, split, config):
    """-> {"selectable" and each kind of mask: (n, N)}"""
    found = {}
    for _, x, _ in data.batches(split, 32):  # few: a gradient keeps activations
        for name, mask in masks_of_batch(model, x, config).items():
            found.setdefault(name, []).append(widen(mask, data))
    return {name: torch.cat(parts) for name, parts in found.items()}


def masks_of_batch(model, x, config):
    """x -> {"selectable" and every kind of mask: (B, N)}"""
    out = model(x)
    selectable = out.selectable
    masks = {"selectable": selectable.float()}
    if config.method in ("cls", "kd"):  # which have no generator
        masks["noise-free"] = out.mask
    else:
        exact_rate = config.rate if config.lambda_select is None else None
        logits = rekd.at_rate(out.log_probs, exact_rate, selectable)  # of differences alone
        masks["by rank"] = out.mask
        masks["noise-free"] = rekd.hard_mask(logits, selectable)
        masks["sampled"], _ = rekd.sample_mask(logits, config.tau_end, selectable)
    scores = {
        "random": torch.rand_like(selectable.float()),
        "saliency": saliency(model.predictor, x, selectable),
        "attention": attention(model.predictor, x),
    }
    for name, score in scores.items():
        masks[name] = rekd.rate_mask(score, config.rate, selectable)
    return masks


@torch.no_grad()
def read_masked(model, data, split, mask):
    """The predictor on given masks (n, N) -> its accuracy and mean faithfulness."""
    found = []
    for rows, x, y in data.batches(split, EVAL_BATCH):
        selectable = model.selectable(x)
        part = mask[rows, :selectable.shape[1]]  # a batch of texts may be narrower
        correct = model.predictor(x, part).argmax(1) == y
        faithful = rekd.faithfulness(model.predictor, x, part, selectable)
        found.append(torch.stack([correct, *faithful]))  # (3, B)
    means = torch.cat(found, 1).double().mean(1).tolist()
    return dict(zip(("accuracy", "sufficiency", "comprehensiveness"), means))


# ---------------------------------------------------------------- baselines
def saliency(predictor, x, selectable):
    """The predicted class's dQ / dM_l at the full mask, a post-hoc explanation: (B, N).

    Where the mask multiplies the content, that is gradient x input, dQ / dR_l . X_l; with `drop` it
    is the gradient of attending to l. Activations are kept, as in training: give small batches.
    """
    with torch.enable_grad():
        full = selectable.float().requires_grad_()
        top = predictor(x, full).max(1).values.sum()
        return torch.autograd.grad(top, full)[0]


def attention(predictor, x):
    """How much [CLS] attends to each feature of the whole input, in the last block and on average
    over its heads: (B, N). The explanation that a transformer offers for free."""
    backbone = predictor.backbone
    block = backbone.blocks[-1]
    seen = []
    hook = block.register_forward_pre_hook(lambda block, inputs: seen.extend(inputs))
    backbone(x, backbone.selectable(x).float())
    hook.remove()
    hidden, visible, _ = seen                                              # see Block
    hidden = block.norm1(hidden) if block.pre_norm else hidden             # (B, T, dim)
    qkv = block.qkv(hidden).unflatten(2, (3, block.heads, -1))             # (B, T, 3, heads, d)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4)                                   # each (B, heads, T, d)
    scores = q[:, :, :1] @ k.mT / k.shape[-1] ** 0.5                       # (B, heads, 1, T)
    if visible is not None:
        scores = scores.masked_fill(visible == 0, -torch.inf)
    weights = scores.float().softmax(-1).mean(1)                           # (B, 1, T)
    return backbone.features(weights.mT).squeeze(-1)


def probe(masks, y, test_masks, test_y):
    """The covert channel: how well do masks *alone*, without content, tell the class?

    masks (n, N), y (n,) -> accuracy on the test masks, a float. A small network learns it from the
    training masks, made in the same way as the test's. Near chance (the largest class's share), the
    answer is in what was selected; far above, it is also written into where and how much.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(masks.shape[1], 64), nn.ReLU(),
                            nn.Linear(64, int(y.max()) + 1)).to(masks.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(20):
        for batch in torch.randperm(len(y)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(network(masks[batch]), y[batch]).backward()
            optimizer.step()
    return (network(test_masks).argmax(1) == test_y).float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="best.pt of a finished run")
    parser.add_argument("--data-dir", help="of data sets, where it is another than in training")
    args = parser.parse_args()
    try:
        print(table(judge(args.checkpoint, args.data_dir)))
    except (UserError, OSError) as error:
        print(f"judge.py: {error}", file=sys.stderr)
        sys.exit(2)
