"""The study's page: one HTML file that needs no network and no script, and prints."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from perturbox.judge.defense import MASKING
from perturbox.judge.summary import listed
from perturbox.judge.verdicts import BROKEN, SAID
from perturbox.studies import charts, story
from perturbox.studies.analysis import pair_drops
from perturbox.studies.checks import Finding
from perturbox.studies.design import KINDS
from perturbox.studies.frames import own, usable
from perturbox.studies.plan import Plan

MANY = 40  # rows of a table that are shown at once; the rest is in the Parquet file
MEASURES = {"drop": "fall of Dice", "relative": "share of the fall that an attack on the target takes"}
Rows = Iterable[Sequence[str]]


def build(
    plan: Plan,
    found: Mapping[str, Any],
    findings: Sequence[Finding],
    rows: Sequence[Mapping[str, Any]],
    folders: Mapping[str, str],
    study_sha256: str,
    command: str,
) -> str:
    """The page as one text. folders: of the worst cases, by "model case attack eps seed"."""
    said = story.verdict(plan, found, findings)
    study = plan.study
    shape = ", ".join(
        (
            story.counted(len(plan.models), "model"),
            story.counted(len(plan.cases), "case"),
            story.counted(len(study.attacks), "attack"),
        )
    )
    sections = [
        _figure(plan, found, rows),
        _contrasts(plan, found),
        _changes(plan, found),
        _defences(plan, found),
        _worst(plan, found, folders),
        _curves(plan, found),
        _verdicts(plan, found),
        _strata(plan, found),
        _methods(plan, study_sha256, command),
    ]
    template = files("perturbox.studies").joinpath("resources", "study.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(study.name),
        question=escape(study.question or f"{study.kind}: {KINDS[study.kind]}"),
        shape=escape(shape),
        verdict="".join(f"<p{' class=first' if n == 0 else ''}>{escape(text)}</p>" for n, text in enumerate(said)),
        checks=_checks(findings),
        sections="".join(sections),
        style=files("perturbox.studies").joinpath("resources", "study.css").read_text(encoding="utf-8"),
    )


def _section(title: str, content: str, id: str) -> str:
    return f'<section id="{id}"><h2>{escape(title)}</h2>{content}</section>' if content else ""


def _table(head: Sequence[str], rows: Rows, caption: str = "", most: int = MANY) -> str:
    listed_rows = list(rows)
    body = "".join(f"<tr>{''.join(_cell(text) for text in row)}</tr>" for row in listed_rows[:most])
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    more = f"<p class=sub>{len(listed_rows) - most} more in results.parquet.</p>" if len(listed_rows) > most else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    inside = f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{inside}</div>{more}'


def _cell(text: str) -> str:
    return f"<td>{text if text.startswith('<a ') else escape(text)}</td>"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _spread(row: Mapping[str, Any]) -> str:
    return f"{_number(row['dice'])}{story.interval(row['low'], row['high'], 3)}"


def _checks(findings: Sequence[Finding]) -> str:
    """What the evaluation can't carry: loud findings in red, notes folded below."""
    if not findings:
        return '<div class="box good"><h2>What this evaluation can’t carry</h2><p>No check objects.</p></div>'
    loud = [f for f in findings if f.level == "loud"]
    notes = [f for f in findings if f.level != "loud"]

    def items(part: Sequence[Finding]) -> str:
        return "<ul>" + "".join(f"<li>{escape(f.sentence)}</li>" for f in part) + "</ul>"

    folded = ""
    if notes:
        count = f"{len(notes)} note{'s' * (len(notes) != 1)}"
        folded = f"<details{'' if loud else ' open'}><summary>{count}</summary>{items(notes)}</details>"
    kind = "loud" if loud else "note"
    return (
        f'<div class="box {kind}"><h2>What this evaluation can’t carry</h2>{items(loud) if loud else ""}{folded}</div>'
    )


def _figure(plan: Plan, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    study = plan.study
    unit = story.limit(plan, 1).removeprefix("1").strip() or "the scan's unit"
    if study.kind == "transfer":
        return _section("Made for one model, judged by another", _matrices(plan, found, rows), "figure")
    if study.kind == "corruptions":
        picture = f"<figure>{charts.changes(found['corruptions'])}</figure>" if found["corruptions"] else ""
        return _section("Ordinary changes and the attack", picture, "figure")
    if study.kind == "defences":
        words = (
            "Mean over structures and patients, with its interval. A hardened model has no defence to be unaware of."
        )
        drawn = charts.defences(found["knowledge"], list(plan.models), unit) if found["knowledge"] else ""
        picture = f"<figure>{drawn}<figcaption>{words}</figcaption></figure>" if drawn else ""
        return _section("With and without knowledge of the defence", picture, "figure")
    if study.kind == "non-inferiority" and study.compare is not None:
        drops, compare = pair_drops(own(usable(rows))), study.compare
        pictures = []
        for row in found["comparison"]:
            these = drops[(drops["attack"] == row["attack"]) & (drops["eps"] == row["eps"])]
            if row["n"]:
                pictures.append(charts.pairs(row, these, compare.new, compare.old))
        return _section("Each patient, old model and new", "".join(f"<figure>{p}</figure>" for p in pictures), "figure")
    if not found["curves"]:
        return ""
    words = (
        "Lines: mean over patients, its interval; hairs: each patient. Dashed: changes as large that aim at nothing."
    )
    picture = f"<figure>{charts.curve(found['curves'], unit)}<figcaption>{words}</figcaption></figure>"
    return _section("Dice against the limit", picture, "figure")


def _matrices(plan: Plan, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    struck = sorted({row["target"] for row in rows if row["status"] == "gated" and row["surrogate"] == row["target"]})
    out = []
    for attack, eps in dict.fromkeys((cell["attack"], cell["eps"]) for cell in found["matrix"]):
        cells = [cell for cell in found["matrix"] if (cell["attack"], cell["eps"]) == (attack, eps)]
        pictures = "".join(
            f"<figure><figcaption>{words}</figcaption>"
            f"{charts.matrix(cells, list(plan.models), measure, struck)}</figure>"
            for measure, words in MEASURES.items()
            if any(cell[measure] is not None for cell in cells)
        )
        out.append(f"<h3>{escape(attack)} at {escape(story.limit(plan, eps))}</h3><div class=side>{pictures}</div>")
    gone = f"<p class=warn>Struck out, for they missed the gate: {escape(listed(struck))}.</p>" if struck else ""
    return gone + "".join(out)


def _contrasts(plan: Plan, found: Mapping[str, Any]) -> str:
    if not found.get("contrasts"):
        return ""
    rows = (
        (
            row["factor"],
            row["attack"],
            story.limit(plan, row["eps"]),
            ", ".join(f"{level}: {n}" for level, n in row["levels"].items()),
            _number(row["same"], 2),
            _number(row["different"], 2),
            _number(row["difference"], 2) + story.interval(row["low"], row["high"]),
            _number(row["p_patients"]),
            _number(row["p_models"]),
            _number(row["p_models_holm"]),
            "; ".join(f"{level} {share:.2f}" for level, share in row["within"].items()),
            _number(row["p_within"]),
            row["answer"],
        )
        for row in found["contrasts"]
    )
    head = (
        "factor", "attack", "limit", "models per level", "same level", "other level",
        "difference, interval over patients", "p, patients", "p, models", "p, models (Holm)", "within a level",
        "p of that", "effect",
    )  # fmt: skip
    words = (
        "Numbers are shares of the fall that an attack on the target itself takes, over pairs that are equal in every "
        "other factor. Models are the unit of a claim about training: read “p, models”; the one over patients is what "
        "a matrix with too few models tempts one to read."
    )
    return _section("Which factor of training matters", _table(head, rows) + f"<p class=sub>{words}</p>", "contrasts")


def _changes(plan: Plan, found: Mapping[str, Any]) -> str:
    """A table for each model and structure: attacks, each ordinary change as large as one, and in its own grades."""
    tables = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found.get("corruptions", ()):
        groups.setdefault((row["model"], row["structure"]), []).append(row)
    for (model, structure), rows in groups.items():
        lines = []
        for row in rows:
            attack = "" if row["attack"] is None else f"{row['attack']}, {story.limit(plan, row['eps'])}"
            grade = f"as large as {attack}" if row["grade"] is None else str(row["grade"])
            named = (attack, "the attack") if row["corruption"] is None else (row["corruption"], grade)
            lines.append((*named, f"{row['rms']:.2f}", _number(row["dice_clean"]), _spread(row), str(row["n"])))
        head = ("change", "grade", "RMS, in the scan's unit", "Dice before", "after, interval", "patients")
        tables.append(_table(head, lines, f"{structure} ({model})", most=len(lines)))
    return _section("Ordinary changes beside the attack", "".join(tables), "changes")


def _defences(plan: Plan, found: Mapping[str, Any]) -> str:
    """Each model beside the one it is compared with: clean, oblivious, adaptive and undefended in one row."""

    def spread(row: Mapping[str, Any], name: str) -> str:
        return _number(row[name]) + story.interval(row[f"{name}_low"], row[f"{name}_high"], 3)

    rows = [
        (
            row["model"],
            " + ".join(plan.models[row["model"]].defense) or "none",
            row["attack"],
            story.limit(plan, row["eps"]),
            str(row["n"]),
            _number(row["clean"]),
            spread(row, "cost"),
            _number(row["oblivious"]),
            spread(row, "adaptive"),
            f"{_number(row['undefended'])} ({row['beside']})",
            spread(row, "gain"),
            _number(row["p_holm"]),
            _number(row["gradients"], 1),
            ", ".join(f"{name} {n}" for name, n in row["stand_ins"].items()) or "–",
            row["answer"],
        )
        for row in found.get("defences", ())
    ]
    head = (
        "model", "defence", "attack", "limit", "patients", "clean", "costs without an attack, interval", "oblivious",
        "adaptive, interval", "undefended", "kept more than that, interval", "p (Holm)",
        "gradients, times the undefended's", "worst stand-in, of how many", "against who knows of it",
    )  # fmt: skip
    words = (
        "Mean Dice of the structures. Oblivious: the attack was made for the model without its defence; adaptive: it "
        "went through the defence, once with each stand-in for its gradient, and the worst counts; undefended: the "
        "model without it under its own attack. Only the adaptive column says what a defence is worth. “masking?”: "
        f"adaptive is over {MASKING:g} above oblivious, so the defence hides its gradient from this attack, and "
        "nothing is known of it. Elsewhere on this page a defended model's numbers are those of the adaptive attack."
    )
    table = _table(head, rows, most=len(rows)) + f"<p class=sub>{escape(words)}</p>"
    return _section("What each defence is worth", table, "defences") if rows else ""


def _worst(plan: Plan, found: Mapping[str, Any], folders: Mapping[str, str]) -> str:
    def named(row: Mapping[str, Any]) -> str:
        place = folders.get(folder_key(row))
        return f'<a href="{escape(place)}/report.html">{escape(row["case"])}</a>' if place else row["case"]

    rows = (
        (
            named(row),
            row["target"],
            row["attack"],
            story.limit(plan, row["eps"]),
            _number(row["dice_clean"]),
            _number(row["dice"]),
        )
        for row in found["worst_cases"]
    )
    table = _table(("case", "model", "attack", "limit", "mean Dice before", "after"), rows)
    return _section("The cases that fall furthest", table, "worst") if found["worst_cases"] else ""


def folder_key(row: Mapping[str, Any]) -> str:
    """What names a case's result folder."""
    return f"{row['target']} {row['case']} {row['attack']} {row['eps']:g} {row['seed']}"


def _curves(plan: Plan, found: Mapping[str, Any]) -> str:
    rows = (
        (
            row["model"],
            row["attack"],
            row["structure"],
            story.limit(plan, row["eps"]),
            str(row["n"]),
            _number(row["dice_clean"]),
            _spread(row),
            _number(row["dice_noise"]),
            _number(row["dice_rolled"]),
            _number(row["dice_benign"]),
        )
        for row in found["curves"]
    )
    head = (
        "model",
        "attack",
        "structure",
        "limit",
        "patients",
        "before",
        "after, interval",
        "noise",
        "rolled",
        "harmless",
    )
    return _section("Dice of each structure", _table(head, rows), "curves")


def _verdicts(plan: Plan, found: Mapping[str, Any]) -> str:
    groups: dict[tuple[str, str, float, str], dict[str, int]] = {}
    for row in found["verdicts"]:
        key = (row["target"], row["attack"], row["eps"], row["structure"])
        groups.setdefault(key, {})[row["verdict"]] = row["cases"]
    rows = (
        (
            model,
            attack,
            structure,
            story.limit(plan, eps),
            f"{sum(n for word, n in counts.items() if word in BROKEN)} of {sum(counts.values())}",
            ", ".join(f"{SAID[word][1]} {n}" for word, n in sorted(counts.items())),
        )
        for (model, attack, eps, structure), counts in groups.items()
    )
    return _section("Verdicts", _table(("model", "attack", "structure", "limit", "broken", "each"), rows), "verdicts")


def _strata(plan: Plan, found: Mapping[str, Any]) -> str:
    rows = (
        (
            row["model"],
            row["attack"],
            row["structure"],
            story.limit(plan, row["eps"]),
            f"{row['middle']:.3g}",
            f"{_number(row['small'])} ({row['n_small']})",
            f"{_number(row['large'])} ({row['n_large']})",
        )
        for row in found["strata"]
    )
    head = ("model", "attack", "structure", "limit", "middle size", "fall, smaller half (n)", "fall, larger half (n)")
    return _section("Small and large structures", _table(head, rows), "strata") if found["strata"] else ""


def _methods(plan: Plan, study_sha256: str, command: str) -> str:
    papers = "".join(f"<li>{escape(paper)}</li>" for paper in story.sources(plan))
    facts = [("study file, SHA-256", study_sha256), ("command", command)]
    told = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in facts)
    models = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{model.sha256[:16]}</code> {escape(_factors(plan, name))}</dd>"
        for name, model in plan.models.items()
    )
    cite = f"<h3>Cite</h3><ul>{papers}</ul>" if papers else ""
    content = f"<p id=paragraph>{escape(story.methods(plan, study_sha256))}</p>{cite}<dl>{told}{models}</dl>"
    return _section("Methods, to paste", content, "methods")


def _factors(plan: Plan, model: str) -> str:
    return ", ".join(f"{name} {level}" for name, level in plan.study.models[model].factors.items())
