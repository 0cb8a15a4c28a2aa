"""Works in the background: what they tell and when, and how they end."""

import ctypes
import os
import threading
import time

import misbehaving as bad
import numpy as np
import pytest
from PerturboxLib import tasks
from PerturboxLib.client import Client, Waits
from working import ending, eventually, names, sent, until

WAITS = Waits(connect=1, answer=1, submit=1, convert=1)
PACE = tasks.Pace(poll=0.01, slowest=0.05, silence=0.1, patience=30, answer=1, tries=3)
FILES = {"image": ("scan.nrrd", b"voxels")}
GRID = (bad.SHAPE, bad.GRID)
REQUEST = {"kind": "attack", "eps": 4}


@pytest.fixture
def background():
    background = tasks.Background()
    yield background
    background.stop()
    assert background.wait(2), "its thread is still there after two seconds"


# ---------------------------------------------------------------- the thread


def test_a_work_tells_what_happens_from_a_daemon_thread(background):
    found = {}

    def work(post, wishes, a, b):
        found["thread"] = threading.current_thread()
        post("submitted", a)
        post("over", b)

    background.start(work, 1, 2)
    assert background.wait(2)
    assert (
        list(background.drain()) == [tasks.Event("submitted", 1), tasks.Event("over", 2)]
        and list(background.drain()) == []
    )
    assert found["thread"].daemon and found["thread"] is not threading.current_thread()
    assert not background.running


def test_exceptions_become_events(background):
    def fails(post, wishes):
        raise KeyError("spleen")

    background.start(fails)
    error = ending(background)[0].data
    assert error.code == "internal" and "KeyError" in error.sentence and "raise KeyError" in error.detail

    def hungry(post, wishes):
        raise MemoryError

    background.start(hungry)
    assert ending(background)[0].data.code == "no-memory"


def test_a_slow_panel_is_not_flooded(background):
    def work(post, wishes):
        post("submitted", 0)
        for number in range(1000):
            post("status", number)
        post("reconnecting", 1)
        post("reconnecting", 2)
        post("status", 5)
        for number in range(1000):
            post("downloading", number)
        post("result", 7)

    background.start(work)
    assert background.wait(5)
    told = [(event.name, event.data) for event in background.drain()]
    assert told == [
        *(("submitted", 0), ("status", 999), ("reconnecting", 2)),
        *(("status", 5), ("downloading", 999), ("result", 7)),
    ]


def test_nothing_comes_of_a_work_that_was_stopped(background):
    going = threading.Event()

    def stubborn(post, wishes):
        post("submitted", 1)
        going.wait(5)
        post("result", 2)

    background.start(stubborn)
    eventually(lambda: background.running)
    background.stop()
    assert not background.running and list(background.drain()) == []
    background.start(lambda post, wishes: post("over", 3))
    going.set()
    assert background.wait(2) and list(background.drain()) == [tasks.Event("over", 3)]


def test_a_wish_wakes_the_work(background):
    def work(post, wishes):
        wishes.wait(30)
        post("submitted", wishes.take())
        wishes.wait(30)

    background.start(work)
    time.sleep(0.05)
    background.cancel(keep=False)
    assert until(background, lambda event: True, 2) == [tasks.Event("submitted", False)]


def seconds_of(call) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def test_what_is_not_taken_stays(background):
    def work(post, wishes):
        for number in range(3):
            post("submitted", number)

    background.start(work)
    assert background.wait(2)
    assert next(background.drain()).data == 0
    assert [event.data for event in background.drain()] == [1, 2]


def test_draining_gives_a_work_its_turn_and_never_waits_in_vain(background):
    begin, rest = threading.Event(), threading.Event()

    def work(post, wishes):
        begin.wait(5)
        rest.set()
        wishes.wait(5)

    assert seconds_of(lambda: list(background.drain())) < 0.01, "nothing runs"
    background.start(work)
    assert 0.015 < seconds_of(lambda: list(background.drain())) < 0.2, "at work"
    begin.set()
    assert rest.wait(5)
    eventually(lambda: seconds_of(lambda: list(background.drain())) < 0.01, 1)
    background.cancel()
    assert background.wait(2)
    assert seconds_of(lambda: list(background.drain())) < 0.01, "over"


@pytest.mark.skipif(os.name == "nt", reason="usleep is a call of POSIX systems")
def test_a_work_gets_on_in_an_application_that_never_lets_go_of_pythons_lock(background, tiny_server):
    """As in Slicer, where only a timer's Python does, for a moment. The server is another process here."""
    hold = ctypes.PyDLL(None).usleep  # PyDLL keeps the lock while C runs
    client = Client(tiny_server.url, tiny_server.token)
    background.start(tasks.run(client, {"kind": "segment"}, *sent("axial")))
    events = []
    for _ in range(200):
        hold(100_000)
        events += background.drain()
        if events and events[-1].name in ("result", "trouble", "over"):
            break
    assert names(events)[0] == "submitted" and names(events)[-1] == "result"


# ---------------------------------------------------------------- works, on a server that can misbehave


def test_connecting(background):
    with bad.Misbehaving() as server:
        client = Client(server.url)
        background.start(tasks.connect(client))
        events = ending(background)
    assert names(events) == ["connected"] and events[0].data["api"] == "1.0"
    assert client.limits == {"upload_bytes": 2**20}


def test_an_attack_from_submission_to_its_images(background):
    with bad.Misbehaving() as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        events = ending(background)
    assert names(events)[0] == "submitted" and names(events)[-1] == "result"
    assert set(names(events)[1:-1]) <= {"status", "downloading"}
    bundle = events[-1].data
    assert (bundle.kind, bundle.jobId, bundle.record) == ("attack", bad.ID, bad.RECORD)
    assert bundle.report == bad.PAGE and bundle.status["state"] == "done"
    stems = {"adversarial": "perturbed", "perturbation": "perturbation", "clean_seg": "clean"}
    stems |= {"adversarial_seg": "adversarial", "difference_seg": "difference"}
    assert set(bundle.images) == set(stems.values())
    for name, array in bad.volumes().items():
        image = bundle.images[stems[name.partition(".")[0]]]
        assert image.array.dtype == array.dtype and np.array_equal(image.array, array)
        assert np.array_equal(image.ijkToRas, bad.GRID)


def test_the_trace_is_told_whole_however_seldom_one_looks(background):
    with bad.Misbehaving(bad.Job(states=["running"] * 9 + ["done"])) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        assert background.wait(10)
        queries = [call[2] for call in server.calls if call[0] == "poll"]
        statuses = [event.data for event in background.drain() if event.name == "status"]
    assert queries == [f"/perturbox/jobs/{bad.ID}?since={n}" for n in range(10)], "each step is sent once"
    assert [point["step"] for point in statuses[-1]["progress"]["trace"]] == list(range(10))


def test_downloads_tell_how_far_they_are(background):
    with bad.Misbehaving() as server:
        background.start(tasks.follow(Client(server.url), bad.ID, GRID, PACE))
        downloads = [event.data for event in ending(background) if event.name == "downloading"]
    last = downloads[-1]
    assert (last["name"], last["file"], last["files"]) == ("report.html", 7, 7)
    assert last["received"] == last["size"] == len(bad.PAGE.encode())


def test_a_segmentation_and_a_margin(background):
    with bad.Misbehaving(bad.Job("segment")) as server:
        background.start(tasks.run(Client(server.url), {"kind": "segment"}, FILES, GRID, PACE))
        bundle = ending(background)[-1].data
        assert bundle.kind == "segment" and bundle.record == {"noise": {"sigma": 9.5}} and bundle.report == ""
        assert np.array_equal(bundle.images["segmentation"].array, bad.volumes()["clean_seg.nii.gz"])
        server.job = bad.Job("margin")
        background.start(tasks.run(Client(server.url), {"kind": "margin"}, FILES, GRID, PACE))
        bundle = ending(background)[-1].data
        assert (bundle.kind, bundle.record, bundle.images) == ("margin", {"structures": {}}, {})


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_a_job_that_failed_says_the_servers_three_sentences(background, state):
    job = bad.Job(states=["running", state])
    job.error = {"error": "out-of-memory", "detail": "The memory ran out.", "what_to_do": "Crop the scan to the organ."}
    with bad.Misbehaving(job) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        error = ending(background)[-1].data
        assert error.code == "out-of-memory" and str(error) == "The memory ran out. Crop the scan to the organ."
        for job.error in (None, {}, "odd", {"error": 1}):
            background.start(tasks.follow(Client(server.url), bad.ID, GRID, PACE))
            error = ending(background)[-1].data
            assert error.code == "unfinished" and f"'{state}'" in error.sentence


@pytest.mark.parametrize("keep", [True, False])
def test_cancelling_takes_effect_on_the_running_job(background, keep):
    job = bad.Job(states=["running"])
    with bad.Misbehaving(job) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, tasks.Pace(poll=30)))
        until(background, lambda event: event.name == "status")
        if not keep:
            job.files = job.images = {}
        background.cancel(keep)
        events = until(background, lambda event: event.name in ("status",) and event.data["state"] == "cancelling", 2)
        assert job.wishes == [keep], "heard at once, though the next look was due in 30 s"
        background.cancel(keep)  # pressed once more, which looks again
        events = ending(background, 5)
    if keep:
        assert names(events)[-1] == "result" and events[-1].data.status["state"] == "cancelled"
    else:
        assert events[-1].name == "over" and events[-1].data["state"] == "cancelled"


def test_cancelling_while_the_scan_is_sent_leaves_no_job(background):
    """The server takes the first bytes only; what has not arrived whole never becomes a job."""
    slow = threading.Event()

    def sip(handler):
        handler.rfile.read(100)
        slow.wait(10)
        try:
            while handler.rfile.read(2**16):
                pass
        except OSError:
            pass
        handler.close_connection = True

    with bad.Misbehaving(faults={"submit": sip}) as server:
        client = Client(server.url, waits=Waits(submit=10))
        background.start(tasks.run(client, REQUEST, {"image": ("scan.nrrd", bytes(64 * 2**20))}, GRID, PACE))
        eventually(lambda: server.count("submit") == 1)
        background.cancel(keep=True)
        slow.set()
        assert ending(background) == [tasks.Event("over", None)]
        assert server.count("cancel") == server.count("poll") == 0


def test_a_wish_to_cancel_survives_a_server_that_is_away(background):
    job = bad.Job(states=["running"])
    with bad.Misbehaving(job, faults={"cancel": bad.says(503, "closing")}) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        until(background, lambda event: event.name == "status")
        background.cancel(keep=True)
        eventually(lambda: server.count("cancel") >= 3)
        server.faults = {}
        assert ending(background)[-1].name == "result" and job.wishes == [True]


def test_a_wish_during_the_downloads_wakes_the_thread_once(background):
    with bad.Misbehaving(faults={"download": bad.says(503)}) as server:
        pace = tasks.Pace(poll=0.3, slowest=0.3)
        background.start(tasks.follow(Client(server.url), bad.ID, GRID, pace))
        eventually(lambda: server.count("download") == 1)
        background.cancel(keep=True)
        time.sleep(0.5)
        assert server.count("download") <= 4, "it doesn't wait between two tries"
        server.faults = {}
        assert ending(background)[-1].name == "result"


def test_a_job_that_ends_before_the_wish_arrives_is_loaded(background):
    job = bad.Job(states=["running"])
    with bad.Misbehaving(job, faults={"cancel": bad.says(409, "over", detail="This job is done already.")}) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        until(background, lambda event: event.name == "status")
        background.cancel(keep=True)
        eventually(lambda: server.count("cancel") == 1)
        job.states = ["done"]
        assert ending(background)[-1].name == "result"


def test_stopping_after_a_wish_still_tells_the_server(background):
    job = bad.Job(states=["running"])
    with bad.Misbehaving(job) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, tasks.Pace(poll=30)))
        until(background, lambda event: event.name == "status")
        background.cancel(keep=False)
        background.stop()
        assert background.wait(2) and job.wishes == [False] and list(background.drain()) == []


def test_stopping_alone_leaves_the_job_running_to_be_followed(background):
    job = bad.Job(states=["running"])
    with bad.Misbehaving(job) as server:
        background.start(tasks.run(Client(server.url), REQUEST, FILES, GRID, PACE))
        jobId = until(background, lambda event: event.name == "submitted")[-1].data["id"]
        background.stop()
        assert background.wait(2) and job.wishes == []
        job.states = ["running", "done"]
        background.start(tasks.follow(Client(server.url), jobId, GRID, PACE))
        events = ending(background)
        assert names(events)[0] == "status" and events[-1].data.images.keys() == {*tasks.IMAGES["attack"]}


STOPS = [(moment, bad.silence) for moment in ("connect", "submit", "poll", "files", "download")]
STOPS += [(moment, bad.says(503)) for moment in ("poll", "files", "download")]  # between two tries


@pytest.mark.parametrize(("moment", "fault"), STOPS)
def test_stopping_ends_the_thread_within_two_seconds_at_every_moment(background, moment, fault):
    with bad.Misbehaving(faults={moment: fault}) as server:
        client = Client(server.url)
        work = tasks.connect(client) if moment == "connect" else tasks.run(client, REQUEST, FILES, GRID)
        background.start(work)
        eventually(lambda: server.count(moment) >= 1)
        time.sleep(0.05)
        begun = time.monotonic()
        background.stop()
        assert background.wait(2) and time.monotonic() - begun < 2
        assert list(background.drain()) == []


def test_a_server_that_comes_back_is_followed_on(background):
    job = bad.Job(states=["running"])
    with bad.Misbehaving(job) as server:
        background.start(tasks.run(Client(server.url, waits=WAITS), REQUEST, FILES, GRID, PACE))
        until(background, lambda event: event.name == "status")
        server.stop()
        lost = until(background, lambda event: event.name == "reconnecting")[-1].data
        assert lost.code in ("no-server", "lost")
        job.states = ["running", "done"]
        server.start()
        events = ending(background)
    assert "status" in names(events) and events[-1].name == "result"


@pytest.mark.parametrize("moment", ["poll", "files", "download"])
@pytest.mark.parametrize(
    "fault", [bad.hang_up, bad.reset, bad.cut_short, bad.says(502), bad.says(500, "internal"), bad.raw(b"?\r\n\r\n")]
)
def test_one_fault_that_passes_is_not_even_told(background, moment, fault):
    with bad.Misbehaving() as server:

        def once(handler):
            server.faults = {}
            fault(handler)

        server.faults = {moment: once}
        background.start(tasks.run(Client(server.url, waits=WAITS), REQUEST, FILES, GRID, PACE))
        events = ending(background)
    assert events[-1].name == "result" and "reconnecting" not in names(events)
