"""Metrics against closed forms, brute force and MONAI, on anisotropic grids."""

import json
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.regression import SSIMMetric
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage

from perturbox.judge import metrics
from perturbox.plain import to_json

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3}
SPACING = (0.7, 0.9, 2.5)


def cube(shape, corner, size):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] = True
    return mask


def blob(rng, shape, smooth=1.5, level=0.0):
    return ndimage.gaussian_filter(rng.normal(size=shape), smooth) > level


def brute_force_boundary(mask):
    """Coordinates of mask voxels that have a face neighbour outside the mask or the array."""
    voxels = {tuple(v) for v in np.argwhere(mask)}
    steps = [tuple(s * (k == axis) for k in range(mask.ndim)) for axis in range(mask.ndim) for s in (-1, 1)]
    return np.array([v for v in sorted(voxels) if any(tuple(np.add(v, s)) not in voxels for s in steps)])


def brute_force_distances(a, b, spacing):
    a, b = (brute_force_boundary(m) * np.asarray(spacing) for m in (a, b))
    table = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return table.min(axis=1), table.min(axis=0)


def test_two_shifted_cubes_have_their_closed_forms():
    """A 10³ cube moved by 3 voxels along the 2.5 mm axis."""
    a, b = cube((20, 20, 20), (4, 5, 6), (10, 10, 10)), cube((20, 20, 20), (4, 5, 9), (10, 10, 10))
    assert metrics.dice(a, b) == pytest.approx(0.7, abs=1e-15)
    assert metrics.iou(a, b) == pytest.approx(700 / 1300, abs=1e-15)
    assert metrics.volume_ml(a, 0.7 * 0.9 * 2.5 / 1000) == pytest.approx(1.575)
    # Of the 488 boundary voxels the 100 of the far face are 7.5 mm off (20.5 %), so the 95th percentile is theirs.
    assert metrics.hd95_mm(a, b, SPACING) == pytest.approx(7.5, abs=1e-12)
    ab, ba = brute_force_distances(a, b, SPACING)
    expected = (np.sum(ab <= 2.0) + np.sum(ba <= 2.0)) / (488 + 488)
    assert metrics.nsd(a, b, SPACING, 2.0) == pytest.approx(expected, abs=1e-15)
    assert metrics.nsd(a, b, SPACING, 7.5) == 1.0
    assert metrics.nsd(a, b, SPACING, 7.4) < 1.0


def test_nsd_of_shifted_plates_is_exact():
    """Plates one voxel thick are all boundary: 2 mm apart, a tolerance of 2 mm accepts all of it, of 1.9 mm none."""
    a, b = cube((8, 8, 8), (0, 0, 2), (8, 8, 1)), cube((8, 8, 8), (0, 0, 4), (8, 8, 1))
    assert metrics.nsd(a, b, (1, 1, 1), 2.0) == 1.0
    assert metrics.nsd(a, b, (1, 1, np.float32(1.0000001)), 2.0) == 1.0  # a header's last digit decides nothing
    assert metrics.nsd(a, b, (1, 1, 1), 1.9) == 0.0
    assert metrics.hd95_mm(a, b, (1, 1, 1)) == 2.0


def test_hd95_is_the_larger_of_the_directed_percentiles():
    """A leak inside one mask only: pooling both directions, or taking the smaller, would hide it."""
    a, b = cube((60, 12), (2, 2), (8, 8)), cube((60, 12), (2, 2), (8, 8))
    b[10:50, 5] = True  # a leak 40 voxels long, 1 wide
    ab, ba = brute_force_distances(a, b, (1, 1))
    assert np.percentile(ab, 95) < 2.0  # every wall of a is near one of b
    assert metrics.hd95_mm(a, b, (1, 1)) == pytest.approx(np.percentile(ba, 95), abs=1e-12)
    assert metrics.hd95_mm(a, b, (1, 1)) == metrics.hd95_mm(b, a, (1, 1)) > 30


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dims=st.sampled_from([2, 3]))
def test_distances_equal_brute_force(seed, dims):
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.3, 4.0, dims)
    a, b = (blob(rng, (13, 9, 7)[:dims]) for _ in range(2))
    if not (a.any() and b.any()):
        return
    ab, ba = brute_force_distances(a, b, spacing)
    assert metrics.hd95_mm(a, b, spacing) == pytest.approx(max(np.percentile(ab, 95), np.percentile(ba, 95)), abs=1e-9)
    expected = (np.sum(ab <= 2) + np.sum(ba <= 2)) / (len(ab) + len(ba))
    assert metrics.nsd(a, b, spacing) == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI warns about itself
@pytest.mark.parametrize("shape", [(24, 20, 16), (40, 30)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_monai(shape, seed):
    rng = np.random.default_rng(seed)
    a, b = blob(rng, shape, 2.0), blob(rng, shape, 2.0)
    spacing = SPACING[: len(shape)]
    one_hot = [torch.from_numpy(m)[None, None] for m in (a, b)]
    hd95 = compute_hausdorff_distance(*one_hot, include_background=True, percentile=95, spacing=spacing).item()
    nsd = compute_surface_dice(*one_hot, [2.0], include_background=True, spacing=spacing).item()
    assert metrics.hd95_mm(a, b, spacing) == pytest.approx(hd95, rel=1e-6)
    assert metrics.nsd(a, b, spacing) == pytest.approx(nsd, rel=1e-6)


def test_empty_masks_have_no_value_and_one_empty_mask_agrees_not_at_all():
    full, empty = cube((6, 6, 6), (1, 1, 1), (3, 3, 3)), np.zeros((6, 6, 6), bool)
    assert (metrics.dice(empty, empty), metrics.iou(empty, empty)) == (None, None)
    assert (metrics.hd95_mm(empty, empty, SPACING), metrics.nsd(empty, empty, SPACING)) == (None, None)
    for a, b in [(full, empty), (empty, full)]:
        assert (metrics.dice(a, b), metrics.iou(a, b)) == (0.0, 0.0)
        assert (metrics.hd95_mm(a, b, SPACING), metrics.nsd(a, b, SPACING)) == (None, 0.0)


def test_structures_golden():
    """One kept, one vanished, one absent structure, as it stands in result.json."""
    reference = np.zeros((12, 12, 12), np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    reference[8:10, 8:10, 8:10] = 2
    prediction = np.zeros_like(reference)
    prediction[3:7, 2:6, 2:6] = 1
    rows = metrics.structures(prediction, reference, LABELS, (1.0, 1.0, 2.0), 0.002, 0.5)
    golden = """{
      "liver": {"dice": 0.75, "iou": 0.6, "hd95_mm": 1.0, "nsd": 0.6428571428571429, "volume_ml": 0.128},
      "spleen": {"dice": 0.0, "iou": 0.0, "hd95_mm": null, "nsd": 0.0, "volume_ml": 0.0},
      "kidney": {"dice": null, "iou": null, "hd95_mm": null, "nsd": null, "volume_ml": 0.0}
    }"""
    assert json.loads(json.dumps(to_json(rows), allow_nan=False)) == json.loads(golden)
    assert {type(v) for row in rows.values() for v in row.values()} == {float, type(None)}


def test_slices_add_up_to_the_volume_and_skip_empty_ones():
    rng = np.random.default_rng(3)
    clean, adversarial = (ndimage.zoom(rng.integers(0, 4, (4, 3, 5)), 4, order=0) for _ in range(2))
    clean[:, :, -4:] = adversarial[:, :, -4:] = 0  # empty in both: no row
    rows = metrics.slices(clean, adversarial, LABELS)
    for name, value in metrics.foreground(LABELS).items():
        a, b = clean == value, adversarial == value
        for axis in range(3):
            mine = [r for r in rows if (r["structure"], r["axis"]) == (name, axis)]
            assert sum(r["lost"] for r in mine) == np.sum(a & ~b)
            assert sum(r["gained"] for r in mine) == np.sum(b & ~a)
            held = np.flatnonzero((a | b).any(axis=tuple(k for k in range(3) if k != axis)))
            assert [r["index"] for r in mine] == list(held)
            for r in mine:
                assert r["dice"] == metrics.dice(a.take(r["index"], axis), b.take(r["index"], axis))
    assert all(r["index"] < 16 for r in rows if r["axis"] == 2)
    assert json.dumps(rows)  # plain numbers already


def test_difference_map_names_each_change():
    clean, adversarial = np.array([[0, 1, 1, 0, 2]]), np.array([[0, 0, 1, 3, 1]])
    result = metrics.difference_map(clean, adversarial)
    assert result.dtype == np.uint8
    assert result.tolist() == [[0, metrics.LOST, 0, metrics.GAINED, metrics.RELABELLED]]


CLEAN = {"dice": 1.0, "hd95_mm": 0.0, "volume_ml": 100.0}
EMPTY = {"dice": None, "hd95_mm": None, "volume_ml": 0.0}


@pytest.mark.parametrize(
    ("clean", "adversarial", "failed", "broken", "verdict"),
    [
        (CLEAN, CLEAN, 0, None, "held"),
        # At the limits is not beyond them.
        (CLEAN, {"dice": 0.90, "hd95_mm": 20.0, "volume_ml": 110.0}, 2, None, "held"),
        (CLEAN, {"dice": 0.899, "hd95_mm": 30.0, "volume_ml": 100.0}, 9, "dice", "dice"),
        (CLEAN, {"dice": 0.95, "hd95_mm": 30.0, "volume_ml": 89.9}, 9, "volume", "volume"),
        (CLEAN, {"dice": 0.967, "hd95_mm": 35.0, "volume_ml": 108.0}, 0, "hd95", "distance"),  # a far leak Dice hides
        (CLEAN, {"dice": 0.966, "hd95_mm": 4.0, "volume_ml": 98.0}, 7, None, "local"),
        (CLEAN, {"dice": 0.0, "hd95_mm": None, "volume_ml": 0.0}, 9, "vanished", "vanished"),
        (EMPTY, {"dice": 0.0, "hd95_mm": None, "volume_ml": 3.0}, 0, None, "appeared"),
        (EMPTY, EMPTY, 0, None, "absent"),
    ],
)
def test_verdicts(clean, adversarial, failed, broken, verdict):
    assert metrics.broken_by(clean, adversarial) == broken
    assert metrics.verdict(clean, adversarial, failed) == verdict


@pytest.mark.parametrize(
    ("adversarial", "failed", "floor", "verdict"),
    [
        ({"dice": 0.85, "hd95_mm": 3.0, "volume_ml": 100.0}, 9, 0.85, "benign"),
        ({"dice": 0.849, "hd95_mm": 3.0, "volume_ml": 100.0}, 9, 0.85, "dice"),
        ({"dice": 0.95, "hd95_mm": 3.0, "volume_ml": 80.0}, 0, 0.94, "benign"),
        ({"dice": 0.967, "hd95_mm": 35.0, "volume_ml": 108.0}, 0, 0.5, "distance"),  # a Dice knows no distances
        ({"dice": 0.966, "hd95_mm": 4.0, "volume_ml": 98.0}, 7, 0.5, "local"),
        ({"dice": 0.0, "hd95_mm": None, "volume_ml": 0.0}, 0, 0.2, "vanished"),
    ],
)
def test_overlap_no_worse_than_under_harmless_changes_is_no_break(adversarial, failed, floor, verdict):
    assert metrics.verdict(CLEAN, adversarial, failed, floor) == verdict
    # Whether it was outlined, or could be tested, never hides a break.
    if verdict in metrics.BROKEN:
        assert metrics.verdict(CLEAN, adversarial, failed, floor, outlined=False, tested=False) == verdict


def test_what_did_not_break_says_why_it_proves_less():
    words = [
        metrics.verdict(CLEAN, CLEAN, outlined=outlined, tested=tested)
        for outlined, tested in ((True, True), (False, True), (True, False), (False, False))
    ]
    assert words == ["held", "not-outlined", "not-tested", "not-tested"]
    assert metrics.verdict(EMPTY, EMPTY, outlined=False, tested=False) == "absent"


def test_limits_can_be_edited():
    row = {"dice": 0.92, "hd95_mm": 10.0, "volume_ml": 100.0}
    assert metrics.broken_by(CLEAN, row, metrics.Limits(dice=0.95)) == "dice"
    assert metrics.broken_by(CLEAN, row, metrics.Limits(hd95_mm=5.0)) == "hd95"


def test_failed_slices_counts_only_slices_that_matter():
    clean = cube((40, 40, 20), (5, 5, 2), (20, 20, 15))  # slices of 400 voxels along axis 2
    clean[10:13, 10:13, 17:20] = True  # a tail of 9 voxels a slice: below 10 % of 400
    adversarial = clean.copy()
    adversarial[5:20, 5:25, 4:8] = False  # four slices lose 300 of 400 voxels: Dice 0.4
    adversarial[5:8, 5:25, 10:14] = False  # four slices lose 60: Dice 0.92
    adversarial[:, :, 17:20] = False  # the tail vanishes
    assert metrics.failed_slices(clean, adversarial, voxel_ml=0.01) == 4
    assert metrics.failed_slices(clean, adversarial, voxel_ml=0.001) == 0  # 0.3 ml a slice
    assert metrics.failed_slices(clean, clean, voxel_ml=0.01) == 0
    assert metrics.failed_slices(clean[:, :, 5], adversarial[:, :, 5], voxel_ml=0.01) == 0  # 2D has no slices


def test_perturbation_norms_are_those_of_the_roi():
    clean = np.zeros((1, 12, 12, 12), np.float32)
    delta = np.zeros_like(clean)
    delta[0, :6] = 3.0
    delta[0, 0, 0, 0] = -7.0
    roi = cube((12, 12, 12), (0, 0, 0), (8, 12, 12))
    numbers = metrics.perturbation(delta, clean, roi, window=(-160.0, 240.0))
    rms = np.sqrt((9 * 863 + 49) / 1152)
    assert numbers["linf"] == 7.0
    assert numbers["l2"] == pytest.approx(rms, rel=1e-12)
    assert numbers["l0"] == pytest.approx(864 / 1152, rel=1e-12)
    assert numbers["psnr_db"] == pytest.approx(20 * np.log10(400 / rms), rel=1e-12)
    assert numbers["data_range_hu"] == 400.0
    nothing = metrics.perturbation(np.zeros_like(clean), clean)
    assert nothing == {"linf": 0.0, "l2": 0.0, "l0": 0.0, "psnr_db": None, "ssim": 1.0, "data_range_hu": 400.0}


@pytest.mark.parametrize("shape", [(1, 30, 24, 20), (3, 40, 33)])
def test_ssim_equals_monais(shape, monkeypatch):
    rng = np.random.default_rng(0)
    sigma = (0, *[2] * (len(shape) - 1))
    clean = (ndimage.gaussian_filter(rng.normal(size=shape), sigma) * 800).astype(np.float32)
    changed = clean + rng.normal(scale=25, size=shape).astype(np.float32)
    window = (-160.0, 240.0)
    monai = SSIMMetric(spatial_dims=len(shape) - 1, data_range=400.0)
    tensors = [torch.from_numpy(np.clip(x, *window)).double()[None] for x in (changed, clean)]
    expected = monai._compute_metric(*tensors).item()
    assert 0.1 < expected < 0.95
    assert metrics.ssim(clean, changed, window) == pytest.approx(expected, abs=2e-5)  # MONAI computes in float32
    monkeypatch.setattr(metrics, "_SLAB_VOXELS", 2500)  # many slabs, the same mean
    assert metrics.ssim(clean, changed, window) == pytest.approx(expected, abs=2e-5)


def test_ssim_of_a_local_change_is_exact_and_the_roi_averages_where_it_lies(monkeypatch):
    rng = np.random.default_rng(1)
    clean = rng.normal(scale=60, size=(1, 40, 30, 26))
    changed = clean.copy()
    changed[0, 3:9, 20:, 4:8] += 30
    everywhere = metrics._ssim_map(np.clip(clean[0], -160, 240), np.clip(changed[0], -160, 240), 400.0)
    assert metrics.ssim(clean, changed) == pytest.approx(everywhere.mean(), abs=1e-12)
    roi = cube((40, 30, 26), (2, 10, 3), (12, 15, 10))
    assert metrics.ssim(clean, changed, roi=roi) == pytest.approx(everywhere[roi[5:-5, 5:-5, 5:-5]].mean(), abs=1e-12)


def test_ssim_has_no_value_where_its_kernel_does_not_fit():
    thin = np.zeros((1, 30, 30, 10))
    assert metrics.ssim(thin, thin + 1) is None
    border = cube((30, 30, 30), (0, 0, 0), (5, 30, 30))
    assert metrics.ssim(np.zeros((1, 30, 30, 30)), np.ones((1, 30, 30, 30)), roi=border) is None


def test_to_json_leaves_only_json():
    @dataclass
    class Row:
        dice: float
        label: tuple

    value = {
        1: np.float32(0.5),
        "nan": float("nan"),
        "inf": np.float64(-np.inf),
        "array": np.array([1, 2], np.int16),
        "row": Row(np.nan, (np.int64(3), True)),
        "none": None,
        "floats": np.array([0.5, np.nan]),
    }
    plain = to_json(value)
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "1": 0.5,
        "nan": None,
        "inf": None,
        "array": [1, 2],
        "row": {"dice": None, "label": [3, True]},
        "none": None,
        "floats": [0.5, None],
    }
    with pytest.raises(TypeError, match="set has no JSON form"):
        to_json({1, 2})


def test_a_256_cube_takes_seconds():
    """Three organs of 0.4, 0.1 and 2 million voxels, one of them badly broken."""
    grid = np.stack(np.meshgrid(*[np.arange(256, dtype=np.float32)] * 3, indexing="ij", sparse=False))
    clean = np.zeros((256, 256, 256), np.uint8)
    for value, centre, radii in [
        (3, (128, 128, 128), (90, 70, 80)),
        (1, (90, 120, 120), (45, 45, 45)),
        (2, (190, 150, 90), (30, 28, 26)),
    ]:
        distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
        clean[distance < 1] = value
    adversarial = np.roll(clean, (3, -2, 1), (0, 1, 2))
    adversarial[:, :, :110][adversarial[:, :, :110] == 1] = 3
    start = time.process_time()
    rows = metrics.structures(adversarial, clean, LABELS, (0.8, 0.8, 1.0), 0.00064)
    metrics.slices(clean, adversarial, LABELS)
    assert time.process_time() - start < 10.0
    assert rows["spleen"]["hd95_mm"] < 5.0 < rows["liver"]["hd95_mm"]
