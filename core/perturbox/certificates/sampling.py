"""Votes of noisy copies of a scan: which answer each voxel is tested for, and how many other copies give it.

Every copy has noise of its own, drawn by seed and number of the copy on the scan's own grid, before the model's whole
pipeline. The copies that choose the answer never vote on it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perturbox.certificates.tree import Tree
from perturbox.model.victim import Victim
from perturbox.types import Effort, InputError, Volume

SLAB = 1 << 16  # voxels whose answers are chosen at once
UNDECIDED = -1

# (what is being done, copies done, copies in all)
Count = Callable[[str, int, int], None]
Stop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Copies:
    """Noisy copies of a scan and the model's labels of them.

    sigma: of the noise, in the scan's unit; where: bool "*s", the voxels that count, None for all.
    """

    victim: Victim
    image: Volume
    tree: Tree
    sigma: float
    seed: int
    where: np.ndarray | None
    effort: Effort

    def noise(self, number: int) -> np.ndarray:
        """float32 "c *s": the noise of one copy; that of another is independent of it."""
        draws = np.random.default_rng([self.seed, number])
        return np.float32(self.sigma) * draws.standard_normal(self.image.data.shape, dtype=np.float32)

    def labels(self, number: int) -> np.ndarray:
        """ "m": the class number of each voxel that counts, by the model's ordinary inference on one copy."""
        copy = self.image.with_data(self.image.data + self.noise(number))
        labels = self.tree.numbers(self.victim.predict(copy, self.effort))
        return labels.ravel() if self.where is None else labels[self.where]


def choose(copies: Copies, n0: int, gap: float | None, count: Count, stop: Stop) -> np.ndarray:
    """ "m": the node each voxel is tested for, by the first n0 copies, UNDECIDED where none is clear.

    gap: by how large a share of these copies the first node of a level must lead before the second: the finest level
    where it does is taken. None: the most frequent class, however close. Raises InputError where it is stopped.
    """
    first = []
    for number in range(n0):
        if stop():
            raise InputError(f"Stopped after {number} of {n0} copies that choose the answers, so nothing was written.")
        first.append(copies.labels(number))
        count("Choosing answers: noisy copy", number + 1, n0)
    stack = np.stack(first)
    chosen = np.empty(stack.shape[1], np.int16)
    for start in range(0, len(chosen), SLAB):
        chosen[start : start + SLAB] = leading(stack[:, start : start + SLAB], copies.tree, gap)
    return chosen


def leading(labels: np.ndarray, tree: Tree, gap: float | None) -> np.ndarray:
    """Class numbers "n m" of n copies -> the node "m" that leads among them; gap as of `choose`."""
    n, m = labels.shape
    cells = labels.astype(np.int64) * m + np.arange(m)
    by_class = np.bincount(cells.ravel(), minlength=len(tree.names) * m).reshape(-1, m)
    chosen = np.full(m, UNDECIDED, np.int16)
    for level in tree.levels[::-1]:  # the finest last
        nodes, place = np.unique(level, return_inverse=True)
        votes = np.zeros((len(nodes), m), np.int64)
        for of_class, row in zip(by_class, place, strict=True):
            votes[row] += of_class
        top = votes.argmax(0)
        if gap is None:
            leads = np.ones(m, bool)
        else:
            ordered = np.sort(votes, axis=0)
            second = ordered[-2] if len(nodes) > 1 else 0
            leads = ordered[-1] - second > gap * n
        chosen[leads] = nodes[top[leads]]
    return chosen


def vote(copies: Copies, chosen: np.ndarray, n0: int, n: int, count: Count, stop: Stop) -> tuple[np.ndarray, int]:
    """(uint16 "m", how many of the copies n0 ... n0 + n - 1 give each voxel's answer; how many there were).

    They are fewer than n where it was stopped. That is no choice by the outcome, because nothing of the votes is shown
    before they are counted.
    """
    member, votes = copies.tree.member, np.zeros(len(chosen), np.uint16)
    decided, node = chosen != UNDECIDED, np.where(chosen == UNDECIDED, 0, chosen)
    for number in range(n):
        if stop():
            return votes, number
        votes += member[node, copies.labels(n0 + number)] & decided
        count("Counting votes: noisy copy", number + 1, n)
    return votes, n
