"""A Gaussian mixture with full covariances, fitted by expectation maximisation to few samples of many features.

Each component keeps L, the Cholesky factor of its precision: |L^T (x - mean)|^2 is the Mahalanobis distance. What a
sample says of a covariance is drawn towards its diagonal, the more so the fewer samples there are, so that it is never
singular. Dempster, Laird & Rubin 1977, doi 10.1111/j.2517-6161.1977.tb01600.x.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

ITERATIONS, TOLERANCE = 60, 1e-3
FLOOR = 1e-6  # of the mean variance, added to every variance


@dataclass(frozen=True, eq=False)
class Mixture:
    """weights "m", means "m c", factors "m c c": L of each component, upper triangular."""

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    def joint(self, x: np.ndarray) -> np.ndarray:
        """log of weight times density of each component at samples "n c", "n m"."""
        columns = []
        for weight, mean, factor in zip(self.weights, self.means, self.factors, strict=True):
            distance = np.square((x - mean) @ factor).sum(1)
            logdet = np.log(np.diagonal(factor)).sum()
            columns.append(np.log(weight) + logdet - 0.5 * (distance + x.shape[1] * np.log(2 * np.pi)))
        return np.stack(columns, 1)

    def log_likelihood(self, x: np.ndarray) -> np.ndarray:
        """log density of samples "n c", "n"."""
        return np.asarray(logsumexp(self.joint(x), axis=1))


def fit_mixture(x: np.ndarray, components: int, rng: np.random.Generator, shrink: float | None = None) -> Mixture:
    """The mixture of samples "n c", of at most so many components.

    shrink: share of each covariance that is its diagonal alone; c / (c + samples of the component) if not given.
    """
    x = np.asarray(x, np.float64)
    floor = FLOOR * float(x.var(0).mean()) + 1e-12
    shares = _start(x, min(components, len(x)), rng)
    mixture, before = _maximise(x, shares, shrink, floor), -np.inf
    for _ in range(ITERATIONS):
        joint = mixture.joint(x)
        each = np.asarray(logsumexp(joint, axis=1))
        if each.mean() - before < TOLERANCE:
            break
        before = each.mean()
        mixture = _maximise(x, np.exp(joint - each[:, None]), shrink, floor)
    return mixture


def _start(x: np.ndarray, components: int, rng: np.random.Generator) -> np.ndarray:
    """Shares "n m" of samples in components: k-means from spread-out seeds (Arthur & Vassilvitskii 2007), each feature
    over its standard deviation."""
    scaled = x / np.sqrt(x.var(0) + 1e-12)
    centres = scaled[rng.integers(len(x))][None]
    while len(centres) < components:
        away = np.square(scaled[:, None] - centres).sum(2).min(1)
        chances = away / away.sum() if away.sum() > 0 else None
        centres = np.concatenate([centres, scaled[rng.choice(len(x), p=chances)][None]])
    nearest = np.zeros(len(x), int)
    for _ in range(20):
        nearest = np.square(scaled[:, None] - centres).sum(2).argmin(1)
        held = np.unique(nearest)
        centres = np.stack([scaled[nearest == centre].mean(0) for centre in held])
    nearest = np.square(scaled[:, None] - centres).sum(2).argmin(1)
    return np.eye(len(centres))[nearest]


def _maximise(x: np.ndarray, shares: np.ndarray, shrink: float | None, floor: float) -> Mixture:
    """The mixture of which the samples have these shares "n m"; components nobody belongs to are dropped."""
    shares = shares[:, shares.sum(0) > 1e-3]
    counts = shares.sum(0)
    means = (shares.T @ x) / counts[:, None]
    factors = []
    for count, mean, share in zip(counts, means, shares.T, strict=True):
        apart = x - mean
        covariance = (share[:, None] * apart).T @ apart / count
        kept = 1 - (x.shape[1] / (x.shape[1] + count) if shrink is None else shrink)
        diagonal = np.diagonal(covariance).copy()
        covariance *= kept
        np.fill_diagonal(covariance, diagonal + floor)
        factors.append(np.triu(np.linalg.inv(np.linalg.cholesky(covariance)).T))
    return Mixture(counts / counts.sum(), means, np.stack(factors))
