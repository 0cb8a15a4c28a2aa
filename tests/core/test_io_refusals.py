"""Every input that can't be used ends in one sentence, without a word from a library or a trace on disk."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from bad_inputs import AFFINE, BAD_IMAGES, BAD_INPUTS, ct_values, good_ct
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perturbox.io import check_hu, files, read_labels, read_mask, read_volume, write_labels, write_volume
from perturbox.types import InputError, Volume


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def is_plain(message: str) -> bool:
    """One line that ends as a sentence and names nothing internal."""
    inside = ("Traceback", "Error", "0x", "itk", "nibabel", "numpy", "<class", "None")
    return "\n" not in message and message.endswith(".") and not any(word in message for word in inside)


@pytest.mark.parametrize("entry", BAD_IMAGES, ids=lambda entry: entry[0])
def test_bad_image_is_refused_in_one_sentence(entry, tmp_path, capfd):
    _, build, words = entry
    path = build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()  # what building the file said

    message = refusal(lambda: check_hu(read_volume(path, channels=1)))

    assert [word for word in words if word not in message.lower()] == []
    assert is_plain(message.replace(str(tmp_path), "")), message
    assert "secret" not in message.lower()  # the patient of the DICOM series
    assert capfd.readouterr() == ("", "")
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_inputs_are_many_and_distinct():
    names = [name for name, *_ in BAD_INPUTS]
    assert len(names) == len(set(names)) >= 100


@pytest.mark.parametrize("entry", [e for e in BAD_INPUTS if e[0] not in {i[0] for i in BAD_IMAGES}], ids=lambda e: e[0])
def test_other_bad_inputs_start_from_a_good_scan(entry, tmp_path):
    """The scan itself is usable there, so that it is the argument under test which is refused."""
    arguments = entry[1](tmp_path)
    volume = read_volume(arguments[1], channels=1)
    assert check_hu(volume) == []
    assert arguments[0] == "attack" and arguments.count("--out") == 1


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(offset=111, value=127, suffix=".nii")  # voxels that start 10^38 bytes into the file
@example(offset=111, value=195, suffix=".nii.gz")  # or before it
@given(offset=st.integers(0, 351), value=st.integers(0, 255), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_any_damaged_header_is_read_or_refused(offset, value, suffix, tmp_path):
    path = tmp_path / f"ct{suffix}"
    good_ct(tmp_path, path.name)
    raw = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
    raw[offset] = value
    path.write_bytes(gzip.compress(raw, 1) if suffix == ".nii.gz" else raw)
    try:
        volume = read_volume(path)
    except InputError as error:
        assert is_plain(str(error).replace(str(tmp_path), "")), error
    else:
        assert np.isfinite(volume.data).all() and np.isfinite(volume.affine).all()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=st.floats(0, 0.999),
    suffix=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".bmp", ".tif", ".jpg"]),
)
def test_any_truncation_is_refused(keep, suffix, tmp_path):
    path = tmp_path / f"ct{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)
    if suffix in (".png", ".bmp", ".tif", ".jpg"):
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(path))
    else:
        sitk.WriteImage(sitk.GetImageFromArray(ct_values()), str(path))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw))])
    try:
        volume = read_volume(path)
    except InputError as error:
        assert any(word in str(error) for word in ("truncated", "empty", "isn't a"))
    else:  # TIFF may end with details that are not pixels
        assert suffix == ".tif" and np.array_equal(volume.data[0].T, pixels)


# Labels


def volume(values: np.ndarray | None = None, affine: np.ndarray = AFFINE, **changes) -> Volume:
    values = ct_values() if values is None else values
    return Volume(values[None].astype(np.float32), affine, **changes)


def saved(path, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_labels_come_back_as_whole_numbers_from_any_type(tmp_path):
    labels = (np.arange(ct_values().size).reshape(ct_values().shape) % 7).astype(np.uint8)
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        found = read_labels(saved(tmp_path / f"{dtype.__name__}.nii.gz", labels.astype(dtype)), volume(), set(range(7)))
        assert found.dtype == np.int32
        assert np.array_equal(found, labels)


def test_a_label_map_may_be_all_background_but_a_mask_may_not(tmp_path):
    path = saved(tmp_path / "none.nii.gz", np.zeros(ct_values().shape, np.uint8))
    assert read_labels(path, volume()).sum() == 0
    assert "outlines nothing" in refusal(read_mask, path, volume())


def test_a_mask_is_where_values_exceed_zero(tmp_path):
    labels = np.zeros(ct_values().shape, np.uint8)
    labels[2:5, 3:6, 4:7] = 3
    mask = read_mask(saved(tmp_path / "roi.nii.gz", labels), volume())
    assert mask.dtype == bool and mask.sum() == 27 and mask[2, 3, 4]


def test_unknown_labels_are_named_with_the_known_ones(tmp_path):
    labels = np.zeros(ct_values().shape, np.uint8)
    labels[0, 0, :8] = np.arange(1, 9)
    message = refusal(read_labels, saved(tmp_path / "l.nii.gz", labels), volume(), {0, 1, 2})
    assert "(3, 4, 5, 6, 7, …; known: 0, 1, 2)" in message and "--label-map" in message


def test_the_grid_may_differ_by_rounding_only(tmp_path):
    labels = np.ones(ct_values().shape, np.uint8)
    near, far = AFFINE.copy(), AFFINE.copy()
    near[:3, 3] += 1e-5
    far[0, 0] += 0.01  # 0.19 mm at the far end
    assert read_labels(saved(tmp_path / "near.nii.gz", labels, near), volume()).all()
    assert "another grid" in refusal(read_labels, saved(tmp_path / "far.nii.gz", labels, far), volume())


# Writing


def test_nothing_is_overwritten_unless_asked(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(b"precious")
    assert "exists already" in refusal(write_volume, path, volume())
    assert "exists already" in refusal(write_labels, path, np.zeros(ct_values().shape, np.uint8), volume())
    assert path.read_bytes() == b"precious"
    write_volume(path, volume(), overwrite=True)
    assert np.array_equal(read_volume(path).data[0], ct_values())


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.nrrd", "ct.mha"])
def test_a_write_that_fails_leaves_nothing(name, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", no_space)
    message = refusal(write_volume, tmp_path / name, volume())
    assert "no space left on device" in message and is_plain(message.replace(str(tmp_path), ""))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd"])
def test_an_interrupted_write_leaves_nothing_and_keeps_the_old_file(name, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"precious")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_volume(path, volume(), overwrite=True)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_readable_and_in_place_of_an_empty_one(tmp_path):
    out = tmp_path / "new" / "result"
    out.mkdir(parents=True)
    with files.new_folder(out) as draft:
        (draft / "a.txt").write_text("all of it")
        assert draft.parent == out.parent and list(out.iterdir()) == []
    assert [place.name for place in out.parent.iterdir()] == ["result"]
    assert (out / "a.txt").read_text() == "all of it" and out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_nothing(error, tmp_path):
    with pytest.raises(error), files.new_folder(tmp_path / "result") as draft:
        (draft / "a.txt").write_text("half of")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "file").write_text("a file")
    assert "is a folder" in refusal(write_volume, tmp_path / "folder.nii.gz", volume())
    assert "isn't a folder" in refusal(write_volume, tmp_path / "file" / "ct.nii.gz", volume())
    assert "isn't a folder" in refusal(write_volume, tmp_path / "none" / "ct.nrrd", volume())


@pytest.mark.parametrize("name", ["out.dcm", "out", "out.jpg", "out.nhdr", "out.mhd", "out.txt", "dicom"])
def test_formats_that_are_not_written_name_those_that_are(name, tmp_path):
    message = refusal(write_volume, tmp_path / name, volume())
    assert ".nii.gz" in message and ".nrrd" in message and ".bmp" in message


def test_formats_refuse_what_they_cannot_hold(tmp_path):
    assert "2D" not in refusal(write_volume, tmp_path / "a.nrrd", volume(slope=2.0))
    assert "slope" in refusal(write_volume, tmp_path / "a.nrrd", volume(slope=2.0))
    assert "3D" in refusal(write_volume, tmp_path / "a.png", volume(dtype=np.dtype(np.uint8)))
    flat = volume(ct_values((20, 20)))
    assert "int16" in refusal(write_volume, tmp_path / "a.png", flat)
    assert "uint16" in refusal(write_volume, tmp_path / "a.bmp", flat.with_data(flat.data, dtype=np.dtype(np.uint16)))
    assert "float64" in refusal(write_volume, tmp_path / "a.tif", flat.with_data(flat.data, dtype=np.dtype(np.float64)))
    assert "label map" in refusal(write_labels, tmp_path / "a.png", np.zeros((20, 20), np.uint8), flat)
    assert "finite" in refusal(write_volume, tmp_path / "a.nii", flat.with_data(flat.data * np.nan))
    assert list(tmp_path.iterdir()) == []


def test_a_file_this_user_may_not_read(tmp_path, monkeypatch):
    path = good_ct(tmp_path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser reads anything, so the system's answer is played

        def denied(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", denied)
    message = refusal(read_volume, path)
    monkeypatch.undo()
    assert "may not be read by this user" in message


# Hounsfield units


def hu(values: np.ndarray) -> Volume:
    return Volume(values[None].astype(np.float32))


def spread(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 4096).reshape(16, 16, 16)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1024, 3071), (-1000, 400), (-150, 300), (-200, 200), (-3024, 1500), (-1000, -300)],
    ids=["whole range", "chest", "tight crop with fat", "window", "padded", "lung"],
)
def test_ct_is_accepted(low, high):
    assert all("not CT" not in warning for warning in check_hu(hu(spread(low, high))))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 255), (0, 1), (-1, 1), (0, 4095), (-47, 833), (-5, 12), (0, 60000), (100, 900), (-40, 120)]
)
def test_what_shows_neither_air_nor_fat_is_refused_unless_forced(low, high):
    sentence = (
        f"Values run from {low:g} to {high:g}. This is not CT in Hounsfield units, so a limit in HU means nothing. "
        "Load the original CT or pass --force."
    )
    assert refusal(check_hu, hu(spread(low, high))) == sentence
    assert check_hu(hu(spread(low, high)), force=True) == [sentence]


def test_a_few_stray_voxels_are_no_air():
    values = spread(0, 255)
    values.flat[:3] = -900
    assert "not CT" in refusal(check_hu, hu(values))
    values.flat[:5] = -900  # 0.12 %
    assert check_hu(hu(values)) == []


def test_intensities_are_no_hu_whatever_their_values():
    picture = hu(spread(-1000, 1000)).with_data(spread(-1000, 1000)[None], unit="intensity")
    assert "not CT" in refusal(check_hu, picture)


def test_extreme_values_are_mentioned():
    low, high = check_hu(hu(spread(-3024, 20000)))
    assert "-3024 HU" in low and "padding" in low
    assert "20000 HU" in high and "metal" in high
    assert check_hu(hu(spread(-1207, 3382))) == []


def test_real_ct_and_real_mr(real_ct, data_dir):
    assert check_hu(read_volume(real_ct)) == []
    resonance = data_dir / "mr_abdomen" / "example_mr_sm.nii.gz"
    assert refusal(check_hu, read_volume(resonance)).startswith("Values run from -47 to 833. This is not CT")
