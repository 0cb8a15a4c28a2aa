"""`perturbox demo`: a first look at a phantom, or phantoms as scans to try things on."""

from pathlib import Path
from typing import Annotated

import typer

from perturbox.cli.waking import waking
from perturbox.errors import InputError


def demo(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="A new folder; demo, demo-2, … if not given.", show_default=False),
    ] = None,
    scan: Annotated[
        Path | None,
        typer.Option("--scan", metavar="FILE", help="Only write the phantom CT to this new file.", show_default=False),
    ] = None,
    phantoms: Annotated[
        int | None,
        typer.Option("--phantoms", metavar="N", help="Only write N phantom CTs with their labels to --out."),
    ] = None,
) -> None:
    """Attack a phantom CT and report: a first look in a minute."""
    if scan is not None and (out is not None or phantoms is not None):
        raise InputError("--scan only writes the phantom CT, --out attacks it; give one of them.")
    if phantoms is not None and (out is None or not 1 <= phantoms <= 100):
        raise InputError(f"--phantoms {phantoms} needs 1 to 100 and a new folder for --out.")
    waking("Starting the demo", new=scan or out)
    from perturbox.cli.running import run_demo, write_phantom, write_phantoms
    from perturbox.cli.words import show

    if phantoms is not None and out is not None:
        show(*write_phantoms(out, phantoms))
    else:
        show(*(run_demo(out) if scan is None else write_phantom(scan)))
