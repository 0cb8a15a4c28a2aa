"""A study's cluster in this very process, for tests that are about what a study finds and not about its workers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from perturbox.studies import drive


class Done:
    """What a future is once it is there."""

    def __init__(self, value: Any):
        self.value = value

    def result(self) -> Any:
        return self.value


class AtOnce:
    """Carries out each task as it is given."""

    size = 1

    def submit(self, function: Callable[..., Any], document: Any, key: str) -> Done:
        return Done(function(document))

    def as_completed(self) -> "Queue":
        return Queue()


class Queue(list):
    """Futures, of which more may be added."""

    add = list.append

    def __iter__(self) -> Iterator[Any]:
        while self:
            yield self.pop(0)


@contextmanager
def here(scheduler: str | None, device: str, workers: int) -> Iterator[AtOnce]:
    """In place of `drive.cluster`."""
    yield AtOnce()


def use(patch: Any) -> None:
    """From now on, until the MonkeyPatch is undone."""
    patch.setattr(drive, "cluster", here)
