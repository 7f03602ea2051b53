"""The scheduler: sends queued jobs to workers, takes back jobs of dead ones, and passes events on.

Several may run; a leader lease in the database lets one of them work at a time. All of it could run twice without
harm: each step is a compare-and-swap, or may be repeated.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import structlog

from quantmill.contract.errors import NotFound
from quantmill.dispatch.alive import touch_heartbeat
from quantmill.dispatch.dispatcher import Dispatcher
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import FINAL, Waiting
from quantmill.hardware.routing import EmptyQueue, Route, Worker, WorkerNeed, awaited, route
from quantmill.services import Services
from quantmill.store import jobs, leader, outbox, queues, workers

log = structlog.get_logger()

LEADER_ROUNDS = 5  # a leader that misses this many rounds is replaced
MIN_LEADER_SECONDS = 2.0
OUTBOX_BATCH = 500
SWEEP_ROUNDS = 60  # leftovers are looked for every so many rounds
STALE_SECONDS = 86_400.0  # a blob still incoming after this long has lost its writer


class Places:
    """How many more jobs the workers of each queue may be told of: their free slots, and one spare."""

    def __init__(self, fleet: Iterable[Worker], busy: Mapping[str, int]) -> None:
        self._free: dict[str, int] = defaultdict(int)
        for worker in fleet:
            self._free[worker.queue] += worker.slots
        for queue, jobs_there in busy.items():
            self._free[queue] -= jobs_there

    @property
    def left(self) -> int:
        return sum(max(0, free + 1) for free in self._free.values())

    def cheapest(self, queues: Sequence[str]) -> str | None:
        """The first of them with a free slot, else with its spare place; None where there is neither."""
        for least in (1, 0):
            for queue in queues:
                if self._free[queue] >= least:
                    return queue
        return None

    def take(self, queue: str, instead: str | None) -> None:
        """A job more is there, and one less in the queue that it was sent to before."""
        self._free[queue] -= 1
        if instead is not None:
            self._free[instead] += 1


class Scheduler:
    """Dispatcher, reaper, outbox and sweeper as one loop."""

    def __init__(self, services: Services, dispatcher: Dispatcher) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid7().hex[-8:]}"
        self._rounds = 0
        self._awaited: frozenset[str] | None = None  # as written; None: not by this scheduler

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`; a round that fails is logged and the next one tries again."""
        while not stop.wait(self._services.settings.scheduler_seconds):
            try:
                self.round()
                touch_heartbeat(self._services.settings)
            except Exception:
                log.exception("scheduler_round_failed")
        with self._services.database.write() as tx:
            leader.release(tx, leader.SCHEDULER, self._owner)

    def round(self) -> None:
        """One pass, if this scheduler is the leader."""
        settings = self._services.settings
        seconds = max(MIN_LEADER_SECONDS, LEADER_ROUNDS * settings.scheduler_seconds)
        with self._services.database.write() as tx:
            if not leader.hold(tx, leader.SCHEDULER, self._owner, seconds):
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
        """Send jobs to queues whose workers can run them: as many as these have slots, and one more for each queue so
        that nobody waits for the next round.

        The rest stays in the database, where order and cancellation are cheap; the broker's lists stay short.
        """
        settings = self._services.settings
        with self._services.database.read() as tx:
            fleet = [Worker.of(vars(row)) for row in workers.live_workers(tx, settings.lease_seconds)]
            known = queues.empty_queues(
                tx, settings.lease_seconds, settings.queue_memory_seconds, settings.worker_start_seconds
            )
            said, busy = jobs.queued_needs(tx), jobs.outstanding(tx)
        empty = [EmptyQueue.of(vars(row)) for row in known]
        needs = {need: WorkerNeed.of_text(need) for need, _ in said}
        routes = {text: route(need, fleet, empty) for text, need in needs.items()}
        self._explain(said, routes)
        self._await(awaited(needs.values(), empty), {row.queue for row in known if row.awaited})
        places = Places(fleet, busy)
        sendable = [need for need, found in routes.items() if places.cheapest(found.queues)]
        with self._services.database.read() as tx:
            waiting = jobs.dispatchable(tx, settings.redispatch_seconds, places.left, needs=sendable)
        for job in waiting:
            able = routes[job.need].queues if job.need in routes else ()
            self._send(job, job.queue if job.redispatch and job.queue in able else places.cheapest(able), places)

    def _await(self, names: frozenset[str], noted: set[str]) -> None:
        """Note since when jobs wait for a first worker of these queues. `noted` are those of which that is known: a
        worker that came and went between two rounds, or another leader, may have changed it."""
        if names != self._awaited or names != noted:
            with self._services.database.write() as tx:
                queues.await_workers(tx, names)
            self._awaited = names

    def _explain(self, said: Iterable[tuple[str, str | None]], routes: Mapping[str, Route]) -> None:
        """Write beside jobs that no worker can take why that is, where it is not what they say already."""
        for need, text in said:
            found = routes[need]
            waiting = Waiting(found.reason, found.missing, found.home) if found.reason else None
            if text != (waiting.to_text() if waiting else None):
                with self._services.database.write() as tx:
                    jobs.note_waiting(tx, need, waiting)

    def _send(self, job: jobs.Dispatchable, queue: str | None, places: Places) -> None:
        """To `queue`; without one a job that waits goes on waiting, and a message that nobody took is taken back."""
        with self._services.database.write() as tx:
            if queue is None:
                if job.redispatch:
                    jobs.decline(tx, job.job_id, job.epoch)
                return
            epoch = jobs.mark_dispatched(tx, job.job_id, job.epoch, queue)
        if epoch is not None:
            places.take(queue, job.queue if job.redispatch else None)
            self._dispatcher.send(queue, job.job_id, epoch)

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
        """Remove what dead processes left: staging folders of jobs that are over, and blobs half stored; and queues
        that had no worker for long."""
        settings = self._services.settings
        with self._services.database.write() as tx:
            queues.see(tx, settings.lease_seconds)
            for queue in queues.forget(tx, settings.queue_memory_seconds):
                log.info("queue_forgotten", queue=queue)
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
