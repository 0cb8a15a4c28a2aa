"""Runs a scripted module of 3D Slicer without the desktop application.

The scene, logics, storage and views are slicer-core's; Qt is PySide6, spoken in PythonQt's dialect; what the wheel
lacks is here: qt, ctk, the qMRML widgets, ScriptedLoadableModule, parameterNodeWrapper, slicer.app and its layout
manager. After `app.start()` a module's file runs unmodified.
"""

import ctypes
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
if not os.environ.get("DISPLAY"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # else VTK asks for an X server first

# PySide6 6.12 gives away a reference to None, True or False it doesn't own, as if they were immortal, which they are
# from Python 3.12 on; before, the interpreter would end once none is left.
if sys.version_info < (3, 12):
    for singleton in (None, True, False):
        ctypes.c_ssize_t.from_address(id(singleton)).value += 2**40
