"""Comparisons in the database: bound to their jobs, found by one of them, canceled as one."""

from __future__ import annotations

from uuid import uuid4

import pytest

from quantmill.contract.errors import IllegalTransition, NotFound
from quantmill.domain.comparisons import ComparisonRequest, VariantRequest
from quantmill.domain.jobs import State
from quantmill.store import comparisons, jobs

ASKED = (VariantRequest("gguf", {"type": "Q8_0", "pure": True}), VariantRequest("gguf", {"type": "Q4_0"}))
REQUEST = ComparisonRequest("any", "text.txt", ASKED)


@pytest.fixture
def compare(submit, write):
    """A comparison of two queued jobs."""
    return lambda: write(comparisons.insert_comparison, REQUEST, [submit().id, submit().id], source_bytes=2**40)


def test_a_comparison_reads_back_as_it_was_asked_for(compare, read):
    made = compare()

    found = read(comparisons.get_comparison, made.id)
    assert found == made
    assert (found.source, found.evaluation_text, found.source_bytes) == ("any", "text.txt", 2**40)
    assert [variant.asked for variant in found.variants] == list(ASKED)
    assert [list(variant.asked.params) for variant in found.variants] == [["type", "pure"], ["type"]]
    assert found.state is State.QUEUED


def test_a_comparison_is_found_by_any_of_its_jobs(compare, submit, read):
    made = compare()

    assert [read(comparisons.comparison_of, variant.job.id) for variant in made.variants] == [made, made]
    assert read(comparisons.comparison_of, submit().id) is None


def test_listings_are_newest_first_and_go_on_behind_the_last(compare, read):
    made = [compare() for _ in range(3)]

    first = read(comparisons.list_comparisons, limit=2)
    rest = read(comparisons.list_comparisons, after=first[-1].id, limit=2)

    assert first + rest == made[::-1]


def test_canceling_asks_the_jobs_that_have_not_ended(compare, write):
    made = compare()
    running = made.variants[0].job
    epoch = write(jobs.mark_dispatched, running.id, 0, "cpu")
    write(jobs.claim, running.id, epoch, "w1", 60)

    asked = write(comparisons.cancel_jobs, made.id)
    again = write(comparisons.cancel_jobs, made.id)

    assert [variant.job.state for variant in asked.variants] == ["canceling", "canceled"]
    assert asked.state is State.CANCELING
    assert again == asked


def test_what_has_been_canceled_may_be_canceled_again(compare, write):
    made = compare()

    assert [write(comparisons.cancel_jobs, made.id).state for _ in range(2)] == ["canceled", "canceled"]


def test_a_comparison_that_ended_otherwise_cannot_be_canceled(compare, write, publish):
    made = compare()
    for number, variant in enumerate(made.variants):
        epoch = write(jobs.mark_dispatched, variant.job.id, 0, "cpu")
        publish(write(jobs.claim, variant.job.id, epoch, "w1", 60), digest=f"sha256:{number}")

    with pytest.raises(IllegalTransition, match="has succeeded"):
        write(comparisons.cancel_jobs, made.id)


def test_one_that_does_not_exist_is_not_found(read, write):
    with pytest.raises(NotFound):
        read(comparisons.get_comparison, uuid4())
    with pytest.raises(NotFound):
        write(comparisons.cancel_jobs, uuid4())
