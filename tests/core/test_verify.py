"""Nothing of a result folder changes unseen: what `verify` recomputes it names, and the rest it calls only recorded."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch

from perturbox.job import recompute
from perturbox.job.compare import RECORDED, SETTLED, leaves, only_recorded, within
from perturbox.job.execute import Job, Listener, run_job
from perturbox.job.folder import changed_since, examine, replay, unlike, verify
from perturbox.judge.record import read_json, read_record
from perturbox.report import same_page, write_report
from perturbox.types import InputError

TINY = f"{Path(tiny.__file__)}:volume"
REPORT = "report.html: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A result with every file one can hold: an expert's outline and a region of interest too."""
    place = tmp_path_factory.mktemp("verify")
    scan = tiny.write_scan(place / "ct.nii.gz")
    affine = np.diag([*tiny.SPACING, 1.0])
    values = tiny.scan()
    expert = np.where(values > 150, 2, np.where(values > 2, 1, 0)).astype(np.uint8)
    nib.save(nib.Nifti1Image(expert, affine), place / "expert.nii.gz")
    roi = np.zeros(values.shape, np.uint8)
    roi[4:20, 4:18, 3:15] = 1
    nib.save(nib.Nifti1Image(roi, affine), place / "roi.nii.gz")
    job = Job(
        str(scan),
        TINY,
        "pgd",
        eps=12,
        steps=3,
        seed=3,
        label=str(place / "expert.nii.gz"),
        roi=str(place / "roi.nii.gz"),
    )
    run_job(job, place / "R")
    return place / "R"


def test_what_became_what_adds_up_to_the_saved_label_maps(folder):
    """Of an attack that ran, by NumPy and nibabel alone."""
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    before, after = (np.asanyarray(nib.load(folder / f"{n}_seg.nii.gz").dataobj) for n in ("clean", "adversarial"))
    ml = float(np.prod(tiny.SPACING)) / 1000
    assert len(record["flow"]) > 0
    for name, n in tiny.LABELS.items():
        lost = sum(row["ml"] for row in record["flow"] if row["from"] == name)
        new = sum(row["ml"] for row in record["flow"] if row["to"] == name)
        assert lost == pytest.approx(ml * ((before == n) & (after != n)).sum())
        assert new == pytest.approx(ml * ((before != n) & (after == n)).sum())


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "R")


@pytest.fixture
def quick(monkeypatch) -> None:
    """Each measurement is made once: most tamperings change nothing that it starts from."""
    known: dict[Any, Any] = {}
    measure = recompute.measure

    def remembered(clean, adversarial, victim, goal, *, roi, say, random_draw, clean_seg, expert, **settings):
        arrays = (clean.data, adversarial.data, *(a for a in (roi, expert) if a is not None))
        key = (*(hashlib.sha256(a.tobytes()).hexdigest() for a in arrays), clean.unit, goal, repr(settings))
        if key not in known:
            known[key] = measure(clean, adversarial, victim, goal, roi=roi, expert=expert, **settings)
        return known[key]

    monkeypatch.setattr(recompute, "measure", remembered)


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit result.json in place."""
    path = folder / "result.json"
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record, indent=1))


def said(folder: Path) -> list[str]:
    """What verify names beside the report, which shows the hash of result.json and so tells of every change in it."""
    try:
        lines = verify(folder, trust=True)
    except InputError as error:
        return [str(error)]
    return [line for line in lines if not line.startswith(REPORT)]


def put(record: dict[str, Any], place: tuple[str, ...], value: Callable[[Any], Any]) -> None:
    *inner, last = (int(part[1:-1]) if re.fullmatch(r"\[\d+\]", part) else part for part in place)
    target: Any = record
    for part in inner:
        target = target[part]
    target[last] = value(target[last])


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else 1.1 * value + 0.013
    if isinstance(value, str):
        return value + "x"
    return {None: "x"}.get(value) if value is None else ["x"] if value == [] else {"x": 1}


def kinds(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """One leaf of each kind: the first row of a list, the first structure."""
    seen = set()
    for place in leaves(record):
        kind = tuple(re.sub(r"\[\d+\]", "[]", "structure" if part in tiny.LABELS else part) for part in place)
        if kind not in seen:
            seen.add(kind)
            yield place


def test_an_untouched_folder_holds_and_counts_every_leaf_once(folder):
    found = examine(folder, trust=True)
    record = json.loads((folder / "result.json").read_text())
    assert found.problems == [] and found.notes == []
    assert found.recomputed + found.recorded == sum(1 for _ in leaves(record))
    assert found.recorded == sum(1 for place in leaves(record) if only_recorded(place))
    assert found.files == 8 == sum(entry is not None for entry in record["files"].values())
    for entry in record["files"].values():
        assert entry["sha256"] == hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest()


def test_every_leaf_is_either_recomputed_or_only_recorded(folder, copy, quick):
    """A field that is added to result.json without a place in either fails here."""
    record = json.loads((folder / "result.json").read_text())
    unseen = []
    for place in kinds(record):
        change(copy, lambda changed, place=place: put(changed, place, other))
        lines = said(copy)
        shutil.copy(folder / "result.json", copy / "result.json")
        if not only_recorded(place) and not lines:
            unseen.append(".".join(place))
    assert unseen == []
    # Nor does the list of what is only recorded name anything that a result doesn't hold.
    places = list(leaves(record))
    assert [prefix for prefix in (*RECORDED, *SETTLED) if not any(within(p, (prefix,)) for p in places)] == []


def test_an_entry_that_is_missing_or_unknown_is_named(folder, copy, quick):
    record = json.loads((folder / "result.json").read_text())
    for key in record.keys() - {"schema"}:
        change(copy, lambda changed, key=key: changed.pop(key))
        assert any(key in line for line in said(copy)), key
        shutil.copy(folder / "result.json", copy / "result.json")
    change(copy, lambda changed: changed.update(certified=True))
    assert said(copy) == ["certified: result.json says True, which isn't known here"]


def halved(record):
    record["budget"]["eps"] /= 2
    record["attack"]["parameters"]["eps"] /= 2


def swapped(record):
    labels = record["victim"]["labels"]
    labels["liver"], labels["bone"] = labels["bone"], labels["liver"]


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "eps halved": (halved, "budget: The perturbation measures 12 in linf, above the limit 6"),
    "eps halved in one place": (lambda r: r["budget"].update(eps=6.0), "budget.eps: result.json says 6, the"),
    "norm": (lambda r: r["budget"].update(norm="l2"), "budget.norm: "),
    "both norms": (lambda r: (r["budget"].update(norm="l0"), r["attack"]["parameters"].update(norm="l0")), "not 'l0'"),
    "unit": (lambda r: r["budget"].update(unit="mGy"), "budget.unit: result.json says 'mGy', the files say 'HU'"),
    "the scan's unit": (lambda r: r["source"].update(unit="intensity"), "source.unit: "),
    "labels swapped": (swapped, "victim.labels.bone: result.json says 1, the files say 2"),
    "a label's name": (lambda r: r["victim"]["labels"].update(spleen=r["victim"]["labels"].pop("liver")), "victim."),
    "what the model is for": (lambda r: r["victim"].update(intended_use="diagnosis"), "victim.intended_use: "),
    "the model's weights": (lambda r: r["victim"].update(sha256="0" * 64), "has other weights here"),
    "seed": (lambda r: r.update(seed=11), "control."),
    "warnings emptied": (lambda r: r.update(warnings=[]), 'warnings: lacks "3 steps and no restart'),
    "a warning reworded": (lambda r: r["warnings"].__setitem__(0, "All is well."), "warnings: lacks"),
    "notice": (lambda r: r.update(notice="for clinical use"), "notice: "),
    "attack": (lambda r: r["attack"].update(name="bim"), "attack.title: "),
    "attack's paper": (lambda r: r["attack"].update(paper="mine"), "attack.paper: result.json says 'mine'"),
    "deviations": (lambda r: r["attack"].update(deviations=["none worth a word"]), "attack.deviations"),
    "goal": (lambda r: r["attack"]["parameters"].update(goal="vanish", target=["liver"]), "success.rule: "),
    "target": (lambda r: r["attack"]["parameters"].update(target=["bone"]), "success.value: "),
    "limits": (lambda r: r["limits"].update(dice=0.3), "limits.dice: result.json says 0.3, the files say 0.9"),
    "a verdict": (lambda r: r["verdicts"].update(liver="held"), "verdicts.liver: result.json says 'held'"),
    "success": (lambda r: r["success"].update(succeeded=not r["success"]["succeeded"]), "success.succeeded: "),
    "the noise": (lambda r: r["noise"].update(region="liver"), "noise.region: "),
    "a Dice": (lambda r: r["metrics"]["clean"]["liver"].update(dice=0.99), "metrics.clean.liver.dice: "),
    "against clean": (lambda r: r["metrics"]["against_clean"]["liver"].update(dice=0.99), "metrics.against_clean."),
    "a control": (lambda r: r["control"]["noise"]["dice"].update(liver=0.1), "control.noise.dice.liver: "),
    "the benign floor": (lambda r: r["control"]["benign"]["dice"].update(liver=0.1), "control.benign.dice.liver: "),
    "a slice": (lambda r: r["slices"].pop(), "slices: "),
    "unreachable": (lambda r: r["image_metrics"].update(unreachable_fraction=0.9), "image_metrics.unreachable"),
    "psnr": (lambda r: r["image_metrics"].update(psnr_db=99.0), "image_metrics.psnr_db: "),
    "reference": (lambda r: r.update(reference="clean_prediction"), "reference: "),
    "replayable": (lambda r: r.update(replayable=False), "replayable: "),
    "flow": (lambda r: r.update(flow=[]), "flow: "),
    "how much became what": (lambda r: r["flow"][0].update(ml=0.5), "flow[0].ml: "),
    "storage type": (lambda r: r["source"].update(dtype="float32"), "source.dtype: "),
    "spacing": (lambda r: r["source"].update(spacing_mm=[1.0, 1.0, 1.0]), "source.spacing_mm[0]: "),
    "format": (lambda r: r["source"].update(format=".nrrd"), "files.adversarial.path: "),
    "a hash": (lambda r: r["files"]["roi"].update(sha256="0" * 64), "roi.nii.gz: isn't the file that was saved"),
    "no hash": (lambda r: r["files"]["roi"].update(sha256=None), "roi.nii.gz: isn't the file that was saved"),
    "no region": (lambda r: r["files"].update(roi=None), "budget.measured.l2: "),
    "no expert": (lambda r: r["files"].update(reference_seg=None), "reference: "),
    "a file of another name": (lambda r: r["files"]["roi"].update(path="clean_seg.nii.gz"), "files.roi.path: "),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_false_entry_is_named_even_where_the_report_tells_it_too(copy, quick, name):
    edit, expected = TAMPERED[name]
    change(copy, edit)
    lines = said(copy)
    assert any(expected in line for line in lines), lines


def test_what_is_only_recorded_says_so(copy, quick):
    """Nothing in a folder contradicts these, once the report is written again; the documentation lists them."""

    def edit(record):
        record["source"]["sha256"] = "0" * 64
        record["trace"][1]["score"], record["best"]["score"] = 0.0, 0.0
        record["effort"]["seconds"], record["versions"]["torch"] = 0.1, "9.9"
        record["image_metrics"]["uninfluential_fraction"] = 0.0

    change(copy, edit)
    write_report(copy)
    assert examine(copy, trust=True).problems == []
    page = Path(__file__).parents[2].joinpath("docs", "results.md").read_text(encoding="utf-8")
    section = page.partition("## What verify recomputes")[2].partition("\n## ")[0]
    assert [place for place in (*RECORDED, *SETTLED) if f"`{place}`" not in section] == []


@pytest.mark.parametrize("name", ["adversarial", "perturbation", "clean_seg", "adversarial_seg", "difference_seg",
                                  "reference_seg", "roi"])  # fmt: skip
def test_a_voxel_of_any_file_is_found_twice_or_by_its_hash(folder, copy, quick, name):
    """A background voxel: no number but a map's, or none at all, depends on it."""
    path = copy / f"{name}.nii.gz"
    image = nib.load(path)
    data = np.asanyarray(image.dataobj).copy()
    data[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(data, image.affine, image.header), path)
    lines = said(copy)
    assert f"{path.name}: isn't the file that was saved (its SHA-256 is another)" in lines
    wrong = {
        "clean_seg": "clean_seg.nii.gz: 1 voxel isn't the model's prediction",
        "adversarial_seg": "adversarial_seg.nii.gz: 1 voxel isn't the model's prediction",
        "difference_seg": "difference_seg.nii.gz: 1 voxel isn't where the predictions differ",
    }
    if name in wrong:
        assert wrong[name] in lines
    if name == "perturbation":
        assert any(line.startswith("budget: A voxel outside the region of interest changed") for line in lines)


def test_a_byte_of_any_file_is_found(folder, copy, quick):
    for entry in read_record(folder)["files"].values():
        path = copy / entry["path"]
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert any(line.startswith(f"{path.name}: isn't the file") for line in verify(copy, trust=True)), (path, at)
        path.write_bytes(whole)
    assert verify(copy, trust=True) == []


def test_missing_swapped_and_further_files_are_named(folder, copy, quick):
    (copy / "difference_seg.nii.gz").unlink()
    assert "difference_seg.nii.gz: is missing; copy the whole result folder" in verify(copy, trust=True)
    shutil.copy(folder / "difference_seg.nii.gz", copy)
    (copy / "clean_seg.nii.gz").rename(copy / "x")
    (copy / "adversarial_seg.nii.gz").rename(copy / "clean_seg.nii.gz")
    (copy / "x").rename(copy / "adversarial_seg.nii.gz")
    for name in ("clean_seg", "adversarial_seg"):
        assert f"{name}.nii.gz: isn't the file that was saved (its SHA-256 is another)" in verify(copy, trust=True)
        shutil.copy(folder / f"{name}.nii.gz", copy)
    (copy / "ct.nii.gz").write_bytes(b"")
    (copy / ".DS_Store").write_bytes(b"")
    found = examine(copy, trust=True)
    assert found.problems == [] and found.notes == ["ct.nii.gz isn't part of this result and wasn't looked at."]


def test_an_edited_report_is_named_and_a_missing_one_told(copy, quick):
    page = (copy / "report.html").read_text(encoding="utf-8")
    for edited in (page.replace("</h1>", "!</h1>"), page + " ", page.replace("H4sI", "H4sJ", 1)):
        (copy / "report.html").write_text(edited, encoding="utf-8")
        (line,) = verify(copy, trust=True)
        assert line.startswith(REPORT)
    (copy / "report.html").unlink()
    found = examine(copy, trust=True)
    assert found.problems == [] and found.notes == ["There is no report.html; `perturbox report` writes it."]
    write_report(copy)
    assert (copy / "report.html").read_text(encoding="utf-8") == page


def test_a_report_packed_by_another_zlib_is_the_same(copy, tmp_path):
    """Voxels and pictures deflated at another level, as other builds of zlib do."""
    import base64
    import gzip

    page = (copy / "report.html").read_text(encoding="utf-8")
    streams = re.findall(r"H4sI[A-Za-z0-9+/]{40,}={0,2}", page)
    assert streams
    again, false = page, page
    for stream in streams:
        voxels = gzip.decompress(base64.b64decode(stream))
        again = again.replace(stream, base64.b64encode(gzip.compress(voxels, 1, mtime=0)).decode())
        wrong = bytes([voxels[0] ^ 1]) + voxels[1:]
        false = false.replace(stream, base64.b64encode(gzip.compress(wrong, 1, mtime=0)).decode())
    for text, same in ((page, True), (again, True), (false, False)):
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        assert same_page(tmp_path / "page.html", page) is same
    assert again != page


def test_words_of_another_version_are_told_and_are_no_fault(copy, quick):
    def edit(record):
        record["versions"]["perturbox"] = "0.0.9"
        record["attack"]["title"] = "As it was called then"

    change(copy, edit)
    (copy / "report.html").write_text("as it looked then", encoding="utf-8")
    found = examine(copy, trust=True)
    assert found.problems == []
    title, page = found.notes
    assert title.startswith("attack.title: result.json says 'As it was called then'")
    assert page.startswith(REPORT) and "perturbox 0.0.9 made this folder" in page
    assert changed_since(read_record(copy))[0].startswith("perturbox 0.0.9 then, ")


# ---------------------------------------------------------------- schema 1


def first_schema(record: dict[str, Any]) -> None:
    """As the first version wrote it."""
    record["schema"] = "perturbox-result/1"
    record["files"] = {name: entry and entry["path"] for name, entry in record["files"].items()}
    for key in ("limits", "flow", "precision", "untested"):
        del record[key]
    del record["metrics"]["against_clean"]
    for key in ("unit_asked", "eps_asked", "step"):
        del record["budget"][key]
    before = {"benign": "dice", "absent": "held"}
    record["verdicts"] = {name: before.get(word, word) for name, word in record["verdicts"].items()}


@pytest.mark.parametrize("expert", [True, False])
def test_a_folder_of_the_first_schema_is_checked_by_its_numbers(folder, tmp_path, expert):
    if expert:
        copy = shutil.copytree(folder, tmp_path / "R")
    else:
        copy = tmp_path / "R"
        run_job(Job(str(tiny.write_scan(tmp_path / "ct.nii.gz")), TINY, eps=12, steps=2), copy)
    change(copy, first_schema)
    found = examine(copy, trust=True)
    assert found.problems == [] and found.files == 0
    (note,) = found.notes
    assert "schema perturbox-result/1, without hashes" in note
    change(copy, lambda record: record["control"]["rolled"]["dice"].update(liver=0.123))
    (line,) = verify(copy, trust=True)
    assert line.startswith("control.rolled.dice.liver: result.json says 0.123")
    change(copy, lambda record: record["files"].update(roi="../roi.nii.gz"))
    assert any("lies outside" in line for line in said(copy))


# ---------------------------------------------------------------- folders from anywhere


@pytest.mark.parametrize("name", ["../ct.nii.gz", "/etc/hostname", "..", "", "C:\\secret.nii.gz", "a/../ct.nii.gz"])
def test_no_file_outside_the_folder_is_read(copy, name):
    change(copy, lambda record: record["files"]["reference_seg"].update(path=name))
    lines = said(copy)
    assert any("lies outside; don't trust this folder" in line for line in lines)
    with pytest.raises(InputError, match="lies outside"):
        replay(copy, copy.parent / "again", trust=True)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("name", ["result.json", "report.html", "roi.nii.gz", "adversarial.nii.gz"])
def test_no_link_out_of_the_folder_is_followed(folder, copy, quick, name):
    (copy / name).unlink()
    (copy / name).symlink_to(folder / name)
    assert any("is a link to a file elsewhere" in line for line in said(copy))


def test_code_that_came_with_the_folder_runs_only_if_it_is_trusted(copy, tmp_path):
    trap = copy / "model.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for edit in (
        lambda record: record["victim"].update(spec=f"{trap}:volume"),
        lambda record: record.update(surrogates=[{"name": "x", "spec": f"{trap}:volume", "sha256": "0"}]),
    ):
        change(copy, edit)
        for call in (verify, lambda place: replay(place, tmp_path / "again")):
            with pytest.raises(InputError, match="Python code that came with the folder and runs with your rights"):
                call(copy)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "text, why",
    [
        ('{"a": NaN}', "isn't finite"),
        ('{"a": -Infinity}', "isn't finite"),
        ('{"a": 1e999}', "isn't finite"),
        ('{"a": 1, "a": 2}', "given twice"),
        ("[" * 200_000, "damaged"),
        ('{"a": ' + "9" * 5000 + "}", "damaged"),
        ("{", "not whole"),
        ("\udcff", "not whole"),
        ("[]", "doesn't follow"),
        ('{"schema": "perturbox-result/2"}', "is missing"),
        ('{"schema": "perturbox-result/1"}', "lacks"),
    ],
)
def test_json_that_is_not_ours_is_refused(tmp_path, text, why):
    (tmp_path / "result.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=why):
        verify(tmp_path, trust=True)


def test_json_of_an_absurd_size_is_not_read(tmp_path):
    with open(tmp_path / "result.json", "wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no room
    with pytest.raises(InputError, match="larger than any result"):
        read_json(tmp_path / "result.json")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_entry_of_another_kind_ends_in_a_crash(folder, copy, quick, every):
    """Each kind of leaf and each object in turn as something else: a sentence each, never an internal error."""
    record = json.loads((folder / "result.json").read_text())
    places = {place[:depth] for place in kinds(record) for depth in range(1, len(place) + 1)}
    values: list[Any] = ["x", {}, [], -1, None, True, [[]], {"a": {"b": 1}}, 10**15]
    for index, place in enumerate(sorted(places)):
        for value in values if every else values[index % 9 : index % 9 + 1]:
            change(copy, lambda changed, place=place, value=value: put(changed, place, lambda _: value))
            same = json.loads((copy / "result.json").read_text()) == record
            assert same or only_recorded(place) or said(copy), (place, value)
            shutil.copy(folder / "result.json", copy / "result.json")


# ---------------------------------------------------------------- replay


def test_a_replay_says_what_differs(folder, copy, tmp_path):
    torch.set_num_threads(read_record(folder)["threads"])
    replay(folder, tmp_path / "again", trust=True)
    assert unlike(folder, tmp_path / "again") == []
    change(copy, lambda record: (record.update(seed=8), record["trace"][0].update(loss=-1.0)))
    replay(copy, tmp_path / "other", Listener(), trust=True)
    lines = unlike(copy, tmp_path / "other")
    assert "adversarial.nii.gz: other voxels" in lines
    assert any(line.startswith("trace[0].loss: result.json says -1, now ") for line in lines)
