"""Plans that leave schemes open, and what settles them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from quantmill.contract.tensors import Plan, TensorPlan, Unit

FREE = TensorPlan("a", (1, 32), "F32", "quantize", "Q4_0", "a", 18, "a guess", candidates=("Q4_0", "Q8_0"))
FIXED = TensorPlan("b", (32,), "F32", "keep", "F32", "b", 128, "vectors stay F32")
UNITS = (Unit("a", ("a",)), Unit("b", ("b",)))
OPEN = Plan((FREE, FIXED), UNITS, peak_memory_bytes=200, limit_bytes=162, predicted_loss=0.5)
LARGER = replace(FREE, scheme="Q8_0", nbytes=34, reason="measured", candidates=())
SETTLED = replace(OPEN, tensors=(LARGER, FIXED), predicted_loss=0.25, peak_memory_bytes=150)


def test_a_plan_with_candidates_is_open():
    assert not OPEN.settled
    assert SETTLED.settled


@pytest.mark.parametrize("plan", [OPEN, SETTLED])
def test_a_plan_survives_json(plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_row_that_is_decided_has_no_candidates_in_json():
    assert "candidates" not in FIXED.to_json()


def test_an_outcome_settles_the_plan():
    assert SETTLED.settles(OPEN)


def test_a_plan_that_leaves_nothing_open_is_its_own_outcome():
    assert SETTLED.settles(SETTLED)


@pytest.mark.parametrize(
    "other",
    [
        OPEN,
        replace(SETTLED, tensors=(replace(LARGER, scheme="Q6_K"), FIXED)),
        replace(SETTLED, tensors=(replace(LARGER, name="c"), FIXED)),
        replace(SETTLED, tensors=(LARGER, replace(FIXED, scheme="F16"))),
        replace(SETTLED, tensors=(LARGER,)),
        replace(SETTLED, tensors=(replace(LARGER, nbytes=35), FIXED)),
        replace(SETTLED, limit_bytes=500),
        replace(SETTLED, units=UNITS[:1]),
        replace(SETTLED, inputs={"imatrix": "sha256:other"}),
        replace(SETTLED, peak_memory_bytes=201),
    ],
    ids=[
        "still open",
        "no candidate",
        "another tensor",
        "a decided row changed",
        "a row missing",
        "over the limit",
        "another limit",
        "other units",
        "other inputs",
        "more memory",
    ],
)
def test_what_the_plan_does_not_allow_does_not_settle_it(other):
    assert not other.settles(OPEN)
