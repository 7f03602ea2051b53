"""A job's events, as a JSON page or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from quantmill.api.context import ServicesOf
from quantmill.api.schemas import LARGEST_INTEGER, EventList, EventView
from quantmill.domain.jobs import FINAL
from quantmill.jobs.inspect import follow
from quantmill.services import Services

router = APIRouter(prefix="/v1", tags=["events"])

POLL_SECONDS = 0.25
KEEPALIVE_SECONDS = 15.0
STREAM_SECONDS = 3600.0  # then the stream closes without `end`, and the client comes back with Last-Event-ID
BATCH = 500
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or with `Accept: text/event-stream` the events as they happen and a final `end`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "A reconnect after the end: there will be no more events"},
}


@router.get("/jobs/{job_id:uuid}/events", response_model=EventList, responses=STREAM)
def list_events(
    job_id: UUID,
    services: ServicesOf,
    after_seq: Annotated[int, Query(ge=0, le=LARGEST_INTEGER)] = 0,
    page_size: Annotated[int, Query(ge=1, le=BATCH)] = 100,
    accept: Annotated[str, Header()] = "application/json",
    last_event_id: Annotated[int | None, Header(ge=0, le=LARGEST_INTEGER)] = None,
) -> EventList | Response:
    """What happened to a job since `after_seq`."""
    if "text/event-stream" not in accept:
        job, events = follow(services, job_id, after=after_seq, limit=page_size)
        last = events[-1].seq if events else after_seq
        ended = job.state in FINAL and len(events) < page_size
        return EventList(items=[EventView.of(event) for event in events], last_seq=last, ended=ended)
    after = after_seq if last_event_id is None else last_event_id
    job, events = follow(services, job_id, after=after, limit=1)
    if last_event_id is not None and job.state in FINAL and not events:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventSourceResponse(_stream(services, job_id, after), headers=headers)


async def _stream(services: Services, job_id: UUID, after: int) -> AsyncIterator[bytes]:
    """Events as they are committed. Each look is a short transaction in the thread pool: none spans a yield."""
    started = spoke = time.monotonic()
    while time.monotonic() - started < STREAM_SECONDS:
        job, events = await run_in_threadpool(follow, services, job_id, after=after, limit=BATCH)
        for event in events:
            # ensure_ascii: line readers take U+2028 for the end of a line
            data = json.dumps(EventView.of(event).model_dump(mode="json"), ensure_ascii=True)
            yield format_sse_event(data_str=data, event=event.type, id=str(event.seq))
            after, spoke = event.seq, time.monotonic()
        if len(events) == BATCH:
            continue
        if job.state in FINAL:
            yield format_sse_event(data_str=json.dumps({"state": job.state}), event="end")
            return
        if time.monotonic() - spoke >= KEEPALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            spoke = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
