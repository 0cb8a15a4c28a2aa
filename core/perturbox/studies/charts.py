"""The figures of a study's page, by Altair, as SVG that needs no script and no network."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from perturbox.studies.design import OBLIVIOUS

INK, QUIET, GRID = "#1b1f24", "#57606a", "#d0d7de"
COLOURS = ("#0072B2", "#D55E00", "#007a5a", "#a2477f", "#7a6a00", "#4d4d4d")
CONTROLS = {"dice_noise": "noise of this size", "dice_rolled": "rolled elsewhere", "dice_benign": "harmless changes"}
FONT = "system-ui, Segoe UI, Roboto, Arial, sans-serif"
KNOWS = {True: "the attack knows the model and its defence", False: "the attack doesn't know of the defence"}
MANY = 12  # models beyond which a matrix has no numbers in it


def svg(chart: Any) -> str:
    """A chart as one SVG element with the page's type."""
    styled = (
        chart.configure(background="white", font=FONT)
        .configure_axis(labelColor=INK, titleColor=INK, gridColor=GRID, domainColor=QUIET, titleFontWeight="normal")
        .configure_legend(labelColor=INK, titleColor=INK, titleFontWeight="normal", labelLimit=260)
        .configure_header(labelColor=INK, titleColor=INK, labelFontSize=12)
        .configure_view(stroke=GRID)
    )
    return vl_convert.vegalite_to_svg(styled.to_dict())


def curve(curves: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Dice against the limit, a panel for each model and structure, a line for each attack with its interval, each
    patient as a hair, the controls dashed."""
    lines, hairs = [], []
    for row in _with_start(curves):
        common = {"panel": f"{row['model']} · {row['structure']}", "eps": row["eps"]}
        ends = {"low": row["low"], "high": row["high"]}
        lines.append({**common, "dice": row["dice"], "what": row["attack"], **ends, "control": False})
        if row["attack"] == curves[0]["attack"]:  # noise and rolled differ little between attacks of one size
            for column, name in CONTROLS.items():
                lines.append({**common, "dice": row[column], "what": name, "low": None, "high": None, "control": True})
        hairs += [
            {**common, "dice": dice, "patient": f"{row['attack']} {patient}", "what": row["attack"]}
            for patient, dice in row["patients"].items()
        ]
    names = list(dict.fromkeys(row["what"] for row in lines if not row["control"]))
    domain = [*names, *CONTROLS.values()]
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(names))] + ["#767676", "#767676", "#b58900"]
    dashes = [[1, 0]] * len(names) + [[6, 3], [2, 3], [1, 4]]
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=400, symbolOpacity=1, columns=4)
    colour = alt.Color("what:N", title=None, legend=legend, scale=alt.Scale(domain=domain, range=colours))
    dash = alt.StrokeDash("what:N", title=None, legend=legend, scale=alt.Scale(domain=domain, range=dashes))
    x = alt.X("eps:Q", title=f"limit, {unit}")
    base = alt.Chart(pd.DataFrame(lines + hairs))
    y = alt.Y("dice:Q", title="Dice", scale=alt.Scale(domain=[0, 1]))
    mean = base.transform_filter("!isValid(datum.patient)")
    layers = alt.layer(
        base.transform_filter("isValid(datum.patient)")
        .mark_line(opacity=0.25, strokeWidth=0.8)
        .encode(x=x, y=y, color=colour, detail="patient:N"),
        mean.transform_filter("isValid(datum.low)")
        .mark_area(opacity=0.18)
        .encode(x=x, y=alt.Y("low:Q", title="Dice"), y2="high:Q", color=colour),
        mean.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=28)).encode(
            x=x, y=y, color=colour, strokeDash=dash
        ),
    ).properties(width=300, height=200)
    return svg(layers.facet(facet=alt.Facet("panel:N", title=None), columns=3))


def _with_start(curves: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows, and before them one of each curve at limit 0: the scan as it is."""
    known = {(row["model"], row["attack"], row["structure"]): row for row in curves}
    start = {"eps": 0.0, "low": None, "high": None, "patients": {}}
    clean = [
        {**row, **start, "dice": row["dice_clean"], "dice_noise": row["dice_clean"], "dice_rolled": row["dice_clean"]}
        for row in known.values()
    ]
    return [*clean, *curves]


def matrix(cells: Sequence[Mapping[str, Any]], models: Sequence[str], measure: str, struck: Sequence[str]) -> str:
    """Surrogate × target as a heat map; measure: "drop" or "relative"; the diagonal is framed, struck-out models are
    grey."""
    rows = [
        {**cell, "value": cell[measure], "own": cell["surrogate"] == cell["target"]}
        for cell in cells
        if cell[measure] is not None
    ]
    shown = [model for model in models if model not in struck]
    side = max(26, min(56, 620 // max(1, len(shown))))
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X("target:N", sort=shown, title="judged by", axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("surrogate:N", sort=shown, title="made for"),
    )
    title = "fall of Dice" if measure == "drop" else "share of the target's own"
    limits = [0, max((row["value"] for row in rows), default=1.0)]
    colour = alt.Color("value:Q", title=title, scale=alt.Scale(scheme="oranges", domain=limits))
    layers = base.mark_rect().encode(color=colour)
    layers += base.transform_filter("datum.own").mark_rect(fillOpacity=0, stroke=INK, strokeWidth=2)
    if len(shown) <= MANY + 4:
        dark = alt.condition(alt.datum.value > 0.7 * limits[1], alt.value("white"), alt.value(INK))
        layers += base.mark_text(fontSize=10).encode(text=alt.Text("value:Q", format=".2f"), color=dark)
    return svg(layers.properties(width=side * len(shown), height=side * len(shown)))


def changes(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Dice against the RMS of the change, a panel for each model and structure: ordinary changes by their grades as
    lines, attacks as black diamonds."""
    data = [
        {**row, "panel": f"{row['model']} · {row['structure']}", "what": row["corruption"] or row["attack"]}
        for row in rows
        if row["rms"] > 0 and (row["grade"] is not None or row["corruption"] is None)
    ]
    base = alt.Chart(pd.DataFrame(data)).encode(
        x=alt.X("rms:Q", title=f"RMS of the change, {unit}", scale=alt.Scale(type="log")),
        y=alt.Y("dice:Q", title="Dice", scale=alt.Scale(domain=[0, 1])),
    )
    legend = alt.Legend(orient="bottom", columns=5)
    graded = base.transform_filter("isValid(datum.grade)")
    colour = alt.Color("what:N", title=None, legend=legend, scale=alt.Scale(scheme="tableau10"))
    attacks = base.transform_filter("!isValid(datum.grade)")
    layers = alt.layer(
        graded.mark_line(point=alt.OverlayMarkDef(size=24)).encode(color=colour, order="grade:O"),
        attacks.mark_point(shape="diamond", filled=True, size=90, color=INK),
        attacks.mark_text(dy=-10, fontSize=10, color=INK).encode(text="what:N"),
    ).properties(width=300, height=200)
    return svg(layers.facet(facet=alt.Facet("panel:N", title=None), columns=3))


def defences(rows: Sequence[Mapping[str, Any]], models: Sequence[str], unit: str) -> str:
    """Dice against the limit, a panel for each attack, a colour for each model: solid with its interval what knows of
    the model's defence, dashed what doesn't."""
    start = {"eps": 0.0, "dice_low": None, "dice_high": None}
    keys = ("model", "attack", "knowledge")
    first = {tuple(row[key] for key in keys): {**row, **start, "dice": row["dice_clean"]} for row in rows}
    data = [{**row, "knows": KNOWS[row["knowledge"] != OBLIVIOUS]} for row in (*first.values(), *rows)]
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=400, symbolOpacity=1, columns=4)
    shown = [model for model in models if any(row["model"] == model for row in rows)]
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(shown))]
    colour = alt.Color("model:N", title=None, legend=legend, scale=alt.Scale(domain=shown, range=colours))
    dashes = alt.Scale(domain=[KNOWS[True], KNOWS[False]], range=[[1, 0], [6, 3]])
    styles = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=400, symbolStrokeColor=INK, columns=1)
    x = alt.X("eps:Q", title=f"limit, {unit}")
    base = alt.Chart(pd.DataFrame(data))
    layers = alt.layer(
        base.transform_filter("isValid(datum.dice_low)")
        .transform_filter(alt.datum.knows == KNOWS[True])
        .mark_area(opacity=0.15)
        .encode(x=x, y=alt.Y("dice_low:Q", title="mean Dice"), y2="dice_high:Q", color=colour),
        base.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=28)).encode(
            x=x,
            y=alt.Y("dice:Q", title="mean Dice", scale=alt.Scale(domain=[0, 1])),
            color=colour,
            strokeDash=alt.StrokeDash("knows:N", title=None, legend=styles, scale=dashes),
        ),
    ).properties(width=420, height=280)
    return svg(layers.facet(facet=alt.Facet("attack:N", title=None), columns=2))


def certificates(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    """The certified share against the noise, a panel for each structure, a line with its interval for each model, each
    patient as a hair."""
    keys = ("model", "structure", "sigma")
    lines = [{key: row[key] for key in (*keys, "certified", "low", "high")} for row in rows]
    hairs = [
        {**{key: row[key] for key in keys}, "certified": value, "patient": f"{row['model']} {name}"}
        for row in rows
        for name, value in row["patients"].items()
    ]
    models = list(dict.fromkeys(row["model"] for row in rows))
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(models))]
    legend = alt.Legend(orient="bottom") if len(models) > 1 else None
    colour = alt.Color("model:N", title=None, legend=legend, scale=alt.Scale(domain=models, range=colours))
    x = alt.X("sigma:Q", title=f"noise, {unit}")
    y = alt.Y("certified:Q", title="share certified", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    base = alt.Chart(pd.DataFrame(lines + hairs))
    mean = base.transform_filter("!isValid(datum.patient)")
    layers = alt.layer(
        base.transform_filter("isValid(datum.patient)")
        .mark_line(opacity=0.25, strokeWidth=0.8, point=alt.OverlayMarkDef(size=6, opacity=0.4))
        .encode(x=x, y=y, color=colour, detail="patient:N"),
        mean.transform_filter("isValid(datum.low)")
        .mark_area(opacity=0.18)
        .encode(x=x, y=alt.Y("low:Q", title="share certified"), y2="high:Q", color=colour),
        mean.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=28)).encode(x=x, y=y, color=colour),
    ).properties(width=300, height=200)
    return svg(layers.facet(facet=alt.Facet("structure:N", title=None), columns=3))


def detectors(rows: Sequence[Mapping[str, Any]], places: Sequence[str], joined: bool) -> str:
    """AUROC with its interval, a panel for each model, a colour for each detector; places: along the axis, joined by
    lines where they are a series."""
    data = [{key: row[key] for key in ("model", "place", "series", "auroc", "low", "high")} for row in rows]
    series = list(dict.fromkeys(row["series"] for row in rows))
    legend = alt.Legend(orient="bottom", columns=3, labelLimit=300, symbolOpacity=1)
    colour = alt.Color("series:N", title=None, legend=legend, sort=series, scale=alt.Scale(scheme="tableau10"))
    title = "λ: how much the attack hides" if joined else None
    x = alt.X(
        "place:N", title=title, sort=list(places), scale=alt.Scale(paddingInner=0.35), axis=alt.Axis(labelAngle=0)
    )
    beside = alt.XOffset("series:N", sort=series)
    y = alt.Y("auroc:Q", title="AUROC", scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(pd.DataFrame(data))
    layers = [
        alt.Chart(pd.DataFrame({"chance": [0.5]})).mark_rule(strokeDash=[4, 3], color=QUIET).encode(y="chance:Q"),
        base.mark_rule(strokeWidth=1.4).encode(
            x=x, xOffset=beside, y=alt.Y("low:Q", title="AUROC"), y2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=45, opacity=1).encode(x=x, xOffset=beside, y=y, color=colour),
    ]
    if joined:
        layers.insert(1, base.mark_line(strokeWidth=1, opacity=0.5).encode(x=x, xOffset=beside, y=y, color=colour))
    width = max(300, 26 * len(places) * len(series))
    charts = [
        alt.layer(*layers).transform_filter(alt.datum.model == model).properties(width=width, height=240, title=model)
        for model in dict.fromkeys(row["model"] for row in rows)
    ]
    return svg(alt.vconcat(*charts))


def pairs(comparison: Mapping[str, Any], rows: Any, new: str, old: str) -> str:
    """Each patient's fall of Dice with the old and with the new model, joined."""
    data = rows.assign(model=rows["target"].map({old: f"old: {old}", new: f"new: {new}"}))
    base = alt.Chart(data).encode(
        x=alt.X("model:N", sort=[f"old: {old}", f"new: {new}"], title=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("drop:Q", title="fall of Dice"),
    )
    layers = base.mark_line(opacity=0.5, color=COLOURS[0]).encode(detail="patient:N")
    layers += base.mark_point(filled=True, size=40, color=COLOURS[0])
    title = f"{comparison['attack']}, limit {comparison['eps']:g}"
    return svg(layers.properties(width=360, height=240, title=title))
