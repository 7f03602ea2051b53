"""Scheduler and worker in this process: what a laptop needs."""

from __future__ import annotations

import threading
from types import TracebackType

from quantmill.dispatch.local import LocalDispatcher
from quantmill.dispatch.registration import Registration, worker_name
from quantmill.dispatch.scheduler import Scheduler
from quantmill.services import Services
from quantmill.worker.capacity import Capacity
from quantmill.worker.supervisor import Supervisor


class Embedded:
    """Works on the queue while the context is open; on exit, running jobs go back to the queue, units kept."""

    def __init__(self, services: Services) -> None:
        capacity = Capacity(services, worker_name())
        self._supervisor = Supervisor(services, capacity)
        self._dispatcher = LocalDispatcher(self._supervisor.run_attempt, services.settings.slots)
        self._registration = Registration(services, capacity)
        self._stop = threading.Event()
        scheduler = Scheduler(services, self._dispatcher)
        self._scheduler = threading.Thread(target=scheduler.run, args=(self._stop,), name="scheduler")

    def __enter__(self) -> Embedded:
        self._registration.__enter__()
        self._dispatcher.start()
        self._scheduler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._supervisor.stop()
        self._scheduler.join()
        self._dispatcher.stop()
        self._registration.__exit__(kind, error, trace)
