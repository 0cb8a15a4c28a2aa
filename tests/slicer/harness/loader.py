"""Reads .ui files as strictly as Slicer, and more so.

A class without a designer plug-in becomes the class it is said to extend, as there. An unknown class, property or
connection, which Slicer passes over with a remark on the console, is an error.
"""

import sys
import xml.etree.ElementTree as ET

import slicer
from PySide6 import QtCore, QtUiTools

from .plugins import has_plugin
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
        self._made, self._extends = [], {}

    def _made_for(self, class_name: str) -> str:
        """The class that Slicer makes where a .ui file names this one. Raises ValueError where it makes none."""
        made, passed = class_name, []
        while not has_plugin(made):
            passed.append(made)
            made = self._extends.get(made, "")
            if not made or made in passed:
                raise ValueError(f"the .ui file wants a {class_name}, for which Slicer has no designer plug-in")
        if passed:
            print(f"{class_name} has no designer plug-in; a {made} takes its place", file=sys.stderr)
        return made

    def createWidget(self, class_name, parent=None, name=""):
        widget = widget_class(self._made_for(class_name))(parent)
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
        declared = root.iter("customwidget")
        self._extends = {each.findtext("class") or "": each.findtext("extends") or "" for each in declared}
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
            target = getattr(ends[1], slot.partition("(")[0], None)
            if target is None:
                kind = meta_object(ends[1]).className()
                raise ValueError(f"{file.fileName()} connects to {slot} of {receiver}, a {kind} without such a slot")
            connect(ends[0], signal, target)
        return top


def install() -> None:
    Loader.__name__, Loader.__module__ = "QUiLoader", "qt"
    qt.QUiLoader = Loader
