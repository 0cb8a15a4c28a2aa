"""Runs a scripted module of 3D Slicer without the desktop application.

The scene, logics, storage and views are slicer-core's; Qt is PySide6, spoken in PythonQt's dialect; what the wheel
lacks is here: qt, ctk, the qMRML widgets, ScriptedLoadableModule, parameterNodeWrapper, slicer.app and its layout
manager. After `app.start()` a module's file runs unmodified.
"""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
if not os.environ.get("DISPLAY"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # else VTK asks for an X server first
