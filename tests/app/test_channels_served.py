"""Scans of several channels and limits in other units, through the server: several files in one form."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from jobs_client import fetch, fetch_json, refused, wait

import perturbox as px

FOUR = f"{Path(__file__).resolve().parents[1] / 'core' / 'mr.py'}:four"
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from serving import start_server

    server = start_server(tmp_path_factory.mktemp("channels"), victims=[FOUR])
    yield server
    server.stop()


@pytest.fixture
def files(tmp_path) -> list[Path]:
    import mr

    paths = [tmp_path / f"sequence{number}.nii.gz" for number in range(4)]
    for path, values in zip(paths, mr.sequences((30, 28, 24)), strict=True):
        nib.save(nib.Nifti1Image(values, AFFINE), path)
    return paths


def send(http, files, **body):
    parts = [("image", (path.name, path.read_bytes())) for path in files]
    return http.post("/perturbox/jobs", data={"request": json.dumps(body)}, files=parts)


def test_several_files_are_one_scan_and_make_what_the_core_makes(served, files, tmp_path):
    asked = {"attack": "pgd", "steps": 2, "eps": 2, "eps_unit": "percent"}
    answer = send(served.http, files, kind="attack", **asked)
    assert answer.status_code == 202, answer.text
    job = wait(served.http, answer.json()["id"])
    assert job["request"]["eps_unit"] == "percent" and job["warnings"] == fetch_json(served.http, job["id"])["warnings"]
    here = px.attack([str(path) for path in files], FOUR, "pgd", eps=2, eps_unit="percent", steps=2)
    for number in range(4):
        name = f"adversarial_000{number}.nii.gz"
        there = fetch(served.http, job["id"], name, tmp_path)
        assert there.read_bytes() == (here.folder / name).read_bytes()
    again = served.http.post(f"/perturbox/jobs/{job['id']}/resubmit")
    assert wait(served.http, again.json()["id"])["state"] == "done"
    schema = served.http.get("/perturbox/schema").json()
    assert (schema["victims"][0]["channels"], schema["victims"][0]["channel_names"][2]) == (4, "T2")
    fields = schema["models"]["four-pgd"]["config_schema"]["properties"]
    assert fields["eps"]["x-unit"] == fields["alpha"]["x-unit"] == "intensity"


def test_a_form_with_another_number_of_files_is_refused(served, files):
    said = refused(send(served.http, files[:3], kind="segment"), 422)
    assert "3 files of one scan came along and four reads 4 channels" in said["detail"]
    assert said["what_to_do"].startswith("Send one file for each")
    answer = send(served.http, files[:1], kind="segment")
    problem = wait(served.http, answer.json()["id"], "failed")["error"]
    assert "This scan has 1 channel and four reads 4 (T1, T1 with contrast, T2, FLAIR)" in problem["detail"]


def test_grids_that_differ_are_told_without_paths_of_the_server(served, files):
    nib.save(nib.Nifti1Image(np.arange(24.0).reshape(2, 3, 4), AFFINE), files[2])
    answer = send(served.http, files, kind="segment")
    problem = wait(served.http, answer.json()["id"], "failed")["error"]
    assert "don't lie on the same voxels: 30 × 28 × 24 and 2 × 3 × 4 voxels" in problem["detail"]
    assert str(served.home) not in problem["detail"]
