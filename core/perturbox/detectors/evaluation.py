"""How well scores tell attacks from what is none, with intervals, and what so few scans can't say."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, rankdata

RATES = (0.01, 0.05, 0.1)
RESAMPLES = 2000


def auroc(negatives: np.ndarray, attacked: np.ndarray) -> float:
    """The share of pairs in which the attacked scan has the higher score, ties by half."""
    ranks = rankdata(np.concatenate([negatives, attacked]))
    m = len(attacked)
    return float((ranks[len(negatives) :].sum() - m * (m + 1) / 2) / (len(negatives) * m))


def least_rate(n: int) -> float:
    """The upper 95 % bound of a false alarm rate of which n patients gave none: 1 - 0.05^(1/n)."""
    return 1 - 0.05 ** (1 / n)


def evaluate(
    negatives: Sequence[float],
    attacked: Sequence[float],
    patients: tuple[Sequence[str], Sequence[str]] | None = None,
    rates: Sequence[float] = RATES,
    seed: int = 0,
) -> dict[str, Any]:
    """AUROC with a 95 % bootstrap interval over patients, and for each false alarm rate the share of attacks found,
    with a 95 % interval after Clopper and Pearson 1934 (doi 10.1093/biomet/26.4.404).

    negatives, attacked: scores of scans that are no attacks and of attacks, none of which the detector was fitted on.
    patients: of both; every scan its own if not given. A rate is "resolvable" if as many patients without a false alarm
    would keep its 95 % bound at or below it; of others nothing is told. Shares count scans as independent.
    """
    no, yes = np.asarray(negatives, float), np.asarray(attacked, float)
    whose = patients or ([f"n{i}" for i in range(len(no))], [f"a{i}" for i in range(len(yes))])
    told = {"value": auroc(no, yes), **dict(zip(("low", "high"), _interval(no, yes, whose, seed), strict=True))}
    count = len(set(whose[0]))
    return {
        "auroc": told,
        "negatives": len(no),
        "attacked": len(yes),
        "patients": count,
        "found": [_found(no, yes, rate, count) for rate in rates],
    }


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of scans that are no attacks and of attacks, and whose each is."""

    negatives: Sequence[float]
    attacked: Sequence[float]
    patients: tuple[Sequence[str], Sequence[str]]

    def of(self, patients: Collection[str]) -> "Scores":
        """Those of these patients alone."""
        sides = zip((self.negatives, self.attacked), self.patients, strict=True)
        kept = [[(x, who) for x, who in zip(*side, strict=True) if who in patients] for side in sides]
        (no, nobody), (yes, whose) = (([x for x, _ in side], [who for _, who in side]) for side in kept)
        return Scores(no, yes, (nobody, whose))


def difference(first: Scores, second: Scores, seed: int = 0) -> dict[str, Any]:
    """By how much the AUROC of the first exceeds that of the second, over the patients who have attacked scans in both,
    with a 95 % bootstrap interval over these, drawn together. Raises ValueError where there are none."""
    both = set(first.patients[1]) & set(second.patients[1])
    names, sides = sorted(both), [side.of(both) for side in (first, second)]
    if not names:
        raise ValueError("no patient has attacked scans in both")
    arrays = [(np.asarray(side.negatives, float), np.asarray(side.attacked, float)) for side in sides]
    values = [auroc(*pair) for pair in arrays]
    mine = [_indices(names, side.patients) for side in sides]
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < RESAMPLES:
        chosen = rng.integers(len(names), size=len(names))
        areas = []
        for (no, yes), (of_no, of_yes) in zip(arrays, mine, strict=True):
            picked = [np.concatenate([of[i] for i in chosen]) for of in (of_no, of_yes)]
            areas.append(auroc(no[picked[0]], yes[picked[1]]) if all(map(len, picked)) else np.nan)
        if np.isfinite(areas).all():
            drawn.append(areas[0] - areas[1])
    low, high = map(float, np.percentile(drawn, (2.5, 97.5)))
    return {"first": values[0], "second": values[1], "value": values[0] - values[1], "low": low, "high": high,
            "patients": len(names)}  # fmt: skip


def _indices(names: Sequence[str], whose: tuple[Sequence[str], Sequence[str]]) -> list[list[np.ndarray]]:
    """Of negatives and of attacked scans, which ones are each patient's."""
    return [[np.flatnonzero(np.asarray(side) == name) for name in names] for side in whose]


def _interval(no: np.ndarray, yes: np.ndarray, whose: tuple[Sequence[str], Sequence[str]], seed: int):
    """Percentiles of the AUROC over resampled patients; resamples without scans of both kinds are drawn again."""
    names = sorted({*whose[0], *whose[1]})
    mine = _indices(names, whose)
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < RESAMPLES:
        chosen = rng.integers(len(names), size=len(names))
        sides = [np.concatenate([of[i] for i in chosen]) for of in mine]
        if all(map(len, sides)):
            drawn.append(auroc(no[sides[0]], yes[sides[1]]))
    return tuple(map(float, np.percentile(drawn, (2.5, 97.5))))


def _found(no: np.ndarray, yes: np.ndarray, rate: float, patients: int) -> dict[str, Any]:
    """The share of attacks above the lowest threshold that not more than this share of the negatives passes."""
    if least_rate(patients) > rate:
        return {"rate": rate, "resolvable": False, "bound": least_rate(patients)}
    threshold = np.sort(no)[len(no) - 1 - int(np.floor(rate * len(no) + 1e-9))]
    hits, alarms = int((yes > threshold).sum()), int((no > threshold).sum())
    ends = [binomtest(k, n).proportion_ci(0.95, "exact") for k, n in ((hits, len(yes)), (alarms, len(no)))]
    return {
        "rate": rate,
        "resolvable": True,
        "threshold": float(threshold),
        "share": hits / len(yes),
        "low": float(ends[0].low),
        "high": float(ends[0].high),
        "alarms": alarms / len(no),
        "alarms_high": float(ends[1].high),
    }


def said(found: dict[str, Any]) -> list[str]:
    """An evaluation in sentences."""
    area = found["auroc"]
    lines = [
        f"AUROC {area['value']:.2f} (95 % interval over patients {area['low']:.2f} to {area['high']:.2f}), "
        f"{found['attacked']} attacked scans against {found['negatives']} that aren't, of {found['patients']} patients."
    ]
    unresolved = [row for row in found["found"] if not row["resolvable"]]
    lines += [
        f"At {100 * row['rate']:g} % false alarms it finds {100 * row['share']:.0f} % of the attacks "
        f"({100 * row['low']:.0f} to {100 * row['high']:.0f} %)."
        for row in found["found"]
        if row["resolvable"]
    ]
    if unresolved:
        rates = " and ".join(f"{100 * row['rate']:g} %" for row in unresolved)
        lines.append(
            f"What it finds at {rates} false alarms is not resolvable: even if none of {found['patients']} patients "
            f"gave one, the rate could be {100 * unresolved[0]['bound']:.1f} %."
        )
    return lines
