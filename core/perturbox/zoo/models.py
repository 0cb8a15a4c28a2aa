"""The built-in models: how each is built, what it expects, where its weights lie."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from perturbox.zoo.materials import CLASSES
from perturbox.zoo.network import ResUNet

WEIGHTS = Path(__file__).parent / "weights"
FILTERS = Path(__file__).parent / "filters"  # weights of defences
DETECTORS = Path(__file__).parent / "detectors"  # fitted ones, in a folder for each model


@dataclass(frozen=True)
class Model:
    """A built-in model; geometry is RAS, spacing in mm, intensities in HU."""

    name: str
    dims: int
    channels: tuple[int, ...]
    window: tuple[int, ...]
    """Sliding window in voxels of `spacing`."""
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)
    hu_range: tuple[float, float] = (-250.0, 350.0)
    """HU clipped to this range and mapped to [-1, 1] is the network's input."""
    labels: tuple[str, ...] = CLASSES

    def build(self) -> ResUNet:
        """The untrained network."""
        return ResUNet(self.dims, 1, len(self.labels), self.channels)

    def normalise(self, hu: Tensor) -> Tensor:
        """Network input of HU, any shape; differentiable inside the range, flat outside."""
        low, high = self.hu_range
        return (hu.clamp(low, high) - low) * (2 / (high - low)) - 1


MODELS = {
    model.name: model
    for model in (
        Model("ct-organs", dims=3, channels=(8, 16, 32, 64, 144), window=(128, 112, 64)),
        Model("ct-organs-hardened", dims=3, channels=(8, 16, 32, 64, 144), window=(128, 112, 64)),
        Model("ct-organs-2d", dims=2, channels=(16, 32, 64, 112, 176), window=(128, 112)),
    )
}


def save_weights(model: Model, state: dict[str, Tensor], path: Path, **facts: object) -> None:
    """Write a state as float16 safetensors, with the model's description and `facts` about its making as metadata."""
    described = {
        "model": model.name,
        "dims": model.dims,
        "channels": model.channels,
        "labels": model.labels,
        "orientation": "RAS",
        "spacing_mm": model.spacing,
        "hu_range": model.hu_range,
        "window": model.window,
        **facts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()}
    part = path.with_name(path.name + ".part")
    save_file(half, part, metadata={key: json.dumps(value) for key, value in described.items()})
    part.replace(path)


def read_metadata(path: Path) -> dict[str, object]:
    """The description in a weights file."""
    with safe_open(path, framework="pt") as file:
        return {key: json.loads(value) for key, value in (file.metadata() or {}).items()}


def load_network(name: str, path: Path | None = None) -> ResUNet:
    """A built-in network in eval mode, float32, gradients to its weights off; from `path` or the shipped weights."""
    network = MODELS[name].build()
    state = load_file(path or WEIGHTS / f"{name}.safetensors")
    network.load_state_dict({key: value.float() for key, value in state.items()})
    return network.eval().requires_grad_(False)
