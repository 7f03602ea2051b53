"""PostgreSQL for the tests: one server a run, one database a test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from quantmill.store import migrate
from quantmill.store.database import Database
from servers.process import Server, program

USER = "quantmill"
MIGRATED = "migrated"

# fsync off: the tests kill our processes, never this server or its machine
OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "autovacuum": "off",
    "listen_addresses": "127.0.0.1",
}


class PostgresqlServer(Server):
    def __init__(self) -> None:
        super().__init__("postgresql")
        data = str(self.folder / "data")
        trusting = ("--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C", "--no-sync")
        self.run(program("initdb"), f"--pgdata={data}", *trusting)
        options = OPTIONS | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self.start([program("postgres"), "-D", data, *given], self._answers)
        self._names = (f"test_{number}" for number in count())

    def _answers(self) -> bool:
        try:
            self._execute(SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: SQL) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template0") -> str:
        """A new database like `template`; gives its name."""
        name = next(self._names)
        self._execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
        return name

    def rename(self, name: str, to: str) -> None:
        self._execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(name), Identifier(to)))

    def drop(self, name: str) -> None:
        self._execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """The server, with a database `migrated` to copy from."""
    server = PostgresqlServer()
    try:
        name = server.create()
        database = Database.open(server.url(name))
        migrate.upgrade(database)
        database.dispose()
        server.rename(name, MIGRATED)
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgres_url(postgresql: PostgresqlServer) -> Iterator[str]:
    """The URL of a database of this test's own, migrated and without rows."""
    name = postgresql.create(MIGRATED)
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture
def empty_postgres_url(postgresql: PostgresqlServer) -> Iterator[str]:
    """The URL of a database of this test's own, without any table."""
    name = postgresql.create()
    yield postgresql.url(name)
    postgresql.drop(name)
