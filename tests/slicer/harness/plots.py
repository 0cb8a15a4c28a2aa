"""Plot views: the chart node drawn by VTK's charts, and a mouse on its points."""

import slicer
import vtk

from .exposed import for_tests
from .mrml_widgets import NODE, Observations
from .views import RenderView, ViewWidget
from .widgets import Signal, published

Series, View = slicer.vtkMRMLPlotSeriesNode, slicer.vtkMRMLPlotViewNode
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
LEFT, MIDDLE, RIGHT, NO_BUTTON = 1, 2, 4, 0
DRAGS = {
    View.InteractionModePanView: vtk.vtkChart.PAN,
    View.InteractionModeSelectPoints: vtk.vtkChart.SELECT,
    View.InteractionModeFreehandSelectPoints: vtk.vtkChart.SELECT_POLYGON,
    View.InteractionModeMovePoints: vtk.vtkChart.CLICK_AND_DRAG,
}


@published(slicer)
class qMRMLPlotView(RenderView):
    mrmlSceneChanged = Signal(object)
    dataSelected = Signal(object, object)
    SIGNALS = {  # noqa: RUF012
        "mrmlSceneChanged(vtkMRMLScene*)": f"mrmlSceneChanged({NODE})",
        "dataSelected(vtkStringArray*,vtkCollection*)": "dataSelected(PyObject,PyObject)",
    }

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._node, self._chart, self._plots = None, vtk.vtkChartXY(), {}
        self._chart.GetBackgroundBrush().SetColor(255, 253, 246, 255)
        self._chart.AddObserver(vtk.vtkCommand.SelectionChangedEvent, lambda *_: self._emit_selection())
        self._observations = Observations().until_destroyed(self)

    def _fill_window(self) -> None:
        self._view = vtk.vtkContextView()
        self._view.SetRenderWindow(self._window)
        self._window.RemoveRenderer(self._renderer)
        self._renderer = self._view.GetRenderer()
        self._view.SetInteractor(self._interactor)
        self._view.GetScene().AddItem(self._chart)

    def chart(self):
        return self._chart

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            super().setMRMLScene(scene)
            if self._node is not None and self._node.GetScene() is not scene:
                self.setMRMLPlotViewNode(None)
            self.mrmlSceneChanged.emit(scene)

    @for_tests
    def mrmlPlotViewNode(self):
        return self._node

    def setMRMLPlotViewNode(self, node) -> None:
        self._observations.clear()
        self._node = node
        if node is not None:
            self._observations.add(node, vtk.vtkCommand.ModifiedEvent, lambda *_: self._render_later())

    @for_tests
    def array(self):
        self.renderWindow()
        self._resize()
        self._follow_node()
        return super().array()

    # -- from the nodes to the chart

    def _follow_node(self) -> None:
        node = self._node.GetPlotChartNode() if self._node is not None else None
        count = node.GetNumberOfPlotSeriesNodes() if node is not None else 0
        shown = {}
        for series in (node.GetNthPlotSeriesNode(index) for index in range(count)):
            if series is not None and self._can_show(series):
                shown[series.GetID()] = self._update_plot(series, self._plots.get(series.GetID()))
        for name in set(self._plots) - set(shown):
            self._chart.RemovePlotInstance(self._plots[name])
        self._plots = shown
        if node is None:
            return
        self._set_buttons(node)
        self._chart.SetTitle(node.GetTitle() or "" if node.GetTitleVisibility() else "")
        self._chart.SetShowLegend(node.GetLegendVisibility())
        for axis, letter in ((vtk.vtkAxis.BOTTOM, "X"), (vtk.vtkAxis.LEFT, "Y")):
            self._set_axis(self._chart.GetAxis(axis), node, letter)
        self._chart.RecalculateBounds()

    def _can_show(self, series) -> bool:
        table = series.GetTableNode().GetTable() if series.GetTableNode() is not None else None
        names = [series.GetYColumnName()] + ([series.GetXColumnName()] if series.IsXColumnRequired() else [])
        return table is not None and all(table.GetColumnByName(name or "") is not None for name in names)

    def _update_plot(self, series, plot):
        bars, indexed = series.GetPlotType() in BARS, not series.IsXColumnRequired()
        if plot is None or plot.IsA("vtkPlotBar") != bars:
            if plot is not None:
                self._chart.RemovePlotInstance(plot)
            plot = self._chart.AddPlot(vtk.vtkChart.BAR if bars else vtk.vtkChart.LINE)
        names = (series.GetXColumnName(), series.GetYColumnName())
        plot.SetUseIndexForXSeries(indexed)
        plot.SetInputData(series.GetTableNode().GetTable(), names[1] if indexed else names[0], names[1])
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        plot.SetLabel(series.GetName() or names[1])
        if not bars:
            plot.GetPen().SetLineType(LINES[series.GetLineStyle()])
            plot.SetMarkerStyle(MARKERS[series.GetMarkerStyle()])
            plot.SetMarkerSize(series.GetMarkerSize())
        return plot

    def _set_axis(self, axis, node, letter: str) -> None:
        visible = getattr(node, f"Get{letter}AxisTitleVisibility")()
        axis.SetTitle(getattr(node, f"Get{letter}AxisTitle")() or "" if visible else "")
        axis.SetGridVisible(node.GetGridVisibility())
        if getattr(node, f"Get{letter}AxisRangeAuto")():
            axis.SetBehavior(vtk.vtkAxis.AUTO)
        else:
            axis.SetBehavior(vtk.vtkAxis.FIXED)
            axis.SetRange(*getattr(node, f"Get{letter}AxisRange")())

    def _set_buttons(self, node) -> None:
        mode = self._node.GetInteractionMode()
        moving = mode == View.InteractionModeMovePoints
        self._chart.SetClickActionToButton(vtk.vtkChart.SELECT, NO_BUTTON if moving else LEFT)
        self._chart.SetActionToButton(DRAGS[mode], LEFT)
        self._chart.SetActionToButton(vtk.vtkChart.ZOOM_AXIS, RIGHT)
        for axis in "XY":
            allowed = all(getattr(n, f"GetEnablePointMoveAlong{axis}")() for n in (node, self._node))
            getattr(self._chart, f"SetDragPointAlong{axis}")(allowed)

    # -- from the chart to the signal

    def _emit_selection(self) -> None:
        names, selections = vtk.vtkStringArray(), vtk.vtkCollection()
        for name, plot in self._plots.items():
            selection = plot.GetSelection()
            if selection is not None and selection.GetNumberOfValues() > 0:
                names.InsertNextValue(name)
                selections.AddItem(selection)
        self.dataSelected.emit(names, selections)

    def RemovePlotSelections(self) -> None:
        self._chart.RemovePlotSelections()

    def fitToContent(self) -> None:
        self._chart.RecalculateBounds()

    # -- a mouse

    @for_tests
    def position_of(self, series, row: int) -> tuple[int, int]:
        """The pixel of a series' point, from the lower left corner."""
        self.array()
        table = series.GetTableNode().GetTable()
        x_name = series.GetXColumnName()
        x = table.GetValueByName(row, x_name).ToDouble() if series.IsXColumnRequired() else row
        y = table.GetValueByName(row, series.GetYColumnName()).ToDouble()
        place = []
        for axis, value, part in ((vtk.vtkAxis.BOTTOM, x, 0), (vtk.vtkAxis.LEFT, y, 1)):
            axis = self._chart.GetAxis(axis)
            low, high = axis.GetPoint1()[part], axis.GetPoint2()[part]
            place.append(low + (value - axis.GetMinimum()) / (axis.GetMaximum() - axis.GetMinimum()) * (high - low))
        return tuple(round(part) for part in place)

    @for_tests
    def click_point(self, series, row: int) -> None:
        """Click with the left mouse button on the point of a table's row, inside the axes where it lies on them."""
        place = self.position_of(series, row)
        bottom, left = self._chart.GetAxis(vtk.vtkAxis.BOTTOM), self._chart.GetAxis(vtk.vtkAxis.LEFT)
        ends = [(axis.GetPoint1()[part], axis.GetPoint2()[part]) for axis, part in ((bottom, 0), (left, 1))]
        inside = tuple(int(min(max(at, low + 2), high - 2)) for at, (low, high) in zip(place, ends, strict=True))
        self.drag(inside, inside)

    @for_tests
    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Press the left mouse button at one pixel, release it at another."""
        self.array()
        moves = [("MouseMove", end)] if end != start else []
        for event, place in [("LeftButtonPress", start), *moves, ("LeftButtonRelease", end)]:
            self._interactor.SetEventInformation(*place)
            self._interactor.InvokeEvent(event + "Event")


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
