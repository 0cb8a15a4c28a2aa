"""What a study of detectors found, from results.parquet and scores.parquet alone: how many patients each attack broke,
how well each detector tells that from what is no attack, and which claims that bears out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from perturbox import detectors
from perturbox.attacks import recipes
from perturbox.detectors.evaluation import RATES, Scores, difference, evaluate, least_rate
from perturbox.detectors.evaluation import auroc as area
from perturbox.studies.design import HIDING, AttackOf, Study
from perturbox.studies.frames import Found, Frame

PATIENTS = 30  # below which nothing is claimed: what 30 patients don't show can still be 9.5 % of all
BROKEN = 10  # patients that an attack must have broken for a claim about it
MUCH = 0.5  # of what a detector sees of an attack
SLACK = 1e-12  # of a mean Dice: the order of a sum must not decide
NEGATIVES = ("clean", "noise", "rolled", "corruption")
FOUND, NOT_FOUND, UNKNOWN = "found", "not found", "can't be told"


def analyse(
    study: Study, rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]], unfitted: Mapping[Any, str]
) -> Found:
    """The numbers of the page: {"attempts", "evaluations", "claims"}; unfitted: why detectors gave no scores."""
    tried, frame = attempts(study, rows), pd.DataFrame(list(scores))
    evaluations = [row for one in tried for row in evaluated(study, one, frame, unfitted)]
    if len(frame):
        evaluations += ordinary(frame)
    return {"attempts": tried, "evaluations": evaluations, "claims": claims(study, evaluations, frame)}


# ---------------------------------------------------------------- how many each attack broke


def ladders(study: Study, rows: Sequence[Mapping[str, Any]]) -> Frame:
    """Per model, attack, case and seed, the craft that counts: the first limit at which the mean Dice with the model's
    own answer is `success` or lower (fell), or the largest tried; with the RMS of its change in the unit of the
    limits, and mean Dice with the reference."""
    frame: Frame = pd.DataFrame([row for row in rows if row["status"] == "ok" and row["corruption"] is None])
    if frame.empty:
        return frame
    frame = frame[frame["structure"].isin(study.target)] if study.target else frame
    numbers = ["dice_clean", "dice", "dice_noise", "dice_rolled"]
    frame[numbers] = frame[numbers].astype(float)
    keys = ["target", "attack", "case", "patient", "seed", "eps"]
    mean: Frame = frame.groupby(keys)[[*numbers, "rms", "eps_native"]].mean()
    there = frame[frame["volume_clean"] > 0]
    mean["agreement"] = there.groupby(keys)["dice_against_clean"].mean()
    mean = mean.reset_index().sort_values(keys)
    mean["rms"] *= mean["eps"] / mean["eps_native"]
    mean["fell"] = mean["agreement"] <= study.success + SLACK
    ladder = mean.groupby(keys[:-1])
    last = ladder.tail(1)
    ends: Frame = pd.concat([mean[mean["fell"]].groupby(keys[:-1]).head(1), last[~last["fell"]]])
    return ends.sort_values(keys)


def attempts(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[Found]:
    """Per model and attack: scans and patients, how many fell, and of those the medians of limit, RMS and Dice with the
    model's own answer, and the means of Dice with the reference."""
    frame, found = ladders(study, rows), []
    for attack in study.attacks:
        for model in study.models:
            mine = frame[(frame["target"] == model) & (frame["attack"] == attack.called)] if len(frame) else frame
            if mine.empty:
                continue
            fell = mine[mine["fell"]]
            found.append(
                {
                    "model": model,
                    "attack": attack.called,
                    "scans": len(mine),
                    "patients": mine["patient"].nunique(),
                    "fell": len(fell),
                    "patients_fell": fell["patient"].nunique(),
                    **{name: _middle(fell[name]) for name in ("eps", "rms", "agreement")},
                    **{name: _mean(fell[name]) for name in ("dice_clean", "dice", "dice_noise", "dice_rolled")},
                }
            )
    return found


# ---------------------------------------------------------------- how well detectors tell them


def evaluated(study: Study, attempt: Found, scores: Frame, unfitted: Mapping[Any, str]) -> list[Found]:
    """Of one attack on a model, for each detector: its AUROC against all that is no attack, and that of noise and the
    rolled change against clean scans. A detector that learns is fitted on this attack and, if it hides beneath another
    of the study, on that too."""
    model, attack = attempt["model"], attempt["attack"]
    found: list[Found] = []
    for name, learned in fits(study, attack):
        about = {"model": model, "detector": name, "fitted_on": learned, "attack": attack}
        mine = _of(scores, model, name, learned) if len(scores) else scores
        if mine.empty:
            why = unfitted.get((model, name, learned), "nothing was scored")
            found.append(_row(about, "attacked", attempt, reason=why))
            continue
        sides: dict[Any, Any] = dict(iter(mine[_about(mine, attack)].groupby("kind")))
        if "attacked" not in sides:
            found.append(_row(about, "attacked", attempt, reason=f"{attack} broke nothing"))
            continue
        calm = pd.concat([sides[kind] for kind in NEGATIVES if kind in sides])
        each = {
            f"auroc_{kind}": area(sides[kind]["score"].to_numpy(float), sides["attacked"]["score"].to_numpy(float))
            for kind in NEGATIVES
            if kind in sides
        }
        found.append(_row(about, "attacked", attempt, told(calm, sides["attacked"]), each))
        for kind in ("noise", "rolled"):
            if kind in sides:
                found.append(_row(about, kind, attempt, told(sides["clean"], sides[kind])))
    return found


def fits(study: Study, attack: str) -> list[tuple[str, str | None]]:
    """(detector, what it learned) of an attack's evaluations."""
    under = base_of(study, attack)
    learned = [attack] if under is None else [under.called, attack]
    return [
        (name, taught) for name in study.detectors for taught in (learned if detectors.get(name).supervised else [None])
    ]


def ordinary(scores: Frame) -> list[Found]:
    """Of each ordinary change in its grade, for each model, detector and what it learned: its AUROC against clean
    scans."""
    found = []
    changed = scores[scores["kind"] == "corruption"]
    keys = ["model", "detector", "fitted_on", "corruption", "grade"]
    for key, part in changed.groupby(keys, dropna=False):
        model, name, learned, corruption, grade = key
        learned = None if pd.isna(learned) else learned
        mine = _of(scores, model, name, learned)
        about = {"model": model, "detector": name, "fitted_on": learned, "corruption": corruption, "grade": int(grade)}
        found.append(_row(about, "corruption", {}, told(mine[mine["kind"] == "clean"], part)))
    return found


def told(negatives: Frame, positives: Frame) -> Found:
    """An evaluation of two sets of rows of scores."""
    sides = (negatives, positives)
    return evaluate(*(side["score"].tolist() for side in sides), tuple(side["patient"].tolist() for side in sides))  # type: ignore[arg-type]


def _of(scores: Frame, model: str | None, detector: str | None, learned: str | None) -> Frame:
    mine = scores[(scores["model"] == model) & (scores["detector"] == detector)]
    return mine[mine["fitted_on"].isna()] if learned is None else mine[mine["fitted_on"] == learned]


def _about(scores: Frame, attack: str) -> Any:
    """Which rows are of scans of this attack, or of none."""
    return scores["attack"].isna() | (scores["attack"] == attack)


def _row(
    about: Found, positives: str, attempt: Found, told: Found | None = None, each: Found | None = None, reason: str = ""
) -> Found:
    """A row of detectors.parquet."""
    medians = {name: attempt.get(name) for name in ("scans", "fell", "patients_fell", "eps", "rms", "agreement")}
    row = {**dict.fromkeys(("attack", "corruption", "grade")), **about, "positives": positives, **medians}
    row |= dict.fromkeys(f"auroc_{kind}" for kind in NEGATIVES) | (each or {}) | {"reason": reason or None}
    if told is None:
        shares = dict.fromkeys(f"{name}{end}" for name in map(column, RATES) for end in ("", "_low", "_high"))
        numbers = dict.fromkeys(("auroc", "low", "high", "negatives", "attacked", "patients", "least_rate"))
        return {**row, **numbers, **shares}
    ends = told["auroc"]
    row |= {"auroc": ends["value"], "low": ends["low"], "high": ends["high"]}
    row |= {name: told[name] for name in ("negatives", "attacked", "patients")}
    row["least_rate"] = least_rate(told["patients"])
    for found in told["found"]:
        for name, end in (("share", ""), ("low", "_low"), ("high", "_high")):
            row[f"{column(found['rate'])}{end}"] = found.get(name)
    return row


def column(rate: float) -> str:
    """Of the share that is found at a false alarm rate: "tpr_5"."""
    return f"tpr_{100 * rate:g}"


# ---------------------------------------------------------------- claims


def base_of(study: Study, called: str) -> AttackOf | None:
    """The attack of a study that another, which hides from detectors, is made of; None where there is none."""
    attack = next(attack for attack in study.attacks if attack.called == called)
    if attack.name not in HIDING:
        return None
    base = (
        recipes.get(attack.name)
        .build(1.0, study.eps.norm, attack.steps, attack.settings, local=True)
        .parameters["base"]
    )
    return next((other for other in study.attacks if other.name == base), None)


def weight_of(study: Study, called: str) -> float | None:
    """λ of an attack that hides among clean features; None of others."""
    attack = next(attack for attack in study.attacks if attack.called == called)
    if attack.name != "hfc":
        return None
    built = recipes.get("hfc").build(1.0, study.eps.norm, attack.steps, attack.settings, local=True)
    return float(built.parameters["feature_weight"])


def claims(study: Study, evaluations: Sequence[Found], scores: Frame) -> list[Found]:
    """Per model, attack and detector: whether it sees the attack (its AUROC's interval lies above 0.5); and whether an
    attack that hides does (the AUROC of the attack it is made of is higher, over patients whom both broke)."""
    found = []
    rows = [row for row in evaluations if row["positives"] == "attacked"]
    for row in rows:
        about = {key: row[key] for key in ("model", "detector", "fitted_on", "attack", "fell", "scans", "reason")}
        numbers = {key: row[key] for key in ("auroc", "low", "high")}
        enough = row["auroc"] is not None and row["patients"] >= PATIENTS and row["patients_fell"] >= BROKEN
        sees = UNKNOWN if not enough else FOUND if row["low"] > 0.5 else NOT_FOUND
        found.append({**about, "claim": "sees", "answer": sees, **numbers, "patients": row["patients"]})
        under = base_of(study, row["attack"])
        if under is None:
            continue
        first = _scores(scores, row, under.called if row["fitted_on"] else None, under.called)
        second = _scores(scores, row, row["fitted_on"], row["attack"])
        apart = difference(first, second) if first and second and _both(first, second) else None
        enough = enough and apart is not None and apart["patients"] >= BROKEN
        hides = UNKNOWN if not enough or apart is None else FOUND if apart["low"] > 0 else NOT_FOUND
        found.append({**about, "claim": "hides", "answer": hides, "from": under.called, **(apart or {})})
    return found


def false_sights(evaluations: Sequence[Found]) -> list[tuple[Found, bool]]:
    """Rows of what is no attack that a detector sees all the same, each with whether it sees much of it: the AUROC is
    at least half as far above chance as that of the attack it is the control of. Nothing is claimed of the size of an
    attack that broke too few patients."""

    def whose(row: Found) -> tuple[Any, ...]:
        return tuple(row[key] for key in ("model", "detector", "fitted_on", "attack"))

    aimed = {whose(row): row["auroc"] for row in evaluations if row["positives"] == "attacked"}
    seen = [row for row in evaluations if row["positives"] != "attacked" and row["auroc"] is not None]
    return [
        (row, (attack := aimed.get(whose(row))) is None or row["auroc"] - 0.5 >= MUCH * (attack - 0.5))
        for row in seen
        if row["low"] > 0.5 and (row["patients_fell"] is None or row["patients_fell"] >= BROKEN)
    ]


def _scores(scores: Frame, row: Found, learned: str | None, attack: str) -> Scores | None:
    mine = _of(scores, row["model"], row["detector"], learned) if len(scores) else scores
    if mine.empty:
        return None
    mine = mine[_about(mine, attack)]
    no, yes = mine[mine["kind"].isin(NEGATIVES)], mine[mine["kind"] == "attacked"]
    return Scores(no["score"].tolist(), yes["score"].tolist(), (no["patient"].tolist(), yes["patient"].tolist()))


def _both(first: Scores, second: Scores) -> bool:
    return bool(set(first.patients[1]) & set(second.patients[1]))


def _middle(values: Any) -> float | None:
    return float(values.median()) if len(values) else None


def _mean(values: Any) -> float | None:
    known = values.dropna()
    return float(known.mean()) if len(known) else None
