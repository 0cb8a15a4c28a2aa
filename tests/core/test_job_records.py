"""Records that can't be read: set aside and said so, never a server that doesn't start, never a lost result."""

import json
import sqlite3
import stat
import time

import pytest

from perturbox.certificates.smoothed import Question
from perturbox.job.execute import Job
from perturbox.jobs import Order, Record
from perturbox.jobs.shelf import Shelf

GOOD = Record("a" * 32, Order("segment", Job(image="x")), 1.0, state="done", finished=2.0)


def kept(home, *rows: tuple[str, str]) -> None:
    """A home with these rows and a result for each."""
    Shelf(home).close()
    with sqlite3.connect(home / "jobs.sqlite") as database:
        database.executemany("INSERT INTO record VALUES (?, ?)", rows)
    database.close()
    for id, _ in rows:
        (home / "jobs" / id / "result").mkdir(parents=True)
        (home / "jobs" / id / "result" / "result.json").write_text("{}")


def document(**changes) -> str:
    return json.dumps({**GOOD.to_json(), "id": "b" * 32, **changes})


BAD = {
    "cut": document()[:-20],
    "no JSON": "\0\1",
    "another shape": "[1, 2]",
    "null": "null",
    "an unknown field": document(colour="red"),
    "an unknown field of the job": document(order={**GOOD.order.to_json(), "job": {"image": "x", "new": 1}}),
    "a lacking field": json.dumps({"id": "b" * 32}),
    "an unknown state": document(state="dreaming"),
    "an absurd time": document(created=1e300),
    "a time before all": document(finished=-1e12),
    "a time in words": document(created="yesterday"),
    "another id": document(id="c" * 32),
    "no progress": document(progress=None),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_row_is_left_as_it_is_and_its_result_too(tmp_path, caplog, name):
    kept(tmp_path, (GOOD.id, json.dumps(GOOD.to_json())), ("b" * 32, BAD[name]))
    shelf = Shelf(tmp_path)
    shelf.recover()
    assert list(shelf.records) == [GOOD.id] and shelf.records[GOOD.id].state == "done"
    assert "1 records can't be read" in caplog.text
    shelf.close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as database:
        rows = dict(database.execute("SELECT id, document FROM record").fetchall())
    database.close()
    assert rows["b" * 32] == BAD[name]
    assert (tmp_path / "jobs" / ("b" * 32) / "result" / "result.json").is_file()


@pytest.mark.parametrize("damage", ["noise", "cut", "empty page", "text"])
def test_a_damaged_file_is_kept_beside_a_new_one(tmp_path, damage):
    kept(tmp_path, (GOOD.id, json.dumps(GOOD.to_json())))
    path = tmp_path / "jobs.sqlite"
    raw = path.read_bytes()
    path.write_bytes({
        "noise": b"\7" * len(raw),
        "cut": raw[:1000],
        "empty page": raw[:4096] + bytes(len(raw) - 4096),
        "text": b"hello",
    }[damage])  # fmt: skip
    shelf = Shelf(tmp_path)
    shelf.recover()
    assert shelf.records == {}
    shelf.save(GOOD)
    shelf.close()
    assert len(list(tmp_path.glob("jobs.sqlite.damaged-*"))) == 1
    (results,) = tmp_path.glob("jobs.damaged-*")
    assert (results / GOOD.id / "result" / "result.json").is_file()
    again = Shelf(tmp_path)
    assert list(again.records) == [GOOD.id]
    again.close()


def test_the_home_is_its_owners_alone(tmp_path):
    tmp_path.chmod(0o755)
    Shelf(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_clock_that_is_set_forward_deletes_nothing(tmp_path, monkeypatch):
    now = time.time()
    record = Record("d" * 32, GOOD.order, now, state="done", finished=now)
    shelf = Shelf(tmp_path)
    shelf.records[record.id] = record
    monkeypatch.setattr(time, "time", lambda: now + 8 * 86400)
    shelf.expire(7, 2**40)
    assert list(shelf.records) == [record.id]
    ticked = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: ticked + 8 * 86400)
    shelf.expire(7, 2**40)
    assert shelf.records == {}
    shelf.close()


def test_a_record_that_cannot_be_deleted_keeps_its_files(tmp_path):
    kept(tmp_path, (GOOD.id, json.dumps(GOOD.to_json())))
    shelf = Shelf(tmp_path)
    shelf._store._database.execute("PRAGMA busy_timeout = 10")
    with sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError):
            shelf.forget(shelf.records[GOOD.id])
        other.execute("ROLLBACK")
    other.close()
    assert GOOD.id in shelf.records and (tmp_path / "jobs" / GOOD.id / "result").is_dir()
    shelf.close()


@pytest.mark.parametrize(
    "attack, capped, eps", [("pgd", False, 4.0), ("bias-field", False, None), ("bias-field", True, 4.0)]
)
def test_a_record_that_says_whether_eps_was_given_still_reads(attack, capped, eps):
    """Records of 0.1 hold an eps in any case; an attack with a budget of its own took it only if the user gave it."""
    order = Order("attack", Job(image="x", attack=attack, eps=4.0)).to_json()
    order["job"]["capped"] = capped
    assert Order.from_json(order).job == Job(image="x", attack=attack, eps=eps)


def test_what_is_certified_and_who_is_asked_come_back_from_disk():
    question = Question(20.0, n=60, adaptive=True, groups={"soft": ["liver", "spleen"]}, seed=3)
    for order in (Order("certify", Job("x"), question=question), Order("detect", Job("x"), detectors={"a": "/a.st"})):
        assert Order.from_json(json.loads(json.dumps(order.to_json()))) == order


def test_an_order_from_before_certificates_is_read():
    older = {key: value for key, value in Order("attack", Job("x")).to_json().items() if key in ("kind", "job", "name")}
    assert Order.from_json(older) == Order("attack", Job("x"))
