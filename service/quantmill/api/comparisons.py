"""Comparisons and their reports."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool

from quantmill.api.context import CursorsOf, IdempotencyKey, IfNoneMatch, PageSize, PageToken, ServicesOf, unchanged
from quantmill.api.jobs import ACCEPTED, LONGEST_WAIT_SECONDS, POLL_SECONDS
from quantmill.api.pages import DEFAULT_SIZE
from quantmill.api.schemas import ComparisonView, Page, ReportForm, SubmitComparison
from quantmill.domain.comparisons import Comparison
from quantmill.domain.jobs import FINAL
from quantmill.evaluation.page import FORMS
from quantmill.jobs import comparisons

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"])


MEDIA_TYPES: dict[ReportForm, str] = {"html": "text/html", "json": "application/json", "csv": "text/csv"}
REPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page that needs no network and no script, or the same as JSON or CSV",
        "content": {
            "text/html": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},
            "text/csv": {"schema": {"type": "string"}},
        },
    },
}


@router.post("", status_code=202, responses=ACCEPTED)
def submit_comparison(
    body: SubmitComparison, services: ServicesOf, response: Response, idempotency_key: IdempotencyKey = None
) -> ComparisonView:
    """Queue a job for each variant, all or none of them. Poll its Location or `:wait` for it."""
    comparison = comparisons.submit(services, body.to_request(), idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/comparisons/{comparison.id}"
    return _shown(comparison, response)


@router.get("")
def list_comparisons(
    services: ServicesOf, cursors: CursorsOf, page_size: PageSize = DEFAULT_SIZE, page_token: PageToken = None
) -> Page[ComparisonView]:
    """Comparisons, newest first."""
    filters = {"list": "comparisons"}
    after = UUID(cursors.decode(page_token, filters)) if page_token else None
    found = comparisons.page(services, after=after, limit=page_size + 1)
    following = cursors.encode(str(found[page_size - 1].id), filters) if len(found) > page_size else None
    return Page(items=[ComparisonView.of(each) for each in found[:page_size]], next_page_token=following)


@router.get("/{comparison_id:uuid}:wait")
async def wait_for_comparison(
    comparison_id: UUID,
    services: ServicesOf,
    response: Response,
    timeout: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="seconds")] = 30,
) -> ComparisonView:
    """The comparison once all its jobs have ended, or as it is when the time is up."""
    end = time.monotonic() + timeout
    while (found := await run_in_threadpool(comparisons.get, services, comparison_id)).state not in FINAL:
        if (left := end - time.monotonic()) <= 0:
            break
        await asyncio.sleep(min(POLL_SECONDS, left))
    return _shown(found, response)


@router.post("/{comparison_id:uuid}:cancel")
def cancel_comparison(comparison_id: UUID, services: ServicesOf, response: Response) -> ComparisonView:
    """Stop the jobs that have not ended. Idempotent; a comparison that has ended otherwise is a conflict."""
    return _shown(comparisons.cancel(services, comparison_id), response)


@router.get("/{comparison_id:uuid}/report.{form}", response_class=Response, responses=REPORT)
def get_report(comparison_id: UUID, form: ReportForm, services: ServicesOf) -> Response:
    """The report, once all jobs have ended: variants that failed stand in it with their reason."""
    text = FORMS[form](comparisons.report(services, comparison_id))
    return Response(text, media_type=MEDIA_TYPES[form], headers={"X-Content-Type-Options": "nosniff"})


@router.get("/{comparison_id:uuid}", response_model=ComparisonView, responses={304: {"description": "Not Modified"}})
def get_comparison(
    comparison_id: UUID, services: ServicesOf, response: Response, if_none_match: IfNoneMatch = None
) -> ComparisonView | Response:
    """One comparison, with its variants as they stand."""
    found = comparisons.get(services, comparison_id)
    return unchanged(found.etag, if_none_match, response) or ComparisonView.of(found)


def _shown(comparison: Comparison, response: Response) -> ComparisonView:
    response.headers["ETag"] = f'"{comparison.etag}"'
    return ComparisonView.of(comparison)
