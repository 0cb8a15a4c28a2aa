"""What a limit means on one scan: in its own unit (HU on CT), in its own noise, or in percent of its range.

MR has no unit, so that a number of its intensities says nothing; its noise and its range do. This is the one place that
turns either into the scan's own unit, in which every change is made, stored and measured.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from perturbox.attacks.budget import padding_of
from perturbox.defaults import UNITS
from perturbox.types import InputError, Volume

NATIVE, SIGMA, PERCENT = UNITS


def check_unit(unit: str, eps: float | None, norm: str = "linf", name: str = "eps") -> None:
    """Raises InputError for a unit that isn't known, and for one that says nothing about this limit."""
    if unit not in UNITS:
        raise InputError(f"Unknown unit '{unit}' of {name}; choose {', '.join(UNITS[:-1])} or {UNITS[-1]}.")
    if unit == NATIVE:
        return
    if eps is None:
        raise InputError(f"The limit's unit is {unit}, but there is no limit; give {name} too.")
    if norm == "l0":
        raise InputError(f"With norm l0, {name} is a share of the voxels and has no unit; leave {unit} out.")


def value_range(image: Volume) -> float:
    """The distance between the 1st and 99th percentile of a scan's values, padding aside."""
    low, high = np.percentile(image.data[~padding_of(image)], [1, 99])
    return float(high - low)


def one_of(unit: str, image: Volume, noise: Mapping[str, Any] | None = None) -> float:
    """What 1 of `unit` is in the scan's own unit; noise: what `scan_noise` says of the scan, needed for sigma.

    Raises InputError where the scan has none, with the unit that works.
    """
    if unit == NATIVE:
        return 1.0
    if unit == PERCENT:
        if one := value_range(image) / 100:
            return one
        raise InputError(
            "The 1st and 99th percentile of the scan's values are the same, so percent of its range means nothing; "
            f"give the limit in native{_from(image.step)}."
        )
    assert noise is not None
    if noise["sigma"]:
        return float(noise["sigma"])
    why = noise["region"].removeprefix("not available: ") if noise["sigma"] is None else "it is 0"
    raise InputError(
        f"This scan's noise can't be measured ({why}), so a limit in sigma means nothing; give it in {_others(image)}."
    )


def ones_of(unit: str, image: Volume, noise: Mapping[str, Any] | None = None) -> tuple[float, ...]:
    """`one_of` each channel of a scan whose channels are files of their own."""
    ones = []
    for number, part in enumerate(image.split()):
        own = None if noise is None else {**noise, "sigma": (noise.get("channels") or [noise["sigma"]])[number]}
        try:
            ones.append(one_of(unit, part, own))
        except InputError as error:
            raise InputError(f"Channel {number}: {error}") from None
    return tuple(ones)


def require_room_for_a_step(eps: float, image: Volume, unit: str = NATIVE, one: float = 1.0) -> None:
    """Raises InputError where the file can't store any change as small as eps, which is in the scan's own unit; unit,
    one: what the limit was given in, and what 1 of it is."""
    step = image.step or 0.0
    if not 0 < eps < step * (1 - 1e-6):
        return
    own = f" {image.unit}" if image.unit == "HU" else ""
    asked, least = f"{eps:g}{own}", f"{step:g}"
    if unit != NATIVE:
        asked, least = f"{eps / one:.4g} {unit} ({eps:.3g}{own})", f"{_least(step, one)} {unit}"
    raise InputError(
        f"The scan's file stores steps of {step:g}{own}, so it can't hold any change up to {asked}; "
        f"set the limit (eps) to {least} or more, or give a scan with finer steps."
    )


def _others(image: Volume) -> str:
    """The units that work where sigma doesn't, with the least value of each."""
    own = f"native{_from(image.step)}"
    one = value_range(image) / 100
    if not one:
        return own
    at = f"{_least(image.step, one)} or more; " if image.step else ""
    return f"percent ({at}1 % of its range is {one:.3g}) or {own}"


def _from(step: float | None) -> str:
    return f" ({step:g} or more)" if step else ""


def _least(step: float, one: float) -> str:
    """A step in a unit, rounded up to three digits."""
    digits = 2 - math.floor(math.log10(step / one))
    return f"{math.ceil(step / one * 10**digits - 1e-9) / 10**digits:.{max(0, digits)}f}"
