"""What tests of the client and its works share: Troubles caught, events awaited, a scan for the tiny model."""

import time

import numpy as np
import pytest
from grids import AFFINES
from PerturboxLib import nrrd, tasks
from PerturboxLib.background import ENDS
from PerturboxLib.trouble import Trouble


def trouble_of(call, *arguments, **options) -> Trouble:
    """The Trouble that a call raises; fails where it raises none."""
    with pytest.raises(Trouble) as caught:
        call(*arguments, **options)
    return caught.value


def until(background, met, seconds: float = 30) -> list[tasks.Event]:
    """All events up to the one that meets the condition."""
    events, end = [], time.monotonic() + seconds
    while True:
        for event in background.drain():
            events.append(event)
            if met(event):
                return events
        assert time.monotonic() < end, [event.name for event in events]
        time.sleep(0.005)


def ending(background, seconds: float = 30) -> list[tasks.Event]:
    """All events of a work that ends by itself: the last is an end, and the only one."""
    assert background.wait(seconds), "the thread doesn't end"
    events = list(background.drain())
    assert [event.name in ENDS for event in events].count(True) == 1
    assert events[-1].name in ENDS
    return events


def names(events) -> list[str]:
    return [event.name for event in events]


def eventually(met, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.005)


def scan() -> np.ndarray:
    """k j i, int16 HU: air, fat, and a liver that 10 HU can take away."""
    array = np.full((18, 22, 24), -1000, np.int16)
    array[2:-2, 3:-3, 3:-3] = -100
    array[4:-4, 5:-5, 5:-5] = 8
    return array + np.random.default_rng(0).integers(-3, 4, array.shape).astype(np.int16)


def sent(grid: str):
    """(files, grid) of a submission of the scan on one of the grids."""
    return {"image": ("scan.nrrd", nrrd.encode(scan(), AFFINES[grid]))}, (scan().shape, AFFINES[grid])
