"""Dialogs answered by the test: what a module asks is recorded, and the next prepared answer taken.

A message with a single button is acknowledged without an answer. A question nobody prepared an answer for raises.
"""

from dataclasses import dataclass, field
from typing import Any

from PySide6 import QtWidgets

from .pythonqt import qt

Standard = QtWidgets.QMessageBox.StandardButton
KINDS = {
    QtWidgets.QMessageBox.Icon.NoIcon: "message",
    QtWidgets.QMessageBox.Icon.Information: "info",
    QtWidgets.QMessageBox.Icon.Warning: "warning",
    QtWidgets.QMessageBox.Icon.Critical: "error",
    QtWidgets.QMessageBox.Icon.Question: "question",
}


@dataclass
class Asked:
    """One dialog: `kind` is message, info, warning, error, question, dialog, file or text."""

    kind: str
    text: str
    title: str = ""
    details: str = ""
    buttons: list[str] = field(default_factory=list)
    answer: Any = None


class Dialogs:
    def __init__(self):
        self.asked: list[Asked] = []
        self.answers: list[Any] = []
        self.remember = False

    def answer(self, *answers: Any, remember: bool = False) -> None:
        """Prepare answers, first asked first: a button (`qt.QMessageBox.Yes`, its text, True or False), a path or text,
        or for a dialog of the module's own a function that is called with it. `remember` ticks “don't show again”."""
        self.answers.extend(answers)
        self.remember = remember

    def next(self, asked: Asked) -> Any:
        """Record what was asked and take the answer prepared for it."""
        self.asked.append(asked)
        if not self.answers:
            raise AssertionError(f"no answer was prepared for the {asked.kind} “{asked.text}” {asked.buttons}")
        asked.answer = self.answers.pop(0)
        return asked.answer

    def texts(self, *kinds: str) -> list[str]:
        return [asked.text for asked in self.asked if not kinds or asked.kind in kinds]

    def clear(self) -> None:
        self.__init__()


dialogs = Dialogs()


def plain_text(button: QtWidgets.QAbstractButton) -> str:
    return button.text.replace("&", "")


def choices(box: QtWidgets.QMessageBox) -> list[QtWidgets.QAbstractButton]:
    """The buttons that end the box: all but “Show Details…” and the like."""
    return [button for button in box.buttons() if box.buttonRole(button).name not in ("ActionRole", "HelpRole")]


def chosen_button(box: QtWidgets.QMessageBox, answer: Any) -> QtWidgets.QAbstractButton:
    """The button of the box an answer means. Raises AssertionError where the box has none such."""
    if isinstance(answer, bool):
        roles = ("AcceptRole", "YesRole") if answer else ("RejectRole", "NoRole")
        wanted = [button for button in choices(box) if box.buttonRole(button).name in roles]
    elif isinstance(answer, str):
        wanted = [button for button in choices(box) if plain_text(button) == answer]
    else:
        wanted = [button for button in choices(box) if box.standardButton(button) == answer]
    if not wanted:
        raise AssertionError(f"“{box.text}” has no button {answer!r}, only {[plain_text(b) for b in choices(box)]}")
    return wanted[0]


class MessageBox(qt.QMessageBox):
    def exec(self) -> int:
        if not self.buttons():
            self.addButton(Standard.Ok)
        words = "\n".join(part for part in (self.text, self.informativeText) if part)
        kind, names = KINDS[QtWidgets.QMessageBox.Icon(self.icon)], [plain_text(button) for button in choices(self)]
        asked = Asked(kind, words, self.windowTitle.strip(), self.detailedText, names)
        if len(names) == 1 and dialogs.answers[:1] != names:
            asked.answer = names[0]
            dialogs.asked.append(asked)
            button = choices(self)[0]
        else:
            button = chosen_button(self, dialogs.next(asked))
        button.click()
        return int(self.standardButton(button).value)

    exec_ = exec

    @classmethod
    def _static(cls, icon, parent, title, text, buttons, default) -> Standard:
        box = cls(icon, title, text, buttons)
        return Standard(box.exec())

    @classmethod
    def question(cls, parent, title, text, buttons=Standard.Yes | Standard.No, default=Standard.NoButton):
        return cls._static(QtWidgets.QMessageBox.Icon.Question, parent, title, text, buttons, default)

    @classmethod
    def information(cls, parent, title, text, buttons=Standard.Ok, default=Standard.NoButton):
        return cls._static(QtWidgets.QMessageBox.Icon.Information, parent, title, text, buttons, default)

    @classmethod
    def warning(cls, parent, title, text, buttons=Standard.Ok, default=Standard.NoButton):
        return cls._static(QtWidgets.QMessageBox.Icon.Warning, parent, title, text, buttons, default)

    @classmethod
    def critical(cls, parent, title, text, buttons=Standard.Ok, default=Standard.NoButton):
        return cls._static(QtWidgets.QMessageBox.Icon.Critical, parent, title, text, buttons, default)


class Dialog(qt.QDialog):
    """A dialog of the module's own: the prepared answer is called with it, then accepts or rejects it."""

    def exec(self) -> int:
        texts = [label.text for label in self.findChildren(qt.QLabel) if label.text]
        answer = dialogs.next(Asked("dialog", "\n".join(texts), self.windowTitle))
        if callable(answer):
            answer(self)
        else:
            self.accept() if answer else self.reject()
        return self.result()

    exec_ = exec


def _path(title: str, folder: str) -> str:
    return str(dialogs.next(Asked("file", folder, title)))


class FileDialog(qt.QFileDialog):
    """PythonQt returns the path alone, "" where the user cancelled."""

    @staticmethod
    def getOpenFileName(parent=None, caption="", folder="", filter="", *options):
        return _path(caption, folder)

    @staticmethod
    def getSaveFileName(parent=None, caption="", folder="", filter="", *options):
        return _path(caption, folder)

    @staticmethod
    def getExistingDirectory(parent=None, caption="", folder="", *options):
        return _path(caption, folder)


class InputDialog(qt.QInputDialog):
    """PythonQt returns the value alone; "" where the user cancelled."""

    @staticmethod
    def getText(parent, title, label, *options):
        return str(dialogs.next(Asked("text", label, title)))

    @staticmethod
    def getItem(parent, title, label, items, *options):
        return str(dialogs.next(Asked("text", label, title, buttons=list(items))))


def install() -> None:
    for cls in (MessageBox, Dialog, FileDialog, InputDialog):
        cls.__name__ = "Q" + cls.__name__
        cls.__module__ = "qt"
        setattr(qt, cls.__name__, cls)
