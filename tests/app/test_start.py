"""Starting and ending: what is refused before anything is loaded, what MONAI Label is told, what is left behind."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
from serving import APP, ROOT, TINY, free_port

from perturbox import serve
from perturbox.cli import main
from perturbox.types import InputError


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """run(*options) -> (exit status, stderr) of `perturbox serve`; nothing is started."""
    monkeypatch.setenv("PERTURBOX_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("PERTURBOX_TOKEN", raising=False)

    def nothing(command, environment):
        raise AssertionError("it would have started")

    monkeypatch.setattr(serve, "become", nothing)

    def run(*options: object) -> tuple[int, str]:
        capfd.readouterr()
        status = main(["serve", *map(str, options)])
        return status, capfd.readouterr().err

    return run


@pytest.fixture
def started(monkeypatch, tmp_path):
    """started(*options) -> (command, environment) that `perturbox serve` would become."""
    monkeypatch.setenv("PERTURBOX_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("PERTURBOX_TOKEN", raising=False)
    seen = []
    monkeypatch.setattr(serve, "become", lambda command, environment: seen.append((command, environment)))

    def started(*options: object) -> tuple[list[str], dict[str, str]]:
        assert main(["serve", "--port", str(free_port()), *map(str, options)]) == 0
        return seen[-1]

    return started


# ---------------------------------------------------------------- refused in one sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--studies", "nowhere"],
            "There is no folder 'nowhere'; give --studies the folder that holds the scans.",
        ),
        (
            ["--study-results", "nowhere"],
            "There is no folder 'nowhere'; give --study-results the folder in which studies have their --out folders.",
        ),
        (["--victim", "ct-organ"], "Unknown victim 'ct-organ'; did you mean 'ct-organs'?"),
        (["--victim", "gone.py:model"], "There is no Python file '{here}/gone.py'; give FILE.py:NAME."),
        (["--victim", "a,b.py:model"], "The path of 'a,b.py:model' holds a comma, which can't be served; rename it."),
        (
            ["--detector", "sure.safetensors"],
            "'sure.safetensors' isn't understood; write a detector as NAME=FILE, give its file or a folder of them, or "
            "name a shipped one (those shipped for ct-organs are entropy and mahalanobis).",
        ),
        (
            ["--detector", "sure=gone.safetensors"],
            "There is no detector '{here}/gone.safetensors'; fit one with `perturbox fit-detector`.",
        ),
        (["--detector", "a b=c"], "A detector can't be named 'a b'; use letters, digits and dashes."),
        (["--detector", "a=b", "--detector", "a=c"], "Two detectors are named 'a'; rename one."),
        (["--detector", "a=b,c"], "The path of '{here}/b,c' holds a comma, which can't be served; rename it."),
        (["--detector", "."], "The folder '.' holds no detector, no *.safetensors."),
        (
            ["--host", "0.0.0.0"],
            "At --host 0.0.0.0 other machines reach the server; give --token or set PERTURBOX_TOKEN, "
            "or keep it to this machine with --host 127.0.0.1.",
        ),
        (
            ["--token", "short"],
            "--token needs eight or more plain characters; take those of `openssl rand -hex 16`.",
        ),
        (
            ["--host", "192.0.2.1", "--token", "long enough", "--port", "1"],
            "Nothing can listen at 192.0.2.1:1 (cannot assign requested address); choose another --port or --host.",
        ),
    ],
    ids=[
        *("studies", "results", "victim", "file", "comma"),
        *("detector", "detector-gone", "detector-name", "detector-twice", "detector-comma", "detector-folder"),
        *("host", "token", "address"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(run, monkeypatch, tmp_path, options, sentence):
    monkeypatch.chdir(tmp_path)
    port = [] if "--port" in options else ["--port", str(free_port())]
    assert run(*options, *port) == (2, sentence.format(here=tmp_path) + "\n")
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_refused(run):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, said = run("--port", port)
    assert (status, said) == (
        2,
        f"Nothing can listen at 127.0.0.1:{port} (address already in use); choose another --port or --host.\n",
    )


def test_without_monai_label_it_says_how_to_install_it(run, monkeypatch):
    real = serve.importlib.util.find_spec
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None if name == "monailabel" else real(name))
    status, said = run()
    assert status == 2
    assert said == (
        "The server needs monailabel, which isn't installed; install it with: "
        "pip install 'perturbox[server] @ git+https://github.com/perturbox/perturbox' && "
        "pip install --no-deps monailabel==0.8.5 pydicom-seg==0.4.1\n"
    )


def test_without_what_reads_studies_it_says_how_to_install_it(run, monkeypatch, tmp_path):
    real = serve.importlib.util.find_spec
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name))
    said = "--study-results needs the extra 'study' (pyarrow is missing); run `pip install 'perturbox[study]'`.\n"
    assert run("--study-results", tmp_path) == (2, said)


def test_the_sentence_installs_the_versions_that_are_known_to_work():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    wanted = [word for word in serve.INSTALL.split() if "==" in word]
    assert len(wanted) == 2 and set(wanted) <= set(pinned)


# ---------------------------------------------------------------- what MONAI Label is told


def test_the_token_is_in_the_environment_and_on_no_command_line(started):
    command, environment = started("--host", "0.0.0.0", "--token", "a secret of mine")
    assert environment["PERTURBOX_TOKEN"] == "a secret of mine"
    assert not [word for word in command if "secret" in word]


def test_the_command_is_monai_labels_own_with_our_app(started, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "shelf").mkdir()
    also = ["--cors", "http://localhost:3000", "--study-results", tmp_path / "shelf"]
    command, _ = started("--studies", tmp_path / "scans", "--victim", TINY, *also)
    assert command[:4] == [sys.executable, "-m", "monailabel.main", "start_server"]
    options = dict(zip(command[4::2], command[5::2], strict=False))
    assert options["--host"] == "127.0.0.1" and options["--studies"] == str(tmp_path / "scans")
    conf = {command[i + 1]: command[i + 2] for i, word in enumerate(command) if word == "--conf"}
    assert conf == {
        "victims": TINY,
        "home": str(tmp_path / "data" / "server"),
        "device": "cpu",
        "cors": "http://localhost:3000",
        "study_results": str(tmp_path / "shelf"),
    }


def test_without_studies_there_is_an_empty_folder_of_its_own(started, tmp_path):
    command, _ = started("--home", tmp_path / "home")
    studies = Path(command[command.index("--studies") + 1])
    assert studies == tmp_path / "home" / "studies" and list(studies.iterdir()) == []


def test_the_app_is_copied_once_per_content(tmp_path):
    first = serve.copy_app(APP, tmp_path)
    copied = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert copied == {path.relative_to(APP): path.read_bytes() for path in APP.rglob("*.py")}
    (first / "logs").mkdir()
    assert serve.copy_app(APP, tmp_path) == first and (first / "logs").is_dir()

    changed = tmp_path / "changed"
    for name, content in copied.items():
        (changed / name).parent.mkdir(parents=True, exist_ok=True)
        (changed / name).write_bytes(content)
    (changed / "main.py").write_bytes(copied[Path("main.py")] + b"\n")
    assert serve.copy_app(changed, tmp_path) != first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# ---------------------------------------------------------------- what the app makes of it


def read_options(*argv: str, conf: dict[str, str] | None = None, **environment: str):
    from lib.options import Options

    return Options.read(conf or {}, environment, ["main", "start_server", *argv])


@pytest.mark.parametrize(
    ("argv", "host", "port"),
    [
        ([], "0.0.0.0", 8000),
        (["--host", "127.0.0.1"], "127.0.0.1", 8000),
        (["-i", "::1", "-p", "9"], "::1", 9),
        (["--host=10.0.0.1", "--port=80"], "10.0.0.1", 80),
        (["-i10.0.0.2"], "10.0.0.2", 8000),
        (["--host", "127.0.0.1", "--host", "0.0.0.0"], "0.0.0.0", 8000),
    ],
    ids=["stock", "long", "short", "equals", "glued", "last-one-counts"],
)
def test_where_it_listens_is_read_as_monai_label_reads_it(argv, host, port):
    from monailabel.main import Main

    arguments = Main().args_parser().parse_args(["start_server", "--app", "a", "--studies", "s", *argv])
    options = read_options(*argv)
    assert (options.host, options.port) == (arguments.host, arguments.port) == (host, port)


@pytest.mark.parametrize(
    ("argv", "environment", "auth", "accepted"),
    [
        ([], {}, False, False),
        (["--host", "127.0.0.1"], {}, False, True),
        (["--host", "localhost"], {}, False, True),
        (["--host", "::1"], {}, False, True),
        (["--host", "127.0.0.1.evil.org"], {}, False, False),
        ([], {"PERTURBOX_TOKEN": "a long secret"}, False, True),
        ([], {"PERTURBOX_TOKEN": ""}, False, False),
        ([], {}, True, True),
    ],
    ids=["stock", "loopback", "localhost", "ipv6", "name", "token", "empty-token", "openid"],
)
def test_who_could_reach_it_must_say_who_they_are(argv, environment, auth, accepted):
    options = read_options(*argv, **environment)
    if accepted:
        options.check_host(auth)
        return
    with pytest.raises(InputError, match=r"start it with --host 127\.0\.0\.1, or set PERTURBOX_TOKEN to a secret"):
        options.check_host(auth)


def test_options_come_from_conf_and_environment(tmp_path):
    conf = {"victims": "ct-organs, x.py:model", "cors": "http://a,http://b", "upload_limit_mb": "1.5"}
    conf["study_results"] = str(tmp_path)
    options = read_options("--ssl_certfile", "c.pem", conf=conf, PERTURBOX_HOME=str(tmp_path))
    assert options.victims == ("ct-organs", "x.py:model") and options.cors == ("http://a", "http://b")
    assert options.upload_limit == 1.5 * 2**20 and options.home == tmp_path / "server"
    assert options.url == "https://127.0.0.1:8000" and options.study_results == tmp_path.resolve()
    assert read_options(conf={}, PERTURBOX_HOME=str(tmp_path)).study_results is None


def test_detectors_are_named_one_by_one_or_by_their_folder(tmp_path):
    """A folder's are called as their files are; `monailabel start_server` and `perturbox serve` read the same."""
    for name in ("b.safetensors", "a.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    options = read_options(conf={"detectors": f"mine=x.safetensors,{tmp_path}"}, PERTURBOX_HOME=str(tmp_path))
    assert options.detectors == {
        "mine": Path("x.safetensors").resolve(),
        "a": tmp_path / "a.safetensors",
        "b": tmp_path / "b.safetensors",
    }
    assert list(options.detectors) == ["mine", "a", "b"]


# ---------------------------------------------------------------- the real thing


def test_it_says_where_it_listens_and_what_it_serves(server):
    greeting = [
        f"Perturbox serves {server.url}, for this machine only; Ctrl-C stops it.",
        f"Studies  {server.studies}, 2 images",
        "Models   tiny, on cpu",
        "Access   asks clients for a token, as set when it was started",
        "Log      here",
    ]
    end = time.monotonic() + 20
    while greeting[-1] not in server.said().splitlines() and time.monotonic() < end:
        time.sleep(0.1)
    said = [line for line in server.said().splitlines() if line in greeting]
    assert said == greeting
    assert server.token not in server.said()
    assert server.token not in " ".join(psutil.Process(server.process.pid).cmdline())


def test_the_terminal_has_six_lines_and_the_log_the_rest(start_server, tmp_path):
    """No other program's words, and nothing that isn't so, as MONAI Label's `Allow Origins: ['*']`."""
    server = start_server(tmp_path / "quiet", verbose=False)
    log = server.home / "server.log"
    end = time.monotonic() + 20
    while f"Log      {log}; with --verbose it is shown here" not in server.said() and time.monotonic() < end:
        time.sleep(0.1)
    lines = server.said().splitlines()
    assert lines == [
        f"Starting the server at 127.0.0.1:{server.url.rpartition(':')[2]} …",
        f"Perturbox serves {server.url}, for this machine only; Ctrl-C stops it.",
        f"Studies  {server.studies}, 0 images",
        "Models   tiny, on cpu",
        "Access   asks clients for nothing",
        f"Log      {log}; with --verbose it is shown here",
    ]
    assert "Allow Origins, in force: []" in log.read_text() and log.stat().st_mode & 0o077 == 0
    before = len(log.read_text())
    server.http.get("/datastore/")
    server.stop()
    assert server.said().splitlines() == lines and len(log.read_text()) > before


def test_a_log_that_grew_long_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "LONGEST_LOG", 5)
    monkeypatch.setattr(serve.os, "dup2", lambda *numbers: None)
    log = tmp_path / "server.log"
    log.write_text("123456")
    os.close(int(serve.hand_over(log)))
    assert log.read_text() == "" and (tmp_path / "server.log.old").read_text() == "123456"


def test_a_refusal_reaches_the_terminal_while_the_log_is_elsewhere(tmp_path):
    from lib import terminal

    reading, writing = os.pipe()
    environment = {"PERTURBOX_TERMINAL": str(writing), "PERTURBOX_LOG": str(tmp_path / "server.log"), "OTHER": "1"}
    try:
        terminal.take(environment)
        terminal.say("perturbox: no")
        assert os.read(reading, 100) == b"perturbox: no\n" and environment == {"OTHER": "1"}
        assert not os.get_inheritable(writing) and terminal.log() == str(tmp_path / "server.log")
    finally:
        terminal._handed.clear()
        terminal._log.clear()
        os.close(reading), os.close(writing)


STOCK = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP), "--port", "{port}"]


@pytest.mark.slow
def test_the_stock_start_refuses_to_serve_everyone(start_server, tmp_path):
    server = start_server(command=[*STOCK, "--studies", str(tmp_path / "studies")], wait=False)
    assert server.process.wait(300) == 2
    (line,) = [line for line in server.said().splitlines() if line.startswith("perturbox: ")]
    assert line == (
        "perturbox: Others could reach the server at 0.0.0.0 unasked; start it with --host 127.0.0.1, "
        "or set PERTURBOX_TOKEN to a secret that clients must send."
    )
    assert "Traceback" not in server.said()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals as on Linux and macOS")
def test_the_stock_start_serves_this_machine_and_ends_with_all_its_processes(start_server, tmp_path):
    command = [*STOCK, "--studies", str(tmp_path / "studies"), "--host", "127.0.0.1", "--conf", "victims", TINY]
    server = start_server(command=command)
    assert set(server.http.get("/info/").json()["models"]) >= {"tiny", "tiny-pgd"}
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert family  # the worker at least
    begun = time.monotonic()
    server.stop(signal.SIGTERM, seconds=60)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == [] and time.monotonic() - begun < 15
    assert "Traceback" not in server.said()


@pytest.mark.slow
def test_it_is_up_within_a_minute(start_server):
    assert start_server(victims=("ct-organs",)).seconds < 60


def test_info_is_strict_json(server):
    json.loads(server.http.get("/info/").text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
