"""Small 2D models for studies: retina U-Nets with two kinds of start, and CT nets of slices beside ct-organs-2d.

    python benchmarks/flat_study_victims.py FOLDER [--photographs PLACE] [--seeds 4] [--starts 2]

Writes FOLDER/retina and FOLDER/slices, each with models/*.safetensors, their sidecars and training lists, and
transfer.yaml, curve.yaml and universal.yaml. The photographs with an expert's vessels are those of CHASE_DB1, from
PERTURBOX_DATA/fundus_chase; slices with their true labels are cut from this package's own phantoms and written as 2D
files. Every model has a random start of its own: two that share one transfer as if they shared pre-training. It takes
some CPU minutes; models and slices that exist stay.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from monai.losses.dice import DiceCELoss
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor, nn

from hippocampus import DATA
from perturbox import io
from perturbox.io.files import sha256
from perturbox.job.inputs import read_expert
from perturbox.load.architecture import network_from
from perturbox.load.sidecar import SCHEMA
from perturbox.model.pipeline import Pipeline, step_from
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.zoo.materials import CLASSES
from perturbox.zoo.phantom import phantom_case

PHOTOGRAPHS = DATA.parent / "fundus_chase"
EXPERT = "_1stHO.png"  # of a photograph's vessels: white on black
TRAINED, HELD_OUT = range(1, 5), range(5, 11)  # patients, two eyes of each
CROP, BATCH, RATE = 96, 8, 4e-3
TRAINING_PHANTOMS, TEST_PHANTOMS = range(300, 308), range(40, 46)
SLICES = 12  # of each phantom that is learnt from
APGD = {"name": "apgd", "steps": 10, "settings": {"loss": "dice"}}
UAP = {"name": "uap", "steps": 10}
Examples = tuple[Tensor, Tensor]  # network inputs "n c *g", labels "n 1 *g"


@dataclass(frozen=True)
class Kind:
    """What the models of one kind of picture share."""

    labels: dict[str, int]
    grid: tuple[int, int]
    steps: list[dict[str, Any]]
    unit: str
    channels: int
    widths: tuple[int, ...]
    label_map: str | None = None

    @property
    def network(self) -> dict[str, Any]:
        return {
            "_target_": "UNet", "spatial_dims": 2, "in_channels": self.channels, "out_channels": len(self.labels),
            "channels": list(self.widths), "strides": [2] * (len(self.widths) - 1), "num_res_units": 1,
            "norm": "instance",
        }  # fmt: skip

    def victim(self) -> Victim:
        """The pipeline that all models share, around a network that is never asked."""
        pipeline = Pipeline(tuple(step_from(dict(entry)) for entry in self.steps))
        window = Window(self.grid, batch=1)
        return Victim(
            "grid",
            nn.Identity(),
            self.labels,
            window,
            unit=self.unit,
            pipeline=pipeline,
            dims=2,
            channels=self.channels,
        )

    def examples(self, files: Sequence[tuple[Path, Path]]) -> Examples:
        """What a network is shown of pictures and their label maps."""
        grid, images, labels = self.victim(), [], []
        for image, label in files:
            scan = io.read_scan(str(image), unit=self.unit, channels=self.channels)
            bound = grid.on(scan)
            images.append(bound.prepare(torch.from_numpy(scan.data)[None].float())[0])
            labels.append(bound.to_grid(read_expert(str(label), self.label_map, scan, grid)))
        return torch.stack(images), torch.stack(labels)


RETINA = Kind(
    {"background": 0, "vessel": 1},
    (272, 256),
    [{"step": "resize", "size": [272, 256], "mode": "area"}, {"step": "zscore", "per_channel": True}],
    "intensity",
    3,
    (12, 24, 48),
    "vessel=255",
)
CT = Kind(
    {name: value for value, name in enumerate(CLASSES)},
    (128, 112),
    [
        {"step": "orient", "to": "RAS"},
        {"step": "spacing", "mm": [3, 3]},
        {"step": "range", "low": -250, "high": 350, "to": [-1, 1]},
    ],
    "HU",
    1,
    (16, 32, 64, 96),
)


@dataclass(frozen=True)
class Made:
    """One model: where it starts, its seed, updates before and on the pictures themselves."""

    kind: Kind
    init: str
    seed: int
    steps: int
    before: int = 0

    @property
    def name(self) -> str:
        return f"unet-{self.init}-{self.seed}"


def branching(rng: np.random.Generator, side: int = CROP) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A phantom of a retina (values "c y x", vessels "y x"): curves that branch and thin out on uneven ground."""
    centres: dict[float, NDArray[np.bool_]] = {}
    waiting = [
        (rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi), rng.choice([1.0, 1.6, 2.4]))
        for _ in range(rng.integers(3, 7))
    ]
    while waiting:
        place, angle, radius = waiting.pop()
        drawn = centres.setdefault(float(radius), np.zeros((side, side), bool))
        for _ in range(rng.integers(40, 120)):
            y, x = np.rint(place).astype(int)
            if not (0 <= y < side and 0 <= x < side):
                break
            drawn[y, x] = True
            angle += rng.normal(0, 0.12)
            place = place + np.array([np.sin(angle), np.cos(angle)])
            if rng.random() < 0.025 and radius > 0.6:
                waiting.append((place, angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.0), radius * 0.65))
    vessels = np.zeros((side, side), bool)
    for radius, drawn in centres.items():
        vessels |= drawn.any() and ndimage.distance_transform_edt(~drawn) <= radius
    depth = ndimage.gaussian_filter(vessels.astype(float), 0.6)
    picture = []
    for strength in (0.25, 0.6, 0.3):  # red, green and blue
        ground = ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), 14)
        ground *= rng.uniform(0.3, 1.2) / ground.std()
        picture.append(ground - rng.uniform(0.7, 1.6) * strength * 2 * depth + rng.normal(0, 0.08, (side, side)))
    return np.stack(picture).astype(np.float32), vessels.astype(np.int64)


def phantoms(count: int, rng: np.random.Generator) -> Examples:
    """Phantoms of retinas as examples."""
    pairs = [branching(rng) for _ in range(count)]
    pictures, vessels = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    return pictures, vessels[:, None]


def fit(net: nn.Module, examples: Examples, steps: int, rng: np.random.Generator) -> None:
    """Updates on random crops, mirrored at random left to right."""
    images, labels = examples
    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, RATE * 0.02)
    net.train()
    for _ in range(steps):
        xs, ys = [], []
        for chosen in rng.integers(len(images), size=BATCH):
            corner = [int(rng.integers(n - CROP + 1)) for n in images.shape[2:]]
            box = tuple(slice(c, c + CROP) for c in corner)
            xs.append(images[(chosen, slice(None), *box)])
            ys.append(labels[(chosen, slice(None), *box)])
        x, y = torch.stack(xs), torch.stack(ys)
        x = x * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1) + torch.randn_like(x) * rng.uniform(0, 0.05)
        optimiser.zero_grad()
        loss(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        plan.step()
    net.eval()


def train(made: Made, examples: Callable[[], Examples], place: Path, about: str) -> None:
    """The model's weights, unless they are there, and its sidecar."""
    path = place / f"{made.name}.safetensors"
    if not path.exists():
        started = time.process_time()
        torch.manual_seed(made.seed)
        rng = np.random.default_rng(made.seed)
        net = network_from(made.kind.network, made.name)
        if made.before:
            fit(net, phantoms(60, rng), made.before, rng)
        fit(net, examples(), made.steps, rng)
        part = path.with_suffix(".part")
        save_file({name: value.contiguous() for name, value in net.state_dict().items()}, part)
        part.replace(path)
        print(f"{made.name}: {time.process_time() - started:.0f} CPU seconds", flush=True)
    told = {
        "schema": SCHEMA,
        "name": made.name,
        "unit": made.kind.unit,
        "labels": made.kind.labels,
        "dims": 2,
        "channels": made.kind.channels,
        "window": {"size": list(made.kind.grid), "batch": 1},
        "steps": made.kind.steps,
        "network": made.kind.network,
        "training_data": f"{about}; start: {made.init}, seed {made.seed}; {made.steps} updates.",
        "intended_use": "Studies of transfer between models. Not a medical device.",
    }
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")


def listed(place: Path, files: Sequence[Path]) -> str:
    """Writes the list of the pictures that were learnt from; returns its path as the study files name it."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "trained_on.txt").write_text("\n".join(sha256(path) for path in files) + "\n")
    return "models/trained_on.txt"


def write(folder: Path, kind: str, study: dict[str, Any]) -> None:
    text = yaml.safe_dump(
        {"schema": "perturbox-study/1", "name": f"{folder.name} {kind}", "kind": kind, **study}, sort_keys=False
    )
    (folder / f"{kind}.yaml").write_text(text)


def retina(folder: Path, place: Path, seeds: int) -> None:
    """U-Nets of fundus photographs, from random starts and from phantoms."""

    def eyes(patients: Sequence[int], sides: str) -> list[Path]:
        return [place / f"Image_{patient:02d}{side}.jpg" for patient in patients for side in sides]

    learnt, shown = eyes(TRAINED, "LR"), eyes(HELD_OUT, "L")
    trained_on, found = listed(folder / "models", learnt), []

    def examples() -> Examples:
        if not found:
            found.append(RETINA.examples([(path, path.with_name(path.stem + EXPERT)) for path in learnt]))
        return found[0]

    made = [Made(RETINA, "random", n, 260) for n in range(1, seeds + 1)]
    made += [Made(RETINA, "phantoms", n, 260, 160) for n in range(seeds + 1, 2 * seeds + 1)]
    for one in made:
        train(one, examples, folder / "models", f"{len(learnt)} photographs of CHASE_DB1 (CC BY 4.0)")
    models = {
        one.name: {
            "victim": f"models/{one.name}.safetensors",
            "factors": {"init": one.init, "seed": one.seed},
            "trained_on": trained_on,
        }
        for one in made
    }
    cases = {
        "images": [str(path) for path in shown],
        "labels": f"{place}/{{name}}{EXPERT}",
        "label_map": RETINA.label_map,
        "patient": "{name[:8]}",
    }
    plain = {made[0].name: {**models[made[0].name], "factors": {}}}
    common = {"cases": cases, "gate": {"clean_dice": 0.5}}
    write(
        folder,
        "transfer",
        {**common, "models": models, "attacks": [APGD], "eps": {"values": [2], "unit": "percent"}},
    )
    write(folder, "curve", {**common, "models": plain, "attacks": [APGD], "eps": {"values": [2, 4]}})
    universal = {"craft_on": [str(path) for path in learnt[:6:2]], "attacks": [UAP], "eps": {"values": [4, 8]}}
    write(folder, "universal", {**common, "models": plain, **universal})


def cut(folder: Path, seed: int, count: int) -> list[tuple[Path, Path]]:
    """Slices of a phantom as 2D files: `count` spread over it, or the one that shows most of liver and spleen alike."""
    names = sorted((folder / "images").glob(f"phantom_{seed}_*.nii.gz"))
    if not names:
        hu, labels, affine = phantom_case(seed)
        both = [(labels == CLASSES.index(name)).sum((0, 1)) for name in ("liver", "spleen")]
        best = int(np.argmin(-np.minimum(*both)))
        for z in [best] if count == 1 else np.linspace(4, hu.shape[2] - 5, count).astype(int):
            for kind, values in (("images", hu), ("labels", labels)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                path = folder / kind / f"phantom_{seed}_{z:03d}.nii.gz"
                nib.save(nib.Nifti1Image(values[:, :, z], affine), path)
                names += [path] if kind == "images" else []
    return [(path, folder / "labels" / path.name) for path in names]


def slices(folder: Path, starts: int) -> None:
    """Small CT nets of slices, from random starts, beside ct-organs-2d."""
    learnt = [pair for seed in TRAINING_PHANTOMS for pair in cut(folder / "trained_on", seed, SLICES)]
    shown = [pair for seed in TEST_PHANTOMS for pair in cut(folder, seed, 1)]
    trained_on, found = listed(folder / "models", [image for image, _ in learnt]), []

    def examples() -> Examples:
        if not found:
            found.append(CT.examples(learnt))
        return found[0]

    made = [Made(CT, "random", n, 300) for n in range(1, starts + 1)]
    for one in made:
        train(one, examples, folder / "models", f"{len(learnt)} slices of {len(TRAINING_PHANTOMS)} phantoms")
    shipped: dict[str, Any] = {"ct-organs-2d": {"victim": "ct-organs-2d", "factors": {"net": "shipped"}}}
    models = shipped | {
        one.name: {
            "victim": f"models/{one.name}.safetensors",
            "factors": {"net": "small", "seed": one.seed},
            "trained_on": trained_on,
        }
        for one in made
    }
    cases = {
        "images": [f"images/{image.name}" for image, _ in shown],
        "labels": "labels/{name}.nii.gz",
        "patient": "{name[:10]}",
    }
    common = {"cases": cases, "target": ["liver", "spleen"]}
    limits = {"values": [5, 10]}
    write(folder, "transfer", {**common, "models": models, "attacks": [APGD], "eps": limits})
    write(folder, "curve", {**common, "models": shipped, "attacks": [APGD], "eps": limits})
    craft_on = [f"trained_on/images/{image.name}" for image, _ in learnt[5 : 4 * SLICES : SLICES]]
    write(
        folder,
        "universal",
        {**common, "models": shipped, "craft_on": craft_on, "attacks": [UAP], "eps": {"values": [10, 20]}},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photographs", type=Path, default=PHOTOGRAPHS, help="folder of CHASE_DB1")
    parser.add_argument("--seeds", type=int, default=4, help="retina models of each kind of start")
    parser.add_argument("--starts", type=int, default=2, help="small CT models")
    given = parser.parse_args()
    slices(given.folder / "slices", given.starts)
    if not (given.photographs / "Image_01L.jpg").is_file():
        raise SystemExit(f"There is no photograph in '{given.photographs}'; name the folder with --photographs.")
    retina(given.folder / "retina", given.photographs.resolve(), given.seeds)


if __name__ == "__main__":
    main()
