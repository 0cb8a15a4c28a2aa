"""Whether detectors see attacks on hippocampus nets, and whether HFC passes them as its authors say.

    python benchmarks/detectors.py MODEL.safetensors --seen A.txt [--cases 24] [--fell 0.5] [--steps 20] [--out FILE]

MODEL: one of benchmarks/study_victims.py, A.txt: the hashes of the scans it was trained on; the scans are read from
PERTURBOX_DATA/mr_hippocampus_msd. Of the scans that the model never saw the first CASES are attacked and judged, HFC's
features are fitted on as many others. Every attack is given ever larger limits until the Dice of the saved scan, with
the model's own clean prediction, is at most FELL: attacks are compared at equal success, each with its own limit.
Beside them stands what is no attack: white noise as large as PGD's change, and that change rolled to another place.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import hippocampus
from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.fitting import fit_features
from perturbox.attacks.goals import Goal
from perturbox.attacks.runner import run
from perturbox.detectors.fitting import as_large, fit_detector
from perturbox.judge.units import one_of
from perturbox.load import load_victim
from perturbox.model.victim import Victim
from perturbox.types import Case, InputError, Volume

LIMITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # percent of the scan's 1-99 % range
WEIGHTS = (0.01, 0.1, 1.0)
DETECTORS = ("mahalanobis", "kernel-density", "lid", "svm", "dnn", "entropy", "one-class")


def held_out(seen: Path, victim: Victim) -> list[Volume]:
    """The scans that the model wasn't trained on, in a fixed shuffled order."""
    known = set(seen.read_text(encoding="utf-8").split())
    paths = [path for path in hippocampus.files() if hashlib.sha256(path.read_bytes()).hexdigest() not in known]
    return [io.read_scan(path, unit=victim.unit) for path in paths]


def dice_of(victim: Victim, scan: Volume, clean: np.ndarray) -> float:
    """Mean Dice of what the model says of a scan with its clean prediction, over the structures there."""
    now = victim.predict(scan)
    values = [value for value in victim.structures.values() if (clean == value).any()]
    return float(
        np.mean([2 * ((clean == v) & (now == v)).sum() / ((clean == v).sum() + (now == v).sum()) for v in values])
    )


@dataclass(frozen=True)
class Try:
    """How attacks are tried: steps of each, limits in percent of range, the Dice at which one has succeeded."""

    steps: int
    limits: Sequence[float]
    fell: float


def attacked(victim: Victim, scan: Volume, name: str, settings: dict, how: Try) -> Volume | None:
    """The scan under the first limit that makes its Dice fall so far; None if none does."""
    clean = victim.predict(scan)
    goal = Goal.parse("change", (), victim.labels).present(clean)
    if not goal.targets:
        return None
    for limit in how.limits:
        built = recipes.get(name).build(limit * one_of("percent", scan, None), "linf", how.steps, settings, local=True)
        found = run(built.attack, victim.on(scan), Case(scan), clean, goal, seed=0)
        made = scan.with_data(scan.as_saved(found.x_adv))
        if dice_of(victim, made, clean) <= how.fell:
            return made
    return None


def rolled(scan: Volume, made: Volume) -> Volume:
    """The scan under its own change, moved by a third of each axis."""
    moved = np.roll(made.data - scan.data, [n // 3 for n in scan.shape], tuple(range(1, scan.dims + 1)))
    return scan.with_data(scan.as_saved(scan.data + moved))


def rows(
    victim: Victim, scans: list[Volume], others: list[Volume], weights: Sequence[float], detectors: list[str], how: Try
) -> list[list[str]]:
    """A row per attack: how many succeeded, their RMS change in percent of range, their Dice, and the AUROC of each
    detector."""
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features.safetensors"
        fit_features(victim, others, passes=2).write(features)
        kinds = {"pgd": ("pgd", {})}
        kinds |= {f"hfc, λ {w:g}": ("hfc", {"features": str(features), "feature_weight": w}) for w in weights}
        made = {title: [attacked(victim, scan, *kind, how) for scan in scans] for title, kind in kinds.items()}
    pairs = list(zip(scans, made["pgd"], strict=True))
    rng = np.random.default_rng(0)
    made["noise as large as pgd's"] = [None if hit is None else as_large(scan, hit, rng) for scan, hit in pairs]
    made["pgd's change, rolled"] = [None if hit is None else rolled(scan, hit) for scan, hit in pairs]
    found = []
    for title, changed in made.items():
        hits = [(scan, hit) for scan, hit in zip(scans, changed, strict=True) if hit is not None]
        print(f"{title}: {len(hits)} of {len(scans)}", file=sys.stderr, flush=True)
        size, dice = "–", "–"
        if hits:
            changes = [np.sqrt(np.mean((h.data - s.data) ** 2)) / one_of("percent", s, None) for s, h in hits]
            size = f"{np.median(changes):.1f} %"
            dice = f"{np.median([dice_of(victim, h, victim.predict(s)) for s, h in hits]):.2f}"
        noise = "equal-norm" if title in kinds else "none"
        cells = [area(victim, detector, scans, [hit for _, hit in hits], noise) for detector in detectors]
        found.append([title, f"{len(hits)} of {len(scans)}", size, dice, *cells])
    return found


def area(victim: Victim, detector: str, scans: list[Volume], hits: list[Volume], noise: str) -> str:
    """AUROC with its interval."""
    try:
        reads = [[lambda one=one: one for one in some] for some in (scans, hits)]
        told = fit_detector(victim, detector, *reads, noise=noise).facts["evaluation"]["auroc"]
    except (InputError, KeyError):
        return "–"  # too few to learn from, or none
    return f"{told['value']:.2f} ({told['low']:.2f}–{told['high']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seen", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--fell", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limits", type=float, nargs="+", default=LIMITS, help="percent of range")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="λ of HFC")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    victim = load_victim(options.model)
    scans = held_out(options.seen, victim)
    chosen, others = scans[: options.cases], scans[options.cases : 2 * options.cases]
    table = [["attack", "fell", "median RMS", "median Dice", *options.detectors]]
    table.append(["---"] * len(table[0]))
    how = Try(options.steps, options.limits, options.fell)
    table += rows(victim, chosen, others, options.weights, options.detectors, how)
    text = "\n".join(f"| {' | '.join(row)} |" for row in table)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
