"""The numbers of a study's page, worked out once more from results.parquet: pandas, SciPy and itertools, nothing of
perturbox. Each function takes the table and answers what study.json's "found" holds under its name."""

from itertools import permutations, product

import numpy as np
import pandas as pd
from scipy import stats


def good(table, ordinary=False):
    table = table[(table["status"] == "ok") & table["dice"].notna() & table["dice_clean"].notna()]
    table = table[table["corruption"].notna() if ordinary else table["corruption"].isna()].copy()
    return table.assign(fall=table["dice_clean"] - table["dice"])


def white(table):
    table = good(table)
    return table[table["surrogate"] == table["target"]]


def ends(values, confidence=0.95, alternative="two-sided"):
    values = np.asarray(values, float).round(12)  # ties with the mean don't hang on the order of a sum
    if len(values) < 3:
        return None, None
    if (values == values[0]).all():
        return values[0], values[0]
    rng = np.random.default_rng(0)
    both = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=9999, alternative=alternative, rng=rng
    ).confidence_interval
    return both.low, both.high


def mean(values):
    values = pd.Series(values, dtype=float).dropna()
    return values.mean() if len(values) else None


def curves(table):
    found = {}
    for key, part in white(table).groupby(["target", "attack", "structure", "eps"]):
        by = part.groupby("patient")
        dice = by["dice"].mean()
        low, high = ends(dice)
        controls = {c: mean(by[c].mean()) for c in ("dice_clean", "dice_noise", "dice_rolled", "dice_benign")}
        found[key] = {"n": len(dice), "dice": dice.mean(), "low": low, "high": high, **controls, "patients": dict(dice)}
    return found


def verdicts(table):
    return dict(white(table).value_counts(["target", "attack", "eps", "structure", "verdict"]))


def strata(table):
    found = {}
    for key, part in white(table).groupby(["target", "attack", "eps", "structure"]):
        cases = part.groupby("case")[["size", "fall"]].mean()
        small = cases["size"] <= np.median(cases["size"])
        if len(cases) >= 4 and small.any() and not small.all():
            halves = cases.loc[small, "fall"].mean(), cases.loc[~small, "fall"].mean()
            found[key] = (np.median(cases["size"]), *halves, small.sum(), (~small).sum())
    return found


def worst_cases(table, count):
    each = white(table).groupby(["target", "case", "attack", "eps", "seed"])["fall"].mean()
    furthest = each.groupby(["target", "case"]).max().sort_values(ascending=False, kind="stable")
    return [(*key, fall) for key, fall in furthest.head(count).items()]


def worst(table):
    by = white(table).groupby(["target", "eps", "patient", "attack"])["dice"].mean().unstack("attack")
    found = {}
    for key, part in by.groupby(["target", "eps"]):
        least = part.min(axis=1)
        found[key] = (least.mean(), *ends(least), dict(part.idxmin(axis=1).value_counts()), dict(part.mean()))
    return found


def criterion(table, eps, dice):
    found = {}
    for (model, attack, structure, limit), row in curves(table).items():
        if limit == eps:
            found.setdefault(model, []).append((row["low"], structure, attack))
    return {model: (*min(rows), min(rows)[0] >= dice) for model, rows in found.items()}


def matrix(table):
    keys = ["attack", "eps", "surrogate", "target"]
    per = good(table).assign(by_noise=lambda t: t["dice_clean"] - t["dice_noise"].astype(float))
    per = per.groupby([*keys, "patient"])[["fall", "by_noise"]].mean().groupby(keys).mean()
    found = {}
    for (attack, eps, a, b), row in per.iterrows():
        own = per["fall"].get((attack, eps, b, b), 0)
        found[attack, eps, a, b] = (
            row["fall"],
            row["by_noise"],
            None if own < 0.05 else row["fall"] / own,
        )
    return found


def contrasts(table, factors):
    """Per attack, limit and factor: shares of the white-box fall within and between levels, by patients and models."""
    names = sorted({name for given in factors.values() for name in given} - {"seed"})
    found = {}
    for (attack, eps), part in good(table).groupby(["attack", "eps"]):
        fall = part.groupby(["surrogate", "target", "patient"])["fall"].mean()
        own = {m: fall[m, m].mean() for m in factors if (m, m) in fall.index.droplevel(2)}
        share = {(a, b, p): value / own[b] for (a, b, p), value in fall.items() if a != b and own.get(b, 0) >= 0.05}
        pairs = pd.Series(share).groupby(level=[0, 1]).mean()
        for name in names:
            equal = [
                (a, b)
                for a, b in pairs.index
                if all(factors[a].get(n) == factors[b].get(n) for n in names if n != name)
            ]
            models = sorted({m for pair in pairs.index for m in pair})
            level = {m: factors[m][name] for m in models}

            def gap(levels, equal=equal, pairs=pairs):
                same = [pairs[pair] for pair in equal if levels[pair[0]] == levels[pair[1]]]
                other = [pairs[pair] for pair in equal if levels[pair[0]] != levels[pair[1]]]
                return np.mean(same) - np.mean(other) if same and other else None

            seen = gap(level)
            orders = set(permutations([level[m] for m in models]))
            drawn = [gap(dict(zip(models, order, strict=True))) for order in orders]
            known = [abs(value) for value in drawn if value is not None]
            per = {
                kind: pd.Series({
                    p: np.mean([v for (a, b, q), v in share.items() if q == p and (a, b) in equal
                                and (level[a] == level[b]) is kind])
                    for p in sorted({p for _, _, p in share})
                })
                for kind in (True, False)
            }  # fmt: skip
            found[attack, eps, name] = {
                "difference": seen,
                "p_models": sum(value >= abs(seen) - 1e-12 for value in known) / len(known),
                "interval": ends(per[True] - per[False]),
                "p_patients": stats.wilcoxon(per[True] - per[False], zero_method="pratt").pvalue,
                "within": {
                    str(kind): np.mean([pairs[a, b] for a, b in equal if level[a] == level[b] == kind])
                    for kind in set(level.values())
                },
            }
    return found


def holm(values):
    """The k-th smallest times how many are not smaller, never falling, at most 1."""
    order, least, adjusted = np.argsort(values), 0.0, [0.0] * len(values)
    for rank, place in enumerate(order):
        least = max(least, min(1.0, values[place] * (len(values) - rank)))
        adjusted[place] = least
    return adjusted


def comparison(table, new, old):
    fall = white(table).groupby(["attack", "eps", "target", "patient"])["fall"].mean().unstack("target")
    found = {}
    for key, part in fall.groupby(["attack", "eps"]):
        further = (part[new] - part[old]).dropna()
        found[key] = (len(further), further.mean(), ends(further, alternative="less")[1])
    return found


def knowledge(table):
    """Mean Dice of the structures by model, attack, what it knew, and limit."""
    found = {}
    for key, part in good(table).groupby(["target", "attack", "knowledge", "eps"]):
        by = part.groupby("patient")[["dice", "dice_clean"]].mean()
        found[key] = (len(by), *by.mean(), *ends(by["dice"]))
    return found


def defences(table, beside):
    """Per model, attack and limit, over the patients in which all is known: before, blind, knowing, the other model's
    own, what is lost unattacked and what is kept more, the share of gradients."""
    means = good(table).pivot_table(
        index=["attack", "eps", "patient"], columns=["target", "knowledge"], values=["dice", "dice_clean", "gradients"]
    )
    found = {}
    for model, other in beside.items():
        knows = "adaptive" if ("dice", model, "adaptive") in means else "white-box"
        blind = means.get(("dice", model, "oblivious"))
        all_of_it = pd.DataFrame({
            "clean": means["dice_clean", model, knows], "knowing": means["dice", model, knows],
            "other": means["dice", other, "white-box"], "whole": means["dice_clean", other, "white-box"],
            "spent": means["gradients", model, knows], "least": means["gradients", other, "white-box"],
            **({} if blind is None else {"blind": blind}),
        }).dropna()  # fmt: skip
        for key, t in all_of_it.groupby(["attack", "eps"]):
            more, lost = t["knowing"] - t["other"], t["whole"] - t["clean"]
            p = stats.wilcoxon(more, zero_method="pratt").pvalue if len(t) >= 6 and more.any() else None
            found[(model, *key)] = {
                "n": len(t), "clean": t["clean"].mean(), "oblivious": None if blind is None else t["blind"].mean(),
                "adaptive": t["knowing"].mean(), "undefended": t["other"].mean(), "gain": more.mean(),
                "cost": lost.mean(), "gradients": t["spent"].mean() / t["least"].mean(), "p": p,
                "masking": blind is not None and t["knowing"].mean() - t["blind"].mean() > 0.01,
                **dict(zip(("gain_low", "gain_high"), ends(more), strict=True)),
                **dict(zip(("cost_low", "cost_high"), ends(lost), strict=True)),
                **dict(zip(("adaptive_low", "adaptive_high"), ends(t["knowing"]), strict=True)),
            }  # fmt: skip
    return found


def corruptions(table):
    rows = pd.concat([white(table), good(table, ordinary=True)])
    found = {}
    keys = ["target", "structure", "corruption", "grade", "attack", "eps"]
    for key, part in rows.groupby(keys, dropna=False):
        by = part.groupby("patient")[["dice", "rms", "dice_clean"]].mean()
        told = tuple(None if pd.isna(value) else value for value in key)
        found[told] = (len(by), *by.mean(), *ends(by["dice"]))
    return found


def beside(table):
    changed, found = good(table, ordinary=True), {}

    def fall(part):
        return part.groupby("patient")["fall"].mean().mean()

    for (model, attack, eps), part in white(table).groupby(["target", "attack", "eps"]):
        mine = changed[changed["target"] == model]
        same = mine[mine["grade"].isna() & (mine["attack"] == attack) & (mine["eps"] == eps)]
        graded = mine[mine["grade"].notna()]
        mildest = {}
        for name, grade in product(sorted(graded["corruption"].unique()), (1, 2, 3, 4, 5)):
            these = graded[(graded["corruption"] == name) & (graded["grade"] == grade)]
            if len(these) and fall(these) >= fall(part):
                mildest.setdefault(name, grade)
        found[model, attack, eps] = (
            fall(part), part.groupby("patient")["rms"].mean().mean(),
            {name: fall(these) for name, these in same.groupby("corruption")}, mildest,
        )  # fmt: skip
    return found
