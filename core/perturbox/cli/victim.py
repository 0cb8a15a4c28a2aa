"""`perturbox victim`: look at a model before it is attacked."""

import json
from pathlib import Path
from typing import Annotated

import typer

from perturbox.cli.options import AsJson, Device, Image, Trusted

victim_app = typer.Typer(help="Look at a model before it is attacked.", rich_markup_mode=None)


@victim_app.command("sidecar")
def victim_sidecar(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="FILE.ts, FILE.pt2 or FILE.safetensors.")],
    trust: Trusted = False,
) -> None:
    """Write a first FILE.json beside a model file, to edit: labels, window and steps."""
    from perturbox.cli.words import show
    from perturbox.load import read_spec
    from perturbox.load.sidecar import write_sidecar

    show(f"Sidecar: {write_sidecar(read_spec(spec), trust)}; check its labels, window and steps.")


@victim_app.command("check")
def victim_check(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="The model, as --victim takes it.")],
    image: Image,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="framework|FILE",
            help="Run the model's own framework (nnU-Net, MONAI) on the scan and compare; or a label map that it made.",
        ),
    ] = None,
    framework_python: Annotated[
        str | None,
        typer.Option(
            "--framework-python",
            metavar="PATH",
            help="The Python in which the framework is installed; the one that runs this if left out.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A new folder for check.json and check.html.")
    ] = None,
    device: Device = "cpu",
    trust: Trusted = False,
    as_json: AsJson = False,
) -> None:
    """Say what a model does to a scan, and whether its gradient is exact.

    Its steps and their kind, its grid and windows, one directional derivative through the whole chain, and where its
    labels, network input and scores differ from those of its own framework.
    """
    from perturbox.cli.running import run_check
    from perturbox.cli.words import show

    found, lines = run_check(spec, image, against, framework_python, out, device, trust)
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        show(*lines)
