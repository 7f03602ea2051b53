"""The bounds that verification uses hold for weights of many shapes, and are not idle."""

from __future__ import annotations

from typing import Any

import pytest

from quantmill_bnb.plugin import BNB

SETTINGS: dict[str, dict[str, Any]] = {
    "NF4-32": {"block_size": 32, "double_quant": False},
    "NF4-64-DQ": {},
    "NF4-1024-DQ": {"block_size": 1024},
    "FP4-64": {"quant_type": "fp4", "double_quant": False},
    "FP4-256-DQ": {"quant_type": "fp4", "block_size": 256},
    "FP4-4096": {"quant_type": "fp4", "block_size": 4096, "double_quant": False},
    "INT8": {"quant_type": "int8"},
}


@pytest.mark.parametrize("scheme", SETTINGS)
def test_no_tensor_and_no_block_exceeds_its_bound_and_one_comes_near(scheme: str, through_a_folder: Any) -> None:
    bounds = through_a_folder(BNB, SETTINGS[scheme])

    assert bounds.scheme == scheme
    assert max(bounds.errors.values()) <= BNB.error_bounds[scheme], bounds.errors
    assert max(bounds.errors.values()) >= 0.4 * BNB.error_bounds[scheme], bounds.errors
    assert max(bounds.shares.values()) <= 1, bounds.shares
    assert max(bounds.shares.values()) >= 0.3, bounds.shares
