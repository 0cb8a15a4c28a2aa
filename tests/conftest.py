"""Shared fixtures: where real data lies, and a seeded generator."""

import locale
import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure():
    # The tests' tensors are tiny: a second thread would only be waited for, a second and more on a busy machine.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))


@pytest.fixture(autouse=True)
def _same_locale():
    """A library that sets the process's locale would have others read files in another encoding."""
    before = locale.getencoding()
    yield
    assert locale.getencoding() == before


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real scans (PERTURBOX_DATA, default ../shared/data); tests that need it skip where it is absent."""
    folder = Path(os.environ.get("PERTURBOX_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "ct_abdomen" / "example_ct.nii.gz").exists():
        pytest.skip(f"no real scans at {folder}; set PERTURBOX_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def real_ct(data_dir) -> Path:
    return data_dir / "ct_abdomen" / "example_ct.nii.gz"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
