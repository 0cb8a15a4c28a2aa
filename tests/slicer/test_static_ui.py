"""The panel's file and the code that uses it: PythonQt takes a mistyped name in silence, so names are compared here."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import pytest
from PySide6 import QtCore, QtGui, QtWidgets

MODULE = Path(__file__).resolve().parents[2] / "slicer_extension" / "Perturbox"
UI = ElementTree.parse(MODULE / "Resources" / "UI" / "Perturbox.ui").getroot()
WIDGETS = {widget.get("name"): widget.get("class") for widget in UI.iter("widget")}
SOURCES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for path in [*MODULE.glob("*.py"), *MODULE.glob("PerturboxLib/*.py")]
}

# What Slicer and CTK add to Qt: base class and signals, as their headers declare them.
ADDED = {
    "ctkCheckableComboBox": ("QComboBox", ["checkedIndexesChanged()"]),
    "ctkCollapsibleButton": ("QAbstractButton", ["contentsCollapsed(bool)"]),
    "ctkCollapsibleGroupBox": ("QGroupBox", []),
    "ctkDoubleSpinBox": ("QWidget", ["valueChanged(double)", "editingFinished()", "decimalsChanged(int)"]),
    "ctkPathLineEdit": ("QWidget", ["currentPathChanged(QString)", "validInputChanged(bool)"]),
    "ctkSliderWidget": ("QWidget", ["valueChanged(double)", "valueIsChanging(double)"]),
    "qMRMLNodeComboBox": (
        "QWidget",
        ["currentNodeChanged(vtkMRMLNode*)", "currentNodeIDChanged(QString)", "nodeAddedByUser(vtkMRMLNode*)"],
    ),
    "qMRMLPlotView": ("QWidget", ["dataSelected(vtkStringArray*,vtkCollection*)"]),
    "qMRMLWidget": ("QWidget", ["mrmlSceneChanged(vtkMRMLScene*)"]),
}
OTHERS = ("QTimer", "QShortcut", "QItemSelectionModel", "QAction", "QSpinBox", "QDoubleSpinBox", "QDialog")
# The controls that the tutorial and the tests speak of.
PANEL = {
    "QLabel": "researchUseLabel serverStatusLabel preflightLabel epsNoteLabel liveLabel verdictLabel",
    "ctkCollapsibleButton": "serverCollapsibleButton inputCollapsibleButton attackCollapsibleButton"
    " resultCollapsibleButton lookCollapsibleButton saveCollapsibleButton",
    "QComboBox": "serverComboBox modelComboBox effortComboBox epsUnitComboBox labelStyleComboBox windowComboBox",
    "qMRMLNodeComboBox": "inputVolumeSelector referenceSelector resultComboBox",
    "ctkCheckableComboBox": "targetComboBox",
    "ctkSliderWidget": "epsSlider heatOpacitySlider",
    "ctkCollapsibleGroupBox": "advancedCollapsibleGroupBox",
    "QPushButton": "connectButton segmentButton attackButton stopButton prevChangedButton nextChangedButton worstButton"
    " blinkButton exportFolderButton reportButton slicesButton removeButton",
    "QToolButton": "compareButton differenceButton heatButton fourUpButton",
    "QCheckBox": "marginCheckBox signedCheckBox isolateCheckBox",
    "QProgressBar": "progressBar",
    "QWidget": "traceContainer",
    "QTableView": "structureTable",
}
KIND = re.compile(r"[a-z]\w*(Button|Slider|ComboBox|CheckBox|Label|Selector|GroupBox|Table|LineEdit|progressBar|View)")


@cache
def signals(kind: str) -> frozenset[str]:
    """Signals of a widget class, its bases' included, written as PythonQt wants them."""
    base, own = ADDED.get(kind, (kind, []))
    qt = next(getattr(part, base) for part in (QtWidgets, QtGui, QtCore) if hasattr(part, base)).staticMetaObject
    methods = (qt.method(number) for number in range(qt.methodCount()))
    inherited = {m.methodSignature().data().decode() for m in methods if m.methodType() == QtCore.QMetaMethod.Signal}
    return frozenset({*own, *inherited})


# Asked while tests are collected: PySide6 lets go of some classes' meta-objects once their widgets were destroyed.
for _kind in {*WIDGETS.values(), *ADDED, *OTHERS, "QPushButton"}:
    signals(_kind)


def used_names() -> dict[str, str]:
    """Names that the code takes from the panel, and where: `….ui.NAME`, or a text that is a control's name."""
    found = {}
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            place = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
                if owner == "ui":
                    found[node.attr] = place
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and KIND.fullmatch(node.value):
                found[node.value] = place
    return found


def bound_names() -> dict[str, str]:
    """Control → parameter that it shows by itself."""
    found = {}
    for widget in UI.iter("widget"):
        for entry in widget.findall("property"):
            if entry.get("name") == "SlicerParameterName":
                found[widget.get("name")] = entry.findtext("string")
    return found


def connections() -> list[tuple[str, str, str]]:
    """(control or "", signal, where) of every `connect("signal(…)", …)`."""
    found = []
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "connect"
            ):
                continue
            first = node.args[0] if node.args else None
            if isinstance(first, ast.IfExp):
                texts = [part.value for part in (first.body, first.orelse) if isinstance(part, ast.Constant)]
            else:
                texts = [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
            owner = node.func.value
            direct = (
                isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Attribute) and owner.value.attr == "ui"
            )
            found += [(owner.attr if direct else "", text, f"{path.name}:{node.lineno}") for text in texts]
    return found


def test_every_name_the_code_uses_is_in_the_panel():
    assert {name: place for name, place in used_names().items() if name not in WIDGETS} == {}


def test_names_are_given_once():
    names = [each.get("name") for kind in ("widget", "layout", "action") for each in UI.iter(kind)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("kind", PANEL)
def test_the_panel_has_what_the_documentation_names(kind):
    for name in PANEL[kind].split():
        assert WIDGETS.get(name) == kind, name


def test_every_control_does_something():
    """A control that the code doesn't know and that shows no parameter would be dead."""
    passive = {"QLabel", "QWidget", "QFrame", "qMRMLWidget", "ctkCollapsibleGroupBox", "ctkCollapsibleButton"}
    known = used_names().keys() | bound_names().keys()
    assert {name for name, kind in WIDGETS.items() if kind not in passive} - known == set()


def test_every_bound_parameter_exists():
    (node,) = (
        each
        for tree in SOURCES.values()
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
        and any(isinstance(mark, ast.Name) and mark.id == "parameterNodeWrapper" for mark in each.decorator_list)
    )
    parameters = {field.target.id for field in node.body if isinstance(field, ast.AnnAssign)}
    assert bound_names() and set(bound_names().values()) <= parameters


def test_every_connected_signal_exists():
    everywhere = set().union(*(signals(kind) for kind in {*WIDGETS.values(), *ADDED, *OTHERS}))
    wrong = {}
    for control, signal, place in connections():
        known = signals(WIDGETS[control]) if control else everywhere
        if signal.replace(" ", "") not in known:
            wrong[place] = (control, signal)
    assert wrong == {}


def test_signals_are_compared_with_what_qt_declares():
    assert any(control for control, _, _ in connections())
    assert "clicked(bool)" in signals("QPushButton") and "clicked(bool)" in signals("ctkCollapsibleButton")
    assert "valueChanged(double)" in signals("ctkSliderWidget") and "valueChanged(int)" not in signals(
        "ctkSliderWidget"
    )
    assert "pressed(bool)" not in signals("QPushButton")


def test_other_widgets_than_qts_are_declared():
    """Designer, and Slicer's loader, must know what stands behind a class that isn't Qt's."""
    declared = {each.findtext("class"): each.findtext("extends") for each in UI.iter("customwidget")}
    assert declared.keys() == {kind for kind in WIDGETS.values() if not hasattr(QtWidgets, kind)}
    assert set(declared) <= set(ADDED)


def test_scene_and_window_reach_the_selectors():
    """Designer's connections must name what is there; without the scene a selector stays empty."""
    for connection in UI.iter("connection"):
        for end in ("sender", "receiver"):
            assert connection.findtext(end) in WIDGETS
    reached = {connection.findtext("receiver") for connection in UI.iter("connection")}
    assert {name for name, kind in WIDGETS.items() if kind == "qMRMLNodeComboBox"} <= reached


def test_what_can_be_pressed_says_what_it_does():
    silent = set()
    for widget in UI.iter("widget"):
        named = {entry.get("name"): entry.findtext("string") for entry in widget.findall("property")}
        if widget.get("class") in ("QPushButton", "QToolButton", "QCheckBox") and not named.get("text"):
            silent.add(widget.get("name"))
    assert silent == set()


def test_the_strip_says_what_it_is_not_for():
    (strip,) = (widget for widget in UI.iter("widget") if widget.get("name") == "researchUseLabel")
    (text,) = (entry.findtext("string") for entry in strip.findall("property") if entry.get("name") == "text")
    assert text == "Research use only – not for diagnosis"
