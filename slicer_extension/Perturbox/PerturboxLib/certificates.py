"""The nodes of a certificate, and what its document says, as the panel shows it. Called from the main thread only.

Its node is a result's, with the same roles (see `scene`) and an attribute that says what it is, so that it is listed,
saved and removed as results are.
"""

import html
import json
import time
from collections.abc import Iterator

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import palette, scene, segments
from .numbers import number
from .trouble import trouble

KIND, CERTIFICATE = "Perturbox.Kind", "certificate"
ABSTAINED = "abstained"
SHOWN = ("Structure", "Certified", "Certified as a group", "Abstained")  # what fits beside each other; a tip has all
ABSTAINED_FILL = 0.75


def isCertificate(node) -> bool:
    return node is not None and node.GetAttribute(KIND) == CERTIFICATE


class Certificate:
    """A certificate in the scene: `nodes` by role, `record` is certificate.json."""

    def __init__(self, node):
        self.node, self.nodes = node, scene.Nodes(node)
        self.record = json.loads(self.nodes.recordText)

    @property
    def said(self) -> dict:
        return self.record["summary"]

    def notes(self) -> list[str]:
        """What it certifies and what it doesn't, a sentence each, and what it warns of."""
        return [*self.said["certifies"], *self.said["not"], *self.record.get("warnings", [])]

    def headline(self) -> str:
        """The sentence, after it where it was stopped."""
        return " ".join(filter(None, (self.said["headline"], self.said.get("stopped"))))

    def text(self) -> str:
        """The core's words and its table, the colours beside the names, as HTML for a label."""
        groups = (self.record.get("adaptive") or {}).get("groups") or {}
        legend = "&nbsp; ".join(_square(self.colours[name]) + _named(name) for name in (ABSTAINED, *groups))
        return f"{html.escape(self.said['scope'])}{self.table(SHOWN)}{legend}"

    def table(self, columns=None) -> str:
        """The core's table of structures as HTML; columns: the heads of those that are shown, None for all."""
        head, rows = self.said["table"]["head"], self.said["table"]["rows"]
        places = [n for n, title in enumerate(head) if columns is None or title in columns]
        top = "".join(f"<th align='{_side(n)}'>{html.escape(head[n])}&nbsp;&nbsp;</th>" for n in places)
        body = "".join(
            "<tr>"
            + "".join(
                f"<td align='{_side(n)}'>"
                + (html.escape(row[n]) if n else _square(self.colours[row[0]]) + _named(row[0]))
                + "&nbsp;&nbsp;</td>"
                for n in places
            )
            + "</tr>"
            for row in rows
        )
        return f"<table><tr>{top}</tr>{body}</table>"

    @property
    def colours(self) -> dict[str, str]:
        return coloursOf(self.record)

    @property
    def look(self) -> tuple[int, int]:
        """Axis and index of the slice to begin with."""
        look = self.said.get("look") or {"axis": 2, "index": 0}
        return int(look["axis"]), int(look["index"])


def coloursOf(record: dict) -> dict[str, str]:
    """Every name that a certified map may hold, with the colour that it has on the certificate's page."""
    names = [*record["structures"], *((record.get("adaptive") or {}).get("groups") or {})]
    found = {name: palette.structureColour(place) for place, name in enumerate(names, 1)}
    return {**found, ABSTAINED: palette.ABSTAINED}


def addCertificate(bundle, sourceNode) -> Iterator:
    """Make the nodes of a certificate on its scan; yields as `scene.addResult` does, last the certificate's node."""
    made = []
    yield from scene.allOrNothing(_steps(bundle, sourceNode, made))
    yield made[-1]


def _steps(bundle, source, made: list) -> Iterator[str]:
    record, kept = bundle.record, []
    for name in ("clean", "certified"):
        if name not in bundle.images:
            raise trouble("no-file", name=name)
        scene.requireGrid(source, name, bundle.images[name])
    colours = coloursOf(record)
    for role, title, labels in (
        ("clean", _("segmentation"), record["victim"]["labels"]),
        ("certified", _("certified"), {name: record["values"][name] for name in colours if name in record["values"]}),
    ):
        yield title
        array = np.asarray(bundle.images[role].array)
        kept.append((role, segments.addSegmentation(source, array, labels, title, colours)))
    _show(kept[1][1])
    for role, name, text in (
        ("record", "certificate.json", json.dumps(record, ensure_ascii=False, indent=1)),
        ("report", "certificate.html", bundle.report or ""),
    ):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", name)
        node.SetText(text)
        kept.append((role, node))
    yield _("the certificate")
    unit = "HU" if record["unit"] == "HU" else "units"
    title = _("{scan} – Certificate σ {sigma} {unit}").format(
        scan=source.GetName(), sigma=number(record["sigma"]), unit=unit
    )
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", f"{title} – {time.strftime('%H:%M')}")
    node.SetHideFromEditors(False)
    node.SetAttribute(scene.ATTRIBUTE, "1")
    node.SetAttribute(KIND, CERTIFICATE)
    node.SetParameter("jobId", bundle.jobId or "")
    node.SetNodeReferenceID(scene.PREFIX + "original", source.GetID())
    for role, each in kept:
        node.AddNodeReferenceID(scene.PREFIX + role, each.GetID())
    scene.fileAway(node, kept)
    made.append(node)


def _show(certified) -> None:
    """Abstained voxels as full as on the certificate's page, structures as in every other segmentation."""
    shown = certified.GetDisplayNode()
    shown.SetOpacity2DFill(ABSTAINED_FILL)
    for segment in segments.segmentIds(certified):
        share = 1.0 if segment == ABSTAINED else segments.FILL / ABSTAINED_FILL
        shown.SetSegmentOpacity2DFill(segment, share)
        shown.SetSegmentOpacity2DOutline(segment, 0.0 if segment == ABSTAINED else 1.0)


def _square(colour: str) -> str:
    return f"<span style='color: {colour}'>■</span>&nbsp;"


def _named(name: str) -> str:
    return html.escape(palette.readable(name))


def _side(column: int) -> str:
    return "right" if column else "left"
