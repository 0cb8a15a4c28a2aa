"""Text over a slice view: what it shows, which slice, what differs there, left and right of the patient."""

import numpy as np
import vtk

LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
FONT, EDGE = 14, 0.012
NARROW = 420  # pixels, below which a title is cut at its dash


class Annotation:
    """Text of our own over a slice view, whose usual text (which may name a patient) is hidden until `remove`."""

    def __init__(self, sliceWidget):
        self.view, self.sliceNode = sliceWidget.sliceView(), sliceWidget.mrmlSliceNode()
        self.lines: list[str] = []
        self.usual = self.view.cornerAnnotation()
        self._wasVisible = self.usual.GetVisibility()
        self.usual.SetVisibility(False)
        self.renderer = self.view.renderWindow().GetRenderers().GetFirstRenderer()
        self.top = self._actor(EDGE, 0.985, "Left", "Top")
        self.left = self._actor(EDGE, 0.5, "Left", "Centered")
        self.right = self._actor(1 - EDGE, 0.5, "Right", "Centered")

    def set(self, lines: list[str]) -> None:
        """Show lines in the upper left corner and, at both sides, where the patient's sides are."""
        left, right = sides(self.sliceNode)
        self.lines = list(lines)
        shown = self.lines
        if self.sliceNode.GetDimensions()[0] < NARROW:
            shown = [shown[0].partition(" perturbed")[0].partition(" – original")[0], *shown[1:]]
        for actor, text in ((self.top, "\n".join(shown)), (self.left, left), (self.right, right)):
            actor.SetInput(text)
        self.view.scheduleRender()

    def remove(self) -> None:
        for actor in (self.top, self.left, self.right):
            self.renderer.RemoveViewProp(actor)
        self.usual.SetVisibility(self._wasVisible)
        self.view.scheduleRender()

    def _actor(self, x: float, y: float, horizontal: str, vertical: str):
        actor = vtk.vtkTextActor()
        actor.SetTextScaleModeToNone()
        look = actor.GetTextProperty()
        look.SetFontFamilyToArial()
        look.SetFontSize(FONT)
        look.SetColor(1, 1, 1)
        look.ShadowOn()
        look.SetShadowOffset(1, -1)
        getattr(look, f"SetJustificationTo{horizontal}")()
        getattr(look, f"SetVerticalJustificationTo{vertical}")()
        actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
        actor.SetPosition(x, y)
        self.renderer.AddViewProp(actor)
        return actor


def sides(sliceNode) -> tuple[str, str]:
    """The letters of the patient's sides at the left and right edge of a slice view, from the closest axis."""
    matrix = sliceNode.GetSliceToRAS()
    direction = np.array([matrix.GetElement(row, 0) for row in range(3)])
    axis = int(np.abs(direction).argmax())
    low, high = LETTERS[axis]
    return (low, high) if direction[axis] > 0 else (high, low)
