"""Plot views: the chart node drawn by VTK's charts, and clicks on its points."""

import slicer
import vtk

from .mrml_widgets import Observations
from .views import RenderView, ViewWidget
from .widgets import Signal, published

Series = slicer.vtkMRMLPlotSeriesNode
LINES = {
    Series.LineStyleNone: vtk.vtkPen.NO_PEN,
    Series.LineStyleSolid: vtk.vtkPen.SOLID_LINE,
    Series.LineStyleDash: vtk.vtkPen.DASH_LINE,
    Series.LineStyleDot: vtk.vtkPen.DOT_LINE,
    Series.LineStyleDashDot: vtk.vtkPen.DASH_DOT_LINE,
    Series.LineStyleDashDotDot: vtk.vtkPen.DASH_DOT_DOT_LINE,
}
MARKERS = {
    Series.MarkerStyleNone: vtk.vtkPlotPoints.NONE,
    Series.MarkerStyleCross: vtk.vtkPlotPoints.CROSS,
    Series.MarkerStylePlus: vtk.vtkPlotPoints.PLUS,
    Series.MarkerStyleSquare: vtk.vtkPlotPoints.SQUARE,
    Series.MarkerStyleCircle: vtk.vtkPlotPoints.CIRCLE,
    Series.MarkerStyleDiamond: vtk.vtkPlotPoints.DIAMOND,
}
BARS = (Series.PlotTypeBar, Series.PlotTypeScatterBar)


@published(slicer)
class qMRMLPlotView(RenderView):
    dataSelected = Signal(object, object)
    SIGNALS = {  # noqa: RUF012
        **RenderView.SIGNALS,
        "dataSelected(vtkStringArray*,vtkCollection*)": "dataSelected(PyObject,PyObject)",
    }

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._node, self._chart, self._plots = None, vtk.vtkChartXY(), {}
        self._observations = Observations().until_destroyed(self)

    def _fill_window(self) -> None:
        self._view = vtk.vtkContextView()
        self._view.SetRenderWindow(self._window)
        self._window.RemoveRenderer(self._renderer)
        self._renderer = self._view.GetRenderer()
        self._view.GetScene().AddItem(self._chart)
        self._chart.GetBackgroundBrush().SetColor(255, 253, 246, 255)

    def chart(self):
        return self._chart

    def mrmlPlotViewNode(self):
        return self._node

    def setMRMLPlotViewNode(self, node) -> None:
        self._observations.clear()
        self._node = node
        if node is not None:
            self._observations.add(node, vtk.vtkCommand.ModifiedEvent, lambda *_: self.scheduleRender())

    def chart_node(self):
        return self._node.GetPlotChartNode() if self._node is not None else None

    def array(self):
        self.renderWindow()
        self._resize()
        self._draw()
        return super().array()

    def _draw(self) -> None:
        self._chart.ClearPlots()
        self._plots.clear()
        node = self.chart_node()
        if node is None:
            return
        for index in range(node.GetNumberOfPlotSeriesNodes()):
            series = node.GetNthPlotSeriesNode(index)
            if series is not None and series.GetTable() is not None:
                self._add_plot(series)
        self._chart.SetTitle(node.GetTitle() or "" if node.GetTitleVisibility() else "")
        self._chart.SetShowLegend(node.GetLegendVisibility())
        for axis, letter in ((vtk.vtkAxis.BOTTOM, "X"), (vtk.vtkAxis.LEFT, "Y")):
            self._set_axis(self._chart.GetAxis(axis), node, letter)

    def _set_axis(self, axis, node, letter: str) -> None:
        visible = getattr(node, f"Get{letter}AxisTitleVisibility")()
        axis.SetTitle(getattr(node, f"Get{letter}AxisTitle")() or "" if visible else "")
        if getattr(node, f"Get{letter}AxisRangeAuto")():
            axis.SetBehavior(vtk.vtkAxis.AUTO)
        else:
            axis.SetBehavior(vtk.vtkAxis.FIXED)
            axis.SetRange(*getattr(node, f"Get{letter}AxisRange")())

    def _add_plot(self, series) -> None:
        table, names = series.GetTable(), (series.GetXColumnName(), series.GetYColumnName())
        indexed = not series.IsXColumnRequired()
        if table.GetColumnByName(names[1]) is None or (not indexed and table.GetColumnByName(names[0]) is None):
            return
        bars = series.GetPlotType() in BARS
        plot = self._chart.AddPlot(vtk.vtkChart.BAR if bars else vtk.vtkChart.LINE)
        plot.SetUseIndexForXSeries(indexed)
        plot.SetInputData(table, names[1] if indexed else names[0], names[1])
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        plot.SetLabel(series.GetName() or names[1])
        if not bars:
            plot.GetPen().SetLineType(LINES[series.GetLineStyle()])
            plot.SetMarkerStyle(MARKERS[series.GetMarkerStyle()])
            plot.SetMarkerSize(series.GetMarkerSize())
        self._plots[series.GetID()] = plot

    def click_point(self, series, row: int) -> None:
        """Click on the point of a table's row: selects it and says so."""
        if self._node.GetInteractionMode() == slicer.vtkMRMLPlotViewNode.InteractionModeMovePoints:
            raise RuntimeError("the plot view moves points in this mode, and selects none")
        self.array()
        if series.GetID() not in self._plots:
            raise ValueError(f"the chart doesn't show {series.GetName()}")
        selection = vtk.vtkIdTypeArray()
        selection.InsertNextValue(row)
        self._plots[series.GetID()].SetSelection(selection)
        names, selections = vtk.vtkStringArray(), vtk.vtkCollection()
        names.InsertNextValue(series.GetID())
        selections.AddItem(selection)
        self.dataSelected.emit(names, selections)

    def RemovePlotSelections(self) -> None:
        for plot in self._plots.values():
            plot.SetSelection(vtk.vtkIdTypeArray())


@published(slicer)
class qMRMLPlotWidget(ViewWidget):
    def __init__(self, node):
        super().__init__(node, qMRMLPlotView())
        self._view.setMRMLPlotViewNode(node)

    def mrmlPlotViewNode(self):
        return self._node

    def plotView(self):
        return self._view

    def plotController(self):
        return self._bar
