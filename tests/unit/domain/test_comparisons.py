"""What a comparison's jobs make it."""

from __future__ import annotations

import pytest

from quantmill.domain.comparisons import VariantRequest, state_of
from quantmill.domain.jobs import State


@pytest.mark.parametrize(
    ("states", "together"),
    [
        ("queued queued", "queued"),
        ("queued running", "running"),
        ("queued succeeded", "running"),
        ("queued canceled", "running"),
        ("running canceling", "running"),
        ("canceling canceled", "canceling"),
        ("canceling succeeded", "canceling"),
        ("succeeded succeeded", "succeeded"),
        ("succeeded expired", "expired"),
        ("succeeded expired failed", "failed"),
        ("succeeded expired failed canceled", "canceled"),
    ],
)
def test_a_comparison_is_what_its_jobs_make_it(states, together):
    assert state_of([State(name) for name in states.split()]) == together


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({}, "gguf"),
        ({"type": "Q4_K_M", "pure": True}, "gguf type=Q4_K_M pure=true"),
        ({"overrides": {"blk.*": "Q6_K"}}, 'gguf overrides={"blk.*": "Q6_K"}'),
    ],
)
def test_a_variant_is_named_by_what_was_asked_for(params, name):
    assert VariantRequest("gguf", params).name == name
