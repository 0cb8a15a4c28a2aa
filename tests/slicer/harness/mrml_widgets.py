"""Slicer's widgets that follow the MRML scene, on the real scene of slicer-core."""

from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

from .exposed import for_tests
from .pythonqt import qt
from .widgets import Property, Signal, published, stored

NODE = "PyObject"
"""How Qt knows the argument of a signal that carries a node."""


def node_signals(*names: str) -> dict[str, str]:
    return {f"{name}(vtkMRMLNode*)": f"{name}({NODE})" for name in names}


class Observations:
    """Observers that are removed together."""

    def __init__(self):
        self._tags: list[tuple[Any, int]] = []

    def add(self, obj, event, react, priority: float = 0.0) -> None:
        self._tags.append((obj, obj.AddObserver(event, react, priority)))

    def clear(self) -> None:
        for obj, tag in self._tags:
            obj.RemoveObserver(tag)
        self._tags.clear()

    def until_destroyed(self, widget) -> "Observations":
        """Clear when the widget is destroyed, as its C++ original does; returns itself."""
        widget.destroyed.connect(lambda *_: self.clear())
        return self


@published(slicer)
class qMRMLWidget(qt.QWidget):
    mrmlSceneChanged = Signal(object)
    SIGNALS = {"mrmlSceneChanged(vtkMRMLScene*)": f"mrmlSceneChanged({NODE})"}  # noqa: RUF012

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._scene = None

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


@published(slicer)
class qMRMLSortFilterProxyModel(qt.QObject):
    """What a node combo box leaves out beside its own filters."""

    _changed = Signal()

    def _filter(name):
        def change(self, ids):
            setattr(self, "_" + name, list(ids))
            self._changed.emit()

        return Property("QStringList", lambda self: getattr(self, "_" + name, []), change)

    hiddenNodeIDs = _filter("hidden_ids")
    visibleNodeIDs = _filter("visible_ids")


@published(slicer)
class qMRMLNodeComboBox(qt.QWidget):
    """Shows the scene's nodes of some types; follows nodes that come, go, are renamed or change attributes."""

    currentNodeChanged = Signal(object)
    _currentNodeValid = Signal(bool)
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAboutToBeEdited = Signal(object)
    SIGNALS = {  # noqa: RUF012
        **node_signals(
            "currentNodeChanged",
            "nodeActivated",
            "nodeAdded",
            "nodeAddedByUser",
            "nodeAboutToBeRemoved",
            "nodeAboutToBeEdited",
        ),
        "currentNodeChanged(bool)": "_currentNodeValid(bool)",
    }

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._box = qt.QComboBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._scene, self._nodes, self._current, self._filling = None, [], None, False
        self._attributes: dict[str, dict[str, str | None]] = {}
        self._scene_observations = Observations().until_destroyed(self)
        self._node_observations = Observations().until_destroyed(self)
        self._proxy = qMRMLSortFilterProxyModel(self)
        self._proxy._changed.connect(self._fill)
        self._box.currentIndexChanged.connect(self._chosen)
        self._box.activated.connect(lambda index: self.nodeActivated.emit(self.currentNode()))
        self._box.setEnabled(False)

    def _refilling(kind, name, default):
        def change(self, value):
            setattr(self, "_" + name, value)
            self._fill()

        return Property(kind, lambda self: getattr(self, "_" + name, default), change)

    nodeTypes = _refilling("QStringList", "types", [])
    hideChildNodeTypes = _refilling("QStringList", "hidden_types", [])
    showChildNodeTypes = _refilling(bool, "children", True)
    showHidden = _refilling(bool, "hidden", False)
    noneEnabled = _refilling(bool, "none", False)
    noneDisplay = _refilling(str, "none_text", "None")
    baseName = stored(str, "base", "")
    addEnabled = stored(bool, "adds", True)
    removeEnabled = stored(bool, "removes", True)
    editEnabled = stored(bool, "edits", False)
    renameEnabled = stored(bool, "renames", False)
    selectNodeUponCreation = stored(bool, "selects", True)
    interactionNodeSingletonTag = stored(str, "interaction", "Singleton")

    # -- the scene

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        self._scene_observations.clear()
        self._node_observations.clear()
        self._scene = scene
        self._box.setEnabled(scene is not None)
        if scene is not None:
            for event in ("NodeAdded", "NodeRemoved", "EndBatchProcess", "EndClose", "EndImport", "EndRestore"):
                self._scene_observations.add(scene, getattr(scene, event + "Event"), self._scene_changed)
        self._fill()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _scene_changed(self, scene, event, node=None) -> None:
        if event == "NodeAddedEvent" and isinstance(node, slicer.vtkMRMLNode) and self._shows(node):
            self._fill()
            self.nodeAdded.emit(node)
        else:
            self._fill()

    def _node_changed(self, node, event) -> None:
        self._fill()

    def _of_type(self, node) -> bool:
        if any(node.IsA(hidden) for hidden in self.hideChildNodeTypes):
            return False
        if self.showChildNodeTypes:
            return any(node.IsA(name) for name in self.nodeTypes)
        return node.GetClassName() in self.nodeTypes

    def _shows(self, node) -> bool:
        if not self._of_type(node) or node.GetID() in self._proxy.hiddenNodeIDs:
            return False
        if node.GetID() in self._proxy.visibleNodeIDs:
            return True
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        wanted = [pair for name, pairs in self._attributes.items() if node.IsA(name) for pair in pairs.items()]
        return all(
            node.GetAttribute(name) is not None and (value is None or node.GetAttribute(name) == value)
            for name, value in wanted
        )

    def _fill(self) -> None:
        if self._filling or (self._scene is not None and self._scene.IsBatchProcessing()):
            return
        candidates = [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())] if self._scene else []
        candidates = [node for node in candidates if self._of_type(node)]
        self._node_observations.clear()
        for node in candidates:
            self._node_observations.add(node, vtk.vtkCommand.ModifiedEvent, self._node_changed)
        self._nodes = [node for node in candidates if self._shows(node)]
        keep = self._current if self._current in self._nodes else None
        if keep is None and self._nodes and not self.noneEnabled:
            keep = self._nodes[0]
        self._filling = True
        try:
            self._box.clear()
            if self.noneEnabled:
                self._box.addItem(self.noneDisplay)
            for node in self._nodes:
                self._box.addItem(node.GetName() or "")
            self._box.setCurrentIndex(self._index(keep))
        finally:
            self._filling = False
        self._become(keep)

    def _index(self, node) -> int:
        return self._nodes.index(node) + self.noneEnabled if node in self._nodes else -1 + self.noneEnabled

    def _chosen(self, index: int) -> None:
        if not self._filling:
            index -= self.noneEnabled
            self._become(self._nodes[index] if 0 <= index < len(self._nodes) else None)

    def _become(self, node) -> None:
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)
            self._currentNodeValid.emit(node is not None)
            self.currentNodeIDChanged.emit(self.currentNodeID)

    # -- the current node

    def currentNode(self):
        return self._current

    def setCurrentNode(self, node) -> None:
        """Choose a node, by itself or its id; None or a node that isn't shown chooses none."""
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if node else None
        self._box.setCurrentIndex(self._index(node))

    currentNodeID = Property(
        str,
        lambda self: self._current.GetID() if self._current is not None else "",
        lambda self, value: self.setCurrentNode(value or ""),
    )

    def setCurrentNodeIndex(self, index: int) -> None:
        self.setCurrentNode(self._nodes[index])

    def nodeCount(self) -> int:
        return len(self._nodes)

    def nodeFromIndex(self, index: int):
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    @for_tests
    def nodes(self) -> list:
        return list(self._nodes)

    def addNode(self, type_name: str = ""):
        type_name = type_name or self.nodeTypes[0]
        node = self._scene.AddNewNodeByClass(type_name, self._scene.GenerateUniqueName(self.baseName or type_name[7:]))
        for name, value in self._attributes.get(type_name, {}).items():
            node.SetAttribute(name, value or "")
        self._fill()
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    # -- filters

    def sortFilterProxyModel(self):
        return self._proxy

    def addAttribute(self, type_name: str, name: str, value: Any = None) -> None:
        self._attributes.setdefault(type_name, {})[name] = None if value is None else str(value)
        self._fill()

    def removeAttribute(self, type_name: str, name: str) -> None:
        self._attributes.get(type_name, {}).pop(name, None)
        self._fill()
