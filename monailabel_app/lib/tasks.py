"""Background tasks of MONAI Label's clients - batch inference, scoring, training - in processes of their own.

MONAI Label's own runner shows a client whatever the process prints, leaves its jobs in the queue when it is stopped,
and forgets everything with the server. This one takes its place: it shows progress in words, cancels what a process
that has ended had in hand, and says of a task that a server's end cut short that it was interrupted.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from monailabel.interfaces.exception import MONAILabelException
from monailabel.utils.async_tasks import utils

from lib import private
from lib.words import for_clients
from perturbox.jobs import Queue, Refused
from perturbox.types import InputError

METHODS = ("batch_infer", "scoring", "train")
TASK = "PERTURBOX_TASK"  # which task a background process is
HEADER = "Perturbox-Task"  # by which it says so when it submits a job
LINES = 20  # that a client sees
INTERRUPTED = "This task was interrupted: the server ended while it was waiting or running. Start it again."
SECONDS = "%Y-%m-%d %H:%M:%S"

logger = logging.getLogger("perturbox.server")
progress = logging.getLogger("perturbox.progress")  # what a background process tells clients, with no name in it


class Tasks:
    """The tasks of one server, its `queue` and the file in which they outlive it."""

    def __init__(self, queue: Queue, file: Path):
        self.queue, self.file = queue, file
        self._lock = threading.Lock()
        self._closing = False
        self._jobs: dict[str, set[str]] = {}  # of each task that runs
        self._recall()
        utils._task_func = self.run  # pyright: ignore[reportAttributeAccessIssue]

    def run(self, task: dict[str, Any], method: str, callback: Any = None) -> None:
        """Carry a task out in a process of its own and wait for its end."""
        if self._closing:
            return
        id = task["id"]
        task["details"] = deque(maxlen=LINES)
        request = {**task["request"], "gpus": "all"}
        command = [sys.executable, "-m", "monailabel.interfaces.utils.app", "-m", method, "-r", json.dumps(request)]
        environment = {**os.environ, TASK: id, private.TOLD: "1"}
        if (gpus := task["request"].get("gpus") or "all") != "all":
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        if method == "train":
            environment["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
        with self._lock:
            self._jobs[id] = set()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
        utils.background_processes.setdefault(method, {})[id] = process
        task["status"] = "RUNNING"
        self._remember()
        try:
            with suppress(OSError):
                assert process.stdin is not None
                private.tell(process.stdin)
            self._follow(process, task, logging.getLogger(f"task_{method}"))
        finally:
            self._ended(task, method, process)
        if callback:
            callback(task)

    def submitted(self, task: str, job: str) -> None:
        """A task's process has submitted a job; one of a process that has ended meanwhile is cancelled."""
        with self._lock:
            if task in self._jobs:
                self._jobs[task].add(job)
                return
        if any(held["id"] == task for method in METHODS for held in utils.background_tasks.get(method, [])):
            self._cancel(job)

    def close(self) -> None:
        """End all of them, and remember which they were; the server is about to end."""
        self._closing = True
        for process in [held for running in utils.background_processes.values() for held in running.values()]:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()

    def _follow(self, process: subprocess.Popen, task: dict[str, Any], log: logging.Logger) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if text := line.rstrip():
                log.info(text)
                if (said := _said(text)) is not None:
                    task["details"].append(said)
        process.wait()

    def _ended(self, task: dict[str, Any], method: str, process: subprocess.Popen) -> None:
        utils.background_processes[method].pop(task["id"], None)
        with self._lock:
            jobs = self._jobs.pop(task["id"], set())
        for job in jobs:
            self._cancel(job)
        code = process.poll()
        if code not in (0, None) and task["status"] == "RUNNING" and not task.get("details"):
            task["details"].append("It ended with an error of its own; the server's log says where.")
        task["end_ts"] = datetime.today().strftime(SECONDS)
        if task["status"] == "RUNNING":
            task["status"] = "DONE" if code == 0 else "ERROR"
        self._remember()

    def _cancel(self, job: str) -> None:
        with suppress(Refused):  # it is over
            self.queue.cancel(job)

    def _remember(self) -> None:
        """Write down what is waiting or running, for the server that comes after this one."""
        pending = [
            {"method": method, **{key: task[key] for key in ("id", "request", "start_ts")}}
            for method in METHODS
            for task in utils.background_tasks.get(method, [])
            if task["status"] in ("SUBMITTED", "RUNNING")
        ]
        with self._lock, suppress(OSError, TypeError, ValueError):
            if self._closing:
                return
            draft = self.file.with_suffix(".draft")
            draft.write_text(json.dumps(pending), encoding="utf-8")
            draft.replace(self.file)

    def _recall(self) -> None:
        try:
            told = json.loads(self.file.read_text(encoding="utf-8"))
            found = [(str(task["method"]), dict(task)) for task in told if task["method"] in METHODS]
        except (OSError, ValueError, KeyError, TypeError):
            return
        for method, task in found:
            del task["method"]
            task |= {"status": "INTERRUPTED", "end_ts": datetime.today().strftime(SECONDS), "details": [INTERRUPTED]}
            utils.background_tasks.setdefault(method, []).append(task)
        self._remember()


def of_server(queue: Queue) -> Tasks:
    """The tasks of the server with that queue."""
    return Tasks(queue, queue.home / "tasks.json")


def here() -> str | None:
    """Which task this process is; None in the server."""
    return os.environ.get(TASK)


def _said(line: str) -> str | None:
    """What a line of a background process tells clients: the words of `progress`, and nothing else."""
    if not line.startswith('{"time": '):
        return None
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return str(told["event"]) if told.get("logger") == progress.name else None


def carry_out(run: Callable[..., Any], *arguments: Any) -> Any:
    """`run(*arguments)`; a background process ends with one sentence for clients where that fails."""
    if here() is None:
        return run(*arguments)
    try:
        return run(*arguments)
    except InputError as error:
        progress.error(for_clients(str(error)))
    except Refused as refused:
        progress.error(str(refused))
    except MONAILabelException as error:
        progress.error(str(error.msg))  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:
        progress.error("An internal error stopped it (%s); the server's log says where.", type(error).__name__)
        logger.error("unforeseen", exc_info=error)
    sys.exit(1)
