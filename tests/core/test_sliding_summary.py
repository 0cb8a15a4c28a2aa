"""The benchmark's page says plainly which goals are met, which aren't and by how much."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "summary.py"


@pytest.fixture(scope="module")
def summary():
    spec = importlib.util.spec_from_file_location("summary", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(windows: int, **seconds: float) -> dict:
    """Seconds per arm; F+B = 3, 2F+B = 4, MONAI + checkpoint = 5 (all per window), 100 MB."""
    defaults = {"floor F+B": 3.0, "floor 2F+B": 4.0, "MONAI + checkpoint": 5.0, "naive autograd.grad": 3.2}
    times = {**defaults, "two-pass": 4.1, "hybrid, ample": 3.1, **{k.replace("_", " "): v for k, v in seconds.items()}}
    arms = {
        name: {"cpu_s": windows * t, "ms_per_window": 1000 * t, "gradient_error": 3e-8, "peak_bytes": 100 * 2**20}
        for name, t in times.items()
    }
    arms["torchattacks PGD step"] = {"absent": "torchattacks isn't installed here"}
    return {"title": f"case of {windows}", "windows": windows, "network": "UNet", "arms": arms}


def test_goals_name_the_worst_case_and_by_how_much_it_misses(summary):
    cases = {"unet-3-27": case(27), "unet-3-125": case(125, **{"two-pass": 4.84})}
    sentences = [goal["sentence"] for goal in summary.goals(cases)]
    assert (
        "two-pass costs at most 1.10 × the floor 2F+B: not met in 1 of 2 cases; worst 1.21 (case of 125), "
        "10 % above the goal."
    ) in sentences
    assert (
        "hybrid with an ample budget costs at most 1.10 × the floor F+B: met in all 2 cases; worst 1.03 (case of 27)."
    ) in sentences
    assert (
        "two-pass takes at most 0.80 × the time of MONAI + checkpoint from 125 windows: not met; worst 0.97 (case of "
        "125), 21 % above the goal."
    ) in sentences
    memory = next(goal for goal in summary.goals(cases) if "memory" in goal["sentence"])
    assert memory["values"] == {"case of 125": 1.0}
    assert not memory["met"]


def test_time_grows_with_the_power_that_was_put_in(summary):
    cases = {f"unet-3-{n}": case(n, **{"naive autograd.grad": n**0.25}) for n in (27, 125, 343)}
    exponents = {next(iter(g["values"])): g for g in summary.goals(cases) if "power" in g["sentence"]}
    assert exponents["two-pass"]["values"]["two-pass"] == pytest.approx(1.0)
    assert exponents["two-pass"]["met"]
    assert exponents["naive autograd.grad"]["values"]["naive autograd.grad"] == pytest.approx(1.25)
    assert exponents["naive autograd.grad"]["sentence"].endswith("1.25, for comparison.")


def test_the_page_shows_ratios_memory_and_what_is_absent(summary):
    cases = {"unet-3-27": case(27)}
    results = {
        "date": "2026-01-01",
        "command": "python -m benchmarks",
        "machine": {"cpu": "a processor", "cores": 2, "threads": 1, "load_before": 3.0, "load_after": 2.0},
        "versions": {"torch": "2"},
        "rounds": 5,
        "quick": True,
        "cases": cases,
        "goals": summary.goals(cases),
    }
    page = summary.markdown(results)
    assert "| two-pass | 4100.00 | 1.37 | 1.02 | 100 | 3e-08 |" in page
    assert "| torchattacks PGD step | torchattacks isn't installed here | | | | |" in page
    assert "The machine was busy (load 3.0 before, 2.0 after)" in page
    assert "A quick run on few cases" in page
    assert "a processor, 2 cores, 1 thread(s) used" in page
