"""The states of a job and the moves between them."""

from __future__ import annotations

import pytest

from quantmill.domain.jobs import FINAL, HELD, NEXT, PREVIOUS, Outcome, State

MOVES = {
    "queued": {"running", "canceled", "failed", "expired"},
    "running": {"succeeded", "failed", "canceling", "expired", "queued"},
    "canceling": {"canceled", "succeeded", "failed", "expired"},
    "succeeded": set(),
    "failed": set(),
    "canceled": set(),
    "expired": set(),
}


def test_the_legal_moves_are_these() -> None:
    assert {before: set(after) for before, after in NEXT.items()} == MOVES


def test_a_job_ends_in_one_of_four_ways() -> None:
    assert {"succeeded", "failed", "canceled", "expired"} == FINAL


def test_a_worker_holds_a_job_while_it_runs_or_is_being_canceled() -> None:
    assert {"running", "canceling"} == HELD


@pytest.mark.parametrize("state", State)
def test_each_move_is_known_from_both_ends(state: State) -> None:
    assert PREVIOUS[state] == {before for before in State if state in NEXT[before]}


@pytest.mark.parametrize("state", State)
def test_every_state_can_still_end(state: State) -> None:
    reached, ahead = set(), {state}
    while ahead:
        reached |= ahead
        ahead = {after for before in ahead for after in NEXT[before]} - reached

    assert reached & FINAL


def test_only_a_held_job_can_succeed() -> None:
    assert PREVIOUS[State.SUCCEEDED] == HELD


@pytest.mark.parametrize("state", sorted(FINAL))
def test_every_end_of_a_job_is_an_end_of_its_attempt(state: State) -> None:
    assert Outcome(state.value).value == state.value
