"""The exact gradient of a sliding-window prediction, in bounded memory.

Blending overlapping windows is linear: with windows w, weights m and their sum t, the stitched prediction is

    S(x) = sum_w  P_w^T ( m * f(P_w x) ) / t        P_w cuts window w out of the volume, f is the network,

so the gradient of any objective L(S(x)) is

    dL/dx = sum_w  P_w^T J_f(P_w x)^T ( m * P_w (dL/dS / t) ).

Each term needs one window only. A first pass over the windows builds S; whatever L does with S is ordinary PyTorch; a
second pass cuts dL/dS into windows and pulls each back through the network. Recording every window at once, as plain
autograd would, needs memory in proportion to the volume; here the first pass keeps the graphs of as many window batches
as fit a byte budget, and the second pass recomputes the rest. The two ways give identical bits: neither the composition
of the batches nor the order of summation depends on the budget. That needs a deterministic network, hence eval mode
while it runs.

A loss may also look at what happens inside each window, such as at a layer's features: being a sum over windows, it is
computed in the first pass and pulled back with each window in the second.

`sliding_window` is the public face; `_Stitch` ties the two passes into one node of PyTorch's graph; `_Sweep` walks the
windows.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from perturbox.model.finite import undefined_of
from perturbox.model.memory import graph_budget
from perturbox.model.network import Network, chosen, current_autocast, evaluating, saved_storages, tapped
from perturbox.model.windows import Grid, Place, Window
from perturbox.types import Effort, InputError

__all__ = ["Effort", "Inside", "Window", "sliding_window", "sliding_window_with"]


@dataclass(frozen=True)
class Inside:
    """A loss on what happens inside the windows.

    layers: names of the network's modules (`nn.Module.named_modules`) whose outputs it sees. loss({layer: features "n
    ..."}, places of the n windows, their predictions "n k *p") -> scalar, the sum of something over these windows, so
    that it doesn't matter which windows share a batch; deterministic. Padding around a scan smaller than the window is
    part of the features.
    """

    layers: tuple[str, ...]
    loss: Callable[[dict[str, Tensor], list[Place], Tensor], Tensor]


def sliding_window(
    network: Network,
    x: Tensor,
    window: Window,
    *,
    support: Tensor | None = None,
    memory_budget: int | None = None,
    effort: Effort | None = None,
    output: str | int | None = None,
    train: bool = False,
) -> Tensor:
    """Predict a volume window by window; the result is differentiable with respect to `x`, exactly.

    x: "b c *s" (2D or 3D, float32 or float64) on the network's grid; returns the blended prediction "b k *s".
    support: bool "*s"; windows that don't touch it are not computed, and outside it the prediction is 0.
    memory_budget: bytes of autograd graphs to keep for the backward pass; 0 recomputes every window, None takes part of
    the memory that is free. The gradient is bit for bit the same for every budget.
    effort: counters to add to; where CUDA memory runs out the window batch is halved, with a line in its notes.
    output: which entry of a tuple, list or dict the network returns; by default the first, or the entry named "out",
    "pred" or "logits".

    train: also differentiable with respect to those parameters of the network (then an `nn.Module`) that require it.

    The network runs in eval mode and, unless `train` is set, its parameters get no gradient; both are restored. It must
    be deterministic, and a plain function must see to eval mode itself. The gradient can't be differentiated again.
    Raises InputError when x, window and the network's output don't fit together.
    """
    settings = {"support": support, "memory_budget": memory_budget, "effort": effort, "output": output, "train": train}
    return sliding_window_with(network, x, window, None, **settings)[0]


def sliding_window_with(
    network: Network,
    x: Tensor,
    window: Window,
    inside: Inside | None,
    *,
    support: Tensor | None = None,
    memory_budget: int | None = None,
    effort: Effort | None = None,
    output: str | int | None = None,
    train: bool = False,
    sums: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """As `sliding_window`, and the sum of a loss inside the windows (0 without one), both differentiable, exactly.

    sums: the precision windows are added up in where no gradient is asked for; None for the input's.
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"The network's input must be float32 or float64, not {getattr(x, 'dtype', type(x))}; convert it."
        )
    effort = Effort() if effort is None else effort
    grid, autocast = Grid.over(x, window, support), current_autocast(x)
    weights: list[Tensor] = []
    if train:
        if not isinstance(network, nn.Module):
            raise InputError("Only the parameters of an nn.Module can be trained; give the network as one.")
        weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    sweep = _Sweep(network, window, grid, effort, output, memory_budget, autocast, inside, tuple(weights))
    if torch.is_grad_enabled() and (x.requires_grad or weights):
        found = _Stitch.apply(x, sweep, *weights)
        assert isinstance(found, tuple)
        return found
    return sweep.stitch(x.detach(), keep_graphs=False, sums=sums)


class _Stitch(torch.autograd.Function):
    """The two passes as one node of PyTorch's graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sweep: "_Sweep", *weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.sweep = sweep
        ctx.save_for_backward(x)
        # The weights are arguments for the graph's sake alone; the network holds them itself.
        return sweep.stitch(x.detach(), keep_graphs=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, share: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of a sliding-window prediction can't be differentiated again; drop create_graph=True."
            )
        (x,) = ctx.saved_tensors
        pulled, weights = ctx.sweep.pull_back(x, gradient, share)
        return pulled, None, *weights


class _Lent(torch.autograd.Function):
    """The same numbers in the same memory as a tensor that may be written into: a batch's patches are of no further
    use."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor) -> Tensor:
        return patches.new_empty(0).set_(patches)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return gradients[0]


class _Graph(NamedTuple):
    """The recorded network call of one window batch: where its gradient enters and where it leaves.

    inside: where that of the loss inside the windows enters, None where there is none. The prediction itself isn't
    held, unless the network's own graph needs it.
    """

    prediction: GradientEdge
    dtype: torch.dtype
    patches: Tensor
    inside: GradientEdge | None


@dataclass(eq=False)
class _Sweep:
    """One prediction of one volume: its windows, the graphs kept of them, and the two passes.

    A batch is a list of indices into grid.places; its graph, where kept, is filed under the first of them.
    """

    network: Network
    window: Window
    grid: Grid
    effort: Effort
    output: str | int | None
    memory_budget: int | None
    autocast: Callable[[], AbstractContextManager]
    inside: Inside | None = None
    weights: tuple[Tensor, ...] = ()
    batches: list[list[int]] = field(default_factory=list)
    graphs: dict[int, _Graph] = field(default_factory=dict)
    graph_bytes: int | None = None

    # ---- the two passes

    def stitch(self, x: Tensor, keep_graphs: bool, sums: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """The blended prediction "b k *s" and the sum of the loss inside the windows; keeps the graphs of the first
        window batches while the budget allows."""
        if not keep_graphs:
            self.memory_budget = 0
        stitched: Tensor | None = None
        total, sums_of = x.new_zeros(()), []

        def add(batch: list[int]) -> None:
            nonlocal stitched, total
            prediction, loss = self._first_prediction(x, batch)
            prediction = prediction.to(x.dtype)
            total = total + loss
            if stitched is None:
                stitched = x.new_zeros(x.shape[0], prediction.shape[1], *x.shape[2:], dtype=sums or x.dtype)
            # Not in place, because the network's graph may hold its output; not fused, to equal MONAI bit for bit.
            for index, window in zip(batch, prediction * self.grid.weight, strict=True):
                self.grid.places[index].of(stitched)[0].add_(window)
            self.batches.append(batch)
            sums_of.append(prediction.flatten(1).sum(1))  # not looked at before the end, so that a device needn't wait

        # Who only predicts, and above all who judges, gets torch's own arithmetic, which its framework has too.
        with evaluating(self.network, frozen=not self.weights, fast=keep_graphs), torch.no_grad():
            self._walk(list(range(len(self.grid.places))), add)
        assert stitched is not None
        stitched.div_(self.grid.total if sums is None else self.grid.total_in(sums))
        self.effort.undefined = undefined_of(stitched, sums_of)
        return stitched, total

    def pull_back(self, x: Tensor, gradient: Tensor, share: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The gradients with respect to x, "b c *s", and to the weights that are trained, from that with respect to the
        blended prediction and that with respect to the loss inside the windows (`share`).

        Windows without upstream gradient and without such a loss are skipped. What is left of a batch that held some is
        pooled into full batches, so that a sparse gradient costs what its windows cost; pooled windows are always
        recomputed, so that which windows share a batch depends on the gradient alone, never on the budget.
        """
        pulled = torch.zeros_like(x)
        trained = [torch.zeros_like(weight) for weight in self.weights]
        pooled: list[int] = []

        def pull(batch: list[int]) -> None:
            graph = self.graphs.pop(batch[0], None)
            upstream = self._upstream(gradient, batch)
            if self.inside is not None:
                live = [True] * len(batch)
            else:
                live = (torch.linalg.vector_norm(upstream.flatten(1), torch.inf, dim=1) != 0).tolist()
            if not all(live):
                pooled.extend(index for index, alive in zip(batch, live, strict=True) if alive)
                self.effort.windows_skipped += live.count(False)
                return
            kept = graph is not None
            graph = graph or self._record(x, batch)[2]
            enters, entering = [graph.prediction], [upstream.to(graph.dtype)]
            if graph.inside is not None:
                enters, entering = [*enters, graph.inside], [*entering, share]
            # Only what is asked for is computed: no gradient of a parameter unless it is trained.
            asked = (graph.patches, *self.weights)
            part, *shares = torch.autograd.grad(enters, asked, entering, allow_unused=True)
            self.effort.backwards += len(batch) / self.grid.count
            self.effort.windows_kept += len(batch) if kept else 0
            if part is not None:
                for index, window in zip(batch, part, strict=True):
                    self.grid.places[index].of(pulled)[0].add_(window)
            for total, one in zip(trained, shares, strict=True):
                if one is not None:
                    total.add_(one)

        with evaluating(self.network, frozen=not self.weights, fast=True), self.autocast():
            for batch in self.batches:
                self._walk(batch, pull)
            self._walk(pooled, pull)
        self.effort.windows += len(self.grid.places)
        return pulled, trained

    # ---- one window batch

    def _patches(self, x: Tensor, batch: list[int]) -> Tensor:
        return torch.cat([self.grid.places[index].of(x) for index in batch])

    def _upstream(self, gradient: Tensor, batch: list[int]) -> Tensor:
        """The gradient with respect to the batch's own predictions: its share of that of the blended one."""
        upstream = gradient.new_empty(len(batch), gradient.shape[1], *self.grid.weight.shape[2:])
        for index, window in zip(batch, upstream, strict=True):
            place = self.grid.places[index]
            # Divided first, then weighted, as autograd does through MONAI: the same bits enter the network.
            torch.div(place.of(gradient)[0], self.grid.total[(0, slice(None), *place.box)], out=window)
        upstream.mul_(self.grid.weight)
        return upstream

    def _predict(self, patches: Tensor, batch: list[int]) -> tuple[Tensor, Tensor]:
        """The network's prediction "n k *p" of patches "n c *p", and the loss inside these windows."""
        padded = self.grid.pad(patches, self.window)
        with tapped(self.network, self.inside.layers if self.inside is not None else ()) as features:
            # A network may write into its input, which autograd forbids where that is the patches themselves.
            if padded.requires_grad and padded.is_leaf:
                padded = _Lent.apply(padded)
            prediction = chosen(self.network(padded), self.output)
        self.effort.model_calls += 1
        self.effort.forwards += len(patches) / self.grid.count
        expected = (padded.shape[0], *padded.shape[2:])
        if prediction.dim() != padded.dim() or (prediction.shape[0], *prediction.shape[2:]) != expected:
            raise InputError(
                f"The network turned windows of shape {tuple(padded.shape)} into {tuple(prediction.shape)}; "
                "it must return one score map per class of the same spatial size (choose another `output` or resample)."
            )
        prediction = self.grid.crop(prediction)
        if self.inside is None:
            return prediction, prediction.new_zeros(())
        return prediction, self.inside.loss(features, [self.grid.places[index] for index in batch], prediction)

    def _record(self, x: Tensor, batch: list[int]) -> tuple[Tensor, Tensor, _Graph]:
        """The prediction of a batch, the loss inside it, and the graph that leads from both back to the patches."""
        patches = self._patches(x, batch)
        with torch.enable_grad():
            prediction, loss = self._predict(patches.requires_grad_(), batch)
        if not prediction.requires_grad:
            raise InputError(
                "The network's output doesn't depend on its input in a way PyTorch can differentiate; "
                "return logits or probabilities (no argmax, no detach, no NumPy in between), "
                "or use an attack that needs no gradient, such as square."
            )
        inside = get_gradient_edge(loss) if loss.requires_grad else None
        graph = _Graph(get_gradient_edge(prediction), prediction.dtype, patches, inside)
        return prediction.detach(), loss.detach(), graph

    def _first_prediction(self, x: Tensor, batch: list[int]) -> tuple[Tensor, Tensor]:
        """The prediction of a batch in the first pass, and the loss inside it; its graph is kept where the budget has
        room for it."""
        if not self._has_room():
            return self._predict(self._patches(x, batch), batch)
        if self.graph_bytes is not None:
            prediction, loss, graph = self._record(x, batch)
        else:
            # Equal windows make equal graphs, so the first one tells what each costs.
            with saved_storages(self.network) as storages:
                prediction, loss, graph = self._record(x, batch)
            own = graph.patches.untyped_storage()
            self.graph_bytes = sum((storages | {own.data_ptr(): own.nbytes()}).values())
            if self.memory_budget is None:
                volume_bytes = x[:, 0].numel() * x.element_size()
                self.memory_budget = graph_budget(x.device, prediction.shape[1] * volume_bytes)
        if self._has_room():
            self.graphs[batch[0]] = graph
            self.effort.saved_bytes = max(self.effort.saved_bytes, len(self.graphs) * self.graph_bytes)
        return prediction, loss

    def _has_room(self) -> bool:
        """Whether the graph of one more batch fits the budget, as far as that is known yet."""
        if self.memory_budget is None:
            return True
        return self.memory_budget > 0 and (len(self.graphs) + 1) * (self.graph_bytes or 0) <= self.memory_budget

    def _walk(self, windows: list[int], work: Callable[[list[int]], None]) -> None:
        """Do `work` batch by batch; where CUDA memory runs out, drop kept graphs, then halve the batch, and say so.

        `work` must not have changed anything when it runs out of memory.
        """
        size, done = self.window.batch, 0
        while done < len(windows):
            batch = windows[done : done + size]
            if _fits(work, batch):
                done += len(batch)
                continue
            if self.graphs:
                self.graphs.clear()
                self.memory_budget = 0
                note = "Out of CUDA memory: the graphs kept of windows were released, the rest is recomputed."
            elif len(batch) > 1:
                size = len(batch) // 2
                note = f"Out of CUDA memory: the window batch was halved from {len(batch)} to {size}."
            else:
                raise torch.OutOfMemoryError(
                    f"One window of {self.window.size} voxels doesn't fit into the memory of the device; "
                    "choose a smaller window or another device."
                )
            if note not in self.effort.notes:
                self.effort.notes.append(note)


def _fits(work: Callable[[list[int]], None], batch: list[int]) -> bool:
    """Do `work` on a batch; False when it runs out of CUDA memory."""
    try:
        work(batch)
        return True
    except torch.OutOfMemoryError:
        pass
    # Only here, outside the handler, is the traceback gone and with it the tensors its frames hold.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
