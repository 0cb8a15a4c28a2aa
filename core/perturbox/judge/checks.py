"""Is this evaluation trustworthy? Controls a real attack must beat, and sentences about what the numbers can't carry.

Functions of arrays: they make the changed scans, the caller asks the victim. Arrays are "c *s" in the scan's unit, on
its own grid; `roi` is bool "*s", the voxels that may change; clip_lo and clip_hi bound the changed scan's values.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import fft

from perturbox.attacks.budget import padding_of
from perturbox.defaults import ATTACK
from perturbox.judge import summary
from perturbox.judge.defense import about_defense
from perturbox.judge.metrics import TOLERANCE_MM
from perturbox.types import Volume

# ---------------------------------------------------------------- controls: equally large, but not aimed


def white_noise(
    delta: np.ndarray,
    image: np.ndarray,
    roi: np.ndarray | None,
    clip_lo: float | np.ndarray,
    clip_hi: float | np.ndarray,
    step: float | np.ndarray | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Gaussian white noise with the RMS of `delta` where `delta` isn't 0, and 0 elsewhere.

    Rounded to the file's storage `step` (None: not rounded) and clipped to the valid range; its amplitude makes up for
    what both take away. Where the range leaves too little room, the RMS stays below that of `delta`. Range and step may
    be each channel's, "c 1 …".
    """
    support = delta != 0 if roi is None else (delta != 0) & roi
    source = image[support].astype(np.float64)
    grain = rng.standard_normal(source.size)
    wanted = _rms(delta[support])
    found = np.zeros_like(grain)
    amplitude = wanted
    if isinstance(clip_lo, np.ndarray):
        clip_lo, clip_hi = (np.broadcast_to(end, delta.shape)[support] for end in (clip_lo, clip_hi))
    step = np.broadcast_to(step, delta.shape)[support] if isinstance(step, np.ndarray) else step
    for _ in range(20):  # settles in two or three unless the range is tight
        found = amplitude * grain if step is None else np.rint(amplitude * grain / step) * step
        found = np.clip(source + found, clip_lo, clip_hi) - source
        rms = _rms(found)
        if wanted == 0 or math.isclose(rms, wanted, rel_tol=1e-3):
            break
        amplitude *= wanted / rms if rms else 2.0
    result = np.zeros_like(delta)
    result[support] = found
    return result


def rolled(
    delta: np.ndarray,
    image: np.ndarray,
    clip_lo: float | np.ndarray,
    clip_hi: float | np.ndarray,
    roi: np.ndarray | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """`delta` moved away from where it was aimed: the same values, nearly the same spectrum, another place.

    Rolled within the roi's bounding box by a random offset of at least a quarter of the box along every axis, then
    clipped again to the valid range and the roi.
    """
    box = (slice(None), *_box(roi)) if roi is not None else (slice(None),) * delta.ndim
    inner = delta[box]
    offsets = [_quarter_turn(n, rng) for n in inner.shape[1:]]
    moved = np.zeros_like(delta)
    moved[box] = np.roll(inner, offsets, axis=tuple(range(1, delta.ndim)))
    moved = (np.clip(image + moved, clip_lo, clip_hi) - image).astype(delta.dtype)
    return moved if roi is None else np.where(roi, moved, 0)


@dataclass(frozen=True, eq=False)
class Benign:
    """A change of a scan that means nothing; `scan` goes to the victim, `reference` says what it should answer."""

    name: str
    scan: Volume
    shifted: tuple[bool, ...]  # axes along which scan lies half a voxel off

    def reference(self, clean_seg: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """The clean prediction "*s" on this scan's grid.

        Between voxels the clean labels around a point vote (linear interpolation of their one-hot maps), and many
        points of a boundary are ties. A tie is settled in favour of `prediction`, the answer to be compared, which is
        no error there; if that has no part in the tie, in favour of the lower label.
        """
        if not any(self.shifted):
            return clean_seg
        corners = list(_corners(clean_seg, self.shifted))

        def votes(labels: np.ndarray) -> np.ndarray:
            count = np.zeros(labels.shape, np.uint8)
            for corner in corners:
                count += corner == labels
            return count

        winner, most = corners[0], votes(corners[0])
        for corner in corners[1:]:
            count = votes(corner)
            better = (count > most) | ((count == most) & (corner < winner))
            winner, most = np.where(better, corner, winner), np.maximum(count, most)
        return np.where(votes(prediction) == most, prediction, winner)


def benign(image: Volume, sigma: float | np.ndarray | None, rng: np.random.Generator) -> list[Benign]:
    """What clinics do to scans anyway: save again, resample half a voxel off, and noise of the scan's own `sigma`.

    Each is stored as the file would store it. The half-voxel scan is sampled midway between voxels by linear
    interpolation, so it is one voxel shorter along each axis. Noise is left out where sigma is None; "c 1 …" if each
    channel has its own.
    """
    still = (False,) * image.dims
    members = [Benign("resave", image.refiled(image.data), still)]
    shifted = tuple(n > 1 for n in image.shape)
    corners = list(_corners(image.data, (False, *shifted)))
    middle = np.zeros(corners[0].shape)
    for corner in corners:
        middle += corner / len(corners)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, : image.dims] @ (0.5 * np.array(shifted))
    members.append(Benign("half_voxel", image.refiled(middle, affine=affine), shifted))
    if sigma is not None:
        noisy = image.data + sigma * rng.standard_normal(image.data.shape, dtype=np.float32)
        axes = tuple(range(1, image.data.ndim)) if image.files else None
        noisy = np.clip(noisy, image.data.min(axes, keepdims=True), image.data.max(axes, keepdims=True))
        noisy = np.where(padding_of(image), image.data, noisy)
        members.append(Benign("noise", image.refiled(noisy), still))
    return members


# ---------------------------------------------------------------- what the victim can't see


def energy_above(delta: np.ndarray, spacing: Sequence[float], victim_spacing: Sequence[float] | None) -> float:
    """Fraction of the energy of `delta` at frequencies the victim's grid can't hold.

    Those are |f| > 1/(2 victim_spacing) along any axis. delta: "*s" or "c *s"; spacing and victim_spacing in mm along
    the same spatial axes, None if the victim has no grid of its own. Taken from the discrete Fourier transform, so
    delta counts as periodic; 0 where nothing changed.
    """
    dims = len(spacing)
    axes = tuple(range(delta.ndim - dims, delta.ndim))
    delta = np.asarray(delta, dtype=np.float32)
    total = float(np.square(delta, dtype=np.float64).sum())
    if victim_spacing is None or total == 0:
        return 0.0
    spectrum: np.ndarray = delta
    bounded = False
    # An axis the victim doesn't sample more coarsely bounds nothing, and its transform would only conserve the energy.
    for axis, native, wanted in zip(axes, spacing, victim_spacing, strict=True):
        if wanted > native * (1 + 1e-6):
            below = np.abs(np.fft.fftfreq(delta.shape[axis], native)) <= 0.5 / wanted * (1 + 1e-6)
            waves = np.asarray(fft.fft(spectrum, axis=axis, norm="ortho"))
            spectrum, bounded = np.compress(below, waves, axis=axis), True
    if not bounded:
        return 0.0
    inside = sum(float(np.square(part, dtype=np.float64).sum()) for part in (np.real(spectrum), np.imag(spectrum)))
    return min(max(1.0 - inside / total, 0.0), 1.0)


# ---------------------------------------------------------------- what the numbers can't carry

CLAIM_STEPS = 100
POOR_DICE = 0.70
NO_CHANGE = 0.005  # of mean Dice
FILLED = 0.9  # of the limit: less was left unused
# Recipes that keep what their papers state, and that left more than the default attack in docs/benchmarks.md.
BEATEN = ("apgd", "bim", "cospgd", "houdini", "mi-fgsm", "pgd", "segpgd", "smia")


def warnings(result: Mapping[str, Any]) -> list[str]:
    """Plain sentences about what a result (the content of result.json) doesn't show; empty if nothing is to be said."""
    found = [
        *_about_reference(result),
        *_about_effort(result),
        *_about_reach(result),
        *_about_controls(result),
        *about_defense(result),
        *_about_measuring(result),
    ]
    return list(dict.fromkeys(found))


def _about_reference(result: Mapping[str, Any]) -> Iterator[str]:
    clean = result["metrics"]["clean"]
    unsaid = [name for name, row in clean.items() if not summary.outlined(result, name) and row["volume_ml"]]
    if unsaid:
        yield (
            f"The expert didn't outline {_listed(unsaid)}, which the model finds: compared with the model's own clean "
            "prediction, and in no mean."
        )
    if result["reference"] == "clean_prediction":
        with_what = "its own clean prediction without the defence" if "defense" in result else "itself"
        yield f"No expert outline was supplied: every Dice compares the model with {with_what}."
    else:
        for name, row in clean.items():
            if row["dice"] is not None and row["dice"] < POOR_DICE:
                yield (
                    f"{_title(name)}: Dice with the expert outline is only {row['dice']:.2f} before any attack; "
                    "fix that first."
                )
    absent = [name for name in _named(result) if not clean[name]["volume_ml"]]
    if absent:
        yield f"The model found no {_listed(absent, ' and no ')} in this scan: nothing to stress there."


def _about_effort(result: Mapping[str, Any]) -> Iterator[str]:
    parameters = result["attack"]["parameters"]
    if result["stopped_early"] and result["budget"]["measured"]["linf"]:
        yield f"The attack was {result['stopped_early']}: the numbers are those of the best result up to there."
    own = result["attack"].get("own_budget")
    if own is not None:
        unit = f" {own['unit']}" if own["unit"] else ""
        yield (
            f"This attack has a budget of its own ({own['parameter']} {own['value']:g}{unit}: {own['meaning']}): "
            f"what it measured in {result['budget']['unit']} is stated, but isn't comparable with attacks at a limit."
        )
    if result["attack"]["name"] == "noise":
        yield "Random noise is a control, not an attack: what holds against it proves nothing."
        return
    if isinstance(result.get("untested"), str):  # more of what can't work is no advice
        yield result["untested"]
        return
    steps, starts = parameters.get("steps") or 1, parameters.get("restarts")
    if steps < CLAIM_STEPS or (starts is not None and starts < 2):
        count, needed = f"{steps} step{'s' * (steps > 1)}", f"≥ {CLAIM_STEPS} steps"
        if starts is not None:  # not every attack can be started again
            again = {1: "no restart", 2: "1 restart"}.get(starts, f"{starts - 1} restarts")
            count, needed = f"{count} and {again}", f"{needed} and ≥ 1 restart"
        yield f"{count}: enough for a look, not for a claim ({needed})."
    losses = [row["loss"] for row in result["trace"] if row.get("loss") is not None]
    if not result.get("members") and len(losses) > 1 and max(losses[1:]) <= losses[0]:
        followed = (result.get("effort") or {}).get("backwards") != 0 and not result.get("surrogates")
        why = (
            "the gradient may be masked, or the steps are too large" if followed else "the search found nothing better"
        )
        yield f"The loss never rose above its first value: {why}."


def _about_reach(result: Mapping[str, Any]) -> Iterator[str]:
    """Where the steps, not the limit, ended the change; and where another attack makes more of them."""
    attack, budget, parameters = result["attack"], result["budget"], result["attack"]["parameters"]
    if attack["name"] in BEATEN and not result.get("surrogates"):
        yield (
            f"{attack['name']} is kept as published; for as many calls of the model, {ATTACK} left less in every "
            "comparison of docs/benchmarks.md: take it for the strongest answer."
        )
    if attack.get("own_budget") is not None or budget["norm"] == "l0" or attack["name"] == "noise":
        return
    size, eps, unit = budget["measured"][budget["norm"]], budget["eps"], budget["unit"]
    alpha, steps = parameters.get("alpha"), parameters.get("steps")
    ended = result["stopped_early"] or result.get("margin") is not None  # of itself, not for want of steps
    if alpha is not None and steps and alpha * steps < eps * (1 - 1e-6):
        yield (
            f"{steps} step{'s' * (steps > 1)} of {alpha:g} {unit} can't reach the limit of {eps:g} {unit}: nothing is "
            "known of larger changes; give more steps or a larger step size."
        )
    elif 0 < size < FILLED * eps and not result["success"]["succeeded"] and not ended:
        yield (
            f"The change ended at {size:.3g} {unit} of the {eps:g} {unit} that were allowed: nothing is known of "
            "larger changes; give more steps."
        )


def _about_controls(result: Mapping[str, Any]) -> Iterator[str]:
    budget, control = result["budget"], result["control"]
    untested = isinstance(result.get("untested"), str)
    if not budget["measured"]["linf"]:
        if not result["stopped_early"] and not untested:
            yield "Nothing changed in the saved scan: raise the limit above the file's storage step, or the effort."
        return
    broken = summary.broken(result)
    yield from _about_benign(result)
    sizes = result["noise"]["eps_over_sigma"]
    limited = budget["norm"] == "linf" and result["attack"].get("own_budget") is None
    if limited and sizes is not None and sizes >= 10 and not broken and not result["success"]["succeeded"]:
        yield f"Even {sizes:.0f} times the scan's noise didn't break the model, as it should: suspect masked gradients."
    adversarial = {name: row["dice"] for name, row in result["metrics"]["adversarial"].items()}
    fall = _mean_fall(result, adversarial)
    if fall is None:
        return
    if untested and fall < NO_CHANGE:
        return
    if fall < NO_CHANGE:
        if not broken:
            size = f"up to {summary.size_used(budget):g} {budget['unit']}" if limited else "within this limit"
            yield f"No change {size} with this effort: that is not proof of safety; raise effort or limit."
    elif control.get("own"):
        # White noise of the largest change says nothing of motions or fields: they are measured against their own kind.
        own = _mean_fall(result, control["own"]["dice"])
        if own is not None and own >= 0.9 * fall:
            yield (
                f"A random draw in the attack's own space lowers mean Dice by {own:.2f}, the attack by {fall:.2f}: "
                "the kind of change does it, not its aim."
            )
    elif result["attack"]["name"] != "noise":
        noise = _mean_fall(result, control["noise"]["dice"])
        if noise is not None and noise >= 0.9 * fall:
            yield (
                f"Random noise of the same size lowers mean Dice by {noise:.2f}, the attack by {fall:.2f}: "
                + ("nothing was transferred." if result.get("surrogates") else "the gradient may be masked.")
            )
        moved = _mean_fall(result, control["rolled"]["dice"])
        if moved is not None and moved >= 0.9 * fall:
            yield (
                f"The same perturbation put elsewhere lowers mean Dice by {moved:.2f}, here by {fall:.2f}: "
                "its texture does it, not its place."
            )


def _about_benign(result: Mapping[str, Any]) -> Iterator[str]:
    """Which structures' falls harmless changes match: those whose verdict says so, and no other."""
    floors, after = result["control"]["benign"]["dice"], result["metrics"]["against_clean"]
    harmless = [
        f"{name} (Dice {after[name]['dice']:.2f}, under harmless changes {floors[name]:.2f})"
        for name, verdict in result["verdicts"].items()
        if verdict == "benign"
    ]
    if harmless:
        yield f"No break, since harmless changes of the scan do as much: {_listed(harmless)}."


def _about_measuring(result: Mapping[str, Any]) -> Iterator[str]:
    budget = result["budget"]
    size = budget["measured"][budget["norm"]]
    if size > budget["eps"] * (1 + 1e-6) + 5e-4:
        yield f"The saved perturbation measures {size:g} in {budget['norm']}, above its limit of {budget['eps']:g}."
    spacing = 0.0 if result["source"]["sizes"] == "pixels" else max(result["source"]["spacing_mm"])
    tolerance = result["metrics"].get("tolerance_mm", TOLERANCE_MM)
    if spacing > tolerance * (1 + 1e-6):
        where, one = ("spacing", "pixel") if len(result["source"]["shape"]) == 2 else ("slice spacing", "voxel")
        said = f"{summary.NSD_NOTE} of {tolerance:g} mm is below the {where} of {spacing:g} mm"
        yield f"{said}: a shift by one {one} already counts as wrong."
    if result["noise"]["sigma"] is None:
        yield f"The scan's own noise is {result['noise']['region']}, so the limit can't be compared with it."
    above = result["image_metrics"].get("energy_above_grid")
    if above is not None and above > 0.5:
        yield f"{above:.0%} of the perturbation's energy is finer than the model's grid, which can't hold it."


# ---------------------------------------------------------------- how


def _named(result: Mapping[str, Any]) -> list[str]:
    """The structures the attack was about: its targets, or all."""
    clean = result["metrics"]["clean"]
    return [name for name in result["attack"]["parameters"].get("target") or clean if name in clean]


def _mean_fall(result: Mapping[str, Any], dice: Mapping[str, float | None]) -> float | None:
    """Mean loss of Dice over the attacked structures against the clean prediction's; None if none has a value."""
    falls = []
    for name in _named(result):
        before, after = result["metrics"]["clean"][name]["dice"], dice.get(name)
        if before is not None and after is not None:
            falls.append(before - after)
    return sum(falls) / len(falls) if falls else None


def _title(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _listed(words: Sequence[str], between: str = ", ", most: int = 6) -> str:
    words = [word.replace("_", " ") for word in words]
    rest = len(words) - most
    return between.join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def _rms(values: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def _quarter_turn(n: int, rng: np.random.Generator) -> int:
    least = math.ceil(n / 4)
    return int(rng.integers(least, n - least + 1)) if n > 1 else 0


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    index = np.nonzero(mask)
    return tuple(slice(int(i.min()), int(i.max()) + 1) if i.size else slice(0, 0) for i in index)


def _corners(data: np.ndarray, shifted: Sequence[bool]) -> Iterator[np.ndarray]:
    """The views of `data` whose voxels surround the points half a voxel on along the shifted axes."""
    pairs = [(slice(None, -1), slice(1, None)) if shift else (slice(None),) for shift in shifted]
    return (data[corner] for corner in product(*pairs))
