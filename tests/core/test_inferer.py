"""MONAI's inferer interface: values and gradients are those of MONAI's own, in every option both have."""

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from torch import nn

from perturbox.model.inferer import ExactSlidingWindowInferer
from perturbox.types import InputError


class Small(nn.Module):
    """Two convolutions with a normalisation between them, in float64, so that sums in another order show no error."""

    def __init__(self, dims: int, norm: str = "instance"):
        super().__init__()
        torch.manual_seed(0)
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        norms = {"instance": (nn.InstanceNorm2d, nn.InstanceNorm3d), "batch": (nn.BatchNorm2d, nn.BatchNorm3d)}
        self.first, self.norm = conv(1, 4, 3, padding=1), norms[norm][dims - 2](4, affine=True)
        self.last = conv(4, 3, 3, padding=1)
        self.double()

    def forward(self, x, scale=1.0):
        return self.last(torch.tanh(self.norm(self.first(x)))) * scale


OPTIONS = [
    {"roi_size": (8, 8, 8)},
    {"roi_size": (8, 6, 5), "sw_batch_size": 3, "overlap": 0.5, "mode": "gaussian"},
    {"roi_size": (8, -1, 40), "mode": "gaussian", "padding_mode": "constant", "cval": 2.0},
    {"roi_size": (6, 7, 16), "padding_mode": "replicate", "sigma_scale": 0.3, "mode": "gaussian"},
    {"roi_size": 7},
    {"roi_size": (9, 6)},
    {"roi_size": (20, 6), "overlap": 0.6, "sw_batch_size": 4, "mode": "gaussian", "padding_mode": "reflect"},
]


def volume(options: dict) -> torch.Tensor:
    roi = options["roi_size"]
    shape = (13, 11) if isinstance(roi, tuple) and len(roi) == 2 else (13, 11, 12)
    return torch.randn(2, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(inferer, network, x) -> list[torch.Tensor]:
    x = x.clone().requires_grad_(True)
    out = inferer(x, network)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    (out.sigmoid() * weight).sum().backward()
    found = [out.detach(), x.grad, *(p.grad.clone() for p in network.parameters())]
    network.zero_grad()
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("memory_budget", [0, None])
def test_values_and_gradients_equal_monais(options, memory_budget):
    x = volume(options)
    network = Small(x.dim() - 2)
    ours = ExactSlidingWindowInferer(**options, memory_budget=memory_budget)
    assert isinstance(ours, Inferer)
    expected = gradients(SlidingWindowInferer(**options), network.eval(), x)
    for found, wanted in zip(gradients(ours, network, x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_prediction_alone_is_monais_bit_for_bit():
    options = OPTIONS[1]
    x, network = volume(options), Small(3).eval()
    with torch.no_grad():
        assert torch.equal(
            ExactSlidingWindowInferer(**options)(x, network), SlidingWindowInferer(**options)(x, network)
        )


def test_an_optimiser_takes_the_same_steps_as_with_monais():
    x, losses = volume(OPTIONS[0]), []
    target = (x > 0).long()[:, 0] * 2
    for kind in (ExactSlidingWindowInferer, SlidingWindowInferer):
        network, inferer = Small(3), kind(**OPTIONS[0])
        optimiser = torch.optim.SGD(network.parameters(), 0.5)
        losses.append([])
        for _ in range(4):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(inferer(x, network), target)
            loss.backward()
            optimiser.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert losses[0][-1] < losses[0][0] - 0.05


def test_a_training_loop_keeps_its_mode_and_batch_norm_its_statistics():
    network = Small(3, "batch").train()
    before = network.norm.running_mean.clone()
    ExactSlidingWindowInferer(8)(volume(OPTIONS[0]), network).sum().backward()
    assert network.training and network.norm.training
    assert torch.equal(network.norm.running_mean, before)
    assert all(p.requires_grad and p.grad is not None for p in network.parameters())


def test_frozen_parameters_get_no_gradient_and_none_is_needed():
    network = Small(3).requires_grad_(False)
    x = volume(OPTIONS[0]).requires_grad_(True)
    ExactSlidingWindowInferer(8)(x, network).sum().backward()
    assert all(p.grad is None for p in network.parameters())
    assert x.grad.abs().max() > 0
    network.last.bias.requires_grad_(True)
    ExactSlidingWindowInferer(8)(x.detach(), network).sum().backward()
    # The blending weights of every voxel sum to one: each voxel of the stitched map counts once.
    torch.testing.assert_close(network.last.bias.grad, torch.full((3,), 2.0 * 13 * 11 * 12, dtype=torch.float64))


def test_meta_tensors_keep_their_meta_data_and_further_arguments_reach_the_network():
    plain = volume(OPTIONS[0])
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    inferer, network = ExactSlidingWindowInferer(8), Small(3)
    out = inferer(MetaTensor(plain, affine=affine), network, scale=-2.0)
    assert isinstance(out, MetaTensor) and torch.equal(out.affine, affine)
    torch.testing.assert_close(out.as_tensor(), -2 * inferer(plain, network))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"roi_size": 8, "overlap": (0.5, 0.25, 0.25)}, "one fraction for all axes"),
        ({"roi_size": 8, "overlap": 1.0}, "overlap is 1.0"),
        ({"roi_size": 8, "mode": "linear"}, "Blending 'linear' is unknown"),
        ({"roi_size": 8, "padding_mode": "circular"}, "Padding 'circular' is unknown"),
        ({"roi_size": 8, "sw_batch_size": 0}, "at least 1 window"),
    ],
)
def test_options_that_cannot_be_used_are_refused_at_once(options, sentence):
    with pytest.raises(InputError, match=sentence):
        ExactSlidingWindowInferer(**options)
