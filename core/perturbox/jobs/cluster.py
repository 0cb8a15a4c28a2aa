"""Where orders run: an embedded Dask cluster, one worker process per device, or an existing scheduler by address.

The embedded one listens on loopback only and speaks TLS with certificates made for this run, so no other user of the
machine can hand it code. It has no dashboard, and its HTTP servers answer nothing.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psutil
import torch
from dask import config
from distributed import Client, Future, Nanny, Scheduler, Security, SpecCluster, as_completed

from perturbox.jobs import worker
from perturbox.types import InputError

START_SECONDS = 60
MEMORY_SHARE = 0.9


class Cluster:
    """Workers that carry orders out, one at a time each.

    workers: how many an embedded cluster has, None for one per device; failures: how often a worker may die of the same
    order before it is given up.
    """

    def __init__(
        self,
        scheduler: str | None,
        device: str,
        on_event: Callable[[dict[str, Any]], None],
        workers: int | None = None,
        failures: int = 0,
    ):
        self.embedded = scheduler is None
        self.address = scheduler or "embedded"
        self._cluster = _embedded(device, workers, failures) if self.embedded else None
        try:
            self._client = Client(self._cluster or scheduler, timeout=START_SECONDS, set_as_default=False)
        except OSError:
            raise InputError(
                f"There is no Dask scheduler at '{scheduler}'; start one, or leave --scheduler out."
            ) from None
        self._client.subscribe_topic(worker.TOPIC, lambda event: on_event(event[1]))
        threads = torch.get_num_threads()
        self.threads = max(1, threads // len(self._cluster.workers)) if self._cluster else threads
        if self.embedded:
            self._warm = self._client.map(_warm_up, range(self.size), pure=False)

    @property
    def size(self) -> int:
        """How many orders can run at once: workers that are there, for a lost one is soon replaced."""
        if self._cluster is not None:
            return len(self._cluster.workers)
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def start(self, id: str, document: Mapping[str, Any], where: Mapping[str, Any]) -> Future:
        told = {**where, "threads": self.threads, "memory": self._limit()}
        return self._client.submit(worker.carry_out, id, document, told, key=f"perturbox-{id}", pure=False, retries=0)

    def submit(self, function: Callable[..., Any], *arguments: Any, key: str) -> Future:
        """Run a function of importable code on any worker."""
        return self._client.submit(function, *arguments, key=key, pure=False, retries=0)

    def as_completed(self) -> as_completed:
        """An iterator of futures as they end, to which more may be added."""
        return as_completed(loop=self._client.loop)

    def ask(self, address: str, id: str, how: str) -> None:
        """Pass a cancel request on to the worker that carries the order out."""
        with suppress(OSError, TimeoutError, ValueError):
            self._client.run(worker.ask, id, how, workers=[address], wait=False)

    def replace(self, address: str) -> None:
        """End a worker's process, whatever it does; a new one takes its place."""
        with suppress(OSError, TimeoutError, ValueError):
            self._client.restart_workers([address], timeout=20, raise_for_error=False)

    def lost(self, address: str) -> bool:
        """Whether a worker of an existing scheduler has gone, which would begin its order again elsewhere, or wait for
        a worker to come; the embedded scheduler gives such an order up by itself."""
        return not self.embedded and address not in self._client.scheduler_info(n_workers=-1)["workers"]

    def close(self) -> None:
        with suppress(Exception):
            self._client.close(timeout=2)
        if self._cluster is not None:
            # A worker in the midst of an order doesn't end by itself; its process does, and its nanny follows.
            for nanny in self._cluster.workers.values():
                with suppress(psutil.Error, AttributeError):
                    psutil.Process(nanny.pid).kill()
            with suppress(Exception):
                self._cluster.close(timeout=5)

    def _limit(self) -> int | None:
        return int(MEMORY_SHARE * psutil.virtual_memory().total / self.size) if self.embedded else None


def _warm_up(index: int) -> None:
    worker.warm_up()


def _embedded(device: str, wanted: int | None, failures: int) -> SpecCluster:
    logging.getLogger("distributed").setLevel(logging.ERROR)
    config.set(
        {
            # Torch chooses its threads itself, and memory is ours to watch: a paused worker would never resume.
            "distributed.nanny.pre-spawn-environ": {},
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.memory.terminate": 0.98,
            "distributed.comm.timeouts.connect": "10s",
            # A worker that takes long to come back, on a busy machine, is not given up.
            "distributed.deploy.lost-worker-timeout": "1 hour",
            # What Dask remembers of past work, for dashboards that aren't here, grows for an hour.
            "distributed.worker.profile.enabled": False,
            "distributed.admin.log-length": 100,
            "distributed.admin.low-level-log-length": 100,
            "distributed.admin.system-monitor.log-length": 60,
            "distributed.diagnostics.computations.max-history": 10,
            "distributed.diagnostics.erred-tasks.max-history": 10,
            # Their HTTP servers can't be left out; they have nothing to tell.
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
        }
    )
    devices = max(1, torch.cuda.device_count()) if device == "cuda" else 1
    count = wanted or devices
    security = Security.temporary()
    limit = int(MEMORY_SHARE * psutil.virtual_memory().total / count)
    common = {"host": "127.0.0.1", "protocol": "tls", "security": security}
    workers = {
        f"{device}-{index}": {
            "cls": Nanny,
            "options": {
                **common,
                "nthreads": 1,
                "memory_limit": limit,
                "env": {"CUDA_VISIBLE_DEVICES": str(index % devices)} if device == "cuda" else {},
                "silence_logs": 40,
            },
        }
        for index in range(count)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {**common, "dashboard": False, "dashboard_address": "127.0.0.1:0", "allowed_failures": failures},
    }
    return SpecCluster(workers=workers, scheduler=scheduler, security=security)
