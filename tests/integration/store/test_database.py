"""What a transaction means, in both databases."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from quantmill.contract.errors import DatabaseUnavailable
from quantmill.store import jobs, tables
from quantmill.store.database import Database
from quantmill.store.types import clock


def test_a_transaction_that_raises_changes_nothing(submit, write, read):
    job = submit()

    def cancel_and_fail(tx):
        jobs.request_cancel(tx, job.id)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(cancel_and_fail)

    assert read(jobs.get_job, job.id) == job


def test_a_read_transaction_cannot_write(database, submit, read):
    job = submit()

    with pytest.raises((DatabaseUnavailable, DBAPIError)), database.read() as tx:
        jobs.request_cancel(tx, job.id)

    assert read(jobs.get_job, job.id) == job


def test_a_connection_that_has_read_can_write_afterwards(database, submit, write, read):
    job = submit()
    for _ in range(10):
        read(jobs.get_job, job.id)

    assert write(jobs.request_cancel, job.id).state == "canceled"


def test_a_read_transaction_sees_one_moment(database, submit, write):
    job = submit()

    with database.read() as tx:
        before = jobs.get_job(tx, job.id)
        write(jobs.request_cancel, job.id)
        submit()
        assert jobs.get_job(tx, job.id) == before
        assert jobs.list_jobs(tx, limit=10) == [before]


def test_references_are_checked(database):
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.execute(insert(tables.derivation).values(child_digest="a", parent_digest="b", job_id=None, relation="c"))
    with pytest.raises(IntegrityError), database.write() as tx:
        tx.execute(
            insert(tables.artifact_file).values(
                artifact_digest="none", path="p", blob_digest="none", size=1, media_type="m", in_manifest=True
            )
        )


def test_the_clock_goes_forward_by_seconds_and_their_parts(read):
    now, later, earlier = read(lambda tx: tx.execute(select(clock(), clock(90.5), clock(-3600))).one())

    assert abs(later - now - timedelta(seconds=90.5)) < timedelta(milliseconds=50)
    assert abs(now - earlier - timedelta(hours=1)) < timedelta(milliseconds=50)
    assert now.utcoffset() == timedelta(0)


def test_the_clock_is_this_moment_also_in_a_transaction_that_waited(database):
    with database.write() as tx:
        first = tx.execute(select(clock())).scalar_one()
        for _ in range(1000):
            later = tx.execute(select(clock())).scalar_one()
            if later > first:
                return
    pytest.fail("the clock stands still inside a transaction")


def test_a_moment_comes_back_in_utc_whatever_its_zone_was(write, read):
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    write(lambda tx: tx.execute(insert(tables.leader).values(name="n", owner="o", expires_at=moment)))

    found = read(lambda tx: tx.execute(select(tables.leader.c.expires_at)).scalar_one())

    assert found == moment
    assert found.tzinfo is UTC


def test_a_moment_without_a_zone_is_refused(write):
    naive = datetime(2026, 1, 2)

    with pytest.raises(StatementError, match="no time zone"):
        write(lambda tx: tx.execute(insert(tables.leader).values(name="n", owner="o", expires_at=naive)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_does_not_know_are_refused(submit, value):
    with pytest.raises((StatementError, ValueError), match="JSON compliant"):
        submit(plan={"bound": value})


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("mysql://localhost/x", "use sqlite"),
        ("not a url", "use sqlite"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_remedy(url, remedy):
    with pytest.raises(DatabaseUnavailable, match=remedy):
        Database.open(url)


def test_a_database_that_cannot_be_reached_is_named_without_its_password():
    database = Database.open("postgresql://user:secret@127.0.0.1:1/quantmill")

    with pytest.raises(DatabaseUnavailable, match=r"user:\*\*\*@127.0.0.1:1/quantmill") as refused, database.read():
        pass

    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is no database, and long enough to have a header" * 10)
    database = Database.open(f"sqlite:///{tmp_path / 'text.sqlite'}")

    with pytest.raises(DatabaseUnavailable, match="not a database"), database.read():
        pass


def test_without_its_driver_postgresql_names_the_extra_to_install():
    code = """
import sys
sys.modules["psycopg"] = None
from quantmill.store.database import Database
try:
    Database.open("postgresql://localhost/x")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "DatabaseUnavailable" in done.stdout
    assert "pip install 'quantmill[postgres]'" in done.stdout


def test_sqlite_survives_a_power_cut_and_lets_readers_pass(sqlite_url):
    database = Database.open(sqlite_url)
    with database.read() as tx:
        found = {name: tx.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("journal_mode", "synchronous")}
    database.dispose()

    assert found == {"journal_mode": "wal", "synchronous": 2}  # 2: FULL


@pytest.mark.postgres
def test_postgresql_gives_up_on_statements_that_hang(postgres_url):
    database = Database.open(f"{postgres_url}?options=-c%20statement_timeout%3D50ms")

    with pytest.raises(DatabaseUnavailable, match="statement timeout"), database.read() as tx:
        tx.execute(text("SELECT pg_sleep(10)"))
    database.dispose()


@pytest.mark.postgres
def test_postgresql_runs_writes_read_committed_and_reads_on_a_snapshot(postgres_url):
    database = Database.open(postgres_url)
    asked = text("SHOW transaction_isolation")
    with database.write() as tx:
        writing = tx.execute(asked).scalar_one()
    with database.read() as tx:
        reading = tx.execute(asked).scalar_one()
    with database.write() as tx:
        again = tx.execute(asked).scalar_one()
    database.dispose()

    assert (writing, reading, again) == ("read committed", "repeatable read", "read committed")
