"""Every attack, a short run on `ct-organs`: mean Dice of the saved file against the clean prediction, and CPU seconds.

    python -m benchmarks attacks [NAME …] [--steps 5] [--jobs 2] [--again] [--out docs]

Each is run on 64 slices of the demo's phantom and on the real CT of PERTURBOX_DATA (default
../shared/data), where there is one, at 2, 5 and 10 HU, the largest first; with a budget of its own, at its default;
what seeks the smallest change, at a cap of 40 HU. Those that follow a gradient within a ball get equal steps, and soft
Dice to climb where they can choose; those that need more steps than most, as what only asks or creeps does, get the
number they take by themselves. How strong they are for more effort is another run (`strength`). Results go to
benchmarks.json as they come: a run that was stopped goes on where it was, one over some attacks leaves the results of
the others in place. --again measures again.
"""

import argparse
import datetime
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import attacks_page
import pages
import prepared
import store
from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.attack import random_draw
from perturbox.judge import checks
from perturbox.types import Case, Effort, InputError, Volume
from quality import judged

ROOT = Path(__file__).resolve().parents[1]
REAL_CT = Path(os.environ.get("PERTURBOX_DATA", ROOT.parent / "shared" / "data")) / "ct_abdomen" / "example_ct.nii.gz"
CASES, EPS = ("phantom", "ct"), (10.0, 5.0, 2.0)
CAP = 40.0  # of what seeks the smallest change; at 10 HU few would find any
STEPS, DRAWS = 5, 3
LOSS = "dice"
PART = "attacks"  # of benchmarks.json


@dataclass(frozen=True)
class Cell:
    """One run. eps: HU (l0: a share of voxels), None where the recipe has a budget of its own."""

    case: str
    recipe: str
    norm: str
    eps: float | None

    @property
    def key(self) -> str:
        return " ".join([self.case, self.recipe, self.norm, "own" if self.eps is None else f"{self.eps:g}"])


def cells(names: Sequence[str], cases: Sequence[str]) -> list[Cell]:
    """All runs of these recipes. noise is run in every norm in which some recipe is, to stand beside it."""
    known = recipes.discover()
    norms = {norm_of(name) for name in known if known[name].own is None}
    found = []
    for case in cases:
        for name in names:
            if case != "phantom" and name in prepared.GREY:
                continue
            for norm in [n for n in known[name].norms if n in norms] if name == "noise" else [norm_of(name)]:
                found += [Cell(case, name, norm, limit) for limit in limits(name, norm)]
    # What a run that is stopped should have first: the largest limits, and the scan that everybody has.
    return sorted(found, key=lambda cell: (cell.case != "phantom" and (cell.eps or EPS[0]) < EPS[0], -(cell.eps or 99)))


def norm_of(name: str) -> str:
    """linf where a recipe has it."""
    norms = recipes.get(name).norms
    return "linf" if "linf" in norms else norms[0]


def limits(name: str, norm: str) -> tuple[float | None, ...]:
    """What a recipe is limited to."""
    if recipes.get(name).own is not None:
        return (None,)
    if seeks_smallest(name):
        return (CAP,)
    return tuple(eps / 100 for eps in EPS) if norm == "l0" else EPS


@cache
def seeks_smallest(name: str) -> bool:
    """Whether it stops at the smallest change that reaches the goal."""
    if recipes.get(name).own is not None:
        return False
    return recipes.get(name).build(1.0, norm_of(name), 1, {}, local=True).attack.keep == "smallest"


def scan_of(case: str) -> Volume:
    return prepared.phantom() if case == "phantom" else io.read_volume(REAL_CT)


def effort_of(name: str, steps: int) -> int:
    """Steps of a recipe: as many as the others get, unless it needs more than most."""
    own = recipes.get(name).steps
    return own if own > recipes.STEPS else steps


def climbed(name: str) -> dict[str, str]:
    """The settings that make a recipe climb soft Dice, for comparing ways to climb and not losses; empty where the loss
    is its own."""
    choices = {entry["name"]: entry["choices"] for entry in recipes.get(name).parameters}
    return {"loss": LOSS} if LOSS in (choices.get("loss") or ()) else {}


def measure(cell: Cell, steps: int) -> dict[str, Any]:
    """Run one cell; its row of benchmarks.json."""
    torch.set_num_threads(1)
    steps, settings = effort_of(cell.recipe, steps), climbed(cell.recipe)
    told = {"steps": steps, "loss": settings.get("loss"), "date": datetime.date.today().isoformat()}
    row: dict[str, Any] = {**asdict(cell), **told}
    effort = Effort()
    with tempfile.TemporaryDirectory() as folder:
        try:
            where = {"folder": Path(folder), "scan": scan_of(cell.case)}
            given = prepared.ready(cell.recipe, cell.eps, cell.norm, steps, settings=settings, **where)
        except InputError as reason:
            return {**row, "refused": str(reason)}
        outcome, clean, goal, spent = prepared.attacked(given, effort)
    scan, victim, attack = given.image, given.victim, given.attack

    def mean_dice(x: np.ndarray) -> float:
        return float(np.mean(list(judged(scan, x, victim, clean).values())))

    if cell.eps is None:
        draw = random_draw(attack, Case(scan), victim)
        controls = [draw(seed) for seed in range(DRAWS)] if draw else []
    else:
        controls = matched(scan, outcome.delta)
    dice = mean_dice(outcome.x_adv)
    return {
        **row,
        "keep": attack.keep,
        "unit": scan.unit,
        "dice": dice,
        "reached": dice <= goal.threshold,
        "linf": float(np.abs(outcome.delta).max()),
        "rms": float(np.sqrt(np.square(outcome.delta.astype(np.float64)).mean())),
        "cpu_s": spent,
        "forwards": effort.forwards,
        "backwards": effort.backwards,
        "own": recipes.get(cell.recipe).own_budget(attack.parameters),
        "control": min((mean_dice(control) for control in controls), default=None),
    }


def matched(scan: Volume, delta: np.ndarray) -> list[np.ndarray]:
    """The scan under white noise of a perturbation's RMS, and under the perturbation rolled to another place."""
    rng = np.random.default_rng(0)
    low, high = float(scan.data.min()), float(scan.data.max())
    noise = checks.white_noise(delta, scan.data, None, low, high, scan.step, rng)
    return [scan.data + noise, scan.data + checks.rolled(delta, scan.data, low, high, None, rng)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks attacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these attacks")
    parser.add_argument("--steps", type=int, default=STEPS, help="of those that need no more than most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument("--again", action="store_true", help="also what has been measured with as many steps")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args(arguments)
    document, page = options.out / "benchmarks.json", options.out / "benchmarks.md"
    names = [recipes.get(name).name for name in options.names] or list(recipes.discover())
    cases = [case for case in CASES if case == "phantom" or REAL_CT.exists()]
    if len(cases) < len(CASES):
        print(f"No real CT at {REAL_CT}; set PERTURBOX_DATA. The phantom alone is attacked.", file=sys.stderr)

    rows = store.stored(document, PART).get("rows", {})
    wanted = cells(names, cases)
    if not options.again:
        wanted = [cell for cell in wanted if not measured(rows.get(cell.key, {}), cell.recipe, options.steps)]
    command = " ".join(["python -m benchmarks attacks", *arguments])
    failed = attack_all(wanted, options.steps, options.jobs, document, command)
    section = attacks_page.section(store.stored(document, PART), lambda name: effort_of(name, 0))
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    page.write_text(pages.with_section(text, section), encoding="utf-8")
    for sentence in failed:
        print(f"FAILED: {sentence}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def measured(row: Mapping[str, Any], name: str, steps: int) -> bool:
    """Whether a row says what would be measured now."""
    return row.get("steps") == effort_of(name, steps) and row.get("loss") == climbed(name).get("loss")


def attack_all(wanted: Sequence[Cell], steps: int, jobs: int, document: Path, command: str) -> list[str]:
    """Run the cells in processes of their own and store each row as it comes; sentences on those that failed."""
    failed = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(measure, cell, steps): cell for cell in wanted}
        for number, future in enumerate(as_completed(pending), start=1):
            cell = pending[future]
            try:
                row = future.result()
            except Exception as problem:  # one attack's failure shall not cost the others' hours
                failed.append(f"{cell.key}: {type(problem).__name__}: {problem}")
                continue
            store.store(document, PART, cell.key, row, command)
            said = row.get("refused") or f"Dice {row['dice']:.3f}, {row['cpu_s']:.0f} CPU s"
            print(f"{number} of {len(wanted)}: {cell.key}: {said}", file=sys.stderr, flush=True)
    return failed
