"""Runs an ended job again, as a new job."""

from __future__ import annotations

from uuid import UUID

from quantmill.contract.errors import Conflict
from quantmill.domain.jobs import FINAL, Job, State
from quantmill.jobs.inspect import get
from quantmill.jobs.submit import submit
from quantmill.services import Services

RETRIABLE = FINAL - {State.SUCCEEDED}


def retry(services: Services, job_id: UUID, *, idempotency_key: str | None = None) -> Job:
    """Queue a new job with the request of `job_id`, linked to it by `retry_of`. Final states are never left.

    Raises NotFound, Conflict for a job that has not ended or has succeeded, and what `submit` raises.
    """
    job = get(services, job_id)
    if job.state not in RETRIABLE:
        states = ", ".join(sorted(RETRIABLE))
        raise Conflict(f"job {job_id} is {job.state}; only {states} jobs can be retried", state=job.state.value)
    return submit(services, job.asked, idempotency_key=idempotency_key, retry_of=job_id)
