"""What Slicer's Python adds for scripted modules and the wheel lacks: base classes, translation, the module's host."""

import importlib
import inspect
import os
import sys
import types
import unittest

import slicer
from PySide6 import QtCore

from .mrml_widgets import qMRMLWidget
from .pythonqt import qt


class ScriptedLoadableModule:
    def __init__(self, parent):
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        icons = [self.resourcePath(f"Icons/{self.moduleName}{suffix}") for suffix in (".svg", ".png")]
        found = [icon for icon in icons if os.path.isfile(icon)]
        if found:
            parent.icon = qt.QIcon(found[0])
        slicer.selfTests = getattr(slicer, "selfTests", {})
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        return f'<p>For more information, see the <a href="{docPage or self.moduleName}">online documentation</a>.</p>'

    def runTest(self, msec=100, **options):
        test = getattr(importlib.import_module(type(self).__module__), self.moduleName + "Test")()
        test.messageDelay = msec
        test.runTest(**options)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        if parent is None:
            raise ValueError("the harness always gives a module widget its parent")
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self):
        pass

    def cleanup(self):
        pass

    def _onModuleAboutToBeUnloaded(self, name):
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def createParameterNode(self):
        node = slicer.vtkMRMLScriptedModuleNode()
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node

    def getAllParameterNodes(self):
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def getParameterNode(self):
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None and node.GetAttribute("ModuleName") != self.moduleName:
                node.SetAttribute("ModuleName", self.moduleName)  # closing the scene took it away
        else:
            node = next(iter(self.getAllParameterNodes()), None)
        return node if node is not None else slicer.mrmlScene.AddNode(self.createParameterNode())


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.moduleTestNames = [name for name in dir(self) if name.startswith("test") and callable(getattr(self, name))]

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        slicer.util.delayDisplay(message, 0)

    def runTest(self):
        type(self).setUpClass()
        for name in self.moduleTestNames:
            self.setUp()
            getattr(self, name)()
            self.tearDown()
        type(self).tearDownClass()


BASES = (
    ScriptedLoadableModule,
    ScriptedLoadableModuleWidget,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)


def i18n() -> types.ModuleType:
    module = types.ModuleType("slicer.i18n")
    module.tr = lambda text: text
    module.translate = lambda context, text: text
    return module


def bases() -> types.ModuleType:
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    module.__all__ = [base.__name__ for base in BASES]
    vars(module).update({base.__name__: base for base in BASES})
    return module


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
    """Import a module's file as Slicer does and make its module object; its widget is made when first asked for."""
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
    slicer.ScriptedLoadableModule, slicer.i18n = bases(), i18n()
    sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule
    sys.modules["slicer.i18n"] = slicer.i18n
    slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
