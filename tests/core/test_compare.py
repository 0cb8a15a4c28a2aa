"""Several results on one scan: numbers as in their result.json, slices that move together, refusals."""

import html
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import tiny
from report_reader import CONTRAST, Reader

import perturbox as px
from perturbox.cli import main
from perturbox.job.execute import Job, run_job
from perturbox.judge.summary import fixed
from perturbox.judge.verdicts import said
from perturbox.report import write_comparison
from perturbox.types import InputError

OTHER = """
import dataclasses
import sys

sys.path.insert(0, {here!r})
import tiny


def model(device):
    labels = {{"background": 0, "liver": 1, "skeleton": 2}}
    return dataclasses.replace(tiny.volume(device), name="other", labels=labels)
"""

NUMBER = "const {meta, state} = perturbox; return meta.planes.find(p => p.axis === state.plane).numbers[arguments[0]]"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{name: folder}: PGD within 12 and within 4 HU, and another model that calls the bone skeleton."""
    folder = tmp_path_factory.mktemp("compared")
    scan = str(tiny.write_scan(folder / "scan.nii.gz"))
    (folder / "other.py").write_text(OTHER.format(here=str(tiny.__file__).rsplit("/", 1)[0]))
    made = {
        "strong": Job(scan, victim=f"{tiny.__file__}:volume", attack="pgd", eps=12, steps=6),
        "weak": Job(scan, victim=f"{tiny.__file__}:volume", attack="pgd", eps=4, steps=6),
        "other": Job(scan, victim=f"{folder / 'other.py'}:model", attack="fgsm", eps=12),
    }
    for name, job in made.items():
        run_job(job, folder / name)
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def compared(results, tmp_path_factory):
    """(comparison.json, its folder) of all three."""
    out = tmp_path_factory.mktemp("comparison") / "C"
    return write_comparison(list(results.values()), out), out


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("profile"))
    yield reader
    reader.driver.quit()


def record(folder) -> dict:
    return json.loads((folder / "result.json").read_text())


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()


def test_numbers_are_those_of_the_results(results, compared):
    found, out = compared
    assert json.loads((out / "comparison.json").read_text()) == found
    records = [record(folder) for folder in results.values()]
    rows = {row["structure"]: row for row in found["structures"]}
    assert set(rows) == {"liver", "bone", "skeleton"}
    assert rows["liver"]["verdicts"] == [one["verdicts"]["liver"] for one in records]
    assert rows["liver"]["dice"] == [one["metrics"]["adversarial"]["liver"]["dice"] for one in records]
    assert rows["bone"]["verdicts"][2] is None and rows["skeleton"]["dice"][:2] == [None, None]
    assert [result["headline"] for result in found["results"]] == [one["summary"]["headline"] for one in records]
    lost = [sum(row["ml"] for row in one["flow"] if (row["from"], row["to"]) == ("liver", "background"))
            for one in records]  # fmt: skip
    (row,) = (row for row in found["flow"] if (row["from"], row["to"]) == ("liver", "background"))
    assert row["ml"] == pytest.approx(lost) and lost[0] > lost[1]


def test_what_differs_is_said(results, compared):
    found, _ = compared
    assert found["differ_in"] == {
        "model": ["tiny", "tiny", "other"],
        "weights": [record(folder)["victim"]["sha256"][:8] for folder in results.values()],
        "attack": ["PGD", "PGD", "FGSM"],
        "limit": ["12 HU", "4 HU", "12 HU"],
        "steps": ["6", "6", "1"],
    }
    assert found["said"][0] == "liver broke in A and C only."
    assert any(re.match(r"liver → nothing: [\d.]+ ml in A, [\d.]+ ml in B, [\d.]+ ml in C\.", s) for s in found["said"])


def test_the_page_shows_what_the_document_says(compared):
    found, out = compared
    page = (out / "report.html").read_text(encoding="utf-8")
    table = re.search(r'<table class="numbers">(.*?)</table>', page, re.DOTALL)
    assert table is not None
    rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall(r"<tr data-structure=.*?</tr>", table[1])]
    for row, cells in zip(found["structures"], rows, strict=True):
        told = [plain(cell) for cell in cells]
        assert told[0].rstrip(" ≠").lower() == row["structure"]
        assert told[1:4] == ["not in this model" if word is None else said(word) for word in row["verdicts"]]
        assert told[4:7] == [fixed(dice, 3) for dice in row["dice"]]
    assert all(html.escape(sentence) in page for sentence in found["said"])
    assert "ADVERSARIAL - NOT FOR CLINICAL USE" in page


def test_one_slider_moves_the_slices_of_all(results, compared, reader):
    _, out = compared
    reader.media()
    reader.open(out / "report.html")
    info = "return [...document.querySelectorAll('.pane .info')].map(e => e.textContent.split('\\n')[0])"
    for k in (3, 9):
        reader.run("const s = document.getElementById('slice'); s.value = arguments[0]; s.oninput({target: s})", k)
        told = reader.run(info)
        number = reader.run(NUMBER, k)
        assert len(told) == 3 and len(set(told)) == 1 and f" {number} / " in told[0]
    reader.press("ArrowRight", "a", "3")
    assert len(set(reader.run(info))) == 1
    names = [name.split(" · ") for name in reader.names()]
    assert [letter for letter, _ in names] == ["A", "B", "C"]
    assert {kind.split()[0] for _, kind in names} == {"DIFFERENCE"}


def test_voxels_are_those_of_each_results_files(results, compared, reader):
    _, out = compared
    reader.open(out / "report.html")
    meta = reader.run("return perturbox.meta")
    rng = np.random.default_rng(3)
    points = [[int(rng.integers(n)) for n in meta["shape"]] for _ in range(200)]
    shown = reader.run(
        """const m = perturbox.meta, [, y, x] = m.shape;
        return perturbox.volumes.map((v, i) => arguments[0].map(p => { const k = (p[0] * y + p[1]) * x + p[2];
          const { scale, offset } = m.results[i].coded, value = code => code * scale + offset;
          return [value(v.before[k]), value(v.after[k]), v.clean[k], v.adversarial[k]]; }))""",
        points,
    )
    names = [structure["name"] for structure in meta["structures"]]
    for folder, values in zip(results.values(), shown, strict=True):
        read = {part: np.asanyarray(nib.load(folder / f"{part}.nii.gz").dataobj).astype(float)
                for part in ("adversarial", "perturbation", "clean_seg", "adversarial_seg")}  # fmt: skip
        labels = record(folder)["victim"]["labels"]
        number = {value: names.index(name) + 1 if value else 0 for name, value in labels.items()}
        for point, (before, after, clean, adversarial) in zip(points, values, strict=True):
            at = [0, 0, 0]
            for axis, k in zip(meta["axes"], point, strict=True):
                at[axis["file"]] = axis["kept"][k]
            at = tuple(at)
            assert (before, after) == (read["adversarial"][at] - read["perturbation"][at], read["adversarial"][at])
            assert (clean, adversarial) == tuple(number[read[part][at]] for part in ("clean_seg", "adversarial_seg"))


def test_a_row_isolates_its_structure_in_all(compared, reader):
    _, out = compared
    reader.open(out / "report.html")
    reader.press("Escape")
    assert reader.view()["only"] == 0
    reader.click("tr[data-structure='2'] button")
    assert reader.view()["only"] == 2
    pressed = "return document.querySelector(\"#key button[data-structure='2']\").getAttribute('aria-pressed')"
    assert reader.run(pressed) == "true"


def test_the_page_asks_nothing_of_any_network(compared, reader):
    _, out = compared
    reader.driver.get_log("browser")
    reader.open(out / "report.html")
    reader.press("1", "2", "3", "4", "n", "p", "m", "w", "g", "a")
    assert reader.driver.get_log("browser") == []
    assert not re.search(r'(?:src|href)="(?:http|//)', (out / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1440, 900)])
def test_the_first_screen_shows_slices_key_slider_and_what_differs(compared, reader, width, height):
    _, out = compared
    reader.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    try:
        reader.open(out / "report.html")
        assert reader.run("return document.documentElement.scrollWidth <= innerWidth")
        for query in (".said", "#views", "#key", "#slice"):
            bottom = reader.run("return document.querySelector(arguments[0]).getBoundingClientRect().bottom", query)
            assert bottom <= height, query
    finally:
        reader.cdp("Emulation.clearDeviceMetricsOverride")


# ---------------------------------------------------------------- refused in one sentence


def changed(folder, target, **changes):
    """A copy of a result whose files are changed: values added to the original, or its affine moved."""
    shutil.copytree(folder, target)
    for name in ("adversarial", "perturbation", "clean_seg", "adversarial_seg"):
        file = nib.load(target / f"{name}.nii.gz")
        data, affine = np.asanyarray(file.dataobj).copy(), file.affine.copy()
        if name == "adversarial" and "values" in changes:
            data[:2, 0, 0] += changes["values"]
        if "moved" in changes:
            affine[0, 3] += changes["moved"]
        nib.save(nib.Nifti1Image(data, affine, file.header), target / f"{name}.nii.gz")
    return target


def test_results_of_other_scans_are_refused(results, tmp_path):
    strong = results["strong"]
    other = changed(strong, tmp_path / "values", values=5)
    with pytest.raises(InputError) as refusal:
        write_comparison([strong, other], tmp_path / "out")
    assert str(refusal.value) == (
        f"'{other}' is of another scan than '{strong}': 2 voxels of the original differ; compare results on one scan."
    )
    moved = changed(strong, tmp_path / "moved", moved=4)
    with pytest.raises(InputError, match=r"its grid lies elsewhere \(spacing, direction or origin\)"):
        write_comparison([strong, moved], tmp_path / "out")
    small = tiny.write_scan(tmp_path / "small.nii.gz", (20, 22, 18))
    run_job(Job(str(small), victim=f"{tiny.__file__}:volume", attack="fgsm", eps=4), tmp_path / "small")
    with pytest.raises(InputError, match="its grid is 20 × 22 × 18, not 24 × 22 × 18"):
        write_comparison([strong, tmp_path / "small"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_what_cannot_be_compared(results, tmp_path, capfd):
    strong, out = results["strong"], str(tmp_path / "out")

    def said(*arguments) -> tuple[int, str]:
        capfd.readouterr()
        status = main(["compare", *map(str, arguments), "--out", out])
        return status, capfd.readouterr().err.splitlines()[-1]

    assert said(strong) == (2, "A comparison takes two to 6 result folders, not 1.")
    (tmp_path / "M").mkdir()
    (tmp_path / "M" / "margin.json").write_text("{}")
    sentence = f"'{tmp_path / 'M'}' holds a search for the margin; give one of the result folders in it."
    assert said(strong, tmp_path / "M") == (2, sentence)
    assert said(strong, tmp_path)[1].startswith(f"'{tmp_path}' is no result folder")


def test_python_and_the_command_give_the_same(results, compared, tmp_path, capsys):
    found, out = compared
    made = px.compare(px.Result(results["strong"]), results["weak"], str(results["other"]))
    assert made.record == found and made.save(tmp_path / "kept") == tmp_path / "kept"
    assert main(["compare", *map(str, results.values()), "--out", str(tmp_path / "C")]) == 0
    assert "liver broke in A and C only." in capsys.readouterr().out
    pages = [(folder / "report.html").read_bytes() for folder in (out, tmp_path / "kept", tmp_path / "C")]
    assert pages[0] == pages[1] == pages[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_reads_well(reader, compared, scheme):
    _, out = compared
    reader.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")  # no colour half way to another
    reader.open(out / "report.html")
    assert [found for found in reader.run(CONTRAST) if found[0] < 4.5] == []
    reader.media()
