"""The margin behind a defence, on a model whose breaking point is known to the unit: `victims.layers` loses an organ of
90 HU below 74.5 and soft tissue of 40 HU below 24.5, so without a defence both break at 16 HU."""

import dataclasses
import json
import shutil
from unittest.mock import patch

import pytest
import torch
import victims
from test_margins import HERE, breaking_points, job_on, three_tissues

import perturbox as px
from perturbox.cli import main
from perturbox.cli.words import margin_summary
from perturbox.defenses import defend
from perturbox.job import estimate
from perturbox.job.estimate import estimate_margin
from perturbox.job.folder import verify
from perturbox.job.margins import find_margin, prepare_margin
from perturbox.model.defended import Defense, StandIn

IDENTITY, WRONG = (StandIn(name, lambda x, s, g, k=k: k * x) for name, k in (("identity", 1), ("wrong way", -1)))
# The model sees 20 HU steps: the organ is lost below 70 (the level of 60), so with a change of 21; soft tissue, at 40,
# below 30 (the level of 20), with one of 11.
STEPS = "bit-depth:bits=6:low=0:high=1260"


def steps(*stand_ins: StandIn) -> Defense:
    return Defense("steps", lambda x, spacing, draws: 20 * torch.round(x / 20), stand_ins)


def margins(found: dict) -> tuple[dict, dict]:
    rows = found["structures"], found["undefended"]["structures"]
    return tuple({name: row["breaks_at"] for name, row in part.items()} for part in rows)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defended")
    job = job_on(three_tissues(), folder, "layers", target=("soft", "organ"), defense=(STEPS,), attack="pgd")
    return find_margin(job, folder / "margin", 32.0), folder / "margin"


def test_breaking_points_are_the_known_ones_behind_the_defence_and_without(searched):
    found, out = searched
    assert margins(found) == ({"soft": 11.0, "organ": 21.0}, {"soft": 16.0, "organ": 16.0})
    assert (found["structures"]["organ"]["above"], found["structures"]["soft"]["above"]) == (20.0, 10.0)
    plain = json.loads((out / "without" / "margin.json").read_text())
    assert plain["structures"] == found["undefended"]["structures"] and "undefended" not in plain
    assert "defense" not in plain["victim"] and found["victim"]["defense"][0]["name"] == "bit-depth"


def test_at_each_limit_that_held_every_stand_in_was_tried(searched):
    found, out = searched
    tried: dict = {}
    for trial in found["trials"]:
        tried.setdefault((trial["eps"], *trial["aimed"]), []).append(trial)
    for trials in tried.values():
        names = [trial["stand_in"] for trial in trials]
        assert names == ["identity", "soft steps"][: len(names)]
        if len(trials) == 1:
            assert all(trials[0]["broken"][name] for name in trials[0]["aimed"])
    assert any(len(trials) == 2 for trials in tried.values())
    plain = json.loads((out / "without" / "margin.json").read_text())
    assert not any("stand_in" in trial for trial in plain["trials"])


def test_each_proof_is_a_result_of_both_attacks_and_all_verifies(searched):
    found, out = searched
    for name in ("soft", "organ"):
        row = found["structures"][name]
        record = json.loads((out / row["witness"] / "result.json").read_text())
        assert record["budget"]["measured"]["linf"] == row["breaks_at"]
        dice = record["defense"]["dice"]
        assert dice["adaptive"][name] < 0.9 and set(dice) == {"clean", "oblivious", "adaptive", "undefended"}
        assert record["defense"]["stand_in"] in [one["stand_in"] for one in record["defense"]["candidates"]]
    assert verify(out, trust=True) == []


def test_a_touched_bound_of_the_model_alone_is_found(searched, tmp_path):
    shutil.copytree(searched[1], tmp_path / "touched")
    document = json.loads((tmp_path / "touched" / "margin.json").read_text())
    document["undefended"]["structures"]["organ"]["breaks_at"] = 3.0
    (tmp_path / "touched" / "margin.json").write_text(json.dumps(document))
    problems = verify(tmp_path / "touched", trust=True)
    assert any("undefended.structures.organ.breaks_at: margin.json says 3" in line for line in problems)


def test_page_terminal_and_sentence_say_both(searched):
    found, out = searched
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Without it" in page and page.count('<a href="without/report.html">≤ 16</a>') == 2
    assert breaking_points(out / "report.html") == {"Soft": "≤ 11", "Organ": "≤ 21"}
    assert breaking_points(out / "without" / "report.html") == {"Soft": "≤ 16", "Organ": "≤ 16"}
    headline, table, *_ = margin_summary(found, out)
    assert headline.endswith("by attacks that know of it; without it: soft ≤ 16 HU, organ ≤ 16 HU.")
    assert f"behind {found['victim']['defense'][0]['spec']}" in headline
    assert [str(column.header) for column in table.columns][-2:] == ["without the defence", "Verdict"]
    assert [str(cell) for cell in table.columns[-2].cells] == ["≤ 16 HU", "≤ 16 HU"]


@pytest.mark.parametrize(
    ("stand_ins", "at"), [((WRONG, IDENTITY), 21.0), ((WRONG,), None)], ids=["the worst counts", "one that misleads"]
)
def test_the_smallest_break_of_all_stand_ins_counts(tmp_path, stand_ins, at):
    model = defend(victims.layers(), steps(*stand_ins))
    job = job_on(three_tissues(), tmp_path, "layers", target=("organ",), attack="pgd")
    found = find_margin(job, tmp_path / "M", 32.0, victim=model)
    assert margins(found) == ({"organ": at}, {"organ": 16.0})
    assert px.verify(tmp_path / "M", model) == []


def test_a_filter_with_a_gradient_of_its_own(tmp_path):
    """Twice the distance from 90 HU: the organ breaks at half the change."""
    steep = Defense("steep", lambda x, spacing, draws: 90 + 2 * (x - 90))
    job = job_on(three_tissues(), tmp_path, "layers", target=("organ",), attack="pgd")
    found = find_margin(job, tmp_path / "M", 32.0, victim=defend(victims.layers(), steep))
    assert margins(found) == ({"organ": 8.0}, {"organ": 16.0})


def test_command_line_and_python_reach_it(tmp_path, capsys):
    job = job_on(three_tissues(), tmp_path, "layers")
    given = ["--victim", f"{HERE}:layers", "--target", "organ", "--attack", "pgd", "--steps", "10", "--force"]
    given += ["--max-eps", "32", "--defense", STEPS, "--out", str(tmp_path / "M")]
    assert main(["margin", job.image, *given]) == 0
    said = capsys.readouterr().out
    assert "without it: organ ≤ 16 HU" in said and "≤ 21 HU" in said
    model = px.defend(victims.layers(), STEPS)
    found = px.margin(job.image, model, "pgd", steps=10, target="organ", max_eps=32, force=True)
    assert found["organ"] == 21.0 and found.record["undefended"]["structures"]["organ"]["breaks_at"] == 16.0


def test_what_it_takes_counts_the_stand_ins_and_the_search_without(tmp_path):
    job = job_on(three_tissues(), tmp_path, "layers", target=("organ",), attack="pgd")
    plain = prepare_margin(job, 32.0)
    behind = prepare_margin(dataclasses.replace(job, defense=(STEPS,)), 32.0)
    costs = estimate.measure_costs(plain.victim, plain.image, plain)
    with patch.object(estimate, "measure_costs", return_value=costs):
        once, all_of_it = estimate_margin(plain, 32.0), estimate_margin(behind, 32.0)
    assert all_of_it.seconds == pytest.approx(3 * once.seconds)  # two stand-ins, and without
