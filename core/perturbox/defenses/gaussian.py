"""Gaussian smoothing of the scan before the model.

    g(x) = G_sigma * x,    sigma in voxels, out to 4 sigma, mirrored at the border

The plainest of the smoothing filters of Xu, Evans & Qi 2018, NDSS, arXiv 1704.01155. It is linear, so its own gradient
is exact and nothing need stand in for it.
"""

from typing import Annotated

from perturbox.attacks.settings import Param
from perturbox.defenses import defense
from perturbox.defenses.filters import IDENTITY, gaussian_of
from perturbox.model.defended import Defense, StandIn


@defense(
    title="Gaussian smoothing",
    paper="after Xu et al. 2018, arXiv 1704.01155",
    inverse="exact: the same convolution; identity: nothing",
    deviations=("a Gaussian in place of the paper's median and non-local means", "3D: along all three axes"),
)
def gaussian(sigma: Annotated[float, Param("Standard deviation", unit="voxels", minimum=0.1, maximum=10)] = 1.0):
    """Smooths along every axis."""
    return Defense("", gaussian_of(sigma), (StandIn("exact"), IDENTITY))
