"""What the command line says before, during and after a job: exact sentences from given numbers, and honest counts."""

import dataclasses
import io
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from perturbox.attacks.outcome import Step
from perturbox.attacks.recipes import FAMILIES, discover
from perturbox.cli import words
from perturbox.cli.progress import Progress, about, duration
from perturbox.job import estimate
from perturbox.job.estimate import (
    JUDGING,
    Estimate,
    estimate_attack,
    estimate_margin,
    estimate_prediction,
)
from perturbox.job.execute import Job, Listener, execute, prepare
from perturbox.judge.columns import summarise
from perturbox.judge.summary import amount, at_least, headline, mean_dice
from perturbox.model.victim import count_windows
from perturbox.types import Effort, Volume

TINY = f"{tiny.__file__}:volume"
LABELS = {"background": 0, "liver": 1, "spleen": 2}
AS_HARMLESS = ["as", "under", "harmless", "changes"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(index: int, dice: dict[int, float | None], seconds: float, steps: int = 4, restart: int = 0) -> Step:
    return Step(index, steps, restart, 0.1, 0.5, dice, 4.0, seconds)


# ---------------------------------------------------------------- during


def test_plain_lines_tell_live_dice_and_the_time_left(capsys):
    progress = Progress(LABELS)
    progress.afterwards = 7.0
    listener = progress.listener()
    assert listener.stop() is False
    listener.say("Attacking with PGD")
    # Ten seconds a step but for one of forty: the median passes over it.
    for index, seconds in enumerate([10, 20, 60, 70, 80]):
        listener.step(step(index, {1: 0.9, 2: 0.5 + 0.1 * index, 3: None}, seconds))
    assert capsys.readouterr().err.splitlines() == [
        "Attacking with PGD",
        "step 0 of 4 · mean Dice 0.70 · worst spleen 0.50",
        "step 1 of 4 · mean Dice 0.75 · worst spleen 0.60",
        "step 2 of 4 · mean Dice 0.80 · worst spleen 0.70 · about 25 s left",  # 2 × 10 + 7
        "step 3 of 4 · mean Dice 0.85 · worst spleen 0.80 · about 15 s left",
        "step 4 of 4 · mean Dice 0.90 · worst liver 0.90 · about 5 s left",
    ]


def test_a_refusal_stands_alone_until_the_job_asks_whether_to_stop(capsys):
    progress = Progress(LABELS)
    progress.announce("PGD: about 1 min")
    progress.say("Segmenting the original scan")
    assert capsys.readouterr().err == ""
    progress.listener().stop()
    progress.say("Attacking")
    assert capsys.readouterr().err == "PGD: about 1 min\nSegmenting the original scan\nAttacking\n"


def test_members_of_an_attack_are_named(capsys):
    listener = Progress(LABELS, restarts=2).listener()
    listener.stop()
    for number, member in enumerate(("apgd:dice", "square")):
        listener.step(dataclasses.replace(step(0, {1: 0.5}, 1.0 + number, restart=number), member=member))
    places = [line.split(" · ")[0] for line in capsys.readouterr().err.splitlines()]
    assert places == ["apgd:dice (1 of 2), step 0 of 4", "square (2 of 2), step 0 of 4"]


def test_restarts_count_into_the_time_left(capsys):
    progress = Progress(LABELS, restarts=2)
    listener = progress.listener()
    listener.stop()
    for restart in (0, 1):
        for index in range(5):
            listener.step(step(index, {1: 0.5}, 20.0 * (5 * restart + index + 1), restart=restart))
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "restart 1 of 2, step 2 of 4 · mean Dice 0.50 · worst liver 0.50 · about 2 min 20 s left"
    assert lines[5] == "restart 2 of 2, step 0 of 4 · mean Dice 0.50 · worst liver 0.50 · about 1 min 20 s left"


def test_few_lines_for_many_steps(capsys):
    progress = Progress(LABELS)
    listener = progress.listener()
    listener.stop()
    for index in range(1001):
        listener.step(step(index, {}, index, steps=1000))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9 and lines[0].startswith("step 0 of") and lines[-1].startswith("step 1000 of 1000")


def test_a_terminal_gets_one_live_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(LABELS) as progress:
        listener = progress.listener()
        progress.announce("PGD: about 1 min")
        listener.stop()
        for index in range(3):
            listener.step(step(index, {1: 0.9, 2: 0.5}, 10.0 * index))
        progress._bar.refresh()
        progress.stop.requested = True
        progress._bar.refresh()
    text = terminal.getvalue()
    assert "PGD: about 1 min" in text
    assert "step 2 of 4" in text and "mean Dice 0.70 · worst spleen 0.50 · about 20 s left" in text
    assert "Stopping after this step…" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0.4 s"),
        (5, "5 s"),
        (57, "55 s"),
        (58, "1 min"),
        (104, "1 min 45 s"),
        (599, "10 min"),
        (1000, "17 min"),
        (3600, "1 h"),
        (4000, "1 h 7 min"),
        (86400, "24 h"),
    ],
)
def test_durations_as_one_says_them(seconds, text):
    assert duration(seconds) == text
    assert about(seconds) == ("a few seconds" if seconds < 5 else f"about {text}")


# ---------------------------------------------------------------- before


@pytest.fixture
def ready(tmp_path):
    return prepare(Job(str(tiny.write_scan(tmp_path / "ct.nii.gz")), victim=TINY, eps=10, steps=3))


@pytest.mark.parametrize("make", [tiny.volume, tiny.flat])
def test_windows_are_counted_as_the_victim_takes_them(make):
    victim = make(torch.device("cpu"))
    image = Volume(tiny.scan()[None].astype(np.float32), np.diag([*tiny.SPACING, 1.0]))
    effort = Effort()
    calls = []
    hook = victim.network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    victim.predict(image, effort)
    hook.remove()
    assert count_windows(victim.on(image)) == sum(calls)


def test_judging_counts_the_predictions_that_are_made(ready, tmp_path):
    ends = []
    result = execute(ready, tmp_path / "R", Listener(say=ends.append))
    # Noise of the scan's own σ is one of the harmless changes, and this small scan has no σ.
    made = JUDGING - (result["noise"]["sigma"] is None)
    assert math.isclose(result["effort"]["forwards"], made + 3 + 1)
    assert math.isclose(result["effort"]["backwards"], 3)


def test_estimates_grow_with_what_is_asked(ready):
    attack, margin = estimate_attack(ready), estimate_margin(ready, 16.0)
    prediction = estimate_prediction(ready.victim, ready.image)
    assert prediction.windows == attack.windows == margin.windows == 8
    assert 0 < prediction.seconds < attack.seconds < margin.seconds
    assert 0 < attack.afterwards < attack.seconds
    scan, logits = 4 * ready.image.data.size, 4 * 3 * ready.image.data.size
    assert attack.bytes >= attack.least >= 14 * scan + 4 * logits
    assert attack.device == "cpu" and attack.available > 0


def test_the_estimate_in_words():
    known = Estimate(100.0, 20.0, 3_140_000_000, 2_000_000_000, 8_000_000_000, 12, "cpu")
    assert words.estimate_line(known, "PGD on ct-organs") == (
        "PGD on ct-organs: about 1 min 40 s and 3.1 GB of memory on cpu (12 windows per prediction)."
    )
    tight = Estimate(100.0, 20.0, 19_000_000_000, 19_000_000_000, 12_000_000_000, 1, "cuda")
    line = words.estimate_line(tight, "The margin", most=True)
    assert line.startswith(
        "The margin: at most about 1 min 40 s and 19.0 GB of memory on cuda (1 window per prediction). "
    )
    assert line.endswith("it needs 19.0 GB, 12.0 GB are free; crop it to the organ if this fails.")
    assert "\n" not in line


# ---------------------------------------------------------------- after


def result(**changes):
    """The parts of a result.json that the summary reads."""
    row = {"iou": None, "nsd": None}
    made = {
        "attack": {"name": "pgd", "title": "PGD", "parameters": {"goal": "change", "target": []}},
        "source": {"shape": [9, 9, 9], "sizes": "ml"},
        "reference": "clean_prediction",
        "outlined": None,
        "untested": None,
        "budget": {"eps": 10.0, "unit": "HU", "norm": "linf", "measured": {"linf": 10.0, "l2": 6.0, "l0": 0.5}},
        "noise": {"sigma": 23.4, "eps_over_sigma": 0.4274, "rms_over_sigma": 0.3},
        "metrics": {
            "clean": {
                "liver": {**row, "dice": 1.0, "hd95_mm": 0.0, "volume_ml": 1500.0},
                "spleen": {**row, "dice": 1.0, "hd95_mm": 0.0, "volume_ml": 200.0},
                "kidney": {**row, "dice": None, "hd95_mm": None, "volume_ml": 0.0},
            },
            "adversarial": {
                "liver": {**row, "dice": 0.958, "hd95_mm": 12.04, "volume_ml": 1510.04},
                "spleen": {**row, "dice": 0.0, "hd95_mm": None, "volume_ml": 0.0},
                "kidney": {**row, "dice": None, "hd95_mm": None, "volume_ml": 0.0},
            },
        },
        "verdicts": {"liver": "held", "spleen": "vanished", "kidney": "absent"},
        "control": {"noise": {"dice": {"liver": 0.99, "spleen": 0.973, "kidney": None}}},
        "success": {"rule": "the rule", "value": 0.479, "threshold": 0.5, "succeeded": True},
        "stopped_early": None,
        "flow": None,
        "warnings": [],
        **changes,
    }
    made["metrics"]["against_clean"] = dict(made["metrics"]["adversarial"])
    return made


def test_the_verdict_is_one_sentence_with_numbers():
    assert headline(result()) == (
        "A change of at most 10 HU (0.43 × this scan's own noise) broke spleen: mean Dice 1.00 → 0.48; "
        "random noise of the same size left every Dice at 0.97 or above."
    )
    bent = result(control={**result()["control"], "own": {"dice": {"liver": 0.9, "spleen": 0.84, "kidney": None}}})
    assert headline(bent).endswith("mean Dice 1.00 → 0.48; random draws of the same kind alone took spleen to 0.84.")
    bent["summary"] = summarise(bent)
    assert words.attack_summary(bent, Path("R"))[2].endswith(
        "Draw Dice is the worst under random draws of the same kind."
    )
    # What harmless changes do as well is no break.
    held = result(
        verdicts={"liver": "held", "spleen": "benign", "kidney": "absent"}, stopped_early="stopped at step 7 of 20"
    )
    assert headline(held) == (
        "A change of at most 10 HU (0.43 × this scan's own noise) broke no structure, which is no proof of safety: "
        "mean Dice 1.00 → 0.48; random noise of the same size left every Dice at 0.97 or above. "
        "The attack was stopped at step 7 of 20; this is the best change until then."
    )


@pytest.mark.parametrize(("least", "text"), [(0.996, "0.99"), (0.976, "0.97"), (1.0, "1.00"), (0.29, "0.29")])
def test_or_above_is_rounded_down(least, text):
    assert at_least(least) == text
    quiet = result(control={"noise": {"dice": {"liver": 1.0, "spleen": max(least, 0.96), "kidney": None}}})
    assert headline(quiet).endswith(f"left every Dice at {at_least(max(least, 0.96))} or above.")


def test_the_change_is_credited_and_not_its_limit():
    budget = result()["budget"]
    small = result(budget={**budget, "eps": 100.0, "measured": {**budget["measured"], "linf": 6.0}})
    assert headline(small).startswith(
        "A change of at most 6 HU (limit 100 HU; 0.26 × this scan's own noise) broke spleen:"
    )
    rms = result(budget={**budget, "norm": "l2", "eps": 12.0})
    assert headline(rms).startswith("A change of at most 6 HU RMS (limit 12 HU RMS) broke spleen:")
    none = result(budget={**budget, "measured": dict.fromkeys(budget["measured"], 0.0)})
    assert headline(none) == (
        "No change within 10 HU was found: the saved scan is the original, which is no proof of safety."
    )
    assert headline({**none, "stopped_early": "stopped at step 1 of 20"}) == (
        "The attack was stopped at step 1 of 20, before anything was found: the saved scan is the original."
    )


def test_what_the_expert_left_out_is_named_as_compared_with_the_clean_prediction():
    found = result(reference="label", outlined=["liver"])
    for rows in ("clean", "adversarial"):
        row = found["metrics"][rows]["spleen"]
        found["metrics"][rows]["spleen"] = {**dict.fromkeys(row), "volume_ml": row["volume_ml"]}
    found["control"]["noise"]["dice"]["spleen"] = 0.2  # says nothing of the expert's outlines
    found["metrics"]["clean"]["liver"]["dice"] = 0.97
    assert headline(found) == (
        "A change of at most 10 HU (0.43 × this scan's own noise) broke spleen (not outlined: compared with the "
        "model's own clean prediction): mean Dice 0.97 → 0.96; random noise of the same size lowered no Dice by more "
        "than 0.00."
    )
    found["summary"] = summarise(found)
    _, table, about = words.attack_summary(found, Path("R"))[:3]
    cells = [list(column.cells) for column in table.columns]
    assert [str(cell) for cell in cells[1]] == ["✕ vanished, not outlined", "● held"]
    assert [str(cell) for cell in cells[2]] == ["(0.000)", "0.970 → 0.958"]
    assert about.endswith("that the expert didn't outline are compared with the model's own clean prediction.")


def test_the_goal_is_told_only_if_it_was_given():
    found = result()
    found["summary"] = summarise(found)
    said = "Goal change: the rule – reached (0.479, limit 0.5)."
    assert said not in words.attack_summary(found, Path("R"))
    assert said in words.attack_summary(found, Path("R"), goal_given=True)
    found["attack"]["parameters"]["goal"] = "vanish"
    assert said.replace("change", "vanish") in words.attack_summary(found, Path("R"))


def test_photographs_are_told_in_pixels(capsys):
    found = result(source={"shape": [9, 9], "sizes": "pixels"})
    words.show(words.structures_table(found))
    out = capsys.readouterr().out
    assert "Δ pixels" in out and "HD95 pixels" in out and "mm" not in out and "−200 (−100 %)" in out
    words.show(words.volumes_table({"liver": 1510.0}, "pixels"))
    assert "Area pixels" in (said := capsys.readouterr().out) and "1,510" in said


@pytest.mark.parametrize(
    ("norm", "size", "unit", "text"),
    [
        ("linf", 0.5, "HU", "0.5 HU"),
        ("l2", 12.0, "HU", "12 HU RMS"),
        ("l0", 0.02, "HU", "2 % of the voxels"),
        ("linf", 4, "intensity", "4 intensity units"),
    ],
)
def test_the_limit_in_words(norm, size, unit, text):
    assert amount({"norm": norm, "unit": unit}, size) == text


def test_the_table_puts_the_worst_first_and_leaves_out_what_was_never_there(capsys):
    words.show(words.structures_table(result()))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()][2:]
    assert rows == [
        ["spleen", "✕", "vanished", "0.000", "−200.0", "(−100", "%)", "–", "0.973"],
        ["liver", "●", "held", "0.958", "+10.0", "(+0.7", "%)", "12.0", "0.990"],
    ]


def test_the_margin_states_bounds_in_the_scans_own_noise(capsys, tmp_path):
    margin = {
        "unit": "HU",
        "noise": {"sigma": 20.0, "region": "liver eroded 5 mm, 812 ml"},
        "structures": {
            "bone": {"breaks_at": None, "above": 32.0, "used": 32.0, "verdict": "held"},
            "lung": {"breaks_at": None, "above": 32.0, "used": 6.0, "verdict": "benign"},
            "liver": {"breaks_at": 2.0, "above": 1.0, "used": 2.0, "verdict": "dice"},
            "gut": {"breaks_at": 1.0, "above": 0.0, "used": 1.0, "verdict": "distance"},
        },
        "stopped_early": False,
        "warnings": [],
    }
    words.show(*words.margin_summary(margin, tmp_path))
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith(" ") and line.strip()]
    assert rows[2:] == [
        ["gut", "≤", "1", "HU", "0.05", "σ", "▲", "distance"],
        ["liver", "≤", "2", "HU", "0.1", "σ", "▼", "Dice"],
        ["bone", ">", "32", "HU", "–", "●", "held"],
        [
            "lung",
            ">",
            "32",
            "HU",
            "(changes",
            "of",
            "at",
            "most",
            "6",
            "HU)",
            "–",
            "●",
            "as",
            "under",
            "harmless",
            "changes",
        ],
    ]
    assert "σ 20 HU, liver eroded 5 mm, 812 ml" in out
    assert "Not breaking is no proof of safety" in out


def test_numbers_in_words():
    assert [words.number(value) for value in (None, 10.0, 0.43, 1234.0, -0.5, 1e-5)] == [
        "–", "10", "0.43", "1234", "−0.5", "0.00001",
    ]  # fmt: skip
    assert words.listed(["a"]) == "a" and words.listed(["a", "b", "c"]) == "a, b and c"
    assert mean_dice(result(), "adversarial") == statistics.fmean([0.958, 0.0])


def lines_of(things, capsys) -> list[str]:
    words.show(*things)
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_attacks_are_listed_by_family_with_the_few_to_start_with_on_top(capsys):
    entries = [recipe.describe() for recipe in discover().values()]
    lines = lines_of(words.attacks_list(entries), capsys)
    titles = [line for line in lines if line in FAMILIES.values()]
    assert titles == [title for family, title in FAMILIES.items() if family in {entry["family"] for entry in entries}]
    top = lines[: lines.index(titles[0])]
    assert {entry["name"] for entry in entries if entry["use"]} == {
        line.split()[0] for line in top if line and not line.startswith(("Start", "─"))
    }
    for title, family in zip(titles, (family for family in FAMILIES), strict=False):
        after = lines[lines.index(title) :]
        names = {line.split()[0] for line in after[: after.index("", 2)] if line}
        assert {entry["name"] for entry in entries if entry["family"] == family} <= names
    assert lines[-1] == "Settings, costs and deviations of one: perturbox list attacks NAME"


def test_one_attack_is_told_whole(capsys):
    lines = lines_of(words.attack_card(discover()["vafa"].describe()), capsys)
    assert "Limit        q_max (here 20 1/255 of the window): largest quantisation step of a frequency" in lines
    assert "block=32 [voxels], 2 to 128: Edge of a block" in lines
    said = " ".join(lines)
    for text in discover()["vafa"].deviations:
        assert f"- {text}" in said
    lines = lines_of(words.attack_card(discover()["annealed"].describe()), capsys)
    assert (
        "Limit           eps, in linf or l2" in lines and "restarts=1, 1 to 1000: Independent starts; the worst is kept"
    )


def test_the_sentence_tells_what_became_what_not_what_cancels():
    """The spleen keeps its volume, yet most of it is other tissue."""
    flow = [("background", "spleen", 60.0), ("spleen", "liver", 40.0), ("spleen", "background", 18.5)]
    flow += [("spleen", "kidney", 1.5), ("liver", "background", 5.0)]
    rows = [{"from": a, "to": b, "ml": ml} for a, b, ml in flow]
    kept = result(flow=rows, source={"sizes": "ml"}, verdicts={"liver": "held", "spleen": "dice", "kidney": "absent"})
    kept["metrics"]["clean"]["spleen"]["volume_ml"] = 100.0
    assert (
        "broke spleen: of 100 ml spleen 60 are lost (now called liver 40, nothing 18, elsewhere 1.5) and 60 ml are "
        "newly called spleen (before: nothing); mean Dice"
    ) in headline(kept)
    kept["verdicts"]["spleen"] = "held"
    assert "lost" not in headline(kept)


def test_what_other_programs_take_of_a_cpu_is_in_no_estimate():
    """Waiting stands for them: it costs the calling thread nothing."""
    assert estimate._timed(lambda: time.sleep(0.05), torch.device("cpu")) < 0.02
