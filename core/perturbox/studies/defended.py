"""What defences are worth: each defended model beside the same without them, attacked with and without knowledge of
them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from perturbox.judge.defense import MASKING
from perturbox.studies import statistics
from perturbox.studies.design import ADAPTIVE, OBLIVIOUS, Study
from perturbox.studies.frames import Found, Frame, own


def beside(study: Study) -> dict[str, str]:
    """What each model is compared with: one behind defences with the same without them, any other with the first that
    has a twin behind defences."""
    plain = {name: study.plain_of(name) for name in study.models}
    first = next(name for name in plain.values() if name is not None)
    return {name: other or first for name, other in plain.items() if name != first}


def curves(frame: Frame, confidence: float) -> list[Found]:
    """Per model, attack, knowledge and limit: mean Dice of the structures over patients with its interval, before and
    after."""
    found = []
    for (model, attack, knowledge, eps), part in frame.groupby(["target", "attack", "knowledge", "eps"]):
        patients = part.groupby("patient")[["dice_clean", "dice"]].mean()
        spread = statistics.mean_interval(patients["dice"].tolist(), confidence)
        assert spread is not None
        named = {"model": model, "attack": attack, "knowledge": knowledge, "eps": eps}
        found.append({**named, "dice_clean": float(patients["dice_clean"].mean()), **_told("dice", spread)})
    return found


def worth(frame: Frame, beside: Mapping[str, str], confidence: float) -> list[Found]:
    """Per model, attack and limit, over the patients that all of it is known of: mean Dice of the structures without an
    attack, after the attack that doesn't know of the defence (None of a model without one) and after the one that does,
    and of the model beside it after its own; what the defence costs without an attack; and how much more it keeps of an
    attack that knows of it than the model beside it does, with a paired test over patients."""
    found: list[Found] = []
    knowing, blind = _by_patient(own(frame)), _by_patient(frame[frame["knowledge"] == OBLIVIOUS])
    behind = set(frame.loc[frame["knowledge"] == ADAPTIVE, "target"])
    for (model, attack, eps), part in knowing.items():
        columns = {"adaptive": part, "undefended": knowing.get((beside.get(model), attack, eps))}
        if model in behind:
            columns["oblivious"] = blind.get((model, attack, eps))
        if any(other is None for other in columns.values()):
            continue
        table = pd.concat(columns, axis=1, join="inner")
        if table.empty:
            continue
        found.append(
            {
                "model": model,
                "beside": beside[model],
                "attack": attack,
                "eps": eps,
                **_compared(table, confidence),
                "stand_ins": _stand_ins(frame, model, attack, eps),
            }
        )
    adjusted = statistics.holm([row["p"] for row in found])
    for row, p in zip(found, adjusted, strict=True):
        row["p_holm"] = p
        row["answer"] = _answer(row, confidence)
    return found


def _by_patient(frame: Frame) -> dict[Any, Frame]:
    """Per model, attack and limit: means of each patient."""
    groups = frame.groupby(["target", "attack", "eps"])
    return {key: part.groupby("patient")[["dice_clean", "dice", "gradients"]].mean() for key, part in groups}


def _compared(table: Frame, confidence: float) -> Found:
    """The numbers of one row; table: a row for each patient, columns (whose attack, which number)."""
    dice = {which: table[which, "dice"] for which in table.columns.levels[0]}
    gain = (dice["adaptive"] - dice["undefended"]).tolist()
    cost = (table["undefended", "dice_clean"] - table["adaptive", "dice_clean"]).tolist()
    spreads = {
        name: statistics.mean_interval(values, confidence)
        for name, values in {"adaptive": dice["adaptive"].tolist(), "gain": gain, "cost": cost}.items()
    }
    oblivious = float(dice["oblivious"].mean()) if "oblivious" in dice else None
    least = table["undefended", "gradients"].mean()
    return {
        "n": len(table),
        "clean": float(table["adaptive", "dice_clean"].mean()),
        "oblivious": oblivious,
        "undefended": float(dice["undefended"].mean()),
        **{key: value for name, spread in spreads.items() if spread for key, value in _told(name, spread).items()},
        "masking": oblivious is not None and float(dice["adaptive"].mean()) > oblivious + MASKING,
        "gradients": float(table["adaptive", "gradients"].mean() / least) if least else None,
        "p": statistics.paired_p(gain),
    }


def _stand_ins(frame: Frame, model: str, attack: str, eps: float) -> dict[str, int]:
    """Of how many attacks which stand-in made the worst."""
    rows = own(frame)
    rows = rows[(rows["target"] == model) & (rows["attack"] == attack) & (rows["eps"] == eps)]
    counted = rows.drop_duplicates(["case", "seed"])["stand_in"].dropna().value_counts().sort_index()
    return {str(name): int(n) for name, n in counted.items()}


def _told(name: str, spread: statistics.Interval) -> dict[str, Any]:
    told = asdict(spread)
    return {name: told["mean"], f"{name}_low": told["low"], f"{name}_high": told["high"], "n": told["n"]}


def _answer(row: Mapping[str, Any], confidence: float) -> str:
    """What the row says of the model beside the other, against attacks that know of it."""
    if row["masking"]:
        return "masking?"
    if row["n"] < statistics.FEWEST:
        return "can't be told: too few patients"
    if row["p_holm"] is None or row["p_holm"] >= 1 - confidence:
        return "no difference shown"
    return "keeps more" if row["gain"] > 0 else "keeps less"
