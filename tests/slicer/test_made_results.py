"""Every kind of result is told here as the package tells it: the facts are those of `results_made`, which the package's
own tests read as well."""

import json
from pathlib import Path

import numpy as np
import pytest
from PerturboxLib import charts, flow
from PerturboxLib.numbers import fixed
from PerturboxLib.results import Result, countLabels
from PerturboxLib.rows import VERDICTS

import made_scores
import results_made

CASES = {case.name: case for case in results_made.cases()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    results_made.write_all(folder)
    return folder


@pytest.fixture(params=CASES)
def told(request, made):
    """(result with the counts of its label maps, what must be told) of one case."""
    expected = json.loads((made / "expected.json").read_text(encoding="utf-8"))[request.param]
    record = json.loads((made / request.param / "result.json").read_text(encoding="utf-8"))
    before, after, _ = results_made.maps(CASES[request.param])
    maps = [m.reshape((*m.shape, 1)[:3]).T for m in (before, after)]
    affine = np.diag([*(*record["source"]["spacing_mm"], 1.0)[:3], 1.0])
    return Result(record, affine, countLabels(*maps, made_scores.LABELS)), expected


def test_rows_hold_the_same_verdicts_and_numbers(told):
    result, expected = told
    assert result.size == expected["sizes"]
    rows = {row.name: row for row in result.rows(absent=True)}
    for name, row in expected["structures"].items():
        shown = rows[name]
        assert (shown.reason, shown.outlined) == (row["verdict"], row["outlined"])
        assert shown.broken == (name in expected["broken"])
        assert shown.agreement == pytest.approx(row["agreement"])
        assert (shown.beforeMl, shown.afterMl) == pytest.approx((row["before"], row["after"]))
        if row["outlined"]:
            assert (shown.diceBefore, shown.dice) == pytest.approx((row["dice_before"], row["dice_after"]))
            assert shown.hd95Mm == pytest.approx(row["hd95"])
        else:
            assert (shown.diceBefore, shown.dice, shown.hd95Mm) == (None, None, None)
            assert shown.movedMm == pytest.approx(row["hd95"])
    assert [row.name for row in result.rows() if row.broken] == expected["broken"]


def test_the_sentence_is_the_records_own(told):
    result, expected = told
    said = result.verdict()
    if "summary" in result.record:
        assert said == expected["headline"]
    else:  # the first schema had none: the same facts in words of this module
        assert all(name in said for name in expected["broken"][:1])
        assert ("changed no structure beyond the limits" in said) == (not expected["broken"])


def test_what_became_what_adds_up_to_the_saved_label_maps(told, made, request):
    """Of each structure by itself, as the panel shows what is selected."""
    result, _ = told
    if "flow" not in result.record:  # the first schema had none
        assert flow.lines(result) == []
        return
    counted = results_made.became_in_files(made / request.node.callspec.params["told"], result.voxelMl)
    for name in result.names:
        found = [(each.before, each.after, each.amount) for each in flow.flows(result, [name])]
        assert results_made.sums(found)[name] == pytest.approx(counted[name])
        lines = [(each.words, result.ml(each.amount)) for each in flow.flows(result, [name])]
        assert [(line[:2], line[2]) for line in flow.lines(result, [name])] == lines  # few enough to be told each


def test_cells_and_tables_say_the_same(told, scene):
    result, expected = told
    assert f"Δ {expected['sizes']}" in result.headers()
    assert ("HD95 pixels" if expected["sizes"] == "pixels" else "HD95 mm") in result.headers()
    expert = not result.ownReference
    for row in result.rows():
        wanted, cells = expected["structures"][row.name], row.cells(expert)
        unsaid = "" if wanted["outlined"] or wanted["verdict"] == "not-outlined" else ", not outlined"
        assert cells[-1] == " ".join(VERDICTS[wanted["verdict"]]) + unsaid
        if not wanted["outlined"]:
            assert cells[1:3] == ["not outlined", f"({fixed(wanted['agreement'], 3)})"]
        elif expert:
            assert cells[1:3] == [fixed(wanted["dice_before"], 3), fixed(wanted["dice_after"], 3)]
        if expected["margin"]:
            assert row.breaksAt.startswith(expected["margin"][row.name])
    node = charts.structureTable(result, "made")
    verdicts = node.GetTable().GetColumnByName("Verdict")
    assert [verdicts.GetValue(n) for n in range(verdicts.GetNumberOfValues())] == [
        row.verdict for row in result.rows(absent=True)
    ]
    assert node.GetColumnUnitLabel("HD95") == result.length and node.GetColumnUnitLabel("Before") == expected["sizes"]


@pytest.mark.parametrize("name", ["own", "expert"])
def test_folders_that_the_first_schema_left_still_open(name):
    """The package's tests (test_first_schema) expect the same of the same folders."""
    folder = Path(__file__).parents[1] / "core" / "first_schema" / name
    result = Result(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    rest = "not-outlined" if name == "expert" else "held"
    assert {row.name: row.reason for row in result.rows()} == {"liver": "dice", "bone": rest}
    assert "liver" in result.verdict() and "bone" not in result.verdict()
