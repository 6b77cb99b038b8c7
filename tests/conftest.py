import os
import sys
import tarfile
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
    """2,500 reviews of IMDB: from REKD_DATA/imdb or data/imdb, or else from an archive of them beside the repository."""
    files = sorted(Path(os.environ.get("REKD_DATA", "data")).glob("imdb/t*/*/*.txt"))[::20]
    if files:
        return [file.read_text("utf-8") for file in files]
    archive = Path(__file__).parents[2] / "shared" / "data" / "imdb.tar.xz"
    if not archive.exists():
        pytest.skip("no IMDB reviews: download them with `python train.py --dataset imdb`, or name their folder in REKD_DATA")
    texts = []
    with tarfile.open(archive, "r|xz") as tar:  # read as a stream, and no further than needed
        for i, member in enumerate(member for member in tar if member.name.endswith(".txt")):
            if i % 4 == 0:
                texts.append(tar.extractfile(member).read().decode("utf-8"))
            if len(texts) == 2500:
                return texts
