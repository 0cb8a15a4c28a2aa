"""Connections that say nothing, or half a request, are closed: each holds one of few file handles."""

import asyncio
from contextlib import suppress
from typing import Any

HEADER_SECONDS = 15.0
SHARE = 0.7  # of the process's file handles that connections may take


def limit(server: Any) -> None:
    """Make a uvicorn server impatient; called before it listens."""
    base, most = server.config.http_protocol_class, int(SHARE * _file_handles())

    class Impatient(base):
        """uvicorn's own protocol, with a time limit for a request's first line and headers."""

        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()
            if len(self.connections) > most:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._be_content()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._be_content()
            elif self.waiting is None:
                self._wait()

        def _wait(self) -> None:
            self.waiting = self.loop.call_later(HEADER_SECONDS, self._give_up)

        def _be_content(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

        def _give_up(self) -> None:
            self.waiting = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    server.config.http_protocol_class = Impatient


def _file_handles() -> int:
    """How many this process may have, after taking all that it is allowed."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
