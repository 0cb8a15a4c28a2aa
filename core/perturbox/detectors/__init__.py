"""Detectors: can an attack be seen? One file per method; each is fitted on clean scans and gives a scan one number.

A detector looks at a model's features, pooled over each class it finds, at how sure the model is, or at how far dropout
moves it. Its score is differentiable with respect to the scan, so that an attack can be told to pass it.
"""

import importlib
import pkgutil
from functools import cache

from perturbox.detectors.method import Method
from perturbox.errors import InputError, did_you_mean

__all__ = ["Method", "discover", "get"]


@cache
def discover() -> dict[str, Method]:
    """All methods by name: every `Method` in a module of this package."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    kinds = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == module.__name__ and kind.title
    }
    found = {method.name: method for method in (kind() for kind in kinds)}
    return dict(sorted(found.items()))


def get(name: str) -> Method:
    """The method of that name; raises InputError that suggests a near one, or lists all."""
    known = discover()
    if name in known:
        return known[name]
    hint = did_you_mean(name, known, f"there are {', '.join(known)}.")
    raise InputError(f"Unknown detector '{name}'; {hint}")
