"""Jobs that go on with larger parameters: the step is kept, its units are not, and only the holder may do it."""

from __future__ import annotations

import pytest

from quantmill.contract.tensors import Plan, TensorPlan
from quantmill.domain.escalation import Escalation, Rung, Step
from quantmill.domain.gates import GateVerdict
from quantmill.store import events, jobs, units

MISSED = Step({"type": "Q4_0"}, 2_770_000, (GateVerdict("kld.mean <= 0.001", 0.0136, False),))
NEXT = Rung({"type": "Q8_0"}, Plan((TensorPlan("w", (1, 1), "F32", "quantize", "Q8_0", "w", 9, ""),), (), 0))


@pytest.fixture
def started(start):
    return start(gates=("kld.mean <= 0.001",), escalation=Escalation(3, 4.5))


def test_the_leave_to_escalate_reads_back(started, submit, read):
    assert read(jobs.get_job, started.id).request.escalation == Escalation(3, 4.5)
    assert submit().request.escalation is None
    by_blocks = Escalation(3, by="blocks")
    assert submit(gates=("kld.mean <= 0.001",), escalation=by_blocks).request.escalation == by_blocks


def test_a_job_goes_on_with_the_next_parameters_and_keeps_what_missed(started, read, write):
    write(units.finish_unit, started.id, started.epoch, units.FinishedUnit("w", "sha256:u", 1), "w1")

    going_on = write(jobs.escalate, started.id, started.epoch, MISSED, NEXT)

    assert (going_on.state, going_on.epoch) == (started.state, started.epoch)
    assert (going_on.request.params, going_on.asked.params) == ({"type": "Q8_0"}, {"type": "Q4_0"})
    assert going_on.plan == NEXT.plan.to_json()
    assert going_on.steps == (MISSED,)
    assert going_on.row_version > started.row_version
    assert read(units.finished_units, started.id) == []
    event = read(events.list_events, started.id, 0, 100)[-1]
    assert (event.type, event.payload["step"], event.payload["next"]) == ("job.escalated", 1, {"type": "Q8_0"})
    assert event.payload["gates"] == [{"gate": "kld.mean <= 0.001", "observed": 0.0136, "passed": False}]


def test_listings_show_the_steps_too(started, read, write):
    write(jobs.escalate, started.id, started.epoch, MISSED, NEXT)
    write(jobs.escalate, started.id, started.epoch, MISSED, NEXT)

    assert read(jobs.list_jobs, limit=1)[0].steps == (MISSED, MISSED)


def test_a_job_that_is_to_be_canceled_does_not_go_on(started, read, write):
    write(jobs.request_cancel, started.id)

    assert write(jobs.escalate, started.id, started.epoch, MISSED, NEXT) is None
    assert read(jobs.get_job, started.id).steps == ()


def test_who_has_lost_the_job_cannot_escalate_it(started, read, write):
    assert write(jobs.escalate, started.id, started.epoch - 1, MISSED, NEXT) is None
    assert read(jobs.get_job, started.id).request.params == {"type": "Q4_0"}
