"""Slicer's selector of a segmentation and of segments in it."""

import slicer
from PySide6 import QtWidgets

from .mrml_widgets import Observations, node_signals, qMRMLNodeComboBox, qMRMLWidget
from .pythonqt import qt
from .widgets import Property, Signal, published, stored

CHANGES = ("SegmentAdded", "SegmentRemoved", "SegmentModified")


@published(slicer)
class qMRMLSegmentSelectorWidget(qMRMLWidget):
    currentNodeChanged = Signal(object)
    _currentNodeValid = Signal(bool)
    currentSegmentChanged = Signal(str)
    segmentSelectionChanged = Signal("QStringList")
    SIGNALS = {  # noqa: RUF012
        **qMRMLWidget.SIGNALS,
        **node_signals("currentNodeChanged"),
        "currentNodeChanged(bool)": "_currentNodeValid(bool)",
    }

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._nodes, self._box = qMRMLNodeComboBox(), qt.QComboBox()
        self._nodes.nodeTypes, self._nodes.addEnabled = ["vtkMRMLSegmentationNode"], False
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._nodes)
        column.addWidget(self._box)
        self._observations, self._ids, self._selected = Observations().until_destroyed(self), [], []
        self._nodes.currentNodeChanged.connect(self._node_chosen)
        self._box.currentIndexChanged.connect(lambda index: self.currentSegmentChanged.emit(self.currentSegmentID()))

    editEnabled = stored(bool, "edits", False)
    multiSelection = stored(bool, "multiple", False)
    horizontalLayout = stored(bool, "horizontal", False)
    selectNodeUponCreation = stored(bool, "selects", True)
    noneEnabled = Property(
        bool, lambda self: self._nodes.noneEnabled, lambda self, value: setattr(self._nodes, "noneEnabled", value)
    )
    segmentationNodeSelectorVisible = Property(
        bool, lambda self: not self._nodes.isHidden(), lambda self, value: self._nodes.setVisible(value)
    )

    def setMRMLScene(self, scene) -> None:
        self._nodes.setMRMLScene(scene)
        super().setMRMLScene(scene)

    def _node_chosen(self, node) -> None:
        self._observations.clear()
        if node is not None:
            for name in CHANGES:
                event = getattr(slicer.vtkSegmentation, name)
                self._observations.add(node.GetSegmentation(), event, lambda *_: self._fill())
        self._fill()
        self.currentNodeChanged.emit(node)
        self._currentNodeValid.emit(node is not None)

    def _fill(self) -> None:
        segmentation = self.currentNode().GetSegmentation() if self.currentNode() is not None else None
        before = self.currentSegmentID()
        self._ids = list(segmentation.GetSegmentIDs()) if segmentation is not None else []
        self._selected = [name for name in self._selected if name in self._ids]
        self._box.blockSignals(True)
        self._box.clear()
        self._box.addItems([segmentation.GetSegment(name).GetName() for name in self._ids])
        self._box.setCurrentIndex(self._ids.index(before) if before in self._ids else min(0, len(self._ids) - 1))
        self._box.blockSignals(False)
        if self.currentSegmentID() != before:
            self.currentSegmentChanged.emit(self.currentSegmentID())

    def currentNode(self):
        return self._nodes.currentNode()

    def setCurrentNode(self, node) -> None:
        self._nodes.setCurrentNode(node)

    def currentNodeID(self) -> str:
        return self._nodes.currentNodeID

    def setCurrentNodeID(self, name: str) -> None:
        self._nodes.setCurrentNodeID(name)

    def segmentIDs(self) -> list[str]:
        return list(self._ids)

    def currentSegmentID(self) -> str:
        index = self._box.currentIndex
        return self._ids[index] if 0 <= index < len(self._ids) else ""

    def setCurrentSegmentID(self, name: str) -> None:
        self._box.setCurrentIndex(self._ids.index(name) if name in self._ids else -1)

    def selectedSegmentIDs(self) -> list[str]:
        return list(self._selected)

    def setSelectedSegmentIDs(self, names: list[str]) -> None:
        self._selected = [name for name in names if name in self._ids]
        self.segmentSelectionChanged.emit(self._selected)
