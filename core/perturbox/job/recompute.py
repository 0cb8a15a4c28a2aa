"""What a result folder's files, its model and the installed recipe give again, beside what result.json says."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import perturbox
from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.attack import random_draw
from perturbox.attacks.budget import Budget, BudgetViolated
from perturbox.attacks.goals import Goal
from perturbox.io.files import sha256
from perturbox.io.formats import DICOM, PHOTOGRAPHS
from perturbox.job.compare import (
    DEFENDED_RECORDED,
    RECORDED,
    as_known,
    differences,
    leaves,
    only_recorded,
    with_recorded,
)
from perturbox.job.execute import Job, Listener, file_names, present_targets, settled
from perturbox.job.inputs import behind_defenses
from perturbox.judge import checks
from perturbox.judge.columns import summarise
from perturbox.judge.measure import measure
from perturbox.judge.metrics import difference_map
from perturbox.judge.noise import scan_noise
from perturbox.judge.record import channel_of, file_of, inside, required_file
from perturbox.judge.units import NATIVE, check_unit, one_of, ones_of
from perturbox.load import load_victim, read_spec
from perturbox.model.victim import Victim
from perturbox.plain import to_json
from perturbox.report import FULL, check
from perturbox.types import Case, InputError, Volume

# Words that another version of perturbox may say otherwise; a difference is no fault of the folder then.
WORDS = ("attack.title", "attack.paper", "attack.deviations", "victim.title", "victim.licence", "victim.limits",
         "victim.intended_use", "victim.training_data")  # fmt: skip
# All that schema 1 was checked by.
FIRST_SCHEMA = ("reference", "budget", "noise", "metrics", "verdicts", "success", "control", "slices", "image_metrics")
IGNORED = (".DS_Store", "Thumbs.db", "desktop.ini")  # what desktops leave in folders


@dataclass
class Findings:
    """What doesn't hold, a line each; what is to be said beside it; how many leaves and files were looked at; and which
    leaves are only recorded, and what repeats them."""

    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    recomputed: int = 0
    recorded: int = 0
    files: int = 0
    only: str = "such as the trace, the effort and the versions: `perturbox replay` repeats the attack"

    def add(self, other: "Findings", place: str) -> None:
        """What was found in a part of the folder."""
        self.problems += [f"{place}: {line}" for line in other.problems]
        self.notes += [f"{place}: {line}" for line in other.notes]
        self.recomputed += other.recomputed
        self.recorded += other.recorded
        self.files += other.files


def read_scans(folder: Path, result: Mapping[str, Any]) -> tuple[Volume, Volume]:
    """(clean, adversarial): the clean scan is the adversarial one minus the perturbation, exactly."""
    unit = result["source"]["unit"]
    names = {
        name: [key for key in result["files"] if channel_of(key) == name] for name in ("adversarial", "perturbation")
    }
    files = {
        name: [required_file(folder, result, key) for key in sorted({name, *keys})] for name, keys in names.items()
    }
    adversarial = io.read_files(files["adversarial"], unit=unit)
    delta = io.read_files(files["perturbation"], unit=unit, allow_constant=True)
    if delta.data.shape != adversarial.data.shape or not delta.same_grid(adversarial):
        raise InputError(f"'{folder}': the perturbation doesn't lie on the scan's grid; copy the whole result folder.")
    data = adversarial.data.astype(np.float64) - delta.data
    return adversarial.with_data(data.astype(adversarial.data.dtype)), adversarial


def _oblivious(folder: Path, result: Mapping[str, Any]) -> Volume | None:
    """What the attack made that didn't know of the defences, where the result is about some."""
    keys = [key for key in result["files"] if "oblivious" in (key, channel_of(key))]
    if not keys and "defense" not in result["victim"]:
        return None
    files = [required_file(folder, result, key) for key in sorted({"oblivious", *keys})]
    return io.read_files(files, unit=result["source"]["unit"])


def job_of(result: Mapping[str, Any], **changes: Any) -> Job:
    """The job a result.json records, without its files."""
    parameters, budget = dict(result["attack"]["parameters"]), result["budget"]
    native = budget["unit_asked"] == NATIVE
    recipe = recipes.get(result["attack"]["name"])
    settings = {entry["name"]: parameters[entry["name"]] for entry in recipe.parameters if entry["name"] in parameters}
    return dataclasses.replace(
        Job(
            image="",
            victim=result["victim"]["spec"],
            attack=recipe.name,
            eps=parameters["eps"] if native else budget["eps_asked"],
            eps_unit=budget["unit_asked"],
            norm=parameters["norm"],
            steps=parameters["steps"],
            goal=parameters["goal"],
            target=tuple(parameters["target"]),
            settings=settings,
            seed=result["seed"],
            device=result["device"],
            force=result["force"],
            surrogate=tuple(model["spec"] for model in result["surrogates"]),
            allow_cut_gradient=True,  # it ran, whatever its gradient was
            defense=tuple(one["spec"] for one in result["victim"].get("defense", [])),
        ),
        **changes,
    )


def require_trust(folder: Path, job: Job, trust: bool) -> None:
    """Raise InputError if the record names Python code that lies in the folder itself: it runs as soon as it is loaded,
    and a folder may come from anywhere. Code elsewhere on this machine is the user's own."""
    came = folder.resolve()
    while (came.parent / "margin.json").is_file():  # a find of a search, or the search beside one
        came = came.parent
    named = [read_spec(spec) for spec in (job.victim, *job.surrogate)]
    for spec in (one for found in named for one in found.members or (found,)):
        if spec.runs_code and not trust and came in spec.path.resolve().parents:
            raise InputError(
                f"This result names '{spec}' as a model: Python code that came with the folder and runs with your "
                "rights; read it, then add `--trust`."
            )


def recompute(
    folder: Path, result: Mapping[str, Any], listener: Listener, trust: bool = False, victim: Victim | None = None
) -> Findings:
    """Everything that can be recomputed of a result folder, compared with what it says.

    Raises InputError where nothing could be, or the model's weights aren't those of the result.
    """
    found = check_files(folder, result)
    try:
        _recompute(folder, result, listener, trust, victim, found)
    except InputError as error:
        if not found.problems:
            raise
        found.problems.append(f"The numbers could not be recomputed: {error}")
    return found


def check_files(folder: Path, result: Mapping[str, Any]) -> Findings:
    """Whether the folder holds the files it was saved with; others are only named, as a scan may lie beside them."""
    found, listed = Findings(), {"result.json", "report.html", FULL, *IGNORED}
    for name, entry in result["files"].items():
        if entry is None:
            continue
        listed.add(entry["path"])
        found.files += "upgraded_from" not in result
        try:
            path = inside(folder, entry["path"])
        except InputError as error:
            found.problems.append(f"files.{name}: {error}")
            continue
        if not path.is_file():
            found.problems.append(f"{entry['path']}: is missing; copy the whole result folder")
        elif "upgraded_from" in result:
            continue
        elif entry.get("sha256") != sha256(path):
            found.problems.append(f"{entry['path']}: isn't the file that was saved (its SHA-256 is another)")
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in listed)
    found.notes += [f"{name} isn't part of this result and wasn't looked at." for name in strangers]
    return found


def _recompute(
    folder: Path,
    result: Mapping[str, Any],
    listener: Listener,
    trust: bool,
    victim: Victim | None,
    found: Findings,
) -> None:
    job, parameters = job_of(result), result["attack"]["parameters"]
    clean, adversarial = read_scans(folder, result)
    oblivious = _oblivious(folder, result)
    if victim is None:
        require_trust(folder, job, trust)
        listener.say(f"Loading the model {job.victim}")
        victim = load_victim(job.victim, job.device, trust)
    victim = behind_defenses(victim, job)
    recorded = result["victim"]["sha256"]
    if not victim.is_the_one(recorded):
        raise InputError(
            f"'{victim.name}' has other weights here than when this result was made, or another pipeline; use the same."
        )
    if recorded != victim.sha256:
        found.notes.append("victim.sha256: an earlier version hashed the weights alone; they are the same.")
    torch.set_num_threads(result["threads"])
    expert, roi = file_of(folder, result, "reference_seg"), file_of(folder, result, "roi")
    expert = io.read_labels(expert, clean) if expert else None
    roi = io.read_mask(roi, clean) if roi else None
    clean_seg = victim.plain.predict(clean)
    goal = Goal.parse(job.goal, job.target, victim.labels)
    goal = present_targets(goal, clean_seg, victim, job.target, expert)
    built = recipes.get(job.attack).build(parameters["eps"], job.norm, job.steps, job.settings, local=True)
    ones = _ones(job, clean, clean_seg, victim)
    measured = measure(
        clean,
        adversarial,
        victim,
        goal,
        eps=parameters["eps"],
        asked=(job.eps, job.eps_unit),
        ones=ones,
        norm=job.norm,
        expert=expert,
        outlined=result["outlined"],
        roi=roi,
        seed=job.seed,
        clean_seg=clean_seg,
        random_draw=random_draw(built.attack, Case(clean.in_units(ones, job.eps_unit), roi=roi), victim),
        untested=result["untested"] if isinstance(result["untested"], str) else None,  # others rest on the files alone
        oblivious=oblivious,
        say=listener.say,
    )
    maps = {
        "clean_seg": (measured.clean_seg, "the model's prediction"),
        "adversarial_seg": (measured.adversarial_seg, "the model's prediction"),
        "difference_seg": (
            difference_map(measured.clean_seg, measured.adversarial_seg),
            "where the predictions differ",
        ),
    }
    for name, (labels, meaning) in maps.items():
        file = required_file(folder, result, name)
        wrong = int((io.read_labels(file, clean) != labels).sum())
        if wrong:
            many = f"{wrong} voxels aren't" if wrong > 1 else "1 voxel isn't"
            found.problems.append(f"{file.name}: {many} {meaning}")
    found.problems += _asked(result["budget"], clean, measured.numbers["noise"], ones)
    for scan in (adversarial, oblivious):
        if scan is not None:
            found.problems += _budget(Case(clean, roi=roi), scan, parameters["eps"], job, ones)

    first = "upgraded_from" in result
    source = dataclasses.replace(clean, format=result["source"]["format"], unit=_unit(result, adversarial, victim))
    numbers = to_json(settled(job, {**built.parameters, **parameters}, victim, source, measured))
    assert isinstance(numbers, dict)
    numbers["replayable"] = result["margin"] is None
    if oblivious is not None:
        told = result.get("defense") or {}
        numbers["defense"] |= {place.split(".")[1]: told.get(place.split(".")[1]) for place in DEFENDED_RECORDED}
    numbers["summary"] = to_json(summarise({**result, **numbers}))
    influence = result["files"].get("influence")  # how the attack went; its hash alone is compared
    names = file_names(
        source,
        expert=expert is not None,
        roi=roi is not None,
        influence=influence is not None,
        oblivious=oblivious is not None,
    )
    if "influence" not in result["files"]:  # of an earlier version
        del names["influence"]
    numbers["files"] = {
        name: file and {"path": file, "sha256": (result["files"].get(name) or {}).get("sha256")}
        for name, file in names.items()
    }
    recorded = (*RECORDED, *["source.channels"] * bool(clean.files), *DEFENDED_RECORDED * (oblivious is not None))
    told = with_recorded({**numbers, "warnings": result["warnings"]}, result, recorded)
    if first:
        result, told = _as_first(result), _as_first(told, like=result)
        told = as_known(told, result)
    found.recomputed = sum(not only_recorded(place) for place in leaves(dict(result)))
    found.recorded = sum(only_recorded(place) for place in leaves(dict(result)))
    for line in differences(dict(result), told, ""):
        _note(found, line, result, line.startswith(WORDS))
    if first:
        found.notes.append(
            "This folder is of schema perturbox-result/1, without hashes: its scans, label maps and numbers were "
            "recomputed; warnings, report and descriptions were not compared."
        )
        return
    _compare_warnings(result, told, io.check_hu(clean, job.force) if victim.unit == "HU" else [], found)
    compare_report(folder, result, found)


def _note(found: Findings, line: str, result: Mapping[str, Any], words: bool) -> None:
    """A difference is a problem, unless it is one of words that another version wrote."""
    made_by = (result.get("versions") or {}).get("perturbox")  # of schema 1 only the numbers are compared
    if words and made_by != perturbox.__version__:
        found.notes.append(f"{line} (perturbox {made_by} made this folder, {perturbox.__version__} is installed)")
    else:
        found.problems.append(line)


def _budget(case: Case, adversarial: Volume, eps: float | None, job: Job, ones: tuple[float, ...]) -> Iterator[str]:
    """Whether the saved file keeps to its limit, its region, the scan's range and storage steps."""
    clean = case.image
    if not np.array_equal(clean.resaved().astype(clean.data.dtype), clean.data):
        yield "perturbation: the original scan that it gives doesn't lie on the file's storage steps"
    try:
        clean, adversarial = (scan.in_units(ones, job.eps_unit) for scan in (clean, adversarial))
        Budget.of(Case(clean, roi=case.roi), eps, job.norm).verify(  # type: ignore[arg-type]
            torch.from_numpy(adversarial.data)[None], torch.from_numpy(clean.data)[None]
        )
    except BudgetViolated as error:
        yield f"budget: {error}"


def _ones(job: Job, clean: Volume, clean_seg: np.ndarray, victim: Victim) -> tuple[float, ...]:
    """What 1 of the limit's unit is in each channel, where these are files of their own."""
    if job.eps_unit == NATIVE or not clean.files:
        return ()
    noise = scan_noise(clean.data, clean_seg, victim.labels, clean.ruler, clean.sizes, apart=True)
    return ones_of(job.eps_unit, clean, noise)


def _asked(
    budget: Mapping[str, Any], clean: Volume, noise: Mapping[str, Any], ones: tuple[float, ...]
) -> Iterator[str]:
    """Whether the limit in the scan's own unit is what was asked for."""
    eps, asked, unit = budget["eps"], budget["eps_asked"], budget["unit_asked"]
    check_unit(unit, asked)
    native = asked * (1.0 if ones else one_of(unit, clean, noise))
    if not math.isclose(native, eps, rel_tol=1e-6, abs_tol=1e-9):
        yield f"budget.eps_asked: {asked:g} {unit} are {native:g} in this scan's own unit, and budget.eps is {eps:g}"


def _unit(result: Mapping[str, Any], adversarial: Volume, victim: Victim) -> str:
    """The scan's unit: the model's, and of pictures none. DICOM says whether it is a CT, which its copy can't."""
    stored = result["source"]["unit"]
    if result["source"]["format"] == DICOM and stored == "intensity":
        return stored
    return victim.unit if adversarial.format not in PHOTOGRAPHS or victim.unit != "HU" else "intensity"


def _compare_warnings(result: Mapping[str, Any], told: dict[str, Any], scan: list[str], found: Findings) -> None:
    """Sentences that follow from the rest must be there; others tell of the run and are only recorded."""
    due = list(dict.fromkeys([*scan, *checks.warnings(told)]))
    said = result["warnings"] if isinstance(result["warnings"], list) else []
    for sentence in due:
        if sentence not in said:
            _note(found, f'warnings: lacks "{sentence}"', result, words=True)
    extra = [sentence for sentence in said if sentence not in due]
    found.recomputed, found.recorded = found.recomputed - len(extra), found.recorded + len(extra)
    found.notes += [f'warnings: only recorded, since it tells of the run itself: "{sentence}"' for sentence in extra]


def compare_report(folder: Path, result: Mapping[str, Any], found: Findings) -> None:
    """Whether report.html is what a result's, or a margin search's, folder gives; result: its JSON."""
    path = inside(folder, "report.html")
    if not path.exists():
        found.notes.append("There is no report.html; `perturbox report` writes it.")
        return
    try:
        wrong = check(folder)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
    ) as error:  # a record that may come from anywhere
        told = f": {error}" if isinstance(error, InputError) else ""
        found.problems.append(f"report.html: no report can be made of this folder{told}")
        return
    for name in wrong:
        line = f"{name}: isn't what the rest of this folder gives; `perturbox report` writes it again"
        _note(found, line, result, words=True)


def _as_first(result: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The numbers of a record that schema 1 determined; like: the record it is compared with."""
    like = result if like is None else like
    part = {key: result[key] for key in FIRST_SCHEMA}
    part["budget"] = {**part["budget"], "step": like["budget"]["step"]}  # it didn't say the file's step
    part["image_metrics"] = {k: v for k, v in part["image_metrics"].items() if k in like["image_metrics"]}
    if like["metrics"]["against_clean"] is None:  # against an expert it measured nothing else, nor judged by it
        part["metrics"] = {**part["metrics"], "against_clean": None}
        del part["verdicts"]
    return part
