"""What happened, in numbers the page needs beyond result.json: slices that changed, and one finding per structure.
Verdicts are those of result.json (limits: `judge.verdicts`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perturbox.judge import summary
from perturbox.judge.verdicts import BROKEN, VERDICTS, Limits
from perturbox.report.load import Result

LIMITS = Limits()
LOCAL_AREA = 0.10
CHANGED_ML, CHANGED_SHARE = 0.5, 0.02
WORST = 5  # structures that are drawn and named where they are many


@dataclass(frozen=True)
class Slices:
    """Voxel counts per slice along one file axis; arrays "slice" or "slice structure".

    before, after: voxels of the structure; shared: in both. differ: voxels whose label changed at all.
    """

    before: np.ndarray
    after: np.ndarray
    shared: np.ndarray
    differ: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        return self.before - self.shared

    @property
    def gained(self) -> np.ndarray:
        return self.after - self.shared

    @property
    def moved(self) -> np.ndarray:
        return self.lost + self.gained

    @property
    def dice(self) -> np.ndarray:
        """NaN where the structure is absent before and after: no value, not 1."""
        total = self.before + self.after
        return np.where(total > 0, 2 * self.shared / np.maximum(total, 1), np.nan)


def count_slices(clean: np.ndarray, adversarial: np.ndarray, structures: int, axis: int) -> Slices:
    """Counts along one axis of two uint8 label maps "i j k" with labels 0 … structures."""
    size = structures + 1
    length = clean.shape[axis]
    joint = np.zeros((length, size, size), np.int64)
    for index in range(length):
        at = (*[slice(None)] * axis, index)  # a view; np.take would copy a whole Fortran-ordered volume each time
        before, after = clean[at], adversarial[at]
        pairs = before.astype(np.uint16 if size <= 256 else np.uint32) * size + after
        joint[index] = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    diagonal = np.diagonal(joint, axis1=1, axis2=2)
    return Slices(
        before=joint.sum(2)[:, 1:],
        after=joint.sum(1)[:, 1:],
        shared=diagonal[:, 1:],
        differ=joint.sum((1, 2)) - diagonal.sum(1),
    )


def changed_slices(slices: Slices, voxel_ml: float) -> tuple[np.ndarray, np.ndarray]:
    """Which slices count as changed: over 0.5 ml differs ("slice"), or over 2 % of a structure in it ("slice
    structure")."""
    area = np.maximum(slices.before, slices.after)
    return slices.differ * voxel_ml > CHANGED_ML, slices.moved > CHANGED_SHARE * area


@dataclass(frozen=True)
class Finding:
    """One structure's row. Volumes as `source.sizes`; scores against the reference of result.json; None = no value.

    agreement: Dice of the prediction after with the prediction before, moved: HD95 of them. outlined: whether the
    scores have a reference; what an expert left out has none. failed: slices with Dice < 0.8 along the axis
    where they are most (of at least a tenth of the largest area and over 0.5 ml of difference), of `present` slices
    that hold the structure. reason: a key of VERDICTS. look: plane, first and last slice where it shows best.
    """

    number: int
    name: str
    target: bool
    outlined: bool
    agreement: float | None
    moved: float | None
    dice_before: float | None
    dice_after: float | None
    hd95_mm: float | None
    before: float
    after: float
    lost: float
    gained: float
    failed: int
    present: int
    reason: str
    look: tuple[str, int, int]

    @property
    def broken(self) -> bool:
        return self.reason in BROKEN

    @property
    def title(self) -> str:
        return readable(self.name)


def readable(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()


def judge(result: Result, along: Sequence[tuple[str, Slices]], voxel_ml: float) -> list[Finding]:
    """One finding per structure, worst first; along: (plane, counts) of each plane, volumes from the first."""
    record = result.record
    targets = record["attack"]["parameters"].get("target") or []
    slices = along[0][1]
    findings = []
    for n, name in enumerate(result.structures):
        before, after = int(slices.before[:, n].sum()), int(slices.after[:, n].sum())
        shared = int(slices.shared[:, n].sum())
        agreement = 2 * shared / (before + after) if before + after else None
        plane, counts, failed = max(
            ((plane, s, _failed(s, n, voxel_ml)) for plane, s in along), key=lambda row: int(row[2].sum())
        )
        reason = record["verdicts"][name]
        if reason == "local":
            look = (plane, *main_run(failed, counts.moved[:, n]))
        else:
            look = (along[0][0], *main_run(changed_slices(slices, voxel_ml)[1][:, n], slices.moved[:, n]))
        clean = record["metrics"]["clean"].get(name) or {}
        adversarial = record["metrics"]["adversarial"].get(name) or {}
        against = (record["metrics"]["against_clean"] or {}).get(name) or {}
        findings.append(
            Finding(
                number=n + 1,
                name=name,
                target=name in targets,
                outlined=summary.outlined(record, name),
                agreement=agreement,
                moved=against.get("hd95_mm"),
                dice_before=clean.get("dice"),
                dice_after=adversarial.get("dice"),
                hd95_mm=adversarial.get("hd95_mm"),
                before=before * voxel_ml,
                after=after * voxel_ml,
                lost=(before - shared) * voxel_ml,
                gained=(after - shared) * voxel_ml,
                failed=int(failed.sum()),
                present=int((counts.before[:, n] + counts.after[:, n] > 0).sum()),
                reason=reason,
                look=look,
            )
        )
    order = VERDICTS
    return sorted(findings, key=lambda f: (not f.broken, f.agreement is None, f.agreement or 0, order.index(f.reason)))


def main_run(chosen: np.ndarray, moved: np.ndarray) -> tuple[int, int]:
    """First and last of the run of chosen slices in which most moved; the one most moved slice if none is chosen."""
    hits = np.flatnonzero(chosen)
    if not hits.size:
        return int(moved.argmax()), int(moved.argmax())
    best = max(np.split(hits, np.flatnonzero(np.diff(hits) > 1) + 1), key=lambda run: int(moved[run].sum()))
    return int(best[0]), int(best[-1])


def _failed(slices: Slices, n: int, voxel_ml: float) -> np.ndarray:
    """Which slices of structure n fail locally."""
    area = np.maximum(slices.before[:, n], slices.after[:, n])
    large = area >= LOCAL_AREA * max(int(slices.before[:, n].max(initial=0)), 1)
    differs = slices.moved[:, n] * voxel_ml > CHANGED_ML
    return large & differs & (np.nan_to_num(slices.dice[:, n], nan=1.0) < LIMITS.slice_dice)
