"""Every kind of result, told alike by the command line, the report and the margin: the facts are those of
`results_made`, which the Slicer module's tests read as well."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

import made_scores
import results_made
from perturbox.cli import words
from perturbox.judge import metrics
from perturbox.judge.columns import summarise
from perturbox.judge.flow import flow
from perturbox.judge.record import SCHEMA, read_record
from perturbox.judge.summary import scores
from perturbox.judge.verdicts import SAID
from perturbox.judge.verdicts import said as as_said
from perturbox.report import flows, write_report
from perturbox.report.findings import readable
from perturbox.report.load import load
from perturbox.report.story import tell
from perturbox.report.words import fixed, headline

CASES = {case.name: case for case in results_made.cases()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    results_made.write_all(folder)
    return folder


@pytest.fixture(params=CASES)
def told(request, made):
    """(folder, record, what must be told) of one case."""
    expected = json.loads((made / "expected.json").read_text(encoding="utf-8"))[request.param]
    folder = made / request.param
    return folder, read_record(folder), expected


def test_there_are_enough_of_every_kind(made):
    expected = json.loads((made / "expected.json").read_text(encoding="utf-8"))
    found = {row["verdict"] for case in expected.values() for row in case["structures"].values()}
    assert found == set(metrics.VERDICTS) and len(expected) >= 40


@pytest.mark.parametrize("name", CASES)
def test_scores_and_verdicts_are_those_of_plain_loops(name):
    """The package's measures of the same label maps, against the generator's."""
    case = CASES[name]
    before, after, _ = results_made.maps(case)
    steps, voxel, _ = results_made.geometry(case)
    labels = made_scores.LABELS
    rows = metrics.structures(after, before, labels, steps, voxel)
    _, expected = results_made.made(case)
    expected_flow = [(row["from"], row["to"], pytest.approx(row["ml"])) for row in expected["flow"]]
    assert [tuple(row.values()) for row in flow(before, after, labels, voxel)] == expected_flow
    for structure, against in made_scores.scores(after, before, steps, voxel).items():
        assert rows[structure] == pytest.approx(against)
        a, b = before == labels[structure], after == labels[structure]
        found = metrics.verdict(
            {"volume_ml": a.sum() * voxel},
            rows[structure],
            metrics.failed_slices(a, b, voxel),
            case.floor if a.any() else None,
            outlined=expected["structures"][structure]["outlined"],
            tested=case.untested is None,
        )
        assert found == expected["structures"][structure]["verdict"]


def test_a_record_reads_as_the_present_schema_whatever_its_age(told):
    _, record, expected = told
    assert record["schema"] == SCHEMA and record["source"]["sizes"] == expected["sizes"]
    summary = summarise(record)
    assert record["summary"] == {key: summary[key] for key in record["summary"]}
    assert (summary["headline"], summary["broken"]) == (expected["headline"], expected["broken"])
    for name, row in expected["structures"].items():
        assert record["verdicts"][name] == row["verdict"]
        clean, after = (record["metrics"][key][name] for key in ("clean", "adversarial"))
        assert clean["dice"] == pytest.approx(row["dice_before"]) and scores(record, name)["dice"] == pytest.approx(
            row["dice_after"]
        )
        assert scores(record, name)["hd95_mm"] == pytest.approx(row["hd95"])
        assert (clean["volume_ml"], after["volume_ml"]) == pytest.approx((row["before"], row["after"]))
        assert record["control"]["noise"]["dice"][name] == pytest.approx(row["chance"])


def test_what_became_what_adds_up_to_the_saved_label_maps(told):
    """In result.json and, cell by cell, in the page's table."""
    folder, record, _ = told
    voxel = results_made.geometry(CASES[folder.name])[1]
    counted = {name: pytest.approx(pair) for name, pair in results_made.became_in_files(folder, voxel).items()}
    if record["flow"] is not None:  # the first schema held none: the page counts
        assert results_made.sums([(row["from"], row["to"], row["ml"]) for row in record["flow"]]) == counted
    story = tell(load(folder))
    flow = [(row["from"], row["to"], row["ml"]) for row in story.result.record["flow"]]
    assert results_made.sums(flow) == counted
    cells = re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td><td>([^<]*)</td></tr>', flows.section(story))
    name = {row: "Nothing" if row == "background" else readable(row) for row in made_scores.LABELS}
    sizes = story.result.record["source"]["sizes"]
    wanted = [(name[old], name[new], results_made.amount(ml, sizes)) for old, new, ml in flow]
    assert [tuple(map(unescape, row)) for row in cells] == wanted


def cells(table) -> dict[str, list[str]]:
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    return {first: rest for first, *rest in rows}


def test_the_command_line(told, tmp_path):
    _, record, expected = told
    said, table, *rest = words.attack_summary(record, tmp_path)
    assert said == expected["headline"]
    first = [line for line in rest if line.startswith("What became what: ")]
    rows = [f"{flow['from']} → {flow['to']}".replace("background", "nothing") for flow in record["flow"] or []]
    assert len(first) == bool(rows) and all(row in first[0] for row in rows)
    assert not [line for line in rest if line.startswith("Goal")]  # nobody gave one
    found = cells(table)
    present = {name: row for name, row in expected["structures"].items() if row["verdict"] != "absent"}
    assert set(found) == set(present)
    for name, row in present.items():
        verdict, dice, _, far, chance = found[name]
        unsaid = "" if row["outlined"] or row["verdict"] == "not-outlined" else ", not outlined"
        assert verdict == as_said(row["verdict"]) + unsaid
        after = fixed(row["dice_after"], 3)
        if record["reference"] == "label":
            after = f"{fixed(row['dice_before'], 3)} → {after}" if row["outlined"] else f"({after})"
        assert (dice, far, chance) == (after, fixed(row["hd95"], 1), fixed(row["chance"], 3))
    heads = [str(column.header) for column in table.columns]
    assert f"Δ {expected['sizes']}" in heads
    assert ("HD95 pixels" if expected["sizes"] == "pixels" else "HD95 mm") in heads


def test_the_report(told):
    folder, record, expected = told
    story = tell(load(folder))
    assert {f.name: f.reason for f in story.findings} == {n: r["verdict"] for n, r in expected["structures"].items()}
    assert [f.name for f in story.findings if f.broken] == expected["broken"]
    for finding in story.findings:
        row = expected["structures"][finding.name]
        assert (finding.outlined, finding.agreement) == (row["outlined"], pytest.approx(row["agreement"]))
        assert (finding.before, finding.after) == pytest.approx((row["before"], row["after"]))
        if row["outlined"]:
            assert (finding.dice_before, finding.dice_after) == pytest.approx((row["dice_before"], row["dice_after"]))
    page = write_report(folder).read_text(encoding="utf-8")
    assert expected["told"].replace("'", "&#x27;") in page
    assert (f"Stress test: {'nothing broke' if not expected['broken'] else expected['broken'][0]}") in headline(
        story.result, story.findings
    )
    for row in expected["structures"].values():
        assert row["verdict"] == "absent" or SAID[row["verdict"]][1] in page
    if expected["sizes"] == "pixels":
        shown = page[page.index("<main>") : page.index('<script type="application/json"')]
        assert not [unit for unit in (" mm", "cm²", " ml") if unit in shown]
    assert record["reference"] != "label" or "Dice with expert" in page


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.margin])
def test_the_margin(made, name, capsys):
    case = CASES[name]
    document = {"unit": "HU", "noise": {"sigma": 8.0, "region": "liver"}, "structures": case.margin}
    document |= {"stopped_early": False, "warnings": []}
    found = cells(words.margin_summary(document, made)[1])
    _, expected = results_made.made(case)
    for structure, bound in case.margin.items():
        breaks, _, verdict = found[structure]
        assert verdict == as_said(bound["verdict"])
        assert breaks.replace(" HU", "").startswith(expected["margin"][structure])
    assert "(changes of at most 6 HU)" in found["kidney"][0] or case.margin["kidney"]["used"] == 32.0
    # The report's table of structures shows the same bounds.
    page = write_report(made / name).read_text(encoding="utf-8")
    assert all(f"<td>{text}" in page for text in expected["margin"].values())


def test_scores_in_plain_loops_know_what_they_measure():
    """The generator's own measures, on boxes whose numbers one can count."""
    a, b = np.zeros((12, 4, 4), bool), np.zeros((12, 4, 4), bool)
    a[0:4], b[2:6] = True, True
    assert made_scores.dice(a, b) == 0.5
    assert [d.max() for d in made_scores.distances(a, b, (3.0, 3.0, 3.0))] == [6.0, 6.0]
