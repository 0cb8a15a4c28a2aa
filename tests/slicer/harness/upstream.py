"""Slicer's own Python in place of the stand-ins: set SLICER_SOURCE to a checkout of github.com/Slicer/Slicer.

With it ScriptedLoadableModule, i18n and parameterNodeWrapper are the application's files, unmodified, which shows
whether the stand-ins of `scripted` and `parameters` behave as these do.
"""

import importlib
import os
import re
from pathlib import Path

import slicer

from .pythonqt import qt
from .widgets import ctk, published

MODULES = ("i18n", "ScriptedLoadableModule", "parameterNodeWrapper")


def folder() -> Path | None:
    """Where the application's Python lies. Raises RuntimeError where SLICER_SOURCE names something else."""
    source = os.environ.get("SLICER_SOURCE")
    if not source:
        return None
    found = Path(source) / "Base" / "Python" / "slicer"
    if not (found / "ScriptedLoadableModule.py").exists():
        raise RuntimeError(f"SLICER_SOURCE is {source}, which isn't a checkout of Slicer's sources")
    return found


def _name_missing_classes(sources: Path) -> None:
    """Classes the files only name, to tell them from those in use."""
    for path in sources.rglob("*.py"):
        for module, name in re.findall(r"\b(ctk|slicer)\.((?:ctk|q)[A-Z]\w+)", path.read_text(encoding="utf-8")):
            target = ctk if module == "ctk" else slicer
            if not hasattr(target, name):
                published(target)(type(qt.QWidget)(name, (qt.QWidget,), {}))


def install() -> None:
    sources = folder()
    _name_missing_classes(sources / "parameterNodeWrapper")
    slicer.__path__.append(str(sources))
    for name in MODULES:
        setattr(slicer, name, importlib.import_module(f"slicer.{name}"))
