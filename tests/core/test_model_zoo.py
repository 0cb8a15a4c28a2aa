"""MONAI's model zoo: which of its segmentation bundles load, as docs/victims.md says. Its configurations are read from
a checkout that MODEL_ZOO names, with random weights; none is copied here."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from perturbox.load import bundle, load_victim
from perturbox.types import InputError

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (yes|no) \| (yes|no) \| (.+?) \|$", re.M)
TABLE = {name: rest for name, *rest in ROW.findall((ROOT / "docs" / "victims.md").read_text(encoding="utf-8"))}
ZOO = os.environ.get("MODEL_ZOO")
needs_zoo = pytest.mark.skipif(not ZOO, reason="MODEL_ZOO names no checkout of MONAI's model zoo")


def test_the_table_names_the_zoos_eighteen():
    assert len(TABLE) == 18
    assert sum(plain == "yes" for plain, _, _ in TABLE.values()) == 8
    assert sum(trusted == "yes" for _, trusted, _ in TABLE.values()) == 13


@pytest.fixture
def random_weights(monkeypatch):
    """Every checkpoint fits."""
    for name, made in (("read_checkpoint", None), ("state_of", {}), ("fill", None), ("file_sha256", "0" * 64)):
        monkeypatch.setattr(bundle, name, lambda *given, made=made: made)


def copied(name: str, place: Path) -> Path:
    """The bundle without its README; with the code that two of them keep beside their weights."""
    assert ZOO is not None
    source = Path(ZOO) / "models" / name
    folder = shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("docs", "*.png"))
    if any("search_code" in path.read_text() for path in source.glob("large_files.y*ml")):
        (folder / "models").mkdir(exist_ok=True)
        codes = {"arch_code_a": np.ones((12, 10)), "arch_code_c": np.zeros((12, 10)), "node_a": np.ones((13, 4))}
        torch.save(codes, folder / "models" / "search_code_18590.pt")
    return folder


def loads(folder: Path, trust: bool) -> str | None:
    """What is wrong, None if nothing."""
    try:
        victim = load_victim(f"bundle:{folder}", trust=trust)
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    assert len(victim.labels) > 1 and victim.decision is not None and victim.pipeline is not None
    return None


@needs_zoo
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TABLE)
def test_a_bundle_loads_as_the_table_says(tmp_path, random_weights, name):
    plain, trusted, why = TABLE[name]
    folder = copied(name, tmp_path)
    refusal = loads(folder, trust=False)
    assert (refusal is None) == (plain == "yes"), refusal
    if plain == "no":
        refusal = loads(folder, trust=True)
        assert (refusal is None) == (trusted == "yes"), refusal
        if trusted == "no":
            named = re.findall(r"`(.+?)`", why)
            assert named and all(word in str(refusal) for word in named), refusal


@needs_zoo
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_brats_paints_as_its_lambda(tmp_path, random_weights):
    victim = load_victim(f"bundle:{copied('brats_mri_segmentation', tmp_path)}")
    assert victim.labels == {"background": 0, "Tumor core": 1, "Whole tumor": 2, "Enhancing tumor": 4}
    assert victim.regions == ((2, 1, 4), (1, 4), (4,)) and victim.unit == "intensity" and victim.channels == 4
    generator = torch.Generator().manual_seed(0)
    said = torch.randn(3, 5, 6, 7, generator=generator)  # tumor core, whole tumor, enhancing tumor
    x = said.sigmoid() > 0.5
    by_lambda = torch.where(x[2] > 0, 4, torch.where(x[0] > 0, 1, torch.where(x[1] > 0, 2, 0)))
    plan = victim.pipeline.plan((5, 6, 7), np.eye(4), lambda: said)
    picked = said[victim.network.channels]
    assert np.array_equal(victim.decision.run(picked, plan), by_lambda.numpy())
    assert torch.equal(victim.decide(picked[None])[0], by_lambda)


@needs_zoo
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_of_a_contrast_series_the_lower_channel_wins(tmp_path, random_weights):
    victim = load_victim(f"bundle:{copied('renalStructures_CECT_segmentation', tmp_path)}", trust=True)
    assert victim.channels == 3 and victim.network.channels == [5, 4, 3, 2, 1]
    assert [region[0] for region in victim.regions] == [5, 4, 3, 2, 1] and max(victim.labels.values()) == 5
