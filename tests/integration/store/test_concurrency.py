"""Many at once: one wins, nobody is told that the database is locked, nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from quantmill.contract.errors import IllegalTransition
from quantmill.domain.artifacts import Artifact, ArtifactFile
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import JobRequest, Phase, Progress, State
from quantmill.store import artifacts, idempotency, jobs, leader, tables
from quantmill.store.events import list_events

THREADS = 8


@pytest.fixture
def at_once(database) -> Callable[[Callable[..., Any]], list[Any]]:
    """Call `function(tx, number)` in THREADS transactions that begin together; gives what they returned or raised."""

    def run(function: Callable[..., Any]) -> list[Any]:
        barrier = threading.Barrier(THREADS)

        def one(number: int) -> Any:
            barrier.wait()
            try:
                with database.write() as tx:
                    return function(tx, number)
            except Exception as error:
                return error

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, range(THREADS)))

    return run


def test_one_of_many_claims_of_the_same_message_wins(submit, write, read, at_once):
    job = submit()
    epoch = write(jobs.mark_dispatched, job.id, 0, "cpu")

    claimed = at_once(lambda tx, number: jobs.claim(tx, job.id, epoch, f"w{number}", 60))

    (winner,) = [won for won in claimed if won is not None]
    assert winner.attempts[0].worker.startswith("w")
    assert len(read(jobs.get_job, job.id).attempts) == 1


def test_one_of_many_dispatchers_wins(submit, at_once):
    job = submit()

    epochs = at_once(lambda tx, number: jobs.mark_dispatched(tx, job.id, 0, "cpu"))

    assert sorted(epochs, key=str) == [1] + [None] * (THREADS - 1)


def test_one_of_many_ends_wins(start, at_once, read):
    job = start()
    ends = [State.FAILED, State.EXPIRED]

    ended = at_once(
        lambda tx, number: jobs.transition(tx, job.id, epoch=1, to=ends[number % 2], error={"detail": str(number)})
    )

    assert sum(isinstance(each, IllegalTransition) for each in ended) == THREADS - 1
    assert [event.seq for event in read(list_events, job.id, 0, 10)] == [1, 2, 3]


def test_one_of_many_leaders_wins(at_once):
    held = at_once(lambda tx, number: leader.hold(tx, "scheduler", f"s{number}", 60))

    assert sum(held) == 1


def test_many_requests_with_one_key_make_one_job(at_once, read):
    def accept(tx, number):
        job_id = uuid7()
        first = idempotency.remember(tx, "key", "sha256:body", job_id, 60)
        if first == job_id:
            request = JobRequest(source="/m", method="gguf", params={})
            jobs.insert_job(tx, request, method_version="1", plan={}, timeout_seconds=60, job_id=job_id)
        return first

    assert len(set(at_once(accept))) == 1
    assert len(read(jobs.list_jobs, limit=10)) == 1


def test_events_written_at_once_are_numbered_without_gaps(start, at_once, read):
    job = start()

    def report(tx, number):
        for done in range(5):
            jobs.record_progress(tx, job.id, 1, Phase.QUANTIZE, Progress(done, 5), event=True)

    at_once(report)

    events = read(list_events, job.id, 0, 100)
    assert [event.seq for event in events] == list(range(1, 2 + 5 * THREADS + 1))
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_many_reapers_reap_each_job_once(start, let_pass, at_once, read):
    lost = [start() for _ in range(6)]
    for job in lost:
        let_pass(job.id, "lease_expires_at")

    reaped = at_once(lambda tx, number: jobs.reap(tx, max_attempts=5, backoff_seconds=0))

    assert sorted(job.id for part in reaped for job in part) == sorted(job.id for job in lost)
    assert {read(jobs.get_job, job.id).epoch for job in lost} == {2}


def test_a_lease_that_is_renewed_in_time_is_not_reaped(start, let_pass, at_once, read):
    job = start()
    let_pass(job.id, "lease_expires_at")

    def race(tx, number):
        if number % 2:
            return jobs.renew_lease(tx, job.id, 1, "w1", 60) is not None
        return jobs.reap(tx, max_attempts=5, backoff_seconds=0)

    answers = at_once(race)

    renewed = [answer for answer in answers if answer is True]
    reaped = [job for answer in answers if isinstance(answer, list) for job in answer]
    assert len(reaped) <= 1
    assert bool(renewed) or bool(reaped)
    assert read(jobs.get_job, job.id).state is (State.QUEUED if reaped else State.RUNNING)


def test_jobs_that_publish_the_same_bytes_at_once_all_succeed(start, at_once, read):
    running = [start() for _ in range(THREADS)]
    files = tuple(ArtifactFile(f"{number}.gguf", f"sha256:f{number}", 10) for number in range(5))

    def publish(tx, number):
        made = Artifact(
            "sha256:a", "model", "gguf", files[:: 1 if number % 2 else -1], None, running[number].created_at
        )
        return artifacts.publish(
            tx,
            running[number].id,
            1,
            made,
            source_digest="sha256:s",
            source_uri="/m",
            metrics=[],
            environment={"python": "3.11"},
            verification={},
        )

    assert {job.state for job in at_once(publish)} == {State.SUCCEEDED}
    assert [file.path for file in read(artifacts.get_artifact, "sha256:a").files] == [file.path for file in files]


def test_reading_first_and_writing_then_never_finds_the_database_locked(start, at_once, read):
    """With a deferred BEGIN on SQLite, most of these fail at once: their snapshot is old when they come to write."""
    job = start()
    column = tables.job.c.progress_done

    def increase(tx, number):
        for _ in range(3):
            tx.execute(select(tables.job).where(tables.job.c.id == job.id).with_for_update()).one()
            known = tx.execute(select(column).where(tables.job.c.id == job.id)).scalar_one() or 0
            tx.execute(
                update(tables.job)
                .where(tables.job.c.id == job.id)
                .values(progress_done=known + 1, progress_total=9, progress_message="")
            )

    assert at_once(increase) == [None] * THREADS
    assert read(jobs.get_job, job.id).progress.done == 3 * THREADS
