"""Every way HTTP can fail, at every moment of a job: exactly one Trouble with the right code, and no thread left."""

import threading

import misbehaving as bad
import pytest
from PerturboxLib import tasks
from PerturboxLib.client import Client, Waits
from PerturboxLib.trouble import Trouble

WAITS = Waits(connect=1, answer=1, submit=1, convert=1)
PACE = tasks.Pace(poll=0.01, slowest=0.05, silence=0.1, patience=0.3, answer=1, tries=2)
MOMENTS = ("connect", "submit", "poll", "files", "download")
FILES = {"image": ("scan.nrrd", b"voxels")}


def carry_out(work, seconds: float = 20) -> list[tasks.Event]:
    """All events of a work; the thread must end by itself."""
    background = tasks.Background()
    background.start(work)
    assert background.wait(seconds), "the thread doesn't end"
    return list(background.drain())


def work_of(moment: str, client: Client):
    if moment == "connect":
        return tasks.connect(client)
    return tasks.run(client, {"kind": "attack"}, FILES, (bad.SHAPE, bad.GRID), PACE)


def the_trouble(events: list[tasks.Event]) -> Trouble:
    """The one Trouble, which must be the end and in words."""
    assert [event.name for event in events].count("trouble") == 1, events
    assert events[-1].name == "trouble"
    assert not {"result", "over", "connected"} & {event.name for event in events}
    found = events[-1].data
    assert found.sentence.endswith((".", "?", "!")) and found.whatToDo.endswith((".", "?", "!")), str(found)
    assert "{" not in str(found) and found.detail
    return found


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("Perturbox")]


HTML = b"<!doctype html><title>Sign in to the hospital's network</title>"
OLDER, NEWER = {"Perturbox-API": "0.9"}, {"Perturbox-API": "2.0"}
AWAY = {"poll": "given-up", "files": "given-up", "download": "given-up"}  # after having waited for it
# fault, then the code at all moments, and at some
FAULTS = {
    "silence": (bad.silence, "time-out", AWAY),
    "hang up": (bad.hang_up, "lost", AWAY),
    "reset": (bad.reset, "lost", AWAY),
    "cut short": (bad.cut_short, "truncated", {}),
    "a byte at a time": (bad.dribble, "time-out", AWAY),
    "301 to another host": (bad.says(301, headers={"Location": "http://evil.example/x"}), "redirect", {}),
    "307 to https": (bad.says(307, headers={"Location": "https://127.0.0.1/perturbox/jobs"}), "redirect", {}),
    "308 without a place": (bad.says(308), "redirect", {}),
    "400 of a proxy": (bad.says(400), "odd-answer", {"connect": "wrong-app"}),
    "401": (bad.says(401, "unauthorized"), "token-missing", {}),
    "403": (bad.says(403, "forbidden"), "forbidden", {}),
    "404 of a job": (bad.says(404, "no-such-job"), "job-gone", {}),
    "404 of a proxy": (bad.says(404), "not-found", {"connect": "wrong-app"}),
    "409 newer server": (bad.says(409, "other-version", NEWER), "newer-server", {}),
    "409 older server": (bad.says(409, "other-version", OLDER), "older-server", {}),
    "409 odd version": (bad.says(409, "other-version", {"Perturbox-API": "x"}), "older-server", {}),
    "409 of a state": (bad.says(409, "not-over"), "conflict", {}),
    "413": (bad.says(413, "too-large"), "too-large", {}),
    "413 of a proxy": (bad.says(413), "too-large", {}),
    "415": (bad.says(415, "unsupported-media-type"), "other-format", {}),
    "418": (bad.says(418, "teapot"), "odd-answer", {"connect": "wrong-app"}),
    "422": (bad.says(422, "bad-input"), "bad-input", {}),
    "429": (bad.says(429, "queue-full", {"Retry-After": "5"}), "busy", {}),
    "500": (bad.says(500, "internal"), "server-error", {}),
    "502 of a proxy": (bad.says(502), "unavailable", AWAY),
    "503 full disk": (bad.says(503, "disk-full"), "unavailable", AWAY),
    "504 of a proxy": (bad.says(504), "unavailable", AWAY),
    "a page": (bad.gives(HTML, "text/html"), "not-json", {"connect": "wrong-app", "download": "damaged"}),
    "nothing": (bad.gives(b""), "not-json", {"connect": "wrong-app", "download": "damaged"}),
    "a list": (bad.gives(b"[1, 2]"), "odd-answer", {"connect": "wrong-app", "download": "damaged"}),
    "another object": (bad.gives(b'{"id": 7}'), "odd-answer", {"connect": "not-perturbox", "download": "damaged"}),
    "no HTTP": (bad.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "odd-answer", {"connect": "wrong-app"}),
    "odd status line": (bad.raw(b"HTTP/1.1 abc\r\n\r\n"), "odd-answer", {"connect": "wrong-app"}),
    "endless header": (bad.raw(b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"x"), "odd-answer", {"connect": "wrong-app"}),
    "broken gzip": (bad.gives(b"no gzip", headers={"Content-Encoding": "gzip"}), "damaged", {}),
    "broken chunk": (bad.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nab"), "truncated", {}),
}
CASES = [(name, moment) for name in FAULTS for moment in MOMENTS]
CASES.remove(("a byte at a time", "download"))  # a slow network is no fault there


@pytest.mark.parametrize(("name", "moment"), CASES, ids=[f"{moment}: {name}" for name, moment in CASES])
def test_every_fault_at_every_moment_is_one_trouble(name, moment):
    fault, code, elsewhere = FAULTS[name]
    with bad.Misbehaving(faults={moment: fault}) as server:
        found = the_trouble(carry_out(work_of(moment, Client(server.url, waits=WAITS))))
    assert found.code == elsewhere.get(moment, code), (found, found.detail)
    assert threads() == []
