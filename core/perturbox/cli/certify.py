"""`perturbox certify`: voxels whose answer no small change can alter, proved for the model smoothed by noise."""

from typing import Annotated

import typer

from perturbox.cli.options import Device, Force, Image, NewFolder, Seed, Trusted, VictimSpec, starting
from perturbox.cli.waking import waking
from perturbox.defaults import ALPHA, CHOOSERS, CORRECTIONS, TAU
from perturbox.errors import InputError


def certify(
    image: Image,
    out: NewFolder,
    sigma: Annotated[
        float,
        typer.Option("--sigma", metavar="S", help="Standard deviation of the noise, in the scan's unit (HU on CT)."),
    ],
    victim: VictimSpec = "ct-organs",
    tau: Annotated[
        float,
        typer.Option("--tau", metavar="T", help="Share of noisy copies that must agree; the radius is S·Φ⁻¹(T)."),
    ] = TAU,
    alpha: Annotated[
        float, typer.Option("--alpha", metavar="A", help="Chance that any certified voxel at all is wrong in that.")
    ] = ALPHA,
    n0: Annotated[
        int, typer.Option("--n0", metavar="N", help="Noisy copies that choose each voxel's answer.")
    ] = CHOOSERS,
    n: Annotated[
        int | None,
        typer.Option("--n", metavar="N", help="Other copies that vote on it; as many as it takes if not given."),
    ] = None,
    correction: Annotated[
        str,
        typer.Option(
            "--correction",
            metavar="|".join(CORRECTIONS),
            help="How the tests of many voxels are corrected.",
            autocompletion=lambda incomplete: starting(CORRECTIONS, incomplete),
        ),
    ] = CORRECTIONS[0],
    roi: Annotated[
        str | None,
        typer.Option("--roi", metavar="FILE", help="Mask of the only voxels to test; noise is added everywhere."),
    ] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Answer with a group of structures where single ones are too close.")
    ] = False,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", metavar="NAME=S+S", help="A group for --adaptive, e.g. fluid=cyst+bladder; may be repeated."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    trust: Trusted = False,
) -> None:
    """Certify which voxels no small change can alter.

    Noisy copies of the scan vote on every voxel. Where enough agree, no change with an L2 norm up to S·Φ⁻¹(T) over the
    volume can alter what the model smoothed by that noise answers; elsewhere the certificate abstains. It leaves the
    certified map, the votes, every number and a page.
    """
    groups = groups_of(group)
    waking(f"Starting to certify {victim}", (image, roi), out)
    from perturbox.certificates.smoothed import Question
    from perturbox.cli.running import run_certify
    from perturbox.cli.words import show
    from perturbox.job.execute import Job

    question = Question(sigma, tau, alpha, n0, n, correction, adaptive, groups, seed)
    job = Job(image, victim=victim, roi=roi, seed=seed, device=device, force=force, trust=trust)
    show(*run_certify(job, question, out))


def groups_of(words: list[str] | None) -> dict[str, tuple[str, ...]]:
    """Groups of repeated `--group name=one+other`."""
    found: dict[str, tuple[str, ...]] = {}
    for text in words or ():
        name, equals, held = text.partition("=")
        structures = tuple(one.strip() for one in held.split("+"))
        if not (name.strip() and equals and all(structures)):
            raise InputError(f"'{text}' isn't understood; write a group as --group name=liver+spleen.")
        if name.strip() in found:
            raise InputError(f"The group '{name.strip()}' is given twice; keep one of them.")
        found[name.strip()] = structures
    return found
