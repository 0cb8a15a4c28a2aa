"""What became what: how much of each structure the model calls something else now. Needs numpy only."""

from collections.abc import Collection
from dataclasses import dataclass

from slicer.i18n import tr as _

from .palette import readable

BACKGROUND, NOTHING = "background", _("Nothing")
MOST = 6  # lines; the rest is told in one


@dataclass(frozen=True)
class Flow:
    """An amount, in `Result.size`, that was called `before` and is called `after` now."""

    before: str
    after: str
    amount: float

    @property
    def words(self) -> tuple[str, str]:
        """Both names as one says them: "Kidney", "liver"; background is nothing."""
        before, after = (NOTHING if name == BACKGROUND else readable(name) for name in (self.before, self.after))
        return before, after.lower()


def flows(result, structures: Collection[str] | None = None) -> list[Flow]:
    """What changed its name, largest first; only from or to these structures if any are named.

    Empty for a result that doesn't say, because an older version of Perturbox made it.
    """
    said = [Flow(row["from"], row["to"], float(row["ml"])) for row in result.record.get("flow") or []]
    moved = [flow for flow in said if flow.before != flow.after and flow.amount > 0]
    chosen = [flow for flow in moved if not structures or {flow.before, flow.after} & set(structures)]
    return sorted(chosen, key=lambda flow: -flow.amount)


def lines(result, structures: Collection[str] | None = None) -> list[tuple[str, str, str]]:
    """(before, after, amount) as texts: the largest flows, then how much the others are together."""
    found = flows(result, structures)
    told = [(*flow.words, result.ml(flow.amount)) for flow in found[:MOST]]
    if rest := found[MOST:]:
        told.append((_("{count} more").format(count=len(rest)), "", result.ml(sum(flow.amount for flow in rest))))
    return told
