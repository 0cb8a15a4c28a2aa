"""Which counts of votes certify: p-values of every possible count, corrected for many tests at once.

A voxel whose answer got c of n votes is tested against "at most a share tau of all noisy copies gives this answer":

    p(c) = P(Bin(n, tau) >= c)

All voxels have the same n and tau, so there are only n + 1 different p-values. They are computed once, and the
corrections work on how many voxels have each count: 80 million voxels take no longer than a thousand.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import binom, norm

from perturbox.defaults import CORRECTIONS
from perturbox.types import InputError

MOST_VOTES = 2**16 - 1  # what a count of votes holds


def p_values(n: int, tau: float) -> np.ndarray:
    """ "n+1": p-value of each count 0 ... n of n votes, falling from 1."""
    return binom.sf(np.arange(n + 1) - 1, n, tau)


def bonferroni(p: np.ndarray, voxels: np.ndarray, alpha: float) -> int:
    """The least certified count: every p-value up to alpha / N is rejected. p: "n+1" by count; voxels: "n+1", how many
    have each; n + 1 where none certifies."""
    passing = np.flatnonzero(p <= alpha / max(int(voxels.sum()), 1))
    return int(passing[0]) if len(passing) else len(p)


def holm(p: np.ndarray, voxels: np.ndarray, alpha: float) -> int:
    """The least certified count by Holm 1979: the p-value after r rejected ones is rejected up to alpha / (N - r), up
    to the first that isn't. Arguments and result as of `bonferroni`, and never above it.

    Voxels of one count are rejected together, because each makes the next one's limit larger.
    """
    total, rejected, least = int(voxels.sum()), 0, len(p)
    for count in range(len(p) - 1, -1, -1):
        if p[count] > alpha / max(total - rejected, 1):
            break
        least, rejected = count, rejected + int(voxels[count])
    return least


LEAST: dict[str, Callable[[np.ndarray, np.ndarray, float], int]] = dict(
    zip(CORRECTIONS, (holm, bonferroni), strict=True)
)


def votes_needed(tests: int, tau: float, alpha: float) -> int:
    """The least n with which a voxel can be certified at all, by all of its votes: tau^n <= alpha / tests.

    Raises InputError where it is more than can be counted.
    """
    n = max(1, math.floor((math.log(alpha) - math.log(max(tests, 1))) / math.log(tau)))  # rounding may have it one off
    if n <= MOST_VOTES:
        while p_values(n, tau)[n] > alpha / max(tests, 1):
            n += 1
    if n > MOST_VOTES:
        raise InputError(
            f"Even {MOST_VOTES} votes that agree certify nothing at tau {tau:g} and alpha {alpha:g}; choose a smaller "
            "tau or a larger alpha."
        )
    return n


def votes_for(tests: int, tau: float, alpha: float, asked: int | None, least: int = 100) -> int:
    """How many votes to take: those asked for, or else a quarter more than are needed, so that a voxel may miss some.

    Raises InputError where as many as asked for could certify nothing.
    """
    needed = votes_needed(tests, tau, alpha)
    if asked is None:
        return max(least, math.ceil(1.25 * needed))
    if asked < needed:
        raise InputError(
            f"{asked} votes can't certify any of {tests:,} voxels at tau {tau:g} and alpha {alpha:g}; give --n "
            f"{needed} or more, fewer voxels (--roi), a smaller tau or a larger alpha."
        )
    return asked


def radius(sigma: float, tau: float) -> float:
    """The L2 norm up to which no change of the scan alters a certified answer: sigma * Phi^-1(tau), in sigma's unit."""
    return sigma * float(norm.ppf(tau))
