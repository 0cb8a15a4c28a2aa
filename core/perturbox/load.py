"""From a victim's name or file to a `Victim`: the built-in models, and any Python object that is or makes one."""

import dataclasses
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path

import torch

from perturbox import zoo
from perturbox.model.victim import Victim
from perturbox.types import InputError


def load_victim(spec: str, device: str = "cpu") -> Victim:
    """The victim a user named: a built-in one ("ct-organs"), or "model.py:name" - a Victim, or a function (device) ->
    Victim, in a Python file of the user's own. Such a file is code and runs with the user's rights.

    Raises InputError for unknown names, files and objects, and for a device this machine lacks.
    """
    place = check_device(device)
    if runs_code(spec):
        return _from_python(spec, place)
    if spec in zoo.BUILT_IN:
        return zoo.BUILT_IN[spec](place)
    near = get_close_matches(spec.lower(), zoo.BUILT_IN, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(zoo.BUILT_IN)}, or FILE.py:NAME."
    raise InputError(f"Unknown victim '{spec}'; {hint}")


def runs_code(spec: str) -> bool:
    """Whether loading the victim of that name runs code that isn't perturbox's."""
    return ".py:" in spec


def check_device(device: str) -> torch.device:
    """The torch device of that name; raises InputError if this machine has no such device."""
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f"Unknown device '{device}'; use cpu or cuda.") from None
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"Device '{device}' isn't supported; use cpu or cuda.")
    if place.type == "cuda" and not (torch.cuda.is_available() and (place.index or 0) < torch.cuda.device_count()):
        raise InputError(f"This machine has no device '{device}'; use --device cpu.")
    return place


def _from_python(spec: str, device: torch.device) -> Victim:
    file, _, name = spec.rpartition(":")
    path = Path(file)
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
