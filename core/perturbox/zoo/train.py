"""Train a built-in model on phantoms only: one seeded run, resumable bit for bit.

    python -m perturbox.zoo.train --model ct-organs --out runs/ct-organs

The run has a fixed number of iterations. Its late EMA weights are candidates, and a held-out set of phantoms, never a
patient, picks among them. AdamW (arXiv:1711.05101), cosine decay after a warm-up, soft Dice plus cross-entropy
(arXiv:1809.10486).
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from perturbox.zoo.models import MODELS, WEIGHTS, Model, save_weights
from perturbox.zoo.network import ResUNet
from perturbox.zoo.stream import Patients, Stream, held_out_crops

State = dict[str, Tensor]
# (network, HU "b *s", target "b *s", iteration) -> the loss of one update.
Objective = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
EMA_DECAY = 0.99
WARM_UP = 80


@dataclass(frozen=True)
class Recipe:
    """How one model is trained."""

    crop: tuple[int, int, int] = (112, 96, 48)
    batch: int = 2
    slices: int | None = None
    iterations: int = 2700
    learning_rate: float = 4e-3


RECIPES = {
    "ct-organs": Recipe(),
    "ct-organs-2d": Recipe(crop=(112, 96, 12), batch=4, slices=4, iterations=700, learning_rate=3e-3),
}


def dice_ce(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice over the foreground classes present in the batch, plus cross-entropy.

    logits (batch, class, *sides), target (batch, *sides) int64.
    """
    log_probability = logits.log_softmax(1)
    return _soft_dice(log_probability, target) + F.nll_loss(log_probability, target)


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """The first part of `dice_ce`, from 0 to 1."""
    return _soft_dice(logits.log_softmax(1), target)


def _soft_dice(log_probability: Tensor, target: Tensor) -> Tensor:
    """A class that is absent is left out: with a batch of two it would otherwise be pushed to zero before it is ever
    seen."""
    one_hot = F.one_hot(target, log_probability.shape[1]).movedim(-1, 1).to(log_probability.dtype)
    axes = [0, *range(2, log_probability.ndim)]
    probability = log_probability.exp()
    size = one_hot.sum(axes)[1:]
    overlap = (probability * one_hot).sum(axes)[1:]
    dice = (2 * overlap + 1) / (probability.sum(axes)[1:] + size + 1)
    present = size > 0
    mean_dice = (dice * present).sum() / present.sum().clamp(min=1)
    return 1 - mean_dice


class Trainer:
    """Network, EMA and optimiser after `iteration` steps; everything a checkpoint holds."""

    def __init__(self, model: Model, recipe: Recipe, seed: int, objective: Objective | None = None) -> None:
        torch.manual_seed(seed)
        self.objective = objective or self.plain
        self.model, self.recipe, self.seed, self.iteration = model, recipe, seed, 0
        self.network: ResUNet = model.build()
        self.ema: State = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), recipe.learning_rate, weight_decay=1e-3)

    def plain(self, network: nn.Module, hu: Tensor, target: Tensor, iteration: int) -> Tensor:
        """The loss without an attack."""
        return dice_ce(network(self.model.normalise(hu)[:, None]), target)

    def begin_with(self, weights: State) -> None:
        """Replace the random weights."""
        weights = {key: value.to(self.ema[key].dtype) for key, value in weights.items()}
        self.network.load_state_dict(weights)
        self.ema = {key: value.clone() for key, value in weights.items()}

    def step(self, hu: Tensor, target: Tensor) -> float:
        """One update; returns the loss."""
        if self.recipe.slices:
            hu, target = hu.flatten(0, 1), target.flatten(0, 1)
        progress = self.iteration / self.recipe.iterations
        rate = min(1, (self.iteration + 1) / WARM_UP) * float(0.5 * (1 + np.cos(np.pi * progress)) + 1e-3)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.objective(self.network, hu, target, self.iteration)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 3.0)
        self.optimiser.step()
        self.iteration += 1
        decay = min(EMA_DECAY, self.iteration / (self.iteration + 20))  # the first weights are soon forgotten
        for key, value in self.network.state_dict().items():
            self.ema[key].lerp_(value, 1 - decay)
        return loss.item()

    def save(self, path: Path) -> None:
        """Write a checkpoint; an interrupted write leaves the previous one."""
        part = path.with_suffix(".part")
        state = {
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "ema": self.ema,
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.iteration, self.ema = state["iteration"], state["ema"]
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


def held_out_dice(model: Model, state: State, patients: Patients, crop: tuple[int, int, int]) -> dict[str, float]:
    """Dice of every class over all held-out phantom crops together."""
    network = model.build().eval()
    network.load_state_dict(state)
    count = len(model.labels)
    overlap, total = np.zeros(count), np.zeros(count)
    for hu, labels in held_out_crops(patients, crop):
        x = model.normalise(torch.from_numpy(hu))
        with torch.inference_mode():
            if model.dims == 3:
                found = network(x[None, None])[0].argmax(0).numpy()
            else:
                found = network(x.movedim(2, 0)[:, None]).argmax(1).movedim(0, 2).numpy()
        same = np.where(found == labels, labels, 0)
        overlap += np.bincount(same.ravel(), minlength=count)
        total += np.bincount(found.ravel(), minlength=count) + np.bincount(labels.ravel(), minlength=count)
    return {name: float(2 * overlap[i] / max(total[i], 1)) for i, name in enumerate(model.labels) if i}


def average(states: list[State]) -> State:
    """Uniform average of weights of one run (Izmailov et al. 2018, arXiv:1803.05407)."""
    return {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}


def pick(model: Model, snapshots: list[State], patients: Patients, crop: tuple[int, int, int]) -> tuple[State, dict]:
    """The best of the last EMA state and averages of the late ones, by mean held-out Dice, and that Dice by class."""
    best: tuple[State, dict] | None = None
    for count in (1, 3, 6):
        if count <= len(snapshots):
            candidate = average(snapshots[-count:])
            dice = held_out_dice(model, candidate, patients, crop)
            print(f"average of {count}: held-out Dice {np.mean(list(dice.values())):.4f}", flush=True)
            if best is None or np.mean(list(dice.values())) > np.mean(list(best[1].values())):
                best = candidate, dice
    if best is None:
        raise ValueError("there are no snapshots to pick from; run more iterations than one checkpoint interval")
    return best


def train(
    model: Model, recipe: Recipe, out: Path, *, seed: int = 0, workers: int = 1, resume: bool = False,
    cache: Path | None = None, checkpoint_every: int = 100, stop_at: int | None = None, start: Path | None = None,
    objective: Objective | None = None,
) -> Trainer:  # fmt: skip
    """Run the recipe to its end, leaving `checkpoint.pt` and EMA snapshots of the last third in `out`.

    `start`: weights to begin with instead of random ones, e.g. of a run on an earlier generator. `objective`: what is
    minimised in place of the plain loss, such as the loss under attack.
    `stop_at` ends this sitting early, at an iteration; `resume` continues from the last checkpoint as if it never had.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(model, recipe, seed, objective)
    if start is not None:
        trainer.begin_with(load_file(start))
    checkpoint = out / "checkpoint.pt"
    if resume and checkpoint.exists():
        trainer.load(checkpoint)
    stream = Stream(Patients(cache), seed, recipe.iterations * recipe.batch, recipe.crop, recipe.slices)
    last = min(stop_at or recipe.iterations, recipe.iterations)
    order = range(trainer.iteration * recipe.batch, last * recipe.batch)
    ahead = 8 if workers else None
    batches = iter(DataLoader(stream, recipe.batch, sampler=order, num_workers=workers, prefetch_factor=ahead))
    started, losses = time.monotonic(), []
    print(f"{model.name}: {sum(p.numel() for p in trainer.network.parameters())} parameters", flush=True)
    for hu, target in batches:
        losses.append(trainer.step(hu, target))
        if trainer.iteration % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            print(f"iteration {trainer.iteration} minutes {minutes:.1f} loss {np.mean(losses):.4f}", flush=True)
            losses.clear()
        due = trainer.iteration % checkpoint_every == 0 or trainer.iteration == recipe.iterations
        if due or trainer.iteration == last:
            trainer.save(checkpoint)
            if due and trainer.iteration > recipe.iterations * 2 / 3:
                save_file(trainer.ema, out / f"ema-{trainer.iteration:06d}.safetensors")
    return trainer


def main() -> None:
    """Command line: train, pick on held-out phantoms, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=RECIPES, default="ct-organs")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--iterations", type=int, help="default: the recipe's")
    parser.add_argument("--rate", type=float, help="peak learning rate; default: the recipe's")
    parser.add_argument("--start", type=Path, help="weights (safetensors) to begin with; default: random ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that make phantoms")
    parser.add_argument("--threads", type=int, default=2, help="threads of the network")
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder of anatomies, to be emptied when the generator changes; default: OUT/../anatomies",
    )
    parser.add_argument("--weights", type=Path, help="file to write; default: the shipped weights")
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    parser.add_argument("--stop-at", type=int, help="end this sitting early, at an iteration, leaving the checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, recipe = MODELS[options.model], RECIPES[options.model]
    chosen = {"iterations": options.iterations, "learning_rate": options.rate}
    recipe = replace(recipe, **{name: value for name, value in chosen.items() if value})
    cache = options.cache or options.out.parent / "anatomies"
    trainer = train(
        model, recipe, options.out, seed=options.seed, workers=options.workers, resume=options.resume, cache=cache,
        stop_at=options.stop_at, start=options.start,
    )  # fmt: skip
    if trainer.iteration < recipe.iterations:
        print(f"stopped at iteration {trainer.iteration}; --resume goes on", flush=True)
        return
    snapshots = [load_file(path) for path in sorted(options.out.glob("ema-*.safetensors"))]
    state, dice = pick(model, snapshots, Patients(cache), recipe.crop)
    path = options.weights or WEIGHTS / f"{model.name}.safetensors"
    rounded = {name: round(value, 4) for name, value in dice.items()}
    save_weights(model, state, path, iterations=trainer.iteration, seed=options.seed, held_out_dice=rounded)
    print(f"wrote {path}: held-out Dice {rounded}", flush=True)


if __name__ == "__main__":
    main()
