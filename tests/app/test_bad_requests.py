"""Requests that can't be served: each gets its status, a sentence that says why and one on what to do; no traceback."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

JSON = {"Content-Type": "application/json"}
NOBODY = str(uuid.UUID(int=7))


@dataclass(frozen=True)
class Bad:
    """A request, the status it must get, and a piece of the sentence."""

    method: str
    path: str
    status: int
    piece: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status} {self.method} {self.path[:60]} {str(self.options)[:60]}"


def form(**fields: Any) -> dict[str, Any]:
    """A multipart body: text, or (name, bytes) for a file."""
    return {"files": {key: (None, held) if isinstance(held, str) else held for key, held in fields.items()}}


def params(**held: Any) -> dict[str, Any]:
    return form(params=json.dumps(held))


SCAN = ("scan.nii.gz", b"\x1f\x8b not a scan")
INFER = "/infer/tiny?image=case_a"
REQUESTS = [
    # infer: what is asked for
    Bad("POST", "/infer/tiny", 422, "No scan was given"),
    Bad("POST", "/infer/nobody?image=case_a", 404, "no model 'nobody'"),
    Bad("POST", "/infer/.x?image=case_a", 422, "This model is not a name"),
    Bad("POST", "/infer/a%5Cb?image=case_a", 422, "This model is not a name"),
    Bad("POST", "/infer/-x?image=case_a", 422, "This model is not a name"),
    Bad("POST", "/infer/tiny?image=nobody", 404, "no image of this id"),
    Bad("POST", "/infer/tiny?image=/etc/passwd", 422, "This image is not a name"),
    Bad("POST", "/infer/tiny?image=../case_a", 422, "This image is not a name"),
    Bad("POST", "/infer/tiny?image=case_a%00", 422, "This image is not a name"),
    Bad("POST", f"/infer/tiny?image={'a' * 300}", 422, "This image is not a name"),
    Bad("POST", f"/infer/tiny?session_id={NOBODY}", 404, "no session of this id"),
    Bad("POST", "/infer/tiny?session_id=../../etc", 422, "session id"),
    Bad("POST", f"{INFER}&output=pdf", 422, "'output' in the query"),
    Bad("POST", f"{INFER}&output=dicom_seg", 422, "DICOM SEG"),
    Bad("GET", "/infer/tiny", 405, "Method Not Allowed"),
    # infer: parameters
    Bad("POST", INFER, 422, "not JSON", form(params="{")),
    Bad("POST", INFER, 422, "not a JSON object", form(params="[]")),
    Bad("POST", INFER, 422, "NaN", form(params='{"eps": NaN}')),
    Bad("POST", INFER, 422, "NaN", form(params='{"eps": 1e999}')),
    Bad("POST", INFER, 422, "nested", form(params='{"a":' * 30 + "1" + "}" * 30)),
    Bad("POST", INFER, 413, "longer than", params(a="x" * 70_000)),
    Bad("POST", INFER, 422, "can't set 'image'", params(image="case_b")),
    Bad("POST", INFER, 422, "can't set 'model'", params(model="tiny-pgd")),
    Bad("POST", INFER, 422, "can't set 'session'", params(session={"image": "/etc/passwd"})),
    Bad("POST", INFER, 422, "can't set 'label'", params(label="/etc/passwd")),
    Bad("POST", INFER, 422, "can't set 'result_file_name'", params(result_file_name="x")),
    Bad("POST", INFER, 422, "no device 'bogus'", params(device="bogus")),
    Bad("POST", INFER, 422, "This tag is not a name", params(save_label=True, label_tag="../../x")),
    Bad("POST", INFER, 422, "looks like a path", params(victim="/tmp/x.py")),
    Bad("POST", "/infer/tiny-pgd?image=case_a", 422, "'eps' needs a number", params(eps="lots")),
    Bad("POST", "/infer/tiny-pgd?image=case_a", 422, "whole number", params(steps="2.5")),
    Bad("POST", "/infer/tiny-pgd?image=case_a", 422, "eps", params(eps=-4)),
    Bad("POST", "/infer/tiny-pgd?image=case_a", 422, "no setting 'stepz'", params(stepz=3)),
    Bad("POST", "/infer/tiny-pgd?image=case_a", 422, "norm", params(norm="l7")),
    # infer: uploads
    Bad("POST", "/infer/tiny", 415, "format can't be used", form(file=("x.exe", b"MZ"))),
    Bad("POST", "/infer/tiny", 415, "format can't be used", form(file=("x.mhd", b"ElementDataFile = /etc/passwd\n"))),
    Bad("POST", "/infer/tiny", 422, "empty (0 bytes)", form(file=("x.nii.gz", b""))),
    Bad("POST", "/infer/tiny", 422, "another file", form(file=("x.nrrd", b"NRRD0004\ndata file: /etc/passwd\n\n"))),
    Bad("POST", "/infer/tiny", 422, "upload is damaged", form(file=SCAN)),
    Bad("POST", "/infer/tiny", 422, "isn't a NIfTI file", form(file=("x.nii", b"text, not voxels" * 40))),
    Bad("POST", "/infer/tiny", 422, "'file' in the body", form(file="no file")),
    Bad("POST", INFER, 415, "format can't be used", form(label=("x.bin", b"\0"))),
    Bad("POST", INFER, 422, "boundary", {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}),
    # whole slides
    Bad("POST", "/infer/wsi/tiny?image=case_a", 404, "whole-slide"),
    Bad("POST", "/infer/wsi_v2/tiny?image=/etc/passwd", 404, "whole-slide"),
    # sessions
    Bad("GET", "/session/x", 422, "session id"),
    Bad("GET", f"/session/{NOBODY}", 404, "Not Found"),
    Bad("DELETE", f"/session/{NOBODY}", 404, "Not Found"),
    Bad("DELETE", "/session/..%5C..%5Cx", 422, "session id"),
    Bad("PUT", "/session/", 422, "'files' in the body"),
    Bad("PUT", "/session/", 415, "format can't be used", {"files": [("files", ("x.exe", b"MZ"))]}),
    Bad("PUT", "/session/", 422, "empty (0 bytes)", {"files": [("files", ("x.nii.gz", b""))]}),
    Bad("PUT", "/session/?uncompress=true", 422, "not an archive", {"files": [("files", ("x.zip", b"text"))]}),
    Bad("PUT", "/session/?uncompress=true", 422, "not an archive", {"files": [("files", ("x.nii.gz", SCAN[1]))]}),
    Bad("PUT", "/session/?uncompress=true", 422, "Only one archive", {"files": [("files", SCAN), ("files", SCAN)]}),
    Bad("PUT", "/session/?expiry=-1", 422, "'expiry'", {"files": [("files", SCAN)]}),
    Bad("PUT", "/session/?expiry=soon", 422, "'expiry' in the query", {"files": [("files", SCAN)]}),
    # datastore
    Bad("GET", "/datastore/?output=pdf", 422, "'output' in the query"),
    Bad("GET", "/datastore/image", 422, "'image' in the query"),
    Bad("GET", "/datastore/image?image=", 422, "This image is not a name"),
    Bad("GET", "/datastore/image?image=nobody", 404, "no image of this id"),
    Bad("GET", "/datastore/image?image=/etc/passwd", 422, "This image is not a name"),
    Bad("GET", "/datastore/image/info?image=nobody", 404, "no image of this id"),
    Bad("HEAD", "/datastore/image?image=nobody", 404, ""),
    Bad("HEAD", "/datastore/image?image=case_a&check_sum=CRC:1", 422, ""),
    Bad("PUT", "/datastore/image/info?image=nobody", 404, "no image of this id", form(info="{}")),
    Bad("PUT", "/datastore/image/info?image=case_a", 422, "not JSON", form(info="{")),
    Bad("PUT", "/datastore/image/info?image=case_a", 422, "NaN", form(info='{"a": NaN}')),
    Bad("PUT", "/datastore/image/info?image=case_a", 422, "server's own note", form(info='{"adversarial": false}')),
    Bad("PUT", "/datastore/image?image=../x", 422, "This image is not a name", form(file=SCAN)),
    Bad("PUT", "/datastore/image?image=case_a", 409, "of this id already", form(file=SCAN)),
    Bad("PUT", "/datastore/image?image=datastore_v2", 415, "format can't be used", form(file=("x.json", b"{}"))),
    Bad("PUT", "/datastore/?image=new", 415, "format can't be used", form(file=("x", b"x"))),
    Bad("PUT", "/datastore/image", 422, "This image is not a name", form(file=("..\\-x.nii.gz", b"x"))),
    Bad("PUT", "/datastore/image?image=new", 422, "not JSON", form(file=SCAN, params="]")),
    Bad("DELETE", "/datastore/image?id=nobody", 404, "no image of this id"),
    Bad("DELETE", "/datastore/?id=../../x", 422, "This id is not a name"),
    Bad("DELETE", "/datastore/image", 422, "'id' in the query"),
    Bad("PUT", "/datastore/label?image=nobody", 404, "no image of this id", form(label=SCAN)),
    Bad("PUT", "/datastore/label?image=case_a&tag=../../x", 422, "This tag is not a name", form(label=SCAN)),
    Bad("PUT", "/datastore/label?image=case_a", 415, "format can't be used", form(label=("x.bin", b"x"))),
    Bad("PUT", "/datastore/label?image=case_a", 422, "empty (0 bytes)", form(label=("x.nii.gz", b""))),
    Bad("GET", "/datastore/label?label=case_a&tag=nothing", 404, "no label of this id and tag"),
    Bad("GET", "/datastore/label?label=case_a", 422, "'tag' in the query"),
    Bad("GET", "/datastore/label/info?label=case_a&tag=nothing", 404, "no label of this id and tag"),
    Bad("DELETE", "/datastore/label?id=case_a&tag=nothing", 404, "no label of this id and tag"),
    Bad("PUT", "/datastore/label/info?label=case_a&tag=a/b", 422, "This tag is not a name", form(info="{}")),
    Bad("PUT", "/datastore/updatelabelinfo?label=x&tag=y", 404, "no label of this id and tag", form(params="{}")),
    Bad("GET", "/datastore/dataset?limit_cases=x", 422, "'limit_cases' in the query"),
    # background tasks and strategies
    Bad("POST", "/batch/infer/nobody", 404, "no model 'nobody'", {"json": {}}),
    Bad("POST", "/batch/infer/tiny?images=some", 422, "'images' in the query", {"json": {}}),
    Bad("POST", "/batch/infer/tiny", 422, "can't set 'images'", {"json": {"images": ["/etc/passwd"]}}),
    Bad("POST", "/batch/infer/tiny", 422, "no device 'bogus'", {"json": {"device": "bogus"}}),
    Bad("POST", "/batch/infer/tiny", 422, "This tag is not a name", {"json": {"label_tag": "a/../b"}}),
    Bad("POST", "/batch/infer/tiny", 422, "valid dictionary", {"json": [1]}),
    Bad("POST", "/scoring/nobody", 404, "no method 'nobody'", {"json": {}}),
    Bad("POST", "/scoring/robustness", 422, "can't set 'method'", {"json": {"method": "x"}}),
    Bad("POST", "/train/nobody", 404, "no model 'nobody'", {"json": {}}),
    Bad("POST", "/train/", 422, "can't set 'model'", {"json": {"x": {"model": "y"}}}),
    Bad("POST", "/train/adversarial_finetuning?run_sync=true", 422, "isn't done inside", {"json": {}}),
    Bad("POST", "/activelearning/nobody", 404, "no strategy 'nobody'", {"json": {}}),
    Bad("POST", "/activelearning/random", 422, "can't set 'strategy'", {"json": {"strategy": "x"}}),
    Bad(
        "POST",
        "/activelearning/random",
        422,
        "JSON",
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
    ),
    # models, logs, viewers, proxy, the rest
    Bad("GET", "/model/nobody", 404, "no model 'nobody'"),
    Bad("GET", "/model/tiny", 404, "Model File NOT Found"),
    Bad("GET", "/model/info/tiny", 404, "Model File NOT Found"),
    Bad("PUT", "/model/tiny", 409, "not taken from clients", form(file=("x.pt", b"x"))),
    Bad("PUT", "/model/nobody", 404, "no model", form(file=("x.pt", b"x"))),
    Bad("DELETE", "/model/tiny", 409, "not deleted by clients"),
    Bad("GET", "/proxy/dicom/qido/studies", 404, "no DICOM server"),
    Bad("POST", "/proxy/dicom/../../etc/passwd", 404, "Not Found"),
    Bad("GET", "/logs/?lines=x", 422, "'lines' in the query"),
    Bad("GET", "/static/nothing.js", 404, "Not Found"),
    Bad("GET", "/static/../../../etc/passwd", 404, "Not Found"),
    Bad("GET", "/nowhere", 404, "Not Found"),
    Bad("PATCH", "/info/", 405, "Method Not Allowed"),
]


def images(server) -> dict[str, Any]:
    return server.http.get("/datastore/?output=all").json()["objects"]


@pytest.fixture(scope="module")
def before(server):
    """The dataset before the first bad request: tests of other files use this server too."""
    return images(server)


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("bad", REQUESTS, ids=str)
def test_a_bad_request_gets_its_status_and_sentence(server, bad):
    answer = server.http.request(bad.method, bad.path, **bad.options)
    assert answer.status_code == bad.status, answer.text[:500]
    if bad.method == "HEAD":
        assert answer.content == b""
        return
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert set(document) == {"error", "detail", "what_to_do"}
    assert all(isinstance(text, str) and text.strip() for text in document.values())
    assert bad.piece in document["detail"]
    assert len(document["detail"].splitlines()) == 1
    for telltale in ("Traceback", "site-packages", 'File "', str(server.home)):
        assert telltale not in answer.text


def test_there_are_more_than_sixty():
    assert len({str(bad) for bad in REQUESTS}) >= 60


def test_no_bad_request_left_a_trace(server, before):
    """The dataset is as it was, and the server lives."""
    assert {"case_a", "case_b"} <= before.keys()
    assert images(server) == before
    assert server.http.get("/info/").status_code == 200
    assert "Traceback" not in server.said()
