"""train.py, but for one point which no option changes: controls of the study.

    python results/controls.py NAME OPTIONS OF TRAIN.PY        NAME: a function below

"shifted" asks whether it matters *where* a teacher looks. "constant-rate" and "falling-target" take
apart what we do about the rate: it is held exactly, and it falls from 1 (the curriculum).
"""

import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rekd  # noqa: E402
import train  # noqa: E402

teacher_outputs = rekd.teacher_outputs


def shifted():
    """Each student learns from rationales that are one place off; predictions stay."""
    def outputs(teacher, x, teacher_reads="teacher"):
        keep, logits = teacher_outputs(teacher, x, teacher_reads)
        return keep.roll(1, 1), logits  # (B, N), each has its neighbour's, a first word [CLS]'s
    rekd.teacher_outputs = outputs


def constant_rate():
    """The rate is held exactly, and is the same from the first step on."""
    falling, score_of = train.rate_at, train.score_of

    def score(*given):  # the checkpoint is chosen of the same epochs as where the rate falls
        with patch.object(train, "rate_at", falling):
            return score_of(*given)
    train.rate_at, train.score_of = lambda step, config: config.rate, score


def falling_target():
    """L_select (give --lambda-select or --paper) steers towards a rate that falls from 1."""
    train.rate_at = lambda step, config: rekd.annealed_rate(step, config.total_steps, config.rate)


CONTROLS = {"shifted": shifted, "constant-rate": constant_rate, "falling-target": falling_target}

if __name__ == "__main__":
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in CONTROLS:
        print(f"controls.py: name one of {', '.join(CONTROLS)}, then options of train.py",
              file=sys.stderr)
        sys.exit(2)
    CONTROLS[name]()
    train.cli()
