"""How strong each attack is for its effort: Dice after 10, 20, 40 and 100 steps, each from one start.

    python -m benchmarks strength [SCENE …] [--steps 10 20 40 100] [--arms NAME …] [--jobs 2] [--again] [--out docs]

Every arm makes as many backward passes as it has steps, and is judged by ordinary inference on the file it wrote. The
hippocampus nets are trained when first needed (`hippocampus.py`, a few minutes) and kept outside the repository. Rows
go to benchmarks.json as they come, the cheap ones first: a run that was stopped goes on where it was. Real scans are
read from PERTURBOX_DATA; what isn't there is left out.
"""

import argparse
import datetime
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hippocampus
import pages
import prepared
import store
import strength_page
from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal
from perturbox.attacks.runner import run
from perturbox.load import load_victim
from perturbox.model.victim import Victim
from perturbox.types import Case, Effort, Volume

ROOT = Path(__file__).resolve().parents[1]
CT = hippocampus.DATA.parent / "ct_abdomen" / "example_ct.nii.gz"
STEPS = (10, 20, 40, 100)
PATIENTS = 2  # of those no net was trained on


@dataclass(frozen=True)
class Scene:
    """A model on scans, a limit and a goal. scans: of which the mean is shown."""

    victim: str
    scans: tuple[str, ...]
    eps: float
    norm: str = "linf"
    goal: str = "change"
    target: tuple[str, ...] = ()


PATIENT_NAMES = tuple(f"patient-{number}" for number in range(PATIENTS))
HARDENED = Scene("hippocampus-hardened", PATIENT_NAMES, 12.0)
SLAB = Scene("ct-organs", ("slab",), 10.0)
# The cheap ones first.
SCENES = {
    "hardened": HARDENED,
    "hardened-l2": replace(HARDENED, eps=6.0, norm="l2"),
    "hardened-vanish": replace(HARDENED, goal="vanish", target=("anterior",)),
    "hardened-grow": replace(HARDENED, goal="grow", target=("anterior",)),
    "plain": Scene("hippocampus", PATIENT_NAMES, 6.0),
    "slices": Scene("ct-organs-2d", ("slices",), 10.0),
    "phantoms": Scene("ct-organs", tuple(f"phantom-{number}" for number in range(3)), 10.0),
    "slab": SLAB,
    "slab-l2": replace(SLAB, eps=5.0, norm="l2"),
    "slab-vanish": replace(SLAB, goal="vanish", target=("liver",)),
    "slab-grow": replace(SLAB, goal="grow", target=("liver",)),
    "ct": Scene("ct-organs", ("ct",), 10.0),
    "ct-l2": Scene("ct-organs", ("ct",), 5.0, "l2"),
    "ct-vanish": Scene("ct-organs", ("ct",), 10.0, goal="vanish", target=("liver",)),
    "ct-grow": Scene("ct-organs", ("ct",), 10.0, goal="grow", target=("liver",)),
}
PIECES = {"ct": slice(None), "slab": slice(44, 108), "slices": slice(68, 72)}  # of the real CT


def paced(share: float) -> Callable[[float], dict[str, Any]]:
    return lambda eps: {"alpha": share * eps}


# As published, to see what the default is ahead of; linf only.
PUBLISHED = ("bim", "mi-fgsm", "segpgd", "cospgd", "houdini", "smia", "di-fgsm", "ti-fgsm")
# name: (recipe, settings for an eps). Those of one loss may be compared as ways to climb.
ARMS: dict[str, tuple[str, Callable[[float], dict[str, Any]]]] = {
    "default": (recipes.DEFAULT, lambda eps: {}),
    "apgd, dice": ("apgd", lambda eps: {"loss": "dice"}),
    "apgd, ce": ("apgd", lambda eps: {"loss": "ce"}),
    "pgd as published": ("pgd", lambda eps: {}),
    "pgd, step eps/10": ("pgd", paced(0.1)),
    "pgd, step eps/4": ("pgd", paced(0.25)),
    "pgd, step eps/2": ("pgd", paced(0.5)),
    "pgd, step eps": ("pgd", paced(1.0)),
    "pgd, dice, step eps/4": ("pgd", lambda eps: {"alpha": 0.25 * eps, "loss": "dice"}),
    "pgd, dice, step eps/2": ("pgd", lambda eps: {"alpha": 0.5 * eps, "loss": "dice"}),
    **{name: (name, lambda eps: {}) for name in PUBLISHED},
}


@dataclass(frozen=True)
class Cell:
    scene: str
    scan: str
    arm: str
    steps: int

    @property
    def key(self) -> str:
        return " · ".join([self.scene, self.scan, self.arm, str(self.steps)])


def cells(scenes: Sequence[str], arms: Sequence[str], steps: Sequence[int]) -> list[Cell]:
    """All runs, fewest steps first, so that a run that is stopped has compared something."""
    found = [
        Cell(scene, scan, arm, n)
        for scene in scenes
        for scan in SCENES[scene].scans
        for arm in arms
        for n in steps
        if SCENES[scene].norm in recipes.get(ARMS[arm][0]).norms
    ]
    return sorted(found, key=lambda cell: (cell.steps, list(SCENES).index(cell.scene)))


@cache
def scan_of(name: str) -> tuple[Volume, np.ndarray | None]:
    """(scan, the expert's labels or None)."""
    kind, _, number = name.partition("-")
    if kind == "patient":
        return hippocampus.case(hippocampus.files()[2 * hippocampus.TRAINED_ON + int(number)])
    return (prepared.phantom(prepared.SEED + int(number)) if kind == "phantom" else piece(kind)), None


def piece(name: str) -> Volume:
    """The real CT, or some of its slices."""
    scan, slices = io.read_volume(CT), PIECES[name]
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (slices.start or 0)
    return scan.with_data(np.ascontiguousarray(scan.data[..., slices]), affine=affine)


@cache
def victim_of(name: str) -> Victim:
    return hippocampus.load(name) if name in hippocampus.NETS else load_victim(name)


def measure(cell: Cell) -> dict[str, Any]:
    """Run one cell; its row of benchmarks.json."""
    torch.set_num_threads(1)
    scene = SCENES[cell.scene]
    victim, (scan, expert) = victim_of(scene.victim), scan_of(cell.scan)
    reference = victim.predict(scan) if expert is None else expert
    goal = Goal.parse(scene.goal, scene.target, victim.labels).present(reference)
    name, settings = ARMS[cell.arm]
    attack = recipes.get(name).build(scene.eps, scene.norm, cell.steps, settings(scene.eps)).attack
    effort = Effort()
    outcome = run(attack, victim.on(scan, effort), Case(scan), reference, goal)
    found = saved_and_segmented(scan, outcome.x_adv, victim)
    return {
        **asdict(cell),
        "score": goal.score(found, reference),
        "live": outcome.best.score,
        "at": outcome.best.step,
        "linf": float(np.abs(outcome.delta).max()),
        "rms": float(np.sqrt(np.square(outcome.delta.astype(np.float64)).mean())),
        "forwards": effort.forwards,
        "backwards": effort.backwards,
        "date": datetime.date.today().isoformat(),
    }


def saved_and_segmented(scan: Volume, x_adv: np.ndarray, victim: Victim) -> np.ndarray:
    """What the victim says of the file the scan was written to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"adversarial{io.writable_format(scan)}"
        io.write_volume(path, scan.with_data(x_adv.astype(scan.data.dtype)), adversarial=True)
        return victim.predict(io.read_volume(path, unit=scan.unit))


def available(names: Sequence[str]) -> list[str]:
    """Those scenes whose scans are on this machine."""
    there = {"patient": hippocampus.DATA.is_dir(), "phantom": True} | dict.fromkeys(PIECES, CT.is_file())
    return [name for name in names if all(there[scan.partition("-")[0]] for scan in SCENES[name].scans)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks strength", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=f"of {', '.join(SCENES)}; all unless given")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args(arguments)
    document, page = options.out / "benchmarks.json", options.out / "benchmarks.md"
    asked = options.scenes or list(SCENES)
    if unknown := [name for name in asked if name not in SCENES]:
        parser.error(f"no scene '{unknown[0]}'; there are {', '.join(SCENES)}")
    scenes = available(asked)
    for name in sorted({SCENES[name].victim for name in scenes}):
        victim_of(name)  # trained once, before several processes want it
    rows = store.stored(document, "strength").get("rows", {})
    wanted = [cell for cell in cells(scenes, options.arms, options.steps) if options.again or cell.key not in rows]
    command = " ".join(["python -m benchmarks strength", *arguments])
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(measure, cell): cell for cell in wanted}
        for number, future in enumerate(as_completed(pending), start=1):
            cell, row = pending[future], future.result()
            store.store(document, "strength", cell.key, row, command)
            print(f"{number} of {len(wanted)}: {cell.key}: {row['score']:.3f}", file=sys.stderr, flush=True)
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    section = strength_page.section(store.stored(document, "strength"), SCENES, list(ARMS))
    page.write_text(pages.with_section(text, section), encoding="utf-8")
