"""The application: `slicer.app`, the scene and the logics, the main window with its module panel and its views."""

import sys
import tempfile
import types
from pathlib import Path

import slicer
import vtk
from PySide6 import QtCore

from . import dialogs, hierarchy, host, loader, parameters, scripted, segments, settings, upstream  # noqa: F401
from .files import CoreIOManager
from .pythonqt import qt
from .widgets import Signal, ctk, published

LOGICS = {
    "volumes": "vtkSlicerVolumesLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "terminologies": "vtkSlicerTerminologiesModuleLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "models": "vtkSlicerModelsLogic",
    "tables": "vtkSlicerTablesLogic",
    "plots": "vtkSlicerPlotsLogic",
    "texts": "vtkSlicerTextsLogic",
    "transforms": "vtkSlicerTransformLogic",
    "cropvolume": "vtkSlicerCropVolumeLogic",
}
SIZE = (1500, 940)


class CoreModule:
    """A module that is only its logic."""

    def __init__(self, name: str, logic):
        self.name, self._logic = name, logic

    def logic(self):
        return self._logic


class Modules(types.SimpleNamespace):
    """`slicer.modules`: core modules by name, and what scripted modules put there."""


@published(slicer)
class qSlicerModuleManager(qt.QObject):
    moduleAboutToBeUnloaded = Signal(str)

    def module(self, name: str):
        return getattr(slicer.modules, name.lower(), None)

    def factoryManager(self):
        return self

    def modulesNames(self) -> list[str]:
        return [module.name for module in vars(slicer.modules).values() if hasattr(module, "name")]


@published(slicer)
class qSlicerModuleSelector(qt.QObject):
    """Shows one module in the panel."""

    moduleSelected = Signal(str)

    def __init__(self, panel):
        super().__init__()
        self._panel, self._current = panel, None

    selectedModule = property(lambda self: self._current.name if self._current else "")

    def selectModule(self, name: str) -> None:
        if self._current is not None and self._current.representation is not None:
            self._current.representation.exit()
            self._panel.takeWidget()
        self._current = slicer.app.moduleManager().module(name) if name else None
        if self._current is not None:
            widget = self._current.widgetRepresentation()
            self._panel.setWidget(widget)
            widget.show()
            widget.enter()


@published(slicer)
class qSlicerMainWindow(qt.QMainWindow):
    """The module panel left, the views right."""

    def __init__(self, layout_manager):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._panel = qt.QScrollArea()
        self._panel.setWidgetResizable(True)
        self._selector = qSlicerModuleSelector(self._panel)
        splitter = qt.QSplitter()
        splitter.addWidget(self._panel)
        splitter.addWidget(layout_manager.viewport())
        splitter.setSizes([460, SIZE[0] - 460])
        self.setCentralWidget(splitter)
        self.resize(*SIZE)
        self.statusBar()

    def moduleSelector(self):
        return self._selector


@published(slicer)
class qSlicerApplication(qt.QApplication):
    startupCompleted = Signal()
    applicationVersion = "5.13.0"
    majorVersion, minorVersion = 5, 13
    commandOptions = staticmethod(lambda: types.SimpleNamespace(noMainWindow=False, testingEnabled=False))

    def testingEnabled(self) -> bool:
        return False

    def mrmlScene(self):
        return slicer.mrmlScene

    def applicationLogic(self):
        return self._logic

    def layoutManager(self):
        return self._layout_manager

    def moduleManager(self):
        return self._module_manager

    def coreIOManager(self):
        return self._io

    def userSettings(self):
        return qt.QSettings()

    settings = revisionUserSettings = userSettings

    @property
    def temporaryPath(self) -> str:
        folder = Path(tempfile.gettempdir()) / "slicer-harness"
        folder.mkdir(exist_ok=True)
        return str(folder)

    def pauseRender(self) -> None:
        pass

    def resumeRender(self) -> None:
        pass

    def translate(self, context: str, text: str) -> str:
        return text


def _qt_says(kind, context, message: str) -> None:
    if "propagateSizeHints" not in message:  # the offscreen platform's own remark on every window
        print(f"Qt: {message}", file=sys.stderr)


def _remember_observers(scene) -> None:
    """Keep what Python observes the scene with in `scene.observers`, by tag."""
    scene.observers = {}
    add, remove = scene.AddObserver, scene.RemoveObserver

    def add_observer(event, react, priority=0.0):
        tag = add(event, react, priority)
        scene.observers[tag] = react
        return tag

    def remove_observer(tag):
        scene.observers.pop(tag, None)
        remove(tag)

    scene.AddObserver, scene.RemoveObserver = add_observer, remove_observer


def _make_data_io(app, scene) -> None:
    """What reading a scene's files asks for, above all where to unpack an .mrb."""
    app._remote_io, app._data_io = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    app._remote_io.GetCacheManager().SetRemoteCacheDirectory(app.temporaryPath)
    app._data_io.SetMRMLApplicationLogic(app._logic)
    app._data_io.SetAndObserveDataIOManager(app._remote_io.GetDataIOManager())
    app._logic.SetMRMLSceneDataIO(scene, app._remote_io, app._data_io)


def _make_scene(app) -> None:
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    _remember_observers(scene)
    logic = app._logic = slicer.vtkSlicerApplicationLogic()
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    logic.SetTemporaryPath(app.temporaryPath)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    slicer.modules = Modules(colors=CoreModule("Colors", logic.GetColorLogic()))
    logic.SetModuleLogic("Colors", logic.GetColorLogic())
    _make_data_io(app, scene)
    vtk.vtkObject.GlobalWarningDisplayOff()  # terminologies are files of the application's, which the wheel lacks
    for name, cls in LOGICS.items():
        made = getattr(slicer, cls)()
        title = {"subjecthierarchy": "SubjectHierarchy", "cropvolume": "CropVolume"}.get(name, name.capitalize())
        logic.SetModuleLogic(title, made)
        made.SetMRMLApplicationLogic(logic)
        made.SetMRMLScene(scene)
        setattr(slicer.modules, name, CoreModule(title, made))
    vtk.vtkObject.GlobalWarningDisplayOn()
    hierarchy.follow(scene)


def install() -> None:
    """Install the modules qt and ctk and slicer's missing Python, so that a module's files can be imported."""
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    own = (upstream,) if upstream.folder() else (scripted, parameters)
    for part in (dialogs, settings, loader, host, *own):
        part.install()


def start() -> qSlicerApplication:
    """Start the application with an empty scene; once per process."""
    if hasattr(slicer, "app"):
        return slicer.app
    install()
    settings.use(Path(tempfile.mkdtemp(prefix="slicer-settings-")) / "Slicer.ini")
    QtCore.qInstallMessageHandler(_qt_says)
    app = slicer.app = qSlicerApplication(["Slicer"])
    app.setApplicationName("Slicer")
    app._module_manager, app._io = qSlicerModuleManager(), CoreIOManager()
    _make_scene(app)
    from .layout import qSlicerLayoutManager

    app._layout_manager = qSlicerLayoutManager()
    app._main_window = qSlicerMainWindow(app._layout_manager)
    app._main_window.show()
    app._layout_manager.setMRMLScene(slicer.mrmlScene)
    app._layout_manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    app.processEvents()
    return app
