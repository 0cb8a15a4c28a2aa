"""Cells per hour of a study by one worker and by several, on a machine that does nothing else:

    python benchmarks/study_workers.py examples/studies/curve.yaml [--workers 1 2] [--any-load]

Each number of workers carries the whole study out in a new folder, in turn. A cell is a perturbation with all who judge
it; the time is that from the first task that ends, for workers take seconds to start, to the last.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from perturbox.studies.drive import Driver, Progress
from perturbox.studies.run import load

MOST_LOAD = 0.5  # of the last minute, before it begins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--any-load", action="store_true", help="measure though the machine is busy, and say so")
    options = parser.parse_args()
    busy, cores = os.getloadavg()[0], os.cpu_count()
    if busy > MOST_LOAD and not options.any_load:
        raise SystemExit(f"The load is {busy:.1f}, so nothing measured now would mean anything; wait until it is low.")
    print(f"{cores} cores, load {busy:.1f} before")
    rates = [rate(options.study, workers) for workers in options.workers]
    for workers, found in zip(options.workers, rates, strict=True):
        print(f"{workers} worker(s): {found:.0f} cells per hour, {found / rates[0]:.2f} ×")


def rate(study: Path, workers: int) -> float:
    """Cells per hour."""
    ends: list[float] = []

    def tell(progress: Progress) -> None:
        ends.append(time.monotonic())

    plan, _ = load(study)
    with tempfile.TemporaryDirectory() as place:
        Driver(plan, Path(place) / "out", workers, tell=tell).run()
    return 3600 * len(plan.crafts) / (ends[-1] - ends[0])


if __name__ == "__main__":
    main()
