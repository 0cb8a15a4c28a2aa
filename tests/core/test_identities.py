"""Exact identities between attacks, and closed forms on linear victims: tests that a wrong sign or scale can't pass."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked

from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.solvers.ascent import chain, l1_normalise, momentum, rms_normalise, scale, sign
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import Volume


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dims, dtype", [(2, np.int16), (3, np.int16), (3, np.float32)])
def test_fgsm_is_pgd_with_one_step_of_the_whole_budget_and_no_random_start(dims, dtype, loss):
    image, victim = victims.random_scan((17, 14, 10)[:dims], dtype=np.dtype(dtype)), victims.textured(dims)
    fgsm = attacked(image, victim, "fgsm", 7.3, loss=loss)
    pgd = attacked(image, victim, "pgd", 7.3, steps=1, loss=loss, random_start=False, alpha=7.3)
    bim = attacked(image, victim, "bim", 7.3, steps=1, loss=loss)
    assert fgsm.delta.any()
    for other in (pgd, bim):
        assert np.array_equal(fgsm.x_adv.view(np.uint32), other.x_adv.view(np.uint32))
        assert [(s.loss, s.score) for s in fgsm.trace] == [(s.loss, s.score) for s in other.trace]


def test_fgsm_is_the_sign_of_the_gradient():
    """Against a gradient taken here, through the network alone."""
    image = victims.random_scan((12, 12, 12), scale=20.0, dtype=np.dtype(np.float32))
    victim = victims.textured(window=Window((12,) * 3, padding="constant"))
    reference = torch.from_numpy(victim.predict(image)).long()[None]
    x = torch.from_numpy(image.data)[None].requires_grad_()
    logits = victim.network(x.clamp(-100, 100) / 100)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, reference), x)
    outcome = attacked(image, victim, "fgsm", 3.0, loss="ce")
    low, high = image.data.min(), image.data.max()
    expected = (image.data + 3.0 * gradient.sign()[0].numpy()).clip(low, high)
    clear = (gradient.abs() > 1e-3 * gradient.abs().max())[0].numpy()
    assert clear.mean() > 0.9
    np.testing.assert_allclose(outcome.x_adv[clear], expected[clear], atol=1e-4)


def test_pgd_by_hand():
    """Three steps of the textbook's formula, on a scan in floating point."""
    image = victims.random_scan((12, 12), scale=20.0, affine=np.eye(4), dtype=np.dtype(np.float32))
    victim = victims.textured(2, normalise=lambda x: x / 100)
    reference = torch.from_numpy(victim.predict(image)).long()[None]
    source = torch.from_numpy(image.data)[None]
    z, scores = torch.zeros_like(source), []
    for _ in range(3):
        z.requires_grad_()
        loss = torch.nn.functional.cross_entropy(victim.network((source + z) / 100), reference)
        (gradient,) = torch.autograd.grad(loss, z)
        scores.append(float(loss.detach()))
        z = (z.detach() + 2.0 * gradient.sign()).clamp(-5, 5)
        z = (source + z).clamp(source.min(), source.max()) - source
    outcome = attacked(image, victim, "pgd", 5.0, steps=3, alpha=2.0, random_start=False, loss="ce")
    assert [s.loss for s in outcome.trace[:3]] == pytest.approx(scores, rel=1e-4)
    assert [s.linf for s in outcome.trace] == pytest.approx([0, 2, 4, 5], abs=1e-4)


def test_the_answer_to_a_case_does_not_depend_on_what_was_asked_before():
    first, second, victim = victims.random_scan(seed=1), victims.random_scan(seed=2), victims.textured()
    alone = attacked(second, victim, "pgd", 6.0)
    attacked(first, victim, "pgd", 6.0)
    assert np.array_equal(attacked(second, victim, "pgd", 6.0).x_adv, alone.x_adv)


# ---------------------------------------------------------------- momentum


def voxelwise(shape: tuple[int, ...]) -> Victim:
    """A victim that sees no neighbours, in one window with equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Conv3d(1, 6, 1), torch.nn.Tanh(), torch.nn.Conv3d(6, 3, 1))
    return victims.textured(network=network, window=Window(shape, blend="constant"))


@pytest.mark.parametrize("name", ["mi-fgsm", "bim", "fgsm"])
def test_a_permuted_volume_gets_the_permuted_result(name):
    """Voxels in any order, so a norm taken slice by slice instead of over the whole case would show."""
    shape = (8, 6, 5)
    image, victim = victims.random_scan(shape), voxelwise(shape)
    order = np.random.default_rng(1).permutation(image.data.size)
    shuffled = image.with_data(image.data.reshape(-1)[order].reshape(image.data.shape))
    plain, mixed = (attacked(scan, victim, name, 20.0, loss="ce") for scan in (image, shuffled))
    assert plain.delta.any()
    assert np.array_equal(plain.delta.reshape(-1)[order], mixed.delta.reshape(-1))


def test_momentum_without_memory_is_bim():
    image, victim = victims.random_scan(), victims.textured()
    forgetful = attacked(image, victim, "mi-fgsm", 8.0, decay=0.0)
    assert np.array_equal(forgetful.x_adv, attacked(image, victim, "bim", 8.0).x_adv)


class _Region:
    """As much of a budget as rules look at."""

    def __init__(self, count: int):
        self.count = count


def test_rules_by_hand():
    gradients = [torch.tensor([[[1.0, -2.0], [0.0, 5.0]]]), torch.tensor([[[-4.0, 0.0], [2.0, 2.0]]])]
    z = torch.zeros_like(gradients[0])
    rule = chain(l1_normalise(), momentum(0.5), scale(3.0))
    state = rule.init(z, _Region(4))
    first, state = rule.apply(gradients[0], state)
    second, state = rule.apply(gradients[1], state)
    torch.testing.assert_close(first, 3 * gradients[0] / 2)
    torch.testing.assert_close(second, 3 * (0.5 * gradients[0] / 2 + gradients[1] / 2))
    assert sign().apply(gradients[0], None)[0].tolist() == [[[1, -1], [0, 1]]]


def test_normalising_takes_every_axis_of_a_case_and_no_other_case():
    gradient = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    gradient[1] *= 1e-20  # as small as a mean over millions of voxels makes it
    normed, _ = l1_normalise().apply(gradient, None)
    torch.testing.assert_close(normed.flatten(1).abs().mean(1), torch.ones(2))
    rule = rms_normalise()
    update, _ = rule.apply(gradient, rule.init(gradient, _Region(60)))
    torch.testing.assert_close(update.flatten(1).square().mean(1), torch.ones(2))
    update, _ = rule.apply(gradient, rule.init(gradient, _Region(15)))
    torch.testing.assert_close(update.flatten(1).square().sum(1) / 30, torch.ones(2))
    assert not rms_normalise().apply(torch.zeros(1, 1, 3), 3)[0].any()
    assert not l1_normalise().apply(torch.zeros(1, 1, 3), None)[0].any()


# ---------------------------------------------------------------- closed forms

WEIGHTS = np.array([3.0, -1.0])


def linear_case(gain: float) -> tuple[Volume, Victim, np.ndarray, np.ndarray]:
    """A scan of two channels, a linear victim, the organ it sees, and each voxel's distance from the boundary in logits
    over `gain`."""
    rng = np.random.default_rng(0)
    shape = (6, 5, 4)
    organ = victims.ball(shape, 0.6)
    distance = np.where(organ, rng.uniform(10, 30, shape), rng.uniform(-30, -10, shape))
    data = rng.normal(0, 5, (2, *shape))
    now = np.einsum("c,c...->...", WEIGHTS, data) - 10.0
    data += (distance - now)[None] * (WEIGHTS / (WEIGHTS @ WEIGHTS))[:, None, None, None]
    data[:, 0, 0, 0] = -900, 900  # room for every change, in a voxel that is background however it changes
    image = Volume(data.astype(np.float32), dtype=np.dtype(np.float32))
    network = victims.Linear(list(gain * WEIGHTS), gain * 10.0)
    victim = victims.organ_of(3, network=network, channels=2, window=Window(shape))
    assert np.array_equal(victim.predict(image) == 1, organ)
    return image, victim, organ, distance[organ]


def smallest(image: Volume, victim: Victim, organ: np.ndarray, name: str, norm: str, exact: float, **settings) -> float:
    """The smallest budget, by bisection, with which the attack takes the whole organ away; relative to the exact
    one."""
    vain, enough = 0.5 * exact, 1.5 * exact
    while enough - vain > 0.01 * exact:
        middle = (vain + enough) / 2
        gone = attacked(image, victim, name, middle, norm, roi=organ, **settings).best.score == 0
        vain, enough = (vain, middle) if gone else (middle, enough)
    return enough / exact


@pytest.mark.parametrize("name, steps", [("fgsm", 1), ("bim", 10), ("pgd", 10), ("mi-fgsm", 10)])
def test_the_smallest_largest_change_of_a_linear_victim_is_found(name, steps):
    image, victim, organ, distance = linear_case(gain=0.1)
    exact = distance.max() / np.abs(WEIGHTS).sum()
    assert 1.0 <= smallest(image, victim, organ, name, "linf", exact, steps=steps) < 1.05


def test_the_smallest_root_mean_square_change_of_a_linear_victim_is_found():
    image, victim, organ, distance = linear_case(gain=5.0)
    exact = np.sqrt(np.square(distance).sum() / (WEIGHTS @ WEIGHTS) / (2 * organ.sum()))
    found = smallest(image, victim, organ, "pgd", "l2", exact, steps=100, loss="margin", random_start=False)
    assert 1.0 <= found < 1.05
