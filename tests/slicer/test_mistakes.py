"""A mistake of the module's own, made on purpose in each place, is logged and told, and the job goes on."""

import ast
import importlib
import logging
from pathlib import Path

import pytest
import scans
import slicer
from driving import Driver

MODULE = Path(__file__).resolve().parents[2] / "slicer_extension" / "Perturbox"
SECTIONS = ("server", "input", "attack", "result", "look")
SENTENCE = "Internal error in the module (ZeroDivisionError). Save your work and report it with the details."


def boom(*_, **__):
    raise ZeroDivisionError("on purpose")


@pytest.fixture
def ready(load_module, wait_until, tiny_server, monkeypatch):
    """Connected to a server that answers at once, a scan chosen, three steps asked for."""
    from PerturboxLib import tasks

    quick = tasks.Pace(poll=0.05, slowest=0.2)
    monkeypatch.setattr(tasks, "Pace", lambda: quick)
    panel = Driver(load_module(), wait_until)
    panel.volume = scans.add_scan("oblique")
    panel.connect(tiny_server)
    panel.choose(panel.volume)
    panel.set_form(steps=3)
    return panel


def is_told(panel, mistakes) -> None:
    """One sentence is shown, the traceback can be unfolded, and it is logged."""
    assert panel.trouble == SENTENCE
    assert "on purpose" in panel.ui.troubleDetailsText.plainText and not panel.ui.troubleDetailsGroupBox.isHidden()
    assert mistakes and all("Traceback" in text and "on purpose" in text for text in mistakes)
    mistakes.clear()


def works_again(panel) -> None:
    """An attack comes to its result, and the sentence is gone."""
    panel.wait(lambda: not panel.session.busy, 60)
    node = panel.attack()
    assert panel.widget.result.node is node and panel.ui.verdictLabel.text.startswith("A change of at most ")
    assert panel.ui.attackButton.enabled and not panel.ui.stopButton.enabled


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_fails_loses_no_event_of_the_job(ready, monkeypatch, mistakes, section):
    """As long as the attack lasts one section raises at each update; the result is fetched and made all the same."""
    from PerturboxLib import scene

    with monkeypatch.context() as broken:
        broken.setattr(getattr(ready.widget, section), "update", boom)
        ready.ui.attackButton.click()
        ready.wait_for_end(60)
        (node,) = scene.results()
        assert ready.parameters.result is node and ready.session.state == "ready" and len(ready.session.trace) >= 3
        assert scene.Nodes(node).perturbed.GetName().startswith("PERTURBED")
        assert len(mistakes) == 1, "a mistake that goes on is logged once"
        is_told(ready, mistakes)
    works_again(ready)


@pytest.mark.parametrize("section", ["server", "attack"])
def test_a_section_that_fails_once_is_told_until_something_else_begins(ready, monkeypatch, mistakes, section):
    panel, told = getattr(ready.widget, section), []
    update = panel.update

    def once():
        if ready.session.job and not told:
            told.append(True)
            boom()
        update()

    monkeypatch.setattr(panel, "update", once)
    ready.ui.attackButton.click()
    ready.wait_for_end(60)
    assert told and ready.parameters.result is not None
    is_told(ready, mistakes)
    works_again(ready)


@pytest.mark.parametrize("name", ["Connected", "Submitted", "Status", "Downloading", "Result"])
def test_an_event_that_cannot_be_taken_in(ready, monkeypatch, mistakes, name):
    """The session reports it and takes in those that follow; without its last one it is ready for the next."""
    with monkeypatch.context() as broken:
        broken.setattr(type(ready.session), f"_on{name}", boom)
        if name == "Connected":
            ready.session.disconnect()
            ready.ui.connectButton.click()
            ready.wait(lambda: ready.session.state == "disconnected", 30)
        else:
            ready.ui.attackButton.click()
            ready.wait_for_end(60)
        assert not ready.session.busy
        assert (ready.parameters.result is None) == (name in ("Connected", "Result"))
        is_told(ready, mistakes)
    if name == "Connected":
        ready.ui.connectButton.click()
        ready.wait(lambda: ready.session.connected, 30)
    works_again(ready)


@pytest.mark.parametrize("step", ["addVolume", "showHeat"])
def test_a_result_that_cannot_be_brought_in_leaves_nothing_behind(ready, monkeypatch, mistakes, step):
    from PerturboxLib import scene, volumes

    with monkeypatch.context() as broken:
        broken.setattr(volumes, step, boom)
        ready.ui.attackButton.click()
        ready.wait_for_end(60)
        assert scene.results() == [] and ready.parameters.result is None
        names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
        assert names == [ready.volume.GetName()]
        is_told(ready, mistakes)
    works_again(ready)


@pytest.mark.parametrize("part", ["learn", "attack.findMargin", "keepJob"])
def test_what_follows_a_result_does_not_hide_it(ready, monkeypatch, mistakes, part):
    with monkeypatch.context() as broken:
        *holder, name = part.split(".")
        broken.setattr(getattr(ready.widget, *holder) if holder else ready.widget, name, boom)
        ready.ui.attackButton.click()
        ready.wait_for_end(60)
        assert ready.widget.result.rows and ready.ui.verdictLabel.text.startswith("A change of at most ")
        is_told(ready, mistakes)
    works_again(ready)


# What a user does, and what is made to fail on the way: file and name in PerturboxLib, what the test answers if asked.
WITH_A_SERVER = {
    "effort": (lambda p: setattr(p.ui.effortComboBox, "currentIndex", 0), "presets", "find"),
    "a field of the form": (lambda p: setattr(field(p, "seed"), "value", 7), "attackpanel.AttackPanel", "keep"),
    "reset": (lambda p: unfold(p) or p.ui.resetButton.click(), "form.Form", "reset"),
    "attack": (lambda p: p.ui.attackButton.click(), "sending", "pack"),
    "segment": (lambda p: p.ui.segmentButton.click(), "sending", "pack"),
    "stop": (lambda p: p.widget.onEscape() or p.widget.attack.stop(), "session.Session", "stop"),
    "structures": (lambda p: check_first(p), "inputpanel", "structuresOf"),
    "scan": (lambda p: p.choose(None), "sending", "preflight"),
    "connect": (lambda p: p.ui.connectButton.click(), "session.Session", "disconnect"),
}
WITH_A_RESULT = {
    "server of one's own": (lambda p: p.ui.localServerButton.click(), "localserver.LocalServer", "start"),
    "example": (lambda p: p.ui.exampleButton.click(), "example", "load"),
    "next slice": (lambda p: p.ui.nextChangedButton.click(), "navigation.Navigation", "next"),
    "previous slice": (lambda p: p.ui.prevChangedButton.click(), "navigation.Navigation", "previous"),
    "worst slice": (lambda p: p.ui.worstButton.click(), "navigation.Navigation", "worst"),
    "another slice": (lambda p: p.widget.look.viewer.jump(5), "results.Result", "ml"),
    "blink": (lambda p: p.ui.blinkButton.click(), "blink.Blink", "start"),
    "label style": (lambda p: setattr(p.ui.labelStyleComboBox, "currentIndex", 2), "views.Viewer", "setLabelStyle"),
    "window": (lambda p: setattr(p.ui.windowComboBox, "currentIndex", 3), "views.Viewer", "setWindow"),
    "blind read": (lambda p: p.ui.blindReadButton.click(), "blindread", "slicesToAsk"),
    "a row": (lambda p: p.widget.result.select(p.widget.result.rows[1].name), "views.Viewer", "setIsolated"),
    "mode": (lambda p: p.ui.heatButton.click(), "views.Viewer", "show"),
    "copy": (lambda p: p.widget.keys.press(p.widget.result.copy), "results.Result", "headers"),
    "folder": (lambda p: p.ui.exportFolderButton.click(), "saving", "saveFolder", "/nowhere"),
    "report": (lambda p: p.ui.reportButton.click(), "saving", "saveReport", "/nowhere/report.html"),
    "pictures": (lambda p: p.ui.slicesButton.click(), "saving", "saveSlices", "/nowhere"),
    "remove": (lambda p: p.ui.removeButton.click(), "scene", "remove", True),
}


def field(panel, name: str):
    return panel.widget.attack.form.fields[name].widget


def unfold(panel) -> None:
    panel.ui.advancedCollapsibleGroupBox.collapsed = False


def check_first(panel) -> None:
    from PerturboxLib import form

    form.checkItems(panel.ui.targetComboBox, [0])


def fail_on_purpose(panel, control, monkeypatch, mistakes, dialogs) -> None:
    act, where, what, *answers = control
    place, _, cls = where.partition(".")
    owner = importlib.import_module(f"PerturboxLib.{place}")
    with monkeypatch.context() as broken:
        broken.setattr(getattr(owner, cls) if cls else owner, what, boom)
        dialogs.answer(*answers)
        act(panel)
        is_told(panel, mistakes)
    panel.ui.troubleFrame.visible = False
    panel.widget.update()
    assert not panel.trouble, panel.trouble


def test_each_control_that_fails(ready, monkeypatch, mistakes, dialogs):
    for name, control in WITH_A_SERVER.items():
        fail_on_purpose(ready, control, monkeypatch, mistakes, dialogs)
        ready.choose(ready.volume)
        assert ready.ui.attackButton.enabled and not ready.session.busy, name
    works_again(ready)


def test_each_control_of_a_result_that_fails_says_so(
    load_module, wait_until, rendering, monkeypatch, mistakes, dialogs
):
    panel = Driver(load_module(), wait_until)
    panel.ui.exampleButton.click()
    assert panel.widget.result.rows
    for control in WITH_A_RESULT.values():
        fail_on_purpose(panel, control, monkeypatch, mistakes, dialogs)
    panel.ui.compareButton.click()
    panel.ui.worstButton.click()
    assert panel.widget.look.viewer.index() == panel.widget.look.result.worst(panel.widget.result.selected())
    dialogs.answer(True)
    panel.ui.removeButton.click()
    assert panel.parameters.result is None and not panel.trouble


def test_a_chart_that_cannot_be_drawn_does_not_stop_the_attack(ready, monkeypatch, mistakes):
    """As where the plot view was no plot view: the second row of the trace raised, and the panel waited for ever."""
    with monkeypatch.context() as broken:
        broken.setattr(ready.widget.attack.live.plotView, "setMRMLPlotViewNode", boom, raising=False)
        ready.ui.attackButton.click()
        ready.wait_for_end(60)
        assert ready.parameters.result is not None
        is_told(ready, mistakes)
    works_again(ready)


def test_the_live_chart_leaves_with_the_panel(ready, slicer_app):
    ready.set_form(steps=2000)
    ready.ui.attackButton.click()
    ready.wait(lambda: len(ready.session.trace) >= 3, 60)
    view = ready.widget.attack.traceView
    assert isinstance(view, slicer.qMRMLPlotView) and view.parent() is not None and live_nodes()
    old = ready.widget
    slicer.util.reloadScriptedModule("Perturbox")
    slicer_app.processEvents()
    assert live_nodes() == [] and old.attack.live.nodes == []
    new = slicer.modules.PerturboxWidget
    assert new is not old and new.attack.traceView is not view


def live_nodes() -> list:
    nodes = [slicer.mrmlScene.GetNthNode(n) for n in range(slicer.mrmlScene.GetNumberOfNodes())]
    return [node.GetID() for node in nodes if (node.GetName() or "").startswith("Perturbox live")]


# ---------------------------------------------------------------- nothing is left out


def told_methods(tree) -> set[str]:
    found = set()
    for each in ast.walk(tree):
        if isinstance(each, ast.FunctionDef):
            marks = [getattr(mark, "id", getattr(mark, "attr", "")) for mark in each.decorator_list]
            found |= {each.name} if "told" in marks else set()
    return found


SIGNAL = (ast.Constant, ast.IfExp)


def called_by_qt_or_vtk(tree):
    """(name of the function, line): connected to a signal or observing an event; of a lambda, what it calls."""
    for each in ast.walk(tree):
        if not (isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)):
            continue
        name, given = each.func.attr, each.args
        place = {"connect": 1, "AddObserver": 1, "addObserver": 2, "_watch": 1}.get(name)
        if place is None or len(given) <= place or (name == "connect" and not isinstance(given[0], SIGNAL)):
            continue
        target = given[place]
        if isinstance(target, ast.Lambda):
            target = target.body.func
        yield getattr(target, "attr", getattr(target, "id", "")), each.lineno


# Guarded otherwise: the timer tries its two works one by one, the others only pass on to what is told, or collect.
GUARDED = {"onTimer", "edited", "react", "note"}


def test_whatever_qt_or_vtk_calls_is_told():
    files = [*MODULE.glob("*.py"), *MODULE.glob("PerturboxLib/*.py")]
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    told = set().union(*map(told_methods, trees.values())) | GUARDED
    calls = [
        (f"{name}:{line}", function) for name, tree in trees.items() for function, line in called_by_qt_or_vtk(tree)
    ]
    assert len(calls) > 40 and [(place, function) for place, function in calls if function not in told] == []


# ---------------------------------------------------------------- alone


def test_a_mistake_is_logged_and_told_once_each(slicer_app, mistakes, caplog):
    from PerturboxLib import mistakes as module
    from PerturboxLib.trouble import trouble

    said = []
    module.listen(said.append)
    try:
        with caplog.at_level(logging.ERROR, "Perturbox"):
            assert [module.tried(boom), module.tried(boom)] == [None, None]
        assert len(mistakes) == 1 and [each.code for each in said] == ["internal", "internal"]
        assert "ZeroDivisionError: on purpose" in said[0].detail and str(said[0]) == SENTENCE

        @module.told
        def refuse(number):
            raise trouble("no-voxels") if number else KeyError("other")

        refuse(1)
        assert said[-1].code == "no-voxels" and len(mistakes) == 1, "a Trouble is no mistake"
        refuse(0)
        refuse(0)
        assert len(mistakes) == 3 and "KeyError" in mistakes[-1], "each time that a user meets it"
        module.listen(boom)
        module.report(ValueError("lost?"))
        assert any("lost?" in text for text in mistakes) and "could not be told" in mistakes[-1]
        assert module.tried(lambda a, b: a + b, 1, 2) == 3
    finally:
        module.listen(None)
        mistakes.clear()


def test_a_script_is_told_of_a_mistake(scene, slicer_app, tiny_server, monkeypatch, mistakes):
    """Without a panel the mistake ends the wait as the Trouble that is raised."""
    from PerturboxLib import scripting, session
    from PerturboxLib.trouble import Trouble

    volume = scans.add_scan()
    monkeypatch.setattr(session.Session, "_onResult", boom)
    with pytest.raises(Trouble, match="Internal error"):
        scripting.run(volume, tiny_server.url, tiny_server.token, 240, {"kind": "attack", "eps": 4, "steps": 2})
    assert len(mistakes) == 1
    mistakes.clear()
