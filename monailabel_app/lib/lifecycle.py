"""The server's beginning and end: says where it listens once it does, and ends with all its processes in seconds."""

import asyncio
import signal
import sys
import threading

from lib import patience
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
    names = ", ".join(app.victims)
    print(f"Perturbox serves {app.options.url} - victims {names}; Ctrl-C ends it.", file=sys.stderr, flush=True)
    # MONAI Label has printed its own default, "Allow Origins: ['*']", which the guard has put out of force.
    print(f"Allow Origins, in force: {list(app.options.cors)}", file=sys.stderr, flush=True)
