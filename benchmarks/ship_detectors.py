"""Fit the detectors that are shipped for ct-organs, on forty phantoms that no demo writes.

    python benchmarks/ship_detectors.py FOLDER          some ten CPU minutes

FOLDER is core/perturbox/zoo/detectors for those of a release. They know phantoms and nothing else: a patient's scan is
unlike all of them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import perturbox as px
from perturbox.zoo.phantom import phantom_case

VICTIM = "ct-organs"
NAMES = ("mahalanobis", "entropy")
SEEDS = range(7000, 7040)
NOTE = "It was fitted on phantoms, and a patient's scan is unlike all of them, attacked or not."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    scans = [(hu, affine) for hu, _, affine in map(phantom_case, SEEDS)]
    victim = px.load_victim(VICTIM)
    for name in NAMES:
        found = px.fit_detector(victim, name, clean=scans)
        found = replace(found, facts={**found.facts, "note": NOTE})
        found.write(folder / VICTIM / f"{name}.safetensors")
        print(f"{name}: threshold {found.threshold:.2f}", flush=True)


if __name__ == "__main__":
    main()
