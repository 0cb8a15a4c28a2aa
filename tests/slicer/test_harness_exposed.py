"""The harness's widgets can no more than PythonQt shows of Slicer's and CTK's."""

import ctk
import pytest
import qt
import slicer
from harness import exposed
from harness.widgets import published

# Methods that C++ has and Python can't call.
HIDDEN = {
    "ctkSliderWidget": "setRange setMinimum setMaximum setSuffix setSingleStep",
    "ctkCollapsibleButton": "setCollapsed",
    "ctkCollapsibleGroupBox": "setCollapsed",
    "ctkPathLineEdit": "setLabel setNameFilters setSettingKey",
    "ctkMessageBox": "setDontShowAgainSettingsKey",
    "qMRMLNodeComboBox": "setNodeTypes setNoneEnabled setShowHidden setBaseName",
    "qMRMLPlotView": "forceRender scheduleRender cornerAnnotation interactor mrmlScene",
}
SHOWN = {
    "ctkSliderWidget": "value minimum setValue setDecimals",
    "ctkCheckableComboBox": "checkedIndexes checkableModel setCheckState checkedIndexesChanged",
    "qMRMLNodeComboBox": "setCurrentNode setMRMLScene addAttribute currentNode nodeTypes",
    "qMRMLPlotView": "setMRMLScene setMRMLPlotViewNode RemovePlotSelections dataSelected renderWindow chart",
    "qMRMLSliceView": "cornerAnnotation renderWindow forceRender scheduleRender",
    "qMRMLSliceWidget": "sliceView sliceLogic mrmlSliceNode",
    "qMRMLThreeDView": "resetFocalPoint",
    "qSlicerLayoutManager": "layout setLayout layoutLogic sliceWidget plotWidget plotViewCount threeDWidget",
}
ONLY_FOR_TESTS = [("qMRMLPlotView", "mrmlPlotViewNode"), ("qMRMLPlotView", "array"), ("qMRMLNodeComboBox", "nodes")]


def stand_in(name: str) -> type:
    return getattr(ctk if name.startswith("ctk") else slicer, name)


@pytest.mark.parametrize("name", HIDDEN)
def test_what_only_c_plus_plus_can_call_is_missing(slicer_app, name):
    for method in HIDDEN[name].split():
        assert not hasattr(stand_in(name), method) and method not in exposed.names(name), method


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_desktop_shows_is_there(slicer_app, name):
    for method in SHOWN[name].split():
        assert hasattr(stand_in(name), method) and method in exposed.names(name), method


def test_a_stand_in_that_can_more_is_refused(slicer_app):
    class ctkCheckBox(qt.QCheckBox):
        def tickTwice(self):
            pass

    there = ctk.ctkCheckBox
    with pytest.raises(TypeError, match="ctkCheckBox shows tickTwice, which Slicer's doesn't"):
        published(ctk)(ctkCheckBox)
    assert ctk.ctkCheckBox is there


@pytest.mark.parametrize(("name", "method"), ONLY_FOR_TESTS)
def test_the_tests_own_methods_are_refused_to_a_module(slicer_app, name, method):
    view = stand_in(name)()
    program = f"view.{method}()"
    module = compile(program, "/somewhere/slicer_extension/Perturbox/PerturboxLib/charts.py", "exec")
    with pytest.raises(AttributeError, match=f"{name} has no attribute named '{method}' in Slicer"):
        exec(module, {"view": view})
    if method != "array":  # which renders
        exec(compile(program, __file__, "exec"), {"view": view})


def test_every_stand_in_of_a_widget_is_compared(slicer_app):
    """But for the window and the application themselves, of which the harness has a small part."""
    made = {
        name
        for module in (ctk, slicer)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, qt.QObject) and name.startswith(("ctk", "qMRML"))
    }
    assert len(made) > 15 and made - exposed.CLASSES.keys() == set()
    assert all(exposed.surplus(stand_in(name)) == set() for name in made)
