"""qt.QSettings in a file of the test's own."""

from pathlib import Path

from PySide6 import QtCore

from .pythonqt import qt


class Settings(qt.QSettings):
    """Without arguments the application's settings, as in Slicer; here an .ini file that `use` chooses."""

    _file = ""

    def __init__(self, *arguments):
        if arguments:
            super().__init__(*arguments)
        elif Settings._file:
            super().__init__(Settings._file, QtCore.QSettings.Format.IniFormat)
        else:
            raise RuntimeError("no settings file was chosen: call harness.settings.use(path) first")


def use(path: Path) -> None:
    """From now on settings lie in this file."""
    Settings._file = str(path)


def install() -> None:
    Settings.__name__, Settings.__module__ = "QSettings", "qt"
    qt.QSettings = Settings
