"""What the user asked for, and the same with every input read and checked against each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack
from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.outcome import Step
from perturbox.defenses import defend
from perturbox.judge.noise import scan_noise
from perturbox.judge.units import NATIVE, SIGMA, check_unit, one_of, ones_of, require_room_for_a_step
from perturbox.load import load_victim
from perturbox.model.defended import Defended, require_attackable
from perturbox.model.gradient import require_gradient
from perturbox.model.victim import Victim
from perturbox.types import Case, Effort, InputError, Volume


@dataclass(frozen=True)
class Job:
    """What the user asked for. Paths are local, all else is recorded in result.json.

    eps, steps: None if the user gave none, see `Recipe.limit` and `Recipe.steps`. eps_unit: what eps is in, of
    `defaults.UNITS`; settings of the attack are always in the scan's own unit. surrogate: models to craft the attack
    on; the victim is then asked for its predictions alone. trust: run what a model's files bring along.
    allow_cut_gradient: follow gradients although the model cuts them. defense: filters before the victim, the first
    nearest to the scan, as in "bit-depth:bits=3".
    """

    image: str
    victim: str = "ct-organs"
    attack: str = recipes.DEFAULT
    eps: float | None = None
    eps_unit: str = NATIVE
    norm: str = "linf"
    steps: int | None = None
    goal: str = "change"
    target: tuple[str, ...] = ()
    label: str | None = None
    label_map: str | None = None
    roi: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    force: bool = False
    surrogate: tuple[str, ...] = ()
    trust: bool = False
    allow_cut_gradient: bool = False
    defense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("target", "surrogate", "defense"):  # JSON knows no tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Ready:
    """A job whose every input was read and checked.

    expert: the expert's label map "*s" in the victim's values; outlined: names of the structures it says anything
    about; both None without one. others: scans a universal attack is crafted on. one: what 1 of the limit's unit is in
    the scan's own; ones: of each channel where these are files of their own, and the limit then stays in its unit.
    segmented: the clean prediction, and what it cost, where the limit needed it.
    """

    job: Job
    victim: Victim
    image: Volume
    goal: Goal
    expert: np.ndarray | None
    outlined: tuple[str, ...] | None
    roi: np.ndarray | None
    built: recipes.Built
    warnings: list[str]
    source_sha256: str
    surrogates: tuple[Victim, ...] = ()
    others: tuple[Volume, ...] = ()
    one: float = 1.0
    ones: tuple[float, ...] = ()
    segmented: tuple[np.ndarray, Effort] | None = None

    @cached_property
    def crafted_on_sha256(self) -> list[str]:
        """Hashes of the files a universal attack is crafted on."""
        return [io.digest(io.sources(path)) for path in self.built.crafted_on]

    @property
    def surrogates_told(self) -> list[dict[str, str]]:
        """The surrogates as records name them."""
        pairs = zip(self.surrogates, self.job.surrogate, strict=True)
        return [{"name": model.name, "spec": spec, "sha256": model.sha256} for model, spec in pairs]

    @cached_property
    def scan(self) -> Volume:
        """The scan as the limit counts it: `image`, or each of its channels in the limit's unit."""
        return self.counted(self.image)

    def counted(self, image: Volume) -> Volume:
        """A scan's channels as the limit counts them."""
        return image.in_units(self.ones, self.job.eps_unit)

    @property
    def recipe(self) -> recipes.Recipe:
        return self.built.recipe

    @property
    def attack(self) -> Attack:
        return self.built.attack

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the attack: everything a replay needs."""
        return self.built.parameters

    @property
    def eps(self) -> float | None:
        """The limit of the change; None where nothing but the attack's own budget limits it."""
        return self.built.attack.limit

    def without_defenses(self) -> "Ready":
        """The same job on the model alone."""
        return replace(self, job=replace(self.job, defense=()), victim=self.victim.plain)

    def clean_prediction(self, effort: Effort) -> np.ndarray:
        """The victim's label map of the scan, without its defences; what it costs, or has cost, is added to
        `effort`."""
        if self.segmented is None:
            return self.victim.plain.predict(self.image, effort)
        labels, spent = self.segmented
        effort.add(spent)
        return labels

    def reference(self, clean_seg: np.ndarray) -> np.ndarray:
        """The label map an attack leads away from: the clean prediction, or the expert's outlines on top of it.

        An outline of some structures says nothing of the rest, so the prediction of those stands where it has nothing.
        """
        if self.expert is None or self.outlined is None:
            return clean_seg
        rest = [value for name, value in self.victim.structures.items() if name not in self.outlined]
        return np.where((self.expert == 0) & np.isin(clean_seg, rest), clean_seg, self.expert)

    def present_goal(self, clean_seg: np.ndarray) -> Goal:
        """The goal on what the scan holds; raises InputError as `present_targets`."""
        return present_targets(self.goal, clean_seg, self.victim, self.job.target, self.expert)


@dataclass
class Listener:
    """Where a job tells how it goes: say(sentence), step(Step), count(what, done, in all) of equal parts; and where it
    asks whether to stop."""

    say: Callable[[str], None] = lambda text: None
    step: Callable[[Step], None] = lambda step: None
    stop: Callable[[], bool] = lambda: False
    count: Callable[[str, int, int], None] = lambda what, done, total: None


def prepare(
    job: Job, image: Volume | None = None, victim: Victim | None = None, listener: Listener | None = None
) -> Ready:
    """Read and check everything a job needs; `image` and `victim` stand in for what the job names where the caller has
    loaded them already, `listener` is told before the model computes.

    Raises InputError for any input that can't be used.
    """
    say = (listener or Listener()).say
    recipe = recipes.get(job.attack)
    check_unit(job.eps_unit, job.eps, job.norm)
    built = recipe.build(job.eps, job.norm, job.steps, job.settings, local=True)
    eps, one, segmented = recipe.limit(job.eps), 1.0, None
    victim, image, warnings, digest = load_inputs(job, image, victim)
    if image.dims not in recipe.dims:
        raise InputError(
            f"{recipe.name} works on {' and '.join(f'{d}D' for d in recipe.dims)} images, this one is {image.dims}D."
        )
    goal = Goal.parse(job.goal, job.target, victim.labels)
    expert = read_expert(job.label, job.label_map, image, victim, warnings) if job.label else None
    outlined = None if expert is None else outlined_by(expert, job.label_map, victim)
    roi = io.read_mask(job.roi, image, warnings) if job.roi else None
    ones: tuple[float, ...] = ()
    if job.eps_unit != NATIVE and eps is not None:
        noise, apart = None, bool(image.files)
        if job.eps_unit == SIGMA:
            say("Measuring the scan's noise")
            effort = Effort()
            segmented = victim.plain.predict(image, effort), effort
            noise = scan_noise(image.data, segmented[0], victim.labels, image.ruler, image.sizes, apart)
        if apart:
            ones = ones_of(job.eps_unit, image, noise)
        else:
            one = one_of(job.eps_unit, image, noise)
            eps *= one
            built = recipe.build(eps, job.norm, job.steps, job.settings, local=True)
    scan = image.in_units(ones, job.eps_unit)
    Budget.of(Case(scan, roi=roi), eps, job.norm)  # type: ignore[arg-type]  # refuses impossible budgets early
    if eps is not None and job.norm == "linf":
        for number, part in enumerate(image.split()):
            each = ones[number] if ones else one
            require_room_for_a_step(eps * each if ones else eps, part, job.eps_unit, each)
    surrogates = tuple(load_victim(spec, job.device, job.trust) for spec in job.surrogate)
    if isinstance(victim, Defended):
        say("Looking whether the defence can be attacked")
        require_attackable(victim, image)
    for model in surrogates or (victim,):
        model.on(image)
        built.check(model, image)
        if all(leaf.uses_gradient for leaf in built.attack.leaves()) and not job.allow_cut_gradient:
            say("Looking whether a gradient reaches the scan")
            require_gradient(model, image)
    others = scans_to_craft_on(built, victim, image, job.seed)
    for scan in others:
        for model in surrogates or (victim,):
            model.on(scan)
    if job.steps not in (None, steps := built.parameters["steps"]):
        warnings.append(f"{recipe.name} always takes {steps} step; --steps {job.steps} was not used.")
    return Ready(
        job,
        victim,
        image,
        goal,
        expert,
        outlined,
        roi,
        built,
        warnings,
        digest,
        surrogates,
        others,
        one,
        ones,
        segmented,
    )


def scans_to_craft_on(built: recipes.Built, victim: Victim, image: Volume, seed: int) -> tuple[Volume, ...]:
    """The scans of a universal attack, read or made; raises InputError where the case is one of them, or where they are
    of another kind than the case."""
    make_scans = built.recipe.make_scans
    channels = None if make_scans else victim.channels
    read = [io.read_scan(path, unit=victim.unit, channels=channels) for path in built.crafted_on]
    for path, scan in zip(built.crafted_on, read, strict=True):
        if np.array_equal(scan.data, image.data):
            raise InputError(
                f"{path} is the scan that {built.recipe.name} is to be tried on; leave it out: what is crafted on "
                "a scan says nothing of how it does on others."
            )
    if make_scans:
        return tuple(make_scans(victim, image, read, torch.Generator().manual_seed(seed), built.parameters))
    for path, scan in zip(built.crafted_on, read, strict=True):
        if scan.dims != image.dims:
            raise InputError(
                f"{path} is {scan.dims}D and the scan to attack {image.dims}D; craft on scans of its kind."
            )
    return tuple(read)


def load_inputs(
    job: Job, image: Volume | None = None, victim: Victim | None = None
) -> tuple[Victim, Volume, list[str], str]:
    """(victim, scan, warnings, SHA-256 of the scan's file or "") of a job, checked against each other."""
    victim = behind_defenses(victim or load_victim(job.victim, job.device, job.trust), job)
    digest = ""
    if image is None:
        image = io.read_scan(job.image, unit=victim.unit, channels=victim.channels)
        digest = io.digest(io.sources(job.image))
    warnings = [*image.notes, *(io.check_hu(image, job.force) if victim.unit == "HU" else [])]
    victim.on(image)  # refuses other dimensions and channels
    return victim, image, warnings, digest


def behind_defenses(victim: Victim, job: Job) -> Victim:
    """The job's model behind the job's defences, unless it stands behind some already."""
    return defend(victim, *job.defense) if job.defense and not isinstance(victim, Defended) else victim


def read_expert(
    path: str, label_map: str | None, image: Volume, victim: Victim, notes: list[str] | None = None
) -> np.ndarray:
    """A reference label map in the victim's values; label_map "liver=5,bone=25+26" says which values of the file are
    which structure. notes: as in `io.read_labels`."""
    if label_map is None:
        return io.read_labels(path, image, set(victim.labels.values()), notes)
    raw = io.read_labels(path, image, notes=notes)
    mapped = np.zeros_like(raw)
    for part in label_map.split(","):
        name, equals, values = part.partition("=")
        try:
            numbers = [int(value) for value in values.split("+")]
        except ValueError:
            numbers = []
        if not equals or not numbers:
            raise InputError(f"'{part}' in --label-map isn't understood; write liver=5,bone=25+26.")
        if name not in victim.structures:
            raise InputError(
                f"--label-map names '{name}', which {victim.name} doesn't know; it has {', '.join(victim.structures)}."
            )
        mapped[np.isin(raw, numbers)] = victim.labels[name]
    return mapped


def outlined_by(expert: np.ndarray, label_map: str | None, victim: Victim) -> tuple[str, ...]:
    """Names of the structures an expert's label map "*s" (in the victim's values) says anything about: those it holds,
    and those that label_map names, for there the expert looked and found none."""
    held, named = set(np.unique(expert).tolist()), named_in(label_map)
    return tuple(name for name, value in victim.structures.items() if value in held or name in named)


def named_in(label_map: str | None) -> set[str]:
    """The structures that a label map "liver=5,bone=25+26" names."""
    return {part.partition("=")[0] for part in label_map.split(",")} if label_map else set()


def present_targets(
    goal: Goal, clean_seg: np.ndarray, victim: Victim, named: tuple[str, ...], expert: np.ndarray | None = None
) -> Goal:
    """The goal on the structures this scan holds, by the expert's label map if there is one, else by the clean
    prediction; raises InputError where a named one is missing or none is there."""
    found = goal.present(clean_seg if expert is None else expert)
    names = {value: name for name, value in victim.labels.items()}
    missing = [names[value] for value in goal.targets if value not in found.targets]
    if found.targets and not (named and missing):
        return found
    if expert is not None:
        lacks = f"has no {' and no '.join(missing)}" if named else f"holds none of {', '.join(victim.structures)}"
        held = [name for name in missing if (clean_seg == victim.labels[name]).any()]
        model = f", though the model found {' and '.join(held)}" if held else ""
        raise InputError(
            f"The label {lacks}{model}; check what its values mean (--label-map), choose structures that it outlines, "
            "or leave --label out to compare with the model's own clean prediction."
        )
    if named:
        raise InputError(f"The model found no {' and no '.join(missing)} in this scan; choose other structures.")
    raise InputError("The model found none of its structures in this scan; is it the right body part and model?")
