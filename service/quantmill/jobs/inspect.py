"""Looks at jobs and what happened to them."""

from __future__ import annotations

import time
from uuid import UUID

from quantmill.domain.jobs import FINAL, Event, Job, State
from quantmill.services import Services
from quantmill.store.events import list_events
from quantmill.store.jobs import get_job, list_jobs

POLL_SECONDS = 0.2


def get(services: Services, job_id: UUID) -> Job:
    """One job with its attempts. Raises NotFound."""
    with services.database.read() as tx:
        return get_job(tx, job_id)


def page(
    services: Services,
    *,
    state: State | None = None,
    method: str | None = None,
    label: tuple[str, str] | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[Job]:
    """At most `limit` jobs, newest first, that come after the job `after`."""
    with services.database.read() as tx:
        return list_jobs(tx, state=state, method=method, label=label, after=after, limit=limit)


def events(services: Services, job_id: UUID, *, after: int = 0, limit: int = 1000) -> list[Event]:
    """A job's events with seq > `after`, oldest first. Raises NotFound."""
    return follow(services, job_id, after=after, limit=limit)[1]


def follow(services: Services, job_id: UUID, *, after: int, limit: int = 1000) -> tuple[Job, list[Event]]:
    """The job and its next events, read in this order: an ended job with no events left will never have more."""
    with services.database.read() as tx:
        return get_job(tx, job_id), list_events(tx, job_id, after=after, limit=limit)


def wait(services: Services, job_id: UUID, timeout_seconds: float) -> Job:
    """The job once it has ended, or as it is when the time is up. Raises NotFound."""
    end = time.monotonic() + timeout_seconds
    while True:
        job = get(services, job_id)
        if job.state in FINAL or time.monotonic() >= end:
            return job
        time.sleep(POLL_SECONDS)
