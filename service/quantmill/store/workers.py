"""The workers there are, by their own word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from quantmill.store.tables import worker
from quantmill.store.types import clock
from quantmill.store.upsert import upsert


@dataclass(frozen=True)
class WorkerRow:
    """`plugin_failures` are {name, reason} of the plugins that did not load there."""

    name: str
    queue: str
    slots: int
    host: str
    versions: Mapping[str, Any]
    plugin_failures: Sequence[Mapping[str, str]]
    started_at: datetime
    seen_at: datetime


def register(
    tx: Connection,
    name: str,
    queue: str,
    slots: int,
    host: str,
    versions: Mapping[str, Any],
    plugin_failures: Sequence[Mapping[str, str]],
) -> None:
    """Make a worker known, in the place of one of the same name."""
    values = {
        "queue": queue,
        "slots": slots,
        "host": host,
        "versions": dict(versions),
        "plugin_failures": [dict(failure) for failure in plugin_failures],
        "started_at": clock(),
        "seen_at": clock(),
    }
    tx.execute(
        upsert(tx, worker).values(name=name, **values).on_conflict_do_update(index_elements=["name"], set_=values)
    )


def beat(tx: Connection, name: str) -> bool:
    """Say that the worker is alive. False when it is not registered."""
    return tx.execute(update(worker).where(worker.c.name == name).values(seen_at=clock())).rowcount == 1


def deregister(tx: Connection, name: str) -> None:
    """Forget a worker that has ended. Its attempts and the methods that it published stay."""
    tx.execute(delete(worker).where(worker.c.name == name))


def list_workers(tx: Connection) -> list[WorkerRow]:
    """The registered workers, by name."""
    return [WorkerRow(**row._mapping) for row in tx.execute(select(worker).order_by(worker.c.name))]


def live_slots(tx: Connection, queue: str, within_seconds: float) -> int:
    """How many jobs the workers of a queue that were seen within `within_seconds` can run at a time."""
    alive = select(func.coalesce(func.sum(worker.c.slots), 0)).where(
        worker.c.queue == queue, worker.c.seen_at > clock(-within_seconds)
    )
    return int(tx.execute(alive).scalar_one())
