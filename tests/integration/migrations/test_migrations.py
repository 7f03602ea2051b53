"""The revisions end at the tables of the code, go up and down with rows in the tables, and bear to be run at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, insert, inspect, select, text

from quantmill.contract.errors import DatabaseUnavailable
from quantmill.domain.jobs import Outcome, State
from quantmill.store import migrate, tables
from quantmill.store.database import Database

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
JOB = UUID("019b8000-0000-7000-8000-000000000000")
ROOT = Path(__file__).parents[3]

# One row for each table, in an order that their references allow
ROWS: dict[str, dict[str, Any]] = {
    "blob": {"digest": "sha256:f", "size": 2**40, "created_at": NOW},
    "artifact": {
        "digest": "sha256:a", "kind": "model", "format": "gguf", "size": 2**40, "file_count": 1, "created_at": NOW,
    },
    "artifact_file": {
        "artifact_digest": "sha256:a", "path": "m.gguf", "blob_digest": "sha256:f", "size": 2**40,
        "media_type": "application/octet-stream", "in_manifest": True,
    },
    "artifact_location": {"digest": "sha256:s", "uri": "/models/any", "verified_at": NOW},
    "environment": {"digest": "sha256:e", "description": {"python": "3.11"}, "created_at": NOW},
    "job": {
        "id": JOB, "source": "/models/any", "method": "gguf", "method_version": "1.0", "params": {"type": "Q4_0"},
        "evaluation_text": None, "seed": 2**62, "timeout_seconds": 60, "retry_of": JOB, "state": State.SUCCEEDED,
        "epoch": 3, "row_version": 9, "event_seq": 1, "queue": "cpu", "dispatched_at": NOW, "not_before": NOW,
        "lease_owner": None, "lease_expires_at": None, "phase": None, "progress_done": 1, "progress_total": 2,
        "progress_message": "größe", "source_digest": "sha256:s", "error": {"was": ["once"]},
        "artifact_digest": "sha256:a", "cancel_requested_at": None, "deadline_at": NOW, "created_at": NOW,
        "started_at": NOW, "ended_at": NOW, "evaluation": {"window": 256, "tasks": ["piqa"]},
        "calibration": {"text": "text.txt", "samples": 8}, "need": '{"method":"gguf"}', "waiting": None,
    },
    "job_plan": {"job_id": JOB, "plan": {"tensors": [{"name": "a"}]}},
    "job_estimate": {"job_id": JOB, "estimate": {"scratch_bytes": 2**40}},
    "job_label": {"job_id": JOB, "key": "team", "value": "a"},
    "attempt": {
        "job_id": JOB, "epoch": 3, "worker": "w1", "environment_digest": "sha256:e", "started_at": NOW,
        "ended_at": NOW, "outcome": Outcome.SUCCEEDED, "exit_code": 0, "signal": None, "peak_memory_bytes": 2**40,
    },
    "job_event": {"job_id": JOB, "seq": 1, "epoch": 0, "at": NOW, "type": "job.queued", "payload": {}},
    "outbox": {"id": 2**33, "job_id": JOB, "seq": 1},
    "job_unit": {
        "job_id": JOB, "key": "block.0", "epoch": 3, "worker": "w1", "digest": "sha256:u", "size": 1,
        "finished_at": NOW, "carry_digest": "sha256:carry",
        "findings": {"notes": [{"tensor": "a", "found": "damping raised", "figures": {"used": 0.06}}]},
    },
    "idempotency_key": {"key": "k", "request_digest": "sha256:r", "job_id": JOB, "expires_at": NOW},
    "job_input": {"job_id": JOB, "role": "source", "digest": "sha256:s", "uri": "/models/any"},
    "job_output": {
        "job_id": JOB, "artifact_digest": "sha256:a", "description_digest": "sha256:f", "verification": {"tensors": 3},
    },
    "derivation": {"child_digest": "sha256:a", "parent_digest": "sha256:s", "job_id": JOB, "relation": "quantized"},
    "metric": {
        "job_id": JOB, "subject": "artifact", "name": "perplexity", "artifact_digest": "sha256:a", "value": 12.5,
        "unit": "", "n": 4096, "higher_is_better": False, "ci_low": 12.25, "ci_high": 12.75,
    },
    "gate": {"job_id": JOB, "position": 0, "gate": "kld.mean <= 0.05", "observed": 0.0625, "passed": False},
    "escalation": {"job_id": JOB, "attempts": 3, "size_mb": 4000.5, "by": "blocks"},
    "escalation_step": {
        "job_id": JOB, "position": 0, "params": {"type": "Q4_0"}, "size": 2**40, "gates": [{"gate": "bpw <= 4"}],
        "ended_at": NOW,
    },
    "comparison": {
        "id": JOB, "source": "any", "evaluation_text": "text.txt", "source_bytes": 2**40, "created_at": NOW,
    },
    "comparison_variant": {
        "comparison_id": JOB, "position": 0, "job_id": JOB, "method": "gguf", "params": {"z": 1, "a": 2},
    },
    "worker": {
        "name": "w1", "queue": "cpu", "slots": 1, "host": "here", "versions": {}, "plugin_failures": [],
        "started_at": NOW, "seen_at": NOW, "machine": {"unseen": []}, "methods": {"gguf": "1.0"},
        "memory_bytes": 2**40, "free_memory_bytes": 2**40, "free_disk_bytes": None,
    },
    "queue_profile": {
        "queue": "cpu", "slots": 1, "machine": {"unseen": []}, "methods": {"gguf": "1.0"}, "memory_bytes": 2**40,
        "seen_at": NOW, "awaited_since": NOW,
    },
    "method": {"name": "gguf", "version": "1.0", "description": {}, "published_by": "w1", "published_at": NOW},
    "leader": {"name": "scheduler", "owner": "s1", "expires_at": NOW},
}  # fmt: skip


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    """A database without tables; the test runs once for each kind."""
    database = Database.open(empty_database_url)
    yield database
    database.dispose()


def fill(database: Database) -> None:
    with database.write() as tx:
        for name, row in ROWS.items():
            tx.execute(insert(tables.metadata.tables[name]).values(row))


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    with database.read() as tx:
        return {name: [dict(row._mapping) for row in tx.execute(select(table))] for name, table in all_tables().items()}


def all_tables() -> dict[str, Any]:
    return dict(tables.metadata.tables)


def schema(tx: Connection) -> dict[str, Any]:
    """Everything that the database itself says of the tables, but for our revision number."""
    seen = inspect(tx)
    names = sorted(set(seen.get_table_names()) - {"alembic_version"})
    return {
        name: {
            "columns": [{**column, "type": str(column["type"])} for column in seen.get_columns(name)],
            "key": seen.get_pk_constraint(name),
            "references": sorted(seen.get_foreign_keys(name), key=lambda each: each["name"]),
            "unique": seen.get_unique_constraints(name),
            "checks": sorted(map(str, seen.get_check_constraints(name))),
            "indexes": sorted(map(_shown, seen.get_indexes(name))),
        }
        for name in names
    }


def _shown(index: Any) -> str:
    conditions = {option: str(value) for option, value in index.get("dialect_options", {}).items()}
    return f"{index['name']} {index['unique']} {index['column_names']} {conditions}"


# Where the revisions end


def test_there_is_one_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(files("quantmill.migrations")))

    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_the_revisions_end_where_the_code_stands(database: Database) -> None:
    with database.read() as tx:
        context = MigrationContext.configure(tx, opts={"compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []


def test_the_database_says_the_same_of_created_and_of_migrated_tables(empty: Database) -> None:
    with empty.write() as tx:
        tables.metadata.create_all(tx)
    with empty.read() as tx:
        created = schema(tx)
    with empty.write() as tx:
        tables.metadata.drop_all(tx)

    migrate.upgrade(empty)

    with empty.read() as tx:
        assert schema(tx) == created


def test_every_constraint_and_index_has_a_name() -> None:
    nameless = [
        f"{table.name}: {each!r}"
        for table in tables.metadata.sorted_tables
        for each in (*table.constraints, *table.indexes)
        if each.name is None
    ]

    assert nameless == []


def test_every_table_has_a_row_here() -> None:
    assert set(ROWS) == set(all_tables())
    assert all(set(row) == set(all_tables()[name].c.keys()) for name, row in ROWS.items())


# Up and down


def test_up_down_and_up_again_with_rows_in_every_table(empty: Database) -> None:
    migrate.upgrade(empty)
    fill(empty)

    migrate.downgrade(empty, "base")
    with empty.read() as tx:
        left = set(inspect(tx).get_table_names())
    migrate.upgrade(empty)
    fill(empty)

    assert left <= {"alembic_version", "sqlite_sequence"}
    assert contents(empty) == {name: [row] for name, row in ROWS.items()}


def test_an_upgrade_where_nothing_is_to_do_keeps_every_row(database: Database) -> None:
    fill(database)

    migrate.upgrade(database)

    assert contents(database) == {name: [row] for name, row in ROWS.items()}


def test_a_database_is_current_after_the_upgrade_only(empty: Database) -> None:
    assert not migrate.is_current(empty)
    migrate.upgrade(empty)
    assert migrate.is_current(empty)
    migrate.downgrade(empty, "base")
    assert not migrate.is_current(empty)


def test_sqlite_checks_references_again_after_a_migration(empty_sqlite_url: str) -> None:
    database = Database.open(empty_sqlite_url)
    migrate.upgrade(database)

    with database.read() as tx:
        assert tx.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
    database.dispose()


# Versions beside each other


def at(database: Database, revision: str) -> None:
    """What a newer version of quantmill leaves."""
    with database.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


def test_a_newer_schema_that_only_adds_is_worked_with_and_left_alone(database: Database) -> None:
    at(database, "9998_since_0001")

    migrate.upgrade(database)

    assert migrate.schema_of(database).there == "9998_since_0001"
    assert migrate.is_current(database)


def test_a_newer_version_that_migrated_while_this_one_waited_is_left_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = migrate.migrating

    def after_a_newer_version(database: Database) -> AbstractContextManager[Connection]:
        at(database, "9998_since_0001")
        return waiting(database)

    monkeypatch.setattr(migrate, "migrating", after_a_newer_version)

    migrate.upgrade(database)

    assert migrate.schema_of(database).there == "9998_since_0001"


def test_a_newer_schema_that_this_version_cannot_use_is_refused_with_what_can(database: Database) -> None:
    at(database, "9998_since_9997")

    with pytest.raises(DatabaseUnavailable, match="9997 is the oldest that can use it"):
        migrate.upgrade(database)

    assert not migrate.is_current(database)


def test_what_a_schema_needs_is_said(empty: Database) -> None:
    assert "no schema yet" in str(migrate.schema_of(empty).problem)
    migrate.upgrade(empty, "0011")
    assert "is at 0011" in str(migrate.schema_of(empty).problem)
    migrate.upgrade(empty)
    assert migrate.schema_of(empty).problem is None


def test_revisions_that_follow_one_that_older_versions_cannot_use_say_so_too() -> None:
    config = Config()
    config.set_main_option("script_location", str(files("quantmill.migrations")))
    oldest_first = list(ScriptDirectory.from_config(config).walk_revisions())[::-1]

    since = [revision.revision.partition("_since_")[2] for revision in oldest_first]

    assert since == sorted(since)


# At once, and in the way


def test_several_processes_may_upgrade_at_once(empty_database_url: str) -> None:
    code = (
        "import sys; from quantmill.store import migrate; from quantmill.store.database import Database;"
        "migrate.upgrade(Database.open(sys.argv[1]))"
    )

    def upgrade(_: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, empty_database_url]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(upgrade, range(4)))

    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 4


@pytest.mark.postgres
def test_a_migration_does_not_wait_long_for_a_table(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting DDL statement makes every later query of the table wait behind it."""
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "100ms")
    database = Database.open(postgres_url)

    with database.read() as reader:
        reader.execute(select(func.count(tables.queue_profile.c.queue)))  # which the newest revision changes
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            migrate.downgrade(database, "base")

    assert migrate.is_current(database)
    database.dispose()


def test_developers_can_use_alembic_in_a_checkout(empty_sqlite_url: str) -> None:
    def alembic(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env={"QUANTMILL_DATABASE_URL": empty_sqlite_url, "PATH": "/usr/bin:/bin", "HOME": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    alembic("upgrade", "head")

    assert "0012 (head)" in alembic("current")
    assert "No new upgrade operations detected" in alembic("check")


def test_jobs_from_before_routing_need_a_worker_with_their_method(empty: Database) -> None:
    migrate.upgrade(empty, "0010")
    old = {name: value for name, value in ROWS["job"].items() if name not in ("need", "waiting")}
    waits = {"state": State.QUEUED, "ended_at": None, "retry_of": None, "artifact_digest": None}
    with empty.write() as tx:
        tx.execute(insert(tables.job).values(old | waits))

    migrate.upgrade(empty)

    with empty.read() as tx:
        assert tx.execute(select(tables.job.c.need)).scalar_one() == '{"method":"gguf","version":"1.0"}'
