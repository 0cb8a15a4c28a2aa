"""What goes wrong leaves Slicer usable: one sentence, no orphan nodes, and Attack can be pressed again.

A proxy stands between the panel and a real server and fails at one moment: connect, submit, poll, files or download.
"""

import json

import pytest
import scans
import slicer
from driving import Driver
from misbehaving import cut_short, gives, hang_up, reset, says
from proxy import Proxy


@pytest.fixture
def proxy(tiny_server):
    with Proxy(tiny_server.url) as running:
        yield running


@pytest.fixture
def panel(load_module, wait_until, monkeypatch):
    from PerturboxLib import tasks

    quick = tasks.Pace(poll=0.05, slowest=0.2, silence=0.3, patience=30.0)
    monkeypatch.setattr(tasks, "Pace", lambda: quick)
    return Driver(load_module(), wait_until)


@pytest.fixture
def ready(panel, proxy):
    """Connected through the proxy, a scan chosen, three steps asked for; `nodes` is what the scene holds then."""
    panel.volume = scans.add_scan("oblique")
    panel.connect(proxy)
    panel.choose(panel.volume)
    panel.set_form(steps=3)
    panel.nodes = node_names()
    return panel


def node_names() -> list:
    """Every node of the scene but those that come and go with what is shown."""
    passing = ("vtkMRMLColor", "vtkMRMLTableStorage", "vtkMRMLSelection", "vtkMRMLInteraction")
    kept = [slicer.mrmlScene.GetNthNode(n) for n in range(slicer.mrmlScene.GetNumberOfNodes())]
    return sorted(node.GetID() for node in kept if not node.GetClassName().startswith(passing))


def one_clear_sentence(panel, *words) -> str:
    said = panel.trouble
    assert said and said[0] == said[0].upper() and said[-1] in ".?!…", said
    assert "Traceback" not in said and "Error" not in said and len(said) < 400, said
    for word in words:
        assert word in said, said
    return said


# ---------------------------------------------------------------- connecting

NO_APP = json.dumps({"models": {}, "labels": {}, "strategies": {}}).encode()
CONNECTING = {
    "hangs up": (hang_up, ["Check the network"]),
    "resets": (reset, ["Check the network"]),
    "asks for a token": (says(401, "unauthorized"), ["asks for a token", "operator"]),
    "forbidden": (says(403), ["refuses"]),
    "no Perturbox app": (says(404), []),
    "another version": (
        says(409, "other-version", headers={"Perturbox-API": "2.0"}),
        ["speaks version 2.0", "Update the Perturbox extension"],
    ),
    "too many requests": (says(429, "busy", headers={"Retry-After": "7"}), []),
    "a mistake of its own": (says(500), ["Internal error"]),
    "away for a moment": (says(503, "ending"), []),
    "no JSON": (gives(b"<html>hello</html>"), []),
    "JSON of something else": (gives(b'{"hello": 1}'), ["it is not a Perturbox server"]),
    "an older schema": (
        gives(json.dumps({"api": "0.9", "victims": [], "attacks": [], "models": {}}).encode()),
        ["0.9"],
    ),
    "sends elsewhere": (says(307, headers={"Location": "http://example.org/"}), ["redirects to another address"]),
}


@pytest.mark.parametrize("name", CONNECTING)
def test_connecting(panel, proxy, name):
    fault, words = CONNECTING[name]
    proxy.faults["connect"] = fault
    before = node_names()
    panel.begin_to_connect(proxy.url)
    panel.wait(lambda: panel.trouble, 30, "a sentence")
    one_clear_sentence(panel, *words)
    assert panel.ui.connectButton.text == "Connect" and panel.ui.connectButton.enabled and node_names() == before
    proxy.faults.clear()
    panel.connect(proxy)
    assert not panel.trouble, "connecting again takes the sentence away"


@pytest.mark.parametrize("address", ["", "http://", "not an address", "ftp://host:1", "http://127.0.0.1:1"])
def test_an_address_that_cannot_be_reached(panel, address):
    panel.begin_to_connect(address)
    panel.wait(lambda: panel.trouble, 30, "a sentence")
    one_clear_sentence(panel)
    assert panel.ui.connectButton.enabled and not panel.session.connected


# ---------------------------------------------------------------- a job


def flip_a_bit(body: bytes, path: str) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1]) if path.endswith("result.json") else body


def shift_the_grid(body: bytes, path: str) -> bytes:
    """The same voxels a centimetre away."""
    from PerturboxLib import nrrd

    if "format=nrrd" not in path:
        return body
    image = nrrd.decode(body)
    affine = image.ijkToRas.copy()
    affine[0, 3] += 10
    return nrrd.encode(image.array, affine)


def crop(body: bytes, path: str) -> bytes:
    from PerturboxLib import nrrd

    return nrrd.encode(nrrd.decode(body).array[1:], nrrd.decode(body).ijkToRas) if "format=nrrd" in path else body


def no_volume(body: bytes, path: str) -> bytes:
    return b"NRRD0005\nnonsense\n\n" if "format=nrrd" in path else body


def ended(state: str, **error):
    def change(body: bytes, path: str) -> bytes:
        told = json.loads(body)
        return json.dumps({**told, "state": state, "finished": "now", "error": error or None}).encode()

    return change


REFUSAL = {"error": "bad-input", "detail": "The model found no spleen in this scan.", "what_to_do": "Choose others."}
DIED = {"error": "worker-died", "detail": "The worker died.", "what_to_do": "Run it again."}
FAULTS = {
    "submit: token withdrawn": ({"submit": says(401, "unauthorized")}, {}, ["token"]),
    "submit: too large": ({"submit": says(413, "too-large", detail="Larger than 1 MiB.")}, {}, ["Larger than 1 MiB"]),
    "submit: odd format": ({"submit": says(415, "other-format")}, {}, []),
    "submit: refused": ({"submit": says(422, "bad-input", detail="Unknown attack.")}, {}, ["Unknown attack"]),
    "submit: queue full": ({"submit": says(429, "busy", detail="32 jobs wait.", headers={"Retry-After": "9"})}, {}, []),
    "submit: a mistake": ({"submit": says(500)}, {}, ["Internal error"]),
    "submit: disk full": ({"submit": says(503, "disk-full", detail="The disk is full.")}, {}, ["disk is full"]),
    "submit: hangs up": ({"submit": hang_up}, {}, []),
    "submit: resets": ({"submit": reset}, {}, []),
    "submit: no JSON": ({"submit": gives(b"<html>")}, {}, []),
    "poll: job gone": ({"poll": says(404, "no-such-job")}, {}, []),
    "poll: token withdrawn": ({"poll": says(401, "unauthorized")}, {}, ["token"]),
    "poll: a mistake": ({"poll": says(500)}, {}, ["Internal error"]),
    "poll: no JSON": ({"poll": gives(b"{")}, {}, []),
    "poll: no structure": ({}, {"poll": ended("failed", **REFUSAL)}, ["no spleen", "Choose others."]),
    "poll: worker died": ({}, {"poll": ended("failed", **DIED)}, ["worker died", "Run it again."]),
    "poll: server restarted": ({}, {"poll": ended("interrupted")}, []),
    "files: gone": ({"files": says(404, "no-such-job")}, {}, []),
    "files: no JSON": ({"files": gives(b"[]")}, {}, []),
    "download: truncated": ({"download": cut_short}, {}, ["incomplete"]),
    "download: damaged": ({}, {"download": flip_a_bit}, ["damaged"]),
    "download: moved": ({}, {"download": shift_the_grid}, ["does not line up", "not loaded"]),
    "download: cropped": ({}, {"download": crop}, ["does not line up"]),
    "download: no volume": ({}, {"download": no_volume}, []),
    "download: gone": ({"download": says(404, "no-such-file")}, {}, []),
    "download: a mistake": ({"download": says(500)}, {}, ["Internal error"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_job(ready, proxy, name):
    faults, changes, words = FAULTS[name]
    proxy.faults.update(faults)
    proxy.changes.update(changes)
    ready.ui.attackButton.click()
    ready.wait(lambda: ready.trouble, 60, "a sentence")
    one_clear_sentence(ready, *words)
    ready.wait(lambda: not ready.session.busy, 10)
    assert node_names() == ready.nodes, "no orphan is left in the scene"
    assert ready.ui.attackButton.enabled and not ready.ui.stopButton.enabled and ready.ui.progressBar.isHidden()
    assert ready.ui.inputVolumeSelector.enabled and ready.parameters.jobId == ""


def test_a_refusal_goes_with_what_was_refused_and_why_a_job_failed_stays(ready, proxy, monkeypatch):
    from PerturboxLib.trouble import trouble

    proxy.faults["download"] = cut_short
    ready.ui.attackButton.click()
    ready.wait(lambda: ready.trouble, 60)
    failed = one_clear_sentence(ready, "incomplete")
    ready.wait(lambda: not ready.session.busy, 10)
    ready.parameters.eps = ready.parameters.eps + 1
    ready.set_form(steps=4)
    assert ready.trouble == failed, "another setting doesn't undo that it failed"

    def refused(*_, **__):
        raise trouble("no-size")

    monkeypatch.setattr(ready.widget.input, "parcel", refused)
    ready.ui.attackButton.click()
    one_clear_sentence(ready, "grid has no size")
    ready.parameters.window = "lung"
    one_clear_sentence(ready, "grid has no size")
    ready.parameters.eps = ready.parameters.eps + 1
    assert ready.trouble == failed, "what was refused is no longer asked for; the failure is still the last word"


def test_what_was_wrong_with_an_address_goes_with_it(panel, proxy):
    panel.begin_to_connect("ftp://host:1")
    panel.wait(lambda: panel.trouble, 30, "a sentence")
    panel.ui.serverComboBox.setEditText(proxy.url)
    assert not panel.trouble


def test_after_a_fault_the_same_attack_works(ready, proxy):
    proxy.faults["download"] = cut_short
    ready.ui.attackButton.click()
    ready.wait(lambda: ready.trouble, 60)
    proxy.faults.clear()
    assert ready.attack() is not None and not ready.trouble


@pytest.mark.parametrize("moment", ["poll", "files", "download"])
def test_a_server_that_is_away_for_a_while_is_waited_for(ready, proxy, moment):
    proxy.faults[moment] = hang_up
    ready.ui.attackButton.click()
    ready.wait(lambda: ready.session.state == "reconnecting", 60, "reconnecting")
    assert ready.ui.liveLabel.text == "Connection lost. The attack is still running on the server; waiting…"
    proxy.faults.clear()
    ready.wait_for_end(60)
    assert not ready.trouble and ready.parameters.result is not None


def test_stop_while_the_server_is_away_waits_for_it(ready, proxy):
    ready.set_form(steps=3000)
    ready.ui.attackButton.click()
    ready.wait(lambda: len(ready.session.trace) > 2, 60)
    proxy.faults["poll"] = hang_up
    ready.wait(lambda: ready.session.state == "reconnecting", 60)
    ready.ui.stopButton.click()
    proxy.faults.clear()
    ready.wait_for_end(60)
    assert ready.parameters.result is not None and not ready.trouble


# ---------------------------------------------------------------- Slicer moves on meanwhile


def started(ready, steps: int = 3000) -> str:
    ready.set_form(steps=steps)
    ready.parameters.eps = 1.0
    ready.ui.attackButton.click()
    ready.wait(lambda: len(ready.session.trace) > 1, 60, "the attack runs")
    return ready.session.jobId


def state_on_server(server, job: str) -> str:
    return server.get(f"/perturbox/jobs/{job}").json()["state"]


def test_the_scan_is_removed_while_it_is_attacked(ready, tiny_server):
    job = started(ready)
    slicer.mrmlScene.RemoveNode(ready.volume)
    assert not ready.session.busy
    one_clear_sentence(ready, "The scan was removed")
    ready.wait(lambda: state_on_server(tiny_server, job) == "cancelled", 30, "the server drops the job")
    assert ready.ui.attackButton.toolTip == "Choose a scan first"
    assert not any("PERTURBED" in (n.GetName() or "") for n in slicer.util.getNodesByClass("vtkMRMLVolumeNode"))


def test_the_scene_is_closed_while_its_scan_is_attacked(ready, tiny_server):
    job = started(ready)
    slicer.mrmlScene.Clear(0)
    assert not ready.session.busy and ready.session.connected
    one_clear_sentence(ready, "The scene was closed")
    ready.wait(lambda: state_on_server(tiny_server, job) == "cancelled", 30, "the server drops the job")
    ready.choose(scans.add_scan())
    ready.set_form(steps=2)
    assert ready.attack() is not None


def test_the_scan_is_removed_while_its_result_comes_in(ready):
    ready.ui.attackButton.click()
    ready.wait(lambda: ready.session.state == "importing", 60, "importing")
    slicer.mrmlScene.RemoveNode(ready.volume)
    ready.wait(lambda: not ready.session.busy, 20)
    one_clear_sentence(ready, "removed")
    assert not any("PERTURBED" in (n.GetName() or "") for n in slicer.util.getNodesByClass("vtkMRMLVolumeNode"))


def test_the_scene_is_closed_while_a_result_is_looked_at(ready):
    ready.attack()
    slicer.mrmlScene.Clear(0)
    assert ready.parameters.result is None and not ready.ui.lookCollapsibleButton.enabled
    assert ready.widget.look.viewer.nodes is None


def test_a_part_of_a_result_is_removed_by_hand(ready):
    from PerturboxLib import scene

    nodes = scene.Nodes(ready.attack())
    slicer.mrmlScene.RemoveNode(nodes.perturbed)
    ready.ui.differenceButton.click()
    one_clear_sentence(ready, "no longer in the scene")
    assert ready.attack() is not None


def test_leaving_the_module_lets_the_attack_go_on(ready):
    job = started(ready, 60)
    slicer.util.mainWindow().moduleSelector().selectModule("")
    ready.wait(lambda: not ready.session.busy, 60, "the attack ends by itself")
    assert ready.parameters.result is not None and job
    slicer.util.selectModule("Perturbox")
    assert ready.widget.look.viewer.nodes is not None, "its result is shown once one comes back"


def test_a_running_job_is_taken_up_again_after_a_reload(ready, tiny_server, wait_until):
    """As after Slicer was closed with the scene saved: another panel on the same parameters connects and follows."""
    job = started(ready, 400)
    assert ready.parameters.jobId == job
    slicer.util.reloadScriptedModule("Perturbox")
    slicer.app.processEvents()
    again = Driver(slicer.modules.PerturboxWidget, wait_until)
    assert again.widget.entered and not again.session.connected and again.parameters.jobId == job
    again.begin_to_connect(again.parameters.jobServer)
    again.wait(lambda: again.session.jobId == job, 30, "the job is taken up")
    again.ui.stopButton.click()
    again.wait_for_end(60)
    assert again.parameters.result is not None and again.parameters.jobId == ""


def test_closing_slicer_leaves_the_job_running_and_no_thread(ready, tiny_server):
    job = started(ready)
    ready.widget.cleanup()
    assert ready.session.background.wait(3), "its thread has ended"
    assert state_on_server(tiny_server, job) == "running"
    import requests

    requests.post(f"{tiny_server.url}/perturbox/jobs/{job}/cancel", json={"keep": False}, timeout=30)


def test_a_scan_goes_to_another_computer_only_after_a_question(ready, dialogs, monkeypatch):
    from PerturboxLib import settings
    from PerturboxLib.client import Client

    monkeypatch.setattr(Client, "isLoopback", False)
    dialogs.answer(False)
    ready.ui.attackButton.click()
    assert (
        not ready.session.busy and "will be sent to" in dialogs.texts()[0] and "no patient name" in dialogs.texts()[0]
    )
    dialogs.answer(True)
    ready.ui.attackButton.click()
    assert ready.session.busy and settings.maySend(ready.session.client.host)
    ready.wait_for_end(60)
    ready.ui.attackButton.click()
    assert ready.session.busy, "it asks once for each server"
    ready.wait_for_end(60)
