"""Whether what a network returned are finite numbers: the label of a voxel whose score is NaN or infinite is undefined.

Half precision overflows above 65504, a division by 0 or a root of it does the rest; without a look they pass for
predictions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from perturbox.types import InputError, Undefined


class UndefinedScores(InputError):
    """A network returned NaN or infinite scores where its labels have to be known."""

    def __init__(self, model: str, undefined: Undefined):
        super().__init__(
            f"{model} returned {undefined}: its labels of the unchanged scan are undefined there, so no verdict could "
            "rest on them; run it in float32 (half precision overflows above 65504), or correct the model."
        )


def is_finite(x: Tensor) -> bool:
    """Whether all of x are finite numbers. A sum is the cheapest look, but may itself overflow."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def undefined_of(scores: Tensor, sums: Sequence[Tensor]) -> Undefined | None:
    """What of stitched scores isn't finite, None where all are; sums: of each window's own scores, "n"."""
    if is_finite(scores):
        return None
    windows = torch.cat([part.flatten() for part in sums])
    nan, infinite = int(scores.isnan().sum()), int(scores.isinf().sum())
    kind = "NaN and infinite values" if nan and infinite else "NaN" if nan else "infinite values"
    return Undefined(kind, nan + infinite, scores.numel(), int((~torch.isfinite(windows)).sum()), len(windows))


def without_undefined(gradient: Tensor) -> Tensor:
    """A gradient as it can be followed: where it isn't a finite number it is 0; any other gradient is returned as it
    is."""
    return gradient if is_finite(gradient) else torch.where(torch.isfinite(gradient), gradient, 0)
