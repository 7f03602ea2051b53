"""Column types that mean the same in SQLite and PostgreSQL, and the database's clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import JSON, DateTime, Enum, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

E = TypeVar("E", bound=StrEnum)

# JSONB sorts an object's keys; what has to keep their order is stored as OrderedJson.
Json: JSON[Any] = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
OrderedJson: JSON[Any] = JSON(none_as_null=True)


def known(values: type[E], name: str) -> Enum:
    """A text column with a CHECK: PostgreSQL's own enums differ from SQLite and are painful to migrate."""
    return Enum(
        values,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda kind: [member.value for member in kind],
    )


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware in, UTC out. SQLite keeps it as text of fixed width, so that it compares as it sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; use datetime.now(UTC) or an aware datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class FreeText(TypeDecorator[str]):
    """Text that may quote a hostile checkpoint: what PostgreSQL cannot hold is replaced, never refused."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


def storable(text: str) -> str:
    """`text` with NUL and lone surrogates, which PostgreSQL refuses, turned into U+FFFD and `?`."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def dump_json(value: Any) -> str:
    """The JSON text for a column. NaN and infinities are no JSON: they raise ValueError."""
    return json.dumps(_storable_tree(value), allow_nan=False, separators=(",", ":"))


def _storable_tree(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(str(key)): _storable_tree(item) for key, item in value.items()}
        case list() | tuple():
            return [_storable_tree(item) for item in value]
        case _:
            return value


class clock(FunctionElement[datetime]):  # noqa: N801  reads as the SQL function it is
    """The database's time when the statement began, or that many seconds (a value or a column) from it.

    Workers' clocks are never asked. Not PostgreSQL's now(): that is when the transaction began, which for one that
    waited for a lock may be before what it is about to follow.
    """

    type = UtcDateTime()
    inherit_cache = True


@compiles(clock, "postgresql")
def _clock_postgresql(element: clock, compiler: SQLCompiler, **kw: Any) -> str:
    if not len(element.clauses):
        return "statement_timestamp()"
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(clock, "sqlite")
def _clock_sqlite(element: clock, compiler: SQLCompiler, **kw: Any) -> str:
    shift = f", printf('%+.3f seconds', {compiler.process(element.clauses, **kw)})" if len(element.clauses) else ""
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now'{shift})"  # %f has milliseconds; columns have microseconds
