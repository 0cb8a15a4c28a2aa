"""The mixtures that a model's pooled features follow on clean scans, and how far other features lie from them.

Features are pooled as in `model.pooling`. On clean scans the groups are the prediction's own; `fitting` fits a Gaussian
mixture to each layer and group. An attack then asks how far features of other voxels lie from them.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perturbox.attacks.mixture import Mixture
from perturbox.model.pooling import LEAST_VOXELS, Pool
from perturbox.types import InputError

SCHEMA = "perturbox-features/1"


@dataclass(frozen=True, eq=False)
class Features:
    """Mixtures of one model's features on clean scans, by (layer, group).

    victim, sha256: the model. window: voxels of its windows; cells: into how many they are cut along each axis. groups:
    their names. facts: how it was made, for the file.
    """

    victim: str
    sha256: str
    window: tuple[int, ...]
    cells: int
    groups: tuple[str, ...]
    mixtures: dict[tuple[str, int], Mixture]
    facts: dict[str, Any] = field(default_factory=dict)
    placed: dict[Any, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer for layer, _ in self.mixtures))

    def distance(self, features: dict[str, Tensor], masks: Tensor) -> tuple[Tensor, int]:
        """(sum over layers, groups and cells of mean (L_k^T (feature - mean_k))^2, how many these are) in windows of
        masks "n g *p"; k is the most probable component, chosen without gradient."""
        total, count, pool = masks.new_zeros(()), 0, Pool(masks, self.window, self.cells)
        for layer, maps in features.items():
            means, voxels = pool(maps)
            for group in range(len(self.groups)):
                found = means[:, group][voxels[:, group] >= LEAST_VOXELS]
                if len(found) and (layer, group) in self.mixtures:
                    total = total + self._apart(found, layer, group).sum()
                    count += len(found)
        return total, count

    def _apart(self, found: Tensor, layer: str, group: int) -> Tensor:
        """Mean squares "s" of samples "s c"."""
        offsets, centres, factors = self._tensors(layer, group, found)
        with torch.no_grad():
            each = ((found[:, None] - centres)[:, :, None] @ factors).square().sum((2, 3))
            likely = (offsets - 0.5 * each).argmax(1)
        return ((found - centres[likely])[:, None] @ factors[likely]).square().mean((1, 2))

    def _tensors(self, layer: str, group: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log weight + log det L, means, L of each component, where `like` lies."""
        key = (layer, group, like.dtype, like.device)
        if key not in self.placed:
            m = self.mixtures[layer, group]
            offsets = np.log(m.weights) + np.log(np.diagonal(m.factors, axis1=1, axis2=2)).sum(1)
            placed = [torch.from_numpy(part).to(like) for part in (offsets, m.means, m.factors)]
            self.placed[key] = (placed[0], placed[1], placed[2])
        return self.placed[key]

    # ---- the file

    def write(self, path: Path) -> None:
        """Write to `path`: safetensors, tensors and words only."""
        tensors = {}
        for (layer, group), mixture in self.mixtures.items():
            for name, array in vars(mixture).items():
                tensors[f"{layer}|{group}|{name}"] = torch.from_numpy(array.astype(np.float32))
        told = {
            "schema": SCHEMA, "victim": self.victim, "sha256": self.sha256, "window": self.window, "cells": self.cells,
            "groups": self.groups, **self.facts,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            save_file(tensors, part, metadata={key: json.dumps(value) for key, value in told.items()})
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "Features":
        """Read what `write` wrote; raises InputError where the file is missing, damaged or something else."""
        if not path.is_file():
            raise InputError(f"There is no file '{path}'; fit the features with `perturbox fit-features`.")
        try:
            with safe_open(path, framework="pt") as file:
                told = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
                parts: dict[tuple[str, int], dict[str, np.ndarray]] = {}
                for key in file.keys():  # noqa: SIM118  # not a mapping
                    layer, group, name = key.rsplit("|", 2)
                    parts.setdefault((layer, int(group)), {})[name] = file.get_tensor(key).double().numpy()
            if told.pop("schema", None) != SCHEMA:
                raise ValueError
            mixtures = {key: Mixture(**part) for key, part in sorted(parts.items())}
            names = [told.pop(name) for name in ("victim", "sha256", "window", "cells", "groups")]
            victim, sha256, window, cells, groups = names
            made = cls(victim, sha256, tuple(window), int(cells), tuple(groups), mixtures, told)
            made._check()
        except (SafetensorError, ValueError, TypeError, KeyError, OSError):
            raise InputError(
                f"'{path}' holds no features, or is damaged; fit them with `perturbox fit-features`."
            ) from None
        return made

    def _check(self) -> None:
        """Raise ValueError unless every mixture is one."""
        for (_, group), m in self.mixtures.items():
            count, width = m.means.shape
            shapes = m.weights.shape == (count,) and m.factors.shape == (count, width, width)
            finite = all(np.isfinite(part).all() for part in vars(m).values())
            positive = (m.weights > 0).all() and (np.diagonal(m.factors, axis1=1, axis2=2) > 0).all()
            if not (shapes and finite and positive and 0 <= group < len(self.groups) and self.cells > 0):
                raise ValueError
        if not self.mixtures:
            raise ValueError
