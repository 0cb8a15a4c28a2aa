"""Tables and charts of a result: structures, Dice per slice with a cursor, progress of the attack. Lines are dashed by
structure as well as coloured; NaN is a gap.
"""

from collections.abc import Callable, Iterable

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from .mistakes import told
from .palette import CURSOR, LIMIT, lineStyle, onLight, readable, rgb, structureColour
from .results import DICE_LIMIT, Result

BARS = "#D0D0D0"
DICE_RANGE = (-0.03, 1.05)
LEGEND_ROOM = 1.25  # of the chart's width, for the legend at its right
TALLEST = 0.5  # height of the tallest bar, in Dice


# ---------------------------------------------------------------- tables


def addTable(name: str, columns: Iterable[tuple[str, str, object]]):
    """A new table node of (name, unit, values) columns; numbers as double, texts as string."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    node.SetUseColumnTitleAsColumnHeader(True)
    for title, unit, values in columns:
        addColumn(node.GetTable(), title, values)
        if unit:
            node.SetColumnUnitLabel(title, unit)
    return node


def addColumn(table, title: str, values) -> None:
    values = list(values)
    if values and isinstance(values[0], str):
        column = vtk.vtkStringArray()
        for text in values:
            column.InsertNextValue(text)
    else:
        numbers = np.array([np.nan if value is None else value for value in values], np.float64)
        column = numpy_support.numpy_to_vtk(numbers, deep=True, array_type=vtk.VTK_DOUBLE)
    column.SetName(title)
    table.AddColumn(column)


def structureTable(result: Result, name: str):
    """One row per structure, worst first, with what the panel shows as numbers."""
    rows, ml = result.rows(absent=True), result.size
    dice = [] if result.ownReference else [("Dice clean vs expert", "", [row.diceBefore for row in rows])]
    dice += [("Dice" if result.ownReference else "Dice adversarial vs expert", "", [row.dice for row in rows])]
    further = [[row.further[index] for row in rows] for index in range(len(result.further))]
    columns = [
        ("Structure", "", [row.title for row in rows]),
        *dice,
        ("Agreement with own clean prediction", "", [row.agreement for row in rows]),
        ("Before", ml, [row.beforeMl for row in rows]),
        ("After", ml, [row.afterMl for row in rows]),
        ("Lost", ml, [row.lostMl for row in rows]),
        ("Added", ml, [row.gainedMl for row in rows]),
        ("Change", "%", [row.deltaPercent for row in rows]),
        ("HD95", result.length, [row.hd95Mm if row.outlined else row.movedMm for row in rows]),
        ("Slices failed", "", [row.failed for row in rows]),
        ("Slices", "", [row.present for row in rows]),
        ("Breaks at", result.unit, [row.breaksAt for row in rows]),
        ("Breaks at, in noise σ", "", [row.inSigma for row in rows]),
        (f"{result.chance} Dice", "", [row.randomDice for row in rows]),
        *((column["title"], "", list(cells)) for column, cells in zip(result.further, further, strict=True)),
        ("Verdict", "", [row.verdict for row in rows]),
    ]
    return addTable(name, columns)


def sliceTable(result: Result, name: str):
    """One row per slice: its number from 1, what differs, and per structure Dice, lost and added."""
    along, ml = result.along, result.voxelMl
    differs = result.differing()
    columns = [
        ("Slice", "", np.arange(1, result.slices + 1)),
        ("Differs", result.size, differs),
        ("Differs, as drawn", "", TALLEST * differs / max(float(differs.max(initial=0)), 1e-9)),
    ]
    for column, structure in enumerate(result.names):
        columns += [
            (structure, "", along.dice[:, column]),
            (f"{structure} lost", result.size, along.lost[:, column] * ml),
            (f"{structure} added", result.size, along.gained[:, column] * ml),
        ]
    return addTable(name, columns)


def traceTable(trace: list[dict], structures: list[str], name: str, limit: float = DICE_LIMIT):
    """One row per look at the model, and one without values where a new start begins."""
    rows = []
    for point in trace:
        if rows and point.get("restart") != rows[-1].get("restart"):
            rows.append({"restart": point.get("restart")})
        rows.append(point)
    looks = np.cumsum([0.0 if index == 0 or "step" not in row else 1.0 for index, row in enumerate(rows)])
    columns = [("Look", "", looks)]
    columns += [(key.capitalize(), "", [row.get(key) for row in rows]) for key in ("restart", "step", "loss", "score")]
    columns += [(s, "", [(row.get("dice") or {}).get(s) for row in rows]) for s in structures]
    columns += [("Limit", "", [limit] * len(rows))]
    return addTable(name, columns)


# ---------------------------------------------------------------- charts


def addSeries(table, x: str, y: str, title: str, colour: str, style: str = "Solid", width: float = 2.0, bars=False):
    """A new series of two columns of a table; a line unless `bars`."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
    node.SetName(title)  # the legend's text; the scene would make it unique
    node.SetAndObserveTableNodeID(table.GetID())
    node.SetXColumnName(x)
    node.SetYColumnName(y)
    node.SetPlotType(node.PlotTypeScatterBar if bars else node.PlotTypeScatter)
    node.SetLineStyle(getattr(node, f"LineStyle{style}"))
    node.SetMarkerStyle(node.MarkerStyleNone)
    node.SetLineWidth(width)
    node.SetColor(*rgb(colour))
    return node


def addChart(name: str, series: list, xTitle: str, xRange: tuple[float, float]):
    """A new chart of Dice from 0 to 1, with a little room so that points at 0 and 1 can be clicked; nobody can drag its
    points, which would change the table."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    node.SetTitleVisibility(False)
    node.SetXAxisTitle(xTitle)
    node.SetYAxisTitle("Dice")
    node.SetXAxisRangeAuto(False)
    node.SetXAxisRange(*xRange)
    node.SetYAxisRangeAuto(False)
    node.SetYAxisRange(*DICE_RANGE)
    node.SetEnablePointMoveAlongX(False)
    node.SetEnablePointMoveAlongY(False)
    for each in series:
        node.AddAndObservePlotSeriesNodeID(each.GetID())
    return node


def cursorTable(name: str):
    """Two points, one above the other: the slice that is shown."""
    return addTable(name, [("Slice", "", [1.0, 1.0]), ("Height", "", [0.0, 1.0])])


def sliceSeries(result: Result, table, cursor) -> list:
    """The series of the slice chart: what differs as bars, Dice of each structure present, the cursor."""
    tallest = float(result.differing().max(initial=0))
    series = [
        addSeries(
            table, "Slice", "Differs, as drawn", f"differs (tallest {result.ml(tallest)})", BARS, width=0.8, bars=True
        ),
    ]
    present = {row.name for row in result.rows()}
    for number, name in enumerate(result.names, 1):
        if name in present:
            series.append(_line(table, "Slice", name, number))
    return [*series, addSeries(cursor, "Slice", "Height", "slice shown", CURSOR)]


def sliceChart(result: Result, series: list, name: str):
    title = f"{result.plane} slice – lines: Dice after against before; bars: what differs. Click a point to jump."
    return addChart(name, series, title, (0.5, max(result.slices, 2) * LEGEND_ROOM))


def traceSeries(table, structures: list[str], names: list[str], limit: float = DICE_LIMIT) -> list:
    """Live Dice of the targets and a dashed line at the limit; names: all structures, for their colours."""
    dashed = addSeries(table, "Look", "Limit", f"limit {limit:.2f}", LIMIT, "Dash", 1.0)
    return [dashed, *(_line(table, "Look", name, names.index(name) + 1) for name in structures)]


def traceChart(table, series: list, name: str):
    return addChart(name, series, "step of the attack", _looks(table))


def _looks(table) -> tuple[float, float]:
    """The range of a trace's looks, with room for the legend."""
    return -0.2, max(table.GetTable().GetColumnByName("Look").GetRange()[1], 1) * LEGEND_ROOM


def _line(table, x: str, structure: str, number: int):
    # Charts are white, so the colours are the darker ones.
    colour = onLight(structureColour(number))
    style = lineStyle(number)
    return addSeries(table, x, structure, readable(structure), colour, style, 3.0 if style == "Dot" else 2.0)


def tracedStructures(trace: list[dict]) -> list[str]:
    """The structures that a trace has a Dice of, in its order."""
    found = {}
    for point in trace:
        found.update({name: None for name, dice in (point.get("dice") or {}).items() if dice is not None})
    return list(found)


# ---------------------------------------------------------------- what moves


def setCursor(cursor, index: int) -> None:
    """Move the cursor's two points to a slice, 0-based."""
    column = cursor.GetTable().GetColumnByName("Slice")
    for row in range(2):
        column.SetValue(row, index + 1.0)
    column.Modified()
    cursor.GetTable().Modified()


class Clicks:
    """Calls `jump(slice index)` where a point of the slice chart is clicked in a plot widget; `stop` ends it."""

    def __init__(self, plotView, sliceTableNode, jump: Callable[[int], None]):
        self.plotView, self.table, self.jump = plotView, sliceTableNode, jump
        self.busy = False
        plotView.connect("dataSelected(vtkStringArray*, vtkCollection*)", self._selected)

    def stop(self) -> None:
        self.plotView.disconnect("dataSelected(vtkStringArray*, vtkCollection*)", self._selected)

    @told
    def _selected(self, seriesIds, selections) -> None:
        if self.busy or seriesIds is None:
            return
        index = clicked(seriesIds, selections, self.table)
        self.busy = True  # taking the marks away selects, too
        try:
            self.plotView.RemovePlotSelections()
        finally:
            self.busy = False
        if index is not None:
            self.jump(index)


def clicked(seriesIds, selections, sliceTableNode) -> int | None:
    """The slice (0-based) of the first point that was selected in a series of this table; None if there is none."""
    for number in range(min(seriesIds.GetNumberOfValues(), selections.GetNumberOfItems())):
        series = slicer.mrmlScene.GetNodeByID(seriesIds.GetValue(number))
        points = selections.GetItemAsObject(number)
        if series is None or series.GetTableNode() != sliceTableNode or not points.GetNumberOfValues():
            continue
        row = int(points.GetValue(0))
        return int(sliceTableNode.GetTable().GetColumnByName("Slice").GetValue(row)) - 1
    return None


class LiveTrace:
    """The progress of a running attack in a plot widget: live Dice per target and a dashed line at the limit.

    Its nodes are hidden, aren't saved, and are there only while something is shown.
    """

    def __init__(self, plotView, limit: float = DICE_LIMIT):
        self.plotView, self.limit = plotView, limit
        self.nodes: list = []
        self.structures: list[str] = []
        self.length = 0

    def show(self, trace: list[dict], names: list[str] | None = None) -> None:
        """Draw a trace; names: all structures of the model, for their colours (else in the trace's order)."""
        structures = tracedStructures(trace)
        if len(trace) < self.length or structures != self.structures or not self._alive():
            self.clear()
        if not structures:
            return
        table = traceTable(trace, structures, "Perturbox live", self.limit)
        if self.nodes:
            self.nodes[0].GetTable().DeepCopy(table.GetTable())
            self.nodes[1].SetXAxisRange(
                -0.2, max(table.GetTable().GetColumnByName("Look").GetRange()[1], 1) * LEGEND_ROOM
            )
            self.nodes[0].Modified()
            slicer.mrmlScene.RemoveNode(table)
        else:
            series = traceSeries(table, structures, names or structures, self.limit)
            chart = traceChart(table, series, "Perturbox live")
            chart.SetLegendVisibility(False)  # it would hide the lines of so small a chart; the panel names the lowest
            view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode", "Perturbox live")
            view.SetPlotChartNodeID(chart.GetID())
            self.nodes = [table, chart, view, *series]
            for node in self.nodes:
                node.SetHideFromEditors(True)
                node.SetSaveWithScene(False)
            self.plotView.setMRMLScene(slicer.mrmlScene)
            self.plotView.setMRMLPlotViewNode(view)
        self.structures, self.length = structures, len(trace)

    def clear(self) -> None:
        """Take the chart's nodes out of the scene."""
        if self.nodes:
            self.plotView.setMRMLPlotViewNode(None)
        for node in self.nodes:
            if slicer.mrmlScene.IsNodePresent(node):
                slicer.mrmlScene.RemoveNode(node)
        self.nodes, self.structures, self.length = [], [], 0

    def _alive(self) -> bool:
        return all(slicer.mrmlScene.IsNodePresent(node) for node in self.nodes)
