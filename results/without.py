"""train.py without one of its parts, to see what that one is worth.

    python results/without.py packing --method re --seed 2026 --out runs/without-packing
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import models  # noqa: E402
import rekd  # noqa: E402
import train  # noqa: E402


def random_scores(generator, x):
    """In place of what a generator says: random masks, in training and in evaluation."""
    return torch.randn(*generator.selectable(x).shape, 2, device=x.device)


def same_scores(generator, x):
    """In place of what a generator says: the same features of every input."""
    features = generator.selectable(x).shape[1]
    # Far apart, so that noise changes nothing but how often the last that fits the rate is kept.
    scores = 40.0 * torch.randperm(features, generator=torch.Generator().manual_seed(0))
    return F.pad(scores.expand(len(x), -1).unsqueeze(-1), (1, 0)).to(x.device)  # (B, N, 2)


def everything(logits, tau=None, selectable=None, noise=None, balanced=False):
    """In place of a sampled mask: all is read. No choice is made, so none can be learned."""
    return rekd.content(torch.ones_like(logits[..., 0]), selectable), torch.zeros_like(logits)


def all_of(scores, rate, selectable=None):
    """In place of the mask of evaluation."""
    return torch.ones_like(scores) if selectable is None else selectable.float()


answers = train.Teacher.answers


def answers_on_the_next(teacher, epoch, rows, x):
    """The teacher's rationales, all at the wrong place: one feature further on."""
    keep, logits = answers(teacher, epoch, rows, x)
    return keep.roll(1, 1), logits


PARTS = {  # name: (where, what, what takes its place)
    "packing": [(train, "packed_length", lambda features, rate, config: None)],
    "curriculum": [(rekd, "annealed_rate", lambda step, total_steps, rate: rate)],
    "generator": [(models.Generator, "forward", random_scores)],
    "input": [(models.Generator, "forward", same_scores)],
    "place": [(train.Teacher, "answers", answers_on_the_next)],
    "selection": [(rekd, "sample_mask", everything), (rekd, "rate_mask", all_of),
                  (train, "packed_length", lambda features, rate, config: None)],
}

if __name__ == "__main__":
    for part in PARTS[sys.argv.pop(1)]:
        setattr(*part)
    train.cli()
