"""Train the weights of the defence `park` on clean scans: phantom CTs, or your own; the same command, the same weights.

    python -m perturbox.defenses.training --out park-ct.safetensors
    python -m perturbox.defenses.training --clean 'scans/*.nii.gz' --unit intensity --sigma 4 --out mine.safetensors

The reformer learns from patches of slices with Gaussian noise to give them back without it (Meng & Chen 2017, arXiv
1705.09064); every tenth patient is kept to say what it does to scans it never saw. Usual spectra are those of whole
scans and, for pictures, of single slices.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perturbox.attacks.spaces import slice_axis
from perturbox.defenses.park import Trained
from perturbox.defenses.reformer import REACH, Reformer
from perturbox.defenses.spectrum import FOLDS, spectrum, usual
from perturbox.types import InputError, Volume

RATE = 0.05  # of clean scans that may be flagged
SLICES = 4  # of each patient, for pictures
PATCH, BATCH = 48, 8
LEARNING_RATE = 2e-3
SEED_OF_PHANTOMS = 2_000_000  # neither the built-in models' nor the demo's
LEVELS = (-200.0, 200.0)  # mm, of a phantom's middle slice


@dataclass(frozen=True, eq=False)
class Clean:
    """A patient's scan as its slices "n h w" across the thickest axis, and the spectra of whole and slices "… m"."""

    slices: Tensor
    spectra: dict[int, Tensor]


def looked_at(scan: Volume, sigma: float, rng: np.random.Generator) -> Clean:
    """What is learned from a scan of one channel. Raises InputError for one of several."""
    if len(scan.data) != 1:
        raise InputError(f"Weights are trained on scans of one channel, and this one has {len(scan.data)}.")
    x = torch.from_numpy(np.ascontiguousarray(scan.data, np.float32))[None]
    axis = slice_axis(scan.spacing)
    slices = x[0, 0] if axis is None else x[0, 0].movedim(axis, 0)
    slices = slices.reshape(-1, *slices.shape[-2:])
    spectra = {} if axis is None else {3: _there(*spectrum(x, sigma))}
    some = np.sort(rng.permutation(len(slices))[:SLICES])
    spectra[2] = _there(*spectrum(slices[some][:, None], sigma))
    return Clean(slices, spectra)


def _there(spectra: Tensor, any_: Tensor) -> Tensor:
    return spectra[any_]


def batch_of(clean: Sequence[Clean], rng: np.random.Generator) -> Tensor:
    """Patches "n 1 h w" of one patient, turned and mirrored at random."""
    slices = clean[int(rng.integers(len(clean)))].slices
    size = [min(PATCH, n) for n in slices.shape[1:]]
    patches = []
    for _ in range(BATCH):
        corner = [int(rng.integers(n - s + 1)) for n, s in zip(slices.shape[1:], size, strict=True)]
        box = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
        patch = slices[(int(rng.integers(len(slices))), *box)]
        patches.append(patch.flip([axis for axis in (0, 1) if rng.random() < 0.5]))
    made = torch.stack(patches)[:, None]
    return made.mT if rng.random() < 0.5 else made


def trained_reformer(
    clean: Sequence[Clean], sigma: float, iterations: int, seed: int, say: Callable[[str], None] = print
) -> Reformer:
    """A reformer that has learned to take N(0, sigma) out of these patients' slices."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Reformer()
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=iterations)
    started, losses = time.monotonic(), []
    for iteration in range(1, iterations + 1):
        x = batch_of(clean, rng)
        drawn = torch.randn(x.shape, generator=noise)
        loss = (network((x + sigma * drawn) / (REACH * sigma)) - drawn).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        plan.step()
        losses.append(float(loss.detach()))
        if iteration % 200 == 0:
            minutes = (time.monotonic() - started) / 60
            say(f"iteration {iteration} minutes {minutes:.1f} noise left {np.mean(losses) ** 0.5:.3f} of its RMS")
            losses.clear()
    return network.eval()


def judged(trained: Trained, clean: Sequence[Clean], seed: int) -> dict[str, float]:
    """Of slices of patients that weren't learned from, RMS in sigma: what is left of noise after the reformer, and what
    it changes of slices as they are."""
    noise, left, changed, count = torch.Generator().manual_seed(seed), 0.0, 0.0, 0
    with torch.inference_mode():
        for one in clean:
            x = one.slices[:: max(1, len(one.slices) // SLICES)][:, None] / trained.sigma
            spoilt = x + torch.randn(x.shape, generator=noise)
            for given, is_noisy in ((spoilt, True), (x, False)):
                made = trained.reform(given * trained.sigma, (1.0, 1.0)) / trained.sigma
                apart = float((made - x).double().square().sum())
                left, changed = left + apart * is_noisy, changed + apart * (not is_noisy)
            count += x.numel()
    return {"noise_left": round((left / count) ** 0.5, 3), "clean_changed": round((changed / count) ** 0.5, 3)}


def train(
    scans: Sequence[Callable[[], Volume]],
    unit: str,
    sigma: float,
    *,
    iterations: int = 4000,
    seed: int = 0,
    say: Callable[[str], None] = print,
    **facts: Any,
) -> Trained:
    """Weights learned from clean scans, each of another patient and read when it is needed.

    sigma: of the noise that the reformer takes out, in `unit`. Raises InputError for too few scans.
    """
    if len(scans) < 2 * FOLDS:
        raise InputError(f"{len(scans)} clean scans are too few to learn from; give at least {2 * FOLDS}.")
    rng, clean = np.random.default_rng([seed, 1]), []
    for number, read in enumerate(scans, 1):
        say(f"Clean scan {number} of {len(scans)}")
        clean.append(looked_at(read(), sigma, rng))
    found = {}
    for dims in (2, 3):
        rows = [(one.spectra[dims], number) for number, one in enumerate(clean) if len(one.spectra.get(dims, ()))]
        if len(rows) >= 2 * FOLDS:
            whose = [number for spectra, number in rows for _ in spectra]
            found[dims] = usual(torch.cat([spectra for spectra, _ in rows]), whose, RATE)
    if not found:
        raise InputError(f"Fewer than {2 * FOLDS} of these scans hold more than one value; give others.")
    held = clean[::FOLDS]
    network = trained_reformer([one for i, one in enumerate(clean) if i % FOLDS], sigma, iterations, seed, say)
    weights = {name: weight.half().float() for name, weight in network.state_dict().items()}  # as the file holds them
    made = Trained(unit, sigma, weights, found, {"scans": len(scans), "iterations": iterations, "seed": seed, **facts})
    return Trained(unit, sigma, weights, found, {**made.facts, "held_out": judged(made, held, seed)})


def phantoms(count: int) -> list[Callable[[], Volume]]:
    """As many phantom CTs of 3 mm, of another part of the trunk each."""

    def read(number: int) -> Volume:
        from perturbox.zoo.phantom import phantom_case

        level = float(np.random.default_rng([SEED_OF_PHANTOMS, number]).uniform(*LEVELS))
        hu, _, affine = phantom_case(SEED_OF_PHANTOMS + number, level=level)
        return Volume(hu[None].astype(np.float32), affine)

    return [lambda number=number: read(number) for number in range(count)]


def files(patterns: Sequence[str], unit: str) -> list[Callable[[], Volume]]:
    """The scans that patterns match. Raises InputError where one matches none."""
    import glob

    from perturbox import io

    paths: dict[str, None] = {}
    for pattern in patterns:
        matched = sorted(glob.glob(pattern, recursive=True))
        if not matched:
            raise InputError(f"--clean '{pattern}' matches no file; check the path, and put patterns into quotes.")
        paths |= dict.fromkeys(matched)
    return [lambda path=path: io.read_scan(path, unit=unit) for path in paths]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: read the scans, learn, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--clean", action="append", metavar="PATTERN", help="scans of your own in place of phantoms")
    parser.add_argument("--unit", default="HU", help="of these, as `perturbox list victims` says what a model reads")
    parser.add_argument("--sigma", type=float, default=10.0, help="of the noise to take out, in that unit")
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if not 0 < options.sigma < 1e6 or options.iterations < 1:
            raise InputError("--sigma must lie above 0 and below a million, and --iterations at 1 or more.")
        scans = files(options.clean, options.unit) if options.clean else phantoms(options.phantoms)
        made = train(scans, options.unit, options.sigma, iterations=options.iterations, seed=options.seed)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    made.write(options.out)
    print(f"wrote {options.out}: held out {made.facts['held_out']}", flush=True)


if __name__ == "__main__":
    main()
