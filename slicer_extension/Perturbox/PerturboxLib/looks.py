"""What each view of a result draws over the scan: segmentations, the white line of before, heat, text.

`show` turns on what a mode needs, `hide` turns all of it off and takes away what was added for it.
"""

from collections.abc import Collection

import slicer
from slicer.i18n import tr as _

from . import layouts, segments
from .annotations import Annotation
from .layouts import AFTER_VIEW, BEFORE_VIEW, DIFFERENCE_VIEW
from .palette import readable

FILLS = {"outline": (segments.FILL, 1.0), "fill": (0.6, 0.0), "off": (0.0, 0.0)}  # fill and outline opacity
OUTLINE_WIDTH = 2
FAINT_LINE = 0.45  # of before, beside the outlines of what was added


class Looks:
    """Labels, heat and text of the result that is shown; settings outlive what they are applied to."""

    def __init__(self):
        self.nodes = None
        self.mode = ""
        self.annotations: dict[str, Annotation] = {}
        self.composites: dict[str, object] = {}
        self.viewIds: dict[str, str] = {}
        self.style, self.isolated = "outline", None
        self.heatOpacity, self.signed = 0.6, False
        self.phase: str | None = None
        """ "before" or "after" while the view blinks, else None."""
        self.blinking = ""
        self.blind: bool | None = None
        """While a blind read runs: whether the altered scan is the left one."""
        self._restore: list[tuple[object, bool, list[str]]] = []

    # ------------------------------------------------------------ on and off

    def show(self, nodes, mode: str, widgets: dict) -> None:
        """Draw what a mode needs into slice widgets by the names of their views."""
        self.nodes, self.mode = nodes, mode
        self.viewIds = {name: widget.mrmlSliceNode().GetID() for name, widget in widgets.items()}
        self.composites = {name: widget.sliceLogic().GetSliceCompositeNode() for name, widget in widgets.items()}
        self.annotations = {name: Annotation(widget) for name, widget in widgets.items()}
        for node in (nodes.clean, nodes.adversarial, nodes.difference, nodes.became):
            if node is not None:
                shown = node.GetDisplayNode()
                self._restore.append((shown, bool(shown.GetVisibility()), list(shown.GetViewNodeIDs() or ())))
        self._labels()
        self._heat()

    def hide(self) -> None:
        """Turn everything off again and take away what was added."""
        self.phase, self.blinking, self.blind = None, "", None
        for annotation in self.annotations.values():
            annotation.remove()
        self.annotations = {}
        if self.nodes is None:
            return
        for shown, visible, views in self._restore:
            if slicer.mrmlScene.IsNodePresent(shown):
                shown.SetVisibility(visible)
                shown.SetViewNodeIDs(views)
        self._restore = []
        for further in (self._line(), self._beforeColours()):
            if further is not None:
                further.SetVisibility(False)
        self._showLegend(None)
        self.nodes = None

    # ------------------------------------------------------------ settings

    def setHeatOpacity(self, opacity: float) -> None:
        self.heatOpacity = opacity
        self._heat()

    def setSigned(self, signed: bool) -> None:
        if signed != self.signed:
            self.signed = signed
            self._heat()

    def setLabelStyle(self, style: str) -> None:
        self.style = style
        self._labels()

    def setIsolated(self, structures: Collection[str] | None) -> None:
        self.isolated = None if structures is None else set(structures)
        self._labels()

    def setPhase(self, view: str, phase: str | None) -> None:
        """Show "before" or "after" in one view, the original being its background and the perturbed its foreground;
        None ends it."""
        if self.nodes is None or (phase is None and self.phase is None):
            return
        self.blinking, self.phase = ("", None) if phase is None else (view, phase)
        composite = self.composites[view]
        if phase is None:
            own = self.nodes.original if view == DIFFERENCE_VIEW else self.nodes.perturbed
            composite.SetForegroundOpacity(0)
            composite.SetForegroundVolumeID(None)
            composite.SetBackgroundVolumeID(own.GetID())
            self._heat()
        else:
            composite.SetBackgroundVolumeID(self.nodes.original.GetID())
            composite.SetForegroundVolumeID(self.nodes.perturbed.GetID())
            composite.SetForegroundOpacity(1.0 if phase == "after" else 0.0)
            self._showLegend(None)
        self._labels()

    def setBlind(self, left: bool | None) -> None:
        """Both scans without labels and names, the altered one at the left or the right; None ends it."""
        if self.nodes is None or self.mode != "compare" or (left is None and self.blind is None):
            return
        self.blind = left
        sides = (self.nodes.original, self.nodes.perturbed)
        for name, volume in zip((BEFORE_VIEW, AFTER_VIEW), sides[::-1] if left else sides, strict=True):
            self.composites[name].SetBackgroundVolumeID(volume.GetID())
        self._labels()

    # ------------------------------------------------------------ labels

    def _labels(self) -> None:
        if self.nodes is None:
            return
        fill, outline = FILLS[self.style]
        for role, views in (("clean", self._beforeViews()), ("adversarial", self._afterViews())):
            node = getattr(self.nodes, role)
            if node is None:
                continue
            shown = node.GetDisplayNode()
            heated = self.mode == "heat" and role == "adversarial" and not self.phase
            shown.SetOpacity2DFill(0.0 if heated else fill)
            shown.SetOpacity2DOutline(max(outline, 1.0 if heated and self.style == "fill" else 0.0))
            shown.SetSliceIntersectionThickness(OUTLINE_WIDTH)
            self._place(shown, views if self.style != "off" else [])
            self._isolate(node, shown, lambda segment: segment)
        line = self._line()
        if line is not None:
            line.SetOpacity2DOutline(FAINT_LINE if self.mode == "difference" else segments.LINE_OPACITY)
            self._place(line, self._lineViews())
            self._isolate(self.nodes.clean, line, lambda segment: segment)
        if self.nodes.difference is not None:
            shown = self.nodes.difference.GetDisplayNode()
            shown.SetSliceIntersectionThickness(OUTLINE_WIDTH)
            there = self.mode == "difference"
            views = [self.viewIds[DIFFERENCE_VIEW], *self._threeD(layouts.SURFACE_VIEW)] if there else []
            self._place(shown, views)
            self._isolate(self.nodes.difference, shown, segments.structureOf)

        self._became(fill)

    def _became(self, fill: float) -> None:
        """Where structures are shown alone, fill in the view after also what their parts became, and in the view before
        what became them, each in its own colour, as the report does."""
        node = self.nodes.became
        if node is None:
            return
        after = [] if self.mode == "heat" and not self.phase else self._afterViews()
        ways = ((node.GetDisplayNode(), after, 0), (self._beforeColours(), self._beforeViews(), 1))
        for shown, views, end in ways:
            if shown is None:
                continue
            shown.SetOpacity2DFill(fill)
            self._place(shown, views if self.isolated is not None and self.style != "off" else [])
            for segment in segments.segmentIds(node):
                pair = segments.ends(segment)
                wanted = self.isolated is not None and pair[end] in self.isolated and pair[1 - end] not in self.isolated
                if bool(shown.GetSegmentVisibility(segment)) != wanted:
                    shown.SetSegmentVisibility(segment, wanted)

    def _beforeColours(self):
        return segments.beforeColours(self.nodes.became) if self.nodes.became is not None else None

    def _beforeViews(self) -> list[str]:
        if self.blind is not None:
            return []
        views = [self.viewIds[name] for name in self.viewIds if name == BEFORE_VIEW]
        if self.phase == "before" and self.mode != "difference":
            views.append(self.viewIds[self.blinking])
        return views

    def _afterViews(self) -> list[str]:
        if self.blind is not None:
            return []
        names = [name for name in self.viewIds if name == AFTER_VIEW or name in layouts.STANDARD_VIEWS]
        views = [self.viewIds[name] for name in names if not (self.phase == "before" and name == self.blinking)]
        return views + (self._threeD("1") if self.mode == "fourUp" else [])

    def _threeD(self, tag: str) -> list[str]:
        node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLViewNode")
        return [] if node is None else [node.GetID()]

    def _lineViews(self) -> list[str]:
        """Where the white line of before is drawn: over the segmentation after, and over what differs."""
        if self.phase or self.blind is not None or (self.style != "outline" and self.mode != "difference"):
            return []
        names = [name for name in self.viewIds if name != BEFORE_VIEW]
        return [self.viewIds[name] for name in names]

    def _place(self, shown, views: list[str]) -> None:
        """Show in these views only; in none where there are none (an empty list of views would mean all)."""
        shown.SetViewNodeIDs(views)
        shown.SetVisibility(bool(views))

    def _isolate(self, node, shown, structureOf) -> None:
        for segment in segments.segmentIds(node):
            wanted = self.isolated is None or structureOf(segment) in self.isolated
            if bool(shown.GetSegmentVisibility(segment)) != wanted:
                shown.SetSegmentVisibility(segment, wanted)

    def _line(self):
        return segments.beforeLine(self.nodes.clean) if self.nodes.clean is not None else None

    # ------------------------------------------------------------ surfaces

    def showSurfaces(self) -> None:
        """Closed surfaces of the difference: lost solid, added see-through; of the structures after in four-up."""
        node = None if self.nodes is None else self.nodes.difference
        if self.mode == "fourUp":
            node = self.nodes.adversarial
        if node is None:
            return
        node.CreateClosedSurfaceRepresentation()
        shown = node.GetDisplayNode()
        shown.SetVisibility3D(True)
        if self.mode == "fourUp":
            return
        for segment in segments.segmentIds(node):
            shown.SetSegmentOpacity3D(segment, 0.45 if segment.endswith("_added") else 1.0)

    # ------------------------------------------------------------ heat

    def _heat(self) -> None:
        """The influence over the right view; signed, or where the attack took no gradient, the change itself."""
        if self.nodes is None or self.mode != "heat" or self.phase:
            return
        volume = self._hot()
        if volume is None:
            return
        composite = self.composites[AFTER_VIEW]
        composite.SetForegroundVolumeID(volume.GetID())
        composite.SetForegroundOpacity(self.heatOpacity)
        self._showLegend(volume)

    def _hot(self):
        """What heat shows."""
        return self.nodes.perturbation if self.signed or self.nodes.influence is None else self.nodes.influence

    def _showLegend(self, shown) -> None:
        """The legend of one of the two heats; None for none. A Slicer without its module Colors has none at all."""
        if not slicer.mrmlScene.IsNodeClassRegistered("vtkMRMLColorLegendDisplayNode"):
            return
        for volume in (self.nodes.influence, self.nodes.perturbation):
            if volume is None:
                continue
            legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(volume)
            if legend is None and volume == shown:
                legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(volume.GetDisplayNode())
            if legend is None:
                continue
            hounsfield = volume.GetVoxelValueUnits() is not None
            legend.SetTitleText(
                "HU" if hounsfield else "units" if volume == self.nodes.perturbation else _("influence")
            )
            legend.SetLabelFormat("%.1f")
            legend.SetNumberOfLabels(5)
            legend.SetSize(0.09, 0.35)
            legend.SetPosition(0.97, 0.04)
            for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
                text.SetFontFamilyToArial()
                text.SetFontSize(12)
            if volume == shown:
                legend.SetViewNodeIDs([self.viewIds[AFTER_VIEW]])
            legend.SetVisibility(volume == shown)

    # ------------------------------------------------------------ text

    def annotate(self, index: int) -> None:
        """Say in each view what it shows, which slice, and what differs there."""
        if self.nodes is None:
            return
        shown = self.nodes.original.GetDisplayNode()
        slices, differs = self.place(index)
        window = f"W {shown.GetWindow():.0f} L {shown.GetLevel():.0f}".replace("-", "−")
        for name, annotation in self.annotations.items():
            main = name == next(iter(self.annotations)) or name not in layouts.STANDARD_VIEWS
            place = [f"{slices}   {window}"] if main else [window]
            annotation.set([self._title(name), *place, *([differs] if main else []), *self._notes(name)])

    def place(self, index: int) -> tuple[str, str]:
        """Which slice this is, and how much of the structures that are shown differs there."""
        result = self.nodes.result
        amount = result.ml(float(result.differing(self.isolated)[index]))
        whose = f"{readable(next(iter(self.isolated)))} " if self.isolated and len(self.isolated) == 1 else ""
        return f"{result.plane.capitalize()} {index + 1} / {result.slices}", _("{whose}differs here {amount}").format(
            whose=whose, amount=amount
        )

    def _title(self, name: str) -> str:
        if self.blind is not None:
            return _("{name} – one of the two is SYNTHETIC").format(name="LEFT" if name == BEFORE_VIEW else "RIGHT")
        blinking = name == self.blinking
        if (blinking and self.phase == "before") or name == BEFORE_VIEW:
            return _("BEFORE – original scan, clean result")
        if name == DIFFERENCE_VIEW and not blinking:
            return _("DIFFERENCE – original scan")
        return _("AFTER – SYNTHETIC perturbed scan, adversarial result")

    def _notes(self, name: str) -> list[str]:
        notes = []
        if name == DIFFERENCE_VIEW:
            notes.append(_("filled: lost (blue) or relabelled (pink); outline: added (orange)"))
        if self.viewIds[name] in self._lineViews():
            notes.append(_("thin white line: before"))
        if self.nodes.became is not None and self.isolated is not None and self.style != "off":
            if self.viewIds[name] in self._beforeViews():
                notes.append(_("other colours: what becomes it"))
            elif self.viewIds[name] in self._afterViews() and (self.mode != "heat" or self.phase):
                notes.append(_("other colours: what it became"))
        if name == AFTER_VIEW and self.mode == "heat" and not self.phase:
            if self._hot() is self.nodes.influence:
                notes.append(_("heat: influence – red pushed the model on, blue held it back"))
            else:
                notes.append(_("heat: change – red brighter, blue darker"))
        return notes
