"""INSERT ... ON CONFLICT, which both databases have and SQLAlchemy keeps in their dialects."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def upsert(tx: Connection, table: Table[Any]) -> postgresql.Insert:
    """An INSERT into `table` with the `on_conflict_...` methods."""
    return cast(postgresql.Insert, _INSERT[tx.dialect.name](table))
