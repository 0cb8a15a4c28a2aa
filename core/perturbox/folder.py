"""Result folders after the fact: read one back, verify every number in it, replay it."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbox import io, recipes
from perturbox.attack import own_draw
from perturbox.goals import Goal
from perturbox.io.files import require_new_folder
from perturbox.job import Job, Listener, execute, prepare, present_targets
from perturbox.load import load_victim
from perturbox.measure import measure
from perturbox.metrics import broken_by, to_json
from perturbox.record import file_of, read_record, required_file
from perturbox.types import Case, InputError, Volume
from perturbox.victim import Victim

# Parts of result.json that the files determine; the rest is a record of how they came about.
VERIFIED = ("reference", "budget", "noise", "metrics", "verdicts", "success", "control", "slices")


def read_scans(folder: Path, result: Mapping[str, Any]) -> tuple[Volume, Volume]:
    """(clean, adversarial): the clean scan is the adversarial one minus the perturbation, exactly."""
    unit = result["source"]["unit"]
    adversarial = io.read_volume(required_file(folder, result, "adversarial"), unit=unit)
    delta = io.read_volume(required_file(folder, result, "perturbation"), unit=unit, allow_constant=True)
    data = adversarial.data.astype(np.float64) - delta.data
    return adversarial.with_data(data.astype(adversarial.data.dtype)), adversarial


def verify(folder: Path, listener: Listener | None = None, victim: Victim | None = None) -> list[str]:
    """Recompute every number of result.json from the saved files; returns a line per number that differs.

    Integers, words and counts must be equal; measured floats may differ by 1e-6, as other hardware sums in another
    order.
    Raises InputError where files are missing or the victim's weights are not those of the result.
    """
    listener = listener or Listener()
    if (folder / "margin.json").is_file():
        return _verify_margin(folder, listener, victim)
    result = read_record(folder)
    clean, adversarial = read_scans(folder, result)
    victim = victim or load_victim(result["victim"]["spec"], result["device"])
    if victim.sha256 != result["victim"]["sha256"]:
        raise InputError(
            f"'{victim.name}' has other weights here than when this result was made; use the same version."
        )
    torch.set_num_threads(result["threads"])
    parameters = result["attack"]["parameters"]
    expert, roi = file_of(folder, result, "reference_seg"), file_of(folder, result, "roi")
    expert = io.read_labels(expert, clean) if expert else None
    roi = io.read_mask(roi, clean) if roi else None
    clean_seg = victim.predict(clean)
    goal = Goal.parse(parameters["goal"], parameters["target"], victim.labels)
    goal = present_targets(goal, clean_seg if expert is None else expert, victim, tuple(parameters["target"]))
    job = job_of(result)
    built = recipes.get(job.attack).build(parameters["eps"], job.norm, job.steps, job.settings, local=True)
    measured = measure(
        clean,
        adversarial,
        victim,
        goal,
        eps=parameters["eps"],
        norm=parameters["norm"],
        expert=expert,
        roi=roi,
        seed=result["seed"],
        clean_seg=clean_seg,
        own_draw=own_draw(built, Case(clean, roi=roi), victim),
        untested=result["untested"],
        say=listener.say,
    )
    problems = []
    for key, found in (("clean_seg", measured.clean_seg), ("adversarial_seg", measured.adversarial_seg)):
        file = required_file(folder, result, key)
        stored = io.read_labels(file, clean)
        if not np.array_equal(stored, found):
            problems.append(f"{file.name}: {int((stored != found).sum())} voxels differ from the model's prediction")
    numbers = to_json(measured.numbers)
    assert isinstance(numbers, dict)
    for key in VERIFIED:
        problems += differences(result[key], numbers[key], key)
    images = {name: value for name, value in result["image_metrics"].items() if name in numbers["image_metrics"]}
    return problems + list(differences(images, numbers["image_metrics"], "image_metrics"))


def _verify_margin(folder: Path, listener: Listener, victim: Victim | None) -> list[str]:
    """As `verify`, for the folder of a search for the margin: every file that is said to break a structure must do so,
    at the largest change that is reported, and repeat what the search found."""
    margin = json.loads((folder / "margin.json").read_text(encoding="utf-8"))
    problems: list[str] = []
    checked: set[str] = set()
    for name, row in margin["structures"].items():
        witness = row["witness"]
        if witness is None:
            if row["breaks_at"] is not None:
                problems.append(f"structures.{name}: breaks_at has no file that shows it")
            continue
        if witness not in checked:
            checked.add(witness)
            listener.say(f"Verifying {witness}")
            problems += [f"{witness}: {line}" for line in verify(folder / witness, listener, victim)]
            repeated = read_record(folder / witness).get("margin")
            problems += differences(repeated, margin["structures"], f"{witness}: margin")
        result = read_record(folder / witness)
        found = result["budget"]["measured"]["linf"]
        limit = broken_by(result["metrics"]["clean"][name], result["metrics"]["adversarial"][name])
        problems += differences(row["breaks_at"], found, f"structures.{name}.breaks_at")
        problems += differences(row["limit"], limit, f"structures.{name}.limit")
    return problems


def differences(stored: Any, found: Any, place: str) -> Iterator[str]:
    """One line for every leaf where two JSON values differ by more than rounding."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in sorted(stored.keys() | found.keys()):
            yield from differences(stored.get(key), found.get(key), f"{place}.{key}")
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for index, (a, b) in enumerate(zip(stored, found, strict=True)):
            yield from differences(a, b, f"{place}[{index}]")
    elif isinstance(stored, float) and isinstance(found, float):
        if abs(stored - found) > 1e-6 * max(1.0, abs(stored), abs(found)):
            yield f"{place}: result.json says {stored:g}, the files say {found:g}"
    elif stored != found:
        yield f"{place}: result.json says {stored!r}, the files say {found!r}"


def replay(folder: Path, out: Path, listener: Listener | None = None) -> dict[str, Any]:
    """Repeat the attack a result folder records, from the folder alone, into a new one."""
    require_new_folder(out)
    result = read_record(folder)
    if not result["replayable"]:
        raise InputError(f"'{folder}' is one find of a search for the margin; run `perturbox margin` again instead.")
    clean, _ = read_scans(folder, result)
    changes = {
        key: str(file)
        for key, name in (("label", "reference_seg"), ("roi", "roi"))
        if (file := file_of(folder, result, name))
    }
    job: Job = job_of(result, **changes)
    torch.set_num_threads(result["threads"])
    ready = prepare(job, clean)
    for model, then in zip(ready.surrogates, result["surrogates"], strict=True):
        if model.sha256 != then["sha256"]:
            raise InputError(f"The surrogate '{model.name}' has other weights here than then; use the same version.")
    if [{"sha256": digest} for digest in ready.crafted_on_sha256] != result.get("crafted_on", []):
        raise InputError("The scans the attack was crafted on hold something else than then; restore them.")
    return execute(ready, out, listener or Listener())


def job_of(result: Mapping[str, Any], **changes: Any) -> Job:
    """The job a result.json records, without its files."""
    parameters = dict(result["attack"]["parameters"])
    recipe = recipes.get(result["attack"]["name"])
    settings = {entry["name"]: parameters[entry["name"]] for entry in recipe.parameters if entry["name"] in parameters}
    return dataclasses.replace(
        Job(
            image="",
            victim=result["victim"]["spec"],
            attack=recipe.name,
            eps=Job.eps if parameters["eps"] is None else parameters["eps"],
            capped=parameters["eps"] is not None,
            norm=parameters["norm"],
            steps=parameters["steps"],
            goal=parameters["goal"],
            target=tuple(parameters["target"]),
            settings=settings,
            seed=result["seed"],
            device=result["device"],
            force=result["force"],
            surrogate=tuple(model["spec"] for model in result["surrogates"]),
        ),
        **changes,
    )
