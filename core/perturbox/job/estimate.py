"""What a job will cost, said before it starts: one window batch of the real victim is timed, the rest is counting; and
whether it fits in memory, without which it isn't started.

Metrics, files and the report are not timed; they take seconds.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perturbox.attacks.attack import Climb, Task
from perturbox.attacks.budget import Budget
from perturbox.job.inputs import Listener, Ready
from perturbox.judge.measure import CONTROL_SEEDS
from perturbox.model.defended import Defended
from perturbox.model.ensemble import Ensemble
from perturbox.model.memory import available_bytes, graph_budget, peak_bytes
from perturbox.model.sliding import Inside, sliding_window
from perturbox.model.victim import BoundVictim, Victim, count_windows
from perturbox.types import Effort, InputError, Volume

# Predictions that judge an attack: clean, perturbed, random noise, rolled, and three harmless changes.
JUDGING = 2 + CONTROL_SEEDS + 1 + 3
# Volumes of the scan's size that are alive at once while it is attacked and measured, in 4-byte voxels.
SCAN_BUFFERS = 14
# The prediction, its gradient, and a loss's temporaries.
LOGITS_BUFFERS = 4
ALL_GRAPHS = 2**62
# Time a call so often, or until so many seconds are spent; only a call that takes long is timed once, cold.
REPEATS, ENOUGH, LONG = 5, 0.5, 5.0


@dataclass(frozen=True)
class Estimate:
    """seconds: of everything; afterwards: of what follows the attack; bytes: largest memory; least: with no graph kept;
    available: memory free now; windows: of one prediction; device: where; grows: what of `least` grows with the scan,
    scores: what of that with the model's classes."""

    seconds: float
    afterwards: float
    bytes: int
    least: int
    available: int
    windows: int
    device: str
    grows: int = 0
    scores: int = 0
    classes: int = 0

    @property
    def fits(self) -> bool:
        return self.least <= self.available

    def require_room(self) -> None:
        """Raises InputError, with what would fit, where even the least is more than there is."""
        if self.fits:
            return
        part = (self.available - self.least + self.grows) / max(self.grows, 1)
        much = f", {_gb(self.scores)} of it for the scores of {self.classes} classes" if self.classes > 2 else ""
        smaller = (
            f"a part of it with {math.floor(100 * part)} % of its voxels would fit: crop it to the organ"
            if part >= 0.01
            else "no part of it would fit beside the model and one of its windows: choose a smaller window"
        )
        raise InputError(
            f"This scan needs {_gb(self.least)} of memory on {self.device} with this model{much}, and "
            f"{_gb(self.available)} are free; {smaller}, use a device with more memory, or pass --force to try."
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


@dataclass(frozen=True)
class Costs:
    """Seconds of one prediction (forward), of one step's gradient, of turning logits into labels; memory in bytes, of
    buffers the part that grows with the classes (scores)."""

    windows: int
    forward: float
    gradient: float
    labelling: float
    buffers: int
    scores: int
    classes: int
    graphs: int
    one_graph: int

    def prediction(self) -> float:
        return self.forward + self.labelling


def estimate_attack(ready: Ready, oblivious: bool = True, timed: bool = True) -> Estimate:
    """Time and memory of an attack with its judging; oblivious: of a defended model also the one that knows of no
    defence; timed: False for the memory alone, which takes one batch."""
    costs = measure_costs(ready.victim.plain, ready.image, ready, timed)
    climbing = _climbing(ready, costs)
    afterwards = (JUDGING - 1) * costs.prediction()
    if isinstance(victim := ready.victim, Defended):
        tried = len(victim.candidates) if ready.attack.uses_gradient else 1
        climbing *= oblivious + tried * victim.draws
        afterwards = victim.draws * (afterwards + (2 + tried) * costs.prediction())
        costs = _behind(victim, ready.image, costs, ready.attack.uses_gradient)
    return _estimate(costs, costs.prediction() + climbing + afterwards, afterwards, ready.victim)


def fitting(ready: Ready, listener: Listener | None = None) -> Ready:
    """The prepared job of an attack or of a search for the margin; raises InputError, as `Estimate.require_room`, where
    it would run out of memory, unless the job says `force`."""
    if not ready.job.force:
        (listener or Listener()).say("Looking whether it fits in memory")
        estimate_attack(ready, timed=False).require_room()
    return ready


def require_room_to_predict(victim: Victim, image: Volume) -> None:
    """Raises InputError where a segmentation would run out of memory, as `Estimate.require_room`."""
    estimate_prediction(victim, image, timed=False).require_room()


def _behind(victim: Defended, image: Volume, costs: Costs, gradient: bool) -> Costs:
    """Memory of a model's every draw, and of what its defences keep for a gradient."""
    states = sum(one.states for one in victim.chain) * image.dims * 4 * image.data.size if gradient else 0
    return replace(
        costs,
        graphs=victim.draws * costs.graphs,
        one_graph=victim.draws * costs.one_graph,
        buffers=victim.draws * (costs.buffers + states),
        scores=victim.draws * costs.scores,
    )


def estimate_margin(ready: Ready, max_eps: float) -> Estimate:
    """Time and memory of a search up to max_eps, in the scan's own unit, at most: attacks end early where a structure
    breaks."""
    costs = measure_costs(ready.victim.plain, ready.image, ready)
    doublings = max(1, math.ceil(math.log2(max_eps / (ready.scan.step or max_eps / 64))) + 1)
    # Bisecting below 2^n takes up to n - 1 attacks, and each structure has its own.
    attacks = doublings + len(ready.goal.targets) * max(1, doublings - 2)
    trial = _climbing(ready, costs) + 2 * costs.prediction()  # judged, and beside it random noise
    afterwards = len(ready.goal.targets) * (JUDGING - 1) * costs.prediction()
    seconds = 4 * costs.prediction() + attacks * trial + afterwards
    if isinstance(victim := ready.victim, Defended):  # each trial with every stand-in, and all of it without them
        tried = victim.draws * (len(victim.candidates) if ready.attack.uses_gradient else 1)
        seconds, afterwards = (1 + tried) * seconds, (1 + victim.draws) * afterwards
        costs = _behind(victim, ready.image, costs, ready.attack.uses_gradient)
    return _estimate(costs, seconds, afterwards, victim)


def estimate_prediction(victim: Victim, image: Volume, timed: bool = True) -> Estimate:
    """Time and memory of one segmentation; timed: as in `estimate_attack`."""
    costs, draws = measure_costs(victim.plain, image, None, timed), 1
    if isinstance(victim, Defended):
        costs, draws = _behind(victim, image, costs, gradient=False), victim.draws
    return _estimate(costs, draws * costs.prediction(), 0.0, victim)


def _climbing(ready: Ready, costs: Costs) -> float:
    """Seconds of all rounds; with surrogates as if each of them were the victim."""

    def one(leaf: Climb) -> float:
        step = (costs.gradient if leaf.uses_gradient else costs.forward) + leaf.queries * costs.forward
        return leaf.steps * step + costs.forward

    rounds = [leaf.restarts * one(leaf) for leaf in ready.attack.leaves()]
    views = max(1, len(ready.surrogates)) * max(1, len(ready.others))
    return views * (sum(rounds) + ready.attack.refine * max(rounds))


def _estimate(costs: Costs, seconds: float, afterwards: float, victim: Victim) -> Estimate:
    base = (peak_bytes(torch.device("cpu")) or 0) if victim.device.type == "cpu" else 0
    fixed = base + costs.buffers
    return Estimate(
        seconds,
        afterwards,
        fixed + costs.graphs,
        fixed + costs.one_graph,
        base + available_bytes(victim.device),
        costs.windows,
        str(victim.device),
        costs.buffers,
        costs.scores,
        costs.classes,
    )


def measure_costs(victim: Victim, image: Volume, ready: Ready | None, timed: bool = True) -> Costs:
    """Time one window batch, and resampling and loss on a slab; scale both to the scan. `ready` None: no gradient;
    timed: False for the memory alone."""
    if isinstance(victim, Ensemble):
        return _together([measure_costs(member, image, ready, timed) for member in victim.members])
    bound = victim.on(image)
    windows = count_windows(bound)
    batch = min(victim.window.batch, windows)
    effort = Effort()
    patches = torch.randn(batch, victim.channels, *victim.window.size, device=victim.device)
    needs_gradient = ready is not None and ready.attack.uses_gradient

    classes = 0

    def forward() -> None:
        nonlocal classes
        with torch.no_grad():
            classes = sliding_window(victim.network, patches, victim.window).shape[1]
        victim.require_channels(classes, effort)

    def both() -> None:
        nonlocal classes
        x = patches.requires_grad_()
        out = sliding_window(victim.network, x, victim.window, memory_budget=ALL_GRAPHS, effort=effort)
        torch.autograd.grad(out.sum(), x)
        classes = out.shape[1]
        victim.require_channels(classes, effort)

    def seconds(work: Callable[[], object]) -> float:
        if timed:
            return _timed(work, victim.device)
        work()
        return 0.0

    batches = windows / batch
    one_forward = 0.0 if needs_gradient and not timed else seconds(forward) * batches  # the gradient says as much
    one_both = seconds(both) * batches if needs_gradient else one_forward
    scan_bytes = 4 * image.data.size
    logits_bytes = 4 * classes * math.prod(bound.grid.target)
    all_graphs = math.ceil(batches) * effort.saved_bytes
    kept = min(all_graphs, graph_budget(victim.device, logits_bytes)) if needs_gradient else 0
    again = (1 - kept / all_graphs) * one_forward if all_graphs else 0.0  # graphs not kept are computed a second time
    held = max(leaf.buffers for leaf in ready.attack.leaves()) if ready else LOGITS_BUFFERS
    around, labelling = _around_the_network(victim, image, classes, ready) if timed else (0.0, 0.0)
    return Costs(
        windows=windows,
        forward=one_forward + around / 3,  # of a forward and a backward pass, about
        gradient=one_both + again + around,
        labelling=labelling,
        buffers=SCAN_BUFFERS * scan_bytes + held * logits_bytes,
        scores=held * logits_bytes,
        classes=classes,
        graphs=max(kept, effort.saved_bytes),
        one_graph=effort.saved_bytes,
    )


def _together(costs: list[Costs]) -> Costs:
    """One after another; what each holds for its step is held together."""
    return Costs(
        windows=sum(cost.windows for cost in costs),
        forward=sum(cost.forward for cost in costs),
        gradient=sum(cost.gradient for cost in costs),
        labelling=max(cost.labelling for cost in costs),
        buffers=sum(cost.buffers for cost in costs),
        scores=sum(cost.scores for cost in costs),
        classes=max(cost.classes for cost in costs),
        graphs=sum(cost.graphs for cost in costs),
        one_graph=max(cost.one_graph for cost in costs),
    )


def _around_the_network(victim: Victim, image: Volume, classes: int, ready: Ready | None) -> tuple[float, float]:
    """Seconds per evaluation for resampling and loss with their backward passes, and for turning logits into labels."""
    thickness = max(1, image.shape[-1] // 8)
    slab = image.with_data(image.data[..., :thickness])
    scale = image.shape[-1] / thickness
    bound = victim.on(slab)
    x = torch.from_numpy(slab.data)[None].to(victim.device, torch.float32).requires_grad_()
    scores = torch.rand(classes, *bound.grid.target, device=victim.device)

    everywhere = torch.ones(1, 1, *slab.shape, dtype=torch.bool, device=victim.device)
    values = victim.visible or (float(image.data.min()), float(image.data.max()))
    limits = Budget(math.inf, "linf", everywhere, values, slab.step, slab.spacing, values)
    pretended = _Pretended(bound, scores, limits)

    def evaluation() -> None:
        if ready is None:
            pretended(x)
            return
        zeros = torch.zeros(1, *bound.grid.target, dtype=torch.int64, device=victim.device)
        weight, regions = torch.ones_like(zeros, dtype=torch.float32), victim.membership()
        chosen = ready.goal.targets if regions is None else tuple(range(classes))
        task = Task(zeros, weight, False, chosen, regions, x.detach(), bound.grid_spacing(slab))
        objective = next(ready.attack.leaves()).objective
        torch.autograd.grad(objective(pretended, x, task, 0.0), x)

    labelling = _timed(lambda: bound.grid.argmax_to_native(scores), victim.device)
    return _timed(evaluation, victim.device) * scale, labelling * scale


@dataclass(frozen=True, eq=False)
class _Pretended:
    """A model whose network costs nothing."""

    bound: BoundVictim
    scores: Tensor
    budget: Budget

    def prepare(self, x: Tensor) -> Tensor:
        return self.bound.prepare(x)

    def slide(self, prepared: Tensor) -> Tensor:
        return prepared[:, :1] * self.scores

    def __call__(self, x: Tensor) -> Tensor:
        return self.slide(self.prepare(x))

    def look_inside(self, x: Tensor, inside: Inside) -> tuple[Tensor, Tensor]:
        return self(x), x.new_zeros(())

    def undivided(self, logits: Tensor) -> Tensor:
        return logits


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: the best of a few if it is quick, as the first sets up and other programs interfere.

    On a CPU, those of the calling thread, which takes part in all of the work: other programs' time isn't counted.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    best, spent = math.inf, 0.0
    for repeat in range(REPEATS):
        started = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = clock() - started
        best, spent = min(best, seconds), spent + seconds
        if spent > (ENOUGH if repeat else LONG):
            break
    return best
