"""From a victim's spec to a `Victim`: a built-in model, a file or folder of another framework, or Python code.

One file per framework: `python`, `sidecar` (TorchScript, torch.export, safetensors), `nnunet`, `totalsegmentator`,
`bundle` (MONAI).
"""

import torch

from perturbox import zoo
from perturbox.errors import InputError, did_you_mean
from perturbox.load import bundle, nnunet, python, sidecar, totalsegmentator
from perturbox.load.spec import Spec, read_spec
from perturbox.model.ensemble import ensemble_of
from perturbox.model.victim import Victim

__all__ = ["Spec", "check_device", "load_victim", "read_spec"]

FROM = {
    "python": python.load,
    "file": sidecar.load,
    "nnunet": nnunet.load,
    "bundle": bundle.load,
    "totalsegmentator": totalsegmentator.load,
}


def load_victim(spec: str, device: str = "cpu", trust: bool = False) -> Victim:
    """The victim a user named: a built-in one ("ct-organs"); a MONAI bundle; an nnU-Net v2 folder, or one that is a
    task of TotalSegmentator ("totalsegmentator:DIR"); FILE.ts, FILE.pt2 or FILE.safetensors with FILE.json beside it;
    "model.py:name", a Victim or a function (device) -> Victim in a Python file, which is code and runs with the user's
    rights; or several of these as one, "A+B", whose probabilities are averaged.

    trust: also run what a TorchScript file or a bundle's configuration brings along. Raises InputError for unknown
    names, files and objects, for what would need trust, and for a device this machine lacks.
    """
    place = check_device(device)
    found = read_spec(spec)
    if found.members:
        return ensemble_of([load_victim(str(member), device, trust) for member in found.members])
    if found.kind in FROM:
        return FROM[found.kind](found, place, trust)
    if spec in zoo.BUILT_IN:
        return zoo.BUILT_IN[spec](place)
    others = "FILE.py:NAME, FILE.ts, FILE.pt2, FILE.safetensors, or the folder of a MONAI bundle or of nnU-Net"
    hint = did_you_mean(spec, zoo.BUILT_IN, f"there are {', '.join(zoo.BUILT_IN)}, or {others}.")
    raise InputError(f"Unknown victim '{spec}'; {hint}")


def check_device(device: str) -> torch.device:
    """The torch device of that name; raises InputError if this machine has no such device."""
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f"Unknown device '{device}'; use cpu or cuda.") from None
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"Device '{device}' isn't supported; use cpu or cuda.")
    if place.type == "cuda" and not (torch.cuda.is_available() and (place.index or 0) < torch.cuda.device_count()):
        raise InputError(f"This machine has no device '{device}'; use --device cpu.")
    return place
