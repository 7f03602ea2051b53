"""What jobs took corrects the estimates of the next ones; only runs that are comparable count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from quantmill.contract.tensors import Plan
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.escalation import Escalation, Rung, Step
from quantmill.domain.estimates import Estimate, Features, Interval, Run
from quantmill.domain.gates import GateVerdict
from quantmill.domain.jobs import Outcome
from quantmill.store import estimates, jobs, tables

MISSED = Step({"type": "Q4_0"}, 2_770_000, (GateVerdict("kld.mean <= 0.001", 0.0136, False),))
NEXT = Rung({"type": "Q8_0"}, Plan((), (), 0))
XEON, GRAVITON = {"cpu": "Xeon", "cpus": 2}, {"cpu": "Graviton", "cpus": 64}
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def estimate(seconds=10.0, memory=500):
    return Estimate(
        1000, Interval(memory, memory, memory), 1000, Interval(seconds, 5.0, 30.0), Features(seconds, memory)
    )


@pytest.fixture
def ran(submit, write, read, publish):
    """A job that took so many seconds and bytes of memory."""

    def make(seconds, memory=400, environment=XEON, digest=None, attempts=1, steps=(), **given):
        job = submit(estimate=estimate(), **given)
        for left in reversed(range(attempts)):
            job = write(jobs.claim, job.id, write(jobs.mark_dispatched, job.id, job.epoch, "cpu"), "w1", 60)
            if left:
                write(jobs.release, job.id, job.epoch)
                job = read(jobs.get_job, job.id)
        for step in steps:
            job = write(jobs.escalate, job.id, job.epoch, *step)
        write(jobs.end_attempt, job.id, job.epoch, Outcome.SUCCEEDED, exit_code=0, peak_memory_bytes=memory)
        publish(job, digest=digest or f"sha256:{job.id}", environment=environment)
        took = {"started_at": BEGAN, "ended_at": BEGAN + timedelta(seconds=seconds)}
        write(lambda tx: tx.execute(update(tables.attempt).where(tables.attempt.c.job_id == job.id).values(took)))
        return job

    return make


def seconds_of(read, method="gguf", calibrated=False, evaluated=False):
    found = read(estimates.history, method, calibrated=calibrated, evaluated=evaluated)
    return [run.seconds for run in found.runs]


def test_an_estimate_is_kept_with_its_job(submit, read):
    job = submit(estimate=estimate())

    assert read(jobs.get_job, job.id).estimate == estimate()
    assert read(jobs.get_job, submit().id).estimate is None


def test_what_a_job_took_stands_beside_what_it_was_thought_to_take(ran, read):
    ran(12.5, memory=450)

    found = read(estimates.history, "gguf", calibrated=False, evaluated=False)

    assert found.hardware == "Xeon, 2 CPUs"
    assert found.runs == (Run(Features(10.0, 500), 12.5, 450),)


def test_only_jobs_of_the_method_with_the_same_texts_count(ran, read):
    ran(1.0)
    ran(2.0, method="hqq")
    ran(3.0, evaluation_text="/texts/a.txt")
    ran(4.0, calibration=CalibrationOptions(text="/texts/b.txt"))

    assert seconds_of(read) == [1.0]
    assert seconds_of(read, "hqq") == [2.0]
    assert seconds_of(read, evaluated=True) == [3.0]
    assert seconds_of(read, calibrated=True) == [4.0]


def test_only_runs_on_the_hardware_of_the_newest_count(ran, read):
    ran(1.0)
    ran(2.0, environment=GRAVITON)
    ran(3.0)

    assert seconds_of(read) == [3.0, 1.0]


def test_jobs_that_took_two_attempts_or_a_step_or_have_not_succeeded_do_not_count(start, ran, read):
    ran(1.0)
    start(estimate=estimate())
    ran(2.0, attempts=2)
    ran(3.0, steps=[(MISSED, NEXT)], gates=("kld.mean <= 0.001",), escalation=Escalation(3))

    assert seconds_of(read) == [1.0]


def test_accuracy_is_the_median_error_of_each_method(ran, read):
    for seconds in (8.0, 10.0, 20.0):
        ran(seconds, memory=400)
    ran(5.0, memory=500, method="hqq")

    assert read(estimates.accuracies) == [
        estimates.Accuracy("gguf", 3, 0.25, 0.25),
        estimates.Accuracy("hqq", 1, 1.0, 0.0),
    ]
