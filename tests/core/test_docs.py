"""The documentation's code runs, and what it says about results is complete."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from perturbox import io
from perturbox.folder import verify
from perturbox.job import Job, run_job
from perturbox.load import load_victim
from perturbox.margin import find_margin
from perturbox.sliding import Window
from perturbox.types import Volume
from perturbox.victim import Victim

DOCS = Path(__file__).resolve().parents[2] / "docs"
ORGAN_HU, BODY_HU = 100, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """my_model.py as docs/victims.md gives it, and a CT at 4 mm: a cube of 100 HU in a body of 0 HU in air."""
    folder = tmp_path_factory.mktemp("docs")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "victims.md").read_text(encoding="utf-8"), re.DOTALL)
    (folder / "my_model.py").write_text(code, encoding="utf-8")
    hu = np.full((1, 24, 22, 20), -1000.0, np.float32)
    hu[:, 3:-3, 3:-3, 3:-3] = BODY_HU
    hu[:, 6:18, 6:16, 5:15] = ORGAN_HU
    hu[:, 3:-3, 3:-3, 3:-3] += np.random.default_rng(0).integers(-3, 4, (1, 18, 16, 14))
    io.write_volume(folder / "ct.nii.gz", Volume(hu, np.diag([4.0, 4.0, 4.0, 1.0])))
    return folder


@pytest.fixture(scope="module")
def job(folder) -> Job:
    return Job(str(folder / "ct.nii.gz"), f"{folder / 'my_model.py'}:my_model", attack="fgsm", target=("organ",))


@pytest.fixture(scope="module")
def result(job, folder) -> dict:
    return run_job(dataclasses.replace(job, eps=60.0, goal="vanish"), folder / "result")


@pytest.fixture(scope="module")
def margin(job, folder) -> dict:
    return find_margin(job, folder / "margin", max_eps=64.0)


def test_the_example_model_finds_the_organ(job, folder):
    victim = load_victim(job.victim)
    found = victim.predict(io.read_volume(job.image)) == 1
    expected = np.zeros((24, 22, 20), bool)
    expected[6:18, 6:16, 5:15] = True
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.95


def test_the_example_is_attacked_as_its_weights_say(result, folder):
    """The organ lies 40 HU above the threshold: 60 HU towards it, the way the gradient points, leave nothing."""
    assert result["attack"]["name"] == "fgsm"
    assert result["budget"]["measured"]["linf"] == 60.0
    assert result["metrics"]["adversarial"]["organ"] == {
        "dice": 0.0,
        "iou": 0.0,
        "hd95_mm": None,
        "nsd": 0.0,
        "volume_ml": 0.0,
    }
    assert result["verdicts"] == {"organ": "vanished"}
    assert result["control"]["noise"]["dice"]["organ"] > 0.7
    assert verify(folder / "result") == []


def test_the_examples_margin_brackets_what_its_weights_say(margin, folder):
    """Below 10 HU even the organ's rim keeps its side of the threshold; 43 HU take the brightest voxels across."""
    row = margin["structures"]["organ"]
    assert 1 <= row["breaks_at"] <= 43
    assert row["above"] < row["breaks_at"]
    witness = json.loads((folder / "margin" / row["witness"] / "result.json").read_text())
    assert witness["budget"]["measured"]["linf"] == row["breaks_at"]


def keys(value: object) -> set[str]:
    """All keys in a JSON document."""
    if isinstance(value, dict):
        return set(value) | {key for part in value.values() for key in keys(part)}
    if isinstance(value, list):
        return {key for part in value for key in keys(part)}
    return set()


@pytest.mark.parametrize("name", ["result", "margin"])
def test_every_key_is_explained(name, request):
    """Names that aren't ours (structures, packages, an attack's own settings) needn't be."""
    document = dict(request.getfixturevalue(name))
    recipe = {"loss", "alpha"}
    foreign = {"organ", "background"} | set(document.pop("versions")) | recipe
    words = re.findall(r"`([\w.*]+)`", (DOCS / "results.md").read_text(encoding="utf-8"))
    explained = {word.partition(".")[0] for word in words}
    assert keys(document) - foreign - explained == set()


def test_every_file_is_explained(result):
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    for key, name in result["files"].items():
        assert f"`{key}." in text, name


def test_every_field_of_a_victim_is_explained():
    text = (DOCS / "victims.md").read_text(encoding="utf-8")
    assert [field.name for field in dataclasses.fields(Victim) if f"`{field.name}`" not in text] == []
    assert [
        field.name for field in dataclasses.fields(Window) if not re.search(rf"Window\([^)]*\b{field.name}\b", text)
    ] == []
