"""Victims that make trouble for a worker: slow, hung, deadly, greedy, faulty. Each is the tiny victim with a habit."""

import importlib.util
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch

_spec = importlib.util.spec_from_file_location("perturbox_tiny", Path(__file__).with_name("tiny.py"))
assert _spec is not None and _spec.loader is not None
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


def _with(habit, device: torch.device):
    victim = tiny.volume(device)
    victim.network.register_forward_hook(lambda *_: habit())
    return replace(victim, name=habit.__name__.strip("_"))


def slow(device):
    def _slow():
        time.sleep(0.05)

    return _with(_slow, device)


def slower(device):
    def _slower():
        time.sleep(1.0)

    return _with(_slower, device)


def hung(device):
    def _hung():
        time.sleep(10_000)

    return _with(_hung, device)


def deadly(device):
    def _deadly():
        os.kill(os.getpid(), signal.SIGKILL)

    return _with(_deadly, device)


def greedy(device):
    def _greedy():
        torch.empty(2**60)

    return _with(_greedy, device)


def weary(device):
    """Is tried for its memory, predicts the clean scan and takes two steps, in two calls each, then fails: as where
    memory runs out later."""
    count = 0

    def _weary():
        nonlocal count
        count += 1
        if count > 11:
            raise MemoryError

    return _with(_weary, device)


def faulty(device):
    def _faulty():
        raise ZeroDivisionError("of Mr. Doe")

    return _with(_faulty, device)
