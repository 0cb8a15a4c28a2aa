"""What a study of detectors found, as sections of its page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from perturbox.detectors.evaluation import RATES
from perturbox.studies import charts, detected, detected_words, marks, words
from perturbox.studies.detected import column
from perturbox.studies.plan import Plan

CONTROLS = {"noise": "noise as large as {}'s", "rolled": "{}'s change, rolled elsewhere"}


def sections(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """The figure, the table of attacks and detectors side by side, claims, and shares found at false alarm rates."""
    return [
        marks.section("Who sees what", _figure(plan, found), "figure"),
        marks.section("Attacks and detectors side by side", _side_by_side(plan, found), "detectors"),
        marks.section("Claims", _claims(found), "claims"),
        marks.section("Found at a false alarm rate", _rates(plan, found), "rates"),
    ]


def _figure(plan: Plan, found: Mapping[str, Any]) -> str:
    """AUROC against λ where attacks hide, else by attack."""
    study = plan.study
    attacks = {attack.called: detected.weight_of(study, attack.called) for attack in study.attacks}
    hiding = [name for name in sorted(attacks, key=lambda name: attacks[name] or 0) if attacks[name] is not None]
    under = [base.called for name in hiding if (base := detected.base_of(study, name)) is not None]
    places = {name: f"λ {attacks[name]:g}" for name in hiding}
    places = {**{name: f"0 ({name})" for name in under}, **places} or {name: name for name in attacks}
    rows = [
        {**row, "place": places[row["attack"]], "series": series}
        for row in found["evaluations"]
        if row["positives"] == "attacked" and row["auroc"] is not None and row["attack"] in places
        # What learned the attack beneath begins both lines of its detector.
        for series in {_series(row): 0, **({detected_words.named(row): 0} if row["attack"] in under else {})}
    ]
    if not rows:
        return ""
    caption = (
        "AUROC against clean scans, noise as large and the rolled change, with its interval over patients; 0.5 is "
        "chance. λ is how much an attack hides."
        if hiding
        else "AUROC with its interval over patients; 0.5 is chance."
    )
    drawn = charts.detectors(rows, list(places.values()), bool(hiding))
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _side_by_side(plan: Plan, found: Mapping[str, Any]) -> str:
    """A table for each model: a row for each attack and control, a column for each detector."""
    tables = []
    for model in plan.models:
        mine = [row for row in found["evaluations"] if row["model"] == model]
        series = list(dict.fromkeys(map(_series, mine)))
        lines = [line for attempt in found["attempts"] if attempt["model"] == model for line in _lines(attempt, mine)]
        lines += _ordinary(mine)
        rows = [(*_about(plan, *line[:3]), *(_area(line[3].get(name)) for name in series)) for line in lines]
        head = ("scans", "broken", "limit", "RMS", "Dice left, own answer", "Dice left", *series)
        if rows:
            tables.append(marks.table(head, rows, model, most=len(rows)))
    caption = (
        "Limit, RMS and Dice with the model's own answer are medians over what broke; “Dice left” is the mean with the "
        "reference. Each cell: AUROC with its interval over patients, of attacks against clean scans, noise as large, "
        "rolled changes and ordinary changes together, of what is no attack against clean scans. “Learned it”: fitted "
        "on this attack, with noise as large as none; otherwise on the attack that is named. Intervals aren't adjusted "
        "for their number."
    )
    return "".join(tables) + f"<p class=sub>{escape(caption)}</p>" if tables else ""


def _series(row: Mapping[str, Any]) -> str:
    """A column: a detector, and whether it learned the row's own attack or another."""
    if row["fitted_on"] is None:
        return row["detector"]
    own = row["fitted_on"] == row["attack"]
    return f"{row['detector']} (learned {'it' if own or row['attack'] is None else row['fitted_on']})"


Line = tuple[str, Mapping[str, Any] | None, str, dict[str, Mapping[str, Any]]]


def _lines(attempt: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """(what, its attempt, which Dice, rows by column) of an attack and of its controls."""
    mine = [row for row in rows if row["attack"] == attempt["attack"]]
    kinds = {"attacked": (attempt["attack"], "dice")}
    kinds |= {kind: (text.format(attempt["attack"]), f"dice_{kind}") for kind, text in CONTROLS.items()}
    return [
        (title, attempt, dice, {_series(row): row for row in mine if row["positives"] == kind})
        for kind, (title, dice) in kinds.items()
        if any(row["positives"] == kind for row in mine)
    ]


def _ordinary(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The same of ordinary changes."""
    changed: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["positives"] == "corruption":
            changed.setdefault(f"{row['corruption']}, grade {row['grade']}", {})[_series(row)] = row
    return [(title, None, "", by_series) for title, by_series in changed.items()]


def _about(plan: Plan, title: str, attempt: Mapping[str, Any] | None, dice: str) -> tuple[str, ...]:
    if attempt is None:
        return (title, "–", "–", "–", "–", "–")
    own = marks.number(attempt["agreement"], 2) if dice == "dice" else "–"
    eps = "–" if attempt["eps"] is None else words.limit(plan, attempt["eps"])
    broken = f"{attempt['fell']} of {attempt['scans']}"
    return (title, broken, eps, detected_words.size(plan, attempt), own, marks.number(attempt[dice], 2))


def _area(row: Mapping[str, Any] | None) -> str:
    if row is None or row["auroc"] is None:
        return "–"
    return marks.number(row["auroc"], 2) + words.interval(row["low"], row["high"])


def _claims(found: Mapping[str, Any]) -> str:
    if not found["claims"]:
        return ""
    return "<ul>" + "".join(f"<li>{escape(detected_words.claim(row))}</li>" for row in found["claims"]) + "</ul>"


def _rates(plan: Plan, found: Mapping[str, Any]) -> str:
    rows = [
        (
            row["model"],
            row["attack"],
            detected_words.named(row),
            str(row["attacked"]),
            f"{row['negatives']} of {words.patients(row['patients'])}",
            *(detected_words.rate(row, column(rate)) for rate in RATES),
        )
        for row in found["evaluations"]
        if row["positives"] == "attacked" and row["auroc"] is not None
    ]
    shares = tuple(f"found at {100 * rate:g} %" for rate in RATES)
    head = ("model", "attack", "detector", "attacked", "not attacked", *shares)
    why = [
        f"{row['model']}, {row['attack']}, {detected_words.named(row)}: {row['reason']}."
        for row in found["evaluations"]
        if row["reason"]
    ]
    missing = "".join(f"<p class=sub>{escape(text)}</p>" for text in why)
    return (marks.table(head, rows, most=len(rows)) if rows else "") + missing
