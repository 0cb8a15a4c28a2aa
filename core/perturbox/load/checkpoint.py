"""Weights from files: read as data, never as code."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from perturbox.types import InputError

_scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]
_array: Any = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
# NumPy's numbers and arrays, under their names in NumPy 1 too; torch reads them without running anything else.
PLAIN: list[Any] = [
    *(_scalar, (_scalar, "numpy.core.multiarray.scalar")),
    *(_array, (_array, "numpy.core.multiarray._reconstruct"), np.ndarray),
    *(np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType),
]


def read_checkpoint(path: Path) -> Any:
    """What torch.save wrote, tensors and plain containers alone; NumPy's scalars, which nnU-Net logs, are plain too.

    Raises InputError for a file that is missing, damaged, or holds anything else: such a pickle would run code.
    """
    if not path.is_file():
        raise InputError(f"There are no weights at '{path}'; copy the model's whole folder.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"'{path}' is no readable safetensors file ({error}); copy it again.") from None
    try:
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = next((line for line in str(error).splitlines() if "GLOBAL" in line), "")
        named = found.partition("GLOBAL ")[2].split(" ")[0].strip(".`'")
        what = f" ({named})" if named else ""
        raise InputError(
            f"'{path}' holds more than weights{what}, which could run code when loaded; save its state_dict alone."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"'{path}' is no readable checkpoint ({reason}); copy it again.") from None


def state_of(found: Any, path: Path, keys: tuple[str, ...] = ("model", "state_dict", "net", "network_weights")) -> Any:
    """The state dict in what a checkpoint holds: itself, or under one of the usual keys."""
    for key in keys:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"'{path}' holds no state_dict; save the network's state_dict().")
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in found):
            found = {key[len(prefix) :]: value for key, value in found.items()}
    return dict(found)


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state strictly; raises InputError in one sentence where the checkpoint is another network's."""
    own = network.state_dict()
    missing, extra = [k for k in own if k not in state], [k for k in state if k not in own]
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the network lacks"
        raise InputError(f"'{path}' is of another network: it {what}; use the checkpoint of this one.")
    wrong = next((k for k in own if own[k].shape != state[k].shape), None)
    if wrong is not None:
        raise InputError(
            f"'{path}' is of another network: '{wrong}' has shape {tuple(state[wrong].shape)} there and "
            f"{tuple(own[wrong].shape)} here; use the checkpoint of this one."
        )
    network.load_state_dict(state)


def read_json(path: Path) -> Any:
    """Raises InputError where there is no such file, or no JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no '{path}'; copy the model's whole folder.") from None
    except (ValueError, OSError) as error:
        raise InputError(f"'{path}' can't be read ({error}); correct it or copy it again.") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
