"""A calibrated job that the worker's memory cannot hold is refused before it runs."""

import pytest

from quantmill.contract.calibration import CalibrationCost
from quantmill.contract.errors import ResourceExhausted
from quantmill.contract.tensors import Plan, TensorPlan, Unit
from quantmill.worker.calibrated import require_memory

PLAN = Plan((TensorPlan("a", (1, 32), "F32", "quantize", "Q8_0", "a", 34),), (Unit("a", ("a",)),), 300)
COST = CalibrationCost(memory=2000, disk=10**12)


@pytest.mark.parametrize("limit", [None, 12_300, 10**9])
def test_what_fits_is_let_through(limit):
    require_memory(COST, PLAN, held=10_000, limit=limit)


def test_what_does_not_fit_is_refused_with_both_numbers():
    with pytest.raises(ResourceExhausted, match=r"takes 12300 bytes of memory.*this worker allows 12299") as caught:
        require_memory(COST, PLAN, held=10_000, limit=12_299)

    assert caught.value.fields == {"needed_bytes": 12_300, "limit_bytes": 12_299}
