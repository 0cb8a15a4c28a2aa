"""Voxels, values and geometry of generated files are those of nibabel, SimpleITK and pydicom.

Where they differ it is stated: NIfTI without codes follows SimpleITK (nibabel only guesses), a slope that
single precision can't hold differs from pydicom's by a part in 10^7, and SimpleITK reads no NIfTI-2.
"""

import itertools

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import write_series
from scipy.spatial.transform import Rotation

from perturbox.io import read_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE, SPACING, ORIGIN = (7, 6, 5), (0.8, 0.75, 2.5), (-110.5, 60.25, 900.125)
ORIENTATIONS = ["RAS", "LPS", "LPI", "PIR", "SLA"]
STORAGE = ["u1", "<i2", ">i2", "<u2", "<i4", "<f4", ">f8"]
TILTS = [0.0, 12.5]


def affine_for(orientation: str, tilt: float) -> np.ndarray:
    """ijk -> RAS of these axes, turned by `tilt` degrees."""
    axes = nib.orientations.axcodes2ornt(tuple(orientation))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for k, (axis, sign) in enumerate(axes):
        affine[int(axis), k] = sign * SPACING[k]
    affine[:3, :3] = Rotation.from_euler("xyz", [tilt, -tilt / 2, tilt], degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = ORIGIN
    return affine


def numbers(dtype: str, seed: int = 0) -> np.ndarray:
    kind = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if kind.kind == "f":
        return rng.normal(0, 400, SHAPE).astype(kind)
    low, high = max(-1024, np.iinfo(kind).min), min(3000, np.iinfo(kind).max)
    return rng.integers(low, high, SHAPE).astype(kind)


def by_itk(path) -> tuple[np.ndarray, np.ndarray]:
    """(values "i j k", ijk -> RAS) as SimpleITK alone says."""
    image = sitk.ReadImage([str(p) for p in path] if isinstance(path, list) else str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS @ affine


NIFTI = [
    (orientation, STORAGE[n % len(STORAGE)], slope, TILTS[n % 2], [(1, 1), (0, 1), (1, 0)][n % 3])
    for n, (orientation, slope) in enumerate(
        itertools.product(ORIENTATIONS, [(None, None), (2.0, -1024.0), (0.5, 0.0), (0.1, 3.0)])
    )
]


@pytest.mark.parametrize(("orientation", "dtype", "slope", "tilt", "codes"), NIFTI)
def test_nifti(orientation, dtype, slope, tilt, codes, tmp_path):
    slope = (None, None) if np.dtype(dtype).kind == "f" else slope
    affine, path = affine_for(orientation, tilt), tmp_path / "a.nii.gz"
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(numbers(dtype), affine, header)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    image.header.set_slope_inter(*slope)
    nib.save(image, path)
    raw = nib.load(path)
    volume = read_volume(path)
    assert np.array_equal(volume.data[0], raw.get_fdata(dtype=np.float64))
    assert np.array_equal(volume.stored()[0], raw.dataobj.get_unscaled())
    assert np.array_equal(volume.affine, raw.affine)
    values, place = by_itk(path)
    assert np.allclose(volume.data[0], values, rtol=1e-6, atol=1e-4)  # ITK computes with single precision
    assert np.allclose(volume.affine, place, atol=1e-3)
    assert volume.notes == () and volume.geometry == "patient"


ITK = [
    (suffix, orientation, STORAGE[n % len(STORAGE)], TILTS[n % 2], n % 3 == 0)
    for n, (suffix, orientation) in enumerate(itertools.product([".nrrd", ".nhdr", ".mha", ".mhd"], ORIENTATIONS))
]


@pytest.mark.parametrize(("suffix", "orientation", "dtype", "tilt", "compressed"), ITK)
def test_nrrd_and_metaimage(suffix, orientation, dtype, tilt, compressed, tmp_path):
    values = numbers(dtype).astype(np.dtype(dtype).newbyteorder("="))
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    affine = LPS @ affine_for(orientation, tilt)
    image.SetSpacing(SPACING)
    image.SetDirection((affine[:3, :3] / SPACING).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    volume = read_volume(path)
    expected, place = by_itk(path)
    assert np.array_equal(volume.data[0], expected) and np.array_equal(volume.stored()[0], values)
    assert np.allclose(volume.affine, place, atol=1e-9) and np.allclose(volume.affine, LPS @ affine, atol=1e-4)
    assert volume.notes == () and volume.geometry == "patient"


DICOM = [
    (orientation, slope, TILTS[n % 2])
    for n, (orientation, slope) in enumerate(
        itertools.product(ORIENTATIONS, [(1.0, -1024.0), (1.0, 0.0), (2.0, -1000.0), (0.5, -0.25), (0.1, 7.0)])
    )
]


@pytest.mark.parametrize(("orientation", "slope", "tilt"), DICOM)
def test_dicom(orientation, slope, tilt, tmp_path):
    affine = LPS @ affine_for(orientation, tilt)
    along = affine[:3, :3] / SPACING
    stored = numbers("<i2")
    paths = write_series(
        tmp_path,
        slope[0] * stored + slope[1],
        position=tuple(affine[:3, 3]),
        rows_along=tuple(along[:, 0]),
        columns_along=tuple(along[:, 1]),
        spacing=SPACING,
        slope=slope[0],
        intercept=slope[1],
    )
    volume = read_volume(tmp_path)
    slices = [pydicom.dcmread(path) for path in paths]
    expected = np.stack([image.pixel_array.T for image in slices], -1)
    exact = float(np.float32(slope[0])) == slope[0]
    units = np.stack([slope[0] * image.pixel_array.T.astype(float) + slope[1] for image in slices], -1)
    assert np.allclose(volume.data[0], units, rtol=0 if exact else 1e-7, atol=0 if exact else 1e-6)
    if slope[0] != 1:
        assert np.array_equal(volume.stored()[0], expected) and volume.step == np.float32(slope[0])
    # PS3.3 C.7.6.2.1.1, from pydicom's numbers
    first, last = (np.array(image.ImagePositionPatient, float) for image in (slices[0], slices[-1]))
    cosines = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    place = np.eye(4)
    place[:3, 0], place[:3, 1] = cosines[0] * slices[0].PixelSpacing[1], cosines[1] * slices[0].PixelSpacing[0]
    place[:3, 2], place[:3, 3] = (last - first) / (len(slices) - 1), first
    assert np.allclose(volume.affine, LPS @ place, atol=1e-6)
    values, itk = by_itk([*paths])
    assert np.allclose(volume.data[0], values, rtol=1e-6, atol=1e-4) and np.allclose(volume.affine, itk, atol=1e-4)
    assert volume.notes == () and volume.geometry == "patient"


def test_sixty_files_were_compared():
    assert len(NIFTI) + len(ITK) + len(DICOM) >= 60
