"""`perturbox study`: many models, attacks, cases and limits in one go, resumable."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from perturbox.cli import INTERRUPTED
from perturbox.cli.options import Device, Trusted
from perturbox.errors import InputError

EVERY_SECONDS = 10.0  # between two lines about progress


def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study: a YAML file (docs/studies.md).")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The study's folder: new, or begun before.")],
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Processes at once; as many as fit the cores if not given."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="A Dask scheduler whose workers see the same files."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Try once more what had failed.")] = False,
    device: Device = "cpu",
    trust: Trusted = False,
) -> None:
    """Carry out a study: models × attacks × cases × limits, ending in tables and a page.

    The same command goes on after anything. Writes results.parquet, models.parquet, cases.parquet, effort.parquet,
    checks.parquet, study.json, card.yaml, report.html and the worst cases' result folders.
    """
    from perturbox.cli.words import show

    try:
        from perturbox.studies import run
    except ImportError as error:
        raise InputError(
            f"A study needs the extra 'study' ({error.name} is missing); run `pip install 'perturbox[study]'`."
        ) from None
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} must be at least 1.")
    print(f"Reading {file} and its models", file=sys.stderr, flush=True)
    if dry_run:
        plan, _ = run.load(file, device, trust)
        show(*_price_lines(plan, workers or _fitting(plan.study.threads), device))
        return
    from perturbox.studies.reading import read_study

    count = workers or _fitting(read_study(file).threads)
    place = {"workers": count, "device": device, "scheduler": scheduler, "trust": trust, "again": again}
    try:
        done = run.run_study(file, out, tell=_teller(), **place)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        print("Stopped; what is done is kept, the same command goes on.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    assert done is not None
    notes = [f"Check ({finding.level}): {finding.sentence}" for finding in done.findings]
    show(*done.said, *notes, f"Report: {done.out / 'report.html'}", f"Tables: {done.out / 'results.parquet'}")


def _fitting(threads: int) -> int:
    import os

    return max(1, (os.cpu_count() or 1) // threads)


def _price_lines(plan: Any, workers: int, device: str) -> list[str]:
    from perturbox.cli.progress import about
    from perturbox.studies.pricing import price
    from perturbox.studies.words import counted

    cost = price(plan, workers, device)
    left = f", {len(plan.left_out)} left out" if plan.left_out else ""
    study = plan.study
    if study.certify is not None:
        asked = counted(len(study.certify.sigma), "level") + " of noise"
        pieces = f"{counted(cost.certificates, 'certificate')} of {counted(cost.copies, 'noisy copy', 'noisy copies')}"
    else:
        asked = f"{counted(len(study.attacks), 'attack')}, {counted(len(study.eps.values), 'limit')}"
        pieces = f"{counted(cost.crafts, 'attack')} and {counted(cost.judgements, 'judgement')}"
        pieces += f", {counted(cost.looks, 'look')} at ordinary changes" if cost.looks else ""
    return [
        f"{study.name} ({study.kind}): {counted(len(plan.models), 'model')}, "
        f"{counted(len(plan.cases), 'case')}{left}, {asked}, {counted(len(study.seeds), 'seed')}",
        pieces,
        f"{cost.cpu_hours:.2g} CPU hours; {about(3600 * cost.hours)} with {counted(workers, 'worker')}",
        f"{cost.bytes / 2**20:.0f} MB on disk, up to {cost.memory / 2**30:.1f} GB of memory for each worker",
    ]


def _teller() -> Any:
    """A line on stderr every ten seconds, and at the end."""
    from perturbox.cli.progress import about

    last = [0.0]

    def tell(progress: Any) -> None:
        now = time.monotonic()
        if now - last[0] < EVERY_SECONDS and progress.done < progress.all:
            return
        last[0] = now
        failed = f", {progress.failed} failed" if progress.failed else ""
        left = f", {about(progress.left)} left" if progress.left else ""
        print(f"{progress.done} of {progress.all} done{failed}{left}", file=sys.stderr, flush=True)

    return tell
