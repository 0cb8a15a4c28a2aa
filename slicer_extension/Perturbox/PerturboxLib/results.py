"""What result.json says, as the panel shows it: rows, the verdict in a sentence, flags, slices. Needs numpy only.

Indices of slices are 0-based along `Result.axis`, the ijk axis on which the scan's slices lie apart.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from .counts import CHANGED_ML, CHANGED_SHARE, Counts, countsFromRecord, countSlices, numbered
from .figures import fixed, number, signed, size
from .palette import readable, structureColour

DICE_LIMIT, SLICE_LIMIT, HD95_LIMIT_MM = 0.90, 0.80, 20.0
CONTROL_STEADY = 0.05
FIRST_SCHEMA = "perturbox-result/1"  # left benign, absent and volume to its readers
PLANES = ("sagittal", "coronal", "axial")  # by the RAS axis a slice lies across
# A shape and a word each, so that no verdict needs its colour; in the order of the table.
VERDICTS = {
    "vanished": ("✕", "vanished"),
    "appeared": ("✚", "appeared"),
    "dice": ("▼", "Dice"),
    "volume": ("▼", "volume"),
    "distance": ("▲", "far"),
    "local": ("◐", "local"),
    "benign": ("●", "as benign"),
    "held": ("●", "held"),
    "not-outlined": ("○", "not outlined"),
    "not-tested": ("?", "not tested"),
    "absent": ("–", "absent"),
}
BROKEN = tuple(VERDICTS)[:6]
NO_PROOF = "That is not proof of safety: raise effort or limit."


@dataclass(frozen=True)
class Row:
    """One structure. Volumes in ml; scores against the record's reference; None = no value.

    agreement: Dice of the prediction after with the one before. failed: slices with Dice < 0.8, of `present` that hold
    the structure, along the axis where they are most. breaksAt, inSigma: "≤ 2", "> 4" or "–". reason: a key of
    VERDICTS. look: plane, first and last slice (0-based) where it shows best.
    """

    name: str
    title: str
    value: int
    colour: str
    dice: float | None
    diceBefore: float | None
    agreement: float | None
    beforeMl: float
    afterMl: float
    lostMl: float
    gainedMl: float
    hd95Mm: float | None
    failed: int
    present: int
    breaksAt: str
    inSigma: str
    randomDice: float | None
    reason: str
    look: tuple[str, int, int]

    @property
    def deltaMl(self) -> float:
        return self.afterMl - self.beforeMl

    @property
    def deltaPercent(self) -> float | None:
        return 100 * self.deltaMl / self.beforeMl if self.beforeMl else None

    @property
    def broken(self) -> bool:
        return self.reason in BROKEN

    @property
    def verdict(self) -> str:
        return " ".join(VERDICTS[self.reason])

    def cells(self, withExpert: bool = False) -> list[str]:
        """The row as texts under `Result.headers`."""
        percent = "" if self.deltaPercent is None else f" ({signed(self.deltaPercent, 0)} %)"
        dice = [fixed(self.diceBefore, 3), fixed(self.dice, 3)] if withExpert else [fixed(self.dice, 3)]
        slices = f"{self.failed} of {self.present}"
        delta = signed(self.deltaMl, 0 if abs(self.deltaMl) >= 10 else 1) + percent
        numbers = [delta, fixed(self.hd95Mm, 1), slices, self.breaksAt, self.inSigma, fixed(self.randomDice, 3)]
        return [self.title, *dice, *numbers, self.verdict]


class Result:
    """A result.json and, where at hand, the counts of its label maps along the three ijk axes.

    affine: ijk->RAS 4x4, for the planes' names and the acquisition axis. margin: a margin.json that belongs to it.
    Without counts `countsFromRecord` says what is less exact. Volumes of a 2D image are areas in cm².
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
        self.size = "cm²" if self.flat else "ml"
        self.voxelMl = float(np.prod(self.spacing)) / (100 if self.flat else 1000)
        self.unit = "HU" if record["budget"]["unit"] == "HU" else "units"
        self.axis = acquisitionAxis(self.affine, self.shape)
        self.counts = counts or [countsFromRecord(record, axis) for axis in range(3)]
        self.margin = (margin or {}).get("structures") or record.get("margin") or {}

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

    def headers(self) -> list[str]:
        expert = ["Dice clean vs expert", "Dice adversarial vs expert"]
        dice = ["Agreement with own clean prediction"] if self.ownReference else expert
        unit = self.unit
        rest = [
            f"Δ {self.size}",
            "HD95 mm",
            "Slices < 0.8",
            f"Breaks at {unit}",
            "in noise σ",
            f"{self.chance} Dice",
            "Verdict",
        ]
        return ["Structure", *dice, *rest]

    def agreementNote(self) -> str:
        """What the Dice column compares with."""
        if self.ownReference:
            return "No expert outline: values compare the model with itself."
        return "Dice is with the expert outline; verdicts compare with the model’s own clean prediction."

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
        breaksAt, inSigma = self._bounds(name)
        held = self.counts[axis].before[:, column] + self.counts[axis].after[:, column] > 0
        ml = self.voxelMl
        return Row(
            name=name,
            title=readable(name),
            value=self.labels[name],
            colour=structureColour(column + 1),
            dice=adversarial.get("dice"),
            diceBefore=clean.get("dice"),
            agreement=agreement,
            beforeMl=before * ml,
            afterMl=after * ml,
            lostMl=(before - shared) * ml,
            gainedMl=(after - shared) * ml,
            hd95Mm=adversarial.get("hd95_mm"),
            failed=int(failed.sum()),
            present=int(held.sum()),
            breaksAt=breaksAt,
            inSigma=inSigma,
            randomDice=self._control(self._chance).get(name),
            reason=reason,
            look=look,
        )

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
        return "volume" if verdict == "dice" and agreement >= DICE_LIMIT else verdict

    def _bounds(self, name: str) -> tuple[str, str]:
        bound = self.margin.get(name) or {}
        sign, value = ("≤", bound["breaks_at"]) if bound.get("breaks_at") is not None else (">", bound.get("above"))
        if value is None:
            return "not tested" if bound.get("verdict") == "not-tested" else "–", "–"
        sigma = self.record["noise"].get("sigma")
        return f"{sign} {number(value)}", f"{sign} {number(value / sigma, 2)}" if sigma else "–"

    def _control(self, kind: str) -> dict[str, float | None]:
        return ((self.record.get("control") or {}).get(kind) or {}).get("dice") or {}

    # ------------------------------------------------------------ sentences

    def ml(self, value: float) -> str:
        """An amount as one reads it: "143 ml"; of a 2D image "2.5 cm²"."""
        return f"{size(value)} {self.size}"

    def verdict(self) -> str:
        """What changed, against the scan's own noise; what it did; what random noise of that size does."""
        return f"{self._limit()} {self._effect(self.rows())}. {self._random(self.rows())}"

    def _limit(self) -> str:
        budget, noise = self.record["budget"], self.record["noise"]
        eps, norm = budget["eps"], budget["norm"]
        size = {
            "l2": f"≤ {number(eps)} {self.unit} RMS",
            "l0": f"≤ {number(100 * eps)} % of the voxels",
        }.get(norm, f"≤ {number(eps)} {self.unit}")
        times = noise.get("eps_over_sigma") if norm == "linf" else noise.get("rms_over_sigma")
        if not noise.get("sigma") or times is None:
            return f"{size} (this scan’s noise is not available)"
        return f"{size} ({'RMS ' if norm == 'l0' else ''}{number(times, 2)} × this scan’s noise)"

    def _effect(self, rows: list[Row]) -> str:
        if not rows:
            return "was tried, but the model found none of its structures before or after"
        broken = [row for row in rows if row.broken]
        if not broken:
            low = min(rows, key=lambda row: row.agreement or 0)
            return (
                f"changed no structure beyond the limits (lowest Dice {fixed(low.agreement, 3)}, {low.title.lower()})"
            )
        parts = []
        gone = [row for row in broken if row.reason == "vanished"]
        if gone:
            names = ", ".join(f"{row.title.lower()} ({self.ml(row.beforeMl)})" for row in gone)
            parts.append(f"made {names} vanish")
        # By share of the structure: 200 ml of a kidney weigh more than 600 ml of bowel.
        rest = [row for row in broken if row.reason != "vanished"]
        losing = [row for row in rest if row.lostMl >= 0.5]
        lost = max(losing, key=lambda row: row.lostMl / row.beforeMl, default=None)
        gaining = [row for row in rest if row.gainedMl >= 0.5]
        others = [row for row in gaining if row is not lost] or gaining
        gained = max(others, key=lambda row: row.gainedMl / max(row.beforeMl, 1.0), default=None)
        if lost:
            parts.append(f"removed {self.ml(lost.lostMl)} of {lost.title.lower()}")
        if gained:
            parts.append(f"added {self.ml(gained.gainedMl)} of “{gained.title.lower()}”")
        if not parts:
            parts.append("moved " + ", ".join(row.title.lower() for row in broken) + " over a limit")
        return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]

    def _random(self, rows: list[Row]) -> str:
        proof = "" if any(row.broken for row in rows) else f" {NO_PROOF}"
        known = [row for row in rows if row.randomDice is not None and row.diceBefore is not None]
        if not known:
            return f"No random-noise control was run.{proof}"
        said = "A random draw of the same kind" if self._chance == "own" else "Random noise of that size"
        worst = max(known, key=lambda row: row.diceBefore - row.randomDice)
        fall = worst.diceBefore - worst.randomDice
        if fall > CONTROL_STEADY:
            dice = fixed(worst.randomDice, 3)
            return f"{said} alone lowers Dice to {dice} ({worst.title.lower()}).{proof}"
        if self.ownReference:
            return f"{said}: Dice ≥ {fixed(worst.randomDice, 3)}.{proof}"
        return f"{said}: Dice falls by at most {fixed(max(fall, 0.0), 3)}.{proof}"

    def flags(self) -> list[str]:
        """What a good Dice hides, and where to look: a far leak, slices that failed."""
        found = []
        for row in self.rows():
            plane, first, last = row.look
            where = f"Look at {plane} slice{'' if first == last else 's'} {first + 1}"
            where += "." if first == last else f"–{last + 1}."
            start = f"{row.title}: Dice {fixed(row.agreement, 3)}"
            if row.reason == "distance":
                ml, what = max((row.gainedMl, "was added"), (row.lostMl, "was lost"))
                far = f"up to {number(row.hd95Mm)} mm from the edge before (HD95, limit {number(HD95_LIMIT_MM)} mm)"
                found.append(f"{start} looks good, but {self.ml(ml)} {what} {far}. {where}")
            elif row.reason == "local":
                slices = f"{row.failed} of {row.present} {plane} slices with Dice below {SLICE_LIMIT}"
                found.append(f"{start} hides {slices}. {where}")
        return found

    def warnings(self) -> list[str]:
        """The record's own warnings, and where it was stopped."""
        stopped = self.record.get("stopped_early")
        return [*([f"{stopped[0].upper()}{stopped[1:]}."] if stopped else []), *(self.record.get("warnings") or [])]

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
