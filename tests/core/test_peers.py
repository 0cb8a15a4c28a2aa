"""The same attack by another package, at equal settings: `make test-all` installs it for the length of a test."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from peers import installed
from torch import nn

from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal
from perturbox.attacks.runner import run
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import Case, Volume

SIDE = 48
LABELS = {"background": 0, "disc": 1, "square": 2}


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(grey values from 0 to 1, labels) of a disc and a square in noise."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(*[np.arange(SIDE)] * 2, indexing="ij")
    labels = np.zeros((SIDE, SIDE), np.int64)
    a, b, c, d = rng.uniform(10, SIDE - 10, 4)
    labels[np.maximum(abs(i - c), abs(j - d)) < rng.uniform(5, 9)] = 2
    labels[np.hypot(i - a, j - b) < rng.uniform(5, 9)] = 1
    grey = np.array([0.3, 0.5, 0.7])[labels] + rng.normal(0, 0.05, labels.shape)
    grey = grey.clip(0, 1).astype(np.float32)
    grey[0, 0], grey[-1, -1] = 0, 1  # the peer's range, [0, 1], is then the picture's own
    return grey, labels


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small segmentation network, trained for seconds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=2, dilation=2), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 1))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(150):
        x, y = zip(*(picture(1000 + 8 * step + k) for k in range(8)), strict=True)
        loss = nn.functional.cross_entropy(net(torch.from_numpy(np.stack(x))[:, None]), torch.from_numpy(np.stack(y)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def torchattacks_pgd(tmp_path_factory) -> Iterator[type]:
    """The PGD class of torchattacks."""
    folder = tmp_path_factory.mktemp("peer")
    with installed(folder, "torchattacks==3.5.1", ["torchattacks.attacks.pgd"]) as (module,):
        yield module.PGD


@pytest.mark.peer
@pytest.mark.parametrize("eps, steps", [(0.01, 5), (0.03, 10), (0.06, 20)])
def test_pgd_does_what_torchattacks_pgd_does(network, torchattacks_pgd, eps, steps):
    """Cross-entropy over pixels, equal step size, no random start; the peer returns its last iterate, so ours is asked
    for its last too."""
    alpha = 2.5 * eps / steps
    window = Window((SIDE, SIDE), blend="constant")
    victim = Victim("trained", network, LABELS, window, unit="intensity", dims=2)
    goal = Goal.parse("change", (), LABELS)
    attack = recipes.get("pgd").build(eps, "linf", steps, {"alpha": alpha, "random_start": False, "loss": "ce"}).attack
    peer = torchattacks_pgd(network, eps=eps, alpha=alpha, steps=steps, random_start=False)
    clean, ours, best, theirs, equal = [], [], [], [], []
    for seed in range(8):
        grey, labels = picture(seed)
        image = Volume(grey[None], np.eye(4), unit="intensity", dtype=np.dtype(np.float32), format=".png")
        clean.append(goal.score(victim.predict(image), labels))
        outcome = run(attack, victim.on(image), Case(image), labels, goal, enough=lambda step: False)
        ours.append(outcome.trace[-1].score)
        best.append(outcome.best.score)
        x = torch.from_numpy(grey)[None, None]
        adversarial = peer(x, torch.from_numpy(labels)[None])
        theirs.append(goal.score(network(adversarial).argmax(1)[0].numpy(), labels))
        assert float((adversarial - x).abs().max()) <= eps * (1 + 1e-5)
        if outcome.best.step == steps:
            equal.append(float(np.mean(np.abs(outcome.x_adv - adversarial[0].detach().numpy()) < 1e-4)))
    assert np.mean(clean) > 0.9
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.02)
    assert np.abs(np.array(ours) - np.array(theirs)).max() < 0.06
    assert np.mean(best) <= np.mean(theirs) + 0.005
    if eps == 0.06:
        assert np.mean(theirs) < np.mean(clean) - 0.2
    # Where the limit hardly hurts, the best iterate may never be the last one, and only Dice can be compared.
    assert equal or eps == 0.01
    assert not equal or np.mean(equal) > 0.9
