"""One step of a pipeline: what it is told, what it becomes on one scan, and its words in a sidecar file.

A `Step` is a description, the same for every scan. `Step.plan` binds it to one scan's geometry: shapes, boxes and
matrices are fixed then, so that the bound step is a plain differentiable function. What a step takes from the values
themselves (a mean, a percentile) stays a function of them and is differentiated.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from perturbox.types import InputError

# linear and affine: the same map everywhere. clip: flat beyond a range. statistic: depends on values of the whole scan.
# straight-through: has no useful derivative, so that of the identity stands in. opaque: differentiated by its own code.
Kind = Literal["linear", "affine", "clip", "statistic", "straight-through", "opaque"]


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the values lie that a step is given: spatial shape, affine (index -> RAS, mm), and the mask "*s" of the
    foreground if a step before has found one."""

    shape: tuple[int, ...]
    affine: np.ndarray
    mask: Tensor | None = None

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm between voxels along each axis."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0)[: len(self.shape)])


class Bound(ABC):
    """A step on one scan's geometry. As it stands here it leaves every voxel where it is.

    before, after: the frames of what goes in and comes out. order: axis k of what comes out is axis order[k] of what
    goes in.
    """

    def __init__(self, before: Frame, after: Frame, kind: Kind, sentence: str):
        self.before, self.after, self.kind, self.sentence = before, after, kind, sentence
        self.order = tuple(range(len(before.shape)))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """ "b c *s" -> "b c *t", differentiable."""

    def exact(self, x: Tensor) -> Tensor:
        """The framework's own bits, for the judge; no gradient is asked of it."""
        return self.forward(x)

    def back(self, scores: Tensor) -> Tensor:
        """Scores "k *t" -> "k *s", as the framework inverts them."""
        return scores

    def back_labels(self, labels: Tensor) -> Tensor:
        """Labels "1 *t" -> "1 *s", as the framework inverts label values."""
        return labels

    def nearest(self, labels: Tensor) -> Tensor:
        """Labels or a mask "*s" -> "*t" by the nearest voxel, for losses and their weights."""
        return labels

    def reach(self, used: Tensor) -> Tensor:
        """Which voxels "*s" have any weight in the voxels "*t" that are used."""
        return used


class Pointwise(Bound):
    """A bound step that changes values and nothing of the grid."""

    def __init__(self, frame: Frame, kind: Kind, sentence: str, function: Callable[[Tensor], Tensor]):
        super().__init__(frame, frame, kind, sentence)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


STEPS: dict[str, type["Step"]] = {}


@dataclass(frozen=True)
class Step(ABC):
    """A step as it is described, in Python and (by its fields) in JSON."""

    name: ClassVar[str] = ""
    needs_values: ClassVar[bool] = False
    """Whether its plan depends on the scan's values."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            STEPS[cls.name] = cls

    @abstractmethod
    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        """The step on one scan. x: its values "1 c *s" at this place, where `needs_values`."""

    @property
    def visible(self) -> tuple[float, float] | None:
        """The range of values beyond which the step tells nothing apart, None where there is none."""
        return None

    @property
    def keeps_values(self) -> bool:
        """Whether the step passes values on as they are, so that a range named by a later step is in the same unit."""
        return False

    def to_json(self) -> dict[str, Any]:
        """As a sidecar file has it: the step's name and its fields."""
        return {"step": self.name, **asdict(self)}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Raises InputError for a field the step doesn't have, or lacks."""
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(given) - known)
        if unknown:
            have = f"it has {', '.join(sorted(known))}" if known else "it has none"
            raise InputError(f"The step '{cls.name}' has no field '{unknown[0]}'; {have}.")
        try:
            return cls(**{name: _tuple(value) for name, value in given.items()})
        except TypeError:
            missing = [n for n in sorted(known) if n not in given]
            raise InputError(f"The step '{cls.name}' needs the field '{missing[0]}'; add it.") from None


def step_from(given: Any) -> Step:
    """The step of one entry of a sidecar's list. Raises InputError for what is none."""
    if not isinstance(given, Mapping) or not isinstance(given.get("step"), str):
        raise InputError(f'{given!r} is no step; write {{"step": NAME, …}} with a NAME of {", ".join(sorted(STEPS))}.')
    name = given["step"]
    if name not in STEPS:
        raise InputError(f"There is no step '{name}'; there are {', '.join(sorted(STEPS))}.")
    return STEPS[name].from_json({key: value for key, value in given.items() if key != "step"})


def _tuple(value: Any) -> Any:
    return tuple(_tuple(part) for part in value) if isinstance(value, list) else value


def spatial(mask: Tensor, axis: int) -> Tensor:
    """bool "*s" -> bool along one axis: whether any voxel there is set."""
    others = [a for a in range(mask.dim()) if a != axis]
    return mask.any(dim=others) if others else mask


def box_of(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box that holds all voxels of a mask; the whole grid where the mask is empty."""
    if not mask.any():
        return tuple(slice(0, n) for n in mask.shape)
    found = [torch.nonzero(spatial(mask, axis)).flatten() for axis in range(mask.dim())]
    return tuple(slice(int(where[0]), int(where[-1]) + 1) for where in found)
