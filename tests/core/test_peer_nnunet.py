"""nnU-Net's own inference, in a Python of its own: network input, logits and labels of its model folders, bit for bit.

PERTURBOX_PEER names a Python that has nnunetv2; without it one is made. The network's input is kept in
goldens/nnunet.json, with which the ordinary tests compare; PERTURBOX_GOLDENS=write writes that again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import peers
import pytest
import torch
from nnunet_plans import KINDS, dataset_of, plans_of

from perturbox import io
from perturbox.against import run_framework
from perturbox.judge.victim import Known, check_victim
from perturbox.load import load_victim, nnunet, read_spec
from perturbox.model.pipeline import Pipeline
from perturbox.model.victim import as_input
from perturbox.types import Volume

GOLDENS = Path(__file__).with_name("goldens") / "nnunet.json"
PLACES = 12


def scan(channels: int) -> Volume:
    """Whole numbers; a border of zeros on two sides, which nnU-Net crops."""
    generator = np.random.default_rng(7)
    smooth = np.add.outer(np.add.outer(np.sin(np.arange(26) / 3), np.cos(np.arange(24) / 4)), np.sin(np.arange(15) / 2))
    data = np.stack([60 + 90 * smooth + generator.normal(0, 40, smooth.shape) for _ in range(channels)]).round()
    data[:, :2], data[..., -1] = 0, 0
    return Volume(data.astype(np.int16), np.diag([-1.6, -1.7, 3.1, 1.0]), "HU", np.dtype(np.int16))


def sampled(array: np.ndarray) -> list[float]:
    flat = array.astype(np.float64).ravel()
    return [float(flat[i]) for i in np.linspace(0, flat.size - 1, PLACES).astype(int)]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return peers.framework_python(tmp_path_factory.mktemp("framework") / "venv")


@pytest.mark.peer
@pytest.mark.parametrize("kind", KINDS)
def test_input_logits_and_labels_have_nnunets_bits(tmp_path, python, kind):
    folder = peers.nnunet_folder(python, tmp_path / "model", **KINDS[kind])
    image = scan(len(KINDS[kind].get("channels", ["CT"])))
    file = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(image.data[0], image.affine), file)
    theirs = run_framework(read_spec(f"nnunet:{folder}"), image, file, str(python))
    assert theirs.input is not None and theirs.scores is not None
    with peers.appended(peers.site_of(python)):
        victim = load_victim(f"nnunet:{folder}")
    bound, x = victim.on(image), as_input(image, victim.device)
    with torch.no_grad():
        given, scores = bound.grid.exact(x * 1.0)[0].numpy(), bound.judge(x)[0].numpy()
    apart = [float(np.abs(a.astype(np.float64) - b).max()) for a, b in ((given, theirs.input), (scores, theirs.scores))]
    differ = int((victim.predict(image) != theirs.labels).sum())
    sd = theirs.scores.std(dtype=np.float32)
    print(f"{kind}: input {apart[0]}, logits {apart[1]} (sd {sd:.1f}), {differ} labels differ")
    assert np.array_equal(given, theirs.input) and np.array_equal(scores, theirs.scores)
    assert differ == 0 and len(np.unique(theirs.labels)) > 1
    keep(kind, theirs.input)


def keep(kind: str, given: np.ndarray) -> None:
    if os.environ.get("PERTURBOX_GOLDENS") != "write":
        return
    found = json.loads(GOLDENS.read_text()) if GOLDENS.is_file() else {}
    found[kind] = {"shape": list(given.shape), "mean": float(given.mean(dtype=np.float64)), "values": sampled(given)}
    GOLDENS.parent.mkdir(exist_ok=True)
    GOLDENS.write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_input_is_as_it_was_when_compared(kind):
    told, golden = KINDS[kind], json.loads(GOLDENS.read_text())[kind]
    plans, dataset = plans_of(told), dataset_of(told)
    ((configuration, described),) = plans["configurations"].items()
    channels = len(dataset["channel_names"])
    assert nnunet.configured(plans, configuration, Path()) == described
    image = scan(channels)
    x = torch.from_numpy(image.data.astype(np.float32))[None]
    pipeline = Pipeline(tuple(nnunet.steps_of(plans, described, channels)))
    given = pipeline.plan(image.shape, image.affine, lambda: x).exact(x)[0].numpy()
    assert list(given.shape) == golden["shape"]
    assert given.mean(dtype=np.float64) == pytest.approx(golden["mean"], rel=1e-6, abs=1e-6)
    assert sampled(given) == pytest.approx(golden["values"], rel=1e-6, abs=1e-6)


@pytest.mark.peer
def test_the_command_line_compares(tmp_path, python):
    folder = peers.nnunet_folder(python, tmp_path / "model", **KINDS["regions"])
    image = scan(1)
    io.write_volume(tmp_path / "scan.nii.gz", image)
    theirs = run_framework(read_spec(f"nnunet:{folder}"), image, tmp_path / "scan.nii.gz", str(python))
    with peers.appended(peers.site_of(python)):
        victim = load_victim(f"nnunet:{folder}")
    found = check_victim(victim, image, Known(theirs.framework, theirs.labels, theirs.input, theirs.scores))
    against = found["against"]
    assert [against["differ"], against["input"]["largest"], against["scores"]["largest"]] == [0, 0, 0]


TRAIN = """
import functools, os, sys
import nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs as lengths
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as plan
from nnunetv2.run.run_training import run_training_entry as train
own = lengths.nnUNetTrainer_1epoch.__init__

@functools.wraps(own)
def shorter(self, *given, **named):
    own(self, *given, **named)
    self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 5, 1

lengths.nnUNetTrainer_1epoch.__init__ = shorter
if __name__ == "__main__":
    sys.argv = ["plan", "-d", "998", "-c", "3d_fullres", "-np", "1", "-npfp", "1"]
    plan()
    os.environ["nnUNet_n_proc_DA"] = "0"  # no process of its own for augmentation
    sys.argv = ["train", "998", "3d_fullres", "0", "-tr", "nnUNetTrainer_1epoch", "-device", "cpu"]
    train()
"""


@pytest.mark.peer
def test_a_folder_that_nnunet_trained_loads_without_an_edit(tmp_path, python):
    """nnUNetv2_train … -tr nnUNetTrainer_1epoch -device cpu, on six small made scans and a short epoch."""
    if subprocess.run([str(python), "-c", "import timm.layers"], capture_output=True, check=False).returncode:
        pytest.skip(
            "nnU-Net's trainers import timm, and that torchvision, which would replace torch; see PERTURBOX_PEER"
        )
    raw = tmp_path / "raw" / "Dataset998_Made"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for case in range(6):
        image = scan(1)
        rolled = np.roll(image.data[0], case, 1)
        for part, suffix, data in (("imagesTr", "_0000", rolled), ("labelsTr", "", (rolled > 150).astype(np.uint8))):
            nib.save(nib.Nifti1Image(data, image.affine), raw / part / f"case_{case}{suffix}.nii.gz")
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "bright": 1}, "numTraining": 6}
    (raw / "dataset.json").write_text(json.dumps({**dataset, "file_ending": ".nii.gz"}))
    (tmp_path / "train.py").write_text(TRAIN)
    settings = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    settings |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "false", "OMP_NUM_THREADS": "2"}
    peers.run(python, tmp_path / "train.py", **settings)
    (folder,) = (tmp_path / "results").glob("*/*")
    file = raw / "imagesTr" / "case_0_0000.nii.gz"
    image = io.read_volume(file)
    with peers.appended(peers.site_of(python)):
        victim = load_victim(str(folder))
    theirs = run_framework(read_spec(str(folder)), image, file, str(python))
    assert victim.labels == {"background": 0, "bright": 1} and victim.unit == "HU"
    assert np.array_equal(victim.predict(image), theirs.labels)


@pytest.mark.peer
def test_torch_is_still_the_one_that_was_there(python):
    found = subprocess.run([str(python), "-c", "import torch; print(torch.__version__, torch.__file__)"],
                           capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    assert found == [torch.__version__, torch.__file__] and "torchvision" not in sys.modules
