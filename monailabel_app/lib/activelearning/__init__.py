"""Which case to label next. No strategy ever offers the outcome of an attack as if it were a patient."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from lib import backend, forms
from lib.labels import FINAL, named
from lib.scoring import KEY


class MostFragile(Strategy):
    """Cases without a final label: those never tried, then by rising worst-case Dice, those that can't be scored last.

    Scores are compared where victim and settings were the same: those of the latest scoring, unless the request says
    others; what was scored otherwise counts as not tried.
    """

    def __init__(self):
        super().__init__(
            "Most fragile first: lowest score of the method 'robustness' at the same victim, eps and steps; cases not "
            "scored yet come before, those that can't be scored last"
        )

    def __call__(self, request, datastore) -> dict[str, Any] | None:
        images = waiting(request, datastore)
        if not images:
            return None
        found = {image: scored(datastore, image) for image in images}
        same = setting(request, found.values())
        alike = {image: score if settings_of(score) == same else {} for image, score in found.items()}

        def place(image: str) -> tuple[int, float, str]:
            score = alike[image]
            worst = score.get("worst_dice")
            return (0 if not score else 2 if worst is None else 1, worst or 0.0, image)

        image = min(images, key=place)
        score = alike[image]
        worst = score.get("worst_dice")
        if not score:
            why = "not scored yet" + (in_words(same).replace(" scored", "", 1) if found[image] else "")
        elif worst is None:
            why = f"could not be scored: {score.get('problem')} Nothing else is left."
        else:
            ranked = sum(other.get("worst_dice") is not None for other in alike.values())
            why = f"worst-case Dice {worst:.3f}, the lowest of {ranked} cases{in_words(same)}"
        return {"id": image, "worst_dice": worst, "why": why}


class AnyCase(Strategy):
    """A case without a final label, by chance."""

    def __init__(self):
        super().__init__("Any case without a final label, by chance")

    def __call__(self, request, datastore) -> dict[str, Any] | None:
        images = waiting(request, datastore)
        return {"id": random.choice(images)} if images else None


class FirstCase(Strategy):
    """Cases without a final label, in the order of their names."""

    def __init__(self):
        super().__init__("The first case without a final label, by name")

    def __call__(self, request, datastore) -> dict[str, Any] | None:
        images = waiting(request, datastore)
        return {"id": min(images)} if images else None


def waiting(request, datastore) -> list[str]:
    """Images without a label, those that an attack left excepted: a final one, or one of the tag that the request names
    (`label_tag`), or one of those structures (`labels`)."""
    images = unlabelled(datastore, request.get("label_tag"), request.get("labels"))
    return [image for image in images if not backend.is_adversarial(datastore, image)]


def unlabelled(datastore, tag: str | None, names: list[str] | None) -> list[str]:
    """Images without a label of that tag, final if none is named, that names one of these structures."""
    tag, wanted = tag or FINAL, set([names] if isinstance(names, str) else names or [])
    if tag == FINAL and not wanted:
        return datastore.get_unlabeled_images()
    found = []
    for image in datastore.list_images():
        label = datastore.get_label_by_image_id(image, tag)
        known = named(datastore.get_label_info(image, tag)) if label else set()
        if not label or (wanted and not wanted & known):
            found.append(image)
    return found


def scored(datastore, image: str) -> dict[str, Any]:
    """What the scoring method wrote of a case; empty where it wasn't scored."""
    return datastore.get_image_info(image).get(KEY) or {}


Setting = tuple[str, float, int]
"""Victim, eps and steps of a score."""


def settings_of(score: Mapping[str, Any]) -> Setting | None:
    """How a case was scored; None where it wasn't."""
    if not score:
        return None
    return str(score.get("victim")), float(score.get("eps") or 0.0), int(score.get("steps") or 0)


def setting(request: Mapping[str, Any], scores: Iterable[Mapping[str, Any]]) -> Setting | None:
    """The settings whose scores are compared: the latest, of those that fit what the request says of them."""
    asked = {key: request[key] for key in ("victim", "eps", "steps") if request.get(key) not in (None, "", [])}
    fitting = [
        score
        for score in scores
        if score
        and all(
            str(score.get(key)) == str(value) if key == "victim" else score.get(key) == forms.number(key, value)
            for key, value in asked.items()
        )
    ]
    latest = max(fitting, key=lambda score: score.get("when") or 0.0, default=None)
    return None if latest is None else settings_of(latest)


def in_words(same: Setting | None) -> str:
    """ " scored with ct-organs at eps 4, 10 steps"; nothing of a score that doesn't say."""
    return f" scored with {same[0]} at eps {same[1]:g}, {same[2]} steps" if same and same[0] != "None" else ""


def strategies() -> dict[str, Strategy]:
    # MONAI Label takes "random" where a client names none.
    return {"most_fragile": MostFragile(), "first": FirstCase(), "random": AnyCase()}
