"""FILE.ts, FILE.pt2 or FILE.safetensors with FILE.json beside it, which says in a pipeline's words all that the file
doesn't: labels, window, steps and decision."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbox.load.architecture import network_from
from perturbox.load.checkpoint import file_sha256, fill, read_checkpoint, read_json, state_of
from perturbox.load.spec import Spec
from perturbox.model.pipeline import Decision, Pipeline, step_from
from perturbox.model.victim import Victim
from perturbox.model.windows import Window
from perturbox.model.wrappers import AsLogits
from perturbox.types import InputError

SCHEMA = "perturbox-victim/1"
TEXTS = ("name", "title", "unit", "licence", "intended_use", "training_data", "limits")
KEYS = {"schema", "labels", "regions", "window", "steps", "decision", "dims", "channels", "output", "network", *TEXTS}


class Exported(nn.Module):
    """A program of torch.export, which refuses to be told that it is in eval mode already."""

    def __init__(self, program: nn.Module):
        super().__init__()
        self.program = program
        for module in self.modules():
            module.training = False

    def train(self, mode: bool = True) -> "Exported":
        return self

    def forward(self, x: torch.Tensor) -> Any:
        return self.program(x)


def load(spec: Spec, device: torch.device, trust: bool = False) -> Victim:
    """The victim of a file and its sidecar. Raises InputError for what is missing or doesn't fit."""
    path, beside = spec.path, spec.path.with_suffix(".json")
    if not path.is_file():
        raise InputError(f"There is no model file '{path}'; name one that is there.")
    if not beside.is_file():
        raise InputError(
            f"'{path}' needs '{beside.name}' beside it, which names its labels, window and steps; "
            f"`perturbox victim sidecar {path}` writes a first one to edit."
        )
    told = read_sidecar(beside)
    network = _network(path, told, trust)
    if told.get("output", "logits") != "logits":
        network = AsLogits(network, told["output"] == "sigmoid")
    texts: dict[str, Any] = {"name": path.stem} | {key: str(told[key]) for key in TEXTS if key in told}
    return Victim(
        network=network,
        labels=told["labels"],
        regions=told.get("regions"),
        window=_window(told["window"], beside),
        pipeline=Pipeline(tuple(step_from(entry) for entry in told.get("steps", ()))),
        decision=Decision(tuple(told["decision"])) if told.get("decision") else None,
        dims=int(told.get("dims", len(told["window"]["size"]))),
        channels=int(told.get("channels", 1)),
        source_sha256=file_sha256(path),
        device=device,
        **texts,
    )


def read_sidecar(path: Path) -> dict[str, Any]:
    """A sidecar's contents, its keys checked."""
    told = read_json(path)
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        raise InputError(f'\'{path}\' isn\'t a sidecar of this version; its "schema" must be "{SCHEMA}".')
    unknown = sorted(set(told) - KEYS)
    if unknown:
        raise InputError(f"'{path}' has the unknown entry '{unknown[0]}'; there are {', '.join(sorted(KEYS))}.")
    for key in ("labels", "window"):
        if not isinstance(told.get(key), dict) or not told[key]:
            raise InputError(f"'{path}' lacks \"{key}\"; add it (docs/victims.md has an example).")
    if not isinstance(told["window"].get("size"), list):
        raise InputError(
            f"'{path}' lacks the window's \"size\"; give the voxels per axis the network was trained with."
        )
    if told.get("output", "logits") not in ("logits", "probabilities", "sigmoid"):
        raise InputError(f"'{path}' has the output '{told['output']}'; choose logits, probabilities or sigmoid.")
    for key in ("steps", "decision"):
        if not isinstance(told.get(key, []), list):
            raise InputError(f"'{path}' has \"{key}\" that is no list; write a list of entries.")
    return told


def _window(given: Mapping[str, Any], path: Path) -> Window:
    try:
        return Window(**{**given, "size": tuple(given["size"])})
    except TypeError:
        unknown = sorted(set(given) - set(Window.__dataclass_fields__))
        raise InputError(f"'{path}': a window has no '{', '.join(unknown)}'; correct it.") from None


def _network(path: Path, told: Mapping[str, Any], trust: bool) -> nn.Module:
    if path.suffix == ".safetensors":
        if not isinstance(told.get("network"), dict):
            raise InputError(
                f"'{path}' holds weights alone; name their network in the sidecar, such as \"network\": "
                '{"_target_": "UNet", …}.'
            )
        network = network_from(told["network"], f"the sidecar of '{path}'")
        fill(network, state_of(read_checkpoint(path), path), path)
        return network.requires_grad_(False)
    if path.suffix == ".ts":
        if not trust:
            raise InputError(f"'{path}' is TorchScript, a program that would run here; add --trust if you trust it.")
        try:
            return torch.jit.load(path, map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"'{path}' is no TorchScript ({str(error).splitlines()[0]}); save it again.") from None
    try:
        return Exported(torch.export.load(path).module())
    except Exception as error:  # a damaged archive fails in many ways
        raise InputError(
            f"'{path}' is no exported program ({type(error).__name__}); save it by torch.export."
        ) from None


def first_sidecar(spec: Spec, trust: bool = False) -> dict[str, Any]:
    """A first sidecar to edit: what the file itself tells, and a guess for the rest. Raises InputError for others."""
    path = spec.path
    if spec.kind != "file" or not path.is_file():
        raise InputError(f"A sidecar belongs to a FILE.ts, FILE.pt2 or FILE.safetensors, not to '{path}'; name one.")
    if path.suffix == ".safetensors":
        state = state_of(read_checkpoint(path), path)
    else:
        state = _network(path, {}, trust).state_dict()
    kernels = [value for value in state.values() if value.dim() in (4, 5)]
    dims = kernels[0].dim() - 2 if kernels else 3
    # The narrowest layers are most likely the first and the last; a kernel turned round has its widths swapped.
    classes = min((int(kernel.shape[0]) for kernel in kernels if kernel.shape[0] > 1), default=2)
    names = ["background", *(f"structure_{k}" for k in range(1, classes))]
    made: dict[str, Any] = {
        "schema": SCHEMA,
        "name": path.stem,
        "labels": {name: value for value, name in enumerate(names)},
        "channels": min((int(kernel.shape[1]) for kernel in kernels), default=1),
        "dims": dims,
        "unit": "HU",
        "output": "logits",
        "window": {"size": [96] * dims, "overlap": 0.5, "blend": "gaussian", "batch": 1},
        "steps": [
            {"step": "orient", "to": "RAS"},
            {"step": "spacing", "mm": [1.5] * dims},
            {"step": "range", "low": -160, "high": 240, "to": [0, 1], "clip": True},
        ],
        "decision": [{"do": "softmax"}, {"do": "inverse", "mode": "linear"}, {"do": "argmax"}],
    }
    if path.suffix == ".safetensors":
        made["network"] = {"_target_": "UNet", "spatial_dims": dims, "in_channels": made["channels"],
                           "out_channels": classes, "channels": [16, 32, 64], "strides": [2, 2]}  # fmt: skip
    return made


def write_sidecar(spec: Spec, trust: bool = False) -> Path:
    """Write `first_sidecar` beside the file; raises InputError where there is one already."""
    beside = spec.path.with_suffix(".json")
    made = first_sidecar(spec, trust)
    if beside.exists():
        raise InputError(f"'{beside}' is there already; edit it, or remove it first.")
    beside.write_text(json.dumps(made, indent=1) + "\n")
    return beside
