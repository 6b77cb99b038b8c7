"""A short form of faults.py; the long one takes half an hour."""

import os
from pathlib import Path

import faults
import pytest


@pytest.fixture
def here():
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_nothing_is_lost(tmp_path, here):
    for group, tried, lost in faults.campaign(tmp_path, kills=3, mutations=40, seed=0, every=4):
        assert tried and not lost, group
