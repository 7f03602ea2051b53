"""The installation itself: its workers, whether it is ready, and how many jobs stand where."""

from __future__ import annotations

from quantmill.domain.jobs import State
from quantmill.services import Services
from quantmill.store.jobs import count_jobs
from quantmill.store.migrate import is_current
from quantmill.store.workers import WorkerRow as WorkerRow
from quantmill.store.workers import list_workers as worker_rows


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
