"""The panel on small screens: nothing is cut off, nothing scrolls sideways, and the result is the first thing to read.

PERTURBOX_PICTURES names a folder into which what the screens show is drawn.
"""

import os
from pathlib import Path

import pytest
import slicer
from PySide6 import QtCore, QtWidgets

SCREENS = [(1280, 720), (1440, 900)]
NARROWEST = 340  # pixels that Slicer's module panel has at least


@pytest.fixture
def example(load_module, slicer_app):
    """The panel's widget with the example open."""
    widget = load_module()
    widget.ui.exampleButton.click()
    slicer_app.processEvents()
    return widget


def draw(rendering, name: str, screen: tuple[int, int]) -> None:
    picture = rendering.desktop(*screen)
    if folder := os.environ.get("PERTURBOX_PICTURES"):
        rendering.save(picture, Path(folder) / f"{name}_{screen[0]}.png")


def area_of(widget) -> QtWidgets.QScrollArea:
    while not isinstance(widget, QtWidgets.QScrollArea):
        widget = QtWidgets.QWidget.parentWidget(widget)
    return widget


def bottom(widget, area) -> int:
    """The lower edge of a widget in its scroll area's viewport, in pixels."""
    return widget.mapTo(area.viewport(), QtCore.QPoint(0, QtWidgets.QWidget.height(widget))).y()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_sentence_and_the_table_are_the_first_thing(example, rendering, screen):
    ui = example.ui
    draw(rendering, "panel-done", screen)
    area = area_of(ui.structureTable)
    assert area.verticalScrollBar().value == 0 and area.horizontalScrollBar().maximum == 0
    assert ui.serverCollapsibleButton.collapsed and ui.inputCollapsibleButton.collapsed
    assert ui.attackCollapsibleButton.collapsed
    assert 0 < bottom(ui.verdictLabel, area) < bottom(ui.structureTable, area) <= area.viewport().height
    table = ui.structureTable
    columns = [table.columnWidth(column) for column in range(example.result.model.columnCount())]
    assert len(columns) == 4 and sum(columns) <= table.viewport().width
    for column in range(1, 4):
        assert columns[column] >= table.sizeHintForColumn(column), "no text is cut off"


@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_scrolls_sideways_with_every_section_open(example, rendering, screen):
    ui = example.ui
    for name in ("server", "input", "attack", "result", "look", "save"):
        getattr(ui, f"{name}CollapsibleButton").collapsed = False
    ui.notesGroupBox.collapsed = ui.localServerGroupBox.collapsed = False
    ui.advancedCollapsibleGroupBox.collapsed = ui.certifyGroupBox.collapsed = False
    slicer.app.processEvents()
    draw(rendering, "panel-open", screen)
    area = area_of(ui.structureTable)
    assert area.horizontalScrollBar().maximum == 0
    assert area.widget().minimumSizeHint.width() <= NARROWEST


def test_views_are_called_what_a_person_would_call_them(example):
    def names():
        kinds = ("vtkMRMLSliceNode", "vtkMRMLViewNode", "vtkMRMLPlotViewNode")
        nodes = [node for kind in kinds for node in slicer.util.getNodesByClass(kind) if node.IsMappedInLayout()]
        return {node.GetName() for node in nodes}, {node.GetLayoutLabel() for node in nodes}

    assert names() == ({"Before", "After", "Dice per slice"},) * 2
    example.ui.differenceButton.click()
    assert names() == ({"Difference", "Surfaces", "Dice per slice"},) * 2
