"""What an attack is: a `Climb`, which is an objective, a space, a solver and a limit, or several attacks together,
`Composed`. `runner` runs it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.on_scan import Model, Objective, Task, ascend, buffers_of, queries_of
from perturbox.attacks.solvers import Solver
from perturbox.attacks.spaces import Space
from perturbox.model.victim import Victim, as_input
from perturbox.types import Case

__all__ = ["Attack", "Climb", "Composed", "Model", "Objective", "Task", "ascend", "random_draw"]

# What is best: the worst score, the first point that reaches the goal, or the smallest change that does.
Keep = Literal["worst", "first", "smallest"]


class Attack(ABC):
    """What a climb and an attack made of others have in common.

    eps: infinite where the space alone limits the change. floor: the score it is after: all points below it are
    equally good, and of equals the one that climbed the objective highest is kept. refine: attacks with ever smaller
    limits, by bisection, that the climb that succeeded gets in the end.
    """

    eps: float
    norm: Norm
    keep: Keep
    floor: float = 0.0
    refine: int = 0

    @abstractmethod
    def leaves(self) -> Iterator["Climb"]:
        """The climbs that are run one after another."""

    @property
    def uses_gradient(self) -> bool:
        """Whether any part of it needs the model's gradient."""
        return any(leaf.solver.uses_gradient for leaf in self.leaves())

    @property
    def rounds(self) -> int:
        """How often something starts: restarts of all leaves, and refinements at most."""
        return sum(leaf.restarts for leaf in self.leaves()) + self.refine

    @property
    def limit(self) -> float | None:
        """eps, None for no ball."""
        return self.eps if math.isfinite(self.eps) else None


@dataclass(frozen=True)
class Climb(Attack):
    """Steps of a solver up an objective, through a space, within a limit.

    stop_on_success: whether a start ends as soon as it has reached the goal (keeping the worst, only where the caller
    says what is enough). warm: in an attack made of others, start at the best point of the climb before: where the
    objective was highest ("loss"), or where the score was lowest ("score").
    """

    objective: Objective
    space: Space
    solver: Solver
    eps: float
    norm: Norm = "linf"
    steps: int = 20
    restarts: int = 1
    keep: Keep = "worst"
    stop_on_success: bool = True
    floor: float = 0.0
    warm: Literal["loss", "score"] | None = None

    def leaves(self) -> Iterator["Climb"]:
        yield self

    @property
    def queries(self) -> int:
        """Predictions per step beside the one with its gradient."""
        return self.solver.queries + queries_of(self.objective)

    @property
    def buffers(self) -> int:
        """Tensors as large as the prediction that its objective holds at once, for the estimate of memory."""
        return buffers_of(self.objective)


@dataclass(frozen=True)
class Composed(Attack):
    """Attacks by name, run one after another, each as if it were alone; what they find counts where it lies within
    eps."""

    members: Mapping[str, Attack]
    eps: float
    norm: Norm = "linf"
    keep: Keep = "worst"
    floor: float = 0.0
    refine: int = 0

    def leaves(self) -> Iterator[Climb]:
        for member in self.members.values():
            yield from member.leaves()


def random_draw(attack: Attack, case: Case, victim: Victim) -> Callable[[int], np.ndarray] | None:
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
