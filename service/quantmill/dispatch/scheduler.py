"""The scheduler: sends queued jobs to workers, takes back jobs of dead ones, and passes events on.

Several may run; a leader lease in the database lets one of them work at a time. All of it could run twice without
harm: each step is a compare-and-swap, or may be repeated.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from uuid import UUID

import structlog

from quantmill.contract.errors import NotFound
from quantmill.dispatch.dispatcher import Dispatcher
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import FINAL
from quantmill.services import Services
from quantmill.store import jobs, leader, outbox, workers

log = structlog.get_logger()

LEADER = "scheduler"
LEADER_ROUNDS = 5  # a leader that misses this many rounds is replaced
MIN_LEADER_SECONDS = 2.0
OUTBOX_BATCH = 500
SWEEP_ROUNDS = 60  # leftovers are looked for every so many rounds
STALE_SECONDS = 86_400.0  # a blob still incoming after this long has lost its writer


class Scheduler:
    """Dispatcher, reaper, outbox and sweeper as one loop."""

    def __init__(self, services: Services, dispatcher: Dispatcher) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid7().hex[-8:]}"
        self._rounds = 0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`; a round that fails is logged and the next one tries again."""
        while not stop.wait(self._services.settings.scheduler_seconds):
            try:
                self.round()
            except Exception:
                log.exception("scheduler_round_failed")
        with self._services.database.write() as tx:
            leader.release(tx, LEADER, self._owner)

    def round(self) -> None:
        """One pass, if this scheduler is the leader."""
        settings = self._services.settings
        seconds = max(MIN_LEADER_SECONDS, LEADER_ROUNDS * settings.scheduler_seconds)
        with self._services.database.write() as tx:
            if not leader.hold(tx, LEADER, self._owner, seconds):
                return
        self._reap()
        self._dispatch()
        self._emit()
        if self._rounds % SWEEP_ROUNDS == 0:
            self._sweep()
        self._rounds += 1

    def _reap(self) -> None:
        settings = self._services.settings
        with self._services.database.write() as tx:
            reaped = jobs.reap(tx, max_attempts=settings.max_attempts, backoff_seconds=settings.retry_backoff_seconds)
        for job in reaped:
            log.warning("reaped", job_id=str(job.id), epoch=job.epoch, state=job.state.value)

    def _dispatch(self) -> None:
        """Send as many jobs as live workers have slots, and one more so that nobody waits for the next round.

        The rest stays in the database, where order and cancellation are cheap; the broker's lists stay short.
        """
        settings = self._services.settings
        with self._services.database.read() as tx:
            room = workers.live_slots(tx, settings.queue, settings.lease_seconds) + 1 - jobs.outstanding(tx)
            waiting = jobs.dispatchable(tx, settings.redispatch_seconds, limit=max(room, 0))
        for job in waiting:
            with self._services.database.write() as tx:
                epoch = jobs.mark_dispatched(tx, job.job_id, job.epoch, job.queue or settings.queue)
            if epoch is not None:
                self._dispatcher.send(job.queue or settings.queue, job.job_id, epoch)

    def _emit(self) -> None:
        """Show committed events to plugins; what a plugin raises concerns nobody else."""
        with self._services.database.read() as tx:
            rows = outbox.pending(tx, OUTBOX_BATCH)
        if not rows:
            return
        manager = self._services.plugins.manager
        for row in rows:
            event = row.event
            shown = {
                "job_id": str(event.job_id),
                "seq": event.seq,
                "epoch": event.epoch,
                "at": event.at.isoformat(),
                "type": event.type,
                "payload": dict(event.payload),
            }
            for observer in manager.hook.quantmill_job_event.get_hookimpls():
                try:
                    observer.function(event=shown)
                except Exception:
                    log.exception("plugin_event_failed", plugin=observer.plugin_name, event_type=event.type)
        with self._services.database.write() as tx:
            outbox.delivered(tx, [row.id for row in rows])

    def _sweep(self) -> None:
        """Remove what dead processes left: staging folders of jobs that are over, and blobs half stored."""
        self._services.blobs.sweep(STALE_SECONDS)
        staging = self._services.settings.staging_dir
        for folder in staging.iterdir() if staging.is_dir() else ():
            if self._is_over(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _is_over(self, name: str) -> bool:
        try:
            job_id = UUID(name)
            with self._services.database.read() as tx:
                return jobs.get_job(tx, job_id).state in FINAL
        except (ValueError, NotFound):
            return False
