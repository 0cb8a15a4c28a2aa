"""The built-in victims: small networks trained on this package's own CT phantoms only, so that everything runs at once."""

from importlib import resources

import torch
from safetensors.torch import load

from perturbox.sliding import Window
from perturbox.types import InputError
from perturbox.victim import IntensityWindow, KeepComponents, Victim
from perturbox.zoo.network import ResUNet

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "bone": 4, "muscle": 5, "gut": 6, "lung": 7}
SPACING_MM = 3.0
HU_WINDOW = IntensityWindow(-250.0, 350.0)
# One liver, one spleen, two kidneys, two lungs; specks below 1.5 ml go everywhere else.
CLEAN_UP = KeepComponents({LABELS["liver"]: 1, LABELS["spleen"]: 1, LABELS["kidney"]: 2, LABELS["lung"]: 2})


def _network(name: str, dims: int, device: torch.device) -> ResUNet:
    weights = resources.files(__name__) / "weights" / f"{name}.safetensors"
    if not weights.is_file():
        raise InputError(f"The weights of '{name}' are missing from this installation; reinstall perturbox.")
    state = {key: tensor.float() for key, tensor in load(weights.read_bytes()).items()}
    network = ResUNet(dims, 1, len(LABELS), CHANNELS[name])
    network.load_state_dict(state)
    return network.to(device).eval().requires_grad_(False)


def ct_organs(device: torch.device) -> Victim:
    """A 3D residual U-Net for seven trunk structures on CT at 3 mm."""
    return Victim(
        name="ct-organs",
        title="CT organs (3D, trained on phantoms)",
        network=_network("ct-organs", 3, device),
        labels=LABELS,
        window=Window((128, 112, 48), overlap=0.5, blend="gaussian", batch=1, padding="replicate"),
        normalise=HU_WINDOW,
        orientation="RAS",
        spacing=(SPACING_MM,) * 3,
        clean_up=CLEAN_UP,
        licence="Apache-2.0",
        device=device,
    )


def ct_organs_2d(device: torch.device) -> Victim:
    """Its slice-wise sibling: a 2D residual U-Net on axial slices at 3 mm, the scan's own slice spacing kept."""
    return Victim(
        name="ct-organs-2d",
        title="CT organs (2D, axial slices, trained on phantoms)",
        network=_network("ct-organs-2d", 2, device),
        labels=LABELS,
        window=Window((128, 112), overlap=0.5, blend="gaussian", batch=4, padding="replicate"),
        normalise=HU_WINDOW,
        orientation="RAS",
        spacing=(SPACING_MM, SPACING_MM, None),
        dims=2,
        clean_up=CLEAN_UP,
        licence="Apache-2.0",
        device=device,
    )


BUILT_IN = {"ct-organs": ct_organs, "ct-organs-2d": ct_organs_2d}
