"""Training against attacks: what takes the place of the loss in anybody's training loop, one class per method."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from perturbox.hardening.losses import divergence, guided_complement_entropy
from perturbox.hardening.overfitting import Overfitting
from perturbox.hardening.training import Free, Frequency, Hardening, LabelFree, Loss, Pgd
from perturbox.types import InputError

__all__ = ["METHODS", "Hardening", "Overfitting", "divergence", "guided_complement_entropy", "harden"]

METHODS: dict[str, Callable[..., Hardening]] = {
    "pgd": Pgd,
    "fast": partial(Pgd, steps=1, alpha=1.25),
    "free": Free,
    "frequency": Frequency,
    "label-free": LabelFree,
}


def harden(method: str, loss: Loss, eps: float, **settings: Any) -> Hardening:
    """What a training loop calls in place of its loss: `harden("pgd", loss, eps=10.0)(network, x, y)`.

    method: "pgd", "fast", "free", "frequency" or "label-free". loss: the loop's own, of (what the network returns, y).
    eps: the limit in the unit of x. settings: those of the method's class, among them `prepare`, from x to the
    network's input, for loops that load scans in their own unit. Raises InputError for unknown methods and settings.
    """
    if method not in METHODS:
        raise InputError(f"Unknown method '{method}'; there are {', '.join(METHODS)}.")
    try:
        return METHODS[method](loss, eps, **settings)
    except TypeError:
        made = METHODS[method]
        known = [one.name for one in fields(made.func if isinstance(made, partial) else made) if one.init]  # type: ignore[arg-type]
        wrong = [name for name in settings if name not in known]
        if not wrong:
            raise
        takes = ", ".join(name for name in known if name not in ("loss", "eps"))
        raise InputError(f"'{method}' has no setting '{wrong[0]}'; it takes {takes}.") from None
