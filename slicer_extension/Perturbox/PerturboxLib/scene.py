"""The nodes of a result: made in steps, found by role, removed all together. Only ever called from the main thread.

The result node, a vtkMRMLScriptedModuleNode with the attribute Perturbox.Result, refers to every other one by its role,
so that a saved scene brings all of it back. The scan itself is never changed.
"""

import json
import time
from collections.abc import Iterator

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import charts, geometry, segments, volumes
from .counts import Counts, countSlices, numbered
from .numbers import number
from .results import Result
from .trouble import Trouble, trouble
from .volumes import isSynthetic

__all__ = ["Nodes", "addMargin", "addResult", "addResultNow", "addSegmentation", "isSynthetic", "remove", "results"]

ATTRIBUTE, PREFIX = "Perturbox.Result", "Perturbox."
FOLDER_ATTRIBUTE = "Perturbox.Folder"
# In the order of the subject hierarchy.
ROLES = (
    *("perturbed", "perturbation", "influence", "clean", "adversarial", "certified", "difference", "became"),
    *("structures", "slices", "trace", "chart", "traceChart", "record", "report"),
    *("series", "cursor", "signedColours", "influenceColours"),
)
INNER = ("series", "cursor", "signedColours", "influenceColours")  # parts of others, not listed on their own


class Nodes:
    """The nodes that a result refers to, by role (`nodes.perturbed`): None where one is gone. `record` and `report` are
    the texts of their nodes."""

    def __init__(self, resultNode):
        self.node = resultNode

    def __getattr__(self, role: str):
        if role != "original" and role not in ROLES:
            raise AttributeError(f"A result has no node '{role}'.")
        return self.node.GetNodeReference(PREFIX + role)

    def all(self, role: str) -> list:
        count = self.node.GetNumberOfNodeReferences(PREFIX + role)
        found = [self.node.GetNthNodeReference(PREFIX + role, n) for n in range(count)]
        return [node for node in found if node is not None]

    @property
    def record(self) -> dict:
        return self.result.record

    @property
    def recordText(self) -> str:
        """result.json, byte for byte as the server gave it or as near as JSON allows."""
        return self._text("record")

    @property
    def report(self) -> str:
        return self._text("report")

    @property
    def detections(self) -> list[dict]:
        """What each detector said of which scan; empty where none was asked."""
        return json.loads(self.node.GetParameter("detection") or "{}").get("detections") or []

    @property
    def result(self) -> Result:
        """The numbers; worked out once, and again after a margin came in."""
        key, stamp = self.node.GetID(), self.node.GetMTime()
        if _results.get(key, (None,))[0] != stamp:
            _results[key] = (stamp, self._readResult())
        return _results[key][1]

    def _readResult(self) -> Result:
        counts = [Counts.unpacked(packed) for packed in json.loads(self.node.GetParameter("counts") or "[]")]
        margin = json.loads(self.node.GetParameter("margin") or "null")
        return Result(json.loads(self.recordText), self._affine(), counts or None, margin)

    def _affine(self) -> np.ndarray | None:
        """The grid in the world, or, under a transform that bends it, its own."""
        volume = self.perturbed or self.original
        if volume is None:
            return None
        try:
            return geometry.worldGrid(volume)
        except Trouble:
            return volumes.ijkToRas(volume)

    def _text(self, role: str) -> str:
        node = self.node.GetNodeReference(PREFIX + role)
        if node is None:
            raise Trouble(
                "no-text",
                _("The result has lost its {role}.").format(role=role),
                _("Remove this result and run the attack again."),
            )
        return node.GetText() or ""


_results: dict[str, tuple[int, Result]] = {}


def results() -> list:
    """All result nodes in the scene, oldest first."""
    found = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
    return [node for node in found if node.GetAttribute(ATTRIBUTE) == "1"]


# ---------------------------------------------------------------- making


def addResult(bundle, sourceNode) -> Iterator:
    """Make the nodes of an attack's result on its scan in steps, between which it yields what comes next; the last
    value is the result node.

    bundle: record, images (perturbed, perturbation, clean, adversarial) and report. Raises Trouble where these don't
    fit the scan. Whatever goes wrong, and if the iterator is closed early, every node made so far is removed.
    """
    draft = _Draft(bundle, sourceNode)
    yield from allOrNothing(draft.steps())
    yield draft.node


def addResultNow(bundle, sourceNode):
    """`addResult` without a pause; returns the result node."""
    *_, node = addResult(bundle, sourceNode)
    return node


def addSegmentation(bundle, sourceNode) -> Iterator:
    """Make the segmentation of an ordinary prediction; yields as `addResult` does, last the segmentation node."""
    image, victim = bundle.images["segmentation"], bundle.record["victim"]
    made = []

    def steps() -> Iterator[str]:
        requireGrid(sourceNode, "segmentation", image)
        yield _("the segmentation")
        title = f"{victim.get('name', 'model')} of {sourceNode.GetName()}"
        made.append(segments.addSegmentation(sourceNode, np.asarray(image.array), victim["labels"], title))
        made[0].GetDisplayNode().SetVisibility(True)
        if isSynthetic(sourceNode):
            volumes.markSynthetic(made[0])

    yield from allOrNothing(steps())
    yield made[0]


def addMargin(resultNode, margin: dict) -> None:
    """Keep a margin.json with the result it belongs to; its bounds come into the rows."""
    kept = {
        key: margin.get(key) for key in ("schema", "meaning", "unit", "limits", "max_eps", "structures", "undefended")
    }
    resultNode.SetParameter("margin", json.dumps(kept))
    nodes = Nodes(resultNode)
    if nodes.structures is not None:
        newer = charts.structureTable(nodes.result, "newer")
        nodes.structures.GetTable().DeepCopy(newer.GetTable())
        nodes.structures.Modified()
        slicer.mrmlScene.RemoveNode(newer)


def allOrNothing(steps: Iterator[str]) -> Iterator[str]:
    """Pass steps on; if one fails, or no more are asked for, every node that they added is removed."""
    added: list = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def note(scene, event, node) -> None:
        added.append(node)

    def step() -> str | None:
        tag = slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, note)
        try:
            return next(steps, None)
        finally:
            slicer.mrmlScene.RemoveObserver(tag)

    try:
        while (said := step()) is not None:
            yield said
    except BaseException:
        # What is shown goes before the ways it is shown, which would leave views pointing at nothing.
        for node in sorted(added, key=lambda node: node.IsA("vtkMRMLDisplayNode")):
            if slicer.mrmlScene.IsNodePresent(node):
                discard(node)
        raise


class _Draft:
    """A result while it is being made."""

    def __init__(self, bundle, source):
        self.bundle, self.source = bundle, source
        self.record = bundle.record
        self.labels = self.record["victim"]["labels"]
        self.made: list[tuple[str, object]] = []
        self.node = None

    def steps(self) -> Iterator[str]:
        for name in ("perturbed", "perturbation", "clean", "adversarial"):
            if name not in self.bundle.images:
                raise trouble("no-file", name=name)
        for name, image in self.bundle.images.items():
            requireGrid(self.source, name, image)
        yield _("the perturbed scan")
        self._perturbed()
        yield _("the perturbation")
        change = np.asarray(self.bundle.images["perturbation"].array, np.float32)
        self._change(change)
        yield from self._influence()
        yield _("the segmentation before")
        clean, adversarial = (np.asarray(self.bundle.images[name].array) for name in ("clean", "adversarial"))
        before = self._keep("clean", segments.addSegmentation(self.source, clean, self.labels, "clean"))
        segments.addBeforeLine(before)
        yield _("the segmentation after")
        after = self._keep(
            "adversarial", segments.addSegmentation(self.source, adversarial, self.labels, "adversarial")
        )
        volumes.markSynthetic(after)
        yield _("the difference")
        difference = segments.addDifference(self.source, clean, adversarial, self.labels, "difference")
        self._keep("difference", difference)
        became = segments.addBecame(self.source, clean, adversarial, self.labels, "what became what")
        if became is not None:
            self._keep("became", became)
        yield _("the counts")
        before, behind = numbered(clean, self.labels), numbered(adversarial, self.labels)
        structures = sum(1 for value in self.labels.values() if value)
        counts = []
        for axis in range(3):
            counts.append(countSlices(before, behind, structures, axis))
            yield _("the counts")
        self._tables(Result(self.record, geometry.worldGrid(self.source), counts))
        yield _("the result")
        self._result(counts)

    def _keep(self, role: str, node):
        self.made.append((role, node))
        return node

    def _perturbed(self) -> None:
        array = np.asarray(self.bundle.images["perturbed"].array)
        node = volumes.addVolume(self.source, array, f"PERTURBED {self.source.GetName()}", self._hounsfield())
        self._keep("perturbed", node)
        volumes.markSynthetic(node)
        volumes.copyWindow(node, self.source)

    def _change(self, change: np.ndarray) -> None:
        """The signed perturbation, ± the limit."""
        node = self._keep("perturbation", self._heatVolume(change, "perturbation", self._hounsfield()))
        limit = self._limit()
        colours = self._keep("signedColours", volumes.signedColours("perturbation signed", limit, volumes.HEAT_FROM))
        volumes.showHeat(node, colours, limit)

    def _influence(self) -> Iterator[str]:
        """How the change pushed the model, of attacks that took a gradient; ±1 is what hardly any voxel exceeds."""
        if "influence" not in self.bundle.images:
            return
        yield _("the influence")
        for mean in volumes.localMean(self.bundle.images["influence"].array, self.source.GetSpacing()):
            if mean is None:
                yield _("the influence")
        node = self._keep("influence", self._heatVolume(mean, "influence", False))
        colours = volumes.signedColours("influence", 1.0, volumes.INFLUENCE_FROM)
        volumes.showHeat(node, self._keep("influenceColours", colours), 1.0)

    def _heatVolume(self, array: np.ndarray, what: str, hounsfield: bool):
        unit = " HU" if hounsfield else " units" if what == "perturbation" else ""
        node = volumes.addVolume(self.source, array, f"{what}{unit}", hounsfield)
        node.SetAttribute("notice", volumes.NOTICE)
        node.SetAttribute("Perturbox.Synthetic", "1")  # nothing to attack or to read as a scan
        return node

    def _tables(self, result: Result) -> None:
        self._keep("structures", charts.structureTable(result, "structures"))
        table = self._keep("slices", charts.sliceTable(result, "slices"))
        cursor = self._keep("cursor", charts.cursorTable("slice shown"))
        series = []
        for each in charts.sliceSeries(result, table, cursor):
            series.append(self._keep("series", each))
        self._keep("chart", charts.sliceChart(result, series, _("Dice per slice")))
        trace = self.record.get("trace") or []
        drawn = [name for name in charts.tracedStructures(trace) if name in result.names]
        if drawn:
            table = self._keep("trace", charts.traceTable(trace, drawn, "trace"))
            lines = []
            for each in charts.traceSeries(table, drawn, result.names):
                lines.append(self._keep("series", each))
            self._keep("traceChart", charts.traceChart(table, lines, _("Dice while attacking")))

    def _result(self, counts: list[Counts]) -> None:
        self._text("record", "result.json", json.dumps(self.record, ensure_ascii=False, indent=1))
        self._text("report", "report.html", self.bundle.report or "")
        attack, budget = self.record["attack"], self.record["budget"]
        share = budget["norm"] == "l0"
        limit = f"{number(100 * budget['eps'])} %" if share else f"{number(budget['eps'])} {self._unit()}"
        stood = [each["name"] for each in self.record["victim"].get("defense") or []]
        behind = _(" behind {defences}").format(defences=", ".join(stood)) if stood else ""
        tried = f"{attack.get('title') or attack['name']} {limit}{behind}"
        name = f"{self.source.GetName()} – {tried} – {time.strftime('%H:%M')}"
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", name)
        self.node.SetHideFromEditors(False)
        self.node.SetAttribute(ATTRIBUTE, "1")
        self.node.SetParameter("jobId", self.bundle.jobId or "")
        if self.bundle.detection:
            self.node.SetParameter("detection", json.dumps(self.bundle.detection))
        self.node.SetParameter("counts", json.dumps([each.packed() for each in counts]))
        self.node.SetNodeReferenceID(PREFIX + "original", self.source.GetID())
        for role, node in self.made:
            self.node.AddNodeReferenceID(PREFIX + role, node.GetID())
        fileAway(self.node, self.made)

    def _text(self, role: str, name: str, text: str) -> None:
        node = self._keep(role, slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", name))
        node.SetText(text)

    def _limit(self) -> float:
        """What the colours reach: the limit, or the largest change where the limit is on something else."""
        budget = self.record["budget"]
        return float(budget["eps"] if budget["norm"] == "linf" else budget["measured"]["linf"]) or 1.0

    def _hounsfield(self) -> bool:
        return self.record["budget"]["unit"] == "HU"

    def _unit(self) -> str:
        return "HU" if self._hounsfield() else "units"


def fileAway(resultNode, made: list[tuple[str, object]]) -> None:
    """Put what a user may want to see of a result into a folder of the subject hierarchy; made: (role, node)."""
    hierarchy = _hierarchy()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), f"Perturbox – {resultNode.GetName()}")
    hierarchy.SetItemAttribute(folder, FOLDER_ATTRIBUTE, "1")
    listed = [node for role in ROLES if role not in INNER for of, node in made if of == role]
    try:
        for node in [resultNode, *listed]:
            item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(folder, node)
            hierarchy.SetItemParent(item, folder)
        hierarchy.SetItemExpanded(folder, False)
    except BaseException:
        hierarchy.RemoveItem(folder, False, False)
        raise


def requireGrid(source, name: str, image) -> None:
    """Raises Trouble unless an image lies on the scan's grid."""
    size = source.GetImageData().GetDimensions()
    if not geometry.sameGrid(size[::-1], geometry.worldGrid(source), image.array.shape, image.ijkToRas):
        raise trouble("mismatch", f"{name}: {image.array.shape} against {size[::-1]}")


# ---------------------------------------------------------------- removing


def remove(resultNode) -> None:
    """Take a result's nodes and its folder out of the scene; the scan, and what else lies in the folder, stays."""
    nodes = Nodes(resultNode)
    hierarchy = _hierarchy()
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(resultNode))
    _results.pop(resultNode.GetID(), None)
    for node in [each for role in ROLES for each in nodes.all(role)]:
        discard(node)
    discard(resultNode)
    if folder and hierarchy.GetItemAttribute(folder, FOLDER_ATTRIBUTE) == "1":
        hierarchy.RemoveItem(folder, False, False)


def discard(node) -> None:
    """Remove a node with what belongs to it alone: display and storage nodes, its place in the hierarchy."""
    scene, hierarchy = slicer.mrmlScene, _hierarchy()
    item = hierarchy.GetItemByDataNode(node)
    belonging = []
    if node.IsA("vtkMRMLDisplayableNode"):
        belonging += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        belonging += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    if item:
        hierarchy.RemoveItem(item, False, False)
    scene.RemoveNode(node)
    for each in belonging:
        if each is not None and scene.IsNodePresent(each):
            scene.RemoveNode(each)


def _hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
