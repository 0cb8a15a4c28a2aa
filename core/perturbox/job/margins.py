"""Robustness margin: the smallest limit at which an attack was found that breaks a structure, judged on the saved file.

The limit doubles from one storage step up to `max_eps`; one joint attack per limit bounds every structure at once.
Structures that held then get an attack of their own, and each gap between the largest limit that didn't break it and
the smallest that did is bisected on storage steps, warm-started from the smallest break known. An attack that seeks the
smallest change itself is asked for each structure at once; one made of several others is searched with each of them,
and the smallest break of all counts. A model behind defences is attacked through them, with every stand-in, and
searched without them too. What is reported is an upper bound ("<= 2"), the largest change measured in a file that does
break the structure; "> 32" means that nothing up to 32 was found, never that it is safe.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack, Composed
from perturbox.attacks.budget import middle_limit
from perturbox.attacks.goals import Goal
from perturbox.attacks.outcome import Outcome, Step
from perturbox.attacks.recipes import Built
from perturbox.attacks.runner import run
from perturbox.defaults import MAX_EPS
from perturbox.io.files import free_room, new_folder, require_new_folder, sha256
from perturbox.job.craft import beside_oblivious, ways
from perturbox.job.estimate import fitting
from perturbox.job.execute import conclude, reported, room, save, versions, write_adversarial
from perturbox.job.inputs import Job, Listener, Ready, prepare, present_targets
from perturbox.job.trials import (
    MEANING,
    WITHOUT,
    Trial,
    about_own_budget,
    about_trials,
    folder_name,
    noisy,
    row_of_break,
    row_of_none,
)
from perturbox.judge import metrics
from perturbox.judge.measure import Asking, benign_floor, said_of_undefined, sigma_of
from perturbox.judge.noise import scan_noise
from perturbox.judge.record import MARGIN_SCHEMA, begin, finishing, write_json
from perturbox.judge.units import NATIVE, check_unit
from perturbox.model.defended import Defended
from perturbox.model.victim import Victim, as_input
from perturbox.plain import to_json
from perturbox.types import ADVERSARIAL_NOTICE, Case, Effort, InputError, Volume


def find_margin(
    job: Job,
    out: Path,
    max_eps: float | None = None,
    listener: Listener | None = None,
    victim: Victim | None = None,
    image: Volume | None = None,
    full_report: bool = False,
) -> dict[str, Any]:
    """Find the margin of every structure (or of the job's targets) and leave margin.json and the files that prove it at
    `out`; arguments as in `prepare_margin`, refusals as in it and `fitting`; full_report: as in `run_job`."""
    require_new_folder(out)
    return search(fitting(prepare_margin(job, max_eps, victim, image, listener), listener), out, listener, full_report)


def prepare_margin(
    job: Job,
    max_eps: float | None = None,
    victim: Victim | None = None,
    image: Volume | None = None,
    listener: Listener | None = None,
) -> Ready:
    """The job of the search with its largest limit, read and checked.

    max_eps: in the job's eps_unit; None: the usual one. victim, image, listener: as in `prepare`.
    Raises InputError for bad input, as an attack does, and if the job's norm isn't linf.
    """
    if job.norm != "linf" or job.goal != "change":
        raise InputError(
            "The margin is a limit on the largest change (norm linf) for the goal 'change'; leave both as they are."
        )
    check_unit(job.eps_unit, max_eps, name="max-eps")
    max_eps = MAX_EPS if max_eps is None else max_eps
    if not 0 < max_eps < np.inf:
        raise InputError(f"--max-eps must be a number above 0, not {max_eps}.")
    steps = recipes.get(job.attack).margin_steps if job.steps is None else job.steps
    return prepare(dataclasses.replace(job, eps=max_eps, steps=steps), image, victim, listener)


def search(ready: Ready, out: Path, listener: Listener | None = None, full_report: bool = False) -> dict[str, Any]:
    """Carry out what `prepare_margin` has checked; full_report: as in `run_job`. The margin of a model without its
    defences is a search of its own, in the folder `WITHOUT`."""
    listener = listener or Listener()
    with new_folder(out, bytes=room(ready.image, 1 + isinstance(ready.victim, Defended))) as draft:
        found = _Search(ready, listener)
        found.search()
        free_room(draft)
        found.save(draft)
    with finishing(out):
        found.measure(out)
        margin = to_json(found.document())
        assert isinstance(margin, dict)
        margin["witnesses"] = {name: sha256(out / name / "result.json") for name in found.witnesses.values()}
        if isinstance(ready.victim, Defended):
            listener.say("Searching for the margin without the defence")
            plain = search(ready.without_defenses(), out / WITHOUT, listener, full_report)
            margin["undefended"] = {"folder": WITHOUT, "structures": plain["structures"]}
        write_json(out / "margin.json", margin)
    folders = [*(out / name for name in found.witnesses.values()), out]
    failed = [sentence for folder in folders for sentence in reported(folder, listener, full_report)]
    return {**margin, "warnings": margin["warnings"] + failed}


class _Search:
    """The trials so far and how to make one more."""

    def __init__(self, ready: Ready, listener: Listener):
        assert ready.job.eps is not None
        self.ready, self.listener, self.max_eps = ready, listener, ready.job.eps * ready.one
        self.step = ready.scan.step or self.max_eps / 64
        self.effort = Effort()
        listener.say("Segmenting the original scan")
        self.clean_seg = ready.clean_prediction(self.effort)
        # Every break is one against the victim's own clean prediction, whatever an expert says.
        self.goal = present_targets(ready.goal, self.clean_seg, ready.victim, ready.job.target)
        self.names = {value: name for name, value in ready.victim.labels.items()}
        self.clean_rows = self._rows(self.clean_seg)
        scan, labels = ready.scan, ready.victim.labels
        self.noise = scan_noise(scan.data, self.clean_seg, labels, scan.ruler, scan.sizes, bool(scan.files))
        listener.say("Measuring the benign floor")
        self.ask, sigma = Asking(ready.victim, self.effort), sigma_of(ready.scan, self.noise)
        self.floor = benign_floor(ready.scan, self.ask, self.clean_seg, sigma, ready.job.seed)
        self.ways = list(ways(ready, self.effort))
        # On the network's grid even the clean scan needn't agree wholly with its own prediction on the scan's grid.
        plain = ready.victim.plain.on(ready.scan, self.effort)
        with torch.no_grad():
            prediction = ready.victim.decide(plain(as_input(ready.scan, ready.victim.device)))
        self.live = self.goal.dice(prediction, plain.to_grid(self.clean_seg))
        self.member: str | None = None
        self.began = 0  # index of the member's first trial
        self.trials: list[Trial] = []
        self.found: dict[Trial, Outcome] = {}  # only of the smallest breaks: each is as large as the scan
        self.structures: dict[str, Any] = {}
        self.witnesses: dict[Trial, str] = {}

    def search(self) -> None:
        """The whole search; of an attack made of others, one for each of them that knows nothing of the rest, so that
        the bound is never above the one that any of them finds alone."""
        attack = self.ready.attack
        members = list(attack.members) if isinstance(attack, Composed) and attack.keep != "smallest" else []
        for self.member in members or [None]:
            self.began = len(self.trials)
            if self._attack(self.max_eps).keep != "smallest":  # otherwise the attack itself seeks the smallest change
                self.double()
            self.aim()
            self.bisect()
        self.member, self.began = None, 0

    def double(self) -> None:
        """Double the limit from one step; each joint attack starts from the one before."""
        eps = self.step
        start = None
        while not self.listener.stop():
            eps = min(eps, self.max_eps)
            start = self._try(eps, self.goal.targets, start).delta
            if eps >= self.max_eps or all(self._smallest_break(value) is not None for value in self.goal.targets):
                return
            eps *= 2

    def aim(self) -> None:
        """An attack of its own, at the largest limit, for each structure the joint attacks didn't break."""
        for value in self.goal.targets:
            if self._smallest_break(value) is None and not self.listener.stop():
                self._try(self.max_eps, (value,), None)

    def bisect(self) -> None:
        """Narrow each gap to one storage step with attacks aimed at that structure alone."""
        for value in self.goal.targets:
            while (broken := self._smallest_break(value)) is not None and not self.listener.stop():
                held = self._largest_vain(value, broken.linf)
                if (middle := middle_limit(held, broken.linf, self.step)) is None:
                    break
                self._try(middle, (value,), self.found[broken].delta)

    def save(self, folder: Path) -> None:
        """Write each file that broke something into a folder of its own."""
        self.structures, self.witnesses = self._bounds()
        begin(folder, to_json(self.document()))
        for trial, name in self.witnesses.items():
            ready = self._ready_for(trial)
            if isinstance(ready.victim, Defended):
                tried = [other.met(self.names, ready.victim.draws) for other in self.trials if other.like(trial)]
                self.found[trial] = beside_oblivious(
                    ready, self._goal_of(trial), self.found[trial], trial.stand_in, tried, self.clean_seg, self.listener
                )
            save(folder / name, ready, self.found[trial])

    def measure(self, folder: Path) -> None:
        """Complete the folders that `save` wrote."""
        for trial, name in self.witnesses.items():
            names = [structure for structure, row in self.structures.items() if row["witness"] == name]
            self.listener.say(f"Measuring the break of {' and '.join(names)} at {trial.linf:g}")
            with finishing(folder / name):
                conclude(
                    self._ready_for(trial),
                    self._goal_of(trial),
                    self.found[trial],
                    self.clean_seg,
                    self.effort,
                    folder / name,
                    self.listener,
                    replayable=False,
                    margin=self.structures,
                )

    def _goal_of(self, trial: Trial) -> Goal:
        return dataclasses.replace(self.goal, targets=trial.aimed, named=True)

    def _ready_for(self, trial: Trial) -> Ready:
        """The attack of one trial, as its own result folder records it."""
        aimed = tuple(self.names[value] for value in trial.aimed)
        job = dataclasses.replace(self.ready.job, eps=trial.eps, target=aimed, label=None)
        if not self.ready.ones:  # the search counts in the scan's own unit
            job = dataclasses.replace(job, eps_unit=NATIVE)
        return dataclasses.replace(self.ready, built=self._built(trial.eps), job=job, expert=None, outlined=None)

    def _bounds(self) -> tuple[dict[str, Any], dict[Trial, str]]:
        """Each structure's row of margin.json, and the trials whose folders these rows name as witnesses."""
        smallest = {self.names[value]: self._smallest_break(value) for value in self.goal.targets}
        folders = {
            trial: folder_name([name for name, other in smallest.items() if other is trial], trial.linf)
            for trial in smallest.values()
            if trial is not None
        }
        sigma = self.noise["sigma"]
        structures: dict[str, Any] = {}
        for value, (name, trial) in zip(self.goal.targets, smallest.items(), strict=True):
            if trial is None:
                structures[name] = row_of_none(self.trials, name, value, self._untested(value))
            else:
                held = self._largest_vain(value, trial.linf)
                structures[name] = row_of_break(trial, name, held, folders[trial], sigma)
        return structures, folders

    def document(self) -> dict[str, Any]:
        """What margin.json says."""
        job = self.ready.job
        return {
            "schema": MARGIN_SCHEMA,
            "notice": ADVERSARIAL_NOTICE,
            "meaning": MEANING,
            "unit": self.ready.scan.unit,
            "noise": self.noise,
            "benign": {"dice": self.floor},
            "limits": dataclasses.asdict(metrics.Limits()),
            "structures": self.structures,
            "attack": {
                "name": self.ready.recipe.name,
                "parameters": self.ready.parameters,
                "paper": self.ready.recipe.paper,
            },
            "victim": {**self.ready.victim.describe(), "spec": job.victim, "sha256": self.ready.victim.sha256},
            "source": {
                "sha256": self.ready.source_sha256 or None,
                "shape": list(self.ready.image.shape),
                "sizes": self.ready.image.sizes,
            },
            "max_eps": self.max_eps,
            "asked": {"unit": job.eps_unit, "max_eps": job.eps, "one": self.ready.one},
            "seed": job.seed,
            "trials": [trial.describe(self.names) for trial in self.trials],
            "stopped_early": self.listener.stop(),
            "effort": {
                "forwards": self.effort.forwards,
                "backwards": self.effort.backwards,
                "model_calls": self.effort.model_calls,
            },
            "versions": versions(),
            "warnings": [
                *self.ready.warnings,
                *about_own_budget(self.ready.built),
                *self.effort.notes,
                *dict.fromkeys(self.ask.notes),
                *dict.fromkeys(row["reason"] for row in self.structures.values() if row["reason"]),
                *about_trials(self.trials),
            ],
            "surrogates": self.ready.surrogates_told,
        }

    def _untested(self, value: int) -> str | None:
        """Why a structure that held was not tested, None where an attack tested it. One that aimed at several may have
        had its gradient from the others, so what aimed at it alone decides."""
        name = self.names[value]
        aimed = [t for t in self.trials if t.aimed == (value,)] or [t for t in self.trials if value in t.aimed]
        reasons = [t.untested[name] for t in aimed]
        if not reasons:
            return "The search was stopped before an attack aimed at it."
        return None if None in reasons else reasons[-1]

    def _built(self, eps: float) -> Built:
        job = self.ready.job
        return self.ready.recipe.build(eps, job.norm, job.steps, job.settings, local=True)

    def _attack(self, eps: float) -> Attack:
        attack = self._built(eps).attack
        if self.member is None:
            return attack
        assert isinstance(attack, Composed)
        return attack.members[self.member]

    def _try(self, eps: float, aimed: tuple[int, ...], start: np.ndarray | None) -> Outcome:
        """Attack at one limit, of a model behind defences with each stand-in until all breaks, and judge what a saved
        and re-read file of it does; what the worst for the model found."""
        self.listener.say(f"Limit {eps:g}: {', '.join(self.names[value] for value in aimed)}")
        goal = dataclasses.replace(self.goal, targets=aimed, named=len(aimed) == 1)
        scan = self.ready.scan
        case = Case(scan, roi=self.ready.roi)

        def lost(step: Step) -> bool:
            return all(dice is None or dice < self._goal_dice(value) for value, dice in step.dice.items())

        tried: list[Trial] = []
        for way in self.ways:
            spent = self.effort.forwards, self.effort.backwards
            outcome = run(
                self._attack(eps),
                way.bound,
                case,
                self.clean_seg,
                goal,
                seed=self.ready.job.seed,
                start=start,
                surrogates=way.surrogates,
                others=[self.ready.counted(other) for other in self.ready.others],
                on_step=self.listener.step,
                stop=self.listener.stop,
                enough=lost,
            )
            cost = self.effort.forwards - spent[0], self.effort.backwards - spent[1]
            tried.append(dataclasses.replace(self._judge(eps, aimed, outcome), stand_in=way.stand_in, cost=cost))
            self.found[tried[-1]] = outcome
            broke = all(tried[-1].breaks(self.names[value]) for value in aimed)
            if self.listener.stop() or (broke and self._attack(eps).keep != "smallest"):
                break
        self.trials += tried
        worst = self.found[min(tried, key=lambda trial: trial.left(self.names))]
        needed = [self._smallest_break(value, which) for value in self.goal.targets for which in (False, True)]
        self.found = {trial: outcome for trial, outcome in self.found.items() if trial in needed}
        return worst

    def _goal_dice(self, value: int) -> float:
        """Live Dice below which an attack may rest: clearly under the limit and the benign floor, before clean-up, as a
        share of what the clean scan has there."""
        floor = self.floor[self.names[value]]
        return (min(metrics.Limits().dice, 1.0 if floor is None else floor) - 0.01) * (self.live[value] or 0.0)

    def _judge(self, eps: float, aimed: tuple[int, ...], outcome: Outcome) -> Trial:
        with tempfile.TemporaryDirectory(prefix="perturbox-") as folder:
            saved = io.read_files(write_adversarial(Path(folder), self.ready, outcome), unit=self.ready.image.unit)
        delta = self.ready.counted(saved).data.astype(np.float64) - self.ready.scan.data
        found = self.ready.victim.look(saved, self.effort)
        segmentation, undecided = found.against(self.clean_seg)
        rows, notes = self._rows(segmentation), dict(outcome.notes)
        if found.undefined is not None:
            notes["saved"] = said_of_undefined("the saved scan", self.ready.victim, found.undefined)
        verdicts, untested, image = {}, {}, self.ready.image
        for value in self.goal.targets:
            name = self.names[value]
            untested[name] = outcome.untested or (notes["saved"] if value in undecided else None)
            failed = metrics.failed_slices(self.clean_seg == value, segmentation == value, image.voxel_size)
            kept = (self.clean_rows[name], rows[name], failed, self.floor[name])
            verdicts[name] = metrics.verdict(*kept, tested=untested[name] is None)
        dice = {name: rows[name]["dice"] for name in verdicts}
        by_noise: dict[str, float | None] = dict.fromkeys(dice)
        for labels in self.ask(noisy(self.ready.scan, delta, self.ready.roi, self.ready.job.seed), "random noise"):
            by_noise = {self.names[v]: metrics.dice(labels == v, self.clean_seg == v) for v in self.goal.targets}
        return Trial(eps, aimed, float(np.abs(delta).max()), verdicts, untested, notes, dice, by_noise)

    def _rows(self, segmentation: np.ndarray) -> dict[str, dict[str, Any]]:
        victim, image = self.ready.victim, self.ready.image
        return metrics.structures(segmentation, self.clean_seg, victim.labels, image.ruler, image.voxel_size)

    def _smallest_break(self, value: int, of_all: bool = False) -> Trial | None:
        """Of this member's trials, or of all."""
        name = self.names[value]
        trials = self.trials if of_all else self.trials[self.began :]
        return min((t for t in trials if t.breaks(name)), key=lambda t: t.linf, default=None)

    def _largest_vain(self, value: int, below: float) -> float:
        """The largest limit under `below` at which an attack that aimed at this structure did not break it, else 0."""
        name = self.names[value]
        return max(
            (t.eps for t in self.trials[self.began :] if value in t.aimed and not t.breaks(name) and t.eps < below),
            default=0.0,
        )
