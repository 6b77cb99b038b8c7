"""A short form of faults.py; the long one takes half an hour."""
import os

import faults
import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # and back
    for group, tried, lost in faults.campaign(tmp_path, kills=3, mutations=40, seed=0, every=4):
        assert tried and not lost, group
