"""The layouts of the module and the views in them, by their singleton tags: four of a result, one of a certificate."""

import slicer
from slicer.i18n import tr as _

COMPARE, DIFFERENCE, HEAT, FOUR_UP, CERTIFICATE = 7301, 7302, 7303, 7304, 7305
LAYOUTS = {"compare": COMPARE, "difference": DIFFERENCE, "heat": HEAT, "fourUp": FOUR_UP}
# Tags of the views, which Slicer shows as their names; without spaces, because ids are made of them.
BEFORE_VIEW, AFTER_VIEW, DIFFERENCE_VIEW = "Before", "After", "Difference"
SURFACE_VIEW, PLOT_VIEW = "Surfaces", "DicePerSlice"
SEGMENTATION_VIEW, CERTIFIED_VIEW = "Segmentation", "Certified"
OWN_VIEWS = (BEFORE_VIEW, AFTER_VIEW, DIFFERENCE_VIEW)
STANDARD_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
SHOWN = {
    "compare": (BEFORE_VIEW, AFTER_VIEW),
    "difference": (DIFFERENCE_VIEW,),
    "heat": (BEFORE_VIEW, AFTER_VIEW),
    "fourUp": tuple(STANDARD_VIEWS),
}
COLOURS = {
    BEFORE_VIEW: "#8FC1E8",
    AFTER_VIEW: "#F2C26B",
    DIFFERENCE_VIEW: "#C9C9C9",
    SEGMENTATION_VIEW: "#8FC1E8",
    CERTIFIED_VIEW: "#F2C26B",
}
STANDARD_COLOURS = {"Red": ("R", "#F34A33"), "Green": ("G", "#6EB04B"), "Yellow": ("Y", "#EDD54C")}
VIEW_GROUP = 73


def titles() -> dict[str, str]:
    """What stands on each view's bar."""
    return {
        BEFORE_VIEW: _("Before"),
        AFTER_VIEW: _("After"),
        DIFFERENCE_VIEW: _("Difference"),
        SEGMENTATION_VIEW: _("Segmentation"),
        CERTIFIED_VIEW: _("Certified"),
        SURFACE_VIEW: _("Surfaces"),
        PLOT_VIEW: _("Dice per slice"),
    }


def nameViews() -> None:
    """Name the nodes of the views that exist as their bars do, for every list in which Slicer shows them."""
    for tag, title in titles().items():
        for kind in ("vtkMRMLSliceNode", "vtkMRMLViewNode", "vtkMRMLPlotViewNode"):
            node = slicer.mrmlScene.GetSingletonNode(tag, kind)
            if node is not None:
                node.SetName(title)


def register(layoutManager) -> None:
    """Make the layouts known, or bring those of an earlier load up to date."""
    node = layoutManager.layoutLogic().GetLayoutNode()
    known = {number: description(mode) for mode, number in LAYOUTS.items()}
    for number, xml in (known | {CERTIFICATE: _row(_slice(SEGMENTATION_VIEW), _slice(CERTIFIED_VIEW))}).items():
        if node.IsLayoutDescription(number):
            node.SetLayoutDescription(number, xml)
        else:
            node.AddLayoutDescription(number, xml)


def description(mode: str) -> str:
    """A layout's XML: the views of a mode above the chart."""
    return _stack(_ABOVE[mode](), _view("vtkMRMLPlotViewNode", PLOT_VIEW, titles()[PLOT_VIEW]))


def isOwn(layout: int) -> bool:
    return layout in (*LAYOUTS.values(), CERTIFICATE)


def plotView(layoutManager):
    """The plot widget's view that the layouts share; None before a layout was shown."""
    node = slicer.mrmlScene.GetSingletonNode(PLOT_VIEW, "vtkMRMLPlotViewNode")
    for index in range(layoutManager.plotViewCount):
        widget = layoutManager.plotWidget(index)
        if node is not None and widget.mrmlPlotViewNode() == node:
            return widget.plotView()
    return None


def threeDView(layoutManager, tag: str):
    """The 3D view of this tag; None before a layout with it was shown."""
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLViewNode")
    for index in range(layoutManager.threeDViewCount):
        widget = layoutManager.threeDWidget(index)
        if node is not None and widget.mrmlViewNode() == node:
            return widget.threeDView()
    return None


def _stack(above: str, below: str) -> str:
    items = f'<item splitSize="700">{above}</item><item splitSize="300">{below}</item>'
    return f'<layout type="vertical" split="true">{items}</layout>'


def _row(*views: str) -> str:
    return f'<layout type="horizontal">{"".join(f"<item>{view}</item>" for view in views)}</layout>'


def _view(kind: str, tag: str, label: str, colour: str = "", orientation: str = "") -> str:
    properties = {"orientation": orientation, "viewlabel": label, "viewcolor": colour}
    lines = "".join(
        f'<property name="{name}" action="default">{value}</property>' for name, value in properties.items() if value
    )
    return f'<view class="{kind}" singletontag="{tag}">{lines}</view>'


def _slice(tag: str) -> str:
    return _view("vtkMRMLSliceNode", tag, titles()[tag], COLOURS[tag], "Axial")


def _compare() -> str:
    return _row(_slice(BEFORE_VIEW), _slice(AFTER_VIEW))


def _difference() -> str:
    surfaces = _view("vtkMRMLViewNode", SURFACE_VIEW, titles()[SURFACE_VIEW], "#7A7A7A")
    return _row(_slice(DIFFERENCE_VIEW), surfaces)


def _fourUp() -> str:
    slices = {
        name: _view("vtkMRMLSliceNode", name, *STANDARD_COLOURS[name], orientation)
        for name, orientation in STANDARD_VIEWS.items()
    }
    upper = _row(slices["Red"], _view("vtkMRMLViewNode", "1", "1"))
    lower = _row(slices["Green"], slices["Yellow"])
    return f'<layout type="vertical"><item>{upper}</item><item>{lower}</item></layout>'


_ABOVE = {"compare": _compare, "difference": _difference, "heat": _compare, "fourUp": _fourUp}
