"""A model behind defences beside the same without them: what is measured on both attacks, and what that can't carry."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from perturbox.judge import metrics, summary
from perturbox.model.victim import Victim
from perturbox.types import Effort, Volume

MASKING = 0.01  # of mean Dice, by which an adaptive attack may stay behind the oblivious one


def dice_behind(
    victim: Victim,
    clean: Volume,
    oblivious: Volume,
    clean_seg: np.ndarray,
    adaptive_seg: np.ndarray,
    references: Mapping[str, np.ndarray],
    effort: Effort | None,
    say: Callable[[str], None],
) -> dict[str, dict[str, float | None]]:
    """Dice of each structure with the reference: of the defended model on the clean scan, on what the oblivious attack
    made ("oblivious") and on what the one through the defence made ("adaptive"); of the undefended model on what was
    made for it ("undefended")."""
    say("Segmenting without an attack, and what the attack made that didn't know of the defence")
    looks = {
        "clean": victim.look(clean, effort),
        "undefended": victim.plain.look(oblivious, effort),
        "oblivious": victim.look(oblivious, effort),
    }
    labels = {name: found.against(clean_seg)[0] for name, found in looks.items()} | {"adaptive": adaptive_seg}
    return {
        which: {
            name: metrics.dice(found == value, references[name] == value) for name, value in victim.structures.items()
        }
        for which, found in labels.items()
    }


def about_defense(result: Mapping[str, Any]) -> Iterator[str]:
    """An attack that knows the defence, came to its end and does less than one that doesn't has been misled by it."""
    if "defense" not in result or result["stopped_early"]:
        return
    mean = summary.defense_means(result)
    if None not in mean.values() and mean["adaptive"] > mean["oblivious"] + MASKING:  # type: ignore[operator]
        yield (
            f"Masking? The attack through the defence leaves mean Dice {mean['adaptive']:.2f}, the one that doesn't "
            f"know of it {mean['oblivious']:.2f}: the defence hides the gradient from this attack and isn't tested by "
            "it; give more steps, or other stand-ins."
        )
