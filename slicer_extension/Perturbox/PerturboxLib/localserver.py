"""A Perturbox server on this computer: `PYTHON -m perturbox serve` on a free port, ended with the module.

Its token is random and goes by environment, which other users can't read, not by the command line, which they can. All
that takes long happens in a thread; `ready()` says what has become of it and may be asked as often as one likes.
"""

import atexit
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from .background import TURN_SECONDS
from .client import Client
from .trouble import Trouble, trouble

START_SECONDS = 180.0  # models are loaded first, from a disk that may be slow
CHECK_SECONDS = 30.0
STOP_SECONDS = 6.0
LOOK_SECONDS = 0.25
OLDEST = (3, 11)
PARTS = ("perturbox", "monailabel", "pydicom_seg", "distributed", "fastapi", "uvicorn")
CHECK = (
    "import sys, json, importlib.util as u; "
    f"print(json.dumps([list(sys.version_info[:3]), [n for n in {PARTS!r} if u.find_spec(n) is None]]))"
)
# What is meant for another Python, and what would change the server behind the user's back.
FOREIGN = ("PYTHON", "MONAI_LABEL_")


class LocalServer:
    """python: the program, or the folder of its environment; home: where the server keeps its jobs; arguments: more for
    `perturbox serve`; environment: what it inherits, Slicer's from before its own start if left out."""

    def __init__(self, python: str, home: str | Path | None = None, arguments=(), environment: dict | None = None):
        self.python = python
        self.home = Path(home) if home else Path.home() / ".local" / "share" / "perturbox" / "slicer"
        self.arguments = tuple(arguments)
        self.address = self.token = ""
        self._environment = inherited() if environment is None else dict(environment)
        self._process: subprocess.Popen | None = None
        self._thread: threading.Thread | None = None
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._isReady = False
        self._trouble: Trouble | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its process, 0 before there is one."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin to start it. Raises Trouble for a Python or a folder that can't be used."""
        program = findPython(self.python)
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self._log.write_bytes(b"")
        except OSError as error:
            raise trouble("no-folder", str(error), path=self.home) from None
        port = freePort()
        self.address, self.token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
        self._client = Client(self.address, self.token)
        atexit.register(self.stop)
        self._thread = threading.Thread(target=self._work, args=(program, port), name="Perturbox server", daemon=True)
        self._thread.start()

    def ready(self) -> bool:
        """Whether it answers. Raises Trouble, with its output as detail, once it is clear that it won't."""
        if self._thread is not None and not self._isReady:
            self._thread.join(TURN_SECONDS)
        if self._trouble is not None:
            raise self._trouble
        if self._isReady and not self.running:
            raise self._ended()
        return self._isReady

    def output(self, most: int = 20_000) -> str:
        """The end of what it has printed, at most so many characters."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")[-most:]
        except OSError:
            return ""

    def stop(self) -> None:
        """End it and its children: asked first, after some seconds killed."""
        with self._lock:
            self._stopped = True
        atexit.unregister(self.stop)
        if self._client is not None:
            self._client.interrupt()
        if self._process is not None:
            endProcesses(self._process, STOP_SECONDS)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    # In the thread

    def _work(self, program: str, port: int) -> None:
        try:
            self._check(program)
            command = [program, "-m", "perturbox", "serve", "--port", str(port), "--home", str(self.home), "--verbose"]
            with self._log.open("ab") as log:
                self._open([*command, *self.arguments], stdout=log, stderr=subprocess.STDOUT)
            self._await()
        except Trouble as error:
            if self._process is not None and not self._stopped:
                endProcesses(self._process, STOP_SECONDS)
            self._trouble = error  # told only once nothing of it is left
        except Exception as error:
            self._trouble = trouble("internal", repr(error), kind=type(error).__name__)

    def _check(self, program: str) -> None:
        """Raises Trouble unless that program is a Python with all that the server needs."""
        try:
            process = self._open([program, "-c", CHECK], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said = process.communicate(timeout=CHECK_SECONDS)[0].decode("utf-8", "replace")
            version, missing = json.loads(said.strip().splitlines()[-1])
            version = ".".join(map(str, version))
        except (OSError, subprocess.TimeoutExpired, ValueError, TypeError, IndexError) as error:
            if self._process is not None:
                endProcesses(self._process, 0)
                self._process.stdout.close()
            raise trouble("not-python", f"{type(error).__name__}: {error}", path=program) from None
        if tuple(map(int, version.split("."))) < OLDEST:
            raise trouble("old-python", path=program, version=version)
        if "perturbox" in missing:
            raise trouble("no-perturbox", f"Python {version}", path=program)
        if missing:
            raise trouble("no-server-parts", f"Missing: {', '.join(missing)}", path=program, missing=missing[0])

    def _open(self, command: list[str], **options) -> subprocess.Popen:
        """Start a process in a group of its own; raises Trouble "stopped" where that isn't wanted any more."""
        options |= {"start_new_session": True} if os.name != "nt" else {"creationflags": subprocess.CREATE_NO_WINDOW}
        kept = {name: text for name, text in self._environment.items() if not name.startswith(FOREIGN)}
        kept |= {"PERTURBOX_TOKEN": self.token, "PYTHONUNBUFFERED": "1"}
        with self._lock:
            if self._stopped:
                raise trouble("stopped")
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=self.home, env=kept, **options)
            return self._process

    def _await(self) -> None:
        """Wait until the server answers. Raises Trouble where it ends, or takes too long."""
        end = time.monotonic() + START_SECONDS
        while True:
            if not self.running:
                raise self._ended()
            try:
                self._client.connect()
                self._isReady = True
                return
            except Trouble as error:
                if error.code not in ("no-server", "time-out", "lost", "unavailable"):
                    raise
            finally:
                self._client.close()
            if time.monotonic() > end:
                raise trouble("server-slow", self.output(), seconds=f"{START_SECONDS:.0f}")
            time.sleep(LOOK_SECONDS)

    def _ended(self) -> Trouble:
        lines = [line.strip(" │╭╮╰╯─\t") for line in self.output().splitlines()]
        last = next((line for line in reversed(lines) if line), "it said nothing.")
        return trouble("server-ended", self.output(), line=last[:300])

    @property
    def _log(self) -> Path:
        return self.home / "slicer-server.log"


def findPython(path: str) -> str:
    """The Python program at a path, which may be the folder of an environment; raises Trouble "no-python"."""
    place = Path(path.strip()).expanduser()
    inside = ("bin/python", "Scripts/python.exe", "python.exe")
    found = next((place / name for name in inside if (place / name).is_file()), place)
    if not path.strip() or not found.is_file():
        raise trouble("no-python", path=path.strip() or "(nothing chosen)")
    if not os.access(found, os.X_OK):
        raise trouble("not-python", "The file can't be executed.", path=path.strip())
    return str(found.absolute())  # not resolved: an environment's python is a link that must be called by its own name


def inherited() -> dict[str, str]:
    """The environment from before Slicer changed it for itself; this process's own outside of Slicer."""
    try:
        import slicer

        return dict(slicer.util.startupEnvironment())
    except (ImportError, AttributeError):
        return dict(os.environ)


def freePort() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def endProcesses(process: subprocess.Popen, seconds: float) -> None:
    """End a process and its children: asked first, killed after so many seconds."""
    if os.name == "nt":
        _endOnWindows(process)
        return
    if process.poll() is None and seconds:
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    with contextlib.suppress(OSError):  # the group is its children, if any are left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _endOnWindows(process: subprocess.Popen) -> None:
    if process.poll() is None:
        command = ["taskkill", "/PID", str(process.pid), "/T", "/F"]
        subprocess.run(command, capture_output=True, check=False, creationflags=subprocess.CREATE_NO_WINDOW)
        process.terminate()
    process.wait()
