"""Workers, methods, leaders, idempotency keys and the outbox."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from quantmill.contract.errors import IdempotencyMismatch
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import JobRequest, Phase, Progress
from quantmill.store import idempotency, jobs, leader, methods, outbox, tables, workers

REQUEST = JobRequest(source="/models/any", method="gguf", params={})
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def register(write):
    def make(name, queue="cpu", slots=2, **given):
        options = {
            "host": "here",
            "versions": {"numpy": "2"},
            "plugin_failures": [],
            "machine": {},
            "methods": {},
        } | given
        write(workers.register, name, queue, slots, **options)

    return make


def silence(write, name):
    write(lambda tx: tx.execute(update(tables.worker).where(tables.worker.c.name == name).values(seen_at=LONG_AGO)))


def test_workers_are_listed_as_they_registered(register, read):
    failures = [{"name": "broken", "reason": "ImportError: no torch"}]
    register("w2")
    register("w1", slots=4, plugin_failures=failures)

    first, second = read(workers.list_workers)

    assert (first.name, first.slots, first.plugin_failures) == ("w1", 4, failures)
    assert (second.name, second.versions) == ("w2", {"numpy": "2"})


def test_a_worker_that_comes_back_takes_its_own_place(register, read):
    register("w1", slots=1)
    register("w1", slots=8)

    assert [worker.slots for worker in read(workers.list_workers)] == [8]


def test_workers_that_were_seen_lately_are_live_and_say_what_is_free(register, write, read):
    register("w1", slots=2)
    register("w2", slots=3)
    register("w3", slots=5, queue="gpu")
    silence(write, "w2")

    assert [worker.name for worker in read(workers.live_workers, 60)] == ["w1", "w3"]
    assert write(workers.beat, "w2", 7, 8)
    assert [worker.name for worker in read(workers.live_workers, 60)] == ["w1", "w2", "w3"]
    assert read(workers.live_workers, 60)[1].free_memory_bytes == 7


def test_a_worker_that_ended_is_forgotten_and_its_heart_does_not_beat(register, write, read):
    register("w1")

    write(workers.deregister, "w1")

    assert read(workers.list_workers) == []
    assert not write(workers.beat, "w1", None, None)


def described(name, version="1.0", **more):
    return {"name": name, "version": version, **more}


def test_methods_stay_known_when_their_worker_is_gone(register, write, read):
    register("w1")
    write(methods.publish_methods, "w1", [described("hqq"), described("gguf")])
    write(workers.deregister, "w1")

    assert read(methods.list_methods) == [described("gguf"), described("hqq")]


def test_the_version_published_last_is_the_one_that_is_shown(write, read):
    write(methods.publish_methods, "w1", [described("gguf", "1.0")])
    write(methods.publish_methods, "w2", [described("gguf", "1.1", bits=[4])])

    assert read(methods.list_methods) == [described("gguf", "1.1", bits=[4])]


def test_a_schema_keeps_the_order_of_its_properties(write, read):
    schema = {"zeta": 1, "alpha": {"b": 1, "a": 2}}
    write(methods.publish_methods, "w1", [described("gguf", params_schema=schema)])

    (shown,) = read(methods.list_methods)

    assert list(shown["params_schema"]) == ["zeta", "alpha"]
    assert list(shown["params_schema"]["alpha"]) == ["b", "a"]


def test_there_is_one_leader_until_it_lets_go(write):
    assert write(leader.hold, "scheduler", "one", 60)
    assert write(leader.hold, "scheduler", "one", 60)
    assert not write(leader.hold, "scheduler", "two", 60)
    assert write(leader.hold, "another", "two", 60)

    write(leader.release, "scheduler", "two")  # not its to let go
    assert not write(leader.hold, "scheduler", "two", 60)
    write(leader.release, "scheduler", "one")
    assert write(leader.hold, "scheduler", "two", 60)


def test_a_leader_that_is_silent_is_replaced(write):
    assert write(leader.hold, "scheduler", "one", -1)

    assert write(leader.hold, "scheduler", "two", 60)
    assert not write(leader.hold, "scheduler", "one", 60)


@pytest.mark.parametrize(("seconds", "held"), [(60, True), (-1, False)], ids=["a lease", "one that has run out"])
def test_a_leader_leads_as_long_as_its_lease(write, read, seconds, held):
    write(leader.hold, "scheduler", "one", seconds)

    assert read(leader.is_held, "scheduler") is held
    assert not read(leader.is_held, "another")


def accept(tx, key, digest, keep_seconds=3600):
    """What a submit does: take the key, insert the job only if it was free."""
    job_id = uuid7()
    first = idempotency.remember(tx, key, digest, job_id, keep_seconds)
    if first == job_id:
        jobs.insert_job(tx, REQUEST, method_version="1", plan={}, timeout_seconds=60, job_id=job_id)
    return first


def test_the_same_key_and_body_make_one_job(write, read):
    first = write(accept, "key", "sha256:body")

    assert write(accept, "key", "sha256:body") == first
    assert read(idempotency.recall, "key", "sha256:body") == first
    assert len(read(jobs.list_jobs, limit=10)) == 1


def test_the_same_key_with_another_body_is_refused(write, read):
    write(accept, "key", "sha256:body")

    with pytest.raises(IdempotencyMismatch):
        write(accept, "key", "sha256:other")
    with pytest.raises(IdempotencyMismatch):
        read(idempotency.recall, "key", "sha256:other")


def test_a_key_is_free_again_when_its_time_is_over(write, read):
    first = write(accept, "key", "sha256:body", -1)

    assert read(idempotency.recall, "key", "sha256:other") is None
    assert write(accept, "key", "sha256:other") != first


def test_a_key_whose_job_was_refused_is_not_taken(write, read):
    def accept_and_fail(tx):
        accept(tx, "key", "sha256:body")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(accept_and_fail)

    assert read(idempotency.recall, "key", "sha256:body") is None


def test_the_outbox_tells_each_event_until_it_is_delivered(start, write, read):
    job = start()
    write(jobs.record_progress, job.id, 1, Phase.QUANTIZE, Progress(1, 2), event=True)

    first, second, third = read(outbox.pending, 10)
    write(outbox.delivered, [first.id, second.id])

    assert [row.event.type for row in (first, second, third)] == ["job.queued", "job.running", "job.progress"]
    assert read(outbox.pending, 10) == [third]


def test_the_id_of_a_delivered_row_is_not_given_to_another(start, write, read):
    start()
    before = read(outbox.pending, 10)
    write(outbox.delivered, [row.id for row in before])
    start()

    assert min(row.id for row in read(outbox.pending, 10)) > max(row.id for row in before)
