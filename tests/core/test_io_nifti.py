"""NIfTI: read -> write -> read changes no bit of the numbers and no field of the header, as nibabel sees it."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from perturbox.io import (
    has_room_for_notice,
    read_labels,
    read_volume,
    suffix,
    writable_format,
    write_labels,
    write_volume,
)
from perturbox.types import ADVERSARIAL_NOTICE, InputError, Volume

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64")
FREE = ("vox_offset", "descrip")  # what the writer may change: where data begin, and the notice


def oblique(
    angles=(20.0, -35.0, 50.0), spacing=(0.8, 0.75, 1.5), origin=(-120.3, 44.1, 900.7), shear=0.0
) -> np.ndarray:
    """ijk -> RAS in float32 numbers, so that an sform holds it exactly."""
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    mixed = rotation @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]]) * np.array(spacing)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = mixed, origin
    return affine.astype(np.float32).astype(np.float64)


def values_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1000, shape).astype(dtype)
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    values.flat[0], values.flat[-1] = limits.min, limits.max
    return values


def save(
    path, values, affine, *, order="<", slope=None, intercept=0.0, version=1, qform=None, sform=2, units=("mm", "sec")
):
    """A file by nibabel, which writes the values as they are and the slope beside them."""
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=order)
    header.set_data_dtype(values.dtype.newbyteorder(order))
    image = (nib.Nifti1Image if version == 1 else nib.Nifti2Image)(values, None, header)
    image.set_sform(affine, code=sform)
    if qform:
        image.set_qform(affine, code=qform)
    image.header.set_xyzt_units(*units)
    image.header.set_slope_inter(1.0 if slope is None else slope, intercept)
    nib.save(image, path)
    return path


def equal_headers(one, other) -> list[str]:
    """Names of the fields that differ, bit by bit."""
    assert type(one) is type(other) and one.endianness == other.endianness
    return [name for name in one if name not in FREE and one[name].tobytes() != other[name].tobytes()]


@st.composite
def files(draw):
    return {
        "values": values_of(
            draw(st.sampled_from(DTYPES)),
            tuple(draw(st.lists(st.integers(2, 6), min_size=2, max_size=3))),
            draw(st.integers(0, 9)),
        ),
        "affine": oblique(
            draw(st.tuples(*[st.floats(-180, 180)] * 3)),
            draw(st.tuples(*[st.floats(0.1, 9)] * 3)),
            draw(st.tuples(*[st.floats(-2000, 2000)] * 3)),
            draw(st.sampled_from([0.0, 0.004])),  # what rounding leaves of right angles
        ),
        "order": draw(st.sampled_from("<>")),
        "slope": draw(st.sampled_from([None, 0.5, 0.1, -2.0, 3.7])),
        "intercept": draw(st.sampled_from([0.0, -1024.0, 0.3])),
        "version": draw(st.sampled_from([1, 2])),
        "qform": draw(st.sampled_from([None, 1])),
        "sform": draw(st.sampled_from([1, 2, 4])),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=files(), name=st.sampled_from(["a.nii", "a.nii.gz"]))
def test_round_trip_keeps_every_bit(file, name, tmp_path):
    if file["values"].dtype.kind == "f":
        file["slope"], file["intercept"] = None, 0.0
    values, slope = file["values"], float(np.float32(file["slope"] or 1.0))
    intercept = float(np.float32(file["intercept"])) if file["version"] == 1 else file["intercept"]
    slope = slope if file["version"] == 1 else (file["slope"] or 1.0)
    source, copy = save(tmp_path / name, **file), tmp_path / f"copy-{name}"

    volume = read_volume(source)
    write_volume(copy, volume, overwrite=True)
    again = read_volume(copy)

    assert volume.dtype == again.dtype == values.dtype
    assert (volume.slope, volume.intercept) == (again.slope, again.intercept) == (slope, intercept)
    assert volume.data.dtype in (np.float32, np.float64)
    assert np.array_equal(volume.data[0], slope * values.astype(np.float64) + intercept)
    assert np.array_equal(volume.stored()[0], values)
    assert np.array_equal(again.data, volume.data) and np.array_equal(again.affine, volume.affine)
    one, other = nib.load(source), nib.load(copy)
    assert equal_headers(one.header, other.header) == []
    assert np.array_equal(other.dataobj.get_unscaled(), values)
    assert other.get_data_dtype() == values.dtype.newbyteorder(file["order"])
    assert np.array_equal(one.affine, other.affine)
    assert np.array_equal(volume.affine[:, [0, 1, 3]], one.affine[:, [0, 1, 3]])
    unzip = gzip.decompress if name.endswith("gz") else bytes
    assert unzip(source.read_bytes()) == unzip(copy.read_bytes())


def test_float_data_is_as_small_as_is_exact(tmp_path):
    def data_type(values, **options):
        return read_volume(save(tmp_path / "a.nii", values, oblique(), **options)).data.dtype

    assert data_type(values_of("int16", (4, 4, 4))) == np.float32
    assert data_type(values_of("int16", (4, 4, 4)), slope=0.5, intercept=-1024.0) == np.float32
    assert data_type(values_of("int16", (4, 4, 4)), slope=0.1) == np.float64
    assert data_type(np.arange(-1207, 3382, dtype=np.int32)[:4096].reshape(16, 16, 16)) == np.float32
    assert data_type(values_of("int32", (4, 4, 4))) == np.float64
    assert data_type(values_of("float32", (4, 4, 4))) == np.float32
    assert data_type(values_of("float64", (4, 4, 4))) == np.float64


def test_integers_beyond_double_precision_are_refused(tmp_path):
    values = np.full((4, 4, 4), 2**53 + 1, np.int64)
    values[0] = 0
    with pytest.raises(InputError, match="too large"):
        read_volume(save(tmp_path / "a.nii", values, oblique()))


def test_scaling_that_loses_digits_is_refused(tmp_path):
    values = np.float32([[1e-9, 2e-9], [3e-9, 5e-9]])[None] * np.ones((2, 1, 1), np.float32)
    with pytest.raises(InputError, match="lose digits"):
        read_volume(save(tmp_path / "a.nii", values, oblique(), slope=1.0, intercept=1000.0))


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (2, 1), (0, 3), (0, 0)])
def test_affine_comes_from_sform_else_qform_else_spacing(qform, sform, tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header.set_zooms((0.8, 0.75, 1.5))
    image = nib.Nifti1Image(values_of("int16", (4, 5, 6)), None, header)
    image.header.set_qform(oblique(origin=(1, 2, 3)), code=qform)
    image.header.set_sform(oblique(origin=(4, 5, 6)), code=sform)
    nib.save(image, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").affine
    if not (qform or sform):  # where nibabel puts the middle at 0 and j to the front, and says that it doesn't know
        expected = np.diag([*(np.float32([-0.8, -0.75, 1.5]).astype(float)), 1])

    volume = read_volume(tmp_path / "a.nii")
    write_volume(tmp_path / "b.nii", volume)

    assert np.array_equal(volume.affine, expected)
    assert volume.geometry == ("patient" if qform or sform else "spacing")
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()


def test_trailing_axes_of_one_are_kept_but_not_counted(tmp_path):
    save(tmp_path / "a.nii", values_of("int16", (4, 5, 6, 1)), oblique())
    volume = read_volume(tmp_path / "a.nii")
    assert volume.data.shape == (1, 4, 5, 6)
    write_volume(tmp_path / "b.nii", volume)
    assert nib.load(tmp_path / "b.nii").shape == (4, 5, 6, 1)


def test_a_single_slice_stays_3d_and_a_2d_image_stays_2d(tmp_path):
    assert read_volume(save(tmp_path / "a.nii", values_of("int16", (7, 5, 1)), oblique())).shape == (7, 5, 1)
    flat = read_volume(save(tmp_path / "b.nii", values_of("int16", (7, 5)), oblique()))
    assert flat.dims == 2 and flat.shape == (7, 5)
    assert flat.spacing == pytest.approx((0.8, 0.75), rel=1e-6)
    assert np.allclose(flat.affine[:3, 2], np.cross(flat.affine[:3, 0], flat.affine[:3, 1]) / 0.6)


def test_extensions_comments_units_and_display_range_are_kept(tmp_path):
    image = nib.load(save(tmp_path / "a.nii.gz", values_of("int16", (4, 5, 6)), oblique(), units=("mm", "msec")))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"acquired on a Monday"))
    image.header["descrip"], image.header["cal_max"], image.header["aux_file"] = b"portal venous", 400, b"aux"
    nib.save(image, tmp_path / "b.nii.gz")
    write_volume(tmp_path / "c.nii.gz", read_volume(tmp_path / "b.nii.gz"))
    one, other = nib.load(tmp_path / "b.nii.gz").header, nib.load(tmp_path / "c.nii.gz").header
    assert equal_headers(one, other) == [] and other["descrip"] == b"portal venous"
    assert [e.get_content() for e in other.extensions] == [e.get_content() for e in one.extensions]


def test_the_notice_stands_in_description_and_comment(tmp_path):
    save(tmp_path / "a.nii.gz", values_of("int16", (4, 5, 6)), oblique())
    volume = read_volume(tmp_path / "a.nii.gz")
    write_volume(tmp_path / "b.nii.gz", volume, adversarial=True, description="PGD, eps 4 HU")
    header = nib.load(tmp_path / "b.nii.gz").header
    assert header["descrip"].item().decode() == ADVERSARIAL_NOTICE
    assert [(e.get_code(), e.get_content()) for e in header.extensions] == [
        (6, f"{ADVERSARIAL_NOTICE}\nPGD, eps 4 HU".encode())
    ]
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").data, volume.data)
    assert has_room_for_notice(".nii.gz") and has_room_for_notice(".nii")


def test_equal_volumes_make_equal_files(tmp_path, monkeypatch):
    volume = Volume(values_of("int16", (1, 4, 5, 6)).astype(np.float32), oblique())
    (tmp_path / "other").mkdir()
    write_volume(tmp_path / "a.nii.gz", volume)
    monkeypatch.setattr("time.time", lambda: 4e9)
    write_volume(tmp_path / "other" / "b.nii.gz", volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other" / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_a_volume_from_elsewhere_gets_a_header_of_its_own(shear, tmp_path):
    volume = Volume(
        values_of("float32", (1, 4, 5, 6)),
        oblique(shear=shear),
        dtype=np.dtype(np.float32),
        format=".nrrd",
        header={"metadata": {"key": "value"}},
    )
    write_volume(tmp_path / "a.nii.gz", volume)
    image = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(image.get_sform(), volume.affine)
    assert image.header["qform_code"] == (2 if shear == 0 else 0)
    if shear == 0:
        assert np.allclose(image.get_qform(), volume.affine, atol=1e-4)
    assert image.header.get_zooms() == pytest.approx(volume.spacing, rel=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(image.dataobj, volume.data[0])


def test_changed_type_scaling_and_place_reach_the_file(tmp_path):
    source = read_volume(save(tmp_path / "a.nii", values_of("uint8", (4, 5, 6)), oblique(), slope=2.0, intercept=-10.0))
    delta = np.linspace(-4, 4, 120, dtype=np.float64).reshape(1, 4, 5, 6)
    moved = oblique(origin=(0, 0, 0))
    changed = source.with_data(delta, dtype=np.dtype(np.float64), slope=1.0, intercept=0.0, affine=moved)
    write_volume(tmp_path / "b.nii", changed)
    image = nib.load(tmp_path / "b.nii")
    assert image.get_data_dtype() == np.float64
    assert np.array_equal(image.affine, moved)
    assert np.array_equal(image.get_fdata(), delta[0])
    again = read_volume(tmp_path / "b.nii")
    assert np.array_equal(again.data, delta) and again.step is None


def test_an_all_zero_difference_can_be_read_when_asked(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((4, 5, 6), np.int16), oblique())
    assert read_volume(path, allow_constant=True).data.sum() == 0
    with pytest.raises(InputError, match=r"same value \(0\)"):
        read_volume(path)


def test_colour_differences_are_vectors(tmp_path):
    data = values_of("int16", (3, 7, 5)).astype(np.float32)
    volume = Volume(data, np.diag([-1.0, -1.0, 1.0, 1.0]), "intensity", format=".png")
    write_volume(tmp_path / "a.nii.gz", volume)
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.shape == (7, 5, 1, 1, 3) and image.header.get_intent()[0] == "vector"
    again = read_volume(tmp_path / "a.nii.gz", unit="intensity")
    assert again.data.shape == (3, 7, 5) and np.array_equal(again.data, data)
    assert np.array_equal(again.affine, volume.affine) and again.same_grid(volume)


# Label maps


@pytest.mark.parametrize(("largest", "dtype"), [(7, np.uint8), (255, np.uint8), (300, np.uint16)])
def test_label_maps_lie_exactly_on_the_scan(largest, dtype, tmp_path):
    save(tmp_path / "a.nii.gz", values_of("int16", (4, 5, 6)), oblique(), order=">", slope=0.5, qform=1, sform=1)
    scan = read_volume(tmp_path / "a.nii.gz")
    labels = np.random.default_rng(0).integers(0, largest, scan.shape)
    labels[0, 0, 0] = largest
    write_labels(tmp_path / "seg.nii.gz", labels, scan, {"liver": 1, "spleen": 2})
    image, source = nib.load(tmp_path / "seg.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype().newbyteorder("=") == dtype
    assert np.array_equal(image.affine, source.affine)
    assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
    assert np.array_equal(image.get_qform(), source.get_qform())
    assert np.array_equal(np.asanyarray(image.dataobj), labels)
    assert image.header.get_intent()[0] == "label"
    assert image.header.extensions[0].get_content() == b"labels: liver=1, spleen=2"
    assert np.array_equal(read_labels(tmp_path / "seg.nii.gz", scan), labels)


def test_label_maps_take_no_comments_from_the_scan(tmp_path):
    image = nib.load(save(tmp_path / "a.nii", values_of("int16", (4, 5, 6)), oblique()))
    image.header["descrip"], image.header["db_name"] = b"Secret Name", b"SECRET"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Secret Name"))
    nib.save(image, tmp_path / "b.nii")
    write_labels(tmp_path / "seg.nii", np.ones((4, 5, 6), np.uint8), read_volume(tmp_path / "b.nii"))
    assert b"secret" not in (tmp_path / "seg.nii").read_bytes().lower()


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", ".nii.gz"), ("A.NII.GZ", ".nii.gz"), ("a.b.nii", ".nii"), ("x.y/a.PNG", ".png"), ("x.y/a", "")],
)
def test_suffix(name, expected):
    assert suffix(name) == expected


@pytest.mark.parametrize(
    ("format", "expected"),
    [(".nii.gz", ".nii.gz"), (".nii", ".nii"), (".nrrd", ".nrrd"), (".nhdr", ".nrrd"), (".mha", ".mha"),
     (".mhd", ".mha"), (".jpg", ".png"), (".jpeg", ".png"), (".png", ".png"), (".tif", ".tif"),
     (".bmp", ".bmp"), ("dicom", ".nrrd")],
)  # fmt: skip
def test_every_source_has_a_lossless_format_to_be_written_in(format, expected):
    assert writable_format(Volume(np.zeros((1, 2, 2, 2)), format=format)) == expected


# Real scans


@pytest.mark.parametrize(
    "name",
    [
        "ct_abdomen/example_ct.nii.gz",
        "mr_abdomen/example_mr_sm.nii.gz",
        "mr_hippocampus_msd/images/hippocampus_190.nii.gz",
    ],
)
def test_real_scans_survive(name, data_dir, tmp_path):
    volume = read_volume(data_dir / name)
    write_volume(tmp_path / "copy.nii.gz", volume)
    one, other = nib.load(data_dir / name), nib.load(tmp_path / "copy.nii.gz")
    assert equal_headers(one.header, other.header) == []
    assert np.array_equal(one.affine, other.affine) and np.array_equal(volume.affine, one.affine)
    assert one.get_data_dtype() == other.get_data_dtype()
    assert np.array_equal(one.dataobj.get_unscaled(), other.dataobj.get_unscaled())
    assert np.array_equal(volume.data[0], np.asanyarray(one.dataobj))


def test_real_labels(data_dir, real_ct):
    path = data_dir / "ct_abdomen" / "example_seg.nii.gz"
    labels = read_labels(path, read_volume(real_ct))
    assert np.array_equal(labels, np.asanyarray(nib.load(path).dataobj))
