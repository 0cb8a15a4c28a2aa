"""A model on a scan before it is attacked: its steps, whether its gradient is exact, and whether its labels are those
of its own framework."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perturbox.judge.metrics import dice
from perturbox.model.memory import peak_bytes
from perturbox.model.pipeline import Plan, frozen_statistics
from perturbox.model.victim import BoundVictim, Victim, as_input
from perturbox.model.windows import Grid
from perturbox.types import Volume

# Away from the whole numbers on which clips have a kink, and small enough not to move anything.
JITTER, STEP = 1e-3, 1e-2


def check_victim(victim: Victim, image: Volume, theirs: np.ndarray | None = None) -> dict[str, Any]:
    """What `perturbox victim check` writes as check.json; theirs: the label map that the model's framework gave."""
    bound = victim.on(image)
    started = time.perf_counter()
    labels = victim.predict(image)
    seconds = time.perf_counter() - started
    error, share = _derivative(bound, as_input(image, victim.device))
    steps = _steps(bound)
    shape = bound.grid.target
    slices = shape[2] if len(shape) == 3 and victim.dims == 2 else 1
    windows = Grid.over(torch.zeros(()).expand(1, 1, *shape[: len(victim.window.size)]), victim.window).count * slices
    return {
        "victim": victim.name,
        "sha256": victim.sha256,
        "executed": list(victim.executed),
        "steps": steps,
        "grid": list(shape),
        "windows": windows,
        "labels": dict(victim.labels),
        "against": None if theirs is None else _against(victim, labels, theirs),
        "derivative_error": error,
        "statistics_share": share,
        "opaque": [step["name"] for step in steps if step["kind"] in ("straight-through", "opaque")],
        "memory_bytes": peak_bytes(victim.device),
        "seconds": seconds,
    }


def replanned(victim: Victim, clean: Volume, saved: Volume) -> str | None:
    """The sentence where a step plans itself otherwise on the saved scan than on the clean one: the judge takes its own
    plan, so that the attack climbed on another grid. None where the plans agree."""
    first, second = victim.on(clean).grid, victim.on(saved).grid
    if not isinstance(first, Plan) or not isinstance(second, Plan) or victim.pipeline is None:
        return None
    if (index := first.unlike(second)) is None:
        return None
    return (
        f"On the saved scan the step '{victim.pipeline.steps[index].name}' of {victim.name} is another than on the "
        f"clean one ({second.bound[index].sentence}; {first.bound[index].sentence} before): the judge follows the "
        "saved scan, so the attack climbed on another grid than it was judged on."
    )


def _steps(bound: BoundVictim) -> list[dict[str, str]]:
    if isinstance(bound.grid, Plan):
        pipeline = bound.victim.pipeline
        assert pipeline is not None
        pairs = zip(pipeline.steps, bound.grid.bound, strict=True)
        return [{"name": step.name, "kind": made.kind, "sentence": made.sentence} for step, made in pairs]
    size = " × ".join(map(str, bound.grid.target))
    return [
        {"name": "grid", "kind": "linear", "sentence": f"turned and resampled to {size} voxels"},
        {"name": "normalise", "kind": "clip" if bound.victim.visible else "opaque", "sentence": "as the model says"},
    ]


def _derivative(bound: BoundVictim, x: Tensor) -> tuple[float | None, float | None]:
    """(relative error of one directional derivative through the whole chain, the share of the gradient's size that
    passes through statistics); None where the gradient is cut. The direction is the gradient's own, which is least
    troubled by rounding."""
    generator = torch.Generator().manual_seed(0)
    x = x + JITTER * torch.randn(x.shape, generator=generator).to(x) * (x != 0)
    weight: list[Tensor] = []

    def value(point: Tensor) -> Tensor:
        scores = bound(point)
        if not weight:
            weight.append(torch.randn(scores.shape, generator=generator).to(scores))
        return (scores * weight[0]).double().sum()

    point = x.clone().requires_grad_()
    made = value(point)
    if not made.requires_grad:
        return None, None
    (grad,) = torch.autograd.grad(made, point)
    if not bool(grad.any()):
        return None, None
    with frozen_statistics():
        still = x.clone().requires_grad_()
        (frozen,) = torch.autograd.grad(value(still), still)
    direction = grad / grad.abs().max()
    with torch.no_grad():
        moved = (value(x + STEP * direction) - value(x - STEP * direction)) / (2 * STEP)
    along = (grad.double() * direction).sum()
    error = abs(float(along - moved)) / max(abs(float(moved)), 1e-30)
    return error, float((grad - frozen).abs().sum() / grad.abs().sum())


def _against(victim: Victim, labels: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    scores = {name: dice(labels == value, theirs == value) for name, value in victim.structures.items()}
    return {"voxels": int(labels.size), "differ": int((labels != theirs).sum()), "dice": scores}
