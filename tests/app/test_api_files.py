"""Files go up without trusting their names and come down exactly: as they are, as raw NRRD, all in one zip."""

import gzip
import hashlib
import io as streams
import zipfile
from pathlib import Path

import inside  # noqa: F401
import numpy as np
import pytest
import SimpleITK as sitk
from starlette.datastructures import UploadFile

from lib.api import files
from lib.guard.errors import Refusal
from perturbox import io
from perturbox.jobs import Refused
from perturbox.types import ADVERSARIAL_NOTICE, InputError, Volume

AFFINE = np.array([[-1.5, 0, 0, 40.0], [0, -1.5, 0.0, 30.5], [0, 0, 3.0, -7.25], [0, 0, 0, 1]])
LIMIT = 10**6


def volume(dtype=np.int16, **changes) -> Volume:
    values = np.random.default_rng(0).integers(-1000, 1500, (1, 7, 6, 5)).astype(np.float32)
    return Volume(values, **({"affine": AFFINE, "dtype": np.dtype(dtype)} | changes))


@pytest.fixture
def result(tmp_path) -> Path:
    folder = tmp_path / "result"
    (folder / "deep").mkdir(parents=True)
    io.write_volume(folder / "adversarial.nii.gz", volume(), adversarial=True)
    labels = np.arange(7 * 6 * 5).reshape(7, 6, 5) % 3
    io.write_labels(folder / "clean_seg.nii.gz", labels, volume(), {"background": 0, "liver": 1, "bone": 2})
    (folder / "result.json").write_text('{"a": 1}')
    (folder / "deep" / "report.html").write_text("<html>" * 1000)
    (folder / ".hidden").write_text("x")
    (folder / "link.json").symlink_to("/etc/hostname")
    return folder


def nrrd(source: Path, tmp_path: Path) -> Path:
    target = tmp_path / "converted.nrrd"
    with target.open("wb") as file:
        files.write_nrrd(source, file)
    return target


def test_listing_tells_the_truth_about_every_file(result):
    listed = {entry["name"]: entry for entry in files.listing(result)}
    assert list(listed) == ["adversarial.nii.gz", "clean_seg.nii.gz", "deep/report.html", "result.json"]
    content = (result / "result.json").read_bytes()
    assert listed["result.json"] == {
        "name": "result.json",
        "bytes": 8,
        "sha256": hashlib.sha256(content).hexdigest(),
        "media_type": "application/json",
        "formats": [],
    }
    assert listed["adversarial.nii.gz"]["formats"] == ["nrrd"]
    assert listed["adversarial.nii.gz"]["media_type"] == "application/gzip"


def test_a_changed_file_has_another_hash(result):
    before = files.sha256(result / "result.json")
    (result / "result.json").write_text('{"a": 22}')
    assert files.sha256(result / "result.json") == hashlib.sha256(b'{"a": 22}').hexdigest() != before


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../result/result.json", "deep", "deep/../result.json", "/etc/hostname", ".hidden"),
        *("link.json", "result.json/", "result.json\0", "RESULT.JSON", "deep\\report.html", "a" * 5000),
    ],
)
def test_only_listed_names_can_be_had(result, name):
    with pytest.raises(Refused) as refused:
        files.find(result, name)
    assert refused.value.status == 404


def test_the_zip_holds_every_file_byte_for_byte(result):
    content = b"".join(files.zipped(result, "perturbox-1"))
    with zipfile.ZipFile(streams.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"perturbox-1/{name}" for name in files.names(result)]
        for name in files.names(result):
            assert archive.read(f"perturbox-1/{name}") == (result / name).read_bytes()
        kinds = {entry.filename: entry.compress_type for entry in archive.infolist()}
    assert kinds["perturbox-1/adversarial.nii.gz"] == zipfile.ZIP_STORED
    assert kinds["perturbox-1/deep/report.html"] == zipfile.ZIP_DEFLATED
    assert b"".join(files.zipped(result, "perturbox-1")) == content


def test_the_zip_is_made_in_small_pieces(tmp_path):
    (tmp_path / "noise.bin").write_bytes(np.random.default_rng(0).bytes(5 * 2**20))
    assert max(map(len, files.zipped(tmp_path, "a"))) < 2 * 2**20


def test_nrrd_has_the_same_voxels_in_the_same_place(result, tmp_path):
    """Read back by ITK, which wrote none of it: equal to the NIfTI file it was made from."""
    converted = sitk.ReadImage(str(nrrd(result / "adversarial.nii.gz", tmp_path)))
    original = sitk.ReadImage(str(result / "adversarial.nii.gz"))
    assert converted.GetPixelID() == original.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(sitk.GetArrayFromImage(converted), sitk.GetArrayFromImage(original))
    for method in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(converted, method)(), getattr(original, method)(), atol=1e-6)


def test_nrrd_is_raw_and_keeps_the_notice(result, tmp_path):
    header, _, voxels = nrrd(result / "adversarial.nii.gz", tmp_path).read_bytes().partition(b"\n\n")
    assert header.startswith(b"NRRD0005\n") and b"\nencoding: raw" in header
    assert f"\nnotice:={ADVERSARIAL_NOTICE}".encode() in header
    assert voxels == np.asfortranarray(volume().stored()[0]).tobytes(order="F")


def test_a_label_maps_nrrd_names_its_labels_and_bears_no_notice(result, tmp_path):
    header, _, voxels = nrrd(result / "clean_seg.nii.gz", tmp_path).read_bytes().partition(b"\n\n")
    assert b"\ntype: uint8\n" in header and b"notice" not in header
    assert header.endswith(b"description:=labels: background=0, liver=1, bone=2")
    assert len(voxels) == 7 * 6 * 5


def test_scaled_values_come_as_values(tmp_path):
    scaled = volume(slope=0.5, intercept=-100.0)
    io.write_volume(tmp_path / "scaled.nii", scaled)
    image = sitk.ReadImage(str(nrrd(tmp_path / "scaled.nii", tmp_path)))
    expected = io.read_volume(tmp_path / "scaled.nii").data[0]
    assert np.array_equal(sitk.GetArrayFromImage(image).T, expected)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_volumes_can_be_had_raw_too(tmp_path, suffix):
    io.write_volume(tmp_path / f"adversarial{suffix}", volume(), adversarial=True)
    content = nrrd(tmp_path / f"adversarial{suffix}", tmp_path).read_bytes()
    assert b"\nencoding: raw" in content and ADVERSARIAL_NOTICE.encode() in content
    assert content.endswith(np.asfortranarray(volume().stored()[0]).tobytes(order="F"))


def test_what_is_no_volume_is_refused(result, tmp_path):
    with pytest.raises(InputError, match=r"'result.json' is not a volume"):
        nrrd(result / "result.json", tmp_path)


# ---------------------------------------------------------------- uploads


def upload(name: str, content: bytes) -> UploadFile:
    return UploadFile(streams.BytesIO(content), filename=name)


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = streams.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_an_upload_keeps_nothing_of_its_name_but_the_suffix(tmp_path):
    path = files.receive(upload("../../DOE^JOHN.NII.gz", b"abc"), "image", tmp_path, LIMIT)
    assert path == tmp_path / "image.nii.gz" and path.read_bytes() == b"abc"


def test_a_zip_of_slices_becomes_a_folder(tmp_path):
    content = zip_of({"series/a.dcm": b"1", "series/b.dcm": b"2", "series/": b""})
    folder = files.receive(upload("scan.zip", content), "image", tmp_path, LIMIT)
    assert folder.is_dir() and sorted(path.read_bytes() for path in folder.iterdir()) == [b"1", b"2"]
    assert not (tmp_path / "image.zip").exists()


def test_a_zip_of_one_scan_becomes_that_scan(tmp_path):
    content = zip_of({"a/scan.nii.gz": gzip.compress(b"x")})
    assert files.receive(upload("scan.zip", content), "image", tmp_path, LIMIT).name.endswith(".nii.gz")


@pytest.mark.parametrize(
    ("field", "name", "content", "status"),
    [
        ("image", "scan.exe", b"x", 415),
        ("image", "scan", b"x", 415),
        ("image", "", b"x", 415),
        ("image", "scan.nhdr", b"x", 415),
        ("label", "label.zip", b"x", 415),
        ("roi", "roi.jpg", b"x", 415),
        ("image", "scan.nii.gz", b"", 422),
        ("image", "scan.zip", b"PK no zip", 422),
        ("image", "scan.zip", zip_of({}), 422),
        ("image", "scan.zip", zip_of({"../../evil.nii.gz": b"x"}), 422),
        ("image", "scan.zip", zip_of({"/etc/evil.nii.gz": b"x"}), 422),
        ("image", "scan.zip", zip_of({"bomb.dcm": b"0" * (LIMIT + 1)}), 413),
        ("image", "scan.nrrd", b"NRRD0004\ntype: short\ndata file: /etc/passwd\n\n", 422),
        ("image", "scan.mha", b"NDims = 3\nElementDataFile = /etc/passwd\n", 422),
        ("image", "scan.zip", zip_of({"a.nrrd": b"NRRD0004\ndata file: /etc/passwd\n\n"}), 422),
    ],
)
def test_uploads_that_cant_be_used_or_trusted_are_refused(tmp_path, field, name, content, status):
    with pytest.raises(Refusal) as refused:
        files.receive(upload(name, content), field, tmp_path, LIMIT)
    assert refused.value.status_code == status
    assert refused.value.problem.detail and refused.value.problem.what_to_do
