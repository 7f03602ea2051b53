"""A worker's row in the database: what it can do, and that it lives."""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType

import structlog

from quantmill.dispatch.alive import touch_heartbeat
from quantmill.domain.identifiers import uuid7
from quantmill.services import Services
from quantmill.store import methods, workers
from quantmill.worker.capacity import Capacity
from quantmill.worker.environment import capture_environment

log = structlog.get_logger()


def worker_name() -> str:
    """Unique for each worker process, also over restarts and reused process ids."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid7().hex[-8:]}"


class Registration:
    """Registers a worker and its methods on entry, and keeps its heartbeat until exit."""

    def __init__(self, services: Services, capacity: Capacity) -> None:
        self._services = services
        self._capacity = capacity
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker-heartbeat", daemon=True)

    def __enter__(self) -> Registration:
        plugins = self._services.plugins
        environment = capture_environment()
        with self._services.database.write() as tx:
            workers.register(
                tx,
                host=socket.gethostname(),
                versions=environment["versions"],
                plugin_failures=[{"name": failure.name, "reason": failure.reason} for failure in plugins.failures],
                **self._capacity.to_row(),
            )
            methods.publish_methods(tx, self._capacity.name, [method.describe() for method in plugins.methods.values()])
        touch_heartbeat(self._services.settings)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        with self._services.database.write() as tx:
            workers.deregister(tx, self._capacity.name)

    def _run(self) -> None:
        while not self._closed.wait(self._services.settings.heartbeat_seconds):
            try:
                self._capacity.beat()
                touch_heartbeat(self._services.settings)
            except Exception as error:
                log.warning("worker_heartbeat_failed", error=str(error))
