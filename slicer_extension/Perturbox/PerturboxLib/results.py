"""What result.json says, as the panel shows it: rows, the verdict in a sentence, flags, slices. Needs numpy only.

Indices of slices are 0-based along `Result.axis`, the ijk axis across which the result shows best.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from . import sentences
from .counts import CHANGED_ML, CHANGED_SHARE, Counts, countsFromRecord, countSlices, numbered
from .numbers import number, size
from .palette import readable, structureColour
from .rows import VERDICTS, Row
from .sentences import CLEARLY, SLICE_LIMIT

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")  # their pixels have no size
DICE_LIMIT = 0.90
FIRST_SCHEMA = "perturbox-result/1"  # left benign, absent and volume to its readers
PLANES = ("sagittal", "coronal", "axial")  # by the RAS axis a slice lies across


class Result:
    """A result.json and, where at hand, the counts of its label maps along the three ijk axes.

    affine: ijk->RAS 4x4, for the planes' names and the acquisition axis. margin: a margin.json that belongs to it.
    Without counts `countsFromRecord` says what is less exact. Sizes of a 2D image are areas in cm², of a photograph in
    pixels, as are its distances.
    """

    def __init__(self, record: dict[str, Any], affine=None, counts: list[Counts] | None = None, margin=None):
        self.record = record
        source = record["source"]
        self.flat = len(source["shape"]) == 2
        self.shape = (*source["shape"], 1, 1)[:3]
        self.spacing = (*source["spacing_mm"], 1.0, 1.0)[:3]
        self.affine = np.diag([*self.spacing, 1.0]) if affine is None else np.asarray(affine, float)
        self.labels = {name: value for name, value in record["victim"]["labels"].items() if value}
        self.structures = {value: name for name, value in self.labels.items()}
        self.names = list(self.labels)
        photograph = source.get("format") in PHOTOGRAPHS
        self.size = source.get("sizes") or ("ml" if not self.flat else "pixels" if photograph else "cm²")
        self.length = "pixels" if self.size == "pixels" else "mm"
        area = float(np.prod(self.spacing))
        self.voxelMl = {"ml": area / 1000, "cm²": area / 100, "pixels": 1.0}[self.size]
        self.unit = {"HU": "HU", "sigma": "σ", "percent": "% of range"}.get(record["budget"]["unit"], "units")
        self.axis = self._axis()
        self.counts = counts or [countsFromRecord(record, axis) for axis in range(3)]
        self.margin = (margin or {}).get("structures") or record.get("margin") or {}
        self.undefended = ((margin or {}).get("undefended") or {}).get("structures") or {}

    def _axis(self) -> int:
        """The axis across which slices are looked at: the one that the result says, else the scan's own."""
        look = self._look()
        return look["axis"] if look else acquisitionAxis(self.affine, self.shape)

    def _look(self) -> dict[str, Any]:
        """Where the result says to look: structure, axis, index; empty of older results and 2D images."""
        return (self.record.get("summary") or {}).get("look") or {}

    @property
    def along(self) -> Counts:
        return self.counts[self.axis]

    @property
    def plane(self) -> str:
        return planes(self.affine)[self.axis]

    @property
    def slices(self) -> int:
        return len(self.along.differ)

    @property
    def ownReference(self) -> bool:
        return self.record["reference"] == "clean_prediction"

    @property
    def chance(self) -> str:
        """What stands for chance: draws from the attack's own space where it has one, random noise otherwise."""
        return {"own": "Random draw", "noise": "Random noise"}[self._chance]

    @property
    def _chance(self) -> str:
        return "own" if self._control("own") else "noise"

    # ------------------------------------------------------------ the table

    @property
    def further(self) -> list[dict[str, Any]]:
        """The columns that a record brings itself, whatever they are: {key, title, cells by structure}."""
        return (self.record.get("summary") or {}).get("columns") or []

    def headers(self) -> list[str]:
        expert = ["Dice clean vs expert", "Dice adversarial vs expert"]
        dice = ["Agreement with own clean prediction"] if self.ownReference else expert
        unit = self.unit
        rest = [
            f"Δ {self.size}",
            f"HD95 {self.length}",
            "Slices < 0.8",
            f"Breaks at {unit}",
            "in noise σ",
            f"{self.chance} Dice",
            *(column["title"] for column in self.further),
            "Verdict",
        ]
        return ["Structure", *dice, *rest]

    def agreementNote(self) -> str:
        """What the Dice column compares with."""
        if self.ownReference:
            return "No expert outline: values compare the model with itself."
        said = "Dice is with the expert outline; verdicts compare with the model’s own clean prediction."
        if all(row.outlined for row in self.rows()):
            return said
        return f"{said} What the expert didn’t outline has only that comparison, in brackets."

    def rows(self, absent: bool = False) -> list[Row]:
        """One row per structure, worst first; those found neither before nor after only if `absent`."""
        order = list(VERDICTS)
        rows = [self._row(column, name) for column, name in enumerate(self.names)]
        rows = [row for row in rows if absent or row.reason != "absent"]
        return sorted(rows, key=lambda r: (not r.broken, r.agreement is None, r.agreement or 0, order.index(r.reason)))

    def _row(self, column: int, name: str) -> Row:
        record, along = self.record, self.along
        before, after, shared = (int(a[:, column].sum()) for a in (along.before, along.after, along.shared))
        clean = record["metrics"]["clean"].get(name) or {}
        adversarial = record["metrics"]["adversarial"].get(name) or {}
        agreement = 2 * shared / (before + after) if before + after else None
        axis, failed = self._mostFailed(column)
        reason = self._reason(name, agreement)
        if reason == "local":
            look = (planes(self.affine)[axis], *mainRun(failed, self.counts[axis].moved[:, column]))
        else:
            look = (self.plane, *mainRun(self._changed([name]), along.moved[:, column]))
        outlined = self.outlined(name)
        against = (
            adversarial if self.ownReference else (self.record["metrics"].get("against_clean") or {}).get(name) or {}
        )
        breaksAt, inSigma = self._bounds(name)
        held = self.counts[axis].before[:, column] + self.counts[axis].after[:, column] > 0
        ml = self.voxelMl
        return Row(
            name=name,
            title=readable(name),
            value=self.labels[name],
            colour=structureColour(column + 1),
            outlined=outlined,
            dice=adversarial.get("dice") if outlined else None,
            diceBefore=clean.get("dice") if outlined else None,
            agreement=agreement,
            beforeMl=before * ml,
            afterMl=after * ml,
            lostMl=(before - shared) * ml,
            gainedMl=(after - shared) * ml,
            hd95Mm=self._far(adversarial) if outlined else None,
            movedMm=self._far(against),
            failed=int(failed.sum()),
            present=int(held.sum()),
            breaksAt=breaksAt,
            inSigma=inSigma,
            randomDice=self._control(self._chance).get(name),
            reason=reason,
            look=look,
            further=tuple(column["cells"].get(name, "–") for column in self.further),
        )

    def outlined(self, name: str) -> bool:
        """Whether a structure's scores have a reference; a record of the first schema shows it in a Dice of 0 without a
        distance, of a structure that the model found."""
        if self.ownReference:
            return True
        if self.record["schema"] != FIRST_SCHEMA:
            return name in self.record["outlined"]
        row = self.record["metrics"]["clean"].get(name) or {}
        return row.get("dice") is not None and not (row["volume_ml"] and row.get("hd95_mm") is None)

    def _far(self, row: dict) -> float | None:
        """A row's HD95 in `length`: of a photograph the first schema held millimetres."""
        far, old = row.get("hd95_mm"), self.record["schema"] == FIRST_SCHEMA
        return far / self.spacing[0] if far is not None and old and self.length == "pixels" else far

    def _mostFailed(self, column: int) -> tuple[int, np.ndarray]:
        """The axis with most failed slices (the acquisition's unless another has more) and which they are."""
        axes = sorted(range(3), key=lambda axis: axis != self.axis)
        failed = {axis: self.counts[axis].failed(column, self.voxelMl, SLICE_LIMIT) for axis in axes}
        axis = max(axes, key=lambda axis: int(failed[axis].sum()))
        return axis, failed[axis]

    def _reason(self, name: str, agreement: float | None) -> str:
        verdict = self.record["verdicts"].get(name, "held")
        if self.record["schema"] != FIRST_SCHEMA:
            return verdict
        if agreement is None:
            return "absent"
        floor = self._control("benign").get(name)  # a Dice: it knows no distances and no single slices
        if verdict in ("vanished", "appeared", "dice") and floor is not None and agreement >= floor:
            return "benign"
        if verdict == "held" and not self.outlined(name):
            return "not-outlined"
        return "volume" if verdict == "dice" and agreement >= DICE_LIMIT else verdict

    def _bounds(self, name: str) -> tuple[str, str]:
        """Where a structure breaks, in the scan's unit and in noise; of a defended model with what the same search
        found without its defences, for the one says little without the other."""
        breaks, inSigma = self._bound(self.margin.get(name) or {})
        if name in self.undefended:
            breaks += f" (without defence {self._bound(self.undefended[name])[0]})"
        return breaks, inSigma

    def _bound(self, bound: dict) -> tuple[str, str]:
        sign, value = ("≤", bound["breaks_at"]) if bound.get("breaks_at") is not None else (">", bound.get("above"))
        if value is None:
            return "not tested" if bound.get("verdict") == "not-tested" else "–", "–"
        sigma, used = self.record["noise"].get("sigma"), bound.get("used")
        if sign == ">" and used is not None and used < CLEARLY * value:
            return f"> {number(value)} (changes ≤ {number(used)})", f"> {number(used / sigma, 2)}" if sigma else "–"
        return f"{sign} {number(value)}", f"{sign} {number(value / sigma, 2)}" if sigma else "–"

    def _control(self, kind: str) -> dict[str, float | None]:
        return ((self.record.get("control") or {}).get(kind) or {}).get("dice") or {}

    # ------------------------------------------------------------ sentences

    def ml(self, value: float) -> str:
        """An amount as one reads it: "143 ml"; of a 2D image "2.5 cm²", of a photograph "1,510 pixels"."""
        return f"{f'{value:,.0f}' if self.size == 'pixels' else size(value)} {self.size}"

    def verdict(self) -> str:
        """What changed, against the scan's own noise; what it did; what chance alone does."""
        return sentences.verdict(self)

    def flags(self) -> list[str]:
        """What a good Dice hides, and where to look: a far leak, slices that failed."""
        return sentences.flags(self)

    def warnings(self) -> list[str]:
        """The record's own warnings, and where it was stopped."""
        stopped = self.record.get("stopped_early")
        return [*([f"{stopped[0].upper()}{stopped[1:]}."] if stopped else []), *(self.record.get("warnings") or [])]

    def spokenOf(self) -> str | None:
        """The structure that the sentence is about: as the result says, or the worst that broke; None if none did."""
        return self._look().get("structure") or next((row.name for row in self.rows() if row.broken), None)

    # ------------------------------------------------------------ slices

    def series(self, structure: str) -> np.ndarray:
        """Dice of a structure per slice, after against before; NaN where it is in neither."""
        return self.along.dice[:, self.names.index(structure)]

    def differing(self, structures: Collection[str] | None = None) -> np.ndarray:
        """Millilitres that differ per slice: of any label, or lost or gained by these structures."""
        if structures is None:
            return self.along.differ * self.voxelMl
        columns = [self.names.index(name) for name in structures]
        return self.along.moved[:, columns].sum(1) * self.voxelMl

    def changed(self, structures: Collection[str] | None = None) -> list[int]:
        """Slices where over 0.5 ml differs, or over 2 % of one of these structures."""
        return np.flatnonzero(self._changed(structures)).tolist()

    def _changed(self, structures: Collection[str] | None) -> np.ndarray:
        if structures is None:
            return self.differing() > CHANGED_ML
        columns = [self.names.index(name) for name in structures]
        area = np.maximum(self.along.before, self.along.after)[:, columns]
        return (self.along.moved[:, columns] > CHANGED_SHARE * area).any(1)

    def worst(self, structures: Collection[str] | None = None) -> int | None:
        """The slice where most differs; if nothing does, the one that holds most of them; None if none does."""
        amount = self.differing(structures)
        if not amount.any():
            columns = [self.names.index(name) for name in (self.names if structures is None else structures)]
            amount = (self.along.before + self.along.after)[:, columns].sum(1)
        return int(amount.argmax()) if amount.any() else None

    def nextChanged(self, index: int, structures: Collection[str] | None = None) -> int | None:
        return next((k for k in self.changed(structures) if k > index), None)

    def previousChanged(self, index: int, structures: Collection[str] | None = None) -> int | None:
        return next((k for k in reversed(self.changed(structures)) if k < index), None)

    def worstSlices(self, count: int = 5) -> list[int]:
        """The slices that differ most, most first; fewer where fewer differ."""
        amount = self.differing()
        order = np.argsort(-amount, kind="stable")[:count]
        return [int(k) for k in order if amount[k] > 0]


def countLabels(clean: np.ndarray, adversarial: np.ndarray, labels: dict[str, int]) -> list[Counts]:
    """Counts along the three ijk axes of two label maps "k j i"."""
    before, after = numbered(clean, labels), numbered(adversarial, labels)
    structures = sum(1 for value in labels.values() if value)
    return [countSlices(before, after, structures, axis) for axis in range(3)]


# ---------------------------------------------------------------- geometry


def acquisitionAxis(affine, shape) -> int:
    """The ijk axis along which slices lie apart: a lone slice's, else the widest spacing, the most axial if equal."""
    lone = [axis for axis in range(3) if shape[axis] == 1]
    if lone:
        return lone[-1]
    columns = np.asarray(affine, float)[:3, :3]
    spacing = np.round(np.linalg.norm(columns, axis=0), 3)
    upright = np.abs(columns[2]) / np.linalg.norm(columns, axis=0)
    return max(range(3), key=lambda axis: (spacing[axis], round(float(upright[axis]), 6), axis))


def planes(affine) -> tuple[str, str, str]:
    """The plane across each ijk axis, as it is closest to: axial, coronal, sagittal."""
    directions = np.abs(np.asarray(affine, float)[:3, :3])
    directions = directions / np.linalg.norm(directions, axis=0)
    return tuple(PLANES[int(directions[:, axis].argmax())] for axis in range(3))  # type: ignore[return-value]


def mainRun(chosen: np.ndarray, moved: np.ndarray) -> tuple[int, int]:
    """First and last of the run of chosen slices in which most moved; the most moved slice if none is chosen."""
    hits = np.flatnonzero(chosen)
    if not hits.size:
        return int(moved.argmax()), int(moved.argmax())
    best = max(np.split(hits, np.flatnonzero(np.diff(hits) > 1) + 1), key=lambda run: int(moved[run].sum()))
    return int(best[0]), int(best[-1])
