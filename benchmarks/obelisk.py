"""OBELISK-Net as a victim: eight organs of an abdominal CT, by convolutions that look at far places they have learnt.

    perturbox attack ct.nii.gz --victim benchmarks/obelisk.py:obelisk …

Heinrich, Oktay & Bouteldja 2019, doi:10.1016/j.media.2019.02.006, the hybrid net for the TCIA's pancreas scans, rebuilt
from the published code's widths and the shapes of its weights, which are read from PERTURBOX_DATA/weights_obelisk_ct
(MIT; fetched by the user). What the published code does by accident is kept, because the weights have learnt it: the
coarse grid is twice as fine along the second axis.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hippocampus
from perturbox.load.checkpoint import read_checkpoint
from perturbox.model.pipeline import Decision, Pipeline, step_from
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim

WEIGHTS = hippocampus.DATA.parent / "weights_obelisk_ct" / "obeliskhybrid_tcia_fold1.pth"
ORGANS = ("spleen", "pancreas", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "duodenum")
SIDE = 144
HALF, QUARTER, COARSE = (72, 72, 72), (36, 36, 36), (18, 36, 18)
LEAK = 0.025


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


def bent(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAK)


class Far(nn.Module):
    """The values of a smoothed scan at `count` learnt offsets from each point of a grid, through 1 × 1 × 1 layers, each
    of which sees all before it."""

    def __init__(self, count: int, groups: int, out: int, grid: tuple[int, ...]):
        super().__init__()
        self.grid = grid
        self.offsets = nn.Parameter(torch.zeros(1, count, 1, 1, 3))
        z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in grid), indexing="ij")
        self.register_buffer("points", torch.stack([x, y, z], -1).view(1, 1, -1, 1, 3), persistent=False)
        self.first = nn.Conv3d(count, 128, 1, groups=groups, bias=False)
        widths = (128, 160, 192, 224)
        self.norms = nn.ModuleList(nn.BatchNorm3d(width) for width in widths)
        self.layers = nn.ModuleList(
            nn.Conv3d(a, b, 1, bias=False) for a, b in zip(widths, (32, 32, 32, out), strict=True)
        )

    def forward(self, smoothed: Tensor) -> Tensor:
        looked = F.grid_sample(smoothed, self.points + self.offsets, align_corners=True)
        x = bent(self.first(looked.view(1, -1, *self.grid)))
        for norm, layer in zip(self.norms[:-1], self.layers[:-1], strict=True):
            x = torch.cat([x, bent(layer(norm(x)))], 1)
        return bent(self.layers[-1](self.norms[-1](x)))


class Near(nn.Module):
    """A 3 × 3 × 3 convolution, its norm and its leaky bend."""

    def __init__(self, into: int, out: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv3d(into, out, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        return bent(self.norm(self.conv(x)))


class Obelisk(nn.Module):
    """Scores "1 9 144 144 144" of a scan "1 1 144 144 144"."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleDict(
            {
                "0": Near(1, 4), "1": Near(4, 16, 2), "11": Near(16, 16), "2": Near(16, 32, 2), "22": Near(32, 32),
                "3": Near(32, 32),
            }
        )  # fmt: skip
        self.far = nn.ModuleDict({"1": Far(128, 2, 16, QUARTER), "2": Far(512, 4, 32, COARSE)})
        self.up = nn.ModuleDict({"6bU": Near(64, 32), "6U": Near(64, 12), "7U": Near(16, 9)})
        self.last = nn.Conv3d(9, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        smooth = F.avg_pool3d(x, 3, padding=1, stride=1)
        smoother = F.avg_pool3d(smooth, 3, padding=1, stride=1)
        whole = self.down["0"](x)
        half = self.down["11"](self.down["1"](whole))
        deep = self.down["3"](self.down["22"](self.down["2"](half)))
        far, farther = resized(self.far["1"](smooth), HALF), resized(self.far["2"](smoother), QUARTER)
        up = self.up["6bU"](torch.cat([deep, farther], 1))
        up = self.up["6U"](torch.cat([resized(up, HALF), far, half], 1))
        up = self.up["7U"](torch.cat([resized(up, (SIDE,) * 3), whole], 1))
        return self.last(up)


def renamed(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under this module's names."""
    made = {}
    for name, value in published.items():
        kind, _, rest = name.partition(".")
        if kind.startswith("offset"):
            made[f"far.{kind[-1]}.offsets"] = value
        elif kind == "conv77U":
            made[f"last.{rest}"] = value
        elif kind.startswith("linear"):
            layer = "abcde".index(kind[-1])
            made[f"far.{kind[-2]}." + (f"first.{rest}" if layer == 0 else f"layers.{layer - 1}.{rest}")] = value
        elif kind.startswith("batch") and kind[-1] in "abcd":
            made[f"far.{kind[-2]}.norms.{'abcd'.index(kind[-1])}.{rest}"] = value
        else:
            part, number = ("conv", kind[4:]) if kind.startswith("conv") else ("norm", kind[5:])
            made[f"{'up' if number.endswith('U') else 'down'}.{number}.{part}.{rest}"] = value
    return made


def obelisk(device: torch.device) -> Victim:
    """Organs of a box around the upper abdomen, which its user cuts out: it was trained on such boxes."""
    network = Obelisk()
    network.load_state_dict(renamed(read_checkpoint(WEIGHTS)))
    steps = (
        {"step": "affine", "subtract": -1024, "divide": 1024},
        {"step": "orient", "to": "LAI"},
        {"step": "resize", "size": [SIDE] * 3},
    )
    return Victim(
        "obelisk",
        network.eval().requires_grad_(False),
        {"background": 0, **{name: value for value, name in enumerate(ORGANS, 1)}},
        Window((SIDE,) * 3, overlap=0.0, batch=1),
        unit="HU",
        pipeline=Pipeline(tuple(step_from(dict(step)) for step in steps)),
        decision=Decision(({"do": "softmax"}, {"do": "inverse", "mode": "linear"}, {"do": "argmax"})),
        licence="MIT",
        training_data="Pancreas-CT of The Cancer Imaging Archive",
        device=device,
    )
