"""The bounds that verification uses hold for weights of many shapes, and are not idle."""

from __future__ import annotations

from typing import Any

import pytest

from quantmill_hqq.plugin import HQQ

SETTINGS: dict[str, dict[str, Any]] = {
    "HQQ1-8": {"nbits": 1, "group_size": 8, "round_zero": True},
    "HQQ2-16": {"nbits": 2, "group_size": 16},
    "HQQ3-ROW": {"nbits": 3, "group_size": -1},
    "HQQ4-64": {},
    "HQQ4-64-AXIS0": {"axis": 0},
    "HQQ6-128-AXIS0": {"nbits": 6, "axis": 0, "group_size": -1},
    "HQQ8-128": {"nbits": 8, "group_size": 128, "compute_dtype": "bfloat16"},
    "INT4-32-ASYM": {"format": "compressed-tensors", "group_size": 32},
    "INT8-ROW-ASYM": {"format": "compressed-tensors", "nbits": 8, "group_size": -1},
}


@pytest.mark.parametrize("scheme", SETTINGS)
def test_no_tensor_and_no_block_exceeds_its_bound_and_one_comes_near(scheme: str, through_a_folder: Any) -> None:
    near = 0.25 if "ROW" in scheme else 0.4  # rows of 8192, which the bounds are for, hold more outliers than these
    bounds = through_a_folder(HQQ, SETTINGS[scheme])

    assert bounds.scheme == scheme
    assert max(bounds.errors.values()) <= HQQ.error_bounds[scheme], bounds.errors
    assert max(bounds.errors.values()) >= near * HQQ.error_bounds[scheme], bounds.errors
    assert max(bounds.shares.values()) <= 1, bounds.shares
    assert max(bounds.shares.values()) >= 0.3, bounds.shares
