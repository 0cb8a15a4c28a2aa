"""CTK's widgets, the module `ctk`, as far as modules use them: the same properties, signals and methods."""

import types

from PySide6 import QtCore, QtGui, QtWidgets

from . import exposed
from .dialogs import MessageBox
from .exposed import for_tests
from .pythonqt import qt

Property, Signal = QtCore.Property, QtCore.Signal
ctk = types.ModuleType("ctk", __doc__)


def published(module: types.ModuleType):
    """Class decorator: a class of this module, with `setX` for a property `x` where the desktop's class has that as a
    slot. Raises TypeError for a class that can more than the desktop's."""

    def publish(cls):
        for name, declared in list(vars(cls).items()):
            setter = "set" + name[0].upper() + name[1:]
            callable_there = cls.__name__ not in exposed.CLASSES or setter in exposed.names(cls.__name__)
            if isinstance(declared, Property) and callable_there and not hasattr(cls, setter):
                setattr(cls, setter, lambda self, value, name=name: setattr(self, name, value))
        more = exposed.surplus(cls)
        if more:
            raise TypeError(f"{cls.__name__} shows {', '.join(sorted(more))}, which Slicer's doesn't")
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
        return cls

    return publish


def forwarded(kind: type, inner: str, name: str) -> Property:
    """A property that is the inner widget's."""
    return Property(
        kind,
        lambda self: getattr(getattr(self, inner), name),
        lambda self, value: setattr(getattr(self, inner), name, value),
    )


def stored(kind, name: str, default) -> Property:
    """A property that is only remembered."""
    return Property(
        kind, lambda self: getattr(self, "_" + name, default), lambda self, value: setattr(self, "_" + name, value)
    )


def _hide_children(widget: QtWidgets.QWidget, hidden: bool) -> None:
    """Hide what is visible in a widget, or show again what was; hiding twice forgets nothing of it."""
    direct = [child for child in widget.children() if child.isWidgetType()]
    if hidden:
        widget._shown += [child for child in direct if not child.isHidden()]
        for child in direct:
            child.setVisible(False)
        return
    shown, widget._shown = widget._shown, []
    for child in shown:
        child.setVisible(True)


@published(ctk)
class ctkCollapsibleButton(qt.QAbstractButton):
    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments):
        texts = [argument for argument in arguments if isinstance(argument, str)]
        super().__init__(*[argument for argument in arguments if not isinstance(argument, str)])
        self._is_collapsed, self._shown = False, []
        self.setCheckable(True)
        self.setChecked(True)
        self.setText("".join(texts))
        self.toggled.connect(lambda checked: self._collapse(not checked))
        self.setContentsMargins(0, self._header(), 0, 0)

    def _header(self) -> int:
        return self.fontMetrics().height() + 10

    def _collapse(self, value: bool) -> None:
        if value != self._is_collapsed:
            self._is_collapsed = value
            _hide_children(self, value)
            self.setMaximumHeight(self._header() if value else 16777215)
            self.updateGeometry()
            self.contentsCollapsed.emit(value)

    collapsed = Property(bool, lambda self: self._is_collapsed, lambda self, value: self.setChecked(not value))

    def sizeHint(self):
        inside = self.layout().totalSizeHint() if self.layout() and not self._is_collapsed else QtCore.QSize(0, 0)
        width = self.fontMetrics().horizontalAdvance(self.text) + 40
        return QtCore.QSize(max(width, inside.width()), max(self._header(), inside.height()))

    def minimumSizeHint(self):
        return self.sizeHint() if self._is_collapsed or not self.layout() else self.layout().totalMinimumSize()

    def paintEvent(self, event):
        painter, header = QtGui.QPainter(self), self._header()
        painter.fillRect(0, 0, self.width, header - 2, self.palette.color(QtGui.QPalette.ColorRole.Button).darker(108))
        arrow = QtWidgets.QStyle.PrimitiveElement
        option = QtWidgets.QStyleOption()
        option.initFrom(self)
        option.rect = QtCore.QRect(6, (header - 14) // 2, 12, 12)
        kind = arrow.PE_IndicatorArrowRight if self._is_collapsed else arrow.PE_IndicatorArrowDown
        self.style().drawPrimitive(kind, option, painter, self)
        font = self.font
        font.setBold(True)
        painter.setFont(font)
        painter.setPen(self.palette.color(QtGui.QPalette.ColorRole.ButtonText))
        painter.drawText(24, 0, self.width - 24, header - 2, QtCore.Qt.AlignVCenter, self.text)
        painter.end()


@published(ctk)
class ctkCollapsibleGroupBox(qt.QGroupBox):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._shown = []
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._toggle)

    def _toggle(self, checked: bool) -> None:
        _hide_children(self, not checked)

    def showEvent(self, event) -> None:
        super().showEvent(event)
        if self.collapsed:  # a .ui file says so before there are children
            _hide_children(self, True)

    collapsed = Property(bool, lambda self: not self.checked, lambda self, value: self.setChecked(not value))


class _Number(qt.QWidget):
    """What wraps a spin box of floats."""

    valueChanged = Signal(float)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._spin = qt.QDoubleSpinBox()
        self._spin.valueChanged.connect(self._changed)

    def _changed(self, value: float) -> None:
        self.valueChanged.emit(value)


@published(ctk)
class ctkDoubleSpinBox(_Number):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.layout().addWidget(self._spin)

    value = forwarded(float, "_spin", "value")
    minimum = forwarded(float, "_spin", "minimum")
    maximum = forwarded(float, "_spin", "maximum")
    singleStep = forwarded(float, "_spin", "singleStep")
    decimals = forwarded(int, "_spin", "decimals")
    suffix = forwarded(str, "_spin", "suffix")
    prefix = forwarded(str, "_spin", "prefix")

    @for_tests
    def spinBox(self):
        return self._spin


@published(ctk)
class ctkSliderWidget(_Number):
    """A slider with a spin box."""

    valueIsChanging = Signal(float)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._slider.setRange(0, 1000)
        self._slider.sliderMoved.connect(self._moved)
        self.layout().addWidget(self._slider)
        self.layout().addWidget(self._spin)

    def _moved(self, thousandths: int) -> None:
        self._spin.value = self.minimum + thousandths / 1000 * (self.maximum - self.minimum)

    def _changed(self, value: float) -> None:
        span = self.maximum - self.minimum
        self._slider.setValue(round(1000 * (value - self.minimum) / span) if span > 0 else 0)
        super()._changed(value)

    value = forwarded(float, "_spin", "value")
    minimum = forwarded(float, "_spin", "minimum")
    maximum = forwarded(float, "_spin", "maximum")
    singleStep = forwarded(float, "_spin", "singleStep")
    decimals = forwarded(int, "_spin", "decimals")
    suffix = forwarded(str, "_spin", "suffix")
    prefix = forwarded(str, "_spin", "prefix")
    pageStep = stored(float, "page", 10.0)
    tickInterval = stored(float, "tick", 0.0)
    tracking = stored(bool, "tracks", True)
    spinBoxVisible = Property(
        bool, lambda self: not self._spin.isHidden(), lambda self, value: self._spin.setVisible(value)
    )

    @for_tests
    def spinBox(self):
        return self._spin

    @for_tests
    def slider(self):
        return self._slider


@published(ctk)
class ctkCheckableComboBox(qt.QComboBox):
    """Every item has a check state, unchecked at first."""

    checkedIndexesChanged = Signal()

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model().rowsInserted.connect(self._added)
        self.model().dataChanged.connect(self._data_changed)

    def _added(self, parent, first: int, last: int) -> None:
        for row in range(first, last + 1):
            item = self.model().item(row)
            item.setFlags(QtCore.Qt.ItemIsEnabled | QtCore.Qt.ItemIsUserCheckable)
            if item.data(QtCore.Qt.CheckStateRole) is None:
                item.setData(QtCore.Qt.Unchecked, QtCore.Qt.CheckStateRole)

    def _data_changed(self, first, last, roles=()) -> None:
        if not roles or QtCore.Qt.CheckStateRole in roles:
            self.update()
            self.checkedIndexesChanged.emit()

    def checkableModel(self):
        return self.model()

    def checkState(self, index) -> QtCore.Qt.CheckState:
        return QtCore.Qt.CheckState(index.data(QtCore.Qt.CheckStateRole))

    def setCheckState(self, index, state) -> None:
        if self.checkState(index) != QtCore.Qt.CheckState(state):
            self.model().setData(index, QtCore.Qt.CheckState(state), QtCore.Qt.CheckStateRole)

    def checkedIndexes(self) -> list:
        indexes = [self.model().index(row, 0) for row in range(self.count)]
        return [index for index in indexes if self.checkState(index) == QtCore.Qt.Checked]

    def allChecked(self) -> bool:
        return len(self.checkedIndexes()) == self.count

    def noneChecked(self) -> bool:
        return not self.checkedIndexes()

    def paintEvent(self, event):
        painter, option = QtWidgets.QStylePainter(self), QtWidgets.QStyleOptionComboBox()
        self.initStyleOption(option)
        texts = [index.data() for index in self.checkedIndexes()]
        option.currentText = "All" if self.count and self.allChecked() else ", ".join(texts) or "None"
        painter.drawComplexControl(QtWidgets.QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()


@published(ctk)
class ctkPathLineEdit(qt.QWidget):
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._line = qt.QComboBox()
        self._line.setEditable(True)
        self._line.editTextChanged.connect(self.currentPathChanged.emit)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._line, 1)
        row.addWidget(QtWidgets.QToolButton(text="…"))

    currentPath = Property(str, lambda self: self._line.currentText, lambda self, value: self._line.setEditText(value))
    settingKey = stored(str, "key", "")
    label = stored(str, "words", "")
    nameFilters = stored("QStringList", "suffixes", [])
    filters = stored(object, "kinds", None)
    showHistoryButton = stored(bool, "history", True)
    showBrowseButton = stored(bool, "browsing", True)

    def addCurrentPathToHistory(self) -> None:
        if self._line.findText(self.currentPath) < 0:
            self._line.addItem(self.currentPath)


@published(ctk)
class ctkMessageBox(MessageBox):
    """A message that can offer not to be shown again."""

    dontShowAgainVisible = stored(bool, "offers", False)
    dontShowAgain = stored(bool, "silent", False)
    dontShowAgainSettingsKey = stored(str, "setting", "")

    def exec(self) -> int:
        from .dialogs import dialogs

        key = self.dontShowAgainSettingsKey
        if key and qt.QSettings().contains(key):
            return int(qt.QSettings().value(key))
        result = super().exec()
        if (key or self.dontShowAgainVisible) and dialogs.remember:
            self.dontShowAgain, dialogs.remember = True, False
            if key:
                qt.QSettings().setValue(key, result)
        return result

    exec_ = exec


@published(ctk)
class ctkComboBox(qt.QComboBox):
    pass


@published(ctk)
class ctkCheckBox(qt.QCheckBox):
    pass
