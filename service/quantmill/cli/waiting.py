"""Waiting for the database at a process's start: others start it and migrate it, in whatever order."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from quantmill.contract.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from quantmill.store.database import Database

log = structlog.get_logger()

PAUSE_SECONDS = 1.0


def await_schema(database: Database, seconds: float) -> None:
    """Come back as soon as the database is there with a schema that this version can work with.

    Raises DatabaseUnavailable, saying what is missing, where that is not so within `seconds`.
    """
    from quantmill.store.migrate import schema_of

    _await(seconds, lambda: schema_of(database).problem)


def await_database(database: Database, seconds: float) -> None:
    """Come back as soon as the database answers. Raises DatabaseUnavailable where it does not within `seconds`."""

    def answers() -> None:
        with database.read():
            return

    _await(seconds, answers)


def _await(seconds: float, problem: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + seconds
    said = ""
    while True:
        try:
            found = problem()
        except DatabaseUnavailable as error:
            found = error.detail
        if found is None:
            return
        if time.monotonic() >= deadline:
            raise DatabaseUnavailable(found)
        if found != said:
            log.warning("waiting_for_database", problem=found)
            said = found
        time.sleep(PAUSE_SECONDS)
