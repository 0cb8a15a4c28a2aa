"""What the exact whole-volume gradient buys: PGD through the stitched prediction against PGD on crops attacked alone.

    python benchmarks/quality.py CT.nii.gz [--eps 10] [--steps 20] [--crop 64 64 64]

Both arms take equal steps at an equal limit, climb the same loss against the same clean prediction, and are judged by
the same ordinary inference on a file written and read back. The crop-wise arm is the published practice: it tiles
the scan by non-overlapping crops, attacks each as if it were the whole volume, and puts the pieces together.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch

from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal
from perturbox.attacks.runner import run
from perturbox.judge import metrics
from perturbox.load import load_victim
from perturbox.model.victim import Victim
from perturbox.types import Case, Effort, Volume


def judged(image: Volume, x_adv: np.ndarray, victim: Victim, clean_seg: np.ndarray) -> dict[str, float]:
    """Dice per structure of the prediction on a saved file against the clean prediction."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"adversarial{io.writable_format(image)}"
        io.write_volume(path, image.with_data(x_adv.astype(image.data.dtype)), adversarial=True)
        found = victim.predict(io.read_volume(path))
    rows = {name: metrics.dice(found == value, clean_seg == value) for name, value in victim.structures.items()}
    return {name: dice for name, dice in rows.items() if dice is not None}


def exact(
    image: Volume, victim: Victim, clean_seg: np.ndarray, eps: float, steps: int, attack: str = "pgd"
) -> np.ndarray:
    """The scan attacked through its whole stitched prediction."""
    goal = Goal.parse("change", (), victim.labels).present(clean_seg)
    built = recipes.get(attack).build(eps, "linf", steps, {}).attack
    return run(built, victim.on(image), Case(image), clean_seg, goal).x_adv


def crop_wise(
    image: Volume, victim: Victim, clean_seg: np.ndarray, eps: float, steps: int, crop: tuple[int, ...]
) -> np.ndarray:
    """The scan attacked crop by crop, each alone, in non-overlapping tiles of the scan's own grid."""
    x_adv = image.data.copy()
    for start in itertools.product(*(range(0, n, c) for n, c in zip(image.shape, crop, strict=True))):
        box = tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, crop, image.shape, strict=True))
        tile = image.with_data(np.ascontiguousarray(image.data[(slice(None), *box)]))
        reference = np.ascontiguousarray(clean_seg[box])
        goal = Goal.parse("change", (), victim.labels).present(reference)
        if goal.targets and np.ptp(tile.data) > 0:
            built = recipes.get("pgd").build(eps, "linf", steps, {}).attack
            x_adv[(slice(None), *box)] = run(built, victim.on(tile), Case(tile), reference, goal).x_adv
    return x_adv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--victim", default="ct-organs")
    parser.add_argument("--eps", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--crop", type=int, nargs="+", default=[64, 64, 64])
    options = parser.parse_args()
    victim, image = load_victim(options.victim), io.read_volume(options.image)
    clean_seg = victim.predict(image, Effort())
    noise = np.random.default_rng(0).choice([-options.eps, options.eps], image.data.shape)
    noisy = np.clip(image.data + noise, image.data.min(), image.data.max()).astype(image.data.dtype)
    crop = tuple(options.crop[: image.dims])
    torch.manual_seed(0)
    print(f"{options.victim}, {options.eps:g} HU, {options.steps} steps; mean Dice against the clean prediction")
    for name, x_adv in (
        ("noise", noisy),
        (
            f"crop-wise PGD, crops {'x'.join(map(str, crop))}",
            crop_wise(image, victim, clean_seg, options.eps, options.steps, crop),
        ),
        ("exact PGD", exact(image, victim, clean_seg, options.eps, options.steps)),
    ):
        dice = judged(image, x_adv, victim, clean_seg)
        rows = "  ".join(f"{structure} {value:.3f}" for structure, value in dice.items())
        print(f"{name:36s} {np.mean(list(dice.values())):.3f}   {rows}", flush=True)


if __name__ == "__main__":
    main()
