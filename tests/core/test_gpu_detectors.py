"""Detectors on CUDA: the scores, and the gradients of them, that they have on a CPU. `python benchmarks/on_gpu.py` runs
these tests."""

import copy
import dataclasses

import pytest
import torch
from detecting import fitted, scans, sklearn, with_dropout

from perturbox.detectors import discover
from perturbox.model.victim import Victim, as_input
from perturbox.types import Volume

pytestmark = pytest.mark.gpu
CLEAN = [name for name, method in discover().items() if not method.supervised]


def on(victim: Victim, device: str) -> Victim:
    place = torch.device(device)
    return dataclasses.replace(victim, device=place, network=copy.deepcopy(victim.network).to(place))


def followed(detector, victim: Victim, scan: Volume) -> tuple[torch.Tensor, torch.Tensor]:
    x = as_input(scan, victim.device).requires_grad_()
    score = detector.score(victim.on(scan), x)
    return score.detach().cpu(), torch.autograd.grad(score, x)[0].cpu()


@pytest.mark.parametrize("name", CLEAN)
def test_a_score_and_its_gradient_are_those_of_a_cpu(name):
    sklearn()
    victim, _, found = fitted(name, 16, with_dropout() if name == "bayesian" else None)
    new = scans(17)[-1]
    here, there = (followed(found, on(victim, device), new) for device in ("cpu", "cuda"))
    torch.testing.assert_close(there[0], here[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(there[1], here[1], rtol=1e-2, atol=1e-4 * float(here[1].abs().max()))
