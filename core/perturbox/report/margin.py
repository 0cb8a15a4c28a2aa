"""The page of a search for the margin: where each structure breaks, how, and which file proves it."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perturbox.judge import summary
from perturbox.judge.record import read_margin, read_record
from perturbox.judge.summary import soonest_first, upper_bound
from perturbox.judge.verdicts import BROKEN, said
from perturbox.report import charts, words
from perturbox.report.facts import effort, facts, model_facts, settings, short_hash, versions
from perturbox.report.findings import WORST, readable
from perturbox.report.frame import fill, folded, page
from perturbox.report.load import load, without_private
from perturbox.report.plates import first_picture
from perturbox.report.story import glimpse
from perturbox.report.tables import margin_cells, noise_scale, table
from perturbox.report.words import Units, fixed, number
from perturbox.types import InputError

PICTURE_BYTES = 12_000_000  # of base64 text; what would go beyond is told without its picture
READING = (
    "“≤” is an upper bound: a saved file with a change that small exists, linked as the proof, and breaks the "
    "structure. “>” means that this attack, with this effort, found nothing up to there."
)


@dataclass(frozen=True)
class Search:
    """margin.json without private text, its own numbers of structures, and the record of each witness by folder."""

    folder: Path
    margin: dict[str, Any]
    units: Units
    numbers: dict[str, int]
    witnesses: dict[str, dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """Soonest broken first."""
        return soonest_first(self.margin)

    def witness(self, name: str) -> dict[str, Any] | None:
        return self.witnesses.get(self.margin["structures"][name]["witness"])

    def left(self, name: str) -> tuple[float | None, float | None]:
        """Dice with the clean prediction at the break, and what random noise of that size leaves."""
        if (record := self.witness(name)) is None:
            return None, None
        return record["metrics"]["against_clean"][name]["dice"], record["control"]["noise"]["dice"].get(name)


def read_search(folder: Path) -> Search:
    """A search's folder; raises InputError where it isn't one, or lacks a folder that margin.json names."""
    margin = without_private(read_margin(folder))
    try:
        labels = {name: value for name, value in margin["victim"]["labels"].items() if value != 0}
        ordered = sorted(labels, key=lambda name: labels[name])
        witnesses = {row["witness"] for row in margin["structures"].values() if row["witness"] is not None}
        records = {name: without_private(read_record(folder / name)) for name in sorted(witnesses)}
        units = Units.of(margin)
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"'{folder}/margin.json' is damaged; search for the margin again.") from None
    return Search(folder, margin, units, {name: k for k, name in enumerate(ordered, start=1)}, records)


def build_margin(search: Search) -> str:
    """The whole page as one HTML text."""
    margin, names = search.margin, search.names
    drawn = names if len(names) <= charts.MANY else names[:WORST]
    rest = f"; the soonest {WORST} in colour, the other {len(names) - WORST} in grey" if drawn != names else ""
    body = fill(
        "margin.html",
        breaks=breaks_table(search),
        axis=f"dots: where it breaks{rest}",
        legend=f'<ul class="legend">{"".join(_key(search, name) for name in drawn)}</ul>',
        chart=charts.margin_chart(
            [(search.numbers[name], readable(name), *curves(search, name)) for name in names],
            margin["max_eps"],
            margin["noise"]["sigma"],
            margin["limits"]["dice"],
            search.units.value,
        ),
        verdict=escape(summary.margin_headline(margin)),
        warnings=folded(_caveats(margin)),
        reading=escape(f"{READING} {words.limits(search.units)}"),
        pictures=pictures(search),
        trials=trials_table(search),
        provenance=provenance(search),
        model=model_facts(margin["victim"]),
    )
    return page(
        body,
        title=title(search),
        subtitle=subtitle(search),
        footer=words.NO_PROOF,
        structures=len(search.numbers),
        scripts=("margin",),
    )


def title(search: Search) -> str:
    first = search.names[0]
    row = search.margin["structures"][first]
    unit = search.units.value
    if row["breaks_at"] is None:
        return f"Margin: nothing broke up to {number(search.margin['max_eps'])} {unit}"
    return f"Margin: {readable(first).lower()} breaks at {upper_bound(row, unit)}"


def subtitle(search: Search) -> str:
    margin = search.margin
    shape, flat = margin["source"]["shape"], len(margin["source"]["shape"]) == 2
    kind = "CT" if margin["unit"] == "HU" else "Image" if flat else "Scan"
    grid = f"{' × '.join(str(n) for n in shape)} {'pixels' if flat else 'voxels'}"
    victim = margin["victim"]
    parts = [
        f"{kind} of {grid}",
        f"model “{victim.get('title') or victim['name']}”",
        f"attack {_attack_title(search)}, limits up to {number(margin['max_eps'])} {search.units.value}",
        "Dice against the model’s own clean prediction",
    ]
    return " · ".join(parts)


def _attack_title(search: Search) -> str:
    record = next(iter(search.witnesses.values()), None)
    return record["attack"]["title"] if record else search.margin["attack"]["name"]


def _caveats(margin: dict[str, Any]) -> list[str]:
    stopped = ["*Stopped early:* the bounds are those found until then."] if margin["stopped_early"] else []
    return stopped + [words.headed(text) for text in margin["warnings"]]


def _key(search: Search, name: str) -> str:
    return f"<li>{charts.swatch(search.numbers[name])}{escape(readable(name))}</li>"


# ---- the breaking points ----


def breaks_table(search: Search) -> str:
    """A row per structure, soonest broken first."""
    margin, unit = search.margin, search.units.value
    sigma = margin["noise"]["sigma"]
    head = ["Structure", f"Breaks at, {unit}<br><small>upper bound</small>"]
    head += [f"in noise σ<br><small>tick: 1 σ = {number(sigma)} {unit}</small>"] if sigma else []
    if summary.undefended(margin) is not None:
        head += ["Without it<br><small>the defence, same search</small>"]
    head += [f"Held at, {unit}<br><small>largest limit that did</small>", "Dice<br><small>at the break</small>"]
    head += ["Random noise<br><small>same size, Dice</small>", "Verdict", "Proof"]
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    rows = "".join(_break_row(search, name) for name in search.names)
    return f'<div class="table"><table class="numbers"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def _break_row(search: Search, name: str) -> str:
    row, n = search.margin["structures"][name], search.numbers[name]
    dice, noise = search.left(name)
    sigma = search.margin["noise"]["sigma"]
    flag = f'<span class="flag {"bad" if row["verdict"] in BROKEN else "quiet"}">{escape(said(row["verdict"]))}</span>'
    button = f'<button type="button" class="pick" aria-pressed="false">{escape(readable(name))}</button>'
    held = number(row["above"]) if row["above"] else "–"
    plain = summary.undefended(search.margin)
    without = "" if plain is None else f"<td>{_beside(search, plain[name])}</td>"
    return (
        f'<tr data-structure="{n}"><th scope="row">{charts.square(n)}{button}</th>'
        f"{margin_cells(row, sigma, noise_scale(search.margin['structures'], sigma))}{without}<td>{held}</td>"
        f"<td>{fixed(dice, 3)}</td><td>{fixed(noise, 3)}</td><td>{flag}</td><td>{_links(row)}</td></tr>"
    )


def _beside(search: Search, row: dict[str, Any]) -> str:
    """The bound of the model without its defences, with its own page."""
    place = quote(search.margin["undefended"]["folder"])
    return f'<a href="{escape(place)}/report.html">{escape(upper_bound(row))}</a>'


def _links(row: dict[str, Any]) -> str:
    """To the folder that proves a break, and its report."""
    if row["witness"] is None:
        return "–"
    place = escape(quote(row["witness"]))
    return f'<a href="{place}/report.html">report</a> · <a href="{place}/">files</a>'


Points = list[tuple[float, float]]


def curves(search: Search, name: str) -> tuple[Points, Points, tuple[float, float] | None]:
    """(lowest Dice found within a change of that size, what noise of that size leaves, the break): (size, Dice) with
    sizes ascending. Searches of earlier versions have no Dice of their attacks: then only what the witnesses measured.
    """
    found, noise = [], []
    for trial in search.margin["trials"]:
        found.append((trial["linf"], (trial.get("dice") or {}).get(name)))
        noise.append((trial["linf"], (trial.get("noise_dice") or {}).get(name)))
    for record in search.witnesses.values():
        size = record["budget"]["measured"]["linf"]
        found.append((size, record["metrics"]["against_clean"][name]["dice"]))
        noise.append((size, record["control"]["noise"]["dice"].get(name)))
    at = search.margin["structures"][name]["breaks_at"]
    dice, _ = search.left(name)
    return _lowest(found, falling=True), _lowest(noise), None if at is None or dice is None else (at, dice)


def _lowest(points: list[tuple[float, float | None]], falling: bool = False) -> Points:
    """The lowest of each size; falling: of each size and all below it."""
    lowest: dict[float, float] = {}
    for size, dice in points:
        if dice is not None and size > 0:
            lowest[size] = min(dice, lowest.get(size, 1.0))
    path, least = [], 1.0
    for size in sorted(lowest):
        least = min(least, lowest[size]) if falling else lowest[size]
        path.append((size, least))
    return path


# ---- pictures, trials, provenance ----


def pictures(search: Search) -> str:
    """One per break, soonest first, as many as fit into a page."""
    parts, used = [], 0
    for name in search.names:
        row = search.margin["structures"][name]
        if row["witness"] is None:
            continue
        picture = ""
        if used < PICTURE_BYTES:
            picture = first_picture(glimpse(load(search.folder / row["witness"]), name))
            used += len(picture)
        sigma = search.margin["noise"]["sigma"]
        noise = f", {number(row['breaks_at'] / sigma, 2)} σ" if sigma else ""
        became = summary.became(search.witnesses[row["witness"]], name)
        told = f"<p>{escape(became[:1].upper() + became[1:])}.</p>" if became else ""
        parts.append(
            f'<article data-structure="{search.numbers[name]}"><h3>{charts.square(search.numbers[name])}'
            f"{escape(readable(name))} {escape(upper_bound(row, search.units.value))}{noise} "
            f'<span class="sub">{escape(said(row["verdict"]))} · {_links(row)}</span></h3>{told}{picture}</article>'
        )
    return "".join(parts) or "<p>Nothing broke, so no file was saved.</p>"


def trials_table(search: Search) -> str:
    """Every attack that was tried, in the order of the search."""
    unit, names = search.units.value, search.names
    if all(trial.get("dice") is None for trial in search.margin["trials"]):
        names = []
    rows = [
        [
            number(trial["eps"]),
            number(trial["linf"]),
            "all" if len(trial["aimed"]) == len(search.names) > 1 else ", ".join(map(readable, trial["aimed"])),
            ", ".join(readable(name) for name, limit in trial["broken"].items() if limit) or "nothing",
            *(fixed(trial["dice"][name], 3) for name in names),
            fixed(min((d for d in (trial.get("noise_dice") or {}).values() if d is not None), default=None), 3),
        ]
        for trial in search.margin["trials"]
    ]
    head = [f"Limit, {unit}", f"Largest change, {unit}", "Aimed at", "Broke", *map(readable, names), "Noise, lowest"]
    about = "Dice of each structure with the clean prediction, on the saved file; of white noise the lowest of all."
    return f"<details><summary>{len(rows)} attacks</summary>{table(head, rows, about)}</details>"


def provenance(search: Search) -> str:
    margin = search.margin
    noise, source, attack = margin["noise"], margin["source"], margin["attack"]
    sigma = f"σ {number(noise['sigma'])} {search.units.value}, " if noise["sigma"] else ""
    return facts(
        [
            ("Effort", effort(margin["effort"])),
            ("Attack", f"{_attack_title(search)} – {attack.get('paper') or 'paper not stated'}"),
            ("Settings", f"{settings(attack['parameters'])}, seed {margin['seed']}"),
            ("Crafted on", ", ".join(model["name"] for model in margin.get("surrogates") or []) or "the model itself"),
            ("Noise of the scan", f"{sigma}{noise['region']}"),
            ("Versions", versions(margin["versions"])),
            ("Input", f"SHA-256 {short_hash(source.get('sha256'))}"),
            ("Model", f"{margin['victim']['name']}, SHA-256 {short_hash(margin['victim'].get('sha256'))}"),
        ]
    )
