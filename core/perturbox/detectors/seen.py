"""What a detector sees of a scan: features of each class, pooled or beside the answer, how sure the model is, and how
far dropout moves it.

All of it is differentiable with respect to the scan, exactly and window by window. Which voxels are of which class is
the model's own prediction, which counts as constant.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbox.model.ensemble import Ensemble
from perturbox.model.finite import UndefinedScores
from perturbox.model.pooling import LEAST_VOXELS, Pool, group_names, own_groups, require_maps
from perturbox.model.sliding import Inside
from perturbox.model.victim import BoundVictim, Victim, as_input
from perturbox.model.windows import Place
from perturbox.types import InputError, Volume

OVERALL = 3  # values of `outputs` that come before those of the classes
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
TINY = 1e-12
MASKS = 10  # dropout masks
JOINT = "joint"  # in place of a layer's name, of moments of all layers and the answer


@dataclass(frozen=True)
class Asked:
    """What a detector looks at. layers: names of the network's modules; joint: not their means but how they go with the
    answer, see `moments`; outputs: how sure the model is; masks: how many dropout masks it is run under."""

    layers: tuple[str, ...] = ()
    outputs: bool = False
    masks: int = 0
    joint: bool = False


@dataclass(frozen=True, eq=False)
class Sample:
    """What one scan shows, float64. features: by layer, means "g c" over each group, and voxels "g" of the layer that
    they are of, or under JOINT alone means of `moments`; present: bool "g", the groups the model finds; outputs: "d",
    see `sureness`; moved: a scalar, see `moved_by`."""

    features: Mapping[str, Tensor]
    voxels: Mapping[str, Tensor]
    present: Tensor
    outputs: Tensor | None = None
    moved: Tensor | None = None


@dataclass(eq=False)
class _Sums:
    """Adds up what is asked of features over each group, window by window. gradients: by layer, what 1 of each sum
    counts, "g c"; without them nothing is returned and the sums are kept."""

    victim: Victim
    asked: Asked
    gradients: Mapping[str, Tensor] | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)
    voxels: dict[str, Tensor] = field(default_factory=dict)
    found: Tensor = field(default_factory=lambda: torch.zeros(()))

    def __call__(self, features: dict[str, Tensor], places: list[Place], prediction: Tensor) -> Tensor:
        kept = {name: made for name, made in features.items() if name in self.asked.layers}
        require_maps(kept, prediction)
        groups = len(group_names(self.victim))
        masks = own_groups(prediction.detach(), self.victim.regions is not None)[:, :groups]
        total = prediction.new_zeros(())
        for name, (sums, voxels) in self._added(kept, masks, prediction):
            if self.gradients is not None:
                total = total + (sums * self.gradients[name].to(sums)).sum().to(total)
                continue
            self.sums[name] = self.sums.get(name, 0) + sums.double()
            self.voxels[name] = self.voxels.get(name, 0) + voxels.double()
        if self.gradients is None:
            self.found = self.found.to(masks.device) + masks.flatten(2).sum((0, 2)).double()
        return total

    def _added(
        self, maps: Mapping[str, Tensor], masks: Tensor, prediction: Tensor
    ) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
        """(layer, (sums "g c" over these windows, voxels "g")), one after another."""
        window = self.victim.window.size
        if self.asked.joint:
            exact = self.gradients is None  # what is left of a fit is a small difference of large sums
            yield JOINT, moments([maps[name] for name in self.asked.layers], masks, prediction, window, exact)
            return
        pool = Pool(masks, window, 1)
        for name, made in maps.items():
            means, voxels = pool(made)
            yield name, ((means * voxels[..., None]).sum((0, 2)), voxels.sum((0, 2)))


def moments(
    maps: Sequence[Tensor], masks: Tensor, prediction: Tensor, window: Sequence[int], exact: bool
) -> tuple[Tensor, Tensor]:
    """Sums "g d*d" over the voxels of each group of v v^T, v = (1, every channel of the layers, what the model says of
    that group there), and how many voxels these are, "g"; differentiable.

    maps: of each layer "n c *q", of which every voxel of the window takes the nearest; masks "n g *p", prediction "n k
    *p": of the windows without what was padded. exact: in float64.
    """
    box = tuple(slice((s - n) // 2, (s - n) // 2 + n) for s, n in zip(window, masks.shape[2:], strict=True))
    wide = [F.interpolate(made, size=tuple(window), mode="nearest")[(..., *box)] for made in maps]
    rows = torch.cat(wide, 1).movedim(1, -1)
    sums, channels = [], prediction.shape[1]
    for group in range(masks.shape[1]):
        inside = masks[:, group] > 0
        found = torch.cat([rows[inside], prediction[:, group % channels][inside][:, None]], 1)
        v = F.pad(found.double() if exact else found, (1, 0), value=1.0)
        sums.append((v.mT @ v).flatten())
    return torch.stack(sums), masks.flatten(2).sum((0, 2))


def look(bound: BoundVictim, x: Tensor, asked: Asked) -> Sample:
    """What a scan x "1 c *s" shows; only outputs and moved carry a gradient."""
    sums, multi = _Sums(bound.victim, asked), bound.victim.regions is not None
    if asked.layers:
        with torch.no_grad():
            bound.look_inside(bound.prepare(x), Inside(asked.layers, sums))
    features = {name: total / sums.voxels[name].clamp_min(TINY)[:, None] for name, total in sums.sums.items()}
    present = sums.found >= LEAST_VOXELS
    outputs = sureness(bound(x), multi) if asked.outputs else None
    moved = moved_by(bound, x, asked.masks) if asked.masks else None
    return Sample(features, sums.voxels, present, outputs, moved)


def valued(bound: BoundVictim, x: Tensor, asked: Asked, value: Callable[[Sample], Tensor]) -> Tensor:
    """value(what x shows), differentiable with respect to x.

    A value of pooled features is no sum over windows, but its first-order part is: a first look gives the gradient at
    each feature, a second one adds up the windows under these gradients. The gradient is exact.
    """
    sample = look(bound, x, asked)
    if not (asked.layers and torch.is_grad_enabled() and x.requires_grad):
        return value(sample)
    leaves = {name: made.detach().requires_grad_() for name, made in sample.features.items()}
    found = value(replace(sample, features=leaves))
    gradients = torch.autograd.grad(found, list(leaves.values()))
    each = {
        name: gradient / sample.voxels[name].clamp_min(TINY)[:, None]
        for name, gradient in zip(leaves, gradients, strict=True)
    }
    _, total = bound.look_inside(bound.prepare(x), Inside(asked.layers, _Sums(bound.victim, asked, each)))
    return found.detach() + (total - total.detach())


def look_at(victim: Victim, scan: Volume, asked: Asked) -> Sample:
    """What a scan shows, without a gradient. Raises InputError where it doesn't fit the victim, UndefinedScores where
    the network returns scores that are no finite numbers."""
    bound = victim.on(scan)
    with torch.no_grad():
        seen = look(bound, as_input(scan, victim.device), asked)
    if bound.effort.undefined is not None:
        raise UndefinedScores(victim.name, bound.effort.undefined)
    return seen


def fingerprint(scan: Volume) -> str:
    """What a scan's values are known by again."""
    return hashlib.sha256(np.ascontiguousarray(scan.data, np.float32).tobytes()).hexdigest()


# ---------------------------------------------------------------- how sure the model is


def sureness(logits: Tensor, multi_label: bool) -> Tensor:
    """Means over the voxels of logits "1 k *g": of the entropy (nats), of 1 - p1 and of 1 - p1 + p2 (p1 and p2 the two
    highest probabilities), and of each p_c where c is what the model says, 0 where it never does; "3 + k" float64.

    Of multi-label networks every channel of a voxel counts as a choice of its own between yes and no; p_c is then that
    of yes. Maag & Fischer 2023.
    """
    scores = logits.double()
    if multi_label:
        yes = scores.sigmoid()
        probable, log = torch.stack([yes, 1 - yes]), torch.stack([scores, -scores])
        entropy = -(probable * torch.nn.functional.logsigmoid(log)).sum(0)
        top, second = probable.max(0).values, probable.min(0).values
        said = (scores > 0).double()
    else:
        yes = scores.softmax(1)
        entropy = -(yes * scores.log_softmax(1)).sum(1)
        top, second = yes.topk(2, 1).values.unbind(1)
        said = torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1]).movedim(-1, 1).double()
    inside = (yes * said).movedim(1, 0).flatten(1).sum(1) / said.movedim(1, 0).flatten(1).sum(1).clamp_min(1)
    return torch.cat([torch.stack([entropy.mean(), (1 - top).mean(), (1 - top + second).mean()]), inside])


# ---------------------------------------------------------------- how far dropout moves it


def dropouts(network: nn.Module) -> list[str]:
    """The names of the layers that drop anything in training."""
    return [name for name, module in network.named_modules() if isinstance(module, DROPOUTS) and module.p > 0]


class Masked(nn.Module):
    """A network under one fixed dropout mask, the same in every window and at every call. number: which mask."""

    def __init__(self, network: nn.Module, number: int):
        super().__init__()
        self.network, self.number = network, number

    def forward(self, x: Tensor) -> object:
        modules = dict(self.network.named_modules())
        handles = [modules[name].register_forward_hook(self._mask(name)) for name in dropouts(self.network)]
        try:
            return self.network(x)
        finally:
            for handle in handles:
                handle.remove()

    def _mask(self, name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def apply(module: nn.Module, given: object, made: Tensor) -> Tensor:
            shape = made.shape[1:] if type(module) is nn.Dropout else (made.shape[1], *[1] * (made.dim() - 2))
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.number} {name}".encode()))
            p = float(module.p)  # type: ignore[arg-type]
            return made * (torch.rand(shape, generator=generator) >= p).to(made) / max(1 - p, TINY)

        return apply


def moved_by(bound: BoundVictim, x: Tensor, masks: int) -> Tensor:
    """The variance of the probabilities over fixed dropout masks, mean over voxels and classes; a scalar, float64.
    Feinman et al. 2017."""
    total = squares = torch.zeros((), dtype=torch.float64, device=x.device)
    for number in range(masks):
        victim = replace(bound.victim, network=Masked(bound.victim.network, number))
        scores = replace(bound, victim=victim)(x).double()
        p = scores.sigmoid() if victim.regions is not None else scores.softmax(1)
        total, squares = total + p, squares + p.square()
    return (squares / masks - (total / masks).square()).mean()


# ---------------------------------------------------------------- what can't be looked at


def require_seen(victim: Victim, asked: Asked) -> None:
    """Raises InputError for a victim that a detector can't look at."""
    if victim.plain is not victim:
        raise InputError(
            f"A detector looks at a model without defences before it, not at {victim.name}; name {victim.plain.name}."
        )
    if isinstance(victim, Ensemble) and (asked.layers or asked.masks):
        raise InputError(
            f"This detector looks inside a network and {victim.name} is made of several; choose one of them, or a "
            "detector of what the model answers, such as entropy."
        )
    if asked.masks and not dropouts(victim.network):
        raise InputError(
            f"{victim.name} has no dropout layers, so its answers don't vary; choose another detector of `perturbox "
            "list detectors`."
        )
