"""Defences and training against attacks on CUDA: the values and gradients that they have on a CPU. `python
benchmarks/on_gpu.py` runs these tests."""

import pytest
import torch
import torch.nn.functional as F
from test_hardening import batch, classifier
from torch import Tensor

from perturbox.defenses import discover
from perturbox.hardening import METHODS, harden

pytestmark = pytest.mark.gpu
SPACING = (1.0, 1.0, 1.5)


def scan() -> Tensor:
    return torch.randn(1, 1, 17, 18, 19, generator=torch.Generator().manual_seed(3)) * 100


def gradient(candidate, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    found = candidate(x, SPACING, torch.Generator().manual_seed(5))
    weight = torch.linspace(-1, 1, found.numel(), device=x.device).reshape(found.shape)
    return torch.autograd.grad((found * weight).sum(), x)[0].cpu()


@pytest.mark.parametrize("name", discover())
def test_a_filter_and_its_stand_ins_are_those_of_a_cpu(name):
    made = discover()[name].build({}, (-250.0, 350.0), "the model")
    x = scan()
    one, other = (made.filter(x.to(on), SPACING, torch.Generator().manual_seed(5)).cpu() for on in ("cpu", "cuda"))
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-3)
    for attempt in made.stand_ins:
        candidate = attempt.twin or made.filter
        torch.testing.assert_close(gradient(candidate, x.cuda()), gradient(candidate, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_under_attack_is_that_of_a_cpu(method):
    """But for voxels whose slope is 0 up to rounding, and may go either way."""
    found = []
    for on in ("cpu", "cuda"):
        network, (x, y) = classifier().to(on), batch()
        made = harden(method, F.cross_entropy, eps=0.3, steps=2) if method in ("pgd", "label-free") else None
        made = made or harden(method, F.cross_entropy, eps=0.3)
        found.append(made.perturb(network, x.to(on), y.to(on)).cpu())
    apart = (found[0] - found[1]).abs() > 1e-4
    assert apart.float().mean() < 0.01
