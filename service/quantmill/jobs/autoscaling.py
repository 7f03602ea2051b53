"""What each queue has to do, for those who start and stop its workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from quantmill.domain.jobs import State
from quantmill.hardware.routing import EmptyQueue, Worker, WorkerNeed, may_have_changed, route
from quantmill.services import Services
from quantmill.store.jobs import count_unsent
from quantmill.store.numbers import jobs_by_queue
from quantmill.store.queues import empty_queues
from quantmill.store.workers import live_workers


@dataclass(frozen=True)
class QueueLoad:
    """The jobs that a queue's workers hold, and those that wait for them. A worker that is stopped while it holds one
    gives work away: scale by both."""

    running: int = 0
    queued: int = 0

    @property
    def jobs(self) -> int:
        return self.running + self.queued


@dataclass(frozen=True)
class Fleet:
    """Workers, the queues that have none, and what is known of jobs, at one moment. `told` are jobs by queue and state,
    `unsent` needs with their jobs and when the newest of these came, `seen_at` moments by empty queue."""

    workers: list[Worker]
    empty: list[EmptyQueue]
    seen_at: Mapping[str, datetime]
    told: Mapping[tuple[str, ...], float]
    unsent: list[tuple[WorkerNeed, int, datetime]]

    @classmethod
    def now(cls, services: Services) -> Fleet:
        limits = services.settings
        with services.database.read() as tx:
            alive = live_workers(tx, limits.lease_seconds)
            empty = empty_queues(tx, limits.lease_seconds, limits.queue_memory_seconds, limits.worker_start_seconds)
            told, unsent = jobs_by_queue(tx), count_unsent(tx)
        return cls(
            [Worker.of(vars(row)) for row in alive],
            [EmptyQueue.of(vars(row)) for row in empty],
            {row.queue: row.seen_at for row in empty},
            told,
            [(WorkerNeed.of_text(need), jobs, newest) for need, jobs, newest in unsent],
        )

    @cached_property
    def loads(self) -> dict[str, QueueLoad]:
        """What each known queue has to do. A job that no worker was told of counts for the queue that it waits for."""
        queued: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for (queue, state), jobs in self.told.items():
            (queued if state == State.QUEUED else running)[queue] += int(jobs)
        for need, jobs, _ in self.unsent:
            if (home := route(need, self.workers, self.empty).home) is not None:
                queued[home] += jobs
        known = {each.queue for each in self.workers} | {each.name for each in self.empty} | set(queued) | set(running)
        return {queue: QueueLoad(running[queue], queued[queue]) for queue in sorted(known)}

    def wanted(self, queue: str) -> QueueLoad:
        """What a queue, known or not, is to be scaled by: one that has no worker gets one job more to look at where
        jobs wait that no known queue can run, and it may be able to. Its first worker says what it can do."""
        found = self.loads.get(queue, QueueLoad())
        return QueueLoad(queued=1) if not found.jobs and self._is_worth_a_look(queue) else found

    def _is_worth_a_look(self, queue: str) -> bool:
        """Whether a worker of the queue, which has none, may turn out to be able to run a job that no known queue can:
        none of it was seen since the job came, and what the last one lacked, if there was one, was the method."""
        if any(worker.queue == queue for worker in self.workers):
            return False
        last = next((each for each in self.empty if each.name == queue), None)
        return any(
            last is None or (newest > self.seen_at[queue] and may_have_changed(need, last))
            for need, newest in self._without_home
        )

    @cached_property
    def _without_home(self) -> list[tuple[WorkerNeed, datetime]]:
        return [(need, newest) for need, _, newest in self.unsent if route(need, self.workers, self.empty).home is None]


def loads(services: Services) -> dict[str, QueueLoad]:
    """What each known queue is to be scaled by, by its name."""
    fleet = Fleet.now(services)
    return {queue: fleet.wanted(queue) for queue in fleet.loads}


def load_of(services: Services, queue: str) -> QueueLoad:
    """What this queue is to be scaled by."""
    return Fleet.now(services).wanted(queue)
