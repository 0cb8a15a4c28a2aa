"""What makes a model the one it was: its weights, and its pipeline in words."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def weights_sha256(network: nn.Module) -> str:
    """Hash of a network's weights and buffers: names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def described(value: Any) -> Any:
    """A part of a pipeline as plain JSON that tells it from another: of a function its name and its numbers."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **own}
    if isinstance(value, nn.Module):
        return {"type": type(value).__name__, "weights": weights_sha256(value)}
    if isinstance(value, Mapping):
        return {str(key): described(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [described(part) for part in value]
    owner = getattr(value, "__self__", None)
    code = getattr(value, "__code__", None)
    numbers = [n for n in getattr(code, "co_consts", ()) if isinstance(n, int | float)]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return {"function": name, "of": None if owner is None else described(owner), "numbers": numbers}


def identity(weights: str, source: str, pipeline: Mapping[str, Any]) -> str:
    """Hash of a model: of its weights, of the file they came from where the network can't tell, of its pipeline."""
    text = json.dumps({"weights": weights, "source": source, "pipeline": described(pipeline)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
