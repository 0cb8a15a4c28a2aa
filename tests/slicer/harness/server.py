"""A real `perturbox serve` in a process of its own, run by the environment that has it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[3]
TINY = f"{ROOT / 'tests' / 'core' / 'tiny.py'}:volume"
UP_SECONDS = 300  # on busy cores


def server_python() -> Path:
    """Python with perturbox and its server: PERTURBOX_SERVER_PYTHON, else .venv's. Raises RuntimeError without it."""
    folder, name = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
    python = Path(os.environ.get("PERTURBOX_SERVER_PYTHON", ROOT / ".venv" / folder / name))
    if not python.exists():
        raise RuntimeError(f"{python}, which runs the server, is missing; run `make setup` first")
    return python


@dataclass
class Server:
    url: str
    token: str
    folder: Path
    process: subprocess.Popen
    command: list[str]
    log: Path
    core: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, timeout: float = 30, headers: dict[str, str] | None = None) -> requests.Response:
        """With the token unless other headers are given."""
        with requests.Session() as session:
            session.trust_env = False
            headers = self.headers if headers is None else headers
            return session.get(self.url + path, headers=headers, timeout=timeout)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> None:
        """End it as an operator would; what doesn't end in time is killed and said."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def start_again(self) -> None:
        """The same server on the same port with what it kept, after `stop`."""
        self.process = _launch(self.command, self.folder, self.log, self.core)
        wait_until_up(self)


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def _launch(command: list[str], folder: Path, log: Path, core: Path) -> subprocess.Popen:
    foreign = ("PERTURBOX_", "MONAI_LABEL_", "PYTHON", "QT_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    surroundings = {**kept, "PYTHONPATH": str(core), "PERTURBOX_HOME": str(folder / "data")}
    with log.open("a", encoding="utf-8") as sink:
        return subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=surroundings, cwd=folder)


def start_server(
    folder: Path,
    *,
    victims: Sequence[str] = (),
    detectors: Sequence[str] = (),
    token: str = "",
    port: int | None = None,
    core: Path = ROOT / "core",
) -> Server:
    """Start a server on a free port of this machine and wait until it answers; all it keeps lies in `folder`.

    `victims` as for `--victim`, the built-in models where there are none; `detectors` as for `--detector`; `core` holds
    the package perturbox it runs, with this checkout's app. Raises RuntimeError with its log if it doesn't come up."""
    if not (core.parent / "monailabel_app").exists():
        (core.parent / "monailabel_app").symlink_to(ROOT / "monailabel_app")
    port = port or free_port()
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    command = [str(server_python()), "-m", "perturbox", "serve", "--port", str(port), "--verbose"]
    command += ["--studies", str(folder / "studies"), "--home", str(folder / "home")]
    command += [word for victim in victims for word in ("--victim", victim)]
    command += [word for detector in detectors for word in ("--detector", detector)]
    command += ["--token", token] if token else []
    log = folder / "server.log"
    process = _launch(command, folder, log, core)
    server = Server(f"http://127.0.0.1:{port}", token, folder, process, command, log, core)
    wait_until_up(server)
    return server


def wait_until_up(server: Server) -> None:
    end = time.monotonic() + UP_SECONDS
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{server.said()[-4000:]}")
        try:
            if server.get("/perturbox/health").status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    server.process.kill()
    server.process.wait()
    raise RuntimeError(f"the server didn't come up in {UP_SECONDS} s:\n{server.said()[-4000:]}")
