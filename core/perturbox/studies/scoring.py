"""Fits a study's detectors on what they saw and scores every scan by a fit that never saw its patient.

A pure function of plan, ledger and the files of samples: the same study gives the same numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from perturbox import detectors
from perturbox.detectors.fitted import LEAST_CASES, Scale
from perturbox.detectors.fitting import Seen, held_out
from perturbox.detectors.method import Method
from perturbox.detectors.seen import Sample
from perturbox.studies import sights
from perturbox.studies.plan import Plan, kept_in
from perturbox.types import InputError

Entries = Mapping[str, Mapping[str, Any]]
CLEAN, ATTACKED, NOISE, ROLLED, CORRUPTION = "clean", "attacked", "noise", "rolled", "corruption"
# Why a detector of a model, learned from an attack (None where it learns from none), gives no scores.
Unfitted = dict[tuple[str, str, str | None], str]


@dataclass(frozen=True, eq=False)
class Shown:
    """A scan that detectors saw: what it is, as columns of scores.parquet, and what each of them looked at."""

    about: dict[str, Any]
    samples: Mapping[str, Sample]

    @property
    def kind(self) -> str:
        return self.about["kind"]


def unseen(plan: Plan, done: Entries) -> list[str]:
    """Why detectors saw nothing of some scans, one reason each; these aren't used."""
    keys = [plan.sight_key(plan.clean_key(model, case)) for model in plan.models for case in plan.cases]
    keys += [ladder.key for ladder in plan.ladders] + [plan.sight_key(look.key) for look in plan.looks]
    return [done[key]["reason"] for key in keys if done[key]["status"] != "ok"]


def score(plan: Plan, done: Entries, place: Path, gated: set[str]) -> tuple[list[dict[str, Any]], Unfitted]:
    """Rows of scores.parquet, and which detectors gave none; place: the folder of samples; gated: models struck out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.study.threads)
    rows: list[dict[str, Any]] = []
    unfitted: Unfitted = {}
    try:
        with threadpool_limits(plan.study.threads):  # sums over threads end in other bits
            for model in plan.models:
                shown = [] if model in gated else list(_shown(plan, done, place, model))
                for name in plan.study.detectors:
                    _score(plan, model, name, shown, rows, unfitted)
    finally:
        torch.set_num_threads(threads)
    return rows, unfitted


def _score(
    plan: Plan, model: str, name: str, shown: list[Shown], rows: list[dict[str, Any]], unfitted: Unfitted
) -> None:
    """Add a detector's rows, one fit for each attack that it could learn from."""
    method = detectors.get(name)
    learned = [attack.called for attack in plan.study.attacks] if method.supervised else [None]
    for attack in learned:
        try:
            raw = _held_out(method, shown, attack)
        except InputError as error:
            unfitted[model, name, attack] = str(error)
            continue
        scale = Scale.of(method, raw[[one.kind == CLEAN for one in shown]])
        fitted = {"model": model, "detector": name, "fitted_on": attack}
        rows += [
            {**fitted, **one.about, "raw": float(value), "score": float(scale.of_raw(value))}
            for one, value in zip(shown, raw, strict=True)
        ]


def _held_out(method: Method, shown: list[Shown], attack: str | None) -> Any:
    """The raw number of each scan from a fit without its patient, on clean scans and, where it learns from an attack,
    on that and on noise as large."""
    if (patients := len({one.about["patient"] for one in shown if one.kind == CLEAN})) < LEAST_CASES:
        raise InputError(f"clean scans of {patients} patients are too few; {LEAST_CASES} are needed.")
    seen = [Seen(_learned(one, attack), one.about["patient"], one.samples[method.name]) for one in shown]
    broken = len({one.patient for one in seen if one.kind == ATTACKED})
    if method.supervised and broken < LEAST_CASES:
        raise InputError(f"{attack} broke {broken} patients, too few to learn from; {LEAST_CASES} are needed.")
    return held_out(method, seen)


def _learned(one: Shown, attack: str | None) -> str:
    """As what a detector that learns from this attack is told of a scan; others it only scores."""
    mine = one.kind == CLEAN or (one.kind in (ATTACKED, NOISE) and one.about["attack"] == attack)
    return one.kind if mine else "other"


def _shown(plan: Plan, done: Entries, place: Path, model: str) -> Iterator[Shown]:
    """What a model's detectors saw, clean scans first; of patients of whom there is a clean scan."""

    def read(key: str) -> sights.Samples:
        return sights.read(kept_in(place, key)) if done[key]["status"] == "ok" else {}

    none = dict.fromkeys(("attack", "corruption", "grade", "seed", "eps"))
    patients = set()
    for case, scan in plan.cases.items():
        about = {**none, "case": case, "patient": scan.patient, "kind": CLEAN}
        for samples in read(plan.sight_key(plan.clean_key(model, case))).values():
            patients.add(scan.patient)
            yield Shown(about, samples)
    for ladder in plan.ladders:
        patient = plan.cases[ladder.case].patient
        fell = done[ladder.key].get("fell")
        if ladder.model == model and fell is not None and patient in patients:
            eps = next(craft.eps for craft in ladder.rungs if craft.key == fell)
            attack = plan.study.attacks[ladder.attack].called
            about = {**none, "case": ladder.case, "patient": patient, "attack": attack, "seed": ladder.seed, "eps": eps}
            for kind, samples in read(ladder.key).items():
                yield Shown({**about, "kind": kind}, samples)
    for look in plan.looks:
        patient = plan.cases[look.case].patient
        if look.model == model and patient in patients:
            about = {**none, "case": look.case, "patient": patient, "seed": look.seed, "kind": CORRUPTION}
            for samples in read(plan.sight_key(look.key)).values():
                yield Shown({**about, "corruption": look.corruption, "grade": look.grade}, samples)
