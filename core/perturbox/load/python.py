"""A victim from a Python file of the user's own: an object, or a function that makes it."""

import dataclasses
import importlib.util
import sys

import torch

from perturbox.load.spec import Spec
from perturbox.model.victim import Victim
from perturbox.types import InputError


def load(spec: Spec, device: torch.device, trust: bool = False) -> Victim:
    """The Victim of that name in a file; naming a program is trust enough."""
    path, file, name = spec.path, str(spec.path), spec.name
    if not path.is_file():
        raise InputError(f"There is no Python file '{file}'; give FILE.py:NAME.")
    module_spec = importlib.util.spec_from_file_location(f"perturbox_victim_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    try:
        module_spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if callable(found) and not isinstance(found, Victim):
            found = found(device)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[module_spec.name]
        raise InputError(
            f"'{file}' could not be run ({type(error).__name__}: {error}); fix the error and try again."
        ) from error
    if not isinstance(found, Victim):
        raise InputError(f"'{name}' in '{file}' is no Victim nor a function that returns one; see docs/victims.md.")
    return found if found.device == device else dataclasses.replace(found, device=device)
