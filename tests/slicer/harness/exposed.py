"""What PythonQt shows of Slicer's and CTK's widgets: properties, slots, signals, invokable methods, decorators.

Read from the public sources by scripts/slicer_facts.py; exposed.json says of which versions. What C++ has beside these
Python can't call: `setCollapsed`, the setter of a property, is such a method, so a module writes `collapsed = True`.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

FACTS = json.loads(Path(__file__).with_name("exposed.json").read_text(encoding="utf-8"))
CLASSES = FACTS["classes"]
"""By name: the base class, the header, and the names that the class adds."""
MODULES = "slicer_extension"  # where the files lie that must not use more than the desktop has


@functools.cache
def names(kind: str) -> frozenset[str]:
    """What the class and its bases add to Qt's."""
    own, base = CLASSES[kind]["names"].split(), CLASSES[kind]["base"]
    return frozenset(own) | (names(base) if base in CLASSES else frozenset())


def qt_base(kind: str) -> str:
    """The class of Qt's that a class of Slicer's or CTK's extends; Qt's own stay what they are."""
    if kind == "QVTKOpenGLNativeWidget":  # VTK's, a QOpenGLWidget
        return "QWidget"
    return qt_base(CLASSES[kind]["base"]) if kind in CLASSES else kind


def for_tests(method: Callable) -> Callable:
    """Marks what only tests may call: for a module under test there is no such method."""

    @functools.wraps(method)
    def call(self, *arguments, **keywords):
        if MODULES in sys._getframe(1).f_code.co_filename:
            raise AttributeError(f"{type(self).__name__} has no attribute named '{method.__name__}' in Slicer")
        return method(self, *arguments, **keywords)

    call.for_tests = True
    return call


def surplus(cls: type) -> set[str]:
    """Public names of a stand-in that the desktop's class doesn't show; empty for a class that isn't listed."""
    if cls.__name__ not in CLASSES:
        return set()
    of_qt = next(vars(base)["cpp"] for base in cls.__mro__ if "cpp" in vars(base))
    own = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(of_qt)]):
        own.update(vars(base))
    found = {name for name, value in own.items() if not (name.startswith("_") or hasattr(value, "for_tests"))}
    dialect = {"SIGNALS", "staticMetaObject", "cpp", "connect", "disconnect", "findChild", "findChildren"}
    return {name for name in found - names(cls.__name__) - dialect if not hasattr(of_qt, name)}
