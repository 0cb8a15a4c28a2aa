"""PythonQt's dialect on PySide6: the module `qt` as a module written for Slicer sees it.

Qt's properties are attributes (`button.text = "Go"`), `obj.connect("clicked(bool)", f)` connects by signature, and a
slot gets as many arguments as it takes. Where PythonQt lets a typing error pass (an unknown signal, a property that
doesn't exist), this raises: a test must fail there.
"""

import inspect
import types
from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

NAMESPACES = (QtCore, QtGui, QtWidgets)
STRICT = ("qt", "ctk", "slicer")
GET_OBJECT = {
    QtWidgets.QAbstractItemView: ("selectionModel", "model", "itemDelegate"),
    QtWidgets.QTableView: ("horizontalHeader", "verticalHeader"),
    QtWidgets.QTreeView: ("header",),
    QtWidgets.QComboBox: ("lineEdit", "model", "view", "completer"),
    QtWidgets.QAbstractScrollArea: ("viewport", "horizontalScrollBar", "verticalScrollBar"),
    QtWidgets.QScrollArea: ("widget",),
    QtWidgets.QWidget: ("layout", "window", "addAction"),
    QtWidgets.QMenu: ("addAction", "addMenu", "addSeparator"),
    QtWidgets.QToolBar: ("addAction", "addWidget"),
    QtWidgets.QMainWindow: ("statusBar", "menuBar", "centralWidget"),
    QtWidgets.QTabWidget: ("tabBar", "widget", "currentWidget"),
    QtWidgets.QStackedWidget: ("widget", "currentWidget"),
    QtWidgets.QDialogButtonBox: ("button", "addButton"),
    QtWidgets.QMessageBox: ("button", "addButton"),
    QtCore.QObject: ("parent", "sender"),
}


def meta_object(obj: QtCore.QObject) -> QtCore.QMetaObject:
    """Its class's. What `obj.metaObject()` returns ends with the object, and with it the same thing of the class."""
    return type(obj).staticMetaObject


class Property:
    """A Qt property as an attribute. The method of the same name, which it hides, stays reachable on the class."""

    def __init__(self, name: str, method: Any):
        self.name, self.method = name, method
        # A virtual getter is read through its method: `property` would ask C++, which would ask for this attribute.
        # What is static (QTimer.singleShot, QApplication.applicationName) is no getter of an object.
        self.by_method = isinstance(method, types.MethodDescriptorType)

    def __get__(self, obj, owner=None):
        if obj is None:
            return self if self.method is None else self.method
        return self.method(obj) if self.by_method else obj.property(self.name)

    def __set__(self, obj, value):
        if not obj.setProperty(self.name, value):
            raise TypeError(f"{meta_object(obj).className()}.{self.name} can't be set to {value!r}")


class _Connections:
    """What an object is connected to; kept as its property in C++, where every wrapper of the object finds it."""

    def __init__(self):
        self.by_slot: dict[tuple[str, Any], Any] = {}


def connections(obj: QtCore.QObject) -> dict[tuple[str, Any], Any]:
    kept = obj.property("_connections")
    if kept is None:
        kept = _Connections()
        obj.setProperty("_connections", kept)
    return kept.by_slot


def native_signature(obj: QtCore.QObject, signature: str) -> str:
    """The signature Qt knows the signal by. Raises AttributeError where there is no such signal."""
    normal = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    native = getattr(type(obj), "SIGNALS", {}).get(normal, normal)
    if "(" not in normal or meta_object(obj).indexOfSignal(native) < 0:
        raise AttributeError(f"{meta_object(obj).className()} has no signal '{signature}'")
    return native


def arity(slot: Callable) -> int | None:
    """How many arguments PythonQt hands to a slot: those a Python function takes, all to any other callable."""
    function = getattr(slot, "__func__", slot)
    if not inspect.isfunction(function) or function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - inspect.ismethod(slot)


def connect(self, signature: str, receiver: Any, slot: str | None = None) -> bool:
    """PythonQt's `connect(signal, callable)` and `connect(signal, receiver, "slot()")`."""
    native = native_signature(self, signature)
    target = getattr(receiver, slot.partition("(")[0]) if slot else receiver
    if not callable(target):
        raise TypeError(f"{target!r}, connected to {signature}, can't be called")
    count = arity(target)
    name_only = native.endswith("()")

    def deliver(*arguments):
        target(*(() if name_only else arguments[:count]))

    connection = QtCore.QObject.connect(self, QtCore.SIGNAL(native), deliver)
    if not connection:
        raise RuntimeError(f"'{signature}' of {meta_object(self).className()} could not be connected")
    connections(self).setdefault((native, target), []).append(connection)
    return True


def disconnect(self, signature: str, receiver: Any = None, slot: str | None = None) -> bool:
    """Undo `connect`; without a receiver, of every slot of this signal. False where nothing was connected."""
    native = native_signature(self, signature)
    kept = connections(self)
    if receiver is None:
        keys = [key for key in kept if key[0] == native]
    else:
        keys = [(native, getattr(receiver, slot.partition("(")[0]) if slot else receiver)]
    found = [connection for key in keys for connection in kept.pop(key, [])]
    done = [QtCore.QObject.disconnect(connection) for connection in found]
    return all(done) and bool(done)


def speak(obj: Any) -> Any:
    """Teach the dialect to an object that Qt made itself: its class is C++'s, which only the object can override."""
    if isinstance(obj, QtCore.QObject) and not shiboken6.createdByPython(obj):
        obj.__dict__.update(connect=types.MethodType(connect, obj), disconnect=types.MethodType(disconnect, obj))
    return obj


def _speaking(method: Callable) -> Callable:
    def get(self, *arguments, **keywords):
        return speak(method(self, *arguments, **keywords))

    return get


def _strict_setattr(self, name: str, value: Any) -> None:
    strict = type(self).__module__ in STRICT and not name.startswith("_")
    if strict and not hasattr(type(self), name):
        if isinstance(value, QtCore.QObject) and value.objectName == name:
            return  # PySide's loader of .ui files makes children attributes of the top widget; Slicer's doesn't
        raise AttributeError(f"{type(self).__name__} has no property '{name}'")
    type(self).cpp.__setattr__(self, name, value)


def plain(cls: Any) -> Any:
    """PySide's class for a class of `qt`, which is what the objects Qt made belong to."""
    return cls.__dict__.get("cpp", cls) if isinstance(cls, type) else getattr(QtWidgets, cls, cls)


def find_child(self, cls, name="", options=QtCore.Qt.FindChildrenRecursively):
    return speak(QtCore.QObject.findChild(self, plain(cls), name or None, options))


def find_children(self, cls=QtCore.QObject, name="", options=QtCore.Qt.FindChildrenRecursively):
    # "" would find those without a name, None finds all
    return [speak(child) for child in QtCore.QObject.findChildren(self, plain(cls), name or None, options)]


class Dialect(type(QtCore.QObject)):
    """Metaclass of the classes in `qt`: objects that Qt made itself are instances of them, too."""

    def __new__(mcs, name, bases, namespace):
        # PySide looks for these two in the very class of an object, then takes C++'s.
        return super().__new__(mcs, name, bases, {"connect": connect, "disconnect": disconnect, **namespace})

    def __instancecheck__(cls, obj):
        return isinstance(obj, cls.__dict__["cpp"]) if "cpp" in cls.__dict__ else type.__instancecheck__(cls, obj)

    def __subclasscheck__(cls, other):
        return issubclass(other, cls.__dict__["cpp"]) if "cpp" in cls.__dict__ else type.__subclasscheck__(cls, other)


METHODS = {
    "findChild": find_child,
    "findChildren": find_children,
    "__setattr__": _strict_setattr,
}


def dialect(cls: type) -> type:
    """The class of `qt` for a class of PySide; what isn't a QObject is the same class."""
    if not (isinstance(cls, type) and issubclass(cls, QtCore.QObject)):
        return cls
    return Dialect(cls.__name__, (cls,), {**METHODS, "cpp": cls, "__module__": "qt"})


def _show_properties(cls: type) -> None:
    meta = cls.__dict__.get("staticMetaObject")
    if meta is None:
        return
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        method = cls.__dict__.get(name)
        if index >= meta.propertyOffset() or method is not None:
            setattr(cls, name, Property(name, method))


def teach() -> None:
    """Show properties as attributes on PySide's own classes, once per process."""
    if isinstance(QtCore.QObject.__dict__.get("name"), Property):
        return
    for namespace in NAMESPACES:
        for name in dir(namespace):  # PySide makes classes when they are asked for; vars() would miss them
            cls = getattr(namespace, name)
            if isinstance(cls, type) and issubclass(cls, QtCore.QObject):
                _show_properties(cls)
    for cls, names in GET_OBJECT.items():
        for name in names:
            setattr(cls, name, _speaking(getattr(cls, name)))
    QtCore.QObject.name = Property("objectName", None)
    QtCore.QObject.className = lambda self: meta_object(self).className()
    QtCore.QObject.delete = lambda self: shiboken6.delete(self)
    for cls in (QtCore.QCoreApplication, QtWidgets.QDialog, QtWidgets.QMenu):
        cls.exec_ = cls.exec


class Module(types.ModuleType):
    """`qt`: classes are made when first asked for and stay the same."""

    def __getattr__(self, name: str):
        for namespace in NAMESPACES:
            if name.startswith("Q") and hasattr(namespace, name):
                made = dialect(getattr(namespace, name))
                setattr(self, name, made)
                return made
        raise AttributeError(f"module 'qt' has no attribute '{name}'")


teach()
qt = Module("qt", __doc__)
