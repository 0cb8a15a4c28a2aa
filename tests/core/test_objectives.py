"""Losses against references written out by hand in NumPy, over slabs, absent classes and weights."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from perturbox.attacks import slabs as by_slab
from perturbox.attacks.attack import Task, ascend
from perturbox.attacks.objectives import LOSSES, cross_entropy, dice_ce, margin, soft_dice

SHAPE = (1, 4, 5, 4, 3)


def reference_ce(logits, labels, weight):
    total = 0.0
    for index in np.ndindex(labels.shape):
        z = logits[(index[0], slice(None), *index[1:])]
        total += weight[index] * (logsumexp(z) - z[labels[index]])
    return total / weight.sum()


def reference_dice(logits, labels, weight, classes):
    p = softmax(logits, 1)
    dice = []
    for k in classes:
        y = (labels == k) * weight
        dice.append((2 * (p[:, k] * y).sum() + 1e-3) / ((p[:, k] * weight).sum() + y.sum() + 1e-3))
    return 1 - np.mean(dice)


def reference_margin(logits, labels, weight, low=-np.inf, high=np.inf):
    total = 0.0
    for index in np.ndindex(labels.shape):
        z = logits[(index[0], slice(None), *index[1:])]
        other = max(z[k] for k in range(len(z)) if k != labels[index])
        total += weight[index] * min(max(other - z[labels[index]], low), high)
    return total / weight.sum()


@pytest.fixture
def field(rng):
    """(logits, labels, weight) in double precision; label 3 is absent."""
    logits = 2 * rng.normal(size=SHAPE)
    labels = rng.integers(0, 3, (SHAPE[0], *SHAPE[2:]))
    weight = (rng.random(labels.shape) < 0.7).astype(float)
    return logits, labels, weight


def ours(loss, field, classes, **options) -> float:
    logits, labels, weight = (torch.from_numpy(a) for a in field)
    return float(loss(logits, labels, weight, classes, **options))


def test_the_losses_have_their_names():
    assert list(LOSSES)[:4] == ["dice-ce", "dice", "ce", "margin"]  # results and scripts name these


def test_cross_entropy(field):
    assert ours(cross_entropy, field, (1, 2)) == pytest.approx(reference_ce(*field), rel=1e-12)


def test_soft_dice(field):
    assert ours(soft_dice, field, (1, 2)) == pytest.approx(reference_dice(*field, (1, 2)), rel=1e-12)
    assert ours(soft_dice, field, (2,)) == pytest.approx(reference_dice(*field, (2,)), rel=1e-12)


def test_absent_classes_are_left_out_of_dice(field):
    assert ours(soft_dice, field, (1, 2, 3)) == pytest.approx(reference_dice(*field, (1, 2)), rel=1e-12)


def test_classes_all_absent_are_still_pushed_away(field):
    """Nothing labelled: what is predicted there is all that can be wrong, so the loss and its gradient are finite."""
    assert ours(soft_dice, field, (3,)) == pytest.approx(reference_dice(*field, (3,)), rel=1e-12)
    assert ours(soft_dice, field, (3,)) < 1


def test_dice_plus_cross_entropy(field):
    expected = reference_ce(*field) + reference_dice(*field, (1, 2))
    assert ours(dice_ce, field, (1, 2)) == pytest.approx(expected, rel=1e-12)


def test_margin_is_capped_where_voxels_are_lost(field):
    assert ours(margin, field, (1, 2)) == pytest.approx(reference_margin(*field, high=2.0), rel=1e-12)
    assert reference_margin(*field, high=2.0) != pytest.approx(reference_margin(*field))


def test_margin_towards_labels_is_capped_where_they_are_reached(field):
    found = ours(margin, field, (1, 2), targeted=True)
    assert found == pytest.approx(reference_margin(*field, low=-2.0), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_voxels_without_weight_do_not_matter(name, field):
    logits, labels, weight = field
    other = logits.copy()
    other[np.broadcast_to(weight[:, None] == 0, logits.shape)] = 17.0
    assert ours(LOSSES[name], (other, labels, weight), (1, 2)) == ours(LOSSES[name], field, (1, 2))


@pytest.mark.parametrize("name", LOSSES)
def test_no_weight_at_all_is_finite(name, field):
    logits, labels, weight = field
    assert np.isfinite(ours(LOSSES[name], (logits, labels, 0 * weight), (1, 2)))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_grows_as_the_prediction_leaves_the_labels(name, field):
    _, labels, weight = field
    onehot = np.eye(4)[labels].transpose(0, 4, 1, 2, 3)
    close, far = (3 * onehot, labels, weight), (-3 * onehot, labels, weight)
    assert ours(LOSSES[name], close, (1, 2)) < ours(LOSSES[name], field, (1, 2)) < ours(LOSSES[name], far, (1, 2))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name, targeted, field):
    logits, labels, weight = (torch.from_numpy(np.ascontiguousarray(a[..., :3, :2, :2])) for a in field)

    def value(z):
        return LOSSES[name](z, labels, weight, (1, 2, 3), targeted)

    assert torch.autograd.gradcheck(value, logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_slabs_change_nothing(name, field, monkeypatch):
    logits, labels, weight = (torch.from_numpy(a) for a in field)

    def with_gradient():
        z = logits.clone().requires_grad_()
        value = LOSSES[name](z, labels, weight, (1, 2))
        return value.detach(), torch.autograd.grad(value, z)[0]

    whole = with_gradient()
    calls = []
    statistics = LOSSES[name].statistics
    watched = dataclasses.replace(LOSSES[name], statistics=lambda v: calls.append(v.labels.shape[1]) or statistics(v))
    monkeypatch.setitem(LOSSES, name, watched)
    monkeypatch.setattr(by_slab, "SLAB_BYTES", 1)
    slabs = with_gradient()
    assert len(calls) >= 5 and set(calls) == {1}
    torch.testing.assert_close(slabs, whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_single_precision_is_close(name, field):
    logits, labels, weight = field
    single = (logits.astype(np.float32), labels, weight.astype(np.float32))
    assert ours(LOSSES[name], single, (1, 2)) == pytest.approx(ours(LOSSES[name], field, (1, 2)), rel=1e-5)


class Logits:
    """A model whose scans are their own logits."""

    def __call__(self, x):
        return x

    def undivided(self, logits):
        return logits


def test_an_objective_climbs_away_from_labels_and_down_towards_them(field):
    logits, labels, weight = (torch.from_numpy(a) for a in field)
    for loss in LOSSES.values():
        away = ascend(loss)(Logits(), logits, Task(labels, weight, False, (1, 2)), 0.0)
        reach = ascend(loss)(Logits(), logits, Task(labels, weight, True, (1, 2)), 0.0)
        assert float(away) == float(loss(logits, labels, weight, (1, 2)))
        assert float(reach) == -float(loss(logits, labels, weight, (1, 2), True))


def test_a_margin_pulls_on_voxels_far_from_a_wanted_label():
    """Capped on the wrong side, a confident voxel would have no gradient and the goal could never begin."""
    logits = torch.tensor([9.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    wanted = torch.ones(1, 1, 1, dtype=torch.int64)
    objective = ascend(margin)(Logits(), logits, Task(wanted, torch.ones(1, 1, 1), True, (1,)), 0.0)
    (gradient,) = torch.autograd.grad(objective, logits)
    assert gradient.flatten().tolist() == [-1.0, 1.0]
