"""The options that several commands share, with their help."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from perturbox.cli import catalogue
from perturbox.defaults import EPS, MAX_EPS, UNITS
from perturbox.errors import InputError


def starting(words: Iterable[str], incomplete: str) -> list[str]:
    """What a shell may complete a word to."""
    return [word for word in words if word.startswith(incomplete)]


Image = Annotated[
    str,
    typer.Argument(
        help="The scan: NIfTI, NRRD, MetaImage, PNG, TIFF, a DICOM folder; t1.nii.gz,t2.nii.gz for channels."
    ),
]
Folder = Annotated[Path, typer.Argument(help="A result folder: the --out of an attack.")]
Trusted = Annotated[bool, typer.Option("--trust", help="Run what the model's files bring along.")]
VictimSpec = Annotated[
    str,
    typer.Option(
        "--victim",
        metavar="SPEC",
        help="The model: a name, file or folder (docs/victims.md), or FILE.py:NAME.",
        autocompletion=lambda incomplete: starting(catalogue.victims(), incomplete),
    ),
]
AttackName = Annotated[
    str,
    typer.Option(
        "--attack",
        metavar="NAME",
        help="The attack; see `perturbox list attacks`.",
        autocompletion=lambda incomplete: starting(catalogue.names(), incomplete),
    ),
]
Eps = Annotated[
    float | None,
    typer.Option(
        "--eps",
        metavar="N",
        help="Largest change, in the scan's own unit (HU on CT) or in --eps-unit: of any voxel (linf), RMS (l2), "
        f"share of voxels (l0); {EPS:g} if not given, or what limits an attack with a budget of its own.",
    ),
]
EpsUnit = Annotated[
    str,
    typer.Option(
        "--eps-unit",
        metavar="|".join(UNITS),
        help="What the limit is in: the scan's own unit, its own noise (sigma), or percent of its 1-99 % range.",
        autocompletion=lambda incomplete: starting(UNITS, incomplete),
    ),
]
MaxEps = Annotated[
    float | None,
    typer.Option("--max-eps", metavar="N", help=f"Largest change to try, in --eps-unit; {MAX_EPS:g} HU if not given."),
]
GoalName = Annotated[
    str,
    typer.Option(
        "--goal", metavar="GOAL", help="change (any), vanish, grow or become=STRUCTURE; all but change need --target."
    ),
]
LabelFile = Annotated[
    str | None,
    typer.Option(
        "--label", metavar="FILE", help="Expert outlines; without them the clean prediction is the reference."
    ),
]
LabelMap = Annotated[
    str | None,
    typer.Option(
        "--label-map", metavar="MAP", help="Which values of --label are which structure, e.g. liver=5,bone=25+26."
    ),
]
RoiFile = Annotated[str | None, typer.Option("--roi", metavar="FILE", help="Mask of the voxels that may change.")]
NormName = Annotated[
    str,
    typer.Option(
        "--norm",
        metavar="linf|l2|l0",
        help="How the size of a change is measured.",
        autocompletion=lambda incomplete: starting(("linf", "l2", "l0"), incomplete),
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Steps of the attack; as many as it needs if not given."),
]
MarginSteps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Steps of each attack; half of what it needs alone if not given."),
]
Target = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="S[,S]", help="Structures to attack; all that the model finds if not given."),
]
Surrogates = Annotated[
    list[str] | None,
    typer.Option(
        "--surrogate",
        metavar="SPEC",
        help="Craft the attack on this model instead, and only judge it on --victim; may be repeated.",
    ),
]
Defenses = Annotated[
    list[str] | None,
    typer.Option(
        "--defense",
        metavar="NAME[:KEY=VALUE]",
        help="A filter before the model, of `perturbox list defenses`; may be repeated, the first nearest to the scan.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="A layer of the network; may be repeated; every convolution but the last if not given.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the attack, e.g. loss=ce; may be repeated."),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="Seed of all that is random; the same seed gives the same files.")
]
Device = Annotated[str, typer.Option("--device", metavar="D", help="cpu, cuda or cuda:N.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Go on though the values don't look like Hounsfield units or memory looks too small."),
]
NewFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the result.")]
CutGradient = Annotated[
    bool, typer.Option("--allow-cut-gradient", help="Go on though some step of the model lets no gradient through.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Load a model that is Python code, which the folder names.")]
FullReport = Annotated[
    bool, typer.Option("--full-report", help="Put every changed slice of a large scan beside its report.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def names(target: list[str] | None) -> tuple[str, ...]:
    """Structure names of `--target liver,spleen`, in order, each once."""
    words = [word.strip() for part in target or () for word in part.split(",")]
    if not all(words):
        raise InputError("--target holds an empty name; write the structures as liver,spleen.")
    return tuple(dict.fromkeys(words))


def given(context: typer.Context, option: str) -> bool:
    """Whether the user gave this option; Typer has a copy of click of its own, so the source is told by its name."""
    return getattr(context.get_parameter_source(option), "name", "") != "DEFAULT"


def pairs(settings: list[str] | None) -> dict[str, str]:
    """Settings of repeated `--set key=value`."""
    found: dict[str, str] = {}
    for text in settings or ():
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise InputError(f"'{text}' isn't understood; write a setting as --set name=value.")
        if key in found:
            raise InputError(f"The setting '{key}' is given twice; keep one of them.")
        found[key] = value
    return found
