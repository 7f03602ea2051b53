"""What happened to a job, in order and without gaps, and the outbox that tells others of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert, select

from quantmill.domain.jobs import Event
from quantmill.store.tables import job_event, outbox
from quantmill.store.types import clock


def write_event(tx: Connection, job_id: UUID, seq: int, epoch: int, kind: str, payload: Mapping[str, Any]) -> None:
    """Write an event and its outbox row.

    `seq` comes from an UPDATE of the job in this transaction that raised `event_seq`: its row lock is what makes the
    numbers gap-free and the commits come in their order.
    """
    tx.execute(
        insert(job_event).values(job_id=job_id, seq=seq, epoch=epoch, at=clock(), type=kind, payload=dict(payload))
    )
    tx.execute(insert(outbox).values(job_id=job_id, seq=seq))


def list_events(tx: Connection, job_id: UUID, after: int, limit: int) -> list[Event]:
    """The job's events with `seq` above `after`, oldest first; empty for a job that does not exist."""
    wanted = (
        select(job_event)
        .where(job_event.c.job_id == job_id, job_event.c.seq > after)
        .order_by(job_event.c.seq)
        .limit(limit)
    )
    return [to_event(row) for row in tx.execute(wanted)]


def to_event(row: Row[Any]) -> Event:
    return Event(job_id=row.job_id, seq=row.seq, epoch=row.epoch, at=row.at, type=row.type, payload=row.payload)
