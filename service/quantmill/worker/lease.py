"""A lease that renews itself while a job runs."""

from __future__ import annotations

import threading
from types import TracebackType
from uuid import UUID

import structlog

from quantmill.domain.jobs import State
from quantmill.services import Services
from quantmill.store import jobs

log = structlog.get_logger()

FAILURES_BORNE = 3  # heartbeats that may fail in a row before the work is given up


class Lease:
    """Renews the lease of (job, epoch) from a thread of its own until it is closed, lost or the job is canceled.

    `lost` is set when the job has moved on without us, or the database has been out of reach for too long: whatever is
    being done for this epoch is then worthless. `canceling` is set when a user asked the job to stop.
    """

    def __init__(self, services: Services, job_id: UUID, epoch: int, worker: str) -> None:
        self._services = services
        self._key = (job_id, epoch, worker)
        self._closed = threading.Event()
        self._failures = 0
        self.lost = threading.Event()
        self.canceling = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{job_id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._services.settings.heartbeat_seconds) and not self.lost.is_set():
            self._beat()

    def _beat(self) -> None:
        job_id, epoch, worker = self._key
        try:
            with self._services.database.write() as tx:
                state = jobs.renew_lease(tx, job_id, epoch, worker, self._services.settings.lease_seconds)
        except Exception as error:  # the database is away: the lease lives on until it runs out
            self._failures += 1
            log.warning("heartbeat_failed", job_id=str(job_id), epoch=epoch, error=str(error))
            if self._failures >= FAILURES_BORNE:
                self.lost.set()
            return
        self._failures = 0
        if state is None:
            self.lost.set()
        elif state is State.CANCELING:
            self.canceling.set()
