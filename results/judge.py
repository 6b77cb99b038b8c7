"""How good are a finished model's rationales? All masks, baselines, faithfulness, covert channel.

    python train.py --judge --checkpoint runs/.../best.pt

Every kind of mask is read by the model's own predictor: the best features by rank, which is the
mask of evaluation; noise-free, what is kept more often than not; a sampled draw; and, of the same
size as the first, random features, and two post-hoc explanations that a rationale competes with:
the features of largest gradient x input (saliency) and the ones [CLS] attends to most (attention).

Nobody has marked the right words of a review. But where the package vaderSentiment is installed
(pip install --no-deps vaderSentiment), it is told how many of the kept ones express an opinion.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

import data as datasets
import rekd
from data import UserError
from models import load
from results.clutter import add_truth
from results.tables import aligned
from train import (
    COMMON,
    DEPENDS,
    LARGE,
    SHAPE,
    autocast,
    evaluate,
    make_parser,
    recipe_of,
    widen,
)

MOST = 2000  # test examples; a gradient, faithfulness and six masks of each take their time
COLUMNS = ("accuracy", "rate_mean", "sufficiency", "comprehensiveness", "f1", "iou", "alone",
           "opinions")
NOTE = """

sufficiency, low is good: how much less probable the predicted class is from the mask's features
comprehensiveness, high is good: how much less without them (ERASER, DeYoung et al. 2020)
alone: how well a small network tells the class from such masks without any content
opinions: share of the kept words that VADER's lexicon lists as good or bad, if it is installed"""


def judge(args):
    """Print the table of a checkpoint."""
    model, info = load(args.checkpoint, args.device)
    kind = info["input"]["kind"]
    options = checked(info["config"], kind, args.checkpoint)
    rate = recipe_of(options, kind)["rate"]  # of a CLS model, which has none
    config = argparse.Namespace(**{**COMMON, "rate": rate, **options})
    config.rate = args.rate or config.rate
    if model.rate:
        model.rate = config.rate
    data = data_of(config, info, args)
    test = evaluate(model, data, data.test, config)
    print(f"{config.dataset}, {config.method.upper()}, {config.preset}: accuracy "
          f"{test['accuracy']:.4f} at rate {test['rate_mean']:.3f} on {test['examples']:,} test "
          f"examples\nbelow: at most {MOST:,} of them, evenly spread; by rank, random, saliency, "
          f"attention:\nround({config.rate:g} N) features, at least one\n")
    rows = [["mask", *(key.removesuffix("_mean") for key in COLUMNS)]]
    for name, row in judge_masks(model, data, config).items():
        rows.append([name, *(f"{row[key]:.3f}" if key in row else "-" for key in COLUMNS)])
    print("\n".join(aligned(rows)) + NOTE)


def checked(options, kind, path):
    """The options that a checkpoint was trained with: a file that was altered by hand is refused as
    a command line would be."""
    missing = {*SHAPE[kind], *DEPENDS[options["method"]]} - options.keys() - COMMON.keys()
    if missing:
        raise UserError(f"{path} does not tell its {', '.join(sorted(missing))}: give the best.pt "
                        f"of a finished run")
    typed = vars(make_parser().parse_args([]))
    given = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()
             if key in typed and value is not None]
    typed = vars(make_parser().parse_args(given))
    return {key: typed.get(key, value) if value is not None else None
            for key, value in options.items()}


def data_of(config, info, args):
    """The data that a finished model was trained on, by its config."""
    shape = {key: getattr(config, key) for key in SHAPE[info["input"]["kind"]]}
    data_dir = args.data_dir or config.data_dir
    data = datasets.load_dataset(
        config.dataset, data_dir, limit=config.limit, views=config.views,
        vocab=info["input"].get("vocabulary"), device=args.device, **shape)
    if data.fingerprint != info["fingerprint"]:
        raise UserError(f"{config.dataset} is not the data that {args.checkpoint} was trained on: "
                        f"name its --data-dir")
    if data.corpus is None:
        add_truth(data, Path(data_dir, config.dataset), config.patch_size)
    return data


def judge_masks(model, data, config, most=MOST):
    """-> {name of a mask: accuracy of the predictor that reads it, and how good it is}.

    Of at most so many test examples, evenly spread. What masks alone give away is learned from four
    times as many training examples, whose masks are made in the same way.
    """
    torch.manual_seed(0)  # of the random masks
    rows, masks = masks_of(model, data, data.test, most, config)
    train_rows, train_masks = masks_of(model, data, data.train, 4 * most, config)
    test = data.test.select(rows)
    selectable = masks.pop("selectable").bool()
    listed = opinion_words(data.input.get("vocabulary"))
    judged = {}
    for name, mask in masks.items():
        judged[name] = {**read_masked(model, data, test, mask, config),
                        **rekd.selection_stats(mask, selectable),
                        "alone": probe(train_masks[name], data.train.y[train_rows], mask,
                                       test.y)}
        if test.truth is not None:
            judged[name].update(rekd.agreement(mask, test.truth, selectable))
        if listed is not None and mask.any():
            judged[name]["opinions"] = listed[test.x.long()][mask.bool()].double().mean().item()
    return judged


def opinion_words(vocabulary):
    """Which words the lexicon of VADER (Hutto and Gilbert 2014) lists as good or bad: (V,) bool.

    None for images (no vocabulary), and where its package is not installed.
    """
    package = importlib.util.find_spec("vaderSentiment")
    if not vocabulary or not package:
        return None
    text = Path(package.origin).with_name("vader_lexicon.txt").read_text(encoding="utf-8")
    listed = {line.split("\t")[0] for line in text.splitlines()}
    return torch.tensor([word.isalpha() and word in listed for word in vocabulary])


@torch.no_grad()
def masks_of(model, data, split, most, config):
    """-> which examples (n,), {"selectable" and every kind of mask: (n, N)}."""
    rows = torch.linspace(0, len(split) - 1, min(most, len(split))).long()
    found = []
    for _, x, _ in data.batches(split, 32, rows):  # few: a gradient keeps activations
        selectable = model.selectable(x)
        with autocast(x.device, config.precision):
            out = model(x)
            scores = {"random": torch.rand_like(selectable.float()),
                      "saliency": saliency(model.predictor, x, selectable),
                      "attention": attention(model.predictor, x)}
            masks = {"selectable": selectable.float()}
            if config.method == "cls":  # which has no generator
                masks["noise-free"] = out.mask
            else:
                masks.update(masks_of_generator(out, selectable, config))
        for name, score in scores.items():
            masks[name] = rekd.rate_mask(score, config.rate, selectable)
        found.append({name: widen(mask, data) for name, mask in masks.items()})
    return rows, {name: torch.cat([part[name] for part in found]) for name in found[0]}


def masks_of_generator(out, selectable, config):
    """The mask of evaluation, and two that are made as in the last steps of training."""
    held = config.rate if config.lambda_select is None else None
    scale = config.tau_end if config.noise == "annealed" else 1.0
    logits = F.pad(out.keep_logits.unsqueeze(-1), (1, 0)) / scale  # (B, N, 2)
    logits = rekd.at_rate(logits, held, selectable)
    sampled, _ = rekd.sample_mask(logits, config.tau_end, selectable)
    return {"noise-free": rekd.hard_mask(logits, selectable), "by rank": out.mask,
            "sampled": sampled}


@torch.no_grad()
def read_masked(model, data, split, mask, config):
    """The predictor on given masks (n, N) -> its accuracy and mean faithfulness."""
    found = []
    for rows, x, y in data.batches(split, LARGE):
        selectable = model.selectable(x)
        part = mask[rows, :selectable.shape[1]]  # batches of texts may be narrower
        with autocast(x.device, config.precision):
            correct = model.predictor(x, part).argmax(1) == y
            found.append([correct, *rekd.faithfulness(model.predictor, x, part, selectable)])
    means = [torch.cat(parts).double().mean().item() for parts in zip(*found, strict=True)]
    return dict(zip(("accuracy", "sufficiency", "comprehensiveness"), means, strict=True))


# ---------------------------------------------------------------- baselines
def saliency(predictor, x, selectable):
    """Gradient x input of the predicted class, a post-hoc explanation to compare with: (B, N).

    Where the mask multiplies the content, the logit's dQ / dM_l is dQ / dR_l . X_l, taken at the
    full mask. (With `drop` it is that of attending to l.) Activations are kept for the gradient, as
    in training: give x in small batches.
    """
    with torch.enable_grad():
        full = selectable.float().requires_grad_()
        top = predictor(x, full).max(1).values.sum()
        return torch.autograd.grad(top, full)[0]


@torch.no_grad()
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
    q, k, _ = block.qkv(hidden).unflatten(2, (3, block.heads, -1)).permute(2, 0, 3, 1, 4)
    scores = q[:, :, :1] @ k.mT / k.shape[-1] ** 0.5                       # (B, heads, 1, T)
    if visible is not None:
        scores = scores.masked_fill(visible == 0, -torch.inf)
    weights = scores.float().softmax(-1).mean(1)                           # (B, 1, T)
    return backbone.features(weights.mT).squeeze(-1)


def probe(masks, y, test_masks, test_y, epochs=20):
    """The covert channel: how well do masks *alone*, without content, tell the class?

    masks (n, N), y (n,) -> accuracy on the test masks, a float. A small network learns it from the
    training masks, made in the same way as the test's. Near chance (the largest class's share), the
    answer is in what was selected; far above, it is also written into where and how much.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(masks.shape[1], 64), nn.ReLU(),
                                nn.Linear(64, int(y.max()) + 1)).to(masks.device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(y)).to(y.device).split(128):
                optimizer.zero_grad()
                F.cross_entropy(network(masks[batch]), y[batch]).backward()
                optimizer.step()
    return (network(test_masks).argmax(1) == test_y).float().mean().item()
