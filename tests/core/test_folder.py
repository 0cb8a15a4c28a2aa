"""A result folder is complete in itself: it replays, it verifies, and it tells a touched number or file."""

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch

from perturbox import io
from perturbox.job.execute import Job, Listener, prepare, run_job, segment
from perturbox.job.folder import differences, read_scans, replay, verify
from perturbox.judge.noise import scan_noise
from perturbox.judge.record import read_record
from perturbox.types import ADVERSARIAL_NOTICE, InputError, Volume

TINY = f"{Path(__file__).parent / 'tiny.py'}:volume"


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """The tiny victim's scan as int16 on an oblique grid."""
    data = tiny.scan().astype(np.float32)
    affine = np.array([[2.9, -0.3, 0, -40], [0.3, 2.9, 0.1, -35], [0, -0.1, 3, 12], [0, 0, 0, 1.0]])
    path = tmp_path_factory.mktemp("scan") / "ct.nii.gz"
    io.write_volume(path, Volume(data[None], affine, "HU", np.dtype(np.int16)))
    return path


@pytest.fixture(scope="module")
def folder(scan, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("results") / "pgd"
    run_job(Job(str(scan), victim=TINY, eps=12, steps=4, seed=3), out)
    return out


def test_the_perturbed_file_keeps_the_sources_storage_and_says_what_it_is(scan, folder):
    source, saved = nib.load(scan), nib.load(folder / "adversarial.nii.gz")
    assert saved.get_data_dtype() == np.int16 and saved.shape == source.shape
    assert np.array_equal(saved.affine, source.affine)
    delta = np.asanyarray(saved.dataobj).astype(int) - np.asanyarray(source.dataobj)
    assert 0 < np.abs(delta).max() <= 12
    stored = np.asanyarray(nib.load(folder / "perturbation.nii.gz").dataobj)
    assert np.array_equal(stored, delta)
    assert ADVERSARIAL_NOTICE in str(saved.header["descrip"])
    assert read_record(folder)["notice"] == ADVERSARIAL_NOTICE


def test_the_clean_scan_is_the_adversarial_minus_the_perturbation_exactly(scan, folder):
    clean, _ = read_scans(folder, read_record(folder))
    assert np.array_equal(clean.data, io.read_volume(scan).data)


def test_every_number_verifies_and_a_touched_one_is_found(folder, tmp_path):
    assert verify(folder, trust=True) == []
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    result = json.loads((copy / "result.json").read_text())
    result["metrics"]["adversarial"]["liver"]["dice"] += 0.01
    (copy / "result.json").write_text(json.dumps(result))
    problems = verify(copy, trust=True)
    assert [line.partition(": ")[0] for line in problems] == ["metrics.adversarial.liver.dice", "report.html"]


def test_a_touched_scan_is_found(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    saved = nib.load(copy / "adversarial.nii.gz")
    data = np.asanyarray(saved.dataobj).copy()
    data[4:10, 8:14, 6:12] += 200
    nib.save(nib.Nifti1Image(data, saved.affine, saved.header), copy / "adversarial.nii.gz")
    assert verify(copy, trust=True)


def test_replay_makes_identical_files(folder, tmp_path):
    replay(folder, tmp_path / "again", trust=True)
    for name in (
        "adversarial.nii.gz",
        "influence.nii.gz",
        "perturbation.nii.gz",
        "clean_seg.nii.gz",
        "adversarial_seg.nii.gz",
        "difference_seg.nii.gz",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
    first, second = read_record(folder), read_record(tmp_path / "again")
    for result in (first, second):
        for key in ("effort", "warnings"):
            del result[key]
        result["source"].pop("sha256")
    assert first == second


def test_the_same_seed_twice_gives_identical_files_and_another_seed_does_not(scan, folder, tmp_path):
    for place, seed in (("one", 3), ("same", 3), ("other", 4)):  # pgd starts at random
        run_job(Job(str(scan), victim=TINY, attack="pgd", eps=12, steps=4, seed=seed), tmp_path / place)
    one, same, other = ((tmp_path / p / "adversarial.nii.gz").read_bytes() for p in ("one", "same", "other"))
    assert one == same != other


def test_a_victim_and_a_scan_that_are_loaded_already_give_the_same_result(scan, folder, tmp_path):
    job = Job(str(scan), victim=TINY, eps=12, steps=4, seed=3)
    run_job(job, tmp_path / "again", victim=tiny.volume(torch.device("cpu")))
    again, first = (read_record(place) for place in (tmp_path / "again", folder))
    for result in (again, first):
        for key in ("seconds", "cpu_seconds", "peak_bytes"):
            del result["effort"][key]
    assert again == first
    for entry in filter(None, first["files"].values()):
        name = entry["path"]
        stored = (folder / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == stored, name
        assert hashlib.sha256(stored).hexdigest() == entry["sha256"], name


def test_a_victim_that_is_handed_in_is_the_one_attacked(scan):
    given = tiny.volume(torch.device("cpu"))
    assert prepare(Job(str(scan), victim="no such model"), victim=given).victim is given


def test_a_segmentation_is_the_models_prediction_with_its_volumes(scan, tmp_path):
    said: list[str] = []
    job = Job(str(scan), victim=TINY)
    found = segment(job, tmp_path / "new" / "seg.nii.gz", Listener(say=said.append))
    image, victim = io.read_volume(scan), tiny.volume(torch.device("cpu"))
    labels = io.read_labels(tmp_path / "new" / "seg.nii.gz", image)
    assert np.array_equal(labels, victim.predict(image))
    assert found["volumes_ml"] == {
        "liver": pytest.approx((labels == 1).sum() * image.voxel_ml),
        "bone": pytest.approx((labels == 2).sum() * image.voxel_ml),
    }
    assert found["noise"] == scan_noise(image.data[0], labels, victim.labels, image.spacing)
    assert found["schema"] == "perturbox-segmentation/1" and found["warnings"] == []
    assert found["victim"]["sha256"] == victim.sha256 and found["victim"]["spec"] == TINY
    assert found["versions"]["torch"] == torch.__version__ and 0 < found["seconds"] < 60
    assert said == ["Segmenting"] and json.loads(json.dumps(found)) == found
    again = segment(job, tmp_path / "seg.nii", image=image, victim=victim)
    assert again["volumes_ml"] == found["volumes_ml"]
    assert np.array_equal(io.read_labels(tmp_path / "seg.nii", image), labels)


def test_a_segmentation_tells_the_scans_own_noise(tmp_path):
    path = tiny.write_scan(tmp_path / "larger.nii.gz", shape=(48, 44, 36))
    found = segment(Job(str(path), victim=TINY), tmp_path / "seg.nii.gz")["noise"]
    image = io.read_volume(path)
    labels = io.read_labels(tmp_path / "seg.nii.gz", image)
    assert found == scan_noise(image.data[0], labels, tiny.LABELS, image.spacing)
    assert found["sigma"] == pytest.approx(3, rel=0.05)  # as the scan was made
    assert found["region"].startswith("liver eroded 5 mm")


def test_a_segmentation_overwrites_nothing_and_wants_a_name_for_label_maps(scan, tmp_path):
    (tmp_path / "taken.nii.gz").touch()
    for name, words in (("taken.nii.gz", "exists already"), ("seg.png", "can't hold a label map")):
        with pytest.raises(InputError, match=words):
            segment(Job(str(scan), victim=TINY), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.nii.gz"]


def test_stopping_leaves_a_valid_result_that_says_so(scan, tmp_path):
    steps = []
    listener = Listener(step=steps.append, stop=lambda: len(steps) >= 2)
    result = run_job(Job(str(scan), victim=TINY, eps=12, steps=30), tmp_path / "partial", listener)
    assert result["stopped_early"] == "stopped at step 2 of 30"
    assert len(result["trace"]) == 2
    assert verify(tmp_path / "partial", trust=True) == []


def test_float_scans_replay_exactly_too(scan, tmp_path):
    image = io.read_volume(scan)
    data = image.data + np.random.default_rng(1).random(image.data.shape, dtype=np.float32)
    io.write_volume(tmp_path / "ct.nii.gz", image.with_data(data, dtype=np.dtype(np.float32)))
    run_job(Job(str(tmp_path / "ct.nii.gz"), victim=TINY, eps=12, steps=2), tmp_path / "result")
    clean, adversarial = read_scans(tmp_path / "result", read_record(tmp_path / "result"))
    assert adversarial.dtype == np.float32
    assert np.array_equal(clean.data, data)
    assert verify(tmp_path / "result", trust=True) == []


def test_differences_names_the_place():
    assert list(differences({"a": [1, 2.0]}, {"a": [1, 2.0 + 1e-9]}, "x")) == []
    assert list(differences({"a": [1, 2.0]}, {"a": [1, 2.5]}, "x")) == ["x.a[1]: result.json says 2, the files say 2.5"]
    assert list(differences({"a": 1}, {"b": 1}, "x")) == [
        "x.a: result.json says 1, which isn't known here",
        "x.b: result.json lacks it, the files say 1",
    ]


def test_what_is_no_result_folder_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match="no result folder"):
        verify(tmp_path, trust=True)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        verify(tmp_path, trust=True)
