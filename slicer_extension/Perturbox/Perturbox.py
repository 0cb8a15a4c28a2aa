"""Perturbox in 3D Slicer: load a CT, click Attack, step through the slices to see what the model now believes.

All state lies in the parameter node, network work in a thread that never touches the scene, each section in a file.
"""

import json
from typing import Annotated

import qt
import slicer
import vtk
from PerturboxLib import example, keys, mistakes, scene, scripting, sending, session
from PerturboxLib.attackpanel import AttackPanel
from PerturboxLib.inputpanel import InputPanel, firstScan
from PerturboxLib.lookpanel import MODES, LookPanel
from PerturboxLib.mistakes import told, tried
from PerturboxLib.resultpanel import ResultPanel
from PerturboxLib.savepanel import SavePanel
from PerturboxLib.serverpanel import ServerPanel
from PerturboxLib.trouble import Trouble
from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScriptedModuleNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *  # noqa: F403
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

POLL_MS = 100


class Perturbox(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Perturbox")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The Perturbox developers (Perturbox project)"]
        self.parent.helpText = _(
            "How small a change of this scan makes a segmentation model wrong, and where? Connect to a Perturbox "
            "server, choose a CT, press Attack. Research use only: not for diagnosis. "
            'See more information in the <a href="https://github.com/perturbox/perturbox/tree/main/slicer_extension">'
            'module documentation</a> and the <a href="https://github.com/perturbox/perturbox/blob/main/docs/slicer-tutorial.md">'
            "tutorial</a>."
        )
        self.parent.acknowledgementText = _("Each attack names its paper under Advanced and in the report.")


@parameterNodeWrapper
class PerturboxParameterNode:
    """Everything the panel shows and a saved scene brings back; targets, form, noise, defence and channels (ids of the
    volumes after the first) are JSON. noise: the scan's own, by its volume's id. sigma, adaptive: of a certificate.
    jobId, jobServer: the job that runs, to be taken up again."""

    inputVolume: vtkMRMLScalarVolumeNode
    channels: str = "[]"
    referenceSegmentation: vtkMRMLSegmentationNode
    roi: vtkMRMLNode
    roiSegment: str = ""
    model: str = ""
    defence: str = "{}"
    targets: str = "[]"
    attack: str = ""  # the server's default
    effort: str = "standard"
    eps: Annotated[float, WithinRange(0, 1000)] = 4.0
    epsUnit: str = "native"
    form: str = "{}"
    findMargin: bool = False
    sigma: Annotated[float, WithinRange(0, 1000)] = 20.0
    adaptive: bool = False
    noise: str = "{}"
    jobId: str = ""
    jobServer: str = ""
    result: vtkMRMLScriptedModuleNode
    mode: str = "compare"
    heatOpacity: Annotated[float, WithinRange(0, 1)] = 0.6
    heatSigned: bool = False
    labelStyle: str = "outline"
    isolate: bool = False
    window: str = "soft"


class PerturboxWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: six sections over one session with a server and one parameter node."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.parameters = None
        self.entered = False
        self.updating = False
        self._again = False
        self._guiTag = None
        self._mistake = self._holds = None
        self._begun = 0

    # ------------------------------------------------------------ Slicer's calls

    def setup(self) -> None:
        """Make the panel, once."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/Perturbox.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        mistakes.listen(self.showMistake)
        self.logic = PerturboxLogic()
        self.session = self.logic.session
        self.session.changed, self.session.finished = self.onSession, self.onFinished
        self.input, self.result = InputPanel(self), ResultPanel(self)
        self.attack, self.look = AttackPanel(self), LookPanel(self)
        self.server, self.save = ServerPanel(self), SavePanel(self)
        self.keys = keys.Keys(self._actions())
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.onTimer)
        self.timer.start()
        mrml = slicer.mrmlScene
        self.addObserver(mrml, mrml.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(mrml, mrml.EndCloseEvent, self.onSceneEnd)
        self.addObserver(mrml, mrml.EndImportEvent, self.onSceneEnd)
        self.addObserver(mrml, mrml.NodeAboutToBeRemovedEvent, self.onNodeRemoved)
        self.initializeParameterNode()
        if self.parent.isEntered:  # the module was reloaded while it was shown
            self.enter()

    @told
    def enter(self) -> None:
        """The module is shown: take the keys, and the views back to the result that was looked at."""
        self.entered = True
        self.initializeParameterNode()
        self.keys.enter()
        self.update()

    @told
    def exit(self) -> None:
        """Another module is shown: give keys and views back. A running job goes on."""
        self.entered = False
        self.keys.leave()
        self.look.leave()

    def cleanup(self) -> None:
        """The panel is destroyed: end every thread, timer, observer and shortcut."""
        self.timer.stop()
        self.exit()
        for end in (self.session.close, self.server.stopLocal, self.attack.close):
            tried(end)
        tried(self.setParameterNode, None)
        self.removeObservers()
        mistakes.listen(None)

    def initializeParameterNode(self) -> None:
        """Make sure that there is a parameter node, with the scan one most likely means."""
        self.setParameterNode(self.logic.getParameterNode())
        if self.parameters.inputVolume is None:
            self.parameters.inputVolume = firstScan()

    def setParameterNode(self, parameters) -> None:
        """Show and observe these parameters; None to observe none."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self.parameters = parameters
        if parameters is not None:
            self._guiTag = parameters.connectGui(self.ui)
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
            self.update()

    # ------------------------------------------------------------ events

    @told
    def onParameters(self, caller=None, event=None) -> None:
        self.update()

    def onTimer(self) -> None:
        tried(self.session.process)
        tried(self.server.process)

    def onSession(self) -> None:
        """The session has news: show them. A mistake's sentence stays until the user begins something else."""
        if self.session.begun != self._begun:
            self._begun, self._mistake = self.session.begun, None
        tried(self.keepJob)
        if self.session.trouble is not None:
            self.show(self.session.trouble)
        elif self._mistake is not None:
            self.show(self._mistake)
        elif self.session.note:
            self.note(self.session.note)
        elif self.session.busy or self.session.state == session.CONNECTING:
            self.ui.troubleFrame.visible = False
        self.update()

    def keepJob(self) -> None:
        """Keep the job's id for the next start of Slicer, and take up one that was kept."""
        if self.parameters is not None:
            if self.session.jobId and self.parameters.jobId != self.session.jobId:
                self.parameters.jobId, self.parameters.jobServer = self.session.jobId, self.session.client.address
            elif self.session.state == session.READY and self.parameters.jobId:
                if not self.session.answered:
                    self.takeUp()
                else:
                    self.parameters.jobId = ""

    def takeUp(self) -> None:
        """Follow the job that ran when Slicer was closed or the connection was left."""
        jobId, scan = self.parameters.jobId, self.parameters.inputVolume
        if self.parameters.jobServer != self.session.client.address or scan is None:
            return
        try:
            array, affine = sending.voxels(scan)
        except Trouble:
            self.parameters.jobId = ""
            return
        self.session.follow(jobId, scan, (array.shape, affine))

    def onFinished(self, kind: str, node, record: dict) -> None:
        """A result is in the scene: show it, learn the scan's noise from it, look for the breaking points if asked."""
        if self.parameters is None:
            return
        self.parameters.jobId = ""
        if kind in ("attack", "certify"):
            self.parameters.result = node
        tried(self.learn, kind, record)
        if kind == "attack":
            tried(self.attack.findMargin, node, record)
        self.update()

    def learn(self, kind: str, record: dict) -> None:
        """Keep what a result tells of its scan's noise and of the model's pace."""
        scan = self.parameters.inputVolume
        sigma = (record.get("noise") or {}).get("sigma") or 0.0
        if scan is not None and kind in ("attack", "segment"):
            self.parameters.noise = json.dumps({**json.loads(self.parameters.noise or "{}"), scan.GetID(): sigma})
        if kind == "attack":
            self.attack.rememberPace(record)

    @told
    def onSceneStartClose(self, caller=None, event=None) -> None:
        self.session.abandon(_("The scene was closed, so the attack was stopped."))
        self.look.leave()
        self.setParameterNode(None)

    @told
    def onSceneEnd(self, caller=None, event=None) -> None:
        if self.entered or self.parameters is None:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    @told
    def onNodeRemoved(self, caller, event, node) -> None:
        """The scan under attack is removed: nothing is left to show the result on. A result is: let go of its views."""
        if node is None:
            return
        if self.session.busy and node.GetID() == self.session.sourceId:
            self.session.abandon(_("The scan was removed from the scene, so the attack was stopped."))
        if self.parameters is not None and node == self.parameters.result:
            self.look.leave()

    # ------------------------------------------------------------ what the sections share

    def update(self) -> None:
        """Bring the whole panel to what parameters and session say; edits that come of it are taken in once more. A
        section that fails is reported and keeps no other from it."""
        if self.updating:
            self._again = True
            return
        self.updating = True
        try:
            for _round in range(3):
                self._again = False
                for section in (self.server, self.input, self.attack, self.result, self.look):
                    tried(section.update)
                if not self._again:
                    break
        finally:
            self.updating = False
        if self._holds is not None and not self._holds():
            self.forget()

    def forget(self) -> None:
        """Take away a sentence that no longer holds; behind it may be why a job failed, which stays."""
        self._holds = None
        self.ui.troubleFrame.visible = False
        if self.session.trouble is not None:
            self.show(self.session.trouble)

    def show(self, trouble: Trouble, holds=None) -> None:
        """One sentence with what to do; the details can be unfolded. holds() says whether it still does; without it
        the sentence stays until something else begins."""
        self._holds = holds
        self.ui.troubleLabel.text = f"{trouble.sentence} {trouble.whatToDo}".strip()
        self.ui.troubleDetailsText.setPlainText(trouble.detail or "")
        self.ui.troubleDetailsGroupBox.visible = bool(trouble.detail)
        self.ui.troubleDetailsGroupBox.collapsed = True
        self.ui.troubleFrame.visible = True

    def showMistake(self, trouble: Trouble) -> None:
        """Show it until the user begins something else."""
        self._mistake = trouble
        self.show(trouble)

    def note(self, text: str) -> None:
        """A sentence that is no trouble."""
        self.show(Trouble("note", text, ""))

    def sigma(self, volume) -> float | None:
        """The noise of that scan in its unit: None if it wasn't looked for yet, 0 if it can't be measured."""
        if volume is None or self.parameters is None:
            return None
        return json.loads(self.parameters.noise or "{}").get(volume.GetID())

    @told
    def openExample(self) -> None:
        """Show the finished example, which needs no server."""
        try:
            node = example.load()
        except Trouble as trouble:
            self.show(trouble)
            return
        self.parameters.result = node

    def _actions(self) -> dict:
        look = self.look
        modes = {str(place + 1): (lambda mode=mode: look.setMode(mode)) for place, mode in enumerate(MODES)}
        return modes | {
            "N": lambda: look.step(1),
            "P": lambda: look.step(-1),
            "M": look.worst,
            "X": lambda: self.ui.blinkButton.click(),
            "I": look.toggleIsolate,
            "W": look.nextWindow,
            "Ctrl+Return": lambda: self.ui.attackButton.click(),
            "Ctrl+C": self.result.copy,
            "Esc": self.onEscape,
        }

    @told
    def onEscape(self) -> None:
        """Blink off. An attack is only stopped by its button: Esc is pressed too often for other reasons."""
        self.ui.blinkButton.checked = False


class PerturboxLogic(ScriptedLoadableModuleLogic):
    """What the module does without its panel; `attack` and `segment` are for scripts."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.session = session.Session()

    def getParameterNode(self) -> PerturboxParameterNode:
        return PerturboxParameterNode(super().getParameterNode())

    def attack(self, volumeNode, address: str, token: str = "", seconds: float = 3600, **request):
        """Attack a volume and wait; returns the result node. request: as in the server's API, such as eps=10, steps=20.

        Raises Trouble for whatever goes wrong, a time-out included.
        """
        return scripting.run(volumeNode, address, token, seconds, {"kind": "attack", **request})

    def segment(self, volumeNode, address: str, token: str = "", seconds: float = 3600, **request):
        """Segment a volume and wait; returns the segmentation node."""
        return scripting.run(volumeNode, address, token, seconds, {"kind": "segment", **request})

    def certify(self, volumeNode, address: str, token: str = "", seconds: float = 3600, **request):
        """Certify a volume and wait; returns the certificate's node. request: such as sigma=20, adaptive=True."""
        return scripting.run(volumeNode, address, token, seconds, {"kind": "certify", **request})


class PerturboxTest(ScriptedLoadableModuleTest):
    """The module's own test, which needs no server: the bundled example, opened and taken away again."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_example()

    def test_example(self):
        node = example.load()
        nodes = scene.Nodes(node)
        self.assertTrue(scene.isSynthetic(nodes.perturbed))
        self.assertFalse(scene.isSynthetic(nodes.original))
        rows = nodes.result.rows()
        self.assertTrue(rows and rows[0].broken)
        for segmentation in (nodes.clean, nodes.adversarial):
            self.assertGreater(segmentation.GetSegmentation().GetNumberOfSegments(), 0)
        scene.remove(node)
        self.assertEqual(scene.results(), [])
