"""Hippocampus nets to attack, plain and adversarially trained, from the Medical Segmentation Decathlon's Task04.

    python benchmarks/hippocampus.py [NAME …] [--out FOLDER]        a few CPU minutes each; those that exist stay
    python benchmarks/hippocampus.py --scans FOLDER                 what they learn from, in percent, as files

Intensities go to percent of each scan's 1-99 % range, as MR has no unit. The weights stay outside the repository
(default: ~/.cache/perturbox/strength); the scans are read from PERTURBOX_DATA/mr_hippocampus_msd. Adversarial training
is Madry et al. 2018's (arXiv 1706.06083): every batch is replaced by its own PGD result within EPS.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import Volume

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("PERTURBOX_DATA", ROOT.parent / "shared" / "data")) / "mr_hippocampus_msd"
CACHE = Path(os.environ.get("PERTURBOX_WEIGHTS", Path.home() / ".cache" / "perturbox" / "strength"))
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
SIZE, SPACING = (24, 32, 24), 2.0
TRAINED_ON = 70  # the first of a fixed shuffle; the rest was never seen
RATE, STEPS, BATCH = 4e-3, 220, 4


@dataclass(frozen=True)
class Training:
    """eps: of adversarial training in percent of range, 0 for none; inner: its steps."""

    eps: float = 0.0
    inner: int = 3
    seed: int = 1


NETS = {"hippocampus": Training(), "hippocampus-hardened": Training(eps=6.0)}


def normalise(x: Tensor) -> Tensor:
    """Percent of range to about unit variance."""
    return (x - 50.0) / 25.0


def network() -> UNet:
    return UNet(3, 1, 3, (12, 24, 48), (2, 2), num_res_units=1, norm="instance")


def files() -> list[Path]:
    """All scans in a fixed shuffled order."""
    found = sorted((DATA / "images").glob("*.nii.gz"))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def case(path: Path) -> tuple[Volume, np.ndarray]:
    """(scan in percent of its own 1-99 % range, the expert's labels)."""
    image = nib.load(path)  # type: ignore[attr-defined]
    data = np.asarray(image.dataobj, np.float32)  # type: ignore[attr-defined]
    low, high = np.percentile(data, [1, 99])
    data = np.clip((data - low) / (high - low) * 100, -20, 150).astype(np.float32)
    labels = np.asarray(nib.load(path.parents[1] / "labels" / path.name).dataobj)  # type: ignore[attr-defined]
    return Volume(data[None], image.affine, unit="percent", dtype=np.dtype(np.float32)), labels.astype(np.int16)  # type: ignore[attr-defined]


def victim_of(name: str, net: nn.Module) -> Victim:
    """A network with the pipeline it was trained for."""
    return Victim(
        name=name,
        network=net.eval().requires_grad_(False),
        labels=LABELS,
        window=Window(SIZE, batch=1),
        normalise=normalise,
        unit="percent",
        orientation="RAS",
        spacing=(SPACING, SPACING, SPACING),
    )


def load(name: str, folder: Path = CACHE) -> Victim:
    """A trained net; trains it first where the folder lacks it."""
    path, net = folder / f"{name}.pt", network()
    if not path.exists():
        train(name, path)
    net.load_state_dict(torch.load(path, weights_only=True))
    return victim_of(name, net)


def examples() -> tuple[Tensor, Tensor]:
    """(scans "n 1 *g", labels "n 1 *g") to learn from, on the network's grid, centred in its window."""
    grid = victim_of("hippocampus", network())
    images, labels = [], []
    for path in files()[:TRAINED_ON]:
        scan, known = case(path)
        bound = grid.on(scan)
        images.append(centred(bound.grid.to_network(torch.from_numpy(scan.data)[None])[0, 0], 50.0))
        labels.append(centred(bound.to_grid(known)[0], 0))
    return torch.stack(images)[:, None], torch.stack(labels)[:, None]


def centred(a: Tensor, value: float) -> Tensor:
    pads = [((s - n) // 2, s - n - (s - n) // 2) for s, n in zip(SIZE, a.shape, strict=True)]
    return nn.functional.pad(a, [n for pair in reversed(pads) for n in pair], value=value)


def train(name: str, path: Path) -> None:
    """Train one net and write its weights."""
    how = NETS[name]
    torch.manual_seed(how.seed)
    rng = np.random.default_rng(how.seed)
    net, (images, labels) = network().train(), examples()
    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS, RATE * 0.02)
    for _ in range(STEPS):
        chosen = torch.from_numpy(rng.integers(len(images), size=BATCH))
        x = images[chosen] * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8)
        shift = rng.integers(-2, 3, 3).tolist()
        x, y = x.roll(shift, (2, 3, 4)), labels[chosen].roll(shift, (2, 3, 4))
        x = x + torch.randn_like(x) * rng.uniform(0, 3)
        if how.eps:
            x = hardest(net, loss, x, y, how)
        optimiser.zero_grad()
        loss(net(normalise(x)), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        plan.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(net.state_dict(), part)
    part.replace(path)


def hardest(net: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, how: Training) -> Tensor:
    """The batch after a few steps of PGD on the net as it is now."""
    delta = (torch.rand_like(x) * 2 - 1) * how.eps
    for _ in range(how.inner):
        delta.requires_grad_(True)
        (grad,) = torch.autograd.grad(loss(net(normalise(x + delta)), y), delta)
        delta = (delta.detach() + 2 * how.eps / how.inner * grad.sign()).clamp(-how.eps, how.eps)
    return x + delta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETS)}; all unless given")
    parser.add_argument("--out", type=Path, default=CACHE)
    parser.add_argument("--scans", type=Path, help="write the scans to learn from here, in percent, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.scans:
        options.scans.mkdir(parents=True, exist_ok=True)
        for path in files()[:TRAINED_ON]:
            scan, _ = case(path)
            nib.save(nib.Nifti1Image(scan.data[0], scan.affine), options.scans / path.name)  # type: ignore[attr-defined]
        return
    for name in options.names or NETS:
        victim = load(name, options.out)
        found = [dices(victim, *case(path)) for path in files()[TRAINED_ON * 2 : TRAINED_ON * 2 + 10]]
        print(f"{name}: Dice against the expert {np.round(np.mean(found, 0), 3).tolist()}", flush=True)


def dices(victim: Victim, scan: Volume, labels: np.ndarray) -> list[float]:
    found = victim.predict(scan)
    pairs = [(found == value, labels == value) for value in victim.structures.values()]
    return [2 * float((a & b).sum()) / max(1, int(a.sum() + b.sum())) for a, b in pairs]


if __name__ == "__main__":
    main()
