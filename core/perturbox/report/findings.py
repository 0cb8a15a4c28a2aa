"""What happened, in numbers the page needs beyond result.json: slices that changed, and one verdict per structure.

Limits and definitions are those the robustness margin uses: a structure breaks when Dice < 0.90, its volume changes by more
than 10 %, its HD95 exceeds 20 mm, or it vanishes or appears. Overlap verdicts count only below the agreement that benign
changes (saving again, half a voxel of shift, the scan's own noise) leave.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbox.report.load import Result

DICE_LIMIT, VOLUME_LIMIT, HD95_LIMIT = 0.90, 0.10, 20.0
LOCAL_DICE, LOCAL_SLICES, LOCAL_AREA = 0.8, 2, 0.10
CHANGED_ML, CHANGED_SHARE = 0.5, 0.02


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
        before, after = np.take(clean, index, axis), np.take(adversarial, index, axis)
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
    """Which slices count as changed: over 0.5 ml differs ("slice"), or over 2 % of a structure in it ("slice structure")."""
    per_structure = slices.lost + slices.gained
    area = np.maximum(slices.before, slices.after)
    return slices.differ * voxel_ml > CHANGED_ML, per_structure > CHANGED_SHARE * area


@dataclass(frozen=True)
class Finding:
    """One structure's row. Volumes in ml (2D: cm²); scores against the reference of result.json; None = no value.

    agreement: Dice of the prediction after with the prediction before. failed: slices with agreement < 0.8 of at least a
    tenth of the largest area and over 0.5 ml of difference; present: slices with the structure. reason: key of VERDICTS.
    """

    number: int
    name: str
    target: bool
    agreement: float | None
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

    @property
    def broken(self) -> bool:
        return self.reason not in ("held", "benign", "absent")

    @property
    def title(self) -> str:
        return readable(self.name)


# What each verdict looks like: a shape, so that colour is never needed, and words.
VERDICTS = {
    "vanished": ("✕", "vanished"),
    "appeared": ("✚", "appeared"),
    "dice": ("▼", "Dice"),
    "volume": ("▼", "volume"),
    "distance": ("▲", "distance"),
    "local": ("◐", "locally"),
    "benign": ("●", "as under benign changes"),
    "held": ("●", "held"),
    "absent": ("–", "not in this scan"),
}


def readable(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()


def judge(result: Result, slices: Slices, voxel_ml: float) -> list[Finding]:
    """One finding per structure, worst first; `slices` along the axis that counts as axial."""
    record = result.record
    targets = record["attack"]["parameters"].get("target") or []
    floors = (record["control"].get("benign") or {}).get("dice") or {}
    findings = []
    for n, name in enumerate(result.structures):
        before, after = int(slices.before[:, n].sum()), int(slices.after[:, n].sum())
        shared = int(slices.shared[:, n].sum())
        total = before + after
        clean = record["metrics"]["clean"].get(name) or {}
        adversarial = record["metrics"]["adversarial"].get(name) or {}
        failed = _failed(slices, n, voxel_ml)
        findings.append(
            Finding(
                number=n + 1,
                name=name,
                target=name in targets,
                agreement=2 * shared / total if total else None,
                dice_before=clean.get("dice"),
                dice_after=adversarial.get("dice"),
                hd95_mm=adversarial.get("hd95_mm"),
                before=before * voxel_ml,
                after=after * voxel_ml,
                lost=(before - shared) * voxel_ml,
                gained=(after - shared) * voxel_ml,
                failed=failed,
                present=int(((slices.before[:, n] + slices.after[:, n]) > 0).sum()),
                reason=_reason(before, after, shared, failed, clean, adversarial, floors.get(name)),
            )
        )
    order = list(VERDICTS)
    return sorted(findings, key=lambda f: (not f.broken, f.agreement is None, f.agreement or 0, order.index(f.reason)))


def _failed(slices: Slices, n: int, voxel_ml: float) -> int:
    area = np.maximum(slices.before[:, n], slices.after[:, n])
    large = area >= LOCAL_AREA * max(int(area.max(initial=0)), 1)
    differs = (slices.lost + slices.gained)[:, n] * voxel_ml > CHANGED_ML
    return int((large & differs & (slices.dice[:, n] < LOCAL_DICE)).sum())


def _reason(
    before: int,
    after: int,
    shared: int,
    failed: int,
    clean: dict[str, Any],
    adversarial: dict[str, Any],
    floor: float | None,
) -> str:
    if before == 0 and after == 0:
        return "absent"
    agreement = 2 * shared / (before + after)
    far, far_before = adversarial.get("hd95_mm"), clean.get("hd95_mm")
    if after == 0:
        reason = "vanished"
    elif before == 0:
        reason = "appeared"
    elif agreement < DICE_LIMIT:
        reason = "dice"
    elif abs(after - before) > VOLUME_LIMIT * before:
        reason = "volume"
    elif far is not None and far > HD95_LIMIT and (far_before is None or far_before <= HD95_LIMIT):
        reason = "distance"
    elif failed > LOCAL_SLICES:
        reason = "local"
    else:
        return "held"
    overlap = reason in (
        "vanished",
        "appeared",
        "dice",
        "volume",
    )  # the floor is a Dice: it knows no distances or slices
    return "benign" if overlap and floor is not None and agreement >= floor else reason
