"""An expert's outline of some structures says nothing of the rest: these have no agreement with the expert, stay out of
means, goals and notes, and are compared with the clean prediction."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch

from perturbox import io
from perturbox.cli import main
from perturbox.job.execute import Job, prepare, run_job
from perturbox.job.folder import replay, verify
from perturbox.judge import metrics
from perturbox.types import InputError

TINY = f"{Path(__file__).parent / 'tiny.py'}:volume"
FLAT = f"{Path(__file__).parent / 'tiny.py'}:flat"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """ct.nii.gz, and liver.nii.gz: the liver alone, one voxel beside where it is predicted."""
    place = tmp_path_factory.mktemp("outlined")
    scan = io.read_volume(tiny.write_scan(place / "ct.nii.gz"))
    clean = tiny.volume(torch.device("cpu")).predict(scan)
    liver = np.roll(clean == 1, 1, axis=1)
    io.write_labels(place / "liver.nii.gz", liver.astype(np.uint8), scan)
    io.write_labels(place / "nothing.nii.gz", np.zeros_like(clean), scan)
    io.write_labels(place / "roi.nii.gz", np.ones_like(clean), scan)
    return place


def job(place: Path, label: str = "liver", **changes) -> Job:
    return Job(
        str(place / "ct.nii.gz"),
        **{"victim": TINY, "eps": 12, "steps": 2, "label": str(place / f"{label}.nii.gz")} | changes,
    )


@pytest.fixture(scope="module")
def result(place) -> Path:
    run_job(job(place), place / "R")
    return place / "R"


def labels_of(folder: Path, name: str) -> np.ndarray:
    return np.asanyarray(nib.load(folder / f"{name}.nii.gz").dataobj)


def test_what_was_not_outlined_has_no_agreement_with_the_expert(place, result):
    record = json.loads((result / "result.json").read_text())
    assert (record["reference"], record["outlined"]) == ("label", ["liver"])
    clean, after = labels_of(result, "clean_seg"), labels_of(result, "adversarial_seg")
    expert = np.asanyarray(nib.load(place / "liver.nii.gz").dataobj)
    for which, found in (("clean", clean), ("adversarial", after)):
        bone, liver = (record["metrics"][which][name] for name in ("bone", "liver"))
        assert [bone[key] for key in ("dice", "iou", "hd95_mm", "nsd")] == [None] * 4
        assert bone["volume_ml"] == pytest.approx((found == 2).sum() * np.prod(tiny.SPACING) / 1000)
        assert liver["dice"] == metrics.dice(found == 1, expert == 1)
    assert record["metrics"]["against_clean"]["bone"]["dice"] == metrics.dice(after == 2, clean == 2)
    # Of chance, too: the bone's is with the clean prediction, which noise of 12 HU hardly changes.
    assert record["control"]["noise"]["dice"]["bone"] > 0.95
    assert record["success"]["value"] == record["metrics"]["adversarial"]["liver"]["dice"]
    assert record["verdicts"]["bone"] == "not-outlined"
    before, now = (record["metrics"][which]["liver"]["dice"] for which in ("clean", "adversarial"))
    assert f"mean Dice {before:.2f} → {now:.2f};" in record["summary"]["headline"]
    assert not [text for text in record["warnings"] if text.startswith("Bone")]
    assert "bone" not in record["summary"]["headline"].partition(":")[0]  # the liver may have become bone


def test_it_verifies_and_replays(result, tmp_path):
    assert verify(result) == []
    again = replay(result, tmp_path / "again")
    assert np.array_equal(labels_of(result, "perturbation"), labels_of(tmp_path / "again", "perturbation"))
    stored = json.loads((result / "result.json").read_text())
    assert [again[key] for key in ("outlined", "metrics", "verdicts", "summary")] == [
        stored[key] for key in ("outlined", "metrics", "verdicts", "summary")
    ]


def test_a_structure_that_the_label_map_names_was_looked_for(place):
    """Naming it says that the expert found none: its Dice is 0 then, not missing; a replay knows it."""
    record = run_job(job(place, label_map="liver=1,bone=2"), place / "named")
    assert record["outlined"] == ["liver", "bone"]
    assert record["metrics"]["clean"]["bone"]["dice"] == 0.0
    assert verify(place / "named") == []
    assert replay(place / "named", place / "named-again")["metrics"] == record["metrics"]


def test_the_attack_leads_what_was_not_outlined_away_from_the_clean_prediction(place):
    """Not towards itself, as a label without it would have it: there every voxel of it counts as wrong already."""
    ready = prepare(job(place))
    clean = ready.victim.predict(ready.image)
    reference = ready.reference(clean)
    assert np.array_equal(reference == 1, ready.expert == 1)
    assert np.array_equal(reference == 2, (clean == 2) & (ready.expert == 0))
    assert prepare(job(place, label_map="liver=1,bone=2")).reference(clean).max() == 1


@pytest.mark.parametrize("goal", ["change", "vanish", "grow", "become=liver"])
def test_a_target_without_an_outline_is_refused_for_the_label(place, goal, tmp_path, capsys):
    arguments = ["attack", place / "ct.nii.gz", "--victim", TINY, "--label", place / "liver.nii.gz", "--steps", "1"]
    arguments += ["--target", "bone", "--goal", goal, "--out", tmp_path / "R"]
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "The label has no bone, though the model found bone" in said and "The model found no" not in said
    assert not (tmp_path / "R").exists()


def test_a_label_of_background_alone_is_refused(place, tmp_path):
    with pytest.raises(
        InputError, match=r"The label holds none of liver, bone, though the model found liver and bone;"
    ):
        run_job(job(place, "nothing"), tmp_path / "R")


def test_without_a_label_the_sentence_is_about_the_model(place, tmp_path):
    data = np.full(tiny.SHAPE, -100, np.int16)
    data[0] = -1000
    nib.save(nib.Nifti1Image(data, np.diag([*tiny.SPACING, 1.0])), tmp_path / "fat.nii.gz")
    with pytest.raises(InputError, match="The model found no bone in this scan"):
        run_job(Job(str(tmp_path / "fat.nii.gz"), TINY, steps=1, target=("bone",)), tmp_path / "R")


def test_an_expert_and_a_region_go_together(place):
    record = run_job(job(place, roi=str(place / "roi.nii.gz")), place / "region")
    assert record["outlined"] == ["liver"] and verify(place / "region") == []


def test_flat_images_too(tmp_path):
    data = tiny.scan()[:, :, 9]
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 1.0, 1.0])), tmp_path / "ct.nii.gz")
    liver = ((data > -50) & (data < 100)).astype(np.uint8)
    nib.save(nib.Nifti1Image(liver, np.diag([2.0, 2.0, 1.0, 1.0])), tmp_path / "liver.nii.gz")
    record = run_job(job(tmp_path, victim=FLAT), tmp_path / "R")
    assert record["outlined"] == ["liver"] and record["metrics"]["clean"]["bone"]["dice"] is None
    assert record["source"]["sizes"] == "cm²" and verify(tmp_path / "R") == []
    page = (tmp_path / "R" / "report.html").read_text(encoding="utf-8")
    assert "not outlined" in page and re.search(r"Area, cm²", page)
