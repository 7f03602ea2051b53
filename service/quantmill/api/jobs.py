"""Jobs and plans."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool

from quantmill.api.context import (
    CursorsOf,
    Filter,
    IdempotencyKey,
    IfNoneMatch,
    PageSize,
    PageToken,
    ServicesOf,
    unchanged,
)
from quantmill.api.pages import DEFAULT_SIZE
from quantmill.api.problems import ParameterUnreadable
from quantmill.api.schemas import JobSummary, JobView, Page, PlanView, SubmitJob, SubmitPlan
from quantmill.domain.jobs import FINAL, Job, State
from quantmill.jobs import cancel, estimates, inspect, memory, plan, retry, routing, submit

router = APIRouter(prefix="/v1", tags=["jobs"])

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "headers": {
            "Location": {"description": "the job", "schema": {"type": "string"}},
            "ETag": {"description": "its version", "schema": {"type": "string"}},
        }
    }
}
LONGEST_WAIT_SECONDS = 60
POLL_SECONDS = 0.25


@router.post("/jobs", status_code=202, responses=ACCEPTED)
def submit_job(
    body: SubmitJob, services: ServicesOf, response: Response, idempotency_key: IdempotencyKey = None
) -> JobView:
    """Queue a compression job. Poll its Location, `:wait` for it, or follow its events."""
    return _accepted(submit.submit(services, body.to_request(), idempotency_key=idempotency_key), response)


@router.get("/jobs")
def list_jobs(
    services: ServicesOf,
    cursors: CursorsOf,
    state: State | None = None,
    method: Filter = None,
    label: Annotated[Filter, Query(description="key=value")] = None,
    page_size: PageSize = DEFAULT_SIZE,
    page_token: PageToken = None,
) -> Page[JobSummary]:
    """Jobs, newest first."""
    filters = {"list": "jobs", "state": state, "method": method, "label": label}
    after = UUID(cursors.decode(page_token, filters)) if page_token else None
    found = inspect.page(services, state=state, method=method, label=_label(label), after=after, limit=page_size + 1)
    following = cursors.encode(str(found[page_size - 1].id), filters) if len(found) > page_size else None
    return Page(items=[JobSummary.of(job) for job in found[:page_size]], next_page_token=following)


@router.get("/jobs/{job_id:uuid}:wait")
async def wait_for_job(
    job_id: UUID,
    services: ServicesOf,
    response: Response,
    timeout: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="seconds")] = 30,
) -> JobView:
    """The job once it has ended, or as it is when the time is up. Call again to wait longer."""
    # async, and each look in the thread pool: waiting callers must not hold its threads
    end = time.monotonic() + timeout
    while (job := await run_in_threadpool(inspect.get, services, job_id)).state not in FINAL:
        if (left := end - time.monotonic()) <= 0:
            break
        await asyncio.sleep(min(POLL_SECONDS, left))
    response.headers["ETag"] = f'"{job.etag}"'
    return JobView.of(job)


@router.post("/jobs/{job_id:uuid}:cancel")
def cancel_job(job_id: UUID, services: ServicesOf, response: Response) -> JobView:
    """Stop the job. Idempotent; a job that has ended otherwise is a conflict."""
    job = cancel.cancel(services, job_id)
    response.headers["ETag"] = f'"{job.etag}"'
    return JobView.of(job)


@router.post("/jobs/{job_id:uuid}:retry", status_code=202, responses=ACCEPTED)
def retry_job(
    job_id: UUID, services: ServicesOf, response: Response, idempotency_key: IdempotencyKey = None
) -> JobView:
    """Queue a new job with the request of a failed, canceled or expired one; its `retry_of` names that one."""
    return _accepted(retry.retry(services, job_id, idempotency_key=idempotency_key), response)


@router.get("/jobs/{job_id:uuid}", response_model=JobView, responses={304: {"description": "Not Modified"}})
def get_job(
    job_id: UUID, services: ServicesOf, response: Response, if_none_match: IfNoneMatch = None
) -> JobView | Response:
    """One job."""
    job = inspect.get(services, job_id)
    return unchanged(job.etag, if_none_match, response) or JobView.of(job)


@router.post("/plans")
def make_plan(body: SubmitPlan, services: ServicesOf) -> PlanView:
    """What a job would do, tensor by tensor, what it would take and where it would run. Creates nothing."""
    planned = memory.warned(services.settings, plan.make_plan(services, body.source, body.method, body.params))
    asked = estimates.for_plan(body.source, body.method, planned)
    expected = estimates.estimate(services, asked, planned)
    need = routing.worker_need(services.plugins.method(body.method).describe(), expected)
    return PlanView.of(body.method, planned, expected, services.settings.threads, routing.route_now(services, need))


def _accepted(job: Job, response: Response) -> JobView:
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["ETag"] = f'"{job.etag}"'
    return JobView.of(job)


def _label(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ParameterUnreadable(f"label is {text!r}; write key=value", errors=[_LABEL_PROBLEM])
    return key, value


_LABEL_PROBLEM = {"parameter": "label", "code": "label", "message": "must be key=value"}
