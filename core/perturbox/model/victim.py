"""A victim is a network together with everything a clinic's pipeline does around it.

`Victim.on(scan)` binds it to one scan's grid. The bound victim is a differentiable function from native voxels (HU) to
logits on the network's grid: its pipeline of steps, then the sliding window. `Victim.predict` is the ordinary,
non-differentiable inference on the same pieces, with the way back to the scan and the decision: it alone judges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from perturbox.model.finite import UndefinedScores
from perturbox.model.identity import identity, weights_sha256
from perturbox.model.pipeline import Decision, Pipeline, Plan
from perturbox.model.regrid import Regrid
from perturbox.model.sliding import Inside, Window, sliding_window_with
from perturbox.model.windows import Grid
from perturbox.model.wrappers import Folds
from perturbox.types import Effort, InputError, Undefined, Volume

# What of a victim makes it the model it is, beside its weights.
AROUND = ("labels", "regions", "window", "normalise", "orientation", "spacing", "antialias", "unit", "dims", "channels",
          "clean_up", "pipeline", "decision")  # fmt: skip


@dataclass(frozen=True)
class IntensityWindow:
    """Clip to [low, high] in the scan's unit and scale linearly to [-1, 1]; outside the window the gradient is 0."""

    low: float
    high: float

    def __call__(self, x: Tensor) -> Tensor:
        return (x.clamp(self.low, self.high) - self.low) * (2.0 / (self.high - self.low)) - 1.0


@dataclass(frozen=True)
class KeepComponents:
    """Clean-up after arg-max: keep each structure's largest connected parts, and of them those above a share of the
    largest.

    keep: {label value: number of parts}; small parts of any other structure below `minimum_ml` are removed too.
    """

    keep: Mapping[int, int]
    share: float = 0.15
    minimum_ml: float = 1.5

    def __call__(self, labels: np.ndarray, voxel_ml: float) -> np.ndarray:
        cleaned = labels.copy()
        for value, box in enumerate(ndimage.find_objects(labels), start=1):
            if box is None:
                continue
            mask = labels[box] == value
            parts, count = ndimage.label(mask)  # type: ignore[misc]
            if count < 2 and value in self.keep:
                continue
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            if value in self.keep:
                largest = np.argsort(sizes)[::-1][: self.keep[value]]
                kept = [part for part in largest if sizes[part] > self.share * sizes.max()]
            else:
                kept = np.flatnonzero(sizes * voxel_ml >= self.minimum_ml)
            cleaned[box][mask & ~np.isin(parts, kept)] = 0
        return cleaned


class Prediction(NamedTuple):
    """A label map "*s", and where scores that are no finite numbers leave it undefined: how many, and bool "*s"."""

    labels: np.ndarray
    undefined: Undefined | None = None
    where: np.ndarray | None = None

    def against(self, clean: np.ndarray) -> tuple[np.ndarray, set[int]]:
        """The labels with the clean prediction's where they are undefined, so that these count for nothing, and the
        label values about which that leaves something open."""
        if self.where is None:
            return self.labels, set()
        values = {*np.unique(self.labels[self.where]).tolist(), *np.unique(clean[self.where]).tolist()}
        return np.where(self.where, clean, self.labels), values


@dataclass(frozen=True, eq=False)
class Victim:
    """A segmentation model with its pipeline.

    network: any nn.Module from "b c *g" to logits (or probabilities) "b k *g"; channel index = label value. regions: of
    a network that answers yes or no for each channel instead of choosing one (sigmoid), the label values each channel
    covers, outer regions before those inside them, e.g. ((1, 2, 3), (2, 3), (3,)); each channel that says yes paints
    its first value over the channels before. labels: {structure: label value}, background 0 included. window: how
    inference slides over the volume. normalise: differentiable map from the scan's unit to the network's input.
    orientation, spacing: the grid the network wants (None: the scan's own). dims 2 with a 3D scan: slice by slice along
    the network's third axis. channels: values per voxel that it reads, channel_names: what they are. clean_up: (labels
    "*s", voxel_ml) -> labels, part of what judges. intended_use, training_data, limits: sentences for reports.

    pipeline: steps from the scan to the network's input, instead of orientation, spacing and antialias, which are
    shorthand for the common ones; normalise follows it. decision: what follows the network in the judge, in order;
    None: scores are resampled back linearly, then the highest wins (of regions, each above 0). source_sha256: of the
    file, for networks that don't show their weights. executed: what of a bundle was run to build it, with trust.

    Shorthand: without a name it has that of the network's class; window may be its sizes alone, normalise two numbers
    (`IntensityWindow`). Raises InputError for labels, regions and ranges that can't be.
    """

    name: str = ""
    network: nn.Module = field(default=cast(nn.Module, None))
    labels: Mapping[str, int] = field(default=cast(Mapping[str, int], None))
    window: Window = field(default=cast(Window, None))
    normalise: Callable[[Tensor], Tensor] = field(default=lambda x: x)
    orientation: str | None = None
    spacing: tuple[float | None, ...] | None = None
    unit: str = "HU"
    dims: int = 3
    channels: int = 1
    channel_names: tuple[str, ...] = ()
    clean_up: Callable[[np.ndarray, float], np.ndarray] | None = None
    regions: Sequence[Sequence[int]] | None = None
    title: str = ""
    licence: str = "not stated"
    intended_use: str = "not stated"
    training_data: str = "not stated"
    limits: str = "not stated"
    antialias: bool = True
    pipeline: Pipeline | None = None
    decision: Decision | None = None
    source_sha256: str = ""
    executed: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self):
        if self.network is None or self.labels is None or self.window is None:
            raise InputError("A victim needs its network, labels and window; give all three by name.")
        short: dict[str, Any] = {"name": self.name or type(self.network).__name__.lower()}
        if not isinstance(self.window, Window):
            short["window"] = Window(self.window)
        if not callable(self.normalise):
            short["normalise"] = IntensityWindow(*cast(tuple[float, float], self.normalise))
        for name, value in short.items():
            object.__setattr__(self, name, value)
        for name, value in self.labels.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{self.name} gives {name} the label {value!r}; labels are whole numbers from 0 up.")
        unknown = {value for region in self.regions or () for value in region} - set(self.labels.values())
        if unknown:
            listing = ", ".join(map(str, sorted(unknown)))
            raise InputError(f"{self.name} has regions of the labels {listing}, which `labels` doesn't name; add them.")
        if self.pipeline is not None and (self.orientation is not None or self.spacing is not None):
            raise InputError(
                f"{self.name} has a pipeline and an orientation or spacing beside it; make these steps of the pipeline."
            )
        if self.decision is not None and self.pipeline is None:
            raise InputError(f"{self.name} has a decision without a pipeline to invert; give it one, be it empty.")
        self.network.to(self.device)
        if self.network.training:  # an exported program can't be asked
            self.network.eval()

    def require_channels(self, count: int, effort: Effort) -> None:
        """Raises InputError unless the network's `count` channels are those that labels and regions speak of."""
        if self.regions is not None:
            if count != len(self.regions):
                raise InputError(
                    f"The network of {self.name} has {count} channel(s) and `regions` describes {len(self.regions)}; "
                    "give one region per channel."
                )
            return
        if count == 1:
            value = min(self.structures.values(), default=1)
            raise InputError(
                f"The network of {self.name} has one channel, of which the largest is always the same label; "
                f"if it says yes or no (a logit), set regions=(({value},),)."
            )
        beyond = [f"{name} = {value}" for name, value in self.labels.items() if value >= count]
        if beyond:
            raise InputError(
                f"{self.name} has no channel for {', '.join(beyond)}: its network has {count} channels, the labels 0 "
                f"to {count - 1}; correct `labels` or the network."
            )
        unnamed = [str(value) for value in range(count) if value not in self.labels.values()]
        if unnamed:
            listing = ", ".join(unnamed[:5]) + (", …" if len(unnamed) > 5 else "")
            note = f"The network's channels without a name in `labels` ({listing}) count as no structure."
            if note not in effort.notes:
                effort.notes.append(note)

    @property
    def structures(self) -> dict[str, int]:
        """The labels without background."""
        return {name: value for name, value in self.labels.items() if value != 0}

    @property
    def plain(self) -> "Victim":
        """The model without the defences it stands behind; itself where there are none."""
        return self

    @property
    def sha256(self) -> str:
        """Hash of the network's weights and of all that stands around it."""
        around = {name: getattr(self, name) for name in AROUND}
        return identity(self.weights_sha256, self.source_sha256, around)

    def is_the_one(self, sha256: str) -> bool:
        """Whether a hash is this model's; results of earlier versions hashed its weights alone."""
        return sha256 in (self.sha256, self.weights_sha256)

    @property
    def weights_sha256(self) -> str:
        """Hash of the network's weights and buffers alone, by which older result folders know a model."""
        return weights_sha256(self.network)

    def on(self, image: Volume, effort: Effort | None = None, memory_budget: int | None = None) -> "BoundVictim":
        """Bind to one scan's grid. Raises InputError where the scan has another number of channels or dimensions."""
        if image.data.shape[0] != self.channels:
            raise InputError(self._about_channels(len(image.data)))
        if image.dims < self.dims:
            raise InputError(
                f"This image is {image.dims}D and {self.name} needs a {self.dims}D volume; load the whole scan."
            )
        effort = effort if effort is not None else Effort()
        ones = torch.from_numpy(image.by_channel(image.ones)).to(self.device, torch.float32) if image.ones else None
        if self.pipeline is not None:
            native = image.with_data(image.native) if image.ones else image
            plan = self.pipeline.plan(image.shape, image.affine, lambda: as_input(native, self.device))
            return BoundVictim(self, plan, effort, memory_budget, ones)
        orientation = self.orientation if image.dims == 3 else None
        # A model of slices that names no slice spacing keeps the scan's.
        spacing = (*self.spacing, None)[: image.dims] if self.spacing is not None else None
        plan = Regrid.plan(image.shape, image.affine, orientation, spacing, self.antialias)
        return BoundVictim(self, plan, effort, memory_budget, ones)

    def _about_channels(self, count: int) -> str:
        """The refusal of a scan with another number of channels."""
        named = f" ({', '.join(self.channel_names)})" if self.channel_names else ""
        has = f"This scan has {count} channel{'s' * (count != 1)} and {self.name} reads {self.channels}{named}; "
        if self.channels == 1:
            return f"{has}give one file with one value per voxel."
        return (
            f"{has}give one file per channel in this order (t1.nii.gz,t2.nii.gz,…), a folder of CASE_0000… files, or a "
            "4D NIfTI."
        )

    def predict(self, image: Volume, effort: Effort | None = None) -> np.ndarray:
        """Ordinary inference: the label map "*s" on the scan's own grid. Raises UndefinedScores where the network
        returns scores that are no finite numbers."""
        found = self.look(image, effort)
        if found.undefined is not None:
            raise UndefinedScores(self.name, found.undefined)
        return found.labels

    def look(self, image: Volume, effort: Effort | None = None) -> "Prediction":
        """Ordinary inference that also says where its labels are undefined instead of refusing them."""
        effort = Effort() if effort is None else effort
        bound = self.on(image, effort)
        with torch.no_grad():
            scores = bound.judge(as_input(image, self.device))[0]
        if self.decision is not None:
            labels = self.decision.run(scores, bound.grid)
        else:
            painted = None if self.regions is None else [region[0] for region in self.regions]
            labels = bound.grid.argmax_to_native(scores, painted)
        labels = labels if self.clean_up is None else self.clean_up(labels, image.voxel_ml)
        if effort.undefined is None:
            return Prediction(labels)
        bad = (~torch.isfinite(scores)).any(0).float()
        where = bound.grid.argmax_to_native(torch.stack([torch.full_like(bad, 1e-6), bad]))  # any weight of one counts
        return Prediction(labels, effort.undefined, where.astype(bool))

    @property
    def visible(self) -> tuple[float, float] | None:
        """The range of values the victim tells apart, where it says so."""
        if self.pipeline is not None and self.pipeline.visible is not None:
            return self.pipeline.visible
        return (self.normalise.low, self.normalise.high) if isinstance(self.normalise, IntensityWindow) else None

    def membership(self) -> Tensor | None:
        """bool "values k": which label values each channel of a multi-label network covers; None for any other."""
        if self.regions is None:
            return None
        table = torch.zeros(max(self.labels.values()) + 1, len(self.regions), dtype=torch.bool)
        for channel, values in enumerate(self.regions):
            table[list(values), channel] = True
        return table.to(self.device)

    def decide(self, logits: Tensor) -> Tensor:
        """Logits "b k *g" -> labels "b *g" on the same grid."""
        if self.regions is None:
            return logits.argmax(1)
        labels = torch.zeros_like(logits[:, 0], dtype=torch.int64)
        for channel, values in enumerate(self.regions):
            labels[logits[:, channel] > 0] = values[0]
        return labels

    def _spacing_mm(self) -> Sequence[float | None] | None:
        named = [getattr(step, "mm", None) for step in self.pipeline.steps] if self.pipeline else [self.spacing]
        spacing = next((spacing for spacing in named if spacing), None)
        return [spacing] * self.dims if isinstance(spacing, float) else spacing and list(spacing)

    def describe(self) -> dict[str, object]:
        """The entry of `perturbox list victims --json`."""
        ran: dict[str, object] = {"executed": list(self.executed)} if self.executed else {}
        return ran | {
            "name": self.name,
            "title": self.title or self.name,
            "labels": dict(self.labels),
            "spacing_mm": self._spacing_mm(),
            "window": list(self.window.size),
            "unit": self.unit,
            "dims": self.dims,
            "channels": self.channels,
            "channel_names": list(self.channel_names),
            "licence": self.licence,
            "intended_use": self.intended_use,
            "training_data": self.training_data,
            "limits": self.limits,
            "intensity_window": list(self.visible) if self.visible else None,
        }


def as_input(image: Volume, device: torch.device) -> Tensor:
    """A scan's values as "1 c *s" float32 on `device`."""
    return torch.from_numpy(np.require(image.data, np.float32, ["C", "W"]))[None].to(device)


def count_windows(bound: "BoundVictim") -> int:
    """Network windows of one prediction of its scan."""
    window, shape = bound.victim.window, bound.grid.target
    slices = shape[2] if len(shape) == 3 and bound.victim.dims == 2 else 1
    return Grid.over(torch.zeros(()).expand(1, 1, *shape[: len(window.size)]), window).count * slices


@dataclass(frozen=True, eq=False)
class BoundVictim:
    """A victim on one scan's grid: x "b c *s" in native units -> logits "b k *g" on the network's grid,
    differentiable. ones: where the scan is told in other units, what 1 of each channel's is natively, "c 1 …"."""

    victim: Victim
    grid: Regrid | Plan
    effort: Effort
    memory_budget: int | None = None
    ones: Tensor | None = None

    def grid_spacing(self, image: Volume) -> tuple[float, ...]:
        """Spacing of the network's grid along its own axes, mm."""
        return self.grid.spacing(image.spacing)

    def prepare(self, x: Tensor) -> Tensor:
        """Native voxels -> network input on the network's grid; differentiable, its transpose is autograd's."""
        x = x if self.ones is None else x * self.ones
        gridded = self.grid.to_network(x)
        if gridded.data_ptr() == x.data_ptr():  # a pipeline may write into its input, which would be the scan
            gridded = gridded.clone()
        return self.victim.normalise(gridded)

    def __call__(self, x: Tensor) -> Tensor:
        return self.slide(self.prepare(x))

    def judge(self, x: Tensor) -> Tensor:
        """The scores as the model's own framework computes them: its bits before the network, its sums after it."""
        prepared = self.victim.normalise(self.grid.exact(x * (1.0 if self.ones is None else self.ones)))
        if self.victim.window.sums == "float32":
            return self.slide(prepared)
        network = self.victim.network
        members = list(network.members) if isinstance(network, Folds) else [network]
        scores = [self._slide(prepared, None, member, torch.float16)[0] for member in members]
        return scores[0] if len(scores) == 1 else sum(scores[1:], scores[0]) / len(scores)

    def slide(self, prepared: Tensor) -> Tensor:
        """Network input -> logits, both on the network's grid."""
        return self.look_inside(prepared, None)[0]

    def look_inside(self, prepared: Tensor, inside: Inside | None) -> tuple[Tensor, Tensor]:
        """Network input -> (logits, the sum of a loss inside the windows); see `sliding.Inside`. Slice by slice, a
        place names its slice as the image."""
        return self._slide(prepared, inside, self.victim.network)

    def _slide(
        self, prepared: Tensor, inside: Inside | None, network: nn.Module, sums: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        slicewise = prepared.dim() == 5 and self.victim.dims == 2
        if slicewise:
            batch, channels, width, height, depth = prepared.shape
            prepared = prepared.movedim(4, 1).reshape(batch * depth, channels, width, height)
        how = {"memory_budget": self.memory_budget, "effort": self.effort, "sums": sums}
        logits, total = sliding_window_with(network, prepared, self.victim.window, inside, **how)
        self.victim.require_channels(logits.shape[1], self.effort)
        if slicewise:
            logits = logits.reshape(batch, depth, -1, width, height).movedim(1, 4)
        return logits, total

    def to_grid(self, labels: np.ndarray) -> Tensor:
        """Label map or mask "*s" on the scan's grid -> "1 *g" on the network's, by the nearest voxel."""
        mapped = self.grid.labels_to_network(labels)
        dtype = torch.bool if mapped.dtype == bool else torch.int64
        return torch.from_numpy(mapped).to(self.victim.device, dtype)[None]
