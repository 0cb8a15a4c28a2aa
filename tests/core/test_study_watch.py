"""A study's folder read by others while it is written, and folders that hold something else."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny

from perturbox.types import InputError

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import pyarrow.parquet as pq

from perturbox.studies.columns import RESULTS
from perturbox.studies.ledger import Ledger
from perturbox.studies.plan import Plan
from perturbox.studies.run import load, require_place, run_study
from perturbox.studies.watch import FOREIGN, Shelf

TEXT = f"""\
schema: perturbox-study/1
name: tiny curve
kind: curve
question: How far?
models:
  tiny: {{victim: "{tiny.__file__}:volume"}}
cases: {{images: "scan*.nii.gz"}}
attacks: [{{name: pgd, steps: 2}}]
eps: {{values: [10, 40]}}
keep_worst: 0
"""
PIECES = 2 * (1 + 2 * 2)  # of each scan a clean look and, for each limit, a craft and a judgement


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """ "whole", and "begun", which ended after its first tasks."""
    place = tmp_path_factory.mktemp("watch")
    for seed in range(2):
        tiny.write_scan(place / f"scan{seed}.nii.gz", seed=seed)
    (place / "study.yaml").write_text(TEXT)
    (place / "shelf").mkdir()
    assert run_study(place / "study.yaml", place / "shelf" / "whole") is not None
    begun = place / "shelf" / "begun"
    begun.mkdir()
    for file in ("plan.json", "ledger.jsonl"):
        shutil.copy(place / "shelf" / "whole" / file, begun)
    ledger = begun / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:6])[:-30])  # 5 lines, and a torn one
    return Shelf(place / "shelf")


def changed(shelf: Shelf, tmp_path: Path, **files: bytes) -> Shelf:
    """A shelf whose one study "odd" is the whole one with other files ("plan_json": …)."""
    shutil.copytree(shelf.root / "whole", tmp_path / "odd", ignore=shutil.ignore_patterns("crafts", "*.parquet"))
    for name, content in files.items():
        (tmp_path / "odd" / name.replace("_", ".")).write_bytes(content)
    return Shelf(tmp_path)


def test_a_plan_reads_as_it_was_written(shelf):
    plan, _ = load(shelf.root.parent / "study.yaml")
    again = Plan.read(json.loads(json.dumps(plan.document())))
    assert again == plan
    assert list(again.pieces()) == list(plan.pieces()) and len(set(plan.pieces())) == PIECES


def test_rows_are_those_of_the_parquet(shelf):
    look = shelf.look("whole")
    assert (look.state, look.done, look.all, look.failed) == ("done", PIECES, PIECES, 0)
    assert (look.study, look.kind, look.question, look.cases) == ("tiny curve", "curve", "How far?", 2)
    assert look.verdict == json.loads((shelf.root / "whole" / "study.json").read_text())["verdict"]
    key = lambda row: [str(row[name]) for name in RESULTS]  # noqa: E731
    table = pq.read_table(shelf.root / "whole" / "results.parquet").to_pylist()
    assert sorted(shelf.rows("whole"), key=key) == sorted(table, key=key)
    assert len(table) == 2 * 2 * len(
        json.loads((shelf.root / "whole" / "plan.json").read_text())["models"]["tiny"]["structures"]
    )


def test_a_study_in_the_midst_shows_what_it_has(shelf):
    """Five whole lines count, the torn sixth doesn't; rows are those of judgements that are written down."""
    look = shelf.look("begun")
    assert (look.state, look.done, look.all, look.verdict) == ("unfinished", 5, PIECES, ())
    lines = [json.loads(line) for line in (shelf.root / "whole" / "ledger.jsonl").read_text().splitlines()[:5]]
    judged = sum(line["kind"] == "judge" for line in lines)
    whole = shelf.rows("whole")
    rows = shelf.rows("begun")
    assert judged >= 1 and len(rows) == judged * len(whole) / 4
    assert all(row in whole for row in rows)
    torn = (shelf.root / "begun" / "ledger.jsonl").read_bytes()
    assert not torn.endswith(b"\n")  # reading it doesn't repair it


def test_what_is_written_meanwhile_is_seen(shelf, tmp_path):
    shutil.copytree(shelf.root / "begun", tmp_path / "live")
    live = Shelf(tmp_path)
    assert live.look("live").done == 5
    ledger = Ledger(tmp_path / "live" / "ledger.jsonl")
    try:
        for line in (shelf.root / "whole" / "ledger.jsonl").read_text().splitlines()[5:]:
            before = live.look("live").done
            ledger.add(json.loads(line))
            assert live.look("live").done == before + 1
    finally:
        ledger.close()
    assert live.look("live").state == "unfinished"  # its tables and its page are missing
    shutil.copy(shelf.root / "whole" / "study.json", tmp_path / "live")
    assert live.look("live").state == "done"


def test_another_plan_makes_a_finished_study_unfinished(shelf, tmp_path):
    plan = json.loads((shelf.root / "whole" / "plan.json").read_text())
    plan["study"]["eps"]["values"].append(80.0)
    extra = [{**craft, "eps": 80.0, "key": craft["key"][::-1]} for craft in plan["crafts"] if craft["eps"] == 40]
    plan["crafts"] += extra
    look = changed(shelf, tmp_path, plan_json=json.dumps(plan).encode()).look("odd")
    assert (look.state, look.done, look.all, look.verdict) == ("unfinished", PIECES, PIECES + 4, ())


def test_a_folder_of_an_older_version_is_read_without_a_plan(shelf, tmp_path):
    odd = changed(shelf, tmp_path)
    (tmp_path / "odd" / "plan.json").unlink()
    look = odd.look("odd")
    assert (look.state, look.study, look.done, look.all, look.cases) == ("done", "tiny curve", PIECES, None, 2)
    assert odd.rows("odd") == []


PLAN_OF_ANOTHER = b'{"schema": "perturbox-study-plan/9"}'
DAMAGED = {
    "not JSON": ({"plan_json": b"{"}, FOREIGN.format("plan.json")),
    "of another version": ({"plan_json": PLAN_OF_ANOTHER}, FOREIGN.format("plan.json")),
    "a list": ({"plan_json": b"[]"}, FOREIGN.format("plan.json")),
    "without end": ({"plan_json": b"[" * 100_000}, FOREIGN.format("plan.json")),
    "not text": ({"study_json": b"\xff\xfe\x00"}, FOREIGN.format("study.json")),
    "NaN": ({"study_json": b'{"verdict": NaN}'}, FOREIGN.format("study.json")),
    "a key twice": ({"study_json": b'{"a": 1, "a": 2}'}, FOREIGN.format("study.json")),
    "numbers for sentences": (
        {"study_json": b'{"verdict": [1], "models": {}, "cases": {}, "name": "x", "kind": "curve"}'},
        FOREIGN.format("study.json"),
    ),
    "a line of something": (
        {"ledger_jsonl": b'{"key": "a", "status": "ok"}\nhello\n{"key": "b"}\n'},
        "The study's ledger.jsonl, line 2 is damaged; remove that line, and what it held is done again.",
    ),
    "lines without end": (
        {"ledger_jsonl": b"[" * 100_000 + b"\n"},
        "The study's ledger.jsonl, line 1 is damaged; remove that line, and what it held is done again.",
    ),
    "a number for a key": ({"ledger_jsonl": b'{"key": 1}\n'}, FOREIGN.format("ledger.jsonl")),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_told_in_a_sentence(shelf, tmp_path, case):
    files, sentence = DAMAGED[case]
    look = changed(shelf, tmp_path, **files).look("odd")
    assert (look.state, look.problem) == ("unreadable", sentence)


def test_entries_of_something_else_are_told_when_rows_are_asked_for(shelf, tmp_path):
    keys = [json.loads(line)["key"] for line in (shelf.root / "whole" / "ledger.jsonl").read_text().splitlines()]
    lines = "".join(json.dumps({"key": key, "status": "ok", "structures": 5}) + "\n" for key in keys)
    odd = changed(shelf, tmp_path, ledger_jsonl=lines.encode())
    assert odd.look("odd").all == PIECES
    with pytest.raises(InputError) as told:
        odd.rows("odd")
    assert str(told.value) == FOREIGN.format("ledger.jsonl")


def test_a_reason_tells_no_path(shelf, tmp_path):
    """Neither one of the plan, with spaces in it, nor any other."""
    where = "/srv/our hospital/scans"
    plan = json.loads((shelf.root / "whole" / "plan.json").read_text())
    plan["cases"]["scan0"]["image"] = f"{where}/scan0.nii.gz"
    reason = f"'{where}/scan0.nii.gz' is short; see /var/lib/other/log.txt, or 3 HU/mm and/or less."
    lines = [json.loads(line) for line in (shelf.root / "whole" / "ledger.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "craft":
            line |= {"status": "failed", "reason": reason}
    ledger = "".join(json.dumps(line) + "\n" for line in lines)
    odd = changed(shelf, tmp_path, plan_json=json.dumps(plan).encode(), ledger_jsonl=ledger.encode())
    assert {row["reason"] for row in odd.rows("odd")} == {
        "'scan0.nii.gz' is short; see log.txt, or 3 HU/mm and/or less."
    }
    assert odd.look("odd").failed == 4


def test_links_pipes_and_giants_are_left_alone(shelf, tmp_path):
    """A link to a study, a link in place of a file, a pipe that would never answer, a file of a terabyte."""
    (tmp_path / "secret").mkdir()
    shutil.copy(shelf.root / "whole" / "study.json", tmp_path / "secret")
    place = tmp_path / "shelf"
    place.mkdir()
    (place / "linked").symlink_to(tmp_path / "secret")
    for name in ("linking", "piped", "giant", "plain", ".hidden"):
        (place / name).mkdir()
    (place / "linking" / "study.json").symlink_to(tmp_path / "secret" / "study.json")
    os.mkfifo(place / "piped" / "ledger.jsonl")
    with open(place / "giant" / "ledger.jsonl", "wb") as file:
        file.truncate(2**40)
    shutil.copy(shelf.root / "whole" / "study.json", place / ".hidden")
    odd = Shelf(place)
    assert odd.names() == ["giant"]
    assert odd.look("giant").problem == "The study's ledger.jsonl is larger than any study's, or no plain file."
    shutil.copy(shelf.root / "whole" / "study.json", place / "plain")
    (place / "plain" / "report.html").symlink_to(tmp_path / "secret" / "study.json")
    assert odd.names() == ["giant", "plain"]
    assert odd.report("plain") is None and not odd.look("plain").report


def test_a_date_of_another_era_is_no_date(shelf, tmp_path):
    odd = changed(shelf, tmp_path)
    os.utime(tmp_path / "odd" / "ledger.jsonl", (2**36, 2**36))
    assert odd.look("odd").changed is None
    os.utime(tmp_path / "odd" / "ledger.jsonl", (1e9, 1e9))
    assert odd.look("odd").changed == 1e9


def test_a_study_killed_before_its_ledger_goes_on(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    require_place(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="never overwritten"):
        require_place(tmp_path / "out")
