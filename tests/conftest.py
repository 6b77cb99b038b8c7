import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_num_threads(1)  # nano models: a second thread costs more than it brings


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reviews():
    """A 20th of the reviews of IMDB, from its class folders in REKD_DATA or data."""
    root = Path(os.environ.get("REKD_DATA", "data"))
    files = sorted(root.glob("imdb/t*/*/*.txt"))[::20]
    if not files:
        pytest.skip(f"no IMDB reviews in {root}/imdb/{{train,test}}/{{neg,pos}}: put them there, "
                    "or name the folder that holds imdb/ in REKD_DATA")
    return [file.read_text("utf-8") for file in files]
