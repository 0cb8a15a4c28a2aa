"""Sums over slabs equal sums over the volume, in value, gradient and memory."""

import pytest
import torch
import torch.nn.functional as F

from perturbox.attacks.slabs import SLAB_BYTES, slabwise_map, slabwise_sum
from perturbox.types import InputError


def dice_sums(logits, labels, weight):
    """Per class: intersection and total, weighted voxel by voxel."""
    p = logits.softmax(1)
    onehot = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    axes = (0, *range(2, logits.dim()))
    return torch.stack([(weight * p * onehot).sum(axes), (p + onehot).sum(axes)])


def dice(total):
    return 1 - (2 * total[0] / total[1]).mean()


@pytest.mark.parametrize("slabs", [None, 1, 2, 5, 7, 100])
@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3)], ids=str)
def test_value_and_gradients_equal_the_plain_sum(shape, slabs):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, *shape, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(5, (2, *shape), generator=generator)
    plain = dice(dice_sums(logits, labels, weight))
    expected = torch.autograd.grad(plain, (logits, weight))
    chunked = dice(slabwise_sum(dice_sums, logits, labels, weight, slabs=slabs))
    gradients = torch.autograd.grad(chunked, (logits, weight))
    assert float(chunked.detach()) == pytest.approx(float(plain.detach()), rel=1e-14)
    for gradient, same in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, same, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("slabs", [None, 3, 100])
@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3)], ids=str)
def test_a_map_slab_by_slab_is_the_map(shape, slabs):
    logits = torch.randn(2, 5, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(2 * logits[0, 0].numel()).view(2, *shape) % 5

    def fn(logits, labels, nothing):
        assert nothing is None
        return logits.gather(1, labels[:, None])

    made = slabwise_map(fn, logits, labels, None, slabs=slabs)
    assert torch.equal(made, logits.gather(1, labels[:, None])) and not made.requires_grad
    with pytest.raises(InputError, match="isn't on the grid"):
        slabwise_map(fn, logits, labels[:, 1:], None)


def test_absent_tensors_and_slabs_without_gradient():
    logits = torch.arange(24.0).reshape(1, 2, 4, 3).requires_grad_()
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[1, 2] = True

    def fn(logits, labels, mask):
        assert labels is None
        return logits[..., mask].square().sum() if mask.any() else logits.new_zeros(())

    total = slabwise_sum(fn, logits, None, mask, slabs=4)
    (gradient,) = torch.autograd.grad(total, logits)
    assert float(total.detach()) == 5.0**2 + 17.0**2
    assert torch.equal(gradient, 2 * logits.detach() * mask)


def test_slabs_stay_below_the_target():
    rows = []

    def fn(piece):
        rows.append(piece.shape[2])
        return piece[..., :1, :1].sum()

    slabwise_sum(fn, torch.zeros(1, 3, 90, 4, 4))
    assert rows == [90]
    rows.clear()
    # A view a million times its storage: large enough to be cut, without taking the memory. 12 MB a row, so 21 fit.
    slabwise_sum(fn, torch.zeros(1, 3, 90, 1, 1).expand(1, 3, 90, 1000, 1000))
    assert rows == [18] * 5
    assert 21 * 12_000_000 <= SLAB_BYTES < 23 * 12_000_000


def test_memory_beside_the_gradient_is_one_slabs():
    """Plain PyTorch holds log-probabilities as large as the logits beside their gradient."""
    logits = torch.zeros(1, 8, 64, 16, 16, requires_grad=True)
    labels = torch.zeros(1, 64, 16, 16, dtype=torch.int64)
    volume, slabs = logits.numel() * 4, 16

    def peak(run):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run()
        assert profile.profiler is not None
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        held, highest = 0, 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            highest = max(highest, held)
        return highest / volume

    def cross_entropy(logits, labels):
        return F.cross_entropy(logits, labels, reduction="sum")

    chunked = peak(lambda: torch.autograd.grad(slabwise_sum(cross_entropy, logits, labels, slabs=slabs), logits))
    plain = peak(lambda: torch.autograd.grad(cross_entropy(logits, labels), logits))
    assert chunked < 1 + 5 / slabs
    assert plain > 1.9


def test_second_derivatives_and_foreign_grids_are_refused():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    total = slabwise_sum(lambda piece: piece.square().sum(), logits, slabs=2)
    with pytest.raises(RuntimeError, match="can't be differentiated twice"):
        torch.autograd.grad(total, logits, create_graph=True)
    with pytest.raises(InputError, match="isn't on the grid"):
        slabwise_sum(lambda piece, other: piece.sum(), logits, torch.zeros(4, 5))
