"""3D convolutions of one small image, whose gradient is asked for, go to oneDNN: the same up to rounding, faster."""

from collections.abc import Callable

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from perturbox.model.network import UNFOLDED, _modules_of, evaluating, saved_storages
from perturbox.model.sliding import Window, sliding_window

BY_ONEDNN, BY_UNFOLDING = "aten::mkldnn_convolution", "aten::slow_conv3d_forward"

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.ELU(), nn.Conv3d(6, 3, 3, stride=2, padding=1))


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def kernels(network: nn.Module, x: Tensor) -> set[str]:
    """Which of the two ways of convolving torch takes for a network in use."""
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        evaluating(network, fast=True),
    ):
        network(x)
    return {event.key for event in profile.key_averages()} & {BY_ONEDNN, BY_UNFOLDING}


def test_torch_alone_unfolds_a_small_image() -> None:
    """The day this fails, torch asks oneDNN by itself, and our doing so can go."""
    network = net()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        network(image(1, 1, 12, 10, 8))
    assert BY_UNFOLDING in {event.key for event in profile.key_averages()}


def test_a_network_in_use_asks_onednn() -> None:
    assert kernels(net(), image(1, 1, 12, 10, 8)) == {BY_ONEDNN}
    assert kernels(net(), image(2, 1, 12, 10, 8)) == {BY_ONEDNN}


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of a setting that these flags touch beside the one meant
def test_whoever_turns_onednn_off_has_it_off() -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        assert kernels(net(), image(1, 1, 12, 10, 8)) == {BY_UNFOLDING}


def test_what_onednn_has_not_is_left_to_torch() -> None:
    assert kernels(net().double(), image(1, 1, 12, 10, 8, dtype=torch.float64)) == {BY_UNFOLDING}


def test_its_gradient_asks_onednn_too() -> None:
    network, x = net(), image(1, 1, 12, 10, 8).requires_grad_()
    with evaluating(network, fast=True):
        found = network(x).square().sum()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            torch.autograd.grad(found, x)
    assert {event.key: event.count for event in profile.key_averages()}["aten::to_mkldnn"] == 2 * 2


@pytest.mark.parametrize("trained", [False, True])
def test_prediction_and_gradients_are_those_of_torch_up_to_rounding(trained: bool) -> None:
    network = net()
    asked = [image(1, 1, 12, 10, 8).requires_grad_()] + (list(network.parameters()) if trained else [])
    upstream = image(1, 3, 6, 5, 4)
    plain = network(asked[0])
    expected = torch.autograd.grad(plain, asked, upstream)
    with evaluating(network, frozen=not trained, fast=True):
        found = network(asked[0])
        gradients = torch.autograd.grad(found, asked, upstream)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


def test_with_and_without_a_graph_the_prediction_is_the_same_bit_for_bit() -> None:
    network, x = net(), image(1, 1, 12, 10, 8)
    with evaluating(network, fast=True):
        with torch.no_grad():
            without = network(x)
        assert torch.equal(network(x.requires_grad_()), without)


class Inside(nn.Module):
    """A convolution that is reached by a way of its own."""

    def __init__(self, way: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.way = nn.Conv3d(4, 4, 3, padding=1), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.convolution, x)


def second_order(convolution: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        given = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(convolution(given).square().sum(), given, create_graph=True)[0]


@pytest.mark.parametrize(
    "network",
    [
        nn.Conv3d(4, 6, 3, dilation=2),
        nn.Conv3d(4, 6, (1, 3, 5), stride=(1, 2, 2), padding=(0, 1, 2), bias=False),
        nn.Conv3d(4, 6, 1).to(memory_format=torch.channels_last_3d),
        Inside(lambda convolution, x: convolution(x[:, :, ::2].transpose(2, 3))),
        Inside(lambda convolution, x: checkpoint(convolution, x, use_reentrant=False)),
        Inside(second_order),
    ],
)
def test_it_is_the_same_convolution_however_it_is_asked(network: nn.Module) -> None:
    expected, found = of(network, image(1, 4, 9, 8, 7))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        nn.Conv3d(4, 6, 3, padding="same"),
        nn.Conv3d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(4, 6, 3, groups=2),
        weight_norm(nn.Conv3d(4, 6, 3)),
        Inside(lambda convolution, x: convolution(MetaTensor(x)).as_tensor()),
        Inside(lambda convolution, x: torch.vmap(lambda one: convolution(one[None])[0])(x)),
        Inside(lambda convolution, x: convolution(x[0])[None]),
        Inside(lambda convolution, x: functional.conv3d(input=x, weight=convolution.weight, padding=1)),
    ],
)
def test_what_onednn_does_not_fit_stays_torchs_own_bit_for_bit(network: nn.Module) -> None:
    expected, found = of(network, image(1, 4, 9, 8, 7))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def of(network: nn.Module, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(prediction, gradient) of torch alone and of the network in use."""

    def asked() -> tuple[Tensor, Tensor]:
        given = x.clone().requires_grad_()
        prediction = network(given)
        return prediction.detach(), torch.autograd.grad(prediction.square().sum(), given)[0]

    alone = asked()
    with evaluating(network, fast=True):
        return alone, asked()


def test_a_network_is_left_as_it_was_even_if_it_fails_and_within_itself() -> None:
    network = net()
    with evaluating(network, fast=True), evaluating(network, fast=True):
        pass
    with pytest.raises(RuntimeError), evaluating(network, fast=True):
        network(image(1, 2, 4, 4, 4))
    assert not any("forward" in vars(module) for module in network.modules())


def test_a_large_image_is_torchs_own_affair() -> None:
    network, x = nn.Conv3d(1, 2, 3, padding=1), image(1, 1, 160, UNFOLDED // 160 + 1, 2)
    with evaluating(network, fast=True):
        found = network(x)
    assert torch.equal(found, network(x))


def test_what_a_graph_keeps_is_counted_there_too() -> None:
    """Of a convolution whose weights are frozen, the input and nothing else is kept."""
    network, x = nn.Conv3d(1, 2, 3, padding=1), image(1, 1, 12, 10, 8).requires_grad_()
    with evaluating(network, fast=True), saved_storages(network) as storages:
        network(x)
    assert sum(storages.values()) == x.numel() * x.element_size()


def test_who_asks_for_a_gradient_gets_it_and_who_predicts_gets_torchs_own_bits() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.ELU(), nn.Conv3d(6, 3, 3, padding=1))
    x, window = image(1, 1, 12, 10, 8), Window((12, 10, 8), blend="constant", batch=1)
    assert torch.equal(sliding_window(network, x, window), network(x).detach())

    def asked(x: Tensor) -> set[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            sliding_window(network, x, window)
        return {event.key for event in profile.key_averages()} & {BY_ONEDNN, BY_UNFOLDING}

    assert (asked(x), asked(x.clone().requires_grad_())) == ({BY_UNFOLDING}, {BY_ONEDNN})


def test_modules_are_those_of_torch_each_once() -> None:
    shared = nn.Linear(2, 2)
    network = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU(), shared), "b": nn.ModuleList([shared, net()])})
    network.register_module("none", None)
    assert set(_modules_of(network)) == set(network.modules())
    assert len(_modules_of(network)) == len(list(network.modules())) and _modules_of(lambda x: x) == []
