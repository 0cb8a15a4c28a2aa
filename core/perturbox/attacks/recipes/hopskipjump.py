"""HopSkipJump: along the decision boundary towards the scan, asking only whether the goal is reached; the model stays
closed and tells no confidence.

    from a random change that reaches the goal: back to the boundary, its normal from random probes, a leap, and back

Chen, Jordan & Wainwright 2020, IEEE S&P, arXiv 1904.02144. The solver has the formulas (`solvers.hopskipjump`).
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.solvers.hopskipjump import HopSkipJump
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="HopSkipJump",
    paper="Chen et al. 2020, arXiv 1904.02144",
    norms=("l2", "linf"),
    cost="steps + 1 forwards",
    deviations=(
        "each step is one query; the soft Dice is traced but never used",
        "starts from blocks of +-eps, as eps is a cap; where none reaches the goal the worst of them is returned",
        "probes lie a share of the change's size away, where the paper's come closer as there are more voxels",
        "directions may be constant over blocks of voxels, for fewer queries; fewer probes unless told otherwise",
        "every point lies on the file's steps, rounded at random once and for all",
    ),
    family="black-box",
    steps=1000,
)
def hopskipjump(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    probes: Annotated[
        int, Param("Random probes of the boundary in the first round; more in later ones", minimum=1, maximum=100_000)
    ] = 20,
    share: Annotated[
        float, Param("How far the probes lie away, of the size of the change", minimum=1e-6, maximum=1)
    ] = 0.1,
    coarse: Annotated[int, Param("Edge of blocks with one direction", unit="voxels", minimum=1, maximum=512)] = 8,
) -> Attack:
    """The smallest change found by decisions alone."""
    return Climb(
        ascend(LOSSES["dice"]),
        Additive(),
        HopSkipJump(norm, probes, share, coarse),
        eps,
        norm,
        steps,
        keep="smallest",
        stop_on_success=False,
    )
