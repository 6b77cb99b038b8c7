"""train.py, but each student learns from rationales that are one place off.

    python results/shifted.py --out runs/shifted OPTIONS OF TRAIN.PY

A control: what helps is *where* a teacher looks, if this helps less than the true rationales.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rekd  # noqa: E402
import train  # noqa: E402

outputs = rekd.teacher_outputs


def shifted_outputs(teacher, x, teacher_reads="teacher"):
    """The neighbour's keep_logits (B, N) for each feature; the prediction stays."""
    keep, logits = outputs(teacher, x, teacher_reads)
    return keep.roll(1, 1), logits


if __name__ == "__main__":
    rekd.teacher_outputs = shifted_outputs
    train.cli()
