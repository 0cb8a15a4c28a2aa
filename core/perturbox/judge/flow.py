"""What became what: how much of each structure has which label after the attack."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perturbox.judge.verdicts import BACKGROUND


def flow(before: np.ndarray, after: np.ndarray, labels: Mapping[str, int], voxel: float) -> list[dict[str, Any]]:
    """Rows {from, to, ml} of two label maps "*s", the largest first; what kept its label has no row.

    ml counts as `source.sizes` does: millilitres, cm² of a flat image, pixels of a photograph; voxel: size of one.
    A label map holds one label per voxel, also that of a model with overlapping regions, which paints the innermost:
    so every voxel that changed is in exactly one row.
    """
    names = {0: BACKGROUND} | {value: name for name, value in labels.items()}
    size = 1 + max(names)
    moved = before != after
    pairs = before[moved].astype(np.int64) * size + after[moved]
    counts = np.bincount(pairs.ravel(), minlength=size * size)
    largest_first = sorted(np.flatnonzero(counts).tolist(), key=lambda pair: (-counts[pair], pair))
    return [
        {"from": names[pair // size], "to": names[pair % size], "ml": int(counts[pair]) * float(voxel)}
        for pair in largest_first
    ]
