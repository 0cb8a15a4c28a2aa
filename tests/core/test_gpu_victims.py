"""What victims add to the sliding window, on CUDA: exact gradients of stitched predictions, mirroring, folds, sums in
half precision, and window batches halved where memory runs out. `python benchmarks/on_gpu.py` runs them."""

import pytest
import torch
import victims
from torch import Tensor, nn

from perturbox.model.pipeline import Pipeline
from perturbox.model.pipeline.intensity import ZScore
from perturbox.model.sliding import Window, sliding_window
from perturbox.model.victim import Victim, as_input
from perturbox.model.windows import Grid
from perturbox.model.wrappers import Folds, Mirrored
from perturbox.types import Effort

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
SHAPE = (19, 13, 11)


def net(seed: int = 0) -> nn.Module:
    return victims.conv_net(3, seed=seed).double()


def gradient_of(predict, x: Tensor) -> tuple[Tensor, Tensor]:
    """(scores, gradient of a fixed weighted sum of them), both on the CPU."""
    x = x.detach().clone().requires_grad_()
    scores = predict(x)
    weight = torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype, device=x.device).reshape(scores.shape)
    (gradient,) = torch.autograd.grad((scores * weight).sum(), x)
    return scores.detach().cpu(), gradient.cpu()


def volume() -> Tensor:
    return torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def close(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(one, two, strict=True):
        assert float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())


@pytest.mark.parametrize("placing, blend", [("fixed", "gaussian"), ("even", "nnunet")])
@pytest.mark.parametrize("budget", [0, None])
def test_a_stitched_gradient_is_that_of_all_windows_in_one_graph(placing, blend, budget):
    window = Window((8, 8, 8), 0.5, blend, batch=3, placing=placing)
    network, x = net().to(CUDA), volume().to(CUDA)
    grid = Grid.over(x, window)

    def recorded(point: Tensor) -> Tensor:
        stitched = torch.zeros(1, 3, *SHAPE, dtype=point.dtype, device=point.device)
        for place in grid.places:
            scores = grid.crop(network(grid.pad(place.of(point), window))) * grid.weight
            box = (slice(None), slice(None), *place.box)
            stitched = stitched.index_put(_indices(box, stitched), scores, accumulate=True)
        return stitched / grid.total

    close(gradient_of(lambda p: sliding_window(network, p, window, memory_budget=budget), x), gradient_of(recorded, x))


def _indices(box: tuple, of: Tensor) -> tuple[Tensor, ...]:
    """A box as index_put takes it, which autograd records."""
    ranges = [torch.arange(n, device=of.device)[part] for n, part in zip(of.shape, box, strict=True)]
    return torch.meshgrid(*ranges, indexing="ij")


def test_mirroring_is_what_it_is_on_the_cpu():
    """And there the mean over eight flips, written out."""
    network, x = net(), volume()
    here = gradient_of(Mirrored(network, (0, 1, 2)), x)
    flips = [[a + 2 for a in range(3) if bits >> a & 1] for bits in range(8)]
    by_hand = gradient_of(lambda p: sum(network(p.flip(f)).flip(f) for f in flips) / 8, x)
    there = gradient_of(Mirrored(net().to(CUDA), (0, 1, 2)), x.to(CUDA))
    close(here, by_hand)
    close(there, here)


def test_folds_are_the_mean_of_their_members():
    x = volume()
    members = [net(seed) for seed in range(3)]
    by_hand = gradient_of(lambda p: sum(member(p) for member in members) / 3, x)
    close(gradient_of(Folds([net(seed) for seed in range(3)]).to(CUDA), x.to(CUDA)), by_hand)


def test_sums_in_half_precision_are_the_cpus_bits():
    """Of a network whose scores no device rounds: a voxel's whole number times powers of two."""

    def victim(device: torch.device) -> Victim:
        network = nn.Conv3d(1, 3, 1, bias=False)
        with torch.no_grad():
            network.weight.copy_(torch.tensor([0.25, 2.0, -0.5]).view(3, 1, 1, 1, 1))
        window = Window((8, 8, 8), 0.5, "nnunet", batch=1, placing="even", sums="float16")
        return victims.organ_of(3, network=network, window=window, pipeline=Pipeline(()), device=device,
                                labels={"background": 0, "a": 1, "b": 2})  # fmt: skip

    image = victims.random_scan(SHAPE)
    scores = []
    for device in (victims.CPU, CUDA):
        with torch.no_grad():
            scores.append(victim(device).on(image).judge(as_input(image, device)).cpu())
    assert scores[0].dtype == torch.float16 and torch.equal(*scores)


def test_a_mirrored_victim_with_folds_and_statistics_predicts_and_differentiates_as_on_the_cpu():
    def victim(device: torch.device) -> Victim:
        members = [Mirrored(victims.conv_net(3, seed=seed), (0, 2)) for seed in range(2)]
        window = Window((8, 8, 8), 0.5, "nnunet", batch=1, placing="even", sums="float16")
        return victims.textured(network=Folds(members), window=window, normalise=lambda x: x, unit="intensity",
                                pipeline=Pipeline((ZScore(per_channel=True),)), device=device)  # fmt: skip

    image = victims.random_scan(SHAPE)
    assert (victim(victims.CPU).predict(image) == victim(CUDA).predict(image)).mean() > 0.99
    pairs = [gradient_of(victim(device).on(image), as_input(image, device)) for device in (victims.CPU, CUDA)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


class Hungry(nn.Module):
    """Takes a part of the device's free memory for each window of a batch."""

    def __init__(self, share: float):
        super().__init__()
        self.network, self.share = victims.conv_net(3), share

    def forward(self, x: Tensor) -> Tensor:
        free, _ = torch.cuda.mem_get_info()
        held = torch.empty(int(self.share * free * len(x)), dtype=torch.uint8, device=x.device)
        scores = self.network(x)
        del held
        return scores


@pytest.mark.parametrize("share, size", [(0.4, 2), (0.7, 1)])
def test_a_window_batch_that_does_not_fit_is_halved_and_says_so(share, size):
    """Four windows want more than all that is free; the gradient is that of small batches."""
    x, effort = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0)).to(CUDA), Effort()
    hungry, window = Hungry(share).to(CUDA), Window((8, 8, 8), 0.5, batch=4)
    found = gradient_of(lambda p: sliding_window(hungry, p, window, effort=effort, memory_budget=0), x)
    assert any(f"halved from {2 * size} to {size}" in note for note in effort.notes)
    expected = gradient_of(lambda p: sliding_window(hungry.network, p, Window((8, 8, 8), 0.5, batch=1)), x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))
