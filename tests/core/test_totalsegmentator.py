"""TotalSegmentator's wrapping of nnU-Net, against a transcription of it written out here: canonical axes, SciPy's zoom
of order 1, truncation, nnU-Net without mirroring, labels back by the nearest voxel."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from test_nnunet_folder import make, package  # noqa: F401  (a stand-in for nnU-Net's networks)

from perturbox.load import load_victim
from perturbox.model.wrappers import Mirrored
from perturbox.types import InputError, Volume

MM = 2.0
PLAN = {"spacing": [MM, MM, MM]}


def scan() -> Volume:
    """Stored as (k, i, j) with two axes reversed, of whole numbers."""
    generator = np.random.default_rng(1)
    data = generator.normal(40, 60, (1, 21, 17, 15)).round().astype(np.int16)
    affine = np.array([[0, -1.7, 0, 3], [0, 0, 1.3, 5], [-2.6, 0, 0, -7], [0, 0, 0, 1.0]])
    return Volume(data, affine, "HU", np.dtype(np.int16))


def by_hand(image: Volume, victim) -> tuple[np.ndarray, np.ndarray]:
    """(what nnU-Net is given "i j k", the labels on the scan's grid)."""
    given = nib.Nifti1Image(image.data[0].astype(np.float64), image.affine)
    canonical = nib.as_closest_canonical(given)
    factors = np.array(canonical.header.get_zooms()) / MM
    coarse = ndimage.zoom(canonical.get_fdata(), factors, mode="nearest", order=1).astype(np.int32)
    own = load_victim(victim)
    affine = canonical.affine.copy()
    affine[:3, :3] /= factors
    mirrored = own.network
    assert isinstance(mirrored, Mirrored)
    mirrored.axes = ()  # TotalSegmentator turns test-time mirroring off
    found = own.predict(Volume(coarse[None].astype(np.float32), affine, "HU", np.dtype(np.float32)))
    back = ndimage.zoom(found, np.array(canonical.shape) / found.shape, mode="nearest", order=0)
    turned = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(canonical.affine), nib.orientations.io_orientation(image.affine)
    )
    return coarse, nib.orientations.apply_orientation(back, turned)


def test_labels_and_input_are_those_of_the_transcription(tmp_path):
    folder = make(tmp_path / "model", "CT", plan=PLAN)
    victim, image = load_victim(f"totalsegmentator:{folder}"), scan()
    coarse, labels = by_hand(image, f"nnunet:{folder}")
    bound = victim.on(image)
    x = torch.from_numpy(image.data.astype(np.float32))[None]
    turned, zoomed = bound.grid.bound[:2]
    for way in ("exact", "forward"):  # what is judged, and what is climbed
        given = getattr(zoomed, way)(turned.forward(x))[0, 0].numpy()
        assert np.array_equal(given, coarse)
    assert len(np.unique(labels)) == 3 and np.array_equal(victim.predict(image), labels)


def test_the_gradient_is_that_of_the_zoom_alone(tmp_path):
    victim = load_victim(f"totalsegmentator:{make(tmp_path / 'model', 'CT', plan=PLAN)}")
    image = scan()
    zoomed = victim.on(image).grid.bound[1]
    assert zoomed.kind == "straight-through" and "cut to whole numbers" in zoomed.sentence
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, *zoomed.before.shape, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(1, 1, *zoomed.after.shape, generator=generator, dtype=torch.float64)
    way = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (slope,) = torch.autograd.grad((zoomed.forward(x) * weight).sum(), x)
    factors = np.array(zoomed.after.shape) / zoomed.before.shape
    moved = ndimage.zoom(way[0, 0].numpy(), factors, mode="nearest", order=1)  # linear, so its own derivative
    assert float((slope * way).sum()) == pytest.approx(float((moved * weight[0, 0].numpy()).sum()), rel=1e-12)


def test_its_options_and_what_is_said_of_it(tmp_path):
    folder = make(tmp_path / "model", "CT", folds=2, plan=PLAN)
    victim = load_victim(f"totalsegmentator:{folder}:folds=0:mm=3:step=0.8")
    assert victim.window.overlap == pytest.approx(0.2) and victim.pipeline.steps[1].mm == 3.0
    assert not isinstance(victim.network, Mirrored) and "removal of small parts" in victim.limits
    assert victim.title.endswith("in TotalSegmentator's resampling")
    assert victim.sha256 != load_victim(f"totalsegmentator:{folder}:folds=0:step=0.8").sha256


@pytest.mark.parametrize(
    "option, changes, words",
    [
        (":mm=0", {}, "The option mm=0 can't be; give mm=1.5."),
        (":step=2:mm=2", {}, "The option step=2 can't be; give step=0.5."),
        (":colour=red", {}, "The option 'colour' of"),
        ("", {"plan": {"spacing": [2.0, 1.5, 1.5]}}, "have no one spacing for all axes"),
        ("", {"labels": {"background": 0, "x": [1, 2], "y": [2]}, "plan": PLAN}, "is no task of TotalSegmentator"),
    ],
)
def test_what_is_not_covered_is_one_sentence(tmp_path, option, changes, words):
    folder = make(tmp_path / "model", "CT", **changes)
    with pytest.raises(InputError) as refusal:
        load_victim(f"totalsegmentator:{folder}{option}")
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
