"""Scans from a DICOM server: Debian's Orthanc, the real server beside it, MONAI Label's own client and the job API."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pydicom
import pytest
import tiny
import torch
from dicom_series import write_series
from jobs_client import fetch, fetch_json, refused, submit, wait
from orthanc import BINARY, MISSING, PASSWORD, PLUGINS, USER, Orthanc
from serving import ROOT, TINY, UP_SECONDS, Server, start_server

from perturbox import io
from perturbox.job.execute import Job, run_job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARY is None or not PLUGINS, reason=MISSING),
]
TOKEN = "a-token-for-dicom"
ATTACK = {"attack": "pgd", "eps": 10.0, "steps": 3, "seed": 5}
SEG_WRITER = shutil.which("itkimage2segimage")

# Put before all else that the server's processes import: whoever wants to reach another machine is noted and refused.
NOWHERE_ELSE = """
import ipaddress, sys

def local(host):
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return host in ("", None, "localhost", b"localhost", b"127.0.0.1")

def watch(event, told):
    if event == "socket.connect" and isinstance(told[1], tuple):
        host = told[1][0]
    elif event == "socket.getaddrinfo":
        host = told[0]
    else:
        return
    if not local(host):
        with open({file!r}, "a") as file:
            print(event, host, file=file)
        raise OSError("This test has no network.")

sys.addaudithook(watch)
"""


@dataclass
class Clinic:
    """An Orthanc and a server that takes its studies from there."""

    orthanc: Orthanc
    server: Server
    folders: dict[str, Path]
    """The files of the series "ct", "other" and "mr" before they were stored."""
    elsewhere: Path
    """Who wanted to reach another machine."""

    def uid(self, name: str) -> str:
        return series_uid(self.folders[name])


def series_uid(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).SeriesInstanceUID)


def serve_from(orthanc: Orthanc, folder: Path, password: str = PASSWORD, wait: bool = True, **environment: str):
    command = [sys.executable, "-m", "perturbox", "serve", "--studies", orthanc.dicomweb, "--victim", TINY]
    command += ["--home", str(folder / "home"), "--port", "{port}", "--token", TOKEN]
    environment |= {"MONAI_LABEL_DICOMWEB_USERNAME": USER, "MONAI_LABEL_DICOMWEB_PASSWORD": password}
    return start_server(folder, command=command, token=TOKEN, environment=environment, wait=wait)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """Two CT series, oblique and plain, and an MR series; a server that can't reach any other machine."""
    folder = tmp_path_factory.mktemp("clinic")
    folders = {name: folder / name for name in ("ct", "other", "mr")}
    angle = np.deg2rad(20)
    oblique = {"rows_along": (np.cos(angle), np.sin(angle), 0), "columns_along": (-np.sin(angle), np.cos(angle), 0)}
    write_series(folders["ct"], tiny.scan(seed=0), **oblique)
    write_series(folders["other"], tiny.scan(seed=1))
    write_series(folders["mr"], tiny.scan(seed=2), modality="MR")
    (folder / "orthanc").mkdir()
    orthanc = Orthanc(folder / "orthanc")
    for place in folders.values():
        orthanc.take_in(sorted(place.iterdir()))
    elsewhere = folder / "elsewhere.txt"
    (folder / "offline").mkdir()
    (folder / "offline" / "sitecustomize.py").write_text(NOWHERE_ELSE.format(file=str(elsewhere)))
    server = serve_from(orthanc, folder / "server", PYTHONPATH=f"{folder / 'offline'}:{ROOT / 'core'}")
    yield Clinic(orthanc, server, folders, elsewhere)
    server.stop()
    orthanc.close()


@pytest.fixture(scope="module")
def before(clinic):
    """What Orthanc held before anything was asked of the server."""
    return clinic.orthanc.holds()


@pytest.fixture(autouse=True)
def unchanged(clinic, before):
    """After each test Orthanc holds the same images with the same pixels, and nobody reached for another machine."""
    yield
    assert clinic.orthanc.holds() == before
    assert not clinic.elsewhere.exists(), clinic.elsewhere.read_text()


def voxels(path: str | Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).astype(int)


def predicted(folder: Path) -> np.ndarray:
    return tiny.volume(torch.device("cpu")).predict(io.read_volume(folder))


# ---------------------------------------------------------------- what there is


def test_the_network_guard_sees_who_reaches_out(clinic, tmp_path):
    """The guard itself, so that the silence above means something."""
    (tmp_path / "sitecustomize.py").write_text(NOWHERE_ELSE.format(file=str(tmp_path / "seen")))
    reach = "import socket; socket.create_connection(('203.0.113.7', 80), 1)"
    done = subprocess.run([sys.executable, "-c", reach], env={"PYTHONPATH": str(tmp_path)}, capture_output=True)
    assert done.returncode != 0 and "203.0.113.7" in (tmp_path / "seen").read_text()


def test_the_store_lists_the_ct_series_and_only_those(clinic):
    http = clinic.server.http
    assert set(http.get("/datastore/?output=all").json()["objects"]) == {clinic.uid("ct"), clinic.uid("other")}
    assert http.get("/datastore/").json()["total"] == 2 and http.get("/info/").json()["datastore"]["total"] == 2


def test_a_series_is_fetched_as_it_is_and_shown_on_its_own_grid(clinic, tmp_path):
    answer = clinic.server.http.get("/datastore/image", params={"image": clinic.uid("ct")})
    assert answer.status_code == 200
    (tmp_path / "scan.nii.gz").write_bytes(answer.content)
    shown, source = io.read_volume(tmp_path / "scan.nii.gz"), io.read_volume(clinic.folders["ct"])
    assert np.array_equal(shown.data, source.data) and shown.dtype == np.int16
    assert np.allclose(shown.affine, source.affine, atol=1e-5)
    assert abs(source.affine[0, 1]) > 0.1  # it is oblique, or the line above says little
    digest = hashlib.sha256(answer.content).hexdigest()
    head = clinic.server.http.head("/datastore/image", params={"image": clinic.uid("ct"), "check_sum": digest})
    assert head.status_code == 200


def test_orthanc_was_asked_politely_and_was_never_shown_the_servers_token(clinic):
    clinic.server.http.get("/datastore/image", params={"image": clinic.uid("other")})
    asked = clinic.orthanc.asked()
    assert {method for method, _, _ in asked} == {"GET"} and len(asked) > 3
    assert all(sent.startswith("Basic ") for _, _, sent in asked)


# ---------------------------------------------------------------- stock clients


def test_a_stock_client_segments_a_series(clinic, tmp_path):
    file, told = clinic.server.stock_client(tmp_path).infer("tiny", clinic.uid("ct"), {})
    assert np.array_equal(voxels(file), predicted(clinic.folders["ct"]))
    assert np.allclose(nib.load(file).affine, io.read_volume(clinic.folders["ct"]).affine, atol=1e-5)
    assert told["label_names"] == {"liver": 1, "bone": 2}


def test_a_stock_client_attacks_a_series_and_nothing_is_stored(clinic, tmp_path):
    sent = {"eps": "10", "steps": "3", "seed": "5"}
    file, told = clinic.server.stock_client(tmp_path).infer("tiny-pgd", clinic.uid("ct"), sent)
    run_job(Job(str(clinic.folders["ct"]), TINY, **ATTACK), tmp_path / "here")
    assert np.array_equal(voxels(file), voxels(tmp_path / "here" / "adversarial_seg.nii.gz"))
    assert not np.array_equal(voxels(file), predicted(clinic.folders["ct"]))
    assert told["image"] is None and told["adversarial"] is True
    assert any("DICOM store isn't given perturbed scans" in warning for warning in told["warnings"])
    assert set(clinic.server.http.get("/datastore/?output=all").json()["objects"]) == {
        clinic.uid("ct"),
        clinic.uid("other"),
    }


def test_an_attacks_label_map_is_never_kept_as_a_final_label(clinic):
    http, uid = clinic.server.http, clinic.uid("ct")
    params = '{"steps": "1", "save_label": true, "label_tag": "final"}'
    told = refused(http.post("/infer/tiny-pgd", params={"image": uid}, data={"params": params}), 422)
    assert "final label" in told["detail"]
    sent = {"steps": "1", "label_tag": "final"}
    refused(http.post("/batch/infer/tiny-pgd", params={"images": "all"}, json=sent), 422)


def test_a_batch_and_the_scores_go_through_the_series(clinic):
    http = clinic.server.http
    assert http.post("/batch/infer/tiny?images=all", json={"label_tag": "seen"}).status_code == 200
    assert finished(http, "/batch/infer")["status"] == "DONE"
    for name in ("ct", "other"):
        answer = http.get("/datastore/label", params={"label": clinic.uid(name), "tag": "seen"})
        assert answer.status_code == 200
        (clinic.server.home / "label.nii.gz").write_bytes(answer.content)
        assert np.array_equal(voxels(clinic.server.home / "label.nii.gz"), predicted(clinic.folders[name]))
    assert http.post("/scoring/robustness", json={"eps": "10", "steps": "1"}).status_code == 200
    assert finished(http, "/scoring/")["status"] == "DONE"
    found = {uid: entry["image"]["info"] for uid, entry in http.get("/datastore/?output=all").json()["objects"].items()}
    worst = {uid: info["robustness"]["worst_dice"] for uid, info in found.items()}
    offered = http.post("/activelearning/most_fragile", json={}).json()
    assert offered["id"] == min(worst, key=lambda uid: (worst[uid], uid)) and offered["worst_dice"] == min(
        worst.values()
    )


def finished(http: httpx.Client, route: str, seconds: float = 300) -> dict:
    end = time.monotonic() + seconds
    while (task := http.get(route).json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < end, task
        time.sleep(0.5)
    return task


# ---------------------------------------------------------------- the job API


def test_a_job_on_a_series_equals_the_one_on_its_files(clinic, tmp_path):
    http, uid = clinic.server.http, clinic.uid("ct")
    id = submit(http, image=uid, **ATTACK)["id"]
    done = wait(http, id)
    here = run_job(Job(str(clinic.folders["ct"]), TINY, **ATTACK), tmp_path / "here")
    for name in ("adversarial", "clean_seg", "adversarial_seg"):
        file = here["files"][name]
        there = io.read_volume(fetch(http, id, file, tmp_path), allow_constant=True)
        assert np.array_equal(there.data, io.read_volume(tmp_path / "here" / file, allow_constant=True).data), name
    own = json.loads((tmp_path / "here" / "result.json").read_text())
    assert fetch_json(http, id)["metrics"] == own["metrics"]
    assert done["image"] == uid and any("DICOM can't be written" in warning for warning in done["warnings"])
    assert str(clinic.server.home) not in str(done)


def test_a_series_that_grows_is_fetched_anew(clinic, before, tmp_path):
    paths = sorted(write_series(tmp_path / "grows", tiny.scan(seed=3)))
    uid, http, orthanc = series_uid(tmp_path / "grows"), clinic.server.http, clinic.orthanc
    orthanc.take_in(paths[1:])  # all but the last slice, for names run against positions
    try:
        first = http.get("/datastore/image", params={"image": uid})
        orthanc.take_in(paths[:1])
        second = http.get("/datastore/image", params={"image": uid})
        shapes = []
        for answer in (first, second):
            (tmp_path / "scan.nii.gz").write_bytes(answer.content)
            shapes.append(nib.load(tmp_path / "scan.nii.gz").shape[2])
        assert shapes == [tiny.SHAPE[2] - 1, tiny.SHAPE[2]]
        id = submit(http, image=uid, kind="segment")["id"]
        wait(http, id)
        seg = voxels(fetch(http, id, "segmentation.nii.gz", tmp_path))
        assert np.array_equal(seg, predicted(tmp_path / "grows"))
    finally:
        (series,) = [id for id in orthanc.http.get("/series").json() if described(orthanc, id) == uid]
        orthanc.http.delete(f"/series/{series}")
    refused(http.get("/datastore/image", params={"image": uid}), 404)  # gone there, so gone here


def described(orthanc: Orthanc, id: str) -> str:
    return orthanc.http.get(f"/series/{id}").json()["MainDicomTags"]["SeriesInstanceUID"]


# ---------------------------------------------------------------- labels


def test_other_labels_stay_here(clinic, tmp_path):
    file = tmp_path / "label.nii.gz"
    scan = io.read_volume(clinic.folders["ct"])
    io.write_labels(file, predicted(clinic.folders["ct"]), scan)
    client = clinic.server.stock_client(tmp_path)
    client.save_label(clinic.uid("ct"), str(file), "draft", {})
    answer = clinic.server.http.get("/datastore/label", params={"label": clinic.uid("ct"), "tag": "draft"})
    assert answer.status_code == 200 and answer.content == file.read_bytes()


@pytest.mark.skipif(SEG_WRITER is not None, reason="dcmqi is installed here, so labels are written")
def test_a_final_label_without_dcmqi_is_refused_in_words(clinic, tmp_path):
    told = refused(send_final(clinic, tmp_path), 406)
    assert "dcmqi" in told["detail"] and "pip install dcmqi" in told["what_to_do"]


@pytest.mark.skipif(SEG_WRITER is None, reason="needs dcmqi's itkimage2segimage on the PATH; `pip install dcmqi`")
def test_a_final_label_becomes_a_dicom_seg_of_its_series(clinic, before, tmp_path):
    http, orthanc = clinic.server.http, clinic.orthanc
    info = '{"label_info": [{"name": "liver"}, {"name": "bone"}]}'
    assert send_final(clinic, tmp_path, params=info).status_code == 200
    (added,) = {series for series, _ in orthanc.holds().values()} - {series for series, _ in before.values()}
    (id,) = [id for id in orthanc.http.get("/series").json() if described(orthanc, id) == added]
    try:
        instance = orthanc.http.get(f"/series/{id}").json()["Instances"][0]
        (tmp_path / "seg.dcm").write_bytes(orthanc.http.get(f"/instances/{instance}/file").content)
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == clinic.uid("ct")
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["liver", "bone"]
        frames, expected = seg.pixel_array, predicted(clinic.folders["ct"])
        numbers = [
            f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in seg.PerFrameFunctionalGroupsSequence
        ]
        for number in (1, 2):
            assert frames[np.array(numbers) == number].sum() == (expected == number).sum()
        assert http.get("/datastore/").json()["completed"] == 1
        id_of_job = submit(http, image=clinic.uid("ct"), label="final", steps=1)["id"]
        wait(http, id_of_job)
        assert fetch_json(http, id_of_job)["reference"] == "label"
    finally:
        orthanc.http.delete(f"/series/{id}")


@pytest.mark.skipif(SEG_WRITER is None, reason="needs dcmqi's itkimage2segimage on the PATH; `pip install dcmqi`")
@pytest.mark.parametrize("fault", ["empty", "elsewhere"])
def test_a_final_label_that_cannot_be_one_is_refused(clinic, tmp_path, fault):
    labels = np.zeros(tiny.SHAPE if fault == "empty" else (4, 4, 4), np.uint8)
    labels[0, 0, 0] = fault == "elsewhere"
    nib.save(nib.Nifti1Image(labels, io.read_volume(clinic.folders["ct"]).affine), tmp_path / "label.nii.gz")
    told = refused(send(clinic, tmp_path / "label.nii.gz"), 422)
    assert ("empty" if fault == "empty" else "grid") in told["detail"]
    assert str(clinic.server.home) not in str(told) and "/tmp" not in str(told)


def send_final(clinic: Clinic, tmp_path: Path, **data: str) -> httpx.Response:
    io.write_labels(tmp_path / "label.nii.gz", predicted(clinic.folders["ct"]), io.read_volume(clinic.folders["ct"]))
    return send(clinic, tmp_path / "label.nii.gz", **data)


def send(clinic: Clinic, file: Path, **data: str) -> httpx.Response:
    where = {"image": clinic.uid("ct"), "tag": "final"}
    return clinic.server.http.put(
        "/datastore/label", params=where, files={"label": (file.name, file.read_bytes())}, data=data
    )


# ---------------------------------------------------------------- the proxy


def test_the_proxy_passes_on_what_ohif_asks(clinic):
    http, uid = clinic.server.http, clinic.uid("ct")
    found = http.get("/proxy/dicom/qido/series", params={"SeriesInstanceUID": uid})
    assert found.status_code == 200 and found.headers["content-type"].startswith("application/dicom+json")
    (series,) = found.json()
    study = series["0020000D"]["Value"][0]
    data = http.get(f"/proxy/dicom/wado/studies/{study}/series/{uid}/metadata").json()
    files = {str(pydicom.dcmread(path).SOPInstanceUID) for path in clinic.folders["ct"].iterdir()}
    assert {entry["00080018"]["Value"][0] for entry in data} == files
    assert all(sent.startswith("Basic ") for _, _, sent in clinic.orthanc.asked())


@pytest.mark.parametrize(
    "path",
    [
        "/proxy/dicom/qido/%2e%2e/instances",
        "/proxy/dicom/..%2f..%2finstances",
        "/proxy/dicom/qido/studies%3fx=1",
        "/proxy/dicom//instances",
        "/proxy/dicom/http:%2f%2f127.0.0.1:1/x",
        "/proxy/dicom/@127.0.0.1:1/x",
    ],
)
def test_the_proxy_leads_nowhere_else(clinic, path):
    seen = len(clinic.orthanc.asked())
    answer = clinic.server.http.get(path)
    assert answer.status_code in (404, 422) and set(answer.json()) == {"error", "detail", "what_to_do"}
    assert len(clinic.orthanc.asked()) == seen


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("token", ["", "Bearer wrong", "Basic cGVydHVyYm94OmEtcGFzc3dvcmQtZm9yLXRlc3Rz"])
def test_the_proxy_asks_for_the_token(clinic, method, token):
    seen = len(clinic.orthanc.asked())
    answer = clinic.server.http.request(method, "/proxy/dicom/qido/studies", headers={"Authorization": token})
    refused(answer, 401)
    assert len(clinic.orthanc.asked()) == seen


# ---------------------------------------------------------------- what isn't there


UNKNOWN = "1.2.826.0.1.3680043.8.498.1"


@pytest.mark.parametrize("uid", [UNKNOWN, "case_a", "the MR"])
def test_a_series_that_is_not_there_is_a_404_everywhere(clinic, uid):
    uid = clinic.uid("mr") if uid == "the MR" else uid  # there, but not let through by the search filter
    http = clinic.server.http
    answers = [
        http.post("/infer/tiny", params={"image": uid}, data={"params": "{}"}),
        http.post("/infer/tiny-pgd", params={"image": uid}, data={"params": "{}"}),
        http.post("/perturbox/jobs", json={"image": uid}),
        http.get("/datastore/image", params={"image": uid}),
        http.get("/datastore/image/info", params={"image": uid}),
        http.get("/datastore/label", params={"label": uid, "tag": "final"}),
        http.put("/datastore/label", params={"image": uid, "tag": "x"}, files={"label": ("a.nii", b"0" * 400)}),
    ]
    for answer in answers:
        refused(answer, 404)
    assert http.head("/datastore/image", params={"image": uid}).status_code == 404


def test_images_are_neither_added_nor_deleted_here(clinic, tmp_path):
    http = clinic.server.http
    tiny.write_scan(tmp_path / "new.nii.gz")
    sent = {"file": ("new.nii.gz", (tmp_path / "new.nii.gz").read_bytes())}
    refused(http.put("/datastore/image", params={"image": "new"}, files=sent), 409)
    refused(http.delete("/datastore/image", params={"id": clinic.uid("ct")}), 409)


def test_a_dicom_server_that_is_down_is_a_503_everywhere_until_it_is_back(clinic, before):
    http, uid = clinic.server.http, clinic.uid("ct")
    asked = {
        "infer": lambda: http.post("/infer/tiny", params={"image": uid}, data={"params": "{}"}),
        "attack": lambda: http.post("/infer/tiny-pgd", params={"image": uid}, data={"params": '{"steps": "1"}'}),
        "job": lambda: http.post("/perturbox/jobs", json={"image": uid, "steps": 1}),
        "image": lambda: http.get("/datastore/image", params={"image": uid}),
        "proxy": lambda: http.get("/proxy/dicom/qido/studies"),
        "strategy": lambda: http.post("/activelearning/random", json={}),
    }
    clinic.orthanc.stop()
    try:
        for name, ask in asked.items():
            begun = time.monotonic()
            told = refused(ask(), 503)
            assert time.monotonic() - begun < 10, name
            assert "the PACS" in told["detail"] and "did not answer" in told["detail"], name
        # What needs no DICOM server goes on.
        id = submit(http, {"image": zipped(clinic.folders["ct"])}, kind="segment")["id"]
        wait(http, id)
        assert http.get("/perturbox/health").status_code == 200
    finally:
        clinic.orthanc.start()
    for name, ask in asked.items():
        assert ask().status_code in (200, 202), name


def zipped(folder: Path) -> Path:
    file = folder.parent / "series.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    return file


def test_a_wrong_password_is_told_apart_from_silence(clinic, tmp_path):
    server = serve_from(clinic.orthanc, tmp_path, password="wrong", wait=False)
    try:
        end = time.monotonic() + UP_SECONDS
        while "Perturbox serves" not in server.said():
            assert server.process.poll() is None and time.monotonic() < end, server.said()
            time.sleep(0.2)
        assert "answered 401" in refused(server.http.get("/datastore/"), 503)["detail"]
    finally:
        server.stop()


def test_the_log_names_no_patient(clinic):
    said = clinic.server.said()
    assert "SECRET" not in said and clinic.uid("ct") not in said and PASSWORD not in said and TOKEN not in said
