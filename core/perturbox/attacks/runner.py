"""The loop every attack shares: which starts there are, in which order, and what comes of them.

`start` answers a solver, `best` remembers what counts, and `Budget.verify` checks what was found independently of the
attack. An attack may be made of others, which run one after another into the same best.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Composed
from perturbox.attacks.best import Best, default_rule
from perturbox.attacks.budget import Budget, middle_limit
from perturbox.attacks.goals import Goal
from perturbox.attacks.influence import MeanGradient
from perturbox.attacks.on_scan import ModelOnScan, models_on_others, surrogate_on_scan
from perturbox.attacks.outcome import Outcome, Step
from perturbox.attacks.start import Shared, Start
from perturbox.attacks.usable import Usable, passing
from perturbox.model.victim import BoundVictim, as_input
from perturbox.types import Case, Volume


class _Run:
    """Which starts there are, in which order, and from where each begins.

    had_gradient: voxels that had one in the present member; had_before: in those before it. warm_points: of the last
    start; mean_gradient: of that which found the best. stopped: the step at which the user ended the run.
    """

    def __init__(self, attack: Attack, case: Case, shared: Shared):
        self.attack, self.case, self.shared = attack, case, shared
        self.had_gradient = torch.zeros_like(shared.x, dtype=torch.bool)
        self.had_before = torch.zeros_like(self.had_gradient)
        self.warm_points: dict[str, tuple[float, Tensor]] = {}
        self.mean_gradient: MeanGradient | None = None
        self.starts = 0
        self.stopped: int | None = None

    @property
    def ever_had_gradient(self) -> Tensor:
        return self.had_before | self.had_gradient

    def run_all(self, start: np.ndarray | None) -> None:
        """Every start of every climb, the first from `start`; then the refinements."""
        attack, member = self.attack, None
        for member, part in attack.members.items() if isinstance(attack, Composed) else [(None, attack)]:
            self._begin(part)
            for climb in part.leaves():
                for _ in range(climb.restarts):
                    if not self._one(climb, member, start):
                        return
                    start = None
        self._refine(member)

    def _begin(self, part: Attack) -> None:
        """Forget what the members before have drawn, and where they had gradients: it finds what it would find
        alone."""
        if next(part.leaves()).warm is None:
            generator = self.shared.generator
            generator.manual_seed(generator.initial_seed())
            self.had_before, self.had_gradient = self.ever_had_gradient, torch.zeros_like(self.had_gradient)

    def _refine(self, member: str | None) -> None:
        """Bisect the limit of what succeeded, each attack starting from the smallest change known."""
        best, budget = self.shared.best, self.shared.budget
        held, step = 0.0, budget.step or budget.eps / 64
        self.had_gradient |= self.had_before
        for _ in range(self.attack.refine):
            if not best.succeeded or not (middle := middle_limit(held, best.size, step)):
                return
            before, climb = best.rank, dataclasses.replace(best.climb, eps=middle)
            if not self._one(climb, member, (best.x - self.shared.x)[0].cpu().numpy()):
                return
            held = middle if best.rank == before else held

    def _one(self, climb: Climb, member: str | None, start: np.ndarray | None) -> bool:
        """One start of a climb from its own first point, or from a perturbation "c *s"; whether the attack goes on."""
        shared, limits = self.shared, self._limits_of(climb)
        z = climb.space.init(shared.x, limits, shared.generator)
        if start is not None and climb.space.voxelwise:
            z = climb.space.project(torch.from_numpy(start)[None].to(shared.x), shared.x, limits)
            self.had_gradient |= z != 0  # they had a gradient in the attack that found them
        elif climb.warm is not None and self.warm_points:
            z = climb.space.project(self.warm_points[climb.warm][1], shared.x, limits)
        one = Start(shared, climb, limits, self.starts, member, self.had_gradient)
        self.stopped = one.run(z)
        self.warm_points = one.warm_points
        if shared.best.step is not None and shared.best.step.restart == one.index:
            self.mean_gradient = one.mean_gradient
        if self.stopped is not None:
            return False
        self.starts += 1
        return self.attack.keep == "smallest" or not shared.best.succeeded

    def _limits_of(self, climb: Climb) -> Budget:
        """The attack's budget, the very object, where the climb has the same limit."""
        budget = self.shared.budget
        if (climb.eps, climb.norm) == (self.attack.eps, self.attack.norm):
            return budget
        return Budget.of(self.case, climb.limit, climb.norm, budget.region.device, budget.visible)

    def through(self) -> float | None:
        """Share of the voxels with a part in the attack whose gradient passes the models; see `usable.passing`."""
        shared = self.shared
        followed = shared.usable.gradients > shared.usable.flat and self.stopped is None
        if not followed or any(model.budget is not shared.budget for model in shared.models):
            return None
        shares = [passing(model, self.ever_had_gradient) for model in shared.models]
        known = [share for share in shares if share is not None]
        return max(known) if len(known) == len(shares) else None


def run(
    attack: Attack,
    victim: BoundVictim,
    case: Case,
    reference: np.ndarray,
    goal: Goal,
    *,
    seed: int = 0,
    start: np.ndarray | None = None,
    surrogates: Sequence[BoundVictim] = (),
    others: Sequence[Volume] = (),
    on_step: Callable[[Step], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
    enough: Callable[[Step], bool] | None = None,
) -> Outcome:
    """Attack one case and return the best perturbation found, checked against the budget.

    reference: labels "*s" on the scan's grid that the goal leaves. start: a perturbation "c *s" an earlier attack
    found, from which the first round begins. surrogates: models to craft it on, on the same scan; `victim` is then not
    called at all. others: scans to craft it on instead of the case. on_step is told every step; stop is polled before
    each and ends the run with the best so far; enough(step) says what has reached the goal, which counts as better than
    anything that hasn't, and ends a start that stops on success: by default, where the smallest change is sought, what
    has reached the goal's threshold; what seeks the worst goes on after all is lost. Raises BudgetViolated if what the
    attack made is outside its budget, InputError for an impossible budget or surrogate.
    """
    image, device, visible = case.image, victim.victim.device, victim.victim.visible
    budget = Budget.of(case, attack.limit, attack.norm, device, visible)
    generator = torch.Generator().manual_seed(seed)
    names = {value: name for name, value in victim.victim.labels.items()}
    if others:
        # Whatever the case holds: the same scans make the same perturbation for every case.
        aim = goal if goal.named else dataclasses.replace(goal, targets=tuple(victim.victim.structures.values()))
        models = models_on_others(others, surrogates or [victim], aim, names, attack.limit, attack.norm, generator)
    elif surrogates:
        models = [surrogate_on_scan(model, case, goal, names, budget, generator) for model in surrogates]
    else:
        models = [ModelOnScan.of(victim, image, reference, goal, budget, generator)]
    x = as_input(image, device)
    best = Best(attack, budget, x, enough or default_rule(attack, models))
    usable = Usable(models, of_values=not all(leaf.uses_gradient for leaf in attack.leaves()))
    # What seeks the worst goes on after all is lost, unless told what is enough: what lies deeper carries over.
    goes_on = attack.keep == "worst" and enough is None
    state = _Run(attack, case, Shared(models, x, budget, generator, best, usable, on_step, stop, goes_on))
    state.run_all(start)
    x_adv = image.as_saved(best.x[0].cpu().numpy())
    budget.verify(torch.from_numpy(x_adv)[None], torch.from_numpy(np.require(image.data, None, ["C", "W"]))[None])
    follows = attack.uses_gradient and all(leaf.space.voxelwise for leaf in attack.leaves())
    through = state.through() if follows else None
    nothing = Step(0, next(attack.leaves()).steps, 0, None, 1.0, {}, 0.0, 0.0)  # stopped before the first look
    return Outcome(
        x_adv=x_adv,
        delta=x_adv - image.data,
        trace=best.trace,
        best=best.step or nothing,
        had_gradient=state.ever_had_gradient[0].any(0).cpu().numpy() if follows else None,
        influence=None if state.mean_gradient is None else state.mean_gradient.times(x_adv - image.data),
        stopped=state.stopped,
        members=list(best.members.values()),
        untested=usable.untested(through),
        notes=usable.notes(through),
    )
