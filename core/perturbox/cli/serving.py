"""`perturbox serve` and its options."""

from pathlib import Path
from typing import Annotated

import typer

from perturbox.cli.options import Device, Trusted
from perturbox.cli.waking import waking


def serve(
    studies: Annotated[
        str | None,
        typer.Option(
            "--studies", metavar="DIR", help="Folder of scans, or a DICOMweb address; an empty one if left out."
        ),
    ] = None,
    study_results: Annotated[
        Path | None,
        typer.Option(
            "--study-results",
            metavar="DIR",
            help="Folder of studies (`perturbox study --out DIR/NAME`) that clients may read.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; beyond this machine only with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port to listen at.")] = 8000,
    victim: Annotated[
        list[str] | None,
        typer.Option(
            "--victim", metavar="SPEC", help="A model to serve; may be repeated; the built-in ones if left out."
        ),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            "--detector",
            metavar="NAME=FILE",
            help="A detector of a served model (`perturbox fit-detector`), by file or a shipped one's name; the file "
            "alone, a folder of them, the NAME of a shipped one, or `shipped` for all of these; may be repeated.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="T", help="Secret that clients must send; PERTURBOX_TOKEN does the same unseen."
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Run jobs on this Dask scheduler's workers.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", metavar="DIR", help="Folder for jobs, results and fine-tuned models.", show_default=False
        ),
    ] = None,
    device: Device = "cpu",
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors", metavar="ORIGIN", help="A web page's origin that may call, e.g. OHIF's; may be repeated."
        ),
    ] = None,
    trust: Trusted = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the log here; else it is server.log in --home.")
    ] = False,
) -> None:
    """Serve models and attacks to 3D Slicer, OHIF and other clients of MONAI Label."""
    from perturbox.serve import Serving
    from perturbox.serve import serve as start

    asked = Serving(
        studies,
        host,
        port,
        tuple(victim or ()),
        token,
        scheduler,
        home,
        device,
        tuple(cors or ()),
        trust,
        verbose,
        study_results,
        tuple(detector or ()),
    )
    start(asked, lambda: waking(f"Starting the server at {host}:{port}"))
