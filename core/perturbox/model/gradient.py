"""Whether a gradient reaches the scan: one derivative through a victim's whole chain, and which step cuts it.

A step that rounds, a `detach()` or NumPy in between leave a gradient of 0 or none: an attack that follows it tests
nothing, and the model would look sturdy.
"""

from types import EllipsisType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from perturbox.model.ensemble import BoundEnsemble
from perturbox.model.pipeline import Plan
from perturbox.model.victim import BoundVictim, Victim, as_input
from perturbox.model.windows import Grid
from perturbox.types import InputError, Volume

# Away from the whole numbers on which clips have a kink; and a change that any model should notice, as a share of the
# scan's range.
JITTER, NOTICED = 1e-3, 0.02
# What was found of each victim on a grid: a server asks again. By the object, for two networks without weights have one
# hash and may still be cut in other places.
_FOUND: WeakKeyDictionary[Victim, dict[tuple[int, ...], str | None]] = WeakKeyDictionary()


def require_gradient(victim: Victim, image: Volume) -> None:
    """Raises InputError where the victim's gradient is cut on this scan. Costs one window's gradient, once per model
    and grid. Of defences `defended.require_attackable` asks."""
    victim = victim.plain
    bound = victim.on(image)
    found, grid = _FOUND.setdefault(victim, {}), (*image.shape, *bound.grid.target)
    if grid not in found:
        x = as_input(image, victim.device)
        cuts = (cut_in(part, x) for part in (bound.parts if isinstance(bound, BoundEnsemble) else (bound,)))
        found[grid] = next((cut for cut in cuts if cut is not None), None)
    if (where := found[grid]) is not None:
        raise InputError(
            f"The gradient of {victim.name} is cut in {where}: it is 0 although the scores change with the scan; give "
            "that step a derivative, take an attack that needs none (square, nes), craft the attack on another model, "
            "or add --allow-cut-gradient to go on all the same."
        )


def cut_in(bound: BoundVictim, x: Tensor) -> str | None:
    """The part of a victim that cuts its gradient, in words; None where a gradient passes, and where the scores don't
    change with the scan either. x: the scan "1 c *s".

    Asked in the window that holds most contrast; only where that has no gradient, in all of them.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    x = x + JITTER * noise
    with torch.no_grad():
        box = _busiest(bound, bound.prepare(x))
    if any(_passes(bound, x, part) for part in (box, ...)):
        return None
    change = NOTICED * (x.max() - x.min()) * noise.sign()
    with torch.no_grad():
        up, down = (bound.slide(bound.prepare(x + sign * change)) for sign in (1, -1))
    return _step(bound, x) if bool((up != down).any()) else None


def _passes(bound: BoundVictim, x: Tensor, part: tuple[slice, ...] | EllipsisType) -> bool:
    """Whether a random sum of the scores in a part of the network's grid has a gradient at the scan."""
    point = x.clone().requires_grad_()
    prepared = bound.prepare(point)
    if not prepared.requires_grad:
        return False
    return _has_gradient(bound.slide(prepared[part]), point)


def _has_gradient(out: Tensor, at: Tensor) -> bool:
    if not out.requires_grad:
        return False
    generator = torch.Generator(out.device).manual_seed(1)
    weight = torch.randn(out.shape, generator=generator, device=out.device, dtype=out.dtype)
    (grad,) = torch.autograd.grad((out * weight).sum(), at, allow_unused=True)
    return grad is not None and bool(grad.any())


def _busiest(bound: BoundVictim, prepared: Tensor) -> tuple[slice, ...]:
    """The window of the network's input "1 c *g" that varies most."""
    window, whole = bound.victim.window, slice(None)
    slicewise = prepared.dim() == 5 and bound.victim.dims == 2
    flat: tuple[slice, ...] = ()
    plane = prepared
    if slicewise:
        k = int(prepared[0].flatten(0, 2).std(0).argmax())
        flat, plane = (slice(k, k + 1),), prepared[..., k]
    best = max(Grid.over(plane, window).places, key=lambda place: float(place.of(plane).std(correction=0)))
    return (whole, whole, *best.box, *flat)


def _step(bound: BoundVictim, x: Tensor) -> str:
    """The first part of the chain that lets no gradient through."""
    if isinstance(bound.grid, Plan) and bound.victim.pipeline is not None:
        for step, made in zip(bound.victim.pipeline.steps, bound.grid.bound, strict=True):
            point = x.detach().clone().requires_grad_()
            x = made.forward(point)
            if not _has_gradient(x, point):
                return f"its step '{step.name}' ({made.sentence})"
    else:
        x = bound.grid.to_network(x)
    point = x.detach().clone().requires_grad_()
    if not _has_gradient(bound.victim.normalise(point * 1.0), point):
        return "its normalisation"
    return "its network"
