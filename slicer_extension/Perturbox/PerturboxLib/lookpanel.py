"""Section 5: stepping through the slices of a result."""

import qt
import slicer

from . import blindread, scene
from .blink import Blink
from .certificateview import CertificateView
from .mistakes import told
from .navigation import Navigation
from .results import Result
from .trouble import Trouble
from .views import LABEL_STYLES, WINDOWS, Viewer

MODES = {"compare": "compareButton", "difference": "differenceButton", "heat": "heatButton", "fourUp": "fourUpButton"}


class LookPanel:
    """module: the PerturboxWidget. `viewer` is None where Slicer has no views, as in a script."""

    def __init__(self, module):
        self.module, self.ui = module, module.ui
        manager = slicer.app.layoutManager()
        self.viewer = Viewer(manager) if manager else None
        self.certificates = CertificateView(manager) if manager else None
        self.blink = Blink(self.viewer) if self.viewer else None
        self.navigation = Navigation(self.viewer) if self.viewer else None
        self._shown = None
        for style, title in LABEL_STYLES.items():
            self.ui.labelStyleComboBox.addItem(title, style)
        for window in WINDOWS:
            self.ui.windowComboBox.addItem(window.title, window.name)
        icons = {**{name: mode[0].upper() + mode[1:] for mode, name in MODES.items()}, "blinkButton": "Blink"}
        for name, icon in icons.items():
            getattr(self.ui, name).setIcon(qt.QIcon(module.resourcePath(f"Icons/{icon}.png")))
        for mode, name in MODES.items():
            getattr(self.ui, name).connect("clicked(bool)", lambda _, mode=mode: self.setMode(mode))
        self.ui.prevChangedButton.connect("clicked(bool)", lambda _: self.step(-1))
        self.ui.nextChangedButton.connect("clicked(bool)", lambda _: self.step(1))
        self.ui.worstButton.connect("clicked(bool)", lambda _: self.worst())
        self.ui.blinkButton.connect("toggled(bool)", self.onBlink)
        self.ui.labelStyleComboBox.connect("currentIndexChanged(int)", self.onStyle)
        self.ui.windowComboBox.connect("currentIndexChanged(int)", self.onWindow)
        self.ui.blindReadButton.connect("clicked(bool)", lambda _: self.blindRead())
        if self.viewer:
            self.viewer.onSlice(self.onSlice)

    @property
    def parameters(self):
        return self.module.parameters

    @property
    def result(self) -> Result:
        return scene.Nodes(self.module.result.node).result

    # ------------------------------------------------------------ what a user does

    @told
    def setMode(self, mode: str) -> None:
        if self.parameters:
            self.parameters.mode = mode
            self.module.update()

    @told
    def step(self, direction: int) -> None:
        """To the next (1) or previous (-1) changed slice of the selected rows."""
        if self.ready():
            go = self.navigation.next if direction > 0 else self.navigation.previous
            go(self.module.result.selected() or None)

    @told
    def worst(self) -> None:
        """To the slice of the selected rows where most changed."""
        if self.ready():
            self.navigation.worst(self.module.result.selected() or None)

    def onStructures(self) -> None:
        """Other rows were selected: go where they changed most, and show only them if that is wanted."""
        if not self.ready():
            return
        self.isolate()
        if self.module.result.selected():
            self.worst()

    @told
    def onBlink(self, on: bool) -> None:
        if self.blink is None or self.module.updating:
            return
        if on and self.ready():
            self.blink.start()
        else:
            self.blink.stop()
            self.ui.blinkButton.checked = False

    @told
    def onStyle(self, index) -> None:
        if not self.module.updating and self.parameters and index >= 0:
            self.parameters.labelStyle = self.ui.labelStyleComboBox.itemData(index)

    @told
    def onWindow(self, index) -> None:
        if not self.module.updating and self.parameters and index >= 0:
            self.parameters.window = self.ui.windowComboBox.itemData(index)

    @told
    def nextWindow(self) -> None:
        box = self.ui.windowComboBox
        box.currentIndex = (box.currentIndex + 1) % box.count

    @told
    def toggleIsolate(self) -> None:
        self.ui.isolateCheckBox.checked = not self.ui.isolateCheckBox.checked

    @told
    def onSlice(self, index: int) -> None:
        """The views show another slice: say which, and what differs there."""
        if self.ready():
            self.ui.sliceLabel.text = self.viewer.place()

    @told
    def blindRead(self) -> None:
        if self.ready():
            self.ui.blinkButton.checked = False
            try:
                blindread.ask(self.module.result.node, self.viewer)
            except Trouble as trouble:
                self.module.show(trouble)

    # ------------------------------------------------------------ showing

    def ready(self) -> bool:
        return self.viewer is not None and self.module.result.node is not None

    def update(self) -> None:
        """Bring the views to what the parameters say; an unchanged part is left as the user has it."""
        has = self.module.result.node is not None
        self.ui.lookCollapsibleButton.enabled = has
        self.ui.saveCollapsibleButton.enabled = self.module.result.chosen is not None
        for name in ("exportFolderButton", "slicesButton"):
            getattr(self.ui, name).enabled = has
        parameters = self.parameters
        if parameters is None:
            return
        for mode, name in MODES.items():
            getattr(self.ui, name).checked = parameters.mode == mode
        heat = parameters.mode == "heat"
        for name in ("heatOpacityCaption", "heatOpacitySlider", "signedCheckBox"):
            getattr(self.ui, name).visible = heat
        self.ui.signedCheckBox.enabled = self.ready() and scene.Nodes(self.module.result.node).influence is not None
        self.ui.blinkButton.enabled = parameters.mode != "fourUp"
        styles = list(LABEL_STYLES)
        self.ui.labelStyleComboBox.currentIndex = styles.index(parameters.labelStyle)
        names = [window.name for window in WINDOWS]
        self.ui.windowComboBox.currentIndex = names.index(parameters.window)
        if self.module.result.certificate is not None and self.viewer is not None and self.module.entered:
            self._showCertificate()
        elif self.ready() and self.module.entered:
            self._show(parameters)

    def _show(self, parameters) -> None:
        what = (self.module.result.node.GetID(), parameters.mode)
        if what != self._shown:
            first = self._shown is None or self._shown[0] != what[0]
            self.ui.blinkButton.checked = False
            self.certificates.leave()
            self._shown = what
            try:
                self.viewer.show(self.module.result.node, parameters.mode)
            except Trouble as trouble:
                result = self.parameters.result
                self.module.show(trouble, lambda: self.parameters.result == result)
                return
            self.ui.lookCollapsibleButton.collapsed = False
            self.ui.saveCollapsibleButton.collapsed = False
            if first:
                self.open()
        self.viewer.setHeatOpacity(parameters.heatOpacity)
        self.viewer.setSigned(parameters.heatSigned)
        self.viewer.setLabelStyle(parameters.labelStyle)
        self.viewer.setWindow(parameters.window)
        self.isolate()

    def _showCertificate(self) -> None:
        node = self.module.result.certificate
        what = (node.GetID(), "certificate")
        if what == self._shown:
            return
        self.leave()
        self._shown = what
        try:
            self.certificates.show(node, self.parameters.window)
        except Trouble as trouble:
            self.module.show(trouble, lambda: self.parameters.result == node)
            return
        self.ui.saveCollapsibleButton.collapsed = False

    def open(self) -> None:
        """Begin with what the sentence is about: its structure alone, at its worst slice; else where most differs."""
        spoken = self.result.spokenOf()
        self.parameters.isolate = spoken is not None
        if spoken is None:
            self.navigation.worst()
        else:
            self.module.result.select(spoken)
            self.onStructures()

    def isolate(self) -> None:
        chosen = self.module.result.selected() if self.parameters and self.parameters.isolate else []
        if self.ready() and self.module.entered:
            self.viewer.setIsolated(chosen or None)
            self.ui.sliceLabel.text = self.viewer.place()

    def leave(self) -> None:
        """Give the views back as they were."""
        self.ui.blinkButton.checked = False
        self._shown = None
        if self.viewer:
            self.viewer.leave()
            self.certificates.leave()
