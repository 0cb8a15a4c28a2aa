"""Damaged NIfTI, DICOM and pictures are read or refused in one sentence, in bounded time and memory."""

import gzip
import resource
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian
from real_files import ct, edited, foreign, nifti, series

from perturbox.io import read_labels, read_volume
from perturbox.types import InputError, Volume

SECONDS, BYTES = 20, 2**30


def _pictures(folder):
    grey = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp"):
        Image.fromarray(grey).save(folder / name, exif=exif.tobytes())


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> dict[str, bytes]:
    """Whole files by the name under which they are read."""
    folder = tmp_path_factory.mktemp("seeds")
    nifti(folder / "a.nii", ct())
    nifti(folder / "nowhere.nii", ct(), sform_code=0, qform_code=0)
    nifti(folder / "slope.nii", ct(), scl_slope=0.5, scl_inter=-1024)
    _pictures(folder)
    one = series(folder / "dicom", 1)[0]
    (folder / "slice.dcm").write_bytes(one.read_bytes())
    foreign("dose", one, folder / "dose.dcm")
    foreign("tiled segmentation", one, folder / "segmentation.dcm")

    def deflate(image):
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    (folder / "deflated.dcm").write_bytes(edited([one], deflate)[0].read_bytes())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


NAMES = [
    *("a.nii", "nowhere.nii", "slope.nii", "a.png", "a.jpg", "a.tif", "a.bmp"),
    *("slice.dcm", "dose.dcm", "segmentation.dcm", "deflated.dcm"),
]
WILD = [0, 1, 127, 128, 255]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "repeat", "number"]),
        st.floats(0, 1),
        st.integers(1, 64),
        st.one_of(st.sampled_from(WILD), st.integers(0, 255)),
    ),
    min_size=1,
    max_size=6,
)


def changed(raw: bytes, changes, header: int) -> bytes:
    """The file after these edits; three quarters of them fall on its first `header` bytes."""
    data = bytearray(raw)
    for kind, place, length, value in changes:
        end = min(header, len(data)) if place < 0.75 else len(data)
        at = int((place / 0.75 if place < 0.75 else place) * max(end - 1, 0))
        if kind == "set":
            data[at : at + 1] = bytes([value])
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = bytes([value]) * length
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        else:
            data[at : at + 4] = (value * 0x01010101).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(NAMES), changes=CHANGES, folder_too=st.booleans(), zipped=st.booleans())
def test_any_damage_is_read_or_refused(name, changes, folder_too, zipped, seeds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("f")
    raw = changed(seeds[name], changes, 700)
    path = folder / name
    if name.endswith(".nii") and zipped:
        raw, path = gzip.compress(raw, 1), folder / f"{name}.gz"
    path.write_bytes(raw)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    like = Volume(ct()[None].astype(np.float32))
    for read in (lambda: read_volume(path), lambda: read_labels(path, like)):
        try:
            found = read()
        except InputError as error:
            assert str(error).endswith(".") and "\n" not in str(error) and "secret" not in str(error).lower()
        else:
            data = found.data if isinstance(found, Volume) else found
            assert np.isfinite(data).all()
    if name.endswith(".dcm") and folder_too:  # beside a whole scan it is left out, or named
        if not (folder / "whole").exists():
            (folder / "whole").mkdir()
        series(folder / "whole")
        (folder / "whole" / "other.dcm").write_bytes(raw)
        try:
            assert np.isfinite(read_volume(folder / "whole").data).all()
        except InputError as error:
            assert str(error).endswith(".")
    assert time.perf_counter() - started < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(NAMES), keep=st.floats(0, 1))
def test_any_truncation_is_read_or_refused(name, keep, seeds, tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / name
    path.write_bytes(seeds[name][: int(keep * len(seeds[name]))])
    try:
        assert np.isfinite(read_volume(path).data).all()
    except InputError as error:
        assert str(error).endswith(".")
