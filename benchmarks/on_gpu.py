"""What needs a GPU, in one go: the tests marked `gpu`, then 20 steps of the default attack on a CT of 512×512×300
voxels with a network of nnU-Net's size, beside its floors.

    python benchmarks/on_gpu.py               on a machine with CUDA; minutes
    python benchmarks/on_gpu.py --dry         the same on a tiny case on the CPU, to see that the script works

The floors are the bare network on as many windows, each once forward and once backward for a step (F+B), or twice
forward and once backward (2F+B) where no graph is kept, without blending, loss or rounding. Prints one JSON document.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets.dynunet import DynUNet
from torch import nn

import machine
from perturbox.defaults import ATTACK
from perturbox.job.execute import Job, Listener, craft, prepare
from perturbox.model.memory import peak_bytes
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim, count_windows
from perturbox.types import Effort, Volume

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """A scan's shape, the window, a network's widths, steps of the attack."""

    shape: tuple[int, int, int]
    window: int
    widths: tuple[int, ...]
    steps: int


FULL = Case((512, 512, 300), 128, (32, 64, 128, 256, 320, 320), 20)
DRY = Case((40, 36, 28), 16, (4, 8, 8), 2)


def network(case: Case) -> nn.Module:
    """MONAI's rendering of nnU-Net's plain convolutional U-Net."""
    torch.manual_seed(0)
    strides = [1, *[2] * (len(case.widths) - 1)]
    return DynUNet(3, 1, 3, [3] * len(strides), strides, strides[1:], case.widths, norm_name="INSTANCE").eval()


def victim(case: Case, device: torch.device) -> Victim:
    window = Window((case.window,) * 3, overlap=0.5, blend="nnunet", batch=1, placing="even", sums="float16")
    labels = {"background": 0, "a": 1, "b": 2}
    net = network(case).requires_grad_(False)
    return Victim("nnunet-size", net, labels, window, lambda x: (x - 60) / 80, licence="none", device=device)


def scan(case: Case) -> Volume:
    rng = np.random.default_rng(0)
    data = rng.integers(-150, 250, (1, *case.shape), dtype=np.int16)
    return Volume(data.astype(np.float32), np.diag([0.8, 0.8, 1.0, 1.0]), "HU", np.dtype(np.int16))


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The best of some calls, after one that sets up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def floors(model: Victim, windows: int, steps: int) -> dict[str, float]:
    """Seconds of the bare network."""
    patch = torch.randn(1, 1, *model.window.size, device=model.device)

    def forward() -> None:
        with torch.no_grad():
            model.network(patch)

    def both() -> None:
        x = patch.clone().requires_grad_()
        torch.autograd.grad(model.network(x).sum(), x)

    one, pair = seconds_of(forward, model.device), seconds_of(both, model.device)
    return {"forward_backward": steps * windows * pair, "twice_forward_backward": steps * windows * (pair + one)}


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """Seconds of the attack's steps, from its first to its last, beside the floors."""
    model, image = victim(case, device), scan(case)
    windows = count_windows(model.on(image))
    ready = prepare(Job("", steps=case.steps, eps=4.0, force=True), image=image, victim=model)
    least, effort, ends = floors(model, windows, case.steps), Effort(), []
    craft(ready, effort, Listener(step=lambda *told: ends.append(time.perf_counter())))
    took = (ends[-1] - ends[0]) / (len(ends) - 1) * case.steps
    return {
        "attack": ATTACK,
        "shape": case.shape,
        "windows": windows,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "steps": case.steps,
        "seconds": took,
        "floors": least,
        "times_forward_backward": took / least["forward_backward"],
        "windows_kept": effort.windows_kept,
        "memory_bytes": peak_bytes(device),
        "notes": effort.notes,
    }


def tested() -> int:
    """The exit status of the tests that need CUDA."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/core"]
    return subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="a tiny case on the CPU, without the tests")
    dry = parser.parse_args().dry
    if not dry and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; --dry runs a tiny case on the CPU.")
    device = torch.device("cpu" if dry else "cuda")
    status = None if dry else tested()
    found = {
        "device": machine.processor() if dry else torch.cuda.get_device_name(),
        "cores": os.cpu_count(),
        "versions": machine.versions(),
        "tests": {None: "not run", 0: "passed"}.get(status, f"failed with status {status}"),
        **measure(DRY if dry else FULL, device),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
