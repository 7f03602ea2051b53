"""The database: engines that mean the same by a transaction, whatever stands behind them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, NoSuchModuleError, OperationalError

from quantmill.contract.errors import DatabaseUnavailable
from quantmill.store.types import dump_json

SQLITE_PRAGMAS = (
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    # NORMAL would lose the last commits when the power fails, and with them jobs that a client was told are accepted
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
POSTGRESQL_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "10s",  # a process frozen in the middle of one keeps its row locks
        "timezone": "UTC",
    }.items()
)


@dataclass(frozen=True)
class Database:
    """An opened database. `write()` and `read()` are the only ways to a connection, so every statement of a use case
    stands in one transaction of a known kind.
    """

    engine: Engine

    @classmethod
    def open(cls, url: str) -> Database:
        """Open `sqlite:///path` or `postgresql://...`; nothing is connected yet.

        Raises DatabaseUnavailable for any other URL, and where the driver of PostgreSQL is not installed.
        """
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise DatabaseUnavailable(
                "the database URL cannot be parsed; use sqlite:///... or postgresql://..."
            ) from error
        backend = parsed.get_backend_name()
        if backend not in _OPEN:
            raise DatabaseUnavailable(f"no such database: {backend!r}; use sqlite:///... or postgresql://...")
        return cls(_OPEN[backend](parsed))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may change rows: committed at the end, rolled back when the block raises.

        On SQLite it holds the one write lock from its start (BEGIN IMMEDIATE), so what it has read stays true. On
        PostgreSQL it is READ COMMITTED: guarded updates look at the row again after they waited for its lock.
        Raises DatabaseUnavailable where the database cannot be reached, is full, or makes it wait too long.
        """
        with unavailable(self.engine.url), self.engine.connect() as connection:
            connection = connection.execution_options(sqlite_begin="IMMEDIATE")
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the whole database and can change nothing in it.

        Raises DatabaseUnavailable where the database cannot be reached or makes it wait too long.
        """
        with unavailable(self.engine.url), self.engine.connect() as connection:
            connection = connection.execution_options(**_READ_ONLY[self.engine.dialect.name])
            with connection.begin():
                yield connection

    def dispose(self) -> None:
        """Close the connections of the pool."""
        self.engine.dispose()


# Their children (IntegrityError, ...) are about the statement, not the database; a file that is none is a DatabaseError
_UNAVAILABLE = (DatabaseError, InterfaceError, OperationalError)
_READ_ONLY: dict[str, dict[str, Any]] = {
    "sqlite": {"sqlite_begin": "DEFERRED"},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


@contextmanager
def unavailable(url: URL) -> Iterator[None]:
    """Turn what the driver raises when the database cannot do its work into DatabaseUnavailable."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        if type(error) not in _UNAVAILABLE:
            raise
        where = url.render_as_string(hide_password=True)
        raise DatabaseUnavailable(f"{where}: {str(error.orig).strip()}") from error


def _open_sqlite(url: URL) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise DatabaseUnavailable("a database in memory is another one in each thread; name a file: sqlite:///path")
    engine = create_engine(url, json_serializer=dump_json)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    for pragma in SQLITE_PRAGMAS:
        connection.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    """Begin at once as a writer or not at all: a deferred BEGIN that turns into a write may find the database locked,
    and no timeout helps it then."""
    kind = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"PRAGMA query_only = {int(kind == 'DEFERRED')}")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _open_postgresql(url: URL) -> Engine:
    wanted = " ".join((POSTGRESQL_OPTIONS, *url.normalized_query.get("options", ())))  # the URL's come last and win
    try:
        return create_engine(
            url.difference_update_query(["options"]),
            isolation_level="READ COMMITTED",
            json_serializer=dump_json,
            pool_pre_ping=True,
            pool_use_lifo=True,
            connect_args={"options": wanted, "application_name": "quantmill", "connect_timeout": 10},
        )
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseUnavailable(
            "PostgreSQL needs its driver; install it with: pip install 'quantmill[postgres]'"
        ) from error


_OPEN = {"sqlite": _open_sqlite, "postgresql": _open_postgresql}
