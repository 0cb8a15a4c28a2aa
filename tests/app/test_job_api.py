"""The job API against a real server, by plain HTTP: the whole life of a job, and every refusal on the way."""

import hashlib
import http.client as http_client
import io as streams
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from jobs_client import climbing, fetch, fetch_json, post, refused, status, submit, wait, wait_until
from serving import TINY, clean_environment

from perturbox import io
from perturbox.types import ADVERSARIAL_NOTICE

LONG = {"image": "case_a", "steps": 10_000, "eps": 1.0}  # too small a change to break anything, so it goes on
QUICK = {"image": "case_a", "steps": 3, "eps": 8, "seed": 5}


@pytest.fixture(scope="module")
def http(server) -> httpx.Client:
    return server.http


@pytest.fixture(scope="module")
def attacked(http) -> dict:
    """An attack that is done."""
    return wait(http, submit(http, **QUICK)["id"])


@pytest.fixture
def climb(http):
    """An attack in the midst of its steps, ended after the test."""
    job = submit(http, **LONG)
    wait_until(http, job["id"], climbing)
    yield job["id"]
    http.post(f"/perturbox/jobs/{job['id']}/cancel")
    wait(http, job["id"], None)


# ---------------------------------------------------------------- what is offered


def test_schema_offers_what_the_operator_serves(http):
    answer = http.get("/perturbox/schema", headers={"Perturbox-API": "1"})
    assert answer.status_code == 200 and answer.headers["Perturbox-API"] == "1.0"
    schema = answer.json()
    assert [victim["name"] for victim in schema["victims"]] == ["tiny"]
    assert schema["models"]["tiny-pgd"]["config_schema"]["properties"]["eps"]["x-unit"] == "HU"
    assert schema["limits"]["upload_bytes"] > 2**20 and schema["limits"]["waiting"] >= 1
    assert schema["notice"] == ADVERSARIAL_NOTICE and schema["device"] == "cpu"


@pytest.mark.parametrize(("version", "side"), [("2", "server"), ("0", "client")])
@pytest.mark.parametrize("route", ["schema", "jobs", "health"])
def test_a_client_of_another_major_version_is_told_which_side_to_update(http, route, version, side):
    answer = http.get(f"/perturbox/{route}", headers={"Perturbox-API": version})
    assert refused(answer, 409)["what_to_do"] == f"Update the {side}."
    assert answer.headers["Perturbox-API"] == "1.0"


def test_health_counts_workers_and_jobs(http):
    health = http.get("/perturbox/health").json()
    assert (health["api"], health["workers"], health["scheduler"]) == ("1.0", 1, "embedded")
    assert health["queued"] >= 0 and health["running"] >= 0


def test_the_api_page_describes_every_route(http):
    page = http.get("/openapi.json").json()
    ours = {path: set(operations) for path, operations in page["paths"].items() if path.startswith("/perturbox")}
    assert ours == {
        "/perturbox/schema": {"get"},
        "/perturbox/health": {"get"},
        "/perturbox/jobs": {"get", "post"},
        "/perturbox/jobs/{id}": {"get", "delete"},
        "/perturbox/jobs/{id}/cancel": {"post"},
        "/perturbox/jobs/{id}/resubmit": {"post"},
        "/perturbox/jobs/{id}/files": {"get"},
        "/perturbox/jobs/{id}/files/{name}": {"get"},
        "/perturbox/jobs/{id}/result.zip": {"get"},
        "/perturbox/compare": {"get"},
        "/perturbox/studies": {"get"},
        "/perturbox/studies/{name}": {"get"},
        "/perturbox/studies/{name}/report.html": {"get"},
    }
    for path in ours:
        for operation in page["paths"][path].values():
            assert operation["tags"] == ["Perturbox"] and operation["summary"]
            assert operation["responses"]["422"]["content"]["application/json"]["schema"]
    body = page["paths"]["/perturbox/jobs"]["post"]["requestBody"]["content"]
    assert body["application/json"]["schema"]["additionalProperties"] is False
    assert set(body["multipart/form-data"]["schema"]["properties"]) == {"request", "image", "label", "roi"}


# ---------------------------------------------------------------- the life of an attack


def test_an_attacks_life(http, server):
    answer = post(http, **QUICK)
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["Location"] == f"/perturbox/jobs/{job['id']}"
    assert job["kind"] == "attack" and job["image"] == "case_a" and job["error"] is None
    assert job["request"] == {
        "kind": "attack",
        "victim": "tiny",
        "device": "cpu",
        "force": False,
        "attack": "annealed",
        "norm": "linf",
        "steps": 3,
        "goal": "change",
        "seed": 5,
        "target": [],
        "settings": {},
        "eps": 8.0,
        "eps_unit": "native",
        "label": False,
        "label_map": None,
        "roi": False,
        "surrogate": [],
    }
    done = wait(http, job["id"])
    assert done["created"] <= done["started"] <= done["finished"] and done["finished"].endswith("Z")
    trace = done["progress"]["trace"]
    assert [point["step"] for point in trace] == [0, 1, 2, 3] and done["progress"]["trace_next"] == 4
    assert set(trace[0]["dice"]) == {"liver", "bone"} and 0 <= trace[-1]["score"] <= 1
    assert status(http, job["id"], since=3)["progress"]["trace"] == trace[3:]
    assert status(http, job["id"], since=99)["progress"]["trace"] == []
    assert job["id"] in [entry["id"] for entry in http.get("/perturbox/jobs").json()["jobs"]]
    assert str(server.home) not in json.dumps(done) and str(server.studies) not in json.dumps(done)


def test_an_attack_behind_a_defence_from_the_form_that_the_schema_gives(http):
    fields = http.get("/perturbox/schema").json()["models"]["tiny"]["defenses"]["bit-depth"]["properties"]
    assert {name: field["default"] for name, field in fields.items()} == {"bits": 3, "low": -250.0, "high": 350.0}
    spec = "bit-depth:bits=5:low=-250.0:high=350.0"
    job = post(http, **QUICK, defense=[spec]).json()
    assert job["request"]["defense"] == [spec]
    done = wait(http, job["id"])
    record = fetch_json(http, job["id"])
    assert [one["spec"] for one in record["victim"]["defense"]] == [spec]
    rows, mean = record["defense"]["dice"], record["summary"]["defense"]
    assert set(mean) == {"clean", "oblivious", "adaptive", "undefended"}
    assert mean["adaptive"] == pytest.approx(sum(rows["adaptive"].values()) / 2)
    # Three attacks in one trace: without the defence, and through it with either stand-in.
    assert [point["step"] for point in done["progress"]["trace"]] == [0, 1, 2, 3] * 3


def test_the_result_comes_file_by_file_and_as_one_zip(http, attacked, tmp_path):
    place = attacked["links"]["files"]
    listed = {entry["name"]: entry for entry in http.get(place).json()["files"]}
    wanted = {"adversarial.nii.gz", "clean_seg.nii.gz", "adversarial_seg.nii.gz", "difference_seg.nii.gz"}
    assert set(listed) == wanted | {"perturbation.nii.gz", "influence.nii.gz", "result.json", "report.html"}
    answer = http.get(attacked["links"]["zip"])
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(streams.BytesIO(answer.content)) as archive:
        packed = {Path(name).name: archive.read(name) for name in archive.namelist()}
    assert set(packed) == set(listed)
    for name, entry in listed.items():
        answer = http.get(f"{place}/{name}")
        assert answer.status_code == 200 and len(answer.content) == entry["bytes"]
        assert hashlib.sha256(answer.content).hexdigest() == entry["sha256"]
        assert answer.headers["ETag"] == f'"{entry["sha256"]}"'
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert packed[name] == answer.content


def test_a_file_is_sent_once_and_in_part(http, attacked):
    place = f"{attacked['links']['files']}/adversarial.nii.gz"
    whole = http.get(place)
    assert http.get(place, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    part = http.get(place, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole.content[10:20]


def test_volumes_come_as_raw_nrrd(http, attacked, tmp_path):
    saved = io.read_volume(fetch(http, attacked["id"], "adversarial.nii.gz", tmp_path))
    answer = http.get(f"{attacked['links']['files']}/adversarial.nii.gz", params={"format": "nrrd"})
    assert answer.headers["Content-Disposition"] == 'attachment; filename="adversarial.nrrd"'
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    (tmp_path / "adversarial.nrrd").write_bytes(answer.content)
    converted = io.read_volume(tmp_path / "adversarial.nrrd")
    assert np.array_equal(converted.data, saved.data) and converted.same_grid(saved)
    assert ADVERSARIAL_NOTICE.encode() in answer.content.partition(b"\n\n")[0]
    told = refused(http.get(f"{attacked['links']['files']}/result.json", params={"format": "nrrd"}), 422)
    assert told["detail"] == "'result.json' is not a volume."


@pytest.mark.parametrize(
    "name",
    [
        *("nothing.nii.gz", "../inputs/image/scan.nii.gz", "..%2finputs%2fimage%2fscan.nii.gz"),
        *("%2e%2e/%2e%2e/jobs.sqlite", "/etc/passwd", "%2fetc%2fpasswd", ".", "%00"),
    ],
)
def test_no_name_leads_out_of_the_result_folder(server, attacked, name):
    connection = http_client.HTTPConnection(server.url.removeprefix("http://"))  # which sends a path as it is
    connection.request("GET", f"/perturbox/jobs/{attacked['id']}/files/{name}", headers=server.headers)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"]) == (404, "no-such-file")
    connection.close()


def test_the_result_is_the_command_lines_byte_for_byte(http, server, attacked, tmp_path):
    """Same seed, same threads: equal voxels in every volume, equal numbers but for times, places and memory."""
    result = fetch_json(http, attacked["id"])
    out = tmp_path / "command-line"
    command = [sys.executable, "-m", "perturbox", "attack", str(server.studies / "case_a.nii.gz"), "--victim", TINY]
    command += ["--steps", "3", "--eps", "8", "--seed", "5", "--out", str(out)]
    threads = str(result["threads"])
    done = subprocess.run(
        command, env=clean_environment(OMP_NUM_THREADS=threads), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    own = json.loads((out / "result.json").read_text())
    assert own["threads"] == result["threads"]
    for name in ("adversarial", "perturbation", "clean_seg", "adversarial_seg", "difference_seg"):
        ours = nib.load(fetch(http, attacked["id"], f"{name}.nii.gz", tmp_path))
        theirs = nib.load(out / f"{name}.nii.gz")
        assert ours.dataobj.get_unscaled().tobytes() == theirs.dataobj.get_unscaled().tobytes(), name
        assert ours.header.binaryblock == theirs.header.binaryblock, name
    for document in (own, result):
        for key in ("seconds", "cpu_seconds", "peak_bytes"):
            del document["effort"][key]
    assert result == own


# ---------------------------------------------------------------- other kinds and sources


def test_a_segmentation(http, server, tmp_path):
    done = wait(http, submit(http, kind="segment", image="case_b")["id"])
    assert done["request"] == {"kind": "segment", "victim": "tiny", "device": "cpu", "force": False}
    assert done["progress"]["trace"] == []
    scan = io.read_volume(server.studies / "case_b.nii.gz")
    labels = io.read_labels(fetch(http, done["id"], "segmentation.nii.gz", tmp_path), scan, {0, 1, 2})
    told = fetch_json(http, done["id"])
    voxel_ml = 2 * 2 * 3 / 1000
    assert told["volumes_ml"] == pytest.approx(
        {"liver": (labels == 1).sum() * voxel_ml, "bone": (labels == 2).sum() * voxel_ml}
    )


def test_an_attack_crafted_on_a_surrogate_is_judged_on_the_victim(http):
    """Here the surrogate is the victim itself, so that the attack must work; the record says which it was."""
    job = wait(http, submit(http, **QUICK, surrogate=["tiny"])["id"])
    result = fetch_json(http, job["id"])
    assert job["request"]["surrogate"] == ["tiny"] and [model["name"] for model in result["surrogates"]] == ["tiny"]
    assert result["budget"]["measured"]["linf"] <= 8 and result["metrics"]["adversarial"]["liver"]["dice"] < 0.9
    said = refused(post(http, **QUICK, surrogate=["other"]), 422)
    assert "no victim 'other'" in said["detail"]


def test_eps_caps_an_attack_with_a_budget_of_its_own_only_where_it_is_given(http):
    free = {"image": "case_a", "attack": "bias-field", "steps": 2}
    results = [fetch_json(http, wait(http, submit(http, **free, **cap)["id"])["id"]) for cap in ({}, {"eps": 3.0})]
    assert [result["attack"]["parameters"]["eps"] for result in results] == [None, 3.0]
    assert results[1]["budget"]["measured"]["linf"] <= 3 < results[0]["budget"]["measured"]["linf"]


def test_a_margin_through_a_surrogate(http):
    """Here the surrogate is the victim itself, so both searches must find the same."""
    asked = {"kind": "margin", "image": "case_a", "max_eps": 8, "steps": 2, "target": ["liver"]}
    done = [wait(http, submit(http, **asked, **more)["id"]) for more in ({}, {"surrogate": ["tiny"]})]
    assert [job["request"]["surrogate"] for job in done] == [[], ["tiny"]]
    margins = [fetch_json(http, job["id"], "margin.json") for job in done]
    assert [[model["name"] for model in margin["surrogates"]] for margin in margins] == [[], ["tiny"]]
    assert margins[0]["structures"] == margins[1]["structures"]


def test_a_margin(http):
    done = wait(http, submit(http, kind="margin", image="case_a", max_eps=8, steps=2, target=["liver"])["id"])
    assert done["request"]["max_eps"] == 8 and "eps" not in done["request"]
    margin = fetch_json(http, done["id"], "margin.json")
    row = margin["structures"]["liver"]
    assert (row["breaks_at"] or row["above"]) <= 8
    if row["witness"]:
        names = [entry["name"] for entry in http.get(done["links"]["files"]).json()["files"]]
        assert f"{row['witness']}/adversarial.nii.gz" in names


def test_an_upload_with_label_and_roi(http, server, tmp_path):
    """The label's own values are read by the map; nothing outside of the ROI changes."""
    scan = nib.load(server.studies / "case_a.nii.gz")
    voxels = np.asarray(scan.dataobj)
    label = np.where((voxels > -50) & (voxels < 100), 5, 0) + np.where(voxels > 200, 7, 0)
    roi = np.zeros(voxels.shape, np.uint8)
    roi[4:14, 4:14, 4:12] = 1
    for name, array in (("label", label.astype(np.uint8)), ("roi", roi)):
        nib.save(nib.Nifti1Image(array, scan.affine), tmp_path / f"{name}.nii.gz")
    files = {
        "image": ("../Some Patient.nii.gz", (server.studies / "case_a.nii.gz").read_bytes()),
        "label": tmp_path / "label.nii.gz",
        "roi": tmp_path / "roi.nii.gz",
    }
    job = submit(http, files, steps=2, eps=6, label_map="liver=5,bone=7")
    assert job["image"] == "Some Patient.nii.gz"
    done = wait(http, job["id"])
    assert (done["request"]["label"], done["request"]["roi"]) == (True, True)
    result = fetch_json(http, done["id"])
    assert result["reference"] == "label"
    reference = np.asarray(nib.load(fetch(http, done["id"], "reference_seg.nii.gz", tmp_path)).dataobj)
    assert np.array_equal(reference == 1, label == 5) and np.array_equal(reference == 2, label == 7)
    change = np.asarray(nib.load(fetch(http, done["id"], "perturbation.nii.gz", tmp_path)).dataobj)
    assert change[roi > 0].any() and not change[roi == 0].any()


def test_a_label_of_the_datastore_and_a_session(http, server):
    """A tag names a label saved under it; a session's scan is attacked like any other."""
    content = (server.studies / "case_b.nii.gz").read_bytes()
    voxels = np.asarray(nib.load(server.studies / "case_b.nii.gz").dataobj)
    label = np.where((voxels > -50) & (voxels < 100), 1, 0) + np.where(voxels > 200, 2, 0)
    packed = nib.Nifti1Image(label.astype(np.uint8), nib.load(server.studies / "case_b.nii.gz").affine).to_bytes()
    saved = http.put("/datastore/label", params={"image": "case_b", "tag": "final"}, files={"label": ("l.nii", packed)})
    assert saved.status_code == 200, saved.text
    done = wait(http, submit(http, image="case_b", label="final", steps=2)["id"])
    assert fetch_json(http, done["id"])["reference"] == "label"
    session = http.put("/session/", files={"files": ("scan.nii.gz", content)})
    assert session.status_code == 200, session.text
    id = session.json()["session_id"]
    done = wait(http, submit(http, kind="segment", session=id)["id"])
    assert done["image"] == id


def test_a_dicom_series_comes_as_a_zip_and_goes_as_nrrd(http, tmp_path):
    from dicom_series import write_series
    from tiny import scan

    folder = tmp_path / "series"
    write_series(folder, scan().astype(float))
    packed = streams.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"DICOM/{path.name}")
    done = wait(http, submit(http, {"image": ("series.zip", packed.getvalue())}, steps=2)["id"])
    assert "adversarial.nrrd" in [entry["name"] for entry in http.get(done["links"]["files"]).json()["files"]]
    assert any("DICOM" in warning for warning in done["warnings"]), done["warnings"]


# ---------------------------------------------------------------- stopping, again, away


def test_cancelling_takes_effect_at_once(http, climb):
    asked = time.monotonic()
    answer = http.post(f"/perturbox/jobs/{climb}/cancel", json={})
    assert answer.status_code == 202 and answer.json()["state"] in ("cancelling", "cancelled")
    found = wait(http, climb, "cancelled", 10)
    assert time.monotonic() - asked < 2
    assert found["error"] is None
    assert refused(http.get(f"/perturbox/jobs/{climb}/result.zip"), 409)["error"] == "no-result"
    assert refused(http.post(f"/perturbox/jobs/{climb}/cancel"), 409)["error"] == "over"


def test_cancelling_can_keep_the_best_so_far(http, climb):
    http.post(f"/perturbox/jobs/{climb}/cancel", json={"keep": True})
    found = wait(http, climb, "cancelled", 60)
    result = fetch_json(http, climb)
    assert result["stopped_early"].startswith("stopped at step ") and result["stopped_early"].endswith(" of 10000")
    assert result["budget"]["measured"]["linf"] <= LONG["eps"]
    assert {"adversarial.nii.gz", "result.json"} <= {
        entry["name"] for entry in http.get(found["links"]["files"]).json()["files"]
    }


def test_a_job_can_be_submitted_again(http, attacked):
    again = http.post(attacked["links"]["resubmit"])
    assert again.status_code == 202
    assert again.json()["id"] != attacked["id"] and again.json()["request"] == attacked["request"]
    done = wait(http, again.json()["id"])
    first, second = (fetch_json(http, id)["metrics"] for id in (attacked["id"], done["id"]))
    assert first == second


def test_deleting_removes_every_file(http, server):
    job = submit(http, kind="segment", image="case_a")
    wait(http, job["id"])
    folder = server.home / "jobs" / job["id"]
    assert folder.is_dir()
    answer = http.delete(f"/perturbox/jobs/{job['id']}")
    assert answer.status_code == 204 and answer.content == b""
    assert not folder.exists()
    refused(http.get(f"/perturbox/jobs/{job['id']}"), 404)
    refused(http.delete(f"/perturbox/jobs/{job['id']}"), 404)


def test_what_runs_is_not_deleted_nor_submitted_twice(http, climb):
    assert refused(http.delete(f"/perturbox/jobs/{climb}"), 409)["what_to_do"] == "Cancel it first."
    refused(http.post(f"/perturbox/jobs/{climb}/resubmit"), 409)
    told = refused(http.get(f"/perturbox/jobs/{climb}/files"), 409)
    assert told["detail"] == "This job isn't finished."


@pytest.mark.slow
def test_waiting_jobs_know_their_place_and_a_full_queue_refuses(start_server, tmp_path):
    import tiny

    (tmp_path / "s" / "studies").mkdir(parents=True)
    tiny.write_scan(tmp_path / "s" / "studies" / "case_a.nii.gz")
    server = start_server(tmp_path / "s")
    http = server.http
    limit = http.get("/perturbox/schema").json()["limits"]["waiting"]
    first = submit(http, **LONG)["id"]
    wait_until(http, first, climbing)
    waiting = [submit(http, **LONG) for _ in range(limit)]
    assert [job["queue_position"] for job in waiting] == list(range(1, limit + 1))
    answer = post(http, **LONG)
    assert refused(answer, 429)["error"] == "queue-full" and int(answer.headers["Retry-After"]) > 0
    assert http.post(f"/perturbox/jobs/{waiting[0]['id']}/cancel").json()["state"] == "cancelled"
    assert status(http, waiting[1]["id"])["queue_position"] == 1
    assert post(http, **LONG).status_code == 202


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [
        ("GET", "jobs/nothing", 404),
        ("GET", f"jobs/{'a' * 65}", 422),
        ("GET", "jobs/..%2f..", 404),
        ("GET", "jobs/nothing?since=-1", 422),
        ("GET", "jobs/nothing?since=x", 422),
        ("GET", "jobs/nothing/files", 404),
        ("GET", "jobs/nothing/files/result.json", 404),
        ("GET", "jobs/nothing/files/result.json?format=exe", 422),
        ("GET", "jobs/nothing/result.zip", 404),
        ("POST", "jobs/nothing/cancel", 404),
        ("POST", "jobs/nothing/resubmit", 404),
        ("DELETE", "jobs/nothing", 404),
        ("PUT", "jobs", 405),
        ("PATCH", "jobs/nothing", 405),
        ("GET", "nothing", 404),
    ],
)
def test_wrong_addresses_are_refused(http, method, path, status_code):
    refused(http.request(method, f"/perturbox/{path}"), status_code)


@pytest.mark.parametrize(
    ("body", "status_code", "said"),
    [
        ({}, 422, "exactly one way"),
        ({"image": "case_a", "session": "x"}, 422, "exactly one way"),
        ({"image": "nothing"}, 404, "The datastore has no image 'nothing'"),
        ({"image": "../studies/case_a"}, 422, "not a name that the server can store"),
        ({"image": "/etc/passwd"}, 422, "not a name that the server can store"),
        ({"image": "case_a", "label": "nothing"}, 404, "has no label tagged 'nothing'"),
        ({"image": "case_a", "label": "../final"}, 404, "has no label tagged"),
        ({"session": "../../etc"}, 422, "session id"),
        ({"session": "00000000-0000-1000-8000-000000000000"}, 404, "There is no session"),
        ({"image": "case_a", "victim": TINY}, 422, "This server has no victim"),
        ({"image": "case_a", "victim": "evil.py:run"}, 422, "This server has no victim"),
        ({"image": "case_a", "attack": "pdg"}, 422, "Unknown attack 'pdg'"),
        ({"image": "case_a", "extra": 1}, 422, "There is no field 'extra'"),
        ({"image": "case_a", "image_path": "/etc/passwd"}, 422, "There is no field 'image_path'"),
        ({"image": "case_a", "target": ["spleen"]}, 422, "no structure 'spleen'"),
        ({"image": "case_a", "eps": -1}, 422, "The field 'eps'"),
        ({"image": "case_a", "defense": "median"}, 422, "The field 'defense' must be a valid array"),
        ({"image": "case_a", "defense": ["zebra"]}, 422, "Unknown defence 'zebra'"),
        ({"image": "case_a", "defense": ["median"] * 10_000}, 422, "At most 4 defences can stand before a model"),
        ({"image": "case_a", "defense": ["smoothing:copies=1000"] * 2}, 422, "draw 1000000 noisy copies"),
        ({"image": "case_a", "defense": ["gaussian:sigma=nan"]}, 422, "needs a value of type float, not 'nan'"),
    ],
)
def test_bodies_that_cant_be_used_are_refused(http, body, status_code, said):
    assert said in refused(post(http, **body), status_code)["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status_code"),
    [
        (b"", "application/json", 422),
        (b"{", "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b'{"eps": NaN, "image": "case_a"}', "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b'"' + b"a" * 2**20 + b'"', "application/json", 413),
        (b"image=case_a", "application/x-www-form-urlencoded", 415),
        (b"<a/>", "text/xml", 415),
        (b"nonsense", "multipart/form-data", 422),
        (b"nonsense", "multipart/form-data; boundary=x", 422),
    ],
)
def test_bodies_that_are_none_are_refused(http, content, kind, status_code):
    refused(http.post("/perturbox/jobs", content=content, headers={"Content-Type": kind}), status_code)


def test_parts_that_are_odd_are_refused(http):
    cases = [
        ({"data": {"request": "{}"}, "files": {"scan": ("a.nii.gz", b"x")}}, 422, "The part 'scan'"),
        ({"files": {"image": ("a.nii.gz", b"x")}}, 422, "The part `request`"),
        ({"data": {"request": "{}"}, "files": {"image": ("a.exe", b"x")}}, 415, "format"),
        ({"data": {"request": "{}"}, "files": {"image": ("a.nii.gz", b"")}}, 422, "empty"),
        (
            {"data": {"request": "{}"}, "files": [("image", ("a.nii", b"x")), ("image", ("b.nii", b"x"))]},
            422,
            "reads 1 channel",
        ),
    ]
    for sent, status_code, said in cases:
        assert said in " ".join(refused(http.post("/perturbox/jobs", **sent), status_code).values())


def test_nobody_gets_in_without_the_token(server):
    for path in ("schema", "jobs", "health", "jobs/x", "jobs/x/files/result.json"):
        refused(httpx.get(f"{server.url}/perturbox/{path}", trust_env=False), 401)
    refused(httpx.post(f"{server.url}/perturbox/jobs", json=QUICK, trust_env=False), 401)
