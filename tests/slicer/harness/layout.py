"""The layout manager: real layout logic and view nodes, widgets placed as the layout's XML says."""

import xml.etree.ElementTree as ET

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .mrml_widgets import Observations
from .plots import qMRMLPlotWidget
from .pythonqt import qt
from .tables import qMRMLTableWidget
from .views import qMRMLSliceWidget, qMRMLThreeDWidget
from .widgets import Property, Signal, published

WIDGETS = {
    "vtkMRMLSliceNode": qMRMLSliceWidget,
    "vtkMRMLViewNode": qMRMLThreeDWidget,
    "vtkMRMLPlotViewNode": qMRMLPlotWidget,
    "vtkMRMLTableViewNode": qMRMLTableWidget,
}


@published(slicer)
class qSlicerLayoutManager(qt.QObject):
    layoutChanged = Signal(int)

    def __init__(self):
        super().__init__()
        self._viewport = qt.QWidget()
        self._viewport.setLayout(qt.QVBoxLayout())
        self._viewport.layout().setContentsMargins(0, 0, 0, 0)
        self._widgets: dict[str, QtWidgets.QWidget] = {}
        self._shown = None
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._observations = Observations()

    def setMRMLScene(self, scene) -> None:
        self._observations.add(scene, slicer.vtkMRMLScene.NodeAddedEvent, self._node_added)
        self._observations.add(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._node_removed)
        self._logic.SetMRMLScene(scene)
        for name in WIDGETS:
            for node in slicer.util.getNodesByClass(name):
                self._widget_of(node)
        self._observations.add(self._logic.GetLayoutNode(), vtk.vtkCommand.ModifiedEvent, self._layout_modified)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_added(self, scene, event, node) -> None:
        if node.GetClassName() in WIDGETS:
            self._widget_of(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_removed(self, scene, event, node) -> None:
        if node.GetClassName() in WIDGETS and node.GetID() in self._widgets:
            widget = self._widgets.pop(node.GetID())
            widget.hide()
            widget.deleteLater()

    def _widget_of(self, node):
        if node.GetID() not in self._widgets:
            widget = WIDGETS[node.GetClassName()](node)
            widget.setObjectName(f"{type(widget).__name__}{node.GetLayoutName()}")
            widget.setMRMLScene(slicer.mrmlScene)
            widget.setParent(self._viewport)
            widget.hide()
            self._widgets[node.GetID()] = widget
        return self._widgets[node.GetID()]

    # -- the layout

    def _layout_modified(self, node, event) -> None:
        shown = (node.GetViewArrangement(), node.GetCurrentLayoutDescription())
        if shown != self._shown and shown[1]:
            self._shown = shown
            self._place(ET.fromstring(shown[1]))
            self.layoutChanged.emit(shown[0])

    def _place(self, root: ET.Element) -> None:
        for widget in self._widgets.values():
            widget.setParent(self._viewport)
            widget.hide()
            widget.mrmlAbstractViewNode().SetMappedInLayout(0)
        column = self._viewport.layout()
        while column.count():
            old = column.takeAt(0).widget()
            if old is not None:
                old.setParent(None)
                old.deleteLater()
        column.addWidget(self._build(root))
        QtWidgets.QApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)

    def _build(self, element: ET.Element) -> QtWidgets.QWidget:
        if element.tag == "view":
            node = self._view_node(element)
            node.SetMappedInLayout(1)
            widget = self._widget_of(node)
            widget.controllerWidget().refresh()
            widget.show()
            return widget
        kind = element.get("type")
        items = element.findall("item")
        if kind == "tab":
            tabs = qt.QTabWidget()
            for item in items:
                tabs.addTab(self._build(item[0]), item.get("name", ""))
            return tabs
        if kind == "grid":
            grid = qt.QWidget()
            cells = QtWidgets.QGridLayout(grid)
            for item in items:
                cells.addWidget(self._build(item[0]), int(item.get("row", 0)), int(item.get("column", 0)))
            return grid
        vertical = kind == "vertical"
        splitter = qt.QSplitter(QtCore.Qt.Orientation.Vertical if vertical else QtCore.Qt.Orientation.Horizontal)
        for item in items:
            splitter.addWidget(self._build(item[0]))
        splitter.setSizes([int(item.get("splitSize", 500)) for item in items])
        return splitter

    def _view_node(self, element: ET.Element):
        name, tag = element.get("class"), element.get("singletontag")
        node = slicer.mrmlScene.GetSingletonNode(tag, name)
        if node is None:
            raise ValueError(f"the layout shows the {name} '{tag}', which the layout logic didn't make")
        return node

    def setLayout(self, layout: int) -> None:
        self._logic.GetLayoutNode().SetViewArrangement(layout)

    layout = Property(int, lambda self: self._logic.GetLayoutNode().GetViewArrangement(), setLayout)

    def layoutLogic(self):
        return self._logic

    def viewport(self):
        return self._viewport

    # -- its views

    def _of(self, kind: type) -> list:
        """All widgets of a kind, those of the layout first, in its order."""
        nodes = self._logic.GetViewNodes()
        order = [nodes.GetItemAsObject(i).GetID() for i in range(nodes.GetNumberOfItems())]
        found = [(name, widget) for name, widget in self._widgets.items() if type(widget) is kind]
        found.sort(key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
        return [widget for _, widget in found]

    def _nth(self, kind: type, which):
        found = self._of(kind)
        if isinstance(which, str):
            return next((widget for widget in found if widget.mrmlAbstractViewNode().GetLayoutName() == which), None)
        return found[which] if 0 <= which < len(found) else None

    def sliceViewNames(self) -> list[str]:
        return [widget.mrmlSliceNode().GetLayoutName() for widget in self._of(qMRMLSliceWidget)]

    def sliceWidget(self, name: str):
        return self._nth(qMRMLSliceWidget, name)

    def threeDWidget(self, which):
        return self._nth(qMRMLThreeDWidget, which)

    def plotWidget(self, index: int):
        return self._nth(qMRMLPlotWidget, index)

    def tableWidget(self, index: int):
        return self._nth(qMRMLTableWidget, index)

    def viewWidget(self, node):
        return self._widgets.get(node.GetID())

    threeDViewCount = Property(int, lambda self: len(self._of(qMRMLThreeDWidget)))
    plotViewCount = Property(int, lambda self: len(self._of(qMRMLPlotWidget)))
    tableViewCount = Property(int, lambda self: len(self._of(qMRMLTableWidget)))

    def mrmlSliceLogics(self):
        return slicer.app.applicationLogic().GetSliceLogics()

    def resetThreeDViews(self) -> None:
        for widget in self._of(qMRMLThreeDWidget):
            widget.threeDView().resetCamera()

    def resetSliceViews(self) -> None:
        for widget in self._of(qMRMLSliceWidget):
            widget.fitSliceToBackground()
