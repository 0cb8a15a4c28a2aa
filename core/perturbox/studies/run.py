"""A study from its file to its page: plan, carry out, tables, checks, worst cases, report."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from perturbox.io.files import require_new_folder, require_writable
from perturbox.job.execute import run_job
from perturbox.plain import to_json
from perturbox.studies import certified_page, detected, page, scoring, story, tables
from perturbox.studies.analysis import analyse, worst_of_all
from perturbox.studies.checks import Finding, check
from perturbox.studies.columns import DETECTORS, SCORES, Columns
from perturbox.studies.drive import LOCK, Driver, Progress, claimed, write_whole
from perturbox.studies.frames import aimed, usable
from perturbox.studies.gather import make_plan
from perturbox.studies.plan import Plan
from perturbox.studies.reading import read_study

SCHEMA = "perturbox-study-result/1"
CHECKS: Columns = {
    "rule": (pa.string(), ""),
    "level": (pa.string(), "loud or note"),
    "sentence": (pa.string(), ""),
    "cells": (pa.int64(), "how many it is about"),
}


@dataclass(frozen=True)
class Done:
    """A finished study. found: the numbers of its page."""

    out: Path
    said: list[str]
    findings: list[Finding]
    found: dict[str, Any]


def load(path: Path, device: str = "cpu", trust: bool = False) -> tuple[Plan, str]:
    """(the plan of a study file, SHA-256 of the file); raises InputError with the line that is wrong."""
    study = read_study(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return make_plan(study, path.resolve().parent, device, trust), digest


def run_study(
    path: Path,
    out: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    scheduler: str | None = None,
    trust: bool = False,
    again: bool = False,
    tell: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Done | None:
    """Carry a study out, or on; None where `stop` ended it before the end.

    Writes results, models, cases, effort and checks (Parquet), study.json, card.yaml, report.html and `worst/`. again:
    try what had failed once more. Raises InputError for a study that can't be carried out.
    """
    require_place(out)
    plan, digest = load(path, device, trust)
    driver = Driver(plan, out, workers, device, scheduler, again, tell, stop)
    ledger = driver.run()
    if any(key not in ledger.done for key in plan.pieces()):
        return None
    with claimed(out):
        rows = tables.write_tables(plan, ledger.done, out, digest)
        about = {"study": plan.study.name, "kind": plan.study.kind, "study_sha256": digest}
        found = _detected(plan, ledger.done, rows, out, about) if plan.study.detectors else analyse(plan.study, rows)
        found["sizes"] = tables.sizes(plan, ledger.done)
        findings = check(plan.study, rows, found)
        tables.write_table(out / "checks.parquet", [asdict(finding) for finding in findings], CHECKS, about)
        folders = _keep_worst(plan, found, out, device)
        command = shlex.join(["perturbox", "study", path.name, "--out", out.name])
        write_whole(out / "report.html", page.build(plan, found, findings, rows, folders, digest, command))
        card = to_json(story.card(plan, found, findings, digest))
        write_whole(out / "card.yaml", yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110))
        said = story.verdict(plan, found, findings)
        write_whole(
            out / "study.json",
            json.dumps(_record(plan, said, found, folders, digest), indent=1, allow_nan=False) + "\n",
        )
    return Done(out, said, findings, found)


def _detected(plan: Plan, done: Any, rows: Sequence[Any], out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Fit the detectors on what they saw, write their scores and how well these tell attacks; the page's numbers."""
    scores, unfitted = scoring.score(plan, done, out / "seen", tables.gated_models(plan, done))
    tables.write_table(out / "scores.parquet", scores, SCORES, about)
    found = detected.analyse(plan.study, rows, scores, unfitted)
    tables.write_table(out / "detectors.parquet", found["evaluations"], DETECTORS, about)
    found["unseen"] = scoring.unseen(plan, done)
    return {**found, "worst_cases": worst_of_all(aimed(plan.study, usable(rows)), plan.study.keep_worst)}


def _record(plan: Plan, said: Sequence[str], found: Mapping[str, Any], folders: Mapping[str, str], digest: str) -> Any:
    worst = [
        {**{key: row[key] for key in page.case_keys(row)}, "folder": folders[page.folder_key(row)]}
        for row in found["worst_cases"]
    ]
    return to_json(
        {
            "schema": SCHEMA,
            "name": plan.study.name,
            "kind": plan.study.kind,
            "study_sha256": digest,
            "study": plan.study.document(),
            "models": {name: model.sha256 for name, model in plan.models.items()},
            "cases": {name: scan.sha256 for name, scan in plan.cases.items()},
            "left_out": dict(plan.left_out),
            "verdict": list(said),
            "found": found,
            "worst": worst,
        }
    )


def require_place(out: Path) -> None:
    """Raises InputError unless `out` is free or the folder of a study, be it one killed at its first moment."""
    begun = out.is_dir() and {path.name for path in out.iterdir()} == {LOCK}
    if out.exists() and not begun and not (out / "ledger.jsonl").is_file():
        require_new_folder(out)
    require_writable(out)


def _keep_worst(plan: Plan, found: Mapping[str, Any], out: Path, device: str) -> dict[str, str]:
    """Result folders of the worst cases, made by the same attack once more: {their key: path below `out`}."""
    import torch

    if plan.study.kind == "certify":
        return {page.folder_key(row): certified_page.folder(plan, row) for row in found["worst_cases"]}
    folders = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.study.threads)
    try:
        for row in found["worst_cases"]:
            craft = next(
                craft
                for craft in plan.crafts
                if (craft.model, plan.study.attacks[craft.attack].called, craft.eps, craft.case, craft.seed)
                == (row["target"], row["attack"], row["eps"], row["case"], row["seed"])
            )
            place = out / "worst" / craft.key
            if not (place / "report.html").is_file():
                run_job(plan.job(craft, device, (out / "features").resolve()), place)
            folders[page.folder_key(row)] = f"worst/{craft.key}"
    finally:
        torch.set_num_threads(threads)
    return folders
