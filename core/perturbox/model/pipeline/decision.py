"""From a network's scores to label values on the scan's grid, in the model's own order.

The order matters: softmax, then interpolation, then arg-max gives other labels than interpolating logits, or labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from perturbox.model.pipeline.plan import Plan
from perturbox.model.regrid import Regrid
from perturbox.types import InputError

FIELDS = {
    "softmax": (),
    "sigmoid": (),
    "inverse": ("mode", "keep"),
    "argmax": (),
    "threshold": ("above",),
    "paint": ("values",),
    "keep-largest": ("labels",),
    "values": ("map",),
}


@dataclass(frozen=True)
class Decision:
    """What follows the network, each an entry {"do": NAME, …}:

    softmax, sigmoid · inverse mode=linear|nearest keep=n: to the scan's grid, or (a first one) to where the pipeline is
    after its first n steps · argmax · threshold above=x: yes or no for each
    channel · paint values=[…]: each channel that says yes paints its value over those before · keep-largest
    labels=[…]: the largest part of each · values map={"channel": label value}.
    """

    order: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        for entry in self.order:
            do = entry.get("do")
            if do not in FIELDS:
                raise InputError(f"There is no decision '{do}'; there are {', '.join(FIELDS)}.")
            unknown = set(entry) - {"do", *FIELDS[do]}
            if unknown:
                raise InputError(f"The decision '{do}' has no field '{min(unknown)}'; correct it.")
            if do == "inverse" and entry.get("mode", "linear") not in ("linear", "nearest"):
                raise InputError(f"The decision 'inverse' knows no mode '{entry['mode']}'; choose linear or nearest.")
        keeps = [entry.get("keep", 0) for entry in self.order if entry["do"] == "inverse"]
        if len(set(keeps)) < len(keeps):
            raise InputError("The decision inverts to the scan's grid more than once; keep one 'inverse'.")
        if keeps and (keeps[-1] != 0 or keeps != sorted(keeps, reverse=True)):
            raise InputError("The decision doesn't end on the scan's grid; let its last 'inverse' keep no step.")

    def run(self, scores: Tensor, plan: Plan | Regrid) -> np.ndarray:
        """Scores "k *g" -> label values "*s"."""
        entries, y = list(self.order), scores
        left: Plan | Regrid | None = plan  # what of the way back is still to be gone
        while entries:
            entry = entries.pop(0)
            if entry["do"] != "inverse":
                y = _done(entry["do"], entry, y)
                continue
            assert left is not None
            keep, linear, part = int(entry.get("keep", 0)), entry.get("mode", "linear") == "linear", left
            left = None
            if keep:
                assert isinstance(part, Plan)
                left, part = part.parted(keep)
            if linear and entries and entries[0]["do"] == "argmax":
                y = torch.from_numpy(part.argmax_to_native(y))[None]
                entries.pop(0)
            else:
                assert isinstance(part, Plan)
                y = part.back(y.float()) if linear else part.back_labels(y)
        if isinstance(left, Plan):
            y = left.back_labels(y)
        # A model that interpolates label values leaves fractions of them.
        found = y[0].round() if y.is_floating_point() else y[0]
        labels = found.cpu().numpy()
        return labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.int16)

    def to_json(self) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self.order]


def _done(do: str, entry: Mapping[str, Any], y: Tensor) -> Tensor:
    if do == "softmax":
        return y.softmax(0)
    if do == "sigmoid":
        return y.sigmoid()
    if do == "argmax":
        return y.argmax(0, keepdim=True)
    if do == "threshold":
        return y > float(entry.get("above", 0.5))
    if do == "paint":
        labels = torch.zeros(y.shape[1:], dtype=torch.int64, device=y.device)
        for channel, value in zip(y, entry["values"], strict=True):
            labels[channel.bool()] = int(value)
        return labels[None]
    if do == "keep-largest":
        return _largest(y, [int(value) for value in entry["labels"]])
    table = {int(old): int(new) for old, new in entry["map"].items()}
    mapped = y.clone()
    for old, new in table.items():
        mapped[y == old] = new
    return mapped


def _largest(y: Tensor, values: list[int]) -> Tensor:
    """The largest part of each label, neighbours by faces, edges and corners, as MONAI keeps it."""
    labels = y[0].cpu().numpy().copy()
    for value in values:
        parts, count = ndimage.label(labels == value, np.ones((3,) * labels.ndim))  # type: ignore[misc]
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            labels[(labels == value) & (parts != sizes.argmax())] = 0
    return torch.from_numpy(labels)[None].to(y.device)
