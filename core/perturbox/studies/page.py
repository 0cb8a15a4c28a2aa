"""The study's page: one HTML file that needs no network and no script, and prints."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from perturbox.judge.defense import MASKING
from perturbox.judge.summary import counted, listed
from perturbox.judge.verdicts import BROKEN, SAID
from perturbox.studies import certified_page, charts, detected_page, marks, story, words
from perturbox.studies.analysis import pair_drops
from perturbox.studies.checks import Finding
from perturbox.studies.design import KINDS
from perturbox.studies.frames import aimed, own, usable
from perturbox.studies.plan import Plan

MEASURES = {"drop": "fall of Dice", "relative": "share of the fall that an attack on the target takes"}


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
    asked = (len(study.certify.sigma), "level") if study.certify is not None else (len(study.attacks), "attack")
    counts = ((len(plan.models), "model"), (len(plan.cases), "case"), asked)
    shape = ", ".join(words.counted(*count) for count in counts)
    sections = [*_sections(plan, found, rows, folders), _methods(plan, study_sha256, command)]
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


def _sections(
    plan: Plan, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folders: Mapping[str, str]
) -> list[str]:
    if plan.study.kind == "certify":
        return certified_page.sections(plan, found)
    if plan.study.kind == "detectors":
        return [*detected_page.sections(plan, found), _worst(plan, found, folders)]
    return [
        _figure(plan, found, rows),
        _contrasts(plan, found),
        _changes(plan, found),
        _defences(plan, found),
        _worst(plan, found, folders),
        _curves(plan, found),
        _verdicts(plan, found),
        _strata(plan, found),
    ]


def _spread(row: Mapping[str, Any]) -> str:
    return f"{marks.number(row['dice'])}{words.interval(row['low'], row['high'], 3)}"


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
    unit = words.unit_of(plan)
    if study.kind == "transfer":
        return marks.section("Made for one model, judged by another", _matrices(plan, found, rows), "figure")
    if study.kind == "corruptions":
        changed, measured = found["corruptions"], plan.models[plan.first].unit
        picture = f"<figure>{charts.changes(changed, measured)}</figure>" if changed else ""
        return marks.section("Ordinary changes and the attack", picture, "figure")
    if study.kind == "defences":
        caption = (
            "Mean over structures and patients, with its interval. A hardened model has no defence to be unaware of."
        )
        drawn = charts.defences(found["knowledge"], list(plan.models), unit) if found["knowledge"] else ""
        picture = f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>" if drawn else ""
        return marks.section("With and without knowledge of the defence", picture, "figure")
    if study.kind == "non-inferiority" and study.compare is not None:
        drops, compare = pair_drops(own(aimed(study, usable(rows)))), study.compare
        pictures = []
        for row in found["comparison"]:
            these = drops[(drops["attack"] == row["attack"]) & (drops["eps"] == row["eps"])]
            if row["n"]:
                pictures.append(charts.pairs(row, these, compare.new, compare.old))
        return marks.section(
            "Each patient, old model and new", "".join(f"<figure>{p}</figure>" for p in pictures), "figure"
        )
    shown = [row for row in found["curves"] if not study.target or row["structure"] in study.target]
    if not shown:
        return ""
    caption = (
        "Lines: mean over patients, its interval; hairs: each patient. Dashed: changes as large that aim at nothing."
    )
    if study.cases.labels is not None:
        caption += " Harmless changes are compared with the model’s own answer."
    picture = f"<figure>{charts.curve(shown, unit)}<figcaption>{caption}</figcaption></figure>"
    return marks.section("Dice against the limit", picture, "figure")


def _matrices(plan: Plan, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    struck = sorted({row["target"] for row in rows if row["status"] == "gated" and row["surrogate"] == row["target"]})
    out = []
    for attack, eps in dict.fromkeys((cell["attack"], cell["eps"]) for cell in found["matrix"]):
        cells = [cell for cell in found["matrix"] if (cell["attack"], cell["eps"]) == (attack, eps)]
        pictures = "".join(
            f"<figure><figcaption>{caption}</figcaption>"
            f"{charts.matrix(cells, list(plan.models), measure, struck)}</figure>"
            for measure, caption in MEASURES.items()
            if any(cell[measure] is not None for cell in cells)
        )
        out.append(f"<h3>{escape(attack)} at {escape(words.limit(plan, eps))}</h3><div class=side>{pictures}</div>")
    gone = f"<p class=warn>Struck out, for they missed the gate: {escape(listed(struck))}.</p>" if struck else ""
    return gone + "".join(out)


def _contrasts(plan: Plan, found: Mapping[str, Any]) -> str:
    if not found.get("contrasts"):
        return ""
    rows = (
        (
            row["factor"],
            row["attack"],
            words.limit(plan, row["eps"]),
            ", ".join(f"{level}: {n}" for level, n in row["levels"].items()),
            marks.number(row["same"], 2),
            marks.number(row["different"], 2),
            marks.number(row["difference"], 2) + words.interval(row["low"], row["high"]),
            marks.number(row["p_patients"]),
            marks.number(row["p_models"]),
            marks.number(row["p_models_holm"]),
            marks.number(row["p_least_holm"]),
            "; ".join(f"{level} {share:.2f}" for level, share in row["within"].items()),
            marks.number(row["p_within"]),
            row["answer"],
        )
        for row in found["contrasts"]
    )
    head = (
        "factor", "attack", "limit", "models per level", "same level", "other level",
        "difference, interval over patients", "p, patients", "p, models", "p, models (Holm)", "least possible",
        "within a level",
        "p of that", "effect",
    )  # fmt: skip
    caption = (
        "Numbers are shares of the fall that an attack on the target itself takes, over pairs that are equal in every "
        "other factor. Models are the unit of a claim about training: read “p, models”; the one over patients is what "
        "a matrix with too few models tempts one to read. “Least possible” is the adjusted p of the clearest "
        "differences that so many models could show; where that is no proof, nothing can be told."
    )
    return marks.section(
        "Which factor of training matters", marks.table(head, rows) + f"<p class=sub>{caption}</p>", "contrasts"
    )


def _changes(plan: Plan, found: Mapping[str, Any]) -> str:
    """A table for each model and structure: attacks, each ordinary change as large as one, and in its own grades."""
    tables = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found.get("corruptions", ()):
        groups.setdefault((row["model"], row["structure"]), []).append(row)
    for (model, structure), rows in groups.items():
        lines = []
        for row in rows:
            attack = "" if row["attack"] is None else f"{row['attack']}, {words.limit(plan, row['eps'])}"
            grade = f"as large as {attack}" if row["grade"] is None else str(row["grade"])
            named = (attack, "the attack") if row["corruption"] is None else (row["corruption"], grade)
            lines.append((*named, f"{row['rms']:.2f}", marks.number(row["dice_clean"]), _spread(row), str(row["n"])))
        head = ("change", "grade", f"RMS, {plan.models[plan.first].unit}", "Dice before", "after, interval", "patients")
        tables.append(marks.table(head, lines, f"{structure} ({model})", most=len(lines)))
    return marks.section("Ordinary changes beside the attack", "".join(tables), "changes")


def _defences(plan: Plan, found: Mapping[str, Any]) -> str:
    """Each model beside the one it is compared with: clean, oblivious, adaptive and undefended in one row."""

    def spread(row: Mapping[str, Any], name: str) -> str:
        return marks.number(row[name]) + words.interval(row[f"{name}_low"], row[f"{name}_high"], 3)

    rows = [
        (
            row["model"],
            " + ".join(plan.models[row["model"]].defense) or "none",
            row["attack"],
            words.limit(plan, row["eps"]),
            str(row["n"]),
            marks.number(row["clean"]),
            spread(row, "cost"),
            marks.number(row["oblivious"]),
            spread(row, "adaptive"),
            f"{marks.number(row['undefended'])} ({row['beside']})",
            spread(row, "gain"),
            marks.number(row["p_holm"]),
            marks.number(row["gradients"], 1),
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
    caption = (
        "Mean Dice of the structures. Oblivious: the attack was made for the model without its defence; adaptive: it "
        "went through the defence, once with each stand-in for its gradient, and the worst counts; undefended: the "
        "model without it under its own attack. Only the adaptive column says what a defence is worth. “masking?”: "
        f"adaptive is over {MASKING:g} above oblivious, so the defence hides its gradient from this attack, and "
        "nothing is known of it. Elsewhere on this page a defended model's numbers are those of the adaptive attack."
    )
    table = marks.table(head, rows, most=len(rows)) + f"<p class=sub>{escape(caption)}</p>"
    return marks.section("What each defence is worth", table, "defences") if rows else ""


def _worst(plan: Plan, found: Mapping[str, Any], folders: Mapping[str, str]) -> str:
    def named(row: Mapping[str, Any]) -> str:
        place = folders.get(folder_key(row))
        return f'<a href="{escape(place)}/report.html">{escape(row["case"])}</a>' if place else row["case"]

    rows = (
        (
            named(row),
            row["target"],
            row["attack"],
            words.limit(plan, row["eps"]),
            marks.number(row["dice_clean"]),
            marks.number(row["dice"]),
        )
        for row in found["worst_cases"]
    )
    table = marks.table(("case", "model", "attack", "limit", "mean Dice before", "after"), rows)
    return marks.section("The cases that fall furthest", table, "worst") if found["worst_cases"] else ""


def folder_key(row: Mapping[str, Any]) -> str:
    """What names a case's result folder."""
    return " ".join(f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in case_keys(row))


def case_keys(row: Mapping[str, Any]) -> Sequence[str]:
    """The columns that name one of the worst cases: of an attack, or of a certificate."""
    return ("target", "case", "attack", "eps", "seed") if "attack" in row else ("model", "case", "sigma", "seed")


def _curves(plan: Plan, found: Mapping[str, Any]) -> str:
    rows = (
        (
            row["model"],
            row["attack"],
            row["structure"],
            words.limit(plan, row["eps"]),
            str(row["n"]),
            marks.number(row["dice_clean"]),
            _spread(row),
            marks.number(row["dice_noise"]),
            marks.number(row["dice_rolled"]),
            marks.number(row["dice_benign"]),
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
        "harmless" if plan.study.cases.labels is None else "harmless, own answer",
    )
    return marks.section("Dice of each structure", marks.table(head, rows), "curves")


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
            words.limit(plan, eps),
            f"{sum(n for word, n in counts.items() if word in BROKEN)} of {sum(counts.values())}",
            ", ".join(f"{SAID[word][1]} {n}" for word, n in sorted(counts.items())),
        )
        for (model, attack, eps, structure), counts in groups.items()
    )
    return marks.section(
        "Verdicts", marks.table(("model", "attack", "structure", "limit", "broken", "each"), rows), "verdicts"
    )


def _strata(plan: Plan, found: Mapping[str, Any]) -> str:
    rows = (
        (
            row["model"],
            row["attack"],
            row["structure"],
            words.limit(plan, row["eps"]),
            _middle(row["middle"], found["sizes"]),
            f"{marks.number(row['small'])} ({row['n_small']})",
            f"{marks.number(row['large'])} ({row['n_large']})",
        )
        for row in found["strata"]
    )
    middle = f"middle size, {found['sizes']}"
    head = ("model", "attack", "structure", "limit", middle, "fall, smaller half (n)", "fall, larger half (n)")
    return marks.section("Small and large structures", marks.table(head, rows), "strata") if found["strata"] else ""


def _middle(value: float, sizes: str) -> str:
    """A size of a structure as its column heading counts it."""
    return counted(value) if sizes == "pixels" else f"{value:.3g}"


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
    return marks.section("Methods, to paste", content, "methods")


def _factors(plan: Plan, model: str) -> str:
    return ", ".join(f"{name} {level}" for name, level in plan.study.models[model].factors.items())
