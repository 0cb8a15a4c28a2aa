"""Certificates through the job API: they equal `px.certify`, and what can't be asked is refused in a sentence."""

import time

import httpx
import nibabel as nib
import numpy as np
import pytest
import tiny
from jobs_client import fetch, fetch_json, post, refused, submit, wait, wait_until
from serving import TINY

import perturbox as px

ASKED = {"sigma": 20.0, "tau": 0.7, "alpha": 0.01, "n0": 4, "n": 60, "adaptive": True, "seed": 3}
OF_THIS_RUN = {"effort", "versions", "threads"}


@pytest.fixture(scope="module")
def http(server) -> httpx.Client:
    return server.http


@pytest.fixture(scope="module")
def certified(http) -> dict:
    """A certificate that is done."""
    return wait(http, submit(http, kind="certify", image="case_a", **ASKED)["id"])


@pytest.fixture(scope="module")
def direct(server) -> px.Certificate:
    """The same, asked for in Python."""
    return px.certify(server.studies / "case_a.nii.gz", TINY, **ASKED)


def values(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).astype(int)


def test_it_is_the_certificate_that_python_gives(http, certified, direct, tmp_path):
    place = f"/perturbox/jobs/{certified['id']}/files"
    listed = {entry["name"]: entry for entry in http.get(place).json()["files"]}
    maps = {"certified": direct.labels, "votes": direct.votes, "clean_seg": None}
    assert set(listed) == {*(f"{name}.nii.gz" for name in maps), "certificate.json", "certificate.html"}
    found, wanted = fetch_json(http, certified["id"], "certificate.json"), direct.record
    assert set(found) == set(wanted)
    for key in set(wanted) - OF_THIS_RUN:
        assert found[key] == wanted[key], key
    assert found["effort"]["forwards"] == wanted["effort"]["forwards"] == 1 + 4 + 60
    for name, labels in maps.items():
        path = fetch(http, certified["id"], f"{name}.nii.gz", tmp_path)
        assert listed[f"{name}.nii.gz"]["sha256"] == found["files"][name]["sha256"] == px_hash(direct, name)
        assert labels is None or np.array_equal(values(path), labels)
    page = fetch(http, certified["id"], "certificate.html", tmp_path).read_text(encoding="utf-8")
    assert found["summary"]["headline"].replace("'", "&#x27;") in page


def px_hash(direct, name: str) -> str:
    return direct.record["files"][name]["sha256"]


def test_its_status_says_what_was_asked_and_counts_copies(certified):
    asked = {"kind": "certify", "victim": "tiny", "device": "cpu", "force": False, "roi": False}
    assert certified["request"] == {**asked, **ASKED, "correction": "holm", "groups": None}
    progress = certified["progress"]
    assert (progress["step"], progress["steps"], progress["trace"]) == (64, 64, [])
    assert certified["warnings"] == []


def test_a_region_comes_along_and_alone_is_tested(http, server, tmp_path):
    mask = np.zeros(tiny.SHAPE, np.uint8)
    mask[6:14, 6:14, 5:9] = 1
    roi = tmp_path / "roi.nii.gz"
    nib.save(nib.Nifti1Image(mask, np.diag([*tiny.SPACING, 1.0])), roi)
    scan = server.studies / "case_a.nii.gz"
    job = submit(http, {"image": scan, "roi": roi}, kind="certify", sigma=20, n0=2, n=50)
    done = wait(http, job["id"])
    found = fetch_json(http, job["id"], "certificate.json")
    assert done["request"]["roi"] is True and found["tests"] == 8 * 8 * 4
    assert found["structures"] == px.certify(scan, TINY, sigma=20, n0=2, n=50, roi=roi).structures
    outside = values(fetch(http, job["id"], "certified.nii.gz", tmp_path))[mask == 0]
    assert set(outside.tolist()) == {found["values"]["not tested"]}


def counting(found: dict) -> bool:
    return (found["progress"]["step"] or 0) > 10


def test_stopped_with_what_it_has_it_certifies_by_fewer_votes(http):
    """The votes that are needed come early; whoever keeps them gets a certificate by them."""
    job = submit(http, kind="certify", image="case_a", sigma=20, n0=1, n=20_000)
    running = wait_until(http, job["id"], lambda found: (found["progress"]["step"] or 0) > 200)
    assert running["progress"]["steps"] == 20_001 and "Counting votes" in running["progress"]["phase"]
    assert http.post(f"/perturbox/jobs/{job['id']}/cancel", json={"keep": True}).status_code == 202
    wait(http, job["id"], "cancelled")
    found = fetch_json(http, job["id"], "certificate.json")
    assert found["stopped_early"] is True and 190 < found["n"] < 20_000
    assert found["certified_of_structures"] > 0.3


@pytest.mark.parametrize(("keep", "n0"), [(True, 60_000), (False, 1)], ids=["too-early", "dropped"])
def test_stopped_too_early_or_dropped_it_leaves_nothing(http, keep, n0):
    job = submit(http, kind="certify", image="case_a", sigma=20, n0=n0, n=20_000)
    wait_until(http, job["id"], counting)
    http.post(f"/perturbox/jobs/{job['id']}/cancel", json={"keep": keep})
    begun = time.monotonic()
    assert wait(http, job["id"], "cancelled")["error"] is None
    assert time.monotonic() - begun < 30
    assert refused(http.get(f"/perturbox/jobs/{job['id']}/files"), 409)["error"] == "no-result"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "A certificate needs 'sigma'"),
        ({"sigma": None}, "A certificate needs 'sigma'"),
        ({"sigma": 0}, "The field 'sigma' must be greater than 0, not 0."),
        ({"sigma": "20"}, "The field 'sigma' must be a valid number, not '20'."),
        ({"sigma": 1e9}, "The field 'sigma' must be less than or equal to 100000"),
        ({"sigma": 20, "tau": 0.5}, "The field 'tau' must be greater than 0.5, not 0.5."),
        ({"sigma": 20, "tau": 1}, "The field 'tau' must be less than 1, not 1."),
        (
            {"sigma": 20, "tau": 1 - 1e-15},
            "Even 65535 votes that agree certify nothing at tau 1 and alpha 0.001. Choose a",
        ),
        ({"sigma": 20, "tau": None}, "The field 'tau' must be a valid number, not None."),
        ({"sigma": 20, "alpha": 0}, "The field 'alpha' must be greater than 0"),
        ({"sigma": 20, "n": 0}, "The field 'n' must be greater than or equal to 1"),
        ({"sigma": 20, "n": 10**12}, "The field 'n' must be less than or equal to 65535"),
        ({"sigma": 20, "n": 3.5}, "The field 'n' must be a valid integer"),
        ({"sigma": 20, "n": True}, "The field 'n' must be a valid integer, not True."),
        ({"sigma": 20, "n0": 10**6}, "The field 'n0' must be less than or equal to 65535"),
        ({"sigma": 20, "n0": None}, "The field 'n0' must be a valid integer, not None."),
        ({"sigma": 20, "correction": "none"}, "The field 'correction' must be 'holm' or 'bonferroni', not 'none'."),
        ({"sigma": 20, "adaptive": 1}, "The field 'adaptive' must be a valid boolean"),
        ({"sigma": 20, "groups": {"soft": ["liver", "bone"]}}, "Groups of structures are answers of the adaptive"),
        ({"sigma": 20, "adaptive": True, "groups": {"x": ["gut", "bone"]}}, "The group 'x' names 'gut', which the"),
        ({"sigma": 20, "adaptive": True, "groups": {"x": "liver"}}, "The field 'groups' must be a valid array"),
        ({"sigma": 20, "adaptive": True, "groups": {"x": ["liver"]}}, "The group 'x' needs two structures or more."),
        ({"sigma": 20, "eps": 4}, "The field 'eps' means nothing for kind 'certify'. Leave it out."),
        ({"sigma": 20, "defense": ["median"]}, "The field 'defense' means nothing for kind 'certify'"),
        ({"sigma": 20, "seed": -1}, "The field 'seed' must be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(http, body, said):
    answer = refused(post(http, kind="certify", image="case_a", **body), 422)
    assert said in f"{answer['detail']} {answer['what_to_do']}"
    assert "--" not in answer["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("field", ["sigma", "tau", "alpha"])
def test_numbers_that_are_none_are_refused(http, field, value):
    given = {"kind": '"certify"', "image": '"case_a"', "sigma": "20", field: value}
    body = ", ".join(f'"{name}": {text}' for name, text in given.items())
    answer = http.post("/perturbox/jobs", content=f"{{{body}}}", headers={"Content-Type": "application/json"})
    assert f"The field '{field}' must be" in refused(answer, 422)["detail"]


def test_a_certificates_fields_mean_nothing_for_an_attack(http):
    answer = refused(post(http, image="case_a", sigma=20), 422)
    assert answer["detail"] == "The field 'sigma' means nothing for kind 'attack'."


def test_too_few_votes_are_refused_when_the_scan_is_known(http):
    job = submit(http, kind="certify", image="case_a", sigma=20, n=30)
    said = wait(http, job["id"], "failed")["error"]["detail"]
    assert said.startswith("30 votes can't certify any of 9,504 voxels at tau 0.75 and alpha 0.001; give 'n' 56")


def test_more_copies_than_the_server_allows_are_refused_when_the_scan_is_known(http, tmp_path):
    """A scan of 2.2 million voxels, 10^11 in all: 45 thousand copies."""
    big = tiny.write_scan(tmp_path / "big.nii.gz", (130, 130, 130))
    job = submit(http, {"image": big}, kind="certify", sigma=20, n=60_000)
    error = wait(http, job["id"], "failed")["error"]
    voxels = 130**3
    assert error["error"] == "bad-input"
    assert f"60,011 copies of {voxels:,} voxels are more than the 100,000,000,000 voxels" in error["detail"]
    assert f"or take {10**11 // voxels - 1:,} copies or fewer ('n0' and 'n')." in error["detail"]
