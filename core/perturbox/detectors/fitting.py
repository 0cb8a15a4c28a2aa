"""Fits a detector on clean scans, and scores every scan by a fit that never saw its patient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from perturbox.detectors import get
from perturbox.detectors.evaluation import evaluate
from perturbox.detectors.fitted import LEAST_CASES, Detector
from perturbox.detectors.method import INSIDE, Layout, Method
from perturbox.detectors.seen import MASKS, Asked, Sample, fingerprint, look_at, require_seen
from perturbox.model.pooling import WIDEST, convolutions, group_names
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

FOLDS = 10
RATE = 0.05
NOISES = ("equal-norm", "none")
THUMB = 24  # voxels along each axis by which an attacked scan finds the clean one it was made of

# A scan that is read when it is needed.
Read = Callable[[], Volume]


@dataclass(frozen=True, eq=False)
class _Thumb:
    """Enough of a scan to know it again under a small change."""

    shape: tuple[int, ...]
    values: np.ndarray

    @classmethod
    def of(cls, scan: Volume) -> "_Thumb":
        every = tuple(slice(None, None, max(1, n // THUMB)) for n in scan.shape)
        return cls(scan.data.shape, scan.data[(slice(None), *every)].astype(np.float64))

    def apart(self, other: "_Thumb") -> float:
        """RMS difference, infinite on another grid."""
        return float(np.sqrt(np.mean((self.values - other.values) ** 2))) if self.shape == other.shape else np.inf


@dataclass(frozen=True, eq=False)
class Seen:
    """A scan that was looked at. kind: "clean", "noise" or "attacked", or another of which no detector learns; patient:
    who it is of; values: their hash."""

    kind: str
    patient: str
    sample: Sample
    values: str = ""


def fit_detector(
    victim: Victim,
    detector: str,
    clean: Sequence[Read],
    attacked: Sequence[Read] = (),
    *,
    noise: str = NOISES[0],
    patients: Sequence[str] = (),
    layers: Sequence[str] = (),
    rate: float = RATE,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> Detector:
    """A detector of attacks on a victim.

    clean: scans; patients: who each is of, everyone his own if not given. attacked: attacked versions of some of them;
    supervised detectors are fitted on them, others only evaluated. noise: "equal-norm" adds to each clean scan that was
    attacked white noise of the same RMS change, which is no attack; "none". layers: by their names in the network; by
    default every convolution but the last. rate: of false alarms that is wanted. stop: polled between scans.

    Every raw number that sets the threshold, and every one that is evaluated, comes from a fit without that patient.
    Raises InputError for too few scans, for models and scans that the detector can't look at, and where scikit-learn is
    missing.
    """
    method = get(detector)
    if noise not in NOISES:
        raise InputError(f"The noise is one of {', '.join(NOISES)}, not '{noise}'.")
    if not 0 < rate <= 0.5:
        raise InputError(f"The false alarm rate must lie above 0 and at most at 0.5, not at {rate:g}.")
    if method.supervised and not attacked:
        raise InputError(f"{method.name} learns from attacked scans too; give some with --attacked, or choose another.")
    whose = list(patients) or [str(number) for number in range(len(clean))]
    if len(whose) != len(clean):
        raise InputError(f"{len(whose)} patients are named for {len(clean)} clean scans; name one for each.")
    if (count := len(set(whose))) < LEAST_CASES:
        raise InputError(
            f"{count} clean patient{'s are' if count != 1 else ' is'} too few to set a threshold; give at least "
            f"{LEAST_CASES}."
        )
    asked = asked_of(victim, method, layers, clean[0])
    seen = _look_at_all(victim, asked, clean, attacked, whose, noise, seed, say, stop)
    if method.supervised and (found := len({one.patient for one in seen if one.kind == "attacked"})) < LEAST_CASES:
        raise InputError(f"Attacked scans of {found} patients are too few to learn from; give at least {LEAST_CASES}.")
    say("Fitting the detector")
    first = seen[0].sample
    layout = Layout(
        _widths(victim, asked, clean[0]) if asked.joint else {name: f.shape[1] for name, f in first.features.items()},
        len(group_names(victim)),
        0 if first.outputs is None else len(first.outputs),
    )
    raw = held_out(method, seen, say, stop)
    calm, facts = [number for number, one in enumerate(seen) if one.kind == "clean"], {"clean": len(clean)}
    facts |= {"patients": count, "attacked": len(attacked), "noise": sum(one.kind == "noise" for one in seen)}
    told: dict[str, Any] = {**facts, "seed": seed, "scans": [seen[number].values for number in calm]}
    made = Detector(
        method, victim.name, victim.sha256, group_names(victim), layout, _fit(method, seen), raw[calm], rate, told
    )
    if attacked:
        scores = made.of_raw(raw)
        hit = np.array([one.kind == "attacked" for one in seen])
        who = np.array([one.patient for one in seen])
        told["evaluation"] = evaluate(scores[~hit], scores[hit], (who[~hit].tolist(), who[hit].tolist()), seed=seed)
    return made


def asked_of(victim: Victim, method: Method, layers: Sequence[str], first: Read) -> Asked:
    """What a method looks at on this victim; layers in the order in which they are run."""
    names = require_layers(victim, method, layers)
    if not names:
        return _without_layers(method)
    run = tuple(look_at(victim, first(), Asked(names)).features)
    hidden = run if layers else run[:-1][: method.first]  # the last one makes the prediction itself
    if not hidden:
        raise InputError(f"{victim.name} has a single convolution, its prediction; name layers with --layer.")
    return Asked(hidden[-1:] if method.last_layer else hidden, joint=method.sees == "joint")


def _widths(victim: Victim, asked: Asked, first: Read) -> dict[str, int]:
    """How many channels each layer has."""
    seen = look_at(victim, first(), Asked(asked.layers)).features
    return {name: seen[name].shape[1] for name in asked.layers}


def require_layers(victim: Victim, method: Method, layers: Sequence[str] = ()) -> tuple[str, ...]:
    """The layers among which a method looks, none for one that looks at answers; raises InputError for a victim that it
    can't look at."""
    if method.sees not in INSIDE:
        if layers:
            raise InputError(f"{method.name} looks at no layers; leave out --layer.")
        require_seen(victim, _without_layers(method))
        return ()
    names = tuple(layers) or convolutions(victim)
    if not names:
        raise InputError(f"{victim.name} has no convolutions of at most {WIDEST} channels; name layers with --layer.")
    require_seen(victim, Asked(names))
    return names


def _without_layers(method: Method) -> Asked:
    return Asked(outputs=method.sees == "outputs", masks=MASKS if method.sees == "dropout" else 0)


def _look_at_all(
    victim: Victim,
    asked: Asked,
    clean: Sequence[Read],
    attacked: Sequence[Read],
    whose: Sequence[str],
    noise: str,
    seed: int,
    say: Callable[[str], None],
    stop: Callable[[], bool],
) -> list[Seen]:
    """Every scan as the detector sees it: the clean ones, the attacked ones, and noise as large as these."""
    seen: list[Seen] = []
    thumbs: list[_Thumb] = []

    def add(kind: str, number: int, scan: Volume, what: str) -> None:
        if stop():
            raise KeyboardInterrupt
        say(what)
        seen.append(Seen(kind, whose[number], look_at(victim, scan, asked), fingerprint(scan)))

    for number, read in enumerate(clean):
        scan = read()
        thumbs.append(_Thumb.of(scan))
        if any(thumbs[-1].apart(other) == 0 for other in thumbs[:-1]):
            raise InputError(f"Clean scan {number + 1} is given twice; leave one of them out.")
        add("clean", number, scan, f"Clean scan {number + 1} of {len(clean)}")
    for index, read in enumerate(attacked):
        scan = read()
        apart = [thumb.apart(_Thumb.of(scan)) for thumb in thumbs]
        number = int(np.argmin(apart))
        if not np.isfinite(apart[number]):
            raise InputError(
                f"Attacked scan {index + 1} has the size of none of the clean scans; give the scan it was made of too."
            )
        add("attacked", number, scan, f"Attacked scan {index + 1} of {len(attacked)}")
        if noise == NOISES[0]:
            calm = clean[number]()
            noisy = as_large(calm, scan, np.random.default_rng([seed, index]))
            add("noise", number, noisy, f"Noise as large as attack {index + 1} of {len(attacked)}")
    return seen


def as_large(clean: Volume, attacked: Volume, rng: np.random.Generator) -> Volume:
    """The clean scan under white noise of the RMS change of the attacked one, as its file would hold it."""
    rms = np.sqrt(np.mean((attacked.data.astype(np.float64) - clean.data) ** 2))
    noisy = clean.data + (rms * rng.standard_normal(clean.data.shape)).astype(np.float32)
    return clean.with_data(clean.as_saved(noisy.astype(np.float32)))


def _fit(method: Method, seen: Sequence[Seen]) -> dict[str, torch.Tensor]:
    """The parts of a method; noise is none of the attacks that a supervised one learns."""
    kinds = ("clean", "noise") if method.supervised else ("clean",)
    calm = [one.sample for one in seen if one.kind in kinds]
    parts = method.fit(calm, [one.sample for one in seen if one.kind == "attacked"])
    return {name: part.double().contiguous().clone() for name, part in parts.items()}  # as `fitted` gives them back


def held_out(
    method: Method,
    seen: Sequence[Seen],
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """The raw number of each scan from a fit without its patient."""
    patients = list(dict.fromkeys(one.patient for one in seen))
    folds, raw = min(FOLDS, len(patients)), np.zeros(len(seen))
    for fold in range(folds):
        if stop():
            raise KeyboardInterrupt
        out = set(patients[fold::folds])
        parts = _fit(method, [one for one in seen if one.patient not in out])
        for number, one in enumerate(seen):
            if one.patient in out:
                raw[number] = float(method.raw(parts, one.sample))
    if not np.isfinite(raw).all():
        raise InputError("The detector gives scores that are no finite numbers on these scans; choose another.")
    return raw
