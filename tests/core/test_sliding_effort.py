"""What the gradient costs: counted network calls and bytes, not clocks."""

import math

import pytest
import torch
from sliding_helpers import network, objective, one_thread, scan, value_and_gradient  # noqa: F401
from torch import nn

from perturbox.model.memory import UNKNOWN, available_bytes, graph_budget
from perturbox.model.sliding import Window, sliding_window
from perturbox.types import Effort


class Counted(nn.Module):
    """Counts the windows and calls that reach a network, independently of `Effort`."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls, self.windows, self.largest = net, 0, 0, 0

    def forward(self, x):
        self.calls += 1
        self.windows += len(x)
        self.largest = max(self.largest, len(x))
        return self.net(x)


def attack_step(net, x, window, loss=objective, **options):
    return value_and_gradient(lambda x: sliding_window(net, x, window, **options), x, loss)


def corner(prediction):
    """Looks at one corner of the volume only."""
    return prediction[..., :3, :3].square().sum()


def saved_bytes_of_one_batch(net, window) -> int:
    """Bytes of the distinct storages that recording one batch of windows holds: saved ones and the patches."""
    own = {p.untyped_storage().data_ptr() for p in [*net.parameters(), *net.buffers()]}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    for parameter in net.parameters():
        parameter.requires_grad_(False)
    patches = torch.zeros(window.batch, 2, *window.size, dtype=next(net.parameters()).dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        prediction = net(patches)
    pack(patches)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    assert prediction.requires_grad
    return sum(nbytes for address, nbytes in seen.items() if address not in own)


@pytest.mark.parametrize("loss", [objective, corner])
@pytest.mark.parametrize("batches_kept", [0, 1, 3, 100])
@pytest.mark.parametrize("shape", [(25, 22), (13, 12, 12)], ids=str)
def test_calls_and_bytes_follow_the_budget(shape, batches_kept, loss):
    net, window = network(len(shape)), Window((8,) * len(shape), 0.5, batch=4)
    x, effort = scan(2, 2, *shape), Effort()
    one_batch = saved_bytes_of_one_batch(net, window)
    counted = Counted(net)
    attack_step(counted, x, window, loss, memory_budget=batches_kept * one_batch + 1, effort=effort)

    n = 2 * math.prod(math.ceil((size - 8) / 4) + 1 for size in shape)
    assert effort.windows == n
    assert counted.windows == n + n - effort.windows_kept - effort.windows_skipped
    assert counted.calls == effort.model_calls
    assert effort.forwards == pytest.approx(counted.windows / n)
    assert effort.backwards == pytest.approx((n - effort.windows_skipped) / n)
    assert effort.saved_bytes == min(batches_kept, math.ceil(n / 4)) * one_batch
    assert effort.notes == []
    if loss is objective:
        assert effort.windows_skipped == 0
        assert effort.windows_kept == min(4 * batches_kept, n)
        assert counted.calls == math.ceil(n / 4) + math.ceil((n - effort.windows_kept) / 4)
    else:
        # Windows start at 0, 4, ...: voxels 0-2 of the last two axes lie in the first window of each.
        assert effort.windows_skipped == n - n // math.prod(math.ceil((size - 8) / 4) + 1 for size in shape[-2:])


def test_effort_adds_up_over_calls():
    net, window, effort = network(2), Window((8, 8), 0.0), Effort()
    x = scan(1, 2, 16, 16)
    for _ in range(3):
        attack_step(net, x, window, memory_budget=0, effort=effort)
    assert (effort.forwards, effort.backwards, effort.model_calls, effort.windows) == (6.0, 3.0, 6, 12)


@pytest.mark.parametrize("shape", [(29, 22), (13, 9, 12)], ids=str)
def test_sparse_gradients_are_exact_and_the_same_for_every_budget(shape):
    """Scattered windows without upstream gradient: those left are pooled into other batches than in the first pass."""
    net, window = network(len(shape), torch.float64), Window((8,) * len(shape), 0.25, batch=3)
    x = scan(2, 2, *shape, dtype=torch.float64)
    mask = torch.zeros(shape)
    mask[(slice(0, 2), slice(0, 2))] = 1
    mask[(..., -1)] = 1

    def loss(prediction):
        return (prediction.square() * mask).sum()

    kept, effort = Effort(), Effort()
    _, dense = attack_step(net, x, window, lambda prediction: loss(prediction) + 1e-300 * prediction.sum())
    _, gradient = attack_step(net, x, window, loss, memory_budget=0, effort=effort)
    _, same = attack_step(net, x, window, loss, memory_budget=10**9, effort=kept)
    assert 0 < effort.windows_skipped == kept.windows_skipped < effort.windows
    assert 0 < kept.windows_kept < kept.windows - kept.windows_skipped
    assert torch.equal(gradient, same)
    assert torch.allclose(gradient, dense, rtol=1e-12, atol=1e-14)


def test_nan_gradients_are_not_taken_for_absent_ones():
    _, gradient = attack_step(
        network(2), scan(1, 2, 16, 16), Window((8, 8)), lambda p: p[..., :2, :2].sum() * torch.nan
    )
    assert gradient[..., :4, :4].isnan().all()
    assert gradient[..., 8:, 8:].eq(0).all()


@pytest.mark.parametrize("shape", [(29, 22), (5, 22), (13, 9, 12)], ids=str)
def test_support_restricts_the_windows_computed_and_nothing_else(shape):
    net, window = network(len(shape), torch.float64), Window((8,) * len(shape), 0.5)
    x = scan(2, 2, *shape, dtype=torch.float64)
    support = torch.zeros(shape, dtype=torch.bool)
    support[(slice(0, 4), slice(3, 6))] = True

    def loss(prediction):
        return prediction.square()[..., support].sum()

    whole_value, whole_gradient = attack_step(net, x, window, loss)
    counted, effort = Counted(net), Effort()
    value, gradient = attack_step(counted, x, window, loss, support=support, effort=effort)
    assert torch.equal(value[..., support], whole_value[..., support])
    assert value[..., ~support].eq(0).all()
    assert torch.allclose(gradient, whole_gradient, rtol=1e-12, atol=1e-14)
    per_axis = [max(math.ceil((size - 8) / 4), 0) + 1 for size in shape]
    touching = 2 * math.prod([1, min(per_axis[1], 2), *per_axis[2:]])
    assert effort.windows == counted.windows == touching
    assert effort.forwards == pytest.approx(touching / (2 * math.prod(per_axis)))


class Limited(Counted):
    """Runs out of memory on more windows than `limit` at once, or once on call number `once`."""

    def __init__(self, net, limit=10**9, once=0):
        super().__init__(net)
        self.limit, self.once = limit, once

    def forward(self, x):
        if len(x) > self.limit or self.calls + 1 == self.once:
            self.once = 0
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize(("limit", "sizes"), [(3, [(4, 2)]), (2, [(4, 2)]), (1, [(4, 2), (2, 1)])])
@pytest.mark.parametrize("budget", [0, 10**9])
def test_window_batches_are_halved_until_they_fit(limit, sizes, budget):
    net, window, x = network(2, torch.float64), Window((8, 8), 0.5, batch=4), scan(1, 2, 22, 16, dtype=torch.float64)
    expected_value, expected_gradient = attack_step(net, x, window)
    limited, effort = Limited(net, limit), Effort()
    value, gradient = attack_step(limited, x, window, memory_budget=budget, effort=effort)
    assert limited.largest == sizes[-1][1]
    assert effort.notes == [f"Out of CUDA memory: the window batch was halved from {a} to {b}." for a, b in sizes]
    assert limited.windows == effort.windows * (2 if budget == 0 else 1)
    assert torch.allclose(value, expected_value, rtol=1e-12, atol=1e-14)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("once", [3, 4])
def test_kept_graphs_go_before_a_batch_is_halved(once):
    """The third call belongs to the first pass; the fourth, for the batch whose graph had no room, to the second."""
    net, window, x = network(2), Window((8, 8), 0.5, batch=4), scan(1, 2, 16, 20)
    budget = 2 * saved_bytes_of_one_batch(net, window)
    expected = attack_step(net, x, window)
    limited, effort = Limited(net, once=once), Effort()
    value, gradient = attack_step(limited, x, window, memory_budget=budget, effort=effort)
    assert effort.windows == 12
    released = "Out of CUDA memory: the graphs kept of windows were released, the rest is recomputed."
    halved = "Out of CUDA memory: the window batch was halved from 4 to 2."
    assert effort.notes == [released if once == 3 else halved]
    assert effort.windows_kept == (0 if once == 3 else 8)
    assert torch.allclose(value, expected[0], rtol=1e-6, atol=1e-6)
    assert torch.allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_a_window_that_never_fits_is_reported():
    net, effort = Limited(network(2), 0), Effort()
    with pytest.raises(torch.cuda.OutOfMemoryError, match="choose a smaller window"):
        sliding_window(net, scan(1, 2, 16, 16), Window((8, 8)), effort=effort)
    assert len(effort.notes) == 2


def test_the_budget_leaves_room_for_the_prediction():
    device = torch.device("cpu")
    free = available_bytes(device)
    assert 2**20 < free < 2**45
    assert graph_budget(device, 0) == pytest.approx(free / 3, rel=0.2)
    assert graph_budget(device, free) == 0
    assert available_bytes(torch.device("meta")) == UNKNOWN


class Pointwise(nn.Module):
    """No convolution: those take scratch memory that depends on the kernel they happen to choose."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1))

    def forward(self, x):
        features = (x[:, :1] * self.weight + x[:, 1:]).sin().exp().tanh().square()
        return features[:, :3] * features[:, 2:]


def live_bytes(run, volume_bytes: int) -> tuple[int, float]:
    """Peak of what PyTorch holds during `run`: bytes without volume-sized buffers, and volumes in those."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = {True: 0, False: 0}
    peak = {True: 0, False: 0}
    for event in sorted(events, key=lambda event: event.start_ns()):
        volumes = event.nbytes() % volume_bytes == 0
        held[volumes] += event.nbytes()
        peak[volumes] = max(peak[volumes], held[volumes])
    return peak[False], peak[True] / volume_bytes


@pytest.mark.parametrize("batches_kept", [0, 4])
def test_memory_beyond_the_volume_is_flat_in_the_number_of_windows(batches_kept):
    """27 -> 125 windows; 3 windows a batch, so that no window's tensor can be mistaken for a volume's."""
    net, window = Pointwise(), Window((12, 12, 12), 0.5, batch=3)
    budget = batches_kept * saved_bytes_of_one_batch(net, window)
    beyond, volumes = {}, {}
    for n in (24, 36):
        x, effort = scan(1, 2, n, n, n).requires_grad_(), Effort()

        def run(x=x, effort=effort):
            torch.autograd.grad(sliding_window(net, x, window, memory_budget=budget, effort=effort).sum(), x)

        beyond[n], volumes[n] = live_bytes(run, n**3 * 4)
        assert effort.windows == {24: 27, 36: 125}[n]
        assert effort.windows_kept == 3 * batches_kept
    assert beyond[36] == pytest.approx(beyond[24], rel=0.1)
    # The sum of the weights and the prediction (3 classes), whose place the input's gradient (2 channels) takes later.
    assert volumes == {24: 4, 36: 4}
