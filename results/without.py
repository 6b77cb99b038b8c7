"""train.py with one of its departures from the paper undone, to see what that one is worth.

    python results/without.py packing --method re --seed 2026 --out runs-without-packing
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rekd  # noqa: E402
import train  # noqa: E402

UNDO = {
    "packing": (train, "packed_length", lambda features, rate, config: None),
    "curriculum": (rekd, "annealed_rate", lambda step, total_steps, rate: rate),
}

if __name__ == "__main__":
    setattr(*UNDO[sys.argv.pop(1)])
    train.cli()
