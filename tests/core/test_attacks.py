"""The runner: what it keeps, what it returns, when it stops - and that nothing it returns breaks a rule."""

import dataclasses

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, live_score

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack
from perturbox.attacks.budget import Budget, BudgetViolated
from perturbox.attacks.goals import Goal
from perturbox.attacks.outcome import Step
from perturbox.attacks.runner import run
from perturbox.attacks.solvers import Solver
from perturbox.types import Case, InputError, Volume

# The runner on the plainest of attacks; what must hold for every recipe is in test_recipes.py.
GRADIENT = [("fgsm", "linf"), ("bim", "linf"), ("mi-fgsm", "linf"), ("pgd", "linf"), ("pgd", "l2")]
RECIPES = [*GRADIENT, ("noise", "linf"), ("noise", "l2")]


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize("name, norm", RECIPES)
def test_the_best_step_is_kept_and_what_is_returned_scores_just_that(name, norm):
    image, victim = victims.random_scan(), victims.textured()
    reference, goal = victim.predict(image), Goal.parse("change", (), victim.labels)
    outcome = attacked(image, victim, name, norm=norm, steps=6)
    kept = [step for step in outcome.trace if name != "pgd" or step.step > 0]  # a random start is no result
    assert outcome.best.score == min(step.score for step in kept) < 1.0
    assert live_score(victim, image, outcome.x_adv, reference, goal) == outcome.best.score
    assert outcome.best in outcome.trace


def test_the_score_of_a_floating_point_scan_is_reproduced_too():
    rng = np.random.default_rng(3)
    image = Volume(rng.normal(0, 30, (1, 14, 12, 10)).astype(np.float32), dtype=np.dtype(np.float32))
    victim = victims.textured()
    reference, goal = victim.predict(image), Goal.parse("change", (), victim.labels)
    outcome = attacked(image, victim)
    assert live_score(victim, image, outcome.x_adv, reference, goal) == outcome.best.score < 0.9


def test_a_later_step_that_scores_worse_does_not_replace_the_best():
    """Steps of twice the budget jump back and forth over the organ's threshold."""
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    outcome = attacked(image, victim, "noise", eps=30.0, steps=8, distribution="gaussian")
    scores = [step.score for step in outcome.trace]
    assert scores[-1] > min(scores) == outcome.best.score
    assert outcome.best.step == scores.index(min(scores))


def test_nothing_gained_is_nothing_changed():
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    for name in ("fgsm", "bim", "mi-fgsm", "pgd", "noise"):
        outcome = attacked(image, victim, name, eps=3.0, **({"random_start": False} if name == "pgd" else {}))
        assert not outcome.delta.any()
        assert np.array_equal(outcome.x_adv, image.data)
        assert outcome.best.score == 1.0


def test_restarts_keep_the_worst_of_all():
    image, victim = victims.random_scan(), victims.textured()
    outcome = attacked(image, victim, eps=2.0, steps=2, restarts=3)
    assert [(s.restart, s.step) for s in outcome.trace] == [(r, s) for r in range(3) for s in range(3)]
    assert outcome.best.score == min(step.score for step in outcome.trace if step.step > 0)
    starts = [step.loss for step in outcome.trace if step.step == 0]
    assert len(set(starts)) == 3
    # The first restart is the run without others.
    assert [s.score for s in attacked(image, victim, eps=2.0, steps=2).trace] == [s.score for s in outcome.trace[:3]]


# ---------------------------------------------------------------- what may change


@pytest.mark.parametrize("name, norm", RECIPES)
def test_outside_the_region_nothing_changes_and_inside_the_budget_holds(name, norm):
    image, victim = victims.random_scan(), victims.textured()
    roi = np.zeros(image.shape, bool)
    roi[3:10, 2:9, 4:8] = True
    outcome = attacked(image, victim, name, eps=8.0, norm=norm, roi=roi)
    assert np.array_equal(outcome.x_adv[0][~roi].view(np.uint32), image.data[0][~roi].view(np.uint32))
    assert outcome.delta.any()
    measured = Budget.of(Case(image, roi=roi), 8.0, norm).measure(torch.from_numpy(outcome.delta)[None])
    assert measured[norm] <= 8.0
    assert image.data.min() <= outcome.x_adv.min() and outcome.x_adv.max() <= image.data.max()


@pytest.mark.parametrize("roi_only", [False, True])
def test_an_l2_step_is_as_long_as_it_says_wherever_it_may_go(roi_only):
    """alpha is the RMS change over the region, not over the scan around it."""
    image, victim = victims.random_scan(dtype=np.dtype(np.float32)), victims.textured(normalise=lambda x: x / 100)
    roi = np.ones(image.shape, bool)
    if roi_only:
        roi[:-3] = False
    taken: list[float] = []
    attack = recipes.get("pgd").build(1000.0, "l2", 3, {"alpha": 0.5, "random_start": False}).attack
    solver = attack.solver

    class Watched(Solver):
        init = staticmethod(solver.init)

        @staticmethod
        def step(oracle, z, state):
            following, state = solver.step(oracle, z, state)
            update = (following - z)[0, 0].numpy()
            assert not update[~roi].any()
            taken.append(float(np.sqrt(np.square(update[roi]).mean())))
            return following, state

    watched = dataclasses.replace(attack, solver=Watched())
    run(watched, victim.on(image), Case(image, roi=roi), victim.predict(image), Goal.parse("change", (), victim.labels))
    assert taken == pytest.approx([0.5] * 3, rel=1e-5)


@pytest.mark.parametrize("name, norm", GRADIENT)
def test_voxels_without_gradient_stay_untouched(name, norm):
    """Values far outside the window can't matter, nor can voxels the grid doesn't sample."""
    image = victims.random_scan((12, 12, 12))
    image.data[0, :4] = 600 + np.arange(4 * 144).reshape(4, 12, 12)
    image.data[0, 4] = -700
    victim = victims.textured(spacing=(2.0, 2.0, 12.0), antialias=False)
    reach = victim.on(image).grid.reach
    outcome = attacked(image, victim, name, norm=norm, eps=20.0)
    assert outcome.delta.any() and not reach.all()
    assert not outcome.delta[0][~reach].any() and not outcome.delta[0, :5].any()
    assert not outcome.delta[0][~outcome.had_gradient].any()
    assert not outcome.had_gradient[:5].any() and not outcome.had_gradient[~reach].any()


def test_touched_says_where_the_scan_had_any_say_not_only_where_it_may_change():
    image, victim = victims.random_scan(), victims.textured(normalise=lambda x: x / 100)
    roi = np.zeros(image.shape, bool)
    roi[2:4] = True
    assert attacked(image, victim, roi=roi).had_gradient.all()
    assert attacked(image, victim, "noise").had_gradient is None


def test_padding_outside_the_field_of_view_stays():
    image, victim = victims.random_scan(), victims.textured(normalise=lambda x: x / 100)
    image.data[0, :, :2] = -1024
    for name, norm in RECIPES:
        outcome = attacked(image, victim, name, norm=norm)
        assert not outcome.delta[0, :, :2].any() and outcome.delta[0, :, 2:].any()


def test_a_runner_never_returns_what_breaks_the_budget():
    @dataclasses.dataclass(frozen=True)
    class Rogue:
        voxelwise: bool = True

        def init(self, x, budget, generator):
            return torch.zeros_like(x)

        def decode(self, z, x, budget):
            return x + z

        def project(self, z, x, budget):
            return z

    image, victim = victims.organ_scan(), victims.organ()
    attack = dataclasses.replace(recipes.get("fgsm").build(12.0, "linf", 1, {}).attack, space=Rogue(), eps=6.0)
    with pytest.raises(BudgetViolated, match="measures 12 in linf, above the limit 6"):
        run(attack, victim.on(image), Case(image), victim.predict(image), Goal.parse("change", (), victim.labels))


def test_a_space_of_other_variables_is_run_as_it_is():
    """One number brightens the whole organ; the runner's care for single voxels must not wipe it out."""

    @dataclasses.dataclass(frozen=True)
    class Brightness:
        voxelwise: bool = False

        def init(self, x, budget, generator):
            return torch.zeros(1)

        def decode(self, z, x, budget):
            return x + z * (x == 60)

        def project(self, z, x, budget):
            return z.clamp(-budget.eps, budget.eps)

    image, victim = victims.organ_scan(), victims.organ()
    attack: Attack = dataclasses.replace(recipes.get("fgsm").build(12.0, "linf", 1, {}).attack, space=Brightness())
    outcome = run(attack, victim.on(image), Case(image), victim.predict(image), Goal.parse("change", (), victim.labels))
    assert (outcome.delta[image.data == 60] == -12).all() and outcome.best.score < 0.1


# ---------------------------------------------------------------- storage


@pytest.mark.parametrize("slope, intercept", [(1.0, 0.0), (0.5, -1024.0), (2.0, 1.0), (0.1, 0.0)])
@pytest.mark.parametrize("name, norm", RECIPES)
def test_what_is_returned_is_what_the_file_will_hold(name, norm, slope, intercept):
    stored = np.rint(np.random.default_rng(0).normal(-intercept / slope, 60 / slope, (1, 14, 12, 10))).astype(np.int16)
    data = slope * stored.astype(np.float64) + intercept
    data = data.astype(np.float32) if slope != 0.1 else data
    image = Volume(data, slope=slope, intercept=intercept)
    outcome = attacked(image, victims.textured(), name, norm=norm, eps=8.0)
    again = image.with_data(outcome.x_adv).stored()
    assert outcome.x_adv.dtype == outcome.delta.dtype == data.dtype
    assert np.array_equal((slope * again.astype(np.float64) + intercept).astype(data.dtype), outcome.x_adv)
    steps = (again.astype(int) - stored) * slope
    np.testing.assert_allclose(steps, outcome.delta, atol=1e-9)
    assert outcome.delta.any()
    if norm == "linf":
        assert np.abs(steps).max() == pytest.approx(8.0)


@pytest.mark.parametrize("name", ["pgd", "noise"])
def test_scans_in_double_precision_keep_the_bits_single_precision_loses(name):
    data = np.random.default_rng(0).normal(0, 60, (1, 14, 12, 10)) / 3
    image = Volume(data, dtype=np.dtype(np.float64))
    roi = np.zeros(image.shape, bool)
    roi[4:9] = True
    outcome = attacked(image, victims.textured(), name, eps=8.0, roi=roi)
    assert outcome.x_adv.dtype == np.float64
    assert np.array_equal(outcome.x_adv[0][~roi], data[0][~roi])
    assert (outcome.delta != 0).any()


def test_pictures_of_eight_bits():
    data = np.random.default_rng(0).integers(0, 256, (1, 20, 18)).astype(np.float32)
    image = Volume(data, np.eye(4), unit="intensity", dtype=np.dtype(np.uint8), format=".png")
    victim = victims.textured(2, normalise=lambda x: x / 255)
    outcome = attacked(image, victim, eps=6.0)
    assert outcome.delta.any() and np.array_equal(outcome.x_adv, np.rint(outcome.x_adv))
    assert outcome.x_adv.min() >= data.min() and outcome.x_adv.max() <= data.max()
    assert np.abs(outcome.delta).max() == 6


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("name, norm", RECIPES)
def test_a_seed_makes_the_result(name, norm):
    image, victim = victims.random_scan(), victims.textured()
    first, again, other = (attacked(image, victim, name, norm=norm, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.x_adv, again.x_adv)
    assert [s.loss for s in first.trace] == [s.loss for s in again.trace]
    assert np.array_equal(first.x_adv, other.x_adv) == (name in ("fgsm", "bim", "mi-fgsm"))


def test_the_global_random_state_is_neither_used_nor_moved():
    image, victim = victims.random_scan(), victims.textured()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = attacked(image, victim)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert np.array_equal(first.x_adv, attacked(image, victim).x_adv)


# ---------------------------------------------------------------- stopping, starting


def test_stopping_mid_run_returns_the_best_so_far():
    image, victim = victims.random_scan(), victims.textured()
    whole = attacked(image, victim, "bim", steps=6)
    seen: list[Step] = []
    part = attacked(image, victim, "bim", steps=6, on_step=seen.append, stop=lambda: len(seen) == 3)
    assert part.stopped == 3 and whole.stopped is None
    assert [s.score for s in part.trace] == [s.score for s in whole.trace[:3]]
    assert part.best.score == min(s.score for s in part.trace)
    assert part.delta.any()


def test_stopping_at_once_returns_the_scan():
    image, victim = victims.random_scan(), victims.textured()
    outcome = attacked(image, victim, stop=lambda: True)
    assert outcome.stopped == 0 and outcome.trace == [] and outcome.best.score == 1.0
    assert np.array_equal(outcome.x_adv, image.data) and not outcome.had_gradient.any()


def test_an_attack_that_lost_everything_goes_on_to_the_highest_loss():
    """It ends early only where the caller said what is enough; neither starts again."""
    image = victims.organ_scan()
    image.data[image.data == 1500] = 1.0
    options = {"eps": 40.0, "steps": 20, "restarts": 3, "random_start": False}
    whole = attacked(image, victims.organ(), **options)
    lost = [step for step in whole.trace if step.score == 0]
    assert len(whole.trace) == 21 and len(lost) > 1 and whole.best is max(lost, key=lambda step: step.loss)
    assert whole.best.loss > lost[0].loss and np.abs(whole.delta).max() == 40
    first = attacked(image, victims.organ(), enough=lambda step: step.score <= 0, **options)
    assert first.best is first.trace[-1] and len(first.trace) == first.best.step + 1 == 4  # 5 HU a step, 10.5 to go
    assert np.abs(first.delta).max() == 15


@pytest.mark.parametrize("name", ["pgd", "bim", "noise"])
def test_an_attack_that_changed_nothing_of_the_score_leaves_the_scan(name):
    """From a random start as from the scan itself; the loss rose meanwhile."""
    image = victims.organ_scan()
    image.data[image.data == 1500] = 1.0
    outcome = attacked(image, victims.organ(), name, eps=5.0, steps=3)  # 10.5 to go
    assert {step.score for step in outcome.trace} == {1.0} and max(step.linf for step in outcome.trace) > 0
    assert np.array_equal(outcome.x_adv, image.data) and outcome.best.score == 1.0 and outcome.best.linf == 0
    if name == "bim":
        assert max(step.loss for step in outcome.trace) > outcome.best.loss


def test_of_equal_scores_the_unchanged_scan_stays_whatever_the_expert_says():
    """Its score is then no 1; the look at the scan itself, where the attack starts, tells it."""
    image = victims.organ_scan()
    image.data[image.data == 1500] = 1.0
    victim = victims.organ()
    expert = np.roll(victim.predict(image), 1, 0)
    outcome = attacked(image, victim, "bim", eps=5.0, steps=3, reference=expert)
    assert len({step.score for step in outcome.trace}) == 1 and outcome.best.score < 1.0
    assert np.array_equal(outcome.x_adv, image.data)


def test_what_is_enough_is_better_than_any_score():
    """Of two structures one is lost at once and the other only later, when the first has come back a little."""
    image, victim = victims.random_scan(), victims.textured()
    scores: list[float] = []

    def third(step: Step) -> bool:
        scores.append(step.score)
        return step.step == 3

    outcome = attacked(image, victim, "noise", eps=30.0, steps=6, enough=third)
    assert len(outcome.trace) == 4 and outcome.best is outcome.trace[3]
    assert min(s.score for s in outcome.trace) < outcome.best.score, "choose a seed whose third draw isn't the best"


def test_steps_are_told_as_they_are_traced():
    image, victim = victims.random_scan(), victims.textured()
    told: list[Step] = []
    outcome = attacked(image, victim, steps=3, on_step=told.append)
    assert told == outcome.trace and [s.step for s in told] == [0, 1, 2, 3]
    assert all(s.steps == 3 and s.linf <= 12.0 for s in told)
    assert set(told[0].dice) == {1, 2}


def test_a_warm_start_begins_where_the_last_attack_ended():
    image, victim = victims.random_scan(), victims.textured()
    before = attacked(image, victim, eps=8.0, steps=5)
    warm = attacked(image, victim, eps=8.0, steps=1, start=before.delta, seed=9)
    assert warm.trace[0].score == before.best.score
    assert warm.best.score <= before.best.score
    smaller = attacked(image, victim, eps=4.0, steps=1, start=before.delta)
    assert smaller.trace[0].linf == 4.0


def test_a_warm_start_is_kept_even_where_its_gradient_has_gone():
    """At 30 HU outside the window nothing has a gradient any more, yet the prediction is lost."""
    image = victims.organ_scan(inside=60.0)
    victim = victims.organ_of(3, normalise=lambda x: x.clamp(min=55.0) - 5.6)  # threshold at 55.1 HU, flat below 55
    start = np.where(image.data == 60, -12.0, 0.0).astype(np.float32)
    goal = Goal.parse("change", ("organ",), victim.labels)
    outcome = attacked(image, victim, eps=12.0, steps=2, start=start, goal=goal)
    assert outcome.trace[0].score < 0.05
    assert outcome.best.score == outcome.trace[0].score
    assert np.array_equal(outcome.delta != 0, start != 0)


def test_only_the_first_restart_is_warm():
    image, victim = victims.random_scan(), victims.textured()
    start = attacked(image, victim, eps=8.0, steps=5).delta
    outcome = attacked(image, victim, eps=8.0, steps=1, restarts=3, start=start)
    losses = [step.loss for step in outcome.trace if step.step == 0]
    assert len(set(losses)) == 3


# ---------------------------------------------------------------- odd scans


@pytest.mark.parametrize("name, norm", RECIPES)
def test_constant_slices_stay_finite(name, norm):
    image = victims.random_scan((14, 12, 10))
    image.data[..., :5] = 7.0
    network = torch.nn.Sequential(torch.nn.InstanceNorm3d(1), *victims.conv_net(3))
    for victim in (victims.textured(), victims.textured(network=network), victims.textured(2)):
        outcome = attacked(image, victim, name, norm=norm)
        assert np.isfinite(outcome.x_adv).all()
        assert all(np.isfinite(step.loss) and np.isfinite(step.score) for step in outcome.trace)


@pytest.mark.parametrize("name, norm", RECIPES)
def test_two_dimensions_and_slices(name, norm):
    flat = victims.random_scan((20, 17), affine=np.eye(4))
    assert attacked(flat, victims.textured(2), name, norm=norm).best.score < 1
    deep = victims.random_scan((20, 17, 4))
    assert attacked(deep, victims.textured(2), name, norm=norm).best.score < 1


def test_impossible_budgets_are_refused():
    image, victim = victims.organ_scan(), victims.organ()
    with pytest.raises(InputError, match="no voxel that may change"):
        attacked(image, victim, roi=np.zeros(image.shape, bool))


def test_targets_named_alone_are_what_is_scored():
    image, victim = victims.random_scan(), victims.textured()
    outcome = attacked(image, victim, goal=Goal.parse("change", ("right",), victim.labels))
    assert all(list(step.dice) == [2] and step.score == step.dice[2] for step in outcome.trace)


@pytest.mark.gpu
@pytest.mark.parametrize("name, norm", RECIPES)
def test_cuda_attacks_as_well_as_the_cpu(name, norm):
    image = victims.random_scan()
    here, there = victims.textured(), victims.textured(device=torch.device("cuda"))
    scores = [attacked(image, victim, name, norm=norm).best.score for victim in (here, there)]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)


def test_what_an_objective_sees_elsewhere_is_not_what_is_scored():
    """The scan is looked at first, then a scan far away from it; the score is the scan's own."""
    image, victim = victims.random_scan(), victims.textured()
    plain = recipes.get("bim").build(12.0, "linf", 2, {}).attack

    def wandering(view, x, task, progress):
        value = plain.objective(view, x, task, progress)
        view(task.clean + 200)
        return value

    goal, reference = Goal.parse("change", (), victim.labels), victim.predict(image)
    outcomes = [
        run(attack, victim.on(image), Case(image), reference, goal)
        for attack in (plain, dataclasses.replace(plain, objective=wandering))
    ]
    assert [s.score for s in outcomes[0].trace] == [s.score for s in outcomes[1].trace]
    assert np.array_equal(outcomes[0].x_adv, outcomes[1].x_adv)
