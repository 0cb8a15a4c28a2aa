"""Reads what a study names, models and scans with their labels, and makes its plan of them."""

import glob
import os
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from math import prod
from pathlib import Path

from perturbox import detectors, io
from perturbox.attacks import recipes
from perturbox.certificates.statistics import votes_needed
from perturbox.defenses import defend
from perturbox.detectors.fitted import LEAST_CASES
from perturbox.detectors.fitting import require_layers
from perturbox.detectors.shipped import shipped
from perturbox.io.files import sha256, suffix
from perturbox.load import load_victim
from perturbox.model.defended import Defended
from perturbox.studies.design import FEATURES, AttackOf, Certify, Model, Study
from perturbox.studies.detected import PATIENTS
from perturbox.studies.plan import Craft, Plan, Scan, Target, changes_of, fit_key, key_of
from perturbox.types import InputError


def make_plan(study: Study, folder: Path, device: str = "cpu", trust: bool = False) -> Plan:
    """The plan of a study whose file lies in `folder`; raises InputError for models, scans and labels that can't be
    used, for the same scan twice and for a patient that is on both sides of a universal study."""
    models = {
        name: _target(name, model, folder, device, trust, study.detectors) for name, model in study.models.items()
    }
    _require_the_same(models)
    trained = {digest for model in study.models.values() for digest in _trained_on(model.trained_on, folder)}
    cases = _scans(study.cases.images, study, folder)
    left_out = {scan.name: "a model was trained on it" for scan in cases if scan.sha256 in trained}
    kept = {scan.name: scan for scan in cases if scan.name not in left_out}
    if not kept:
        raise InputError("Every case is one that a model was trained on; name others under `cases`.")
    craft_on = _scans(study.craft_on, study, folder, labelled=False) if study.craft_on else []
    why = "a change made on a patient says nothing of how it does on others"
    _require_others("craft_on", craft_on, kept, why)
    missing = sorted(set(study.target) - {name for model in models.values() for name in model.structures})
    if missing:
        raise InputError(f"`target` names '{missing[0]}', which no model of the study knows.")
    features_on = _scans(study.features_on, study, folder, labelled=False) if study.features_on else []
    _require_others("features_on", features_on, kept, "what is fitted on clean scans must know others")
    files = [_files(study, attack, folder) for attack in study.attacks]
    hashes = [{name: _hashes(paths) for name, paths in own.items()} for own in files]
    crafts = [
        _craft(study, models[model], index, eps, scan, seed, craft_on, features_on, hashes[index])
        for model, index, eps, scan, seed in product(
            models, range(len(study.attacks)), study.eps.values, kept.values(), study.seeds
        )
    ]
    plan = Plan(study, models, kept, left_out, craft_on, crafts, trust, features_on, tuple(files) if any(files) else ())
    changes_of(plan)
    if study.kind == "detectors" and (count := len({scan.patient for scan in kept.values()})) < LEAST_CASES:
        raise InputError(
            f"`cases` has {count} patient{'s' * (count != 1)}; a detectors study needs {LEAST_CASES} to fit detectors "
            f"on, and {PATIENTS} to say anything of them."
        )
    passed = [what for what in plan.fitted if what != FEATURES]
    if passed and (count := len({scan.patient for scan in features_on})) < LEAST_CASES:
        raise InputError(
            f"`features_on` has {count} patient{'s' * (count != 1)}; the {passed[0]} detector that evade is to pass "
            f"needs {LEAST_CASES}."
        )
    if study.certify is not None and study.certify.n is not None:
        _require_votes(study.certify, study.certify.n, plan)
    return plan


def _require_others(key: str, scans: Sequence[Scan], cases: Mapping[str, Scan], why: str) -> None:
    """Raises InputError where one of the scans is of a patient who is among the cases."""
    for scan in scans:
        for other in cases.values():
            if other.patient == scan.patient or other.sha256 == scan.sha256:
                raise InputError(
                    f"'{scan.name}' of `{key}` and '{other.name}' of `cases` are of the same patient; {why}."
                )


def _require_votes(asked: Certify, n: int, plan: Plan) -> None:
    """Raises InputError where so many votes could certify nothing of the largest case."""
    unit = plan.models[plan.first].unit
    voxels = {name: prod(io.read_scan(scan.image, unit=unit).shape) for name, scan in plan.cases.items()}
    largest = max(voxels, key=lambda name: voxels[name])
    needed = votes_needed(voxels[largest], asked.tau, asked.alpha)
    if n < needed:
        raise InputError(
            f"`certify`: {n} votes can't certify any of the {voxels[largest]:,} voxels of '{largest}' at tau "
            f"{asked.tau:g} and alpha {asked.alpha:g}; give n: {needed} or more, leave n out, or take a smaller tau or "
            "a larger alpha."
        )


def _craft(
    study: Study,
    model: Target,
    index: int,
    eps: float,
    scan: Scan,
    seed: int,
    craft_on: Sequence[Scan],
    features_on: Sequence[Scan],
    hashes: Mapping[str, Sequence[str]],
) -> Craft:
    attack = study.attacks[index]
    parameters = recipes.get(attack.name).build(eps, study.eps.norm, attack.steps, attack.settings, local=True)
    content = {
        "model": model.sha256,
        "attack": attack.name,
        "parameters": {**parameters.parameters, "eps": eps, **hashes},
        "unit": study.eps.unit,
        "norm": study.eps.norm,
        "target": sorted(study.target),
        "scan": scan.sha256,
        "label": [scan.label_sha256, study.cases.label_map],
        "craft_on": [other.sha256 for other in craft_on],
        "seed": seed,
        "threads": study.threads,
    }
    what = study.fitted_for(attack)
    if what is not None:
        content["features"] = fit_key(model, what, features_on, study.threads)
        content["parameters"].pop("detector", None)
    return Craft(key_of("craft", content), model.name, index, eps, scan.name, seed)


def _files(study: Study, attack: AttackOf, folder: Path) -> dict[str, str]:
    """The settings of an attack that name files, by absolute paths; raises InputError where there is no such file."""
    found, recipe = {}, recipes.get(attack.name)
    for name in recipe.local:
        given = attack.settings.get(name)
        if not given and name in recipe.needed_files and not study.craft_on and study.fitted_for(attack) is None:
            raise InputError(f"`attacks`: {attack.called} needs a file; give it in `settings`, as in {name}: FILE.")
        if given and not isinstance(given, str):
            raise InputError(f"`attacks`: the {name} of {attack.called} isn't a file's path; write {name}: FILE.")
        if not given or given == study.fitted_for(attack):
            continue
        if name == "detector" and not (folder / given).exists() and (ours := _shipped(given, study)) is not None:
            found[name] = ours
            continue
        paths = [Path(os.path.realpath(folder / path)) for path in given.split(os.pathsep)]  # loops of links too
        for path in paths:
            if not path.exists():
                raise InputError(
                    f"`attacks`: there is no file '{path}', the {name} of {attack.called}; relative paths start at the "
                    "study file's folder."
                )
        found[name] = os.pathsep.join(map(str, paths))
    return found


def _shipped(word: str, study: Study) -> str | None:
    """The shipped detector of that name, where it is the same for all models."""
    known = {shipped(model.victim).get(word) for model in study.models.values()}
    return str(known.pop()) if len(known) == 1 and None not in known else None


def _hashes(paths: str) -> list[str]:
    return [sha256(Path(path)) for path in paths.split(os.pathsep)]


def _target(name: str, model: Model, folder: Path, device: str, trust: bool, looking: Sequence[str]) -> Target:
    placed = placed_spec(model.victim, folder)
    try:
        victim = load_victim(placed, device, trust)
        if isinstance(victim, Defended):
            raise InputError("it brings defences of its own; name it without them, and give them as `defense`.")
        victim = defend(victim, *model.defense) if model.defense else victim
        for detector in looking:
            require_layers(victim, detectors.get(detector))
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


def _scans(patterns: Sequence[str], study: Study, folder: Path, labelled: bool = True) -> list[Scan]:
    """The scans of some patterns, in order of name; labelled: with the labels of the cases."""
    found: dict[str, Scan] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(str(folder / pattern))) if glob.has_magic(pattern) else [str(folder / pattern)]
        if not matches:
            raise InputError(f"No scan matches '{pattern}'; relative paths start at the study file's folder.")
        for path in matches:
            if not Path(path).exists():
                raise InputError(f"There is no scan '{path}'; relative paths start at the study file's folder.")
            scan = _scan(Path(path), study, folder, labelled)
            if scan.name in found:
                raise InputError(f"Two scans are called '{scan.name}' ({found[scan.name].image}, {scan.image}).")
            same = next((other for other in found.values() if other.sha256 == scan.sha256), None)
            if same is not None:
                raise InputError(f"'{same.name}' and '{scan.name}' are the same scan; leave one out.")
            found[scan.name] = scan
    return [found[name] for name in sorted(found)]


def _scan(path: Path, study: Study, folder: Path, labelled: bool) -> Scan:
    name = path.name[: -len(suffix(path))] if suffix(path) else path.name
    label = None
    if labelled and study.cases.labels is not None:
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
