"""How much may change, in the scan's own units: the norm ball, the region of interest, the valid range and the file's
steps. A space with a budget of its own has no ball unless the user asked for one: its eps is infinite.

`project` makes a perturbation feasible; `verify` is independent of it and refuses a result that isn't. The runner calls
`verify` on whatever an attack returned, so no attack grades itself.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from perturbox.types import FINEST, Case, InputError, Volume

Norm = Literal["linf", "l2", "l0"]
NORMS: tuple[str, ...] = get_args(Norm)
TINY = 1e-30
NOTHING_MEASURED = -1500  # HU
DEEPEST = 2**16
AIR = -1000.0


class BudgetViolated(RuntimeError):
    """An attack returned a perturbation outside its budget."""


def padding_mask(data: np.ndarray, unit: str = "HU") -> np.ndarray:
    """bool, shape of `data`: voxels outside the scanner's field of view, which are never changed.

    Scanners fill them with one constant at or below air: a plateau of more than 1 % of the voxels at the scan's
    minimum, if that is at most -1000 HU. What resampling made of such a plateau stands out from the air above it and
    has values below it too. Of a CT, values below -1500 HU are always padding, because nothing measured is.
    """
    lowest = data.min()
    if lowest > -1000:
        return np.zeros(data.shape, dtype=bool)
    beyond = data < NOTHING_MEASURED if unit == "HU" else np.zeros(data.shape, dtype=bool)
    plateau = data == lowest
    if plateau.mean() > 0.01:
        return plateau | beyond
    deep = np.rint(-data[data <= -1000]).astype(np.int64) - 1000  # HU below -1000
    counts = np.bincount(np.minimum(deep, DEEPEST), minlength=DEEPEST + 1)
    top = int(counts.argmax())
    around = counts[max(0, top - 20) : top + 21].sum() - counts[top]
    if counts[top] > 0.01 * data.size and counts[top] > 10 * around:
        return beyond | (data < -1000 - top + 0.5)
    return beyond


def padding_of(image: Volume) -> np.ndarray:
    """`padding_mask` of a scan "c *s", channel by channel where these are files of their own."""
    if not image.files:
        return padding_mask(image.data, image.unit)
    unit = image.files[0].unit
    return np.stack([padding_mask(channel, unit) for channel in image.native])


@dataclass(frozen=True, eq=False)
class Budget:
    """The set of allowed perturbations of x "b c *s".

    eps: limit in the scan's unit for linf (largest change of any voxel) and l2 (RMS change over the region), a fraction
    of the region's voxels for l0; infinite where nothing but the space itself limits the change. region: bool
    "1 1 *s"; only these voxels may change. clip: valid range of values, the source's own. step: the file's storage step
    (1 HU for integer CT), None for floating point. spacing: mm along the scan's axes, for spaces measured in mm.
    visible: the range of values that the victim tells apart (its intensity window), the source's own where it has none.
    padding: bool "1 c *s", voxels outside the scanner's field of view; None where there are none. ends, steps: clip and
    step of each channel, "1 c 1 …", where these are files of their own and differ. air:
    what stands in place of padding.
    """

    eps: float
    norm: Norm
    region: Tensor
    clip: tuple[float, float]
    step: float | None = None
    spacing: tuple[float, ...] = ()
    visible: tuple[float, float] | None = None
    padding: Tensor | None = None
    ends: tuple[Tensor, Tensor] | None = None
    steps: Tensor | None = None
    air: float | Tensor = AIR

    @classmethod
    def of(
        cls,
        case: Case,
        eps: float | None,
        norm: Norm = "linf",
        device: torch.device | str = "cpu",
        visible: tuple[float, float] | None = None,
    ) -> "Budget":
        """The budget for one case: its region of interest without padding, its range, its storage step; eps None: no
        ball.

        Raises InputError for a negative or undefined eps, an unknown norm and an empty region.
        """
        if norm not in NORMS:
            raise InputError(f"Unknown norm '{norm}'; choose one of {', '.join(NORMS)}.")
        if eps is None:
            eps, norm = math.inf, "linf"
        elif not (np.isfinite(eps) and eps >= 0):
            raise InputError(f"eps must be a number of at least 0, not {eps}.")
        if norm == "l0" and eps > 1:
            raise InputError(f"With norm l0, eps is a fraction of voxels between 0 and 1, not {eps}.")
        image = case.image
        padding = padding_of(image)
        region = ~padding.all(0)
        if case.roi is not None:
            region &= case.roi
        if not region.any():
            raise InputError("The region of interest holds no voxel that may change; draw it inside the scan.")
        clip = (float(image.data.min()), float(image.data.max()))
        where = torch.from_numpy(region)[None, None].to(device)
        outside = torch.from_numpy(padding)[None].to(device) if padding.any() else None
        limits = cls(float(eps), norm, where, clip, image.step, image.spacing, visible or clip, outside)
        if not image.files:
            return limits

        def channels(values: np.ndarray) -> Tensor:
            return torch.from_numpy(image.by_channel(values)).to(device, torch.float32)[None]

        flat = image.data.reshape(len(image.data), -1)
        steps = image.steps
        return dataclasses.replace(
            limits,
            # The model's range is in the files' own unit.
            visible=clip if image.ones else limits.visible,
            ends=(channels(flat.min(1)), channels(flat.max(1))),
            steps=channels(steps) if isinstance(steps, np.ndarray) else None,
            air=channels(AIR / np.array(image.ones)) if image.ones else AIR,
        )

    def span(self) -> tuple[Any, Any]:
        """`low` and `high` as they go with an image "c *s" in NumPy."""
        if self.ends is None:
            return self.clip
        low, high = (end[0].cpu().numpy() for end in self.ends)
        return low, high

    @property
    def low(self) -> float | Tensor:
        """The lowest valid value, of each channel where they differ."""
        return self.clip[0] if self.ends is None else self.ends[0]

    @property
    def high(self) -> float | Tensor:
        """The highest, as `low`."""
        return self.clip[1] if self.ends is None else self.ends[1]

    @property
    def count(self) -> int:
        """Number of voxels that may change."""
        return int(self.region.sum())

    @property
    def width(self) -> float:
        """Of the range of values that the victim tells apart: the 1 of papers whose images go from 0 to 1."""
        low, high = self.visible or self.clip
        return high - low or 1.0

    def project(self, delta: Tensor, x: Tensor) -> Tensor:
        """An allowed perturbation close to delta, case by case: region, valid range, then the norm ball (a scaling
        towards 0, a clamp or the largest entries, none of which leaves the range). What is allowed already stays as it
        is."""
        delta = torch.where(self.region, delta, 0)
        delta = torch.minimum(torch.maximum(delta, self.low - x), self.high - x)
        if self.norm == "linf":
            return delta.clamp(-self.eps, self.eps)
        if self.eps < TINY:
            return torch.zeros_like(delta)
        if self.norm == "l2":
            size = self.rms(delta)
            if not bool((size > self.eps).any()):  # also because a root has no gradient at 0
                return delta
            # A hair inside the ball, so that rounding neither leaves it nor makes a second projection differ.
            return delta * torch.where(size > self.eps, self.eps * (1 - 1e-6) / size.clamp_min(TINY), 1.0)
        allowed = int(self.eps * self.count * delta.shape[1])
        flat = delta.flatten(1)
        if allowed == 0:
            return torch.zeros_like(delta)
        kept = torch.zeros_like(flat).scatter_(1, flat.abs().topk(min(allowed, flat.shape[1]), dim=1).indices, 1.0)
        return (flat * kept).view_as(delta)

    def without_padding(self, x: Tensor) -> Tensor:
        """x with air where it is padding, for changes that carry a voxel's value to its neighbours."""
        if self.padding is None:
            return x
        return x.masked_fill(self.padding, AIR) if isinstance(self.air, float) else x.where(~self.padding, self.air)

    def quantise(self, delta: Tensor) -> Tensor:
        """Round to the file's steps so that the budget holds and the file stores exactly this: towards the source, or,
        where the RMS is limited, up or down so that it stays that of delta. What lies on the steps stays as it is.

        The scan lies on the steps too; if it didn't, rounding up could leave its range.
        """
        if self.step is None:
            return delta
        if self.steps is None:
            return self._rounded(delta, self.step)
        each = zip(delta.split(1, 1), self.steps.flatten().tolist(), strict=True)
        return torch.cat([self._rounded(part, step) if step > 2 * FINEST else part for part, step in each], 1)

    def _rounded(self, delta: Tensor, step: float) -> Tensor:
        # 0.3 HU are three steps of 0.1 although float32 makes 2.9999998 of them.
        whole = torch.trunc(delta / step * (1 + 1e-6))
        if self.norm == "l2":
            whole = torch.stack([_of_equal_size(*pair) for pair in zip(delta / step, whole, strict=True)])
        return whole * step

    def rms(self, delta: Tensor) -> Tensor:
        """Root mean square of delta over the region, "b 1 ..." (all voxels of all channels of one case)."""
        total = delta.flatten(1).double().square().sum(1)
        rms = (total / (self.count * delta.shape[1])).sqrt()
        return rms.to(delta.dtype).view(-1, *[1] * (delta.dim() - 1))

    def size(self, delta: Tensor) -> float:
        """The norm of one case's perturbation that this budget limits."""
        return self.measure(delta)[self.norm]

    def measure(self, delta: Tensor) -> dict[str, float]:
        """The norms of one case's perturbation: linf and l2 (RMS) in its unit, l0 as a fraction of the region."""
        return {
            "linf": float(delta.abs().max()),
            "l2": float(self.rms(delta).max()),
            "l0": float((delta != 0).sum() / (self.count * delta.shape[1])),
        }

    def verify(self, x_adv: Tensor, x: Tensor) -> None:
        """Raise BudgetViolated if x_adv leaves the norm ball, the region or the valid range, or isn't finite; knows
        nothing of `project`."""
        if x_adv.shape != x.shape:
            raise BudgetViolated(f"The scan of shape {tuple(x.shape)} became one of shape {tuple(x_adv.shape)}.")
        delta = (x_adv.double() - x.double()).cpu()
        if not bool(delta.isfinite().all()):
            raise BudgetViolated("A voxel is no finite number any more.")
        region = self.region.cpu()
        if bool((delta[~region.expand_as(delta)] != 0).any()):
            raise BudgetViolated("A voxel outside the region of interest changed.")
        low, high = self.clip
        # What float32 resolves at the scan's largest value (2.4e-4 HU at 3000); anything beyond that is a real
        # violation.
        slack = max(abs(low), abs(high)) * torch.finfo(torch.float32).eps
        least, most = (end.cpu() if isinstance(end, Tensor) else end for end in (self.low, self.high))
        beyond = (x_adv.cpu() < least - slack) | (x_adv.cpu() > most + slack)
        if bool((beyond & (delta != 0)).any()):
            raise BudgetViolated(f"A changed voxel left the scan's own range [{low:g}, {high:g}].")
        for case in delta:
            found = {
                "linf": case.abs().max(),
                "l2": (case.square().sum() / (self.count * case.shape[0])).sqrt(),
                "l0": (case != 0).sum() / (self.count * case.shape[0]),
            }[self.norm]
            limit = self.eps * (1 + 1e-6) + (0 if self.norm == "l0" else slack)
            if float(found) > limit:
                raise BudgetViolated(
                    f"The perturbation measures {float(found):g} in {self.norm}, above the limit {self.eps:g}."
                )


def _of_equal_size(exact: Tensor, low: Tensor) -> Tensor:
    """`exact` in whole numbers of at most its root mean square; low: the same, rounded towards 0.

    Rounding all towards 0 would leave a third of 0.5 steps RMS. What is left of the squares is spent on rounding voxels
    away from 0, in the order of what each adds to the product with `exact` for its square.
    """
    left = float(exact.double().square().sum() - low.double().square().sum())
    price = 2 * low.abs() + 1
    # Of equals not those that come first in the scan: the golden ratio's multiples spread them evenly.
    spread = (torch.arange(exact.numel(), device=exact.device, dtype=torch.float64) * 0.6180339887498949).frac()
    worth = (exact.abs() / price).flatten() + 1e-4 * spread.to(exact)
    worth[(exact.abs() - low.abs()).flatten() < 1e-5] = 0  # on a step already
    order = worth.argsort(descending=True)
    order = order[worth[order] > 0]
    bought = order[price.flatten()[order].double().cumsum(0) <= left * (1 + 1e-9)]
    up = torch.zeros_like(low).flatten()
    up[bought] = 1
    return low + up.view_as(low) * exact.sign()


def middle_limit(held: float, broken: float, step: float) -> float | None:
    """The next limit to try between one that held and one that broke, on multiples of the file's step; None where none
    is left between them. Both the search for the margin and attacks that refine their answer bisect with it."""
    middle = step * math.floor((held + broken) / 2 / step + 1e-6)
    return middle if held + 1e-6 < middle < broken - 1e-6 else None
