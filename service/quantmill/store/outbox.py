"""Events that are still to be told to plugins: at least once each, and in order for each job."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from quantmill.domain.jobs import Event
from quantmill.store.events import to_event
from quantmill.store.tables import job_event, outbox


@dataclass(frozen=True)
class OutboxRow:
    id: int
    event: Event


def pending(tx: Connection, limit: int) -> list[OutboxRow]:
    """The oldest events that have not been delivered.

    Ids are given before the commit, so a lower id of another job may still turn up later; those of one job never do,
    because its events are serialised by its row.
    """
    wanted = (
        select(outbox.c.id.label("outbox_id"), job_event)
        .join(job_event, (job_event.c.job_id == outbox.c.job_id) & (job_event.c.seq == outbox.c.seq))
        .order_by(outbox.c.id)
        .limit(limit)
    )
    return [OutboxRow(row.outbox_id, to_event(row)) for row in tx.execute(wanted)]


def delivered(tx: Connection, ids: Collection[int]) -> None:
    """Take these rows out of the outbox; the events themselves stay."""
    tx.execute(delete(outbox).where(outbox.c.id.in_(ids)))
