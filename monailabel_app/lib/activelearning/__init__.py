"""Which case to label next. No strategy ever offers the outcome of an attack as if it were a patient."""

import random
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from lib import backend
from lib.scoring import KEY


class MostFragile(Strategy):
    """Cases without a final label: first those not yet scored, then by rising worst-case Dice."""

    def __init__(self):
        super().__init__(
            "Most fragile first: lowest score of the method 'robustness'; cases not scored yet come before"
        )

    def __call__(self, request, datastore) -> dict[str, Any] | None:
        images = waiting(request, datastore)
        if not images:
            return None
        worst = {image: worst_dice(datastore, image) for image in images}
        image = min(images, key=lambda image: (worst[image] is not None, worst[image] or 0.0, image))
        found = worst[image]
        if found is None:
            problem = scored(datastore, image).get("problem")
            why = f"could not be scored: {problem}" if problem else "not scored yet"
        else:
            why = f"worst-case Dice {found:.3f}, the lowest of {len(images)} cases"
        return {"id": image, "worst_dice": found, "why": why}


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
    """Images without a final label, those that an attack left excepted."""
    images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
    return [image for image in images if not backend.is_adversarial(datastore, image)]


def worst_dice(datastore, image: str) -> float | None:
    """The case's score; None where there is none, or where it could not be attacked."""
    return scored(datastore, image).get("worst_dice")


def scored(datastore, image: str) -> dict[str, Any]:
    """What the scoring method wrote of a case; empty where it wasn't scored."""
    return datastore.get_image_info(image).get(KEY) or {}


def strategies() -> dict[str, Strategy]:
    # MONAI Label takes "random" where a client names none.
    return {"most_fragile": MostFragile(), "first": FirstCase(), "random": AnyCase()}
