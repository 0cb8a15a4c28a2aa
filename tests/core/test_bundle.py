"""MONAI bundles: the labels of MONAI's own workflow, and nothing executed that the bundle brings along."""

import json
import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.unet import UNet
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import NormalizeIntensityd, ScaleIntensityRanged
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.post.dictionary import Activationsd, AsDiscreted, Invertd
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from perturbox import io
from perturbox.load import load_victim
from perturbox.types import InputError

SOFT = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
INVERT = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
}
RANGE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
         "clip": True}  # fmt: skip


def make(folder: Path, post=None, intensity=None, **changes) -> Path:
    """A bundle with random weights, as MONAI's zoo lays them out."""
    config = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "$os.system('touch ran')",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [2.3, 2.7, 3.6], "mode": "bilinear"},
                intensity or RANGE,
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.5},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [*(post or [SOFT, {**INVERT, "nearest_interp": False}, ARGMAX]),
                           {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"}],
        },
    }  # fmt: skip
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps({**config, **changes}))
    image = {"modality": "CT", "num_channels": 1}
    pred = {"num_channels": 3, "channel_def": {"0": "background", "1": "a", "2": "b"}}
    formats = {"network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": "Made here", **formats}))
    torch.manual_seed(0)
    network = UNet(3, 1, 3, (4, 8), (2,))
    torch.save({"model": network.state_dict()}, folder / "models" / "model.pt")
    return folder


@pytest.fixture
def image(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    affine = np.array([[0, 0, 2.2, 3], [-1.4, 0.1, 0, 5], [0.1, 1.4, 0, -7], [0, 0, 0, 1.0]])
    data = generator.normal(30, 90, (31, 28, 22)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def by_monai(path: Path, network, intensity, nearest: bool) -> np.ndarray:
    read = [LoadImaged("image", reader="NibabelReader"), EnsureChannelFirstd("image")]
    spaced = Spacingd("image", (2.3, 2.7, 3.6), mode="bilinear")
    pre = Compose([*read, Orientationd("image", "RAS", labels=None), spaced, intensity])
    data = pre({"image": str(path)})
    with torch.no_grad():
        pred = sliding_window_inference(data["image"][None], (16, 16, 16), 2, network, 0.5)[0]
    data["pred"] = pred
    invert = Invertd("pred", pre, "image", nearest_interp=nearest)
    steps = [Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True)]
    steps = [*steps, invert] if nearest else [steps[0], invert, steps[1]]
    return Compose(steps)(data)["pred"][0].numpy()


@pytest.mark.filterwarnings("ignore:NvImgCodec")
@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("name", ["range", "zscore"])
def test_labels_are_those_of_monai(tmp_path, image, name, nearest):
    told = RANGE if name == "range" else {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": "True"}
    post = [SOFT, ARGMAX, {**INVERT, "nearest_interp": True}] if nearest else None
    victim = load_victim(str(make(tmp_path / "bundle", post, told)))
    theirs = ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True) if name == "range" else NormalizeIntensityd("image", nonzero=True)  # fmt: skip  # noqa: E501
    expected = by_monai(image, victim.network, theirs, nearest)
    found = victim.predict(io.read_volume(image, unit="HU"))
    assert len(np.unique(expected)) == 3
    assert int((found != expected).sum()) == 0
    assert victim.labels == {"background": 0, "a": 1, "b": 2} and victim.unit == "HU" and victim.name == "made-here"


def test_a_zip_is_the_same_bundle(tmp_path, image):
    folder = make(tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as made:
        for path in sorted(folder.rglob("*")):
            made.write(path, path.relative_to(tmp_path))
    assert load_victim(str(tmp_path / "bundle.zip")).sha256 == load_victim(str(folder)).sha256


def test_nothing_of_a_bundle_runs(tmp_path, monkeypatch):
    """`imports` and `dataset_dir` of every bundle here would leave a file; so would what is refused."""
    monkeypatch.chdir(tmp_path)
    load_victim(str(make(tmp_path / "plain")))
    evil = {"_target_": "os.system", "command": "touch ran"}
    wicked = {
        "network_def": evil,
        "inferer": evil,
        "preprocessing": "$__import__('os').system('touch ran')",
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "os.system", "keys": "pred"}]},
    }
    for key, value in wicked.items():
        with pytest.raises(InputError):
            load_victim(str(make(tmp_path / key, **{key: value})))
    assert not (tmp_path / "ran").exists()


class Payload:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_payload_in_the_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "bundle")
    torch.save({"model": Payload()}, folder / "models" / "model.pt")
    with pytest.raises(InputError, match="could run code when loaded"):
        load_victim(str(folder))
    assert not (tmp_path / "ran").exists()


def test_archives_and_links_that_leave_their_folder_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as made:
        made.writestr("../outside.txt", "x")
    with pytest.raises(InputError, match="leaves its folder"):
        load_victim(str(tmp_path / "slip.zip"))
    assert not (tmp_path.parent / "outside.txt").exists()
    folder = make(tmp_path / "linked")
    (folder / "models" / "model.pt").rename(tmp_path / "model.pt")
    (folder / "models" / "model.pt").symlink_to(tmp_path / "model.pt")
    with pytest.raises(InputError, match="leads out of the bundle"):
        load_victim(str(folder))


def changed(key: str, **changes):
    return lambda folder: make(folder, **{key: changes})


# Refused in one sentence each: test_refusals.
WRONG = {
    "no network": (lambda f: make(f, network_def={"_target_": "resnet18"}), "isn't known"),
    "other package": (lambda f: make(f, network_def={"_target_": "scripts.net.Net"}), "add --trust"),
    "wrong argument": (lambda f: make(f, network_def={**NETWORK, "img_size": 96}), "can't be built by the MONAI"),
    "other width": (lambda f: make(f, network_def={**NETWORK, "channels": [8, 8]}), "is of another network"),
    "expression": (lambda f: make(f, inferer="$make_inferer()"), "would run code"),
    "self": (lambda f: make(f, inferer="@inferer"), "refers to itself"),
    "missing": (lambda f: make(f, inferer="@nowhere"), "has no entry 'nowhere'"),
    "inferer": (lambda f: make(f, inferer={"_target_": "SaliencyInferer"}), "The inferer"),
    "simple": (lambda f: make(f, inferer={"_target_": "SimpleInferer"}), "takes scans of any size"),
    "transform": (lambda f: make(f, None, {"_target_": "RandGibbsNoised", "keys": "image"}), "isn't covered"),
    "spacing": (lambda f: make(f, None, {"_target_": "Spacingd", "keys": "image", "pixdim": 1, "mode": 3}), "mode 3"),
    "no decision": (lambda f: make(f, [SOFT]), "neither takes the highest score"),
    "lambda": (lambda f: make(f, [SOFT, {"_target_": "Lambdad", "keys": "pred"}, ARGMAX]), "isn't covered"),
}  # fmt: skip


def test_a_bundle_without_weights_or_configuration_is_one_sentence(tmp_path):
    folder = make(tmp_path / "a")
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match="There are no weights"):
        load_victim(str(folder))
    (folder / "configs" / "inference.json").unlink()
    with pytest.raises(InputError, match="only bundles made for inference"):
        load_victim(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder without plans"):
        load_victim(str(tmp_path / "empty"))
