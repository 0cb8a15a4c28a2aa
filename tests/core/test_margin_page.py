"""The page of a search for the margin: its numbers are those of margin.json and of the files that prove them."""

import html
import json
import re
import shutil

import numpy as np
import pytest
import tiny
from report_reader import CONTRAST, Reader

from perturbox.cli import main
from perturbox.job.execute import Job
from perturbox.job.folder import verify
from perturbox.job.margins import find_margin
from perturbox.judge.summary import fixed, margin_headline, number
from perturbox.report import rebuild, same_page, write_report
from perturbox.report.charts import Frame, height
from perturbox.report.margin import breaks_table, curves, read_search
from perturbox.report.tables import margin_cells, noise_scale
from perturbox.types import InputError

VICTIM = f"{tiny.__file__}:volume"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """(folder, margin.json): the liver breaks at 7 HU of 16, the bone holds."""
    folder = tmp_path_factory.mktemp("searched")
    scan = tiny.write_scan(folder / "scan.nii.gz")
    job = Job(str(scan), victim=VICTIM, attack="pgd", steps=10)
    found = find_margin(job, folder / "margin", 16.0)
    return folder / "margin", {key: value for key, value in found.items() if key != "warnings"}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("profile"))
    yield reader
    reader.driver.quit()


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()


def breaks(page: str) -> dict[str, dict[str, str]]:
    """The table of breaking points: structure -> heading -> cell."""
    table = re.search(r'<table class="numbers">(.*?)</table>', page, re.DOTALL)
    assert table is not None
    heads = [plain(head.split("<br>")[0]) for head in re.findall(r'<th scope="col">(.*?)</th>', table[1])]
    rows = re.findall(r"<tr data-structure=.*?</tr>", table[1])
    cells = [[plain(cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]
    return {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in cells}


def test_the_table_says_what_margin_json_says(searched):
    folder, margin = searched
    table = breaks((folder / "report.html").read_text(encoding="utf-8"))
    liver, bone = margin["structures"]["liver"], margin["structures"]["bone"]
    assert list(table) == ["Liver", "Bone"]  # what breaks soonest first
    assert table["Liver"]["Breaks at, HU"] == f"≤ {number(liver['breaks_at'])}"
    assert table["Liver"]["Held at, HU"] == number(liver["above"])
    assert table["Bone"]["Breaks at, HU"] == f"> {number(bone['above'])}"
    assert (table["Liver"]["Verdict"], table["Bone"]["Verdict"]) == ("▼ size", "● held")


def bars(page: str) -> list[tuple[float, float]]:
    """(length, place of the tick) of the bar in each row, as drawn."""
    drawn = re.findall(
        r'<svg class="noise-bar".*?<rect class="\w+" x="1" y="3" width="([\d.]+)".*?<line x1="([\d.]+)"', page
    )
    return [(float(length), float(tick)) for length, tick in drawn]


def test_bars_of_a_table_have_one_scale():
    """Bounds of 2, 8 and 5 HU at a noise of 4: the longest fills its bar, 2 of its 8 HU are a quarter, and every row
    has its tick where 4 HU are."""
    rows = {
        "a": {"breaks_at": 2.0, "above": 1.0},
        "b": {"breaks_at": None, "above": 8.0},
        "c": {"breaks_at": 5.0, "above": 4.0},
        "d": {"breaks_at": None, "above": None, "verdict": "not-tested"},
    }
    full = noise_scale(rows, 4.0)
    assert full == 2.0
    page = "".join(margin_cells(row, 4.0, full) for row in rows.values())
    assert bars(page) == [(25.0, 51.0), (100.0, 51.0), (62.5, 51.0)]
    assert [plain(cell) for cell in re.findall(r'<td class="measured">.*?</td>', page)] == [
        "≤ 0.5 σ",
        "> 2 σ",
        "≤ 1.2 σ",
    ]
    # Where all stay below the noise the tick is the end of the scale.
    assert noise_scale(rows, 16.0) == 1.0 and bars(margin_cells(rows["b"], 16.0, 1.0)) == [(50.0, 101.0)]
    assert noise_scale(rows, None) == 1.0 and bars(margin_cells(rows["b"], None, 1.0)) == []


def test_bars_of_a_page_are_as_long_as_their_bounds(searched):
    """This scan's noise can't be measured; told a noise of 4 HU, the page draws the liver's 7 of the bone's 16 HU."""
    folder, margin = searched
    search = read_search(folder)
    assert search.margin["noise"]["sigma"] is None and bars(breaks_table(search)) == []
    search.margin["noise"] = {"sigma": 4.0, "region": "told"}
    liver, bone = margin["structures"]["liver"]["breaks_at"], margin["structures"]["bone"]["above"]
    assert bars(breaks_table(search)) == [(round(100 * liver / bone, 1), 26.0), (100.0, 26.0)]
    assert (liver, bone) == (7.0, 16.0)


def test_dice_and_noise_are_those_of_the_file_that_proves_the_break(searched):
    folder, margin = searched
    record = json.loads((folder / margin["structures"]["liver"]["witness"] / "result.json").read_text())
    row = breaks((folder / "report.html").read_text(encoding="utf-8"))["Liver"]
    assert row["Dice"] == fixed(record["metrics"]["adversarial"]["liver"]["dice"], 3)
    assert row["Random noise"] == fixed(record["control"]["noise"]["dice"]["liver"], 3)


def test_the_noise_of_a_trial_is_as_large_as_its_change(searched):
    """What noise leaves falls with its size, stays above what the attack leaves, and is what a prediction gives."""
    _, margin = searched
    trials = sorted(margin["trials"], key=lambda trial: trial["linf"])
    assert all(set(trial["noise_dice"]) == set(trial["dice"]) == {"liver", "bone"} for trial in trials)
    assert trials[-1]["noise_dice"]["liver"] < trials[0]["noise_dice"]["liver"]
    assert all(trial["noise_dice"]["liver"] > trial["dice"]["liver"] for trial in trials if trial["linf"] >= 8)


def test_the_chart_draws_the_lowest_dice_within_each_change(searched):
    folder, margin = searched
    page = (folder / "report.html").read_text(encoding="utf-8")
    found, _, broke = curves(read_search(folder), "liver")
    lowest, expected = 1.0, []
    for trial in sorted(margin["trials"], key=lambda trial: trial["linf"]):
        lowest = min(lowest, trial["dice"]["liver"])
        expected.append((trial["linf"], lowest))
    assert dict(found) == dict(expected) and [size for size, _ in found] == sorted({size for size, _ in expected})
    frame, top = Frame(), np.log2(16)  # the search begins at 1 HU
    drawn = re.search(r'<circle class="dot s1"[^>]*cx="([\d.]+)" cy="([\d.]+)"', page)
    assert drawn is not None and broke is not None
    assert float(drawn[1]) == pytest.approx(frame.x(np.log2(broke[0]) / top), abs=0.06)
    assert float(drawn[2]) == pytest.approx(height(broke[1]), abs=0.06)


def test_the_sentence_is_the_command_lines(searched):
    folder, margin = searched
    page = (folder / "report.html").read_text(encoding="utf-8")
    told = re.search(r'<p id="verdict">(.*?)</p>', page)
    assert told is not None and html.unescape(told[1]) == margin_headline(margin)
    assert told[1] == "A change of 7 HU breaks liver; bone held up to 16 HU, which is no proof of safety."


def test_every_break_has_its_picture_and_links_that_lead_somewhere(searched):
    folder, margin = searched
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('<article data-structure="') == 1 and page.count('<div class="triptych">') == 1
    assert "ADVERSARIAL - NOT FOR CLINICAL USE" in page and "AFTER – SYNTHETIC scan" in page
    links = set(re.findall(r'href="([^"#]+)"', page))
    assert links == {f"{margin['structures']['liver']['witness']}/{end}" for end in ("report.html", "")}
    assert all((folder / link).exists() for link in links)


def test_the_folder_verifies_and_its_page_with_it(searched, tmp_path):
    folder, _ = searched
    copy = tmp_path / "margin"
    shutil.copytree(folder, copy)
    assert verify(copy, trust=True) == []
    page = (copy / "report.html").read_text(encoding="utf-8")
    (copy / "report.html").write_text(page.replace("≤ 7", "≤ 9"), encoding="utf-8")
    assert verify(copy, trust=True) == [
        "report.html: isn't what the rest of this folder gives; `perturbox report` writes it again"
    ]
    assert same_page(write_report(copy), page)


def test_the_command_writes_the_page_anew(searched, tmp_path, capsys):
    folder, _ = searched
    copy = shutil.copytree(folder, tmp_path / "margin")
    page = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    assert main(["report", str(copy)]) == 0 and (copy / "report.html").read_bytes() == page
    assert f"Report: {copy / 'report.html'}" in capsys.readouterr().out


def test_a_search_of_an_earlier_version_shows_what_its_witnesses_measured(searched, tmp_path):
    folder, margin = searched
    copy = tmp_path / "margin"
    shutil.copytree(folder, copy)
    old = {**margin, "warnings": [], "trials": [
        {key: value for key, value in trial.items() if key not in ("dice", "noise_dice")} for trial in margin["trials"]
    ]}  # fmt: skip
    (copy / "margin.json").write_text(json.dumps(old))
    found, noise, broke = curves(read_search(copy), "liver")
    assert [size for size, _ in found] == [size for size, _ in noise] == [7.0] and broke == found[0]
    assert 'class="dot s1"' in rebuild(copy)


def test_a_photograph_is_told_in_no_hu_and_no_mm(searched, tmp_path):
    """Of what has neither spacing nor unit."""
    folder, margin = searched
    copy = tmp_path / "margin"
    shutil.copytree(folder, copy)
    held = {**margin["structures"]["bone"]}
    source = {**margin["source"], "shape": [24, 22], "sizes": "pixels"}
    flat = {"unit": "intensity", "source": source, "structures": {"liver": held, "bone": held}, "warnings": []}
    (copy / "margin.json").write_text(json.dumps(margin | flat))
    told = plain(re.sub(r"<(style|script).*?</\1>", "", rebuild(copy), flags=re.DOTALL))
    assert "Margin: nothing broke up to 16 units" in told and "Image of 24 × 22 pixels" in told
    assert "HU" not in told.split("About the model")[0] and "20 mm" not in told and "HD95 > 20 pixels" in told


def test_what_is_no_search_is_refused(searched, tmp_path):
    _, margin = searched
    (tmp_path / "margin.json").write_text(json.dumps({**margin, "schema": "perturbox-margin/9"}))
    with pytest.raises(InputError, match="doesn't follow perturbox-margin/1"):
        rebuild(tmp_path)
    (tmp_path / "margin.json").write_text(json.dumps(margin))
    with pytest.raises(InputError, match="is no result folder"):
        rebuild(tmp_path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_structure_stands_out_where_it_is_chosen(searched, reader, scheme):
    folder, _ = searched
    reader.media(prefers_color_scheme=scheme)
    reader.open(folder / "report.html")
    dim = "return [...document.querySelectorAll('.margin .dim')].map(e => e.dataset.structure)"
    assert reader.run(dim) == []
    reader.click("tr[data-structure='1'] button")
    assert set(reader.run(dim)) == {"2"} and reader.run("return document.querySelector('article.chosen') !== null")
    assert reader.run("return document.querySelector('tr.chosen .pick').getAttribute('aria-pressed')") == "true"
    reader.press("Escape")
    assert reader.run(dim) == []


def test_the_page_asks_nothing_of_any_network(searched, reader):
    folder, _ = searched
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and re.findall(r'(?:src|href)="(?!data:)(http[^"]*|//[^"]*)"', page) == []
    reader.driver.get_log("browser")
    reader.open(folder / "report.html")
    assert reader.driver.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_reads_well(reader, searched, scheme):
    out, _ = searched
    reader.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")  # no colour half way to another
    reader.open(out / "report.html")
    assert [found for found in reader.run(CONTRAST) if found[0] < 4.5] == []
    reader.media()
