"""What an attack is: an objective, a space, a solver and a budget, or several attacks together. `runner` runs it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.solvers import Solver
from perturbox.attacks.spaces import Space
from perturbox.attacks.view import Objective, Scene, climb
from perturbox.model.victim import Victim, as_input
from perturbox.types import Case, Volume

__all__ = ["Attack", "Objective", "Scene", "climb", "compose", "own_draw"]


@dataclass(frozen=True)
class Attack:
    """A composed attack. parameters: everything a replay needs; uses_gradient: False for attacks that only look.

    eps: infinite where the space alone limits the change. keep: what is best, the "worst" score, the "first" that
    reaches the goal or the "smallest" change that does. rests: whether a round ends as soon as it has reached the goal
    (keeping the worst, only where the caller says what is enough). queries: predictions per step beside the one with
    its gradient. members: the attacks it is made of, run one after another, each as if it were alone; a `warm` one
    starts at the best point of the one before: where the objective was highest, or where the score was lowest
    (`warm_by`). refine: attacks with ever smaller limits, by bisection, that the one that succeeded gets in the end.
    check: refuses, with an InputError, victims and scans it can't work with. crafted_on: files other than the case,
    for a universal attack: scans, or what `make_scans` makes them of: (victim, case, what was read, generator) ->
    scans. buffers: tensors as large as the prediction that its objective holds at once, for the estimate of memory.
    """

    name: str
    objective: Objective
    space: Space
    solver: Solver
    eps: float
    norm: Norm = "linf"
    steps: int = 20
    restarts: int = 1
    uses_gradient: bool = True
    parameters: dict[str, Any] = field(default_factory=dict)
    keep: Literal["worst", "first", "smallest"] = "worst"
    rests: bool = True
    queries: int = 0
    members: tuple["Attack", ...] = ()
    warm: bool = False
    warm_by: Literal["loss", "score"] = "loss"
    refine: int = 0
    check: Callable[[Victim, Volume], None] | None = None
    crafted_on: tuple[str, ...] = ()
    make_scans: Callable[[Victim, Volume, Sequence[Volume], torch.Generator], Sequence[Volume]] | None = None
    buffers: int = 4

    def leaves(self) -> Iterator["Attack"]:
        """The attacks that are run one after another: itself, or those of its members."""
        for _ in range(self.restarts if self.members else 1):
            for member in self.members:
                yield from member.leaves()
        if not self.members:
            yield self

    def parts(self) -> Iterator["Attack"]:
        """Itself, its members and theirs."""
        yield self
        for member in self.members:
            yield from member.parts()

    @property
    def rounds(self) -> int:
        """How often something starts: restarts of all leaves, and refinements at most."""
        return sum(leaf.restarts for leaf in self.leaves()) + self.refine

    @property
    def limit(self) -> float | None:
        """eps, None for no ball."""
        return self.eps if math.isfinite(self.eps) else None


def compose(name: str, members: Sequence[Attack], eps: float, norm: Norm = "linf", **changes: Any) -> Attack:
    """An attack made of others; what they find counts where it lies within eps."""
    leaves = [leaf for member in members for leaf in member.leaves()]
    first = leaves[0]
    settings = {
        "steps": max(leaf.steps for leaf in leaves),
        "uses_gradient": any(leaf.uses_gradient for leaf in leaves),
    }
    own = (name, first.objective, first.space, first.solver, eps, norm)
    return Attack(*own, members=tuple(members), **(settings | changes))


def own_draw(attack: Attack, case: Case, victim: Victim) -> Callable[[int], np.ndarray] | None:
    """(seed) -> a random point of the attack's own space, as large as its budget allows and not aimed, "c *s" as the
    file will hold it; None for additive attacks, to which noise is the same."""
    leaf = next(attack.leaves())
    if leaf.space.voxelwise:
        return None
    budget = Budget.of(case, attack.limit, attack.norm, victim.device, victim.visible)
    x = as_input(case.image, victim.device)

    def draw(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            x_adv = leaf.space.decode(leaf.space.draw(x, budget, generator), x, budget)
        return case.image.as_saved(x_adv[0].cpu().numpy())

    return draw
