"""What every piece of a study shares in a worker: scans seen through a model, entries, folders that are there whole or
not at all."""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbox import io
from perturbox.defenses import defend
from perturbox.job.inputs import read_expert
from perturbox.jobs.worker import explain, load_cached
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

Entry = dict[str, Any]
REMEMBERED = 2**28  # bytes of scans and predictions that a worker keeps


def entry_of(key: str, kind: str, work: Callable[[], Entry]) -> Entry:
    """The ledger's entry of a piece; "failed" with a reason where the study can go on after it."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        found = {"status": "ok", **work()}
    except MemoryError as error:
        found = {"status": "failed", "reason": explain(error).detail, "again": True}
    except Exception as error:
        again = not isinstance(error, InputError)
        found = {"status": "failed", "reason": explain(error).detail, "again": again}
    spent = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "threads": torch.get_num_threads(),
    }
    return {"key": key, "kind": kind, "effort": spent, **found}


@dataclass(frozen=True, eq=False)
class Seen:
    """A scan as a model sees it; expert: its label map, if there is one; answer: the model's own prediction;
    prediction: the same without the model's defences, with which everything is compared."""

    victim: Victim
    image: Volume
    expert: np.ndarray | None
    answer: np.ndarray
    prediction: np.ndarray

    @property
    def reference(self) -> np.ndarray:
        return self.prediction if self.expert is None else self.expert

    @property
    def bytes(self) -> int:
        return self.image.data.nbytes + 3 * self.prediction.nbytes


_seen: dict[tuple[str, tuple[str, ...], str, str], Seen] = {}  # least recently used first


def look(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Seen:
    """The task's scan through a model; a worker remembers the last ones, for many judge the same scan."""
    key = (asked["spec"], tuple(asked["defense"]), task["device"], task["scan"]["sha256"])
    found = _seen.pop(key, None)
    if found is None:
        found = _first_look(task, asked)
        while _seen and sum(seen.bytes for seen in _seen.values()) + found.bytes > REMEMBERED:
            _seen.pop(next(iter(_seen)))
    _seen[key] = found
    return found


def _first_look(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Seen:
    if asked["defense"]:
        plain = look(task, {**asked, "defense": ()})
        victim = defend(plain.victim, *asked["defense"])
        return dataclasses.replace(plain, victim=victim, answer=victim.predict(plain.image))
    scan, victim = task["scan"], load_cached(asked["spec"], task["device"])
    image = io.read_scan(scan["image"], unit=victim.unit, channels=victim.channels)
    expert = read_expert(scan["label"], task["label_map"], image, victim) if scan["label"] else None
    prediction = victim.predict(image)
    return Seen(victim, image, expert, prediction, prediction)


@contextmanager
def whole(place: Path) -> Iterator[Path]:
    """A draft that becomes the folder `place` when all is written; one of an earlier run that ended before the ledger
    was told is replaced, for it holds the same."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        yield draft
        os.chmod(draft, 0o755)
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(draft, place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
