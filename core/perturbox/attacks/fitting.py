"""Fits mixtures to a model's features on clean scans: each scan is predicted several times, whole and in random boxes,
so that even one scan gives many windows.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from perturbox.attacks.features import Features
from perturbox.attacks.mixture import fit_mixture
from perturbox.model.finite import UndefinedScores
from perturbox.model.pooling import (
    LEAST_VOXELS,
    WIDEST,
    Pool,
    convolutions,
    group_names,
    own_groups,
    require_maps,
)
from perturbox.model.sliding import Inside
from perturbox.model.victim import Victim, as_input
from perturbox.model.windows import Place
from perturbox.types import InputError, Volume

CELLS = 2
LEAST_SAMPLES = 12  # of a group in a layer; with fewer it is left unconstrained
PER_COMPONENT = 10
SMALLEST = 0.75  # share of each axis that a box keeps at least


def fit_features(
    victim: Victim,
    scans: Sequence[Volume],
    *,
    layers: Sequence[str] = (),
    components: int = 4,
    passes: int = 8,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> Features:
    """The mixtures of a victim's features on clean scans.

    layers: by their names in the network; by default every convolution but the last, up to 512 channels wide.
    components: of each mixture, at most. passes: predictions of each scan, the first of the whole. say: is told what is
    done. stop: polled after each prediction; then what there is is fitted. Raises InputError where a layer doesn't
    exist or gives no feature map, where a scan doesn't fit the victim, and where they give too few samples.
    """
    names = tuple(layers) or convolutions(victim)
    collected = _Collected(victim, names, drop_last=not layers)
    rng = np.random.default_rng(seed)
    looks = [(number, index) for number in range(len(scans)) for index in range(passes)]
    for done, (number, index) in enumerate(looks, 1):
        say(f"Scan {number + 1} of {len(scans)}, prediction {index + 1} of {passes}")
        collected.look(_box(scans[number], rng) if index else scans[number])
        if stop():
            looks = looks[:done]
            break
    say("Fitting the mixtures")
    mixtures, samples = {}, {}
    for (layer, group), parts in sorted(collected.samples.items(), key=lambda item: (names.index(item[0][0]), item[0])):
        x = torch.cat(parts).double().numpy()
        if layer in collected.layers and len(x) >= LEAST_SAMPLES:
            if not np.isfinite(x).all():
                raise InputError(f"The layer '{layer}' gives values that are no finite numbers; choose other layers.")
            mixtures[layer, group] = fit_mixture(x, min(components, max(1, len(x) // PER_COMPONENT)), rng)
            samples[group] = max(samples.get(group, 0), len(x))
    groups = collected.groups
    if not mixtures:
        raise InputError(
            "These scans hold too little of each class to fit anything; give more scans, or more `--passes`."
        )
    facts = {
        "scans": looks[-1][0] + 1, "predictions": len(looks), "seed": seed, "components": components,
        "samples": {groups[group]: count for group, count in sorted(samples.items())},
    }  # fmt: skip
    return Features(victim.name, victim.sha256, victim.window.size, CELLS, groups, mixtures, facts)


class _Collected:
    """Pooled features by (layer, group), each a list of "s c"."""

    def __init__(self, victim: Victim, names: tuple[str, ...], drop_last: bool):
        self.victim, self.names, self.drop_last = victim, names, drop_last
        self.layers, self.groups = names, group_names(victim)
        self.samples: dict[tuple[str, int], list[Tensor]] = {}
        if not names:
            raise InputError(
                f"{victim.name} has no convolutions of at most {WIDEST} channels; name layers with `--layer`."
            )

    def look(self, scan: Volume) -> None:
        bound = self.victim.on(scan)
        with torch.no_grad():
            bound.look_inside(bound.prepare(as_input(scan, self.victim.device)), Inside(self.names, self._collect))
        if bound.effort.undefined is not None:
            raise UndefinedScores(self.victim.name, bound.effort.undefined)

    def _collect(self, features: dict[str, Tensor], places: list[Place], prediction: Tensor) -> Tensor:
        if self.drop_last:
            # Layers stand in the order they were run; the last one makes the prediction itself.
            self.layers = tuple(features)[:-1]
            if not self.layers:
                raise InputError(
                    f"{self.victim.name} has a single convolution, its prediction; name layers with `--layer`."
                )
        kept = {name: features[name] for name in self.layers}
        require_maps(kept, prediction)
        masks = own_groups(prediction, self.victim.regions is not None)
        pool = Pool(masks, self.victim.window.size, CELLS)
        for name, maps in kept.items():
            means, voxels = pool(maps)
            for group in range(len(self.groups)):
                found = means[:, group][voxels[:, group] >= LEAST_VOXELS]
                if len(found):
                    self.samples.setdefault((name, group), []).append(found.cpu())
        return prediction.new_zeros(())


def _box(scan: Volume, rng: np.random.Generator) -> Volume:
    """A random box of a scan, at least three quarters of each axis; it lies elsewhere, which no model asks about."""
    box = []
    for n in scan.shape:
        size = int(rng.integers(max(1, int(np.ceil(SMALLEST * n))), n + 1))
        start = int(rng.integers(n - size + 1))
        box.append(slice(start, start + size))
    return scan.with_data(np.ascontiguousarray(scan.data[(slice(None), *box)]))
