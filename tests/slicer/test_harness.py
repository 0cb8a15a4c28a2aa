"""The harness itself: the dialect, widgets on the real scene, layouts, linked views, pixels."""

from pathlib import Path

import numpy as np
import pytest
import qt
import slicer

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
SAMPLE = Path(__file__).parent / "sample" / "Sample.py"


def add_block(name="CT"):
    """A CT of 64 x 64 x 20 with a bright block."""
    array = np.full((20, 64, 64), -100, np.int16)
    array[5:15, 20:40, 20:40] = 100
    return slicer.util.addVolumeFromArray(array, ijkToRAS=AFFINE, name=name)


def test_slot_gets_as_many_arguments_as_it_takes(slicer_app):
    got, button = [], qt.QPushButton("Go")
    button.checkable = True
    button.connect("clicked(bool)", got.append)
    button.connect("clicked(bool)", lambda: got.append("none"))
    button.connect("clicked()", lambda *words: got.append(words))
    button.click()
    assert got == [True, "none", ()]
    assert button.disconnect("clicked(bool)", got.append)


@pytest.mark.parametrize("signature", ["clickd(bool)", "clicked(int)", "clicked"])
def test_unknown_signal_is_an_error(slicer_app, signature):
    with pytest.raises(AttributeError, match="has no signal"):
        qt.QPushButton().connect(signature, print)


def test_unknown_property_is_an_error(slicer_app):
    label = qt.QLabel("x")
    with pytest.raises(AttributeError):
        label.txt = "y"
    with pytest.raises(AttributeError):
        label.txt  # noqa: B018
    label.text = "y"
    assert (label.text, label.name, label.className()) == ("y", "", "QLabel")


def test_node_combo_follows_the_scene(scene):
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(scene)
    seen = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    volume = add_block()
    assert combo.currentNode() is volume and seen == [volume]
    scene.RemoveNode(volume)
    assert combo.currentNode() is None and seen == [volume, None]
    combo.setMRMLScene(None)


def test_layout_makes_views_and_renders_a_slice(scene, slicer_app, rendering):
    volume = add_block()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    red = slicer_app.layoutManager().sliceWidget("Red")
    red.sliceLogic().SetSliceOffset(30)
    shown = red.sliceView().array()
    assert shown.max() == 255
    red.sliceLogic().SetSliceOffset(3)
    assert red.sliceView().array().max() < shown.max()


def test_module_runs_unmodified(load_module, wait_until):
    widget = load_module(SAMPLE)
    assert widget.entered == 1 and not widget.ui.applyButton.enabled
    volume = add_block()
    assert widget.parameters.inputVolume is volume and widget.ui.applyButton.enabled
    widget.ui.applyButton.click()
    wait_until(lambda: widget.ui.statusLabel.text == "done")
    found = slicer.util.arrayFromSegmentBinaryLabelmap(widget.segmentation, "found", volume)
    assert found.sum() == 10 * 20 * 20
    slicer.modules.SampleInstance.runTest()
    assert slicer.modules.sample.python.SampleTest.ran
    slicer.mrmlScene.Clear(0)
    assert widget.parameters.inputVolume is None and not widget.ui.applyButton.enabled
