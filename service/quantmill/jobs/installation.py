"""The installation itself: its workers, and whether it is ready."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from quantmill.services import Services
from quantmill.store.migrate import schema_of
from quantmill.store.workers import WorkerRow as WorkerRow
from quantmill.store.workers import list_workers as worker_rows

BROKER_SECONDS = 1.0
REDIS_PORT = 6379


def list_workers(services: Services) -> list[WorkerRow]:
    """Every worker that ever registered, with its last heartbeat."""
    with services.database.read() as tx:
        return worker_rows(tx)


def schema_problem(services: Services) -> str | None:
    """Why this version cannot work with the database's schema; None where it can."""
    return schema_of(services.database).problem


def broker_answers(services: Services) -> bool:
    """Whether somebody listens where the broker is; True without one. Jobs are taken in either way."""
    url = services.settings.broker_url
    if url is None:
        return True
    place = urlsplit(url.get_secret_value())
    try:
        with socket.create_connection((place.hostname or "localhost", place.port or REDIS_PORT), BROKER_SECONDS):
            return True
    except OSError:
        return False
