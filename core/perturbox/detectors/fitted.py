"""A fitted detector: its score of a scan, what that means, and its file, which holds tensors and words only."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perturbox.detectors import get
from perturbox.detectors.method import INSIDE, Layout, Method
from perturbox.detectors.seen import MASKS, Asked, Sample, fingerprint, look_at, require_seen, valued
from perturbox.model.pooling import group_names
from perturbox.model.victim import BoundVictim, Victim
from perturbox.types import InputError, Volume

SCHEMA, TOLD = "perturbox-detector/1", "detector"
LEAST_CASES = 10  # clean patients below which no threshold is told
AGAIN = "fit one with `perturbox fit-detector`."


@dataclass(frozen=True)
class Detection:
    """What a detector says of a scan. raw: the method's own number; score: how far it lies from that of clean scans;
    fires: whether the score is above the threshold; percentile: the share of the clean scans it was fitted on whose
    score isn't higher; alarms: the share of clean scans like those that is to be expected to fire. side: whether the
    scan fits better or worse than they do. fitted_on: whether it is one of them, and so fits better than any other.
    note: what one has to know of the scans it was fitted on, a sentence."""

    detector: str
    title: str
    victim: str
    raw: float
    score: float
    threshold: float
    fires: bool
    percentile: float
    clean: int
    alarms: float
    side: str
    fitted_on: bool = False
    note: str = ""

    @property
    def sentence(self) -> str:
        """What it comes to, in a sentence or two."""
        return f"{self._said} {self.note}".strip()

    @property
    def _said(self) -> str:
        known = f"{self.percentile:.0f} % of the {self.clean} clean scans it was fitted on score no higher"
        said = f"score {self.score:.2f}, threshold {self.threshold:.2f}; {known}"
        if self.fitted_on:
            return f"The detector was fitted on this very scan, so it can't say whether it looks attacked ({said})."
        if not self.fires:
            return f"The detector doesn't fire ({said}). That proves nothing: an attack that knows of it may pass it."
        odd = f" This scan fits {self.side} than they do." if self.side else ""
        return f"The detector fires ({said}). About {100 * self.alarms:.1f} % of clean scans like those do too.{odd}"

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {**vars(self), "sentence": self.sentence}


@dataclass(frozen=True)
class Scale:
    """What raw numbers are measured by. centre: the median of those of clean scans; spread: their median deviation as a
    standard deviation, or that itself where more than half agree; 0 and 1 of a method that looks one way."""

    centre: float
    spread: float
    two_sided: bool

    @classmethod
    def of(cls, method: Method, clean: np.ndarray) -> "Scale":
        if not method.two_sided:
            return cls(0.0, 1.0, False)
        centre = float(np.median(clean))
        return cls(centre, 1.4826 * float(np.median(np.abs(clean - centre))) or float(clean.std()) or 1.0, True)

    def of_raw(self, raw: Any) -> Any:
        """The score of a raw number, of floats, arrays and tensors alike."""
        score = (raw - self.centre) / self.spread
        return abs(score) if self.two_sided else score


@dataclass(frozen=True, eq=False)
class Detector:
    """A method fitted on one model.

    victim, sha256: the model; groups: its classes; layout: the sizes of its samples. parts: the method's, float64.
    clean: raw numbers of the clean scans, each from a fit without its patient; rate: the false alarm rate wanted.
    facts: how it was made.
    """

    method: Method
    victim: str
    sha256: str
    groups: tuple[str, ...]
    layout: Layout
    parts: Mapping[str, Tensor]
    clean: np.ndarray
    rate: float
    facts: dict[str, Any] = field(default_factory=dict)

    # ---- its score

    @cached_property
    def asked(self) -> Asked:
        """What it looks at."""
        sees = self.method.sees
        return Asked(tuple(self.layout.layers), sees == "outputs", MASKS if sees == "dropout" else 0, sees == "joint")

    @cached_property
    def scale(self) -> "Scale":
        return Scale.of(self.method, self.clean)

    @property
    def centre(self) -> float:
        """The raw number of a clean scan, their median."""
        return self.scale.centre

    @property
    def spread(self) -> float:
        """How far the raw numbers of clean scans lie apart."""
        return self.scale.spread

    def of_raw(self, raw: Any) -> Any:
        """The score of a raw number, of floats, arrays and tensors alike."""
        return self.scale.of_raw(raw)

    @cached_property
    def clean_scores(self) -> np.ndarray:
        """Of the clean scans, sorted."""
        return np.sort(self.of_raw(self.clean))

    @cached_property
    def threshold(self) -> float:
        """Above it the detector fires: so high that a clean scan like those it was fitted on passes it with the rate
        wanted or less, and the highest of them where there are too few to say that."""
        return float(self.clean_scores[min(self._place, len(self.clean)) - 1])

    @property
    def note(self) -> str:
        """What one has to know of the scans it was fitted on."""
        return self.facts.get("note", "")

    @property
    def _place(self) -> int:
        """The rank of the threshold among the clean scores: a new score is as likely to lie between any two of them."""
        return math.ceil((1 - self.rate) * (len(self.clean) + 1) - 1e-9)

    @property
    def alarms(self) -> float:
        """The share of clean scans that is to be expected above the threshold."""
        n = len(self.clean)
        return (n + 1 - min(self._place, n)) / (n + 1)

    def score(self, bound: BoundVictim, x: Tensor) -> Tensor:
        """The score of x "1 c *s", a scalar, differentiable; which voxels are of which class counts as constant."""
        return self.of_raw(valued(bound, x, self.asked, self._raw)).to(x.dtype)

    def _raw(self, sample: Sample) -> Tensor:
        parts = self._on(sample.present.device)
        for layer, channels in self.layout.pooled(self.asked.joint).items():
            if sample.features[layer].shape != (self.layout.groups, channels):
                raise InputError(f"The detector knows another layer '{layer}' than the model has; fit it again.")
        if sample.outputs is not None and len(sample.outputs) != self.layout.outputs:
            raise InputError("The detector knows another number of classes than the model has; fit it again.")
        return self.method.raw(parts, sample)

    def _on(self, device: torch.device) -> Mapping[str, Tensor]:
        return {name: part.to(device) for name, part in self.parts.items()}

    def check(self, victim: Victim) -> None:
        """Raises InputError where it was fitted on another model."""
        if not victim.is_the_one(self.sha256):
            raise InputError(
                f"This detector was fitted on another model ({self.victim}) than {victim.name}, or on other weights of "
                "it; fit it on this one with `perturbox fit-detector`."
            )
        require_seen(victim, self.asked)
        modules = dict(victim.network.named_modules())
        if self.groups != group_names(victim) or any(layer not in modules for layer in self.layout.layers):
            raise InputError(f"This detector knows other layers or classes than {victim.name} has; fit it again.")

    def detect(self, victim: Victim, scan: Volume) -> Detection:
        """What it says of a scan. Raises InputError for another model than its own, and for a scan of which it can't
        say anything."""
        self.check(victim)
        raw = float(self._raw(look_at(victim, scan, self.asked)))
        score = float(self.of_raw(raw))
        side = ("worse" if raw > self.centre else "better") if self.method.two_sided else ""
        percentile = 100.0 * float(np.mean(self.clean_scores <= score))
        seen = fingerprint(scan) in self.facts.get("scans", ())
        known = (self.threshold, score > self.threshold, percentile, len(self.clean), self.alarms, side, seen)
        return Detection(self.method.name, self.method.title, self.victim, raw, score, *known, note=self.note)

    # ---- its file

    def write(self, path: Path | str) -> None:
        """Write to `path`: safetensors, tensors and words only."""
        path = Path(path)
        tensors = {f"part|{name}": part.cpu().double().contiguous() for name, part in self.parts.items()}
        tensors["clean"] = torch.from_numpy(np.ascontiguousarray(self.clean, np.float64))
        told = {
            "schema": SCHEMA, "method": self.method.name, "victim": self.victim, "sha256": self.sha256,
            "groups": self.groups, "layers": dict(self.layout.layers), "outputs": self.layout.outputs,
            "rate": self.rate, "facts": self.facts,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            save_file(tensors, part, metadata={TOLD: json.dumps(told)})  # one entry: several have no fixed order
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path | str) -> "Detector":
        """Read what `write` wrote; raises InputError where the file is missing, damaged or something else."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"There is no detector '{path}'; {AGAIN}")
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {})[TOLD])
                # Copies lie in memory as those of a fit do, so that sums of them are the same to the last bit.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  # not a mapping
            if told.pop("schema", None) != SCHEMA:
                raise ValueError
            return _made(told, tensors)
        except InputError as error:
            raise InputError(f"'{path}' can't be used: {error}") from None
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
            raise InputError(f"'{path}' holds no detector, or is damaged; {AGAIN}") from None


def _made(told: dict[str, Any], tensors: dict[str, Tensor]) -> Detector:
    """What a file holds, checked; raises ValueError, TypeError or KeyError where it is no detector."""
    method, groups, layers = get(told["method"]), tuple(told["groups"]), told["layers"]
    layout = Layout({str(name): _whole(channels) for name, channels in layers.items()}, len(groups), told["outputs"])
    parts = {key[5:]: tensor for key, tensor in tensors.items() if key.startswith("part|")}
    clean, rate = tensors["clean"], float(told["rate"])
    words = [told["victim"], told["sha256"], *groups]
    if not all(isinstance(word, str) for word in words) or not groups or not isinstance(told["facts"], dict):
        raise ValueError
    if not isinstance(told["facts"].get("scans"), list) or not isinstance(told["facts"].get("note", ""), str):
        raise ValueError
    if len(parts) + 1 != len(tensors) or bool(layers) != (method.sees in INSIDE) or _whole(layout.outputs) < 0:
        raise ValueError
    if any(tensor.dtype != torch.float64 or not torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError
    if clean.dim() != 1 or len(clean) < LEAST_CASES or not 0 < rate < 1:
        raise ValueError
    _require_shapes(parts, method.shapes(layout))
    method.require(parts)
    return Detector(method, told["victim"], told["sha256"], groups, layout, parts, clean.numpy(), rate, told["facts"])


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def _require_shapes(parts: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | str, ...]]) -> None:
    """Raises ValueError unless these are the parts, with these shapes."""
    sizes: dict[str, int] = {}
    if set(parts) != set(shapes):
        raise ValueError
    for name, shape in shapes.items():
        if parts[name].dim() != len(shape):
            raise ValueError
        for size, wanted in zip(parts[name].shape, shape, strict=True):
            if size != (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted) or size < 1:
                raise ValueError
