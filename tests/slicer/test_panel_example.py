"""The panel without any server: the finished example, keys, saved scenes, a blind read, a server of one's own."""

import json

import numpy as np
import pytest
import slicer
from driving import Driver
from harness.server import TINY, server_python


@pytest.fixture
def panel(load_module, wait_until):
    return Driver(load_module(), wait_until)


@pytest.fixture
def example(panel):
    """The panel with the example open."""
    panel.ui.exampleButton.click()
    assert not panel.trouble and panel.parameters.result is not None
    return panel


def test_the_example_opens_into_rows_views_and_its_worst_slice(example):
    from PerturboxLib import scene

    nodes, look = scene.Nodes(example.parameters.result), example.widget.look
    assert look.viewer.nodes.node is example.parameters.result and look.viewer.index() == nodes.result.worst(["kidney"])
    assert example.widget.result.selected() == ["kidney"] and example.ui.isolateCheckBox.checked
    kinds = {row.reason for row in example.widget.result.rows}
    assert kinds & {"dice", "vanished", "distance", "local"} and len(example.widget.result.rows) >= 5
    assert example.ui.verdictLabel.text == nodes.result.verdict()
    assert not example.ui.resultCollapsibleButton.collapsed and example.ui.saveCollapsibleButton.enabled
    original, perturbed = (slicer.util.arrayFromVolume(n) for n in (nodes.original, nodes.perturbed))
    change = slicer.util.arrayFromVolume(nodes.perturbation)
    assert np.array_equal(perturbed.astype(int) - original, change.astype(int))
    assert np.abs(change).max() <= nodes.result.record["budget"]["eps"]


def test_a_row_leads_to_its_worst_slice_and_steps_stay_with_it(example):
    from PerturboxLib import scene

    look, result = example.widget.look, scene.Nodes(example.parameters.result).result
    for row in example.widget.result.rows:
        example.widget.result.select(row.name)
        assert look.viewer.index() == result.worst([row.name])
        at = look.viewer.index()
        example.ui.nextChangedButton.click()
        assert look.viewer.index() == (
            at if result.nextChanged(at, [row.name]) is None else result.nextChanged(at, [row.name])
        )


def test_only_selected_structures_are_shown_when_isolated(example):
    from PerturboxLib import scene

    nodes = scene.Nodes(example.parameters.result)
    first = example.widget.result.rows[0].name
    example.widget.result.select(first)
    example.ui.isolateCheckBox.checked = True
    shown = nodes.clean.GetDisplayNode()
    ids = [
        nodes.clean.GetSegmentation().GetNthSegmentID(n)
        for n in range(nodes.clean.GetSegmentation().GetNumberOfSegments())
    ]
    assert [i for i in ids if shown.GetSegmentVisibility(i)] == [i for i in ids if i == first]
    example.ui.isolateCheckBox.checked = False
    assert all(shown.GetSegmentVisibility(i) for i in ids)


@pytest.mark.parametrize("mode", ["compare", "difference", "heat", "fourUp"])
def test_each_mode_has_its_button_and_leaving_restores_the_layout(example, mode):
    from PerturboxLib.lookpanel import MODES

    getattr(example.ui, MODES[mode]).click()
    assert example.widget.look.viewer.mode == mode
    checked = [m for m, name in MODES.items() if getattr(example.ui, name).checked]
    assert checked == [mode] and example.ui.heatOpacitySlider.isHidden() == (mode != "heat")
    slicer.util.mainWindow().moduleSelector().selectModule("")
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


def test_keys_do_what_the_buttons_do_and_are_gone_with_the_module(example):
    widget, look = example.widget, example.widget.look
    keys = {shortcut.key.toString(): shortcut for shortcut in widget.keys.shortcuts}
    assert set(keys) == {"1", "2", "3", "4", "N", "P", "M", "X", "I", "W", "Ctrl+Return", "Ctrl+C", "Esc"}
    at = look.viewer.index()
    keys["N"].activated.emit()
    assert look.viewer.index() > at
    keys["M"].activated.emit()
    assert look.viewer.index() == at
    keys["2"].activated.emit()
    assert widget.parameters.mode == "difference"
    keys["W"].activated.emit()
    assert widget.parameters.window == "liver"
    keys["1"].activated.emit()
    keys["X"].activated.emit()
    assert look.blink.running
    keys["Esc"].activated.emit()
    assert not look.blink.running
    slicer.util.mainWindow().moduleSelector().selectModule("")
    assert widget.keys.shortcuts == []


def test_keys_are_silent_while_one_types(example):
    import qt
    from PerturboxLib import keys

    assert keys.isTyping(example.ui.tokenLineEdit) and keys.isTyping(qt.QSpinBox())
    assert not keys.isTyping(example.ui.attackButton) and not keys.isTyping(None)


def test_the_table_is_copied_as_text(example):
    example.widget.result.copy()
    lines = slicer.app.clipboard().text().split("\n")
    assert len(lines) == 1 + len(example.widget.result.rows) and lines[0].startswith("Structure\t")
    assert lines[1].split("\t")[0] == example.widget.result.rows[0].title


def test_the_table_sorts_by_numbers_and_keeps_its_rows(example):
    import qt

    panel, table = example.widget.result, example.ui.structureTable
    table.sortByColumn(3, qt.Qt.DescendingOrder)
    dice = [
        panel.rows[panel.sorter.mapToSource(panel.sorter.index(n, 0)).row()].dice
        for n in range(panel.sorter.rowCount())
    ]
    known = [round(value, 3) for value in dice if value is not None]  # as the cells show them
    assert known == sorted(known, reverse=True) and len(known) >= 5
    table.selectRow(0)
    best = max(panel.rows, key=lambda row: row.dice if row.dice is not None else -1)
    assert panel.selected() == [best.name]


def test_a_saved_scene_opens_with_its_result(example, tmp_path, wait_until):
    """Saved, closed and opened again, the views show the result and the rows are the same."""
    from PerturboxLib import scene

    rows = [row.cells() for row in example.widget.result.rows]
    example.ui.differenceButton.click()
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    assert example.parameters.result is None and example.widget.result.rows == []
    slicer.util.loadScene(str(path))
    wait_until(lambda: example.parameters.result is not None, 10)
    assert [row.cells() for row in example.widget.result.rows] == rows
    assert example.parameters.mode == "difference" and example.widget.look.viewer.mode == "difference"
    nodes = scene.Nodes(example.parameters.result)
    assert scene.isSynthetic(nodes.perturbed) and nodes.report.startswith("<!")


def test_a_blind_read_is_scored(example):
    from PerturboxLib import blindread

    example.ui.blindReadButton.click()
    reading = blindread._running[0]
    while reading.quiz.question:
        reading.answer(reading.quiz.question.left)
    asked = len(reading.quiz.questions)
    assert reading.asked.text.startswith(f"{asked} of {asked} right (100 %")
    reading.endButton.click()


def test_saving_to_a_folder_from_the_panel(example, dialogs, tmp_path):
    dialogs.answer(str(tmp_path))
    example.ui.exportFolderButton.click()
    folder = next(tmp_path.iterdir())
    assert example.trouble == f"Saved: {folder}"
    names = {path.name for path in folder.iterdir()}
    assert {"perturbed.nrrd", "clean.seg.nrrd", "result.json", "structures.csv", "report.html"} <= names
    assert b"ADVERSARIAL - NOT FOR CLINICAL USE" in (folder / "perturbed.nrrd").read_bytes()[:4000]
    dialogs.answer(str(tmp_path))
    example.ui.exportFolderButton.click()
    assert "exists already" in example.trouble


def test_an_existing_report_is_replaced_only_as_the_dialog_agreed(example, dialogs, tmp_path):
    target = tmp_path / "report.html"
    target.write_text("old")
    dialogs.answer(str(target))
    example.ui.reportButton.click()
    assert target.read_text(encoding="utf-8").startswith("<!") and not list(tmp_path.glob("*.part"))


def test_a_folder_that_cannot_be_written_is_said(example, dialogs, tmp_path):
    dialogs.answer(str(tmp_path / "nowhere"))
    example.ui.exportFolderButton.click()
    assert "could not be written" in example.trouble and example.trouble.endswith("Choose another folder.")


def test_a_server_of_ones_own_is_started_used_and_stopped(panel, tmp_path, monkeypatch, wait_until):
    from PerturboxLib import localserver, serverpanel, settings

    class Tiny(localserver.LocalServer):
        def __init__(self, python, arguments):
            super().__init__(python, home=tmp_path, arguments=arguments)

    monkeypatch.setattr(serverpanel, "LocalServer", Tiny)
    panel.ui.pythonPathLineEdit.currentPath = str(server_python())
    panel.ui.modelsLineEdit.text = TINY
    assert settings.detectors() == panel.ui.detectorsLineEdit.text == ""
    panel.ui.detectorsLineEdit.text = "shipped"
    panel.ui.localServerButton.click()
    assert settings.models() == TINY and settings.detectors() == "shipped" and not panel.ui.modelsLineEdit.enabled
    assert panel.widget.server.local.arguments == ("--victim", TINY, "--detector", "shipped")
    assert not panel.ui.detectorsLineEdit.enabled
    assert "Starting a server" in panel.ui.serverStatusLabel.text and panel.ui.localServerButton.text == "Stop server"
    wait_until(lambda: panel.session.connected or panel.trouble, 180)
    assert panel.session.client.isLoopback and panel.session.client.token
    assert panel.session.schema["detectors"] == [], "none is shipped for this model, which is no trouble"
    process = panel.widget.server.local._process
    panel.ui.localServerButton.click()
    assert not panel.session.connected and panel.ui.localServerButton.text == "Start server"
    wait_until(lambda: process.poll() is not None, 20)


def test_models_are_written_with_spaces_between(panel):
    from PerturboxLib.serverpanel import served
    from PerturboxLib.trouble import Trouble

    assert served("") == ()
    text = "nnunet:/models/a:folds=0,1 '/my models/b.ts' --trust ct-organs+/models/c.zip"
    named = ["nnunet:/models/a:folds=0,1", "/my models/b.ts", "ct-organs+/models/c.zip"]
    assert served(text) == (*(part for name in named for part in ("--victim", name)), "--trust")
    with pytest.raises(Trouble, match="never closed"):
        served("'/my models/b.ts")


def test_detectors_are_those_that_are_named(panel):
    from PerturboxLib.serverpanel import watched
    from PerturboxLib.trouble import Trouble

    assert watched("") == watched("  ") == ()
    assert watched("shipped") == ("--detector", "shipped")
    files = ("--detector", "mahalanobis", "--detector", "own=/my files/d.safetensors")
    assert watched("mahalanobis 'own=/my files/d.safetensors'") == files
    with pytest.raises(Trouble, match="in the list of detectors is never closed"):
        watched("'/my files/d.safetensors")
    panel.ui.detectorsLineEdit.text = "'x"
    panel.ui.localServerButton.click()
    assert panel.trouble.startswith("A quotation mark in the list of detectors is never closed.")
    assert panel.widget.server.local is None


@pytest.mark.parametrize("path", ["", "/nowhere/python", "/bin/ls"])
def test_a_python_that_cannot_serve_is_said(panel, path, wait_until):
    panel.ui.pythonPathLineEdit.currentPath = path
    panel.ui.localServerButton.click()
    wait_until(lambda: panel.trouble, 60)
    assert panel.trouble[-1] in ".?" and panel.ui.localServerButton.text == "Start server"


def test_a_script_attacks_without_the_panel(panel, tiny_server):
    import scans
    from PerturboxLib import scene
    from PerturboxLib.trouble import Trouble

    volume, logic = scans.add_scan(), panel.widget.logic
    node = logic.attack(volume, tiny_server.url, eps=10, steps=2)
    assert scene.Nodes(node).original is volume and scene.Nodes(node).result.record["budget"]["eps"] == 10
    with pytest.raises(Trouble, match=r"no victim|no model"):
        logic.attack(volume, tiny_server.url, victim="nothing")
    segmentation = logic.segment(volume, tiny_server.url)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 2


def test_the_modules_own_test_passes(panel):
    slicer.modules.PerturboxInstance.runTest()


def test_what_the_parameter_node_holds_is_plain(example):
    """No token, nothing of the scan but its reference."""
    node = example.parameters.parameterNode
    example.ui.tokenLineEdit.text = "secret-token"
    held = {name: node.GetParameter(name) for name in node.GetParameterNames()}
    assert "secret-token" not in json.dumps(held) and {"eps", "mode", "targets", "form"} <= set(held)
