"""The heart: running an attack, step by step.

Best-so-far, live scores, tracing, early stop, cancelling and the independent budget check live here, once, for every
attack. The surrogate loss that is climbed never decides what is kept: that is the goal's success score on the
prediction, or, for attacks that seek the smallest change, the size of those that reach the goal. An attack may be made
of others, which run one after another into the same best-so-far.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perturbox.attacks.attack import Attack
from perturbox.attacks.budget import Budget, middle_limit
from perturbox.attacks.goals import Goal
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.outcome import Member, Outcome, Rank, Step
from perturbox.attacks.usable import Usable, passing
from perturbox.attacks.view import Previous, View, surrogate_view, views_of_others
from perturbox.model.finite import without_undefined
from perturbox.model.victim import BoundVictim, as_input
from perturbox.types import Case, Volume

UNHARMED = 1.0  # every goal's score of a prediction that is the reference
SLACK = 0.01  # of a score: what rests on success shall not fail on the saved file by a voxel


class _Run:
    """One run: scores every point a solver asks about and remembers the best."""

    def __init__(
        self,
        attack: Attack,
        views: list[View],
        case: Case,
        budget: Budget,
        generator: torch.Generator,
        on_step: Callable[[Step], None],
        stop: Callable[[], bool],
        enough: Callable[[Step], bool] | None,
    ):
        self.attack, self.views, self.case, self.budget, self.generator = attack, views, case, budget, generator
        self.on_step, self.stop, self.enough = on_step, stop, enough or self._reached
        self.x = as_input(case.image, budget.region.device)
        self.trace: list[Step] = []
        self.best: Step | None = None
        self.best_x, self.best_leaf = self.x, attack
        self.rank: Rank = (False, 0.0, 0.0)
        self.touched = torch.zeros_like(self.x, dtype=torch.bool)
        self.reached = self.touched  # by any member
        self.members: dict[str, Member] = {}
        self.usable = Usable(views, not all(leaf.uses_gradient for leaf in attack.leaves()))
        self.tops: dict[str, tuple[float, Tensor]] = {}
        self.rounds = 0
        self.succeeded = False
        self.stopped: int | None = None
        self.started = time.perf_counter()
        self.leaf, self.limits, self.step, self.member = attack, budget, 0, ""
        self.point: Tensor | None = None
        # What seeks the worst goes on after all is lost, unless told what is enough: what lies deeper carries over.
        self.goes_on = attack.keep == "worst" and enough is None
        self.clean_score = 1.0
        if attack.keep != "worst" and enough is None:
            self.clean_score = float(np.mean([self._clean(view) for view in views]))

    # ---- rounds

    def round(self, leaf: Attack, start: np.ndarray | None = None) -> bool:
        """Run one leaf once from its start, or from a perturbation "c *s"; whether the attack goes on."""
        self.leaf, self.limits = leaf, self._limits(leaf)
        z = leaf.space.init(self.x, self.limits, self.generator)
        if start is not None and leaf.space.voxelwise:
            z = leaf.space.project(torch.from_numpy(start)[None].to(self.x), self.x, self.limits)
            self.touched |= z != 0  # they had a gradient in the attack that found them
        elif leaf.warm and self.tops:
            z = leaf.space.project(self.tops[leaf.warm_by][1], self.x, self.limits)
        self.tops = {}
        for view in self.views:
            view.scene = dataclasses.replace(view.scene, previous=None, memory={})
        oracle = Oracle(
            self.gradient,
            self.value,
            self.peek,
            self.project,
            lambda: self.succeeded,
            self.memories,
            self.bounds,
            len(self.views),
            self.single,
        )
        state = leaf.solver.init(z, self.limits, self.generator)
        self.succeeded = False
        for step in range(leaf.steps + 1):
            self.step = step
            if self.stop():
                self.stopped = step
                return False
            if step == leaf.steps:
                self.value(z)  # the last update has not been looked at yet
            else:
                z, state = leaf.solver.step(oracle, z, state)
                z = self.project(z)
            self.on_step(self.trace[-1])
            if leaf.rests and self.succeeded and not self.goes_on:
                break
        self.rounds += 1
        return self.attack.keep == "smallest" or not self.rank[0]

    def climb(self, start: np.ndarray | None) -> None:
        """Every round of every leaf, the first from `start`; then the refinements."""
        for member in self.attack.members or (self.attack,):
            self.member = member.name if self.attack.members else ""
            self._begin(member)
            for _ in range(self.attack.restarts if self.attack.members else 1):
                for leaf in member.leaves():
                    for _ in range(leaf.restarts):
                        if not self.round(leaf, start):
                            return
                        start = None
        self._refine()

    def _begin(self, member: Attack) -> None:
        """Forget what the members before have drawn and touched: it finds what it would find alone."""
        if not next(member.leaves()).warm:
            self.generator.manual_seed(self.generator.initial_seed())
            self.reached, self.touched = self.reached | self.touched, torch.zeros_like(self.touched)

    def _refine(self) -> None:
        """Bisect the limit of what succeeded, each attack starting from the smallest change known."""
        held, step = 0.0, self.budget.step or self.budget.eps / 64
        self.touched |= self.reached
        for _ in range(self.attack.refine):
            if not self.rank[0] or not (middle := middle_limit(held, -self.rank[1], step)):
                return
            before, leaf = self.rank, dataclasses.replace(self.best_leaf, eps=middle)
            delta = (self.best_x - self.x)[0].cpu().numpy()
            if not self.round(leaf, delta):
                return
            held = middle if self.rank == before else held

    def _limits(self, leaf: Attack) -> Budget:
        if (leaf.eps, leaf.norm) == (self.attack.eps, self.attack.norm):
            return self.budget
        device, visible = self.budget.region.device, self.budget.visible
        return Budget.of(self.case, leaf.limit, leaf.norm, device, visible)

    # ---- what a solver may ask

    def project(self, z: Tensor) -> Tensor:
        z = self.leaf.space.project(z.detach(), self.x, self.limits)
        return torch.where(self.touched, z, 0) if self._follows_voxels() else z

    def bounds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        free = dataclasses.replace(self.limits, eps=math.inf, norm="linf")
        far = (torch.full_like(z, -math.inf), torch.full_like(z, math.inf))
        low, high = (self.leaf.space.project(end, self.x, free) for end in far)
        return low, high

    def gradient(self, z: Tensor) -> tuple[float, Tensor]:
        z = z.detach().requires_grad_(True)
        total, gradient = 0.0, torch.zeros_like(z)
        for view in self.views:
            loss, slope = self._climbed(view, z)
            total, gradient = total + loss / len(self.views), gradient + slope / len(self.views)
        self.record(z.detach(), total)
        return self.usable.loss(total), gradient

    def single(self, z: Tensor, index: int) -> tuple[float, Tensor, bool]:
        view = self.views[index]
        loss, slope = self._climbed(view, z.detach().requires_grad_(True))
        return self.usable.loss(loss), slope, view.judge()[0] <= view.goal.threshold

    def _climbed(self, view: View, z: Tensor) -> tuple[float, Tensor]:
        """The objective of one view at z, and its gradient there."""
        x_adv = self.leaf.space.decode(z, view.x, self._of(view))
        self._keep(view, x_adv.detach())
        # Cut here, so that several models never hold their graphs at once.
        point = x_adv.detach().requires_grad_(True)
        view.watch(point)
        loss = self.leaf.objective(view, point, view.scene, self.progress)
        slope = self.usable.slope(torch.autograd.grad(loss, point)[0])
        if self.leaf.space.voxelwise:
            self.touched |= slope != 0
        view.scene = dataclasses.replace(view.scene, previous=Previous(point.detach(), slope))
        if not x_adv.requires_grad:  # a limit of 0 may leave nothing of z
            return float(loss.detach()), torch.zeros_like(z)
        return float(loss.detach()), without_undefined(torch.autograd.grad(x_adv, z, slope)[0])

    def value(self, z: Tensor) -> float:
        total = self._evaluate(z, self.limits.step)
        self.record(z.detach(), total)
        return self.usable.loss(total)

    def peek(self, z: Tensor) -> float:
        return self.usable.loss(self._evaluate(z, None))

    def memories(self) -> list[dict[str, Any]]:
        return [view.scene.memory for view in self.views]

    def _evaluate(self, z: Tensor, step: float | None) -> float:
        total = 0.0
        with torch.no_grad():
            for view in self.views:
                limits = dataclasses.replace(self._of(view), step=step)
                point = self.leaf.space.decode(z, view.x, limits)
                self._keep(view, point)
                view.watch(point)
                total += float(self.leaf.objective(view, point, view.scene, self.progress)) / len(self.views)
        return total

    @property
    def progress(self) -> float:
        return self.step / max(1, self.leaf.steps)

    # ---- the best so far

    def record(self, z: Tensor, loss: float) -> None:
        judged = [view.judge() for view in self.views]
        x_adv = self.point
        if x_adv is None:  # every view is of another scan
            with torch.no_grad():
                x_adv = self.leaf.space.decode(z, self.x, self.limits)
        delta = x_adv - self.x
        size, score = float(delta.abs().max()), float(np.mean([score for score, _ in judged]))
        finite, dice = self.usable.scores(size), _mean_dice([dice for _, dice in judged])
        now = Step(
            self.step,
            self.leaf.steps,
            self.rounds,
            loss if math.isfinite(loss) else None,
            score if finite else None,
            dice if finite else dict.fromkeys(dice),
            size,
            time.perf_counter() - self.started,
            self.member or None,
        )
        self.trace.append(now)
        self.succeeded = False
        if not finite:  # its labels are undefined, so it is no result
            return
        for by, value in (("loss", loss), ("score", -score)):
            # Of equals the latest has gone furthest.
            if math.isfinite(value) and (by not in self.tops or value >= self.tops[by][0]):
                self.tops[by] = (value, z)
        # A voxel whose gradient was never anything but 0 has no part in an attack that follows gradients; a point that
        # changes one, as a random start does, is no result. Nor is one beyond the limit, as a member's may be.
        if self._follows_voxels() and bool(((delta != 0) & ~self.touched).any()):
            return
        size = self.budget.size(delta) if self.attack.keep == "smallest" or self.attack.members else 0.0
        if self.limits is not self.budget and size > self.budget.eps * (1 + 1e-6):
            return
        self.succeeded = self.enough(now)
        sought = size if self.succeeded and self.attack.keep == "smallest" else 0.0
        rank = (self.succeeded, -sought, -score)
        if self.attack.members:
            self.members.setdefault(self.member, Member(self.member, now, rank, size)).note(now, rank, size)
        if self._beats(rank, now):
            self.best, self.best_x, self.best_leaf, self.rank = now, x_adv, self.leaf, rank

    def _beats(self, rank: Rank, now: Step) -> bool:
        """Whether a point is better than the best. Of equals the one that climbed its objective highest, for it lies
        deepest beyond the border and so carries over best to other models and to the saved file; the unchanged scan
        above all that do no more, so that an attack that failed leaves the file as it was."""
        if self.best is None:
            return rank[0] or (now.score is not None and now.score < UNHARMED) or now.linf == 0
        if rank != self.rank:
            return rank > self.rank
        same = self.best_leaf.objective is self.leaf.objective  # values of two losses can't be compared
        return same and self.best.linf > 0 and (now.loss or 0.0) > (self.best.loss or 0.0)

    def _keep(self, view: View, x_adv: Tensor) -> None:
        self.point = x_adv if view.budget is self.budget else None

    def _follows_voxels(self) -> bool:
        return self.leaf.uses_gradient and self.leaf.space.voxelwise

    def _of(self, view: View) -> Budget:
        """The limits on a view's own scan: those of the case, or its own where it is another scan."""
        return self.limits if view.budget is self.budget else view.budget

    def _reached(self, step: Step) -> bool:
        """By default: everything is lost, or, unless the worst is sought, the goal is reached, clearly."""
        if step.score is None or self.attack.keep == "worst":
            return step.score is not None and step.score <= 0
        goal = self.views[0].goal
        return step.score <= goal.threshold * (self.clean_score if goal.kind == "change" else 1.0) - SLACK

    def _clean(self, view: View) -> float:
        view.watch(view.x)
        return view.judge()[0]

    def through(self) -> float | None:
        """Share of the voxels with a part in the attack whose gradient passes the models; see `usable.passing`."""
        followed = self.usable.gradients > self.usable.flat and self.stopped is None
        if not followed or not self.attack.uses_gradient or any(view.budget is not self.budget for view in self.views):
            return None
        shares = [passing(view, self.reached | self.touched) for view in self.views]
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
    anything that hasn't, and ends a round that rests: by default, where the smallest change is sought, what has reached
    the goal's threshold; what seeks the worst goes on after all is lost. Raises BudgetViolated if what the attack made
    is outside its budget, InputError for an impossible budget or surrogate.
    """
    image, device, visible = case.image, victim.victim.device, victim.victim.visible
    budget = Budget.of(case, attack.limit, attack.norm, device, visible)
    generator = torch.Generator().manual_seed(seed)
    names = {value: name for name, value in victim.victim.labels.items()}
    if others:
        # Whatever the case holds: the same scans make the same perturbation for every case.
        aim = goal if goal.named else dataclasses.replace(goal, targets=tuple(victim.victim.structures.values()))
        views = views_of_others(others, surrogates or [victim], aim, names, attack.limit, attack.norm, generator)
    elif surrogates:
        views = [surrogate_view(model, case, goal, names, budget, generator) for model in surrogates]
    else:
        views = [View.of(victim, image, reference, goal, budget, generator)]
    state = _Run(attack, views, case, budget, generator, on_step, stop, enough)
    state.climb(start)
    x_adv = image.as_saved(state.best_x[0].cpu().numpy())
    budget.verify(torch.from_numpy(x_adv)[None], torch.from_numpy(np.require(image.data, None, ["C", "W"]))[None])
    follows = attack.uses_gradient and all(leaf.space.voxelwise for leaf in attack.leaves())
    through = state.through() if follows else None
    return Outcome(
        x_adv,
        x_adv - image.data,
        state.trace,
        state.best or Step(0, attack.steps, 0, None, 1.0, {}, 0.0, 0.0),  # stopped before the first look
        (state.reached | state.touched)[0].any(0).cpu().numpy() if follows else None,
        state.stopped,
        list(state.members.values()),
        state.usable.untested(through),
        state.usable.notes(through),
    )


def _mean_dice(found: list[dict[int, float | None]]) -> dict[int, float | None]:
    """Structure by structure over several views, of those that have a value."""
    if len(found) == 1:
        return found[0]
    known: dict[int, list[float]] = {value: [] for one in found for value in one}
    for one in found:
        for value, dice in one.items():
            known[value] += [] if dice is None else [dice]
    return {value: float(np.mean(dices)) if dices else None for value, dices in known.items()}
