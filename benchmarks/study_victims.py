"""A library of small hippocampus models for studies: U-Nets and SegResNets, random and pre-trained, on two halves.

    python benchmarks/study_victims.py FOLDER [--seeds 3] [--cases 20]      some CPU minutes; those that exist stay

Writes FOLDER/models/*.safetensors with their sidecars and training lists, and FOLDER/transfer.yaml, transfer-100.yaml,
curve.yaml, non-inferiority.yaml, certify.yaml, detectors.yaml and dropout.yaml beside them. Scans and expert labels are
those of the Medical Segmentation Decathlon's Task04, from PERTURBOX_DATA/mr_hippocampus_msd or --scans. Every model has
a random start of its own: two that share one transfer as if they shared pre-training. Pre-training is on ellipsoid
phantoms, a start of its own for each model as well.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from monai.losses.dice import DiceCELoss
from safetensors.torch import save_file
from torch import Tensor, nn

from hippocampus import BATCH, DATA, LABELS, RATE, SIZE, SPACING, centred
from perturbox import io
from perturbox.io.files import sha256
from perturbox.load.architecture import network_from
from perturbox.load.sidecar import SCHEMA
from perturbox.model.pipeline import Pipeline, step_from
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim

UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [12, 24, 48],
    "strides": [2, 2], "num_res_units": 1, "norm": "instance",
}  # fmt: skip
NETWORKS = {
    "unet": UNET,
    "unet-dropout": {**UNET, "dropout": 0.2},
    "segresnet": {
        "_target_": "SegResNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_filters": 8,
        "blocks_down": [1, 2, 2], "blocks_up": [1, 1],
    },
}  # fmt: skip
STEPS = {"unet": 220, "unet-dropout": 220, "segresnet": 300}
RATES = {"segresnet": 2e-3}  # at the others' 4e-3, or in half the steps, some never learn a part
PRETRAINING = 150
DROPOUT_SEED = 101
JUDGED = 36  # cases of the study of detectors, which claims nothing of fewer than 30; HFC's features are of the others
HALF = 70  # scans of each half; the rest of the shuffled 200 is never trained on
PIPELINE = [
    {"step": "percentiles", "lower": 1, "upper": 99, "to": [-2, 2]},
    {"step": "clip", "low": -2.8, "high": 4},
    {"step": "orient", "to": "RAS"},
    {"step": "spacing", "mm": [SPACING] * 3},
]


@dataclass(frozen=True)
class Made:
    """One model: its architecture, its training half, where it starts, its seed."""

    network: str
    data: str
    init: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.data}-{self.init}-{self.seed}"

    @property
    def factors(self) -> dict[str, str | int]:
        return {"arch": self.network, "data": self.data, "init": self.init, "seed": self.seed}


def library(seeds: int) -> Iterator[Made]:
    """U-Nets: two starts × two halves × seeds, and as many SegResNets as seeds; no seed is used twice."""
    number = 0
    for init in ("random", "phantoms"):
        for data in ("A", "B"):
            for _ in range(seeds):
                number += 1
                yield Made("unet", data, init, number)
    for _ in range(seeds):
        number += 1
        yield Made("segresnet", "A", "random", number)


# For detectors that ask how far dropout moves the answer; no part of the studies.
LONE = Made("unet-dropout", "A", "random", DROPOUT_SEED)


def halves(scans: Path) -> dict[str, list[Path]]:
    found = sorted((scans / "images").glob("*.nii.gz"))
    order = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    return {"A": order[:HALF], "B": order[HALF : 2 * HALF], "test": order[2 * HALF :]}


def victim() -> Victim:
    """The pipeline that all models share, around a network that is never asked."""
    steps = tuple(step_from(entry) for entry in PIPELINE)
    return Victim("grid", nn.Identity(), LABELS, Window(SIZE, batch=1), unit="intensity", pipeline=Pipeline(steps))


def examples(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """(network inputs "n 1 *g", labels "n 1 *g"), centred in the window."""
    grid, images, labels = victim(), [], []
    for path in paths:
        scan = io.read_volume(path, unit="intensity")
        bound = grid.on(scan)
        known = io.read_labels(path.parents[1] / "labels" / path.name, scan)
        images.append(centred(bound.prepare(torch.from_numpy(scan.data)[None].float())[0, 0], 0.0))
        labels.append(centred(bound.to_grid(known)[0], 0))
    return torch.stack(images)[:, None], torch.stack(labels)[:, None]


def phantoms(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """As many phantoms as scans: two touching ellipsoids in an uneven ground, with noise."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SIZE), indexing="ij")
    images, labels = [], []
    for _ in range(count):
        label = np.zeros(SIZE, np.int64)
        centre = np.array(SIZE) / 2 + rng.uniform(-2, 2, 3)
        for value, shift in ((1, 1.0), (2, -1.0)):
            middle = centre + shift * np.array([0, rng.uniform(3, 6), rng.uniform(0, 2)])
            radii = rng.uniform((3, 4, 2.5), (6, 8, 5))
            inside = sum(((axis - m) / r) ** 2 for axis, m, r in zip((z, y, x), middle, radii, strict=True)) < 1
            label[inside & (label == 0)] = value
        tilt = rng.normal(0, 0.02, 3)
        image = tilt[0] * (z - 12) + tilt[1] * (y - 16) + tilt[2] * (x - 12) + rng.normal(0, 0.4, SIZE)
        for value in (1, 2):
            image[label == value] += rng.uniform(0.5, 1.5)
        images.append(torch.from_numpy(image.astype(np.float32)))
        labels.append(torch.from_numpy(label))
    return torch.stack(images)[:, None], torch.stack(labels)[:, None]


def fit(net: nn.Module, images: Tensor, labels: Tensor, steps: int, rate: float, rng: np.random.Generator) -> None:
    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, rate * 0.02)
    net.train()
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(len(images), size=BATCH))
        x = images[chosen] * rng.uniform(0.85, 1.15) + rng.uniform(-0.3, 0.3)
        shift = rng.integers(-2, 3, 3).tolist()
        x, y = x.roll(shift, (2, 3, 4)), labels[chosen].roll(shift, (2, 3, 4))
        x = x + torch.randn_like(x) * rng.uniform(0, 0.12)
        optimiser.zero_grad()
        loss(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        plan.step()
    net.eval()


def train(made: Made, images: Tensor, labels: Tensor, path: Path) -> None:
    torch.manual_seed(made.seed)
    rng = np.random.default_rng(made.seed)
    net = network_from(NETWORKS[made.network], made.name)
    rate = RATES.get(made.network, RATE)
    if made.init == "phantoms":
        fit(net, *phantoms(HALF, rng), PRETRAINING, rate, rng)
    fit(net, images, labels, STEPS[made.network], rate, rng)
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, part)
    part.replace(path)


def sidecar(made: Made) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "name": made.name,
        "unit": "intensity",
        "labels": LABELS,
        "window": {"size": list(SIZE), "batch": 1},
        "steps": PIPELINE,
        "network": NETWORKS[made.network],
        "training_data": f"{HALF} scans of Medical Segmentation Decathlon Task04 (CC BY-SA 4.0), half {made.data}; "
        f"start: {made.init}, seed {made.seed}; {STEPS[made.network]} steps.",
        "intended_use": "Studies of transfer between models. Not a medical device.",
    }


def studies(models: list[Made], test: list[Path], count: int, folder: Path) -> None:
    """The study files that use the library; test: scans that none was trained on, of which each takes as many as it
    needs, detectors `JUDGED` and the others `count`."""

    def spec(made: Made) -> dict[str, object]:
        return {
            "victim": f"models/{made.name}.safetensors",
            "factors": made.factors,
            "trained_on": f"models/{made.data}.txt",
        }

    named = {made.name: spec(made) for made in models}

    def scans(cases: list[Path]) -> dict[str, object]:
        return {
            "images": [str(path) for path in cases],
            "labels": f"{cases[0].parents[1] / 'labels'}/{{name}}.nii.gz",
        }

    common = {"schema": "perturbox-study/1", "cases": scans(test[:count]), "gate": {"clean_dice": 0.6}}
    apgd = {"name": "apgd", "steps": 20, "settings": {"loss": "dice"}}
    pgd = {"name": "pgd", "steps": 20}
    hfc = [
        {"name": "hfc", "steps": 10, "settings": {"feature_weight": weight}, "label": f"hfc {weight:g}"}
        for weight in (0.01, 0.1, 0.3, 1.0)
    ]
    passing = {way: {"way": way, "until": 0.4} for way in ("selective", "orthogonal")}
    passing |= {f"{weight:g}": {"detector_weight": weight} for weight in (0.1, 1.0)}
    evade = [
        {"name": "evade", "steps": 10, "settings": {"detector": "mahalanobis", **settings}, "label": f"evade {how}"}
        for how, settings in passing.items()
    ]
    limits = {"values": [3, 6], "unit": "percent"}
    plain, other = models[0].name, models[len(models) // 2].name
    written = {
        "transfer": {**common, "models": named, "attacks": [apgd, pgd], "eps": limits},
        "transfer-100": {
            **common,
            "kind": "transfer",
            "models": named,
            "attacks": [{**apgd, "steps": 100}],
            "eps": {"values": [6], "unit": "percent"},
        },
        "curve": {
            **common,
            "models": {plain: named[plain]},
            "attacks": [apgd],
            "eps": {"values": [1, 2, 4, 8], "unit": "percent"},
        },
        "non-inferiority": {
            **common,
            "models": {name: named[name] for name in (plain, other)},
            "attacks": [apgd],
            "eps": {"values": [4], "unit": "percent"},
            "compare": {"new": other, "old": plain, "margin": 0.05},
        },
        "certify": {
            **common,
            "models": {name: named[name] for name in (plain, other)},
            "certify": {"sigma": [2.5, 5, 10, 20], "unit": "percent"},
        },
        "detectors": {
            **common,
            "cases": scans(test[:JUDGED]),
            "models": {plain: named[plain]},
            "attacks": [{"name": "pgd", "steps": 10}, {"name": "smia", "steps": 10}, *hfc, *evade],
            "eps": {"values": [1, 2, 4, 8, 16], "unit": "percent"},
            "detectors": ["mahalanobis", "kernel-density", "lid", "svm", "dnn", "entropy", "one-class", "shield"],
            "success": 0.5,
            "features_on": [str(path) for path in test[JUDGED:]],
        },
    }
    written["dropout"] = {
        **written["detectors"],
        "kind": "detectors",
        "models": {LONE.name: spec(LONE)},
        "attacks": [{"name": "pgd", "steps": 10}],
        "detectors": ["bayesian", "entropy", "mahalanobis"],
    }
    del written["dropout"]["features_on"]
    for name, study in written.items():
        text = yaml.safe_dump({"name": f"hippocampus {name}", "kind": name, **study}, sort_keys=False)
        (folder / f"{name}.yaml").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", type=Path, default=DATA, help="folder with images/ and labels/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=20)
    given = parser.parse_args()
    if not (given.scans / "images").is_dir():
        raise SystemExit(f"There is no '{given.scans / 'images'}'; name the folder of Task04 with --scans.")
    place = given.folder / "models"
    place.mkdir(parents=True, exist_ok=True)
    parts, models = halves(given.scans), list(library(given.seeds))
    for half in ("A", "B"):
        (place / f"{half}.txt").write_text("\n".join(sha256(path) for path in parts[half]) + "\n")
    for half in ("A", "B"):
        missing = [m for m in (*models, LONE) if m.data == half and not (place / f"{m.name}.safetensors").exists()]
        if not missing:
            continue
        images, labels = examples(parts[half])
        for made in missing:
            train(made, images, labels, place / f"{made.name}.safetensors")
            print(made.name, flush=True)
    for made in (*models, LONE):
        (place / f"{made.name}.json").write_text(json.dumps(sidecar(made), indent=1) + "\n")
    studies(models, [path.resolve() for path in parts["test"]], given.cases, given.folder)


if __name__ == "__main__":
    main()
