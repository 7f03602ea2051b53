"""Whatever a method gives is held against its plan before it is written."""

from dataclasses import replace

import numpy as np
import pytest

from quantmill.contract.errors import PluginBroken, SourceRejected
from quantmill.contract.tensors import Plan, QuantizedTensor, TensorPlan, Unit
from quantmill.worker.messages import PlanSettled, Start
from quantmill.worker.pipeline import by_unit, plan_of

PLAN = Plan(
    tensors=(
        TensorPlan("a", (1, 32), "F32", "quantize", "Q8_0", "a", 34),
        TensorPlan("b", (1, 32), "F32", "quantize", "Q8_0", "b", 34),
        TensorPlan("c", (4,), "F32", "drop", "", "", 0, "rebuilt"),
        TensorPlan("d", (4,), "F32", "keep", "F32", "d", 16, "norm"),
    ),
    units=(Unit("first", ("a", "b")), Unit("second", ("c", "d"))),
    peak_memory_bytes=0,
)


def tensor(name, scheme="Q8_0", shape=(1, 32), nbytes=34):
    return QuantizedTensor(name, scheme, shape, {"packed": np.zeros(nbytes, np.uint8)})


A, B = tensor("a"), tensor("b")
D = tensor("d", "F32", (4,), 16)


def keys(tensors, skip=()):
    return [(key, [one.name for one in unit]) for key, unit in by_unit(tensors, PLAN, skip)]


def test_output_is_grouped_by_unit_without_the_dropped():
    assert keys([A, B, D]) == [("first", ["a", "b"]), ("second", ["d"])]


def test_finished_units_are_not_expected_again():
    assert keys([D], skip=["first"]) == [("second", ["d"])]


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ([A], "nothing.*'b'"),
        ([B, A, D], "'b'.*'a'"),
        ([A, B, D, tensor("e")], "'e'.*does not have"),
        ([A, tensor("b", scheme="Q4_0"), D], "Q4_0"),
        ([A, tensor("b", shape=(32, 1)), D], "32, 1"),
        ([A, tensor("b", nbytes=33), D], "33"),
    ],
    ids=["too few", "wrong order", "too many", "wrong scheme", "wrong shape", "wrong size"],
)
def test_output_that_differs_from_the_plan_is_refused(tensors, complaint):
    with pytest.raises(PluginBroken, match=complaint):
        keys(tensors)


FREE = TensorPlan("a", (1, 32), "F32", "quantize", "Q4_0", "a", 18, candidates=("Q4_0", "Q8_0"))
OPEN = Plan(tensors=(FREE,), units=(Unit("a", ("a",)),), peak_memory_bytes=100)
SETTLED = replace(OPEN, tensors=(replace(FREE, scheme="Q8_0", nbytes=34, candidates=()),))


def known(plan):
    """What the runner is told of the job's plan; nothing else of the message counts here."""
    return Start.model_construct(plan=plan.to_json() if plan else {})


@pytest.mark.parametrize(
    ("told", "made", "carried_out"),
    [(None, OPEN, OPEN), (OPEN, OPEN, OPEN), (SETTLED, OPEN, SETTLED), (PLAN, PLAN, PLAN)],
    ids=["nobody has planned", "still open", "settled before", "nothing was open"],
)
def test_a_later_attempt_goes_by_what_an_earlier_one_settled(told, made, carried_out):
    assert plan_of(known(told), made) == carried_out


@pytest.mark.parametrize(("told", "made"), [(PLAN, OPEN), (OPEN, PLAN), (OPEN, SETTLED)])
def test_a_plan_of_other_headers_is_refused(told, made):
    with pytest.raises(SourceRejected, match="headers have changed"):
        plan_of(known(told), made)


def test_a_message_that_holds_no_plan_is_refused():
    with pytest.raises(ValueError, match="not a plan"):
        PlanSettled(plan={"tensors": [{"name": "a"}]})
