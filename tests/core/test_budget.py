"""What may change: projections are feasible and idempotent, and verify - which shares no code with them - is strict."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perturbox.attacks.budget import NORMS, Budget, BudgetViolated, padding_mask
from perturbox.types import Case, InputError, Volume

SHAPE = (2, 4, 3, 2)


def case_of(data: np.ndarray, roi: np.ndarray | None = None, **storage) -> Case:
    return Case(Volume(data, **({"dtype": np.dtype(np.float32)} | storage)), roi=roi)


def tensors(case: Case, delta: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(case.image.data)[None], torch.from_numpy(delta.astype(np.float32))[None]


values = hnp.arrays(np.float32, SHAPE, elements=st.floats(-1000, 3000, width=32))
changes = hnp.arrays(np.float32, SHAPE, elements=st.floats(-500, 500, width=32))
regions = hnp.arrays(np.bool_, SHAPE[1:]).filter(lambda roi: roi.any())


@given(values, changes, regions, st.sampled_from(NORMS), st.floats(0, 1), st.sampled_from([0.5, 1.0, 2.0, None]))
@settings(max_examples=80, deadline=None)
def test_a_projection_is_allowed_and_a_second_one_changes_nothing(data, delta, roi, norm, share, step):
    eps = share if norm == "l0" else share * 300
    if step is not None:
        data = np.round(data / step) * step  # a file's values lie on its steps
    case = case_of(data, roi)
    assume((roi & ~padding_mask(data)).any())
    budget = Budget.of(case, eps, norm)
    x, wild = tensors(case, delta)
    allowed = budget.project(wild, x)
    assert torch.equal(budget.project(allowed, x), allowed)
    budget.verify(x + allowed, x)
    assert (allowed[:, :, ~torch.from_numpy(roi)] == 0).all()
    assert (allowed * wild >= 0).all() and (allowed.abs() <= wild.abs()).all()  # towards the source only
    rounded = Budget(budget.eps, budget.norm, budget.region, budget.clip, step).quantise(allowed)
    budget.verify(x + rounded, x)


@given(values, regions, st.sampled_from(NORMS))
@settings(max_examples=20, deadline=None)
def test_what_is_allowed_already_stays(data, roi, norm):
    case = case_of(data, roi)
    assume((roi & ~padding_mask(data)).any())
    budget = Budget.of(case, 1.0 if norm == "l0" else 1e4, norm)
    x, delta = tensors(case, np.ones(SHAPE))
    delta = torch.minimum(delta, budget.clip[1] - x) * budget.region
    assert torch.equal(budget.project(delta, x), delta)


def test_linf_is_a_clamp():
    case = case_of(np.array([[-1000, 0, 0, 3000]], np.float32))
    x, delta = tensors(case, np.array([[-5.0, -7.0, 3.0, 9.0]]))
    assert Budget.of(case, 4.0).project(delta, x).tolist() == [[[0.0, -4.0, 3.0, 0.0]]]


def test_l2_is_the_root_mean_square_over_the_region_of_all_channels():
    data = np.zeros((2, 10, 10), np.float32)
    data[0, 0, 0], data[0, 0, 1] = -900, 900
    roi = np.zeros((10, 10), bool)
    roi[5:] = True
    case = case_of(data, roi)
    budget = Budget.of(case, 3.0, "l2")
    x, delta = tensors(case, np.random.default_rng(0).normal(0, 50, data.shape))
    projected = budget.project(delta, x)
    inside = projected[0][:, torch.from_numpy(roi)]
    assert float(inside.square().mean().sqrt()) == pytest.approx(3.0, rel=2e-6)
    assert float(inside.square().mean().sqrt()) <= 3.0
    assert budget.measure(projected)["l2"] == pytest.approx(3.0, rel=2e-6)
    assert budget.count == 50
    direction = delta[0][:, torch.from_numpy(roi)]
    torch.testing.assert_close(inside / inside.norm(), direction / direction.norm())


def test_l2_holds_for_every_case_of_a_batch_alone():
    data = np.random.default_rng(0).uniform(-900, 900, (1, 6, 6)).astype(np.float32)
    budget = Budget.of(case_of(data), 2.0, "l2")
    x = torch.from_numpy(data)[None].repeat(3, 1, 1, 1)
    delta = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 100.0]).view(
        3, 1, 1, 1
    )
    together = budget.project(delta, x)
    for index in range(3):
        assert torch.equal(together[index], budget.project(delta[index : index + 1], x[index : index + 1])[0])
    assert torch.equal(
        together[0], torch.minimum(torch.maximum(delta[0], budget.clip[0] - x[0]), budget.clip[1] - x[0])
    )


def test_l0_keeps_the_largest_changes():
    data = np.zeros((1, 10), np.float32)
    data[0, 0], data[0, 1] = -900, 900
    budget = Budget.of(case_of(data), 0.3, "l0")
    x, delta = tensors(case_of(data), np.array([[0, 0, 5, -9, 1, 2, 8, 0, 0, 3.0]]))
    assert budget.project(delta, x).tolist() == [[[0, 0, 5, -9, 0, 0, 8, 0, 0, 0]]]
    assert budget.measure(budget.project(delta, x)) == {
        "linf": 9.0,
        "l2": pytest.approx(np.sqrt(17)),
        "l0": pytest.approx(0.3),
    }


@pytest.mark.parametrize("norm", NORMS)
def test_no_budget_is_no_change(norm):
    data = np.random.default_rng(0).normal(0, 900, SHAPE).astype(np.float32)
    x, delta = tensors(case_of(data), np.ones(SHAPE))
    assert not Budget.of(case_of(data), 0.0, norm).project(delta, x).any()


def test_the_range_is_the_sources_own():
    data = np.array([[-1024.0, 100.0, 1700.0]], np.float32)
    budget = Budget.of(case_of(data), 50.0)
    assert budget.clip == (-1024.0, 1700.0)
    x, delta = tensors(case_of(data), np.array([[-50.0, -50.0, 50.0]]))
    assert budget.project(delta, x).tolist() == [[[0.0, -50.0, 0.0]]]


# ---------------------------------------------------------------- storage steps


@pytest.mark.parametrize("slope", [0.1, 0.5, 1.0, 2.0, 10.0])
def test_rounding_goes_to_whole_steps_towards_the_source(slope):
    data = (np.arange(-50, 50).reshape(1, 100) * slope).astype(np.float64)
    case = case_of(data, dtype=np.dtype(np.int16), slope=slope)
    budget = Budget.of(case, 7 * slope)
    assert budget.step == slope
    delta = torch.linspace(-7 * slope, 7 * slope, 100).view(1, 1, 100)
    rounded = budget.quantise(delta)
    steps = (rounded / slope).round()
    torch.testing.assert_close(rounded, steps * slope)
    assert (rounded.abs() <= delta.abs() * (1 + 2e-6)).all()
    assert ((delta - rounded).abs() < slope).all()
    assert torch.equal(steps[0, 0, [0, -1]], torch.tensor([-7.0, 7.0]))  # seven whole steps stay seven
    stored = Volume(data + rounded[0].double().numpy(), dtype=np.dtype(np.int16), slope=slope).stored()
    assert np.array_equal(stored - np.arange(-50, 50), steps[0].numpy())


def test_a_limit_just_below_a_step_allows_one_step_less():
    data = np.array([[0.0, 50.0, 100.0]], np.float32)
    for slope, eps in ((1.0, 3.9995), (10.0, 9.9995), (100.0, 99.99)):
        case = case_of(data * slope, dtype=np.dtype(np.int16), slope=slope)
        budget = Budget.of(case, eps)
        x, delta = tensors(case, np.array([[500.0, 500.0, -500.0]]))
        rounded = budget.quantise(budget.project(delta, x))
        assert float(rounded.abs().max()) == np.floor(eps / slope) * slope
        budget.verify(x + rounded, x)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0, 2.0, 7.3])
@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_l2_on_whole_steps_keeps_its_size(eps, slope):
    """Towards the source, 0.5 steps RMS would keep a third; half of what isn't whole goes the other way instead."""
    rng = np.random.default_rng(4)
    data = rng.integers(-500, 500, (30, 40, 20)) * slope
    case = case_of(data, dtype=np.dtype(np.int16), slope=slope)
    budget = Budget.of(case, eps * slope, "l2")
    x, delta = tensors(case, rng.normal(size=data.shape) ** 3 * 100)
    exact = budget.project(delta, x)
    rounded = budget.quantise(exact)
    budget.verify(x + rounded, x)
    least = 0.999 if eps > 0.2 else 0.95  # a single voxel of two steps is one of 240 squares
    assert least * eps * slope <= budget.size(rounded) <= eps * slope * (1 + 1e-6)
    steps = (rounded / slope).round()
    torch.testing.assert_close(rounded, steps * slope, atol=0, rtol=1e-6)
    assert ((rounded - exact).abs() < slope).all() and (rounded * exact >= 0).all()
    assert torch.equal(budget.quantise(rounded), rounded)  # what is whole stays


def test_l2_rounding_takes_what_agrees_most_for_its_squares_and_spreads_ties():
    case = case_of(np.zeros((1, 8)), dtype=np.dtype(np.int16))
    budget = Budget(10.0, "l2", torch.ones(1, 1, 1, 8, dtype=torch.bool), (-100.0, 100.0), 1.0)
    # Squares: 0.81 + 0.36 + 3 x 0.04 + 1.69 = 2.98; 1 for the whole part of 1.3 leaves 1.98, one more voxel.
    exact = torch.tensor([[[[0.9, 0.6, 0.2, 0.2, -0.2, 1.3, 0.0, 0.0]]]])
    assert budget.quantise(exact)[0, 0, 0].tolist() == [1, 0, 0, 0, 0, 1, 0, 0] and case.image.step == 1
    half = budget.quantise(torch.full((1, 1, 1, 1000), 0.5))[0, 0, 0]
    where = torch.nonzero(half).flatten().float()
    assert int(half.sum()) == 250 and set(half.tolist()) == {0.0, 1.0}
    assert float(where.diff().max()) < 12  # no part of the scan is left out


def test_floating_point_files_are_not_rounded():
    budget = Budget.of(case_of(np.array([[0.0, 0.3]], np.float32)), 0.1)
    delta = torch.tensor([[[0.03, -0.0312]]])
    assert budget.step is None and torch.equal(budget.quantise(delta), delta)


# ---------------------------------------------------------------- padding


def test_padding_outside_the_field_of_view_is_never_changed():
    data = np.full((1, 20, 20), 40.0, np.float32)
    data[0, :, :2] = -2000
    data[0, 5, 5] = 300
    budget = Budget.of(case_of(data), 10.0)
    x, delta = tensors(case_of(data), np.full(data.shape, 10.0))
    projected = budget.project(delta, x)
    assert (projected[..., :2] == 0).all() and (projected[0, 0, 10, 2:] == 10).all()
    assert budget.count == 20 * 18


@pytest.mark.parametrize(
    "lowest, width, found",
    [(-1024, 2, True), (-1000, 2, True), (-999, 2, False), (0, 2, False), (-1400, 0, False)],
)
def test_padding_is_a_plateau_of_air_or_below(lowest, width, found):
    data = np.random.default_rng(0).normal(0, 30, (1, 20, 20)).astype(np.float32)
    data[0, :, :width] = lowest
    data[0, 0, 0] = lowest  # one voxel alone is no plateau
    mask = padding_mask(data)
    assert mask.any() == found
    if found:
        assert np.array_equal(mask, data == lowest)


def test_padding_is_also_what_resampling_made_of_a_plateau_and_what_no_scanner_measures():
    rng = np.random.default_rng(1)
    air = rng.normal(-1000, 12, (1, 40, 40)).astype(np.float32)
    assert not padding_mask(np.rint(air)).any()  # air has a most frequent value too
    for plateau in (-1100, -2000, -3024):
        data = air.clip(-1020)
        data[0, :, :5] = plateau + rng.normal(0, 0.1, (40, 5))
        data[0, 3, :2] = plateau - 7  # an undershoot of interpolation
        assert np.array_equal(padding_mask(data), data < plateau + 1)
    data = air.copy()
    data[0, 0, :2] = -1600
    assert padding_mask(data).sum() == 2 and not padding_mask(data, "intensity").any()


# ---------------------------------------------------------------- verify


def verified(norm: str, eps: float, change, roi: np.ndarray | None = None) -> None:
    data = np.linspace(-900, 1400, 24, dtype=np.float32).reshape(SHAPE[1:])[None]
    x = torch.from_numpy(data)[None]
    Budget.of(case_of(data, roi), eps, norm).verify(change(x.clone()), x)


def put(index: int, amount: float):
    def change(x: torch.Tensor) -> torch.Tensor:
        x.view(-1)[index] += amount
        return x

    return change


def test_verify_accepts_what_is_allowed():
    verified("linf", 4.0, put(20, 4.0))
    verified("l2", 4.0, put(20, -4.0 * np.sqrt(24)))
    verified("l0", 1 / 24, put(20, -900.0))
    verified("linf", 0.0, lambda x: x)


@pytest.mark.parametrize(
    "norm, eps, amount, words",
    [
        ("linf", 4.0, 4.001, "measures 4.00098 in linf, above the limit 4"),
        ("linf", 0.0, 0.01, "in linf, above the limit 0"),
        ("l2", 4.0, -4.001 * np.sqrt(24), "measures 4.001 in l2"),
        ("l0", 0.0, 1.0, "measures 0.0416667 in l0"),
    ],
)
def test_verify_refuses_each_norm_exceeded(norm, eps, amount, words):
    with pytest.raises(BudgetViolated, match=words):
        verified(norm, eps, put(20, amount))


def test_verify_refuses_one_voxel_too_many():
    def two(x):
        x.view(-1)[[3, 4]] -= 1
        return x

    with pytest.raises(BudgetViolated, match="l0"):
        verified("l0", 1.9 / 24, two)
    verified("l0", 2 / 24, two)


def test_verify_refuses_a_change_outside_the_region():
    roi = np.ones(SHAPE[1:], bool)
    roi.flat[5] = False
    with pytest.raises(BudgetViolated, match="outside the region"):
        verified("linf", 4.0, put(5, 1e-3), roi)
    verified("linf", 4.0, put(6, 1e-3), roi)


@pytest.mark.parametrize("index, amount", [(0, -0.5), (23, 0.5)])
def test_verify_refuses_values_outside_the_range(index, amount):
    with pytest.raises(BudgetViolated, match="own range"):
        verified("linf", 4.0, put(index, amount))
    verified("linf", 4.0, put(index, -amount))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_verify_refuses_what_is_no_number(norm, value):
    with pytest.raises(BudgetViolated, match="no finite number"):
        verified(norm, 1.0, put(7, value))


def test_verify_refuses_another_shape():
    with pytest.raises(BudgetViolated, match="shape"):
        verified("linf", 4.0, lambda x: x[..., :1])


def test_verify_is_as_strict_as_the_scans_values_resolve():
    """Five ten-thousandths are nothing in HU but a twentieth of the budget on a picture from 0 to 1."""
    small = torch.linspace(0, 1, 11).view(1, 1, 11)
    budget = Budget(0.01, "linf", torch.ones(1, 1, 11, dtype=torch.bool), (0.0, 1.0))
    budget.verify(small + 0.01 * (small < 0.5), small)
    with pytest.raises(BudgetViolated):
        budget.verify(small + 0.0104 * (small < 0.5), small)
    # And float32 can't even state 100 exactly beside 60000.
    large = torch.linspace(0, 60000.5, 1001).view(1, 1, 1001)
    budget = Budget(100.0, "linf", torch.ones(1, 1, 1001, dtype=torch.bool), (0.0, 60000.5))
    budget.verify(large + budget.project(torch.full_like(large, 100.0), large), large)


def test_verify_does_not_use_project(monkeypatch):
    monkeypatch.setattr(Budget, "project", None)
    monkeypatch.setattr(Budget, "rms", None)
    with pytest.raises(BudgetViolated):
        verified("l2", 1.0, put(20, -30.0))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "eps, norm, words",
    [
        (-1.0, "linf", "at least 0, not -1"),
        (float("nan"), "linf", "at least 0, not nan"),
        (float("inf"), "l2", "at least 0, not inf"),
        (1.5, "l0", "fraction of voxels"),
        (1.0, "l7", "Unknown norm 'l7'; choose one of linf, l2, l0"),
    ],
)
def test_impossible_budgets_are_refused_in_words(eps, norm, words):
    with pytest.raises(InputError, match=words):
        Budget.of(case_of(np.array([[0.0, 1.0]], np.float32)), eps, norm)


def test_an_empty_region_is_refused_in_words():
    data = np.array([[0.0, 1.0]], np.float32)
    with pytest.raises(InputError, match="no voxel that may change"):
        Budget.of(case_of(data, np.zeros(2, bool)), 1.0)


def test_without_a_ball_only_region_and_range_limit():
    case = case_of(np.array([[-500, 0, 0, 3000]], np.float32), np.array([True, True, False, True]))
    x, delta = tensors(case, np.array([[-5.0, -700.0, 3.0, -9999.0]]))
    budget = Budget.of(case, None, "l2")
    assert (budget.eps, budget.norm) == (np.inf, "linf")
    allowed = budget.project(delta, x)
    assert allowed[0, 0].tolist() == [0, -500, 0, -3500]
    budget.verify(x + allowed, x)
    with pytest.raises(BudgetViolated, match="range"):
        budget.verify(x + delta * (delta < -1000), x)
