"""Methods as workers published them: the API can validate jobs for methods that it has not installed itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from quantmill.store.tables import method
from quantmill.store.types import clock
from quantmill.store.upsert import upsert


def publish_methods(tx: Connection, worker: str, descriptions: Sequence[Mapping[str, Any]]) -> None:
    """Keep what `Method.describe` says, one row for each name and version; the newest description of one wins."""
    for description in sorted(descriptions, key=lambda each: (each["name"], each["version"])):  # one order of locks
        values = {"description": dict(description), "published_by": worker, "published_at": clock()}
        tx.execute(
            upsert(tx, method)
            .values(name=description["name"], version=description["version"], **values)
            .on_conflict_do_update(index_elements=["name", "version"], set_=values)
        )


def list_methods(tx: Connection) -> list[dict[str, Any]]:
    """The description of each method by name: of its versions the one that was published last."""
    published = select(method.c.name, method.c.description).order_by(method.c.published_at)
    newest = {row.name: row.description for row in tx.execute(published)}
    return [newest[name] for name in sorted(newest)]
