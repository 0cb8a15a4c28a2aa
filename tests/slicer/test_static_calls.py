"""What the module calls exists in the application, also on lines that no test runs: no misspelt method of Slicer's, no
method that only C++ can call, no widget that the panel lacks."""

from pathlib import Path

import pytest
from harness import calls, exposed, host

MODULE = Path(__file__).resolve().parents[2] / "slicer_extension" / "Perturbox" / "Perturbox.py"
UI = {
    "selector": "qMRMLNodeComboBox",
    "slider": "ctkSliderWidget",
    "section": "ctkCollapsibleButton",
    "table": "QTableView",
    "go": "QPushButton",
}
# Code, and what must be said of it.
WRONG = {
    # misspelt
    "slicer.mrmlScene.AddNewNodeByClas('vtkMRMLTextNode')": "vtkMRMLScene shows no AddNewNodeByClas",
    "node = slicer.mrmlScene.AddNewNodeByClass('vtkMRMLTextNode')\nnode.SetTxt('a')": "vtkMRMLTextNode shows no SetTxt",
    "def f(node):\n    node.SetAndObserveTableNodID('a')": "nothing known has SetAndObserveTableNodID",
    "slicer.util.arrayFromVolum(node)": "slicer.util has no arrayFromVolum",
    "slicer.vtkMRMLTextNod()": "slicer has no vtkMRMLTextNod",
    "vtk.vtkMatrix4x5()": "vtk has no vtkMatrix4x5",
    "qt.QTabelView()": "qt has no QTabelView",
    "qt.Qt.AlignRigth": "Qt shows no AlignRigth",
    "self.ui.go.txt = 'Go'": "QPushButton shows no txt",
    "self.ui.gone.text = 'Go'": "the panel has no gone",
    "slicer.app.layoutManager().sliceWidgets('Red')": "qSlicerLayoutManager shows no sliceWidgets",
    "v = slicer.app.layoutManager().sliceWidget('Red').sliceView()\nv.forceRendering()": (
        "qMRMLSliceView shows no forceRendering"
    ),
    # of a node that a method returns, as VTK's documentation says
    "slicer.mrmlScene.AddNewNodeByClass('vtkMRMLScalarVolumeNode').GetDisplayNode().SetWindoLevel(1, 2)": (
        "vtkMRMLDisplayNode shows no SetWindoLevel"
    ),
    # what only C++ can call
    "self.ui.selector.setNodeTypes(['a'])": "qMRMLNodeComboBox shows no setNodeTypes",
    "self.ui.slider.setRange(0, 1)": "ctkSliderWidget shows no setRange",
    "module.ui.section.setCollapsed(True)": "ctkCollapsibleButton shows no setCollapsed",
    "view = slicer.qMRMLPlotView()\nview.scheduleRender()": "qMRMLPlotView shows no scheduleRender",
    "def f(box):\n    box.setNodeTypes(['a'])": "nothing known has setNodeTypes",
    # no class of the desktop
    "slicer.qMRMLPlotsView()": "slicer has no qMRMLPlotsView",
    "ctk.ctkSlider()": "ctk has no ctkSlider",
}
RIGHT = [
    "self.ui.selector.setCurrentNode(None)\nself.ui.selector.nodeTypes = ['a']\nself.ui.selector.connect('a', f)",
    "self.ui.slider.value = 1\nself.ui.slider.setValue(2)\nself.ui.slider.visible = False",
    "self.ui.section.collapsed = True",
    "self.ui.table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)",
    "node = slicer.mrmlScene.AddNewNodeByClass('vtkMRMLScalarVolumeNode')\nnode.GetDisplayNode().SetWindowLevel(1, 2)",
    "slicer.app.layoutManager().sliceWidget('Red').sliceLogic().GetSliceCompositeNode().SetLinkedControl(1)",
    "view = slicer.qMRMLPlotView()\nview.setMRMLScene(slicer.mrmlScene)\nview.deleteLater()",
    "actor = vtk.vtkTextActor()\nactor.GetTextProperty().SetFontSize(4)",
    "names.items()\npath.read_text()",
]


@pytest.mark.parametrize("code", WRONG)
def test_what_the_application_lacks_is_found(slicer_app, code):
    (found,) = calls.wrong_in(code, UI)
    assert found.endswith(WRONG[code])


@pytest.mark.parametrize("code", RIGHT)
def test_what_it_has_is_let_through(slicer_app, code):
    assert calls.wrong_in(code, UI) == []


def test_the_module_calls_nothing_else(slicer_app):
    assert calls.check(MODULE) == {}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("slicer.mrmlScene.Claer(0)", "vtkMRMLScene shows no Claer"),
        ("slicer.qMRMLNodeComboBox().setNodeTypes(['a'])", "qMRMLNodeComboBox shows no setNodeTypes"),  # C++ only
    ],
)
def test_a_module_with_a_wrong_line_is_not_loaded(scene, tmp_path, call, problem):
    """On a line that never runs, too: so every test of a module is one of all its calls."""
    path = tmp_path / "Misspelt.py"
    path.write_text(f"import slicer\n\n\ndef never():\n    {call}\n")
    with pytest.raises(AttributeError, match=f"Misspelt.py, line 5: {problem}"):
        host.load(str(path))


def test_the_facts_say_of_which_versions_they_are(slicer_app):
    versions = [each["slicer"].split()[0] for each in exposed.FACTS["read from"]]
    assert versions[0] == "v5.10.0" and len(versions) == 3
    assert "setCollapsed" not in exposed.names("ctkCollapsibleButton") and "collapsed" in exposed.names(
        "ctkCollapsibleButton"
    )
    assert "nodeAddedByUserAction" not in exposed.names("qMRMLNodeComboBox"), "5.10 doesn't have it yet"
