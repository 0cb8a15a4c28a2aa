"""A model on a scan before it is attacked: its steps, whether its gradient is exact, and whether its labels are those
of its own framework."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perturbox.judge.metrics import dice
from perturbox.judge.summary import number
from perturbox.model.ensemble import BoundEnsemble, Ensemble
from perturbox.model.gradient import cut_in
from perturbox.model.memory import peak_bytes
from perturbox.model.pipeline import Plan, frozen_statistics
from perturbox.model.victim import BoundVictim, Victim, as_input, count_windows
from perturbox.types import InputError, Volume, points

# Away from the whole numbers on which clips have a kink, and small enough not to move anything.
JITTER, STEP = 1e-3, 1e-2
SCHEMA = "perturbox-check/1"


@dataclass(frozen=True, eq=False)
class Known:
    """What another run of the model gave on a scan, beside `what` it was: labels "*s"; the network's input "c *g" and
    scores "k *g" where they are known; seconds it took."""

    what: str
    labels: np.ndarray
    input: np.ndarray | None = None
    scores: np.ndarray | None = None
    seconds: float | None = None


def check_victim(victim: Victim, image: Volume, theirs: Known | None = None) -> dict[str, Any]:
    """What `perturbox victim check` writes as check.json; theirs: what the model's own framework gave."""
    bound = victim.on(image)
    x = as_input(image, victim.device)
    started = time.perf_counter()
    labels = victim.predict(image)
    seconds = time.perf_counter() - started
    cut, error, share = _cut_in(bound, x), None, None
    if cut is None:
        error, share = _derivative(bound, x)
    steps = _steps(bound)
    shape = bound.grid.target
    windows = sum(count_windows(part) for part in (bound.parts if isinstance(bound, BoundEnsemble) else (bound,)))
    return {
        "schema": SCHEMA,
        "victim": {**victim.describe(), "sha256": victim.sha256},
        "executed": list(victim.executed),
        "scan": {"shape": list(image.shape), "spacing_mm": list(image.spacing), "unit": image.unit},
        "steps": steps,
        "grid": list(shape),
        "grid_spacing_mm": list(bound.grid_spacing(image)),
        "windows": windows,
        "labels": dict(victim.labels),
        "sizes": image.sizes,
        "volumes": {n: int((labels == v).sum()) * image.voxel_size for n, v in victim.structures.items()},
        "against": None if theirs is None else _against(bound, x, labels, theirs),
        "cut": cut,
        "derivative_error": error,
        "statistics_share": share,
        "opaque": [step["name"] for step in steps if step["kind"] in ("straight-through", "opaque")],
        "memory_bytes": peak_bytes(victim.device),
        "seconds": seconds,
    }


def told(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What check.json says, as (title, sentence) pairs for command line and page, but for its tables."""
    grid, spacing = (" × ".join(map(number, found[key])) for key in ("grid", "grid_spacing_mm"))
    window = " × ".join(map(str, found["victim"]["window"]))
    count = f"{found['windows']:,} window{'s' * (found['windows'] != 1)}"
    pairs = [
        ("Grid", f"{grid} {points(len(found['grid']))} of {spacing} mm, {count} of {window}"),
        ("Labels", ", ".join(f"{name} = {value}" for name, value in found["labels"].items())),
    ]
    if found["cut"] is not None:
        pairs.append(("Gradient", f"none: it is cut in {found['cut']}; attacks that follow gradients are refused"))
    elif found["derivative_error"] is None:
        pairs.append(("Gradient", "none: the scores of this scan don't change with it"))
    else:
        share = found["statistics_share"]
        through = f"; {share:.1%} of it passes through statistics of the scan" if share else ""
        pairs.append(("Gradient", f"{found['derivative_error']:.1e} from differences along one direction{through}"))
    if found["opaque"]:
        names = ", ".join(found["opaque"])
        pairs.append(("Not differentiable", f"{names}; the identity's gradient stands in, the judge takes the step"))
    if found["executed"]:
        pairs.append(("Executed", "; ".join(found["executed"])))
    pairs += _told_against(found["against"], len(found["grid"])) if found["against"] else []
    needed = found["memory_bytes"]
    memory = f", {needed / 1e9:.1f} GB of memory at most so far" if needed else ""
    return [*pairs, ("Cost", f"{found['seconds']:.1f} s a prediction{memory}")]


def _told_against(against: Mapping[str, Any], dims: int) -> list[tuple[str, str]]:
    differ, voxels = against["differ"], against["voxels"]
    took = f" ({against['seconds']:.1f} s)" if against["seconds"] is not None else ""
    pairs = [(f"Against {against['what']}", f"{differ:,} of {voxels:,} {points(dims)} have another label{took}")]
    for key, title in (("input", "Network input"), ("scores", "Scores")):
        if (row := against[key]) is None:
            continue
        if row["largest"] is None:
            ours, theirs = (" × ".join(map(str, shape)) for shape in row["shapes"])
            pairs.append((title, f"of another shape: {ours} here, {theirs} there"))
        elif row["largest"] == 0:
            pairs.append((title, "the same bits"))
        else:
            low, high = (number(value) for value in row["range"])
            pairs.append((title, f"differs by {row['largest']:.1e} at most, of a range {low} … {high}"))
    return pairs


def replanned(victim: Victim, clean: Volume, saved: Volume) -> str | None:
    """The sentence where a step plans itself otherwise on the saved scan than on the clean one: the judge takes its own
    plan, so that the attack climbed on another grid. None where the plans agree."""
    if isinstance(victim, Ensemble):
        return next((said for one in victim.members if (said := replanned(one, clean, saved))), None)
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
    if isinstance(bound, BoundEnsemble):
        every = ((part.victim.name, step) for part in bound.parts for step in _steps(part))
        return [{**step, "sentence": f"{name}: {step['sentence']}"} for name, step in every]
    if isinstance(bound.grid, Plan):
        pipeline = bound.victim.pipeline
        assert pipeline is not None
        pairs = zip(pipeline.steps, bound.grid.bound, strict=True)
        return [{"name": step.name, "kind": made.kind, "sentence": made.sentence} for step, made in pairs]
    size = f"{' × '.join(map(str, bound.grid.target))} {points(len(bound.grid.target))}"
    return [
        {"name": "grid", "kind": "linear", "sentence": f"turned and resampled to {size}"},
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


def _against(bound: BoundVictim, x: Tensor, labels: np.ndarray, theirs: Known) -> dict[str, Any]:
    """Where two runs of a model differ: on the scan in labels, on the network's grid in its input and scores."""
    names = bound.victim.structures.items()
    rows = {
        name: {
            "dice": dice(labels == value, theirs.labels == value),
            "differ": int(((labels == value) != (theirs.labels == value)).sum()),
        }
        for name, value in names
    }
    found: dict[str, Any] = {"what": theirs.what, "voxels": int(labels.size), "structures": rows}
    found |= {"differ": int((labels != theirs.labels).sum()), "seconds": theirs.seconds}
    if theirs.input is None or theirs.scores is None:
        return found | {"input": None, "scores": None}
    with torch.no_grad():
        ours = bound.victim.normalise(bound.grid.exact(x * 1.0))[0], bound.judge(x)[0]
    pairs = zip(("input", "scores"), ours, (theirs.input, theirs.scores), strict=True)
    return found | {key: _apart(mine.cpu().numpy(), other) for key, mine, other in pairs}


def _apart(mine: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Largest difference of two arrays, beside their range; None where they don't have one shape."""
    same = mine.shape == other.shape
    largest = float(np.abs(mine.astype(np.float64) - other).max()) if same else None
    span = [float(other.min()), float(other.max())]
    return {"largest": largest, "range": span, "shapes": [list(mine.shape), list(other.shape)]}


def _cut_in(bound: BoundVictim, x: Tensor) -> str | None:
    parts = bound.parts if isinstance(bound, BoundEnsemble) else (bound,)
    try:
        return next((cut for part in parts if (cut := cut_in(part, x)) is not None), None)
    except InputError:  # the network answers without a graph
        return "its network"
