"""What OHIF's MONAI Label extension asks for: the bytes it sends, and an answer that its NRRD reader takes."""

import gzip
import json
from email.parser import BytesParser

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"


def sent_by_ohif(params: dict) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of its POST /infer/MODEL: one form field `params`, as a browser writes it."""
    body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{json.dumps(params)}\r\n'
    headers = {
        "Accept": "application/json, multipart/form-data",
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    return (body + f"--{BOUNDARY}--\r\n").encode(), headers


def parts(answer) -> dict[str, bytes]:
    """The parts of a multipart answer by name."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + answer.content)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.get_payload()
    }


def header_of(nrrd: bytes) -> tuple[dict[str, str], bytes]:
    head, _, voxels = nrrd.partition(b"\n\n")
    lines = head.decode("ascii").split("\n")
    assert lines[0].startswith("NRRD000")
    return dict(line.split(": ", 1) for line in lines[1:] if ": " in line), voxels


ASKED = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False, "restore_label_idx": False}


@pytest.mark.parametrize("model", ["tiny", "tiny-pgd"])
def test_ohif_gets_the_nrrd_it_asks_for(server, tmp_path, model):
    settings = {"eps": "10", "steps": "2"} if model != "tiny" else {}
    body, headers = sent_by_ohif(settings | ASKED)
    answer = server.http.post(f"/infer/{model}?image=case_a&output=all", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found = parts(answer)
    assert set(found) == {"params", "image"} and json.loads(found["params"])["label_names"] == {"liver": 1, "bone": 2}
    header, voxels = header_of(found["image"])
    scan = nib.load(server.studies / "case_a.nii.gz")
    assert (header["type"], header["encoding"], header["endian"]) == ("uint16", "raw", "little")
    assert header["sizes"] == " ".join(map(str, scan.shape))
    values = np.frombuffer(voxels, "<u2").reshape(scan.shape, order="F")
    plain = server.http.post(
        f"/infer/{model}?image=case_a&output=image", files={"params": (None, json.dumps(settings))}
    )
    (tmp_path / "plain.nii.gz").write_bytes(plain.content)
    assert np.array_equal(values, np.asanyarray(nib.load(tmp_path / "plain.nii.gz").dataobj))
    (tmp_path / "image.nrrd").write_bytes(found["image"])
    image = sitk.ReadImage(str(tmp_path / "image.nrrd"))
    same = sitk.ReadImage(str(tmp_path / "plain.nii.gz"))
    assert np.allclose(image.GetOrigin(), same.GetOrigin()) and np.allclose(image.GetDirection(), same.GetDirection())


@pytest.mark.parametrize(
    ("asked", "suffix", "dtype"),
    [
        ({"result_extension": "nii"}, ".nii", np.uint8),
        ({"result_extension": ".nii.gz", "result_dtype": "int16"}, ".nii.gz", np.int16),
        ({"result_dtype": "float32"}, ".nii.gz", np.float32),
    ],
)
def test_other_formats_are_kept_to_as_well(server, tmp_path, asked, suffix, dtype):
    body, headers = sent_by_ohif(asked)
    answer = server.http.post("/infer/tiny?image=case_a&output=image", content=body, headers=headers)
    assert answer.headers["content-disposition"].rstrip('"').endswith(suffix)
    (tmp_path / f"x{suffix}").write_bytes(answer.content)
    assert nib.load(tmp_path / f"x{suffix}").get_data_dtype() == dtype


def test_a_packed_nrrd_is_packed(server):
    body, headers = sent_by_ohif(ASKED | {"result_compress": True})
    answer = server.http.post("/infer/tiny?image=case_a&output=image", content=body, headers=headers)
    header, voxels = header_of(answer.content)
    assert header["encoding"] == "gzip"
    assert len(gzip.decompress(voxels)) == 2 * np.prod([int(n) for n in header["sizes"].split()])


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"result_extension": ".exe"}, "result_extension"),
        ({"result_dtype": "object"}, "result_dtype"),
        ({"result_extension": ".nrrd", "result_compress": "perhaps"}, "result_compress"),
    ],
)
def test_what_is_not_written_is_refused_before_the_work(server, asked, word):
    before = len(server.http.get("/perturbox/jobs").json()["jobs"])
    body, headers = sent_by_ohif(asked)
    answer = server.http.post("/infer/tiny?image=case_a&output=all", content=body, headers=headers)
    assert answer.status_code == 422 and word in answer.json()["detail"]
    assert len(server.http.get("/perturbox/jobs").json()["jobs"]) == before
