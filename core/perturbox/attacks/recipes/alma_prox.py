"""ALMA-prox: an augmented Lagrangian with a multiplier for every voxel, and a proximal step that shrinks the norm.

    min over r of |r|  subject to  d_v(x + r) <= 0 for every voxel v,
    d = (lead of the label + 1e-4) / (z_(1) - z_(3)),   towards labels: / (z_(1) - (z_(3) + z_(4)) / 2)

    P(y, rho, mu) = mu y + mu rho y^2 + rho^2 y^3 / 6 where y >= 0, else mu y / (1 - max(rho, 1) y),  y = w d
    mu <- alpha mu + (1 - alpha) P'(y, rho, mu)

Rony, Pesquet & Ben Ayed 2023, CVPR, arXiv 2206.07179. The solver has the proximal step (`solvers.proximal`).
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.must_change import missing, sought
from perturbox.attacks.objectives import Voxels
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.slabs import slabwise_map, slabwise_sum
from perturbox.attacks.solvers.proximal import Proximal
from perturbox.attacks.spaces.additive import Additive

TOLERANCE = 1e-4  # of a lead, so that a draw isn't taken for a success
CHECK, TAU, GAMMA, ALPHA = 10, 0.95, 2.0, 0.8
MU, RHO, LEAST = 1.0, 0.01, 1e-12
SCALE_LEAST, SCALE_RATE = 0.1, 0.02
FINAL = 0.1  # the last step size is this share of the first

Share = Annotated[float, Param("Share of the voxels that must change", minimum=0.01, maximum=1)]


def penalty(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """P2 of Birgin et al. 2005 (doi 10.1007/s10589-005-1066-7), voxel by voxel."""
    above, below = y.clamp_min(0), y.clamp_max(0)
    broken = mu * above + mu * rho * above**2 + rho**2 * above**3 / 6
    return torch.where(y >= 0, broken, mu * below / (1 - rho.clamp_min(1) * below))


def grad(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The derivative of the penalty by y."""
    above, below = y.clamp_min(0), y.clamp_max(0)
    broken = mu + 2 * mu * rho * above + rho**2 * above**2 / 2
    return torch.where(y >= 0, broken, mu / (1 - rho.clamp_min(1) * below) ** 2)


def ratio(voxels: Voxels, targeted: bool) -> Tensor:
    """d, "b a *g"; the lead itself where there aren't enough logits to compare it with."""
    lead, classes = missing(voxels, targeted) + TOLERANCE, voxels.logits.shape[1]
    if voxels.regions is not None or classes < 3:
        return lead
    best = voxels.logits.topk(4 if targeted and classes > 3 else 3, 1).values
    return lead / (best[:, :1] - best[:, 2:].mean(1, keepdim=True) + 1e-8)


@dataclass(eq=False)
class Multipliers:
    """What the Lagrangian carries from step to step, "b a *g" each. counted: the answers that must change; active:
    those of them that aren't left out; before: the constraints at the last check; found: changed since then."""

    counted: Tensor
    size: float
    mu: Tensor
    rho: Tensor
    before: Tensor
    found: Tensor
    active: Tensor
    scale: float = 1.0
    k: int = 0

    @classmethod
    def of(cls, constraints: Tensor, counted: Tensor, size: float) -> "Multipliers":
        mu, rho = torch.full_like(constraints, MU), torch.full_like(constraints, RHO)
        return cls(counted, size, mu, rho, constraints, torch.zeros_like(counted), counted)

    def follow(self, constraints: Tensor, share: float, steps: int) -> None:
        """One step's constraints d "b a *g": scale them, leave out those out of reach, and move the multipliers."""
        changed, total = (constraints < 0) & self.counted, int(self.counted.sum())
        self.found = self.found | changed
        reached = int(changed.sum()) >= share * total
        scale = self.scale / (1 + SCALE_RATE if reached else 1 - SCALE_RATE)
        self.scale = min(max(scale, SCALE_LEAST), 1.0)
        y = self.scale * constraints
        left_out = int((1 - share) * total * self.k / max(1, steps - 1))
        self.active = self.counted
        if left_out:
            bound = y[self.counted].kthvalue(total - left_out + 1).values
            self.active = self.counted & (y <= bound)
        if self.k == 0:
            self.before = y
        else:
            if (self.k + 1) % CHECK == 0:
                improved = torch.where(self.active, y, 0) <= TAU * self.before
                self.rho = torch.where(self.found | improved, self.rho, GAMMA * self.rho)
                self.before, self.found = y, torch.zeros_like(self.found)
            pull = torch.where(self.active, grad(y, self.rho, self.mu), 0)
            self.mu = (ALPHA * self.mu + (1 - ALPHA) * pull).clamp(LEAST, 1)
        self.k += 1


@dataclass(frozen=True)
class Lagrangian:
    """The objective: minus the penalties of the voxels' constraints."""

    share: float
    steps: int
    key: str = field(default="multipliers", init=False)

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        logits = model(x)

        def per_slab(function: Any) -> Any:
            return lambda logits, labels, weight: function(Voxels(logits, labels, weight, task.regions))

        maps = (logits.detach(), task.labels, task.weight)
        constraints = slabwise_map(per_slab(lambda voxels: ratio(voxels, task.targeted)), *maps)
        if self.key not in task.memory:
            counted = slabwise_map(per_slab(lambda voxels: sought(voxels, task.classes, task.targeted) > 0), *maps)
            # Leads have the scale of the model's logits; divided by what they are at first, they have that of ratios.
            plain = task.regions is not None or logits.shape[1] < 3
            size = float(constraints[counted].abs().mean()) if plain and bool(counted.any()) else 1.0
            task.memory[self.key] = Multipliers.of(constraints / size, counted, size)
        state: Multipliers = task.memory[self.key]
        if torch.is_grad_enabled():
            state.follow(constraints / state.size, self.share, self.steps)

        def pieces(logits: Tensor, labels: Tensor, weight: Tensor, rho: Tensor, mu: Tensor, active: Tensor) -> Tensor:
            d = ratio(Voxels(logits, labels, weight, task.regions), task.targeted)
            return (penalty(state.scale / state.size * d, rho, mu) * active).sum()

        return -slabwise_sum(pieces, logits, task.labels, task.weight, state.rho, state.mu, state.active)


@recipe(
    title="ALMA-prox",
    paper="Rony et al. 2023, arXiv 2206.07179",
    norms=("linf", "l2"),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "the voxels are those of the targets (towards a label map: all that matter); eps is a cap",
        "with fewer than 3 logits, or yes-or-no answers, d is the lead over its mean size at the start",
        "the norm l2: the paper has linf alone; the proximal step is bisected instead of a ternary search",
        "the penalty's exact derivative; the step size falls from the first step that reaches the goal",
        "success is the goal's, half of the clean score for the goal 'change', where the paper asks it of every voxel",
    ),
    family="minimal",
    steps=200,
)
def alma_prox(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    share: Share = 0.99,
    rate: Annotated[float, Param("First step size", unit="of the window", minimum=1e-9)] = 0.001,
) -> Attack:
    """The smallest change, with multipliers for every voxel; the paper takes 500 steps."""
    objective, solver = Lagrangian(share, steps), Proximal(norm, falling(rate, steps), 0.0, ALPHA)
    return Climb(objective, Additive(), solver, eps, norm, steps, keep="smallest", stop_on_success=False)


def falling(rate: float, steps: int) -> Any:
    """(step, first step that reached the goal) -> step size, a tenth of `rate` in the end."""

    def at(k: int, found: int | None) -> float:
        start = steps // 2 if found is None else min(found, steps // 2)
        tangent = FINAL / (1 - FINAL) * max(steps - start, 1)
        return rate * tangent / (max(k - start, 0) + tangent)

    return at
