"""nnU-Net v2 folders: what is read of them, and what is refused in words."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perturbox.load import load_victim, nnunet
from perturbox.model.pipeline import Pipeline
from perturbox.model.windows import Grid, Window
from perturbox.model.wrappers import Folds, Mirrored
from perturbox.types import InputError, Volume

KINDS = {"CT": "CTNormalization", "MR": "ZScoreNormalization"}


class Net(nn.Module):
    """Stands in for dynamic_network_architectures."""

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool, **arguments):
        super().__init__()
        self.scores = nn.Conv3d(input_channels, num_classes, 3, padding=1)

    def forward(self, x):
        return self.scores(x)


def make(folder: Path, kind: str = "MR", folds: int = 1, labels=None, plan=None, dataset=None, checkpoint=None) -> Path:
    labels = labels or {"background": 0, "a": 1, "b": 2}
    regions = any(isinstance(value, list) for value in labels.values())
    spline = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    plans = {
        "dataset_name": "Dataset998_Made",
        "transpose_forward": [1, 0, 2],
        "image_reader_writer": "SimpleITKIO",
        "configurations": {
            "base": {
                "patch_size": [8, 10, 8],
                "spacing": [2.0, 1.5, 1.5],
                "normalization_schemes": [KINDS[kind]],
                "use_mask_for_norm": [True],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": spline,
                "resampling_fn_probabilities_kwargs": {**spline, "order": 1},
                "architecture": {
                    "network_class_name": f"{nnunet.PACKAGE}.PlainConvUNet",
                    "arch_kwargs": {"conv_op": "torch.nn.modules.conv.Conv3d"},
                    "_kw_requires_import": ["conv_op"],
                },
            },
            "3d_fullres": {"inherits_from": "base", **(plan or {})},
        },
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 60.0, "std": 80.0, "percentile_00_5": -160.0, "percentile_99_5": 260.0}
        },
    }
    data = {"channel_names": {"0": kind}, "labels": labels, **({"regions_class_order": [1, 2]} if regions else {})}
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({**data, **(dataset or {})}))
    heads = len(labels) - regions
    for fold in range(folds):
        torch.manual_seed(fold)
        (folder / f"fold_{fold}").mkdir()
        state = {
            "network_weights": Net(1, heads, False).state_dict(),
            "init_args": {"configuration": "3d_fullres"},
            "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.3)]},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save({**state, **(checkpoint or {})}, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


@pytest.fixture(autouse=True)
def package(monkeypatch):
    architectures = type("architectures", (), {"PlainConvUNet": Net})
    monkeypatch.setitem(sys.modules, nnunet.PACKAGE, architectures)


def scan(shape=(21, 17, 15)) -> Volume:
    data = np.random.default_rng(0).normal(40, 60, (1, *shape)).astype(np.float32)
    data[:, :2] = 0
    data[..., -1:] = 0
    return Volume(data, np.diag([1.2, 1.4, 1.7, 1.0]), "intensity", np.dtype(np.float32))


def test_a_folder_becomes_a_victim(tmp_path):
    victim = load_victim(str(make(tmp_path / "model", folds=2)))
    assert victim.labels == {"background": 0, "a": 1, "b": 2} and victim.unit == "intensity"
    assert isinstance(victim.network, Folds) and len(victim.network.members) == 2
    assert all(isinstance(member, Mirrored) for member in victim.network.members)
    assert victim.window == Window((8, 10, 8), 0.5, "nnunet", batch=1, placing="even", sums="float16")
    image = scan()
    bound = victim.on(image)
    # (z, y, x) turned to (y, z, x); the zero slab at the first i and the last k is cropped.
    assert bound.grid.order == (1, 2, 0)
    assert bound.grid.target == (round(1.4 / 2 * 17), round(1.7 / 1.5 * 14), round(1.2 / 1.5 * 19))
    labels = victim.predict(image)
    assert not labels[:2].any() and not labels[..., -1:].any() and labels.any()
    x = torch.from_numpy(image.data)[None].requires_grad_()
    with torch.no_grad():
        apart = (bound.judge(x.detach()).float() - bound(x.detach())).abs().max()
    assert 0 < float(apart) < 0.5  # half-precision sums are the judge's alone, and coarse in the corners
    (slope,) = torch.autograd.grad(bound(x).square().sum(), x)
    assert bool(slope[:, :, 2:, :, :-1].any()) and not bool(slope[:, :, :2].any())


def test_folds_can_be_chosen(tmp_path):
    folder = make(tmp_path / "model", folds=3)
    one, two = load_victim(f"nnunet:{folder}:folds=1"), load_victim(f"{folder}:folds=1,2")
    assert isinstance(one.network, Mirrored) and isinstance(two.network, Folds)
    assert one.sha256 != two.sha256


def test_regions_paint_in_their_order(tmp_path):
    victim = load_victim(str(make(tmp_path / "model", labels={"background": 0, "whole": [1, 2], "core": [2]})))
    assert victim.labels == {"background": 0, "whole": 1, "core": 2} and victim.regions == ((1, 2), (2,))
    assert set(np.unique(victim.predict(scan()))) <= {0, 1, 2}


@pytest.mark.parametrize("kind, visible", [("CT", (-160.0, 260.0)), ("MR", None)])
def test_gradients_of_the_whole_preparation(tmp_path, kind, visible):
    victim = load_victim(str(make(tmp_path / "model", kind)))
    assert victim.visible == visible and victim.pipeline is not None
    image = scan()
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(image.data)[None].double()
    plan = victim.pipeline.plan(image.shape, image.affine, lambda: x)
    weight = torch.randn(1, 1, *plan.target, generator=generator, dtype=torch.float64)
    way = torch.randn(x.shape, generator=generator, dtype=torch.float64) * (x != 0)
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((plan.to_network(point) * weight).sum(), point)
    h = 1e-5
    moved = ((plan.to_network(x + h * way) - plan.to_network(x - h * way)) * weight).sum() / (2 * h)
    assert float((slope * way).sum()) == pytest.approx(float(moved), rel=1e-6)


@pytest.mark.parametrize("n, size, step", [(30, 8, 0.5), (8, 8, 0.5), (17, 8, 0.5), (100, 37, 0.8)])
def test_windows_are_spread_evenly(n, size, step):
    grid = Grid.over(torch.zeros(1, 1, n, 4), Window((size, 4), 1 - step, "nnunet", placing="even"))
    starts = sorted({place.box[0].start for place in grid.places})
    count = math.ceil((n - size) / (size * step)) + 1
    assert starts == [round(i * (n - size) / max(count - 1, 1)) for i in range(count)]


OTHER = {"network_class_name": "os.system", "arch_kwargs": {}}
LAYER = {
    "network_class_name": f"{nnunet.PACKAGE}.PlainConvUNet",
    "arch_kwargs": {"conv_op": "os.system"},
    "_kw_requires_import": ["conv_op"],
}
REGIONS = {"background": 0, "x": [1, 2], "y": [2]}
# Refused in one sentence each: test_refusals.
WRONG = {
    "cascade": ({"plan": {"previous_stage": "3d_lowres"}}, "second stage of a cascade"),
    "network": ({"plan": {"architecture": OTHER}}, "ask for the network os.system"),
    "layer": ({"plan": {"architecture": LAYER}}, "the layer os.system"),
    "scheme": ({"plan": {"normalization_schemes": ["MyNorm"]}}, "'MyNorm' isn't nnU-Net's own"),
    "resampling": ({"plan": {"resampling_fn_data": "mine"}}, "'mine' isn't nnU-Net's own"),
    "channels": ({"dataset": {"channel_names": {"0": "T1", "1": "T2"}}}, "normalise 1 channel"),
    "labels": ({"dataset": {"labels": {}}}, "names no labels"),
    "more labels": ({"dataset": {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}}}, "is of another network"),
    "no order": ({"labels": REGIONS, "dataset": {"regions_class_order": None}}, "without their regions_class_order"),
    "configuration": ({"checkpoint": {"init_args": {"configuration": "2d"}}}, "no configuration '2d'"),
    "inherits": ({"plan": {"inherits_from": "lost"}}, "inherit from 'lost'"),
    "other net": ({"checkpoint": {"network_weights": {"x": torch.zeros(1)}}}, "is of another network"),
}  # fmt: skip


def test_folders_without_folds_and_of_version_1_are_one_sentence(tmp_path):
    folder = make(tmp_path / "model")
    with pytest.raises(InputError, match="has no fold_4"):
        load_victim(f"{folder}:folds=4")
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(InputError, match="no fold with a checkpoint"):
        load_victim(str(folder))
    old = tmp_path / "old"
    old.mkdir()
    (old / "plans.pkl").write_bytes(b"")
    with pytest.raises(InputError, match="nnU-Net v1"):
        load_victim(str(old))


def test_steps_of_a_folder_go_through_json(tmp_path):
    from perturbox.model.pipeline import step_from

    victim = load_victim(str(make(tmp_path / "model")))
    assert victim.pipeline is not None
    told = json.loads(json.dumps(victim.pipeline.to_json()))
    assert Pipeline(tuple(step_from(entry) for entry in told)).sha256 == victim.pipeline.sha256
