"""train.py without one of its parts, to see what that one is worth.

    python results/without.py packing --method re --seed 2026 --out runs-without-packing
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch  # noqa: E402

import models  # noqa: E402
import rekd  # noqa: E402
import train  # noqa: E402


def random_scores(generator, x):
    """In place of what a generator says: random masks, in training and in evaluation."""
    return torch.randn(*generator.selectable(x).shape, 2, device=x.device)


UNDO = {
    "packing": (train, "packed_length", lambda features, rate, config: None),
    "curriculum": (rekd, "annealed_rate", lambda step, total_steps, rate: rate),
    "generator": (models.Generator, "forward", random_scores),
}

if __name__ == "__main__":
    setattr(*UNDO[sys.argv.pop(1)])
    train.cli()
