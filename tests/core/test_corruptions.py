"""Ordinary changes are what their formulas say, the same by the same seed, and as large as they are asked to be."""

import dataclasses

import numpy as np
import pytest
import tiny
from numpy.polynomial import polynomial

from perturbox.corruptions import CORRUPTIONS, GRADES, get, names
from perturbox.errors import InputError
from perturbox.types import Volume

pytest.importorskip("torchio", reason="ordinary changes need the extra 'study'")
from perturbox.corruptions.change import Sweep, corrupt

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
CT = Volume(tiny.scan()[None].astype(np.float32), AFFINE, dtype=np.dtype(np.int16))
MR = Volume(np.rint(np.abs(CT.data + 1000) / 4), AFFINE, unit="intensity", dtype=np.dtype(np.int16))
EVERY = [(one.name, CT if one.physics == "ct" else MR) for one in CORRUPTIONS]
SIGMA = 3.0
ids = [f"{one.name} of {one.physics}" for one in CORRUPTIONS]


def smooth_scan(unit="HU", dtype=np.float64, seed=0):
    """Values between 0 and 200 in floating point: what is computed isn't rounded."""
    data = np.random.default_rng(seed).uniform(0, 200, (1, 12, 14, 10)).astype(np.float32)
    return Volume(data, AFFINE, unit=unit, dtype=np.dtype(dtype))


def unclipped(image, name, grade, seed=0, sigma=None):
    """A change before it is stored and clipped to the scan's range."""
    return image.data + Sweep(image, name, seed, sigma)._change(grade)


# ---------------------------------------------------------------- what holds of all


@pytest.mark.parametrize(("name", "image"), EVERY, ids=ids)
def test_grade_zero_is_the_scan_and_a_seed_gives_the_same_bytes(name, image):
    assert corrupt(image, name, 0, sigma=SIGMA).data.tobytes() == image.data.tobytes()
    first, again = (corrupt(image, name, 2, seed=5, sigma=SIGMA).data for _ in range(2))
    assert first.tobytes() == again.tobytes() and not np.array_equal(first, image.data)
    drawn = name in ("dose", "motion", "bias-field", "rician")
    assert np.array_equal(first, corrupt(image, name, 2, seed=6, sigma=SIGMA).data) is not drawn


@pytest.mark.parametrize(("name", "image"), EVERY, ids=ids)
@pytest.mark.parametrize("rms", [0.6, 2.37, 8.4])
def test_a_matched_change_has_the_rms_and_fits_the_file(name, image, rms):
    sweep = Sweep(image, name, 1, SIGMA)
    found = sweep.matched(rms)
    delta = found.data.astype(np.float64) - image.data
    assert np.sqrt(np.mean(delta**2)) == pytest.approx(rms, rel=0.01)
    assert sweep.rms(found) == pytest.approx(np.sqrt(np.mean(delta**2)), rel=1e-12)
    assert np.array_equal(found.data, np.rint(found.data))  # the file holds whole numbers
    assert found.data.min() >= image.data.min() and found.data.max() <= image.data.max()
    assert np.array_equal(sweep.matched(0).data, image.data)


@pytest.mark.parametrize("name", ["smooth", "dose", "offset"])
def test_padding_is_never_changed(name):
    data = CT.data.copy()
    data[:, :4] = -2000
    image = CT.with_data(data)
    for grade in (1, 5):
        assert (corrupt(image, name, grade, sigma=SIGMA).data[:, :4] == -2000).all()


def test_what_happens_to_mr_is_refused_of_ct_and_the_reverse():
    with pytest.raises(
        InputError, match="motion is something that happens to MR, so it says nothing of CT; choose dose"
    ):
        corrupt(CT, "motion")
    with pytest.raises(
        InputError, match="dose is something that happens to CT, so it says nothing of MR; choose motion"
    ):
        corrupt(MR, "dose", sigma=SIGMA)
    with pytest.raises(InputError, match="There is no corruption 'dsoe'; did you mean 'dose'"):
        corrupt(CT, "dsoe")
    with pytest.raises(InputError, match="no grade 6"):
        corrupt(CT, "offset", 6)
    with pytest.raises(InputError, match="can't be measured, so there is no dose to lower"):
        corrupt(CT, "dose")
    with pytest.raises(InputError, match="no slices"):
        corrupt(Volume(CT.data[..., 9], AFFINE, dtype=CT.dtype), "slices")
    with pytest.raises(InputError, match="a picture without millimetres"):
        corrupt(dataclasses.replace(smooth_scan("intensity"), geometry="none"), "rician")


def test_every_corruption_has_five_grades():
    assert all(len(one.grades) == len(GRADES) for one in CORRUPTIONS)
    assert set(names("ct")) & set(names("mr")) == {"darker", "brighter", "slices"}
    assert names("ct")[0] == "dose" and get("rician", "mr").physics == "mr"


# ---------------------------------------------------------------- CT


@pytest.mark.parametrize(("name", "grade"), [("smooth", 1), ("smooth", 3), ("sharpen", 2), ("sharpen", 5)])
def test_a_kernel_multiplies_each_wave_by_its_transfer_function(name, grade):
    """A cosine along a row keeps its shape: H(f) = exp(-2 π² σ² f²), sharpened 1 + a (1 - H)."""
    n, k = 24, 7
    wave = np.cos(np.pi * k * (np.arange(n) + 0.5) / n)
    image = Volume(
        np.broadcast_to(100 * wave[:, None, None], (1, n, 22, 6)).astype(np.float32), AFFINE, dtype=np.dtype(np.float64)
    )
    values = get(name, "ct").grades[grade - 1]
    low = np.exp(-2 * (np.pi * values["mm"] * k / (2 * n * 2.0)) ** 2)
    gain = low if name == "smooth" else 1 + values["amount"] * (1 - low)
    assert np.allclose(unclipped(image, name, grade), gain * image.data, atol=1e-4)
    # Along the slices nothing is filtered.
    deep = image.with_data(np.ascontiguousarray(np.swapaxes(image.data, 1, 3)), affine=AFFINE)
    assert np.allclose(unclipped(deep, name, grade), deep.data, atol=1e-4)


@pytest.mark.parametrize("grade", GRADES)
def test_contrast_gamma_and_offset_by_hand(grade):
    image = smooth_scan()
    x = image.data.astype(np.float64)
    for name in ("more-contrast", "less-contrast"):
        factor = get(name, "ct").grades[grade - 1]["factor"]
        assert np.allclose(unclipped(image, name, grade), np.clip(40 + factor * (x - 40), -160, 240), atol=1e-3)
    wide = image.with_data(np.float32(4) * image.data - 400)  # beyond both ends of the window
    inside = np.clip(wide.data.astype(np.float64), -160, 240)
    for name in ("darker", "brighter"):
        power = get(name, "ct").grades[grade - 1]["gamma"]
        wanted = wide.data + 400 * ((inside + 160) / 400) ** power - 160 - inside
        assert np.allclose(unclipped(wide, name, grade), wanted, atol=1e-3)
    assert np.allclose(unclipped(image, "offset", grade), x + 10 * grade, atol=1e-4)
    assert Sweep(image, "offset")._size(Sweep(image, "offset")._change(grade)) == pytest.approx(10 * grade)


def water(sides=(1, 40, 40, 6)):
    """A disk of water in air, 3 mm."""
    place = np.hypot(*np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in sides[1:3]), indexing="ij"))
    data = np.broadcast_to(np.where(place < 15, 0.0, -1000.0)[None, :, :, None], sides).astype(np.float32)
    return Volume(data, np.diag([3.0, 3.0, 3.0, 1.0]), dtype=np.dtype(np.float64))


def test_less_dose_adds_the_noise_that_a_share_of_the_photons_leaves(monkeypatch):
    """Quantum noise alone: variances add up to σ²/a in the body, so full dose adds none to the scan's own."""
    from perturbox.corruptions import dose

    image, sigma = water(), 12.0
    monkeypatch.setattr(dose, "ELECTRONIC", 0.0)
    for seed, share in ((0, 0.5), (1, 0.1)):
        change = dose.dose(image, seed, sigma)
        added = change({"share": share}) - image.data
        body = added[image.data > dose.BODY]
        assert np.sqrt(np.mean(body**2)) == pytest.approx(sigma * np.sqrt(1 / share - 1), rel=1e-6)
        assert np.allclose(change({"share": 1.0}), image.data)


def test_dose_noise_is_the_projections_of_yu_by_hand():
    """One slice, ray by ray: e^p of a disk of water, the formula with the detector's own noise, reconstructed."""
    from skimage.transform import iradon, radon

    from perturbox.corruptions import dose

    image, sigma, a = water((1, 24, 24, 1)), 10.0, 0.1
    image = image.with_data(image.data, affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    angles = np.linspace(0, 180, 34, endpoint=False)
    thick = np.exp(3.0 * radon(0.0192 * (1 + image.data[0, ..., 0].astype(float) / 1000), angles, circle=False)).astype(
        np.float32
    )
    drawn = np.random.default_rng(3).standard_normal(thick.shape, dtype=np.float32)

    def back(size):
        return iradon(size * drawn, angles, output_size=24, circle=False) * 1000 / (0.0192 * 3)

    one = back(np.sqrt(thick.astype(float)))
    photons = np.mean(one[image.data[0, ..., 0] > -500] ** 2) / sigma**2
    size = np.sqrt((1 - a) / a * thick / photons * (1 + (1 + a) / a * 100 * thick / photons))
    assert np.allclose(
        dose.dose(image, 3, sigma)({"share": a})[0, ..., 0], image.data[0, ..., 0] + back(size), atol=1e-3
    )


def test_dose_noise_is_streaked_and_grows_from_grade_to_grade():
    sweep = Sweep(CT, "dose", 0, SIGMA)
    sizes = [sweep.rms(sweep.at(grade)) for grade in GRADES]
    assert sizes == sorted(sizes)
    white = np.random.default_rng(0).normal(size=(200, 200))
    noise = (unclipped(CT, "dose", 3, sigma=SIGMA) - CT.data)[0]

    def neighbours(x):
        return np.corrcoef(x[1:].ravel(), x[:-1].ravel())[0, 1]

    assert abs(neighbours(white)) < 0.02 < abs(neighbours(noise))


def test_fewer_slices_leave_a_ramp_along_them_as_it_is():
    """Linear interpolation is exact on a ramp but at its ends, which stay near; across the slices everything stays."""
    ramp = np.broadcast_to(10 * np.arange(24.0), (1, 6, 5, 24)).astype(np.float32)
    image = Volume(ramp, AFFINE, dtype=np.dtype(np.float64))
    found = unclipped(image, "slices", 2)
    assert np.allclose(np.diff(found[..., 4:-4], axis=-1), 10, atol=1e-3)
    assert np.abs(found - ramp).max() <= 2 * 10 * get("slices", "ct").grades[1]["factor"]
    across = image.with_data(np.ascontiguousarray(np.swapaxes(ramp, 1, 3)))
    assert np.allclose(unclipped(across, "slices", 5), across.data, atol=1e-3)


# ---------------------------------------------------------------- MR


def test_rician_noise_is_the_magnitude_of_two_normals():
    image, grade = smooth_scan("intensity"), 2
    x = image.data - image.data.min()
    rng = np.random.RandomState(7)
    real, imaginary = (rng.normal(0, 0.32 * x.std(), size=x.shape) for _ in range(2))
    rng = np.random.default_rng(0)
    found = unclipped(image, "rician", grade, seed=7) - image.data.min()
    # Whatever the order of the draws, the second moment is that of Rice: x² + 2 σ².
    assert np.mean(found**2) == pytest.approx(np.mean(x.astype(float) ** 2) + 2 * (0.32 * x.std()) ** 2, rel=0.03)
    assert np.mean(found**2) == pytest.approx(np.mean((x + real) ** 2 + imaginary**2), rel=0.05)
    assert found.min() >= 0


def test_ghosts_are_every_nth_plane_of_k_space_weakened():
    image, grade = smooth_scan("intensity"), 4
    values = get("ghosting", "mr").grades[grade - 1]
    spectrum = np.fft.fftshift(np.fft.fftn(image.data[0].astype(float)))
    axis, middle = 1, image.shape[1] // 2  # 28 mm, the longer of a slice's axes
    kept = spectrum[:, middle].copy()
    spectrum[:, :: int(values["ghosts"])] *= 1 - values["intensity"]
    spectrum[:, middle] = kept
    wanted = np.fft.ifftn(np.fft.ifftshift(spectrum)).real
    assert image.shape[axis] * image.spacing[axis] == 28
    assert np.allclose(unclipped(image, "ghosting", grade)[0], wanted, atol=1e-2)


def test_an_uneven_coil_is_the_exponential_of_a_polynomial():
    image, grade = smooth_scan("intensity"), 3
    drawn = iter(0.9 * np.random.default_rng(4).uniform(-1, 1, 20))
    table = np.zeros((4, 4, 4))
    for i in range(4):
        for j in range(4 - i):
            for k in range(4 - i - j):
                table[i, j, k] = next(drawn)
    ends = [np.linspace(-(n - 1), n - 1, n) / (n - 1) for n in image.shape]
    field = np.exp(polynomial.polygrid3d(*ends, table))
    assert np.allclose(unclipped(image, "bias-field", grade, seed=4)[0], field * image.data[0], rtol=1e-4, atol=1e-3)


def test_gamma_of_mr_is_a_power_of_its_range():
    image = smooth_scan("intensity")
    low, high = float(image.data.min()), float(image.data.max())
    wanted = low + (high - low) * ((image.data - low) / (high - low)) ** 2.2
    assert np.allclose(unclipped(image, "darker", 3), wanted, atol=1e-2)


def test_motion_reads_each_part_of_k_space_from_another_pose():
    """The first grade moves twice: three spectra, of which the one still at the centre fills it."""
    import torchio

    image = MR
    rng = np.random.default_rng(2)
    degrees, mm = rng.uniform(-1, 1, (2, 3)), rng.uniform(-2, 2, (2, 3))
    times = (np.arange(1, 3) + rng.uniform(-0.3, 0.3, 2)) / 3
    poses = [image.data[0].astype(float)]
    scan = torchio.ScalarImage(tensor=image.data, affine=AFFINE)
    whole = torchio.Motion(degrees, mm, times, "linear")
    for transform in whole.get_rigid_transforms(degrees, mm, scan.as_sitk())[1:]:
        moved = whole.resample_images(scan.as_sitk(), [None, transform], "linear")[1]
        import SimpleITK as sitk

        poses.append(sitk.GetArrayFromImage(moved).T.astype(float))
    spectra = [np.fft.fftshift(np.fft.fftn(pose)) for pose in poses]
    index = int(np.argmax(times > 0.5))
    spectra[0], spectra[index] = spectra[index], spectra[0]
    n = image.shape[2]
    cuts = [0, *(n * times).astype(int), n]
    read = np.concatenate([s[..., a:b] for s, a, b in zip(spectra, cuts, cuts[1:], strict=False)], -1)
    wanted = np.fft.ifftn(np.fft.ifftshift(read)).real
    assert np.allclose(unclipped(image, "motion", 1, seed=2)[0], wanted, atol=0.05)


def test_the_list_tells_each_with_its_grades(capsys):
    import json

    from perturbox.cli import main

    assert main(["list", "corruptions", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["physics"]) for one in told] == [(one.name, one.physics) for one in CORRUPTIONS]
    assert told[0]["grades"][4] == {"share": 0.05}
    assert main(["list", "corruptions"]) == 0
    shown = capsys.readouterr().out
    assert "bias-field" in shown and "share 0.5, 0.25, 0.15, 0.1, 0.05" in " ".join(shown.split())
