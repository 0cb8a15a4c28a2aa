"""One call of a network: eval mode, frozen parameters, which of its outputs counts, what its layers say, and what
autograd saves of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks

from perturbox.types import InputError

Network = Callable[[Tensor], Any]

# Channels × depth × height up to which torch convolves a single 3D image by matrix products of its unfolded patches.
UNFOLDED = 20480


def chosen(prediction: Any, output: str | int | None) -> Tensor:
    """The tensor to use of what a network returned: with deep supervision the full resolution comes first."""
    if isinstance(prediction, Mapping):
        known = [name for name in ("out", "pred", "logits") if name in prediction]
        key = output if output is not None else (known or list(prediction))[0]
        if key not in prediction:
            raise InputError(
                f"The network's output has no entry {key!r}; choose one of {', '.join(map(str, prediction))}."
            )
        prediction = prediction[key]
    elif isinstance(prediction, tuple | list):
        index = 0 if output is None else output
        if not isinstance(index, int) or not -len(prediction) <= index < len(prediction):
            raise InputError(
                f"The network returns {len(prediction)} outputs; choose one by number from 0, not {index!r}."
            )
        prediction = prediction[index]
    elif output is not None:
        raise InputError(f"The network returns a single output; leave out `output` ({output!r}).")
    if not isinstance(prediction, Tensor):
        raise InputError(f"The network's output is a {type(prediction).__name__}; name the tensor to use by `output`.")
    return prediction


@contextmanager
def evaluating(network: Network, frozen: bool = True, fast: bool = False) -> Iterator[None]:
    """Eval mode, frozen parameters (unless told otherwise), and one attention kernel whether or not a graph is
    recorded; all restored. fast: small 3D convolutions by oneDNN, which may change last bits."""
    modules = _modules_of(network)
    training = [module for module in modules if getattr(module, "training", False)]
    parameters = [p for module in modules for p in module._parameters.values() if p is not None] if frozen else []
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        # Attention otherwise takes another kernel under no_grad, and the two passes would differ by rounding.
        torch.backends.mha.set_fastpath_enabled(False)
        with _by_onednn(modules) if fast else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def _modules_of(network: Network) -> list[nn.Module]:
    """As `nn.Module.modules`, without the names that it puts together on its way: attacks ask many times a second."""
    found = [network] if isinstance(network, nn.Module) else []
    known = set(map(id, found))
    for module in found:  # which grows meanwhile
        for child in module._modules.values():
            if child is not None and id(child) not in known:
                known.add(id(child))
                found.append(child)
    return found


@contextmanager
def _by_onednn(modules: Sequence[nn.Module]) -> Iterator[None]:
    """3D convolutions of one small image on the CPU by oneDNN, which torch itself asks for batches and large images
    only: two to five times faster, equal up to rounding."""
    able = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    convolutions = [m for m in modules if able and type(m) is nn.Conv3d and "forward" not in vars(m)]
    try:
        for module in convolutions:
            vars(module)["forward"] = partial(_convolved, module)
        yield
    finally:
        for module in convolutions:
            del vars(module)["forward"]


def _convolved(module: nn.Conv3d, image: Tensor) -> Tensor:
    if _is_unfolded(module, image):
        how = (module.stride, module.padding, module.dilation)
        return cast(Tensor, _Convolution.apply(image, module.weight, module.bias, how))
    return nn.Conv3d.forward(module, image)


class _Convolution(Function):
    """A 3D convolution by oneDNN whose graph keeps what torch's own keeps, the image and the weight, and no copies in
    oneDNN's layout."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, Any, Any]) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.how = how
        return torch.conv3d(image.to_mkldnn(), weight, bias, *how).to_dense()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (image, weight), (gradient,), asked = ctx.saved_tensors, upstream, ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():  # else it is differentiated again, for which oneDNN has no rule
            image, gradient = image.to_mkldnn(), gradient.to_mkldnn()
        found = torch.ops.aten.convolution_backward(
            gradient, image, weight, weight.shape[:1], *ctx.how, False, [0, 0, 0], 1, asked
        )
        return *(one.to_dense() if wanted else None for one, wanted in zip(found, asked, strict=True)), None


def _is_unfolded(module: nn.Conv3d, image: Tensor) -> bool:
    """Whether torch would multiply matrices where oneDNN can convolve."""
    return (
        type(image) is Tensor
        and image.dim() == 5
        and image.shape[0] == 1
        and image.shape[:4].numel() <= UNFOLDED
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in (image, module.weight))
        and (module.groups, module.padding_mode) == (1, "zeros")
        and not isinstance(module.padding, str)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # vmap and its like have no rule for it
    )


@contextmanager
def tapped(network: Network, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of these layers in the network's next call, by name."""
    features: dict[str, Tensor] = {}
    if not layers:
        yield features
        return
    modules = dict(network.named_modules()) if isinstance(network, nn.Module) else {}
    missing = [name for name in layers if name not in modules]
    if missing:
        known = ", ".join(name for name in modules if name)
        raise InputError(f"The network has no layer '{missing[0]}'; it has {known}.")

    def tap(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, given: Any, made: Any) -> None:
            features[name] = chosen(made, None)

        return keep

    handles = [modules[name].register_forward_hook(tap(name)) for name in layers]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def saved_storages(network: Network) -> Iterator[dict[int, int]]:
    """Bytes of the distinct storages autograd saves in this block, by address, without the network's own tensors."""
    own = [*network.parameters(), *network.buffers()] if isinstance(network, nn.Module) else []
    excluded = {tensor.untyped_storage().data_ptr() for tensor in own}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


def current_autocast(x: Tensor) -> Callable[[], AbstractContextManager]:
    """Recreates the autocast state of this moment, so that a recomputed window sees what the first pass saw."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled)
