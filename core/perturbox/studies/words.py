"""Limits, intervals and counts of a study as its sentences and tables write them."""

from perturbox.judge.summary import unit_named
from perturbox.studies.plan import Plan

UNITS = {"native": "in the scan's unit", "sigma": "times each scan's noise", "percent": "% of each scan's 1–99 % range"}
MEANS = "mean Dice of the structures"


def limit(plan: Plan, eps: float, unit: str | None = None) -> str:
    """A limit with its unit, that of `eps` if not given: "10 HU", "4 intensity units", "2 σ", "4 % of range"."""
    return f"{eps:g} {unit_of(plan, unit)}"


def unit_of(plan: Plan, unit: str | None = None) -> str:
    """What limits are counted in: "HU", "intensity units", "σ" or "% of range"."""
    unit = unit or plan.study.eps.unit
    native = unit_named(next(iter(plan.models.values())).unit)
    return {"native": native, "sigma": "σ", "percent": "% of range"}[unit]


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """ " [0.4, 0.5]", nothing where there is none."""
    return "" if low is None or high is None else f" [{signless(low, digits)}, {signless(high, digits)}]"


def signless(value: float, digits: int = 2) -> str:
    """A number whose zero has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def counted(n: int, what: str, many: str = "") -> str:
    """ "1 model", "3 models"; many: the plural, where an s doesn't make it."""
    return f"{n:,} {what if n == 1 else many or what + 's'}"


def patients(n: int) -> str:
    """ "6 patients"."""
    return counted(n, "patient")
