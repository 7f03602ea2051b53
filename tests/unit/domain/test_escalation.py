"""When a job goes on with larger parameters, and with which."""

from __future__ import annotations

import json

import pytest

from quantmill.contract.errors import RequestRejected, describe
from quantmill.contract.tensors import Plan, TensorPlan
from quantmill.domain.artifacts import Metric
from quantmill.domain.escalation import (
    Escalation,
    Rung,
    Step,
    more_may_help,
    most_bytes,
    next_rung,
    refusal_of,
    worst_blocks,
)
from quantmill.domain.gates import GateVerdict


def rung(type_: str, nbytes: int) -> Rung:
    row = TensorPlan("w", (1, 1), "F32", "quantize", type_, "w", nbytes, "")
    return Rung({"type": type_}, Plan((row,), (), 0))


LADDER = [rung("Q8_0", 400), rung("Q4_K_M", 200), rung("Q5_K_M", 300)]


@pytest.mark.parametrize(
    ("current", "most", "chosen"),
    [
        (100, 1000, "Q4_K_M"),
        (200, 1000, "Q5_K_M"),
        (250, 1000, "Q5_K_M"),
        (300, 400, "Q8_0"),
        (300, 399, None),
        (400, 1000, None),
    ],
)
def test_the_smallest_rung_above_what_missed_and_within_the_budget_is_next(current, most, chosen):
    found = next_rung(LADDER, current, most)

    assert (found and found.params["type"]) == chosen


@pytest.mark.parametrize(
    ("size_mb", "gates", "most"),
    [
        (None, [], float("inf")),
        (4, [], 4e6),
        (4, ["size_mb <= 3", "kld.mean <= 1"], 3e6),
        (2, ["size_mb <= 3"], 2e6),
        (None, ["size_mb >= 3"], float("inf")),
    ],
)
def test_a_gate_on_the_size_is_a_budget_too(size_mb, gates, most):
    assert most_bytes(Escalation(3, size_mb), gates) == most


@pytest.mark.parametrize(
    ("missed", "helps"),
    [
        (["kld.mean <= 0.1"], True),
        (["kld.mean <= 0.1", "top1 >= 0.9"], True),
        (["bpw >= 8"], True),
        (["size_mb <= 4"], False),
        (["kld.mean <= 0.1", "bpw < 4"], False),
    ],
)
def test_a_larger_artifact_is_tried_only_where_it_may_help(missed, helps):
    met = GateVerdict("size_mb <= 100", 1.0, True)

    assert more_may_help([met, *(GateVerdict(gate, 0.5, False) for gate in missed)]) is helps


def after_blocks(*errors: float) -> list[Metric]:
    """The output's error after each block; not in the model's order."""
    found = [Metric("output_error", error, "", f"model.layers.{block}") for block, error in enumerate(errors)]
    return [*reversed(found), Metric("kld_mean", 1.0, "nat")]


@pytest.mark.parametrize(
    ("errors", "worst"),
    [
        ((0.05, 0.06, 0.07, 0.08), [0]),  # 0.05 of 0.08 came with the first
        ((0.01, 0.02, 0.06, 0.07), [2]),
        ((0.01, 0.04, 0.05, 0.09), [3, 1]),
        ((0.04, 0.03, 0.02, 0.05), [0]),  # an error that shrinks is none
        ((0.0, 0.0), []),
        ((float("nan"), 0.1, 0.2), [2]),
        ((*[0.01] * 10, 0.05), [10]),  # 10 is behind 9
        ((), []),
    ],
)
def test_the_worst_blocks_are_the_fewest_that_half_of_the_error_came_with(errors, worst):
    assert worst_blocks(after_blocks(*errors), lambda _: True) == [f"model.layers.{block}" for block in worst]


def test_a_block_that_can_have_no_more_bits_is_passed_over():
    assert worst_blocks(after_blocks(0.05, 0.06, 0.09), lambda block: not block.endswith(".0")) == ["model.layers.2"]


def test_an_escalation_is_by_what_can_grow():
    with pytest.raises(RequestRejected, match="by ladder or by blocks, not by 'layers'"):
        Escalation(3, by="layers")


def test_a_job_that_ran_out_of_steps_tells_them_all():
    steps = [
        Step({"type": type_}, size, (GateVerdict("kld.mean <= 0.1", observed, False),))
        for type_, size, observed in (("Q2_K", 100, 0.9), ("Q3_K_M", 150, 0.5))
    ]

    error = json.loads(json.dumps(describe(refusal_of(steps, []))))

    assert "not met at the last of 2 steps: kld.mean <= 0.1: 0.5 was observed" in error["detail"]
    assert [(step["params"]["type"], step["gates"][0]["observed"]) for step in error["steps"]] == [
        ("Q2_K", 0.9),
        ("Q3_K_M", 0.5),
    ]
    assert "steps" not in refusal_of(steps[:1], []).fields
