"""The application's side of a scripted module: loads its file, owns its object and its widget, enters and leaves it."""

import importlib
import inspect
import os
import sys
from pathlib import Path

import slicer
from PySide6 import QtCore

from . import calls
from .mrml_widgets import qMRMLWidget
from .pythonqt import qt


class qSlicerScriptedLoadableModule:
    """The application's side of a module: the `parent` its class is given."""

    __slots__ = (
        "acknowledgementText",
        "associatedNodeTypes",
        "categories",
        "contributors",
        "dependencies",
        "helpText",
        "hidden",
        "icon",
        "index",
        "instance",
        "name",
        "path",
        "python",
        "representation",
        "title",
        "widgetRepresentationCreationEnabled",
    )

    def __init__(self, path: str):
        self.path, self.name = path, os.path.splitext(os.path.basename(path))[0]
        self.title, self.categories, self.dependencies, self.contributors = self.name, [], [], []
        self.helpText = self.acknowledgementText = ""
        self.hidden, self.icon, self.representation = False, None, None

    def widgetRepresentation(self):
        if self.representation is None:
            self.representation = qSlicerScriptedLoadableModuleWidget(self)
            self.representation.reload()
        return self.representation


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The application's side of a module's widget: the `parent` it is given."""

    def __init__(self, module: qSlicerScriptedLoadableModule):
        super().__init__()
        self._module, self._python, self._entered = module, None, False
        self.setObjectName(module.name + "ModuleWidget")
        self.setLayout(qt.QVBoxLayout())
        self.setMRMLScene(slicer.mrmlScene)

    def reload(self) -> None:
        """Make the widget from the module's class as it now is."""
        name = self._module.name
        self._python = getattr(sys.modules[name], name + "Widget")(self)
        setattr(slicer.modules, name + "Widget", self._python)
        self._python.setup()

    def self(self):
        return self._python

    @property
    def isEntered(self) -> bool:
        return self._entered

    def enter(self) -> None:
        if not self._entered:
            self._entered = True
            getattr(self._python, "enter", lambda: None)()

    def exit(self) -> None:
        if self._entered:
            self._entered = False
            getattr(self._python, "exit", lambda: None)()


def load(path: str) -> qSlicerScriptedLoadableModule:
    """Import a module's file as Slicer does and make its module object; its widget is made when first asked for.

    Raises AttributeError where the module calls what Slicer doesn't have, whether or not a test would get there.
    """
    calls.require(Path(path).resolve())
    module = qSlicerScriptedLoadableModule(str(path))
    folder = os.path.dirname(module.path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module.python = importlib.import_module(module.name)
    if os.path.realpath(inspect.getfile(module.python)) != os.path.realpath(module.path):
        raise ImportError(f"{module.name} was already imported from {inspect.getfile(module.python)}")
    setattr(slicer.modules, module.name.lower(), module)
    module.instance = getattr(module.python, module.name)(module)
    setattr(slicer.modules, module.name + "Instance", module.instance)
    return module


def unload(module: qSlicerScriptedLoadableModule) -> None:
    """Forget a module as the application does when it ends: exit, cleanup, away with its widget."""
    if module.representation is not None:
        module.representation.exit()
        slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(module.name)
        module.representation.hide()
        module.representation.deleteLater()
        module.representation = None
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
    for name in (module.name.lower(), module.name + "Instance", module.name + "Widget"):
        if hasattr(slicer.modules, name):
            delattr(slicer.modules, name)


def install() -> None:
    slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
