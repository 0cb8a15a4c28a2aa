"""The adversarial patch: where it lies, its transformations by hand, the gradient through them, and what it refuses."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import victims
from attacking import attacked, built, same_bits

from perturbox import io
from perturbox.attacks.attack import Task, ascend
from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes.patch import Moved, expected
from perturbox.attacks.runner import run
from perturbox.attacks.spaces.patch import Box, Patch, Place
from perturbox.job.estimate import estimate_attack
from perturbox.job.execute import Job, prepare, run_job
from perturbox.job.folder import replay, verify
from perturbox.types import Case, InputError

FLOAT = np.dtype(np.float32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def budget(image, **changes) -> Budget:
    return dataclasses.replace(Budget.of(Case(image), None, visible=(-100.0, 100.0)), **changes)


def tensor(image) -> torch.Tensor:
    return torch.from_numpy(image.data)[None]


# ---------------------------------------------------------------- where it lies


def test_its_edges_are_in_mm_and_it_lies_in_the_middle_of_the_region():
    """Of 2 × 2 × 3 mm voxels, 12 mm are 6 × 6 × 4."""
    image = victims.random_scan((14, 12, 10))
    assert Box(12.0).on(budget(image)) == Place((4, 3, 3), (6, 6, 4))
    region = torch.zeros(1, 1, 14, 12, 10, dtype=torch.bool)
    region[..., 6:14, 2:9, 5:] = True
    assert Box(6.0).on(budget(image, region=region)) == Place((8, 4, 6), (3, 3, 2))
    assert Box(6.0, (3, 4, 5)).on(budget(image)) == Place((2, 3, 4), (3, 3, 2))
    assert Box(0.5).on(budget(image)).size == (1, 1, 1) and Box(0.0).on(budget(image)).size == (0, 0, 0)


def test_it_must_lie_within_the_region():
    image = victims.random_scan((14, 12, 10))
    hole = torch.ones(1, 1, 14, 12, 10, dtype=torch.bool)
    hole[..., 7, 6, 5] = False
    for box, limits in [
        (Box(30.0), budget(image)),  # larger than the scan
        (Box(6.0, (0, 5, 5)), budget(image)),  # over its edge
        (Box(6.0, (20, 5, 5)), budget(image)),  # beyond it
        (Box(12.0), budget(image, region=hole)),
    ]:
        with pytest.raises(InputError, match=r"patch of .* mm doesn't lie within the region.*smaller"):
            Patch(box).init(tensor(image), limits, generator())
    Box(6.0, (1, 5, 5)).require(budget(image, region=hole))
    roi = np.zeros(image.shape, bool)
    roi[:4, :4, :4] = True
    with pytest.raises(InputError, match="doesn't lie within the region"):
        attacked(image, victims.textured(), "patch", None, side=10.0, roi=roi)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"centre": "5,5"}, "centre 5,5 needs one number for each of the scan's 3 axes"),
        ({"centre": "middle"}, "'middle' isn't understood; write whole numbers"),
        ({"side": 500.0}, "patch of 500 × 500 × 501 mm doesn't lie within"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_runs(tmp_path, settings, words):
    job = Job(str(tiny.write_scan(tmp_path / "ct.nii.gz")), f"{tiny.__file__}:volume", "patch", settings=settings)
    with pytest.raises(InputError, match=words):
        prepare(job)


@pytest.mark.parametrize("shape", [(14, 12, 10), (18, 17)])
def test_values_are_shares_of_the_window_and_nothing_else_changes(shape):
    image = victims.random_scan(shape, dtype=FLOAT)
    x, limits, space = tensor(image), budget(image, clip=(-1e6, 1e6)), Patch(Box(6.0))
    z = torch.rand(space.init(x, limits, generator()).shape, generator=generator())
    found = space.decode(z, x, limits)[0].numpy()
    box = Box(6.0).on(limits).slices[1:]
    expected_values = image.data.copy()
    expected_values[box] = -100 + 200 * z[0].numpy()
    np.testing.assert_allclose(found, expected_values, atol=1e-4)
    outside = np.ones(image.data.shape, bool)
    outside[box] = False
    assert same_bits(found[outside], image.data[outside]) and outside.sum() + z.numel() == outside.size


def test_it_starts_as_what_lies_there_as_far_as_the_window_goes():
    image = victims.random_scan(dtype=FLOAT)
    limits = budget(image)
    start = Patch(Box(6.0)).decode(Patch(Box(6.0)).init(tensor(image), limits, generator()), tensor(image), limits)
    box = Box(6.0).on(limits).slices
    torch.testing.assert_close(start[box], tensor(image)[box].clamp(-100, 100), atol=1e-4, rtol=0)
    draw = Patch(Box(12.0)).draw(tensor(image), limits, generator())
    assert 0 <= float(draw.min()) < 0.05 < 0.95 < float(draw.max()) <= 1


# ---------------------------------------------------------------- transformations


def test_transformations_by_hand():
    image = victims.random_scan((9, 8, 7), dtype=FLOAT)
    patch = 50 * torch.randn(1, 2, 3, 3, 2, generator=generator())
    moved = Moved(((0, 1),), (1, 2), (1, -2, 1), 0.1)
    found = moved.apply(patch, budget(image)).numpy()
    by_hand = np.flip(np.swapaxes(patch.numpy(), 2, 3), (3, 4)) + 0.1 * 200
    np.testing.assert_allclose(found, by_hand.clip(-100, 100), rtol=1e-6)
    assert (by_hand > 100).any()
    clean = torch.zeros(1, 2, 9, 8, 7)
    pasted = moved.pasted(patch, Place((3, 3, 2), (3, 3, 2)), clean, budget(image)).numpy()
    np.testing.assert_array_equal(pasted[..., 4:7, 1:4, 3:5], found)
    pasted[..., 4:7, 1:4, 3:5] = 0
    assert not pasted.any() and not clean.any()
    assert Place((3, 3, 2), (3, 3, 2)).moved((-9, 9, 9), torch.Size((9, 8, 7))) == Place((0, 5, 5), (3, 3, 2))


def test_draws_are_all_turns_and_mirror_images_that_keep_the_shape():
    image, source = victims.random_scan((9, 8), affine=np.eye(4)), generator()
    patch = torch.arange(9.0).view(1, 1, 3, 3)
    draws = [Moved.draw((3, 3), (2, 1), True, 0.1, source) for _ in range(300)]
    seen = {tuple(dataclasses.replace(d, lift=0.0).apply(patch, budget(image)).flatten().tolist()) for d in draws}
    grid = np.arange(9.0).reshape(3, 3)
    turned = [np.rot90(side, k) for side in (grid, grid.T) for k in range(4)]
    assert seen == {tuple(t.ravel().tolist()) for t in turned}
    assert {d.shift for d in draws} == {(i, j) for i in range(-2, 3) for j in range(-1, 2)}
    lifts = [d.lift for d in draws]
    assert -0.1 <= min(lifts) < -0.09 and 0.09 < max(lifts) <= 0.1 and abs(np.mean(lifts)) < 0.02
    flat = [Moved.draw((3, 3, 2), (0, 0, 0), True, 0.0, source) for _ in range(100)]
    assert {d.swaps for d in flat} == {(), ((0, 1),)} and {axis for d in flat for axis in d.flips} == {0, 1, 2}
    still = Moved.draw((3, 3), (0, 0), False, 0.0, source)
    assert still == Moved((), (), (0, 0), 0.0)


def smooth(view, x, task, progress):
    return (torch.sin(x / 40) * task.weight).mean() + (x / 100).square().mean()


def looked_at(image, seed: int = 0):
    """(view, scene) in double precision, with weights that make every voxel count differently."""
    weight = torch.randn(1, 1, *image.shape, generator=generator(5)).double()
    task = Task(torch.zeros(1, *image.shape, dtype=torch.int64), weight, False, (1,), clean=tensor(image).double())
    task = dataclasses.replace(task, generator=generator(seed))
    return SimpleNamespace(budget=budget(image)), task


def test_the_gradient_is_that_of_the_mean_over_transformations():
    image = victims.random_scan((7, 6, 5), scale=20.0, dtype=FLOAT)

    def objective(x):
        view, task = looked_at(image)
        return expected(smooth, Box(6.0), 3, 4.0, True, 0.1)(view, x, task, 0.0)

    x = tensor(image).double().requires_grad_()
    assert torch.autograd.gradcheck(objective, x, eps=1e-3, atol=1e-8, rtol=1e-5)
    (slope,) = torch.autograd.grad(objective(x), x)
    box = Box(6.0).on(budget(image)).slices
    assert (slope[box] != 0).all()
    slope[box] = 0
    assert not slope.any()


def test_its_value_is_the_mean_over_the_draws_by_hand():
    image = victims.random_scan((9, 8, 7), dtype=FLOAT)
    view, task = looked_at(image)
    x = task.clean + 5
    found = expected(smooth, Box(6.0), 4, 4.0, True, 0.2)(view, x, task, 0.0)
    same, values = generator(), []
    for _ in range(4):
        moved = Moved.draw((3, 3, 2), (2, 2, 1), True, 0.2, same)
        place = Box(6.0).on(view.budget)
        changed = task.clean.clone()
        changed[place.moved(moved.shift, changed.shape[2:]).slices] = moved.apply(x[place.slices], view.budget)
        values.append(float(smooth(view, changed, task, 0.0)))
    assert float(found) == pytest.approx(np.mean(values), rel=1e-12) and len(set(values)) == 4


def test_without_transformations_it_is_the_plain_attack_on_the_patch():
    image, victim = victims.random_scan(), victims.textured()
    settings = {"side": 12.0, "samples": 1, "shift": 0.0, "turn": False, "brightness": 0.0}
    still = attacked(image, victim, "patch", None, **settings)
    attack = dataclasses.replace(built("patch", None, steps=4, **settings), objective=ascend(LOSSES["dice-ce"]))
    goal = Goal.parse("change", (), victim.labels)
    plain = run(attack, victim.on(image), Case(image), victim.predict(image), goal)
    assert same_bits(still.x_adv, plain.x_adv) and still.delta.any()
    assert [s.loss for s in still.trace] == pytest.approx([s.loss for s in plain.trace], rel=1e-6)
    assert not same_bits(attacked(image, victim, "patch", None, side=12.0).x_adv, plain.x_adv)


def test_what_is_scored_is_the_patch_in_its_own_place():
    """A surrogate equal to the victim makes no difference, and another seed draws other transformations."""
    image, victim = victims.random_scan(), victims.textured()
    first = attacked(image, victim, "patch", None, side=12.0)
    same = attacked(image, victim, "patch", None, side=12.0, surrogates=[victims.textured().on(image)])
    assert same_bits(first.x_adv, same.x_adv)
    other = attacked(image, victim, "patch", None, side=12.0, seed=1)
    assert [s.loss for s in first.trace] != [s.loss for s in other.trace]
    assert first.trace[0].linf == pytest.approx(max(0.0, np.abs(image.data[0, 4:10, 3:9, 3:7]).max() - 100), abs=1)


def test_a_job_is_verified_and_replayed_to_the_bit(tmp_path):
    settings = {"side": 10.0, "samples": 2, "centre": "12,11,9"}
    ct = tiny.write_scan(tmp_path / "ct.nii.gz")
    result = run_job(Job(str(ct), f"{tiny.__file__}:volume", "patch", steps=3, settings=settings), tmp_path / "R")
    assert (
        result["attack"]["own_budget"] | {"parameter": "side", "value": 10.0, "unit": "mm"}
        == result["attack"]["own_budget"]
    )
    assert verify(tmp_path / "R", trust=True) == []
    replay(tmp_path / "R", tmp_path / "again", trust=True)
    first, again = (
        io.read_volume(tmp_path / name / "perturbation.nii.gz", allow_constant=True).data for name in ("R", "again")
    )
    assert np.array_equal(first, again) and first.any()
    first[:, 10:15, 9:14, 8:11] = 0
    assert not first.any()


def test_its_cost_is_told_before_it_starts(tmp_path):
    """Also where the patch is thicker than the slab on which the estimate times the loss."""
    job = Job(str(tiny.write_scan(tmp_path / "ct.nii.gz")), f"{tiny.__file__}:volume", "patch", settings={"side": 24.0})
    assert estimate_attack(prepare(job)).seconds > 0
    assert (built("patch", None, samples=1).queries, built("patch", None, samples=3).queries) == (1, 7)
