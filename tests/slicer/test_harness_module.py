"""The harness's scene side: node widgets, parameter nodes, modules, files, the subject hierarchy."""

from pathlib import Path
from typing import Annotated, Optional

import ctk
import numpy as np
import pytest
import qt
import slicer
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
SAMPLE = Path(__file__).parent / "sample" / "Sample.py"


def add_block(name="CT"):
    """A CT of 64 x 64 x 20 with a bright block of 20 x 20 x 10."""
    array = np.full((20, 64, 64), -100, np.int16)
    array[5:15, 20:40, 20:40] = 100
    return slicer.util.addVolumeFromArray(array, ijkToRAS=AFFINE, name=name)


@pytest.fixture
def combo(scene):
    made = slicer.qMRMLNodeComboBox()
    made.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    made.setMRMLScene(scene)
    yield made
    made.setMRMLScene(None)


# -- node combo boxes


def test_combo_follows_the_scene(scene, combo):
    seen, valid = [], []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    combo.connect("currentNodeChanged(bool)", valid.append)
    first, second = add_block("A"), add_block("B")
    assert combo.nodeCount() == 2 and combo.currentNode() is first
    combo.setCurrentNode(second)
    scene.RemoveNode(second)
    scene.RemoveNode(first)
    assert seen == [first, second, first, None] and valid == [True, True, True, False]
    assert combo.currentNodeID == "" and combo.nodeCount() == 0


def test_combo_with_none_chooses_nothing_by_itself(combo):
    combo.noneEnabled = True
    volume = add_block()
    assert combo.currentNode() is None
    combo.setCurrentNodeID(volume.GetID())
    assert combo.currentNode() is volume
    combo.setCurrentNode(None)
    assert combo.currentNode() is None


def test_combo_shows_names_types_and_attributes_as_they_change(scene, combo):
    volume = add_block()
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert combo.nodes() == [volume, labels]
    combo.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    assert combo.nodes() == [volume]
    combo.addAttribute("vtkMRMLScalarVolumeNode", "Sample.Kept", "1")
    assert combo.nodes() == []
    volume.SetAttribute("Sample.Kept", "1")
    assert combo.nodes() == [volume]
    volume.SetAttribute("Sample.Kept", "2")
    assert combo.nodes() == []
    combo.removeAttribute("vtkMRMLScalarVolumeNode", "Sample.Kept")
    volume.SetHideFromEditors(1)
    assert combo.nodes() == []
    combo.showHidden = True
    assert combo.nodes() == [volume]
    combo.sortFilterProxyModel().hiddenNodeIDs = [volume.GetID()]
    assert combo.nodes() == []
    combo.sortFilterProxyModel().hiddenNodeIDs = []
    volume.SetName("renamed")
    assert combo.findChild(qt.QComboBox).currentText == "renamed"


def test_segment_selector_follows_a_segmentation(scene):
    selector, seen = slicer.qMRMLSegmentSelectorWidget(), []
    selector.setMRMLScene(scene)
    selector.connect("currentSegmentChanged(QString)", seen.append)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    for name in ("liver", "spleen"):
        node.GetSegmentation().AddEmptySegment(name, name)
    assert selector.currentNode() is node and selector.segmentIDs() == ["liver", "spleen"]
    selector.setCurrentSegmentID("spleen")
    node.GetSegmentation().RemoveSegment("spleen")
    assert seen == ["liver", "spleen", "liver"]
    selector.setMRMLScene(None)


# -- parameter nodes


@parameterNodeWrapper
class Fields:
    volume: slicer.vtkMRMLScalarVolumeNode
    reference: Optional[slicer.vtkMRMLSegmentationNode]  # noqa: UP045
    eps: Annotated[float, WithinRange(1, 32)] = 4.0
    steps: Annotated[int, Default(20)]
    effort: Annotated[str, Choice(["quick", "standard"])] = "standard"
    targets: list[str]
    margin: bool


@pytest.fixture
def fields(scene):
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters")
    node.SetAttribute("ModuleName", "Fields")
    return Fields(node)


def stored(scene):
    return Fields(scene.GetFirstNodeByName("parameters"))


def test_fields_have_their_defaults_and_live_in_the_node(fields):
    assert (fields.volume, fields.reference, fields.margin, list(fields.targets)) == (None, None, False, [])
    assert (fields.eps, fields.steps, fields.effort) == (4.0, 20, "standard")
    fields.eps, fields.targets = 8, ["liver"]
    other = Fields(fields.parameterNode)
    assert other.eps == 8.0 and list(other.targets) == ["liver"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("eps", 33.0), ("effort", "none"), ("steps", 2.5), ("steps", None), ("volume", "CT"), ("margin", "yes")],
)
def test_fields_refuse_what_they_cannot_hold(fields, name, value):
    before = getattr(fields, name)
    with pytest.raises((ValueError, TypeError)):
        setattr(fields, name, value)
    assert getattr(fields, name) == before


def test_fields_tell_their_observers(fields):
    told = []
    tag = fields.AddObserver("ModifiedEvent", lambda caller, event: told.append(fields.eps))
    fields.eps = 16
    fields.RemoveObserver(tag)
    fields.eps = 2
    assert told[-1] == 16.0 and 2.0 not in told


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
def test_fields_survive_saving_and_opening(scene, fields, tmp_path, suffix):
    volume = add_block()
    fields.volume, fields.eps, fields.targets, fields.margin = volume, 6.5, ["liver", "ä, b"], True
    fields.reference = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "expert")
    path = tmp_path / f"scene{suffix}"
    if suffix == ".mrml":
        assert slicer.util.saveNode(volume, str(tmp_path / "CT.nrrd"))
    assert slicer.util.saveScene(str(path))
    scene.Clear(0)
    slicer.util.loadScene(str(path))
    back = stored(scene)
    assert (back.volume.GetName(), back.reference.GetName()) == ("CT", "expert")
    assert (back.eps, list(back.targets), back.margin) == (6.5, ["liver", "ä, b"], True)
    loaded = slicer.util.arrayFromVolume(back.volume)
    assert loaded.dtype == np.int16 and (loaded > 0).sum() == 4000


def test_widgets_show_fields_and_change_them(fields, scene):
    panel = qt.QWidget()
    layout = qt.QVBoxLayout(panel)
    widgets = {"eps": ctk.ctkSliderWidget(), "steps": qt.QSpinBox()}
    widgets |= {"effort": qt.QComboBox(), "margin": qt.QCheckBox(), "volume": slicer.qMRMLNodeComboBox()}
    widgets["volume"].noneEnabled = True
    widgets["volume"].setMRMLScene(scene)
    for name, widget in widgets.items():
        widget.setProperty("SlicerParameterName", name)
        layout.addWidget(widget)
    tag = fields.connectGui(panel)
    assert (widgets["eps"].value, widgets["eps"].maximum, widgets["steps"].value) == (4.0, 32.0, 20)
    assert (widgets["effort"].currentText, widgets["effort"].count) == ("standard", 2)
    widgets["eps"].value, widgets["margin"].checked, widgets["effort"].currentIndex = 9, True, 0
    assert (fields.eps, fields.margin, fields.effort) == (9.0, True, "quick")
    volume = add_block()
    fields.volume, fields.steps = volume, 5
    assert widgets["volume"].currentNode() is volume and widgets["steps"].value == 5
    fields.disconnectGui(tag)
    fields.steps, widgets["eps"].value = 7, 3
    assert widgets["steps"].value == 5 and fields.eps == 9.0
    widgets["volume"].setMRMLScene(None)


# -- modules


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


def test_module_can_be_reloaded(load_module):
    before = load_module(SAMPLE)
    volume = add_block()
    before.parameters.threshold = 70.0
    slicer.util.reloadScriptedModule("Sample")
    after = slicer.modules.SampleWidget
    assert after is not before and after is slicer.util.getModuleWidget("Sample")
    assert after.parameters.threshold == 70.0 and after.ui.thresholdSlider.value == 70.0
    assert after.parameters.inputVolume is volume and after.ui.applyButton.enabled


def test_selecting_another_module_leaves_the_first(load_module):
    widget = load_module(SAMPLE)
    assert widget.parent.isEntered and slicer.util.selectedModule() == "Sample"
    slicer.util.moduleSelector().selectModule("")
    assert not widget.parent.isEntered
    slicer.util.selectModule("Sample")
    assert widget.entered == 2


# -- files and the subject hierarchy


def test_volume_and_segmentation_come_back_from_files(scene, tmp_path):
    volume = add_block()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    name = node.GetSegmentation().AddEmptySegment("liver", "Liver", (0.0, 0.6, 0.4))
    mask = (slicer.util.arrayFromVolume(volume) > 0).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, name, volume)
    for thing, file in ((volume, "CT.nrrd"), (node, "organs.seg.nrrd")):
        assert slicer.util.saveNode(thing, str(tmp_path / file))
    scene.Clear(0)
    volume = slicer.util.loadVolume(str(tmp_path / "CT.nrrd"))
    node = slicer.util.loadSegmentation(str(tmp_path / "organs.seg.nrrd"))
    assert np.array_equal(slicer.util.arrayFromVolume(volume) > 0, mask > 0)
    back = slicer.util.arrayFromSegmentBinaryLabelmap(node, "liver", volume)
    assert np.array_equal(back, mask) and node.GetSegmentation().GetSegment("liver").GetName() == "Liver"
    with pytest.raises(RuntimeError, match="Failed to load"):
        slicer.util.loadVolume(str(tmp_path / "absent.nrrd"))


def test_hierarchy_items_come_and_go_with_nodes(scene, tmp_path):
    volume, tree = add_block(), slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    hidden = scene.CreateNodeByClass("vtkMRMLTableNode")
    hidden.UnRegister(None)
    hidden.SetHideFromEditors(1)
    scene.AddNode(hidden)
    scripted = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    items = [tree.GetItemByDataNode(node) for node in (volume, hidden, scripted)]
    assert items[0] > 0 and items[1:] == [0, 0]
    folder = tree.CreateFolderItem(tree.GetSceneItemID(), "result")
    tree.SetItemParent(items[0], folder)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = tree.GetItemByDataNode(slicer.util.getNode("CT"))
    assert tree.GetItemName(tree.GetItemParent(item)) == "result"
    tree.RemoveItem(tree.GetItemParent(item), True, True)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
