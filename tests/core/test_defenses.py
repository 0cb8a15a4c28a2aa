"""Each defence is its formula, each stand-in the gradient it says, and what can't be a defence is refused in words."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import fft, ndimage

from perturbox.defenses import chain_of, defend, discover, get, offered
from perturbox.defenses.tv import chambolle, divergence, energy, gradient
from perturbox.model.defended import Defense, StandIn
from perturbox.types import InputError

WINDOW = (-250.0, 350.0)
SPACING = (1.0, 1.0, 1.0)
DRAWS = torch.Generator()


def made(name: str, **settings) -> Defense:
    return get(name).build(settings, WINDOW, "tiny")


def noise(*shape: int, scale: float = 100.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def passed(defense: Defense, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return defense.filter(x, SPACING[: x.dim() - 2], torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- formulas


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_bit_depth_is_rint_on_the_range(bits):
    x, levels = noise(9, 8, 7), 2**bits - 1
    grey = (x.double() + 250) / 600
    expected = np.rint(grey.numpy() * levels) / levels * 600 - 250
    np.testing.assert_allclose(passed(made("bit-depth", bits=bits), x), expected, atol=1e-4)
    inside = passed(made("bit-depth", bits=bits), x.clamp(*WINDOW))
    assert len(inside.unique()) <= 2**bits


def test_bit_depth_takes_the_range_that_is_named():
    x = torch.tensor([0.2, 0.6, 1.4]).view(1, 1, 3)
    assert passed(made("bit-depth", bits=1, low=0, high=1), x).flatten().tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("shape", [(13, 12), (9, 3, 11)])
@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_gaussian_is_that_of_scipy(shape, sigma):
    x = noise(*shape)
    expected = ndimage.gaussian_filter(x[0, 0].double().numpy(), sigma, mode="reflect")
    np.testing.assert_allclose(passed(made("gaussian", sigma=sigma), x)[0, 0], expected, atol=1e-3)


@pytest.mark.parametrize("shape, spacing", [((13, 12), (1.0, 1.0)), ((9, 3, 8), (0.7, 0.7, 5.0))])
@pytest.mark.parametrize("cutoff, order", [(0.2, 4), (0.05, 1)])
def test_aegis_is_a_low_pass_of_the_scan_in_a_mirror(shape, spacing, cutoff, order):
    """By NumPy's FFT of the scan continued as in a mirror at its end, along every axis."""
    x = noise(*shape).double()
    found = made("aegis", cutoff=cutoff, order=order).filter(x, spacing, DRAWS)[0, 0].numpy()
    whole = x[0, 0].numpy()
    for axis in range(whole.ndim):
        whole = np.concatenate([whole, np.flip(whole, axis)], axis)
    waves = np.meshgrid(*[np.fft.fftfreq(2 * n, mm) for n, mm in zip(shape, spacing, strict=True)], indexing="ij")
    share = 1 / (1 + (np.sqrt(sum(f**2 for f in waves)) / cutoff) ** (2 * order))
    expected = np.fft.ifftn(share * np.fft.fftn(whole)).real[tuple(slice(n) for n in shape)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_aegis_passes_half_of_a_wave_at_the_cut_off_whatever_the_spacing():
    """The 12th of 40 voxels' cosine waves: 12 / (2 * 40 mm) cycles per mm."""
    for mm in (1.0, 2.5):
        wave = torch.cos(torch.pi * 12 * (torch.arange(40) + 0.5) / 40).view(1, 1, 40, 1).expand(1, 1, 40, 5)
        half = made("aegis", cutoff=12 / (80 * mm)).filter(wave, (mm, mm), DRAWS)
        assert torch.allclose(half, wave / 2, atol=1e-5)
    flat = torch.full((1, 1, 9, 8, 7), 40.0)
    assert torch.allclose(passed(made("aegis", cutoff=1e-3), flat), flat, atol=1e-3)


@pytest.mark.parametrize("shape, size", [((13, 12), 3), ((9, 3, 11), 3), ((8, 7, 6), 5)])
def test_median_is_that_of_scipy(shape, size, monkeypatch):
    monkeypatch.setattr("perturbox.defenses.median.VALUES", 500)  # slab by slab
    x = noise(*shape)
    expected = ndimage.median_filter(x[0, 0].numpy(), size, mode="reflect")
    np.testing.assert_array_equal(passed(made("median", size=size), x)[0, 0], expected)


def test_the_windows_mean_is_a_uniform_filter():
    x = noise(9, 6, 11)
    expected = ndimage.uniform_filter(x[0, 0].double().numpy(), 3, mode="reflect")
    np.testing.assert_allclose(twin("median", 0)(x, SPACING, DRAWS)[0, 0], expected, atol=1e-3)


def test_dct_rounds_the_coefficients_that_scipy_finds():
    x, step = noise(8, 16, 8), 25.0
    blocks = x[0, 0].double().numpy().reshape(8, 2, 8, 8).swapaxes(0, 1)
    coefficients = fft.dctn(blocks, axes=(1, 2, 3), norm="ortho")
    back = fft.idctn(step * np.rint(coefficients / step), axes=(1, 2, 3), norm="ortho")
    expected = back.swapaxes(0, 1).reshape(8, 16, 8)
    found = passed(made("dct", step=step), x)[0, 0].numpy()
    assert np.abs(found - expected).max() < 1e-2


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 5, 7), (11, 10)])
def test_dct_of_a_step_towards_0_is_the_identity(shape):
    x = noise(*shape)
    assert (passed(made("dct", step=1e-3), x) - x).abs().max() < 1e-2


def test_total_variation_lowers_its_energy_with_every_iteration():
    x = noise(9, 8, 7, scale=20) + 100 * (torch.arange(9).view(1, 1, 9, 1, 1) > 4)
    weight = 0.03 * 600
    energies = [float(energy(chambolle(x, weight, n), x, weight)) for n in (0, 5, 20, 80, 320)]
    assert energies == sorted(energies, reverse=True) and energies[-1] < 0.8 * energies[0]
    assert energies[-2] - energies[-1] < 0.01 * energies[-1]
    assert torch.equal(passed(made("tv", iterations=20), x), chambolle(x, weight, 20))


def test_total_variation_of_one_step_has_a_closed_form():
    """A step of height h between halves of n voxels in one row: each half moves by weight / n towards the other."""
    n, height, weight = 4, 100.0, 12.0
    x = torch.cat([torch.zeros(n), torch.full((n,), height)]).view(1, 1, 2 * n)
    expected = torch.cat([torch.full((n,), weight / n), torch.full((n,), height - weight / n)])
    assert torch.allclose(chambolle(x, weight, 4000).flatten(), expected, atol=0.01)


def test_divergence_is_minus_the_transpose_of_the_gradient():
    u, p = noise(5, 4, 6).double(), torch.randn(3, 1, 1, 5, 4, 6, generator=DRAWS, dtype=torch.float64)
    assert float((gradient(u, 3) * p).sum()) == pytest.approx(-float((u * divergence(p, 3)).sum()), rel=1e-9)


def test_smoothing_adds_noise_of_its_sigma_to_every_copy():
    x = noise(40, 40, 40).repeat_interleave(2, 0)
    first, second = passed(made("smoothing", sigma=20, copies=2), x) - x
    assert float(first.std()) == pytest.approx(20, rel=0.02) and abs(float(first.mean())) < 0.3
    assert abs(float((first * second).mean())) < 4


def test_local_gradients_smoothing_by_hand():
    """One sharp square on a flat picture: its own block fades towards the middle, the others stay."""
    x = torch.full((1, 1, 40, 40), -100.0)
    x[..., 3:9, 3:9] = 200.0
    defense = made("lgs", threshold=0.1, block=10, overlap=0)
    found = passed(defense, x)
    grey = ((x.double() + 250) / 600)[0, 0].numpy()
    steep = np.hypot(np.diff(grey, axis=0, append=grey[-1:]), np.diff(grey, axis=1, append=grey[:, -1:]))
    steep /= steep.max()
    steep[10:], steep[:, 10:] = 0, 0
    expected = x[0, 0].numpy() + 600 * (0.5 - grey) * np.clip(2.3 * steep, 0, 1)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-3)
    assert torch.equal(found[..., 10:, :], x[..., 10:, :])
    assert torch.equal(passed(made("lgs", threshold=0.9), x), x)


# ---------------------------------------------------------------- stand-ins


def twin(name: str, index: int, **settings):
    """What an attack differentiates in a defence's place."""
    defense = made(name, **settings)
    return defense.stand_ins[index].twin or defense.filter


@pytest.mark.parametrize(
    "name, index", [(offer.name, i) for offer in offered() for i in range(len(offer.describe()["stand_ins"]))]
)
@pytest.mark.parametrize("shape", [(12, 11), (9, 6, 7)])
def test_the_gradient_of_every_stand_in(name, index, shape):
    """Against differences along a direction, in double precision."""
    function = twin(name, index)
    x, direction = noise(*shape).double(), noise(*shape, scale=1.0, seed=1).double()
    weight = noise(*shape, scale=1.0, seed=2).double()
    spacing = SPACING[: len(shape)]

    def value(point: torch.Tensor) -> torch.Tensor:
        return (function(point, spacing, torch.Generator().manual_seed(3)).double() * weight).sum()

    point = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(point), point)
    step = 1e-5
    moved = float(value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert float((grad * direction).sum()) == pytest.approx(moved, rel=1e-4, abs=1e-4)


def test_soft_steps_are_flat_on_a_level_and_steepest_between_two():
    function = twin("bit-depth", 1, bits=3)
    step = 600 / 7
    x = (torch.tensor([0.0, 0.25, 0.5]) * step - 250).double().view(1, 1, 3).requires_grad_()
    (grad,) = torch.autograd.grad(function(x, SPACING, DRAWS).sum(), x)
    assert grad.flatten().tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-6)


def test_live_coefficients_pass_nothing_where_all_are_dead():
    function = twin("dct", 0, step=60.0)
    x = (0.1 * noise(8, 8, 8, scale=1.0)).requires_grad_()
    (grad,) = torch.autograd.grad((function(x, SPACING, DRAWS) ** 2).sum(), x)
    assert not grad.any()


def test_every_defence_offers_two_stand_ins():
    assert len(discover()) == 9
    for offer in offered():
        told = offer.describe()
        assert len(set(told["stand_ins"])) >= 2 and told["inverse"] and told["paper"], offer.name
    assert [offer.name for offer in offered() if offer.describe()["random"]] == ["smoothing"]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "spec, said",
    [
        ("bitdepth", "Unknown defence 'bitdepth'; did you mean 'bit-depth'?"),
        (
            "zebra",
            "Unknown defence 'zebra'; there are aegis, bit-depth, dct, gaussian, lgs, median, park, smoothing, tv.",
        ),
        ("bit-depth:bit=3", "bit-depth has no setting 'bit'; did you mean 'bits'?"),
        ("bit-depth:bits=99", "The setting 'bits' must be between 1 and 12, not 99."),
        ("bit-depth:bits=x", "The setting 'bits' needs a value of type int, not 'x'."),
        ("bit-depth:bits", "'bits' of 'bit-depth:bits' isn't understood; write settings as bit-depth:key=value."),
        ("bit-depth:bits=3:bits=4", "'bit-depth:bits=3:bits=4' gives bits twice; keep one of them."),
        ("bit-depth:low=5:high=5", "bit-depth needs low clearly below high, not 5 and 5."),
        ("bit-depth:low=0:high=1e-9", "bit-depth needs low clearly below high, not 0 and 1e-09."),
        ("bit-depth:low=nan", "The setting 'low' needs a value of type float, not 'nan'."),
        ("bit-depth:low=-1e300", "The setting 'low' must be between -1000000.0 and 1000000.0, not -1e+300."),
        ("aegis:cutoff=0", "The setting 'cutoff' must be between 0.001 and 1000.0, not 0.0."),
        ("aegis:order=9", "The setting 'order' must be between 1 and 8, not 9."),
        ("dct:step=1e308", "The setting 'step' must be between 0.001 and 1000000.0, not 1e+308."),
        ("lgs:strength=inf", "The setting 'strength' needs a value of type float, not 'inf'."),
        ("smoothing:copies=1001", "The setting 'copies' must be between 1 and 1000, not 1001."),
        (
            "median\n\nX",
            "The name of a defence holds characters that none has; write it as in bit-depth:bits=3.",
        ),
        ("median:size=2", "The setting 'size' is one of 3, 5, 7, not '2'."),
    ],
)
def test_unknown_names_and_bad_values_are_refused(spec, said):
    import tiny

    with pytest.raises(InputError) as refusal:
        defend(tiny.volume(torch.device("cpu")), spec)
    assert str(refusal.value) == said


def test_a_model_bears_four_defences_and_a_thousand_draws():
    import tiny

    model = tiny.volume(torch.device("cpu"))
    assert len(defend(model, *["median"] * 4).chain) == 4
    for stacked in (
        lambda: defend(model, *["median"] * 5),
        lambda: defend(defend(model, *["median"] * 3), "lgs", "tv"),
    ):
        with pytest.raises(InputError, match=r"At most 4 defences can stand before a model, not 5; leave some out\."):
            stacked()
    assert defend(model, "smoothing:copies=25", "smoothing:copies=40").draws == 1000
    said = "together draw 1025 noisy copies for each prediction, and 1000 are the most"
    with pytest.raises(InputError, match=said):
        defend(model, "smoothing:copies=25", "smoothing:copies=41")
    with pytest.raises(InputError, match=said):
        defend(defend(model, "smoothing:copies=25"), "smoothing:copies=41")
    own = Defense("own", lambda x, s, g: x, draws=2000)
    with pytest.raises(InputError, match="draw 2000 noisy copies"):
        defend(model, own)
    # Refused by their number alone, before any of ten thousand is read.
    with pytest.raises(InputError, match="not 10000; leave some out"):
        chain_of(["zebra"] * 10_000, None, "tiny")


def test_a_form_shows_the_models_range_or_asks_for_one():
    ends = {"low": (-250.0, False), "high": (350.0, False), "bits": (3, False)}
    shown = {one["name"]: (one["default"], one["required"]) for one in get("bit-depth").parameters_on((-250.0, 350.0))}
    assert shown == ends
    blind = {one["name"]: (one["default"], one["required"]) for one in get("bit-depth").parameters_on(None)}
    assert blind == {"low": (None, True), "high": (None, True), "bits": (3, False)}
    assert [(one["name"], one["required"]) for one in get("median").parameters_on(None)] == [("size", False)]


def test_a_model_without_a_range_is_asked_for_one():
    import tiny

    blind = dataclasses.replace(tiny.volume(torch.device("cpu")), normalise=lambda x: x)
    for given, suggested in (
        ("bit-depth", "bit-depth:low=0:high=1000"),
        ("bit-depth:bits=4", "bit-depth:bits=4:low=0:high=1000"),
        ("lgs:anchor=low:block=9:low=-200", "lgs:anchor=low:block=9:low=-200:high=800"),
        ("tv:high=400:iterations=5", "tv:iterations=5:low=0:high=400"),
        ("tv:high=-100", "tv:low=-1100:high=-100"),
    ):
        with pytest.raises(InputError) as refusal:
            defend(blind, given)
        sentence = "tiny doesn't say which range of values it tells apart; give it, as in "
        assert str(refusal.value) == f"{sentence}{suggested}."
        assert defend(blind, suggested).chain[0].name == given.partition(":")[0]
    assert defend(blind, "bit-depth:low=0:high=7").chain[0].settings["high"] == 7.0
    assert defend(blind, "gaussian").name == "tiny behind gaussian"


def test_a_stand_in_is_plain_data():
    assert StandIn("identity") == StandIn("identity") and Defense("own", lambda x, s, g: x).spec == "own"
