"""Keyboard shortcuts, there while the module is shown and silent while one types."""

import qt
import slicer

from .mistakes import told


class Keys:
    """actions: {key sequence: function}. `enter` makes the shortcuts, `leave` takes them away."""

    def __init__(self, actions: dict):
        self.actions = actions
        self.shortcuts = []

    def enter(self) -> None:
        window = slicer.util.mainWindow()
        if self.shortcuts or window is None:
            return
        for sequence, action in self.actions.items():
            shortcut = qt.QShortcut(window)
            shortcut.setKey(qt.QKeySequence(sequence))
            shortcut.connect("activated()", lambda action=action: self.press(action))
            self.shortcuts.append(shortcut)

    def leave(self) -> None:
        for shortcut in self.shortcuts:
            shortcut.enabled = False
            shortcut.setParent(None)
            shortcut.deleteLater()
        self.shortcuts = []

    @told
    def press(self, action) -> None:
        """Do it, unless a text field has the focus."""
        if not isTyping(qt.QApplication.focusWidget()):
            action()


def isTyping(widget) -> bool:
    kinds = ("QLineEdit", "QTextEdit", "QPlainTextEdit", "QSpinBox", "QDoubleSpinBox", "ctkDoubleSpinBox")
    return widget is not None and any(widget.inherits(kind) for kind in kinds)
