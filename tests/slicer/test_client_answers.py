"""What a server answers, in words; and the whole job API against the real one."""

import hashlib
import json
import time
import types
from typing import ClassVar

import misbehaving as bad
import numpy as np
import pytest
from grids import AFFINES
from PerturboxLib import nrrd
from PerturboxLib.client import Client
from working import scan, trouble_of

TOKEN = "a-token-for-tests"


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(("hadToken", "code"), [("", "token-missing"), ("wrong-token", "token-wrong")])
def test_tokens_missing_and_wrong(hadToken, code):
    with bad.Misbehaving(token=TOKEN) as server:
        assert trouble_of(Client(server.url, hadToken).connect).code == code


@pytest.mark.parametrize(("api", "code"), [("2.0", "newer-server"), ("0.3", "older-server"), ("", "older-server")])
def test_a_server_that_speaks_another_version_without_refusing(api, code):
    answer = json.dumps({"api": api, "victims": [], "attacks": [], "models": {}}).encode()
    with bad.Misbehaving(faults={"connect": bad.gives(answer)}) as server:
        found = trouble_of(Client(server.url).connect)
    assert found.code == code and found.whatToDo.startswith("Update the P" if api == "2.0" else "Ask for the server")


def test_what_answers_without_perturbox():
    nothing = {"connect": bad.says(404), "info": bad.says(404)}
    with bad.Misbehaving(faults={"connect": bad.says(404)}) as server:
        found = trouble_of(Client(server.url).connect)
        assert str(found) == (
            "This MONAI Label server has no Perturbox app. Ask for it to be started with the Perturbox app."
        )
        server.faults = nothing
        found = trouble_of(Client(server.url).connect)
        assert found.code == "not-perturbox" and "404" in found.detail


def test_the_servers_own_sentences_are_passed_on():
    told = {"detail": "Unknown attack 'pdg'.", "what_to_do": "Did you mean 'pgd'?"}
    with bad.Misbehaving(faults={"submit": bad.says(422, "bad-input", **told)}) as server:
        found = trouble_of(Client(server.url).submit, {"attack": "pdg"})
    assert str(found) == "Unknown attack 'pdg'. Did you mean 'pgd'?"
    assert (found.code, found.reason) == ("bad-input", "bad-input") and "422" in found.detail


@pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("0", 1), ("soon", 5)])
def test_a_full_queue_says_when_to_come_back(said, seconds):
    fault = bad.says(429, "queue-full", {"Retry-After": said}, detail="32 jobs are waiting already.")
    with bad.Misbehaving(faults={"submit": fault}) as server:
        found = trouble_of(Client(server.url).submit, {})
    assert str(found) == f"32 jobs are waiting already. Try again in {seconds} s."


def test_a_full_queue_may_name_a_date():
    from email.utils import formatdate

    fault = bad.says(429, headers={"Retry-After": formatdate(time.time() + 60, usegmt=True)})
    with bad.Misbehaving(faults={"submit": fault}) as server:
        found = trouble_of(Client(server.url).submit, {})
    assert found.whatToDo in [f"Try again in {seconds} s." for seconds in range(56, 61)]


def test_details_stay_short():
    with bad.Misbehaving(faults={"connect": bad.gives(b"x" * 10**6)}) as server:
        server.faults["info"] = bad.says(404)
        assert len(trouble_of(Client(server.url).connect).detail) < 2500


def test_no_answer_of_json_is_read_without_end():
    with bad.Misbehaving(faults={"connect": bad.gives(b"[" * (65 * 2**20)), "info": bad.says(404)}) as server:
        found = trouble_of(Client(server.url).connect)
    assert found.code == "not-perturbox" and "more than" in found.detail


def test_a_download_that_is_another_file_than_listed_is_damaged():
    job = bad.Job()
    with bad.Misbehaving(job) as server:
        client = Client(server.url)
        listed = {file["name"]: file["sha256"] for file in client.files(bad.ID)}
        wanted = {"id": bad.ID, "name": "adversarial.nrrd", "asNrrd": True, "sha256": listed["adversarial.nrrd"]}
        assert client.download(**wanted) == job.images["adversarial.nrrd"]
        job.images["adversarial.nrrd"] += b"!"  # so that it has another hash
        assert trouble_of(client.download, **wanted).code == "damaged"
        client.close()


def test_a_body_shorter_than_it_said_is_noticed_whatever_the_library_does():
    class Short:
        headers: ClassVar = {"Content-Length": "10"}
        request = types.SimpleNamespace(method="GET", path_url="/perturbox/schema")

        def iter_content(self, size):
            return iter([b"12345"])

    found = trouble_of(Client("localhost")._read, Short())
    assert (found.code, found.detail) == ("truncated", "5 of 10 bytes")


def test_a_flipped_byte_on_the_way_is_seen():
    told = hashlib.sha256(b'{"a": 1}').hexdigest()
    with bad.Misbehaving(faults={"download": bad.gives(b'{"a": 2}', headers={"ETag": f'"{told}"'})}) as server:
        assert trouble_of(Client(server.url).download, bad.ID, "result.json").code == "damaged"


# ---------------------------------------------------------------- the real server


@pytest.fixture
def real(tiny_server):
    client = Client(tiny_server.url, tiny_server.token)
    yield client
    client.close()


def finished(client: Client, id: str) -> dict:
    end = time.monotonic() + 120
    while (told := client.status(id))["state"] not in ("done", "failed", "cancelled", "interrupted"):
        assert time.monotonic() < end, told
        time.sleep(0.1)
    return told


def test_the_schema_has_what_a_module_shows(real):
    offer = real.connect()
    victim = offer["victims"][0]
    assert victim["name"] == "tiny" and victim["labels"] == {"background": 0, "liver": 1, "bone": 2}
    assert (victim["unit"], victim["dims"], victim["licence"]) == ("HU", 3, "none")
    assert {"intended_use", "training_data", "limits", "spacing_mm", "title"} <= victim.keys()
    assert offer["models"]["tiny-pgd"]["config_schema"]["properties"]["eps"]["x-unit"] == "HU"
    assert real.limits["upload_bytes"] == offer["limits"]["upload_bytes"] > 2**20
    assert real.health()["workers"] == 1


@pytest.mark.parametrize("grid", ["axial", "oblique", "flipped"])
def test_a_job_from_submission_to_deletion(real, grid):
    array, progress = scan(), []
    files = {"image": ("scan.nrrd", nrrd.encode(array, AFFINES[grid]))}
    told = real.submit({"kind": "attack", "eps": 10, "steps": 2, "seed": 1}, files)
    assert told["state"] in ("queued", "running") and told["image"] == "scan.nrrd"
    assert finished(real, told["id"])["state"] == "done"
    whole, rest = (real.status(told["id"], since)["progress"] for since in (0, 1))
    assert len(whole["trace"]) >= 2 and rest["trace"] == whole["trace"][1:]
    assert real.jobs()[0]["id"] == told["id"]
    listing = {file["name"]: file for file in real.files(told["id"])}
    images = {}
    for name in ("adversarial.nrrd", "perturbation.nii.gz", "clean_seg.nii.gz"):
        content = real.download(told["id"], name, True, lambda *p: progress.append(p), listing[name]["sha256"])
        images[name] = nrrd.decode(content)
        assert progress[-1] == (len(content), len(content))
        np.testing.assert_allclose(images[name].ijkToRas, AFFINES[grid], rtol=0, atol=1e-5)
    # The scan is the perturbed one minus the perturbation, voxel by voxel: no axis was turned on the way.
    adversarial = images["adversarial.nrrd"].array
    assert adversarial.dtype == np.int16
    assert np.array_equal(adversarial - images["perturbation.nii.gz"].array, array)
    assert images["adversarial.nrrd"].fields["notice"] == "ADVERSARIAL - NOT FOR CLINICAL USE"
    assert images["clean_seg.nii.gz"].fields["description"].startswith("labels: ")
    assert np.array_equal(images["clean_seg.nii.gz"].array[6:-6, 7:-7, 7:-7], np.ones((6, 8, 10)))
    raw = real.download(told["id"], "result.json", sha256=listing["result.json"]["sha256"])
    assert json.loads(raw)["attack"]["parameters"]["eps"] == 10
    as_it_lies = nrrd.decode(real.download(told["id"], "adversarial.nrrd"))
    assert np.array_equal(as_it_lies.array, adversarial)
    again = real.resubmit(told["id"])
    assert again["id"] != told["id"] and finished(real, again["id"])["state"] == "done"
    real.delete(told["id"])
    assert trouble_of(real.status, told["id"]).code == "job-gone"


def test_refusals_of_the_real_server(real):
    image = {"image": ("scan.nrrd", nrrd.encode(scan(), AFFINES["axial"]))}
    found = trouble_of(real.submit, {"attack": "pdg"}, image)
    assert str(found) == "Unknown attack 'pdg'. Did you mean 'pdpgd' or 'pgd'?" and found.code == "bad-input"
    assert trouble_of(real.submit, {}, {"image": ("scan.doc", b"x")}).code == "other-format"
    assert trouble_of(real.status, "no-such-job").code == "job-gone"
    assert trouble_of(real.status, "../../info").code in ("job-gone", "not-found")
    told = real.submit({"kind": "segment"}, image)
    assert finished(real, told["id"])["state"] == "done"
    found = trouble_of(real.cancel, told["id"])
    assert (found.code, found.reason) == ("conflict", "over")
    found = trouble_of(real.download, told["id"], "../result.json")
    assert found.code == "not-found"


def test_the_real_server_refuses_another_version(real, monkeypatch):
    import PerturboxLib.client as module

    monkeypatch.setattr(module, "API", "2")
    assert trouble_of(real.connect).code == "older-server"
    monkeypatch.setattr(module, "API", "0")
    assert trouble_of(real.connect).code == "newer-server"
