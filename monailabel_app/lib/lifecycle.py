"""The server's beginning and end: says where it listens once it does, and ends with all its processes in seconds."""

import asyncio
import signal
import sys
import threading
from urllib.parse import urlsplit

from monailabel.config import settings

from lib import patience, terminal
from perturbox.jobs import Queue

REQUESTS_SECONDS = 3
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def watch(app, queue: Queue) -> None:
    """Called while uvicorn starts, whose own signal handler is bound to its server."""
    inherited = signal.getsignal(signal.SIGTERM)
    server = getattr(inherited, "__self__", None)
    if server is None or not hasattr(server, "started"):
        return
    # A client that never finishes its request would keep the server running forever.
    server.config.timeout_graceful_shutdown = REQUESTS_SECONDS
    patience.limit(server)
    begun = threading.Event()

    def close(number: int) -> None:
        try:
            app.background.close()
            queue.close()
        finally:
            inherited(number, None)

    def handle(number, frame) -> None:
        if begun.is_set():
            inherited(number, frame)
        else:
            begun.set()
            # The queue's requests get their answers before uvicorn stops waiting for them.
            threading.Thread(target=close, args=(number,), name="ending", daemon=True).start()

    for number in SIGNALS:
        signal.signal(number, handle)
    app.announcement = asyncio.get_running_loop().create_task(_announce(app, server))


async def _announce(app, server) -> None:
    while not server.started:
        await asyncio.sleep(0.05)
    for line in greeting(app):
        terminal.say(line)
    # MONAI Label has printed its own default, "Allow Origins: ['*']", which the guard has put out of force.
    print(f"Allow Origins, in force: {list(app.options.cors)}", file=sys.stderr, flush=True)


def greeting(app) -> list[str]:
    """What the operator must know: where it listens and how it stops, what it serves, who may ask, where its log is."""
    options, log = app.options, terminal.log()
    reach = "for this machine only" if options.loopback else f"for all who reach {options.host}"
    asked = "a token, as set when it was started" if options.token else "a login" if _logs_in() else "nothing"
    return [
        f"Perturbox serves {options.url}, {reach}; Ctrl-C stops it.",
        f"Studies  {_studies(app)}",
        f"Models   {', '.join(app.victims)}, on {options.device}",
        f"Access   asks clients for {asked}",
        f"Log      {log}; with --verbose it is shown here" if log else "Log      here",
    ]


def _studies(app) -> str:
    studies = str(app.studies)
    if studies.startswith(("http://", "https://")):
        return urlsplit(studies)._replace(query="").geturl()
    count = len(app.datastore().list_images())
    return f"{studies}, {count} image{'' if count == 1 else 's'}"


def _logs_in() -> bool:
    return bool(settings.MONAI_LABEL_AUTH_ENABLE)
