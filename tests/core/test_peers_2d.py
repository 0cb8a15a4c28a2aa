"""Iterate by iterate the same as other packages' attacks at equal settings, on slices of a phantom CT and a small
trained network that reads grey values from 0 to 1."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers import installed
from torch import Tensor, nn

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack
from perturbox.attacks.goals import Goal
from perturbox.attacks.runner import run
from perturbox.load import load_victim
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import Case, Volume
from perturbox.zoo.phantom import phantom_case

pytestmark = pytest.mark.peer
SHAPE, SEEDS = (128, 112), (20, 22)
EPS, STEPS = 0.06, 6
LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "bone": 4, "muscle": 5, "gut": 6, "lung": 7}
# Where a gradient is but rounding its sign is anybody's, and with every step more pixels follow from it.
SAME, ASTRAY = 2e-6, 0.01


class Watched(nn.Module):
    """The built-in network of slices behind grey values, which keeps every picture it is asked about. In double
    precision, so that hardly any gradient is nothing but rounding."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.double()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.seen or not torch.equal(self.seen[-1], x):
            self.seen.append(x.detach().clone())
        return self.network(2 * x.double() - 1)


@pytest.fixture(scope="module")
def network() -> Watched:
    assert dict(load_victim("ct-organs-2d").labels) == LABELS
    return Watched(load_victim("ct-organs-2d").network.requires_grad_(False)).eval()


@pytest.fixture(scope="module")
def victim(network) -> Victim:
    return Victim("slices", network, LABELS, Window(SHAPE, blend="constant"), unit="intensity", dims=2)


@cache
def slice_of(seed: int, low: float = 0.0) -> tuple[Volume, np.ndarray]:
    """(grey values from `low` to 1 - low, true labels) of a slice through liver and kidneys; two corners hold 0 and 1,
    so that the peers' range is the picture's own."""
    hu, labels, _ = phantom_case(seed, (*SHAPE, 3), level=-3.0)
    share = (hu[..., 1].clip(-250, 350) + 250) / 600
    grey = (low + (1 - 2 * low) * share).astype(np.float32)
    grey[0, 0], grey[-1, -1] = 0, 1
    image = Volume(grey[None], np.eye(4), unit="intensity", dtype=np.dtype(np.float32), format=".png")
    return image, labels[..., 1].astype(np.int64)


def ours(attack: Attack, victim: Victim, image: Volume, labels: np.ndarray, goal: Goal) -> list[Tensor]:
    """Every picture our attack asks about, the clean one first and whatever it reaches on the way."""
    network = victim.network
    assert isinstance(network, Watched)
    network.seen = []
    run(attack, victim.on(image), Case(image), labels, goal, enough=lambda step: False)
    return list(network.seen)


def theirs(network: Watched, image: Volume, attack: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The same of a peer, with the picture it returns."""
    network.seen = []
    last = attack(torch.from_numpy(image.data)[None])
    seen = list(network.seen)
    return seen if torch.equal(seen[-1], last) else [*seen, last.detach()]


def compare(network: Watched, mine: list[Tensor], other: list[Tensor], labels: np.ndarray, goal: Goal) -> None:
    """Equal iterates, and mean Dice of the last within .02."""
    assert len(mine) == len(other) > 2
    for k, (a, b) in enumerate(zip(mine, other, strict=True)):
        assert float(((a - b).abs() >= SAME).float().mean()) <= ASTRAY * k, f"iterate {k}"
    scores = [goal.score(network(pictures[-1]).argmax(1)[0].numpy(), labels) for pictures in (mine, other)]
    clean = goal.score(network(mine[0]).argmax(1)[0].numpy(), labels)
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert abs(clean - scores[1]) > 0.03  # both did something


def by_hand(network: Watched, x: Tensor, step: Callable[[Tensor, Tensor, int], Tensor], steps: int = STEPS) -> Tensor:
    """step(x_adv, gradient or loss, k) repeated: the loop that a peer leaves to its user."""
    adversarial = x.clone()
    for k in range(steps):
        adversarial = step(adversarial, network(adversarial.requires_grad_(True)), k).detach()
    return adversarial


CHANGE = Goal.parse("change", (), LABELS)


# ---------------------------------------------------------------- torchattacks


@pytest.fixture(scope="module")
def torchattacks(tmp_path_factory) -> Iterator[list]:
    modules = ["torchattacks.attacks.pgd", "torchattacks.attacks.mifgsm"]
    with installed(tmp_path_factory.mktemp("torchattacks"), "torchattacks==3.5.1", modules) as found:
        yield found


@pytest.mark.parametrize("seed", SEEDS)
def test_pgd(network, victim, torchattacks, seed):
    image, labels = slice_of(seed)
    settings = {"alpha": EPS / 4, "random_start": False, "loss": "ce"}
    attack = recipes.get("pgd").build(EPS, "linf", STEPS, settings).attack
    peer = torchattacks[0].PGD(network, eps=EPS, alpha=EPS / 4, steps=STEPS, random_start=False)
    mine = ours(attack, victim, image, labels, CHANGE)
    other = theirs(network, image, lambda x: peer(x, torch.from_numpy(labels)[None]))
    compare(network, mine, other, labels, CHANGE)


@pytest.mark.parametrize("seed", SEEDS)
def test_mi_fgsm(network, victim, torchattacks, seed):
    image, labels = slice_of(seed)
    attack = recipes.get("mi-fgsm").build(EPS, "linf", STEPS, {"alpha": EPS / STEPS, "loss": "ce", "decay": 0.9}).attack
    peer = torchattacks[1].MIFGSM(network, eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=0.9)
    mine = ours(attack, victim, image, labels, CHANGE)
    other = theirs(network, image, lambda x: peer(x, torch.from_numpy(labels)[None]))
    compare(network, mine, other, labels, CHANGE)


# ---------------------------------------------------------------- cospgd


@pytest.fixture(scope="module")
def cospgd(tmp_path_factory) -> Iterator[type]:
    folder = tmp_path_factory.mktemp("cospgd")
    with installed(folder, "cospgd==0.1.3", ["cospgd.attack_implementations"]) as (module,):
        yield module.Attack


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["segpgd", "cospgd"])
@pytest.mark.parametrize("seed", SEEDS)
def test_segpgd_and_cospgd(network, victim, cospgd, seed, name, targeted):
    """Towards labels, the liver is to vanish, and what lies around it to stay."""
    image, labels = slice_of(seed)
    goal = Goal.parse("vanish", ("liver",), LABELS) if targeted else CHANGE
    wanted = np.where(labels == 1, 0, labels) if targeted else labels
    reached = torch.from_numpy(wanted)[None]
    # Named targets are attacked with their surroundings alone.
    weight = goal.task(torch.from_numpy(labels)[None], image.spacing)[1]

    def step(x: Tensor, logits: Tensor, k: int) -> Tensor:
        loss = F.cross_entropy(logits, reached, reduction="none") * weight
        if name == "segpgd":
            loss = cospgd.segpgd_scale(logits, reached, loss, k, STEPS, targeted=targeted)
        else:
            loss = cospgd.cospgd_scale(logits, reached, loss, num_classes=len(LABELS), targeted=targeted).mean()
        (slope,) = torch.autograd.grad(loss, x)
        return cospgd.step_inf(x, EPS, slope, clean, EPS / 4, targeted=targeted)

    clean = torch.from_numpy(image.data)[None]
    attack = recipes.get(name).build(EPS, "linf", STEPS, {"alpha": EPS / 4, "random_start": False}).attack
    mine = ours(attack, victim, image, labels, goal)
    other = theirs(network, image, lambda x: by_hand(network, x, step))
    compare(network, mine, other, labels, goal)


# ---------------------------------------------------------------- adv-lib


@pytest.fixture(scope="module")
def adv_lib(tmp_path_factory) -> Iterator[list]:
    modules = ["adv_lib.attacks.segmentation.asma", "adv_lib.attacks.segmentation.dense_adversary"]
    absent = {"adv_lib.utils.visdom_logger.VisdomLogger": object}  # a plotting server's client
    with installed(tmp_path_factory.mktemp("adv-lib"), "adv-lib==0.2.8", modules, absent) as found:
        yield found


def test_asma(network, victim, adv_lib):
    """Everything is to become background, so that the overlap is averaged over the same classes; plain gradients. The
    peer counts classes that neither map holds as an overlap of 0, ours leaves them out: the slice holds them all."""
    image, labels = slice_of(22)
    goal = Goal.parse("vanish", tuple(LABELS)[1:], LABELS).present(labels)
    assert len(goal.classes) == len(LABELS)
    wanted, weight, _ = goal.task(torch.from_numpy(labels)[None], image.spacing)
    tau, beta, steps = 1e-4, 1e-3, 25
    attack = (
        recipes.get("asma")
        .build(1.0, "linf", steps, {"normalise": False, "tau": tau, "beta": beta, "window": 1.0})
        .attack
    )
    mine = ours(attack, victim, image, labels, goal)
    settings = {"masks": weight > 0, "num_steps": steps, "adv_threshold": 2.0, "τ": tau, "β": beta}
    network.seen = []
    adv_lib[0].asma(network, torch.from_numpy(image.data)[None], wanted, **settings)
    other = list(network.seen)
    for pictures in (other[0], other[-1]):
        assert set(network(pictures).argmax(1).unique().tolist()) == set(LABELS.values())
    compare(network, mine[: len(other)], other, labels, goal)


@pytest.mark.parametrize("seed", SEEDS)
def test_dag(network, victim, adv_lib, seed):
    """The best other answer as adversarial label. The peer's change goes on beyond the range of values where ours stops
    at it, so the picture keeps away from its ends."""
    image, labels = slice_of(seed, low=0.2)
    goal, gamma, steps = CHANGE.present(labels), 0.01, 15
    attack = recipes.get("dag").build(1.0, "linf", steps, {"gamma": gamma, "labels": "runner-up"}).attack
    mine = ours(attack, victim, image, labels, goal)
    y = torch.from_numpy(labels)[None]
    network.seen = []
    adv_lib[1].dag(network, torch.from_numpy(image.data)[None], y, y > 0, adv_threshold=2.0, max_iter=steps, γ=gamma)
    other = list(network.seen)
    compare(network, mine[: len(other)], other, labels, goal)
