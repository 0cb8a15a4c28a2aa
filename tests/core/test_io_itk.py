"""NRRD, MetaImage and photographs: exact numbers, and voxels where SimpleITK and nibabel say they are."""

import itertools
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from perturbox.io import has_room_for_notice, read_labels, read_volume, writable_format, write_labels, write_volume
from perturbox.types import ADVERSARIAL_NOTICE, InputError, Volume

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64")


def pixels(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random values over the whole range of a type, but int64 only over what a double holds."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1000, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(max(limits.min, -(2**52)), min(limits.max, 2**52), shape, dtype=dtype, endpoint=True)


def oblique_image(
    array: np.ndarray, angles=(20.0, -35.0, 50.0), spacing=(0.8, 0.75, 1.5), origin=(-120.3, 44.1, 900.7)
):
    """A SimpleITK image of `array` (k, j, i), turned in space."""
    image = sitk.GetImageFromArray(array)
    image.SetDirection(Rotation.from_euler("xyz", angles, degrees=True).as_matrix().ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def corners_agree(image: sitk.Image, affine: np.ndarray) -> bool:
    """Whether every corner voxel lies where ITK puts it, LPS turned to RAS."""
    for index in itertools.product(*[(0, n - 1) for n in image.GetSize()]):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        ras = affine[:3] @ [*index, *[0] * (3 - len(index)), 1]
        if not np.allclose(ras[: len(lps)], (lps * [-1, -1, 1][: len(lps)]), atol=1e-6):
            return False
    return True


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
    format=st.sampled_from([".nrrd", ".mha", ".nhdr", ".mhd"]),
    compressed=st.booleans(),
)
def test_volumes_survive_and_lie_where_itk_says(dtype, shape, angles, spacing, origin, format, compressed, tmp_path):
    array = pixels(dtype, shape)
    image = oblique_image(array, angles, spacing, origin)
    sitk.WriteImage(image, str(tmp_path / f"a{format}"), compressed)

    volume = read_volume(tmp_path / f"a{format}")
    copy = tmp_path / f"b{writable_format(volume)}"
    write_volume(copy, volume, overwrite=True)
    again = read_volume(copy)
    by_itk = sitk.ReadImage(str(copy))

    assert volume.dtype == again.dtype == np.dtype(dtype)
    assert volume.format == format and (volume.slope, volume.intercept) == (1.0, 0.0)
    assert np.array_equal(volume.stored()[0], array.T) and np.array_equal(again.data, volume.data)
    assert corners_agree(image, volume.affine)
    assert np.allclose(again.affine, volume.affine, rtol=0, atol=1e-9 * max(1.0, *map(abs, origin)))
    assert again.same_grid(volume, 1e-6)
    assert np.array_equal(sitk.GetArrayFromImage(by_itk), array) and by_itk.GetPixelID() == image.GetPixelID()
    assert corners_agree(by_itk, volume.affine)


@pytest.mark.parametrize("format", [".nrrd", ".mha"])
def test_the_affine_is_the_one_nibabel_reads_from_itks_nifti(format, tmp_path):
    image = oblique_image(pixels("int16", (6, 5, 4)))
    sitk.WriteImage(image, str(tmp_path / f"a{format}"))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    volume, by_nibabel = read_volume(tmp_path / f"a{format}"), nib.load(tmp_path / "a.nii.gz")
    assert np.allclose(volume.affine, by_nibabel.affine, atol=1e-4)
    assert np.array_equal(volume.data[0], by_nibabel.get_fdata())
    assert read_volume(tmp_path / "a.nii.gz").same_grid(volume)


def test_labels_of_an_nrrd_scan_lie_on_it_for_itk_too(tmp_path):
    sitk.WriteImage(oblique_image(pixels("int16", (6, 5, 4))), str(tmp_path / "a.nrrd"))
    scan = read_volume(tmp_path / "a.nrrd")
    labels = np.random.default_rng(0).integers(0, 4, scan.shape).astype(np.uint8)
    write_labels(tmp_path / "seg.nii.gz", labels, scan, {"liver": 1})
    by_itk = sitk.ReadImage(str(tmp_path / "seg.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(by_itk).T, labels)
    original = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    for index in [(0, 0, 0), (3, 4, 5)]:
        there, here = (np.array(i.TransformIndexToPhysicalPoint(index)) for i in (original, by_itk))
        assert np.allclose(there, here, atol=1e-3)
    assert np.array_equal(read_labels(tmp_path / "seg.nii.gz", scan), labels)


def test_big_endian_files_are_read_as_what_they_mean(tmp_path):
    array = pixels("int16", (4, 5, 6))
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 6 5 4\n"
    header += "space directions: (2,0,0) (0,3,0) (0,0,4)\nkinds: domain domain domain\nendian: big\nencoding: raw\n"
    header += "space origin: (-10,20,30)\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + array.astype(">i2").tobytes())
    meta = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\nElementSpacing = 2 3 4\n"
    meta += "Offset = 10 -20 30\nTransformMatrix = -1 0 0 0 -1 0 0 0 1\nDimSize = 6 5 4\nElementType = MET_SHORT\n"
    (tmp_path / "a.mha").write_bytes((meta + "ElementDataFile = LOCAL\n").encode() + array.astype(">i2").tobytes())
    for name in ("a.nrrd", "a.mha"):
        volume = read_volume(tmp_path / name)
        assert volume.dtype == np.int16 and np.array_equal(volume.data[0], array.T)
        assert np.allclose(volume.affine, [[2, 0, 0, -10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize("format", [".nrrd", ".mha"])
def test_metadata_is_kept_and_the_notice_added(format, tmp_path):
    image = oblique_image(pixels("int16", (4, 5, 6)))
    image.SetMetaData("Scanner", "a fine one")
    sitk.WriteImage(image, str(tmp_path / f"a{format}"))
    volume = read_volume(tmp_path / f"a{format}")
    write_volume(tmp_path / f"b{format}", volume, adversarial=True, description="PGD, eps 4 HU")
    found = sitk.ReadImage(str(tmp_path / f"b{format}"))
    assert found.GetMetaData("Scanner") == "a fine one"
    assert found.GetMetaData("notice") == ADVERSARIAL_NOTICE
    assert found.GetMetaData("description") == "PGD, eps 4 HU"
    assert np.array_equal(read_volume(tmp_path / f"b{format}").data, volume.data)
    assert has_room_for_notice(format)


def test_equal_volumes_make_equal_files(tmp_path):
    names = ("a.nrrd", "a.mha", "a.png")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in names:
            values = pixels("uint8", (1, 8, 7) if name == "a.png" else (1, 8, 7, 6)).astype(np.float32)
            volume = Volume(values, dtype=np.dtype(np.uint8), format=name[1:])
            write_volume(tmp_path / folder / name, volume, adversarial=True)
        time.sleep(1.1)  # a clock in a header counts seconds
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_readers_in_several_threads_leave_stderr_as_it_was(tmp_path, capfd):
    sitk.WriteImage(oblique_image(pixels("int16", (6, 5, 4))), str(tmp_path / "a.nrrd"))
    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(lambda _: read_volume(tmp_path / "a.nrrd").shape, range(40)))
    assert shapes == [(4, 5, 6)] * 40
    os.write(2, b"still heard")
    assert capfd.readouterr().err == "still heard"


# Photographs


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        (".png", "uint8"), (".png", "uint16"), (".bmp", "uint8"), (".tif", "uint8"), (".tiff", "uint16"),
        (".tif", "int16"), (".tif", "int32"), (".tif", "float32"),
    ],
)  # fmt: skip
def test_photographs_survive(format, dtype, channels, tmp_path):
    array = pixels(dtype, (9, 7, 3) if channels == 3 else (9, 7))  # 9 rows of 7
    image = sitk.GetImageFromArray(array, isVector=channels == 3)
    image.SetSpacing((0.25, 0.5))
    sitk.WriteImage(image, str(tmp_path / f"a{format}"))

    volume = read_volume(tmp_path / f"a{format}", channels=channels)
    write_volume(tmp_path / f"b{format}", volume, adversarial=True)
    again = read_volume(tmp_path / f"b{format}")

    assert volume.shape == (7, 9) and volume.unit == "intensity" and volume.dims == 2
    assert volume.dtype == again.dtype == np.dtype(dtype)
    assert np.array_equal(np.moveaxis(volume.stored(), 0, -1).squeeze(), array.swapaxes(0, 1))
    assert np.array_equal(again.data, volume.data) and np.array_equal(again.affine, volume.affine)
    by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"b{format}")))
    assert np.array_equal(by_itk[..., 0] if by_itk.ndim > array.ndim else by_itk, array)  # ITK reads grey BMP as colour
    assert volume.geometry == "none" and not volume.in_mm  # dots per inch are for printing
    assert np.array_equal(volume.affine, np.diag([-1.0, -1.0, 1.0, 1.0]))


def test_png_carries_the_notice_in_a_chunk_that_other_readers_check(tmp_path):
    volume = Volume(pixels("uint8", (3, 8, 7)).astype(np.float32), unit="intensity", dtype=np.dtype(np.uint8))
    write_volume(tmp_path / "a.png", volume, adversarial=True, description="PGD")
    raw = (tmp_path / "a.png").read_bytes()
    length, kind = struct.unpack(">I4s", raw[33:41])
    assert kind == b"tEXt" and raw[41 : 41 + length] == f"Comment\0{ADVERSARIAL_NOTICE}. PGD".encode()
    assert np.array_equal(read_volume(tmp_path / "a.png").data, volume.data)  # libpng checks the chunk's checksum
    assert has_room_for_notice(".png")
    assert not has_room_for_notice(".tif") and not has_room_for_notice(".bmp")


def test_colour_where_grey_is_needed_and_the_reverse(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(pixels("uint8", (9, 7, 3)), isVector=True), str(tmp_path / "rgb.png"))
    sitk.WriteImage(sitk.GetImageFromArray(pixels("uint8", (9, 7))), str(tmp_path / "grey.png"))
    with pytest.raises(InputError, match="colour image where a grey one is needed"):
        read_volume(tmp_path / "rgb.png", channels=1)
    with pytest.raises(InputError, match="grey image where a colour"):
        read_volume(tmp_path / "grey.png", channels=3)
    grey = read_volume(tmp_path / "grey.png")
    with pytest.raises(InputError, match="colour image where a label map is needed"):
        read_labels(tmp_path / "rgb.png", grey)
    assert np.array_equal(read_labels(tmp_path / "grey.png", grey), grey.data[0])


def test_a_solid_alpha_channel_is_dropped_and_a_transparent_one_refused(tmp_path):
    array = pixels("uint8", (9, 7, 4))
    array[..., -1] = 255
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "solid.png"))
    volume = read_volume(tmp_path / "solid.png")
    assert np.array_equal(volume.data, array[..., :-1].transpose(2, 1, 0))
    array[3, 3, -1] = 254
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "glass.png"))
    sitk.WriteImage(sitk.GetImageFromArray(array[..., 2:], isVector=True), str(tmp_path / "grey.png"))
    for name in ("glass.png", "grey.png"):
        with pytest.raises(InputError, match="alpha channel"):
            read_volume(tmp_path / name)


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(pixels("uint8", (3, 9, 7))), str(tmp_path / "a.tif"))
    with pytest.raises(InputError, match="several pages"):
        read_volume(tmp_path / "a.tif")


def test_label_maps_of_a_photograph_are_2d(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(pixels("uint8", (9, 7, 3)), isVector=True), str(tmp_path / "a.png"))
    picture = read_volume(tmp_path / "a.png")
    labels = np.random.default_rng(0).integers(0, 3, picture.shape).astype(np.uint8)
    write_labels(tmp_path / "seg.nii.gz", labels, picture, {"vessel": 1})
    assert np.array_equal(read_labels(tmp_path / "seg.nii.gz", picture, {0, 1, 2}), labels)


def test_real_fundus_photograph(data_dir, tmp_path):
    folder = data_dir / "fundus_chase"
    picture = read_volume(folder / "Image_04R.jpg", channels=3)
    assert picture.data.shape == (3, 999, 960) and picture.unit == "intensity" and picture.dtype == np.uint8
    assert np.array_equal(picture.data.transpose(2, 1, 0), np.asarray(Image.open(folder / "Image_04R.jpg")))
    write_volume(tmp_path / f"a{writable_format(picture)}", picture)
    assert np.array_equal(read_volume(tmp_path / "a.png").data, picture.data)
    vessels = read_labels(folder / "Image_04R_1stHO.png", picture)
    assert vessels.shape == picture.shape and 0.02 < (vessels > 0).mean() < 0.2
