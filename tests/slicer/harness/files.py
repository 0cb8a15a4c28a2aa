"""What slicer.util's load and save functions ask the application for: scenes, volumes, segmentations and the rest."""

import os
from pathlib import Path

import slicer

SUFFIXES = {
    ".mrb": "SceneFile",
    ".mrml": "SceneFile",
    ".seg.nrrd": "SegmentationFile",
    ".csv": "TableFile",
    ".tsv": "TableFile",
    ".txt": "TextFile",
    ".mrk.json": "MarkupsFile",
    ".vtk": "ModelFile",
    ".vtp": "ModelFile",
    ".stl": "ModelFile",
}


class CoreIOManager:
    def fileType(self, path: str) -> str:
        matches = [suffix for suffix in SUFFIXES if str(path).lower().endswith(suffix)]
        return SUFFIXES[max(matches, key=len)] if matches else "VolumeFile"

    def fileWriterFileType(self, node) -> str:
        return node.GetClassName()

    def loadNodes(self, file_type, properties, loaded, messages=None) -> bool:
        path = str(properties["fileName"])
        name = properties.get("name") or Path(path).name.split(".")[0]
        if not os.path.exists(path):
            return False
        if file_type == "SceneFile":
            return load_scene(path, properties.get("clear", False))
        node = load_node(file_type, path, name, properties)
        if node is None:
            return False
        loaded.AddItem(node)
        return True

    def saveNodes(self, file_type, properties, messages=None) -> bool:
        path = str(properties["fileName"])
        if file_type == "SceneFile":
            return save_scene(path)
        return save_node(slicer.mrmlScene.GetNodeByID(properties["nodeID"]), path)


def load_node(file_type: str, path: str, name: str, properties: dict):
    modules = slicer.modules
    if file_type == "SegmentationFile":
        return modules.segmentations.logic().LoadSegmentationFromFile(path, True, name)
    if file_type == "TableFile":
        return modules.tables.logic().AddTable(path, name)
    if file_type == "ModelFile":
        return modules.models.logic().AddModel(path)
    if file_type == "MarkupsFile":
        return slicer.mrmlScene.GetNodeByID(modules.markups.logic().LoadMarkups(path, name) or "")
    if file_type == "VolumeFile":
        labels = 1 if properties.get("labelmap") else 0
        node = modules.volumes.logic().AddArchetypeVolume(path, name, labels)
        if node is not None and properties.get("show", True):
            selection = slicer.app.applicationLogic().GetSelectionNode()
            selection.SetActiveVolumeID(node.GetID())
            slicer.app.applicationLogic().PropagateVolumeSelection()
        return node
    raise NotImplementedError(f"the harness doesn't load a {file_type}")


def save_node(node, path: str) -> bool:
    storage = node.GetStorageNode()
    if storage is None:
        if not node.AddDefaultStorageNode(path):
            return False
        storage = node.GetStorageNode()
    storage.SetFileName(path)
    return bool(storage.WriteData(node))


def save_scene(path: str) -> bool:
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.WriteToMRB(path))
    if path.endswith(".mrml"):
        scene.SetURL(path)
        scene.SetRootDirectory(os.path.dirname(path))
        return bool(scene.Commit(path))
    os.makedirs(path, exist_ok=True)
    return bool(scene.SaveSceneToSlicerDataBundleDirectory(path))


def load_scene(path: str, clear: bool) -> bool:
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.ReadFromMRB(path, clear))
    scene.SetURL(path)
    scene.SetRootDirectory(os.path.dirname(path))
    return bool(scene.Connect() if clear else scene.Import())
