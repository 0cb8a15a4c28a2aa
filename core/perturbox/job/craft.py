"""From a prepared job to what its attack found; on a model behind defences, with and without knowledge of them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbox.attacks.attack import Attack
from perturbox.attacks.goals import Goal
from perturbox.attacks.outcome import Facing, Outcome
from perturbox.attacks.runner import run
from perturbox.job.inputs import Listener, Ready
from perturbox.model.defended import Defended, behind
from perturbox.model.victim import BoundVictim, Victim
from perturbox.types import Case, Effort, Volume

VALUES_ALONE = "none, values alone"  # what stands in for a defence where an attack asks for no gradient


def craft(ready: Ready, effort: Effort, listener: Listener) -> tuple[Goal, Outcome, np.ndarray]:
    """The goal on this scan, what the attack found, and the clean prediction, of a defended model without its
    defences."""
    listener.say("Segmenting the original scan")
    clean_seg = ready.clean_prediction(effort)
    reference, goal = ready.reference(clean_seg), ready.present_goal(clean_seg)
    if isinstance(ready.victim, Defended):
        return goal, _against(ready, ready.victim, reference, clean_seg, goal, effort, listener), clean_seg
    listener.say(f"Attacking with {ready.recipe.title}")
    return goal, _attacked(ready, ready.victim, ready.surrogates, reference, goal, effort, listener), clean_seg


def _attacked(
    ready: Ready,
    victim: Victim,
    surrogates: tuple[Victim, ...],
    reference: np.ndarray,
    goal: Goal,
    effort: Effort,
    listener: Listener,
) -> Outcome:
    scan = ready.scan
    return run(
        ready.attack,
        victim.on(scan, effort),
        Case(scan, ready.expert, ready.roi),
        reference,
        goal,
        seed=ready.job.seed,
        surrogates=[model.on(scan, effort) for model in surrogates],
        others=[ready.counted(other) for other in ready.others],
        on_step=listener.step,
        stop=listener.stop,
    )


@dataclass(frozen=True)
class Through:
    """stand_in: through which one an attack on a defended model found its worst; tried: see `Facing`."""

    stand_in: str
    tried: list[dict[str, Any]]


def adaptive(ready: Ready, effort: Effort, listener: Listener) -> tuple[Outcome, Through]:
    """What the attack on a defended model found that knows of its defences, without the one beside it that doesn't."""
    assert isinstance(ready.victim, Defended)
    clean_seg = ready.clean_prediction(effort)
    reference, goal = ready.reference(clean_seg), ready.present_goal(clean_seg)
    return _through(ready, ready.victim, reference, clean_seg, goal, effort, listener)


def _against(
    ready: Ready,
    victim: Defended,
    reference: np.ndarray,
    clean_seg: np.ndarray,
    goal: Goal,
    effort: Effort,
    listener: Listener,
) -> Outcome:
    """The worst of the attacks through the defences, and beside it the one that knew of none, which is no candidate."""
    listener.say(f"Attacking {victim.plain.name} without its defence, with {ready.recipe.title}")
    oblivious = _attacked(ready, victim.plain, ready.surrogates, reference, goal, effort, listener)
    outcome, through = _through(ready, victim, reference, clean_seg, goal, effort, listener)
    return dataclasses.replace(outcome, facing=Facing(through.stand_in, through.tried, oblivious))


def _through(
    ready: Ready,
    victim: Defended,
    reference: np.ndarray,
    clean_seg: np.ndarray,
    goal: Goal,
    effort: Effort,
    listener: Listener,
) -> tuple[Outcome, Through]:
    """The worst of the attacks through the defences, one per candidate that these declare, by what the saved file will
    do."""
    title, names = ready.recipe.title, stand_ins(victim, ready.attack)
    tried, found = [], []
    for index, name in enumerate(names):
        if found and found[-1].stopped is not None:
            break
        listener.say(f"Attacking through the defence with {title} (stand-in: {name})")
        spent, seed = Effort(), ready.job.seed
        surrogates = tuple(behind(model, victim.chain).facing(index, seed) for model in ready.surrogates)
        outcome = _attacked(ready, victim.facing(index, seed), surrogates, reference, goal, spent, listener)
        labels, _ = victim.look(perturbed(ready, outcome), spent).against(clean_seg)
        effort.add(spent)
        score = goal.score(labels, reference)
        cost = {"forwards": spent.forwards, "backwards": spent.backwards, "draws": victim.draws}
        tried.append({"stand_in": name, "score": score, **cost})
        found.append(outcome)
    threshold = goal.threshold * (goal.score(clean_seg, reference) if goal.kind == "change" else 1.0)

    def rank(index: int) -> tuple[bool, float]:
        """Lower is worse for the model: the score, or where not the worst is sought the size of what is enough."""
        score = tried[index]["score"]
        if ready.attack.keep == "worst" or score > threshold:
            return ready.attack.keep != "worst", score
        return False, float(np.abs(found[index].delta).max())

    best = min(range(len(tried)), key=rank)
    return dataclasses.replace(found[best], stopped=found[-1].stopped), Through(tried[best]["stand_in"], tried)


@dataclass(frozen=True, eq=False)
class Way:
    """A model as an attack climbs it. stand_in: what its gradient passes in the defences' place, None without any."""

    bound: BoundVictim
    surrogates: list[BoundVictim]
    stand_in: str | None


def ways(ready: Ready, effort: Effort) -> Iterator[Way]:
    """The prepared job's model as attacks climb it that know its defences: one way for each stand-in."""
    victim, scan = ready.victim, ready.scan
    if not isinstance(victim, Defended):
        yield Way(victim.on(scan, effort), [model.on(scan, effort) for model in ready.surrogates], None)
        return
    for index, name in enumerate(stand_ins(victim, ready.attack)):
        surrogates = [behind(model, victim.chain).facing(index, ready.job.seed) for model in ready.surrogates]
        bound = victim.facing(index, ready.job.seed).on(scan, effort)
        yield Way(bound, [model.on(scan, effort) for model in surrogates], name)


def beside_oblivious(
    ready: Ready,
    goal: Goal,
    outcome: Outcome,
    stand_in: str | None,
    tried: Sequence[Mapping[str, Any]],
    clean_seg: np.ndarray,
    listener: Listener,
) -> Outcome:
    """What an attack through the defences found, by one of the stand-ins that were tried, with what the same attack
    finds that doesn't know of them; tried: see `Facing`."""
    listener.say("Attacking without knowledge of the defence")
    oblivious = _attacked(ready, ready.victim.plain, ready.surrogates, clean_seg, goal, Effort(), listener)
    return dataclasses.replace(outcome, facing=Facing(str(stand_in), [dict(one) for one in tried], oblivious))


def stand_ins(victim: Defended, attack: Attack) -> tuple[str, ...]:
    """What stands in for the defences in the attacks that are tried, one after another."""
    return victim.candidates if attack.uses_gradient else (VALUES_ALONE,)


def perturbed(ready: Ready, outcome: Outcome) -> Volume:
    """The perturbed scan as its files will hold it."""
    image, data = ready.image, outcome.x_adv
    if ready.ones:  # back to the files' own unit, where what didn't change is as it was
        change = outcome.delta * image.by_channel(ready.ones)
        data = image.as_saved((image.data + change).astype(image.data.dtype))
    return image.with_data(data.astype(image.data.dtype))
