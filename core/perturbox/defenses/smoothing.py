"""Randomised smoothing as a defence: the mean probability of several noisy copies.

    p(x) = 1/K sum over k of softmax f(x + sigma n_k),    n_k ~ N(0, 1) voxel by voxel

Cohen, Rosenfeld & Kolter 2019, ICML, arXiv 1902.02918, of which this takes the prediction and not the certificate. The
attack climbs the mean of K copies, with new noise for each step (EOT) or the same for all; the judge draws its own.
"""

from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.settings import Param
from perturbox.defenses import defense
from perturbox.model.defended import Defense, StandIn


@defense(
    title="Randomised smoothing",
    paper="Cohen et al. 2019, arXiv 1902.02918",
    inverse="none: noise is added; but every step costs as many gradients as there are copies",
    deviations=(
        "no certificate: the mean of the probabilities in place of a vote with a test",
        "noise on the scan's own grid, before the model's pipeline; the model wasn't trained with it",
    ),
)
def smoothing(
    sigma: Annotated[float, Param("Standard deviation of the noise", unit="HU", minimum=0, maximum=1e6)] = 20.0,
    copies: Annotated[int, Param("Noisy copies whose probabilities are averaged", minimum=1, maximum=1000)] = 10,
) -> Defense:
    """Adds noise, several times."""

    def noisy(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        return x + sigma * torch.randn(x.shape, generator=draws).to(x)

    return Defense("", noisy, (StandIn("new noise each step"), StandIn("one noise kept", kept=True)), copies, copies)
