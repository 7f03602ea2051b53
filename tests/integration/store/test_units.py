"""Finished units: what the next attempt need not do again."""

from __future__ import annotations

import pytest

from quantmill.contract.errors import IllegalTransition, NotFound
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import State
from quantmill.store import jobs, units
from quantmill.store.units import FinishedUnit

ERROR = {"kind": "plugin", "detail": "it broke"}


def test_units_of_an_earlier_attempt_are_still_finished(start, write, read):
    job = start()
    note = {"tensor": "größe", "found": "damping raised", "figures": {"used": 0.06}}
    done = FinishedUnit("block.0", "sha256:u0", 2**40, carry="sha256:hidden-states", findings={"notes": [note]})
    assert write(units.finish_unit, job.id, 1, done, "w1")

    write(jobs.release, job.id, 1)

    assert read(units.finished_units, job.id) == [done]


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_worker_that_lost_its_job_finishes_no_unit(start, write, read, epoch):
    job = start()
    write(jobs.release, job.id, 1)

    assert not write(units.finish_unit, job.id, epoch, FinishedUnit("block.0", "sha256:u0", 10), "w1")
    assert read(units.finished_units, job.id) == []


def test_a_unit_that_is_done_again_replaces_the_one_before(start, write, read):
    job = start()
    write(units.finish_unit, job.id, 1, FinishedUnit("block.0", "sha256:damaged", 10), "w1")

    write(units.finish_unit, job.id, 1, FinishedUnit("block.0", "sha256:good", 11), "w1")

    assert read(units.finished_units, job.id) == [FinishedUnit("block.0", "sha256:good", 11)]


def test_the_units_of_a_job_that_goes_on_are_not_forgotten(start, write):
    job = start()

    with pytest.raises(IllegalTransition, match="still needed"):
        write(units.forget_units, job.id)
    with pytest.raises(NotFound):
        write(units.forget_units, uuid7())


def test_the_units_of_a_job_that_has_ended_are_forgotten_and_no_others(start, write, read):
    ended, other = start(), start()
    for job in (ended, other):
        write(units.finish_unit, job.id, 1, FinishedUnit("shared", "sha256:shared", 10), "w1")
    write(jobs.transition, ended.id, epoch=1, to=State.FAILED, error=ERROR)

    write(units.forget_units, ended.id)

    assert read(units.finished_units, ended.id) == []
    assert len(read(units.finished_units, other.id)) == 1
