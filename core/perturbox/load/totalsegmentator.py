"""One task of TotalSegmentator: the folder of an nnU-Net model, with the resampling that TotalSegmentator puts around
it (Wasserthal et al. 2023, doi 10.1148/ryai.230024).

Not covered: "total", which merges five models; the rough first model that some tasks crop by; what some tasks remove
of small parts afterwards; cucim's resampling on GPUs, which follows another rule.
"""

import dataclasses

import torch
from torch import nn

from perturbox.load import nnunet
from perturbox.load.spec import Spec
from perturbox.model.pipeline import Decision, Pipeline
from perturbox.model.pipeline.nnunet import Resample
from perturbox.model.pipeline.space import Orient
from perturbox.model.pipeline.totalsegmentator import CornerZoom
from perturbox.model.victim import Victim
from perturbox.model.wrappers import Folds, Mirrored
from perturbox.types import InputError

STEP = 0.5  # of a window; TotalSegmentator takes 0.8 for its task "total"
LIMITS = "TotalSegmentator's removal of small parts and its cropping by a rough model are left out."


def load(spec: Spec, device: torch.device, trust: bool = False) -> Victim:
    """The victim of a task's folder; options: mm (of its resampling; that of its plans if left out), step, folds."""
    inner = nnunet.load(spec, device, trust)
    assert inner.pipeline is not None
    if inner.regions is not None or inner.dims != 3 or inner.channels != 1:
        raise InputError(
            f"'{spec.path}' is no task of TotalSegmentator (3D, one channel, no regions); name it nnunet:{spec.path}."
        )
    mm = _number(spec, "mm", None) or _planned(inner.pipeline, spec)
    steps = [step for step in inner.pipeline.steps if not isinstance(step, Orient)]
    around = (Orient("RAS"), CornerZoom(mm))
    # nnU-Net decides on the coarse grid; its labels, not its scores, go on to the scan's.
    coarse, native = {"do": "inverse", "mode": "linear", "keep": len(around)}, {"do": "inverse", "mode": "nearest"}
    return dataclasses.replace(
        inner,
        title=f"{inner.title} in TotalSegmentator's resampling",
        network=_unmirrored(inner.network),
        window=dataclasses.replace(inner.window, overlap=1 - (_number(spec, "step", STEP) or STEP)),
        pipeline=Pipeline((*around, *steps)),
        decision=Decision((coarse, {"do": "argmax"}, native)),
        limits=LIMITS,
    )


def _planned(pipeline: Pipeline, spec: Spec) -> float:
    spacing = next(step.mm for step in pipeline.steps if isinstance(step, Resample))
    if len(set(spacing)) != 1:
        raise InputError(f"The plans in '{spec.path}' have no one spacing for all axes; name it, such as :mm=1.5.")
    return float(spacing[0])


def _number(spec: Spec, option: str, default: float | None) -> float | None:
    if option not in spec.options:
        return default
    try:
        value = float(spec.options[option])
    except ValueError:
        value = 0.0
    if not 0 < value < 100 or (option == "step" and value > 1):
        raise InputError(f"The option {option}={spec.options[option]} can't be; give {option}={default or 1.5}.")
    return value


def _unmirrored(network: nn.Module) -> nn.Module:
    if isinstance(network, Folds):
        return Folds([_unmirrored(member) for member in network.members])
    return network.network if isinstance(network, Mirrored) else network
