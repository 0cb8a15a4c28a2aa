"""Reads .ui files strictly: an unknown class, property or connection is an error."""

import xml.etree.ElementTree as ET

import slicer
from PySide6 import QtCore, QtUiTools

from .pythonqt import connect, meta_object, qt
from .widgets import ctk


def widget_class(name: str) -> type:
    """The class a .ui file means. Raises ValueError where neither qt nor ctk nor slicer has it."""
    for module in (ctk, slicer):
        if name in vars(module):
            return getattr(module, name)
    if hasattr(qt, name):
        return getattr(qt, name)
    raise ValueError(f"the .ui file wants a {name}, which the harness doesn't know")


def _take_scene_connections(root: ET.Element) -> list[tuple[str, str, str, str]]:
    """Connections that carry MRML objects, which Qt's own loader couldn't make; removed from the tree."""
    taken, parent = [], root.find("connections")
    for connection in list(parent) if parent is not None else []:
        words = tuple(connection.findtext(tag) or "" for tag in ("sender", "signal", "receiver", "slot"))
        if "vtkMRML" in words[1]:
            taken.append(words)
            parent.remove(connection)
    return taken


def _check_properties(root: ET.Element, top: QtCore.QObject) -> None:
    for element in root.iter("widget"):
        widget = top if element.get("name") == top.objectName else top.findChild(qt.QObject, element.get("name"))
        for declared in element.findall("property"):
            name = declared.get("name")
            if declared.get("stdset") != "0" and meta_object(widget).indexOfProperty(name) < 0:
                raise ValueError(f"{element.get('class')} {element.get('name')} has no property '{name}'")


class Loader(QtUiTools.QUiLoader):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._made = []

    def createWidget(self, class_name, parent=None, name=""):
        widget = widget_class(class_name)(parent)
        widget.setObjectName(name)
        self._made.append(widget)
        return widget

    def createLayout(self, class_name, parent=None, name=""):
        layout = getattr(qt, class_name)()
        layout.setObjectName(name)
        if parent is not None and parent.layout() is None and parent.isWidgetType():
            parent.setLayout(layout)
        self._made.append(layout)
        return layout

    def load(self, file, parent=None):
        """The widget of a .ui file. Raises ValueError for what Slicer would pass over in silence."""
        root = ET.fromstring(bytes(file.readAll().data()))
        connections = _take_scene_connections(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        top = super().load(buffer, parent)
        if top is None:
            raise ValueError(f"{file.fileName()}: {self.errorString()}")
        top._made = self._made
        _check_properties(root, top)
        for sender, signal, receiver, slot in connections:
            ends = [top if n == top.objectName else top.findChild(qt.QObject, n) for n in (sender, receiver)]
            if None in ends:
                raise ValueError(f"{file.fileName()} connects {sender} to {receiver}; one of them doesn't exist")
            connect(ends[0], signal, getattr(ends[1], slot.partition("(")[0]))
        return top


def install() -> None:
    Loader.__name__, Loader.__module__ = "QUiLoader", "qt"
    qt.QUiLoader = Loader
