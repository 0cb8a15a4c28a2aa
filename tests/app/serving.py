"""A real server in a process of its own, and what tests need to talk to it."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "monailabel_app"
TINY = f"{ROOT / 'tests' / 'core' / 'tiny.py'}:volume"
UP_SECONDS = 300  # on busy cores; the aim of 60 has a test of its own


@dataclass
class Server:
    """A running server. `log` is the file that holds what it printed."""

    url: str
    studies: Path
    home: Path
    token: str | None
    process: subprocess.Popen
    log: Path
    seconds: float = 0.0
    """From the start of the process to the first answer."""
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def http(self) -> httpx.Client:
        """Plain HTTP, with the token."""
        if not self.clients:
            self.clients.append(httpx.Client(base_url=self.url, headers=self.headers, timeout=120, trust_env=False))
        return self.clients[0]

    def stock_client(self, folder: Path) -> Any:
        """MONAI Label's own client; what it downloads lies in `folder`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its module imports `cgi`
            from monailabel.client import MONAILabelClient
        client = MONAILabelClient(self.url, tmpdir=str(folder))
        client.update_auth({"token_type": "Bearer", "access_token": self.token} if self.token else None)
        return client

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """End it as an operator would; returns the exit status."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would reach into a server, and with `changes`."""
    foreign = ("PERTURBOX_", "MONAI_LABEL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PYTHONPATH": str(ROOT / "core"), **changes}


def serve_command(studies: Path, home: Path, port: int, victims: Sequence[str], token: str | None) -> list[str]:
    command = [sys.executable, "-m", "perturbox", "serve", "--studies", str(studies), "--home", str(home)]
    command += ["--port", str(port), "--verbose"]
    command += [word for spec in victims for word in ("--victim", spec)]
    return command + (["--token", token] if token else [])


def start_server(
    folder: Path,
    *,
    studies: Path | None = None,
    victims: Sequence[str] = (TINY,),
    token: str | None = None,
    arguments: Sequence[str] = (),
    command: Sequence[str] | None = None,
    port: int | None = None,
    environment: dict[str, str] | None = None,
    wait: bool = True,
    verbose: bool = True,
) -> Server:
    """Start `perturbox serve` (or `command`, "{port}" filled in) on a free port, all it keeps in `folder`, and wait
    until it answers. verbose: with its log among what it prints. Raises AssertionError with that where it doesn't."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    studies, home = studies or folder / "studies", folder / "home"
    studies.mkdir(parents=True, exist_ok=True)
    if command is None:
        command = [*serve_command(studies, home, port, victims, token), *arguments]
        command = command if verbose else [word for word in command if word != "--verbose"]
    else:
        command = [word.replace("{port}", str(port)) for word in command]
    log = folder / "server.log"
    surroundings = clean_environment(PERTURBOX_HOME=str(folder / "data"), **(environment or {}))
    started = time.monotonic()
    with log.open("a") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=surroundings, cwd=folder)
    server = Server(f"http://127.0.0.1:{port}", studies, home, token, process, log)
    if wait:
        wait_until_up(server)
        server.seconds = time.monotonic() - started
    return server


def wait_until_up(server: Server) -> None:
    end = time.monotonic() + UP_SECONDS
    while time.monotonic() < end:
        assert server.process.poll() is None, f"the server ended:\n{server.said()[-4000:]}"
        try:
            if httpx.get(f"{server.url}/info/", headers=server.headers, timeout=10, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    server.process.kill()
    server.process.wait()
    raise AssertionError(f"the server didn't come up in {UP_SECONDS} s:\n{server.said()[-4000:]}")
