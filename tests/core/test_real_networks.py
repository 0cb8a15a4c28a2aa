"""Published networks as victims (benchmarks/real_victims.py, brain_masks.py) on made-up weights, and their training."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import brain_masks
import obelisk
import perturbox as px
import real_victims
import train_hippocampus
from perturbox.model.pipeline import Frame
from perturbox.types import InputError


def test_a_meshnet_is_its_list_of_layers():
    """A kernel of three ones along one axis, dilated by two, then one that takes 3 away and doubles."""
    first = torch.zeros(1, 1, 3, 3, 3)
    first[0, 0, :, 1, 1] = 1
    state = {
        "model.0.weight": first,
        "model.0.bias": torch.tensor([-3.0]),
        "model.10.weight": torch.full((2, 1, 1, 1, 1), 2.0),
        "model.10.bias": torch.tensor([0.0, 1.0]),
    }
    layers = [{"kernel_size": 3, "padding": 2, "stride": 1, "dilation": 2},
              {"kernel_size": 1, "padding": 0, "stride": 1, "dilation": 1}]  # fmt: skip
    x = torch.arange(1.0, 6).view(1, 1, 5, 1, 1)
    got = real_victims.MeshNet({"layers": layers}, state)(x).detach()
    # 1+3, 2+4, 3+1+5, 4+2, 5+3, less 3, doubled; the second score is one more.
    assert got[0, 0].flatten().tolist() == [2, 6, 12, 6, 10]
    assert got[0, 1].flatten().tolist() == [3, 7, 13, 7, 11]
    with_elu = real_victims.MeshNet({"layers": layers, "elu": True}, state)(x - 6).detach()
    assert float(with_elu[0, 0, 0, 0, 0]) == pytest.approx(2 * (np.exp(-8 - 3) - 1))  # -5 and -3, less 3


def _retina(passing: dict[int, int]) -> real_victims.RetinaUNet:
    """Kernels that pass one channel on: `passing` names which one of what comes in; the last is 1 × 1."""
    weights = []
    for number in range(1, 12):
        taken, size = passing.get(number, 0), 1 if number == 11 else 3
        channels = 2 if number in (7, 9) else 1
        kernel = torch.zeros(2 if number == 11 else 1, channels, size, size)
        kernel[:, taken, size // 2, size // 2] = torch.tensor([1.0, 3.0])[: len(kernel)]
        weights.append((kernel, torch.zeros(len(kernel))))
    return real_victims.RetinaUNet(weights)


def test_the_retina_network_joins_what_comes_up_with_what_was_there():
    """By the first channel at both joints, maxima of 4 × 4 pixels come out; by the second at the last, the pixels."""
    x = torch.arange(64.0).view(1, 1, 8, 8)
    coarse = _retina({})(x)
    maxima = x[0, 0].reshape(2, 4, 2, 4).amax((1, 3)).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(coarse[0, 0], maxima)
    assert torch.equal(coarse[0, 1], 3 * maxima)
    assert torch.equal(_retina({9: 1})(x)[0, 0], x[0, 0])
    middle = x[0, 0].reshape(4, 2, 4, 2).amax((1, 3)).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(_retina({7: 1})(x)[0, 0], middle)


def test_weights_of_keras_are_taken_as_they_lie():
    file = {
        f"convolution2d_{n}": {
            f"convolution2d_{n}_W": np.full((n, 1, 3, 3), n, np.float32),
            f"convolution2d_{n}_b": np.arange(n, dtype=np.float32),
        }
        for n in range(1, 12)
    }
    found = real_victims.of_keras(file)
    assert [tuple(weight.shape) for weight, _ in found] == [(n, 1, 3, 3) for n in range(1, 12)]
    assert all(torch.all(weight == n) and bias.tolist() == list(range(n)) for n, (weight, bias) in enumerate(found, 1))


def test_a_photograph_is_told_against_its_neighbourhood():
    x = torch.rand(1, 3, 80, 70, generator=torch.Generator().manual_seed(0)) * 255
    grey = np.tensordot([0.299, 0.587, 0.114], x[0].numpy(), 1)
    part = grey[40 - 32 : 40 + 33, 35 - 32 : 35 + 33]
    wanted = 0.5 + 0.15 * (grey[40, 35] - part.mean()) / part.std()
    assert float(real_victims.flattened(x)[0, 0, 40, 35]) == pytest.approx(wanted, abs=1e-4)
    even = real_victims.flattened(torch.full((1, 3, 9, 9), 100.0))
    assert even.flatten().tolist() == pytest.approx([0.5] * 81, abs=1e-3)


def test_part_of_a_scan_stays_where_it_is(tmp_path):
    affine = np.diag([2.0, 3, 4, 1])
    nib.save(nib.Nifti1Image(np.arange(60.0).reshape(3, 4, 5), affine), tmp_path / "t1.nii.gz")
    part = real_victims.part_of(tmp_path / "t1.nii.gz", (slice(1, 3), slice(0, 2), slice(2, 5)))
    assert part.shape == (2, 2, 3)
    assert part.affine[:3, 3].tolist() == [2, 0, 8]
    assert np.asarray(part.dataobj)[0, 0, 0] == 22
    assert real_victims.part_of(tmp_path / "t1.nii.gz", None) == tmp_path / "t1.nii.gz"


def test_the_box_is_that_of_the_largest_part_and_a_tenth_wider():
    mask = np.zeros((128, 128, 128), bool)
    mask[40:80, 30:70, 20:60] = True
    mask[100:110, 100:110, 100:110] = True  # another part
    box = brain_masks.boxed(mask, (256, 128, 64))
    # 40 … 80 of 128 are 80 … 160 of 256: centre 120, 80 × 1.2 = 96 wide; the others likewise.
    assert box == (slice(72, 168), slice(26, 74), slice(8, 32))
    at_the_rim = np.zeros((8, 8, 8), bool)
    at_the_rim[:6] = True
    assert brain_masks.boxed(at_the_rim, (8, 8, 8)) == (slice(0, 6), slice(0, 8), slice(0, 8))
    with pytest.raises(InputError, match="no brain"):
        brain_masks.boxed(np.zeros((8, 8, 8), bool), (8, 8, 8))


def test_the_range_is_that_of_the_small_grid(monkeypatch):
    """0 … 1 between percentiles of the middle voxels alone, as `F.interpolate`'s nearest-exact picks them."""
    monkeypatch.setattr(brain_masks, "SMALL", (16, 16, 16))
    x = torch.randn(1, 1, 25, 17, 14, generator=torch.Generator().manual_seed(1)) * 50 + 200
    frame = Frame(tuple(x.shape[2:]), np.eye(4))
    got = brain_masks.HeadRange().plan(frame, None).forward(x)
    index = [np.floor((np.arange(16) + 0.5) * n / 16).astype(int) for n in frame.shape]
    low, high = np.percentile(x[0, 0].numpy()[np.ix_(*index)], [0.5, 99.5])
    np.testing.assert_allclose(got[0, 0], np.clip((x[0, 0].numpy() - low) / (high - low), 0, 1), atol=1e-6)


class Bright(nn.Module):
    """Two classes, yes where the prepared scan is above its middle; ends in a softmax as deepbet's programs do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = 40 * (x - 0.449)
        return torch.cat([-score, score], 1).softmax(1)


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "deepbet" / "data" / "models"
    folder.mkdir(parents=True)
    for name in ("model.pt", "bbox_model.pt"):
        torch.jit.script(Bright()).save(folder / name)
    monkeypatch.setenv("PERTURBOX_MODELS", str(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_deepbet_runs_both_networks_on_its_own_grids(models, monkeypatch):
    """A bright ball with a hole and a bright spot apart from it: the ball comes out, filled, in one box."""
    monkeypatch.setattr(brain_masks, "SMALL", (24, 24, 24))
    monkeypatch.setattr(brain_masks, "WHOLE", (32, 32, 32))
    victim = brain_masks.deepbet(torch.device("cpu"))
    axes = np.meshgrid(*(np.arange(n) for n in (40, 36, 32)), indexing="ij")
    radius = np.linalg.norm([a - c for a, c in zip(axes, (20, 17, 15), strict=True)], axis=0)
    ball = np.asarray(radius < 10)
    values = np.where(ball, 300.0, 20.0)
    values[radius < 2.5] = 20
    values[37:39, 32:35, 28:31] = 300
    scan = px.read((values.astype(np.float32), np.diag([-1.0, 1, 1, 1])), unit="intensity")
    bound = victim.on(scan)
    assert [step.kind for step in bound.grid.bound] == [
        "linear",
        "statistic",
        "linear",
        "linear",
        "statistic",
        "affine",
    ]
    assert bound.grid.target == (32, 32, 32)
    found = victim.predict(scan).astype(bool)
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.9
    assert found[20, 17, 15]
    assert not found[37:39, 32:35, 28:31].any()
    assert ndimage.label(found)[1] == 1
    x = torch.from_numpy(scan.data)[None].requires_grad_()
    (slope,) = torch.autograd.grad(bound(x)[0, 1].clamp(max=-1e-6).sum(), x)
    assert float(slope[0, 0][torch.from_numpy(ball)].abs().sum()) > 0


def test_a_sure_voxel_of_a_softmax_keeps_its_gradient():
    """Scores 40 apart: the rarer class has 4e-18, whose logarithm still follows its score."""

    class Two(nn.Module):
        def forward(self, x):
            return torch.cat([x, -x], 1).softmax(1)

    x = torch.full((1, 1, 1), 20.0, requires_grad=True)
    found = brain_masks.Logits(Two())(x)
    assert found[0, :, 0].tolist() == pytest.approx([0, -40], abs=1e-5)
    (slope,) = torch.autograd.grad(found[0, 1, 0], x)
    assert float(slope) == pytest.approx(-2)


def test_missing_weights_are_told_with_how_to_fetch_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PERTURBOX_MODELS", str(tmp_path))
    with pytest.raises(InputError, match="fetch the wheel and unzip it"):
        brain_masks.deepbet(torch.device("cpu"))


def test_hd_bets_network_has_the_published_shapes_and_counts_the_scans_own_statistics():
    with torch.device("meta"):
        whole = brain_masks.HDBet()
    assert sum(p.numel() for p in whole.parameters()) == 16_349_403  # as its file has, without the coarser heads
    net = brain_masks.HDBet(2).eval()
    torch.manual_seed(0)
    state = {name: torch.randn_like(value) * 0.3 for name, value in net.state_dict().items()}
    running = {"context1.bn_1.running_mean": torch.ones(2), "context1.bn_1.num_batches_tracked": torch.tensor(3)}
    heads = {"loc2_seg.weight": torch.ones(2, 8, 1, 1, 1), "loc3_seg.weight": torch.ones(2, 4, 1, 1, 1)}
    net.fill(state | running | heads)
    x = torch.randn(1, 1, 16, 32, 16)
    scores = net(x)
    assert tuple(scores.shape) == (1, 2, 16, 32, 16)
    torch.testing.assert_close(scores, _hd_bet(state, x), atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError, match="Missing key"):
        net.fill({name: value for name, value in state.items() if name != "seg_layer.weight"})


def _hd_bet(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network written out a second time, block by block, with its statistics taken by hand."""

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return nn.functional.conv3d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def act(name: str, x: torch.Tensor, leak: float = 0.01) -> torch.Tensor:
        mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), correction=0, keepdim=True)
        weight, bias = (state[f"{name}.{part}"].view(1, -1, 1, 1, 1) for part in ("weight", "bias"))
        y = (x - mean) / (var + 1e-5).sqrt() * weight + bias
        return torch.where(y > 0, y, leak * y)

    def context(k: int, x: torch.Tensor) -> torch.Tensor:
        y = conv(f"context{k}.conv1", act(f"context{k}.bn_1", x))
        return x + conv(f"context{k}.conv2", act(f"context{k}.bn_2", y))

    def up(k: int, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        y = nn.functional.interpolate(x, [2 * n for n in x.shape[2:]], mode="trilinear", align_corners=True)
        return torch.cat([skip, act(f"up{k}.bn", conv(f"up{k}.upsample_conv", y))], 1)

    def loc(k: int, x: torch.Tensor) -> torch.Tensor:
        return act(f"loc{k}.bn_2", conv(f"loc{k}.conv2", act(f"loc{k}.bn_1", conv(f"loc{k}.conv1", x))))

    one = act("down1.bn", context(1, conv("init_conv", x)))
    two = act("down2.bn", context(2, conv("down1.downsample", one, 2)))
    three = act("down3.bn", context(3, conv("down2.downsample", two, 2)))
    four = act("down4.bn", context(4, conv("down3.downsample", three, 2)))
    x = act("bn_after_context5", context(5, conv("down4.downsample", four, 2)), 0.1)
    x = up(4, loc(3, up(3, loc(2, up(2, loc(1, up(1, x, four)), three)), two)), one)
    x = act("end_conv_1_bn", conv("end_conv_1", x), 0.1)
    return conv("seg_layer", act("end_conv_2_bn", conv("end_conv_2", x), 0.1))


def test_nnunets_plans_are_narrowed_layer_for_layer():
    def planned(widths: list[int], patch: list[int]) -> dict:
        return {
            "batch_size": 9,
            "patch_size": patch,
            "architecture": {"arch_kwargs": {"features_per_stage": widths, "n_stages": len(widths)}},
        }

    plans = {
        "configurations": {
            "3d_fullres": planned([32, 64, 128, 256], [40, 56, 40]),
            "2d": planned([32, 64], [56, 40]),
            "inherits": {"inherits_from": "2d"},
        }
    }
    made = train_hippocampus.narrowed(plans)["configurations"]
    assert made["3d_fullres"]["architecture"]["arch_kwargs"] == {"features_per_stage": [8, 16, 32, 64], "n_stages": 4}
    assert made["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 16]
    assert made["3d_fullres"]["batch_size"] == 2
    assert (made["3d_fullres"]["patch_size"], made["2d"]["patch_size"]) == ([32, 40, 32], [32, 40])
    assert made["inherits"] == {"inherits_from": "2d"}


def test_the_raw_data_for_nnunet_are_the_scans_under_its_names(tmp_path, monkeypatch):
    data = tmp_path / "data"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
        for number in range(4):
            (data / kind / f"hippocampus_{number:03}.nii.gz").write_bytes(f"{kind}{number}".encode())
    monkeypatch.setattr(train_hippocampus, "DATA", data)
    chosen = [data / "images" / f"hippocampus_{n:03}.nii.gz" for n in (3, 1)]
    raw = train_hippocampus.raw_data(tmp_path / "new", chosen)
    assert raw == tmp_path / "new" / "raw" / "Dataset004_Hippocampus"
    assert sorted(p.name for p in (raw / "imagesTr").iterdir()) == [f"hippocampus_{n:03}_0000.nii.gz" for n in (1, 3)]
    assert (raw / "imagesTr" / "hippocampus_003_0000.nii.gz").read_bytes() == b"images3"
    assert (raw / "labelsTr" / "hippocampus_003.nii.gz").read_bytes() == b"labels3"
    assert json.loads((raw / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "licence": "CC BY-SA 4.0",
    }


REAL = Path(os.environ.get("PERTURBOX_MODELS", "models"))


@pytest.mark.slow
def test_deepbets_own_mask_of_a_head(monkeypatch):
    """Its volume lies where two other published masks of this head do (HD-BET 1516 ml, mindgrab 1534 ml)."""
    head = real_victims.DATA / "mr_brain_t1" / "t1_crop.nii.gz"
    if not (REAL / "deepbet" / "data" / "models" / "model.pt").is_file() or not head.is_file():
        pytest.skip("deepbet's weights (PERTURBOX_MODELS) or the T1 head (PERTURBOX_DATA) aren't here")
    mask = px.segment(head, brain_masks.deepbet(torch.device("cpu")))
    assert mask.sum() / 1000 == pytest.approx(1542, abs=5)


@pytest.mark.slow
def test_vessels_of_a_photograph_are_found():
    eye = real_victims.DATA / "fundus_chase" / "Image_01L.jpg"
    if importlib.util.find_spec("h5py") is None or not eye.is_file():
        pytest.skip("h5py or the photograph (PERTURBOX_DATA) isn't here")
    vessels = px.segment(eye, real_victims.retina(torch.device("cpu"))) > 0
    expert = px.io.read_labels(eye.with_name("Image_01L_1stHO.png"), px.read(eye, "intensity")) > 0
    assert 2 * (vessels & expert).sum() / (vessels.sum() + expert.sum()) == pytest.approx(0.642, abs=5e-4)


def test_obelisk_looks_where_its_offsets_say():
    """On a ramp from -1 to 1 along each axis a look at an offset is the place itself plus the offset."""
    far = obelisk.Far(4, 1, 2, (3, 5, 3))
    offsets = torch.tensor([[0.1, 0, 0], [0, 0.2, 0], [0, 0, -0.3], [0, 0, 0]])
    far.offsets.data = offsets.view(1, 4, 1, 1, 3)
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, 11) for _ in range(3)), indexing="ij")
    seen = []
    far.first.register_forward_hook(lambda layer, given, made: seen.append(given[0]))
    far.eval()(x[None, None] + 10 * y + 100 * z)
    places = far.points.view(3, 5, 3, 3)[1:2, 1:4, 1:2] @ torch.tensor([1.0, 10.0, 100.0])  # away from the border
    for channel, offset in enumerate(offsets):
        expected = places + offset @ torch.tensor([1.0, 10.0, 100.0])
        torch.testing.assert_close(seen[0][0, channel, 1:2, 1:4, 1:2], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_obelisk_finds_the_organs_of_a_real_ct(data_dir, tmp_path):
    """Its published weights fit all that was rebuilt, and it sees what others see in that scan."""
    scan, known = (
        nib.load(data_dir / "ct_abdomen" / f"example_{kind}.nii.gz").slicer[real_victims.ABDOMEN]
        for kind in ("ct", "seg")
    )
    nib.save(scan, tmp_path / "ct.nii.gz")
    victim = obelisk.obelisk(torch.device("cpu"))
    found, expert = px.segment(tmp_path / "ct.nii.gz", victim), np.asarray(known.dataobj)
    dice = {}
    for name, value in {"liver": 5, "spleen": 1, "gallbladder": 4}.items():
        seen, there = found == victim.labels[name], expert == value
        dice[name] = round(2 * float((seen & there).sum()) / float(seen.sum() + there.sum()), 2)
    assert dice == {"liver": 0.93, "spleen": 0.86, "gallbladder": 0.74}
