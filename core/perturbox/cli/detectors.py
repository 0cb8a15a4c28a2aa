"""`perturbox fit-detector` and `perturbox detect`: can an attack be seen?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from perturbox.cli.options import AsJson, Device, Force, Image, Layers, Seed, Trusted, VictimSpec
from perturbox.cli.waking import waking
from perturbox.errors import InputError

Detector = Annotated[str, typer.Option("--detector", metavar="NAME", help="Which; see `perturbox list detectors`.")]
Patterns = Annotated[
    list[str], typer.Option("--clean", metavar="'GLOB'", help="Clean scans, ten patients or more; may be repeated.")
]
Attacked = Annotated[
    list[str] | None,
    typer.Option("--attacked", metavar="'GLOB'", help="Attacked versions of clean scans; may be repeated."),
]
Noise = Annotated[
    str,
    typer.Option(
        "--noise",
        metavar="equal-norm|none",
        help="Whether noise as large as each attack is among what is no attack.",
    ),
]
Patient = Annotated[
    str | None,
    typer.Option("--patient", metavar="REGEX", help="Who a scan is of, as 'case_([0-9]+)'; each his own if not given."),
]


def fit_detector(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new .safetensors file for the detector.")],
    clean: Patterns,
    detector: Detector = "mahalanobis",
    victim: VictimSpec = "ct-organs",
    attacked: Attacked = None,
    noise: Noise = "equal-norm",
    patient: Patient = None,
    layer: Layers = None,
    rate: Annotated[float, typer.Option("--rate", metavar="P", help="Share of false alarms that is wanted.")] = 0.05,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    trust: Trusted = False,
) -> None:
    """Learn what clean scans look like to a model, to tell attacked ones.

    Every scan is scored by a fit without its patient. With --attacked it says how well that tells them apart.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"'{out}' can't hold a detector; name --out something.safetensors.")
    waking(f"Starting to fit {detector} on {victim}", new=out)
    from perturbox.detectors import get
    from perturbox.io.files import require_new_file
    from perturbox.job.detecting import matching, patients_of

    get(detector)
    require_new_file(out)
    calm, hit = matching(clean, "--clean"), matching(attacked or [], "--attacked")
    whose = patients_of(calm, patient)
    from perturbox.cli.progress import Progress
    from perturbox.cli.words import detector_summary, show
    from perturbox.job.detecting import fit_detector as fit
    from perturbox.job.execute import Job, load_inputs
    from perturbox.load import load_victim

    model = load_victim(victim, device, trust)
    load_inputs(Job(calm[0], victim=victim, device=device, force=force), victim=model)  # refuses before the work
    with Progress({}) as progress:
        listener = progress.listener()
        how = {"noise": noise, "patients": whose, "layers": layer or (), "rate": rate, "seed": seed}
        found = fit(model, detector, calm, hit, **how, say=listener.say, stop=listener.stop)
        found.write(out)
    show(*detector_summary(found), f"Detector: {out}")


def detect(
    image: Image,
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            metavar="NAME",
            help="One shipped for the model (`perturbox list detectors`), or a file of `perturbox fit-detector`.",
        ),
    ],
    victim: VictimSpec = "ct-organs",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="A new folder for detection.json.", show_default=False),
    ] = None,
    device: Device = "cpu",
    force: Force = False,
    trust: Trusted = False,
    as_json: AsJson = False,
) -> None:
    """Ask a detector whether a scan looks attacked."""
    if not as_json:
        waking(f"Starting to look at {image}", (image,), out)
    from perturbox.cli.words import show
    from perturbox.detectors.shipped import place
    from perturbox.io.files import require_new_folder
    from perturbox.job.detecting import JSON, detect_scan, name_of
    from perturbox.job.execute import Job
    from perturbox.load import load_victim

    if out is not None:
        require_new_folder(out)
    model = load_victim(victim, device, trust)
    file = place(detector, model.name)
    job = Job(image, victim=victim, device=device, force=force, trust=trust)
    document = detect_scan(job, {name_of(file): str(file)}, out, victim=model)
    (row,) = document["detections"]
    if as_json:
        told = {key: value for key, value in row.items() if key not in ("scan", "name")}
        print(json.dumps(told, indent=1, allow_nan=False))
        return
    notes = [f"Note: {warning}" for warning in document["warnings"]]
    written = [] if out is None else [f"Detection: {out / JSON}"]
    show(f"{row['title']} on {row['victim']}: {row['sentence']}", *notes, *written)
