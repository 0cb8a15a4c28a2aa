"""The numbers behind a study's sentences: intervals, paired tests, permutations. By SciPy and statsmodels.

The patient is the unit of claims about a model, the trained model that of claims about its training: pairs of models
share models, so labels of models are permuted (Mantel 1967, 10.1158/0008-5472; Dekker et al. 2007,
10.1007/s11336-007-9016-1), never pairs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from scipy import stats

FEWEST = 6  # patients below which no p-value is told
RESAMPLES = 9999
EXACT = 20_000  # permutations up to which all are counted


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; low, high: None where n is too small, or one-sided."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Mean and BCa bootstrap interval (Efron 1987, 10.1080/01621459.1987.10478410), percentile where BCa isn't defined;
    values: one for each patient. None of none; no interval of fewer than three."""
    x = np.asarray(values, float)
    if not x.size:
        return None
    if x.size < 3:
        return Interval(float(x.mean()), None, None, x.size)
    low, high = _bootstrap(x, confidence, "two-sided")
    return Interval(float(x.mean()), low, high, x.size)


def upper_bound(values: Sequence[float], confidence: float) -> float | None:
    """The one-sided upper bound of a mean over patients; None of fewer than `FEWEST`."""
    x = np.asarray(values, float)
    return _bootstrap(x, confidence, "less")[1] if x.size >= FEWEST else None


def _bootstrap(x: np.ndarray, confidence: float, alternative: str) -> tuple[float, float]:
    x = x.round(12)  # BCa counts resamples below the mean: the order in which a sum was rounded must not decide
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    for method in ("BCa", "percentile"):
        found = stats.bootstrap(
            (x,),
            np.mean,
            confidence_level=confidence,
            n_resamples=RESAMPLES,
            method=method,
            alternative=alternative,
            rng=np.random.default_rng(0),
        ).confidence_interval
        wanted = found.high if alternative == "less" else found.low + found.high
        if math.isfinite(wanted):
            break
    return float(found.low), float(found.high)


def paired_p(differences: Sequence[float]) -> float | None:
    """Wilcoxon's signed-rank p-value, zeros by Pratt; None of fewer than `FEWEST` patients or where all are 0."""
    x = np.asarray(differences, float)
    if x.size < FEWEST or not x.any():
        return None
    return float(stats.wilcoxon(x, zero_method="pratt")[1])  # type: ignore[index]


def least_p(labels: Sequence[object]) -> float:
    """The least p-value that `permutation_p` can give of these labels where their names don't matter: 0.1 of three and
    three models, however unlike they are."""
    sizes = [list(labels).count(label) for label in set(labels)]
    alike = math.prod(math.factorial(sizes.count(size)) for size in set(sizes))
    return alike * math.prod(map(math.factorial, sizes)) / math.factorial(len(labels))


def permutation_p(labels: Sequence[object], statistic: Callable[[Sequence[object]], float | None]) -> float | None:
    """Two-sided p-value of a statistic of labelled models, over all different relabellings, or over `RESAMPLES` random
    ones and the one that is there; None where it has no value."""
    observed = statistic(labels)
    if observed is None:
        return None
    count = math.factorial(len(labels))
    for label in set(labels):
        count //= math.factorial(list(labels).count(label))
    if count <= EXACT:
        every = set(permutations(labels)) if len(labels) <= 8 else _distinct(labels)
        drawn = [statistic(order) for order in every]
    else:
        rng = np.random.default_rng(0)
        place = range(len(labels))
        drawn = [observed, *(statistic([labels[i] for i in rng.permutation(place)]) for _ in range(RESAMPLES))]
    known = [abs(value) for value in drawn if value is not None]
    return sum(value >= abs(observed) - 1e-12 for value in known) / len(known)


def _distinct(labels: Sequence[object]) -> list[tuple[object, ...]]:
    """Every different order of some labels, without going through those that are the same."""
    kinds = list(dict.fromkeys(labels))
    left = {kind: list(labels).count(kind) for kind in kinds}
    found: list[tuple[object, ...]] = []

    def grow(order: tuple[object, ...]) -> None:
        if len(order) == len(labels):
            found.append(order)
            return
        for kind in kinds:
            if left[kind]:
                left[kind] -= 1
                grow((*order, kind))
                left[kind] += 1

    grow(())
    return found


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number after Holm 1979; those that are None stay so and don't count."""
    from statsmodels.stats.multitest import multipletests

    known = [p for p in p_values if p is not None]
    adjusted: Iterator[Any] = iter(multipletests(known, method="holm")[1]) if known else iter(())  # type: ignore
    return [None if p is None else float(next(adjusted)) for p in p_values]
