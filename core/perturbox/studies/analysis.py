"""What a study found, per kind, from the rows of results.parquet alone: anyone can recompute it from that file.

Dice of failed and gated rows isn't used. Seeds and cases of one patient are averaged first; the mean over structures is
taken within a patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from perturbox.studies import certified, changes, defended, statistics
from perturbox.studies.design import Study
from perturbox.studies.frames import Found, Frame, aimed, corrupted, own, usable

MIN_WHITE_BOX = 0.05  # a smaller fall of the target's own attack makes "relative to it" meaningless
FEWEST_MODELS = 3  # per level of a factor, to say anything of it


def analyse(study: Study, rows: Sequence[Mapping[str, Any]]) -> Found:
    """The numbers of a study's page: {"curves", …} by kind; empty lists where every row failed."""
    if study.kind == "certify":
        return certified.analyse(study, rows)
    frame = usable(rows)
    means = aimed(study, frame)
    found: Found = {"curves": curves(frame, study.confidence), "verdicts": verdicts(frame)}
    found |= {"strata": size_strata(frame), "worst_cases": worst_of_all(means, study.keep_worst)}
    if study.criterion is not None:
        found["criterion"] = criterion(found["curves"], list(study.models), study.criterion.eps, study.criterion.dice)
    if study.kind == "worst-case":
        found["worst"] = worst_cases(means, study.confidence)
    if study.kind == "transfer":
        factors = {name: dict(model.factors) for name, model in study.models.items()}
        found |= {"matrix": matrix(means), "contrasts": contrasts(means, factors, study.confidence)}
    if study.kind == "corruptions":
        changed = corrupted(rows)
        found["corruptions"] = changes.each(frame, changed, study.confidence)
        found["beside"] = changes.beside(means, aimed(study, changed), study.confidence)
    if study.kind == "defences":
        found["knowledge"] = defended.curves(means, study.confidence)
        found["defences"] = defended.worth(means, defended.beside(study), study.confidence)
    if study.kind == "non-inferiority" and study.compare is not None:
        found["comparison"] = comparison(
            means, study.compare.new, study.compare.old, study.compare.margin, study.confidence
        )
    return found


def curves(frame: Frame, confidence: float) -> list[Found]:
    """Per model, attack, structure and limit: Dice over patients with its interval, beside the controls'."""
    columns = ["dice_clean", "dice", "dice_noise", "dice_rolled", "dice_benign"]
    found = []
    for (model, attack, structure, eps), part in own(frame).groupby(["target", "attack", "structure", "eps"]):
        patients = part.groupby("patient")[columns].mean()
        spread = statistics.mean_interval(patients["dice"].tolist(), confidence)
        assert spread is not None
        found.append(
            {
                "model": model,
                "attack": attack,
                "structure": structure,
                "eps": eps,
                "n": spread.n,
                "dice": spread.mean,
                "low": spread.low,
                "high": spread.high,
                **{column: _mean(patients[column]) for column in columns if column != "dice"},
                "patients": {str(name): float(value) for name, value in patients["dice"].items()},
            }
        )
    return found


def size_strata(frame: Frame) -> list[Found]:
    """Per model, attack, limit and structure: the mean fall of Dice in the smaller and in the larger half of the cases,
    for small structures fall first (Halmosi et al., arXiv 2407.09150)."""
    found = []
    for (model, attack, eps, structure), part in own(frame).groupby(["target", "attack", "eps", "structure"]):
        cases = part.groupby("case")[["size", "drop"]].mean()
        if len(cases) < 4:
            continue
        middle = cases["size"].median()
        small, large = cases[cases["size"] <= middle], cases[cases["size"] > middle]
        if len(small) and len(large):
            found.append(
                {
                    "model": model,
                    "attack": attack,
                    "eps": eps,
                    "structure": structure,
                    "middle": float(middle),
                    "small": float(small["drop"].mean()),
                    "large": float(large["drop"].mean()),
                    "n_small": len(small),
                    "n_large": len(large),
                }
            )
    return found


def worst_of_all(frame: Frame, count: int) -> list[Found]:
    """The cases that fall furthest: one row for each model, case, attack, limit and seed, by mean Dice over structures,
    each case once."""
    keys = ["target", "attack", "eps", "case", "seed"]
    mean = own(frame).groupby(keys)[["dice_clean", "dice", "drop"]].mean().reset_index()
    mean = mean.sort_values(["drop", *keys], ascending=[False, *[True] * len(keys)])
    return mean.drop_duplicates(["target", "case"]).head(count).to_dict("records")


def verdicts(frame: Frame) -> list[Found]:
    """Per model, attack, limit and structure: how many cases have which verdict."""
    keys = ["target", "attack", "eps", "structure", "verdict"]
    counted = own(frame).groupby(keys).size()
    return [{**dict(zip(keys, key, strict=True)), "cases": int(n)} for key, n in counted.items()]


def criterion(curves: Sequence[Found], models: Sequence[str], eps: float, dice: float) -> list[Found]:
    """Per model: whether the lower end of the interval of every structure reaches the promised Dice."""
    found = []
    for model in models:
        rows = [row for row in curves if row["model"] == model and row["eps"] == eps]
        told = bool(rows) and all(row["low"] is not None for row in rows)
        worst: Found = min(rows, key=lambda row: row["low"]) if told else dict.fromkeys(("structure", "attack", "low"))
        answer = "can't be told" if not told else "meets it" if worst["low"] >= dice else "doesn't meet it"
        found.append({"model": model, "answer": answer, **{key: worst[key] for key in ("structure", "attack", "low")}})
    return found


def worst_cases(frame: Frame, confidence: float) -> list[Found]:
    """Per model and limit: the mean over patients of the worst attack's mean Dice, and how often which attack it is."""
    found = []
    mean = own(frame).groupby(["target", "eps", "patient", "attack"])[["dice_clean", "dice"]].mean().reset_index()
    for (model, eps), part in mean.groupby(["target", "eps"]):
        worst = part.loc[part.groupby("patient")["dice"].idxmin()]
        spread = statistics.mean_interval(worst["dice"].tolist(), confidence)
        assert spread is not None
        each = part.groupby("attack")["dice"].mean()
        found.append(
            {
                "model": model,
                "eps": eps,
                "clean": float(worst["dice_clean"].mean()),
                **asdict(spread),
                "worst_of": {str(name): int(n) for name, n in worst["attack"].value_counts().sort_index().items()},
                "attacks": {str(name): float(value) for name, value in each.items()},
            }
        )
    return found


def pair_drops(frame: Frame) -> Frame:
    """Per surrogate, target, attack, limit and patient: the mean fall of Dice, and that of noise and rolled."""
    keys = ["surrogate", "target", "attack", "eps", "patient"]
    return frame.groupby(keys)[["drop", "drop_noise", "drop_rolled"]].mean().reset_index()


def matrix(frame: Frame) -> list[Found]:
    """Per surrogate, target, attack and limit: the mean fall of Dice, alone and as a share of what the attack on the
    target itself reaches."""
    mean = pair_drops(frame).groupby(["attack", "eps", "surrogate", "target"])[["drop", "drop_noise"]].mean()
    found = []
    for (attack, eps, surrogate, target), row in mean.iterrows():
        white = mean["drop"].get((attack, eps, target, target))
        share = None if white is None or white < MIN_WHITE_BOX else float(row["drop"] / white)
        found.append(
            {
                "attack": attack,
                "eps": eps,
                "surrogate": surrogate,
                "target": target,
                "drop": float(row["drop"]),
                "noise": _mean(pd.Series([row["drop_noise"]])),
                "relative": share,
            }
        )
    return found


def relative_drops(frame: Frame, attack: str, eps: float) -> Frame:
    """Per ordered pair of different models and patient: the fall of Dice as a share of the target's white-box fall,
    which is the mean over patients; targets that hardly fall are left out."""
    part = pair_drops(frame)
    part = part[(part["attack"] == attack) & (part["eps"] == eps)]
    white = part[part["surrogate"] == part["target"]].groupby("target")["drop"].mean()
    part = part[part["surrogate"] != part["target"]].copy()
    part["white"] = part["target"].map(white)
    part = part[part["white"] >= MIN_WHITE_BOX]
    part["relative"] = part["drop"] / part["white"]
    return part


def contrasts(frame: Frame, factors: Mapping[str, Mapping[str, Any]], confidence: float) -> list[Found]:
    """For each factor of training: transfer between models that share its level against those that don't, other factors
    equal, and within each level; with the interval over patients and the p-value over models."""
    names = sorted({name for given in factors.values() for name in given} - {"seed"})
    found: list[Found] = []
    for (attack, eps), _ in frame.groupby(["attack", "eps"]):
        pairs = relative_drops(frame, attack, eps)
        for name in names:
            found += [_contrast(pairs, factors, names, name, confidence) | {"attack": attack, "eps": eps}]
    for name in ("p_models", "p_least"):
        for contrast, p in zip(found, statistics.holm([contrast[name] for contrast in found]), strict=True):
            contrast[f"{name}_holm"] = p
    for contrast in found:
        contrast["answer"] = _answer(contrast, confidence)
    return found


def _contrast(
    pairs: Frame, factors: Mapping[str, Mapping[str, Any]], names: Sequence[str], factor: str, confidence: float
) -> Found:
    models = sorted({*pairs["surrogate"], *pairs["target"]} & {m for m, given in factors.items() if factor in given})
    levels = {model: factors[model][factor] for model in models}
    others = [name for name in names if name != factor]
    mean = pairs.groupby(["surrogate", "target"])["relative"].mean()
    matched = {
        pair: float(value)
        for pair, value in mean.items()
        if all(model in levels for model in pair)
        and all(factors[pair[0]].get(name) == factors[pair[1]].get(name) for name in others)
    }
    place = {model: index for index, model in enumerate(models)}

    def difference(order: Sequence[object]) -> float | None:
        same = [v for (a, b), v in matched.items() if order[place[a]] == order[place[b]]]
        unlike = [v for (a, b), v in matched.items() if order[place[a]] != order[place[b]]]
        return float(np.mean(same) - np.mean(unlike)) if same and unlike else None

    order = [levels[model] for model in models]
    counts = {str(level): order.count(level) for level in dict.fromkeys(order)}
    observed = difference(order)
    enough = min(counts.values(), default=0) >= FEWEST_MODELS
    kept = pairs[[pair in matched for pair in zip(pairs["surrogate"], pairs["target"], strict=True)]]
    alike = kept["surrogate"].map(levels) == kept["target"].map(levels)
    by_patient = (
        kept[alike].groupby("patient")["relative"].mean() - kept[~alike].groupby("patient")["relative"].mean()
    ).dropna()
    within = {
        str(level): float(np.mean(values))
        for level in dict.fromkeys(order)
        if (values := [v for (a, b), v in matched.items() if levels[a] == levels[b] == level])
    }
    spread = statistics.mean_interval(by_patient.tolist(), confidence)
    p_models = statistics.permutation_p(order, difference) if enough else None
    return {
        "factor": factor,
        "levels": counts,
        "same": _mean(kept.loc[alike, "relative"]),
        "different": _mean(kept.loc[~alike, "relative"]),
        "difference": observed,
        "low": spread.low if spread else None,
        "high": spread.high if spread else None,
        "patients": len(by_patient),
        "p_patients": statistics.paired_p(by_patient.tolist()),
        "p_models": p_models,
        "p_least": None if p_models is None else statistics.least_p(order),
        "within": within,
        "p_within": _within_p(matched, place, order),
    }


def _within_p(matched: Mapping[Any, float], place: Mapping[str, int], order: Sequence[object]) -> float | None:
    """P-value over models of a difference between two levels in the transfer within each."""
    levels = list(dict.fromkeys(order))
    if len(levels) != 2 or min(order.count(level) for level in levels) < FEWEST_MODELS:
        return None

    def gap(labels: Sequence[object]) -> float | None:
        means = [
            [v for (a, b), v in matched.items() if labels[place[a]] == labels[place[b]] == level] for level in levels
        ]
        return float(np.mean(means[0]) - np.mean(means[1])) if all(means) else None

    return statistics.permutation_p(order, gap)


def _answer(contrast: Mapping[str, Any], confidence: float) -> str:
    if len(contrast["levels"]) < 2 or contrast["difference"] is None or contrast["p_models"] is None:
        return "can't be told with this design"
    if contrast["p_least_holm"] >= 1 - confidence:  # so few models that nothing could ever be found
        return "can't be told with this design"
    return "found" if contrast["p_models_holm"] < 1 - confidence else "not found"


def comparison(frame: Frame, new: str, old: str, margin: float, confidence: float) -> list[Found]:
    """Per attack and limit: how much further the new model's Dice falls than the old one's, over patients, with the
    one-sided bound that must stay under the margin."""
    found = []
    mean = own(frame).groupby(["attack", "eps", "target", "patient"])["drop"].mean()
    for attack, eps in sorted({(a, e) for a, e, _, _ in mean.index}):
        known = _both(mean, attack, eps, new, old)
        values = (mean[attack, eps, new] - mean[attack, eps, old]).dropna().tolist() if known else []
        bound = statistics.upper_bound(values, confidence)
        found.append(
            {
                "attack": attack,
                "eps": eps,
                "n": len(values),
                "difference": float(np.mean(values)) if values else None,
                "bound": bound,
                "margin": margin,
                "answer": "can't be told: too few patients"
                if bound is None
                else "no more fragile by the margin"
                if bound < margin
                else "not shown",
            }
        )
    return found


def _both(mean: Any, attack: str, eps: float, new: str, old: str) -> bool:
    known = {(a, e, model) for a, e, model, _ in mean.index}
    return {(attack, eps, new), (attack, eps, old)} <= known


def _mean(values: Any) -> float | None:
    known = values.dropna().astype(float)
    return float(known.mean()) if len(known) else None
