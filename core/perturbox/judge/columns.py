"""The table of structures, each column stated once: what it is called and what it says of a structure.

The command line prints all of them. Report and Slicer draw the basic ones with more detail and by themselves; every
other one they take from result.json (`summary.columns`) as it comes, so that a new column is a new entry of `COLUMNS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perturbox.judge.look import look
from perturbox.judge.summary import (
    broken,
    chance,
    counted,
    defense_means,
    fixed,
    headline,
    outlined,
    scores,
    worst_first,
)
from perturbox.judge.verdicts import said

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """title: of a result, as units differ. cell: of a result and a structure's name, as text. words: text, not numbers.
    basic: report and Slicer have their own. shown: whether a result has it."""

    key: str
    title: Callable[[Record], str]
    cell: Callable[[Record, str], str]
    words: bool = False
    basic: bool = False
    shown: Callable[[Record], bool] = lambda record: True


def _dice(record: Record, name: str) -> str:
    """Before and after where an expert says what is right; in brackets where nobody did."""
    after = fixed(scores(record, name)["dice"], 3)
    if record["reference"] != "label":
        return after
    return f"{fixed(record['metrics']['clean'][name]['dice'], 3)} → {after}" if outlined(record, name) else f"({after})"


def _behind(record: Record, name: str) -> str:
    """What the defence costs without an attack, and the two attacks: never one without the other."""
    dice = record["defense"]["dice"]
    return " | ".join(fixed(dice[which].get(name), 3) for which in ("clean", "oblivious", "adaptive"))


def _change(record: Record, name: str) -> str:
    before, after = (record["metrics"][key][name]["volume_ml"] for key in ("clean", "adversarial"))
    return change(before, after, record["source"]["sizes"])


def change(before: float, after: float, sizes: str = "ml") -> str:
    """A signed difference, with per cent where there was something before."""
    difference = after - before
    sign = "+" if difference > 0 else "−" if difference < 0 else "±"
    text = sign + (counted(abs(difference)) if sizes == "pixels" else fixed(abs(difference), 1))
    if not before:
        return text
    share = 100 * abs(difference) / before
    return f"{text} ({sign}{share:.{0 if share >= 1 else 1}f} %)"


COLUMNS = (
    Column("structure", lambda record: "Structure", lambda record, name: name, words=True, basic=True),
    Column(
        "verdict",
        lambda record: "Verdict",
        lambda record, name: said(record["verdicts"][name], outlined(record, name)),
        words=True,
        basic=True,
    ),
    Column("dice", lambda record: "Dice", _dice, basic=True),
    Column("change", lambda record: f"Δ {record['source']['sizes']}", _change, basic=True),
    Column(
        "hd95",
        lambda record: "HD95 pixels" if record["source"]["sizes"] == "pixels" else "HD95 mm",
        lambda record, name: fixed(scores(record, name)["hd95_mm"], 1),
        basic=True,
    ),
    Column(
        "chance",
        lambda record: f"{chance(record)[0]} Dice",
        lambda record, name: fixed(chance(record)[2].get(name), 3),
        basic=True,
    ),
    Column(
        "defense",
        lambda record: "Behind the defence: clean | oblivious | adaptive",
        _behind,
        shown=lambda record: "defense" in record,
    ),
)


def table(record: Record) -> tuple[list[str], list[list[str]]]:
    """(titles, a row of texts per structure found before or after, the worst first)."""
    columns = [column for column in COLUMNS if column.shown(record)]
    rows = [[column.cell(record, name) for column in columns] for name in worst_first(record)]
    return [column.title(record) for column in columns], rows


def summarise(record: Record) -> dict[str, Any]:
    """The entry "summary" of result.json: headline, what broke, where to look, and the columns that readers need not
    know of."""
    names = worst_first(record)
    further = [
        {"key": one.key, "title": one.title(record), "cells": {name: one.cell(record, name) for name in names}}
        for one in COLUMNS
        if not one.basic and one.shown(record)
    ]
    summary: dict[str, Any] = {"headline": headline(record), "broken": broken(record), "look": look(record)}
    if "defense" in record:
        summary["defense"] = defense_means(record)
    return summary | ({"columns": further} if further else {})
