"""Train `ct-organs-hardened`: the plain weights go on, on phantoms under attack; resumable bit for bit.

    python -m perturbox.hardening.organs --out runs/hardened

Every crop is replaced by its own PGD result (Madry et al. 2018, arXiv 1706.06083) within EPS HU, which grows to that
over the first third. Candidates are the late EMA weights and averages of them; the one with the highest Dice on
held-out phantoms under more steps, on the Dice loss alone, is taken.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from perturbox.hardening.training import Pgd, attacking
from perturbox.zoo.models import MODELS, WEIGHTS, save_weights
from perturbox.zoo.stream import Patients, held_out_crops
from perturbox.zoo.train import Recipe, State, average, dice_ce, soft_dice, train

MODEL = MODELS["ct-organs-hardened"]
RECIPE = Recipe(batch=1, iterations=700, learning_rate=1.5e-3)
START = WEIGHTS / "ct-organs.safetensors"
EPS, STEPS = 12.0, 2  # a little more than the 10 HU it is meant to stand
JUDGED_EPS, JUDGED_STEPS = 10.0, 10
VALID = (-1024.0, 3071.0)
SEED = 2


def prepare(hu: Tensor) -> Tensor:
    """From HU "b *s" to the network's input "b 1 *s"."""
    return MODEL.normalise(hu)[:, None]


class Objective:
    """The plain training's loss on crops under attack; call i draws the same in an interrupted run."""

    def __init__(self, recipe: Recipe) -> None:
        self.attack = Pgd(dice_ce, EPS, prepare, VALID, ramp=recipe.iterations // 3, seed=SEED, steps=STEPS, alpha=1.0)

    def __call__(self, network: nn.Module, hu: Tensor, target: Tensor, iteration: int) -> Tensor:
        self.attack.calls = iteration
        return self.attack(network, hu, target)


def judged(state: State, patients: Patients, crop: Sequence[int]) -> dict[str, dict[str, float]]:
    """Dice by structure over one held-out crop of each patient, {"clean": …, "attacked": …}."""
    network = MODEL.build()
    network.load_state_dict(state)
    attack = Pgd(soft_dice, JUDGED_EPS, prepare, VALID, seed=SEED + 1, steps=JUDGED_STEPS, alpha=0.25)
    count, found = len(MODEL.labels), {}
    for which in ("clean", "attacked"):
        overlap, total = np.zeros(count), np.zeros(count)
        for hu, labels in held_out_crops(patients, crop, 1):
            x, y = torch.from_numpy(hu)[None], torch.from_numpy(labels.astype(np.int64))[None]
            x = attack.perturb(network, x, y) if which == "attacked" else x
            with torch.inference_mode(), attacking(network):
                said = network(prepare(x))[0].argmax(0).numpy()
            overlap += np.bincount(labels[said == labels].ravel(), minlength=count)
            total += np.bincount(said.ravel(), minlength=count) + np.bincount(labels.ravel(), minlength=count)
        found[which] = {name: float(2 * overlap[i] / max(total[i], 1)) for i, name in enumerate(MODEL.labels) if i}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train, pick under attack on held-out phantoms, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints; goes on with what is there")
    parser.add_argument("--iterations", type=int, default=RECIPE.iterations)
    parser.add_argument("--stop-at", type=int, help="end this sitting early, at an iteration, leaving the checkpoint")
    parser.add_argument("--workers", type=int, default=1, help="processes that make phantoms")
    parser.add_argument("--threads", type=int, default=2, help="threads of the network")
    parser.add_argument("--cache", type=Path, help="folder of anatomies; default: OUT/../anatomies")
    parser.add_argument("--weights", type=Path, default=WEIGHTS / f"{MODEL.name}.safetensors", help="file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = replace(RECIPE, iterations=options.iterations)
    cache = options.cache or options.out.parent / "anatomies"
    trainer = train(
        MODEL, recipe, options.out, seed=SEED, workers=options.workers, resume=True, cache=cache,
        stop_at=options.stop_at, start=START, objective=Objective(recipe),
    )  # fmt: skip
    if trainer.iteration < recipe.iterations:
        print(f"stopped at iteration {trainer.iteration}; the same command goes on", flush=True)
        return
    snapshots = [load_file(path) for path in sorted(options.out.glob("ema-*.safetensors"))]
    candidates = {count: average(snapshots[-count:]) for count in (1, 3) if count <= len(snapshots)}
    scores = {}
    for count, state in candidates.items():
        scores[count] = judged(state, Patients(cache), recipe.crop)
        means = {which: round(float(np.mean(list(dice.values()))), 4) for which, dice in scores[count].items()}
        print(f"average of {count}: held-out Dice {means}", flush=True)
    best = max(scores, key=lambda count: np.mean(list(scores[count]["attacked"].values())))
    rounded = {which: {n: round(v, 4) for n, v in dice.items()} for which, dice in scores[best].items()}
    facts = {"iterations": trainer.iteration, "seed": SEED, "eps_hu": EPS, "inner_steps": STEPS}
    save_weights(MODEL, candidates[best], options.weights, **facts, held_out_dice=rounded)
    print(f"wrote {options.weights}: held-out Dice {rounded}", flush=True)


if __name__ == "__main__":
    main()
