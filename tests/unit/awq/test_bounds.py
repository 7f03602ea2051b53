"""The bounds that verification uses hold for weights of many shapes, scaled or not, and are not idle."""

from __future__ import annotations

import numpy as np
import pytest

from quantmill.verification.compare import compare
from quantmill_awq.bounds import BLOCK_BOUNDS, ERROR_BOUNDS, tolerance
from quantmill_awq.layout import scheme
from quantmill_awq.rounding import Grid, rounded
from quantmill_awq.search import find_clipping, workers

SHAPE = (128, 1024)


def relative_rmse(read: np.ndarray, source: np.ndarray) -> float:
    return float(np.sqrt(np.sum((read - source) ** 2, dtype=np.float64) / np.sum(source**2, dtype=np.float64)))


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("zero_point", [True, False])
def test_rounding_to_nearest_is_within_the_bounds(
    distributions: dict[str, np.ndarray], bits: int, group_size: int, zero_point: bool
) -> None:
    name = scheme(bits, group_size, zero_point)
    grid = Grid(bits, SHAPE[1] if group_size == -1 else group_size, not zero_point, "F16")
    found = {}
    for kind, each in distributions.items():
        values = each.reshape(SHAPE).astype(np.float32)
        read = rounded(values, grid).weights()
        found[kind] = relative_rmse(read, values)
        assert compare(read, values, BLOCK_BOUNDS[name]).worst.share <= 1, kind

    least = 0.2 if group_size == -1 else 0.25  # rows of ten times as many weights lose more
    assert least * ERROR_BOUNDS[name] <= max(found.values()) <= ERROR_BOUNDS[name], found


def test_clipped_groups_are_within_the_bounds(distributions: dict[str, np.ndarray]) -> None:
    """By activations that make it worth while to clip: a few channels are all that counts."""
    grid, name = Grid(4, 128, False, "F16"), scheme(4, 128, True)
    counts = np.full(SHAPE[1], 1e-6, np.float32)
    counts[3::50] = 100.0
    with workers(1) as pool:
        for kind in ("student t, 3", "100-fold outliers", "uniform"):
            values = distributions[kind].reshape(SHAPE).astype(np.float32)

            share = find_clipping(values, np.ones_like(counts), np.diag(counts), 20, grid, tolerance(4, 128), pool)

            read = rounded(values, grid, share).weights()
            assert compare(read, values, BLOCK_BOUNDS[name]).worst.share <= 1, kind
            assert relative_rmse(read, values) <= ERROR_BOUNDS[name], kind
