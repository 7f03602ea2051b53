"""Brings a database's schema to where this version of quantmill needs it.

The revisions are the package `quantmill.migrations`, in the wheel as in a checkout; no alembic.ini is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from quantmill.contract.errors import DatabaseUnavailable
from quantmill.store.database import Database, unavailable

ADVISORY_LOCK = 0x7175616E746D696C  # "quantmil": one number that all our migrations share
LOCK_TIMEOUT = "10s"  # a migration that waits for a table's lock makes every later query of it wait as well


@dataclass(frozen=True)
class Schema:
    """The revision that a database is at (None before the first) beside the one that this version of quantmill ends at.
    `known`: the former is one of this version's.

    A revision's name may say since when: `0021_since_0018` cannot be used by a version that ends before 0018, and hands
    that on to the names of all that follow. One without it can be used by all versions: it only adds.
    """

    there: str | None
    needed: str
    known: bool

    @property
    def problem(self) -> str | None:
        """Why this version cannot work with the schema; None where it can."""
        if self.there is None:
            return f"the database has no schema yet, {self.needed} is needed; run `quantmill migrate`"
        if self.known and self.there != self.needed:
            return f"the schema is at {self.there}, {self.needed} is needed; run `quantmill migrate`"
        _, _, since = self.there.partition("_since_")
        if not self.known and since > self.needed:
            return (
                f"the schema is at {self.there}, of a newer version; this one ends at {self.needed}, and {since} is "
                "the oldest that can use it: run that or a newer version"
            )
        return None


def schema_of(database: Database) -> Schema:
    """Where the database's schema stands. Raises DatabaseUnavailable where it cannot be reached."""
    with _config() as config:
        revisions = ScriptDirectory.from_config(config)
        with database.read() as tx:
            there = MigrationContext.configure(tx).get_current_revision()
        known = there in {revision.revision for revision in revisions.walk_revisions()}
        return Schema(there, str(revisions.get_current_head()), known)


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema to `revision`. Does nothing where it is there already, or where a newer version has been that
    this one can work with; several processes may call it at once.

    Raises DatabaseUnavailable where the database cannot be reached, a table stays locked, or the schema is too new.
    """

    def upgrade_what_is_known(config: Config) -> None:
        schema = schema_of(database)  # by now: a newer version may have been at work before this one got the lock
        if schema.there is None or schema.known:
            command.upgrade(config, revision)
        elif schema.problem is not None:
            raise DatabaseUnavailable(schema.problem)

    _run(database, upgrade_what_is_known)


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to `revision` ("base": before the first), and with it the data that only later ones hold."""
    _run(database, lambda config: command.downgrade(config, revision))


def is_current(database: Database) -> bool:
    """Whether this version of quantmill can work with the schema: it is its own, or a newer one that only adds."""
    return schema_of(database).problem is None


@contextmanager
def _config() -> Iterator[Config]:
    with as_file(files("quantmill.migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        yield config


def _run(database: Database, command_on: Callable[[Config], None]) -> None:
    with _config() as config, migrating(database) as connection:
        config.attributes["connection"] = connection
        command_on(config)


@contextmanager
def migrating(database: Database) -> Iterator[Connection]:
    """A connection for the revisions to run on, while no other process runs any. It goes back to no pool."""
    with unavailable(database.engine.url), database.engine.connect() as connection:
        connection.detach()
        with _EXCLUSIVE[database.engine.dialect.name](connection):
            yield connection


@contextmanager
def _exclusive_sqlite(connection: Connection) -> Iterator[None]:
    """One write transaction around all revisions. Foreign keys rest meanwhile, and are checked at its end: a table is
    changed by copying and dropping it, and the drop would delete the rows that refer to it.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA foreign_keys = OFF")  # means nothing inside a transaction
    connection.execution_options(sqlite_begin="IMMEDIATE")
    with connection.begin():
        yield
        if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
            raise DatabaseUnavailable(f"the migration would break {len(broken)} references, first {broken[0]}; undone")


@contextmanager
def _exclusive_postgresql(connection: Connection) -> Iterator[None]:
    """A transaction for each revision, all under an advisory lock of the session: it ends when the connection does."""
    connection.exec_driver_sql("SET statement_timeout = 0")
    connection.execute(select(func.pg_advisory_lock(ADVISORY_LOCK)))
    connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    connection.commit()
    yield


_EXCLUSIVE = {"sqlite": _exclusive_sqlite, "postgresql": _exclusive_postgresql}
