"""Several models as one: the mean of their probabilities on the scan's own grid.

Each member keeps its pipeline, windows and grid; its scores are brought back to the scan in its own order (softmax,
then interpolation, or the other way round) before the mean is taken, as nnU-Net and MONAI average different models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perturbox.model.identity import identity
from perturbox.model.pipeline import Plan
from perturbox.model.sliding import Inside
from perturbox.model.victim import BoundVictim, Victim
from perturbox.types import Effort, InputError, Volume

# Probabilities below are no probability: their logarithm would have no gradient.
TINY, NEARLY = 1e-30, 1e-7


@dataclass(frozen=True, eq=False)
class Ensemble(Victim):
    """members: the models; labels, regions, unit and channels are theirs, and they agree on them."""

    members: tuple[Victim, ...] = ()

    def on(self, image: Volume, effort: Effort | None = None, memory_budget: int | None = None) -> "BoundEnsemble":
        """Raises InputError where the scan doesn't fit one of the members."""
        effort = effort if effort is not None else Effort()
        parts = tuple(member.on(image, effort, memory_budget) for member in self.members)
        # Where the scan is told in other units, each member knows by itself.
        return BoundEnsemble(self, Joint((), image.shape, parts), effort, memory_budget, parts=parts)

    @property
    def sha256(self) -> str:
        """Hash of the members' hashes, in order."""
        return identity("", "", {"members": [member.sha256 for member in self.members]})

    @property
    def visible(self) -> tuple[float, float] | None:
        """What any of them tells apart."""
        ranges = [member.visible for member in self.members]
        if any(one is None for one in ranges):
            return None
        known = [one for one in ranges if one is not None]
        return min(low for low, _ in known), max(high for _, high in known)


@dataclass(frozen=True, eq=False)
class Joint(Plan):
    """The scan's own grid, on which the members meet."""

    parts: tuple[BoundVictim, ...] = ()

    @property
    def reach(self):  # type: ignore[override]
        """bool "*s": voxels that any member reads."""
        first, *others = (part.grid.reach for part in self.parts)
        for other in others:
            first = first | other
        return first


@dataclass(frozen=True, eq=False)
class BoundEnsemble(BoundVictim):
    """The members on one scan: x "b c *s" -> logits "b k *s" of their mean probabilities, on the scan's grid."""

    parts: tuple[BoundVictim, ...] = ()

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def judge(self, x: Tensor) -> Tensor:
        return self._mean([part.judge(x) for part in self.parts])

    def look_inside(self, prepared: Tensor, inside: Inside | None) -> tuple[Tensor, Tensor]:
        if inside is not None:
            raise InputError(
                f"This attack looks at layers inside a network and {self.victim.name} is made of several; choose one "
                "of them, or another attack."
            )
        return self._mean([part(prepared) for part in self.parts]), prepared.new_zeros(())

    def _mean(self, scores: Sequence[Tensor]) -> Tensor:
        found = [torch.stack([_probabilities(p, image.float()) for image in y]) for p, y in zip(self.parts, scores, strict=True)]  # fmt: skip  # noqa: E501
        widths = sorted({probabilities.shape[1] for probabilities in found})
        if len(widths) > 1:
            raise InputError(
                f"The networks of {self.victim.name} have {' and '.join(map(str, widths))} channels; combine models of "
                "the same labels."
            )
        mean = sum(found[1:], found[0]) / len(found)
        if self.victim.regions is None:
            return mean.clamp(min=TINY).log()
        return mean.clamp(NEARLY, 1 - NEARLY).logit()


def _probabilities(part: BoundVictim, scores: Tensor) -> Tensor:
    """A member's scores "k *g" -> its probabilities "k *s" on the scan's grid, in its own order. Where its crop leaves
    the scan out, it says background."""
    regions = part.victim.regions is not None
    first = part.victim.decision.order[0]["do"] if part.victim.decision is not None else "inverse"
    probable = torch.sigmoid if regions else lambda y: y.softmax(0)
    back = part.grid.back(probable(scores) if first != "inverse" else scores)
    outside = (back == 0).all(0, keepdim=True)
    found = back if first != "inverse" else probable(back)
    background = torch.zeros_like(found)
    if not regions:
        background[0] = 1
    return torch.where(outside, background, found)


def ensemble_of(members: Sequence[Victim]) -> Ensemble:
    """Several models as one. Raises InputError where they don't say the same of the same scan."""
    flat = [one for member in members for one in (member.members if isinstance(member, Ensemble) else (member,))]
    first, names = flat[0], " and ".join(member.name for member in flat)
    for member in flat:
        for what, mine, other in (
            ("labels", dict(first.labels), dict(member.labels)),
            ("regions", _listed(first.regions), _listed(member.regions)),
            ("unit", first.unit, member.unit),
            ("channels", first.channels, member.channels),
            ("clean-up", first.clean_up, member.clean_up),
        ):
            if mine != other:
                raise InputError(
                    f"{first.name} and {member.name} can't be one model, as their {what} differ; combine models of the "
                    "same labels, unit and channels."
                )
        _require_probabilities(member)
    executed = tuple(text for member in flat for text in member.executed)
    return Ensemble(
        name="-and-".join(dict.fromkeys(member.name for member in flat)),
        title=" + ".join(member.title or member.name for member in flat),
        network=nn.ModuleList([member.network for member in flat]),
        labels=first.labels,
        regions=first.regions,
        window=first.window,
        unit=first.unit,
        channels=first.channels,
        dims=max(member.dims for member in flat),
        clean_up=first.clean_up,
        licence=_joined([member.licence for member in flat]),
        intended_use=_joined([member.intended_use for member in flat]),
        training_data=_joined([member.training_data for member in flat]),
        limits=_joined([f"The mean of the probabilities of {names}.", *(member.limits for member in flat)]),
        executed=executed,
        device=first.device,
        members=tuple(flat),
    )


def _require_probabilities(member: Victim) -> None:
    """Raises InputError for a decision that isn't: probabilities and the way back in either order, then labels."""
    if member.decision is None:
        return
    soft = "softmax" if member.regions is None else "sigmoid"
    done = [entry["do"] for entry in member.decision.order]
    plain = [entry.get("mode", "linear") == "linear" for entry in member.decision.order if entry["do"] == "inverse"]
    ends = ["argmax"] if member.regions is None else ["threshold", "paint"]
    if plain != [True] or done not in ([soft, "inverse", *ends], ["inverse", soft, *ends], ["inverse", *ends]):
        raise InputError(
            f"{member.name} decides otherwise than by its highest probability on the scan's grid, so no mean can be "
            "taken; use it alone."
        )


def _listed(regions: Sequence[Sequence[int]] | None) -> list[list[int]] | None:
    return None if regions is None else [list(region) for region in regions]


def _joined(texts: Sequence[str]) -> str:
    return " ".join(dict.fromkeys(text for text in texts if text != "not stated")) or "not stated"
