"""A certificate in two views that scroll together: what the model segments, and beside it what is certified of that."""

import slicer
import vtk
from slicer.i18n import tr as _

from . import layouts
from .annotations import Annotation
from .certificates import Certificate
from .geometry import worldGrid
from .layouts import CERTIFIED_VIEW, SEGMENTATION_VIEW
from .mistakes import told
from .placing import centre, fit, indexAt, jumpTo, orient
from .results import planes
from .trouble import Trouble
from .views import COMPOSITE_FLAGS, WINDOWS

SHOWN = {SEGMENTATION_VIEW: "clean", CERTIFIED_VIEW: "certified"}  # views, and the role of what each draws


class CertificateView:
    """Shows one certificate at a time in the views of a layout manager."""

    def __init__(self, layoutManager):
        self.manager = layoutManager
        self.certificate: Certificate | None = None
        self._previousLayout: int | None = None
        self._annotations: dict[str, Annotation] = {}
        self._observed: tuple[object, int] | None = None

    def show(self, node, window: str = "soft") -> None:
        """Show a certificate at the slice where most abstains; window: of `views.WINDOWS`, for a CT.

        Raises Trouble where the scan or a map is gone.
        """
        certificate = Certificate(node)
        for role in ("original", *SHOWN.values()):
            if getattr(certificate.nodes, role) is None:
                said = _("The certificate's {what} is no longer in the scene.")
                what = _("scan") if role == "original" else _("segmentation")
                raise Trouble("gone", said.format(what=what), _("Remove this certificate."))
        self._clear()
        self.certificate = certificate
        if self._previousLayout is None:
            current = self.manager.layout
            standard = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
            self._previousLayout = standard if layouts.isOwn(current) else current
        self.manager.setLayout(layouts.CERTIFICATE)
        layouts.nameViews()
        if certificate.record["unit"] == "HU" and (display := self.scan.GetDisplayNode()) is not None:
            grey = next(each for each in WINDOWS if each.name == window)
            display.SetAutoWindowLevel(0)
            display.SetWindowLevel(grey.width, grey.level)
        axis, index = certificate.look
        plane = planes(worldGrid(self.scan))[axis]
        for name, role in SHOWN.items():
            widget = self.manager.sliceWidget(name)
            composite = widget.sliceLogic().GetSliceCompositeNode()
            composite.SetInteractionFlagsModifier(COMPOSITE_FLAGS)
            composite.SetLinkedControl(1)
            composite.SetHotLinkedControl(1)
            composite.SetBackgroundVolumeID(self.scan.GetID())
            view = widget.mrmlSliceNode()
            view.SetViewGroup(layouts.VIEW_GROUP)
            orient(view, plane.capitalize(), self.scan)
            fit(widget, self.scan)
            jumpTo(view, centre(self.scan, axis, index))
            shown = getattr(certificate.nodes, role).GetDisplayNode()
            shown.SetViewNodeIDs([view.GetID()])
            shown.SetVisibility(True)
            self._annotations[name] = Annotation(widget)
        view = self.manager.sliceWidget(SEGMENTATION_VIEW).mrmlSliceNode()
        self._observed = (view, view.AddObserver(vtk.vtkCommand.ModifiedEvent, self._annotate))
        self._annotate()

    @property
    def scan(self):
        return self.certificate.nodes.original

    @property
    def slice(self) -> int:
        """The slice that is shown, 0-based."""
        view = self.manager.sliceWidget(SEGMENTATION_VIEW).mrmlSliceNode()
        return indexAt(view, self.scan, self.certificate.look[0])

    @told
    def _annotate(self, *_args) -> None:
        """Say in each view what it shows, and which slice."""
        if self.certificate is None or self.scan is None:  # a scene that is being closed loses its nodes one by one
            return
        axis = self.certificate.look[0]
        place = f"{planes(worldGrid(self.scan))[axis].capitalize()} {self.slice + 1}"
        place += f" / {self.scan.GetImageData().GetDimensions()[axis]}"
        said = {
            SEGMENTATION_VIEW: [_("SEGMENTATION – the model without noise"), place],
            CERTIFIED_VIEW: [_("CERTIFIED – the smoothed model"), place, _("orange: it abstains")],
        }
        for name, annotation in self._annotations.items():
            annotation.set(said[name])

    def _clear(self) -> None:
        """Hide what is shown and let go of it."""
        if self._observed is not None:
            self._observed[0].RemoveObserver(self._observed[1])
            self._observed = None
        for annotation in self._annotations.values():
            annotation.remove()
        self._annotations = {}
        for role in SHOWN.values() if self.certificate is not None else ():
            node = getattr(self.certificate.nodes, role)
            if node is not None:
                node.GetDisplayNode().SetVisibility(False)
        self.certificate = None

    def leave(self) -> None:
        """Put the layout back as it was; nothing where nothing is shown."""
        if self._previousLayout is None:
            return
        self._clear()
        for name in SHOWN:
            self.manager.sliceWidget(name).sliceLogic().GetSliceCompositeNode().SetBackgroundVolumeID(None)
        self.manager.setLayout(self._previousLayout)
        self._previousLayout = None
