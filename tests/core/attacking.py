"""Running any recipe on a small victim, for tests: what every attack must keep is checked in test_recipes.py, what its
paper says in a file of its own family."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import victims

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack
from perturbox.attacks.fitting import fit_features
from perturbox.attacks.goals import Goal
from perturbox.attacks.outcome import Outcome
from perturbox.attacks.recipes import Built
from perturbox.attacks.runner import run
from perturbox.detectors.fitting import fit_detector
from perturbox.model.victim import Victim
from perturbox.types import Case, Volume

RECIPES = [(name, norm) for name, recipe in recipes.discover().items() for norm in recipe.norms]
KNOWN = {name: {entry["name"] for entry in recipe.parameters} for name, recipe in recipes.discover().items()}
# Settings with which a recipe is quick on scans of a thousand voxels; each must leave it what it is.
QUICK: dict[str, dict] = {
    "alma-prox": {"rate": 0.02},
    "bias-field": {"distance": 8.0},
    "dag": {"gamma": 0.02},
    "lbfgs": {"stride": 0.05},
    "deformation": {"distance": 8.0},
    "patch": {"side": 10.0, "samples": 2, "shift": 2.0},
    "medis": {"boundary": 6.0, "refine": 1},
    "nes": {"pairs": 2},
    "pdpgd": {"first": 1e-4},
    "vafa": {"block": 4},
}


SCRATCH = tempfile.TemporaryDirectory(prefix="perturbox-tests-")


def prepared(name: str, image: Volume, victim: Victim) -> dict:
    """Settings without which a recipe refuses this victim: the file it must have been fitted to."""
    if name == "evade":
        return {"detector": str(a_detector(image, victim))}
    if name != "hfc":
        return {}
    file = Path(SCRATCH.name) / f"{victim.sha256}-{victim.dims}-{victim.regions is not None}.safetensors"
    if not file.is_file():
        fit_features(victim, [image], components=2, passes=3).write(file)
    return {"features": str(file)}


def a_detector(image: Volume, victim: Victim) -> Path:
    """A detector of this victim, fitted on scans of the same values in other places."""
    file = Path(SCRATCH.name) / f"{victim.sha256}-{victim.dims}-{'x'.join(map(str, image.data.shape))}.detector"
    if not file.is_file():
        rng = np.random.default_rng(0)
        shuffled = [image.with_data(rng.permuted(image.data.ravel()).reshape(image.data.shape)) for _ in range(10)]
        fit_detector(victim, "entropy", [lambda scan=scan: scan for scan in shuffled]).write(file)
    return file


def recipe_of(name: str, eps: float | None, norm: str = "linf", steps: int = 5, **settings) -> Built:
    """A recipe with these settings, and those that make it quick."""
    return recipes.get(name).build(eps, norm, steps, QUICK.get(name, {}) | settings, local=True)


def built(name: str, eps: float | None, norm: str = "linf", steps: int = 5, **settings) -> Attack:
    return recipe_of(name, eps, norm, steps, **settings).attack


def attacked(
    image: Volume,
    victim: Victim,
    name: str = "pgd",
    eps: float | None = 12.0,
    norm: str = "linf",
    steps: int = 4,
    **options,
) -> Outcome:
    """The outcome of a recipe against the clean prediction, or `reference`; options: settings of the recipe, roi, goal
    (a Goal), target, and what `run` takes."""
    settings = {key: options.pop(key) for key in list(options) if key in KNOWN[name]}
    settings = prepared(name, image, victim) | settings
    roi, goal = options.pop("roi", None), options.pop("goal", None)
    reference = options.pop("reference", None)
    goal = goal or Goal.parse("change", options.pop("target", ()), victim.labels)
    reference = victim.predict(image) if reference is None else reference
    made = recipe_of(name, eps, norm, steps, **settings)
    return run(made.attack, victim.on(image), Case(image, roi=roi), reference, goal, **options)


def outcome_of(
    attack: Attack, image: Volume, victim: Victim, reference: np.ndarray | None = None, **options
) -> Outcome:
    """What a composed attack finds for the goal 'change', from the victim's own prediction unless a reference is
    given."""
    goal = Goal.parse("change", (), victim.labels)
    reference = victim.predict(image) if reference is None else reference
    return run(attack, victim.on(image), Case(image), reference, goal, **options)


def live_score(victim: Victim, image: Volume, x_adv: np.ndarray, reference: np.ndarray, goal: Goal) -> float:
    """The score of a point on the network's grid, by inference without the runner."""
    bound = victim.on(image)
    with torch.no_grad():
        prediction = victim.decide(bound(torch.from_numpy(x_adv).float()[None]))
    return goal.score(prediction, bound.to_grid(reference))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def multi_label(dims: int = 3, **changes) -> Victim:
    """A victim with nested regions: everything, in it a core, in it a nucleus; three yes-or-no channels."""
    settings = {
        "name": "nested",
        "labels": {"background": 0, "rim": 1, "core": 2, "nucleus": 3},
        "regions": ((1, 2, 3), (2, 3), (3,)),
    }
    return victims.textured(dims, **(settings | changes))


def with_channels(channels: int, dims: int) -> Victim:
    """As `victims.textured`, for images of several channels."""
    conv = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(conv(channels, 8, 3, padding=1), torch.nn.Tanh(), conv(8, 3, 3, padding=1))
    return victims.textured(dims, network=network, channels=channels)


def channels_scan(channels: int, shape: tuple[int, ...], **changes) -> Volume:
    one = [victims.random_scan(shape, seed=seed, **changes) for seed in range(channels)]
    return one[0].with_data(np.concatenate([image.data for image in one]))
