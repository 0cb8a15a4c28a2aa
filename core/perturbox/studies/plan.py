"""What a study asks for, counted before it runs: pieces with keys made of contents, never of names.

A renamed file uses what is there; a retrained model, or another scan under the old name, is done again.
"""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any

from perturbox import corruptions
from perturbox.attacks import recipes
from perturbox.defenses import defend
from perturbox.io.files import sha256, suffix
from perturbox.job.inputs import Job
from perturbox.load import load_victim
from perturbox.model.defended import Defended
from perturbox.studies.design import Model, Study
from perturbox.types import InputError

SCHEMA = "perturbox-study-plan/1"
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
class Plan:
    """Everything a study asks for: one clean look per model and case, crafts, who judges each, and looks at ordinary
    changes."""

    study: Study
    models: Mapping[str, Target]
    cases: Mapping[str, Scan]
    left_out: Mapping[str, str]
    craft_on: Sequence[Scan]
    crafts: Sequence[Craft]
    trust: bool = False

    def judges(self, craft: Craft) -> Sequence[str]:
        """Names of the models that look at a craft's file: what was made for a plain model is what those behind
        defences meet that nobody knew of."""
        if self.study.kind == "transfer":
            return list(self.models)
        return [craft.model, *(name for name in self.models if self.study.plain_of(name) == craft.model)]

    def job(self, craft: Craft, device: str) -> Job:
        """The job that a craft is."""
        study, scan, attack = self.study, self.cases[craft.case], self.study.attacks[craft.attack]
        settings = dict(attack.settings)
        if self.craft_on:
            settings[recipes.get(attack.name).crafted_on] = os.pathsep.join(other.image for other in self.craft_on)
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

    def document(self) -> dict[str, Any]:
        """The plan as plain JSON, for those who read a study's folder."""
        return {
            "schema": SCHEMA,
            "study": self.study.model_dump(by_alias=True),
            "models": {name: asdict(model) for name, model in self.models.items()},
            "cases": {name: asdict(scan) for name, scan in self.cases.items()},
            "left_out": dict(self.left_out),
            "craft_on": [asdict(scan) for scan in self.craft_on],
            "crafts": [asdict(craft) for craft in self.crafts],
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
        )

    def pieces(self) -> Iterator[str]:
        """Keys of everything, clean looks first."""
        for model, case in product(self.models, self.cases):
            yield self.clean_key(model, case)
        for craft in self.crafts:
            yield craft.key
            yield from (self.judge_key(craft, model) for model in self.judges(craft))
        yield from (look.key for look in self.looks)

    @cached_property
    def looks(self) -> Sequence[Look]:
        """Looks at ordinary changes."""
        return list(_looks(self)) if self.study.kind == "corruptions" else ()

    @property
    def most_looks(self) -> int:
        """At most so many, counted without making them."""
        study = self.study
        if study.kind != "corruptions":
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


def make_plan(study: Study, folder: Path, device: str = "cpu", trust: bool = False) -> Plan:
    """The plan of a study whose file lies in `folder`; raises InputError for models, scans and labels that can't be
    used, for the same scan twice and for a patient that is on both sides of a universal study."""
    models = {name: _target(name, model, folder, device, trust) for name, model in study.models.items()}
    _require_the_same(models)
    trained = {digest for model in study.models.values() for digest in _trained_on(model.trained_on, folder)}
    cases = _scans(study.cases.images, study, folder)
    left_out = {scan.name: "a model was trained on it" for scan in cases if scan.sha256 in trained}
    kept = {scan.name: scan for scan in cases if scan.name not in left_out}
    if not kept:
        raise InputError("Every case is one that a model was trained on; name others under `cases`.")
    craft_on = _scans(study.craft_on, study, folder) if study.craft_on else []
    for scan in craft_on:
        for other in kept.values():
            if other.patient == scan.patient or other.sha256 == scan.sha256:
                raise InputError(
                    f"'{scan.name}' of `craft_on` and '{other.name}' of `cases` are of the same patient; a change made "
                    "on a patient says nothing of how it does on others."
                )
    missing = sorted(set(study.target) - {name for model in models.values() for name in model.structures})
    if missing:
        raise InputError(f"`target` names '{missing[0]}', which no model of the study knows.")
    crafts = [
        _craft(study, models[model], index, eps, scan, seed, craft_on)
        for model, index, eps, scan, seed in product(
            models, range(len(study.attacks)), study.eps.values, kept.values(), study.seeds
        )
    ]
    plan = Plan(study, models, kept, left_out, craft_on, crafts, trust)
    if study.kind == "corruptions":
        _changes(plan)
    return plan


def _craft(
    study: Study, model: Target, index: int, eps: float, scan: Scan, seed: int, craft_on: Sequence[Scan]
) -> Craft:
    attack = study.attacks[index]
    parameters = recipes.get(attack.name).build(eps, study.eps.norm, attack.steps, attack.settings, local=True)
    content = {
        "model": model.sha256,
        "attack": attack.name,
        "parameters": {**parameters.parameters, "eps": eps},
        "unit": study.eps.unit,
        "norm": study.eps.norm,
        "target": sorted(study.target),
        "scan": scan.sha256,
        "label": [scan.label_sha256, study.cases.label_map],
        "craft_on": [other.sha256 for other in craft_on],
        "seed": seed,
        "threads": study.threads,
    }
    return Craft(key_of("craft", content), model.name, index, eps, scan.name, seed)


def _changes(plan: Plan) -> list[corruptions.Corruption]:
    """A study's ordinary changes; raises InputError for those of another physics than the models'."""
    physics: set[corruptions.Physics] = {corruptions.physics_of(model.unit) for model in plan.models.values()}
    if len(physics) > 1:
        raise InputError("A corruptions study is of CT or of MR, but the models read both; leave some out.")
    (kind,) = physics
    return [corruptions.get(name, kind) for name in plan.study.corruptions or corruptions.names(kind)]


def _looks(plan: Plan) -> Iterator[Look]:
    """Looks at ordinary changes, a task's together."""
    study = plan.study
    crafts: dict[tuple[str, int], list[Craft]] = {}
    for craft in plan.crafts:
        crafts.setdefault((craft.case, craft.seed), []).append(craft)
    for corruption in _changes(plan):
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


def _target(name: str, model: Model, folder: Path, device: str, trust: bool) -> Target:
    placed = placed_spec(model.victim, folder)
    try:
        victim = load_victim(placed, device, trust)
        if isinstance(victim, Defended):
            raise InputError("it brings defences of its own; name it without them, and give them as `defense`.")
        victim = defend(victim, *model.defense) if model.defense else victim
    except InputError as error:
        raise InputError(f"The model '{name}': {error}") from None
    defense = victim.specs if isinstance(victim, Defended) else ()
    return Target(name, placed, victim.sha256, tuple(victim.structures), victim.unit, defense)


def placed_spec(spec: str, folder: Path) -> str:
    """A spec whose path starts at the study's folder, if there is such a file; else as it stands."""
    kind, colon, rest = spec.partition(":")
    if colon and kind in ("nnunet", "bundle", "totalsegmentator") and not Path(rest).is_absolute():
        return f"{kind}:{folder / rest}"
    first = spec.split(".py:")[0] + ".py" if ".py:" in spec else spec
    return str(folder / spec) if not Path(first).is_absolute() and (folder / first).exists() else spec


def _require_the_same(models: Mapping[str, Target]) -> None:
    first, *rest = models.values()
    for other in rest:
        if other.structures != first.structures:
            raise InputError(
                f"The models '{first.name}' and '{other.name}' know other structures ({', '.join(first.structures)}; "
                f"{', '.join(other.structures)}); a study compares models of the same ones."
            )
    for one, other in combinations(models.values(), 2):
        if one.defense and one.sha256 == other.sha256:
            raise InputError(f"'{one.name}' and '{other.name}' are the same model behind the same defences; leave one.")


def _trained_on(file: str | None, folder: Path) -> list[str]:
    if file is None:
        return []
    try:
        lines = (folder / file).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"`trained_on`: '{file}' can't be read; give a text file of SHA-256 hashes.") from None
    wrong = next((line for line in lines if len(line) != 64 or set(line.lower()) - set("0123456789abcdef")), None)
    if wrong is not None:
        raise InputError(f"`trained_on`: '{wrong[:70]}' in '{file}' is no SHA-256 hash; list one on each line.")
    return [line.lower() for line in lines]


def _scans(patterns: Sequence[str], study: Study, folder: Path) -> list[Scan]:
    """The scans of some patterns, in order of name."""
    found: dict[str, Scan] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(str(folder / pattern))) if glob.has_magic(pattern) else [str(folder / pattern)]
        if not matches:
            raise InputError(f"No scan matches '{pattern}'; relative paths start at the study file's folder.")
        for path in matches:
            if not Path(path).exists():
                raise InputError(f"There is no scan '{path}'; relative paths start at the study file's folder.")
            scan = _scan(Path(path), study, folder)
            if scan.name in found:
                raise InputError(f"Two scans are called '{scan.name}' ({found[scan.name].image}, {scan.image}).")
            same = next((other for other in found.values() if other.sha256 == scan.sha256), None)
            if same is not None:
                raise InputError(f"'{same.name}' and '{scan.name}' are the same scan; leave one out.")
            found[scan.name] = scan
    return [found[name] for name in sorted(found)]


def _scan(path: Path, study: Study, folder: Path) -> Scan:
    name = path.name[: -len(suffix(path))] if suffix(path) else path.name
    label = None
    if study.cases.labels is not None:
        label = str((folder / filled("labels", study.cases.labels, name)).resolve())
        if not Path(label).exists():
            raise InputError(f"There is no label '{label}' of the scan '{name}'; see `labels` under `cases`.")
    patient = filled("patient", study.cases.patient, name)
    return Scan(name, patient, str(path.resolve()), label, sha256(path), None if label is None else sha256(Path(label)))


def filled(key: str, pattern: str, name: str) -> str:
    """A pattern with {name}, or a slice of it such as {name[:7]}, replaced."""
    out, rest = "", pattern
    while "{" in rest:
        before, _, rest = rest.partition("{")
        inside, closed, rest = rest.partition("}")
        cut = inside.removeprefix("name")
        bounds = cut.removeprefix("[").removesuffix("]").split(":") if cut else []
        numbers = all(bound == "" or bound.lstrip("-").isdigit() for bound in bounds)
        if not closed or not inside.startswith("name") or not numbers or (cut and len(bounds) != 2):
            raise InputError(f"`{key}`: '{pattern}' isn't understood; write {{name}}, or a part of it as {{name[:7]}}.")
        out += before + (name[slice(*(int(bound) if bound else None for bound in bounds))] if cut else name)
    return out + rest
