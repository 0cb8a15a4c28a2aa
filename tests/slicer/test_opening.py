"""Results and studies opened from their folders, made by the real command line."""

import json
import shutil
import subprocess
from pathlib import Path

import bundles
import numpy as np
import pytest
import scans
import slicer
from driving import Driver
from harness.server import ROOT, TINY, server_python

FILES = {
    "perturbed": "adversarial",
    "perturbation": "perturbation",
    "clean": "clean_seg",
    "adversarial": "adversarial_seg",
    "difference": "difference_seg",
    "influence": "influence",
}
KEYS = ("0123456789abcdef" * 2, "fedcba9876543210" * 2)
STUDY = {"eps": {"values": [2, 40], "unit": "sigma"}, "seeds": [0]}


@pytest.fixture
def panel(load_module, wait_until):
    return Driver(load_module(), wait_until)


def write_result(folder: Path, grid: str = "oblique") -> None:
    """The made-up result as files, as `perturbox attack --out` leaves them."""
    folder.mkdir(parents=True)
    made = bundles.bundle(scans.GRIDS[grid])
    arrays = {role: image.array for role, image in made.images.items()}
    arrays["difference"] = (arrays["clean"] != arrays["adversarial"]).astype(np.uint8)
    for role, stem in FILES.items():
        node = slicer.util.addVolumeFromArray(arrays[role], scans.GRIDS[grid])
        assert slicer.util.saveNode(node, str(folder / f"{stem}.nii.gz"))
        slicer.mrmlScene.RemoveNode(node)
    (folder / "result.json").write_text(json.dumps(made.record))
    (folder / "report.html").write_text(made.report, encoding="utf-8")


@pytest.fixture
def worst() -> list[dict]:
    """What study.json says of its two cases."""
    rows = [("net A", "pgd-2", 40.0, "case_1"), ("net A", "pgd-2", 2.5, "case_0")]
    told = [dict(zip(("target", "attack", "eps", "case"), row, strict=True)) for row in rows]
    return [{**row, "seed": 0, "folder": f"worst/{key}"} for row, key in zip(told, KEYS, strict=True)]


@pytest.fixture
def study(scene, worst, tmp_path) -> Path:
    """The folder of a study that kept two cases, on two grids."""
    for row, grid in zip(worst, ("oblique", "axial"), strict=True):
        write_result(tmp_path / "study" / row["folder"], grid)
    (tmp_path / "study" / "study.json").write_text(json.dumps({"study": STUDY, "worst": worst}))
    return tmp_path / "study"


def nodes() -> int:
    return slicer.mrmlScene.GetNumberOfNodes()


def opened(panel, dialogs, *answers) -> None:
    dialogs.answer(*answers)
    panel.ui.openFolderButton.click()


@pytest.mark.parametrize("chosen", [0, 1])
def test_a_case_of_a_study_is_chosen_by_name(panel, dialogs, study, worst, chosen):
    """The scan is the perturbed one without the change, voxel by voxel and in its place."""
    from PerturboxLib import geometry, scene

    titles = ["net A · pgd-2 · 40 σ · case_1", "net A · pgd-2 · 2.5 σ · case_0"]
    opened(panel, dialogs, str(study), titles[chosen])
    assert dialogs.asked[-1].buttons == titles and not panel.trouble
    shown = scene.Nodes(panel.parameters.result)
    assert shown.original.GetName() == worst[chosen]["case"]
    before, after = (slicer.util.arrayFromVolume(node) for node in (shown.original, shown.perturbed))
    assert np.array_equal(before, bundles.hounsfield()) and before.dtype == np.int16
    assert np.array_equal(after - before, bundles.change())
    for node in (shown.original, shown.perturbed, shown.perturbation):
        assert np.allclose(geometry.worldGrid(node), scans.GRIDS[("oblique", "axial")[chosen]], atol=1e-4)
    record = json.loads((study / worst[chosen]["folder"] / "result.json").read_text())
    dice = {row.name: row.dice for row in panel.widget.result.rows}
    assert dice == {name: record["metrics"]["adversarial"][name]["dice"] for name in dice} and len(dice) == 3
    assert scene.isSynthetic(shown.perturbed) and not scene.isSynthetic(shown.original)
    assert shown.report == "<html>the report – with ≤</html>" and shown.influence is not None


def test_seeds_are_told_where_there_are_several(panel, dialogs, study, worst):
    told = {"study": {"eps": {"unit": "native"}, "seeds": [0, 7]}, "worst": [{**worst[0], "seed": 7}, worst[1]]}
    (study / "study.json").write_text(json.dumps(told))
    opened(panel, dialogs, str(study), "")
    assert dialogs.asked[-1].buttons == [
        "net A · pgd-2 · 40 · case_1 · seed 7",
        "net A · pgd-2 · 2.5 · case_0 · seed 0",
    ]


def test_a_result_s_folder_opens_at_once(panel, dialogs, study, worst):
    from PerturboxLib import scene

    folder = study / worst[0]["folder"]
    before = nodes()
    opened(panel, dialogs, str(folder))
    node = panel.parameters.result
    original = scene.Nodes(node).original
    assert original.GetName() == folder.name
    assert not panel.trouble and len(dialogs.asked) == 1
    scene.remove(node)
    scene.discard(original)
    assert nodes() == before  # what the files were read by has gone before


def test_who_cancels_changes_nothing(panel, dialogs, study):
    before = nodes()
    opened(panel, dialogs, "")
    opened(panel, dialogs, str(study), "")
    assert nodes() == before and panel.parameters.result is None and not panel.trouble


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {},
            "This folder holds no result, no certificate and no study. Choose one that holds result.json, "
            "certificate.json or study.json.",
        ),
        ({"certificate.json": "["}, "A file of the result can't be read."),
        ({"ledger.jsonl": ""}, "The study in this folder isn't finished."),
        ({"study.json": "{"}, "A file of the result can't be read."),
        ({"study.json": "[]"}, "A file of the result can't be read."),
        (
            {"study.json": '{"study": {"eps": {"unit": "native"}, "seeds": [0]}, "worst": []}'},
            "This study kept no case.",
        ),
        ({"study.json": '{"study": {"eps": {"unit": "parsec"}}}'}, "A file of the result can't be read."),
        ({"result.json": "{}"}, "The result has no adversarial."),
    ],
)
def test_what_cannot_be_opened_is_said(panel, dialogs, tmp_path, files, sentence):
    before = nodes()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    opened(panel, dialogs, str(tmp_path))
    assert panel.trouble.startswith(sentence) and nodes() == before


def test_a_study_leads_to_no_folder_but_its_own(panel, dialogs, study, worst, tmp_path):
    shutil.copytree(study / worst[0]["folder"], tmp_path / "elsewhere")
    record = json.loads((study / "study.json").read_text())
    record["worst"][0]["folder"] = "../elsewhere"
    record["worst"][1]["folder"] = str(tmp_path / "elsewhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text(json.dumps(record))
    opened(panel, dialogs, str(tmp_path / "out"))
    assert panel.trouble.startswith("This study kept no case.")


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "other grid"])
def test_a_damaged_result_leaves_nothing_behind(panel, dialogs, study, worst, tmp_path, damage, vtk_errors):
    folder = tmp_path / "result"
    shutil.copytree(study / worst[0]["folder"], folder)
    if damage == "missing":
        (folder / "clean_seg.nii.gz").unlink()
    elif damage == "cut":
        (folder / "perturbation.nii.gz").write_bytes(b"\x1f\x8b" + bytes(40))
    elif damage == "foreign":
        (folder / "result.json").write_text('{"attack": 1}')
    else:
        small = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.int16))
        slicer.util.saveNode(small, str(folder / "clean_seg.nii.gz"))
        slicer.mrmlScene.RemoveNode(small)
    before = nodes()
    opened(panel, dialogs, str(folder))
    vtk_errors.clear()  # what Slicer's reader says of a file that is none
    assert panel.trouble and panel.parameters.result is None
    assert nodes() == before


def carried_out(tmp_path, victim: str, images: str, write: str) -> None:
    """A study by the real command line, on what a line of Python writes, in `out`."""
    text = f"""\
schema: perturbox-study/1
name: tiny curve
kind: curve
models: {{tiny: {{victim: "{victim}"}}}}
cases: {{images: "{images}"}}
attacks: [{{name: pgd, steps: 2}}]
eps: {{values: [40]}}
keep_worst: 1
"""
    surroundings = {"PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'tests' / 'core'}", "PATH": "", "HOME": str(tmp_path)}

    def python(*words: str) -> None:
        command = [str(server_python()), *words]
        ran = subprocess.run(command, env=surroundings, cwd=tmp_path, capture_output=True, text=True)
        if "extra 'study'" in ran.stderr:
            pytest.skip("studies need the extra 'study' where the server is")
        assert ran.returncode == 0, ran.stderr

    python("-c", write)
    (tmp_path / "study.yaml").write_text(text)
    python("-m", "perturbox", "study", "study.yaml", "--out", "out", "--workers", "1")


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "shape"), [("volume", "tiny.SHAPE"), ("flat", "(24, 22)")])
def test_what_perturbox_study_leaves_opens(panel, dialogs, tmp_path, victim, shape):
    """By the real command line, on a scan of its own, whole or one slice: the very voxels of that scan."""
    from PerturboxLib import scene

    written = f"import tiny; tiny.write_scan('case_0.nii.gz', {shape})"
    carried_out(tmp_path, TINY.replace(":volume", f":{victim}"), "*.nii.gz", written)
    opened(panel, dialogs, str(tmp_path / "out"))
    shown = scene.Nodes(panel.parameters.result)
    scan = slicer.util.loadVolume(str(tmp_path / "case_0.nii.gz"))
    assert shown.original.GetName() == "case_0"
    assert np.array_equal(slicer.util.arrayFromVolume(shown.original), slicer.util.arrayFromVolume(scan))


@pytest.mark.slow
def test_a_photograph_of_a_study_leads_to_its_page(panel, dialogs, tmp_path):
    carried_out(
        tmp_path, TINY.replace("tiny.py:volume", "mixes.py:red1"), "eye1.png", "import mixes; mixes.write('.', 1)"
    )
    opened(panel, dialogs, str(tmp_path / "out"))
    assert "is no scan of one channel" in panel.trouble and "report.html" in panel.trouble
    assert panel.parameters.result is None
