"""Ordinary changes that scans meet in a clinic, by physics and in five grades: what a fall under attack is measured
against. Light: what a change computes is imported when it is asked for.

Parameters of a grade are those of ROOD-MRI (arXiv 2203.06060) for MR and of MedMNIST-C (arXiv 2406.17536) for contrast
and gamma of CT; the others are ours, chosen from what clinics do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from perturbox.errors import InputError, did_you_mean

Physics = Literal["ct", "mr"]
GRADES = (1, 2, 3, 4, 5)
SAID = {"ct": "CT", "mr": "MR"}


@dataclass(frozen=True)
class Corruption:
    """A change of one physics. home: module and function below this package; grades: its parameters, mildest first;
    by: what computes it."""

    name: str
    physics: Physics
    title: str
    home: str
    grades: tuple[Mapping[str, float], ...]
    by: str


def _grades(**values: tuple[float, ...]) -> tuple[Mapping[str, float], ...]:
    """One mapping a grade, of one tuple a parameter."""
    return tuple(dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True))


_MEDMNIST = "MONAI, in the window of -160 to 240 HU"
CORRUPTIONS = (
    Corruption("dose", "ct", "less dose: noise in the projections", "dose:dose",
               _grades(share=(0.5, 0.25, 0.15, 0.1, 0.05)), "ours, by scikit-image's radon and iradon"),
    Corruption("sharpen", "ct", "a sharper kernel", "kernel:sharpen",
               _grades(amount=(0.25, 0.5, 1.0, 1.5, 2.0), mm=(0.7,) * 5), "ours"),
    Corruption("smooth", "ct", "a softer kernel", "kernel:smooth", _grades(mm=(0.8, 1.6, 2.4, 3.2, 4.0)), "ours"),
    Corruption("more-contrast", "ct", "more contrast", "values:contrast",
               _grades(factor=(1.3, 1.4, 1.5, 1.7, 1.8)), _MEDMNIST),
    Corruption("less-contrast", "ct", "less contrast", "values:contrast",
               _grades(factor=(0.8, 0.75, 0.7, 0.6, 0.5)), _MEDMNIST),
    Corruption("darker", "ct", "gamma above 1", "values:gamma_of_ct",
               _grades(gamma=(1.3, 1.4, 1.6, 1.8, 2.0)), _MEDMNIST),
    Corruption("brighter", "ct", "gamma below 1", "values:gamma_of_ct",
               _grades(gamma=(0.9, 0.8, 0.7, 0.6, 0.4)), _MEDMNIST),
    Corruption("slices", "ct", "fewer slices, resampled", "values:slices",
               _grades(factor=(1.5, 2.0, 2.8, 4.6, 6.4)), "TorchIO"),
    Corruption("offset", "ct", "all values higher", "values:offset",
               _grades(hu=(10.0, 20.0, 30.0, 40.0, 50.0)), "MONAI"),
    Corruption("motion", "mr", "the patient moves", "mr:motion",
               _grades(degrees=(1, 2, 3, 4, 5), mm=(2, 4, 6, 8, 10), times=(2, 4, 6, 8, 10)), "TorchIO"),
    Corruption("ghosting", "mr", "ghosts along the phase direction", "mr:ghosting",
               _grades(ghosts=(3, 5, 7, 9, 11), intensity=(0.5, 1.0, 1.5, 2.0, 2.5)), "TorchIO"),
    Corruption("bias-field", "mr", "an uneven coil", "mr:bias_field",
               _grades(largest=(0.3, 0.6, 0.9, 1.2, 1.5)), "TorchIO"),
    Corruption("rician", "mr", "noise of magnitudes", "mr:rician",
               _grades(share=(0.16, 0.32, 0.48, 0.64, 0.8)), "MONAI"),
    Corruption("darker", "mr", "gamma above 1", "values:gamma", _grades(gamma=(1.4, 1.8, 2.2, 2.6, 3.0)), "MONAI"),
    Corruption("brighter", "mr", "gamma below 1", "values:gamma",
               _grades(gamma=(0.86, 0.72, 0.58, 0.44, 0.3)), "MONAI"),
    Corruption("slices", "mr", "fewer slices, resampled", "values:slices",
               _grades(factor=(2.8, 4.6, 6.4, 8.2, 10.0)), "TorchIO"),
)  # fmt: skip


def names(physics: Physics | None = None) -> tuple[str, ...]:
    """The corruptions of a physics, or of both."""
    return tuple(dict.fromkeys(one.name for one in CORRUPTIONS if physics in (None, one.physics)))


def kinds(name: str) -> set[Physics]:
    """The physics that know a corruption."""
    return {one.physics for one in CORRUPTIONS if one.name == name}


def named(name: str) -> str:
    """The name of a corruption of either physics; raises InputError for another, with a near one."""
    if name in names():
        return name
    hint = did_you_mean(name, names(), f"choose {', '.join(names())}.")
    raise InputError(f"There is no corruption '{name}'; {hint}")


def physics_of(unit: str) -> Physics:
    """What a scan is taken with, from the unit of its values: Hounsfield units are CT's, all else is MR's."""
    return "ct" if unit == "HU" else "mr"


def get(name: str, physics: Physics) -> Corruption:
    """A corruption of a physics; raises InputError for an unknown name and for one of the other physics."""
    found = next((one for one in CORRUPTIONS if (one.name, one.physics) == (name, physics)), None)
    if found is not None:
        return found
    other = SAID["mr" if physics == "ct" else "ct"]
    raise InputError(
        f"{named(name)} is something that happens to {other}, so it says nothing of {SAID[physics]}; choose "
        f"{', '.join(names(physics))}."
    )
