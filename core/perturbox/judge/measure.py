"""What a perturbed file does to a victim, measured on the file: the third law, shared by `attack` and `verify`.

Everything here starts from two scans as they were read from disk and asks the victim's ordinary inference. Nothing
knows which attack made the perturbed one.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.judge import checks, metrics
from perturbox.judge.defense import dice_behind
from perturbox.judge.flow import flow
from perturbox.judge.noise import scan_noise
from perturbox.judge.units import NATIVE
from perturbox.model.victim import Victim
from perturbox.types import Case, Effort, Undefined, Volume

CONTROL_SEEDS = 3
CHANCE = "Two predictions"  # what a note of a model that isn't deterministic begins with


@dataclass(frozen=True, eq=False)
class Measurement:
    """numbers: the parts of result.json that files determine; clean_seg, adversarial_seg: label maps "*s"; notes: what
    scores that are no finite numbers leave open."""

    numbers: dict[str, Any]
    clean_seg: np.ndarray
    adversarial_seg: np.ndarray
    notes: list[str]


def measure(
    clean: Volume,
    adversarial: Volume,
    victim: Victim,
    goal: Goal,
    *,
    eps: float | None,
    norm: str,
    asked: tuple[float | None, str] = (None, NATIVE),
    ones: tuple[float, ...] = (),
    expert: np.ndarray | None = None,
    outlined: Collection[str] | None = None,
    roi: np.ndarray | None = None,
    seed: int = 0,
    clean_seg: np.ndarray | None = None,
    random_draw: Callable[[int], np.ndarray] | None = None,
    untested: str | None = None,
    oblivious: Volume | None = None,
    effort: Effort | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Every number that follows from the two scans and the victim.

    clean, adversarial: as read from disk, on one grid. expert: a reference label map "*s"; without it the clean
    prediction is the reference. outlined: the structures the expert outlined (None: all); the others have no agreement
    with the expert, and their controls are against the clean prediction, as their verdict is. clean_seg: the clean
    prediction if already at hand. eps: None where only the attack's own budget limits the change; the largest change
    itself then stands for it. asked: the limit as the user gave it, and its unit. ones: what 1 of that unit is in
    each channel, where these are files of their own; the limit and all sizes are then in it, and "channels" of the
    budget has them in the files' own. Controls (white noise, rolled perturbation, benign changes, draws from the
    attack's own space, see `attack.random_draw`) are drawn from `seed`.
    untested: why the attack could not test the victim, if it couldn't. oblivious: of a model behind defences, what the
    attack made that didn't know of them. Everything about a defended model is against the clean prediction (or the
    label) that the model without them has: against its own, one that blurs looks sturdier than it is.
    """
    if clean_seg is None:
        say("Segmenting the original scan")
        clean_seg = victim.plain.predict(clean, effort)
    say("Segmenting the saved perturbed scan")
    found = victim.look(adversarial, effort)
    adversarial_seg, open_values = found.against(clean_seg)
    notes = [said_of_undefined("the saved scan", victim, found.undefined)] if found.undefined else []
    undecided = {name: notes[0] for name, value in victim.structures.items() if value in open_values}
    reference = clean_seg if expert is None else expert
    spacing, voxel_ml, labels = clean.ruler, clean.voxel_size, victim.labels
    beyond = () if expert is None or outlined is None else set(victim.structures) - set(outlined)

    references = {name: clean_seg if name in beyond else reference for name in victim.structures}
    defense = None
    if oblivious is not None:
        defense = {"dice": dice_behind(victim, clean, oblivious, clean_seg, adversarial_seg, references, effort, say)}

    native = adversarial.data.astype(np.float64) - clean.data.astype(np.float64)
    files = clean
    # Both were shown to the model as they are; what follows counts as the limit does.
    clean, adversarial = (scan.in_units(ones, asked[1]) for scan in (clean, adversarial))
    delta = adversarial.data.astype(np.float64) - clean.data.astype(np.float64)
    budget = Budget.of(Case(clean, roi=roi), eps, norm)  # type: ignore[arg-type]
    region = budget.region[0, 0].numpy()
    image_numbers = metrics.perturbation(delta, clean.data, region)
    limit = (image_numbers["linf"] or 0.0) if eps is None else eps
    noise = scan_noise(clean.data, clean_seg, labels, spacing, clean.sizes, bool(clean.files))
    sigma = noise["sigma"]
    bound = victim.on(clean)
    in_order = [clean.spacing[axis] for axis in bound.grid.order]
    ordered = np.transpose(delta, (0, *(1 + axis for axis in bound.grid.order)))

    clean_rows = metrics.structures(clean_seg, reference, labels, spacing, voxel_ml)
    adversarial_rows = metrics.structures(adversarial_seg, reference, labels, spacing, voxel_ml)
    if expert is None:
        against_clean = adversarial_rows
    else:
        against_clean = metrics.structures(adversarial_seg, clean_seg, labels, spacing, voxel_ml)
    for name in beyond:
        for rows in (clean_rows, adversarial_rows):
            rows[name] = {**dict.fromkeys(rows[name]), "volume_ml": rows[name]["volume_ml"]}
    value, clean_value = goal.score(adversarial_seg, reference), goal.score(clean_seg, reference)
    threshold = goal.threshold * clean_value if goal.kind == "change" else goal.threshold
    ask = Asking(victim, effort)
    noisy = sigma_of(clean, noise)
    control = _controls(clean, delta, region, budget, ask, references, clean_seg, noisy, seed, random_draw, say)
    numbers = {
        "reference": "clean_prediction" if expert is None else "label",
        "outlined": None if expert is None else [name for name in victim.structures if name not in beyond],
        "budget": {
            "eps": limit,
            "unit": clean.unit,
            "unit_asked": asked[1],
            "eps_asked": limit if asked[1] == NATIVE else asked[0],
            "norm": norm,
            "step": clean.step,
            "measured": {key: image_numbers[key] for key in ("linf", "l2", "l0")},
            **({"channels": _channels(files, native, region, limit, ones)} if files.files else {}),
        },
        "noise": {
            **noise,
            "rms_over_sigma": image_numbers["l2"] / sigma if sigma else None,
            "eps_over_sigma": limit / sigma if sigma and norm != "l0" else None,
        },
        "metrics": {"clean": clean_rows, "adversarial": adversarial_rows, "against_clean": against_clean},
        "limits": dataclasses.asdict(metrics.Limits()),
        "verdicts": {
            name: metrics.verdict(
                {"volume_ml": metrics.volume_ml(clean_seg == value_of, voxel_ml)},
                against_clean[name],
                metrics.failed_slices(clean_seg == value_of, adversarial_seg == value_of, voxel_ml),
                control["benign"]["dice"][name],
                outlined=name not in beyond,
                tested=untested is None and name not in undecided,
            )
            for name, value_of in victim.structures.items()
        },
        "untested": untested or undecided or None,
        "image_metrics": {
            **{key: image_numbers[key] for key in ("psnr_db", "ssim", "data_range_hu")},
            "energy_above_grid": checks.energy_above(ordered, in_order, bound.grid_spacing(clean)),
        },
        "success": {"rule": goal.rule, "value": value, "threshold": threshold, "succeeded": value <= threshold},
        "control": control,
        "flow": flow(clean_seg, adversarial_seg, labels, voxel_ml),
        "slices": metrics.slices(clean_seg, adversarial_seg, labels),
        **({} if defense is None else {"defense": defense}),
    }
    return Measurement(numbers, clean_seg, adversarial_seg, notes + ask.notes)


def _channels(
    scan: Volume, delta: np.ndarray, region: np.ndarray, eps: float, ones: Sequence[float]
) -> list[dict[str, Any]]:
    """The limit and the change of each channel in its file's own unit: eps, unit, step, linf, l2, l0."""
    rows = []
    for number, file in enumerate(scan.files):
        inside = delta[number][region]
        rows.append(
            {
                "eps": eps * (ones[number] if ones else 1.0),
                "unit": file.unit,
                "step": file.step,
                "linf": float(np.abs(inside).max(initial=0.0)),
                "l2": float(np.sqrt(np.square(inside).mean())),
                "l0": float((inside != 0).mean()),
            }
        )
    return rows


def sigma_of(scan: Volume, noise: Mapping[str, Any]) -> float | np.ndarray | None:
    """The noise to add to a scan: of each channel its own where these are files of their own."""
    each = noise.get("channels")
    return noise["sigma"] if not each or None in each else scan.by_channel(each)


def said_of_undefined(scan: str, victim: Victim, undefined: Undefined) -> str:
    """The sentence about a changed scan for which the network returned scores that are no finite numbers."""
    return (
        f"{victim.name} returned {undefined} for {scan}: labels are undefined there, so these voxels count as "
        "unchanged, and structures that have some and held otherwise are not tested; that it returns such scores is a "
        "finding of its own."
    )


class Asking:
    """A victim asked about controls: those for which it returns scores that are no finite numbers are left out."""

    def __init__(self, victim: Victim, effort: Effort | None):
        self.victim, self.effort, self.notes = victim, effort, []

    def __call__(self, scan: Volume, what: str) -> list[np.ndarray]:
        """The prediction, or nothing."""
        found = self.victim.look(scan, self.effort)
        if found.undefined is None:
            return [found.labels]
        self.notes.append(
            f"{self.victim.name} returned {found.undefined} for a control ({what}): its labels are undefined there, so "
            "it was left out."
        )
        return []


def _controls(
    clean: Volume,
    delta: np.ndarray,
    region: np.ndarray,
    budget: Budget,
    ask: Asking,
    references: Mapping[str, np.ndarray],
    clean_seg: np.ndarray,
    sigma: float | np.ndarray | None,
    seed: int,
    random_draw: Callable[[int], np.ndarray] | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Worst Dice per structure, with its reference, under changes that are as large but not aimed."""
    rng = np.random.default_rng(seed)
    low, high = budget.span()

    def dice_of(predictions: Sequence[np.ndarray]) -> dict[str, float | None]:
        worst: dict[str, float | None] = {}
        for name, value in ask.victim.structures.items():
            found = [metrics.dice(prediction == value, references[name] == value) for prediction in predictions]
            known = [dice for dice in found if dice is not None]
            worst[name] = min(known) if known else None
        return worst

    noisy = []
    for index in range(CONTROL_SEEDS):
        say(f"Control: random noise of the same size ({index + 1} of {CONTROL_SEEDS})")
        noise = checks.white_noise(delta, clean.data, region, low, high, clean.steps, rng)
        noisy += ask(clean.with_data((clean.data + noise).astype(clean.data.dtype)), "random noise")
    say("Control: the perturbation rolled to another place")
    moved = checks.rolled(delta, clean.data, low, high, region, rng)
    rolled = ask(clean.with_data((clean.data + moved).astype(clean.data.dtype)), "the perturbation rolled")
    drawn = []
    for index in range(CONTROL_SEEDS if random_draw is not None else 0):
        assert random_draw is not None
        say(f"Control: a random draw in the attack's own space ({index + 1} of {CONTROL_SEEDS})")
        drawn += ask(clean.with_data(random_draw(seed + index)), "a random draw")
    say("Control: harmless changes")
    return {
        "noise": {"dice": dice_of(noisy)},
        "rolled": {"dice": dice_of(rolled)},
        "own": {"dice": dice_of(drawn)} if drawn else None,
        "benign": {"dice": benign_floor(clean, ask, clean_seg, sigma, seed)},
    }


def benign_floor(
    clean: Volume, ask: Asking, clean_seg: np.ndarray, sigma: float | np.ndarray | None, seed: int
) -> dict[str, float | None]:
    """Per structure, the worst Dice of the prediction with itself under changes that mean nothing: saving again, a
    shift by half a voxel, noise of the scan's own sigma. A break counts only below this floor."""
    floor: dict[str, float | None] = dict.fromkeys(ask.victim.structures)
    for member in checks.benign(clean, sigma, np.random.default_rng(seed)):
        for prediction in ask(member.scan, f"harmless change, {member.name.replace('_', ' ')}"):
            again = member.name == "resave" and np.array_equal(member.scan.data, clean.data)
            if again and ask.effort is not None and ask.victim is ask.victim.plain:  # clean_seg is its own answer
                _note_chance(int(np.count_nonzero(prediction != clean_seg)), ask.effort)
            expected = member.reference(clean_seg, prediction)
            for name, value in ask.victim.structures.items():
                agreement = metrics.dice(prediction == value, expected == value)
                if agreement is not None:
                    worst = floor[name]
                    floor[name] = agreement if worst is None else min(worst, agreement)
    return floor


def _note_chance(differing: int, effort: Effort) -> None:
    """Say that the model isn't deterministic where it answers twice differently."""
    note = (
        f"{CHANCE} of the same scan differ in {differing} voxel(s), so the model isn't deterministic (dropout "
        "that stays on, or the device): part of every difference is chance, and `verify` can't repeat it."
    )
    if differing and not any(known.startswith(CHANCE) for known in effort.notes):
        effort.notes.append(note)
