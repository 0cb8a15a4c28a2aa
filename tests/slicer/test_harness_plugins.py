"""What a .ui file may name: classes with a designer plug-in, as in Slicer; others become what they extend."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import qt
import slicer
from harness.loader import widget_class
from harness.plugins import CTK, PLUGINS, SLICER, has_plugin, of_qt

UI = Path(__file__).resolve().parents[2] / "slicer_extension" / "Perturbox" / "Resources" / "UI" / "Perturbox.ui"
PANEL = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Panel</class>
 <widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="l"><item>{widget}</item></layout></widget>
 <customwidgets>
  <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>w.h</header><container>1</container></customwidget>
  <customwidget><class>{kind}</class><extends>{extends}</extends><header>x.h</header></customwidget>
 </customwidgets>
 <connections>{connections}</connections>
</ui>"""
SIZE = '<property name="minimumSize"><size><width>100</width><height>150</height></size></property>'
SCENE = (
    "<connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>"
    "<receiver>view</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>"
)


@pytest.fixture
def load(slicer_app, tmp_path):
    """load(class, …): the panel of a .ui file with one widget `view` of that class."""

    def read(kind: str, extends: str = "QWidget", properties: str = SIZE, connections: str = ""):
        path = tmp_path / "Panel.ui"
        widget = f'<widget class="{kind}" name="view">{properties}</widget>'
        path.write_text(PANEL.format(widget=widget, kind=kind, extends=extends, connections=connections))
        return slicer.util.loadUI(str(path))

    return read


def test_a_class_without_a_plug_in_is_only_what_it_extends(load, capfd):
    panel = load("qMRMLPlotView")
    view = panel.findChild(qt.QWidget, "view")
    assert view.className() == "QWidget" and not isinstance(view, slicer.qMRMLPlotView)
    assert view.minimumHeight == 150, "what the base class has is kept"
    assert "qMRMLPlotView has no designer plug-in" in capfd.readouterr().err
    for call in ("setMRMLScene", "setMRMLPlotViewNode", "RemovePlotSelections"):
        with pytest.raises(AttributeError, match=call):
            getattr(view, call)(None)
    with pytest.raises(AttributeError, match="no signal"):
        view.connect("dataSelected(vtkStringArray*,vtkCollection*)", print)


def test_what_it_extends_is_looked_up_in_turn(load):
    assert load("myButton", "QPushButton", "").findChild(qt.QWidget, "view").className() == "QPushButton"
    with pytest.raises(ValueError, match="wants a myView, for which Slicer has no designer plug-in"):
        load("myView", "qMRMLPlotView")
    with pytest.raises(ValueError, match="no designer plug-in"):
        load("myView", "myView")


def test_its_connections_and_properties_are_missed(load):
    with pytest.raises(ValueError, match=r"setMRMLScene\(vtkMRMLScene\*\) of view, a QWidget without such a slot"):
        load("qMRMLPlotView", connections=SCENE)
    own = '<property name="title"><string>Dice</string></property>'
    with pytest.raises(ValueError, match="has no property 'title'"):
        load("ctkVTKPlotThing", properties=own)


def test_a_class_with_a_plug_in_is_itself(load):
    panel = load("qMRMLNodeComboBox", connections=SCENE)
    view = panel.findChild(qt.QWidget, "view")
    assert view.className() == "qMRMLNodeComboBox" and view.mrmlScene() is None
    panel.setMRMLScene(slicer.mrmlScene)
    assert view.mrmlScene() is slicer.mrmlScene


def test_the_panels_file_names_only_classes_that_slicer_can_make():
    kinds = {widget.get("class") for widget in ElementTree.parse(UI).getroot().iter("widget")}
    assert {kind for kind in kinds if not has_plugin(kind)} == set()


def test_of_plots_there_are_the_widget_and_its_controller():
    plots = {name for name in PLUGINS if "Plot" in name and PLUGINS[name].startswith("Libs/")}
    assert plots == {"qMRMLPlotWidget", "qMRMLPlotViewControllerWidget"}
    for name in ("qMRMLPlotView", "qMRMLSliceView", "qMRMLTableWidget", "ctkMessageBox", "ctkErrorLogWidget"):
        assert not has_plugin(name), name


def test_each_class_is_registered_in_one_place():
    names = [name for listing in (SLICER | CTK).values() for name in listing.split()]
    assert len(names) == len(set(names)) == len(PLUGINS)
    assert all(name.startswith("ctk") for listing in CTK.values() for name in listing.split())
    assert {"QPushButton", "QTableView", "QFrame"} <= of_qt() and not of_qt() & PLUGINS.keys()


def test_a_class_the_harness_lacks_is_said():
    assert has_plugin("ctkFontButton")
    with pytest.raises(ValueError, match="ctkFontButton, which the harness doesn't know"):
        widget_class("ctkFontButton")
