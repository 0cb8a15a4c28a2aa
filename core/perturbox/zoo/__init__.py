"""The built-in victims: small networks trained on this package's own CT phantoms only, for a start at once."""

from functools import partial

import torch

from perturbox.model.sliding import Window
from perturbox.model.victim import IntensityWindow, KeepComponents, Victim
from perturbox.types import InputError
from perturbox.zoo.models import MODELS, WEIGHTS, load_network

TITLES = {
    "ct-organs": "CT organs (3D, trained on phantoms)",
    "ct-organs-hardened": "CT organs (3D, trained on phantoms under attack)",
    "ct-organs-2d": "CT organs (2D, axial slices, trained on phantoms)",
}
# What reports say of each; the model card says more.
INTENDED_USE = (
    "A small open victim to attack, to study how such models break. Not a medical device: never read a scan with it."
)
TRAINING_DATA = "Generated CT phantoms of random trunks only; no patient's scan."
UNDER_ATTACK = " Its last iterations were on crops under attack within 12 HU."
LIMITS = (
    "CT of adult trunks only. Kidneys without contrast are its weakest structure; of the muscles it knows erector "
    "spinae, gluteals and iliopsoas. Tumours, ascites, resected organs and unusual anatomy were never seen."
)
UNDEFENDED = " Trained without any defence."
HARDENED = " Trained to stand changes of all voxels within 10 HU; larger and other changes still break it."
# One liver, one spleen, two kidneys, two lungs; elsewhere specks below 1.5 ml go.
PARTS = {"liver": 1, "spleen": 1, "kidney": 2, "lung": 2}


def built_in(name: str, device: torch.device) -> Victim:
    """The built-in victim of that name. Raises InputError where the installation lacks its weights."""
    if not (WEIGHTS / f"{name}.safetensors").is_file():
        raise InputError(f"The weights of '{name}' are missing from this installation; reinstall perturbox.")
    model, hardened = MODELS[name], name.endswith("-hardened")
    labels = {structure: value for value, structure in enumerate(model.labels)}
    # A slice-wise model keeps the scan's own slice spacing.
    spacing = model.spacing if model.dims == 3 else (*model.spacing[:2], None)
    return Victim(
        name=name,
        title=TITLES[name],
        network=load_network(name),
        labels=labels,
        window=Window(
            model.window, overlap=0.5, blend="gaussian", batch=1 if model.dims == 3 else 4, padding="replicate"
        ),
        normalise=IntensityWindow(*model.hu_range),
        orientation="RAS",
        spacing=spacing,
        dims=model.dims,
        clean_up=KeepComponents({labels[structure]: parts for structure, parts in PARTS.items()}),
        licence="Apache-2.0",
        intended_use=INTENDED_USE,
        training_data=TRAINING_DATA + UNDER_ATTACK * hardened,
        limits=LIMITS + (HARDENED if hardened else UNDEFENDED),
        device=device,
    )


BUILT_IN = {name: partial(built_in, name) for name in MODELS}
