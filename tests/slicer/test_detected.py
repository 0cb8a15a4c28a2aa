"""Detectors of the model beside an attack's verdict, in their own sentences; nothing where the server has none."""

import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import scans
from driving import Driver
from harness.server import ROOT, TINY, server_python, start_server
from working import trouble_of

FIT = """
import sys
import numpy as np
import perturbox as px
sys.path.insert(0, sys.argv[1])
import tiny
clean = []
for seed in range(12):
    hu = tiny.scan(seed=seed) + np.random.default_rng(seed).normal(0, 5 + seed, tiny.SHAPE)
    clean.append((np.rint(hu).astype(np.int16), np.diag([*tiny.SPACING, 1.0])))
px.fit_detector(sys.argv[2], "entropy", clean).write(sys.argv[3])
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A server of the tiny model, with a detector of it."""
    folder = tmp_path_factory.mktemp("watched")
    file = folder / "sure.safetensors"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "core")}
    command = [server_python(), "-c", FIT, str(ROOT / "tests" / "core"), TINY, str(file)]
    subprocess.run(command, env=environment, check=True)
    server = start_server(folder, victims=[TINY], detectors=[f"sure={file}"])
    yield server
    server.stop()


@pytest.fixture
def panel(load_module, wait_until):
    return Driver(load_module(), wait_until)


def attacked(panel, server):
    panel.volume = scans.add_scan("oblique")
    panel.connect(server)
    panel.choose(panel.volume)
    panel.set_form(steps=3)
    panel.attack()
    return panel


def rows_of(panel) -> list:
    from PerturboxLib.scene import Nodes

    return Nodes(panel.parameters.result).detections


def test_the_detectors_sentences_stand_beside_the_verdict(panel, watched, rendering):
    attacked(panel, watched)
    rows, ui = rows_of(panel), panel.ui
    assert [(row["name"], row["scan"]) for row in rows] == [("sure", "perturbed"), ("sure", "clean")]
    job = panel.widget.session.client.jobs()[0]
    assert job["request"]["detector"] == ["sure"]
    told = json.loads(watched.get(f"/perturbox/jobs/{job['id']}/files/detection.json").content)
    assert rows == told["detections"]
    for row in rows:
        assert f"score {row['score']:.2f}, threshold {row['threshold']:.2f};" in row["sentence"]
    plain = ui.detectionLabel.text.replace("&#x27;", "'")
    assert plain == (
        f"<b>Detector sure: {rows[0]['title']}</b>"
        f"<br>Perturbed scan: {rows[0]['sentence']}<br>Scan as it is: {rows[1]['sentence']}"
    )
    assert not ui.detectionLabel.isHidden() and not ui.verdictLabel.isHidden()
    picture = rendering.desktop(1280, 720)
    if folder := os.environ.get("PERTURBOX_PICTURES"):
        rendering.save(picture, Path(folder) / "panel-detected_1280.png")
    assert ui.detectionLabel.minimumSizeHint.width() <= 340


def test_it_is_asked_of_the_model_that_it_belongs_to_and_of_none_behind_a_defence(panel, watched):
    panel.connect(watched)
    panel.choose(scans.add_scan())
    attack = panel.widget.attack
    parcel = panel.widget.input.parcel()
    assert attack.request("attack", parcel)["detector"] == ["sure"]
    assert "detector" not in attack.request("segment", parcel) and "detector" not in attack.marginRequest()
    box = panel.ui.defenceComboBox
    box.currentIndex = box.findData("median")
    assert "detector" not in attack.request("attack", parcel)
    box.currentIndex = 0
    panel.session.schema["detectors"][0]["victim"] = "another"
    assert "detector" not in attack.request("attack", parcel)
    del panel.session.schema["detectors"]
    assert "detector" not in attack.request("attack", parcel), "an older server has none"


def test_where_the_server_has_none_nothing_is_shown(panel, tiny_server):
    attacked(panel, tiny_server)
    assert rows_of(panel) == [] and panel.ui.detectionLabel.isHidden() and panel.ui.detectionLabel.text == ""


def test_what_it_said_is_saved_with_the_result(panel, watched, dialogs, tmp_path):
    attacked(panel, watched)
    (tmp_path / "here").mkdir()
    dialogs.answer(str(tmp_path / "here"))
    panel.ui.exportFolderButton.click()
    (saved,) = (tmp_path / "here").iterdir()
    found = json.loads((saved / "detection.json").read_text(encoding="utf-8"))
    assert found["schema"] == "perturbox-detection/1" and found["detections"] == rows_of(panel)


def test_a_folder_of_the_server_is_opened_with_it(panel, watched, dialogs, tmp_path):
    attacked(panel, watched)
    rows, shown = rows_of(panel), panel.ui.detectionLabel.text
    job = panel.widget.session.client.jobs()[0]["id"]
    with zipfile.ZipFile(io.BytesIO(watched.get(f"/perturbox/jobs/{job}/result.zip").content)) as archive:
        archive.extractall(tmp_path)
    panel.parameters.result = None
    dialogs.answer(str(tmp_path / f"perturbox-{job[:8]}"))
    panel.ui.openFolderButton.click()
    assert rows_of(panel) == rows and panel.ui.detectionLabel.text == shown


def test_what_has_to_be_known_of_a_detector_is_said_once(panel):
    """Those that are shipped say of themselves that they know phantoms only."""
    told = {"name": "a", "title": "T", "note": "Know: 2 < 3."}
    rows = [{**told, "scan": scan, "sentence": f"It saw {scan}. {told['note']}"} for scan in ("perturbed", "clean")]
    panel.widget.result._detect(rows)
    assert panel.ui.detectionLabel.text == (
        "<b>Detector a: T</b><br>Perturbed scan: It saw perturbed.<br>Scan as it is: It saw clean.<br>Know: 2 &lt; 3."
    )


@pytest.mark.parametrize(
    "rows",
    [
        None,
        {},
        [1],
        [{"scan": "clean"}],
        [{"scan": 1, "name": "a", "sentence": "b"}],
        [{"scan": "clean", "name": "a", "sentence": "b", "note": 1}],
    ],
)
def test_a_damaged_file_is_refused_in_words(rows):
    from PerturboxLib import tasks

    trouble = trouble_of(tasks.detected, json.dumps({"detections": rows}).encode())
    assert trouble.code == "bad-file" and trouble.detail.startswith("detection.json: ")
