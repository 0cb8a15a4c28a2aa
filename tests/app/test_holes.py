"""The holes of stock MONAI Label 0.8.5, all closed: whom it lets in, what it reads, writes, overrides and deletes.

Each request here worked against the stock server, or made it answer a bare 500.
"""

import http.client
import io
import json
import os
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
from test_io_headers import meta, nrrd, other

SECRET = b"nobody may read or change this"
REFUSED = {401, 403, 404, 405, 409, 413, 415, 422}


@pytest.fixture
def secret(server) -> Path:
    """A scan beside the studies folder that no client has any business with."""
    path = server.studies.parent / "secret.nii.gz"
    tiny.write_scan(path, seed=7)
    return path


@pytest.fixture
def nothing_evil(server):
    """Called at the end: no file of a forbidden name came to be, neither beside the studies nor where /tmp is."""
    yield
    places = [*server.studies.parent.rglob("*evil*"), *Path("/tmp").glob("*evil*"), *Path("/").glob("*evil*")]
    assert places == []


def refused(answer, *statuses: int) -> dict[str, str]:
    assert answer.status_code in (statuses or REFUSED), answer.text[:300]
    document = answer.json()
    assert set(document) == {"error", "detail", "what_to_do"}
    return document


# ---------------------------------------------------------------- who gets in


def test_the_dataset_leaves_no_copy(start_server, tmp_path):
    """MONAI Label keeps a zip of all labelled scans in the temporary folder for each time it was asked."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server = start_server(environment={"TMPDIR": str(scratch)})
    tiny.write_scan(server.studies / "case_a.nii.gz")
    image = (server.studies / "case_a.nii.gz").read_bytes()
    end = time.monotonic() + 60
    while "case_a" not in server.http.get("/datastore/?output=all").json()["objects"] and time.monotonic() < end:
        time.sleep(0.2)
    label = {"label": ("l.nii.gz", image)}
    assert server.http.put("/datastore/label?image=case_a&tag=final", files=label).status_code == 200
    before = sorted(scratch.rglob("*"))
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert server.http.get("/datastore/dataset", headers=elsewhere).status_code == 403
    for _ in range(3):
        answer = server.http.get("/datastore/dataset")
        assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.testzip() is None
        assert packed.namelist() == ["image/case_a.nii.gz", "label/case_a.nii.gz", "metadata.json"]
        assert packed.read("image/case_a.nii.gz") == image
        assert json.loads(packed.read("metadata.json"))["objects"]["case_a"]["labels"]["final"]
    assert sorted(scratch.rglob("*")) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/reload"),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/favicon.ico"),
        ("GET", "/static/ohif/index.html"),
        ("GET", "/ohif/"),
        ("GET", "/info/"),
        ("HEAD", "/datastore/image?image=case_a"),
        ("OPTIONS", "/info/"),
        ("GET", "/perturbox/schema"),
        ("GET", "/logs/"),
        ("GET", "/nowhere"),
    ],
)
def test_no_route_answers_without_the_token(server, method, path):
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
        answer = server.http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_no_route_of_the_openapi_page_answers_without_the_token(server):
    pages = server.http.get("/openapi.json").json()["paths"]
    asked = [(method, path) for path, held in pages.items() for method in held]
    assert len(asked) > 40
    login = {("get", "/auth/"), ("post", "/auth/token")}  # these ask for the token themselves: see test_login.py
    assert login < set(asked)
    for method, path in set(asked) - login:
        answer = server.http.request(
            method.upper(), path.replace("{", "").replace("}", ""), headers={"Authorization": ""}
        )
        assert answer.status_code == 401, (method, path)


def test_reload_keeps_the_one_app(server):
    before = server.http.get("/info/").json()
    assert server.http.post("/reload").json() == {}
    assert server.http.get("/info/").json()["models"] == before["models"]
    assert server.http.get("/perturbox/health").status_code == 200


def test_cors_is_closed(server):
    answer = server.http.get("/info/", headers={"Origin": "https://evil.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT", "Authorization": ""}
    answer = server.http.options("/info/", headers=asked)
    assert answer.status_code == 401
    assert not any(name.startswith("access-control") for name in answer.headers)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("disguise", ["{path}", "../{name}", "..%2F{name}", "..//{name}", "file://{path}", "{path}%00"])
@pytest.mark.parametrize(
    ("method", "address", "options"),
    [
        ("POST", "/infer/tiny?image={image}", {}),
        ("POST", "/infer/tiny-pgd?image={image}&output=image", {}),
        ("POST", "/infer/wsi/tiny?image={image}", {"json": {}}),
        ("POST", "/infer/wsi_v2/tiny?image={image}", {}),
        ("GET", "/datastore/image?image={image}", {}),
        ("GET", "/datastore/image/info?image={image}", {}),
        ("GET", "/datastore/label?label={image}&tag=final", {}),
        ("GET", "/datastore/label?label=case_a&tag={image}", {}),
        ("POST", "/infer/tiny?session_id={image}", {}),
        ("GET", "/session/{image}?image=true", {}),
        ("GET", "/static/{image}", {}),
    ],
)
def test_no_path_outside_the_datastore_is_read(server, secret, method, address, options, disguise):
    image = disguise.format(path=secret, name=f"../{secret.name}")
    answer = server.http.request(method, address.format(image=image), **options)
    refused(answer)
    assert secret.read_bytes() not in answer.content


def test_the_viewers_route_reads_only_its_own_pages(server, secret):
    for path in (str(secret), f"../../../../{secret}", "..%2f..%2fapp.py", "/etc/passwd"):
        answer = server.http.get(f"/ohif/{path}")
        assert answer.status_code in (200, 404)  # its start page, where it is there
        assert b"root:" not in answer.content
        assert answer.content != secret.read_bytes()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/infer/tiny?image=case_a"),
        ("POST", "/batch/infer/tiny"),
        ("POST", "/scoring/robustness"),
        ("POST", "/activelearning/random"),
        ("POST", "/train/"),
    ],
)
@pytest.mark.parametrize("key", ["image", "model", "images", "session", "label", "method", "strategy", "bundle_path"])
def test_parameters_override_nothing(server, secret, method, path, key):
    held = {key: [str(secret)] if key == "images" else str(secret)}
    body = {"files": {"params": (None, json.dumps(held))}} if path.startswith("/infer") else {"json": held}
    assert key in refused(server.http.request(method, path, **body), 422)["detail"]


@pytest.mark.parametrize("name", [*other("x"), "nhdr", "mhd"])
def test_no_upload_sends_the_reader_to_another_file(server, secret, name):
    """Headers that some reader follows to another file, by every way in which a client can send one."""
    suffix, content = ({**other(str(secret))} | {
        "nhdr": (".nhdr", nrrd(more=f"data file: {secret}\n", data=b"")),
        "mhd": (".mhd", meta(last=f"ElementDataFile = {secret}", data=b"")),
    })[name]  # fmt: skip
    sent = (f"x{suffix}", content)
    refused(server.http.post("/infer/tiny", files={"file": sent}), 415, 422)
    refused(server.http.put("/session/", files=[("files", sent)]), 415, 422)
    refused(server.http.put("/datastore/image?image=evil", files={"file": sent}), 415, 422)
    refused(server.http.put("/datastore/label?image=case_a&tag=evil", files={"label": sent}), 415, 422)
    request = {"request": (None, json.dumps({"eps": 0, "steps": 1}))}
    refused(server.http.post("/perturbox/jobs", files={**request, "image": sent}), 415, 422)
    scan = ("x.nii.gz", (server.studies / "case_a.nii.gz").read_bytes())
    for field in ("label", "roi"):
        refused(server.http.post("/perturbox/jobs", files={**request, "image": scan, field: sent}), 415, 422)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(*sent)
    packed = ("x.zip", packed.getvalue())
    answer = server.http.put("/session/?uncompress=true", files=[("files", packed)])
    if answer.status_code == 200:  # one of a folder's files then, where no header is followed
        id = answer.json()["session_id"]
        refused(server.http.post(f"/infer/tiny?session_id={id}"), 422)


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", ["../evil", "../../evil", "/tmp/evil", "a/../../evil", "..\\evil", "evil\0"])
def test_nothing_is_written_outside_by_id_or_tag(server, nothing_evil, name):
    scan = ("scan.nii.gz", (server.studies / "case_a.nii.gz").read_bytes())
    refused(server.http.put("/datastore/image", params={"image": name}, files={"file": scan}), 422)
    refused(server.http.put("/datastore/", params={"image": name}, files={"file": scan}), 422)
    refused(server.http.put("/datastore/label", params={"image": "case_a", "tag": name}, files={"label": scan}), 422)
    refused(server.http.put("/datastore/label", params={"image": name, "tag": "final"}, files={"label": scan}), 422)
    refused(server.http.delete("/datastore/label", params={"id": "case_a", "tag": name}), 422)
    held = json.dumps({"save_label": True, "label_tag": name})
    refused(server.http.post("/infer/tiny?image=case_a", files={"params": (None, held)}), 422)
    refused(server.http.post("/batch/infer/tiny", json={"label_tag": name}), 422)


def packed_tar(*members: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for member in members:
            member.size = len(SECRET) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(SECRET) if member.isreg() else None)
    return made.getvalue()


def linked(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, to
    return made


@pytest.mark.parametrize(
    "members",
    [
        [tarfile.TarInfo("../../evil.dcm")],
        [tarfile.TarInfo("/tmp/evil.dcm")],
        [tarfile.TarInfo("a/../../evil.dcm")],
        [linked("evil", "/etc", tarfile.SYMTYPE), tarfile.TarInfo("evil/x")],
        [linked("evil", "/etc/passwd", tarfile.LNKTYPE)],
        [linked("evil", "", tarfile.FIFOTYPE)],
    ],
    ids=["dots", "absolute", "inner dots", "symbolic link", "hard link", "fifo"],
)
def test_no_archive_writes_outside_its_session(server, nothing_evil, members):
    sent = ("scan.tar.gz", packed_tar(*members))
    refused(server.http.put("/session/?uncompress=true", files=[("files", sent)]), 422)


def test_no_file_name_writes_outside(server, nothing_evil):
    body = (server.studies / "case_a.nii.gz").read_bytes()
    for name in ("../../evil.nii.gz", "/tmp/evil.nii.gz", "..\\evil.nii.gz"):
        answer = server.http.put("/session/", files=[("files", (name, body)), ("files", (name, body))])
        assert answer.status_code == 200
        told = answer.json()["session_info"]
        assert Path(told["image"]).parent == Path(told["path"])
        assert server.http.delete(f"/session/{answer.json()['session_id']}").status_code == 200


def test_the_datastores_own_table_cannot_be_replaced(server):
    table = server.studies / "datastore_v2.json"
    refused(server.http.put("/datastore/image?image=datastore_v2", files={"file": ("x.json", b"{}")}), 415)
    assert "case_a" in json.loads(table.read_text())["objects"]


# ---------------------------------------------------------------- what is deleted


def test_an_inference_never_deletes_its_image(server):
    image = server.studies / "case_a.nii.gz"
    before = image.read_bytes()
    for output in ("all", "json", "image"):
        assert server.http.post(f"/infer/tiny?image=case_a&output={output}").status_code == 200
    assert image.read_bytes() == before


def test_an_upload_never_replaces_an_image(server):
    image = server.studies / "case_a.nii.gz"
    before = image.read_bytes()
    sent = ("x.nii.gz", (server.studies / "case_b.nii.gz").read_bytes())
    refused(server.http.put("/datastore/image?image=case_a", files={"file": sent}), 409)
    assert image.read_bytes() == before


def test_deleting_stays_inside_the_studies_folder(server, secret):
    (server.studies / "way-out.nii.gz").symlink_to(secret)
    assert server.http.post("/reload").status_code == 200
    assert "way-out" in server.http.get("/datastore/?output=all").json()["objects"]
    assert "studies folder" in refused(server.http.delete("/datastore/image?id=way-out"), 409)["detail"]
    refused(server.http.delete("/datastore/image", params={"id": str(secret)}), 422)
    assert secret.exists()
    (server.studies / "way-out.nii.gz").unlink()


def raw(server, method: str, path: str) -> int:
    """The status of a request whose path no client has tidied up."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, headers=server.headers)
        return connection.getresponse().status
    finally:
        connection.close()


A_SESSION = "6c935272-9b0d-4d48-ae93-d26939336fa1"


@pytest.mark.parametrize("id", ["..", ".", "%2e%2e", "..%2f..", "..%5c..", "%2fetc", "%00", A_SESSION])
def test_a_session_is_deleted_only_by_its_id(server, id):
    assert raw(server, "DELETE", f"/session/{id}") in (404, 422)
    assert server.studies.exists()


@pytest.mark.parametrize(
    "path",
    ["/static/../../../../etc/passwd", "/static/..%2f..%2f..%2fetc/passwd", "/static//etc/passwd", "//etc/passwd"],
)
def test_no_untidy_path_is_followed(server, path):
    assert raw(server, "GET", path) == 404


# ---------------------------------------------------------------- bare 500s


def uploaded(name: str, content: bytes):
    return lambda server: server.http.post("/infer/tiny", files={"file": (name, content)})


def nifti(array: np.ndarray) -> bytes:
    return nib.Nifti1Image(array, np.eye(4)).to_bytes()


BARE = {
    "unknown model": lambda server: server.http.post("/infer/nobody?image=case_a"),
    "unknown image": lambda server: server.http.post("/infer/tiny?image=nobody"),
    "malformed params": lambda server: server.http.post("/infer/tiny?image=case_a", files={"params": (None, "{")}),
    "bogus device": lambda server: server.http.post(
        "/infer/tiny?image=case_a", files={"params": (None, '{"device": "bogus"}')}
    ),
    "garbage": uploaded("x.nii.gz", os.urandom(500)),
    "text": uploaded("x.nii", b"a scan" * 200),
    "empty": uploaded("x.nii.gz", b""),
    "truncated": uploaded("x.nii", nifti(np.zeros((9, 9, 9), np.int16))[:700]),
    "4D": uploaded("x.nii", nifti(np.arange(16 * 16 * 16 * 3, dtype=np.int16).reshape(16, 16, 16, 3))),
    "2D": uploaded("x.nii", nifti(np.arange(256, dtype=np.int16).reshape(16, 16))),
    "NaN": uploaded("x.nii", nifti(np.full((9, 9, 9), np.nan, np.float32))),
    "constant": uploaded("x.nii", nifti(np.zeros((9, 9, 9), np.int16))),
    "label of nothing": lambda server: server.http.get("/datastore/label?label=nobody&tag=final"),
    "no labelled image": lambda server: server.http.get("/datastore/dataset"),
    "odd checksum": lambda server: server.http.get("/datastore/image/info?image=nobody&check_sum=CRC:1"),
    "unknown strategy": lambda server: server.http.post("/activelearning/nobody"),
    "no nvidia-smi": lambda server: server.http.get("/logs/gpu"),
    "not a DICOM server": lambda server: server.http.get("/proxy/dicom/qido/studies"),
    "folder as a viewer's page": lambda server: server.http.get("/session/x?image=true"),
}


@pytest.mark.parametrize("what", BARE)
def test_what_was_a_bare_500_says_what_is_wrong(server, what):
    answer = BARE[what](server)
    if what == "no nvidia-smi" and answer.status_code == 200:
        pytest.skip("this machine has nvidia-smi")
    if what == "no labelled image" and answer.status_code == 200:
        pytest.skip("another test has saved a final label")
    refused(answer, 404, 415, 422)


@pytest.mark.slow
def test_a_server_anyone_could_reach_does_not_start_without_a_token(start_server, tmp_path):
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(tmp_path / "app"), "--studies"]
    command += [str(tmp_path / "studies"), "--port", "{port}"]
    from serving import APP

    (tmp_path / "app").symlink_to(APP)
    server = start_server(command=command, wait=False)
    assert server.process.wait(180) != 0
    assert "127.0.0.1" in server.said()


# ---------------------------------------------------------------- the log


def test_the_log_names_no_patient(server):
    body = (server.studies / "case_a.nii.gz").read_bytes()
    sent = ("DOE_JOHN_1950.nii.gz", body)
    assert server.http.put("/datastore/image?image=DOE_JOHN", files={"file": sent}).status_code == 200
    held = {"save_label": True, "client_id": "DOE_JOHN"}
    for model, extra in (("tiny", {}), ("tiny-pgd", {"steps": "1"})):
        form = {"params": (None, json.dumps({**held, **extra}))}
        assert server.http.post(f"/infer/{model}?image=DOE_JOHN", files=form).status_code == 200
    assert server.http.put("/datastore/label?image=DOE_JOHN", files={"label": sent}).status_code == 200
    info = {"info": (None, '{"name of patient": "DOE_JOHN"}')}
    assert server.http.put("/datastore/image/info?image=DOE_JOHN", files=info).status_code == 200
    assert server.http.post("/activelearning/random", json={"client_id": "DOE_JOHN"}).status_code == 200
    answer = server.http.put("/session/", files=[("files", sent)])
    assert server.http.get(f"/session/{answer.json()['session_id']}?image=true").status_code == 200
    assert server.http.get("/datastore/image?image=DOE_JOHN_2").status_code == 404
    assert server.http.delete("/datastore/image?id=DOE_JOHN").status_code == 200
    for log in (server.said(), server.http.get("/logs/?lines=10000").text):
        assert "DOE" not in log
        assert "1950" not in log
    lines = [json.loads(line) for line in server.said().splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["event"] == "request" and line["route"] == "/infer/{model}"]
    assert {line["status"] for line in asked if line.get("image") == asked[-1]["image"]} == {200}
    assert {"time", "level", "logger", "method", "ms", "client", "image"} <= set(asked[-1])
