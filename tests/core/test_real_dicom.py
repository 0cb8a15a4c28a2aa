"""DICOM as clinics hand it over: other objects beside a scan, odd pixels and headers, discs and study trees."""

import io
import shutil
import zlib

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from real_files import FOREIGN, another, ct, edited, foreign, series

from perturbox.io import read_volume
from perturbox.types import InputError


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "secret" not in message.lower() and "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_leaves_the_scan_readable_and_is_named(name, tmp_path):
    paths = series(tmp_path)
    intruder = foreign(name, paths[0], tmp_path / "A-first.dcm")
    for source in (tmp_path, paths[3]):
        volume = read_volume(source)
        assert np.array_equal(volume.data[0], ct()[:, :, :6]) and volume.unit == "HU"
        called = FOREIGN[name][3]
        expected = (f"Left out of the scan, because they aren't part of it: 1 {called}.",) if called else ()
        assert volume.notes == expected
    if name not in ("screen capture", "scout view"):  # by its own path it is what it is
        message = refusal(intruder)
        assert FOREIGN[name][3] in message and ("scan" in message or "index" in message or "image" in message)


def test_every_foreign_file_at_once(tmp_path):
    paths = series(tmp_path)
    for number, name in enumerate(FOREIGN):
        foreign(name, paths[number % 6], tmp_path / f"x{number}")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data[0], ct()[:, :, :6])
    assert volume.notes == (
        "Left out of the scan, because they aren't part of it: 1 microscope slide, 1 parametric map, "
        "2 radiotherapy dose, 1 scout view, 1 screen capture, 2 segmentation.",
    )


def test_a_folder_of_other_objects_alone_says_what_it_holds(tmp_path):
    first = series(tmp_path / "scan")[0]
    for name, words in (
        ("dose", "a radiotherapy dose"),
        ("tiled segmentation", "a segmentation"),
        ("report", "report"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        foreign(name, first, folder / "a.dcm")
        assert words in refusal(folder)


def test_a_scout_alone_is_read(tmp_path):
    first = series(tmp_path / "scan")[0]
    (tmp_path / "scout").mkdir()
    foreign("scout view", first, tmp_path / "scout" / "a.dcm")
    assert np.array_equal(read_volume(tmp_path / "scout").data[0, :, :, 0], ct()[:, :, 0])


@pytest.mark.parametrize("more", [1, 2, 64, 4096])
def test_padded_pixels_are_read(more, tmp_path):
    def pad(image):
        image.PixelData += b"\0" * more + b"\0" * (more % 2)

    edited(series(tmp_path), pad)
    assert np.array_equal(read_volume(tmp_path).data[0], ct()[:, :, :6])


def test_deflated_files_are_read_and_cannot_fill_the_memory(tmp_path, monkeypatch):
    def deflate(image):
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    paths = edited(series(tmp_path), deflate)
    assert np.array_equal(read_volume(tmp_path).data[0], ct()[:, :, :6])
    raw = paths[0].read_bytes()
    paths[0].write_bytes(raw[:-200])
    assert paths[0].name in refusal(tmp_path)
    start = raw.index(b"1.2.840.10008.1.2.1.99") + 22
    start += 144 + pydicom.dcmread(io.BytesIO(raw)).file_meta.FileMetaInformationGroupLength - start
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(pack.compress(b"\0" * 2**24) for _ in range(40)) + pack.flush()
    paths[0].write_bytes(raw[:start] + bomb)
    assert paths[0].name in refusal(tmp_path)


@pytest.mark.parametrize(
    ("bits", "high", "signed"), [(16, 15, 1), (12, 11, 0), (12, 11, 1), (16, 15, 0), (8, 7, 0), (10, 9, 1)]
)
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big"])
def test_values_are_those_of_pydicom(bits, high, signed, syntax, tmp_path):
    low, end = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    rng, kind = np.random.default_rng(bits), ("<i" if signed else "<u") + ("1" if bits == 8 else "2")

    def store(image):
        image.BitsStored, image.HighBit, image.PixelRepresentation = bits, high, signed
        image.BitsAllocated = 8 if bits == 8 else 16
        image.RescaleSlope, image.RescaleIntercept = "1", "-1000"
        image.PixelData = rng.integers(low, end, (image.Rows, image.Columns)).astype(kind).tobytes()
        if syntax == "implicit":
            image.file_meta.TransferSyntaxUID, image.is_implicit_VR = ImplicitVRLittleEndian, True
        elif syntax == "big":
            image.file_meta.TransferSyntaxUID, image.is_little_endian = "1.2.840.10008.1.2.2", False
            image.PixelData = np.frombuffer(image.PixelData, kind).astype(kind.replace("<", ">")).tobytes()
            image["PixelData"].VR = "OW"

    paths = edited(series(tmp_path), store)
    slices = sorted((pydicom.dcmread(path) for path in paths), key=lambda image: image.ImagePositionPatient[2])
    expected = np.stack([image.pixel_array.T.astype(int) - 1000 for image in slices], axis=2)
    assert np.array_equal(read_volume(tmp_path).data[0], expected)


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_hounsfield_units_do_not_depend_on_how_grey_is_shown(slope, tmp_path):
    edited(series(tmp_path, slope=slope), lambda image: setattr(image, "PhotometricInterpretation", "MONOCHROME1"))
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data[0], ct()[:, :, :6])


BAD = {
    "NumberOfFrames": (b"1A", "number of frames"),
    "Rows": (b"\0\0", "no pixels"),
    "PixelSpacing": (b"a\\b ", "pixel spacing"),
    "ImagePositionPatient": (b"1\\2 ", "image position patient"),
    "ImageOrientationPatient": (b"1\\0\\0\\1\\0\\0 ", "orientation"),
    "RescaleSlope": (b"one ", "rescale slope"),
    "RescaleIntercept": (b"nan ", "rescale intercept"),
    "SliceThickness": (b"1\\2 ", "slice thickness"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("count", [1, 6])
def test_a_header_that_says_nonsense_is_refused_by_the_name_of_its_element(name, count, tmp_path):
    content, words = BAD[name]

    def damage(image):
        tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(name))
        vr = pydicom.datadict.dictionary_VR(tag)
        image[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(content), content, 0, False, True)

    edited(series(tmp_path, count)[:1], damage)
    message = refusal(tmp_path)
    assert words in message and "image000" in message


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([0, 4, 8, 12, 16, 20, 27, 34, 41, 48], "4 to 7 mm apart"),
        ([0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70], "5 to 10 mm apart"),
        ([0, 7, 14, 21, 25, 29, 33], "4 to 7 mm apart"),
        ([0, 1, 2, 3, 4, 5, 10, 15, 20], "1 to 5 mm apart"),
        ([0, 5, 10, 20, 25, 30], "lacks about 1 slice"),
        ([0, 5, 10, 25, 30, 35, 45, 50], "lacks about 3 slice"),
    ],
)
def test_two_slice_spacings_are_no_missing_slices(places, words, tmp_path):
    series(tmp_path, len(places), places=places)
    assert words in refusal(tmp_path)


def test_a_mosaic_says_what_to_do(tmp_path):
    edited(series(tmp_path, 1), lambda image: setattr(image, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]))
    assert "Siemens mosaic" in refusal(tmp_path) and "dcm2niix" in refusal(tmp_path)


def test_a_study_tree_lists_its_series(tmp_path):
    series(tmp_path / "study" / "arterial")
    series(tmp_path / "study" / "portal" / "thin", 4)
    message = refusal(tmp_path)
    assert (
        "study/arterial (CT, 6 images), study/portal/thin (CT, 4 images)" in message and "give one of them" in message
    )


def test_a_disc_is_given_by_one_of_its_folders(tmp_path):
    first = series(tmp_path / "IMAGES" / "S1")[0]
    index = foreign("index of a disc", first, tmp_path / "DICOMDIR")
    assert "index of a disc (DICOMDIR)" in refusal(index) and "IMAGES/S1" in refusal(index)
    assert "IMAGES/S1 (CT, 6 images)" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "IMAGES")
    assert "index of a disc" in refusal(tmp_path)


def test_files_without_preamble_are_read(tmp_path):
    for path in series(tmp_path):
        image = pydicom.dcmread(path)
        image.is_implicit_VR, image.is_little_endian, image.preamble = True, True, None
        del image.file_meta
        image.save_as(path, write_like_original=True)
    assert not (tmp_path / "image0001.dcm").read_bytes()[128:].startswith(b"DICM")
    for source in (tmp_path, tmp_path / "image0002.dcm"):
        assert np.array_equal(read_volume(source).data[0], ct()[:, :, :6])


def test_a_radiograph_without_spacing_is_a_picture(tmp_path):
    def flatten(image):
        image.Modality = "CR"
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            delattr(image, name)

    (path,) = edited(series(tmp_path, 1), flatten)
    volume = read_volume(path)
    assert volume.dims == 2 and not volume.in_mm and volume.unit == "intensity"
    assert np.array_equal(volume.data[0], ct()[:, :, 0])
    edited([path], lambda image: setattr(image, "ImagerPixelSpacing", ["0.2", "0.1"]))
    volume = read_volume(path)
    assert volume.in_mm and volume.spacing == pytest.approx((0.1, 0.2)) and volume.geometry == "spacing"


def test_phases_and_scans_in_one_folder_are_counted(tmp_path):
    paths = series(tmp_path)
    for path in paths:
        another(path, tmp_path / f"other-{path.name}", pydicom.dcmread(path).SOPClassUID, "CT")
    assert "holds 7 DICOM series (6, 1, 1, 1, 1, 1 and 1 images)" in refusal(tmp_path)
    uid = generate_uid()
    edited(sorted(tmp_path.glob("other-*")), lambda image: setattr(image, "SeriesInstanceUID", uid))
    assert "2 DICOM series (6 and 6 images)" in refusal(tmp_path)
    assert np.array_equal(read_volume(tmp_path / "other-image0002.dcm").data[0], ct()[:, :, :6])


def test_the_result_is_what_itk_reads_of_the_same_files(tmp_path):
    paths = series(tmp_path)
    expected = sitk.GetArrayFromImage(sitk.ReadImage([str(p) for p in paths])).T
    assert np.array_equal(read_volume(tmp_path).data[0], expected)
