"""Keys pressed in the main window."""

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from .pythonqt import qt


def press(keys: str, widget: QtWidgets.QWidget | None = None) -> None:
    """Press a key sequence such as "Ctrl+Return" where the focus is, or in a widget; shortcuts see it first."""
    from PySide6 import QtTest

    window = slicer.util.mainWindow()
    window.activateWindow()
    qt.QApplication.processEvents()
    target = widget or QtWidgets.QApplication.focusWidget() or window
    for part in QtGui.QKeySequence(keys):
        QtTest.QTest.keyClick(target, part.key(), part.keyboardModifiers())
    qt.QApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents)
