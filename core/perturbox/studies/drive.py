"""Carries a study out: pieces that aren't in the ledger go to workers, what they return is written down at once.

The same command goes on after anything. One driver owns the folder; a piece whose worker dies is tried again, and after
three failures it is "failed" with a reason and the study goes on.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from distributed import Future, KilledWorker
from filelock import FileLock, Timeout

from perturbox.io.files import atomic, require_writable
from perturbox.jobs.cluster import Cluster
from perturbox.studies import work
from perturbox.studies.design import FEATURES
from perturbox.studies.ledger import Ledger
from perturbox.studies.plan import Craft, Ladder, Look, Plan, kept_in
from perturbox.types import InputError

LOCK = ".lock"
KINDS = ("clean", "certificate", "features", "sight", "ladder", "corruption")  # of pieces, as tasks name them
TRIES = 3
IN_FLIGHT = 2  # tasks for each worker: one it does, one that waits there
Say = Callable[[str], None]


@dataclass
class Task:
    """What a worker is given at once. keys: of the ledger's entries it makes; model: the one it mostly needs."""

    document: dict[str, Any]
    keys: list[str]
    model: str
    tries: int = 0


@dataclass
class Progress:
    """done, all: tasks; left: seconds, None before that can be told."""

    done: int
    all: int
    failed: int = 0
    left: float | None = None
    about: str = ""


@dataclass
class Driver:
    """Runs what is missing of a plan in `out`. scheduler: address of an existing Dask scheduler, which sees the same
    files; stop: asked between tasks whether to end."""

    plan: Plan
    out: Path
    workers: int = 1
    device: str = "cpu"
    scheduler: str | None = None
    again: bool = False
    tell: Callable[[Progress], None] = lambda progress: None
    stop: Callable[[], bool] = lambda: False
    _failed: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)

    def run(self) -> Ledger:
        """The ledger, with everything of the plan in it unless `stop` ended it; raises InputError if `out` can't be
        used."""
        with claimed(self.out):
            ledger = Ledger(self.out / "ledger.jsonl")
            try:
                write_whole(self.out / "plan.json", json.dumps(self.plan.document(), allow_nan=False) + "\n")
                # Each needs what those before it made or measured.
                waves = (self.features, self.missing, self.corrupted)
                for number, wave in enumerate(waves):
                    tasks = list(wave(ledger.done))
                    if tasks and not self._stopped:
                        later = sum(sum(1 for _ in other(ledger.done)) for other in waves[number + 1 :])
                        self._carry_out(tasks, ledger, later)
            finally:
                ledger.close()
        return ledger

    @property
    def crafts(self) -> Path:
        return (self.out / "crafts").resolve()

    @property
    def certificates(self) -> Path:
        return (self.out / "certificates").resolve()

    @property
    def fits(self) -> Path:
        """What was fitted on clean scans."""
        return (self.out / "features").resolve()

    @property
    def seen(self) -> Path:
        """What detectors see."""
        return (self.out / "seen").resolve()

    def features(self, done: Mapping[str, Mapping[str, Any]]) -> Iterator[Task]:
        """What attacks need of clean scans and isn't fitted yet, a task each."""
        for model, what in product(self.plan.models, self.plan.fitted):
            key = self.plan.fit_key(model, what)
            if not self._kept(done, self.fits, key):
                scans = [scan.image for scan in self.plan.features_on]
                place = str(kept_in(self.fits, key))
                document = {"key": key, **self._asked(model), "what": what, "scans": scans, "place": place}
                yield Task({**self._common(next(iter(self.plan.cases))), "features": document}, [key], model)

    def missing(self, done: Mapping[str, Mapping[str, Any]]) -> Iterator[Task]:
        """What isn't done yet, ordered so that a model is loaded as rarely as can be."""

        plan, there = self.plan, partial(self._there, done)
        for model, case in product(plan.models, plan.cases):
            key = plan.clean_key(model, case)
            if not there(key):
                yield Task({**self._common(case), "clean": {"key": key, **self._asked(model)}}, [key], model)
            if plan.study.detectors and (sight := self._sight(done, key, model)) is not None:
                yield Task({**self._common(case), "sight": sight}, [sight["key"]], model)
        for ladder in plan.ladders:
            if not self._climbed(done, ladder):
                yield self._climb(done, ladder)
        for asked in plan.certificates:
            if not self._kept(done, self.certificates, asked.key):
                place = kept_in(self.certificates, asked.key)
                document = {"key": asked.key, **self._asked(asked.model), "place": str(place)}
                document |= {"sigma": asked.sigma, "seed": asked.seed, "how": plan.study.document()["certify"]}
                yield Task({**self._common(asked.case), "certificate": document}, [asked.key], asked.model)
        for craft in () if plan.study.kind == "detectors" else plan.crafts:
            made = self._kept(done, self.crafts, craft.key)
            judges = [model for model in plan.judges(craft) if not there(plan.judge_key(craft, model))]
            if made and not judges:
                continue
            keys = [] if made else [craft.key]
            yield Task(
                {
                    **self._common(craft.case),
                    "craft": {"key": craft.key, "job": asdict(plan.job(craft, self.device, self.fits)), "done": made},
                    "judges": [self._judge(craft, model) for model in judges],
                },
                keys + [plan.judge_key(craft, model) for model in judges],
                craft.model,
            )

    def corrupted(self, done: Mapping[str, Mapping[str, Any]]) -> Iterator[Task]:
        """Looks at ordinary changes that aren't there yet: those of one case, change and seed in one task, for they
        share its computing."""
        for (case, name, seed), looks in self._looks(done).items():
            clean = done.get(self.plan.clean_key(self.plan.first, case), {})
            yield Task(
                {
                    **self._common(case),
                    "corruption": {
                        "name": name,
                        "seed": seed,
                        "sigma": clean.get("sigma"),
                        "eps_unit": self.plan.study.eps.unit,
                    },
                    "looks": [self._look(look, done) for look in looks],
                },
                [key for look in looks for key in self._keys(done, look)],
                looks[0].model,
            )

    def _looks(self, done: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str, int], list[Look]]:
        """Looks that aren't there yet, by what is computed together."""
        found: dict[tuple[str, str, int], list[Look]] = {}
        for look in self.plan.looks:
            if self._keys(done, look):
                found.setdefault(look.together, []).append(look)
        return found

    def _keys(self, done: Mapping[str, Mapping[str, Any]], look: Look) -> list[str]:
        """Of what isn't there yet of a look, and of what detectors see of it."""
        sight = self.plan.sight_key(look.key) if self.plan.study.detectors else None
        missing = [look.key] if not self._there(done, look.key) else []
        return missing + ([sight] if sight is not None and not self._kept(done, self.seen, sight) else [])

    def _look(self, look: Look, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        made = None if look.craft is None else done.get(look.craft.key, {"status": "ok"})
        failed = None if made is None or made["status"] == "ok" else f"the attack on it failed: {made['reason']}"
        rms = None if made is None else made.get("rms")
        return {
            "key": look.key,
            **self._asked(look.model),
            "grade": look.grade,
            "rms": rms,
            "failed": failed,
            "done": self._there(done, look.key),
            "sight": self._sight(done, look.key, look.model) if self.plan.study.detectors else None,
        }

    def _sight(self, done: Mapping[str, Mapping[str, Any]], what: str, model: str) -> dict[str, Any] | None:
        """What detectors are to look at, None if they have."""
        key = self.plan.sight_key(what)
        return None if self._kept(done, self.seen, key) else self._seeing(key, model)

    def _seeing(self, key: str, model: str) -> dict[str, Any]:
        place = str(kept_in(self.seen, key))
        return {"key": key, **self._asked(model), "detectors": self.plan.study.detectors, "place": place}

    def _climbed(self, done: Mapping[str, Mapping[str, Any]], ladder: Ladder) -> bool:
        """Whether a ladder is there, with what detectors saw of the craft that the answer fell by."""
        if not self._there(done, ladder.key):
            return False
        entry = done[ladder.key]
        if entry["status"] == "failed":
            return True
        if self.again and not all(self._there(done, key) for key in entry["rungs"]):  # those that had failed
            return False
        return entry["fell"] is None or not self._lost(self.seen, entry)

    def _climb(self, done: Mapping[str, Mapping[str, Any]], ladder: Ladder) -> Task:
        """A ladder's task; crafts and judgements that are there, from another success or another ladder, are used."""
        plan, rungs = self.plan, []
        for craft in ladder.rungs:
            judge = self._judge(craft, craft.model)
            made = done[craft.key] if self._kept(done, self.crafts, craft.key) else None
            judged = done[judge["key"]] if made and self._there(done, judge["key"]) else None
            document = {"key": craft.key, "job": asdict(plan.job(craft, self.device, self.fits)), "entry": made}
            rungs.append({"craft": document, "judge": {**judge, "entry": judged}})
        document = {**self._seeing(ladder.key, ladder.model), "rungs": rungs}
        document |= {"success": plan.study.success, "target": list(plan.study.target), "failed": None}
        what = plan.study.fitted_for(plan.study.attacks[ladder.attack])
        fit = done.get(plan.fit_key(ladder.model, what), {}) if what is not None else {}
        if fit.get("status") == "failed":
            named = "features of clean scans" if what == FEATURES else f"the {what} detector"
            document["failed"] = f"{named} couldn't be fitted: {fit['reason']}"
        return Task({**self._common(ladder.case), "ladder": document}, [ladder.key], ladder.model)

    def _there(self, done: Mapping[str, Mapping[str, Any]], key: str) -> bool:
        entry = done.get(key)
        return entry is not None and not (self.again and entry["status"] == "failed")

    def _kept(self, done: Mapping[str, Mapping[str, Any]], place: Path, key: str) -> bool:
        """Whether a piece is there with the folder it left."""
        return self._there(done, key) and not self._lost(place, done[key])

    def _lost(self, place: Path, entry: Mapping[str, Any]) -> bool:
        """Whether the folder of what was made isn't there any more."""
        return entry["status"] != "failed" and not kept_in(place, entry["key"]).is_dir()

    def _common(self, case: str) -> dict[str, Any]:
        scan = self.plan.cases[case]
        return {
            "scan": {"image": scan.image, "label": scan.label, "sha256": scan.sha256},
            "label_map": self.plan.study.cases.label_map,
            "crafts": str(self.crafts),
            "threads": self.plan.study.threads,
            "device": self.device,
        }

    def _judge(self, craft: Craft, model: str) -> dict[str, Any]:
        plan = self.plan
        own = plan.models[model].sha256 == plan.models[craft.model].sha256
        return {"key": plan.judge_key(craft, model), **self._asked(model), "own": own}

    def _asked(self, model: str) -> dict[str, Any]:
        """What a worker loads to ask a model."""
        target = self.plan.models[model]
        return {"spec": target.spec, "defense": target.defense}

    def _carry_out(self, tasks: list[Task], ledger: Ledger, later: int) -> None:
        started, waiting = time.monotonic(), list(reversed(tasks))
        count = self._done + len(tasks) + later
        if self.plan.crafts:
            self.crafts.mkdir(exist_ok=True)
        before = self._done
        with cluster(self.scheduler, self.device, self.workers) as workers:
            running: dict[Future, Task] = {}
            queue = workers.as_completed()

            def feed(last: str | None) -> None:
                # The next one of the model that a worker has just used, if there is one.
                place = next((n for n in range(len(waiting) - 1, -1, -1) if waiting[n].model == last), len(waiting) - 1)
                task = waiting.pop(place)
                name = f"study-{task.keys[0]}-{task.tries}"
                future = workers.submit(work.carry_out, task.document, key=name)
                running[future] = task
                queue.add(future)

            def fill(last: str | None) -> None:
                """Workers of an existing scheduler may come and go meanwhile."""
                while waiting and len(running) < IN_FLIGHT * max(1, workers.size):
                    feed(last)

            fill(None)
            for future in queue:
                task = running.pop(future)
                again = self._take(future, task, ledger)
                if again:
                    waiting.append(again)
                else:
                    self._done += 1
                passed, done = time.monotonic() - started, self._done - before
                left = passed / done * (count - self._done) if done else None
                self.tell(Progress(self._done, count, self._failed, left, task.model))
                if self.stop():
                    self._stopped = True
                    break
                fill(task.model)

    def _take(self, future: Future, task: Task, ledger: Ledger) -> Task | None:
        """Write down what a task made; the task itself if it is to be tried again."""
        try:
            entries = future.result()
        except CancelledError:  # says nothing of the task: its scheduler is gone
            raise InputError(
                f"The Dask scheduler at '{self.scheduler}' is gone; what is done is kept. Start it again and give the "
                "same command."
            ) from None
        except KilledWorker:
            entries = _given_up(task, f"Its worker died {TRIES} times; a common reason is too little memory.")
        except Exception as error:  # a worker that can't even run it
            entries = _given_up(task, f"A worker could not run it ({type(error).__name__}).", again=True)
        if any(entry.get("again") for entry in entries) and task.tries + 1 < TRIES:
            task.tries += 1
            return task
        for entry in entries:
            entry.pop("again", None)
            self._failed += entry["status"] == "failed"
            ledger.add(entry)
        return None


def _given_up(task: Task, reason: str, again: bool = False) -> list[dict[str, Any]]:
    kinds = [next((kind for kind in KINDS if kind in task.document), "judge")] * len(task.keys)
    if "craft" in task.document and not task.document["craft"]["done"]:
        kinds[0] = "craft"
    return [
        {"key": key, "kind": kind, "status": "failed", "reason": reason, "again": again}
        for key, kind in zip(task.keys, kinds, strict=True)
    ]


def write_whole(path: Path, text: str) -> None:
    """Write a text that a reader sees whole or not at all."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """The study's folder, made if it isn't there, for one driver at a time."""
    require_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"Another study runs in '{out}'; wait for it, or choose another --out.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def cluster(scheduler: str | None, device: str, workers: int) -> Iterator[Cluster]:
    """Workers for the time of a study."""
    made = Cluster(scheduler, device, lambda event: None, workers=workers, failures=TRIES - 1)
    try:
        yield made
    finally:
        made.close()
