"""The installation itself: its workers, whether it is ready, and how many jobs stand where."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from quantmill.domain.jobs import State
from quantmill.hardware.routing import Reason
from quantmill.services import Services
from quantmill.store.jobs import count_jobs, count_waiting
from quantmill.store.migrate import is_current
from quantmill.store.workers import WorkerRow as WorkerRow
from quantmill.store.workers import list_workers as worker_rows
from quantmill.store.workers import live_workers


def list_workers(services: Services) -> list[WorkerRow]:
    """Every worker that ever registered, with its last heartbeat."""
    with services.database.read() as tx:
        return worker_rows(tx)


def schema_is_current(services: Services) -> bool:
    """Whether the database answers and its schema is the one this version was written for."""
    return is_current(services.database)


def jobs_by_state(services: Services) -> dict[State, int]:
    """How many jobs stand in each state, states without jobs included."""
    with services.database.read() as tx:
        return dict.fromkeys(State, 0) | count_jobs(tx)


def jobs_waiting(services: Services) -> dict[str, int]:
    """How many queued jobs no worker can take, for good or now, by reason; reasons without jobs included."""
    with services.database.read() as tx:
        return dict.fromkeys(get_args(Reason), 0) | count_waiting(tx)


def workers_by_queue(services: Services) -> dict[str, int]:
    """How many live workers serve each queue."""
    with services.database.read() as tx:
        return dict(Counter(row.queue for row in live_workers(tx, services.settings.lease_seconds)))
