"""The subject hierarchy's items, made as the application does: for nodes its plugins know, when they are added."""

import slicer
import vtk

from .mrml_widgets import Observations

KNOWN = (
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLModelNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLTableNode",
    "vtkMRMLTextNode",
    "vtkMRMLPlotChartNode",
    "vtkMRMLPlotSeriesNode",
    "vtkMRMLTransformNode",
)
EARLY = 10.0  # as in the application: before the views ask the hierarchy what is visible
_observations = Observations()


def node_of(scene):
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def add_item(node) -> None:
    tree = node_of(node.GetScene())
    if not node.GetHideFromEditors() and any(node.IsA(known) for known in KNOWN) and not tree.GetItemByDataNode(node):
        tree.CreateItem(tree.GetSceneItemID(), node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _added(scene, event, node) -> None:
    if node.IsA("vtkMRMLSubjectHierarchyNode"):
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
    elif not scene.IsImporting():
        add_item(node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _leaving(scene, event, node) -> None:
    if not scene.IsClosing() and not node.IsA("vtkMRMLSubjectHierarchyNode"):
        item = node_of(scene).GetItemByDataNode(node)
        if item:
            node_of(scene).RemoveItem(item, False, False)


def _imported(scene, event) -> None:
    slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
    for index in range(scene.GetNumberOfNodes()):
        add_item(scene.GetNthNode(index))


def follow(scene) -> None:
    _observations.clear()
    node_of(scene)
    _observations.add(scene, slicer.vtkMRMLScene.NodeAddedEvent, _added)
    _observations.add(scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, _leaving)
    _observations.add(scene, slicer.vtkMRMLScene.EndImportEvent, _imported, EARLY)
    _observations.add(scene, slicer.vtkMRMLScene.EndBatchProcessEvent, _imported, EARLY)
    _observations.add(scene, slicer.vtkMRMLScene.EndCloseEvent, lambda scene, event: node_of(scene))
