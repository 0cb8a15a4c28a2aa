"""What must fail does: mistakes a module makes in silence end a test of it, and each fixture cleans up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.server import server_python

HERE = Path(__file__).parent
MISTAKES = '''
"""Each of these must fail."""
import threading

import pytest
import qt
import vtk

import slicer


def test_in_a_slot(slicer_app):
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()


def test_in_a_thread(slicer_app):
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()


def test_in_an_observer(scene):
    tag = scene.AddObserver(scene.EndCloseEvent, lambda caller, event: 1 / 0)
    scene.Clear(0)
    scene.RemoveObserver(tag)


def test_observer_left(scene):
    scene.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: None)


def test_answer_left(scene, dialogs):
    dialogs.answer(True)


def test_mrml_error(scene):
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene).GetItemParent(12345)


def test_unknown_module(load_module, tmp_path):
    load_module(tmp_path / "Absent.py")


def test_condition_never_true(wait_until):
    wait_until(lambda: False, 0.05)
'''
HARMLESS = """

def test_after_all_this_the_scene_is_empty(scene):
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
"""


def test_mistakes_end_a_test(tmp_path):
    path = tmp_path / "test_mistakes.py"
    path.write_text(MISTAKES + HARMLESS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--rootdir", str(HERE), "-c"]
    done = subprocess.run(
        [*command, str(HERE / "pytest.ini"), str(path), "-o", "addopts=-ra", "-p", "no:cacheprovider"],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    ended = set(re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", done.stdout, re.M))
    expected = set(re.findall(r"^def (\w+)", MISTAKES, re.M))
    assert ended == expected, done.stdout + done.stderr
    for words in ("ZeroDivisionError", "still observing the scene", "nobody asked for the answers", "reported errors"):
        assert words in done.stdout


def test_a_missing_server_environment_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PERTURBOX_SERVER_PYTHON", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match="run `make setup` first"):
        server_python()
