"""What each defence is worth on a few slices of phantom CTs, as a Markdown table:

    python -m benchmarks defenses [--victim ct-organs-2d] [--phantoms 1] [--slices 6] [--eps 10] [--steps 20] [SPEC …]

Every row is an attack (APGD on the Dice loss) that doesn't know of the defence, and the worst of those that do, one per
stand-in; all are judged on the saved file, against the phantom's true labels.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np

import perturbox as px
from perturbox.defenses import discover
from perturbox.job.demo import SEED
from perturbox.zoo.phantom import phantom_case

SHOWN = ("clean", "oblivious", "adaptive", "alone", "undefended")
ROWS = ("clean", "oblivious", "adaptive", "undefended")


def slab(seed: int, slices: int) -> tuple[px.Volume, np.ndarray]:
    """The middle slices of a phantom CT, and their true labels."""
    hu, labels, affine = phantom_case(seed)
    first = (hu.shape[2] - slices) // 2
    kept = slice(first, first + slices)
    return px.Volume(hu[None, ..., kept].astype(np.float32), affine), labels[..., kept]


def measure(spec: str, victim: px.Victim, cases: Sequence, eps: float, steps: int) -> dict[str, object]:
    """Mean Dice over structures and cases, the stand-ins that were worst, and CPU seconds."""
    started, means, worst, alone = time.process_time(), [], [], []
    for image, labels in cases:
        result = px.attack(image, px.defend(victim, spec), "apgd", loss="dice", eps=eps, steps=steps, label=labels)
        means.append(result.record["summary"]["defense"])
        alone += [row["dice"] for row in result.metrics["clean"].values() if row["dice"] is not None]
        worst.append(result.record["defense"]["stand_in"])
    row: dict[str, object] = {which: float(np.mean([mean[which] for mean in means])) for which in ROWS}
    row["alone"] = float(np.mean(alone))
    return row | {"stand_in": max(set(worst), key=worst.count), "seconds": time.process_time() - started}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="defences, as --defense takes them; all by default")
    parser.add_argument("--victim", default="ct-organs-2d")
    parser.add_argument("--phantoms", type=int, default=1)
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--eps", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    victim = px.load_victim(options.victim)
    cases = [slab(SEED + index, options.slices) for index in range(options.phantoms)]
    print(
        "| defence | clean | oblivious | adaptive | without it, clean | attacked | worst stand-in | CPU s |", flush=True
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for spec in options.specs or discover():
        row = measure(spec, victim, cases, options.eps, options.steps)
        dice = " | ".join(f"{row[which]:.3f}" for which in SHOWN)
        print(f"| `{spec}` | {dice} | {row['stand_in']} | {row['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
