"""Certificates opened from their folders, made by the real command line, on a scan of the scene."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scans
import slicer
from driving import Driver
from harness.server import ROOT, TINY, server_python

MADE = """
import sys
import nibabel as nib
import numpy as np
nib.save(nib.Nifti1Image(np.load(sys.argv[1]).T, np.array(eval(sys.argv[2]))), sys.argv[3])
"""
ABSENT = (
    "The scan of this certificate isn't in the scene, and its folder holds no scan. Load the scan that was certified, "
    "then open the folder again."
)
UNSURE = "The certificate is shown on a scan that lies on its voxels. Whether that is the very scan"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """ct.nii.gz, on an oblique grid, and C, its adaptive certificate."""
    place = tmp_path_factory.mktemp("made")
    np.save(place / "hu.npy", scans.hounsfield())
    surroundings = {"PYTHONPATH": f"{ROOT / 'core'}", "PATH": "", "HOME": str(place)}

    def python(*words: str) -> None:
        command = [str(server_python()), *words]
        ran = subprocess.run(command, env=surroundings, cwd=place, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr

    python("-c", MADE, "hu.npy", str(scans.GRIDS["oblique"].tolist()), "ct.nii.gz")
    certify = f"certify ct.nii.gz --victim {TINY} --sigma 20 --n0 4 --n 60 --adaptive --out C"
    python("-m", "perturbox", *certify.split())
    return place


@pytest.fixture
def panel(load_module, wait_until):
    return Driver(load_module(), wait_until)


def opened(panel, dialogs, folder: Path) -> None:
    dialogs.answer(str(folder))
    panel.ui.openFolderButton.click()


def nodes() -> int:
    return slicer.mrmlScene.GetNumberOfNodes()


def shown(panel):
    from PerturboxLib.certificates import Certificate

    return Certificate(panel.parameters.result)


def test_it_is_shown_on_the_scan_that_was_loaded_from_the_very_file(panel, dialogs, made):
    """Whatever else lies on its voxels, and whatever the panel has chosen."""
    other = scans.add_scan("oblique", "other", seed=1)
    scan = slicer.util.loadVolume(str(made / "ct.nii.gz"))
    panel.choose(other)
    opened(panel, dialogs, made / "C")
    found = shown(panel)
    assert found.nodes.original == scan and not panel.trouble and len(dialogs.asked) == 1
    assert found.record == json.loads((made / "C" / "certificate.json").read_text(encoding="utf-8"))
    assert found.nodes.report == (made / "C" / "certificate.html").read_text(encoding="utf-8")
    assert panel.ui.verdictLabel.text == found.said["headline"]
    assert not panel.ui.certificateLabel.isHidden() and panel.ui.structureTable.isHidden()
    clean, certified = (
        slicer.util.arrayFromVolume(slicer.util.loadVolume(str(made / "C" / f"{stem}.nii.gz")))
        for stem in ("clean_seg", "certified")
    )
    values = found.record["values"]
    for role, names, stored in (("clean", ("liver", "bone"), clean), ("certified", values, certified)):
        node = getattr(found.nodes, role)
        for name in names:
            if values[name] and (stored == values[name]).any():
                mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, name, scan) > 0
                assert np.array_equal(mask, stored == values[name]), name
    assert (certified == values["abstained"]).any()


def test_it_stands_in_the_views_as_one_from_a_server(panel, dialogs, made):
    from PerturboxLib import layouts

    slicer.util.loadVolume(str(made / "ct.nii.gz"))
    opened(panel, dialogs, made / "C")
    manager, view = slicer.app.layoutManager(), panel.widget.look.certificates
    assert manager.layout == layouts.CERTIFICATE and view.slice == shown(panel).look[1]


def test_on_a_scan_of_another_file_it_says_what_can_t_be_told(panel, dialogs, made):
    chosen, _other = scans.add_scan("oblique", "chosen"), scans.add_scan("oblique", "other", seed=1)
    panel.choose(_other)
    opened(panel, dialogs, made / "C")
    assert shown(panel).nodes.original == _other and panel.trouble.startswith(UNSURE)
    panel.choose(chosen)
    opened(panel, dialogs, made / "C")
    assert shown(panel).nodes.original == chosen


def test_a_scan_on_other_voxels_or_a_perturbed_one_is_none_of_it(panel, dialogs, made):
    from PerturboxLib.volumes import markSynthetic

    scans.add_scan("axial", "elsewhere")
    markSynthetic(scans.add_scan("oblique", "perturbed"))
    before = nodes()
    opened(panel, dialogs, made / "C")
    assert panel.trouble == ABSENT and nodes() == before and panel.parameters.result is None


def test_a_scan_without_voxels_stands_in_no_way(panel, dialogs, made):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    opened(panel, dialogs, made / "C")
    assert panel.trouble == ABSENT


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "not json", "no source", "other grid"])
def test_a_damaged_certificate_leaves_nothing_behind(panel, dialogs, made, tmp_path, damage, vtk_errors):
    folder = Path(shutil.copytree(made / "C", tmp_path / "C"))
    record = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    if damage == "missing":
        (folder / "clean_seg.nii.gz").unlink()
    elif damage == "cut":
        (folder / "certified.nii.gz").write_bytes(b"\x1f\x8b" + bytes(40))
    elif damage == "foreign":
        (folder / "certificate.json").write_text(json.dumps({"source": {"sha256": None}}))
    elif damage == "not json":
        (folder / "certificate.json").write_text("{")
    elif damage == "no source":
        (folder / "certificate.json").write_text(json.dumps(record | {"source": None}))
    else:
        small = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.int16))
        slicer.util.saveNode(small, str(folder / "clean_seg.nii.gz"))
        slicer.mrmlScene.RemoveNode(small)
    scans.add_scan("oblique")
    before = nodes()
    opened(panel, dialogs, folder)
    vtk_errors.clear()  # what Slicer's reader says of a file that is none
    assert panel.trouble[-1] in ".?" and panel.parameters.result is None and nodes() == before
    assert not panel.trouble.startswith(UNSURE)


def test_it_is_removed_as_one_from_a_server(panel, dialogs, made):
    from PerturboxLib import scene

    scan = slicer.util.loadVolume(str(made / "ct.nii.gz"))
    opened(panel, dialogs, made / "C")
    scene.remove(panel.parameters.result)
    assert scene.results() == [] and scan.GetScene() is not None
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert not slicer.util.getNodesByClass("vtkMRMLTextNode")


@pytest.mark.parametrize("screen", [(1280, 720), (1440, 900)])
def test_a_picture_of_it(panel, dialogs, made, rendering, screen):
    slicer.util.loadVolume(str(made / "ct.nii.gz"))
    opened(panel, dialogs, made / "C")
    picture = rendering.desktop(*screen)
    if folder := os.environ.get("PERTURBOX_PICTURES"):
        rendering.save(picture, Path(folder) / f"panel-certificate-opened_{screen[0]}.png")
    assert panel.ui.certificateLabel.minimumSizeHint.width() <= 340
