"""Slice and 3D views: the real logics and displayable managers of slicer-core, rendered offscreen.

A view renders when it is asked for a picture (`forceRender`, `harness.pictures`), not by itself.
"""

import functools
import subprocess
import sys
import unittest

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util.numpy_support import vtk_to_numpy

from .exposed import for_tests
from .mrml_widgets import qMRMLWidget
from .pythonqt import qt
from .widgets import published

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
THREED_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
MINIMUM = 40  # pixels; a view that was never laid out still has a window one can render


PROBE = """
import vtk
window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
window.SetOffScreenRendering(1)
window.AddRenderer(renderer)
window.Render()
"""


class CannotRender(unittest.SkipTest):
    """No view can be rendered on this machine; ends a test as skipped."""


@functools.cache
def can_render() -> bool:
    """Tried in another process, as VTK would end this one."""
    return subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=120).returncode == 0


def require_rendering() -> None:
    """Raises CannotRender where OpenGL is missing."""
    if not can_render():
        raise CannotRender("nothing can be rendered here: no EGL or OSMesa (Debian: libegl1, libgl1-mesa-dri)")


def factory(kind: str, names: tuple[str, ...]):
    made = getattr(slicer, f"vtkMRML{kind}ViewDisplayableManagerFactory").GetInstance()
    made.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    for name in names:
        if not made.IsDisplayableManagerRegistered(name):
            made.RegisterDisplayableManager(name)
    return made


def pixels(window: vtk.vtkRenderWindow) -> np.ndarray:
    """What the window shows, rows from the top: uint8 "h w 3"."""
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()


def to_image(array: np.ndarray) -> QtGui.QImage:
    array = np.ascontiguousarray(array)
    height, width, _ = array.shape
    return QtGui.QImage(array.data, width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).copy()


class RenderView(qt.QWidget):
    """An offscreen render window in a widget that shows its last picture."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._scene = None
        self._window, self._renderer, self._image = None, None, None
        self._corner = vtk.vtkCornerAnnotation()
        self._corner.GetTextProperty().SetFontSize(14)
        self._corner.SetMaximumFontSize(16)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Expanding, policy.Expanding)

    def _make_window(self) -> None:
        require_rendering()
        self._window, self._renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._fill_window()
        self._renderer.AddViewProp(self._corner)
        self._resize()

    def _fill_window(self) -> None:
        raise NotImplementedError

    def _resize(self) -> None:
        if self._window is not None:
            self._window.SetSize(max(MINIMUM, self.width), max(MINIMUM, self.height))

    def renderWindow(self):
        if self._window is None:
            self._make_window()
        return self._window

    def setMRMLScene(self, scene) -> None:
        self._scene = scene

    @for_tests
    def renderer(self):
        self.renderWindow()
        return self._renderer

    def _render_later(self) -> None:
        self._image = None

    @for_tests
    def array(self) -> np.ndarray:
        """The picture now, uint8 "h w 3"."""
        shown = pixels(self.renderWindow())
        self._image = to_image(shown)
        self.update()
        return shown

    def resizeEvent(self, event):
        self._resize()
        self._image = None

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        painter.fillRect(self.rect, QtCore.Qt.GlobalColor.black)
        if self._image is not None:
            painter.drawImage(0, 0, self._image)
        painter.end()


class SceneView(RenderView):
    """What the views of slices and of 3D have in common."""

    def interactor(self):
        self.renderWindow()
        return self._interactor

    def cornerAnnotation(self):
        return self._corner

    def scheduleRender(self) -> None:
        self._render_later()

    def forceRender(self) -> None:
        self.array()


@published(slicer)
class qMRMLSliceView(SceneView):
    def __init__(self, logic):
        super().__init__()
        self._logic = logic

    def _fill_window(self) -> None:
        self._renderer.SetBackground(0, 0, 0)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(actor)  # first, so that segments blend with the scan
        self._mapper, self._actor = mapper, actor
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.Initialize(factory("Slice", SLICE_MANAGERS), self._renderer)
        self._group.SetMRMLDisplayableNode(self.mrmlSliceNode())
        self._logic.SetDisplayableManagerGroup(self._group)
        self._style = slicer.vtkMRMLSliceViewInteractorStyle()
        self._style.SetSliceLogic(self._logic)
        self._style.SetDisplayableManagers(self._group)
        self._style.SetInteractor(self._interactor)

    def _resize(self) -> None:
        super()._resize()
        width, height = max(MINIMUM, self.width), max(MINIMUM, self.height)
        if list(self.mrmlSliceNode().GetDimensions()[:2]) != [width, height]:
            self._logic.ResizeSliceNode(width, height)

    @for_tests
    def array(self) -> np.ndarray:
        self.renderWindow()
        self._resize()
        source = self._logic.GetImageDataConnection()
        self._actor.SetVisibility(source is not None)
        if source is not None:
            self._mapper.SetInputConnection(source)
        return super().array()

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def displayableManagerByClassName(self, name: str):
        self.renderWindow()
        return self._group.GetDisplayableManagerByClassName(name)

    def convertRASToXYZ(self, ras) -> list[float]:
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.mrmlSliceNode().GetXYToRAS(), inverse)
        return list(inverse.MultiplyPoint((*ras, 1.0))[:3])

    def convertXYZToRAS(self, xyz) -> list[float]:
        return list(self.mrmlSliceNode().GetXYToRAS().MultiplyPoint((*xyz, 1.0))[:3])


class Bar(qt.QLabel):
    """The strip above a view: its label on its colour."""

    def __init__(self, node):
        super().__init__()
        self._node = node
        self.setFixedHeight(18)
        self.refresh()

    def refresh(self) -> None:
        red, green, blue = (round(255 * part) for part in self._node.GetLayoutColor())
        self.text = f" {self._node.GetLayoutLabel() or ''}"
        self.styleSheet = f"background: rgb({red}, {green}, {blue}); color: black; font-weight: bold"


class ViewWidget(qMRMLWidget):
    """A view under its bar."""

    def __init__(self, node, view):
        super().__init__()
        self._node, self._view, self._bar = node, view, Bar(node)
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._bar)
        column.addWidget(view, 1)

    def mrmlAbstractViewNode(self):
        return self._node

    def viewWidget(self):
        return self._view

    def controllerWidget(self):
        return self._bar


@published(slicer)
class qMRMLSliceWidget(ViewWidget):
    def __init__(self, node):
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        slicer.app.applicationLogic().GetSliceLogics().AddItem(self._logic)
        self._logic.SetSliceNode(node)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        super().__init__(node, qMRMLSliceView(self._logic))

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceLogic(self):
        return self._logic

    def sliceView(self):
        return self._view

    def sliceController(self):
        return self._bar

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()

    @for_tests
    def scroll(self, steps: int) -> None:
        """Turn the mouse wheel over the view, forward for positive steps."""
        event = "MouseWheelForwardEvent" if steps > 0 else "MouseWheelBackwardEvent"
        for _ in range(abs(steps)):
            self._view.interactor().InvokeEvent(event)


@published(slicer)
class qMRMLThreeDView(SceneView):
    def __init__(self, node):
        super().__init__()
        self._node = node

    def _fill_window(self) -> None:
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.Initialize(factory("ThreeD", THREED_MANAGERS), self._renderer)
        self._group.SetMRMLDisplayableNode(self._node)

    def mrmlViewNode(self):
        return self._node

    def resetFocalPoint(self) -> None:
        self.renderer().ResetCamera()

    def resetCamera(self, *flags) -> None:
        self.renderer().ResetCamera()

    def displayableManagerByClassName(self, name: str):
        self.renderWindow()
        return self._group.GetDisplayableManagerByClassName(name)


@published(slicer)
class qMRMLThreeDWidget(ViewWidget):
    def __init__(self, node):
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        slicer.app.applicationLogic().GetViewLogics().AddItem(self._logic)
        super().__init__(node, qMRMLThreeDView(node))

    def mrmlViewNode(self):
        return self._node

    def viewLogic(self):
        return self._logic

    def threeDView(self):
        return self._view

    def threeDController(self):
        return self._bar
