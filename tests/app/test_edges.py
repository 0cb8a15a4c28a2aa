"""What a server meets at its edges: odd requests, many files, half-sent ones, folders it can't write to, no network."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import time

import pytest
import tiny
from serving import TINY, Server, clean_environment, serve_command


def refused(answer, status: int, word: str) -> dict:
    assert answer.status_code == status, answer.text[:300]
    told = answer.json()
    assert set(told) == {"error", "detail", "what_to_do"} and word in told["detail"]
    return told


def scan(server: Server) -> bytes:
    return (server.studies / "case_a.nii.gz").read_bytes()


# ---------------------------------------------------------------- odd requests


def test_a_version_of_thousands_of_digits_is_another_version(server):
    told = refused(server.http.get("/perturbox/schema", headers={"Perturbox-API": "9" * 6000}), 409, "version 1.0")
    assert told["what_to_do"] == "Update the server."


@pytest.mark.parametrize("target", [[["liver"]], [{"a": 1}], [None], [[]], [1]])
def test_targets_that_are_no_names_are_refused(server, target):
    params = {"params": (None, json.dumps({"target": target}))}
    refused(server.http.post("/infer/tiny-pgd?image=case_a", files=params), 422, "target")


def test_a_label_map_without_a_label_is_refused(server):
    params = {"params": (None, json.dumps({"label_map": "liver=1"}))}
    refused(server.http.post("/infer/tiny-pgd?image=case_a", files=params), 422, "label_map says how to read a label")


def test_jobs_come_in_pages(server):
    for _ in range(3):
        job = server.http.post("/perturbox/jobs", json={"kind": "segment", "image": "case_a"}).json()
    whole = server.http.get("/perturbox/jobs").json()
    assert whole["jobs"][0]["id"] == job["id"] and whole["total"] >= 3
    seen, offset = [], 0
    while offset is not None:
        page = server.http.get(f"/perturbox/jobs?limit=2&offset={offset}").json()
        assert len(page["jobs"]) <= 2 and page["total"] == whole["total"]
        seen += [job["id"] for job in page["jobs"]]
        offset = page["next"]
    assert seen[:100] == [job["id"] for job in whole["jobs"]] and len(seen) == whole["total"]
    refused(server.http.get("/perturbox/jobs?limit=101"), 422, "'limit' in the query")


def test_wrong_tokens_are_slow(server):
    begun = time.monotonic()
    for _ in range(3):
        assert server.http.get("/info/", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert time.monotonic() - begun >= 1.5
    begun = time.monotonic()
    assert server.http.get("/perturbox/health").status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_api_page_needs_no_network_and_runs_no_script(server, path):
    answer = server.http.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert "<script" not in answer.text.lower() and not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for route in ("/perturbox/jobs/{id}/cancel", "/infer/{model}", "/datastore/dataset"):
        assert route in answer.text


def test_a_session_takes_five_thousand_files_and_no_more(server):
    content = b"\0" * 128 + b"DICM" + b"\0" * 100
    many = [("files", (f"{number}.dcm", content)) for number in range(5000)]
    answer = server.http.put("/session/", files=many)
    assert answer.status_code == 200, answer.text
    id = answer.json()["session_id"]
    told = server.http.get(f"/session/{id}").json()
    assert len(os.listdir(told["image"])) == 5000
    assert server.http.delete(f"/session/{id}").status_code == 200
    refused(server.http.put("/session/", files=[*many, many[0]]), 413, "at most 5000 files")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x\r\n",
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.dcm"\r\n\r\nabc',
        b"junk" * 99,
        b"--x\r\n" + b"A" * 100_000,
        b"--x\r\n" + b"A: b\r\n" * 100 + b"\r\n\r\n--x--",
    ],
)
def test_damaged_forms_are_refused(server, body):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert server.http.put("/session/", content=body, headers=headers).status_code == 422


# ---------------------------------------------------------------- servers of their own


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A server that may have 256 files open, on studies that can't be written to, with records that were damaged."""
    from serving import start_server

    folder = tmp_path_factory.mktemp("lone")
    (folder / "studies").mkdir()
    tiny.write_scan(folder / "studies" / "case_a.nii.gz")
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", str(folder / "studies"), str(folder / "studies")])
    if mounted.returncode:
        pytest.skip("needs the right to mount a folder")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder / "studies")], check=True)
    (folder / "home").mkdir(mode=0o755)
    (folder / "home" / "jobs.sqlite").write_bytes(b"no database")
    command = serve_command(folder / "studies", folder / "home", "{port}", (TINY,), None)
    server = start_server(folder, command=["bash", "-c", 'ulimit -n 256; exec "$@"', "bash", *command])
    yield server
    server.stop()
    subprocess.run(["umount", str(folder / "studies")], check=True)


def test_damaged_records_are_set_aside(lone):
    assert lone.http.get("/perturbox/jobs").json()["total"] >= 0
    assert len(list(lone.home.glob("jobs.sqlite.damaged-*"))) == 1
    assert "the records were damaged" in lone.said()


def test_its_home_is_nobody_elses(lone):
    for place in [lone.home, *lone.home.rglob("*")]:
        if not place.is_symlink() and ".damaged" not in place.name:
            assert place.stat().st_mode & 0o077 == 0, place


def test_studies_that_cannot_be_written_to_are_served(lone, tmp_path):
    client = lone.stock_client(tmp_path)
    assert list(client.datastore()["objects"]) == ["case_a"]
    file, told = client.infer("tiny", "case_a", {})
    assert told["victim"] == "tiny"
    assert client.save_label("case_a", file, "final", {})["label"] == "case_a"
    assert client.datastore()["objects"]["case_a"]["labels"].keys() == {"final"}
    _, told = client.infer("tiny-pgd", "case_a", {"steps": "2"})
    assert told["image"] is None and "can't be written to" in str(told["warnings"])
    assert [path.name for path in lone.studies.iterdir()] == ["case_a.nii.gz"]
    sent = {"file": ("x.nii.gz", scan(lone))}
    refused(lone.http.put("/datastore/image?image=new", files=sent), 409, "can't be written to")
    refused(lone.http.delete("/datastore/image?id=case_a"), 409, "can't be written to")
    assert lone.http.delete("/datastore/label?id=case_a&tag=final").status_code == 200


def test_half_sent_requests_do_not_stop_it(lone):
    host, port = lone.url.removeprefix("http://").split(":")
    held = []
    try:
        for _ in range(300):
            connection = socket.create_connection((host, int(port)), timeout=5)
            connection.sendall(b"GET /info/ HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            held.append(connection)
        end = time.monotonic() + 40
        while time.monotonic() < end:
            try:
                if lone.http.get("/perturbox/health", timeout=5).status_code == 200:
                    break
            except Exception:
                time.sleep(0.5)
        else:
            raise AssertionError("the server doesn't answer any more")
        held[0].settimeout(30)
        assert held[0].recv(1) == b""  # closed by the server
    finally:
        for connection in held:
            connection.close()


def test_it_says_which_pages_may_call(lone):
    """MONAI Label prints its own default before the server starts; what is so comes after, and last."""
    assert re.findall(r"Allow Origins.*: (\[.*\])", lone.said())[-1] == "[]"


def test_a_locked_database_keeps_a_job_and_its_files(lone):
    job = lone.http.post("/perturbox/jobs", json={"kind": "segment", "image": "case_a"}).json()["id"]
    end = time.monotonic() + 60
    while not lone.http.get(f"/perturbox/jobs/{job}").json()["finished"] and time.monotonic() < end:
        time.sleep(0.2)
    other = sqlite3.connect(lone.home / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        refused(lone.http.delete(f"/perturbox/jobs/{job}"), 503, "can't change its records")
        assert lone.http.get(f"/perturbox/jobs/{job}/result.zip").status_code == 200
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert lone.http.delete(f"/perturbox/jobs/{job}").status_code == 204
    assert lone.http.get(f"/perturbox/jobs/{job}").status_code == 404


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"port": 99999}, "There is no port 99999; choose a --port from 1 to 65535."),
        ({"port": 0}, "There is no port 0; choose a --port from 1 to 65535."),
        ({"token": "x"}, "PERTURBOX_TOKEN needs eight or more plain characters; take those of `openssl rand -hex 16`."),
        (
            {"home": "/proc/nowhere"},
            "'/proc/nowhere/app' can't be made (no such file or directory); choose another place.",
        ),
    ],
)
def test_what_cannot_start_says_so_in_one_sentence(tmp_path, change, sentence):
    (tmp_path / "studies").mkdir()
    command = serve_command(tmp_path / "studies", tmp_path / "home", change.get("port", 18999), (), None)
    home = change.get("home", str(tmp_path / "data"))
    environment = clean_environment(PERTURBOX_HOME=home, PERTURBOX_TOKEN=change.get("token", ""))
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert told.returncode == 2 and sentence in told.stderr.replace("\n", " ") and "Traceback" not in told.stderr
