"""The exact sliding window as one of MONAI's inferers, for training and evaluation loops that take an `Inferer`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from monai.utils.misc import fall_back_tuple
from torch import Tensor, nn

from perturbox.model.sliding import sliding_window
from perturbox.model.windows import Window
from perturbox.types import InputError


class ExactSlidingWindowInferer(Inferer):
    """MONAI's `SlidingWindowInferer` with exact gradients in memory that doesn't grow with the number of windows.

    roi_size, sw_batch_size, overlap, mode, sigma_scale, padding_mode and cval mean what they mean there, and the
    prediction is the same bit for bit. roi_size: voxels per axis, None or a number below 1 for the whole axis. overlap:
    one fraction for all axes. mode: "constant" or "gaussian". padding_mode: "constant", "replicate" or "reflect".
    memory_budget: bytes of autograd graphs to keep for the backward pass, 0 to recompute every window, None for part of
    the free memory; results are the same for every budget. output: which entry of a tuple, list or dict the network
    returns; MONAI's returns all of them.

    The prediction is differentiable with respect to the input and to those of the network's parameters that require it.
    In exchange the network must be deterministic and runs in eval mode, also in a training loop: batch normalisation
    uses its running statistics and doesn't update them, and dropout is off. The gradient can't be differentiated again.
    Raises InputError for options that can't be used, and for networks that don't return one score map per window.
    """

    def __init__(
        self,
        roi_size: Sequence[int | None] | int,
        sw_batch_size: int = 1,
        overlap: float = 0.25,
        mode: str = "constant",
        sigma_scale: float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        *,
        memory_budget: int | None = None,
        output: str | int | None = None,
    ):
        super().__init__()
        if isinstance(overlap, Sequence):
            raise InputError(f"overlap is one fraction for all axes here, not {tuple(overlap)}; give a single number.")
        self.roi_size, self.overlap = roi_size, overlap
        self.options: dict[str, Any] = {
            "sigma_scale": sigma_scale,
            "batch": sw_batch_size,
            "blend": str(getattr(mode, "value", mode)),
            "padding": str(getattr(padding_mode, "value", padding_mode)),
            "padding_value": cval,
        }
        self.memory_budget, self.output = memory_budget, output
        Window((1, 1), overlap, **self.options)  # refuses what can't be used before the first scan comes

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """The stitched prediction "b k *s" of inputs "b c *s"; further arguments go to the network with every call."""
        x = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        window = Window(fall_back_tuple(self.roi_size, x.shape[2:]), self.overlap, **self.options)
        called = network if not (args or kwargs) else _With(network, args, kwargs)
        train = torch.is_grad_enabled() and isinstance(called, nn.Module)
        settings = {"memory_budget": self.memory_budget, "output": self.output, "train": train}
        prediction = sliding_window(called, x, window, **settings)
        return MetaTensor(prediction, meta=inputs.meta) if isinstance(inputs, MetaTensor) else prediction


class _With(nn.Module):
    """A network and what else it is called with."""

    def __init__(self, network: Callable[..., Any], args: tuple, kwargs: dict[str, Any]):
        super().__init__()
        self.network, self.args, self.kwargs = network, args, kwargs

    def forward(self, x: Tensor) -> Any:
        return self.network(x, *self.args, **self.kwargs)
