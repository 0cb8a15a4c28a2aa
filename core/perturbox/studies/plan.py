"""What a study asks for, counted before it runs: pieces with keys made of contents, never of names.

A renamed file uses what is there; a retrained model, or another scan under the old name, is done again.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from perturbox import corruptions
from perturbox.attacks import recipes
from perturbox.job.inputs import Job
from perturbox.studies.design import FEATURES, Study
from perturbox.types import InputError

SCHEMA = "perturbox-study-plan/1"
PASSES = 8  # predictions of each scan for its features, as many as `perturbox fit-features` takes
VERSION = 2  # of what a piece's rows hold: another number does everything again


@dataclass(frozen=True)
class Scan:
    """A case of the study; patient: the unit of the statistics."""

    name: str
    patient: str
    image: str
    label: str | None
    sha256: str
    label_sha256: str | None


@dataclass(frozen=True)
class Target:
    """A model of the study, by its name there; sha256: of weights, pipeline and defences; defense: these, in full."""

    name: str
    spec: str
    sha256: str
    structures: tuple[str, ...]
    unit: str
    defense: tuple[str, ...] = ()


@dataclass(frozen=True)
class Craft:
    """One perturbation: a model, an attack, a limit, a case, a seed; attack: its place in the study's list."""

    key: str
    model: str
    attack: int
    eps: float
    case: str
    seed: int


@dataclass(frozen=True)
class Look:
    """A model's look at a case under an ordinary change: at a grade, or as large as what was crafted for the model."""

    key: str
    model: str
    corruption: str
    case: str
    seed: int
    grade: int | None
    craft: Craft | None

    @property
    def together(self) -> tuple[str, str, int]:
        """Looks of which this is the same are computed in one task."""
        return self.case, self.corruption, self.seed


@dataclass(frozen=True)
class Ladder:
    """An attack on a case with ever larger limits, until the model's answer has fallen; rungs: its crafts, the smallest
    limit first."""

    key: str
    model: str
    attack: int
    case: str
    seed: int
    rungs: tuple[Craft, ...]


@dataclass(frozen=True)
class Certificate:
    """One certificate of a model on a case; sigma: of its noise, in the study's unit of it."""

    key: str
    model: str
    case: str
    sigma: float
    seed: int


@dataclass(frozen=True)
class Plan:
    """Everything a study asks for: one clean look per model and case, crafts, who judges each, looks at ordinary
    changes, certificates, and what detectors see. features_on: clean scans on which what attacks need is fitted; files:
    per attack, its settings that name files, by absolute paths."""

    study: Study
    models: Mapping[str, Target]
    cases: Mapping[str, Scan]
    left_out: Mapping[str, str]
    craft_on: Sequence[Scan]
    crafts: Sequence[Craft]
    trust: bool = False
    features_on: Sequence[Scan] = ()
    files: Sequence[Mapping[str, str]] = ()

    def judges(self, craft: Craft) -> Sequence[str]:
        """Names of the models that look at a craft's file: what was made for a plain model is what those behind
        defences meet that nobody knew of."""
        if self.study.kind == "transfer":
            return list(self.models)
        return [craft.model, *(name for name in self.models if self.study.plain_of(name) == craft.model)]

    def job(self, craft: Craft, device: str, fits: Path | None = None) -> Job:
        """The job that a craft is; fits: the folder of what was fitted for it."""
        study, scan, attack = self.study, self.cases[craft.case], self.study.attacks[craft.attack]
        settings = {**attack.settings, **(self.files[craft.attack] if self.files else {})}
        if self.craft_on:
            settings[recipes.get(attack.name).crafted_on] = os.pathsep.join(other.image for other in self.craft_on)
        what = study.fitted_for(attack)
        if fits is not None and what is not None:
            setting = FEATURES if what == FEATURES else "detector"
            settings[setting] = str(kept_in(fits, self.fit_key(craft.model, what)) / fit_file(what))
        return Job(
            image=scan.image,
            victim=self.models[craft.model].spec,
            attack=attack.name,
            eps=craft.eps,
            eps_unit=study.eps.unit,
            norm=study.eps.norm,
            steps=attack.steps,
            settings=settings,
            target=tuple(study.target),
            label=scan.label,
            label_map=study.cases.label_map,
            seed=craft.seed,
            device=device,
            force=True,
            allow_cut_gradient=True,  # what such an attack can't do is a finding: see `checks.untouched`
            trust=self.trust,
            defense=self.models[craft.model].defense,
        )

    def clean_key(self, model: str, case: str) -> str:
        scan = self.cases[case]
        return key_of("clean", self.models[model].sha256, scan.sha256, scan.label_sha256, self.study.cases.label_map)

    def judge_key(self, craft: Craft, model: str) -> str:
        return key_of("judge", craft.key, self.clean_key(model, craft.case))

    @property
    def fitted(self) -> Sequence[str]:
        """What is fitted on clean scans for attacks, see `Study.fitted_for`."""
        return sorted({what for attack in self.study.attacks if (what := self.study.fitted_for(attack)) is not None})

    def fit_key(self, model: str, what: str) -> str:
        """Of what is fitted on clean scans for the attacks on a model."""
        return fit_key(self.models[model], what, self.features_on, self.study.threads)

    def sight_key(self, what: str) -> str:
        """Of what the detectors see of something that has a key."""
        return key_of("sight", what, sorted(self.study.detectors), self.study.threads)

    def document(self) -> dict[str, Any]:
        """The plan as plain JSON, for those who read a study's folder."""
        return {
            "schema": SCHEMA,
            "study": self.study.document(),
            "models": {name: asdict(model) for name, model in self.models.items()},
            "cases": {name: asdict(scan) for name, scan in self.cases.items()},
            "left_out": dict(self.left_out),
            "craft_on": [asdict(scan) for scan in self.craft_on],
            "crafts": [asdict(craft) for craft in self.crafts],
            **({"features_on": [asdict(scan) for scan in self.features_on]} if self.features_on else {}),
            **({"files": [dict(own) for own in self.files]} if self.files else {}),
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Plan":
        """The plan of such a document; raises KeyError, TypeError or ValueError for anything else."""
        if document["schema"] != SCHEMA:
            raise ValueError(f"not of {SCHEMA}")
        return cls(
            Study.model_validate(document["study"]),
            {
                name: Target(**{**model, **{key: tuple(model.get(key, ())) for key in ("structures", "defense")}})
                for name, model in document["models"].items()
            },
            {name: Scan(**scan) for name, scan in document["cases"].items()},
            dict(document["left_out"]),
            [Scan(**scan) for scan in document["craft_on"]],
            [Craft(**craft) for craft in document["crafts"]],
            features_on=[Scan(**scan) for scan in document.get("features_on", ())],
            files=tuple(dict(own) for own in document.get("files", ())),
        )

    def pieces(self) -> Iterator[str]:
        """Keys of everything, clean looks first."""
        for model, case in product(self.models, self.cases):
            yield self.clean_key(model, case)
        if self.study.kind == "detectors":  # a ladder has as many crafts as it takes
            yield from self._pieces_of_detection()
        else:
            for craft in self.crafts:
                yield craft.key
                yield from (self.judge_key(craft, model) for model in self.judges(craft))
        yield from (look.key for look in self.looks)
        yield from (certificate.key for certificate in self.certificates)

    def _pieces_of_detection(self) -> Iterator[str]:
        yield from (self.fit_key(model, what) for model, what in product(self.models, self.fitted))
        yield from (self.sight_key(self.clean_key(model, case)) for model, case in product(self.models, self.cases))
        yield from (ladder.key for ladder in self.ladders)
        yield from (self.sight_key(look.key) for look in self.looks)

    @cached_property
    def ladders(self) -> Sequence[Ladder]:
        """Attacks with ever larger limits."""
        return list(_ladders(self)) if self.study.kind == "detectors" else ()

    @cached_property
    def looks(self) -> Sequence[Look]:
        """Looks at ordinary changes."""
        return list(_looks(self)) if changes_of(self) else ()

    @cached_property
    def certificates(self) -> Sequence[Certificate]:
        """What is to be certified."""
        return list(_certificates(self)) if self.study.certify is not None else ()

    @property
    def most_looks(self) -> int:
        """At most so many pieces beside clean looks and crafts, counted without making them."""
        study = self.study
        if study.certify is not None:
            return len(study.certify.sigma) * len(self.models) * len(self.cases) * len(study.seeds)
        if study.kind != "corruptions" and not study.corruptions:
            return 0
        names = len(study.corruptions) or len(corruptions.CORRUPTIONS)
        cells = len(study.grades) * len(self.models) * len(self.cases) * len(study.seeds)
        return names * (cells + len(self.crafts))

    @property
    def first(self) -> str:
        """The model by whose segmentation a case's noise is measured."""
        return next(iter(self.models))


def key_of(*content: Any) -> str:
    """A piece's key: SHA-256 of what it depends on, shortened."""
    text = json.dumps([VERSION, *content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def changes_of(plan: Plan) -> list[corruptions.Corruption]:
    """A study's ordinary changes; raises InputError for those of another physics than the models'."""
    if plan.study.kind != "corruptions" and not plan.study.corruptions:
        return []
    physics: set[corruptions.Physics] = {corruptions.physics_of(model.unit) for model in plan.models.values()}
    if len(physics) > 1:
        raise InputError("A corruptions study is of CT or of MR, but the models read both; leave some out.")
    (kind,) = physics
    return [corruptions.get(name, kind) for name in plan.study.corruptions or corruptions.names(kind)]


def _looks(plan: Plan) -> Iterator[Look]:
    """Looks at ordinary changes, a task's together."""
    study = plan.study
    crafts: dict[tuple[str, int], list[Craft]] = {}
    for craft in plan.crafts if study.kind == "corruptions" else ():
        crafts.setdefault((craft.case, craft.seed), []).append(craft)
    for corruption in changes_of(plan):
        for case, seed in product(plan.cases, study.seeds):
            same: list[tuple[int | None, Craft | None, str]] = [
                (grade, None, model) for grade, model in product(study.grades, plan.models)
            ]
            same += [(None, craft, craft.model) for craft in crafts.get((case, seed), ())]
            for grade, craft, model in same:
                content = {
                    "model": plan.clean_key(model, case),
                    "noise": plan.clean_key(plan.first, case),
                    "corruption": corruption.name,
                    "values": corruption.grades[(grade or 1) - 1],
                    "as": None if craft is None else craft.key,
                    "seed": seed,
                    "threads": study.threads,
                }
                yield Look(key_of("corruption", content), model, corruption.name, case, seed, grade, craft)


def _ladders(plan: Plan) -> Iterator[Ladder]:
    found: dict[tuple[str, int, str, int], list[Craft]] = {}
    for craft in plan.crafts:
        found.setdefault((craft.model, craft.attack, craft.case, craft.seed), []).append(craft)
    for (model, attack, case, seed), crafts in found.items():
        rungs = tuple(sorted(crafts, key=lambda craft: craft.eps))
        clean = plan.clean_key(model, case)
        keys = [clean, *(craft.key for craft in rungs)]
        content = {"keys": keys, "success": plan.study.success, "target": sorted(plan.study.target)}
        yield Ladder(plan.sight_key(key_of("ladder", content)), model, attack, case, seed, rungs)


def fit_key(model: Target, what: str, scans: Sequence[Scan], threads: int) -> str:
    """Of what is fitted on clean scans for the attacks on a model."""
    passes = PASSES if what == FEATURES else 1
    return key_of(what, model.sha256, [scan.sha256 for scan in scans], passes, threads)


def fit_file(what: str) -> str:
    """The name of the file of what was fitted."""
    return f"{what}.safetensors"


def kept_in(place: str | Path, key: str) -> Path:
    """Where what a piece leaves lies: a craft's perturbed scan, a certificate's folder."""
    return Path(place) / key[:2] / key


def _certificates(plan: Plan) -> Iterator[Certificate]:
    study = plan.study
    assert study.certify is not None
    how = study.certify.model_dump(exclude={"sigma"})
    for model, case, sigma, seed in product(plan.models, plan.cases, study.certify.sigma, study.seeds):
        content = {"clean": plan.clean_key(model, case), "sigma": sigma, **how, "seed": seed, "threads": study.threads}
        yield Certificate(key_of("certificate", content), model, case, sigma, seed)
