"""What a study of kind certify found, as sections of its page."""

from collections.abc import Mapping
from html import escape
from typing import Any

from perturbox.certificates.document import percent
from perturbox.judge.summary import number as rounded
from perturbox.studies import certified_words, charts, marks, words
from perturbox.studies.plan import Plan, kept_in


def sections(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """The figure, what it means, structures, radii and votes, and the cases of which least is certified."""
    return [
        marks.section("How much of each structure is certified", _figure(plan, found), "figure"),
        marks.section("What is certified, and what isn't", _meaning(plan), "meaning"),
        marks.section("Each structure", _structures(plan, found), "structures"),
        marks.section("How far a certificate reaches", _radii(plan, found), "radii"),
        marks.section("The cases of which least is certified", _worst(plan, found), "worst"),
    ]


def _figure(plan: Plan, found: Mapping[str, Any]) -> str:
    told = [row for row in found["certificates"] if row["structure"] in certified_words.aimed(plan, row["model"])]
    if not told:
        return ""
    unit = words.unit_of(plan, certified_words.unit(plan))
    caption = "Lines: mean over patients, its interval; hairs: each patient. Of what the model finds without noise."
    return f"<figure>{charts.certificates(told, unit)}<figcaption>{caption}</figcaption></figure>"


def _meaning(plan: Plan) -> str:
    return "<ul>" + "".join(f"<li>{escape(said)}</li>" for said in certified_words.meaning(plan)) + "</ul>"


def _structures(plan: Plan, found: Mapping[str, Any]) -> str:
    rows = [
        (
            row["model"],
            row["structure"],
            words.limit(plan, row["sigma"], certified_words.unit(plan)),
            str(row["n"]),
            certified_words.share(row),
            percent(row["other"]),
            percent(row["abstained"]),
            marks.number(row["dice_clean"]),
            marks.number(row["dice_smoothed"]),
            _dice(row["dice"]),
        )
        for row in found["certificates"]
    ]
    head = (
        "model", "structure", "noise", "patients", "certified, interval", "certified as another", "abstained",
        "Dice without noise", "Dice of the smoothed model", "Dice of what is certified, interval",
    )  # fmt: skip
    caption = (
        "Shares are of what the model finds without noise, Dice is with the expert's label. The smoothed model's Dice "
        "is that of the answers which were tested, certified or not."
    )
    return marks.table(head, rows, most=len(rows)) + f"<p class=sub>{caption}</p>" if rows else ""


def _dice(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else marks.number(row["mean"]) + words.interval(row["low"], row["high"], 3)


def _radii(plan: Plan, found: Mapping[str, Any]) -> str:
    def span(ends: list[float] | None) -> str:
        return "–" if ends is None else " to ".join(dict.fromkeys(rounded(end) for end in ends))

    rows = [
        (
            row["model"],
            words.limit(plan, row["sigma"], certified_words.unit(plan)),
            *(span(row[name]) for name in ("radius", "radius_rms", "n", "least_votes")),
        )
        for row in found["votes"]
    ]
    head = ("model", "noise", "radius R, L2 norm", "R/√N, RMS", "votes", "needed to certify")
    caption = (
        "In the scan's unit, smallest to largest over the cases. R is what one value alone may change by; where all "
        "change, their RMS may be R/√N for N values."
    )
    return marks.table(head, rows, most=len(rows)) + f"<p class=sub>{caption}</p>" if rows else ""


def _worst(plan: Plan, found: Mapping[str, Any]) -> str:
    rows = [
        (
            f'<a href="{escape(folder(plan, row))}/certificate.html">{escape(row["case"])}</a>',
            row["model"],
            words.limit(plan, row["sigma"], certified_words.unit(plan)),
            percent(row["certified"]),
            percent(row["abstained"]),
        )
        for row in found["worst_cases"]
    ]
    head = ("case", "model", "noise", "certified, mean of its structures", "abstained")
    return marks.table(head, rows) if rows else ""


def folder(plan: Plan, row: Mapping[str, Any]) -> str:
    """Where a case's certificate lies in the study's folder."""
    named = tuple(row[name] for name in ("model", "case", "sigma", "seed"))
    key = next(one.key for one in plan.certificates if (one.model, one.case, one.sigma, one.seed) == named)
    return kept_in("certificates", key).as_posix()
