"""Train two models of docs/victims.md: a MONAI bundle and an nnU-Net folder, on the same 70 scans of the Medical
Segmentation Decathlon's Task04 (CC BY-SA 4.0) with their expert labels.

    python benchmarks/train_hippocampus.py bundle FOLDER                              some CPU minutes
    python benchmarks/train_hippocampus.py nnunet FOLDER --framework-python PATH      about 30, on a quiet machine 15

The bundle's network is that of study_victims.py. The folder is what nnU-Net's own commands leave: planned, preprocessed
and trained by nnUNetTrainer_5epochs, or _1epoch, on fold 0 of their own split, with narrower layers and a smaller batch
and patch than planned, so that a CPU can do it. Scans are read from PERTURBOX_DATA/mr_hippocampus_msd.
"""

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hippocampus import DATA, LABELS, SIZE, SPACING
from study_victims import NETWORKS, Made, examples, halves, train

MADE = Made("unet", "A", "random", 1)
NAME, PLAN = "Dataset004_Hippocampus", "3d_fullres"
TRAINERS = {1: "nnUNetTrainer_1epoch", 5: "nnUNetTrainer_5epochs"}  # those that nnU-Net has, by epochs
NARROWER, BATCH = (8, 32), 2  # the planned widths 32, 64, 128, 256 times 8/32; planned batch: 9
PATCH = [32, 40, 32]  # planned: 40 × 56 × 40


def bundle(folder: Path) -> Path:
    """A bundle for inference, in MONAI's words only."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    weights = folder / "models" / "weights.safetensors"
    train(MADE, *examples(halves(DATA)["A"]), weights)
    torch.save(load_file(weights), folder / "models" / "model.pt")
    weights.unlink()
    (folder / "configs" / "inference.json").write_text(json.dumps(configuration(), indent=1) + "\n")
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata(), indent=1) + "\n")
    return folder


def configuration() -> dict[str, Any]:
    def step(name: str, keys: str = "image", **told: Any) -> dict[str, Any]:
        return {"_target_": name, "keys": keys, **told}

    before = [
        step("LoadImaged"),
        step("EnsureChannelFirstd"),
        step("ScaleIntensityRangePercentilesd", lower=1, upper=99, b_min=-2, b_max=2),
        step("ScaleIntensityRanged", a_min=-2.8, a_max=4, b_min=-2.8, b_max=4, clip=True),
        step("Orientationd", axcodes="RAS"),
        step("Spacingd", pixdim=[SPACING] * 3, mode="bilinear"),
        step("EnsureTyped"),
    ]
    after = [
        step("Activationsd", "pred", softmax=True),
        step("Invertd", "pred", transform="@preprocessing", orig_keys="image", nearest_interp=False),
        step("AsDiscreted", "pred", argmax=True),
        step("SaveImaged", "pred", output_dir="$@bundle_root + '/eval'"),
    ]
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": NETWORKS[MADE.network],
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(SIZE), "sw_batch_size": 1, "overlap": 0.5},
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }


def metadata() -> dict[str, Any]:
    return {
        "name": "Hippocampus MR",
        "copyright": "Trained on Medical Segmentation Decathlon Task04, CC BY-SA 4.0",
        "network_data_format": {
            "inputs": {"image": {"modality": "MR", "num_channels": 1}},
            "outputs": {"pred": {"num_channels": 3, "channel_def": {str(v): name for name, v in LABELS.items()}}},
        },
    }


def nnunet(folder: Path, python: Path, epochs: int) -> Path:
    """The folder that nnUNetv2_train leaves under `folder`/results."""
    raw_data(folder, halves(DATA)["A"])
    run(folder, python, "nnUNetv2_plan_and_preprocess", "-d", "4", "-c", PLAN, "-np", "1", "-npfp", "1")
    plans = folder / "preprocessed" / NAME / "nnUNetPlans.json"
    plans.write_text(json.dumps(narrowed(json.loads(plans.read_text()))))
    run(folder, python, "nnUNetv2_train", "4", PLAN, "0", "-tr", TRAINERS[epochs], "-device", "cpu")
    return folder / "results" / NAME / f"{TRAINERS[epochs]}__nnUNetPlans__{PLAN}"


def raw_data(folder: Path, chosen: list[Path]) -> Path:
    """The scans and their labels as nnU-Net wants to find them, under `folder`/raw."""
    raw = folder / "raw" / NAME
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True)
    for path in chosen:
        case = path.name.removesuffix(".nii.gz")
        shutil.copy(path, raw / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copy(DATA / "labels" / path.name, raw / "labelsTr" / path.name)
    dataset = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": len(chosen), "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(dataset | {"licence": "CC BY-SA 4.0"}))
    return raw


def narrowed(plans: dict[str, Any]) -> dict[str, Any]:
    """The plans with narrower layers, as many as planned, and a smaller batch and patch."""
    for own in plans["configurations"].values():
        layers = own.get("architecture", {}).get("arch_kwargs", {})
        if "features_per_stage" in layers:
            up, down = NARROWER
            layers["features_per_stage"] = [width * up // down for width in layers["features_per_stage"]]
            own["batch_size"], own["patch_size"] = BATCH, PATCH[: len(own["patch_size"])]
    return plans


def run(folder: Path, python: Path, command: str, *arguments: str) -> None:
    """One of nnU-Net's commands, of the Python that has it."""
    places = {f"nnUNet_{kind}": str(folder / kind) for kind in ("raw", "preprocessed", "results")}
    few = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
    subprocess.run([python.parent / command, *arguments], check=True, env={**os.environ, **places, **few})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("bundle", "nnunet"))
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("--framework-python", type=Path, help="the Python that has nnU-Net")
    parser.add_argument("--epochs", type=int, choices=tuple(TRAINERS), default=5, help="of 250 batches; of nnU-Net")
    given = parser.parse_args()
    if not (DATA / "images").is_dir():
        raise SystemExit(f"There is no '{DATA / 'images'}'; set PERTURBOX_DATA.")
    if given.kind == "nnunet" and given.framework_python is None:
        raise SystemExit("Name the Python that has nnU-Net with --framework-python.")
    torch.set_num_threads(1)
    made = (
        bundle(given.folder) if given.kind == "bundle" else nnunet(given.folder, given.framework_python, given.epochs)
    )
    print(f"Trained: {made}")


if __name__ == "__main__":
    main()
