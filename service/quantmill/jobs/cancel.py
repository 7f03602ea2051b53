"""Stops a job."""

from __future__ import annotations

from uuid import UUID

from quantmill.domain.jobs import Job
from quantmill.services import Services
from quantmill.store.jobs import request_cancel


def cancel(services: Services, job_id: UUID) -> Job:
    """Ask for the end of a job: a queued one ends now, a running one at its worker's next heartbeat.

    Asking twice is harmless. A job whose artifact is already being published may still succeed. Raises NotFound, and
    IllegalTransition when the job has ended otherwise.
    """
    with services.database.write() as tx:
        return request_cancel(tx, job_id)
