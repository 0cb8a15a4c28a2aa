"""The scan's noise on synthetic organs of known noise: white and correlated, with trends and vessels."""

import math

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from perturbox.judge import noise

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "lung": 4}


def organ(rng, sigma, correlation_mm=0.0, trend=0.0, vessels=0, spacing=(1.0, 1.0, 2.5), radius_mm=42.0):
    """A ball of 100 HU with noise of SD sigma, a linear and a quadratic trend, and tubes of +60 HU, 6 mm wide."""
    shape = [int(2 * radius_mm / s) + 6 for s in spacing]
    x, y, z = np.meshgrid(*[(np.arange(n) - n / 2) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    grain = rng.normal(size=shape)
    if correlation_mm:
        grain = ndimage.gaussian_filter(grain, [correlation_mm / s for s in spacing], mode="wrap")
        grain /= grain.std()
    image = 100 + sigma * grain + trend * (x / radius_mm + (y / radius_mm) ** 2)
    for _ in range(vessels):
        a, b = rng.uniform(-radius_mm / 2, radius_mm / 2, 2)
        image[(y - a) ** 2 + (z - b) ** 2 < 9] += 60
    mask = x**2 + y**2 + z**2 < radius_mm**2
    image[~mask] = -100
    return image.astype(np.float32), mask.astype(np.uint8)


@pytest.mark.parametrize("correlation_mm", [0.0, 1.0, 1.5])
@pytest.mark.parametrize(("trend", "vessels"), [(0.0, 0), (20.0, 0), (20.0, 5)])
def test_sigma_within_five_percent(correlation_mm, trend, vessels):
    image, mask = organ(np.random.default_rng(4), 18.0, correlation_mm, trend, vessels)
    found = noise.scan_noise(image, mask, LABELS, (1.0, 1.0, 2.5))
    assert found["sigma"] == pytest.approx(18.0, rel=0.05)


def test_neighbour_differences_would_underestimate_correlated_noise():
    """Why a trend is removed instead: the usual high-pass estimate loses a third of the noise or more."""
    image, mask = organ(np.random.default_rng(1), 18.0, correlation_mm=1.5)
    inside = ndimage.binary_erosion(mask, iterations=3)
    differences = np.diff(image, axis=0)[inside[1:] & inside[:-1]] / math.sqrt(2)
    assert differences.std() < 0.66 * 18.0


def test_unbiased_in_a_small_region():
    """Twelve balls of 6 ml: the mean ratio shows no lost degrees of freedom."""
    ratios = []
    for seed in range(12):
        image, mask = organ(np.random.default_rng(seed), 10.0, spacing=(1.5, 1.5, 1.5), radius_mm=16.5)
        ratios.append(noise.scan_noise(image, mask, LABELS, (1.5, 1.5, 1.5))["sigma"] / 10.0)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)


def test_prefers_liver_then_spleen_then_the_largest_of_one_tissue():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(140, 36, 36)).astype(np.float32)
    scale = {1: 5.0, 2: 7.0, 3: 9.0, 4: 50.0}
    segmentation = np.zeros(image.shape, np.uint8)
    for value, (start, stop) in {1: (0, 30), 2: (30, 60), 3: (60, 95), 4: (95, 140)}.items():
        segmentation[start:stop] = value
        image[start:stop] *= scale[value]

    def measured(*kept):
        return noise.scan_noise(image, np.where(np.isin(segmentation, kept), segmentation, 0), LABELS, (1, 1, 1))

    assert measured(1, 2, 3, 4)["sigma"] == pytest.approx(5.0, rel=0.03)
    assert measured(1, 2, 3, 4)["region"].startswith("liver eroded 5 mm, ")
    assert measured(2, 3, 4)["sigma"] == pytest.approx(7.0, rel=0.03)
    assert measured(3, 4)["sigma"] == pytest.approx(9.0, rel=0.03)
    assert measured(3, 4)["region"].startswith("kidney eroded 5 mm, ")
    assert measured(4)["sigma"] is None  # a lung's SD is its vessels


def test_region_says_how_much_was_measured_on_which_grid():
    """A box of 40 x 30 x 20 mm loses 5 mm on every side, but nothing where the scan ends."""
    segmentation = np.zeros((60, 60, 20), np.uint8)
    segmentation[10:50, 10:40, :] = 1
    image = np.random.default_rng(0).normal(scale=12.0, size=segmentation.shape)
    found = noise.scan_noise(image, segmentation, LABELS, (1.0, 1.0, 1.0))
    assert found["region"] == "liver eroded 5 mm, 12 ml, on the 1 × 1 × 1 mm grid"  # 30 x 20 x 20 mm
    assert found["sigma"] == pytest.approx(12.0, rel=0.03)


def test_not_available_below_five_millilitres():
    segmentation = np.zeros((60, 60, 60), np.uint8)
    segmentation[20:46, 20:46, 20:46] = 1  # 16 mm cubed = 4.1 ml are left
    image = np.random.default_rng(0).normal(size=segmentation.shape)
    words = "not available: no structure of one tissue keeps 5 ml when eroded by 5 mm"
    assert noise.scan_noise(image, segmentation, LABELS, (1, 1, 1)) == {"sigma": None, "region": words}
    assert noise.scan_noise(image, 0 * segmentation, LABELS, (1, 1, 1)) == {"sigma": None, "region": words}


def test_two_dimensions():
    segmentation = np.zeros((100, 80), np.uint8)
    segmentation[10:90, 10:70] = 1
    image = 3.0 * np.random.default_rng(0).normal(size=segmentation.shape) + np.linspace(0, 40, 80)
    found = noise.scan_noise(image, segmentation, LABELS, (1, 1))
    assert found["sigma"] == pytest.approx(3.0, rel=0.03)
    assert found["region"] == "liver eroded 5 mm, 35 cm², on the 1 × 1 mm grid"
    found = noise.scan_noise(image, segmentation, LABELS, (1, 1), "pixels")
    assert found["region"] == "liver eroded 5 pixels, 3,500 pixels"  # (80 - 10) x (60 - 10)


def test_noise_free_organs_have_none():
    segmentation = np.ones((30, 30, 30), np.uint8)
    found = noise.scan_noise(np.full(segmentation.shape, 55.0), segmentation, LABELS, (1, 1, 1))
    assert found["sigma"] == pytest.approx(0.0, abs=1e-9)


def test_real_ct(data_dir):
    """Organs of one tissue agree about the noise they share; fat between its fibres makes muscle look noisier."""
    image = np.asarray(nib.load(data_dir / "ct_abdomen" / "example_ct.nii.gz").dataobj, np.float32)
    segmentation = np.asarray(nib.load(data_dir / "ct_abdomen" / "example_seg.nii.gz").dataobj).astype(np.int64)
    liver = noise.scan_noise(image, segmentation, {"liver": 5}, (3, 3, 3))
    spleen = noise.scan_noise(image, segmentation, {"spleen": 1}, (3, 3, 3))
    assert liver["sigma"] == pytest.approx(11.3, abs=0.3)
    assert spleen["sigma"] == pytest.approx(liver["sigma"], rel=0.10)
    assert noise.scan_noise(image, segmentation, {"autochthon_left": 86}, (3, 3, 3))["sigma"] is None
