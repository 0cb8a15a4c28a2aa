"""A small module for the harness's own tests: a volume and a threshold in, a segmentation out, counted in a thread."""

import queue
import threading
from typing import Annotated

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class Sample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Sample")
        parent.categories = ["Testing"]


@parameterNodeWrapper
class SampleParameters:
    inputVolume: slicer.vtkMRMLScalarVolumeNode
    threshold: Annotated[float, WithinRange(-1000, 1000)] = 50.0
    note: str
    names: list[str]
    count: Annotated[int, Default(3)]
    inverted: bool


class SampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.entered = 0

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/Sample.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic, self.queue = SampleLogic(), queue.Queue()
        self.timer = qt.QTimer()
        self.timer.setInterval(5)
        self.timer.connect("timeout()", self.poll)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneClosed)
        self.parameters, self.guiTag, self.segmentation = None, None, None
        self.setParameters(SampleParameters(self.logic.getParameterNode()))

    def setParameters(self, parameters):
        if self.parameters is not None:
            self.parameters.disconnectGui(self.guiTag)
            self.removeObserver(self.parameters, vtk.vtkCommand.ModifiedEvent, self.update)
        self.parameters = parameters
        if parameters is not None:
            self.guiTag = parameters.connectGui(self.ui)
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.update)
            self.update()

    def update(self, caller=None, event=None):
        self.ui.applyButton.enabled = self.parameters.inputVolume is not None

    def enter(self):
        self.entered += 1

    def onSceneClosed(self, caller, event):
        self.setParameters(SampleParameters(self.logic.getParameterNode()))

    def onApply(self):
        array = slicer.util.arrayFromVolume(self.parameters.inputVolume).copy()
        work = threading.Thread(
            target=self.logic.find, args=(array, self.parameters.threshold, self.queue), daemon=True
        )
        work.start()
        self.timer.start()

    def poll(self):
        while not self.queue.empty():
            self.timer.stop()
            self.segmentation = self.logic.show(self.queue.get(), self.parameters.inputVolume)
            self.ui.statusLabel.text = _("done")

    def cleanup(self):
        self.timer.stop()
        self.setParameters(None)
        self.removeObservers()


class SampleLogic(ScriptedLoadableModuleLogic):
    def find(self, array, threshold, found):
        found.put(array > threshold)

    def show(self, mask, volume):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", volume.GetName() + " found")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        name = node.GetSegmentation().AddEmptySegment("found", "found", (0.0, 0.6, 0.4))
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, name, volume)
        return node


class SampleTest(ScriptedLoadableModuleTest):
    def test_threshold(self):
        found = queue.Queue()
        SampleLogic().find(np.array([1.0, 3.0]), 2, found)
        self.assertEqual(found.get().tolist(), [False, True])
        SampleTest.ran = True
