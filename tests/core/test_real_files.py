"""Files as other programs leave them, read as the rest of the field reads them or refused with a true sentence."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image, ImageOps
from real_files import AFFINE, ORGAN, SHAPE, ct, nifti, organ, series
from scipy import ndimage
from torch import nn

from perturbox.io import check_hu, read_labels, read_mask, read_volume, write_volume
from perturbox.job.execute import Job, run_job
from perturbox.job.inputs import prepare
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


class Above60(nn.Module):
    """organ: where the mean of 3 × 3 × 3 voxels is above 60 HU."""

    def forward(self, x):
        mean = nn.functional.avg_pool3d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([torch.zeros_like(mean), (mean - 60) / 10], 1)


def victim(network=None, **changes) -> Victim:
    settings = {"name": "tiny", "network": network or Above60(), "labels": {"background": 0, "organ": 1}}
    return Victim(**settings | {"window": Window((24, 22, 12)), **changes})


def ready(image, model=None, **options):
    """The job on this file, read and checked."""
    return prepare(Job(str(image), "tiny", steps=1, **options), victim=model or victim())


# ---------------------------------------------------------------- where voxels are


NO_ORIENTATION = "i was taken to run to the left and j to the back"


def test_a_file_without_orientation_is_read_as_itk_does_and_says_so(tmp_path):
    path = nifti(tmp_path / "ct.nii.gz", ct(), sform_code=0, qform_code=0)
    volume = read_volume(path)
    image = sitk.ReadImage(str(path))
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert np.array_equal(volume.affine, np.diag([-3.0, -3, 5, 1]))
    assert volume.geometry == "spacing" and NO_ORIENTATION in volume.notes[0] and "sform_code" in volume.notes[0]
    assert any(NO_ORIENTATION in note for note in ready(path).warnings)
    write_volume(tmp_path / "copy.nii.gz", volume)
    assert read_volume(tmp_path / "copy.nii.gz").notes == volume.notes


@pytest.mark.parametrize("head", ["NRRD0004\nspacings: 3 3 5\n", "NRRD0004\n", "ObjectType = Image\nNDims = 3\n"])
def test_other_formats_without_orientation_say_so_too(head, tmp_path):
    if head.startswith("NRRD"):
        path, sizes = tmp_path / "ct.nrrd", "24 22 12"
        head += f"type: short\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: raw\n\n"
    else:
        path = tmp_path / "ct.mha"
        head += "BinaryData = True\nDimSize = 24 22 12\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(head.encode() + ct().tobytes(order="F"))
    volume = read_volume(path)
    assert np.array_equal(volume.data[0], ct())
    assert volume.geometry == "spacing" and NO_ORIENTATION in volume.notes[0]
    assert np.array_equal(np.sign(np.diag(volume.affine)), [-1, -1, 1, 1])


@pytest.mark.parametrize("without", ["scan", "label", "both"])
def test_labels_of_a_scan_without_orientation_match_voxel_by_voxel(without, tmp_path):
    nowhere = {"sform_code": 0, "qform_code": 0}
    scan = nifti(tmp_path / "ct.nii.gz", ct(), **(nowhere if without != "label" else {}))
    label = nifti(tmp_path / "label.nii.gz", organ(), **(nowhere if without != "scan" else {}))
    notes: list[str] = []
    assert np.array_equal(read_labels(label, read_volume(scan), {0, 1}, notes), organ())
    if without != "both":
        which = "label map" if without == "label" else "scan"
        assert f"The {which} states no orientation, so scan and label map were matched voxel by voxel." in notes
    other = nifti(tmp_path / "other.nii.gz", organ(), np.diag([2.0, 3, 5, 1]))
    if without != "label":
        assert "another grid" in refusal(read_labels, other, read_volume(scan))


def test_labels_that_itk_wrote_for_such_a_scan_fit_it(tmp_path):
    path = nifti(tmp_path / "ct.nii.gz", ct(), sform_code=0, qform_code=0)
    label = sitk.GetImageFromArray(organ().T)
    label.CopyInformation(sitk.ReadImage(str(path)))
    sitk.WriteImage(label, str(tmp_path / "label.nii.gz"))
    assert np.array_equal(ready(path, label=str(tmp_path / "label.nii.gz")).expert, organ())


@pytest.mark.parametrize("degrees", [1, 5, 20, 45])
@pytest.mark.parametrize("axes", [(1, 2), (0, 2), (0, 1)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_sheared_grids_are_refused(degrees, axes, suffix, tmp_path):
    affine = AFFINE.copy()
    affine[axes] = affine[axes[1], axes[1]] * np.tan(np.radians(degrees))
    path = tmp_path / f"ct{suffix}"
    write_volume(path, Volume(ct()[None].astype(np.float32), affine, format=suffix))
    message = refusal(read_volume, path)
    assert f"sheared grid: two of its axes are {90 - degrees:.1f} degrees apart" in message and "resample" in message


@pytest.mark.parametrize("lean", [1e-6, 1e-3, 4e-3])
def test_rounding_is_no_shear_and_volumes_are_those_of_the_affine(lean, tmp_path):
    affine = AFFINE.copy()
    affine[1, 2] = 5 * lean
    volume = read_volume(nifti(tmp_path / "ct.nii.gz", ct(), affine))
    assert volume.voxel_ml == pytest.approx(abs(np.linalg.det(volume.affine[:3, :3])) / 1000, rel=1e-12)
    assert Volume(np.zeros((1, 4, 4)), affine).voxel_ml == pytest.approx(0.09)


def test_headers_that_contradict_themselves_say_which_rule_was_used(tmp_path):
    by_pixdim = nifti(tmp_path / "a.nii.gz", ct(), pixdim=[1, 1, 1, 5, 1, 1, 1, 1])
    (note,) = read_volume(by_pixdim).notes
    assert "1 × 1 × 5 mm (pixdim)" in note and "3 × 3 × 5 mm (sform)" in note and "nibabel" in note
    header = nib.Nifti1Header()
    image = nib.Nifti1Image(ct(), AFFINE, header)
    image.set_sform(AFFINE, 1)
    turned = AFFINE.copy()
    turned[:3, 3] += 30
    image.set_qform(turned, 1)
    nib.save(image, tmp_path / "b.nii.gz")
    volume = read_volume(tmp_path / "b.nii.gz")
    itk = sitk.ReadImage(str(tmp_path / "b.nii.gz")).GetOrigin()
    differs = not np.allclose(np.array(itk) * [-1, -1, 1], volume.affine[:3, 3], atol=1)
    assert np.allclose(volume.affine, AFFINE)
    assert any("sform and qform place voxels up to 52 mm apart" in note for note in volume.notes) == differs
    assert read_volume(nifti(tmp_path / "c.nii.gz", ct())).notes == ()


# ---------------------------------------------------------------- label maps


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (1,), (0, 2), (0, 1, 2)])
def test_labels_in_another_order_of_the_same_voxels_are_turned_exactly(order, flips, tmp_path):
    tilted = AFFINE.copy()
    tilted[:3, :3] = ndimage_rotation() @ AFFINE[:3, :3]
    scan = read_volume(nifti(tmp_path / "ct.nii.gz", ct(), tilted))
    label, affine = organ(), tilted.copy()
    for axis in flips:
        label, affine[:3, 3] = np.flip(label, axis), affine[:3, 3] + affine[:3, axis] * (SHAPE[axis] - 1)
        affine[:3, axis] *= -1
    label, affine[:3, :3] = label.transpose(order), affine[:3, list(order)]
    notes: list[str] = []
    path = nifti(tmp_path / "label.nii.gz", np.ascontiguousarray(label), affine)
    assert np.array_equal(read_labels(path, scan, {0, 1}, notes), organ())
    assert notes == (
        ["The label map stores the scan's voxels in another order and was turned onto them, exactly."]
        if flips or order != (0, 1, 2)
        else []
    )
    assert np.array_equal(read_mask(path, scan), organ() > 0)
    affine[:3, 3] += [0, 2, 0]
    assert "another grid" in refusal(read_labels, nifti(tmp_path / "off.nii.gz", label, affine), scan)


def ndimage_rotation() -> np.ndarray:
    """10 degrees about the axis of slices."""
    cosine, sine = np.cos(np.radians(10)), np.sin(np.radians(10))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_labels_that_are_fractions_by_a_hair_are_rounded_with_a_note(dtype, count, tmp_path):
    labels = organ().astype(float)
    labels[0, 0, : count - 1] = np.arange(2, count + 1)
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    if dtype.startswith("float"):
        labels[ORGAN] += 3e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nib.save(nib.Nifti1Image(labels, AFFINE, header), tmp_path / "label.nii.gz")
    notes: list[str] = []
    scan = read_volume(nifti(tmp_path / "ct.nii.gz", ct()))
    found = read_labels(tmp_path / "label.nii.gz", scan, set(range(count + 1)), notes)
    assert np.array_equal(found, np.rint(labels)) and found.dtype == np.int32
    exact = np.array_equal(np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj), np.rint(labels))
    assert [("stores whole numbers as fractions such as" in note) for note in notes] == ([] if exact else [True])


@pytest.mark.parametrize(
    ("value", "shown"), [(1.5, "1.5"), (1.0002, "1.0002"), (0.99, "0.99"), (1.0001501, "1.0001501")]
)
def test_true_fractions_are_refused_with_their_digits(value, shown, tmp_path):
    labels = organ() * value
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "label.nii.gz")
    scan = read_volume(nifti(tmp_path / "ct.nii.gz", ct()))
    assert f"fractions such as {shown}" in refusal(read_labels, tmp_path / "label.nii.gz", scan)


def test_a_probability_map_under_a_slope_is_refused(tmp_path):
    soft = np.rint(ndimage.gaussian_filter(255.0 * organ(), 1)).astype(np.uint8)
    path = nifti(tmp_path / "soft.nii.gz", soft, scl_slope=1 / 255)
    message = refusal(read_labels, path, read_volume(nifti(tmp_path / "ct.nii.gz", ct())))
    assert "fractions" in message and "slope is 0.0039" in message


# ---------------------------------------------------------------- pictures


def photograph(size=(48, 36), seed=0) -> np.ndarray:
    rows, columns = np.mgrid[: size[1], : size[0]]
    disc = np.hypot(columns - 14, rows - 12) < 8
    noise = np.random.default_rng(seed).normal(0, 6, rows.shape)
    return np.clip(60 + 140 * disc + noise, 0, 255).astype(np.uint8)


def colours() -> np.ndarray:
    grey = photograph()
    return np.stack([grey, grey // 2, 255 - grey], -1)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_dots_per_inch_are_no_geometry(suffix, tmp_path):
    Image.fromarray(photograph()).save(tmp_path / f"photo{suffix}", dpi=(72, 72))
    Image.fromarray((photograph() > 130).astype(np.uint8)).save(tmp_path / "mask.png", dpi=(300, 300))
    picture = read_volume(tmp_path / f"photo{suffix}")
    assert picture.geometry == "none" and not picture.in_mm and picture.spacing == (1.0, 1.0)
    notes: list[str] = []
    assert read_labels(tmp_path / "mask.png", picture, {0, 1}, notes).sum() == (photograph() > 130).sum() and not notes
    nib.save(
        nib.Nifti1Image((photograph() > 130).astype(np.uint8).T, np.diag([2.0, 2, 1, 1])), tmp_path / "mask.nii.gz"
    )
    assert np.array_equal(read_labels(tmp_path / "mask.nii.gz", picture), photograph().T > 130)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_picture_lies_as_viewers_show_it(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(colours()).save(path, exif=exif.tobytes())
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image))
    assert seen.shape == ((36, 48, 3) if orientation < 5 else (48, 36, 3))
    picture = read_volume(path)
    assert np.array_equal(picture.data, seen.transpose(2, 1, 0))
    assert [str(orientation) in note and "EXIF" in note for note in picture.notes] == (
        [True] if orientation > 1 else []
    )


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_decoded_as_pillow_does(subsampling, quality, progressive, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(colours()).save(path, quality=quality, subsampling=subsampling, progressive=progressive)
    assert np.abs(read_volume(path).data - np.asarray(Image.open(path)).transpose(2, 1, 0)).max() <= 1


def test_jpeg_for_printing_is_refused(tmp_path):
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "photo.jpg")
    assert "CMYK" in refusal(read_volume, tmp_path / "photo.jpg")


def test_masks_with_soft_edges_are_refused(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "photo.png")
    picture = read_volume(tmp_path / "photo.png")
    hard = ((photograph() > 130) * 255).astype(np.uint8)
    for name in ("hard.png", "mask.jpg", "mask.jpeg"):
        Image.fromarray(hard).save(tmp_path / name)
    Image.fromarray(np.asarray(Image.open(tmp_path / "mask.jpg"))).save(tmp_path / "soft.png")
    Image.fromarray(np.stack([hard] * 3, -1)).save(tmp_path / "colour.png")
    assert read_mask(tmp_path / "hard.png", picture).sum() == (hard > 0).sum()
    assert read_mask(tmp_path / "colour.png", picture).sum() == (hard > 0).sum()
    for name in ("mask.jpg", "mask.jpeg"):
        assert "JPEG" in refusal(read_mask, tmp_path / name, picture)
        assert "JPEG" in refusal(read_labels, tmp_path / name, picture, {0, 1})
    assert "soft edges" in refusal(read_mask, tmp_path / "soft.png", picture)


# ---------------------------------------------------------------- values


def scan_of(values: np.ndarray) -> Volume:
    return Volume(values[None].astype(np.float32))


def test_magnetic_resonance_with_ringing_is_warned_of():
    brightness = np.zeros(SHAPE)
    brightness[ct() > -500] = 900
    brightness[ORGAN] = 1500
    zoomed = ndimage.zoom(brightness + np.random.default_rng(2).normal(0, 8, SHAPE).clip(0), 1.25, order=3)
    assert ((zoomed < -50) & (zoomed > -200)).mean() > 1e-3
    (warning,) = check_hu(scan_of(zoomed))
    assert "if this is no CT, for example MR" in warning


@pytest.mark.parametrize("window", [(-57, 164), (-160, 240), (-1000, 400), (-1000, 1000), (-200, 3000)])
def test_a_scan_that_was_clipped_to_a_window_is_warned_of(window):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(SHAPE) < 0.5, -1000, 40) + rng.normal(0, 15, SHAPE)
    values[:3] = rng.normal(900, 300, values[:3].shape)
    (warning,) = [text for text in check_hu(scan_of(values.clip(*window))) if "clipped" in text]
    assert f"exactly {window[0]:g}" in warning and "load the original CT" in warning
    assert (f"exactly {window[1]:g}" in warning) == (window[1] < 2000)
    assert check_hu(scan_of(values.clip(-1024, 3071))) == []


@pytest.mark.parametrize("attack", ["noise", "pgd", "deformation", "affine"])
def test_padding_is_untouched_and_never_carried_into_the_body(attack, tmp_path):
    values = ct()
    i, j, _ = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    outside = np.hypot(i - 11.5, j - 10.5) > 10.4
    values[outside] = -3024
    values[0, 0, 0] = -3031
    path = nifti(tmp_path / "ct.nii.gz", values)
    assert any("which an attack leaves alone" in text for text in ready(path).warnings)
    job = Job(str(path), "tiny", attack, eps=10.0, steps=2)
    run_job(job, tmp_path / "out", victim=victim())
    changed = read_volume(tmp_path / "out" / "adversarial.nii.gz").data[0]
    assert np.array_equal(changed[outside], values[outside])
    assert (changed != values).any() and changed[~outside].min() >= -1100


def test_steps_finer_than_the_limit_are_needed(tmp_path):
    stored = np.rint((ct().clip(-1024, 2036) + 1024) / 12).astype(np.uint8)
    path = nifti(tmp_path / "ct.nii.gz", stored, scl_slope=12, scl_inter=-1024)
    message = refusal(ready, path, eps=10.0)
    assert "steps of 12 HU" in message and "12 or more" in message
    assert ready(path, eps=12.0).eps == 12.0 and ready(path, eps=5.0, norm="l2").eps == 5.0
    assert ready(path, eps=0.0).eps == 0.0


def test_fractional_slopes_of_dicom_keep_their_steps(tmp_path):
    series(tmp_path / "series", slope=0.5, intercept=-1024.0)
    result = run_job(Job(str(tmp_path / "series"), "tiny", eps=3.3, steps=2), tmp_path / "out", victim=victim())
    clean, changed = read_volume(tmp_path / "series"), read_volume(tmp_path / "out" / "adversarial.nii.gz")
    assert clean.step == changed.step == 0.5 and changed.dtype == np.int16
    moved = (changed.data - clean.data) / 0.5
    assert np.array_equal(moved, np.rint(moved)) and np.abs(moved).max() == 6
    assert result["budget"]["measured"]["linf"] == 3.0


# ---------------------------------------------------------------- models


class Scores(nn.Module):
    """`count` channels, of which channel 1 is organ as `Above60` has it."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x):
        mean = nn.functional.avg_pool3d(x, 3, 1, 1, count_include_pad=False)
        others = [torch.zeros_like(mean)] * (self.count - 2) if self.count > 1 else []
        scores = [(mean - 60) / 10, *(other - 5 for other in others)]
        return torch.cat(scores if self.count == 1 else [torch.zeros_like(mean), *scores], 1)


@pytest.mark.parametrize(
    ("count", "changes", "words"),
    [
        (3, {"labels": {"background": 0, "organ": 1, "rare": 5}}, ("no channel for rare = 5", "3 channels")),
        (3, {"labels": {"background": 0, "a": 1, "b": 2, "x": 3, "y": 4}}, ("no channel for x = 3, y = 4",)),
        (2, {"labels": {"background": 0, "organ": 1, "x": 2}}, ("no channel for x = 2", "labels 0 to 1")),
        (1, {}, ("one channel", "regions=((1,),)")),
        (1, {"labels": {"background": 0, "lesion": 4}}, ("one channel", "regions=((4,),)")),
        (3, {"regions": ((1,),)}, ("3 channel(s)", "`regions` describes 1")),
        (1, {"regions": ((1,), (1,))}, ("1 channel(s)", "`regions` describes 2")),
    ],
)
@pytest.mark.parametrize("attack", ["pgd", "square"])
def test_models_whose_labels_and_channels_do_not_fit_are_refused(count, changes, words, attack, tmp_path):
    path = nifti(tmp_path / "ct.nii.gz", ct())
    job = Job(str(path), "tiny", attack, eps=10.0, steps=2)
    message = refusal(run_job, job, tmp_path / "out", victim=victim(Scores(count), **changes))
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [{"background": 0, "organ": -1}, {"background": 0, "organ": 1.5}, {"organ": True}])
def test_labels_that_are_no_whole_numbers_are_refused(labels):
    assert "whole numbers from 0 up" in refusal(victim, labels=labels)
    assert "`labels` doesn't name" in refusal(victim, regions=((1,), (3,)))


def test_a_channel_without_a_name_is_noted(tmp_path):
    path = nifti(tmp_path / "ct.nii.gz", ct())
    result = run_job(Job(str(path), "tiny", eps=10.0, steps=1), tmp_path / "out", victim=victim(Scores(4)))
    assert "The network's channels without a name in `labels` (2, 3) count as no structure." in result["warnings"]


class Careless(Above60):
    """Writes into its input."""

    def forward(self, x):
        x.clamp_(-200, 300)
        return super().forward(x)


@pytest.mark.parametrize("window", [(24, 22, 12), (16, 16, 8), (32, 32, 16)])
def test_a_network_may_write_into_its_input(window, tmp_path):
    class Careful(Above60):
        def forward(self, x):
            return super().forward(x.clamp(-200, 300))

    path = nifti(tmp_path / "ct.nii.gz", ct())
    found = []
    for name, network in (("a", Careless()), ("b", Careful())):
        job = Job(str(path), "tiny", eps=10.0, steps=2)
        run_job(job, tmp_path / name, victim=victim(network, window=Window(window)))
        found.append(read_volume(tmp_path / name / "adversarial.nii.gz").data)
    assert np.array_equal(*found) and not np.array_equal(found[0][0], ct())


def test_a_pipeline_may_write_into_its_input(tmp_path):
    path, found = nifti(tmp_path / "ct.nii.gz", ct()), []
    for name, normalise in (("a", lambda x: x.clamp_(-200, 300)), ("b", lambda x: x.clamp(-200, 300))):
        image = read_volume(path)
        run_job(Job(str(path), "tiny", eps=10.0, steps=2), tmp_path / name, None, image, victim(normalise=normalise))
        assert np.array_equal(image.data[0], ct())
        found.append(read_volume(tmp_path / name / "adversarial.nii.gz").data)
    assert np.array_equal(*found) and not np.array_equal(found[0][0], ct())


def test_a_model_that_answers_twice_differently_is_noted(tmp_path):
    class Dropout(Above60):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.2, training=True))

    path = nifti(tmp_path / "ct.nii.gz", ct())
    result = run_job(Job(str(path), "tiny", eps=10.0, steps=1), tmp_path / "out", victim=victim(Dropout()))
    assert sum("isn't deterministic" in text for text in result["warnings"]) == 1
    result = run_job(Job(str(path), "tiny", eps=10.0, steps=1), tmp_path / "calm", victim=victim())
    assert not any("isn't deterministic" in text for text in result["warnings"])


# ---------------------------------------------------------------- other files


def test_a_missing_data_file_is_named(tmp_path):
    head = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 22 12\n"
        "space directions: (3,0,0) (0,3,0) (0,0,5)\nspace origin: (0,0,0)\nendian: little\nencoding: raw\n"
    )
    (tmp_path / "ct.nhdr").write_text(f"{head}data file: gone.raw\n")
    (tmp_path / "ct.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 24 22 12\nElementType = MET_SHORT\nElementDataFile = gone.raw\n"
    )
    for name in ("ct.nhdr", "ct.mhd"):
        message = refusal(read_volume, tmp_path / name)
        assert "'gone.raw'" in message and "isn't beside it" in message


def test_segments_that_overlap_say_how_to_export_them(tmp_path):
    layers = np.stack([organ(), 1 - organ()], -1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(layers.transpose(2, 1, 0, 3)), isVector=True)
    for layer, name in enumerate(("liver", "tumour")):
        for key, value in {"ID": f"S{layer}", "Name": name, "Layer": str(layer), "LabelValue": "1"}.items():
            image.SetMetaData(f"Segment{layer}_{key}", value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    message = refusal(read_labels, tmp_path / "a.seg.nrrd", scan_of(ct()))
    assert "2 layers of segments that overlap" in message and "label map" in message
