"""What training against attacks is worth on the hippocampus nets, a row per method, as a Markdown table:

    python benchmarks/harden_hippocampus.py [ROW …] [--out FOLDER] [--cases 10]        one to five CPU minutes a row

All start from the same seed with the same network, 70 scans and number of weight updates, and differ in what takes the
place of the loss, or in a block. Each is attacked with APGD on the Dice loss within EPS percent of the range, and
by what the same attack made for the plain net: the lower of the two counts, case by case.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.networks.layers.simplelayers import SkipConnection
from torch import Tensor, nn

from blocks import ManifoldMapping, NonLocalContext
from hippocampus import (
    BATCH,
    CACHE,
    RATE,
    STEPS,
    TRAINED_ON,
    case,
    dices,
    examples,
    files,
    network,
    normalise,
    victim_of,
)
from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal
from perturbox.attacks.runner import run
from perturbox.hardening import guided_complement_entropy, harden
from perturbox.model.victim import Victim
from perturbox.types import Case, Volume

TRAIN_EPS, EPS, ATTACK_STEPS = 6.0, 4.0, 20
WARM_UP = STEPS // 3
SEED = 1
dice_ce = DiceCELoss(softmax=True, to_onehot_y=True)


def plain(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return dice_ce(net(normalise(x)), y)


def guided(scores: Tensor, y: Tensor, update: int) -> Tensor:
    """Cross-entropy and Dice first: guided complement entropy has no gradient where the net is wholly wrong."""
    return dice_ce(scores, y) if update < WARM_UP else guided_complement_entropy(scores, y[:, 0])


@dataclass(frozen=True)
class Row:
    """method: of `harden`, "" for none; settings: its own; block: put at the coarsest level."""

    method: str = ""
    settings: tuple[tuple[str, Any], ...] = ()
    block: Callable[[int], nn.Module] | None = None
    guided: bool = False

    def build(self) -> nn.Module:
        net = network()
        if self.block is not None:
            inner = [one for one in net.modules() if isinstance(one, SkipConnection)][-1]
            inner.submodule = nn.Sequential(inner.submodule, self.block(48))
        return net

    def objective(self) -> Callable[[nn.Module, Tensor, Tensor, int], Tensor]:
        if self.guided:
            return lambda net, x, y, update: guided(net(normalise(x)), y, update)
        if not self.method:
            return lambda net, x, y, update: plain(net, x, y)
        # Label-free training has the teacher's labels without the channel that the experts' have.
        loss = dice_ce if self.method != "label-free" else lambda scores, y: dice_ce(scores, y[:, None])
        made = harden(self.method, loss, TRAIN_EPS, prepare=normalise, ramp=WARM_UP, seed=SEED, **dict(self.settings))
        return lambda net, x, y, update: made(net, x, y)


ROWS = {
    "plain": Row(),
    "pgd": Row("pgd", (("steps", 3),)),
    "fast": Row("fast"),
    "free": Row("free", (("replays", 4),)),
    "frequency": Row("frequency", (("steps", 5),)),
    "label-free": Row("label-free", (("steps", 3),)),
    "guided complement entropy": Row(guided=True),
    "non-local context": Row(block=NonLocalContext),
    "manifold mapping": Row(block=ManifoldMapping),
}


def train(name: str, path: Path, data: tuple[Tensor, Tensor], start: dict[str, Tensor] | None) -> None:
    """start: weights to begin with, of the plain net, for training that has no labels of its own."""
    row, (images, labels) = ROWS[name], data
    torch.manual_seed(SEED)
    rng, net, objective = np.random.default_rng(SEED), row.build().train(), row.objective()
    if start is not None:
        net.load_state_dict(start)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS, RATE * 0.02)
    replays = dict(row.settings).get("replays", 1)
    for update in range(STEPS):
        if update % replays == 0:
            chosen = torch.from_numpy(rng.integers(len(images), size=BATCH))
            x = images[chosen] * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8)
            shift = rng.integers(-2, 3, 3).tolist()
            x, y = x.roll(shift, (2, 3, 4)), labels[chosen].roll(shift, (2, 3, 4))
            x = x + torch.from_numpy(rng.normal(0, rng.uniform(0, 3), x.shape).astype(np.float32))
        optimiser.zero_grad()
        objective(net, x, y, update).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        plan.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)


def attacked(victim: Victim, scan: Volume, expert: np.ndarray) -> Volume:
    goal = Goal.parse("change", (), victim.labels).present(expert)
    attack = recipes.get("apgd").build(EPS, "linf", ATTACK_STEPS, {"loss": "dice"}).attack
    return scan.with_data(run(attack, victim.on(scan), Case(scan), expert, goal).x_adv)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all unless given")
    parser.add_argument("--out", type=Path, default=CACHE / "hardened", help="folder of weights; those there stay")
    parser.add_argument("--cases", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = examples()
    cases = [case(path) for path in files()[TRAINED_ON * 2 : TRAINED_ON * 2 + options.cases]]
    made_for_plain: list[Volume] = []
    print(
        "| training | clean | attacked | by what was made for the plain net | worst of both | train, CPU s |",
        flush=True,
    )
    print("|---|---|---|---|---|---|", flush=True)
    for name in ["plain", *(row for row in options.rows or ROWS if row != "plain")]:
        path, began = options.out / f"{name.replace(' ', '-')}.pt", time.process_time()
        net = ROWS[name].build()
        if not path.exists():
            start = torch.load(options.out / "plain.pt", weights_only=True) if name == "label-free" else None
            train(name, path, data, start)
        spent = time.process_time() - began
        net.load_state_dict(torch.load(path, weights_only=True))
        victim = victim_of(name, net)
        own = [attacked(victim, scan, expert) for scan, expert in cases]
        made_for_plain = made_for_plain or own
        clean, direct, transferred = (
            np.mean([dices(victim, scan, expert) for scan, (_, expert) in zip(scans, cases, strict=True)], 1)
            for scans in ([scan for scan, _ in cases], own, made_for_plain)
        )
        worst = np.minimum(direct, transferred)
        means = " | ".join(f"{np.mean(one):.3f}" for one in (clean, direct, transferred, worst))
        print(f"| {name} | {means} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
