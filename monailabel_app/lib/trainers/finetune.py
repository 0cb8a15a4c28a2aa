"""Adversarial training in small: windows of labelled scans, each perturbed by PGD inside the loop.

    minimise over weights   max over |delta| <= eps of L(f(x + delta), y)

Madry et al. 2018, arXiv 1706.06083. Deviation: delta lies on the network's grid, in the scan's unit before normalising,
for a window is all that is trained.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbox.attacks.objectives import dice_ce
from perturbox.hardening import harden
from perturbox.model.victim import Victim, as_input
from perturbox.types import InputError, Volume


@dataclass(frozen=True)
class Settings:
    """eps in the scan's unit; steps of the inner PGD; crops: windows per case and epoch."""

    epochs: int = 3
    crops: int = 8
    eps: float = 4.0
    steps: int = 3
    learning_rate: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """One window: x "1 c *w" in the scan's unit, labels "1 *w", weight "1 *w" (0 where the scan is padded)."""

    x: Tensor
    labels: Tensor
    weight: Tensor


def finetune(
    victim: Victim, cases: Sequence[tuple[Volume, np.ndarray]], settings: Settings, tell: Callable[[int, float], None]
) -> nn.Module:
    """A copy of the victim's network, trained on (scan, labels in the victim's values); the victim stays as it is.

    tell(epoch, mean loss) is called after each epoch. Norm layers keep their statistics. Raises InputError for a
    network that can't be trained.
    """
    network = copy.deepcopy(victim.network).requires_grad_(True).eval()
    parameters = list(network.parameters())
    if not parameters:
        raise InputError(f"{victim.name} has no weights to train; choose another victim.")
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
    generator = np.random.default_rng(settings.seed)
    attack = harden(
        "pgd", partial(_loss, victim), settings.eps, prepare=victim.normalise, seed=settings.seed, steps=settings.steps
    )
    on_grid = [_on_grid(victim, image, labels) for image, labels in cases]
    for epoch in range(1, settings.epochs + 1):
        losses = []
        for example in _windows(victim, on_grid, settings.crops, generator):
            loss = attack(network, example.x, example)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        tell(epoch, float(np.mean(losses)))
    return network.requires_grad_(False)


def _on_grid(victim: Victim, image: Volume, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    bound = victim.on(image)
    return bound.grid.to_network(as_input(image, victim.device)), bound.to_grid(labels)


def _windows(
    victim: Victim, cases: Sequence[tuple[Tensor, Tensor]], crops: int, generator: np.random.Generator
) -> Iterator[Example]:
    """`crops` windows of each case, in random order, each around a random voxel of a random structure it holds."""
    for index in generator.permutation(np.repeat(np.arange(len(cases)), crops)):
        x, labels = cases[index]
        values = [int(value) for value in labels.unique() if value != 0]
        wanted = generator.choice(values) if values else 0
        places = (labels[0] == int(wanted)).nonzero()
        centre = places[generator.integers(len(places))].tolist()
        yield _cut(victim, x, labels, centre)


def _cut(victim: Victim, x: Tensor, labels: Tensor, centre: Sequence[int]) -> Example:
    if victim.dims == 2 and x.dim() == 5:  # one slice of the volume
        x, labels = x[..., centre[2]], labels[..., centre[2]]
    size = victim.window.size
    shape = x.shape[2:]
    starts = [max(0, min(c - w // 2, n - w)) for c, w, n in zip(centre, size, shape, strict=False)]
    box = tuple(slice(start, start + w) for start, w in zip(starts, size, strict=True))
    x, labels = x[(..., *box)], labels[(..., *box)]
    missing = [w - n for w, n in zip(size, x.shape[2:], strict=True)]
    padding = [side for amount in reversed(missing) for side in (0, amount)]
    weight = F.pad(torch.ones_like(labels, dtype=x.dtype), padding)
    return Example(F.pad(x, padding, mode="replicate"), F.pad(labels, padding), weight)


def _loss(victim: Victim, scores: object, example: Example) -> Tensor:
    if not isinstance(scores, Tensor):
        raise InputError(f"{victim.name} returns more than one tensor, which can't be trained here.")
    classes = tuple(int(value) for value in example.labels.unique() if value != 0)
    return dice_ce(scores, example.labels, example.weight, classes or (0,))
