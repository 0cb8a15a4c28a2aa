"""What works bring back: results that can't be used, and whole jobs on the real server."""

import misbehaving as bad
import numpy as np
import pytest
from grids import AFFINES
from PerturboxLib import nrrd, tasks
from PerturboxLib.client import Client
from working import ending, scan, sent, until

PACE = tasks.Pace(poll=0.01, slowest=0.05, silence=0.1, patience=30, answer=1, tries=3)
FILES = {"image": ("scan.nrrd", b"voxels")}
GRID = (bad.SHAPE, bad.GRID)
REQUEST = {"kind": "attack", "eps": 4}


@pytest.fixture
def background():
    background = tasks.Background()
    yield background
    background.stop()
    assert background.wait(2), "its thread is still there after two seconds"


# ---------------------------------------------------------------- results that can't be used


def spoil(name: str, change) -> bad.Job:
    job = bad.Job()
    place = job.images if name in job.images else job.files
    place[name] = change(place[name])
    return job


OTHER = bad.GRID + np.array([[0, 0, 0, 0.01]] + [[0] * 4] * 3)
CHANGES = {
    "another grid": ("perturbation.nii.gz", lambda _: nrrd.encode(bad.volumes()["perturbation.nii.gz"], OTHER)),
    "another size": ("adversarial.nrrd", lambda _: nrrd.encode(np.zeros((3, 4, 6), np.int16), bad.GRID)),
    "a cut volume": ("clean_seg.nii.gz", lambda data: data[:-1]),
    "another format": ("difference_seg.nii.gz", lambda _: b"\x1f\x8b no NRRD"),
    "no JSON": ("result.json", lambda _: b"<html>"),
    "no object": ("result.json", lambda _: b"[]"),
}
CODES = {"another grid": "mismatch", "another size": "mismatch", "a cut volume": "truncated"}


@pytest.mark.parametrize("name", CHANGES)
def test_results_that_cannot_be_used(background, name):
    with bad.Misbehaving(spoil(*CHANGES[name])) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        events = ending(background)
    assert events[-1].name == "trouble" and events[-1].data.code == CODES.get(name, "bad-file"), events[-1].data.detail
    if name == "another grid":
        assert str(events[-1].data) == (
            "The result does not line up with the scan (different geometry). It was not loaded."
        )


@pytest.mark.parametrize("name", ["adversarial.nrrd", "adversarial_seg.nii.gz", "result.json"])
def test_a_result_without_one_of_its_files(background, name):
    job = bad.Job()
    job.images.pop(name, None)
    job.files.pop(name, None)
    with bad.Misbehaving(job) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        error = ending(background)[-1].data
    assert error.code == "no-file" and name.partition(".")[0] in error.sentence


def test_images_must_agree_with_each_other_where_no_grid_is_known(background):
    with bad.Misbehaving(spoil(*CHANGES["another grid"])) as server:
        background.start(tasks.follow(Client(server.url), bad.ID, None, PACE))
        assert ending(background)[-1].data.code == "mismatch"
        server.job = bad.Job()
        background.start(tasks.follow(Client(server.url), bad.ID, None, PACE))
        assert ending(background)[-1].name == "result"


def test_a_kind_from_the_future(background):
    job = bad.Job()
    job.kind = "explain"
    with bad.Misbehaving(job) as server:
        background.start(tasks.follow(Client(server.url), bad.ID, GRID, PACE))
        assert ending(background)[-1].data.code == "odd-answer"


# ---------------------------------------------------------------- the real server


@pytest.mark.parametrize("grid", AFFINES)
def test_a_real_attack_comes_back_on_the_scans_own_grid(background, tiny_server, grid):
    files, where = sent(grid)
    request = {"kind": "attack", "attack": "pgd", "eps": 10, "steps": 3, "seed": 1}
    background.start(tasks.run(Client(tiny_server.url, tiny_server.token), request, files, where))
    events = ending(background, 120)
    bundle = events[-1].data
    assert events[-1].name == "result", bundle
    images, record = bundle.images, bundle.record
    assert np.array_equal(images["perturbed"].array - images["perturbation"].array, scan())
    assert 0 < np.abs(images["perturbation"].array).max() == record["budget"]["measured"]["linf"] <= 10
    clean, adversarial = images["clean"].array, images["adversarial"].array
    voxel = np.prod(record["source"]["spacing_mm"]) / 1000
    assert record["metrics"]["clean"]["liver"]["volume_ml"] == pytest.approx((clean == 1).sum() * voxel)
    assert record["metrics"]["adversarial"]["liver"]["volume_ml"] == pytest.approx((adversarial == 1).sum() * voxel)
    assert np.array_equal(images["difference"].array == 1, (clean != 0) & (adversarial == 0))
    assert bundle.report.startswith("<!doctype html>") and record["attack"]["parameters"]["eps"] == 10


def test_a_real_segmentation_tells_the_noise(background, tiny_server):
    files, where = sent("oblique")
    background.start(tasks.run(Client(tiny_server.url, tiny_server.token), {"kind": "segment"}, files, where))
    bundle = ending(background, 120)[-1].data
    assert set(bundle.record["noise"]) == {"sigma", "region"}
    # The model smooths, so the liver's outermost layer of voxels is lost to the fat around it.
    assert np.array_equal(bundle.images["segmentation"].array[5:-5, 6:-6, 6:-6], np.ones((8, 10, 12)))
    assert bundle.images["segmentation"].array.sum() == 8 * 10 * 12


def test_a_real_attack_is_stopped_with_the_best_so_far_and_followed_from_elsewhere(background, tiny_server):
    files, where = sent("axial")
    client = Client(tiny_server.url, tiny_server.token)
    background.start(tasks.run(client, {"kind": "attack", "eps": 2, "steps": 5000}, files, where))
    events = until(background, lambda e: e.name == "status" and len(e.data["progress"]["trace"]) >= 2, 120)
    jobId = events[0].data["id"]
    background.stop()
    other = tasks.Background()
    other.start(tasks.follow(Client(tiny_server.url, tiny_server.token), jobId, where))
    until(other, lambda event: event.name == "status")
    other.cancel(keep=True)
    events = ending(other, 120)
    bundle = events[-1].data
    assert events[-1].name == "result" and bundle.status["state"] == "cancelled"
    assert bundle.record["stopped_early"].startswith("stopped at step ")
    assert "perturbed" in bundle.images


def test_a_real_attack_that_is_dropped_leaves_nothing(background, tiny_server):
    files, where = sent("axial")
    client = Client(tiny_server.url, tiny_server.token)
    background.start(tasks.run(client, {"kind": "attack", "eps": 2, "steps": 5000}, files, where))
    until(background, lambda e: e.name == "status" and e.data["state"] == "running", 120)
    background.cancel(keep=False)
    events = ending(background, 120)
    assert events[-1].name == "over" and events[-1].data["state"] == "cancelled"


def test_a_real_failure_is_the_servers_sentence(background, tiny_server):
    array = np.full((18, 22, 24), 5, np.int16)
    array[0] = 255  # a picture, not CT
    files = {"image": ("scan.nrrd", nrrd.encode(array, AFFINES["axial"]))}
    background.start(tasks.run(Client(tiny_server.url, tiny_server.token), {"kind": "segment"}, files))
    error = ending(background, 120)[-1].data
    assert error.code == "bad-input" and error.sentence and error.whatToDo, error
