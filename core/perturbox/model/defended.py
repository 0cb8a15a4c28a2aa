"""A model behind defences: filters that a scan passes on its own grid, in its own units, before the model's pipeline.

`Defended` is a victim like any other, so everything that asks a victim works on it. An attack that knows the defence
(an adaptive one) sees the exact filter forward; backward a stand-in may take its place (BPDA, Athalye et al. 2018,
arXiv 1802.00420), and a random filter is drawn several times per step (EOT, Athalye et al. 2018, arXiv 1707.07397). The
judge draws by the scan's own values: never what an attack drew, and the same whenever that scan is judged.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perturbox.model.bpda import bpda
from perturbox.model.ensemble import NEARLY, TINY, Ensemble
from perturbox.model.identity import described, identity
from perturbox.model.sliding import Inside
from perturbox.model.victim import BoundVictim, Victim, as_input
from perturbox.types import Effort, InputError, Volume

MOST = 4  # defences before one model
MOST_DRAWS = 1000  # of a random chain: as often is the model asked for one prediction

# (scan "b c *s" in its own unit, mm along each axis, where draws come from) -> the scan "b c *s" that the model gets.
Filter = Callable[[Tensor, tuple[float, ...], torch.Generator], Tensor]


@dataclass(frozen=True)
class StandIn:
    """What the gradient of an adaptive attack passes in a filter's place; its values are the filter's own.

    twin: a differentiable filter close to it, None for the filter itself. kept: whether a random filter keeps its first
    draws through all steps of an attack, instead of new ones for each.
    """

    name: str
    twin: Filter | None = None
    kept: bool = False


@dataclass(frozen=True, eq=False)
class Defense:
    """A filter before a model, and how it is to be attacked.

    stand_ins: what adaptive attacks try in turn; without any they follow the filter's own gradient. copies: how many
    draws the model answers, which are then averaged as probabilities; draws: how many an attack takes per step, 0 for a
    filter that isn't random. states: scans that its gradient keeps, per spatial axis. settings: plain values that say,
    with the name, all there is to know of it; None of a filter made in Python, which its code identifies. files: the
    SHA-256 of each file that a setting names, by the setting. unit: of the scans it was made for; None for any.
    """

    name: str
    filter: Filter
    stand_ins: tuple[StandIn, ...] = ()
    copies: int = 1
    draws: int = 0
    states: int = 0
    settings: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    title: str = ""
    paper: str = ""
    deviations: tuple[str, ...] = ()

    @property
    def draws_at_once(self) -> int:
        """How many copies of the scan an attack or the judge sees of it, whichever are more."""
        return max(1, self.draws, self.copies)

    @property
    def spec(self) -> str:
        """NAME:key=value…, as `--defense` takes it."""
        given = {key: value for key, value in (self.settings or {}).items() if value is not None}
        return ":".join([self.name, *(f"{key}={value}" for key, value in given.items())])

    def describe(self) -> dict[str, Any]:
        """The entry of "defense" of a victim in result.json."""
        return {
            "name": self.name,
            "spec": self.spec,
            "title": self.title or self.name,
            "paper": self.paper,
            "deviations": list(self.deviations),
            "random": self.draws > 0,
            "stand_ins": [one.name for one in self.stand_ins],
        }

    def attempt(self, candidate: int) -> StandIn:
        """What stands in for it in one of the chain's candidates; the last where it has fewer."""
        return self.stand_ins[min(candidate, len(self.stand_ins) - 1)] if self.stand_ins else StandIn("exact")

    def to_json(self) -> Any:
        """What of it makes a defended model the one it is: of a file what it holds, not where it lies."""
        if self.settings is None:
            return [self.name, described(self.filter)]
        return [self.name, {**self.settings, **self.files}]


@dataclass(frozen=True, eq=False)
class Defended(Victim):
    """inner: the model; chain: its defences, the first nearest to the scan. candidate: which stand-ins an attack's
    gradient passes; seed: of an attack's draws."""

    inner: Victim | None = None
    chain: tuple[Defense, ...] = ()
    candidate: int = 0
    seed: int = 0

    @property
    def plain(self) -> Victim:
        assert self.inner is not None
        return self.inner

    @property
    def candidates(self) -> tuple[str, ...]:
        """What adaptive attacks try in turn, by name: candidate i is the i-th stand-in of every defence."""
        count = max(1, *(len(one.stand_ins) for one in self.chain))
        return tuple(" + ".join(one.attempt(i).name for one in self.chain) for i in range(count))

    @property
    def draws(self) -> int:
        """How many draws of the whole chain an attack's gradient is the mean of, per step."""
        return math.prod(one.draws_at_once for one in self.chain)

    @property
    def specs(self) -> tuple[str, ...]:
        """The defences, as `--defense` takes them."""
        return tuple(one.spec for one in self.chain)

    def facing(self, candidate: int, seed: int) -> "Defended":
        """As an attack sees it that follows one of the candidates."""
        return replace(self, candidate=candidate, seed=seed)

    @property
    def sha256(self) -> str:
        """Hash of the model's hash and its defences."""
        return identity("", "", {"victim": self.plain.sha256, "defenses": [one.to_json() for one in self.chain]})

    def is_the_one(self, sha256: str) -> bool:
        return sha256 == self.sha256

    @property
    def visible(self) -> tuple[float, float] | None:
        """What the model tells apart."""
        return self.plain.visible

    def describe(self) -> dict[str, object]:
        """The model's own entry, and its defences."""
        return {**self.plain.describe(), "name": self.name, "defense": [one.describe() for one in self.chain]}

    def filtered(self, x: Tensor, spacing: tuple[float, ...], seed: int, single: bool = False) -> Tensor:
        """What the model gets of a scan "1 c *s" when it is judged: "copies c *s"; no gradient. single: one copy."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for one in self.chain:
                x = one.filter(x if single else x.repeat_interleave(one.copies, 0), spacing, generator)
        return x

    def on(self, image: Volume, effort: Effort | None = None, memory_budget: int | None = None) -> "BoundDefended":
        """Raises InputError as the model does."""
        effort = effort if effort is not None else Effort()
        native = image.with_data(image.native, ones=()) if image.ones else image
        ones = torch.from_numpy(image.by_channel(image.ones)).to(self.device, torch.float32) if image.ones else None
        seen = native
        if self.plain.pipeline is not None or isinstance(self.plain, Ensemble):  # may plan by the scan's values
            x = as_input(native, self.device)
            copy = self.filtered(x, native.spacing, seed_of(x), single=True)[0]
            seen = native.with_data(copy.cpu().numpy().astype(native.data.dtype))
        bound = self.plain.on(seen, effort, memory_budget)
        draws = torch.Generator().manual_seed(self.seed)
        return BoundDefended(self, bound.grid, effort, memory_budget, ones, bound, native.spacing, draws)


@dataclass(frozen=True, eq=False)
class BoundDefended(BoundVictim):
    """inner: the model on the scan's grid; spacing: of that grid; draws: where an attack's come from."""

    inner: BoundVictim = field(default=None)  # type: ignore[assignment]
    spacing: tuple[float, ...] = ()
    draws: torch.Generator = field(default_factory=torch.Generator)

    @property
    def defended(self) -> Defended:
        assert isinstance(self.victim, Defended)
        return self.victim

    def prepare(self, x: Tensor) -> Tensor:
        """Native voxels -> network input, of every draw: "draws c *g"."""
        x, candidate = x if self.ones is None else x * self.ones, self.defended.candidate
        attempts = [one.attempt(candidate) for one in self.defended.chain]
        if any(attempt.kept for attempt in attempts):
            self.draws.manual_seed(self.defended.seed)
        for one, attempt in zip(self.defended.chain, attempts, strict=True):
            x = x.repeat_interleave(one.draws_at_once, 0)
            if attempt.twin is None:
                x = one.filter(x, self.spacing, self.draws)
                continue
            with torch.no_grad():
                exact = one.filter(x, self.spacing, self.draws)
            x = bpda(exact, attempt.twin(x, self.spacing, self.draws))
        return self.inner.prepare(x)

    def look_inside(self, prepared: Tensor, inside: Inside | None) -> tuple[Tensor, Tensor]:
        logits, total = self.inner.look_inside(prepared, inside)
        return self._pooled(logits), total

    def judge(self, x: Tensor) -> Tensor:
        """The scores of the filtered scan, one draw after another."""
        native = x * (1.0 if self.ones is None else self.ones)
        scores, undefined = [], None
        for copy in self.defended.filtered(native, self.spacing, seed_of(native)):
            scores.append(self.inner.judge(copy[None]))
            undefined = undefined or self.effort.undefined
        self.effort.undefined = undefined
        return self._pooled(torch.cat(scores))

    def _pooled(self, scores: Tensor) -> Tensor:
        """Scores of several draws "n k *g" -> those of their mean probabilities "1 k *g"."""
        if len(scores) == 1:
            return scores
        if self.victim.regions is None:
            return scores.softmax(1).mean(0, keepdim=True).clamp(min=TINY).log()
        return scores.sigmoid().mean(0, keepdim=True).clamp(NEARLY, 1 - NEARLY).logit()


def seed_of(x: Tensor) -> int:
    """The seed of the judge's draws: of the scan's own values."""
    values = np.ascontiguousarray(x.detach().cpu().numpy())
    return int.from_bytes(hashlib.sha256(values.tobytes()).digest()[:7], "big")


def require_bearable(count: int, draws: int = 1) -> None:
    """Raises InputError for more defences, or more draws of random ones for one prediction, than a model is asked."""
    if count > MOST:
        raise InputError(f"At most {MOST} defences can stand before a model, not {count}; leave some out.")
    if draws > MOST_DRAWS:
        raise InputError(
            f"These defences together draw {draws} noisy copies for each prediction, and {MOST_DRAWS} are the most; "
            "give fewer copies."
        )


def require_unit(chain: Sequence[Defense], unit: str, model: str) -> None:
    """Raises InputError for a defence made for scans in another unit than those the model reads."""
    for one in chain:
        if one.unit not in (None, unit):
            raise InputError(
                f"The defence '{one.name}' was made for scans in {one.unit} and {model} reads them in {unit}; give it "
                "weights of such scans, or choose another defence."
            )


def behind(victim: Victim, chain: Sequence[Defense]) -> Defended:
    """A model behind defences, the first nearest to the scan; behind those it has already, if any. Raises InputError
    for more than a model is asked to bear, and for defences of scans in another unit."""
    known = victim.chain if isinstance(victim, Defended) else ()
    plain = victim.plain
    every = (*chain, *known)
    require_bearable(len(every), math.prod(one.draws_at_once for one in every))
    require_unit(every, plain.unit, plain.name)
    own = {one.name: getattr(plain, one.name) for one in fields(Victim)}
    own["name"] = f"{plain.name} behind {' and '.join(one.name for one in every)}"
    own["title"] = f"{plain.title or plain.name} behind {', '.join(one.title or one.name for one in every)}"
    return Defended(**own, inner=plain, chain=every)


def require_attackable(victim: Defended, image: Volume) -> None:
    """Raises InputError for a defence that no adaptive attack could test: one that neither passes a gradient nor says
    what stands in for it, or that is random and doesn't say so."""
    x = as_input(image.with_data(image.native, ones=()), victim.device)
    x = x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    for one in victim.chain:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        with torch.no_grad():
            first, second = (one.filter(x, image.spacing, each) for each in generators)
        if first.shape != x.shape:
            raise InputError(
                f"The defence '{one.name}' turns a scan of shape {tuple(x.shape)} into {tuple(first.shape)}; make it "
                "keep the shape."
            )
        if not one.draws and not torch.equal(first, second):
            raise InputError(
                f"The defence '{one.name}' answers the same scan differently and doesn't say that it is random, so an "
                "attack would follow one draw; give it draws=10."
            )
        if not one.stand_ins and not _passes(one.filter, x, image.spacing):
            raise InputError(
                f"The defence '{one.name}' lets no gradient through and declares nothing that stands in for it, so no "
                "adaptive attack can test it; give it stand_ins."
            )


def _passes(filter: Filter, x: Tensor, spacing: tuple[float, ...]) -> bool:
    point = x.clone().requires_grad_()
    out = filter(point, spacing, torch.Generator().manual_seed(0))
    if not out.requires_grad:
        return False
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    (grad,) = torch.autograd.grad((out * weight).sum(), point, allow_unused=True)
    return grad is not None and bool(grad.any())
