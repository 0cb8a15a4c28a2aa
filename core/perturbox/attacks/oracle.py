"""Where gradients come from: autograd, a stand-in for steps that have none (BPDA), or estimates from values alone.

`Oracle` is what a solver may ask about a point; the runner answers. An `Estimator` makes a gradient of a few values,
for attacks that can't open the model (`solvers.estimated` plugs one into any solver). `rounded` and its kin stand in
for the steps of real pipelines that have no gradient: forward they compute the step itself, backward the gradient of
something close to it (`model.bpda`). Athalye, Carlini & Wagner 2018, arXiv 1802.00420; Shukla et al. 2023, doi
10.1007/s11042-023-15575-8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.model.bpda import bpda


def _unbounded(z: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(z, -torch.inf), torch.full_like(z, torch.inf)


@dataclass(frozen=True)
class Oracle:
    """What a solver may ask about a point z.

    gradient, value: the objective with its gradient, or alone; both count as a look: the point is scored, traced and
    may become the answer. peek: the objective at any point, feasible or not; never kept as a result.
    project: z made allowed. succeeded: whether the last look reached the goal. memories: `Task.memory` of every model,
    where an objective leaves what its solver needs beside the gradient, such as multipliers. bounds: the lowest and the
    highest values that voxels may take whatever the norm's limit, for voxelwise spaces. models: how many views of scans
    the objective is the mean of; single: of one of them, the objective with its gradient and whether the goal is
    reached there; no look.
    """

    gradient: Callable[[Tensor], tuple[float, Tensor]]
    value: Callable[[Tensor], float]
    peek: Callable[[Tensor], float]
    project: Callable[[Tensor], Tensor]
    succeeded: Callable[[], bool]
    memories: Callable[[], list[dict[str, Any]]] = list
    bounds: Callable[[Tensor], tuple[Tensor, Tensor]] = _unbounded
    models: int = 1
    single: Callable[[Tensor, int], tuple[float, Tensor, bool]] | None = None


# ---------------------------------------------------------------- steps without a gradient


def rounded(x: Tensor, step: float = 1.0) -> Tensor:
    """x on multiples of `step`, as saving in whole HU does; backward the identity."""
    return bpda(torch.round(x / step) * step, x)


def thresholded(x: Tensor, threshold: float, softness: float = 1.0) -> Tensor:
    """1 where x lies above the threshold, else 0; backward a sigmoid that rises within about `softness`."""
    return bpda((x > threshold).to(x), ((x - threshold) / softness).sigmoid())


def chosen_class(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The one-hot arg-max of logits "b k *g"; backward a softmax of that temperature."""
    hard = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1)
    return bpda(hard, (logits / temperature).softmax(1))


def resampled_nearest(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x "b c *s" on a grid of another shape by the nearest voxel; backward linear interpolation."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    return bpda(F.interpolate(x, shape, mode="nearest-exact"), F.interpolate(x, shape, mode=mode, align_corners=False))


def cleaned(onehot: Tensor, clean_up: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """One-hot labels "b k *g" after a clean-up of label maps "*g", such as keeping the largest component; backward the
    identity."""
    labels = onehot.detach().argmax(1).cpu().numpy()
    after = torch.from_numpy(np.stack([np.asarray(clean_up(one)).astype(np.int64) for one in labels]))
    return bpda(F.one_hot(after.to(onehot.device), onehot.shape[1]).movedim(-1, 1), onehot)


# ---------------------------------------------------------------- gradients from values


class Estimator(Protocol):
    """init(z, budget, generator) -> state; gradient(oracle, z, state) -> (value, estimate, state); may only `peek`.

    queries: values it asks for per gradient.
    """

    @property
    def queries(self) -> int: ...

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Any: ...

    def gradient(self, oracle: Oracle, z: Tensor, state: Any) -> tuple[float, Tensor, Any]: ...


def coarse_shape(z: Tensor, edge: int) -> tuple[int, ...]:
    """The shape of one value per block of `edge` voxels along each axis of z, and channel."""
    return (*z.shape[:2], *[-(-n // edge) for n in z.shape[2:]])


def blockwise(values: Tensor, z: Tensor, edge: int) -> Tensor:
    """Values of a `coarse_shape`, repeated over their blocks: shaped like z."""
    for axis, n in enumerate(z.shape[2:], start=2):
        values = values.repeat_interleave(edge, axis).narrow(axis, 0, n)
    return values.to(z)


@dataclass(frozen=True)
class Antithetic:
    """Differences over pairs of opposite random directions: mean of u (J(z + sigma u) - J(z - sigma u)) / (2 sigma).

    directions: "gaussian" is NES (Ilyas et al. 2018, arXiv 1804.08598), "sign" is SPSA (Spall 1992; Uesato et al. 2018,
    arXiv 1802.05666). sigma: in the units of z. coarse: directions are constant over blocks of so many voxels along
    each axis, which needs fewer queries where the model sees no single voxel.
    """

    pairs: int
    sigma: float
    directions: str = "gaussian"
    coarse: int = 1

    @property
    def queries(self) -> int:
        return 2 * self.pairs

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> torch.Generator:
        return generator

    def gradient(self, oracle: Oracle, z: Tensor, state: torch.Generator) -> tuple[float, Tensor, torch.Generator]:
        total, values = torch.zeros_like(z), 0.0
        for _ in range(self.pairs):
            u = self._direction(z, state)
            ahead, behind = oracle.peek(z + self.sigma * u), oracle.peek(z - self.sigma * u)
            total += u * ((ahead - behind) / (2 * self.sigma))
            values += (ahead + behind) / 2
        return values / self.pairs, total / self.pairs, state

    def _direction(self, z: Tensor, generator: torch.Generator) -> Tensor:
        draw = torch.randn(coarse_shape(z, self.coarse), generator=generator)
        if self.directions == "sign":
            draw = draw.sign()
        return blockwise(draw, z, self.coarse)
