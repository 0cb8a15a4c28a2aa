"""Results and studies opened from their folders, made by the real command line."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import slicer
from harness.server import ROOT, TINY, server_python

TEXT = f"""\
schema: perturbox-study/1
name: tiny curve
kind: curve
models:
  tiny: {{victim: "{TINY}"}}
cases: {{images: "*.nii.gz"}}
attacks: [{{name: pgd, steps: 2, label: pgd-2}}]
eps: {{values: [40]}}
keep_worst: 2
"""
SCANS = "import sys, tiny; [tiny.write_scan(f'{sys.argv[1]}/case_{n}.nii.gz', seed=n) for n in range(2)]"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The folder of a study of two cases, both kept."""
    place = tmp_path_factory.mktemp("opened")
    surroundings = {"PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'tests' / 'core'}", "PATH": "", "HOME": str(place)}

    def python(*words: str) -> None:
        ran = subprocess.run(
            [str(server_python()), *words], env=surroundings, cwd=place, capture_output=True, text=True
        )
        if "extra 'study'" in ran.stderr:
            pytest.skip("studies need the extra 'study' where the server is")
        assert ran.returncode == 0, ran.stderr

    python("-c", SCANS, str(place))
    (place / "study.yaml").write_text(TEXT)
    python("-m", "perturbox", "study", "study.yaml", "--out", "out", "--workers", "1")
    return place / "out"


@pytest.fixture
def worst(study) -> list[dict]:
    return json.loads((study / "study.json").read_text())["worst"]


def nodes() -> int:
    return slicer.mrmlScene.GetNumberOfNodes()


def opened(panel, dialogs, *answers) -> None:
    dialogs.answer(*answers)
    panel.ui.openFolderButton.click()


def test_a_case_of_a_study_is_chosen_by_name(panel, dialogs, study, worst):
    """The scan is what the study attacked, voxel by voxel and in its place; numbers are those of its result.json."""
    from PerturboxLib import geometry, scene

    titles = [f"tiny · pgd-2 · 40 · {row['case']}" for row in worst]
    assert sorted(row["case"] for row in worst) == ["case_0", "case_1"]
    opened(panel, dialogs, str(study), titles[1])
    assert dialogs.asked[-1].buttons == titles and not panel.trouble
    shown = scene.Nodes(panel.parameters.result)
    record = json.loads((study / worst[1]["folder"] / "result.json").read_text())
    assert shown.original.GetName() == worst[1]["case"] and shown.record["verdicts"] == record["verdicts"]
    scan = slicer.util.loadVolume(str(study.parent / f"{worst[1]['case']}.nii.gz"))
    for role in ("original", "perturbed"):
        assert np.allclose(geometry.worldGrid(getattr(shown, role)), geometry.worldGrid(scan), atol=1e-5)
    before, after = (slicer.util.arrayFromVolume(node) for node in (shown.original, shown.perturbed))
    assert np.array_equal(before, slicer.util.arrayFromVolume(scan)) and before.dtype == after.dtype
    assert 0 < np.abs(after.astype(int) - before).max() <= 40
    dice = {row.name: row.dice for row in panel.widget.result.rows}
    assert dice == {name: record["metrics"]["adversarial"][name]["dice"] for name in dice} and dice
    assert scene.isSynthetic(shown.perturbed) and not scene.isSynthetic(shown.original)
    assert shown.report == (study / worst[1]["folder"] / "report.html").read_text(encoding="utf-8")


def test_a_result_s_folder_opens_at_once(panel, dialogs, study, worst):
    from PerturboxLib import scene

    folder = study / worst[0]["folder"]
    opened(panel, dialogs, str(folder))
    assert scene.Nodes(panel.parameters.result).original.GetName() == folder.name
    assert not panel.trouble and len(dialogs.asked) == 1


def test_who_cancels_changes_nothing(panel, dialogs, study):
    before = nodes()
    opened(panel, dialogs, "")
    opened(panel, dialogs, str(study), "")
    assert nodes() == before and panel.parameters.result is None and not panel.trouble


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "This folder holds no result and no study."),
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
