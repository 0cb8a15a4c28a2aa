"""What each defence is worth, as a Markdown table:

    python -m benchmarks defenses [--victim ct-organs-2d] [--phantoms 1] [--slices 6] [--eps 10] [--steps 20] [SPEC …]
    python -m benchmarks defenses --hippocampus 10 --eps 4          expert labels, the net of hippocampus.py
    python -m benchmarks defenses --victim ct-organs --scan CT.nii.gz

Every row is an attack (APGD on the Dice loss) that doesn't know of the defence, and the worst of those that do, one per
stand-in; all are judged on the saved file, against the true labels or, of a scan without any, the undefended clean
prediction. "masking?": over all cases the attack that knows of it does less, so nothing is known of the defence.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import hippocampus
import perturbox as px
from perturbox.defenses import discover
from perturbox.job.demo import SEED
from perturbox.judge.defense import MASKING
from perturbox.zoo.phantom import phantom_case

SHOWN = ("clean", "oblivious", "adaptive", "alone", "undefended")
ROWS = ("clean", "oblivious", "adaptive", "undefended")
# The hippocampus net reads percent of the scan's range, and a hippocampus is 35 voxels wide.
IN_PERCENT = (
    "aegis", "bit-depth:low=0:high=100", "dct:step=15", "gaussian", "lgs:low=0:high=100:block=9:overlap=3", "median",
    "smoothing:sigma=5", "tv:low=0:high=100",
)  # fmt: skip


class Scene(NamedTuple):
    """A model, and cases (scan, its true labels or None)."""

    victim: px.Victim
    cases: list[tuple[Any, np.ndarray | None]]


def slab(seed: int, slices: int) -> tuple[px.Volume, np.ndarray]:
    """The middle slices of a phantom CT, and their true labels."""
    hu, labels, affine = phantom_case(seed)
    first = (hu.shape[2] - slices) // 2
    kept = slice(first, first + slices)
    return px.Volume(hu[None, ..., kept].astype(np.float32), affine), labels[..., kept]


def measure(spec: str, scene: Scene, eps: float, steps: int) -> dict[str, object]:
    """Mean Dice over structures and cases, the stand-ins that were worst, gradients, and CPU seconds."""
    started, means, worst, alone, ratios = time.process_time(), [], [], [], []
    for image, labels in scene.cases:
        victim = px.defend(scene.victim, spec)
        result = px.attack(image, victim, "apgd", loss="dice", eps=eps, steps=steps, label=labels)
        record = result.record
        means.append(record["summary"]["defense"])
        alone += [row["dice"] for row in result.metrics["clean"].values() if row["dice"] is not None]
        worst.append(record["defense"]["stand_in"])
        ratios.append(max(one["backwards"] for one in record["defense"]["candidates"]) / steps)
    row: dict[str, object] = {which: float(np.mean([mean[which] for mean in means])) for which in ROWS}
    row["alone"] = float(np.mean(alone))
    row["masking"] = " (masking?)" if row["adaptive"] > row["oblivious"] + MASKING else ""  # type: ignore[operator]
    spent = time.process_time() - started
    return row | {"stand_in": max(set(worst), key=worst.count), "gradients": max(ratios), "seconds": spent}


def scene_of(options: argparse.Namespace) -> Scene:
    if options.hippocampus:
        held_out = hippocampus.files()[2 * hippocampus.TRAINED_ON :][: options.hippocampus]
        return Scene(hippocampus.load("hippocampus"), [hippocampus.case(path) for path in held_out])
    victim = px.load_victim(options.victim)
    if options.scan:
        return Scene(victim, [(path, None) for path in options.scan])
    return Scene(victim, [slab(SEED + index, options.slices) for index in range(options.phantoms)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="defences, as --defense takes them; all by default")
    parser.add_argument("--victim", default="ct-organs-2d")
    parser.add_argument("--phantoms", type=int, default=1)
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--scan", action="append", help="of one's own, in place of phantoms; may be repeated")
    parser.add_argument("--hippocampus", type=int, default=0, help="as many held-out scans of Task04, and its net")
    parser.add_argument("--eps", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    scene = scene_of(options)
    print(
        "| defence | clean | oblivious | adaptive | without it, clean | attacked | worst stand-in | gradients | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for spec in options.specs or (IN_PERCENT if options.hippocampus else discover()):
        row = measure(spec, scene, options.eps, options.steps)
        dice = " | ".join(f"{row[which]:.3f}" for which in SHOWN)
        cost = f"{row['gradients']:.2f} × | {row['seconds']:.0f}"
        print(f"| `{spec}` | {dice} | {row['stand_in']}{row['masking']} | {cost} |", flush=True)


if __name__ == "__main__":
    main()
