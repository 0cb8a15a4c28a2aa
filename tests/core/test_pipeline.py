"""A pipeline's steps against MONAI's own transforms, their gradients against differences, and what a victim makes of
them."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import victims
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import CropForeground
from monai.transforms.intensity.array import (
    NormalizeIntensity,
    ScaleIntensity,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
)
from monai.transforms.spatial.array import Orientation, Resize, Spacing
from scipy.spatial.transform import Rotation

from perturbox.model.pipeline import Decision, Pipeline, frozen_statistics, step_from
from perturbox.model.pipeline import intensity as i
from perturbox.model.pipeline import space as s
from perturbox.model.pipeline.step import STEPS
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim, as_input
from perturbox.types import InputError

SHAPE = (17, 14, 12)


def oblique(seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_rotvec([0.05, -0.1, 0.2 * seed]).as_matrix() @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    affine[:3, :3] = turn * (0.9, 1.7, 2.4)
    affine[:3, 3] = 10, -20, 5
    return affine.astype(dtype).astype(np.float64)


def scan(seed: int = 0, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = 120 * torch.randn(1, channels, *SHAPE, generator=generator) + 30
    x[:, :, :3] = 0
    x[..., -2:] = 0
    return x


MONAI = {
    "range": ([i.Range(-57, 164)], [ScaleIntensityRange(-57, 164, 0, 1, clip=True)]),
    "zscore": ([i.ZScore()], [NormalizeIntensity()]),
    "zscore of the nonzero": ([i.ZScore(nonzero=True)], [NormalizeIntensity(nonzero=True)]),
    "zscore by channel": ([i.ZScore(True, True)], [NormalizeIntensity(nonzero=True, channel_wise=True)]),
    "minmax": ([i.MinMax((-1, 1))], [ScaleIntensity(-1, 1)]),
    "percentiles": ([i.Percentiles(2, 97, clip=True)], [ScaleIntensityRangePercentiles(2, 97, 0, 1, clip=True)]),
    "orient": ([s.Orient("RAS")], [Orientation("RAS", labels=None)]),
    "orient and spacing": (
        [s.Orient("RAS"), s.Spacing((1.3, 2.1, 1.9)), i.Range(-57, 164)],
        [Orientation("RAS", labels=None), Spacing((1.3, 2.1, 1.9)), ScaleIntensityRange(-57, 164, 0, 1, clip=True)],
    ),
    "spacing before orientation": (
        [s.Spacing((1.3, 2.1, 1.9)), s.Orient("LPS")],
        [Spacing((1.3, 2.1, 1.9)), Orientation("LPS", labels=None)],
    ),
    "crop": ([s.Crop(0.0, 2)], [CropForeground(lambda x: x > 0, margin=2, allow_smaller=True)]),
    "resize": ([s.Resize((9, 20, 12))], [Resize((9, 20, 12), mode="trilinear")]),
    "resize to the voxel in the middle": (
        [s.Resize((9, 20, 12), "nearest-exact")],
        [Resize((9, 20, 12), mode="nearest-exact")],
    ),
    "area": ([s.Resize((9, 20, 12), "area")], [Resize((9, 20, 12), mode="area")]),
}


def planned(steps, x: torch.Tensor, affine: np.ndarray):
    return Pipeline(tuple(steps)).plan(tuple(x.shape[2:]), affine, lambda: x.float())


@pytest.mark.parametrize("seed, dtype", [(0, np.float64), (1, np.float64), (2, np.float32), (3, np.float32)])
@pytest.mark.parametrize("name", MONAI)
def test_the_networks_input_is_that_of_monai(name, seed, dtype):
    steps, transforms = MONAI[name]
    affine, x = oblique(seed, dtype), scan(seed, 2)
    theirs = Compose(transforms)(MetaTensor(x[0].clone(), affine=torch.from_numpy(affine)))
    plan = planned(steps, x, affine)
    assert plan.target == tuple(theirs.shape[1:])
    np.testing.assert_allclose(plan.bound[-1].after.affine, theirs.affine.numpy(), atol=1e-6)
    assert torch.equal(plan.exact(x)[0], theirs.as_tensor()) or name == "percentiles"
    torch.testing.assert_close(plan.to_network(x)[0], theirs.as_tensor(), rtol=1e-5, atol=5e-4)  # of values up to 500


def test_a_sheared_grid_is_resampled_by_monai_and_differentiated():
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 0.6  # a tilted gantry
    x = scan().requires_grad_()
    plan = planned([s.Spacing((1.2, 1.4, 2.0))], x.detach(), affine)
    theirs = Spacing((1.2, 1.4, 2.0))(MetaTensor(x.detach()[0].clone(), affine=torch.from_numpy(affine)))
    mapped = plan.to_network(x)
    assert torch.equal(mapped[0].detach(), theirs.as_tensor())
    (slope,) = torch.autograd.grad(mapped.sum(), x)
    assert float(slope.sum()) == pytest.approx(mapped.numel(), rel=1e-4)  # rows of an interpolation sum to 1


@pytest.mark.parametrize("name", MONAI)
def test_gradients_are_those_of_differences(name):
    steps, _ = MONAI[name]
    x = scan(channels=2).double()
    x = x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * (x != 0)
    plan = planned(steps, x, oblique())
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(1, 2, *plan.target, generator=generator, dtype=torch.float64)
    way = torch.randn(x.shape, generator=generator, dtype=torch.float64) * (x != 0)
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((plan.to_network(point) * weight).sum(), point)
    h = 1e-5
    moved = ((plan.to_network(x + h * way) - plan.to_network(x - h * way)) * weight).sum() / (2 * h)
    assert float((slope * way).sum()) == pytest.approx(float(moved), rel=1e-6)


def test_statistics_are_differentiated_unless_frozen():
    """A z-score doesn't notice a constant that is added; with frozen statistics it would."""
    plan = planned([i.ZScore()], scan(), np.eye(4))
    weight = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = scan().double().requires_grad_()
    (exact,) = torch.autograd.grad((plan.to_network(point) * weight).sum(), point)
    with frozen_statistics():
        (frozen,) = torch.autograd.grad((plan.to_network(point) * weight).sum(), point)
    assert abs(float(exact.sum())) < 1e-9 * float(exact.abs().sum())
    assert abs(float(frozen.sum())) > 1e-3 * float(frozen.abs().sum())


def test_percentiles_have_a_gradient_above_a_million_voxels_too():
    x = torch.rand(1, 1, 1_000_100).requires_grad_()
    plan = Pipeline((i.Percentiles(1, 99),)).plan((1_000_100,), np.eye(4), lambda: x)
    (slope,) = torch.autograd.grad(plan.to_network(x).square().sum(), x)
    assert int((slope.abs() > 100 * slope.abs().median()).sum()) in range(1, 5)  # where the percentiles lie
    low, high = np.percentile(x.detach().numpy(), [1, 99])
    assert torch.allclose(plan.to_network(x), (x - float(low)) / float(high - low), atol=1e-5)


def test_truncation_is_exact_and_its_gradient_passes():
    x = torch.tensor([[[-1.7, 0.4, 2.9]]], requires_grad=True)
    plan = Pipeline((i.Truncate(),)).plan((3,), np.eye(4), lambda: x)
    assert plan.to_network(x).tolist() == [[[-1.0, 0.0, 2.0]]]
    (slope,) = torch.autograd.grad((plan.to_network(x) * torch.tensor([1.0, 2.0, 3.0])).sum(), x)
    assert slope.tolist() == [[[1.0, 2.0, 3.0]]]


@pytest.mark.parametrize("name", ["orient and spacing", "crop", "resize", "spacing before orientation"])
def test_scores_and_labels_come_back_to_the_scan(name):
    """A map that is linear in space comes back as it was, away from borders; labels as they lie."""
    plan = planned(MONAI[name][0], scan(), oblique())
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij"))
    there = torch.cat([planned(p, scan(), oblique()).to_network(grid[k][None, None]) for k, p in enumerate([[step for step in MONAI[name][0] if not isinstance(step, i.Range)]] * 3)])  # fmt: skip  # noqa: E501
    again = plan.back(there[:, 0])
    inner = (slice(None), *(slice(4, n - 4) for n in SHAPE))
    assert torch.allclose(again[inner], grid[inner], atol=1e-3)
    labels = (grid[0] > 8).numpy()
    back = plan.back_labels(torch.from_numpy(plan.labels_to_network(labels))[None].long())[0].bool().numpy()
    wrong = (back != labels)[inner[1:]].mean()
    assert wrong < 0.15  # the border itself may lie one voxel off on a coarser grid
    reach = plan.reach
    point = torch.zeros(1, 1, *SHAPE, dtype=torch.float64, requires_grad=True)
    geometry = planned([step for step in MONAI[name][0] if not isinstance(step, i.Range)], scan(), oblique())
    (slope,) = torch.autograd.grad(geometry.to_network(point).sum(), point)
    assert np.array_equal(reach, (slope[0, 0] > 1e-12).numpy())


def test_the_order_of_the_decision_matters_and_is_kept():
    generator = torch.Generator().manual_seed(0)
    plan = planned([s.Resize((8, 7, 6))], scan(), np.eye(4))
    scores = 3 * torch.randn(3, 8, 7, 6, generator=generator)

    def decided(*order: dict) -> np.ndarray:
        return Decision(order).run(scores, plan)

    linear, nearest = {"do": "inverse"}, {"do": "inverse", "mode": "nearest"}
    softmax, argmax = {"do": "softmax"}, {"do": "argmax"}
    assert np.array_equal(decided(softmax, linear, argmax), plan.back(scores.softmax(0)).argmax(0).numpy())
    assert np.array_equal(decided(linear, softmax, argmax), plan.back(scores).argmax(0).numpy())
    assert np.array_equal(decided(argmax, nearest), plan.back_labels(scores.argmax(0)[None])[0].numpy())
    assert np.array_equal(decided(argmax, nearest), decided(argmax))  # what isn't inverted is, by the nearest voxel
    threshold, paint = {"do": "threshold", "above": 0.5}, {"do": "paint", "values": [4, 1, 7]}
    painted = decided({"do": "sigmoid"}, linear, threshold, paint)
    yes = plan.back(scores.sigmoid()) > 0.5
    assert np.array_equal(painted, np.where(yes[2], 7, np.where(yes[1], 1, np.where(yes[0], 4, 0))))
    mapped = decided(linear, argmax, {"do": "values", "map": {"1": 5, "2": 9}})
    assert set(np.unique(mapped)) == {0, 5, 9}


def test_only_the_largest_part_is_kept_where_the_model_does_so():
    scores = torch.zeros(2, 9, 3, 3)
    scores[1, :4], scores[1, 6:8] = 1, 1
    plan = planned([], torch.zeros(1, 1, 9, 3, 3), np.eye(4))
    found = Decision(({"do": "argmax"}, {"do": "keep-largest", "labels": [1]})).run(scores, plan)
    assert found[:, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_steps_are_written_and_read_in_the_same_words():
    steps = [step for made, _ in MONAI.values() for step in made]
    steps += [i.Truncate(), i.Affine(3.0, (1.0, 2.0)), s.CropNonzero()]
    for step in steps:
        assert step_from(json.loads(json.dumps(step.to_json()))) == step
    assert {step.name for step in steps} <= set(STEPS)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"step": "sharpen"}, "There is no step 'sharpen'; there are"),
        ({"mm": [1, 1, 1]}, "is no step"),
        ({"step": "spacing"}, "needs the field 'mm'"),
        ({"step": "range", "low": 0, "high": 1, "gamma": 2}, "has no field 'gamma'"),
        ("orient", "is no step"),
    ],
)
def test_what_is_no_step_is_refused_in_words(given, words):
    with pytest.raises(InputError) as refusal:
        step_from(given)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "order, words",
    [
        ([{"do": "vote"}], "There is no decision 'vote'"),
        ([{"do": "inverse", "mode": "cubic"}], "knows no mode 'cubic'"),
        ([{"do": "argmax", "axis": 1}], "has no field 'axis'"),
        ([{"do": "inverse"}, {"do": "argmax"}, {"do": "inverse"}], "more than once"),
    ],
)
def test_what_is_no_decision_is_refused_in_words(order, words):
    with pytest.raises(InputError, match=words):
        Decision(tuple(order))


def piped(**changes) -> Victim:
    steps = (s.Orient("RAS"), s.Spacing((2.0, 1.7, 2.0)), i.ZScore(nonzero=True))
    made = victims.textured(pipeline=Pipeline(steps), normalise=lambda x: x, window=Window((8, 8, 8)))
    return replace(made, **changes)


def test_a_victim_with_a_pipeline_predicts_and_differentiates():
    image, victim = victims.random_scan((15, 13, 12)), piped()
    bound = victim.on(image)
    x = as_input(image, victim.device).requires_grad_()
    logits = bound(x)
    assert tuple(logits.shape[2:]) == bound.grid.target
    (slope,) = torch.autograd.grad(logits.square().sum(), x)
    assert bool(slope.any()) and slope.shape == x.shape
    with torch.no_grad():
        exact = bound.grid.exact(x)
        scores = bound.slide(exact)[0]
    assert np.array_equal(victim.predict(image), bound.grid.back(scores).argmax(0).numpy())


def test_the_hash_covers_weights_and_pipeline():
    plain = piped()
    coarser = piped(pipeline=Pipeline((s.Spacing((3.0, 3.0, 3.0)),)))
    assert plain.weights_sha256 == coarser.weights_sha256 and plain.sha256 != coarser.sha256
    assert plain.sha256 == piped().sha256 and plain.is_the_one(plain.weights_sha256)
    assert piped(window=Window((8, 8, 8), overlap=0.25)).sha256 != plain.sha256
    assert piped(source_sha256="a" * 64).sha256 != plain.sha256
    one, two = (victims.textured(normalise=(lambda x: x / 2), device=torch.device("cpu")), victims.textured(normalise=(lambda x: x / 3)))  # fmt: skip  # noqa: E501
    assert one.sha256 != two.sha256


def test_shorthand_and_pipeline_are_not_mixed():
    with pytest.raises(InputError, match="make these steps of the pipeline"):
        piped(spacing=(1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="decision without a pipeline"):
        victims.textured(decision=Decision(({"do": "argmax"},)))


def test_the_visible_range_is_that_of_the_first_step_that_clips():
    assert Pipeline((s.Orient("RAS"), i.Range(-57, 164))).visible == (-57, 164)
    assert Pipeline((i.ZScore(), i.Range(-57, 164))).visible is None


def test_nibabel_agrees_where_a_crop_lies():
    x = scan()
    plan = planned([s.Orient("RAS"), s.Crop()], x, oblique())
    turned = nib.as_closest_canonical(nib.Nifti1Image(x[0, 0].numpy(), oblique()))
    data, box = turned.get_fdata(), plan.bound[1].box
    assert np.array_equal(plan.to_network(x)[0, 0].numpy(), data[box])
    corner = turned.affine @ [*(part.start for part in box), 1]
    np.testing.assert_allclose(plan.bound[1].after.affine[:, 3], corner, atol=1e-6)
