"""Patch: a visible box of free values, optimised so that it also works shifted, turned and brightened.

    p <- clip(p + alpha * sign(grad E_t [ L(f(A(x, t(p))), y) ])),   A pastes t(p) on the scan, t random

Brown et al. 2017, arXiv 1712.09665; the expectation over transformations is that of Athalye et al. 2018, arXiv
1707.07397.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Objective, Task, ascend
from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.on_scan import Costing
from perturbox.attacks.recipes import OwnBudget, Param, Settings, derived, recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.patch import Box, Patch, Place, window
from perturbox.model.victim import Victim
from perturbox.types import Case, InputError, Volume


@dataclass(frozen=True)
class Moved:
    """One draw of t. swaps: pairs of axes that change places, one after another; flips: axes that are reversed then;
    shift: voxels; lift: added to all values, as a share of the victim's window."""

    swaps: tuple[tuple[int, int], ...]
    flips: tuple[int, ...]
    shift: tuple[int, ...]
    lift: float

    @classmethod
    def draw(
        cls, size: tuple[int, ...], most: tuple[int, ...], turn: bool, brightness: float, generator: torch.Generator
    ) -> "Moved":
        """Axes equally long in voxels change places, and any axis is reversed, with probability 1/2: every turn by 90
        degrees and every mirror image that keeps the patch's shape. most: largest shift along each axis."""

        def coin() -> bool:
            return bool(torch.randint(2, (), generator=generator))

        axes = range(len(size))
        swaps = tuple((a, b) for a, b in combinations(axes, 2) if turn and size[a] == size[b] and coin())
        flips = tuple(a for a in axes if turn and coin())
        shift = tuple(int(torch.randint(-n, n + 1, (), generator=generator)) for n in most)
        return cls(swaps, flips, shift, brightness * (2 * float(torch.rand((), generator=generator)) - 1))

    def apply(self, patch: Tensor, budget: Budget) -> Tensor:
        """ "b c *p" turned and brightened, its values kept within the window."""
        for a, b in self.swaps:
            patch = patch.transpose(a + 2, b + 2)
        low, span = window(budget)
        return (patch.flip([a + 2 for a in self.flips]) + self.lift * span).clamp(low, low + span)

    def pasted(self, patch: Tensor, place: Place, clean: Tensor, budget: Budget) -> Tensor:
        """The scan with the moved patch in it."""
        x = clean.clone()
        x[place.moved(self.shift, clean.shape[2:]).slices] = self.apply(patch, budget)
        return x


def expected(objective: Objective, box: Box, samples: int, shift_mm: float, turn: bool, brightness: float) -> Objective:
    """The mean of an objective over `samples` fresh draws of t, with its gradient in the patch."""

    def over_transformations(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        assert task.clean is not None
        budget: Budget = model.budget
        place = box.on(budget)
        most = tuple(int(shift_mm / step) for step in budget.spacing)
        patch = x[place.slices]
        total = x.new_zeros(())
        for _ in range(samples):
            moved = Moved.draw(place.size, most, turn, brightness, task.generator)
            # One sample at a time, so that never more than one prediction is held: its gradient in the patch is all
            # that is kept of it.
            values = patch.detach().requires_grad_(x.requires_grad)
            loss = objective(model, moved.pasted(values, place, task.clean, budget), task, progress) / samples
            total = total + loss.detach()
            if x.requires_grad:
                (grad,) = torch.autograd.grad(loss, values)
                total = total + (grad * (patch - patch.detach())).sum()
        return total

    # Each further transformation costs a gradient, about three predictions; the scan itself is scored as well.
    return Costing(over_transformations, queries=3 * (samples - 1) + 1)


def check(victim: Victim, image: Volume, settings: Settings) -> None:
    """Raises InputError where the patch doesn't lie in the scan."""
    box = Box(settings["side"], _voxel(settings["centre"]))
    if box.centre is not None and len(box.centre) != image.dims:
        raise InputError(
            f"The patch's centre {settings['centre']} needs one number for each of the scan's {image.dims} axes."
        )
    box.require(Budget.of(Case(image), None))


def _voxel(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        raise InputError(f"The patch's centre '{text}' isn't understood; write whole numbers as 61,50,40.") from None


@recipe(
    title="Adversarial patch",
    paper="Brown et al. 2017, arXiv 1712.09665; Athalye et al. 2018, arXiv 1707.07397",
    norms=("linf",),
    cost="steps x samples forwards and backwards, (steps + 1) + samples forwards",
    space="patch",
    deviations=(
        "one patch for one scan, a box in mm in volumes; its values stay in the victim's window and the scan's range",
        "turned by 90 degrees, mirrored, shifted and brightened; not scaled or turned by other angles",
        "signed steps from what lies there, a loss averaged over the voxels that matter",
    ),
    family="patch",
    check=check,
    own=OwnBudget("side", "edge of the patch; its values are free"),
    steps=100,
)
def patch(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    side: Annotated[float, Param("Edge of the patch", unit="mm", minimum=0)] = 30.0,
    centre: Annotated[str, Param("Its middle voxel, as 61,50,40; that of the region if not given", unit="voxels")] = "",
    samples: Annotated[int, Param("Transformations per step", minimum=1, maximum=1000)] = 4,
    shift: Annotated[float, Param("Largest shift along each axis", unit="mm", minimum=0)] = 6.0,
    turn: Annotated[bool, Param("Turn it by 90 degrees and mirror it")] = True,
    brightness: Annotated[
        float, Param("Largest change of brightness, as a share of the window", minimum=0, maximum=1)
    ] = 0.1,
    loss: LossName = "dice-ce",
    alpha: Annotated[
        float, Param("Step size, as a share of the window; 2.5 / steps if not given", minimum=0)
    ] = derived(lambda s: 2.5 / s["steps"]),
) -> Attack:
    """Signed ascent on a patch's values, in expectation over transformations."""
    box = Box(side, _voxel(centre))
    return Climb(
        expected(ascend(LOSSES[loss]), box, samples, shift, turn, brightness),
        Patch(box),
        Ascent(chain(sign(), scale(alpha))),
        eps,
        norm,
        steps,
    )
