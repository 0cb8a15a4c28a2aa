"""Crafting on other models or scans: the victim is asked for predictions alone, structures correspond by name."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built

from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal
from perturbox.attacks.recipes.di_fgsm import Shrunk, diverse
from perturbox.attacks.runner import run
from perturbox.attacks.solvers.ascent import gaussian
from perturbox.types import Case, Effort, InputError


def other(**changes):
    """As `victims.textured` with other weights, and its labels in another order."""
    settings = {
        "name": "other", "network": victims.conv_net(3, seed=5), "labels": {"background": 0, "right": 1, "left": 2},
    }  # fmt: skip
    return victims.textured(**(settings | changes))


class Watched(torch.nn.Module):
    """Notes whether anyone asked for more than a prediction."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls, self.graphs = inner, 0, 0

    def forward(self, x):
        self.calls += 1
        self.graphs += torch.is_grad_enabled()
        return self.inner(x)


# ---------------------------------------------------------------- surrogates


def test_the_victim_is_not_called_while_an_attack_is_crafted_on_others():
    image = victims.random_scan()
    network = Watched(victims.conv_net(3))
    victim = victims.textured(network=network)
    reference, goal = victim.predict(image), Goal.parse("change", (), victim.labels)
    network.calls = 0
    outcome = run(built("pgd", 8.0), victim.on(image), Case(image), reference, goal, surrogates=[other().on(image)])
    assert network.calls == 0 and outcome.delta.any()


def test_a_surrogate_equal_to_the_victim_is_the_white_box_attack():
    image, victim = victims.random_scan(), victims.textured()
    plain = attacked(image, victim, "bim", steps=4)
    same = attacked(image, victim, "bim", steps=4, surrogates=[victims.textured().on(image)])
    assert np.array_equal(plain.x_adv, same.x_adv)
    assert [s.score for s in plain.trace] == [s.score for s in same.trace]


def test_structures_correspond_by_name_whatever_their_values():
    """The same network whose first two classes changed places: a relabelled surrogate."""
    network = victims.conv_net(3)
    swapped = victims.conv_net(3)
    order = torch.tensor([0, 2, 1])
    with torch.no_grad():
        swapped[2].weight.copy_(network[2].weight[order])
        swapped[2].bias.copy_(network[2].bias[order])
    image, victim = victims.random_scan(), victims.textured(network=network)
    surrogate = other(network=swapped)
    for target in ((), ("right",)):
        plain = attacked(image, victim, "bim", steps=3, target=target)
        relabelled = attacked(image, victim, "bim", steps=3, target=target, surrogates=[surrogate.on(image)])
        assert [s.dice for s in plain.trace] == [s.dice for s in relabelled.trace]
        np.testing.assert_array_equal(plain.x_adv, relabelled.x_adv)


def test_two_surrogates_are_climbed_together():
    """The first step follows the sign of the sum of both gradients."""
    image, victim = victims.random_scan(dtype=np.dtype(np.float32)), victims.textured()
    models = [victims.textured(network=victims.conv_net(3, seed=seed)) for seed in (1, 2)]
    effort = Effort()
    both = attacked(image, victim, "fgsm", 3.0, loss="ce", surrogates=[m.on(image, effort) for m in models])
    slopes = []
    for model in models:
        x = torch.from_numpy(image.data)[None].requires_grad_()
        bound = model.on(image)
        loss = torch.nn.functional.cross_entropy(bound(x), bound.to_grid(model.predict(image)))
        slopes.append(torch.autograd.grad(loss, x)[0])
    step = (sum(slopes)[0]).numpy()
    clear = np.abs(step) > 1e-3 * np.abs(step).max()
    moved = both.delta != 0
    assert np.array_equal(np.sign(both.delta[clear & moved]), np.sign(step[clear & moved]))
    assert moved[clear].mean() > 0.9 and effort.backwards == 2


def test_an_experts_outline_is_translated_for_the_surrogate():
    image, victim = victims.random_scan(), victims.textured()
    expert = victim.predict(image)
    expert[:4] = 0
    goal = Goal.parse("change", ("right",), victim.labels)
    surrogate = other(labels={"background": 0, "right": 1, "liver": 2})
    case = Case(image, label=expert)
    outcome = run(built("bim", 6.0, steps=1), victim.on(image), case, expert, goal, surrogates=[surrogate.on(image)])
    own = surrogate.predict(image)
    expected = np.where(expert == 2, 1, np.where(own == 2, 2, 0))
    before = Goal.parse("change", ("right",), surrogate.labels).score(own, expected)
    assert outcome.trace[0].score == pytest.approx(before, abs=1e-12)
    assert set(outcome.trace[0].dice) == {2}


@pytest.mark.parametrize(
    "labels, target, words",
    [
        (
            {"background": 0, "liver": 1, "spleen": 2},
            ("right",),
            "surrogate other has no structure 'right'; it has liver",
        ),
        ({"background": 0, "liver": 1, "spleen": 2}, (), "surrogate other finds no structure to attack"),
    ],
)
def test_surrogates_without_a_common_structure_are_refused(labels, target, words):
    image, victim = victims.random_scan(), victims.textured()
    with pytest.raises(InputError, match=words):
        attacked(image, victim, target=target, surrogates=[other(labels=labels).on(image)])


# ---------------------------------------------------------------- other scans


def test_an_attack_crafted_on_other_scans_never_looks_at_this_one():
    """With one number for the whole change, so that it fits every scan."""
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Everywhere:
        voxelwise: bool = False

        def init(self, x, budget, generator):
            return torch.zeros(1)

        def decode(self, z, x, budget):
            return x + z * budget.region

        def project(self, z, x, budget):
            return z.clamp(-budget.eps, budget.eps)

    victim = victims.organ()
    mine, others = victims.organ_scan(inside=60.0), [victims.organ_scan((16, 12, 9)) for _ in range(2)]
    seen = []
    attack = dataclasses.replace(built("bim", 12.0, steps=2, alpha=6.0), space=Everywhere())
    outcome = attacked_on(attack, mine, victim, others, seen)
    assert {tuple(shape[2:]) for shape in seen} == {(16, 12, 9)}
    assert (outcome.delta == -12).sum() > 1000 and outcome.had_gradient is None


def attacked_on(attack, image, victim, others, seen):
    reference, goal = victim.predict(image), Goal.parse("change", (), victim.labels)
    import dataclasses

    objective = attack.objective

    def watching(view, x, task, progress):
        seen.append(tuple(x.shape))
        return objective(view, x, task, progress)

    # The corners of bone and air bound the range, so the whole change fits.
    attack = dataclasses.replace(attack, objective=watching)
    roi = np.abs(image.data[0]) < 900
    return run(attack, victim.on(image), Case(image, roi=roi), reference, goal, others=others)


# ---------------------------------------------------------------- input diversity


def test_a_shrunk_scan_lies_where_it_was_put_and_is_brought_back():
    x = torch.arange(2.0 * 10 * 8).view(1, 2, 10, 8) + 5
    drawn = Shrunk((10, 8), (9, 6), (1, 2))
    moved = drawn.apply(x)
    small = torch.nn.functional.interpolate(x, (9, 6), mode="bilinear")
    assert moved.shape == x.shape and torch.equal(moved[..., 1:10, 2:8], small)
    assert (moved[..., 0, :] == 5).all() and (moved[..., :2] == 5).all()
    back = drawn.undo(moved)
    assert torch.equal(back, torch.nn.functional.interpolate(small, (10, 8), mode="bilinear"))
    ramp = torch.linspace(0, 1, 10).view(1, 1, 10, 1).expand(1, 1, 10, 8)
    torch.testing.assert_close(drawn.undo(drawn.apply(ramp))[..., 1:-1, :], ramp[..., 1:-1, :], atol=0.02, rtol=0)


def test_sizes_and_places_are_drawn_within_their_limits():
    generator = torch.Generator().manual_seed(0)
    drawn = [Shrunk.draw((40, 30, 20), 0.5, 0.8, generator) for _ in range(400)]
    moved = [d for d in drawn if d.size is not None]
    assert 160 < len(moved) < 240
    for d in moved:
        assert all(round(0.8 * n) <= s <= n for n, s in zip((40, 30, 20), d.size, strict=True))
        assert all(0 <= p <= n - s for n, s, p in zip((40, 30, 20), d.size, d.place, strict=True))
    assert {d.size[0] for d in moved} == set(range(32, 41))


def test_never_transformed_it_is_the_plain_attack():
    image, victim = victims.random_scan(), victims.textured()
    plain = attacked(image, victim, "bim", steps=3)
    same = attacked(image, victim, "di-fgsm", steps=3, probability=0.0)
    assert np.array_equal(plain.x_adv, same.x_adv)
    always = attacked(image, victim, "di-fgsm", steps=3, probability=1.0)
    assert not np.array_equal(plain.x_adv, always.x_adv)


def test_a_transformed_look_is_scored_on_the_scan_itself():
    image, victim = victims.random_scan(), victims.textured()
    outcome = attacked(image, victim, "di-fgsm", steps=2, probability=1.0)
    assert outcome.trace[0].score == 1.0 and outcome.trace[0].linf == 0


def test_transforming_anything_keeps_its_labels_in_place():
    """A victim that labels by value alone: its shrunk prediction, brought back, still fits the labels."""
    image, victim = victims.organ_scan((20, 18, 16)), victims.organ()
    bound = victim.on(image)
    reference = bound.to_grid(victim.predict(image))
    generator = torch.Generator().manual_seed(0)
    from perturbox.attacks.attack import Task

    task = Task(reference, torch.ones_like(reference).float(), False, (1,), generator=generator)

    def agreement(view, x, task, progress):
        return (view(x).argmax(1) == task.labels).float().mean()

    class ModelOnScan:
        prepare = staticmethod(bound.prepare)
        slide = staticmethod(bound.slide)

    x = torch.from_numpy(image.data)[None]
    found = [float(diverse(agreement, 1.0, 0.8)(ModelOnScan, x, task, 0.0)) for _ in range(10)]
    drawn = Shrunk((20, 18, 16), (16, 14, 13), (4, 0, 3))
    astray = float((ModelOnScan.slide(drawn.apply(ModelOnScan.prepare(x))).argmax(1) == reference).float().mean())
    assert min(found) > 0.94 > 0.91 > astray


# ---------------------------------------------------------------- smoothed gradients


def test_the_smoothed_gradient_is_a_three_dimensional_convolution():
    from scipy import ndimage, stats

    gradient = torch.randn(1, 2, 9, 8, 7, generator=torch.Generator().manual_seed(0)).double()
    kernel = stats.norm.pdf(np.linspace(-3, 3, 15))
    kernel /= kernel.sum()
    expected = gradient.numpy()
    for axis in (2, 3, 4):
        expected = ndimage.convolve1d(expected, kernel, axis, mode="constant")
    np.testing.assert_allclose(gaussian(15, 3.0).apply(gradient, None)[0].numpy(), expected, atol=1e-12)


def test_a_kernel_of_one_voxel_is_the_plain_attack():
    image, victim = victims.random_scan(), victims.textured()
    plain, same = attacked(image, victim, "bim"), attacked(image, victim, "ti-fgsm", kernel=1)
    assert np.array_equal(plain.x_adv, same.x_adv)
    moved = attacked(image, victim, "mi-fgsm", decay=0.7)
    assert np.array_equal(moved.x_adv, attacked(image, victim, "ti-fgsm", kernel=1, decay=0.7).x_adv)
    assert recipes.get("ti-fgsm").build(8.0, "linf", 20, {}).parameters["kernel"] == 15
