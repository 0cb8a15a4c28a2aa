"""Rows of results.parquet as pandas holds them: which ones count, and how far Dice falls in each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from perturbox.studies.design import Study

Found = dict[str, Any]
Frame = Any  # a pandas DataFrame, whose own types can't tell one column from several


def usable(rows: Sequence[Mapping[str, Any]]) -> Frame:
    """Rows of attacks with numbers, of models that passed the gate, and the fall of Dice by attack and controls."""
    frame = _known(rows, lambda corruption: corruption.isna())
    for control in ("noise", "rolled"):
        frame[f"drop_{control}"] = frame["dice_clean"] - frame[f"dice_{control}"].astype(float)
    return frame


def corrupted(rows: Sequence[Mapping[str, Any]]) -> Frame:
    """Rows of ordinary changes with numbers, of models that passed the gate, and the fall of Dice."""
    return _known(rows, lambda corruption: corruption.notna())


def _known(rows: Sequence[Mapping[str, Any]], which: Callable[[Any], Any]) -> Frame:
    frame = pd.DataFrame(list(rows))
    frame = frame[(frame["status"] == "ok") & frame["dice_clean"].notna() & frame["dice"].notna()]
    frame = frame[which(frame["corruption"])].copy()
    frame["drop"] = frame["dice_clean"] - frame["dice"]
    return frame


def aimed(study: Study, frame: Frame) -> Frame:
    """Rows of the structures that were attacked: means over structures are of these."""
    return frame[frame["structure"].isin(study.target)] if study.target else frame


def own(frame: Frame) -> Frame:
    """Rows of models that were attacked themselves: those behind defences with knowledge of these."""
    return frame[frame["surrogate"] == frame["target"]]
