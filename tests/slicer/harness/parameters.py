"""A stand-in for slicer.parameterNodeWrapper: typed fields of a parameter node, bound to widgets by name.

A field is a parameter or a node reference of the node, so that a saved scene brings it back. What a field can't hold,
or a field there isn't, raises. Lists are read as copies.
"""

import enum
import json
import pathlib
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any

import slicer
import vtk

from .pythonqt import qt
from .widgets import ctk

SlicerParameterNamePropertyName = "SlicerParameterName"


# -- annotations


class Default:
    def __init__(self, value=None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


class Validator:
    def validate(self, value) -> None:
        raise NotImplementedError


class WithinRange(Validator):
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} isn't within [{self.minimum}, {self.maximum}]")


class Minimum(WithinRange):
    def __init__(self, minimum):
        super().__init__(minimum, float("inf"))


class Maximum(WithinRange):
    def __init__(self, maximum):
        super().__init__(float("-inf"), maximum)


class Choice(Validator):
    def __init__(self, choices):
        self.choices = list(choices)

    def validate(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


@dataclass
class Decimals:
    value: int


@dataclass
class SingleStep:
    value: float


# -- fields


def _is_node(kind) -> bool:
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


TEXT = {
    int: (str, int),
    float: (str, float),
    str: (str, str),
    bool: (lambda value: "True" if value else "False", lambda text: text == "True"),
    list[str]: (json.dumps, json.loads),
    list[int]: (json.dumps, json.loads),
    list[float]: (json.dumps, json.loads),
    pathlib.Path: (str, pathlib.Path),
}
EMPTY = {int: 0, float: 0.0, str: "", bool: False, pathlib.Path: pathlib.Path()}


class Field:
    """One typed field. `kind` is the type without Optional and annotations."""

    def __init__(self, name: str, annotated: Any, owner: type):
        self.name, self.annotated = name, annotated
        kind, *notes = typing.get_args(annotated) if hasattr(annotated, "__metadata__") else (annotated,)
        self.optional = typing.get_origin(kind) in (typing.Union, types.UnionType)
        if self.optional:
            kinds = [part for part in typing.get_args(kind) if part is not type(None)]
            if len(kinds) != 1 or len(typing.get_args(kind)) != 2:
                raise TypeError(f"{name}: of unions only Optional is supported here, not {kind}")
            kind = kinds[0]
        if not (_is_node(kind) or kind in TEXT or (isinstance(kind, type) and issubclass(kind, enum.Enum))):
            raise TypeError(f"{name}: fields of type {kind} aren't supported here")
        self.kind, self.validators = kind, [note for note in notes if isinstance(note, Validator)]
        self.notes = notes
        given = [note for note in notes if isinstance(note, Default)]
        if hasattr(owner, name):
            given = [Default(getattr(owner, name))]
        self.default = given[0] if given else Default(generator=self._empty)

    def _empty(self):
        if self.optional or _is_node(self.kind):
            return None
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            return next(iter(self.kind))
        return EMPTY.get(self.kind, [])

    def note(self, kind: type):
        return next((note for note in self.notes if isinstance(note, kind)), None)

    def check(self, value) -> None:
        if value is None:
            if not (self.optional or _is_node(self.kind)):
                raise ValueError(f"{self.name} must not be None")
            return
        wanted = (int, float) if self.kind is float else typing.get_origin(self.kind) or self.kind
        if not isinstance(value, wanted):
            raise TypeError(f"{self.name} must be a {self.kind}, not {value!r}")
        for validator in self.validators:
            validator.validate(value)

    def write(self, node, value) -> None:
        self.check(value)
        modified = node.StartModify()
        try:
            if _is_node(self.kind):
                node.SetParameter(self.name, "")
                node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            elif value is None:
                node.UnsetParameter(self.name)
                node.SetParameter(self.name + ".none", "")
            else:
                node.UnsetParameter(self.name + ".none")
                node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else TEXT[self.kind][0](value))
        finally:
            node.EndModify(modified)

    def read(self, node):
        if not node.HasParameter(self.name) and not node.HasParameter(self.name + ".none"):
            self.write(node, self.default.value)
        if _is_node(self.kind):
            return node.GetNodeReference(self.name)
        if node.HasParameter(self.name + ".none"):
            return None
        text = node.GetParameter(self.name)
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return TEXT[self.kind][1](text)


# -- widgets


@dataclass
class Binding:
    """How a widget shows a field: a property, and the signal that says it changed."""

    signal: str
    read: Any
    write: Any


def _property(name: str, signal: str, kind: type | None = None) -> Binding:
    def write(widget, value):
        if getattr(widget, name) != value:
            setattr(widget, name, value)

    return Binding(signal, lambda widget: (kind or (lambda v: v))(getattr(widget, name)), write)


def _bounds(widget, field: Field) -> None:
    within = [validator for validator in field.validators if isinstance(validator, WithinRange)]
    low = max([w.minimum for w in within], default=float("-inf"))
    high = min([w.maximum for w in within], default=float("inf"))
    if isinstance(widget, (ctk.ctkSliderWidget, qt.QSlider)) and float("inf") in (-low, high):
        raise RuntimeError(f"{field.name} must be bounded to be shown by a {widget.className()}")
    if field.kind is int:
        low, high = max(low, -(2**31)), min(high, 2**31 - 1)
    widget.minimum, widget.maximum = low, high
    if isinstance(widget, (ctk.ctkSliderWidget, ctk.ctkDoubleSpinBox, qt.QDoubleSpinBox)):
        if field.kind is int:
            widget.decimals = 0
        elif field.note(Decimals):
            widget.decimals = field.note(Decimals).value
    if field.note(SingleStep):
        widget.singleStep = field.note(SingleStep).value


def _combo(widget, field: Field) -> Binding:
    if isinstance(field.kind, type) and issubclass(field.kind, enum.Enum):
        choices, texts = list(field.kind), [getattr(c, "label", lambda c=c: c.name)() for c in field.kind]
    else:
        choice = field.note(Choice)
        if choice is None:
            raise RuntimeError(f"{field.name} needs a Choice to be shown by a combo box")
        choices, texts = choice.choices, [str(c) for c in choice.choices]
    widget.clear()
    widget.addItems(texts)
    return Binding(
        "currentIndexChanged(int)",
        lambda w: choices[w.currentIndex],
        lambda w, value: w.setCurrentIndex(choices.index(value)),
    )


def binding(widget, field: Field) -> Binding:
    """How this widget shows this field. Raises RuntimeError where it can't."""
    kind, cls = field.kind, type(widget)
    if _is_node(kind) and cls is slicer.qMRMLNodeComboBox:
        widget.nodeTypes = [kind().GetClassName()]
        return Binding(
            "currentNodeChanged(vtkMRMLNode*)", lambda w: w.currentNode(), lambda w, node: w.setCurrentNode(node)
        )
    if kind is bool and cls in (qt.QCheckBox, ctk.ctkCheckBox):
        return _property("checked", "stateChanged(int)")
    if kind is bool and cls is qt.QPushButton:
        widget.checkable = True
        return _property("checked", "toggled(bool)")
    if kind is int and cls in (qt.QSpinBox, qt.QSlider):
        _bounds(widget, field)
        return _property("value", "valueChanged(int)")
    if kind in (int, float) and cls in (qt.QDoubleSpinBox, ctk.ctkSliderWidget, ctk.ctkDoubleSpinBox):
        _bounds(widget, field)
        return _property("value", "valueChanged(double)", kind)
    if cls in (qt.QComboBox, ctk.ctkComboBox):
        return _combo(widget, field)
    if kind is str and cls is qt.QLineEdit:
        return _property("text", "textChanged(QString)")
    if kind is str and cls is qt.QLabel:
        return _property("text", "")
    if kind is str and cls in (qt.QTextEdit, qt.QPlainTextEdit):
        return _property("plainText", "textChanged()")
    if kind is pathlib.Path and cls is ctk.ctkPathLineEdit:
        return Binding(
            "currentPathChanged(QString)",
            lambda w: pathlib.Path(w.currentPath),
            lambda w, value: w.setCurrentPath(str(value)),
        )
    raise RuntimeError(f"a {widget.className()} can't show {field.name}, a {kind}")


# -- the wrapper


class Wrapped:
    """What the decorator adds to a class of fields."""

    allParameters: dict[str, Field]

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._guis: dict[int, tuple[list, int]] = {}
        self._updating = False
        for field in self.allParameters.values():
            field.read(parameterNode)

    def __setattr__(self, name, value):
        if name in self.allParameters:
            self.allParameters[name].write(self.parameterNode, value)
        elif name == "parameterNode" or name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(f"{type(self).__name__} has no field '{name}'")

    def getValue(self, name):
        return self.allParameters[name].read(self.parameterNode)

    def setValue(self, name, value):
        self.allParameters[name].write(self.parameterNode, value)

    def default(self, name):
        return self.allParameters[name].default

    def dataType(self, name):
        return self.allParameters[name].annotated

    def connectGui(self, gui) -> int:
        widgets = gui.findChildren(qt.QWidget) if isinstance(gui, qt.QWidget) else vars(gui).values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        unknown = sorted(set(mapping) - set(self.allParameters))
        if unknown:
            raise ValueError(f"no field is called {', '.join(unknown)}")
        parts = []
        for name, widget in mapping.items():
            shown = binding(widget, self.allParameters[name])
            shown.write(widget, self.getValue(name))
            react = self._reaction(name, widget, shown)
            if shown.signal:
                widget.connect(shown.signal, react)
            parts.append((name, widget, shown, react))
        tag = max(self._guis, default=-1) + 1
        self._guis[tag] = (parts, self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show()))
        return tag

    def _reaction(self, name, widget, shown):
        def react():
            if not self._updating:
                self.setValue(name, shown.read(widget))

        return react

    def _show(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for parts, _ in list(self._guis.values()):
                for name, widget, shown, _ in parts:
                    shown.write(widget, self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag: int) -> None:
        parts, observer = self._guis.pop(tag)
        self.RemoveObserver(observer)
        for _, widget, shown, react in parts:
            if shown.signal:
                widget.disconnect(shown.signal, react)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, before):
        return self.parameterNode.EndModify(before)

    def Modified(self):
        self.parameterNode.Modified()

    def AddObserver(self, event, react, priority=0.0) -> int:
        return self.parameterNode.AddObserver(event, react, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)


def parameterNodeWrapper(cls=None):
    """Class decorator; the fields are the class's annotations."""
    if cls is None:
        return parameterNodeWrapper
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: Field(name, annotated, cls) for name, annotated in hints.items()}
    properties = {name: property(lambda self, name=name: self.getValue(name)) for name in fields}
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (Wrapped,), {**members, **properties, "allParameters": fields})


def isParameterNodeWrapper(thing) -> bool:
    return isinstance(thing, Wrapped) or (isinstance(thing, type) and issubclass(thing, Wrapped))


PUBLIC = (
    parameterNodeWrapper,
    isParameterNodeWrapper,
    Default,
    Validator,
    WithinRange,
    Minimum,
    Maximum,
    Choice,
    Decimals,
    SingleStep,
)


def install() -> None:
    module = types.ModuleType("slicer.parameterNodeWrapper", __doc__)
    vars(module).update({thing.__name__: thing for thing in PUBLIC})
    module.SlicerParameterNamePropertyName = SlicerParameterNamePropertyName
    module.__all__ = [thing.__name__ for thing in PUBLIC]
    slicer.parameterNodeWrapper = sys.modules["slicer.parameterNodeWrapper"] = module
