"""The digest that decides whether two requests are the same one."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from quantmill.domain.jobs import JobRequest
from quantmill.jobs.submit import request_digest

REQUEST = JobRequest(source="model", method="gguf", params={"type": "Q4_K_M", "threads": 2})


def test_the_order_of_keys_and_the_spelling_of_numbers_do_not_matter():
    same = replace(REQUEST, params={"threads": 2.0, "type": "Q4_K_M"})

    assert request_digest(same) == request_digest(REQUEST)


@pytest.mark.parametrize(
    "change",
    [
        {"source": "other"},
        {"method": "awq"},
        {"params": {"type": "Q4_K_S", "threads": 2}},
        {"params": {"type": "Q4_K_M"}},
        {"evaluation_text": "text"},
        {"seed": 1},
        {"timeout_seconds": 60},
        {"labels": {"team": "search"}},
        {"gates": ("size_mb <= 1",)},
    ],
)
def test_every_field_of_the_request_counts(change):
    assert request_digest(replace(REQUEST, **change)) != request_digest(REQUEST)


def test_a_retry_is_another_request_than_the_job_it_repeats():
    assert request_digest(REQUEST, UUID(int=1)) != request_digest(REQUEST)


def test_the_digest_of_a_request_never_changes():
    # keys that were given before an upgrade must still find their jobs after it
    digest = "sha256:51283bc89bda0136c2108ef5ce13a28098c3802bdccf30d827e77088a554b65e"

    assert request_digest(JobRequest(source="m", method="gguf", params={})) == digest
