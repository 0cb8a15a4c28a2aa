"""What a study of kind certify found: how much of each structure is certified, over patients, from its rows alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from perturbox.studies import statistics
from perturbox.studies.design import Study
from perturbox.studies.frames import Found, Frame

NUMBERS = ["certified", "other", "abstained", "dice_clean", "dice_smoothed", "dice", "radius", "radius_rms"]


def usable(rows: Sequence[Mapping[str, Any]]) -> Frame:
    """Rows with numbers of models that passed the gate, of structures that the model finds in the scan."""
    frame = pd.DataFrame(list(rows))
    frame = frame[(frame["status"] == "ok") & frame["certified"].notna()].copy()
    frame[NUMBERS] = frame[NUMBERS].astype(float)
    return frame


def analyse(study: Study, rows: Sequence[Mapping[str, Any]]) -> Found:
    """The numbers of the page: {"certificates", "votes", "worst_cases"}; empty lists where every row failed."""
    frame = usable(rows)
    told = frame[frame["structure"].isin(study.target)] if study.target else frame
    return {
        "certificates": certificates(frame, study.confidence),
        "votes": votes(frame),
        "worst_cases": worst_of_all(told, study.keep_worst),
    }


def certificates(frame: Frame, confidence: float) -> list[Found]:
    """Per model, structure and noise: the certified share of what the model finds over patients, with its interval;
    beside it the shares certified as something else and abstained, Dice with the label, and the radius."""
    found = []
    for (model, structure, sigma), part in frame.groupby(["model", "structure", "sigma"]):
        patients = part.groupby("patient")[NUMBERS].mean()
        spread = statistics.mean_interval(patients["certified"].tolist(), confidence)
        dice = statistics.mean_interval(patients["dice"].dropna().tolist(), confidence)
        assert spread is not None
        found.append(
            {
                "model": model,
                "structure": structure,
                "sigma": sigma,
                "n": spread.n,
                "certified": spread.mean,
                "low": spread.low,
                "high": spread.high,
                **{name: _mean(patients[name]) for name in NUMBERS if name not in ("certified", "dice")},
                "dice": None if dice is None else {"n": dice.n, **_ends(dice)},
                "patients": {str(name): float(value) for name, value in patients["certified"].items()},
            }
        )
    return found


def votes(frame: Frame) -> list[Found]:
    """Per model and noise: votes, how many of them are needed at least, and the radius, each as (smallest, largest)
    over the cases."""
    found = []
    columns = ["n", "least_votes", "sigma_native", "radius", "radius_rms"]
    for (model, sigma), part in frame.groupby(["model", "sigma"]):
        ends = {name: part[name].dropna().astype(float) for name in columns}
        spans = {name: [float(v.min()), float(v.max())] if len(v) else None for name, v in ends.items()}
        found.append({"model": model, "sigma": sigma, **spans})
    return found


def worst_of_all(frame: Frame, count: int) -> list[Found]:
    """The cases of which least is certified: one row for each model and case, by the mean share over its structures."""
    keys = ["model", "sigma", "case", "seed"]
    mean = frame.groupby(keys)[["certified", "abstained"]].mean().reset_index()
    mean = mean.sort_values(["certified", *keys])
    return mean.drop_duplicates(["model", "case"]).head(count).to_dict("records")


def _ends(spread: statistics.Interval) -> Found:
    told = asdict(spread)
    return {name: told[name] for name in ("mean", "low", "high")}


def _mean(values: Any) -> float | None:
    known = values.dropna()
    return float(known.mean()) if len(known) else None
