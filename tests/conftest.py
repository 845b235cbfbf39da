"""Shared fixtures. Everything runs offline, on one thread and without a display."""

import os
from pathlib import Path

import pytest


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

PROJECT_ROOT = Path(__file__).resolve().parents[1]
REFERENCE_PARTS = ("data/train", "data/eval", "data/provenance.csv", "reference", "weights")


def pytest_configure():
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if "reference" in item.fixturenames:
            item.add_marker(pytest.mark.reference)
    items.sort(key=lambda item: item.get_closest_marker("notebooks") is None)  # the longest first: see make test


@pytest.fixture(scope="session")
def reference():
    """Folder of reference data and weights: OMGSR_REFERENCE, else `shared` beside the project. Skips without it."""
    folder = Path(os.environ.get("OMGSR_REFERENCE", PROJECT_ROOT.parent / "shared"))
    missing = [part for part in REFERENCE_PARTS if not (folder / part).exists()]
    if missing:
        pytest.skip(f"reference data {folder} lacks {', '.join(missing)}: name its folder in OMGSR_REFERENCE")
    return folder
