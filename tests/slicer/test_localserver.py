"""A server of one's own: started with a chosen Python, its token unseen, gone with all its children when stopped."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from harness.server import TINY, server_python
from PerturboxLib import localserver, tasks
from PerturboxLib.client import Client
from PerturboxLib.localserver import LocalServer, findPython
from PerturboxLib.trouble import Trouble

pytestmark = pytest.mark.skipif(os.name == "nt", reason="these stand-ins for Python are scripts of a POSIX system")

# What stands in for Python: `-c …` answers the check, `-m perturbox serve …` does what a test wants to see.
STAND_IN = """#!{python}
import json, os, signal, subprocess, sys, time
told = {{"command": sys.argv, "environment": dict(os.environ), "folder": os.getcwd(), "pid": os.getpid()}}
open(os.path.join({folder!r}, "told.json"), "w").write(json.dumps(told))
if sys.argv[1] == "-c":
    {check}
else:
    {serve}
"""
COMPLETE = 'print("a greeting"); print(json.dumps([[3, 12, 1], []]))'


@pytest.fixture
def stand_in(tmp_path):
    """stand_in(check=…, serve=…) -> a LocalServer of such a Python, stopped after the test."""
    servers = []

    def make(serve: str = "pass", check: str = COMPLETE, **options) -> LocalServer:
        program = tmp_path / "python"
        program.write_text(STAND_IN.format(python=sys.executable, folder=str(tmp_path), check=check, serve=serve))
        program.chmod(0o755)
        servers.append(LocalServer(str(program), tmp_path / "home", **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
        assert not server.running
    assert [thread for thread in threading.enumerate() if thread.name.startswith("Perturbox")] == []


def wait(server: LocalServer, seconds: float = 20) -> None:
    """Until it is ready; raises its Trouble."""
    end = time.monotonic() + seconds
    while not server.ready():
        assert time.monotonic() < end, server.output()
        time.sleep(0.02)


def trouble_of(server: LocalServer) -> Trouble:
    with pytest.raises(Trouble) as caught:
        server.start()
        wait(server)
    return caught.value


def told(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "told.json").read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(processes: list[int]) -> None:
    """Asserts that they all end; a killed process takes its moment."""
    end = time.monotonic() + 2
    while any(map(is_alive, processes)):
        assert time.monotonic() < end, processes
        time.sleep(0.02)


# ---------------------------------------------------------------- which Python


@pytest.mark.parametrize("path", ["", "   ", "/no/such/python", "~/no-such-python"])
def test_no_such_file(path, tmp_path):
    found = trouble_of(LocalServer(path, tmp_path))
    assert found.code == "no-python" and found.whatToDo.startswith("Choose the python program")


def test_an_environments_folder_will_do(tmp_path):
    (tmp_path / "env" / "bin").mkdir(parents=True)
    link = tmp_path / "env" / "bin" / "python"
    link.symlink_to(sys.executable)
    assert findPython(str(tmp_path / "env")) == str(link), "by its own name, else it would be another environment"
    assert findPython(f" {link} ") == str(link)
    with pytest.raises(Trouble) as caught:
        findPython(str(tmp_path))
    assert caught.value.code == "no-python"


def test_a_file_that_cannot_run(tmp_path):
    (tmp_path / "python").write_text("text")
    assert trouble_of(LocalServer(str(tmp_path / "python"), tmp_path)).code == "not-python"


NO_PYTHON = ('print("bash 5.2")', "sys.exit(3)", 'print("[1, 2, 3]")', "print(7)", "time.sleep(60)")


@pytest.mark.parametrize("check", NO_PYTHON)
def test_a_program_that_is_no_python(stand_in, check, monkeypatch):
    monkeypatch.setattr(localserver, "CHECK_SECONDS", 1.0)
    assert trouble_of(stand_in(check=check)).code == "not-python"


def test_a_python_too_old(stand_in):
    found = trouble_of(stand_in(check='print("[[3, 9, 1], []]")'))
    assert found.code == "old-python" and "Python 3.9.1; Perturbox needs 3.11" in found.sentence


def test_this_python_has_no_perturbox(tmp_path):
    """The real check, by the Python of these tests, which has what Slicer has."""
    server = LocalServer(sys.executable, tmp_path)
    assert trouble_of(server).code == "no-perturbox"
    server.stop()


def test_a_python_without_the_servers_parts(stand_in):
    found = trouble_of(stand_in(check='print(json.dumps([[3, 11, 2], ["monailabel", "fastapi"]]))'))
    assert found.code == "no-server-parts" and "monailabel is missing" in found.sentence
    assert found.detail == "Missing: monailabel, fastapi"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert trouble_of(LocalServer(sys.executable, tmp_path / "file" / "home")).code == "no-folder"


# ---------------------------------------------------------------- how it starts


def test_a_server_that_ends_at_once_says_its_last_line(stand_in):
    last = "Error: Another server uses this folder; end it."
    server = stand_in(serve=f"print('Loading'); print({last!r}, end='\\n\\n'); sys.exit(2)")
    found = trouble_of(server)
    assert found.code == "server-ended"
    assert found.sentence == f"The server ended at once: {last}"
    assert found.detail.startswith("Loading\n") and server.output() == found.detail
    with pytest.raises(Trouble):  # and says so again
        server.ready()


def test_a_server_that_ends_in_silence(stand_in):
    assert trouble_of(stand_in()).sentence == "The server ended at once: it said nothing."


def test_a_server_that_never_gets_ready_is_ended(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(localserver, "START_SECONDS", 1.0)
    slow = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.7), os._exit(0)))"  # it takes its time to end
    found = trouble_of(stand_in(serve=f'{slow}; print("Loading", flush=True); time.sleep(60)'))
    assert found.code == "server-slow" and "within 1 s" in found.sentence and found.detail == "Loading\n"
    assert not is_alive(told(tmp_path)["pid"])


def test_another_program_at_its_port(stand_in):
    serve = "from http.server import *; p = int(sys.argv[sys.argv.index('--port') + 1]); "
    serve += "HTTPServer(('127.0.0.1', p), BaseHTTPRequestHandler).serve_forever()"
    assert trouble_of(stand_in(serve=serve)).code in ("not-perturbox", "odd-answer")


def test_its_command_and_what_it_inherits(stand_in, tmp_path):
    given = {"PATH": "/usr/bin", "PYTHONHOME": "/slicer", "PYTHONPATH": "/slicer", "LD_LIBRARY_PATH": "/cuda"}
    given |= {"MONAI_LABEL_AUTH_ENABLE": "true", "PERTURBOX_TOKEN": "the user's own", "PERTURBOX_HOME": "/data"}
    server = stand_in(serve="sys.exit(1)", arguments=("--victim", "x"), environment=given)
    trouble_of(server)
    found = told(tmp_path)
    port = server.address.rpartition(":")[2]
    command = [
        "-m",
        "perturbox",
        "serve",
        "--port",
        port,
        "--home",
        str(tmp_path / "home"),
        "--verbose",
        "--victim",
        "x",
    ]
    assert found["command"][1:] == command and found["folder"] == str(tmp_path / "home")
    environment = found["environment"]
    assert environment["PERTURBOX_TOKEN"] == server.token and len(server.token) == 32
    kept = {"PATH": "/usr/bin", "PERTURBOX_HOME": "/data", "LD_LIBRARY_PATH": "/cuda"}
    assert kept.items() <= environment.items()
    assert not {"PYTHONHOME", "PYTHONPATH", "MONAI_LABEL_AUTH_ENABLE"} & environment.keys()
    assert server.token not in " ".join(found["command"])


def test_each_start_has_a_token_and_a_port_of_its_own(stand_in):
    one, other = stand_in(), stand_in()
    trouble_of(one)
    trouble_of(other)
    assert one.token != other.token and one.address != other.address


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize("deaf", [False, True])
def test_stopping_ends_it_and_its_children(stand_in, tmp_path, deaf, monkeypatch):
    monkeypatch.setattr(localserver, "STOP_SECONDS", 1.0)
    serve = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""
    serve += f"child = subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)']); "
    serve += "print(child.pid, flush=True); time.sleep(60)"
    server = stand_in(serve=serve)
    server.start()
    end = time.monotonic() + 10
    while not server.output().strip():
        assert time.monotonic() < end
        time.sleep(0.02)
    processes = [told(tmp_path)["pid"], int(server.output())]
    assert all(map(is_alive, processes))
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 3
    gone(processes)


@pytest.mark.parametrize("check", [COMPLETE, "time.sleep(60)"])
def test_stopping_while_it_starts(stand_in, tmp_path, check):
    server = stand_in(serve="time.sleep(60)", check=check)
    server.start()
    end = time.monotonic() + 10
    while not (tmp_path / "told.json").exists():
        assert time.monotonic() < end
    begun = time.monotonic()
    assert not server.ready()
    assert 0.015 < time.monotonic() - begun < 0.5, "the thread gets its turn"
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 2 and not server.running
    server.stop()  # twice does no harm


def test_stopping_what_never_started(tmp_path):
    LocalServer(sys.executable, tmp_path).stop()


# ---------------------------------------------------------------- the real one


def test_the_real_server_answers_to_its_token_alone_and_leaves_nothing_behind(tmp_path):
    python = server_python()
    environment = {**os.environ, "PERTURBOX_HOME": str(tmp_path / "data")}
    server = LocalServer(str(python), tmp_path / "home", ("--victim", TINY), environment)
    try:
        server.start()
        assert not server.ready(), "it takes its time, and asking takes none"
        wait(server, 300)
        background = tasks.Background()
        background.start(tasks.connect(Client(server.address, server.token)))
        assert background.wait(30)
        assert next(background.drain()).data["victims"][0]["name"] == "tiny"
        with pytest.raises(Trouble) as caught:
            Client(server.address).connect()
        assert caught.value.code == "token-missing"
        children = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if group(pid) == server.pid]
        assert len(children) >= 3, "the server, its nanny's worker and helpers"
        command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert server.token.encode() not in command and b"start_server" in command
    finally:
        begun = time.monotonic()
        server.stop()
    assert time.monotonic() - begun < 10
    gone(children)
    with pytest.raises(Trouble) as caught:
        Client(server.address, server.token).connect()
    assert caught.value.code == "no-server"


def group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
