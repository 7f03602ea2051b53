"""Processes wait at their start for a database that others start and migrate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantmill.cli import serving, waiting
from quantmill.contract.errors import DatabaseUnavailable
from quantmill.store import migrate
from quantmill.store.database import Database


@pytest.fixture
def empty(empty_sqlite_url):
    database = Database.open(empty_sqlite_url)
    yield database
    database.dispose()


@pytest.fixture
def away():
    database = Database.open("postgresql://127.0.0.1:1/nobody")
    yield database
    database.dispose()


def test_a_process_goes_on_as_soon_as_the_schema_is_there(empty, monkeypatch):
    paused = []
    monkeypatch.setattr(waiting.time, "sleep", lambda _: paused.append(migrate.upgrade(empty)))

    waiting.await_schema(empty, 60)

    assert len(paused) == 1


def test_one_that_waited_long_enough_says_what_is_missing(empty):
    with pytest.raises(DatabaseUnavailable, match="run `quantmill migrate`"):
        waiting.await_schema(empty, 0)


@pytest.mark.parametrize("wait", [waiting.await_schema, waiting.await_database])
def test_a_database_that_is_away_is_waited_for_too(away, monkeypatch, wait):
    paused = []
    monkeypatch.setattr(waiting.time, "sleep", paused.append)
    monkeypatch.setattr(waiting.time, "monotonic", lambda: float(len(paused)))

    with pytest.raises(DatabaseUnavailable, match="nobody"):
        wait(away, 2)

    assert paused == [waiting.PAUSE_SECONDS] * 2


def test_who_only_waits_changes_nothing(tmp_path):
    with pytest.raises(DatabaseUnavailable, match="run `quantmill migrate`"):
        serving.migrate(wait=0, data_dir=tmp_path)

    serving.migrate(data_dir=tmp_path)

    serving.migrate(wait=0, data_dir=tmp_path)


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_a_process_that_waits_ends_when_told(tmp_path, role):
    """Also as the first process of a container, for which SIGTERM without a handler would be nothing."""
    away = {
        "QUANTMILL_DATABASE_URL": "postgresql://127.0.0.1:1/nobody",
        "QUANTMILL_BROKER_URL": "redis://127.0.0.1:1/0",
    }
    process = subprocess.Popen(
        [Path(sys.executable).with_name("quantmill"), role, "--json"],
        env=os.environ | away | {"QUANTMILL_DATA_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "waiting_for_database" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 2
    assert "Traceback" not in rest
