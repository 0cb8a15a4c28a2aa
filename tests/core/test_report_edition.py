"""The full-size edition: report_files/ beside a page that had to leave slices out."""

import base64
import gzip
import json
import re
import shutil
import time

import nibabel as nib
import numpy as np
import pytest
from report_fixture import make_result
from report_reader import Reader

from perturbox.cli import main
from perturbox.job.recompute import check_files
from perturbox.report import FULL, check, display, write_report
from perturbox.report.load import load
from perturbox.report.story import tell
from perturbox.types import InputError


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("profile"))
    yield reader
    reader.driver.quit()


@pytest.fixture
def tight(monkeypatch):
    monkeypatch.setattr(display, "TARGET_BYTES", 320_000)


@pytest.fixture
def folder(tmp_path, tight):
    """A result whose page can't hold all of its slices, with the edition."""
    folder = make_result(tmp_path / "r")
    write_report(folder, full=True)
    return folder


def saved(folder) -> dict[str, np.ndarray]:
    """The folder's volumes, float64 "i j k"."""
    files = {"after": "adversarial", "change": "perturbation", "clean": "clean_seg", "adversarial": "adversarial_seg"}
    read = {name: np.asanyarray(nib.load(folder / f"{file}.nii.gz").dataobj) for name, file in files.items()}
    return read | {"before": read["after"] - read["change"]}


def script_slice(path, shape):
    """One script of the edition: (display axis, position, the original scan and the labels after, "rows columns")."""
    call = re.fullmatch(r'perturboxSlice\((\d),(\d+),\["([^"]*)","([^"]*)","([^"]*)","([^"]*)"\]\)\n', path.read_text())
    planes = np.frombuffer(gzip.decompress(base64.b64decode(call[3])), np.uint8).astype(np.uint16)
    low, high = np.split(planes, 2)
    codes = low | high << 8
    errors = ((codes >> 1).astype(np.int16) ^ -(codes & 1).astype(np.int16)).reshape(shape)
    labels = np.frombuffer(gzip.decompress(base64.b64decode(call[6])), np.uint8).reshape(shape)
    return int(call[1]), int(call[2]), np.cumsum(errors.astype(np.int64), -1).astype(np.int16), labels


def test_every_changed_slice_of_every_plane_is_there_voxel_by_voxel(folder):
    arrays = saved(folder)
    differs = arrays["clean"] != arrays["adversarial"]
    names = {0: "sagittal", 1: "coronal", 2: "axial"}  # the file's axes run to left, posterior, superior
    wanted = {
        f"{names[axis]}_{index + 1:04d}.js"
        for axis in range(3)
        for index in np.flatnonzero(differs.any(tuple(a for a in range(3) if a != axis)))
    }
    assert {path.name for path in (folder / FULL).iterdir()} == wanted
    z, y, x = (axis.kept for axis in tell(load(folder)).whole.axes)
    before, after = (arrays[n][np.ix_(x, y, z)].transpose(2, 1, 0) for n in ("before", "adversarial"))
    for name in ("axial_0025.js", "coronal_0040.js", "sagittal_0060.js"):
        axis, position, scan, labels = script_slice(
            folder / FULL / name, before.take(0, ["axial", "coronal", "sagittal"].index(name.split("_")[0])).shape
        )
        assert (z, y, x)[axis][position] + 1 == int(re.search(r"\d+", name)[0])
        assert (scan == before.take(position, axis)).all() and (labels == after.take(position, axis)).all()


def test_the_edition_goes_with_the_page(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert re.search(r"script-src 'sha256-[^']+' 'self' file:;", policy) and "unsafe" not in policy
    assert f"every slice that changed, of every plane, lies in {FULL} beside it" in page
    made = {path.name: path.read_bytes() for path in (folder / FULL).iterdir()}
    shutil.rmtree(folder / FULL)
    write_report(folder)
    assert not (folder / FULL).exists() and check(folder) == []  # not asked for
    assert "'self'" not in (folder / "report.html").read_text(encoding="utf-8")
    write_report(folder, full=True)
    (folder / FULL / "axial_0025.js").unlink()
    write_report(folder)  # one that is there stays and is made again
    assert {path.name: path.read_bytes() for path in (folder / FULL).iterdir()} == made
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_the_command_says_what_lies_beside_the_page(tmp_path, tight, capsys):
    folder = make_result(tmp_path / "r")
    main(["report", str(folder)])
    assert capsys.readouterr().out == f"Report: {folder / 'report.html'}\n" and not (folder / FULL).exists()
    main(["report", str(folder), "--full-report"])
    told = capsys.readouterr().out.splitlines()
    assert told == [f"Report: {folder / 'report.html'}", "Beside it: every changed slice, in report_files"]
    assert len(list((folder / FULL).iterdir())) == 79


def test_verify_takes_it_for_a_part_of_the_result(folder):
    record = json.loads((folder / "result.json").read_text())
    record["files"] = {name: file and {"path": file, "sha256": None} for name, file in record["files"].items()}
    assert check_files(folder, record).notes == []


def test_what_is_wrong_in_an_edition_is_named(folder):
    assert check(folder) == []
    (folder / FULL / "axial_0025.js").write_text("alert(1)\n")
    (folder / FULL / "coronal_0040.js").unlink()
    (folder / FULL / "more.js").write_text("")
    assert check(folder) == [f"{FULL}/{name}" for name in ("axial_0025.js", "coronal_0040.js", "more.js")]


def test_an_edition_that_leads_elsewhere_is_refused(folder, tmp_path):
    (folder / FULL).rename(tmp_path / "elsewhere")
    (folder / FULL).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link"):
        write_report(folder)
    assert len(list((tmp_path / "elsewhere").iterdir())) > 3


def test_a_page_that_holds_every_slice_has_no_edition(tmp_path):
    folder = make_result(tmp_path / "r")
    page = write_report(folder).read_text(encoding="utf-8")
    (folder / FULL).mkdir()
    (folder / FULL / "axial_0001.js").write_text("of another page")
    assert check(folder) == [f"{FULL}/axial_0001.js"]
    assert write_report(folder, full=True).read_text(encoding="utf-8") == page and not (folder / FULL).exists()


def test_an_edition_that_fails_leaves_the_old_one(folder, monkeypatch):
    made = sorted(path.name for path in (folder / FULL).iterdir())
    monkeypatch.setattr(display.Copy, "cut", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(folder)
    assert sorted(path.name for path in (folder / FULL).iterdir()) == made
    assert not list(folder.glob("*.part"))


# ---- in a browser ----


def whole_slice(reader, axis, position) -> dict:
    """What the viewer holds of a slice, once it isn't a substitute."""
    reader.run("perturbox.state.plane = arguments[0]; perturbox.go(arguments[1])", axis, position)
    ask = "return perturbox.cut(arguments[0], arguments[1]).whole"
    assert reader.until(lambda: reader.run(ask, axis, position))
    return reader.run(
        """const s = perturbox.cut(arguments[0], arguments[1]), list = a => [...a];
        return {at: perturbox.state.at[arguments[0]], before: list(s.before[0]), after: list(s.after[0]),
                clean: list(s.clean), adversarial: list(s.adversarial)}""",
        axis,
        position,
    )


def compare_slice(reader, arrays, axes, axis, position):
    """A slice as the viewer has it, against the saved files: every pixel."""
    found = whole_slice(reader, axis, position)
    assert found.pop("at") == position
    one = [kept if a != axis else kept[position : position + 1] for a, kept in enumerate(axes)]
    for name, pixels in found.items():
        wanted = arrays[name][np.ix_(one[2], one[1], one[0])].transpose(2, 1, 0).squeeze(axis)
        assert (np.array(pixels).reshape(wanted.shape) == (wanted[::-1] if axis else wanted)).all(), name


def test_slices_beside_the_page_are_shown_pixel_by_pixel(reader, folder):
    reader.open(folder / "report.html", "#plane=axial")
    arrays, axes = saved(folder), [axis.kept for axis in tell(load(folder)).whole.axes]
    planes = reader.run("return perturbox.meta.planes")
    for axis, plane in enumerate(planes):
        for position in map(int, list(plane["files"])[:: max(1, len(plane["files"]) // 3)]):
            held = reader.run("return perturbox.meta.axes[0].held")
            if axis or position not in held:
                compare_slice(reader, arrays, axes, axis, position)
    stops = planes[0]["stops"]
    assert stops == sorted({*held, *map(int, planes[0]["files"])}) and len(stops) < len(planes[0]["numbers"])
    reader.run("perturbox.state.plane = 0; perturbox.go(arguments[0])", stops[2])
    reader.press("ArrowRight")
    assert reader.view()["slice"] == stops[3]
    errors = [entry for entry in reader.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []


def test_the_worst_of_each_plane_is_whole_without_the_edition(reader, tmp_path, tight):
    folder = make_result(tmp_path / "r")
    reader.open(write_report(folder), "#plane=axial")
    arrays, axes = saved(folder), [axis.kept for axis in tell(load(folder)).whole.axes]
    spleen = reader.run("return 1 + perturbox.meta.structures.findIndex(s => s.name === 'spleen')")
    for axis in (1, 2):
        position = reader.run("return perturbox.meta.planes[arguments[0]].worst[arguments[1]]", axis, spleen)
        compare_slice(reader, arrays, axes, axis, position)
    gappy = reader.run(
        "perturbox.state.plane = 1; return perturbox.cut(1, perturbox.meta.planes[1].worst[0] + 9).whole"
    )
    reader.run("perturbox.go(perturbox.meta.planes[1].worst[0] + 9)")
    assert gappy is False and "show their neighbour" in reader.run("return document.querySelector('.info').textContent")


def test_a_page_that_was_sent_alone_shows_what_it_holds(reader, folder, tmp_path):
    shutil.copy(folder / "report.html", tmp_path / "alone.html")
    reader.open(tmp_path / "alone.html", "#plane=coronal")
    reader.run("perturbox.go(Number(Object.keys(perturbox.meta.planes[1].files)[0]))")
    told = "return document.querySelector('.info').textContent"
    alone = "report_files isn’t beside this page: slices left out show their neighbour"
    assert reader.until(lambda: alone in reader.run(told))
    assert reader.run("return document.querySelector('.pane canvas').width") > 100


def opened(reader, page) -> float:
    start = time.monotonic()
    reader.open(page)
    return time.monotonic() - start


@pytest.mark.slow
def test_a_clinical_scan_has_a_page_of_15_megabytes_and_every_slice_beside_it(reader, tmp_path):
    """512 × 512 × 300 voxels, all of them noise that no packing shrinks."""
    folder = make_result(tmp_path / "big", shape=(128, 128, 75), spacing=(3.2, 3.2, 6.0), repeat=4)
    page = write_report(folder, full=True)
    assert json.loads((folder / "result.json").read_text())["source"]["shape"] == [512, 512, 300]
    assert page.stat().st_size <= 15_000_000
    said = re.search(r"On this page: [^<]*", page.read_text(encoding="utf-8")).group(0)
    assert "in plane, every one" in said and re.search(r"about 1 in \d+ of those that changed", said)
    arrays = saved(folder)
    differs = arrays["clean"] != arrays["adversarial"]
    many = sum(int(differs.any(tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3))
    assert len(list((folder / FULL).iterdir())) == many
    assert min(opened(reader, page) for _ in range(3)) < 3  # s; another program may be busy
    axes = [axis.kept for axis in tell(load(folder)).whole.axes]
    for axis, plane in enumerate(reader.run("return perturbox.meta.planes.map(p => Object.keys(p.files).map(Number))")):
        compare_slice(reader, arrays, axes, axis, plane[len(plane) // 3 + 1])
