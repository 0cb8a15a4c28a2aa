"""Whether what a module calls exists in the application, told from its source: PythonQt and VTK say so only when a line
runs, and a line that no test runs is first run by a user.

A receiver's class is inferred where the source shows it: what a .ui file makes, constructors, nodes made or found by
class, and what VTK's own documentation says a method returns. Such a class must show the attribute: for Qt that is what
PySide6 has, for CTK and qMRML what `exposed` has, for VTK and MRML what the real classes have. If the receiver's class
is unknown, some class must at least have the name.
"""

import ast
import enum
import functools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtkmodules import vtkChartsCore, vtkCommonCore, vtkCommonDataModel, vtkCommonMath, vtkRenderingCore

from . import exposed

QT = (QtWidgets, QtGui, QtCore)
CAMEL = re.compile(r"[A-Z]\w*[a-z]|[a-z]+[A-Z]")  # how Slicer, Qt and VTK write names, and Python doesn't
WRAPPER = frozenset({"parameterNode", "connectGui", "disconnectGui"})  # what parameterNodeWrapper adds to a class
DIALECT = frozenset(
    {"connect", "disconnect", "className", "delete", "deleteLater", "findChild", "findChildren", "children", "inherits"}
)
ONE = "self.ui.*"  # a widget of the panel, which one isn't known
BY_CLASS = {"AddNewNodeByClass": 0, "GetFirstNodeByClass": 0, "CreateNodeByClass": 0, "GetSingletonNode": 1}
ROOTS = {
    "slicer.mrmlScene": "vtkMRMLScene",
    "slicer.app": "qSlicerApplication",
    "slicer.app.layoutManager()": "qSlicerLayoutManager",
    "slicer.util.mainWindow()": "qSlicerMainWindow",
}
# Parameters that are called what they are.
NAMED = {
    "layoutManager": "qSlicerLayoutManager",
    "sliceWidget": "qMRMLSliceWidget",
    "plotView": "qMRMLPlotView",
    "sliceNode": "vtkMRMLSliceNode",
}
RETURNS = {
    "sliceWidget": "qMRMLSliceWidget",
    "sliceView": "qMRMLSliceView",
    "mrmlSliceNode": "vtkMRMLSliceNode",
    "sliceLogic": "vtkMRMLSliceLogic",
    "layoutLogic": "vtkMRMLLayoutLogic",
    "plotWidget": "qMRMLPlotWidget",
    "plotView": "qMRMLPlotView",
    "threeDWidget": "qMRMLThreeDWidget",
    "threeDView": "qMRMLThreeDView",
    "mrmlPlotViewNode": "vtkMRMLPlotViewNode",
    "selectionModel": "QItemSelectionModel",
    "horizontalHeader": "QHeaderView",
    "verticalHeader": "QHeaderView",
    "verticalScrollBar": "QScrollBar",
}


def _vtk(name: str):
    return getattr(slicer, name, None) or getattr(vtk, name, None)


@functools.cache
def _of_qt(name: str) -> frozenset[str]:
    """What PythonQt shows of a class of Qt: its methods, its properties, its enumerations' values."""
    cls = next((getattr(part, name) for part in QT if hasattr(part, name)), None)
    if cls is None:
        raise ValueError(f"Qt has no class {name}")
    found = set(dir(cls)) | DIALECT
    if hasattr(cls, "staticMetaObject"):
        meta = cls.staticMetaObject
        found |= {meta.property(number).name() for number in range(meta.propertyCount())}
    for value in map(functools.partial(getattr, cls), dir(cls)):
        found |= set(value.__members__) if isinstance(value, enum.EnumMeta) else set()
    return frozenset(found)


@functools.cache
def members(kind: str) -> frozenset[str]:
    """What an object of this class shows; of a VTK class also what its subclasses add, as a variable may hold one."""
    if kind.startswith("vtk"):
        cls = _vtk(kind)
        if cls is None:
            raise ValueError(f"neither slicer nor vtk has {kind}")
        below = [each for each in _vtk_classes() if issubclass(each, cls)]
        return frozenset(dir(cls)).union(*map(dir, below))
    own = exposed.names(kind) if kind in exposed.CLASSES else frozenset()
    return own | _of_qt(exposed.qt_base(kind))


@functools.cache
def _vtk_classes() -> tuple[type, ...]:
    named = (getattr(slicer, name, None) for name in dir(slicer) if name.startswith("vtk"))
    return tuple(each for each in named if isinstance(each, type))


@functools.cache
def _anywhere() -> frozenset[str]:
    """Names that an object of an unknown class may have, of Qt, CTK, qMRML, VTK and MRML."""
    parts = (*QT, vtkCommonCore, vtkCommonDataModel, vtkCommonMath, vtkRenderingCore, vtkChartsCore)
    classes = [each for part in parts for each in vars(part).values() if isinstance(each, type)]
    base = slicer.ScriptedLoadableModule
    classes += [each for each in vars(base).values() if isinstance(each, type)] + [slicer.util.VTKObservationMixin]
    qt = [each for each in classes if issubclass(each, QtCore.QObject)]
    properties = (
        (each.staticMetaObject, number) for each in qt for number in range(each.staticMetaObject.propertyCount())
    )
    found = {meta.property(number).name() for meta, number in properties} | {"staticMetaObject"}
    return frozenset(found.union(*map(exposed.names, exposed.CLASSES), *map(dir, classes), *map(dir, _vtk_classes())))


def widgets(ui: Path) -> dict[str, str]:
    """Name → class of each widget in a .ui file."""
    return {each.get("name"): each.get("class") for each in ET.parse(ui).getroot().iter("widget")}


def _is_ui(node: ast.AST) -> bool:
    return re.fullmatch(r"((self|module)\.)*ui", ast.unparse(node)) is not None


class Checker(ast.NodeVisitor):
    """Collects what is wrong in a file. ui: the panel's widgets; own: names that the module's own files define."""

    def __init__(self, ui: dict[str, str], own: frozenset[str]):
        self.ui, self.own = ui, own
        self.known: list[dict[str, str | None]] = [{}]
        self.modules: set[str] = set()
        self.wrong: list[str] = []

    # -- what a name stands for

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if name not in ("slicer", "vtk", "qt", "ctk"):
                self.modules.add(name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.modules.add(alias.asname or alias.name)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.known.append({each.arg: NAMED.get(each.arg) for each in arguments})
        self.generic_visit(node)
        self.known.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        kind = self.kind(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                known = self.known[-1]
                known[target.id] = kind if known.get(target.id, kind) == kind else None

    def kind(self, node: ast.AST) -> str | None:
        """The class of an expression; None if the source doesn't show it."""
        text = ast.unparse(node)
        if text in ROOTS:
            return ROOTS[text]
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.known) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            if _is_ui(node.value):
                return self.ui.get(node.attr)
            of_qt = isinstance(node.value, ast.Name) and node.value.id == "qt"
            return node.attr if of_qt and self._of_module("qt", node.attr) == "" else None
        if not isinstance(node, ast.Call):
            return None
        callee = node.func
        if isinstance(callee, ast.Name):
            return (
                ONE if callee.id == "getattr" and text.startswith(("getattr(self.ui,", "getattr(module.ui,")) else None
            )
        if not isinstance(callee, ast.Attribute):
            return None
        if isinstance(callee.value, ast.Name) and callee.value.id in ("slicer", "vtk", "qt", "ctk"):
            return callee.attr if re.match(r"vtk[A-Z]|Q[A-Z]|ctk|qMRML|qSlicer", callee.attr) else None
        if callee.attr in BY_CLASS and len(node.args) > BY_CLASS[callee.attr]:
            named = node.args[BY_CLASS[callee.attr]]
            return named.value if isinstance(named, ast.Constant) else None
        if callee.attr in RETURNS:
            return RETURNS[callee.attr]
        receiver = self.kind(callee.value)
        if receiver and receiver.startswith("vtk"):
            said = re.search(r"-> (vtk\w+)", getattr(getattr(_vtk(receiver), callee.attr, None), "__doc__", None) or "")
            return said[1] if said and _vtk(said[1]) else None
        return None

    # -- what is asked of it

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        problem = self.problem(node)
        if problem:
            self.wrong.append(f"line {node.lineno}: {problem}")

    def problem(self, node: ast.Attribute) -> str:
        base = node.value
        if isinstance(base, ast.Name) and base.id in ("slicer", "vtk", "qt", "ctk") and base.id not in self.known[-1]:
            return self._of_module(base.id, node.attr)
        if ast.unparse(base) == "slicer.util":
            return "" if hasattr(slicer.util, node.attr) else f"slicer.util has no {node.attr}"
        root = base
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in self.modules:
            return ""  # the module's own files and Python's: running them and pyright tell
        if _is_ui(base) and self.ui:
            return "" if node.attr in self.ui else f"the panel has no {node.attr}"
        kind = self.kind(base)
        if kind == ONE:
            shown = frozenset().union(*(members(each) for each in set(self.ui.values())))
            return "" if node.attr in shown else f"no widget of the panel shows {node.attr}"
        if kind is not None:
            return "" if node.attr in members(kind) else f"{kind} shows no {node.attr}"
        if not CAMEL.match(node.attr) or node.attr in self.own | WRAPPER or node.attr in _anywhere():
            return ""
        return f"nothing known has {node.attr}"

    @staticmethod
    def _of_module(name: str, attribute: str) -> str:
        if re.match(r"(ctk|qMRML|qSlicer)[A-Z]", attribute):
            found = attribute in exposed.CLASSES
        elif name in ("qt", "ctk"):
            found = name == "qt" and any(hasattr(part, attribute) for part in QT)
        elif name == "vtk":
            found = hasattr(vtk, attribute)
        else:
            found = hasattr(slicer, attribute) or attribute in ("app", "modules", "mrmlScene", "util")
        return "" if found else f"{name} has no {attribute}"


def defined(trees: dict[str, ast.Module]) -> frozenset[str]:
    """Every name that these files define or that the Python modules they import have."""
    found: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own = isinstance(node.value, ast.Name) and node.value.id == "self"
                found |= {node.attr} if own else set()
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                found.add(node.value)  # roles of nodes and the like, which __getattr__ gives
            elif isinstance(node, ast.alias):
                found.add((node.asname or node.name).rpartition(".")[2])
    return frozenset(found)


def check(module: Path) -> dict[str, list[str]]:
    """What is wrong in a scripted module's files, by file; empty for a module without fault."""
    files = {path.name: path for path in [module, *module.parent.glob(f"{module.stem}Lib/*.py")]}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    ui = module.parent / "Resources" / "UI" / f"{module.stem}.ui"
    panel = widgets(ui) if ui.exists() else {}
    own = defined(trees)
    return {name: found for name, tree in trees.items() if (found := _wrong(tree, panel, own))}


def _wrong(tree: ast.Module, ui: dict[str, str], own: frozenset[str]) -> list[str]:
    checker = Checker(ui, own)
    checker.visit(tree)
    return checker.wrong


def wrong_in(code: str, ui: dict[str, str] | None = None) -> list[str]:
    """The same for a piece of code."""
    tree = ast.parse(code)
    return _wrong(tree, ui or {}, defined({"": tree}))


@functools.cache
def require(module: Path) -> None:
    """Raises AttributeError for a module that calls what the application hasn't."""
    if found := check(module):
        told = "; ".join(f"{name}, {each}" for name, all_of_it in found.items() for each in all_of_it)
        raise AttributeError(f"{module.name} calls what Slicer doesn't have: {told}")
