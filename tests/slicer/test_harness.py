"""The harness's Qt: PythonQt's dialect, CTK's widgets, dialogs, settings, keys, .ui files."""

import ctk
import pytest
import qt
import slicer
from harness import keys, loader, settings
from harness.pythonqt import qt as dialect_module

WIDGETS = ("QPushButton", "QLabel", "QSpinBox", "QComboBox", "QTableView", "QProgressBar", "QLineEdit", "QVBoxLayout")


def test_slot_gets_as_many_arguments_as_it_takes(slicer_app):
    got, button = [], qt.QPushButton("Go")
    button.checkable = True
    button.connect("clicked(bool)", got.append)
    button.connect("clicked(bool)", lambda: got.append("none"))
    button.connect("clicked(bool)", lambda checked="default": got.append(checked))
    button.connect("clicked()", lambda *words: got.append(words))
    button.click()
    assert got == [True, "none", True, ()]


def test_disconnected_slot_is_quiet(slicer_app):
    got, box = [], qt.QSpinBox()
    box.connect("valueChanged(int)", got.append)
    box.value = 3
    assert box.disconnect("valueChanged(int)", got.append)
    assert not box.disconnect("valueChanged(int)", got.append)
    box.value = 4
    assert got == [3]


@pytest.mark.parametrize("signature", ["clickd(bool)", "clicked(int)", "clicked", "toggled()"])
def test_unknown_signal_is_an_error(slicer_app, signature):
    with pytest.raises(AttributeError, match="has no signal"):
        qt.QPushButton().connect(signature, print)


def test_unknown_property_is_an_error(slicer_app):
    label = qt.QLabel("x")
    with pytest.raises(AttributeError):
        label.txt = "y"
    with pytest.raises(AttributeError):
        label.txt  # noqa: B018
    with pytest.raises(TypeError):
        label.geometry = "wide"
    label.text = "y"
    assert (label.text, label.name, label.className()) == ("y", "", "QLabel")


@pytest.mark.parametrize("name", WIDGETS)
def test_every_property_reads_as_qt_says(slicer_app, name):
    thing = getattr(qt, name)()
    meta = type(thing).staticMetaObject
    properties = [meta.property(index).name() for index in range(meta.propertyCount())]
    assert len(properties) > 4
    for declared in properties:
        assert not callable(getattr(thing, declared)), declared


def test_objects_qt_made_speak_the_dialect(slicer_app):
    table, got = qt.QTableView(), []
    model = qt.QStandardItemModel(2, 1)
    table.setModel(model)
    table.selectionModel().connect("selectionChanged(QItemSelection,QItemSelection)", lambda: got.append("rows"))
    table.horizontalHeader().connect("sectionClicked(int)", got.append)
    table.selectRow(1)
    menu = qt.QMenu()
    action = menu.addAction("Copy")
    action.connect("triggered()", lambda: got.append(action.text))
    action.trigger()
    assert got == ["rows", "Copy"]
    assert isinstance(table.viewport(), qt.QWidget) and not isinstance(table.viewport(), qt.QLabel)


def test_connecting_leaves_no_trace_on_the_class(slicer_app):
    menu = qt.QMenu()
    action = menu.addAction("Copy")
    action.connect("triggered()", print)
    assert action.className() == "QAction"
    del action
    menu.delete()
    assert qt.QAction.cpp.staticMetaObject.methodCount() > 5


def test_children_are_found_with_and_without_a_name(slicer_app):
    panel = qt.QWidget()
    first, second = qt.QLabel("x", panel), qt.QLabel("y", panel)
    second.name = "second"
    assert panel.findChildren(qt.QLabel) == [first, second] and panel.findChildren(qt.QWidget) == [first, second]
    assert panel.findChild(qt.QLabel, "second") is second and panel.findChildren(qt.QLabel, "third") == []


def test_classes_of_a_module_may_have_attributes(slicer_app):
    class Panel(qt.QWidget):
        def __init__(self):
            super().__init__()
            self.rows = 3

    assert Panel().rows == 3 and isinstance(Panel(), qt.QWidget)
    with pytest.raises(AttributeError):
        dialect_module.QNothing  # noqa: B018


# -- CTK


def test_checkable_combo_box_tells_which_are_checked(slicer_app):
    combo, changes = ctk.ctkCheckableComboBox(), []
    combo.addItems(["liver", "spleen", "kidney"])
    combo.connect("checkedIndexesChanged()", lambda: changes.append(len(combo.checkedIndexes())))
    assert combo.noneChecked()
    for row in (0, 2):
        combo.setCheckState(combo.model().index(row, 0), qt.Qt.Checked)
    assert [index.data() for index in combo.checkedIndexes()] == ["liver", "kidney"]
    combo.setCheckState(combo.model().index(0, 0), qt.Qt.Checked)
    combo.setCheckState(combo.model().index(0, 0), qt.Qt.Unchecked)
    assert changes == [1, 2, 1] and not combo.allChecked()
    assert combo.checkState(combo.model().index(2, 0)) == qt.Qt.Checked


def test_slider_keeps_its_range_and_says_its_value(slicer_app):
    slider, got = ctk.ctkSliderWidget(), []
    slider.minimum, slider.maximum, slider.decimals, slider.suffix = 1, 32, 0, " HU"
    slider.connect("valueChanged(double)", got.append)
    slider.value = 4
    slider.setValue(100)
    assert got == [4.0, 32.0] and slider.spinBox().text == "32 HU"
    assert slider.slider().value == 1000


def test_collapsible_button_hides_what_it_holds(slicer_app):
    section, got = ctk.ctkCollapsibleButton("Server"), []
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("a"), qt.QLabel("b")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.hide()
    panel = qt.QWidget()
    qt.QVBoxLayout(panel).addWidget(section)
    panel.layout().addStretch(1)
    panel.resize(200, 300)
    panel.show()
    slicer_app.processEvents()
    tall = section.height
    section.connect("contentsCollapsed(bool)", got.append)
    section.collapsed = True
    slicer_app.processEvents()
    assert not shown.visible and section.height < tall
    section.click()
    assert shown.visible and not hidden.visible and got == [True, False]
    assert section.text == "Server" and not section.collapsed
    panel.hide()


def test_path_line_and_double_spin_box(slicer_app):
    line, box, got = ctk.ctkPathLineEdit(), ctk.ctkDoubleSpinBox(), []
    line.connect("currentPathChanged(QString)", got.append)
    line.currentPath = "/usr/bin/python3"
    box.minimum, box.maximum = 0, 1
    box.connect("valueChanged(double)", got.append)
    box.value = 0.25
    assert got == ["/usr/bin/python3", 0.25] and line.currentPath == got[0]


# -- dialogs, settings, keys


def test_questions_are_answered_by_the_test(slicer_app, dialogs):
    dialogs.answer(qt.QMessageBox.Yes, False, "Send")
    assert slicer.util.confirmYesNoDisplay("Remove?")
    assert not slicer.util.confirmOkCancelDisplay("Send?")
    box = qt.QMessageBox()
    box.text = "Send the scan?"
    send = box.addButton("Send", qt.QMessageBox.AcceptRole)
    box.addButton("Cancel", qt.QMessageBox.RejectRole)
    box.exec_()
    assert box.clickedButton() is send
    assert dialogs.texts("question", "message") == ["Remove?", "Send?", "Send the scan?"]


def test_messages_are_recorded_with_their_details(slicer_app, dialogs):
    slicer.util.errorDisplay("No answer.", detailedText="refused")
    slicer.util.infoDisplay("Saved.")
    slicer.util.warningDisplay("Slow.")
    assert [(asked.kind, asked.text, asked.details) for asked in dialogs.asked] == [
        ("error", "No answer.", "refused"),
        ("info", "Saved.", ""),
        ("warning", "Slow.", ""),
    ]


def test_error_of_a_failing_step_is_shown_once(slicer_app, dialogs):
    with pytest.raises(ValueError), slicer.util.tryWithErrorDisplay("It failed."):
        raise ValueError("why")
    assert dialogs.texts("error") == ["It failed.\n\nwhy"] and "ValueError" in dialogs.asked[0].details


def test_question_without_an_answer_is_an_error(slicer_app, dialogs):
    with pytest.raises(AssertionError, match=r"no answer was prepared for the question “Remove\?”"):
        slicer.util.confirmYesNoDisplay("Remove?")
    dialogs.answer(qt.QMessageBox.Retry)
    with pytest.raises(AssertionError, match="has no button"):
        slicer.util.confirmYesNoDisplay("Remove?")


def test_files_texts_and_own_dialogs_are_answered(slicer_app, dialogs):
    def fill(dialog):
        dialog.findChild(qt.QLineEdit).text = "0.8"
        dialog.accept()

    dialogs.answer("/tmp/out.png", "", "a name", fill)
    assert qt.QFileDialog.getSaveFileName(None, "Save", "", "*.png") == "/tmp/out.png"
    assert qt.QFileDialog.getExistingDirectory(None, "Folder") == ""
    assert qt.QInputDialog.getText(None, "Name", "Name:") == "a name"
    dialog = qt.QDialog()
    line = qt.QLineEdit(dialog)
    assert dialog.exec_() == qt.QDialog.Accepted and line.text == "0.8"


def test_dont_show_again_is_remembered_in_the_settings(scene, dialogs):
    dialogs.answer(qt.QMessageBox.Ok, remember=True)
    buttons = qt.QMessageBox.Ok | qt.QMessageBox.Cancel
    for _ in range(2):
        answer = slicer.util.messageBox("Send?", dontShowAgainSettingsKey="Sample/Sent", standardButtons=buttons)
        assert answer == qt.QMessageBox.Ok
    assert dialogs.texts() == ["Send?"]


def test_settings_lie_in_the_tests_own_file(scene, tmp_path):
    qt.QSettings().setValue("Sample/server", "http://127.0.0.1:1")
    stored = slicer.app.userSettings()
    assert stored.value("Sample/server") == "http://127.0.0.1:1" and stored.contains("Sample/server")
    assert slicer.util.settingsValue("Sample/absent", 7) == 7
    stored.sync()
    assert (tmp_path / "Slicer.ini").exists()
    settings.use(tmp_path / "other.ini")
    assert not qt.QSettings().contains("Sample/server")


def test_keys_reach_shortcuts_unless_text_is_typed(slicer_app):
    window, got = slicer.util.mainWindow(), []
    shortcut = qt.QShortcut(qt.QKeySequence("Ctrl+Return"), window)
    shortcut.connect("activated()", lambda: got.append("attack"))
    letter = qt.QShortcut(qt.QKeySequence("N"), window)
    letter.connect("activated()", lambda: got.append("next"))
    for pressed in ("Ctrl+Return", "N", "P"):
        keys.press(pressed)
    line = qt.QLineEdit(window)
    line.show()
    keys.press("N", line)
    assert got == ["attack", "next"] and line.text == "n"
    for thing in (shortcut, letter, line):
        thing.delete()


def test_timer_fires(slicer_app, wait_until):
    got, timer = [], qt.QTimer()
    timer.setInterval(1)
    timer.connect("timeout()", lambda: got.append(timer.active))
    timer.start()
    qt.QTimer.singleShot(0, lambda: got.append("once"))
    wait_until(lambda: "once" in got and got.count(True) > 1, 5)
    timer.stop()
    assert not timer.active


# -- .ui files

UI = """<ui version="4.0"><class>P</class><widget class="qMRMLWidget" name="P"><layout class="QVBoxLayout" name="l">
<item><widget class="{cls}" name="thing"><property name="{name}"><string>x</string></property></widget></item>
</layout></widget>
<connections><connection><sender>P</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>{receiver}</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.mark.parametrize(
    ("cls", "name", "receiver", "message"),
    [
        ("ctkNothing", "text", "P", "wants a ctkNothing"),
        ("QLabel", "txt", "P", "QLabel thing has no property 'txt'"),
        ("QLabel", "text", "other", "one of them doesn't exist"),
    ],
)
def test_ui_file_with_a_typing_error_is_refused(slicer_app, tmp_path, cls, name, receiver, message):
    path = tmp_path / "P.ui"
    path.write_text(UI.format(cls=cls, name=name, receiver=receiver), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        slicer.util.loadUI(str(path))


def test_ui_file_passes_the_scene_on(scene, tmp_path):
    path = tmp_path / "P.ui"
    path.write_text(UI.format(cls="qMRMLNodeComboBox", name="toolTip", receiver="thing"), encoding="utf-8")
    panel = slicer.util.loadUI(str(path))
    ui = slicer.util.childWidgetVariables(panel)
    panel.setMRMLScene(scene)
    assert ui.thing.mrmlScene() is scene and ui.thing.toolTip == "x" and type(ui.thing) is slicer.qMRMLNodeComboBox
    ui.thing.setMRMLScene(None)
    assert loader.widget_class("QLabel") is qt.QLabel
