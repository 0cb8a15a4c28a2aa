"""Scoring "robustness": how much of each case's segmentation is left after the worst of an ensemble of attacks."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib import backend, forms, tasks
from lib.words import for_clients
from perturbox.jobs import Order, Refused
from perturbox.types import InputError

KEY = "robustness"
ATTACK = "ensemble"
EPS, STEPS = 4.0, 10
MEMBERS = "score on the network's grid while attacking; worst_dice is measured on the scan's own voxels"
SETTINGS = ("eps", "steps", "seed", "device")


class Robustness(ScoringMethod):
    """Attacks every image with the ensemble and writes the worst mean Dice into the image's entry as {"robustness":
    {...}}. Images that come from an attack are never scored."""

    def __init__(self):
        super().__init__(
            "Worst mean Dice of each case over an ensemble of white-box attacks, against the model's own prediction. "
            f"Settings: victim, eps ({EPS:g} HU), steps ({STEPS}), seed, device."
        )

    def __call__(self, request, datastore):
        victim = str(request.get("victim") or next(iter(backend.victims)))
        if victim not in backend.victims:
            raise InputError(f"This server has no victim '{victim}'; it serves {', '.join(backend.victims)}.")
        chosen = {key: request[key] for key in SETTINGS if key in request}
        settings = {"eps": EPS, "steps": STEPS} | chosen
        settings["eps"] = forms.number("eps", settings["eps"])
        settings["steps"] = forms.whole("steps", settings["steps"])
        images = [image for image in sorted(datastore.list_images()) if not backend.is_adversarial(datastore, image)]
        scores = {}
        for number, image in enumerate(images, 1):
            scores[image] = score(victim, image, datastore.get_image_uri(image), settings)
            datastore.update_image_info(image, {KEY: scores[image]})
            tasks.progress.info("Scored image %d of %d: %s", number, len(images), said(scores[image]))
        found = [score["worst_dice"] for score in scores.values() if score["worst_dice"] is not None]
        tasks.progress.info(
            "Scored %d of %d images%s", len(found), len(images), f", the lowest {min(found):.3f}" if found else ""
        )
        return scores


def said(score: Mapping[str, Any]) -> str:
    """A case's score in words that name nobody."""
    worst = score["worst_dice"]
    return "could not be attacked" if worst is None else f"worst-case Dice {worst:.3f}"


def score(victim: str, image: str, path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One case: {"worst_dice", "attack" that did it, "dice" by structure, "members" with what each one reached on the
    network's grid ("members_say"), "eps", "steps", "victim", "when"}, or "worst_dice" null and the "problem" where the
    case could not be attacked."""
    here = backend.current()
    told = {"victim": victim, "eps": settings["eps"], "steps": settings["steps"], "reference": "clean_prediction"}
    told["when"] = round(time.time(), 3)
    order = backend.order_for(f"{victim}-{ATTACK}", settings, path, image, client="scoring")
    try:
        result = outcome(here, order)
    except (InputError, Refused, backend.Unfinished) as problem:
        return failed(told, for_clients(str(problem)).replace(path, "The scan"))
    clean, attacked = result["metrics"]["clean"], result["metrics"]["adversarial"]
    dice = {name: row["dice"] for name, row in attacked.items() if None not in (row["dice"], clean[name]["dice"])}
    members = {member["name"]: member["score"] for member in result["members"]}
    if not dice:
        return failed(told, "The model finds nothing in this scan that an attack could change.")
    worst = math.fsum(dice.values()) / len(dice)
    return {
        **told,
        "worst_dice": worst,
        "attack": min(members, key=members.__getitem__),
        "dice": dice,
        "members": members,
        "members_say": MEMBERS,
    }


def failed(told: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """The score of a case that could not be attacked."""
    return {**told, "worst_dice": None, "attack": None, "dice": {}, "members": {}, "problem": problem}


def outcome(here: backend.Backend, order: Order) -> dict[str, Any]:
    """The record of a finished order."""
    _, folder = here.run(order)
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    finally:
        here.forget(folder)


def methods() -> dict[str, ScoringMethod]:
    return {KEY: Robustness()}
