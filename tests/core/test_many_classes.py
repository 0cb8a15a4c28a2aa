"""A model of 117 structures, as TotalSegmentator's is: it loads, segments and is attacked; what it takes of memory is
told beforehand, and what would not fit is refused with what would."""

import json
import math

import numpy as np
import pytest
import test_nnunet_folder
import tiny
import victims
from test_nnunet_folder import package  # noqa: F401  (a stand-in for nnU-Net's networks)
from torch import nn

from perturbox import io
from perturbox.cli import main
from perturbox.job.estimate import LOGITS_BUFFERS, SCAN_BUFFERS, Estimate, estimate_prediction, measure_costs
from perturbox.job.execute import Job, prepare, run_job
from perturbox.load import load_victim
from perturbox.model.windows import Window
from perturbox.types import InputError, Volume

NAMES = {"background": 0, **{f"structure_{k}": k for k in range(1, 118)}}


@pytest.fixture
def spec(tmp_path) -> str:
    plan = {"spacing": [3.0, 3.0, 3.0], "patch_size": [8, 8, 8]}
    return f"totalsegmentator:{test_nnunet_folder.make(tmp_path / 'task', 'CT', labels=NAMES, plan=plan)}"


def scan() -> Volume:
    data = np.random.default_rng(2).normal(40, 90, (1, 20, 18, 16)).round().astype(np.int16)
    return Volume(data, np.diag([2.5, 2.5, 2.5, 1.0]), "HU", np.dtype(np.int16))


def test_it_segments_and_is_attacked_in_one_structure(tmp_path, spec):
    victim, image = load_victim(spec), scan()
    labels = victim.predict(image)
    sizes = np.bincount(labels.ravel(), minlength=118)
    assert labels.dtype == np.uint8 and (sizes > 0).sum() > 20 and len(victim.structures) == 117
    largest = int(sizes[1:].argmax()) + 1
    io.write_volume(tmp_path / "ct.nii.gz", image)
    job = Job(str(tmp_path / "ct.nii.gz"), spec, "pgd", eps=20, steps=3, target=(f"structure_{largest}",), force=True)
    found = run_job(job, tmp_path / "R")
    assert found["metrics"]["adversarial"][f"structure_{largest}"]["dice"] < 0.9
    assert set(found["metrics"]["clean"]) == set(victim.structures)
    judged = io.read_labels(tmp_path / "R" / found["files"]["adversarial_seg"]["path"], image)
    saved = io.read_volume(tmp_path / "R" / "adversarial.nii.gz", unit="HU")
    assert np.array_equal(judged, victim.predict(saved)) and judged.max() > 100


# ---------------------------------------------------------------- memory


def many(classes: int):
    labels = {"background": 0, **{f"s{k}": k for k in range(1, classes)}}
    network = nn.Conv3d(1, classes, 1)
    return victims.organ_of(3, name="many", network=network, labels=labels, window=Window((8, 8, 8), batch=1))


@pytest.mark.parametrize("attack, held", [("pgd", LOGITS_BUFFERS), (None, LOGITS_BUFFERS)])
def test_each_class_costs_as_many_volumes_as_are_held(attack, held):
    """Scores, their gradient and a loss's temporaries, of the network's grid, in 4 bytes; all else doesn't grow."""
    image = victims.random_scan((14, 12, 10))
    ready = {k: prepare(Job("", attack=attack), image=image, victim=many(k)) if attack else None for k in (3, 118)}
    few, lots = (measure_costs(many(k), image, ready[k]) for k in (3, 118))
    assert lots.buffers - few.buffers == lots.scores - few.scores == (118 - 3) * held * 4 * 14 * 12 * 10
    assert few.buffers - few.scores == SCAN_BUFFERS * 4 * 14 * 12 * 10
    assert (few.classes, lots.classes) == (3, 118)


def told(least: int, available: int, grows: int, scores: int = 0, classes: int = 2) -> Estimate:
    return Estimate(1.0, 0.0, least, least, available, 1, "cpu", grows, scores, classes)


def test_what_would_not_fit_is_refused_with_what_would():
    """Of 20 GB 16 grow with the scan; 12 are free, so that 8 of the 16 may stay: one half of the voxels."""
    gb = 10**9
    told(12 * gb, 12 * gb, 10 * gb).require_room()
    with pytest.raises(InputError) as refusal:
        told(20 * gb, 12 * gb, 16 * gb, 14 * gb, 118).require_room()
    assert str(refusal.value) == (
        "This scan needs 20.0 GB of memory on cpu with this model, 14.0 GB of it for the scores of 118 classes, and "
        "12.0 GB are free; a part of it with 50 % of its voxels would fit: crop it to the organ, use a device with "
        "more memory, or pass --force to try."
    )
    with pytest.raises(InputError, match="no part of it would fit beside the model and one of its windows: choose"):
        told(20 * gb, 3 * gb, 16 * gb).require_room()


def test_the_part_that_is_said_to_fit_fits(monkeypatch):
    """With as much memory as the estimate says, a crop to its percentage is let through and a larger one isn't."""
    victim, base = many(118), 10**9
    monkeypatch.setattr("perturbox.job.estimate.peak_bytes", lambda device: base)
    monkeypatch.setattr("perturbox.job.estimate.available_bytes", lambda device: 10**7)
    image = victims.random_scan((40, 20, 20))
    with pytest.raises(InputError, match=r"with \d+ % of its voxels") as refusal:
        estimate_prediction(victim, image).require_room()
    part = int(str(refusal.value).partition("part of it with ")[2].split()[0]) / 100
    kept = math.floor(part * 40)
    estimate_prediction(victim, image.with_data(image.data[:, :kept])).require_room()
    with pytest.raises(InputError):
        estimate_prediction(victim, image.with_data(image.data[:, : kept + 2])).require_room()


def test_the_command_line_refuses_unless_told_to_go_on(tmp_path, monkeypatch, capsys):
    tiny.write_scan(tmp_path / "ct.nii.gz")
    monkeypatch.setattr("perturbox.job.estimate.available_bytes", lambda device: -(10**9))
    command = ["attack", str(tmp_path / "ct.nii.gz"), "--victim", f"{tiny.__file__}:volume", "--steps", "1"]
    command += ["--attack", "fgsm", "--eps", "12", "--out", str(tmp_path / "R")]
    assert main(command) == 2
    assert "GB of memory on cpu with this model" in capsys.readouterr().err and not (tmp_path / "R").exists()
    assert main([*command, "--force"]) == 0
    assert json.loads((tmp_path / "R" / "result.json").read_text())["force"] is True
