"""Folders of perturbox-result/1, made by the last version that wrote it (tests/first_schema.py), still open."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from perturbox.cli import main
from perturbox.job.folder import replay, verify
from perturbox.judge.record import read_record

FOLDERS = Path(__file__).parent / "first_schema"


@pytest.fixture(params=["own", "expert"])
def folder(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(Path(__file__).parents[2])  # the victim was named from here
    return Path(shutil.copytree(FOLDERS / request.param, tmp_path / request.param))


def test_they_are_of_the_first_schema(folder):
    stored = json.loads((folder / "result.json").read_text())
    assert stored["schema"] == "perturbox-result/1" and "summary" not in stored
    expected = ["liver"] if folder.name == "expert" else None
    record = read_record(folder)
    assert record["outlined"] == expected
    assert record["verdicts"] == {"liver": "dice", "bone": "held" if expected is None else "not-outlined"}
    assert not [text for text in record["warnings"] if text.startswith("Bone")]


def test_every_number_still_verifies_and_a_touched_one_is_found(folder):
    assert verify(folder) == []
    stored = json.loads((folder / "result.json").read_text())
    stored["metrics"]["adversarial"]["liver"]["dice"] += 0.01
    (folder / "result.json").write_text(json.dumps(stored))
    assert any(line.startswith("metrics.adversarial.liver.dice") for line in verify(folder))


def test_a_replay_does_as_much(folder, tmp_path):
    """Of equal scores another step is kept today, so the perturbation may be another one."""
    again, then = replay(folder, tmp_path / "again"), read_record(folder)
    one, other = (
        np.asanyarray(nib.load(place / "perturbation.nii.gz").dataobj) for place in (folder, tmp_path / "again")
    )
    assert again["best"]["score"] == then["best"]["score"]
    assert np.abs(other).max() <= then["budget"]["eps"] and one.shape == other.shape
    assert [row["loss"] for row in again["trace"][:3]] == pytest.approx([row["loss"] for row in then["trace"][:3]])


def test_the_report_is_written_anew_with_the_headline_of_today(folder):
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    record = read_record(folder)
    # What the record holds, and what became what, which the report counts in the label maps.
    start, _, rest = record["summary"]["headline"].replace("'", "&#x27;").partition(": ")
    assert f"{start}: " in page and rest in page and "broke liver: of " in page
    assert ("not outlined" in page) == (folder.name == "expert")
