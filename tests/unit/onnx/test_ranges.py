"""Histograms that grow, and the ranges that they give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantmill_onnx.ranges import (
    LEVELS,
    RANGES,
    SIDE,
    Histogram,
    by_mse,
    by_percentile,
    minmax,
    moving_average,
    qparams,
)

FLOATS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def counted(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=5), st.randoms())
def test_counts_depend_neither_on_the_order_nor_on_the_batches(batches: list[np.ndarray], random: object) -> None:
    whole, turned = counted(np.concatenate(batches)), counted(*(batch[::-1] for batch in batches[::-1]))

    assert whole.exponent == turned.exponent
    assert (whole.counts == turned.counts).all()


@settings(max_examples=60, deadline=None)
@given(FLOATS)
def test_all_values_are_counted_where_they_lie(values: np.ndarray) -> None:
    histogram = counted(values[:1], values)
    low, high = minmax(histogram, 100)

    assert histogram.counts.sum() == values.size + 1
    assert low <= min(0, values.min()) <= low + histogram.width
    assert high - histogram.width <= max(0, values.max()) < high or high == 0


def test_a_value_that_is_not_finite_is_not_counted() -> None:
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            counted(np.array([0, value], np.float32))


NORMAL = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
OUTLIER = np.append(NORMAL, np.float32(300))


def test_the_moving_average_goes_a_hundredth_towards_each_further_sample() -> None:
    samples = [np.array(each, np.float32) for each in ([-1, 0, 1], [4, -2], [-1.01, 600])]

    # torch 2.13's MovingAverageMinMaxObserver has the same three ranges
    found = [moving_average(counted(*samples[:count]), 100) for count in (1, 2, 3)]

    assert np.allclose(found, [(-1, 1), (-1.01, 1.03), (-1.01, 7.0197)])


def test_percentile_leaves_half_of_the_rest_at_each_end() -> None:
    low, high = by_percentile(counted(NORMAL), 99)

    assert (low, high) == pytest.approx(np.quantile(NORMAL, [0.005, 0.995]), abs=0.01)


@pytest.mark.parametrize(("method", "cut"), [("percentile", 10), ("mse", 280), ("entropy", 100)])
def test_an_outlier_is_cut_off(method: str, cut: float) -> None:
    assert RANGES["minmax"](counted(OUTLIER), 99.99)[1] == pytest.approx(300, rel=0.001)
    assert 2 < RANGES[method](counted(OUTLIER), 99.99)[1] < cut


def test_mse_has_no_more_error_than_the_whole_range() -> None:
    for values in (NORMAL, OUTLIER, np.abs(NORMAL), np.exp(3 * NORMAL)):
        histogram = counted(values)
        assert error(values, by_mse(histogram, 0)) <= 1.001 * error(values, minmax(histogram, 0))


def error(values: np.ndarray, found: tuple[float, float]) -> float:
    scale, zero = qparams(found, signed=False)
    codes = np.clip(np.rint(values / scale) + zero, 0, LEVELS)
    return float(np.mean(((codes - zero) * scale - values.astype(np.float64)) ** 2))


@pytest.mark.parametrize("method", sorted(RANGES))
@pytest.mark.parametrize("values", [NORMAL, np.abs(NORMAL), -np.abs(NORMAL), NORMAL[:1], np.full(9, 7, np.float32)])
def test_zero_is_a_code_and_the_range_lies_within_what_was_seen(method: str, values: np.ndarray) -> None:
    histogram = counted(values)
    low, high = RANGES[method](histogram, 99.9)

    assert low <= 0 <= high
    assert low >= min(0, values.min()) - histogram.width
    assert high <= max(0, values.max()) + histogram.width
    assert high > low


@pytest.mark.parametrize(
    ("found", "signed", "scale", "zero"),
    [
        ((-1, 1.55), False, 0.01, 100),
        ((-1, 1.55), True, 0.01, -28),
        ((0, 2.55), False, 0.01, 0),
        ((0, 0), True, 1, -128),
    ],
)
def test_scale_and_zero_point_of_a_range(found: tuple[float, float], signed: bool, scale: float, zero: int) -> None:
    scale_found, zero_found = qparams(found, signed)

    assert (float(scale_found), int(zero_found)) == (pytest.approx(scale), zero)
    assert zero_found.dtype == (np.int8 if signed else np.uint8)


def test_zeros_alone_have_a_range() -> None:
    scale, zero = qparams(minmax(counted(np.zeros(5, np.float32)), 0), signed=False)

    assert (float(scale), int(zero), counted(np.zeros(5, np.float32)).counts[SIDE]) == (1.0, 0, 5)
