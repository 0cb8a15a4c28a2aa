"""A certificate's folder after the fact: `verify` finds what contradicts the rest of it, `report` makes its page."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
from PIL import Image

from perturbox.cli import main
from perturbox.io.files import sha256
from perturbox.job.folder import examine, verify
from perturbox.types import InputError

TINY, FLAT = (f"{Path(tiny.__file__)}:{name}" for name in ("volume", "flat"))
SHAPE = (16, 16, 12)
MAPS = {"certified": "certified.nii.gz", "clean_seg": "clean_seg.nii.gz", "votes": "votes.nii.gz"}
# What only the scan, the model and the run itself could give again.
RECORDED = ("victim", "effort", "device", "threads", "versions", "warnings", "seed", "n0", "unit", "stopped_early")
OF_SOURCE = ("sha256", "format", "dtype", "unit", "sizes")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """ct.nii.gz with its certificates: adaptive, plain, in a region with a group of its own; p.png with one."""
    place = tmp_path_factory.mktemp("certificates")
    tiny.write_scan(place / "ct.nii.gz", SHAPE)
    region = np.zeros(SHAPE, np.uint8)
    region[3:12, 3:12, 3:9] = 1
    nib.save(nib.Nifti1Image(region, nib.load(place / "ct.nii.gz").affine), place / "roi.nii.gz")
    pixels = np.random.default_rng(0).random((24, 20)) * 60 + 100
    Image.fromarray(pixels.astype(np.uint8)).save(place / "p.png")
    for name, options in {
        "adaptive": f"ct.nii.gz --victim {TINY} --adaptive",
        "plain": f"ct.nii.gz --victim {TINY}",
        "region": f"ct.nii.gz --victim {TINY} --adaptive --group g=liver+bone --correction bonferroni "
        f"--roi {place}/roi.nii.gz",
        "picture": f"p.png --victim {FLAT} --force",
    }.items():
        assert main(f"certify {place}/{options} --sigma 20 --out {place / name}".split()) == 0
    return place


@pytest.fixture
def copy(made, tmp_path):
    """A copy of one of them, to be changed."""

    def of(name: str) -> Path:
        return Path(shutil.copytree(made / name, tmp_path / name))

    return of


def read(folder: Path) -> dict:
    return json.loads((folder / "certificate.json").read_text())


def write(folder: Path, document: dict) -> None:
    (folder / "certificate.json").write_text(json.dumps(document))


def leaves(value, place=()) -> Iterator[tuple]:
    if isinstance(value, dict | list) and value:
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(entry, (*place, key))
    else:
        yield place


def determined(place: tuple) -> bool:
    """Whether something in the folder contradicts another value there."""
    return not (
        place[0] in RECORDED
        or (place[0] == "source" and place[1] in OF_SOURCE)
        or (place[0] == "structures" and place[-1] == "chosen_size")
    )


NAMES = ("adaptive", "plain", "region", "picture")
SCANS = dict.fromkeys(NAMES, "ct.nii.gz") | {"picture": "p.png"}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_as_it_was_made_holds(made, name, capsys):
    found = examine(made / name)
    assert found.problems == found.notes == [] and found.files == 3
    every = list(leaves(read(made / name)))
    assert found.recomputed == sum(map(determined, every)) and found.recomputed + found.recorded == len(every)
    assert main(["verify", str(made / name)]) == 0
    told = capsys.readouterr().out
    assert f"All {found.recomputed} values that can be recomputed hold. 3 files are those that were saved." in told
    assert f"{found.recorded} values are only recorded, such as the model, the effort" in told.replace("\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_no_value_that_the_rest_determines_can_be_changed_unseen(copy, name):
    folder = copy(name)
    document = read(folder)
    for place in filter(determined, leaves(document)):
        changed = json.loads(json.dumps(document))
        *path, last = place
        holder = changed
        for key in path:
            holder = holder[key]
        holder[last] = other(holder[last])
        write(folder, changed)
        try:
            problems = verify(folder)
        except InputError:
            continue
        assert problems, f"{'.'.join(map(str, place))} was {holder[last]}"


def other(value):
    if isinstance(value, bool) or value is None:
        return 0.25
    if isinstance(value, str):
        return f"{value}x"
    return value * 1.5 + 1 if isinstance(value, int | float) else [1]


@pytest.mark.parametrize("role", MAPS)
def test_a_voxel_that_is_changed_is_found_though_its_file_s_hash_fits(copy, role):
    folder = copy("plain")
    document, path = read(folder), folder / MAPS[role]
    image = nib.load(path)
    values, clean, answers = (
        np.asanyarray(nib.load(folder / file).dataobj).copy() for file in (MAPS[role], *list(MAPS.values())[1::-1])
    )
    place = tuple(np.argwhere((clean > 0) & (answers == clean))[0])
    values[place] = {"certified": document["values"]["abstained"], "clean_seg": 0, "votes": 0}[role]
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)
    assert f"{MAPS[role]}: isn't the file that was saved" in verify(folder)
    document["files"][role]["sha256"] = sha256(path)
    write(folder, document)
    problems = verify(folder)
    if role == "clean_seg":
        assert any(line.startswith("structures.") and "predicted_size" in line for line in problems)
    else:
        assert "certified.nii.gz: voxels with another answer than their votes give: 1" in problems


def test_more_that_is_certified_than_was_tested_is_found(copy):
    folder = copy("plain")
    document = read(folder)
    row = document["structures"]["liver"]
    row["chosen_size"] = row["certified_size"] / 2
    write(folder, document)
    (line,) = verify(folder)
    assert line.startswith("structures.liver: ") and line.endswith(f"{row['certified_size']:g} certified")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"schema": "x/9"}, "doesn't follow perturbox-certificate/1; it was made by another version."),
        ({"schema": None}, "doesn't follow perturbox-certificate/1"),
        ({"radius": None}, "certificate.json' is damaged; certify the scan again."),
        ({"tests": 10**9}, "doesn't hold the votes of 1,000,000,000 voxels"),
        ({"n": 10**9}, "n must lie between 1 and 65535"),
        ({"tau": "x"}, "is damaged"),
        ({"radius": {"l2": 0, "values": 1, "roi_values": None}}, "is damaged"),
        ({"values": {}}, "is damaged"),
        ({"files": {"certified": {"path": "../x", "sha256": ""}}}, "which lies outside; don't trust this folder."),
    ],
)
def test_what_is_no_certificate_is_refused_in_a_sentence(copy, change, sentence):
    folder = copy("plain")
    write(folder, read(folder) | change)
    with pytest.raises(InputError) as refused:
        verify(folder)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_certificate_that_is_cut_off_is_to_be_certified_again(copy):
    folder = copy("plain")
    (folder / "certificate.json").write_text("{")
    with pytest.raises(InputError, match=r"is damaged \(not whole\); certify the scan again\.$"):
        verify(folder)


def test_a_file_that_is_missing_or_a_stranger_is_told(copy):
    folder = copy("plain")
    (folder / "note.txt").write_text("mine")
    (folder / "certificate.html").unlink()
    assert examine(folder).notes == [
        "note.txt isn't part of this certificate and wasn't looked at.",
        "There is no certificate.html; `perturbox report` with --scan writes it.",
    ]
    (folder / "votes.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lacks votes\.nii\.gz; copy the whole result folder\."):
        verify(folder)


# ---------------------------------------------------------------- its page


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_made_again_of_the_folder_and_the_scan(made, copy, name, capsys):
    folder = copy(name)
    (folder / "certificate.html").unlink()
    assert main(["report", str(folder), "--scan", str(made / SCANS[name])]) == 0
    assert capsys.readouterr().out == f"Report: {folder / 'certificate.html'}\n"
    assert (folder / "certificate.html").read_bytes() == (made / name / "certificate.html").read_bytes()


def test_no_page_is_made_of_numbers_that_the_maps_contradict(made, copy, capsys):
    folder, page = copy("plain"), (made / "plain" / "certificate.html").read_bytes()
    path = folder / "certificate.json"
    document = json.loads(path.read_text())
    document["summary"]["headline"] = "FORGED"
    path.write_text(json.dumps(document))
    assert main(["report", str(folder), "--scan", str(made / SCANS["plain"])]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "contradicts itself (summary.headline: " in said and "`perturbox verify`" in said
    assert (folder / "certificate.html").read_bytes() == page


def test_without_its_scan_or_with_another_the_page_stays(made, copy, capsys, tmp_path):
    folder = copy("plain")
    before = (folder / "certificate.html").read_bytes()
    assert main(["report", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"'{folder}' is a certificate, whose page shows the scan, and it holds none; give the file that was certified "
        "with --scan.\n"
    )
    assert main(["report", str(folder), "--scan", str(made / SCANS["plain"]), "--full-report"]) == 2
    assert capsys.readouterr().err == (
        f"'{folder}' is a certificate, and --full-report is for a result; leave it out.\n"
    )
    image = nib.load(made / "ct.nii.gz")
    for number, affine in enumerate((image.affine, image.affine @ np.diag([1, 1, 2, 1]))):
        other_scan = tmp_path / f"{number}.nii.gz"
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj) + np.int16(1 - number), affine), other_scan)
        assert main(["report", str(folder), "--scan", str(other_scan)]) == 2
        said = f"'{other_scan}' isn't the scan of this certificate; give the file that was certified.\n"
        assert capsys.readouterr().err == said
    assert (folder / "certificate.html").read_bytes() == before
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty"), "--scan", "ct.nii.gz"]) == 2
    assert "--scan is for the page of a certificate" in capsys.readouterr().err
