"""Section 1: which server, whether it answers, a server on this computer, and the example, which needs no server."""

import os
import shlex

import qt
import slicer
from slicer.i18n import tr as _

from . import opening, session, settings
from .localserver import LocalServer
from .mistakes import told
from .trouble import Trouble, trouble

UNSURE = _(
    "The certificate is shown on a scan that lies on its voxels. Whether that is the very scan that was certified "
    "can't be told, because it wasn't loaded from that file."
)


class ServerPanel:
    """module: the PerturboxWidget, whose ui, session and parameters it uses."""

    def __init__(self, module):
        self.module, self.ui, self.session = module, module.ui, module.session
        self.local = None
        self._announced = None
        self.ui.serverComboBox.addItems(settings.recentServers())
        self.ui.pythonPathLineEdit.currentPath = settings.python()
        self.ui.serverComboBox.connect("editTextChanged(QString)", self.onAddress)
        self.ui.modelsLineEdit.text = settings.models()
        self.ui.detectorsLineEdit.text = settings.detectors()
        self.ui.connectButton.connect("clicked(bool)", self.onConnect)
        self.ui.exampleButton.connect("clicked(bool)", lambda _: module.openExample())
        self.ui.openFolderButton.connect("clicked(bool)", self.onOpenFolder)
        self.ui.localServerButton.connect("clicked(bool)", self.onLocalServer)

    @told
    def onAddress(self, *_) -> None:
        """Another address is typed: what was wrong with the last one holds no longer."""
        self.module.update()

    @told
    def onConnect(self, *_) -> None:
        """Connect to the address in the box, or leave the server one is connected to."""
        if self.session.state != session.DISCONNECTED:
            self.session.disconnect()
            return
        self.connect(self.ui.serverComboBox.currentText, self.ui.tokenLineEdit.text)

    def connect(self, address: str, token: str) -> None:
        try:
            self.session.connect(address, token)
        except Trouble as trouble:
            self.module.show(trouble, lambda: self._unanswered() and self.ui.serverComboBox.currentText == address)

    def _unanswered(self) -> bool:
        """Whether what was wrong with a server may still be."""
        return not self.session.connected and self.local is None

    @told
    def onOpenFolder(self, *_args) -> None:
        """Show the result or the certificate of a folder on this computer, or the case that the user chooses from a
        study's."""
        title = _("Folder of a result, a certificate or a study")
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        if not folder:
            return
        try:
            case = self._chosen(opening.cases(folder))
            if case is None:
                return
            node = opening.load(case, self.module.parameters.inputVolume)
            self.module.parameters.result = node
            if case.kind == opening.CERTIFIED and not opening.isSure(node):
                self.module.note(UNSURE)
        except Trouble as trouble:
            self.module.show(trouble)

    def _chosen(self, cases: list):
        """The case that the user means; None if none."""
        titles = [case.title for case in cases]
        if len(cases) == 1:
            return cases[0]
        title, label = _("Case of the study"), _("Worst first: model, attack, limit, scan")
        chosen = qt.QInputDialog.getItem(slicer.util.mainWindow(), title, label, titles, 0, False)
        return cases[titles.index(chosen)] if chosen in titles else None

    @told
    def onLocalServer(self, *_) -> None:
        """Start a server on this computer, or stop the one that was started."""
        if self.local is not None:
            if self.session.connected and self.session.client.address == self.local.address:
                self.session.disconnect()
            self.stopLocal()
            self.update()
            return
        python, models = self.ui.pythonPathLineEdit.currentPath, self.ui.modelsLineEdit.text
        detectors = self.ui.detectorsLineEdit.text
        try:
            self.local = LocalServer(python, arguments=(*served(models), *watched(detectors)))
            self.local.start()
        except Trouble as trouble:
            self.local = None
            self.module.show(trouble, self._unanswered)
            return
        settings.rememberPython(python)
        settings.rememberModels(models)
        settings.rememberDetectors(detectors)
        self.update()

    def process(self) -> None:
        """Connect to the server of our own once it answers; say so where it ended instead."""
        if self.local is None or self.local.address == self._announced:
            return
        try:
            ready = self.local.ready()
        except Trouble as trouble:
            self.stopLocal()
            self.module.show(trouble, self._unanswered)
            self.update()
            return
        if ready:
            self._announced = self.local.address
            self.ui.serverComboBox.setEditText(self.local.address)
            self.connect(self.local.address, self.local.token)

    def stopLocal(self) -> None:
        if self.local is not None:
            self.local.stop()
        self.local = self._announced = None

    def update(self) -> None:
        """Show the state of the connection."""
        state, schema = self.session.state, self.session.schema
        text, title = _("○ Not connected"), "1 Server"
        if state == session.CONNECTING:
            text = _("◌ Connecting to {host} …").format(host=self.session.client.host)
        elif schema is not None:
            models = len(schema["victims"])
            where = "CPU" if schema["device"] == "cpu" else "GPU"
            host = self.session.client.host
            text = _("● Connected – {host}, {models} model{plural}, {where}").format(
                host=host, models=models, plural="s" if models != 1 else "", where=where
            )
            title = f"1 Server  ● {host}"
            if self.ui.serverStatusLabel.text != text:
                settings.rememberServer(self.session.client.address)
                self.ui.serverCollapsibleButton.collapsed = True
        elif self.local is not None:
            text = _("◌ Starting a server on this computer; its first start takes up to a minute …")
        self.ui.serverStatusLabel.text = text
        self.ui.serverCollapsibleButton.text = title
        self.ui.connectButton.text = _("Connect") if state == session.DISCONNECTED else _("Disconnect")
        self.ui.connectButton.enabled = not self.session.busy
        self.ui.serverComboBox.enabled = self.ui.tokenLineEdit.enabled = state == session.DISCONNECTED
        self.ui.localServerButton.text = _("Start server") if self.local is None else _("Stop server")
        self.ui.localServerButton.enabled = not self.session.busy
        for edit in (self.ui.pythonPathLineEdit, self.ui.modelsLineEdit, self.ui.detectorsLineEdit):
            edit.enabled = self.local is None


def served(models: str) -> tuple:
    """Options of `perturbox serve` for models written with spaces between, as in a shell. Raises Trouble for a quote
    that is never closed."""
    words = _words(models, "bad-models")
    named = [word for word in words if word != "--trust"]
    return (*(part for name in named for part in ("--victim", name)), *(["--trust"] if "--trust" in words else []))


def watched(detectors: str) -> tuple:
    """Options of `perturbox serve` for detectors written likewise. Raises Trouble as `served`."""
    return tuple(part for word in _words(detectors, "bad-detectors") for part in ("--detector", word))


def _words(text: str, code: str) -> list:
    try:
        return [word.strip("\"'") for word in shlex.split(text, posix=os.name != "nt")]
    except ValueError:
        raise trouble(code) from None


def mayGo(client, scanName: str) -> bool:
    """Whether this scan may be sent: always to this computer, elsewhere only once the user has agreed."""
    if client.isLoopback or settings.maySend(client.host):
        return True
    unsafe = "" if client.isPrivate else _(" The connection is not encrypted: others on the network can read along.")
    if not slicer.util.confirmOkCancelDisplay(
        _(
            "Voxels of this scan (no patient name) will be sent to {host}.{unsafe} Send?\n\n"
            "Scan: {scan}. Nothing else of the scene is sent. You are asked once for each server."
        ).format(host=client.host, unsafe=unsafe, scan=scanName),
        _("Send the scan to another computer?"),
    ):
        return False
    settings.allowSending(client.host)
    return True
