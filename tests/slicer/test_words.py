"""Sentences and efforts of the panel, by value."""

import pytest
from PerturboxLib import limits, presets, words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (3, "5 s"), (25, "25 s"), (59, "1 min"), (105, "1 min 45 s"), (600, "10 min"), (605, "10 min"),
     (3600, "1 h"), (4200, "1 h 10 min")],
)  # fmt: skip
def test_times_are_rounded_up_to_what_one_says(seconds, said):
    assert words.duration(seconds) == said


def test_a_limit_is_compared_with_the_scans_own_noise_and_the_window():
    note = limits.note(4, "linf", "native", "HU", 11.8)
    assert note == "= 0.34 × this scan's noise · 1 % of a W 400 window"
    assert limits.note(4, "linf", "native", "HU", None).startswith("Noise not measured yet")
    assert limits.note(4, "linf", "native", "HU", 0.0).startswith("This scan's noise is not available")
    assert "root mean square" in limits.note(4, "l2", "native", "HU", 11.8)
    assert limits.note(4, "l0", "native", "HU", 11.8).startswith("4 % of the voxels")
    for norm in ("linf", "l2", "l0"):
        assert "invisible" not in limits.note(4, norm, "native", "HU", 11.8)


def test_a_limit_in_another_unit_says_what_it_is_in_the_scans_own():
    assert limits.note(2, "linf", "sigma", "HU", 11.8) == "= 23.6 HU in this scan · 5.9 % of a W 400 window"
    assert limits.note(2, "linf", "sigma", "intensity", 11.8) == "= 23.6 intensity units in this scan"
    assert limits.note(2, "linf", "sigma", "intensity", 0.0).endswith("choose % of its range")
    assert "1–99 % range" in limits.note(2, "linf", "percent", "intensity", 11.8)


def test_nothing_asks_an_mr_for_hu():
    for unit in limits.UNITS:
        texts = [limits.title(unit, "intensity"), *(limits.suffix(unit, "intensity", norm) for norm in ("linf", "l2"))]
        texts += [
            limits.note(4, norm, unit, "intensity", sigma) for norm in ("linf", "l2") for sigma in (None, 0.0, 9.0)
        ]
        assert not [text for text in texts if "HU" in text]
    assert limits.suffix("native", "HU", "linf") == " HU" and limits.suffix("sigma", "HU", "l2") == " σ RMS"
    assert limits.span("native", "intensity", "linf")[1] > limits.span("native", "HU", "linf")[1]


def job(state="running", kind="attack", **progress):
    known = {"phase": "Attacking with PGD", "step": None, "steps": None, "eta_s": None}
    return {"state": state, "kind": kind, "queue_position": progress.pop("queue_position", None),
            "progress": {**known, **progress}}  # fmt: skip


def test_progress_tells_a_queue_from_work_and_the_time_left():
    assert words.progress(job("queued", queue_position=3)) == "waiting, 2 ahead"
    assert words.progress(job("queued", queue_position=1)) == "waiting for a worker"
    assert words.progress(job(step=18, steps=40, eta_s=105.0)) == "step 18 of 40 · about 1 min 45 s left"
    assert words.progress(job(kind="margin", step=3, steps=10)) == "Attacking with PGD"
    copies = job(kind="certify", phase="Counting votes: noisy copy", step=18, steps=110, eta_s=60.0)
    assert words.progress(copies) == "Counting votes: noisy copy 18 of 110 · about 1 min left"


def test_the_live_line_names_the_lowest_structure_and_since_when():
    trace = [
        {"step": 0, "dice": {"liver": 1.0, "spleen": 1.0}},
        {"step": 1, "dice": {"liver": 0.97, "spleen": 0.89}},
        {"step": 2, "dice": {"liver": 0.95, "spleen": 0.79, "kidney": None}},
    ]
    assert words.live(trace, 0.9) == "Spleen 0.79 – first below 0.90 at step 1. Stop keeps the best result so far."
    assert words.live(trace[:1], 0.9) == "Liver 1.00. Stop keeps the best result so far."
    assert words.live([], 0.9) == ""


def test_a_lost_structure_has_fallen_below_the_limit():
    trace = [{"step": 0, "dice": {"liver": 1.0}}, {"step": 1, "dice": {"liver": 0.0}}]
    assert words.live(trace, 0.9) == "Liver 0.00 – first below 0.90 at step 1. Stop keeps the best result so far."


def test_efforts_grow_and_state_their_time():
    efforts = [effort for effort in presets.EFFORTS if effort.times]
    totals = [presets.values(e, 20)["steps"] * e.fields.get("restarts", 1) for e in efforts]
    assert totals == sorted(totals) and len(set(totals)) == 3
    quick, standard = presets.find("quick"), presets.find("standard")
    assert presets.title(quick, 20, 0.0) == "Quick look – 10 steps"
    assert presets.title(standard, 200, 2.0) == "Standard – 200 steps, about 6 min 40 s"
    assert presets.find("nonsense").name == presets.CUSTOM
