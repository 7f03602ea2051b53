"""When a worker ends by itself."""

from __future__ import annotations

import threading

import pytest

from quantmill.dispatch.retirement import Retirement


@pytest.fixture
def ended() -> threading.Event:
    return threading.Event()


def work(retirement: Retirement, *, claimed: bool) -> None:
    with retirement.postponed() as at_work:
        at_work.claimed = claimed


def test_a_worker_ends_after_its_last_job(ended):
    retirement = Retirement(jobs=2, end=ended.set)

    work(retirement, claimed=True)
    after_one = ended.is_set()
    work(retirement, claimed=True)

    assert (after_one, ended.is_set()) == (False, True)


def test_a_message_that_led_to_no_job_does_not_count(ended):
    retirement = Retirement(jobs=1, end=ended.set)

    work(retirement, claimed=False)

    assert not ended.is_set()


def test_a_worker_without_a_number_of_jobs_goes_on(ended):
    retirement = Retirement(end=ended.set)

    with retirement:
        work(retirement, claimed=True)

    assert not ended.is_set()


def test_a_worker_that_gets_no_job_ends(ended):
    with Retirement(idle_seconds=0.01, end=ended.set):
        assert ended.wait(60)


def test_a_worker_is_idle_only_when_its_job_is_over(ended):
    retirement = Retirement(idle_seconds=0.01, end=ended.set)

    with retirement.postponed(), retirement:
        ended_at_work = ended.wait(0.1)

    assert not ended_at_work


def test_a_worker_that_is_stopped_before_does_not_end_twice(ended):
    before = threading.enumerate()

    with Retirement(idle_seconds=3600, end=ended.set):
        [watching] = [thread for thread in threading.enumerate() if thread.name == "idle" and thread not in before]

    watching.join(60)

    assert (watching.is_alive(), ended.is_set()) == (False, False)
