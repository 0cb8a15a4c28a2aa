"""The stitched prediction and its gradient equal those of plain autograd through an independent implementation."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from sliding_helpers import network, objective, one_thread, scan, value_and_gradient  # noqa: F401
from torch import nn

from perturbox.model.sliding import Window, sliding_window
from perturbox.types import Effort, InputError

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
BUDGETS = (0, 40_000, 10**9)


def ours(net, window, **options):
    return lambda x: sliding_window(net, x, window, **options)


def monai(net, window):
    return lambda x: sliding_window_inference(
        x, window.size, window.batch, net, window.overlap, window.blend, window.sigma_scale, window.padding,
        window.padding_value,
    )  # fmt: skip


def by_hand(net, window):
    """The definition, window by window in plain autograd: pad, predict, weigh, add, divide, crop."""

    def predict(x):
        pads, inside = [], []
        for n, size in zip(x.shape[2:], window.size, strict=True):
            before = max(size - n, 0) // 2
            pads = [before, max(size - n, 0) - before, *pads]
            inside.append(slice(before, before + n))
        padded = F.pad(x, pads, window.padding, window.padding_value if window.padding == "constant" else None)
        axes = []
        for n, size in zip(padded.shape[2:], window.size, strict=True):
            step = max(int(size * (1 - window.overlap)), 1)
            axes.append(sorted({min(start, n - size) for start in range(0, n, step)}))
        weight = torch.ones(window.size)
        if window.blend == "gaussian":
            for axis, size in enumerate(window.size):
                line = torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / (window.sigma_scale * size)) ** 2)
                weight = weight * line.reshape([-1 if a == axis else 1 for a in range(len(window.size))])
            weight = weight.clamp(min=max(float(weight.min()), 1e-3))
        blended, total = torch.tensor(0.0, dtype=x.dtype), torch.zeros(padded.shape[2:], dtype=x.dtype)
        for starts in itertools.product(*axes):
            box = tuple(slice(s, s + size) for s, size in zip(starts, window.size, strict=True))
            around = [
                n for s, size, whole in zip(starts, window.size, padded.shape[2:], strict=True)
                for n in (whole - s - size, s)
            ][::-1]  # fmt: skip
            blended = blended + F.pad(net(padded[(..., *box)]) * weight.to(x.dtype), around)
            total[box] += weight
        return (blended / total)[(..., *inside)]

    return predict


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


GRID = list(itertools.product((0.0, 0.25, 0.5), ("gaussian", "constant")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("overlap", "blend"), GRID)
@pytest.mark.parametrize("shape", [(8, 16), (13, 19), (6, 3), (9, 13, 11), (5, 13, 8), (7, 3, 5)], ids=str)
def test_value_and_gradient_equal_monais(shape, overlap, blend, dtype):
    net, window = network(len(shape), dtype), Window((8,) * len(shape), overlap, blend)
    x = scan(2, 2, *shape, dtype=dtype)
    value, gradient = value_and_gradient(monai(net, window), x)
    our_value, our_gradient = value_and_gradient(ours(net, window), x)
    assert torch.equal(our_value, value)
    assert relative(our_gradient, gradient) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("padding", "value"), [("constant", 0.0), ("constant", -1.5), ("replicate", 0.0), ("reflect", 0.0)]
)
@pytest.mark.parametrize("shape", [(7, 11), (6, 5, 13)], ids=str)
def test_padding_equals_monais(shape, padding, value):
    net = network(len(shape), torch.float64)
    window = Window((8,) * len(shape), 0.25, padding=padding, padding_value=value)
    x = scan(1, 2, *shape, dtype=torch.float64)
    value, gradient = value_and_gradient(monai(net, window), x)
    our_value, our_gradient = value_and_gradient(ours(net, window), x)
    assert relative(our_value, value) < 1e-12
    assert relative(our_gradient, gradient) < 1e-12


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Sigmoid(), nn.Identity()], ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("shape", [(13, 17), (9, 5, 12)], ids=str)
def test_networks_ending_in_probabilities(shape, end, budget):
    net, window = network(len(shape), torch.float64, end), Window((8,) * len(shape), 0.25, batch=3)
    x = scan(2, 2, *shape, dtype=torch.float64)

    def loss(prediction):
        return prediction[:, 0].square().sum() + prediction[:, 1].exp().mean()

    value, gradient = value_and_gradient(by_hand(net, window), x, loss)
    our_value, our_gradient = value_and_gradient(ours(net, window, memory_budget=budget), x, loss)
    assert relative(our_value, value) < 1e-12
    assert relative(our_gradient, gradient) < 1e-12


def test_gradient_equals_finite_differences():
    net, window = network(2, torch.float64), Window((8, 8), 0.5)
    x = scan(1, 2, 11, 14, dtype=torch.float64)
    _, gradient = value_and_gradient(ours(net, window), x)
    direction = scan(1, 2, 11, 14, dtype=torch.float64, seed=1)
    step = 1e-5
    ahead, behind = (objective(sliding_window(net, x + s * direction, window)) for s in (step, -step))
    assert float((ahead - behind) / (2 * step)) == pytest.approx(float((gradient * direction).sum()), rel=1e-8)


@pytest.mark.parametrize("shape", [(21, 18), (13, 9, 12)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_bit_identical_for_every_budget(shape, dtype):
    net, window = network(len(shape), dtype), Window((8,) * len(shape), 0.5, batch=4)
    x, effort = scan(2, 2, *shape, dtype=dtype), [Effort() for _ in range(6)]
    value_and_gradient(ours(net, window, memory_budget=10**9, effort=effort[0]), x)
    one_batch = effort[0].saved_bytes // -(-effort[0].windows // window.batch)
    budgets = (0, one_batch - 1, one_batch, 3 * one_batch, 10**9, None)
    results = [
        value_and_gradient(ours(net, window, memory_budget=budget, effort=count), x)
        for budget, count in zip(budgets, effort, strict=True)
    ]
    assert [e.windows_kept for e in effort[1:]] == [0, 4, 12, effort[1].windows, effort[1].windows]
    for value, gradient in results:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_attention_uses_one_kernel_with_and_without_a_graph():
    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)

    torch.manual_seed(0)
    net, window = Transformer().eval(), Window((8, 8), 0.5)
    x = scan(1, 2, 20, 20)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    (value, gradient), (same_value, same_gradient) = (
        value_and_gradient(ours(net, window, memory_budget=budget), x) for budget in (0, 10**9)
    )
    assert torch.equal(value, same_value)
    assert torch.equal(gradient, same_gradient)
    assert torch.backends.mha.get_fastpath_enabled() == fastpath


def test_two_forwards_in_one_objective():
    """As in losses that compare the predictions of two images; and between other differentiable steps."""
    net, window = network(2, torch.float64), Window((8, 8), 0.5)
    x = scan(1, 2, 13, 18, dtype=torch.float64)

    def loss(predict):
        def of(x):
            prepared = 2 * x.clamp(-1, 1)
            return (predict(prepared) * predict(prepared.flip(-1) + 0.1).sigmoid()).square()

        return of  # fmt: skip

    _, expected = value_and_gradient(loss(by_hand(net, window)), x, torch.sum)
    gradients = [
        value_and_gradient(loss(ours(net, window, memory_budget=budget)), x, torch.sum)[1] for budget in BUDGETS
    ]
    assert relative(gradients[0], expected) < 1e-12
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_backward_twice_recomputes_what_the_first_one_used():
    net, window = network(2), Window((8, 8), 0.5)
    x, effort = scan(1, 2, 16, 16).requires_grad_(), Effort()
    loss = objective(sliding_window(net, x, window, effort=effort))
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert effort.windows_kept == effort.windows == 9
    (second,) = torch.autograd.grad(loss, x)
    assert effort.windows_kept == 9
    assert torch.equal(first, second)


@pytest.mark.parametrize("loss", [objective, torch.sum])
def test_second_derivatives_are_refused(loss):
    """Also of a linear loss, where they would silently be taken for 0."""
    net, window = network(2), Window((8, 8))
    x = scan(1, 2, 8, 8).requires_grad_()
    with pytest.raises(RuntimeError, match="can't be differentiated again"):
        torch.autograd.grad(loss(sliding_window(net, x, window)), x, create_graph=True)


def test_inference_keeps_nothing_and_equals_the_differentiable_value():
    net, window, effort = network(2), Window((8, 8), 0.5), Effort()
    x = scan(1, 2, 16, 16)
    plain = sliding_window(net, x, window, effort=effort)
    with torch.no_grad():
        without_grad = sliding_window(net, x.clone().requires_grad_(), window, effort=effort)
    with torch.inference_mode():
        inference = sliding_window(net, x, window, effort=effort)
    differentiable = sliding_window(net, x.clone().requires_grad_(), window)
    assert not plain.requires_grad
    assert not without_grad.requires_grad
    assert effort.saved_bytes == 0
    assert (effort.forwards, effort.backwards, effort.model_calls) == (pytest.approx(3.0), 0, 9)
    for other in (without_grad, inference, differentiable.detach()):
        assert torch.equal(plain, other)


class Wrapped(nn.Module):
    def __init__(self, net, wrap):
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda y: (y, y[..., ::2, ::2]), None),
        (lambda y: [y[..., ::2, ::2], y], 1),
        (lambda y: [y[..., ::2, ::2], y], -1),
        (lambda y: {"aux": -y, "out": y}, None),
        (lambda y: {"aux": -y, "pred": y}, None),
        (lambda y: {"aux": -y, "logits": y}, None),
        (lambda y: {"first": y, "second": -y}, None),
        (lambda y: {"out": -y, "second": y}, "second"),
    ],
)
def test_networks_with_several_outputs(wrap, output):
    net, window, x = network(2), Window((8, 8), 0.5), scan(1, 2, 12, 16)
    value, gradient = value_and_gradient(ours(net, window), x)
    same_value, same_gradient = value_and_gradient(ours(Wrapped(net, wrap), window, output=output), x)
    assert torch.equal(value, same_value)
    assert torch.equal(gradient, same_gradient)


def test_half_precision_networks_accumulate_in_the_inputs_precision():
    net, window, x = network(2), Window((8, 8), 0.5), scan(1, 2, 16, 16)
    half = Wrapped(net, lambda y: y.to(torch.bfloat16))
    value, gradient = value_and_gradient(ours(half, window), x)
    exact_value, exact_gradient = value_and_gradient(ours(net, window), x)
    assert value.dtype == gradient.dtype == torch.float32
    assert 0 < relative(value, exact_value) < 0.01
    assert 0 < relative(gradient, exact_gradient) < 0.05


def test_autocast_of_the_first_pass_holds_in_the_second():
    """Windows recomputed outside the autocast block must not become float32, nor kept ones differ from them."""
    net, window, x = network(2), Window((8, 8), 0.5), scan(1, 2, 16, 16)

    def gradient(budget):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            prediction = sliding_window(net, leaf, window, memory_budget=budget)
        return torch.autograd.grad(objective(prediction), leaf)[0]

    assert torch.equal(gradient(0), gradient(10**9))
    assert relative(gradient(0), value_and_gradient(ours(net, window), x)[1]) > 1e-4


def test_eval_mode_and_frozen_parameters_are_restored():
    net, window, x = network(2), Window((8, 8), 0.5), scan(1, 2, 16, 16)
    expected = value_and_gradient(ours(net, window), x)
    net.train()
    net.up.eval()
    net.out.bias.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    flags = [parameter.requires_grad for parameter in net.parameters()]

    leaf = x.clone().requires_grad_()
    prediction = sliding_window(net, leaf, window, memory_budget=0)
    assert [module.training for module in net.modules()] == modes
    objective(prediction).backward()
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(prediction.detach(), expected[0])
    assert torch.equal(leaf.grad, expected[1])


def test_modes_are_restored_when_the_network_fails():
    def fail(y):
        raise RuntimeError("as a test")

    net = Wrapped(network(2), fail).train()
    with pytest.raises(RuntimeError, match="as a test"):
        sliding_window(net, scan(1, 2, 8, 8), Window((8, 8)))
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net, x: sliding_window(net, x[0], Window((8, 8))), "2D window doesn't fit"),
        (lambda net, x: sliding_window(net, x, Window((8, 8, 8))), "3D window doesn't fit"),
        (lambda net, x: sliding_window(net, x[:, :, :0], Window((8, 8))), "empty"),
        (lambda net, x: sliding_window(net, x.half(), Window((8, 8))), "float32 or float64"),
        (lambda net, x: sliding_window(net, x.round().int(), Window((8, 8))), "float32 or float64"),
        (lambda net, x: sliding_window(net, x, Window((64, 8), padding="reflect")), "too small to be reflected"),
        (lambda net, x: sliding_window(net, x, Window((8, 8)), support=torch.ones(16, 15) > 0), "bool mask"),
        (lambda net, x: sliding_window(net, x, Window((8, 8)), support=torch.ones(16, 16)), "bool mask"),
        (lambda net, x: sliding_window(net, x, Window((8, 8)), support=torch.zeros(16, 16) > 0), "support is empty"),
        (lambda net, x: sliding_window(lambda y: net(y)[..., ::2], x, Window((8, 8))), "same spatial size"),
        (lambda net, x: sliding_window(lambda y: net(y).mean(1), x, Window((8, 8))), "same spatial size"),
        (lambda net, x: sliding_window(lambda y: {"a": net(y)}, x, Window((8, 8)), output="b"), "no entry 'b'"),
        (lambda net, x: sliding_window(lambda y: [net(y)], x, Window((8, 8)), output=1), "1 outputs"),
        (lambda net, x: sliding_window(net, x, Window((8, 8)), output=0), "single output"),
        (lambda net, x: sliding_window(lambda y: "mask", x, Window((8, 8))), "is a str"),
        (lambda net, x: objective(sliding_window(lambda y: net(y).detach(), x, Window((8, 8)))).backward(), "depend"),
        (lambda net, x: Window((8,)), "2 or 3"),
        (lambda net, x: Window((8, 0)), "positive"),
        (lambda net, x: Window((8, 8), overlap=1.0), "overlap"),
        (lambda net, x: Window((8, 8), blend="linear"), "'linear'"),
        (lambda net, x: Window((8, 8), sigma_scale=0.0), "sigma_scale"),
        (lambda net, x: Window((8, 8), batch=0), "batch"),
        (lambda net, x: Window((8, 8), padding="circular"), "'circular'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make(network(2), scan(1, 2, 16, 16).requires_grad_())


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_networks(freeze):
    net, window, x = network(2), Window((8, 8), 0.5), scan(1, 2, 12, 16)
    script = torch.jit.trace(net, torch.zeros(1, 2, 8, 8))
    script = torch.jit.freeze(script) if freeze else script
    value, gradient = value_and_gradient(ours(net, window), x)
    same_value, same_gradient = value_and_gradient(ours(script, window), x)
    assert relative(same_value, value) < 1e-6
    assert relative(same_gradient, gradient) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(13, 21), (9, 5, 12)], ids=str)
@pytest.mark.parametrize("budget", [0, None])
def test_cuda_equals_cpu(shape, budget):
    net, window = network(len(shape), torch.float64), Window((8,) * len(shape), 0.5)
    x, support = scan(2, 2, *shape, dtype=torch.float64), torch.ones(shape, dtype=torch.bool)
    value, gradient = value_and_gradient(ours(net, window), x)
    effort = Effort()
    predict = ours(net.cuda(), window, support=support, memory_budget=budget, effort=effort)
    cuda_value, cuda_gradient = value_and_gradient(predict, x.cuda())
    assert cuda_gradient.is_cuda
    assert effort.windows_kept == (effort.windows if budget is None else 0)
    assert relative(cuda_value.cpu(), value) < 1e-12
    assert relative(cuda_gradient.cpu(), gradient) < 1e-12
