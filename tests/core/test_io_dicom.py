"""DICOM series written by pydicom: HU, geometry, and which series are refused."""

import locale
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import write_series
from pydicom.uid import generate_uid

from perturbox.io import check_hu, read_labels, read_volume, writable_format, write_labels, write_volume
from perturbox.types import InputError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
TURN = np.deg2rad(25)
ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((np.cos(TURN), np.sin(TURN), 0.0), (-np.sin(TURN) * 0.6, np.cos(TURN) * 0.6, 0.8)),
}


@pytest.fixture
def hu() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 2000, (10, 8, 6))


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_values_and_places_are_those_of_the_standard(name, hu, tmp_path):
    rows_along, columns_along = (np.array(v, dtype=float) for v in ORIENTATIONS[name])
    write_series(tmp_path, hu, rows_along=tuple(rows_along), columns_along=tuple(columns_along))
    volume = read_volume(tmp_path)
    # DICOM PS3.3 C.7.6.2.1.1: a voxel lies at position + column index x spacing x row direction + ...
    expected = np.eye(4)
    expected[:3, 0], expected[:3, 1] = 0.8 * rows_along, 0.7 * columns_along
    expected[:3, 2], expected[:3, 3] = 2.5 * np.cross(rows_along, columns_along), (-12.5, 34.25, -60.0)
    assert np.allclose(volume.affine, LPS_TO_RAS @ expected, atol=1e-6)
    assert volume.unit == "HU" and volume.format == "dicom" and volume.dims == 3
    assert np.array_equal(volume.data[0], hu) and volume.data.dtype == np.float32
    assert volume.dtype == np.int16 and volume.step == 1.0
    assert check_hu(volume) == []


def test_the_affine_is_the_one_itks_own_reader_finds(hu, tmp_path):
    rows_along, columns_along = ORIENTATIONS["oblique"]
    write_series(tmp_path, hu, rows_along=rows_along, columns_along=columns_along)
    volume = read_volume(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    for index in [(0, 0, 0), (9, 0, 0), (0, 7, 0), (0, 0, 5), (9, 7, 5)]:
        lps = np.array([*image.TransformIndexToPhysicalPoint(index), 1])
        assert np.allclose(volume.affine @ [*index, 1], LPS_TO_RAS @ lps, atol=1e-4)


def test_one_file_stands_for_its_series(hu, tmp_path):
    paths = write_series(tmp_path / "a", hu)
    for path in write_series(tmp_path / "b", hu[..., :4] + 7):
        shutil.copy(path, tmp_path / "a" / f"other-{path.name}")
    assert np.array_equal(read_volume(paths[3]).data[0], hu)
    assert np.array_equal(read_volume(tmp_path / "a" / "other-image0001.dcm").data[0], hu[..., :4] + 7)
    with pytest.raises(InputError, match=r"2 DICOM series \(6 and 4 images\)"):
        read_volume(tmp_path / "a")


def test_a_file_without_suffix_is_recognised(hu, tmp_path):
    for number, path in enumerate(write_series(tmp_path, hu)):
        path.rename(tmp_path / f"IM{number}")
    assert np.array_equal(read_volume(tmp_path / "IM2").data[0], hu)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1000.0), (2.0, -1024.0), (1.0, -1000.5), (0.1, 0.0)])
def test_slopes_keep_the_steps_the_file_stores(slope, intercept, hu, tmp_path):
    stored = hu + 1000
    write_series(tmp_path / "series", slope * stored + intercept, slope=slope, intercept=intercept)
    volume = read_volume(tmp_path / "series")
    assert volume.dtype == np.int16 and np.array_equal(volume.stored()[0], stored)
    assert volume.step == np.float32(slope) and volume.intercept == intercept
    assert np.allclose(volume.data[0], slope * stored + intercept, rtol=1e-7, atol=0)
    assert writable_format(volume) == ".nii.gz"
    write_volume(tmp_path / "a.nii.gz", volume)
    again = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(again.data, volume.data) and again.step == volume.step


def test_a_single_slice_has_its_thickness(hu, tmp_path):
    write_series(tmp_path, hu[..., :1])
    volume = read_volume(tmp_path)
    assert volume.shape == (10, 8, 1) and volume.spacing == pytest.approx((0.8, 0.7, 2.5))


def test_another_modality_is_no_hu(hu, tmp_path):
    write_series(tmp_path, hu, modality="MR")
    volume = read_volume(tmp_path)
    assert volume.unit == "intensity" and volume.header["modality"] == "MR"


def test_positions_may_be_rounded_as_text_is(hu, tmp_path):
    write_series(tmp_path, hu, places=[0.0, 2.51, 5.0, 7.49, 10.0, 12.5])
    assert read_volume(tmp_path).spacing[2] == pytest.approx(2.5)


def test_a_report_in_the_folder_is_no_image_but_a_damaged_slice_is(hu, tmp_path):
    paths = write_series(tmp_path, hu)
    report = pydicom.dcmread(paths[0])
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(report, name)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    report.SeriesInstanceUID = generate_uid()
    report.save_as(tmp_path / "structures.dcm")
    assert np.array_equal(read_volume(tmp_path).data[0], hu)
    raw = paths[-1].read_bytes()
    for keep in (400, len(raw) - 1):  # in the header, and in the pixels
        paths[-1].write_bytes(raw[:keep])
        with pytest.raises(InputError, match=paths[-1].name):
            read_volume(tmp_path)


def test_slices_of_different_scaling_or_size_are_refused(hu, tmp_path):
    paths = write_series(tmp_path, hu)
    image = pydicom.dcmread(paths[2])
    image.RescaleIntercept = "-1000"
    image.save_as(paths[2])
    with pytest.raises(InputError, match="different rescale"):
        read_volume(tmp_path)
    image.RescaleIntercept, image.PixelSpacing = "-1024", ["0.9", "0.9"]
    image.save_as(paths[2])
    with pytest.raises(InputError, match="several sizes, spacings or directions"):
        read_volume(tmp_path)


def test_compressed_pixels_are_read_and_their_truncation_noticed(hu, tmp_path):
    stack = sitk.ReadImage([str(p) for p in write_series(tmp_path / "raw", hu)])
    (tmp_path / "packed").mkdir()
    series, spoken = generate_uid(), locale.setlocale(locale.LC_ALL)
    for k in range(6):
        image = sitk.Cast(stack[:, :, k], sitk.sitkInt16)
        for key, value in {
            "0020|000e": series, "0008|0060": "CT", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0032": f"0\\0\\{2.5 * k}",
            "0028|1052": "-1024", "0028|1053": "1", "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        }.items():  # fmt: skip
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(True)
        writer.SetFileName(str(tmp_path / "packed" / f"{k}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, spoken)  # GDCM sets it to C while it writes, and leaves it so
    syntax = pydicom.dcmread(tmp_path / "packed" / "0.dcm").file_meta.TransferSyntaxUID
    assert syntax.is_compressed and syntax.is_encapsulated
    volume = read_volume(tmp_path / "packed")
    assert sorted(volume.data[0].mean((0, 1)).tolist()) == pytest.approx(sorted(hu.mean((0, 1)).tolist()))
    last = tmp_path / "packed" / "5.dcm"
    last.write_bytes(last.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated"):
        read_volume(tmp_path / "packed")


def test_what_is_written_carries_nothing_of_the_patient(hu, tmp_path):
    write_series(tmp_path / "series", hu)
    volume = read_volume(tmp_path / "series")
    assert writable_format(volume) == ".nrrd"
    write_volume(tmp_path / "a.nrrd", volume, adversarial=True)
    write_labels(tmp_path / "seg.nii", np.ones(volume.shape, np.uint8), volume)
    again = read_volume(tmp_path / "a.nrrd")
    assert np.array_equal(again.data, volume.data) and again.same_grid(volume, 1e-9)
    assert read_labels(tmp_path / "seg.nii", volume).all()
    assert "secret" not in str(volume.header).lower()
    for name in ("a.nrrd", "seg.nii"):
        assert b"secret" not in (tmp_path / name).read_bytes().lower()


def test_writing_dicom_names_the_formats_that_are_written(hu, tmp_path):
    write_series(tmp_path / "series", hu)
    with pytest.raises(InputError, match=r"\.nii\.gz.*\.nrrd"):
        write_volume(tmp_path / "a.dcm", read_volume(tmp_path / "series"))
