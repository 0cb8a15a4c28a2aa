"""Writes which properties, slots, signals and invokable methods Slicer's and CTK's classes have, for the harness of
tests/slicer: what C++ has beside these PythonQt doesn't show.

`python scripts/slicer_facts.py` reads two git clones, SLICER_SOURCE and CTK_SOURCE, at the revisions of Slicer named
below and at the CTK that each is built with. A name is kept only if every one of these versions has it. Only names are
written, no code.
"""

import json
import os
import re
import subprocess
from pathlib import Path

SLICER_REVISIONS = ("v5.10.0", "v5.12.3", "main")  # the oldest that the module supports, the newest release, the newest
TABLE = Path(__file__).resolve().parents[1] / "tests" / "slicer" / "harness" / "exposed.json"
# fmt: off
WANTED = [
    "ctkCheckBox", "ctkCheckableComboBox", "ctkCollapsibleButton", "ctkCollapsibleGroupBox", "ctkComboBox",
    "ctkDoubleSpinBox", "ctkLayoutManager", "ctkMessageBox", "ctkPathLineEdit", "ctkSliderWidget",
    "ctkVTKChartView", "ctkVTKRenderView", "ctkVTKSliceView", "qMRMLLayoutManager", "qMRMLNodeComboBox",
    "qMRMLPlotView", "qMRMLPlotWidget", "qMRMLSegmentSelectorWidget", "qMRMLSliceView", "qMRMLSliceWidget",
    "qMRMLSortFilterProxyModel", "qMRMLTableView", "qMRMLTableWidget", "qMRMLThreeDView", "qMRMLThreeDWidget",
    "qMRMLWidget", "qSlicerAbstractModule", "qSlicerApplication", "qSlicerCoreIOManager", "qSlicerIOManager",
    "qSlicerLayoutManager", "qSlicerMainWindow", "qSlicerModuleManager", "qSlicerModuleSelectorToolBar",
    "qSlicerScriptedLoadableModule", "qSlicerScriptedLoadableModuleWidget",
]
# fmt: on

ACCESS = re.compile(r"^\s*(public|protected|private|Q_SIGNALS|signals)\s*(slots|Q_SLOTS)?\s*:\s*$", re.M)
METHOD = re.compile(r"([A-Za-z_]\w*)\s*\([^;{]*\)\s*(?:const)?\s*(?:override|final)?\s*(?:=\s*0)?\s*[;{]")
PROPERTY = re.compile(r"Q_PROPERTY\s*\(\s*[\w:<>, ]+[ *&]+(\w+)\s+READ")
INVOKABLE = re.compile(r"Q_INVOKABLE\s+[^;{(]*?(\w+)\s*\(")


class Sources:
    """A git clone at one revision."""

    def __init__(self, clone: str, revision: str):
        self.clone = clone
        self.revision = self.git("rev-parse", "--short=10", f"{revision}^{{commit}}").strip()
        self.files = self.git("ls-tree", "-r", "--name-only", self.revision).splitlines()

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", "-C", self.clone, *arguments], capture_output=True, text=True, check=True).stdout

    def read(self, path: str) -> str:
        return self.git("show", f"{self.revision}:{path}")

    def header(self, name: str) -> str | None:
        """The path of the header that a class is named after."""
        return next((path for path in self.files if path.endswith(f"/{name}.h")), None)

    def decorators(self) -> str:
        """The headers whose slots PythonQt shows as methods of the class of their first argument."""
        return "\n".join(self.read(path) for path in self.files if path.endswith("PythonQtDecorators.h"))


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def facts(text: str, name: str) -> tuple[str, set[str]] | None:
    """(base class, names that PythonQt shows) of a class in a header's text."""
    text = without_comments(text)
    start = re.search(rf"class\s+(?:\w+_EXPORT\s+)?{name}\s*(?:final\s*)?:\s*public\s+(\w+)", text)
    if start is None:
        return None
    body = text[text.index("{", start.end()) :]
    body = body[: (re.search(r"\n\};", body) or re.search(r"$", body)).start()]
    found = set(PROPERTY.findall(body)) | set(INVOKABLE.findall(body))
    parts = ACCESS.split(body)
    for access, slots, part in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if access in ("Q_SIGNALS", "signals") or (access == "public" and slots):
            found |= set(METHOD.findall(part))
    return start[1], found - {name, "qWarning", "Q_DISABLE_COPY", "Q_DECLARE_PRIVATE"}


def decorated(text: str, name: str) -> set[str]:
    """Methods that a decorator adds: `void method(Class* self, …)` and `static_Class_method(…)`."""
    text = without_comments(text)
    methods = set(re.findall(rf"(\w+)\s*\(\s*{name}\s*\*", text))
    return methods | set(re.findall(rf"static_{name}_(\w+)\s*\(", text))


def table(slicer: Sources, ctk: Sources) -> dict[str, dict]:
    """Facts on the wanted classes and their bases, down to Qt's own."""
    found, waiting = {}, list(WANTED)
    decorators = slicer.decorators() + ctk.decorators()
    while waiting:
        name = waiting.pop()
        for sources in (slicer, ctk):
            path = sources.header(name)
            known = facts(sources.read(path), name) if path and name not in found else None
            if path and known:
                base, names = known
                found[name] = {"base": base, "header": path, "names": names | decorated(decorators, name)}
                waiting.append(base)
    return found


def main() -> None:
    versions, tables = [], []
    for revision in SLICER_REVISIONS:
        slicer = Sources(os.environ["SLICER_SOURCE"], revision)
        built = re.search(r'_GIT_TAG\s+"?([0-9a-f]{40})', slicer.read("SuperBuild/External_CTK.cmake"))
        ctk = Sources(os.environ["CTK_SOURCE"], built[1] if built else "HEAD")
        versions.append({"slicer": f"{revision} ({slicer.revision})", "ctk": ctk.revision})
        tables.append(table(slicer, ctk))
    classes = {}
    for name in sorted(set.intersection(*(set(each) for each in tables))):
        shared = set.intersection(*(each[name]["names"] for each in tables))
        classes[name] = {**tables[-1][name], "names": " ".join(sorted(shared))}
    TABLE.write_text(json.dumps({"read from": versions, "classes": classes}, indent=1) + "\n", encoding="utf-8")
    print(f"{TABLE.name}: {len(classes)} classes of {versions}")


if __name__ == "__main__":
    main()
