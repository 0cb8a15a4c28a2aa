"""Scoring "robustness": how much of each case's segmentation is left after the worst of the white-box attacks."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib import backend, forms
from perturbox import recipes
from perturbox.jobs import Order, Refused
from perturbox.types import InputError

logger = logging.getLogger(__name__)
KEY = "robustness"
EPS, STEPS = 4.0, 10
SETTINGS = ("eps", "steps", "seed", "device")
NORM = "linf"


class Robustness(ScoringMethod):
    """Attacks every image with every white-box recipe and writes the worst Dice into the image's entry as
    {"robustness": {...}}. Images that come from an attack are never scored."""

    def __init__(self):
        super().__init__(
            "Worst Dice of each case over the white-box attacks, against the model's own prediction. "
            f"Settings: victim, eps ({EPS:g} HU), steps ({STEPS}), seed, device."
        )

    def __call__(self, request, datastore):
        victim = str(request.get("victim") or next(iter(backend.victims)))
        if victim not in backend.victims:
            raise InputError(f"This server has no victim '{victim}'; it serves {', '.join(backend.victims)}.")
        chosen = {key: request[key] for key in SETTINGS if key in request}
        settings = {"eps": EPS, "steps": STEPS, "norm": NORM} | chosen
        settings["eps"] = forms.number("eps", settings["eps"])
        settings["steps"] = forms.whole("steps", settings["steps"])
        images = [image for image in sorted(datastore.list_images()) if not backend.is_adversarial(datastore, image)]
        scores = {}
        for number, image in enumerate(images, 1):
            scores[image] = score(victim, image, datastore.get_image_uri(image), settings)
            datastore.update_image_info(image, {KEY: scores[image]})
            logger.info(f"{KEY}: image {number} of {len(images)}")
        return scores


def score(victim: str, image: str, path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One case: {"worst_dice", "attack" that did it, "dice" by attack and structure, "eps", "steps", "victim"}, or
    "worst_dice" null and the "problem" where the case could not be attacked."""
    here = backend.current()
    dice: dict[str, dict[str, float]] = {}
    told = {"victim": victim, "eps": settings["eps"], "steps": settings["steps"], "reference": "clean_prediction"}
    for recipe in white_box():
        order = backend.order_for(f"{victim}-{recipe.name}", settings, path, image, client="scoring")
        try:
            dice[recipe.name] = adversarial_dice(here, order)
        except (InputError, Refused, backend.Unfinished) as problem:
            return {**told, "worst_dice": None, "attack": None, "dice": dice, "problem": str(problem)}
    means = {name: math.fsum(found.values()) / len(found) for name, found in dice.items()}
    worst = min(means, key=lambda name: means[name])
    return {**told, "worst_dice": means[worst], "attack": worst, "dice": dice}


def adversarial_dice(here: backend.Backend, order: Order) -> dict[str, float]:
    """Dice of each structure that the reference holds, after the attack."""
    _, folder = here.run(order)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    finally:
        here.forget(folder)
    clean, attacked = result["metrics"]["clean"], result["metrics"]["adversarial"]
    return {
        name: attacked[name]["dice"]
        for name in attacked
        if clean[name]["dice"] is not None and attacked[name]["dice"] is not None
    }


def white_box() -> list[recipes.Recipe]:
    """Those that a common limit compares: white-box attacks within eps, none with a budget of its own."""
    found = recipes.discover().values()
    return [recipe for recipe in found if recipe.access == "white" and recipe.own is None and NORM in recipe.norms]


def methods() -> dict[str, ScoringMethod]:
    return {KEY: Robustness()}
