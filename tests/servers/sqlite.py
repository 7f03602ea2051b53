"""SQLite for the tests: a file a test, copied from one that was migrated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quantmill.store import migrate
from quantmill.store.database import Database


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "migrated.sqlite"
    database = Database.open(f"sqlite:///{path}")
    migrate.upgrade(database)
    database.dispose()  # the last connection to close writes the log into the file
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """The URL of an SQLite file of this test's own, migrated and without rows."""
    return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'quantmill.sqlite')}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'empty.sqlite'}"
