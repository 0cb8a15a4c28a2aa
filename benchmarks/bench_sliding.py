"""What one exact gradient of a sliding-window prediction costs, beside the ways it is usually computed.

    python benchmarks/bench_sliding.py CASE ARM      peak memory of one arm, measured in this fresh process, in bytes

A case is a network, a volume and an objective; an arm is one way to the gradient. Arms are interleaved, so that
whatever slows the machine down for a while slows all of them, and counted in CPU seconds of this process. The floors
are what no exact method can go below: each window once forward and once backward (F+B), or twice forward and once
backward (2F+B), without any blending.
"""

import importlib.util
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perturbox.model.sliding import Window, sliding_window
from perturbox.model.windows import Grid
from perturbox.types import Effort

MB = 2**20
WINDOW = Window((32, 32, 32), overlap=0.5, blend="gaussian", batch=4)


@dataclass(frozen=True)
class Case:
    """network: "UNet", "SegResNet" or "pointwise". region: the objective looks at the middle 24³ voxels only."""

    network: str
    classes: int
    shape: tuple[int, int, int]
    region: bool = False

    @property
    def windows(self) -> int:
        return math.prod(max(math.ceil((n - 32) / 16), 0) + 1 for n in self.shape)

    @property
    def title(self) -> str:
        size = "×".join(map(str, self.shape))
        region = ", one small region" if self.region else ""
        return f"{self.network}, {self.classes} classes, {size}, {self.windows} windows{region}"


CASES = {
    "unet-3-27": Case("UNet", 3, (64, 64, 64)),
    "unet-3-125": Case("UNet", 3, (96, 96, 96)),
    "unet-3-343": Case("UNet", 3, (128, 128, 128)),
    "unet-14-27": Case("UNet", 14, (64, 64, 64)),
    "unet-14-125": Case("UNet", 14, (96, 96, 96)),
    "segresnet-3-27": Case("SegResNet", 3, (64, 64, 64)),
    "segresnet-3-125": Case("SegResNet", 3, (96, 96, 96)),
    "segresnet-14-27": Case("SegResNet", 14, (64, 64, 64)),
    "segresnet-14-125": Case("SegResNet", 14, (96, 96, 96)),
    "region": Case("UNet", 3, (96, 96, 96), region=True),
    "smaller": Case("UNet", 3, (24, 64, 20)),
    "near-free": Case("pointwise", 3, (96, 96, 96)),
}
QUICK = ("unet-3-27", "region", "smaller", "near-free")


class Bench:
    """A case made ready to run, the same in every process."""

    def __init__(self, case: Case):
        torch.manual_seed(0)
        self.case = case
        self.network = {
            "UNet": lambda: UNet(3, 1, case.classes, (8, 16, 32, 64), (2, 2, 2), num_res_units=1),
            "SegResNet": lambda: SegResNet(3, init_filters=8, in_channels=1, out_channels=case.classes),
            "pointwise": lambda: nn.Conv3d(1, case.classes, 1),
        }[case.network]().eval()
        self.x = torch.rand(1, 1, *case.shape)
        self.labels = torch.randint(case.classes, (1, *case.shape))
        self.box = (..., *(slice(n // 2 - 12, n // 2 + 12) for n in case.shape)) if case.region else ...
        self.support = torch.zeros(case.shape, dtype=torch.bool)
        self.support[self.box] = True

    def loss(self, prediction: Tensor) -> Tensor:
        return F.cross_entropy(prediction[self.box], self.labels[self.box])

    def gradient(self, predict: Callable[[Tensor], Tensor]) -> Tensor:
        x = self.x.clone().requires_grad_()
        return torch.autograd.grad(self.loss(predict(x)), x)[0]

    def freeze(self, frozen: bool) -> None:
        for parameter in self.network.parameters():
            parameter.requires_grad_(not frozen)

    def monai(self, x: Tensor, network: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        prediction = sliding_window_inference(
            x, WINDOW.size, WINDOW.batch, network or self.network, WINDOW.overlap, WINDOW.blend
        )
        assert isinstance(prediction, Tensor)
        return prediction

    def batches(self) -> Iterator[Tensor]:
        """The window batches themselves, padded; in the region's case those that matter to it."""
        grid = Grid.over(self.x, WINDOW, self.support if self.case.region else None)
        for start in range(0, len(grid.places), WINDOW.batch):
            patches = [place.of(self.x) for place in grid.places[start : start + WINDOW.batch]]
            yield grid.pad(torch.cat(patches), WINDOW)


# ---- the arms: one gradient each, None where the arm makes none


def forward(bench: Bench) -> None:
    with torch.no_grad():
        bench.monai(bench.x)


def floor(bench: Bench, forwards: int) -> None:
    for patches in bench.batches():
        with torch.no_grad():
            for _ in range(forwards - 1):
                bench.network(patches)
        prediction = bench.network(patches.requires_grad_())
        torch.autograd.grad(prediction, patches, torch.ones_like(prediction))


def naive(bench: Bench) -> Tensor:
    return bench.gradient(bench.monai)


def naive_backward(bench: Bench) -> Tensor | None:
    """What published attacks do: `loss.backward()`, which computes the gradients of all parameters too."""
    bench.freeze(False)
    x = bench.x.clone().requires_grad_()
    bench.loss(bench.monai(x)).backward()
    bench.network.zero_grad()
    bench.freeze(True)
    return x.grad


def monai_checkpoint(bench: Bench) -> Tensor:
    network = partial(checkpoint, bench.network, use_reentrant=False)
    return bench.gradient(lambda x: bench.monai(x, network))


def ours(bench: Bench, budget: int | None, support: bool = False, effort: Effort | None = None) -> Tensor:
    mask = bench.support if support else None
    return bench.gradient(
        lambda x: sliding_window(bench.network, x, WINDOW, support=mask, memory_budget=budget, effort=effort)
    )


class Stitched(nn.Module):
    """torchattacks wants a module from an image in [0, 1] to logits."""

    def __init__(self, bench: Bench):
        super().__init__()
        self.bench, self.network = bench, bench.network

    def forward(self, x: Tensor) -> Tensor:
        return self.bench.monai(x)


def torchattacks_step(bench: Bench) -> None:
    import torchattacks

    bench.freeze(False)
    torchattacks.PGD(Stitched(bench), eps=0.1, alpha=0.01, steps=1, random_start=False)(bench.x, bench.labels)
    bench.freeze(True)


ARMS: dict[str, Callable[[Bench], Tensor | None]] = {
    "forward": forward,
    "floor F+B": partial(floor, forwards=1),
    "floor 2F+B": partial(floor, forwards=2),
    "naive autograd.grad": naive,
    "naive backward()": naive_backward,
    "MONAI + checkpoint": monai_checkpoint,
    "two-pass": partial(ours, budget=0),
    "hybrid 64 MB": partial(ours, budget=64 * MB),
    "hybrid 256 MB": partial(ours, budget=256 * MB),
    "hybrid, ample": partial(ours, budget=2**40),
    "two-pass, support": partial(ours, budget=0, support=True),
    "torchattacks PGD step": torchattacks_step,
}


def absent(arm: str, case: Case) -> str | None:
    """Why an arm isn't run on a case, or None."""
    if arm == "torchattacks PGD step":
        if importlib.util.find_spec("torchattacks") is None:
            return "torchattacks isn't installed here"
        if case.region:
            return "torchattacks has no objective on a region"
    if arm == "two-pass, support" and not case.region:
        return "the objective looks at the whole volume"
    return None


# ---- measuring


def measure(case: Case, rounds: int, progress: Callable[[str], None]) -> dict:
    """CPU seconds of every arm, interleaved over the rounds after one unmeasured round, and each gradient's error."""
    bench = Bench(case)
    bench.freeze(True)
    arms = {name: run for name, run in ARMS.items() if absent(name, case) is None}
    exact = naive(bench)
    rows: dict[str, dict] = {}
    for name, run in arms.items():
        gradient = run(bench)
        error = None if gradient is None else float((gradient - exact).norm() / exact.norm())
        rows[name] = {"seconds": [], "gradient_error": error}
    for number in range(rounds):
        for name, run in arms.items():
            start = time.process_time()
            run(bench)
            rows[name]["seconds"].append(time.process_time() - start)
        progress(f"{case.title}: round {number + 1} of {rounds}")
    for row in rows.values():
        row["cpu_s"] = statistics.median(row["seconds"])
        row["ms_per_window"] = 1000 * row["cpu_s"] / case.windows
    for name, budget in (("two-pass", 0), ("hybrid, ample", 2**40)):
        effort = Effort()
        ours(bench, budget, effort=effort)
        rows[name]["effort"] = asdict(effort)
    for name in ARMS:
        if reason := absent(name, case):
            rows[name] = {"absent": reason}
    return rows


def peak_memory(case: Case, arm: str) -> int:
    """Bytes that running `arm` once adds to this process; to be called in a process that has run nothing else."""
    bench = Bench(case)
    bench.freeze(True)
    linux = Path("/proc/self/clear_refs")
    if not linux.exists():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ARMS[arm](bench)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # Makes Linux forget the peak of importing; the peak below is then the arm's own.
    linux.write_text("5", encoding="utf-8")
    before = _resident("VmRSS")
    ARMS[arm](bench)
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    print(peak_memory(CASES[sys.argv[1]], sys.argv[2]))
