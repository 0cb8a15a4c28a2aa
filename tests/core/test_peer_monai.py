"""MONAI's ConfigWorkflow, in a Python that has pytorch-ignite: network input, scores and labels of bundles; and a
bundle made by MONAI's own bundle tools."""

import copy
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import peers
import pytest
import test_bundle
import torch
from test_bundle import ARGMAX, INVERT, NETWORK, SOFT

from perturbox import io
from perturbox.against import run_framework
from perturbox.load import load_victim, read_spec
from perturbox.model.victim import as_input

ZSCORE = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}
MINMAX = {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0}
CROP = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "margin": 0}
NEAREST = [SOFT, ARGMAX, {**INVERT, "nearest_interp": True}]
LOGITS = [{**INVERT, "nearest_interp": False}, ARGMAX]
# (postprocessing, intensity, other entries)
KINDS = {
    "range": (None, None, {}),
    "z-score": (None, ZSCORE, {}),
    "min-max": (None, MINMAX, {}),
    "nearest": (NEAREST, None, {}),
    "z-score, nearest": (NEAREST, ZSCORE, {}),
    "scores inverted": (LOGITS, None, {}),
    "crop": (None, CROP, {}),
    "gaussian": (None, None, {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16],
                                          "sw_batch_size": 2, "overlap": 0.25, "mode": "gaussian",
                                          "padding_mode": "replicate"}}),
}  # fmt: skip
# What a workflow needs beside what a victim is made of.
RUNS = {
    "dataset": {"_target_": "Dataset", "data": [], "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
    "handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
                  "load_dict": {"model": "@network"}}],
    "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
                  "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
                  "val_handlers": "@handlers"},
    "run": ["$@evaluator.run()"],
    "dataset_dir": ".",
}  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return peers.framework_python(tmp_path_factory.mktemp("framework") / "venv")


@pytest.fixture
def file(tmp_path) -> Path:
    """Whole numbers on oblique axes of another order, structures a few voxels wide."""
    generator = np.random.default_rng(0)
    affine = np.array([[0, 0, 2.2, 3], [-1.4, 0.1, 0, 5], [0.1, 1.4, 0, -7], [0, 0, 0, 1.0]])
    smooth = np.add.outer(np.add.outer(np.sin(np.arange(31) / 3), np.cos(np.arange(28) / 4)), np.sin(np.arange(22) / 2))
    data = (40 + 70 * smooth + generator.normal(0, 20, smooth.shape)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def compared(folder: Path, file: Path, python: Path, name: str) -> None:
    """Input and scores equal to float tolerance, labels equal but for ties."""
    victim, image = load_victim(str(folder)), io.read_volume(file, unit="HU")
    theirs = run_framework(read_spec(str(folder)), image, file, str(python), trust=True)
    assert theirs.input is not None and theirs.scores is not None
    bound, x = victim.on(image), as_input(image, victim.device)
    with torch.no_grad():
        given, scores = bound.grid.exact(x * 1.0)[0].numpy(), bound.judge(x)[0].numpy()
    apart = [float(np.abs(a - b).max()) for a, b in ((given, theirs.input), (scores, theirs.scores))]
    differ = int((victim.predict(image) != theirs.labels).sum())
    print(f"{name}: input {apart[0]:.1e}, scores {apart[1]:.1e}, {differ} of {theirs.labels.size} labels differ")
    assert apart[0] <= 1e-5 and apart[1] <= 1e-4 and len(np.unique(theirs.labels)) > 1
    assert differ <= 1e-5 * theirs.labels.size


@pytest.mark.peer
@pytest.mark.parametrize("name", KINDS)
def test_labels_are_those_of_the_workflow(tmp_path, file, python, name):
    post, intensity, changes = KINDS[name]
    compared(
        test_bundle.make(tmp_path / "bundle", post, intensity, **copy.deepcopy(RUNS), **changes), file, python, name
    )


MAKE = """
import json, sys
from monai.bundle import init_bundle
from monai.bundle.utils import DEFAULT_INFERENCE, DEFAULT_METADATA
from monai.networks.nets import UNet
import torch
place, told = sys.argv[1], json.loads(sys.argv[2])
inference = {**DEFAULT_INFERENCE, "bundle_root": ".", "run": DEFAULT_INFERENCE["evaluating"],
             "imports": ["$import glob", "$import os"], **told}
metadata = json.loads(json.dumps(DEFAULT_METADATA))
metadata["network_data_format"] = {
    "inputs": {"image": {"modality": "MR", "num_channels": 1}},
    "outputs": {"pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "a", "2": "b"}}},
}
torch.manual_seed(0)
init_bundle(place, network=UNet(3, 1, 3, (4, 8), (2,)), metadata_str=metadata, inference_str=inference)
"""


@pytest.mark.peer
def test_a_bundle_of_monais_own_tools_loads_without_an_edit(tmp_path, file, python):
    """monai.bundle.init_bundle with its own default configuration; of it a user fills in network and inferer."""
    told = {"network_def": NETWORK, "inferer": KINDS["gaussian"][2]["inferer"]}
    (tmp_path / "make.py").write_text(MAKE)
    peers.run(python, tmp_path / "make.py", str(tmp_path / "made"), json.dumps(told))
    compared(tmp_path / "made", file, python, "init_bundle")
