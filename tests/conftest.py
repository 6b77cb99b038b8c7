import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)  # nano models: a second thread costs more than it brings


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
