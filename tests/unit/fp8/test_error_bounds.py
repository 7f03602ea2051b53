"""The bounds that verification uses hold for weights of many shapes, and are not idle."""

from __future__ import annotations

from typing import Any

import pytest

from quantmill_fp8.plugin import FP8

SETTINGS: dict[str, dict[str, Any]] = {
    "FP8": {},
    "FP8-tensor": {"scheme": "FP8", "strategy": "tensor"},
    "FP8-128x128": {"scheme": "FP8_NATIVE", "skip_modules": ()},
    "MXFP8": {"scheme": "MXFP8"},
    "NVFP4": {"scheme": "NVFP4A16"},
    "MXFP4": {"scheme": "MXFP4A16"},
}


@pytest.mark.parametrize("scheme", SETTINGS)
def test_no_tensor_and_no_block_exceeds_its_bound_and_one_comes_near(scheme: str, through_a_folder: Any) -> None:
    bounds = through_a_folder(FP8, SETTINGS[scheme])

    assert bounds.scheme == scheme
    assert max(bounds.errors.values()) <= FP8.error_bounds[scheme], bounds.errors
    assert max(bounds.errors.values()) >= 0.4 * FP8.error_bounds[scheme], bounds.errors
    assert max(bounds.shares.values()) <= 1, bounds.shares
    assert max(bounds.shares.values()) >= 0.3, bounds.shares
