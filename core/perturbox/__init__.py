"""How small a change of this scan makes a medical segmentation model wrong, and where?

`import perturbox as px` gives one call per question (docs/python.md). The import itself loads nothing heavy: each name
is fetched from its module when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# The public names, by the module that has them.
_HOMES = {
    "api": (
        "Comparison",
        "Margin",
        "Result",
        "attack",
        "compare",
        "load_victim",
        "margin",
        "read",
        "segment",
        "verify",
    ),
    "certified": ("Certificate", "certify"),
    "corruptions.change": ("corrupt",),
    "studies.api": ("Study", "study"),
    "defenses": ("defend",),
    "detectors.fitted": ("Detection", "Detector"),
    "hardening": ("harden",),
    "job.detecting": ("detect", "fit_detector"),
    "model.defended": ("Defense", "StandIn"),
    "model.pipeline": ("Pipeline",),
    "model.inferer": ("ExactSlidingWindowInferer",),
    "model.sliding": ("sliding_window",),
    "errors": ("InputError",),
    "types": ("Volume",),
    "model.victim": ("IntensityWindow", "Victim"),
    "model.windows": ("Window",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Certificate", "Comparison", "Defense", "Detection", "Detector", "ExactSlidingWindowInferer", "InputError",
    "IntensityWindow", "Margin", "Pipeline", "Result", "StandIn", "Study", "Victim", "Volume", "Window", "__version__",
    "attack", "certify", "compare", "corrupt", "defend", "detect", "fit_detector", "harden", "load_victim", "margin",
    "read", "segment", "sliding_window", "study", "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from perturbox.api import Comparison, Margin, Result, attack, compare, load_victim, margin, read, segment, verify
    from perturbox.certified import Certificate, certify
    from perturbox.corruptions.change import corrupt
    from perturbox.defenses import defend
    from perturbox.detectors.fitted import Detection, Detector
    from perturbox.errors import InputError
    from perturbox.hardening import harden
    from perturbox.job.detecting import detect, fit_detector
    from perturbox.model.defended import Defense, StandIn
    from perturbox.model.inferer import ExactSlidingWindowInferer
    from perturbox.model.pipeline import Pipeline
    from perturbox.model.sliding import sliding_window
    from perturbox.model.victim import IntensityWindow, Victim
    from perturbox.model.windows import Window
    from perturbox.studies.api import Study, study
    from perturbox.types import Volume


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'perturbox' has no attribute '{name}'")
    value = getattr(import_module(f"perturbox.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
