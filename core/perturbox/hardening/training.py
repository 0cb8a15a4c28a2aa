"""Adversarial training in any loop: one call takes the place of the loop's loss, and remembers what its method must.

    minimise over weights    mean over batches of  max over x' near x of  loss(network(prepare(x')), y)

Madry et al. 2018, arXiv 1706.06083. Batches are adversarial only unless `clean` says otherwise: half-clean ones left
segmentation models that only looked robust (Halmosi et al. 2023, arXiv 2306.14217, abstract).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perturbox.attacks.spaces.dct import along_blocks, cosine_matrix, cropped, soft_round, to_blocks
from perturbox.hardening.losses import divergence
from perturbox.types import InputError

# (what the network returns, the loop's labels) -> a scalar.
Loss = Callable[[Any, Any], Tensor]
KEPT_STEPS = 20  # of VAFA, by default


def unchanged(x: Tensor) -> Tensor:
    """For loops whose batches are the network's input."""
    return x


@dataclass(eq=False)
class Hardening(ABC):
    """What every method has. Called with (network, x, y) it returns the loss to go back through, in place of the
    loop's own `loss(network(x), y)`.

    loss: the loop's own. eps: how far a voxel of x may move, in x's unit. prepare: from x to the network's input, if x
    is still in the scan's unit. valid: the lowest and highest value that x can have. clean: weight of the unperturbed
    batch, 0 to below 1. ramp: over how many calls eps grows from 0. seed: of random starts; call i draws the same in a
    run that was interrupted and resumed (`state_dict`, `load_state_dict`).
    """

    loss: Loss
    eps: float
    prepare: Callable[[Tensor], Tensor] = unchanged
    valid: tuple[float, float] | None = None
    clean: float = 0.0
    ramp: int = 0
    seed: int = 0
    calls: int = field(default=0, init=False)

    needs_labels: ClassVar[bool] = True
    replays: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise InputError(f"eps must be above 0, not {self.eps:g}.")
        if not 0 <= self.clean < 1:
            raise InputError(f"clean must be from 0 to below 1, not {self.clean:g}.")
        if self.ramp < 0:
            raise InputError(f"ramp must be 0 or more calls, not {self.ramp}.")
        if self.valid is not None and not self.valid[0] < self.valid[1]:
            raise InputError(f"valid must be (low, high) with low below high, not {self.valid}.")

    @property
    def reach(self) -> float:
        """eps of this call."""
        return self.eps * min(1.0, (self.calls + 1) / self.ramp) if self.ramp else self.eps

    def __call__(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        """The training loss of a batch x "b c *s" under attack, a scalar with a graph."""
        if y is None and self.needs_labels:
            raise InputError("This method needs labels; the one that doesn't is 'label-free'.")
        loss = self.hardest(network, x, y)
        self.calls += 1
        if self.clean:
            loss = self.clean * self.loss(network(self.prepare(x)), y) + (1 - self.clean) * loss
        return loss

    def batch(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        """The batch under attack, for loops that keep their own loss; like a call it counts for ramp and draws."""
        attacked = self.perturb(network, x, y)
        self.calls += 1
        return attacked

    def hardest(self, network: nn.Module, x: Tensor, y: Any) -> Tensor:
        """The loss of the perturbed batch."""
        return self.loss(network(self.prepare(self.perturb(network, x, y))), y)

    @abstractmethod
    def perturb(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        """The batch under attack, without a graph; the weights' gradients and the network's mode stay as they are."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = int(state["calls"])

    def uniform(self, x: Tensor, reach: float) -> Tensor:
        """A point of the ball, this call's own."""
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + self.calls)
        return ((torch.rand(x.shape, generator=draws) * 2 - 1) * reach).to(x)

    def inside(self, x: Tensor) -> Tensor:
        return x if self.valid is None else x.clamp(*self.valid)


@contextmanager
def attacking(network: nn.Module) -> Iterator[None]:
    """The network with frozen weights and in eval mode, so that normalisation learns nothing of the attack's steps."""
    modes = {module: module.training for module in network.modules()}
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        network.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, training in modes.items():
            module.training = training


def gradient_of(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of a loss at a point, without a graph; also within `torch.no_grad`."""
    at = at.detach().requires_grad_(True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(loss(at), at)
    return found


@dataclass(eq=False)
class Pgd(Hardening):
    """Some steps of projected gradient ascent from a random point of the ball; alpha: size of a step as a part of eps.

    One step of 1.25 is "fast" training (Wong et al. 2020, arXiv 2001.03994), which may overfit to its own attack:
    see `Overfitting`.
    """

    steps: int = 3
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, not {self.steps}.")
        if self.alpha is None:
            self.alpha = 2.5 / self.steps

    def perturb(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        return self.climb(network, x, lambda scores: self.loss(scores, y))

    def climb(self, network: nn.Module, x: Tensor, loss: Callable[[Any], Tensor]) -> Tensor:
        reach, x = self.reach, x.detach()
        assert self.alpha is not None
        delta = self.inside(x + self.uniform(x, reach)) - x
        with attacking(network):
            for _ in range(self.steps):
                up = gradient_of(lambda at: loss(network(self.prepare(x + at))), delta).sign()
                delta = self.inside(x + (delta + self.alpha * reach * up).clamp(-reach, reach)) - x
        return x + delta


@dataclass(eq=False)
class Free(Hardening):
    """Each backward pass gives the gradient of the weights and that of the perturbation, which the next call goes on
    with: give every batch `replays` times and divide the epochs by it (Shafahi et al. 2019, arXiv 1904.12843)."""

    replays: int = 4  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replays < 1:
            raise InputError(f"replays must be at least 1, not {self.replays}.")
        self._delta: Tensor | None = None

    def perturb(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        return self.inside(x + self._next(x)).detach()

    def hardest(self, network: nn.Module, x: Tensor, y: Any) -> Tensor:
        self._delta = self._next(x).requires_grad_(True)
        return self.loss(network(self.prepare(self.inside(x.detach() + self._delta))), y)

    def _next(self, x: Tensor) -> Tensor:
        """Where the last backward pass leads; a new start where there was none, or x has another shape."""
        reach, last = self.reach, self._delta
        if last is None or last.shape != x.shape:
            return torch.zeros_like(x)
        if last.grad is None:
            return last.detach()
        return (last.detach() + reach * last.grad.sign()).clamp(-reach, reach)

    def state_dict(self) -> dict[str, Any]:
        last = self._delta
        return {**super().state_dict(), "delta": None if last is None else self._next(last.detach())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._delta = state["delta"]


@dataclass(eq=False)
class LabelFree(Pgd):
    """Without labels, after Stanforth et al. 2019 (arXiv 1905.13725), "UAT++":

        loss(scores of x', labels of a fixed teacher) + weight * KL( p(x), no gradient || p(x') )

    where x' climbs the same sum. teacher: a network that was trained on what labels there are; the network as it is at
    the first call if not given. Its mistakes are learnt with the rest. The paper's losses are taken from their usual
    account, not from its text; KL is a mean over voxels, as the rest is.
    """

    teacher: nn.Module | None = None
    weight: float = 1.0

    needs_labels: ClassVar[bool] = False

    def __call__(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        return super().__call__(network, x, self._labels(network, x))

    def perturb(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        y = self._labels(network, x) if y is None else y
        with torch.no_grad(), attacking(network):
            before = network(self.prepare(x)).log_softmax(1)
        return self.climb(
            network, x, lambda scores: self.loss(scores, y) + self.weight * divergence(before, scores.log_softmax(1))
        )

    def hardest(self, network: nn.Module, x: Tensor, y: Any) -> Tensor:
        attacked = self.perturb(network, x, y)
        with torch.no_grad():
            before = network(self.prepare(x)).log_softmax(1)
        scores = network(self.prepare(attacked))
        return self.loss(scores, y) + self.weight * divergence(before, scores.log_softmax(1))

    def _labels(self, network: nn.Module, x: Tensor) -> Tensor:
        """ "b *s", what the teacher says of the unperturbed batch."""
        if self.teacher is None:
            self.teacher = copy.deepcopy(network).eval().requires_grad_(False)
        with torch.no_grad():
            return self.teacher(self.prepare(x)).argmax(1)


@dataclass(eq=False)
class Frequency(Hardening):
    """After VAFT (Hanif et al. 2023, arXiv 2307.07269): the batch's cosine coefficients in blocks are quantised, and
    how coarsely each is follows the gradient; eps is the coarsest step, in x's unit.

        loss(x) + loss(x') + | DCT scores(x) - DCT scores(x') |_1 / | DCT scores(x) |_1

    steps: of the ascent, each a twentieth of eps, from the coarsest down to a quarter of it. Deviations: rounding has
    a cubic's derivative; the last term's transform is that of blocks too, where the authors' is one block of 96 voxels.
    """

    steps: int = KEPT_STEPS
    block: int = 8

    def perturb(self, network: nn.Module, x: Tensor, y: Any = None) -> Tensor:
        reach, x = self.reach, x.detach()
        matrix = cosine_matrix(self.block)
        coefficients = along_blocks(to_blocks(x, self.block), matrix)
        q = torch.full_like(coefficients, reach)

        def quantised(q: Tensor) -> Tensor:
            change = soft_round(coefficients / q) * q - coefficients
            return self.inside(x + cropped(along_blocks(change, matrix.T), x.shape))

        with attacking(network):
            for _ in range(self.steps):
                up = gradient_of(lambda q: self.loss(network(self.prepare(quantised(q))), y), q).sign()
                q = (q + up * reach / 20).clamp(reach / 4, reach)
        with torch.no_grad():
            return quantised(q)

    def hardest(self, network: nn.Module, x: Tensor, y: Any) -> Tensor:
        attacked = self.perturb(network, x, y)
        scores, under = network(self.prepare(x)), network(self.prepare(attacked))
        matrix = cosine_matrix(self.block)
        before, after = (along_blocks(to_blocks(one, self.block), matrix) for one in (scores, under))
        apart = (before - after).abs().sum() / before.abs().sum().clamp_min(1e-12)
        return self.loss(scores, y) + self.loss(under, y) + apart
