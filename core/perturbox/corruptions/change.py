"""A scan under an ordinary change, at one of its grades or as large as an attack, as its file would hold it."""

import math
from functools import cached_property
from importlib import import_module

import numpy as np

from perturbox.attacks.budget import Budget, padding_of
from perturbox.corruptions import GRADES, Corruption, get, physics_of
from perturbox.errors import InputError
from perturbox.types import Case, Volume

TRIES, CLOSE = 8, 2e-3  # to meet an RMS after rounding and clipping


class Sweep:
    """One corruption of one scan "c *s" with one seed; what its grades share is computed once.

    sigma: SD of the scan's noise, which `dose` needs. Raises InputError for a corruption of another physics, a picture
    without millimetres, and what the corruption itself can't work with.
    """

    def __init__(self, image: Volume, name: str, seed: int = 0, sigma: float | None = None):
        self.corruption: Corruption = get(name, physics_of(image.unit))
        if not image.in_mm:
            raise InputError("Corruptions are of CT and MR; this is a picture without millimetres.")
        module, function = self.corruption.home.split(":")
        self.image, self.seed = image, seed
        try:
            home = import_module(f"perturbox.corruptions.{module}")
            self._values = getattr(home, function)(image, seed, sigma)
        except ImportError as error:
            raise InputError(f"Corruptions need the extra 'study' ({error.name} is missing).") from None
        self._budget = Budget.of(Case(image), None)

    def at(self, grade: int) -> Volume:
        """The scan at a grade from 0, which is the scan itself, to 5."""
        return self.image if grade == 0 else self._stored(self._change(grade))

    def matched(self, rms: float) -> Volume:
        """The scan under the change of the mildest grade, made larger or smaller until its RMS is `rms`.

        Rounding to the file's steps is dithered where it would miss: the RMS of an even offset can't be 8.4 HU in a
        file of whole HU. Where the scan's range leaves too little room, the RMS stays below.
        """
        change, found = self._mildest, self.image
        own = self._size(change)
        if rms <= 0 or own == 0:
            return self.image
        for dither in (False, True):
            scale = rms / own
            for _ in range(TRIES):
                found = self._stored(scale * change, dither)
                size = self.rms(found)
                if math.isclose(size, rms, rel_tol=CLOSE):
                    return found
                scale *= rms / size if size else 2.0
        return found

    def rms(self, changed: Volume) -> float:
        """RMS of a change over the voxels that may change, in the scan's unit."""
        return self._size(changed.data.astype(np.float64) - self.image.data)

    @cached_property
    def _mildest(self) -> np.ndarray:
        return self._change(1)

    def _change(self, grade: int) -> np.ndarray:
        if grade not in GRADES:
            raise InputError(f"There is no grade {grade}; choose one from 0 to {GRADES[-1]}.")
        change = self._values(self.corruption.grades[grade - 1]) - self.image.data.astype(np.float64)
        return np.where(padding_of(self.image), 0.0, change)

    def _size(self, change: np.ndarray) -> float:
        return math.sqrt(float(np.square(change).sum()) / (self._budget.count * len(change)))

    def _stored(self, change: np.ndarray, dither: bool = False) -> Volume:
        """The scan with a change as its file gives it back, inside the scan's own range."""
        if dither and self.image.steps is not None:
            even = np.random.default_rng(self.seed).uniform(-0.5, 0.5, change.shape)
            change = np.where(change != 0, change + even * self.image.steps, 0.0)
        data = np.clip(self.image.data + change, *self._budget.span())
        return self.image.with_data(self.image.as_saved(data.astype(self.image.data.dtype)))


def corrupt(
    image: Volume,
    name: str,
    grade: int = 3,
    *,
    rms: float | None = None,
    seed: int = 0,
    sigma: float | None = None,
) -> Volume:
    """A scan under an ordinary change of `perturbox list corruptions`, as its file would hold it.

    grade: from 0, the scan itself, to 5. rms: instead of a grade, how large the change is to be, in the scan's unit, as
    large as an attack's. seed: of what is random. sigma: SD of the scan's noise in HU, for `dose`. Raises InputError
    for MR's changes of CT and the reverse.
    """
    sweep = Sweep(image, name, seed, sigma)
    return sweep.at(grade) if rms is None else sweep.matched(rms)
