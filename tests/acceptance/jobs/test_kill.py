"""Kill any process at any moment: every accepted job still ends exactly once, with the bytes it would have had."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import redis

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import MemorySession
from quantmill.domain.jobs import FINAL, NEXT, Outcome, State
from quantmill.files.artifacts import store_folder
from quantmill.files.blobs import BlobStore
from quantmill.files.manifest import manifest_digest
from quantmill.store import jobs as job_rows
from quantmill_gguf.plugin import GGUF

MODEL = Path(__file__).parents[2] / "data/millstone-4m"

JOBS = 30
KILLS, MOST_KILLS = 8, 24  # a machine that others make slow meanwhile would get nothing done between the kills
LIMIT_SECONDS = 600


@pytest.mark.timeout(LIMIT_SECONDS + 60)
@pytest.mark.parametrize("kind", ["embedded", "celery"])
def test_jobs_survive_kill_9_of_runners_workers_and_scheduler(install, kind, digest_without_a_service):
    installation = install(kind)
    submitted = [installation.submit().id for _ in range(JOBS)]
    begun = time.monotonic()
    installation.start()
    installation.wait(submitted[0])
    seconds = time.monotonic() - begun  # kills that come faster than a start and a job leave nothing time to work
    chance = random.Random(7)
    kills = 0

    deadline = time.monotonic() + LIMIT_SECONDS
    while kills < KILLS or not all(finished(installation)):
        assert time.monotonic() < deadline, installation.logs()
        if all(finished(installation)):
            submitted += [installation.submit().id for _ in range(JOBS // 3)]
        time.sleep(chance.uniform(0.1, 1.2) * seconds)
        if kills < MOST_KILLS:
            kills += kill_something(installation, chance)

    for job_id in submitted:
        require_one_ending(installation, job_id, digest_without_a_service)
    time.sleep(1)
    assert installation.runners() == []


def finished(installation):
    with installation.services.database.read() as tx:
        return [job.state in FINAL for job in job_rows.list_jobs(tx, limit=100 * JOBS)]


def kill_something(installation, chance):
    """kill -9 a runner or one of the installation's processes, which is started again, as a supervisor would."""
    runners = installation.runners()
    if runners and chance.random() < 0.7:
        try:
            chance.choice(runners).kill()
        except psutil.NoSuchProcess:
            return 0
        return 1
    role = chance.choice(list(installation.commands))
    installation.kill(role)
    installation.start(role)
    return 1


def require_one_ending(installation, job_id, expected):
    job = installation.job(job_id)
    history = installation.events(job_id)
    states = [State(event.type.removeprefix("job.")) for event in history if event.type.removeprefix("job.") in NEXT]

    assert job.state is State.SUCCEEDED, job.error
    assert job.artifact_digest == expected
    assert [event.seq for event in history] == list(range(1, len(history) + 1))
    assert [event.epoch for event in history] == sorted(event.epoch for event in history)
    assert sum(state in FINAL for state in states) == 1
    assert all(later in NEXT[earlier] for earlier, later in pairwise(states))
    assert [attempt.outcome for attempt in job.attempts].count(Outcome.SUCCEEDED) == 1
    assert job.attempts[-1].outcome is Outcome.SUCCEEDED


@pytest.fixture(scope="module")
def digest_without_a_service(tmp_path_factory):
    """The artifact's digest when the method is called directly, with one thread."""
    folder = tmp_path_factory.mktemp("direct")
    params = GGUF.params(type="Q4_K_M")
    with open_checkpoint(MODEL) as checkpoint:
        checkpoint.index = replace(checkpoint.index, digest=checkpoint.source_digest())
        plan = GGUF.plan.load()(checkpoint.index, params)
        session = MemorySession(checkpoint, plan)
        GGUF.write.load()(GGUF.quantize.load()(session, params), plan, checkpoint.index, params, folder)
    return manifest_digest(store_folder(folder, BlobStore(folder.with_name("direct-blobs"))))


@pytest.mark.parametrize(("kind", "threads"), [("embedded", 1), ("embedded", 2), ("embedded", 4), ("celery", 2)])
def test_threads_and_dispatch_do_not_change_the_digest(install, kind, threads, digest_without_a_service):
    installation = install(kind, threads=threads)
    installation.start()

    job = installation.wait(installation.submit().id)

    assert job.artifact_digest == digest_without_a_service


def test_killed_between_any_two_units_a_job_resumes_where_it_was(install):
    installation = install("embedded", slots=1)
    installation.start()
    job = installation.submit_slow()
    seen, killed = [0], 0
    while killed < 3:
        running = installation.wait(
            job.id,
            lambda now: now.progress is not None and now.phase == "quantize" and now.progress.done > seen[-1],
        )
        seen.append(running.progress.done)
        for runner in installation.runners():  # none where what was seen came from the one before
            runner.kill()
            killed += 1

    job = installation.wait(job.id)

    starts = [event.payload["done"] for event in installation.events(job.id) if is_first_progress(event, installation)]
    assert job.state is State.SUCCEEDED
    assert starts == sorted(starts)
    assert len([attempt for attempt in job.attempts if attempt.outcome is Outcome.LOST]) == 3


def is_first_progress(event, installation):
    return event.payload.get("phase") == "quantize" and "done" in event.payload and event.payload.get("message") == ""


def test_a_broker_that_forgets_everything_delays_jobs_and_no_more(install):
    installation = install("celery")
    submitted = [installation.submit("Q8_0").id for _ in range(6)]
    installation.start()
    broker = redis.Redis.from_url(installation.settings.broker_url.get_secret_value())

    while not all(finished(installation)):
        broker.flushall()
        time.sleep(0.3)

    for job_id in submitted:
        job = installation.job(job_id)
        assert job.state is State.SUCCEEDED, job.error
        assert [attempt.outcome for attempt in job.attempts] == [Outcome.SUCCEEDED]
