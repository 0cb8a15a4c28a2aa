"""The views of a result: clean left, adversarial right, scrolling together; difference, heat and standard views.

The state of a view lies in MRML nodes. What `show` changes outside the module's own views `leave` puts back.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import slicer
import vtk
from slicer.i18n import tr as _

from . import charts, layouts
from .layouts import AFTER_VIEW, BEFORE_VIEW, DIFFERENCE_VIEW, LAYOUTS, SHOWN
from .looks import Looks
from .mistakes import told
from .placing import SavedView, centre, fit, indexAt, jumpTo, orient
from .scene import Nodes
from .trouble import Trouble

__all__ = ["LABEL_STYLES", "MODES", "WINDOWS", "Viewer", "Window"]

MODES = tuple(LAYOUTS)
LABEL_STYLES = {"outline": _("Outline + before-line"), "fill": _("Fill"), "off": _("Off")}
COMPOSITE_FLAGS = 8 | 16  # linked views share the opacity of labels and of the foreground, never the volumes
SURFACE_VOXELS = 20_000_000  # of a scan, up to which surfaces are made unasked


@dataclass(frozen=True)
class Window:
    name: str
    title: str
    width: float
    level: float


WINDOWS = (
    Window("soft", _("Soft tissue 400/40"), 400, 40),
    Window("liver", _("Liver 150/60"), 150, 60),
    Window("lung", _("Lung 1500/−600"), 1500, -600),
    Window("bone", _("Bone 2000/300"), 2000, 300),
)


class Viewer:
    """Shows one result at a time in the views of a layout manager."""

    def __init__(self, layoutManager):
        self.manager = layoutManager
        layouts.register(layoutManager)
        self.nodes: Nodes | None = None
        self.mode = ""
        self.looks = Looks()
        self._previousLayout: int | None = None
        self._saved: dict[str, SavedView] = {}
        self._observed: list[tuple[object, int]] = []
        self._clicks: charts.Clicks | None = None
        self._sliceCallbacks: list[Callable[[int], None]] = []
        self._changeCallbacks: list[Callable[[], None]] = []
        self._index: int | None = None
        self._window = ""
        self._fitted: dict[str, tuple[str, tuple]] = {}

    # ------------------------------------------------------------ showing

    def show(self, resultNode, mode: str = "compare") -> None:
        """Show a result in a mode of MODES, at the slice that was shown before.

        Raises Trouble where its scan or one of its volumes is gone.
        """
        nodes = Nodes(resultNode)
        for role, what in (("original", "scan"), ("perturbed", _("perturbed scan")), ("clean", "segmentation")):
            if getattr(nodes, role) is None:
                raise Trouble(
                    "gone",
                    _("The result's {what} is no longer in the scene.").format(what=what),
                    _("Remove this result."),
                )
        self._changed()
        other = self.nodes is None or self.nodes.node != resultNode
        index = None if other else self._index
        if other:
            self._window = ""
        self._stopObserving()
        self.looks.hide()
        self.nodes, self.mode = nodes, mode
        if self._previousLayout is None:
            current = self.manager.layout
            standard = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
            self._previousLayout = standard if layouts.isOwn(current) else current
        self.manager.setLayout(LAYOUTS[mode])
        layouts.nameViews()
        self._fillViews()
        self._index = None
        self._placeViews()
        self.looks.show(nodes, mode, {name: self.widget(name) for name in self.names})
        self._surfaces()
        self._plot()
        self._observe()
        self.jump(self.result.worst() or 0 if index is None else index)

    @property
    def result(self):
        return self.nodes.result

    @property
    def names(self) -> tuple[str, ...]:
        """The slice views of the mode, the one that holds the acquisition's slices first."""
        if self.mode != "fourUp":
            return SHOWN[self.mode]
        main = [n for n, plane in layouts.STANDARD_VIEWS.items() if plane.lower() == self.result.plane]
        return tuple(main + [name for name in layouts.STANDARD_VIEWS if name not in main])

    def widget(self, name: str):
        return self.manager.sliceWidget(name)

    def _volumeIn(self, name: str):
        return self.nodes.original if name in (BEFORE_VIEW, DIFFERENCE_VIEW) else self.nodes.perturbed

    def _fillViews(self) -> None:
        for name in self.names:
            widget = self.widget(name)
            if name in layouts.STANDARD_VIEWS:
                self._saved.setdefault(name, SavedView(widget))
            else:
                widget.mrmlSliceNode().SetViewGroup(layouts.VIEW_GROUP)
            composite = widget.sliceLogic().GetSliceCompositeNode()
            composite.SetInteractionFlagsModifier(COMPOSITE_FLAGS)
            composite.SetLinkedControl(1)
            composite.SetHotLinkedControl(1)
            composite.SetLabelVolumeID(None)
            composite.SetForegroundVolumeID(None)
            composite.SetForegroundOpacity(0)
            composite.SetBackgroundVolumeID(self._volumeIn(name).GetID())

    def _placeViews(self) -> None:
        """Turn each view into the scan's planes, and fit it where it shows this scan for the first time."""
        for name in self.names:
            widget, volume = self.widget(name), self._volumeIn(name)
            plane = layouts.STANDARD_VIEWS.get(name, self.result.plane.capitalize())
            orient(widget.mrmlSliceNode(), plane, volume)
            known = (self.nodes.node.GetID(), tuple(widget.mrmlSliceNode().GetDimensions()[:2]))
            if self._fitted.get(name) != known:
                fit(widget, volume)
                self._fitted[name] = known
            if name in layouts.STANDARD_VIEWS:
                jumpTo(widget.mrmlSliceNode(), centre(volume))

    def _surfaces(self) -> None:
        """Surfaces in the 3D view of the modes that have one, unless the scan is large."""
        small = self.nodes.original.GetImageData().GetNumberOfPoints() <= SURFACE_VOXELS
        if self.mode in ("difference", "fourUp") and small:
            self.showSurfaces()

    def showSurfaces(self) -> None:
        """Make surfaces of what was lost and added (difference) or of the structures after (four-up) and show them;
        takes seconds for a large scan."""
        self.looks.showSurfaces()
        view = layouts.threeDView(self.manager, "1" if self.mode == "fourUp" else layouts.SURFACE_VIEW)
        if view is not None:
            view.resetFocalPoint()

    def _plot(self) -> None:
        node = slicer.mrmlScene.GetSingletonNode(layouts.PLOT_VIEW, "vtkMRMLPlotViewNode")
        if node is None or self.nodes.chart is None:
            return
        node.SetDoPropagatePlotChartSelection(False)
        node.SetPlotChartNodeID(self.nodes.chart.GetID())
        node.SetInteractionMode(node.InteractionModeSelectPoints)
        node.SetEnablePointMoveAlongX(False)
        node.SetEnablePointMoveAlongY(False)
        view = layouts.plotView(self.manager)
        if view is not None:
            self._clicks = charts.Clicks(view, self.nodes.slices, self.jump)

    # ------------------------------------------------------------ how it looks

    def setHeatOpacity(self, opacity: float) -> None:
        """Opacity of the heat over the perturbed scan, 0 to 1."""
        self.looks.setHeatOpacity(opacity)

    def setSigned(self, signed: bool) -> None:
        """Heat shows the change itself, brighter and darker, instead of its influence."""
        self.looks.setSigned(signed)
        self._annotate()

    def setLabelStyle(self, style: str) -> None:
        """A key of LABEL_STYLES, for the segmentations before and after."""
        self.looks.setLabelStyle(style)
        self._annotate()

    def setIsolated(self, structures: Collection[str] | None) -> None:
        """Show only these structures; None shows all."""
        self.looks.setIsolated(structures)
        self._annotate()

    def setWindow(self, name: str) -> None:
        """Show both scans in a window of WINDOWS; asked for the same again, what the user has set since stays."""
        if self.nodes is None or name == self._window:
            return
        window = next(window for window in WINDOWS if window.name == name)
        self._window = name
        shown = self.nodes.original.GetDisplayNode()
        shown.SetAutoWindowLevel(0)
        shown.SetWindowLevel(window.width, window.level)
        self._copyWindow(shown)

    @told
    def _copyWindow(self, changed, *_) -> None:
        """Both scans in the same grey levels, whichever the user changes."""
        if not self._alive():
            return
        volumes = (self.nodes.original, self.nodes.perturbed)
        for shown in (volume.GetDisplayNode() for volume in volumes if volume is not None):
            same = shown.GetWindow() == changed.GetWindow() and shown.GetLevel() == changed.GetLevel()
            if shown != changed and not same:
                shown.SetAutoWindowLevel(0)
                shown.SetWindowLevel(changed.GetWindow(), changed.GetLevel())
        self._annotate()

    # ------------------------------------------------------------ slices

    def index(self) -> int:
        """The slice that is shown, 0-based along the result's axis."""
        if not self._alive():
            return 0
        name = self.names[0]
        index = indexAt(self.widget(name).mrmlSliceNode(), self._volumeIn(name), self.result.axis)
        return min(max(index, 0), self.result.slices - 1)

    def jump(self, index: int) -> None:
        """Show a slice in all views that lie in its plane."""
        if not self._alive():
            return
        index = min(max(int(index), 0), self.result.slices - 1)
        for name in self.names if self.mode != "fourUp" else self.names[:1]:
            volume = self._volumeIn(name)
            jumpTo(self.widget(name).mrmlSliceNode(), centre(volume, self.result.axis, index))
        self._onView()

    def onSlice(self, callback: Callable[[int], None]) -> None:
        """Call back with the index whenever another slice is shown."""
        self._sliceCallbacks.append(callback)

    def onChange(self, callback: Callable[[], None]) -> None:
        """Call back before another result or mode is shown, and before the views are left."""
        self._changeCallbacks.append(callback)

    def _changed(self) -> None:
        for callback in self._changeCallbacks:
            callback()

    @told
    def _onView(self, *_) -> None:
        if not self._alive():
            return
        index = self.index()
        if index != self._index:
            self._index = index
            if self.nodes.cursor is not None:
                charts.setCursor(self.nodes.cursor, index)
            for callback in self._sliceCallbacks:
                callback(index)
        self._annotate()

    def _annotate(self) -> None:
        if self._alive():
            self.looks.annotate(self.index())

    def place(self) -> str:
        """Which slice is shown and what differs there, in the words of the views' own text."""
        return " · ".join(self.looks.place(self.index())) if self._alive() else ""

    def _alive(self) -> bool:
        """Whether a result is shown that is still whole; a scene that is being closed loses its nodes one by one."""
        if self.nodes is None or not slicer.mrmlScene.IsNodePresent(self.nodes.node):
            return False
        needed = (self.nodes.original, self.nodes.perturbed, self.nodes.node.GetNodeReference("Perturbox.record"))
        return all(node is not None for node in needed)

    # ------------------------------------------------------------ observing

    def _observe(self) -> None:
        self._watch(self.widget(self.names[0]).mrmlSliceNode(), self._onView)
        for volume in (self.nodes.original, self.nodes.perturbed):
            self._watch(volume.GetDisplayNode(), self._copyWindow)

    def _watch(self, node, react) -> None:
        self._observed.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, react)))

    def _stopObserving(self) -> None:
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []
        if self._clicks is not None:
            self._clicks.stop()
            self._clicks = None

    # ------------------------------------------------------------ leaving, pictures

    def leave(self) -> None:
        """Put layout, standard views, opacities and visibility back as they were; nothing where nothing is shown."""
        if self._previousLayout is None:
            return
        self._changed()
        self._stopObserving()
        self.looks.hide()
        for name in layouts.OWN_VIEWS:
            widget = self.widget(name)
            if widget is not None:
                composite = widget.sliceLogic().GetSliceCompositeNode()
                composite.SetForegroundOpacity(0)
                composite.SetForegroundVolumeID(None)
                composite.SetBackgroundVolumeID(None)
        plot = slicer.mrmlScene.GetSingletonNode(layouts.PLOT_VIEW, "vtkMRMLPlotViewNode")
        if plot is not None:
            plot.SetPlotChartNodeID(None)
        for saved in self._saved.values():
            saved.restore()
        self.manager.setLayout(self._previousLayout)
        self._previousLayout, self._saved, self._fitted = None, {}, {}
        self.nodes, self.mode, self._index, self._window = None, "", None, ""

    def afterView(self) -> str:
        """The view that blinks: the right one, or the first of the mode."""
        return AFTER_VIEW if AFTER_VIEW in self.names else self.names[0]

    def setPhase(self, view: str, phase: str | None) -> None:
        """Show only "before" or only "after" in one view; None shows again what the mode shows."""
        self.looks.setPhase(view, phase)
        self._annotate()

    def setBlind(self, left: bool | None) -> None:
        """Compare without labels and names, the altered scan left or right; None ends it."""
        self.looks.setBlind(left)
        self._annotate()

    def pictures(self) -> dict[str, object]:
        """What the slice views show now, by their names, as vtkImageData (RGB)."""
        found = {}
        for name in self.names if self.nodes is not None else ():
            view = self.widget(name).sliceView()
            view.forceRender()
            grabber = vtk.vtkWindowToImageFilter()
            grabber.SetInput(view.renderWindow())
            grabber.ReadFrontBufferOff()
            grabber.Update()
            found[name] = grabber.GetOutput()
        return found
