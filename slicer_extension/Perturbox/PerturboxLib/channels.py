"""One selector per channel of a scan, for models that read several: rows made from the model's description."""

import json

import qt
import slicer
from slicer.i18n import tr as _

from .mistakes import told


class Channels:
    """The selectors of the channels after the first, below that of the scan. module: the PerturboxWidget."""

    def __init__(self, module):
        self.module, self.ui = module, module.ui
        self.selectors = []
        self._built = []

    @property
    def parameters(self):
        return self.module.parameters

    def nodes(self) -> list:
        """The volumes of the channels after the first, None where none is chosen."""
        ids = json.loads(self.parameters.channels or "[]")
        ids += [""] * (len(self.selectors) - len(ids))
        return [slicer.mrmlScene.GetNodeByID(each) if each else None for each in ids[: len(self.selectors)]]

    def update(self, victim, busy: bool) -> None:
        """Make the rows that a model needs, and show what is chosen in them."""
        names = titles(victim)
        if names != self._built:
            self._built = names
            self._build(names)
        nodes = self.nodes() if self.parameters else []
        for selector, node in zip(self.selectors, nodes, strict=False):
            if selector.currentNode() is not node:
                selector.setCurrentNode(node)
            selector.enabled = not busy

    def _build(self, names: list) -> None:
        layout = self.ui.channelsContainer.layout()
        while layout.rowCount():
            layout.removeRow(0)
        self.selectors = []
        for number, name in enumerate(names[1:], 1):
            selector = slicer.qMRMLNodeComboBox()
            selector.objectName = f"channel_{number}"
            selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
            selector.addEnabled = selector.removeEnabled = selector.renameEnabled = False
            selector.showChildNodeTypes = False
            selector.noneEnabled = True
            selector.noneDisplay = _("Choose this channel")
            selector.setMRMLScene(slicer.mrmlScene)
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.onChannel)
            layout.addRow(qt.QLabel(name), selector)
            self.selectors.append(selector)
        self.ui.channelsContainer.visible = bool(self.selectors)
        self.ui.inputVolumeCaption.text = names[0] if len(names) > 1 else _("Scan")

    @told
    def onChannel(self, *_) -> None:
        if self.module.updating or not self.parameters:
            return
        chosen = [selector.currentNode() for selector in self.selectors]
        self.parameters.channels = json.dumps([node.GetID() if node else "" for node in chosen])


def titles(victim) -> list:
    """What a model's channels are called, in its order."""
    count = int((victim or {}).get("channels", 1))
    names = (victim or {}).get("channel_names") or []
    return [names[number] if number < len(names) else f"Channel {number + 1}" for number in range(count)]
