"""The Parquet files: pure, sorted functions of plan and ledger, so that the same study gives the same bytes."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perturbox.attacks import recipes
from perturbox.job.inputs import named_in
from perturbox.judge import metrics
from perturbox.studies.columns import CASES, CERTIFICATES, CONTROLS, EFFORT, MODELS, RESULTS, Columns
from perturbox.studies.design import ADAPTIVE, OBLIVIOUS
from perturbox.studies.plan import Craft, Plan

Entries = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]
OF_EXPERT = ("dice_clean", "dice_smoothed", "dice")  # of a certificate
OF_CERTIFICATE = ("n", "least_votes", "tests", "certified_of_structures", "radius", "radius_rms", "values")


def write_tables(plan: Plan, done: Entries, out: Path, study_sha256: str) -> list[Row]:
    """Write results, models, cases and effort; returns the results' rows."""
    gated = gated_models(plan, done)
    rows = list(result_rows(plan, done, gated))
    about = {"study": plan.study.name, "kind": plan.study.kind, "study_sha256": study_sha256}
    write_table(out / "results.parquet", rows, columns_of(plan.study.kind), about)
    write_table(out / "models.parquet", list(_model_rows(plan, done, gated)), MODELS, about)
    write_table(out / "cases.parquet", list(_case_rows(plan, done)), CASES, about)
    write_table(out / "effort.parquet", list(_effort_rows(plan, done)), EFFORT, about)
    return rows


def columns_of(kind: str | None) -> Columns:
    """The columns of results.parquet of a study of that kind."""
    return CERTIFICATES if kind == "certify" else RESULTS


def write_table(path: Path, rows: Sequence[Row], columns: Columns, about: Row) -> None:
    """One file, whole or not at all: explicit schema, rows in order of their columns, no dates."""
    fields = [
        pa.field(name, kind, metadata={"meaning": meaning} if meaning else None)
        for name, (kind, meaning) in columns.items()
    ]
    schema = pa.schema(fields, metadata=about)
    ordered = sorted(rows, key=lambda row: [(row[name] is not None, row[name]) for name in columns])
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(descriptor)
    try:
        pq.write_table(pa.Table.from_pylist(ordered, schema=schema), part, compression="zstd")
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def gated_models(plan: Plan, done: Entries) -> set[str]:
    """Models whose mean clean Dice of some structure misses the gate."""
    if plan.study.gate is None:
        return set()
    floor = plan.study.gate.clean_dice
    return {
        row["model"] for row in _model_rows(plan, done, set()) if row["dice_clean"] is None or row["dice_clean"] < floor
    }


def result_rows(plan: Plan, done: Entries, gated: set[str]) -> Iterator[Row]:
    """A row for each craft, judge and structure, for each look at an ordinary change, and for each certificate and
    structure; a failed one has its reason and no numbers. What isn't done yet has no row."""
    yield from _corruption_rows(plan, done, gated)
    yield from _certificate_rows(plan, done, gated)
    own = {
        (craft.model, craft.attack, craft.eps, craft.case, craft.seed): done.get(plan.judge_key(craft, craft.model), {})
        for craft in plan.crafts
    }
    unused = _unused(plan, done)
    for craft in plan.crafts:
        for target in plan.judges(craft) if craft.key not in unused else ():
            keys = (craft.key, plan.judge_key(craft, target), plan.clean_key(target, craft.case))
            if any(key not in done for key in keys):
                continue
            made, judged, clean = (done[key] for key in keys)
            controls = own[target, craft.attack, craft.eps, craft.case, craft.seed].get("structures")
            failed = next((entry for entry in (made, judged, clean) if entry["status"] != "ok"), None)
            struck = gated & {craft.model, target}
            for structure in plan.models[target].structures:
                row = dict.fromkeys(RESULTS) | _of_case(plan, target, craft.case, structure)
                row |= {"surrogate": craft.model, "seed": craft.seed, **_of_attack(plan, craft)}
                row["knowledge"] = _knowledge(plan, craft, target)
                if failed is not None:
                    yield {**row, "status": "failed", "reason": failed["reason"]}
                    continue
                reason = f"{', '.join(sorted(struck))} missed the gate" if struck else None
                told = outlined(plan, clean, structure)
                yield {
                    **row,
                    **_numbers(
                        made, judged["structures"][structure], clean["structures"][structure], clean["sigma"], told
                    ),
                    **{name: controls[structure][name] if controls and told else None for name in CONTROLS},
                    "stand_in": made.get("stand_in"),
                    "gradients": made.get("gradients", made["backwards"]),
                    "repeats": clean["repeats"],
                    "status": "gated" if struck else "ok",
                    "reason": reason,
                }


def _unused(plan: Plan, done: Entries) -> set[str]:
    """Crafts that a ladder which is there didn't take: of another success, or of limits that came later."""
    return {
        craft.key
        for ladder in plan.ladders
        if (tried := done.get(ladder.key, {}).get("rungs")) is not None
        for craft in ladder.rungs
        if craft.key not in tried
    }


def _corruption_rows(plan: Plan, done: Entries, gated: set[str]) -> Iterator[Row]:
    """A row for each look at an ordinary change and structure; attack and limit are those it is as large as."""
    for look in plan.looks:
        seen, clean = done.get(look.key), done.get(plan.clean_key(look.model, look.case))
        if seen is None or clean is None:
            continue
        failed = next((entry for entry in (seen, clean) if entry["status"] != "ok"), None)
        struck = look.model in gated
        for structure in plan.models[look.model].structures:
            row = dict.fromkeys(RESULTS) | _of_case(plan, look.model, look.case, structure)
            row |= {"surrogate": look.model, "seed": look.seed, "corruption": look.corruption, "grade": look.grade}
            if look.craft is not None:
                row |= _of_attack(plan, look.craft)
            if failed is not None:
                yield {**row, "status": "failed", "reason": failed["reason"]}
                continue
            made = {"untested": None, "eps_native": None, "linf": seen["linf"], "rms": seen["rms"]}
            yield {
                **row,
                **_numbers(
                    made,
                    seen["structures"][structure],
                    clean["structures"][structure],
                    clean["sigma"],
                    outlined(plan, clean, structure),
                ),
                "repeats": clean["repeats"],
                "status": "gated" if struck else "ok",
                "reason": f"{look.model} missed the gate" if struck else None,
            }


def _certificate_rows(plan: Plan, done: Entries, gated: set[str]) -> Iterator[Row]:
    """A row for each certificate and structure."""
    for asked in plan.certificates:
        found, clean, how = done.get(asked.key), done.get(plan.clean_key(asked.model, asked.case)), plan.study.certify
        if found is None or clean is None or how is None:
            continue
        failed = next((entry for entry in (found, clean) if entry["status"] != "ok"), None)
        for structure in plan.models[asked.model].structures:
            row = dict.fromkeys(CERTIFICATES) | {"structure": structure, "patient": plan.cases[asked.case].patient}
            row |= {name: getattr(asked, name) for name in ("model", "sigma", "seed", "case")}
            row |= {name: getattr(how, name) for name in ("tau", "alpha", "correction", "n0")}
            row["sigma_unit"] = how.unit
            if failed is not None:
                yield {**row, "status": "failed", "reason": failed["reason"]}
                continue
            struck = asked.model in gated
            yield {
                **row,
                "sigma_native": found["sigma"],
                **{name: found[name] for name in OF_CERTIFICATE},
                **found["structures"][structure],
                **({} if outlined(plan, clean, structure) else dict.fromkeys(OF_EXPERT)),
                "status": "gated" if struck else "ok",
                "reason": f"{asked.model} missed the gate" if struck else None,
            }


def _of_case(plan: Plan, target: str, case: str, structure: str) -> Row:
    scan = plan.cases[case]
    return {
        "target": target,
        "case": case,
        "patient": scan.patient,
        "structure": structure,
        "reference": "clean_prediction" if scan.label is None else "label",
    }


def _of_attack(plan: Plan, craft: Craft) -> Row:
    study = plan.study
    return {
        "attack": study.attacks[craft.attack].called,
        "eps": craft.eps,
        "eps_unit": study.eps.unit,
        "norm": study.eps.norm,
    }


def _knowledge(plan: Plan, craft: Craft, target: str) -> str:
    """What an attack knew of the model that judges its file."""
    if craft.model == plan.study.plain_of(target):
        return OBLIVIOUS
    if craft.model != target:
        return "transfer"
    access = recipes.get(plan.study.attacks[craft.attack].name).access
    return ADAPTIVE if plan.models[target].defense else f"{access}-box"


def outlined(plan: Plan, clean: Mapping[str, Any], structure: str) -> bool:
    """Whether a case's reference says anything of a structure; clean: its look. A label without any of it, as that of
    a slice which passes it by, doesn't, unless the study's label map names it."""
    return (
        plan.study.cases.labels is None
        or clean["structures"][structure]["size"] > 0
        or structure in named_in(plan.study.cases.label_map)
    )


def _numbers(
    made: Mapping[str, Any], after: Mapping[str, Any], before: Mapping[str, Any], sigma: float | None, told: bool
) -> Row:
    """told: whether the reference says anything of the structure; without it there is no agreement with it."""
    against = after["against_clean"]
    if not told:
        before = {**before, "dice_clean": None}
        after = {**after, **dict.fromkeys(("dice", "iou", "hd95_mm", "nsd"))}
    verdict = metrics.verdict(
        {"volume_ml": before["volume_clean"]},
        against,
        after["failed_slices"],
        before["dice_benign"],
        outlined=told,
        tested=after["tested"] and made["untested"] is None,
    )
    return {
        "eps_native": made["eps_native"],
        **{name: before[name] for name in ("size", "dice_clean", "dice_benign", "volume_clean")},
        **{name: after[name] for name in ("dice", "iou", "hd95_mm", "nsd", "volume")},
        "dice_against_clean": against["dice"],
        "verdict": verdict,
        "linf": made["linf"],
        "rms": made["rms"],
        "rms_over_sigma": made["rms"] / sigma if sigma else None,
    }


def _model_rows(plan: Plan, done: Entries, gated: set[str]) -> Iterator[Row]:
    import json

    for name, model in plan.models.items():
        looks = [done[plan.clean_key(name, case)] for case in plan.cases]
        for structure in model.structures:
            known = [
                look["structures"][structure]["dice_clean"]
                for look in looks
                if look["status"] == "ok" and look["structures"][structure]["dice_clean"] is not None
                if outlined(plan, look, structure)
            ]
            yield {
                "model": name,
                "sha256": model.sha256,
                "structure": structure,
                "dice_clean": sum(known) / len(known) if known else None,
                "cases": len(known),
                "defense": " + ".join(model.defense) or None,
                "gated": name in gated,
                "factors": json.dumps(plan.study.models[name].factors, sort_keys=True),
            }


def _case_rows(plan: Plan, done: Entries) -> Iterator[Row]:
    first = next(iter(plan.models))
    for name, scan in plan.cases.items():
        look = done[plan.clean_key(first, name)]
        known = look.get("case", {})
        yield {
            **dict.fromkeys(CASES),
            "case": name,
            "patient": scan.patient,
            "sha256": scan.sha256,
            "label_sha256": scan.label_sha256,
            "shape": " × ".join(map(str, known.get("shape", []))) or None,
            "spacing_mm": _spacing(known),
            "sizes": known.get("sizes"),
            "unit": known.get("unit"),
            "storage_step": known.get("step"),
            "p1": known.get("p1"),
            "p99": known.get("p99"),
            "sigma": look.get("sigma"),
        }
    for name, reason in plan.left_out.items():
        yield {**dict.fromkeys(CASES), "case": name, "left_out": reason}


def sizes(plan: Plan, done: Entries) -> str:
    """What the sizes of structures are told in: of all cases alike, or else of each case."""
    first = next(iter(plan.models))
    told = {done[plan.clean_key(first, name)].get("case", {}).get("sizes") for name in plan.cases} - {None}
    return told.pop() if len(told) == 1 else "each case's own sizes"


def _spacing(known: Mapping[str, Any]) -> str | None:
    """Of a case in mm; None of a photograph, whose pixels have no size."""
    millimetres = known.get("spacing", []) if known.get("sizes") != "pixels" else []
    return " × ".join(f"{mm:g}" for mm in millimetres) or None


def _climbed(plan: Plan, done: Entries) -> Iterator[str]:
    """Keys of the crafts and judgements that ladders took."""
    unused = _unused(plan, done)
    for ladder in plan.ladders:
        for craft in ladder.rungs:
            keys = (craft.key, plan.judge_key(craft, craft.model))
            yield from (key for key in keys if craft.key not in unused and key in done)


def _effort_rows(plan: Plan, done: Entries) -> Iterator[Row]:
    for key in (*plan.pieces(), *_climbed(plan, done)):
        entry = done[key]
        spent = entry.get("effort", {})
        counts = {name: entry.get(name) for name in ("forwards", "backwards")}
        yield {**dict.fromkeys(EFFORT), "key": key, "kind": entry["kind"], "status": entry["status"], **spent, **counts}
