"""Through the slices that matter: next and previous changed, worst, those for teaching. Never onto an empty slice."""

from collections.abc import Collection

from slicer.i18n import tr as _

from .results import Result


class Navigation:
    """Moves a viewer; structures: those of the selected rows, None for all. Each returns the slice it went to (0-based)
    or None where there is none to go to, and the views stay."""

    def __init__(self, viewer):
        self.viewer = viewer

    def next(self, structures: Collection[str] | None = None) -> int | None:
        return self._go(self._result.nextChanged(self.viewer.index(), structures)) if self._result else None

    def previous(self, structures: Collection[str] | None = None) -> int | None:
        return self._go(self._result.previousChanged(self.viewer.index(), structures)) if self._result else None

    def worst(self, structures: Collection[str] | None = None) -> int | None:
        return self._go(self._result.worst(structures)) if self._result else None

    @property
    def _result(self) -> Result | None:
        return self.viewer.nodes.result if self.viewer.nodes is not None else None

    def _go(self, index: int | None) -> int | None:
        if index is not None:
            self.viewer.jump(index)
        return index


def caption(result: Result, index: int) -> str:
    """What happens on a slice, in words: "Axial 41 of 112: 35 ml differ. Spleen 12 ml lost, liver 3.1 ml added."."""
    differs = result.ml(float(result.differing()[index]))
    start = _("{plane} {index} of {slices}: {differs} differ.").format(
        plane=result.plane.capitalize(), index=index + 1, slices=result.slices, differs=differs
    )
    along, said = result.along, []
    for column, name in enumerate(result.names):
        for counts, what in ((along.lost, "lost"), (along.gained, "added")):
            amount = float(counts[index, column]) * result.voxelMl
            if amount >= 0.5:
                said.append((amount, f"{name.replace('_', ' ')} {result.ml(amount)} {what}"))
    told = ", ".join(text for _, text in sorted(said, reverse=True)[:3])
    return f"{start} {told[:1].upper()}{told[1:]}." if told else start
