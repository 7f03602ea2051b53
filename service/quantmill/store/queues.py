"""Queues by their last worker, so that a queue without workers is still known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, update

from quantmill.store.tables import queue_profile, worker
from quantmill.store.types import clock
from quantmill.store.upsert import upsert


@dataclass(frozen=True)
class QueueRow:
    """What the queue's last worker was, when a worker of it was last seen, whether jobs are known to wait for a worker,
    and whether they have for longer than was asked."""

    queue: str
    slots: int
    machine: Mapping[str, Any]
    methods: Mapping[str, str]
    memory_bytes: int | None
    seen_at: datetime
    awaited: bool
    overdue: bool


def remember(
    tx: Connection,
    queue: str,
    *,
    slots: int,
    machine: Mapping[str, Any],
    methods: Mapping[str, str],
    memory_bytes: int | None,
) -> None:
    """Note what a worker of the queue is, in the place of the one before. It is no longer waited for."""
    values = {
        "slots": slots,
        "machine": dict(machine),
        "methods": dict(methods),
        "memory_bytes": memory_bytes,
        "seen_at": clock(),
        "awaited_since": None,
    }
    tx.execute(
        upsert(tx, queue_profile)
        .values(queue=queue, **values)
        .on_conflict_do_update(index_elements=["queue"], set_=values)
    )


def see(tx: Connection, within_seconds: float) -> None:
    """Note that the queues of the workers that were seen within `within_seconds` have one now."""
    tx.execute(update(queue_profile).where(_alive(within_seconds)).values(seen_at=clock()))


def _alive(within_seconds: float) -> ColumnElement[bool]:
    return exists().where(worker.c.queue == queue_profile.c.queue, worker.c.seen_at > clock(-within_seconds))


def leave(tx: Connection, name: str) -> None:
    """Note that the worker of this name is the last that was seen of its queue."""
    its = select(worker.c.queue).where(worker.c.name == name).scalar_subquery()
    tx.execute(update(queue_profile).where(queue_profile.c.queue == its).values(seen_at=clock()))


def empty_queues(
    tx: Connection, live_seconds: float, remembered_seconds: float, overdue_seconds: float
) -> list[QueueRow]:
    """The queues, by name, none of whose workers was seen within `live_seconds`, but within `remembered_seconds`."""
    since = queue_profile.c.awaited_since
    waited = {"awaited": since.is_not(None), "overdue": func.coalesce(since <= clock(-overdue_seconds), False)}
    columns = [queue_profile.c[name] for name in QueueRow.__dataclass_fields__ if name not in waited]
    wanted = (
        select(*columns, *(expression.label(name) for name, expression in waited.items()))
        .where(~_alive(live_seconds), queue_profile.c.seen_at > clock(-remembered_seconds))
        .order_by(queue_profile.c.queue)
    )
    return [QueueRow(**row._mapping) for row in tx.execute(wanted)]


def await_workers(tx: Connection, awaited: Collection[str]) -> None:
    """Jobs wait for a worker of these queues, from now on where they did not before, and for no others."""
    since = queue_profile.c.awaited_since
    tx.execute(
        update(queue_profile).where(queue_profile.c.queue.in_(awaited), since.is_(None)).values(awaited_since=clock())
    )
    tx.execute(
        update(queue_profile)
        .where(queue_profile.c.queue.not_in(awaited), since.is_not(None))
        .values(awaited_since=None)
    )


def forget(tx: Connection, remembered_seconds: float) -> list[str]:
    """Drop the queues that no worker was seen of for `remembered_seconds`; gives their names."""
    old = delete(queue_profile).where(queue_profile.c.seen_at <= clock(-remembered_seconds))
    return sorted(tx.execute(old.returning(queue_profile.c.queue)).scalars())
