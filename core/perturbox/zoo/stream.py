"""The stream of training samples: sample `i` depends on (seed, i) alone, so a resumed run sees what it would have seen.

Anatomies are slow, so they are kept on disk and recoloured; their number grows along the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from perturbox.zoo.anatomy import make_anatomy
from perturbox.zoo.appearance import Labels, make_crop
from perturbox.zoo.canvas import Floats

TRAINING_PATIENTS = range(1_000_000, 1_000_200)
"""Anatomy seeds used in training; all others are free for held-out and demo phantoms."""
HELD_OUT_PATIENTS = range(900_000, 900_008)


@dataclass
class Patients:
    """Anatomies by seed, cached in memory and, if a folder is given, on disk."""

    folder: Path | None
    _known: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __getitem__(self, seed: int) -> NDArray[np.uint8]:
        if seed not in self._known:
            self._known[seed] = self._read(seed)
        return self._known[seed]

    def _read(self, seed: int) -> NDArray[np.uint8]:
        if self.folder is None:
            return make_anatomy(seed)
        path = self.folder / f"{seed}.npz"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(part, map=make_anatomy(seed))
            part.replace(path)
        return np.load(path)["map"]


class Stream(Dataset[tuple[Tensor, Tensor]]):
    """Training samples (HU float32, class int64): 3D crops (x, y, z), or `slices` axial slices (slice, x, y) of one."""

    def __init__(
        self,
        patients: Patients,
        seed: int,
        length: int,
        crop: Sequence[int],
        slices: int | None = None,
        first: int = 24,
        every: int = 32,
    ) -> None:
        self.patients, self.seed, self.length = patients, seed, length
        self.crop, self.slices, self.first, self.every = crop, slices, first, every

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        known = min(len(TRAINING_PATIENTS), self.first + index // self.every)
        hu, labels = make_crop(self.patients[TRAINING_PATIENTS[rng.integers(known)]], rng, self.crop)
        if self.slices:
            chosen = np.sort(rng.choice(hu.shape[2], self.slices, replace=False))
            hu, labels = (np.moveaxis(volume[:, :, chosen], 2, 0) for volume in (hu, labels))
        return torch.from_numpy(np.ascontiguousarray(hu)), torch.from_numpy(labels.astype(np.int64))


def held_out_crops(patients: Patients, crop: Sequence[int], per_patient: int = 3) -> list[tuple[Floats, Labels]]:
    """Crops of patients that training never sees, always the same."""
    return [
        make_crop(patients[seed], np.random.default_rng([seed, k]), crop)
        for seed in HELD_OUT_PATIENTS
        for k in range(per_patient)
    ]
