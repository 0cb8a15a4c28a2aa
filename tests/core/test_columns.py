"""A new column of the table of structures is one entry: command line, report and Slicer show it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from report_fixture import make_result

from perturbox.judge import columns
from perturbox.judge.record import read_record
from perturbox.judge.summary import counted, size

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core"
ENTRY = """COLUMNS = (
    Column(
        "surface-dice-of-a-test",
        lambda record: "Surface Dice of a test",
        lambda record, name: fixed(scores(record, name)["nsd"], 4),
    ),"""
PROOF = """
import json, sys
from pathlib import Path
from perturbox.cli import words
from perturbox.judge.columns import summarise
from perturbox.judge.record import read_record
from perturbox.report import write_report
from PerturboxLib.results import Result

folder = Path(sys.argv[1])
record = read_record(folder)
before = Result({**record, "summary": {key: record["summary"][key] for key in ("headline", "broken", "look")}})
old = before.headers(), [row.cells() for row in before.rows()]
record["summary"] = summarise(record)
(folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
write_report(folder)
words.show(words.structures_table(record))
shown = Result(record)
assert [text for text in shown.headers() if text not in old[0]] == ["Surface Dice of a test"]
index = shown.headers().index("Surface Dice of a test")
rows = shown.rows()
assert [[cell for k, cell in enumerate(row.cells()) if k != index] for row in rows] == old[1]
print(json.dumps({row.name: row.cells()[index] for row in rows}))
"""


def test_a_new_column_touches_one_file_and_every_face_shows_it(tmp_path):
    folder, core = tmp_path / "R", tmp_path / "core"
    make_result(folder)
    record = read_record(folder)
    before = {one["key"] for one in columns.summarise(record).get("columns", ())}
    shown = {one.key for one in columns.COLUMNS if not one.basic and one.shown(record)}
    assert before == shown  # the basic ones need no carrying
    shutil.copytree(CORE, core, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    place = core / "perturbox" / "judge" / "columns.py"
    place.write_text(place.read_text(encoding="utf-8").replace("COLUMNS = (", ENTRY), encoding="utf-8")
    changed = [path for path in CORE.rglob("*.py") if path.read_bytes() != (core / path.relative_to(CORE)).read_bytes()]
    assert [path.name for path in changed] == ["columns.py"]
    paths = [str(core), str(ROOT / "slicer_extension" / "Perturbox")]
    code = f"import sys; sys.path[:0] = {paths!r}{PROOF}"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    *printed, cells = done.stdout.strip().splitlines()
    rows = record["metrics"]["adversarial"]
    expected = {name: f"{rows[name]['nsd']:.4f}" for name in json.loads(cells)}
    assert json.loads(cells) == expected and len(expected) >= 4
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<th scope="col">Surface Dice of a test</th>' in page and "Surface Dice of a test" in "".join(printed)
    for name, text in expected.items():
        assert f"<td>{text}</td>" in page
        assert any(line.split()[:1] == [text] and name in line for line in printed if line.strip())


def test_pixels_are_counted_with_commas():
    assert columns.change(1000.0, 3510.0, "pixels") == "+2,510 (+251 %)"
    assert columns.change(12_345.0, 1.0, "pixels") == "−12,344 (−100 %)"
    assert columns.change(1000.0, 3510.0) == "+2510.0 (+251 %)"
    assert (size(1234567.0, "pixels"), size(999.4, "pixels"), size(12345.0)) == ("1,234,567", "999", "12345")
    assert counted(-1234.5) == "−1,234"


def test_keys_are_unique_and_titles_follow_the_units(tmp_path):
    make_result(tmp_path / "R")
    record = read_record(tmp_path / "R")
    assert len({one.key for one in columns.COLUMNS}) == len(columns.COLUMNS)
    titles, rows = columns.table(record)
    basic = [title for one, title in zip(columns.COLUMNS, titles, strict=False) if one.basic]
    assert basic == ["Structure", "Verdict", "Dice", "Δ ml", "HD95 mm", "Noise Dice"]
    assert all(len(row) == len(titles) for row in rows)
    record["source"]["sizes"] = "pixels"
    assert {"Δ pixels", "HD95 pixels"} <= set(columns.table(record)[0])
