"""Model files with a sidecar: the same victim from TorchScript, torch.export and safetensors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import victims
from monai.networks.nets.unet import UNet
from safetensors.torch import save_file

from perturbox.judge.victim import check_victim
from perturbox.load import load_victim, read_spec
from perturbox.load.sidecar import write_sidecar
from perturbox.types import InputError

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "norm": "batch",
}
TOLD = {
    "schema": "perturbox-victim/1",
    "name": "mine",
    "labels": {"background": 0, "organ": 1},
    "window": {"size": [8, 8, 8], "overlap": 0.5, "batch": 1},
    "steps": [
        {"step": "orient", "to": "RAS"},
        {"step": "spacing", "mm": [1.7, 1.7, 2.0]},
        {"step": "zscore"},
    ],
    "decision": [{"do": "softmax"}, {"do": "inverse"}, {"do": "argmax"}],
}


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(3, 1, 2, (4, 8), (2,), norm="batch").eval()


def make(folder: Path, kind: str, **changes) -> Path:
    path = folder / f"model.{kind}"
    if kind == "safetensors":
        save_file(network().state_dict(), path)
    elif kind == "ts":
        torch.jit.freeze(torch.jit.trace(network(), torch.zeros(1, 1, 8, 8, 8))).save(path)  # type: ignore[no-untyped-call]
    else:
        torch.export.save(torch.export.export(network(), (torch.zeros(1, 1, 8, 8, 8),)), path)
    told = {**TOLD, **({"network": NETWORK} if kind == "safetensors" else {}), **changes}
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_kind_of_file_is_the_same_model(tmp_path):
    image = victims.random_scan((15, 13, 12))
    found = {}
    for kind in ("safetensors", "ts", "pt2"):
        (tmp_path / kind).mkdir()
        victim = load_victim(str(make(tmp_path / kind, kind)), trust=True)
        check = check_victim(victim, image)
        assert check["derivative_error"] < 1e-2 and check["opaque"] == []
        assert [step["name"] for step in check["steps"]] == ["orient", "spacing", "zscore"]
        assert 0 < check["statistics_share"] < 1
        found[kind] = victim.predict(image)
        assert len(np.unique(found[kind])) == 2
        assert (found[kind] != found["safetensors"]).mean() < 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_programs_differ_by_their_file(tmp_path):
    path = make(tmp_path, "ts")
    first = load_victim(str(path), trust=True)
    torch.jit.freeze(
        torch.jit.trace(UNet(3, 1, 2, (4, 8), (2,), norm="batch").eval(), torch.zeros(1, 1, 8, 8, 8))
    ).save(path)  # type: ignore[no-untyped-call]
    second = load_victim(str(path), trust=True)
    assert first.weights_sha256 == second.weights_sha256 and first.sha256 != second.sha256


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_needs_trust(tmp_path):
    with pytest.raises(InputError, match="add --trust"):
        load_victim(str(make(tmp_path, "ts")))


def test_a_first_sidecar_can_be_loaded(tmp_path):
    path = make(tmp_path, "safetensors")
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="perturbox victim sidecar"):
        load_victim(str(path))
    written = write_sidecar(read_spec(str(path)))
    told = json.loads(written.read_text())
    assert told["labels"]["background"] == 0 and told["dims"] == 3 and told["channels"] == 1
    told["labels"] = {"background": 0, "organ": 1}  # what the file can't tell
    written.write_text(json.dumps({**told, "network": NETWORK}))
    assert load_victim(str(path)).labels == told["labels"]
    with pytest.raises(InputError, match="is there already"):
        write_sidecar(read_spec(str(path)))


# Refused in one sentence each: test_refusals.
WRONG = {
    "schema": ({"schema": "other/1"}, "isn't a sidecar of this version"),
    "entry": ({"colour": "red"}, "unknown entry 'colour'"),
    "labels": ({"labels": None}, 'lacks "labels"'),
    "window": ({"window": {"overlap": 0.5}}, 'lacks the window\'s "size"'),
    "window option": ({"window": {"size": [8, 8, 8], "stride": 4}}, "a window has no 'stride'"),
    "overlap": ({"window": {"size": [8, 8, 8], "overlap": 1.5}}, "choose a fraction"),
    "output": ({"output": "logit"}, "choose logits, probabilities or sigmoid"),
    "steps": ({"steps": {"step": "zscore"}}, "that is no list"),
    "step": ({"steps": [{"step": "zscroe"}]}, "There is no step 'zscroe'"),
    "decision": ({"decision": [{"do": "vote"}]}, "There is no decision 'vote'"),
    "no network": ({"network": None}, "name their network in the sidecar"),
    "code": ({"network": {"_target_": "os.system", "command": "touch ran"}}, "add --trust"),
    "other network": ({"network": {**NETWORK, "channels": [4, 4]}}, "is of another network"),
    "negative": ({"labels": {"organ": -1}}, "whole numbers from 0 up"),
}


def test_damaged_files_are_one_sentence(tmp_path):
    path = make(tmp_path, "safetensors")
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="no readable safetensors"):
        load_victim(str(path))
    path.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        load_victim(str(path))
    with pytest.raises(InputError, match="There is no model file"):
        load_victim("nowhere.safetensors")
