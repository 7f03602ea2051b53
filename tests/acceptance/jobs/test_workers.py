"""What becomes of jobs whose workers are stopped, lost, late or unfit."""

from __future__ import annotations

import shutil
import time

import psutil
from tests.acceptance.jobs.conftest import PATIENT

from quantmill.dispatch.celery_app import CeleryDispatcher
from quantmill.domain.escalation import Escalation
from quantmill.domain.jobs import Outcome, Phase, State
from quantmill.jobs.cancel import cancel
from quantmill.store import jobs, units


def quantizing(job):
    return job.state is State.RUNNING and job.phase is Phase.QUANTIZE and job.progress is not None


def test_a_job_that_loses_its_worker_after_a_step_goes_on_from_that_step(install):
    installation = install("embedded")
    installation.start()
    job = installation.submit("Q4_0", gates=("rmse <= 0.03",), escalation=Escalation(5))
    installation.wait(job.id, until=lambda job: len(job.steps) == 1)

    installation.kill("serve")
    installation.start("serve")
    job = installation.wait(job.id, seconds=120)

    assert job.state is State.SUCCEEDED
    assert [step.params["type"] for step in job.steps] == ["Q4_0", "Q4_K_M"]
    assert [attempt.outcome for attempt in job.attempts] == [Outcome.LOST, Outcome.SUCCEEDED]


def test_a_source_that_changed_after_submission_fails_its_job(install, tmp_path, model_in_f32):
    installation = install("embedded")
    source = tmp_path / "changing"
    shutil.copytree(installation.settings.source_roots[0] / "millstone-4m", source)
    job = installation.submit(source=source)
    shutil.copy(model_in_f32 / "model.safetensors", source)

    installation.start()
    job = installation.wait(job.id)

    assert job.state is State.FAILED
    assert job.error["type"] == "/problems/SourceRejected"


def test_a_message_told_twice_or_late_runs_the_job_once(install):
    installation = install("celery", **PATIENT)
    installation.start()
    job = installation.wait(installation.submit().id)
    dispatcher = CeleryDispatcher(installation.settings)

    for epoch in (job.epoch, job.epoch, job.epoch - 1, job.epoch + 1):
        dispatcher.send("cpu", job.id, epoch)
    time.sleep(2)

    assert installation.job(job.id) == job


def test_a_worker_that_is_asked_to_stop_hands_its_job_back_with_its_units(install):
    installation = install("celery", max_attempts=1, **PATIENT)  # being asked to stop is no attempt that was lost
    installation.start("scheduler", "worker-1")
    job = installation.wait(installation.submit_slow().id, lambda job: quantizing(job) and job.progress.done > 5)

    assert installation.stop("worker-1") == 0
    handed_back = installation.job(job.id)
    with installation.services.database.read() as tx:
        kept = len(units.finished_units(tx, job.id))
    installation.start("worker-2")
    job = installation.wait(job.id)

    assert handed_back.state is State.QUEUED
    assert job.state is State.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == [Outcome.RELEASED, Outcome.SUCCEEDED]
    second = [event for event in installation.events(job.id) if event.epoch == job.epoch]
    resumed_at = next(event.payload["done"] for event in second if event.payload.get("phase") == "quantize")
    assert resumed_at == kept > 5


def test_a_worker_that_was_started_for_one_job_ends_after_it(install):
    installation = install("celery", slots=1, **PATIENT)
    installation.commands["worker-1"] += ["--jobs", "1", "--idle-seconds", "240"]
    installation.start("scheduler", "worker-1")
    first, second = installation.submit("Q4_0"), installation.submit("Q4_0")

    assert installation.processes["worker-1"].wait(240) == 0
    states = {installation.job(job.id).state for job in (first, second)}
    assert states == {State.SUCCEEDED, State.QUEUED}


def test_a_stopped_serve_hands_its_job_back(install):
    installation = install("embedded")
    installation.start()
    job = installation.wait(installation.submit_slow().id, quantizing)

    installation.stop("serve")

    assert installation.job(job.id).state is State.QUEUED


def test_a_worker_that_slept_past_its_lease_is_fenced(install):
    installation = install("celery")
    installation.start("scheduler", "worker-1")
    job = installation.wait(installation.submit_slow().id, quantizing)
    sleeper = psutil.Process(installation.processes["worker-1"].pid)

    sleeper.suspend()
    installation.start("worker-2")
    installation.wait(job.id, lambda now: now.state is State.RUNNING and now.epoch > job.epoch)
    sleeper.resume()
    job = installation.wait(job.id)

    assert job.state is State.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == [Outcome.LOST, Outcome.SUCCEEDED]
    published = [event for event in installation.events(job.id) if event.type == "job.succeeded"]
    assert [event.epoch for event in published] == [job.epoch]


def test_a_job_that_holds_more_memory_than_it_planned_fails_with_both_numbers(install):
    installation = install("embedded", runner_memory_bytes=300 << 20)
    installation.start()

    job = installation.wait(installation.submit_slow(hoarded_bytes=400 << 20).id)

    assert job.state is State.FAILED
    assert job.error["kind"] == "resource"
    assert job.error["limit_bytes"] == 300 << 20
    assert job.error["resident_bytes"] > 300 << 20


def test_a_job_that_no_worker_can_run_waits_and_starts_when_one_appears(install):
    installation = install("celery")
    job = installation.submit()
    small = {"QUANTMILL_RUNNER_MEMORY_BYTES": str(30 << 20)}
    installation.start("scheduler")
    installation.start("worker-1", **small)

    job = installation.wait(job.id, lambda now: now.waiting is not None and "allows 31.5 MB" in now.waiting.missing[0])
    assert job.waiting.reason == "no_eligible_worker"
    installation.start("worker-2")
    job = installation.wait(job.id)

    assert job.state is State.SUCCEEDED
    assert job.queue.startswith("cpu-")
    assert [event.type for event in installation.events(job.id)].count("job.waiting") >= 1


def test_a_job_past_its_deadline_expires(install):
    installation = install("embedded")
    installation.start()

    job = installation.wait(installation.submit_slow(timeout_seconds=1).id)

    assert job.state is State.EXPIRED
    time.sleep(1.5)
    assert installation.runners() == []


def test_a_canceled_job_never_runs(install):
    installation = install("embedded")
    job = cancel(installation.services, installation.submit().id)

    installation.start()
    time.sleep(1.5)

    assert installation.job(job.id).attempts == ()
    with installation.services.database.write() as tx:
        assert jobs.claim(tx, job.id, job.epoch, "late", 10) is None


def test_a_runner_that_always_dies_fails_its_job_after_the_last_attempt(install):
    installation = install("embedded", max_attempts=3)
    installation.start()
    job = installation.submit()
    while installation.job(job.id).state not in (State.FAILED, State.SUCCEEDED):
        for runner in installation.runners():
            runner.kill()
        time.sleep(0.02)

    job = installation.job(job.id)

    assert job.state is State.FAILED
    assert job.error["type"] == "/problems/WorkerLost"
    assert [attempt.outcome for attempt in job.attempts] == [Outcome.LOST] * 3
    assert [attempt.signal for attempt in job.attempts] == [9] * 3
