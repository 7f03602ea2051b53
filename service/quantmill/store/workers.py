"""The workers there are, by their own word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from quantmill.store import queues
from quantmill.store.tables import worker
from quantmill.store.types import clock
from quantmill.store.upsert import upsert


@dataclass(frozen=True)
class WorkerRow:
    """`plugin_failures` are {name, reason} of the plugins that did not load there, `machine` is the hardware's JSON,
    `methods` are versions by name. `memory_bytes` is what one job may take, `free_...` what a new job could have when
    the worker was last seen; None where that is not known."""

    name: str
    queue: str
    slots: int
    host: str
    versions: Mapping[str, Any]
    plugin_failures: Sequence[Mapping[str, str]]
    machine: Mapping[str, Any]
    methods: Mapping[str, str]
    memory_bytes: int | None
    free_memory_bytes: int | None
    free_disk_bytes: int | None
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
    *,
    machine: Mapping[str, Any],
    methods: Mapping[str, str],
    memory_bytes: int | None = None,
    free_memory_bytes: int | None = None,
    free_disk_bytes: int | None = None,
) -> None:
    """Make a worker known, in the place of one of the same name; its queue is known by it from now on."""
    values = {
        "queue": queue,
        "slots": slots,
        "host": host,
        "versions": dict(versions),
        "plugin_failures": [dict(failure) for failure in plugin_failures],
        "machine": dict(machine),
        "methods": dict(methods),
        "memory_bytes": memory_bytes,
        "free_memory_bytes": free_memory_bytes,
        "free_disk_bytes": free_disk_bytes,
        "started_at": clock(),
        "seen_at": clock(),
    }
    tx.execute(
        upsert(tx, worker).values(name=name, **values).on_conflict_do_update(index_elements=["name"], set_=values)
    )
    queues.remember(tx, queue, slots=slots, machine=machine, methods=methods, memory_bytes=memory_bytes)


def beat(tx: Connection, name: str, free_memory_bytes: int | None, free_disk_bytes: int | None) -> bool:
    """Say that the worker is alive and what a new job could have there. False when it is not registered."""
    values = {"seen_at": clock(), "free_memory_bytes": free_memory_bytes, "free_disk_bytes": free_disk_bytes}
    return tx.execute(update(worker).where(worker.c.name == name).values(values)).rowcount == 1


def deregister(tx: Connection, name: str) -> None:
    """Forget a worker that has ended. Its attempts, its queue and the methods that it published stay."""
    queues.leave(tx, name)
    tx.execute(delete(worker).where(worker.c.name == name))


def list_workers(tx: Connection) -> list[WorkerRow]:
    """The registered workers, by name."""
    return [WorkerRow(**row._mapping) for row in tx.execute(select(worker).order_by(worker.c.name))]


def live_workers(tx: Connection, within_seconds: float) -> list[WorkerRow]:
    """The workers that were seen within `within_seconds`, by name."""
    alive = select(worker).where(worker.c.seen_at > clock(-within_seconds)).order_by(worker.c.name)
    return [WorkerRow(**row._mapping) for row in tx.execute(alive)]
