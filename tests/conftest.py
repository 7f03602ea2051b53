"""Databases and servers for the tests that ask for them. They are real; for the others nothing is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from quantmill.store.database import Database

sys.path.insert(0, str(Path(__file__).parent))  # for `servers`, in whatever way pytest was started
pytest_plugins = ["servers.chromium", "servers.postgresql", "servers.redis", "servers.registry", "servers.sqlite"]

# The same examples in each run: a red one is due to the change. `pytest --hypothesis-profile=explore` draws others.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("repeatable")

DATABASES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgresql", marks=pytest.mark.postgres),
]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database without rows; the test runs once for each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=DATABASES)
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database without tables; the test runs once for each kind."""
    return str(request.getfixturevalue(f"empty_{request.param}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An opened, migrated database without rows; the test runs once for each kind."""
    opened = Database.open(database_url)
    yield opened
    opened.dispose()
