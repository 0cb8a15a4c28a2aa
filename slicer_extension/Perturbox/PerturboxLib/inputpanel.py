"""Section 2: which scan, which model behind which defence, which structures, and whether that can work at all."""

import json

import slicer
from slicer.i18n import tr as _

from . import form, palette, sending, words
from .channels import Channels
from .defence import Defence
from .mistakes import told
from .trouble import Trouble
from .volumes import isOurs


class InputPanel:
    """module: the PerturboxWidget. `preflight` is what is known of the scan that is chosen now."""

    def __init__(self, module):
        self.module, self.ui, self.session = module, module.ui, module.session
        self.preflight = sending.preflight(None)
        self._looked = None
        self._offered = None
        self._structures = None
        self._segments = None
        self.channels = Channels(module)
        self.defence = Defence(module)
        self.ui.modelComboBox.connect("currentIndexChanged(int)", self.onModel)
        self.ui.targetComboBox.connect("checkedIndexesChanged()", self.onTargets)
        self.ui.roiSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onRoi)
        self.ui.roiSegmentComboBox.connect("currentIndexChanged(int)", self.onRoiSegment)

    @property
    def parameters(self):
        return self.module.parameters

    @property
    def victim(self):
        return self.session.victim(self.parameters.model) if self.parameters else None

    @property
    def targets(self) -> list:
        """Structures to attack, those that the model has; none means all."""
        known = structuresOf(self.victim)
        return [name for name in json.loads(self.parameters.targets or "[]") if name in known]

    @told
    def onModel(self, index) -> None:
        if self.module.updating or not self.parameters or index < 0:
            return
        self.parameters.model = self.ui.modelComboBox.itemData(index)

    @told
    def onTargets(self, *_) -> None:
        if self.module.updating or not self.parameters:
            return
        known = structuresOf(self.victim)
        rows = form.checkedItems(self.ui.targetComboBox)
        chosen = [known[row] for row in rows if row < len(known)]
        self.parameters.targets = json.dumps([] if len(chosen) == len(known) else chosen)

    @told
    def onRoi(self, node) -> None:
        if not self.module.updating and self.parameters:
            self.parameters.roi = node

    @told
    def onRoiSegment(self, index) -> None:
        if self.module.updating or not self.parameters or index < 0:
            return
        self.parameters.roiSegment = self.ui.roiSegmentComboBox.itemData(index)

    def parcel(self, kind: str = "attack"):
        """What a job of this kind sends: the scan, an attack's outline, the region of an attack or a certificate.
        Raises Trouble for whatever doesn't fit."""
        parameters = self.parameters
        if parameters.inputVolume is None:
            raise Trouble("no-scan", _("No scan is chosen."), _("Choose a scan."))
        return sending.pack(
            parameters.inputVolume,
            self.victim,
            parameters.referenceSegmentation if kind == "attack" else None,
            parameters.roi if kind in ("attack", "certify") else None,
            parameters.roiSegment,
            self.channels.nodes(),
        )

    def update(self) -> None:
        """Fill what the server offers, look at the scan if it is another one, lock inputs while a job runs."""
        self._offer()
        self._offerSegments()
        self.channels.update(self.victim, self.session.busy)
        self.defence.update()
        self._look()
        self.ui.preflightLabel.text = self.preflight.text
        self.ui.modelComboBox.toolTip = about(self.victim)
        scan = self.parameters.inputVolume if self.parameters else None
        self.ui.inputCollapsibleButton.text = words.section(_("2 Scan and model"), scan.GetName() if scan else "")
        for name in ("inputVolumeSelector", "modelComboBox", "targetComboBox", "referenceSelector", "roiSelector"):
            getattr(self.ui, name).enabled = not self.session.busy
        self.ui.roiSegmentComboBox.enabled = not self.session.busy

    def _offer(self) -> None:
        victims = self.session.schema["victims"] if self.session.schema else []
        names = [victim["name"] for victim in victims]
        if names != self._offered:
            self._offered = names
            self.ui.modelComboBox.clear()
            for victim in victims:
                self.ui.modelComboBox.addItem(
                    _("{model} ({count} structures)").format(model=victim["name"], count=len(structuresOf(victim))),
                    victim["name"],
                )
        if names and self.parameters and self.parameters.model not in names:
            self.parameters.model = self.session.schema["defaults"]["victim"]
        if self.parameters and self.parameters.model in names:
            self.ui.modelComboBox.currentIndex = names.index(self.parameters.model)
        known = structuresOf(self.victim)
        if known != self._structures:
            self._structures = known
            self.ui.targetComboBox.clear()
            self.ui.targetComboBox.addItems([palette.readable(name) for name in known])
        chosen = self.targets if self.parameters and known else []
        form.checkItems(self.ui.targetComboBox, [known.index(name) for name in chosen or known])

    def _offerSegments(self) -> None:
        roi = self.parameters.roi if self.parameters else None
        self.ui.roiSelector.setCurrentNode(roi)
        segments = []
        if roi is not None and roi.IsA("vtkMRMLSegmentationNode"):
            own = roi.GetSegmentation()
            segments = [(each, own.GetSegment(each).GetName()) for each in own.GetSegmentIDs()]
        if segments != self._segments:
            self._segments = segments
            self.ui.roiSegmentComboBox.clear()
            for segmentId, name in segments:
                self.ui.roiSegmentComboBox.addItem(name, segmentId)
        self.ui.roiSegmentComboBox.visible = bool(segments)
        ids = [segmentId for segmentId, _ in segments]
        if ids and self.parameters.roiSegment not in ids:
            self.parameters.roiSegment = ids[0]
        if ids:
            self.ui.roiSegmentComboBox.currentIndex = ids.index(self.parameters.roiSegment)

    def _look(self) -> None:
        """Look at the scan's voxels once, not at every update: it takes a moment."""
        volume = self.parameters.inputVolume if self.parameters else None
        unit = self.victim["unit"] if self.victim else "HU"
        data = volume.GetImageData() if volume else None
        sigma = self.module.sigma(volume)
        transform = volume.GetParentTransformNode() if volume else None
        key = volume and (
            volume.GetID(),
            volume.GetMTime(),
            data and data.GetMTime(),
            transform and transform.GetMTime(),
            unit,
            sigma,
        )
        if key != self._looked or volume is None:
            self._looked = key
            self.preflight = sending.preflight(volume, unit, sigma)


def structuresOf(victim) -> list:
    """Names of a model's structures in the order of their values, without the background."""
    labels = victim["labels"] if victim else {}
    return [name for name, value in sorted(labels.items(), key=lambda item: item[1]) if value]


def about(victim) -> str:
    """What a model is, for a tooltip."""
    if victim is None:
        return _("Connect to a server to choose a model")
    names = ", ".join(palette.readable(name) for name in structuresOf(victim))
    told = [victim["title"], f"Structures: {names}", f"Licence: {victim['licence']}"]
    told += [
        f"{title}: {victim[key]}"
        for key, title in (("intended_use", _("For")), ("limits", _("Limits")))
        if victim.get(key)
    ]
    return "\n".join(told)


def firstScan():
    """The volume a user most likely means: the one in the views, else the first that isn't of our making."""
    shown = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    active = slicer.mrmlScene.GetNodeByID(shown.GetActiveVolumeID() or "") if shown else None
    volumes = [active] if active else []
    volumes += slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    usable = ("vtkMRMLScalarVolumeNode",)
    return next((node for node in volumes if node.GetClassName() in usable and not isOurs(node)), None)
