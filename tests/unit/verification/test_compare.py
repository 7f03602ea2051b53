"""A tensor against its source, block by block."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quantmill.contract.reading import WHOLE_ROW, BlockBound, DecodedRows
from quantmill.verification.compare import CHUNK, PIECE, compare, distinct_values

TENTH = BlockBound(values=4, relative=0.1)


def off_at(at: int, by: float, size: int) -> np.ndarray:
    values = np.ones(size, np.float32)
    values[at] += np.float32(by)
    return values


def test_the_error_of_the_worst_block_is_its_rms_over_what_its_peak_allows() -> None:
    source = np.array([[1, 1, 1, 1], [2, -8, 2, 2]], np.float32)
    values = source + np.array([[0, 0, 0, 0.1], [0.4, 0, 0, 0]], np.float32)

    worst = compare(values, source, TENTH).worst

    assert (worst.start, worst.values) == (0, 4)
    assert worst.rms_error == pytest.approx(0.05)
    assert worst.allowed == pytest.approx(0.1)
    assert worst.share == pytest.approx(0.5)  # the second has 0.2 of 0.8


def test_a_block_in_a_group_with_larger_values_is_allowed_more() -> None:
    bound = BlockBound(values=2, relative=0.1, group=4, group_relative=0.05, absolute=0.001)

    worst = compare(np.array([[1, 1.5, 9, 9]], np.float32), np.array([[1, 1, 9, 9]], np.float32), bound).worst

    assert worst.allowed == pytest.approx(0.1 * 1 + 0.05 * 9 + 0.001)


def test_a_group_may_be_the_whole_row() -> None:
    bound = BlockBound(values=2, relative=0.1, group=WHOLE_ROW, group_relative=0.01)

    worst = compare(np.array([[1.5, 1, 9, 9, 1, 50]], np.float32), np.array([[1, 1, 9, 9, 1, 50]], np.float32), bound)

    assert worst.worst.allowed == pytest.approx(0.1 * 1 + 0.01 * 50)


def test_a_scale_of_the_whole_tensor_allows_every_block_a_share_of_its_peak() -> None:
    bound = BlockBound(values=2, relative=0.0, tensor_relative=0.01)

    worst = compare(np.array([[1.5, 1], [9, 50]], np.float32), np.array([[1, 1], [9, 50]], np.float32), bound).worst

    assert worst.allowed == pytest.approx(0.5)


def test_blocks_that_run_across_rows_take_their_peak_from_both() -> None:
    bound = BlockBound(values=4, relative=0.1, across_rows=True)
    source = np.array([[1, 1, 1], [8, 1, 1]], np.float32)  # four values, then two

    worst = compare(source + np.array([[0, 0, 0.4], [0, 0, 0]], np.float32), source, bound).worst

    assert (worst.values, worst.allowed) == (4, pytest.approx(0.8))
    assert compare(off_at(5, 0.5, 6).reshape(2, 3), np.ones((2, 3), np.float32), bound).worst.start == 4


def test_a_bound_of_zero_allows_no_error_and_no_more() -> None:
    exact = BlockBound(values=4, relative=0.0)

    assert compare(np.ones((1, 4), np.float32), np.ones((1, 4), np.float32), exact).worst.share == 0.0
    assert compare(off_at(2, 1e-6, 4).reshape(1, 4), np.ones((1, 4), np.float32), exact).worst.share == math.inf


@pytest.mark.parametrize(("cols", "block"), [(8, 4), (10, 10), (3, 3), (1, 1)])
def test_a_row_that_does_not_divide_into_blocks_is_one_block(cols: int, block: int) -> None:
    assert compare(np.ones((2, cols), np.float32), np.ones((2, cols), np.float32), TENTH).worst.values == block


@pytest.mark.parametrize("at", [0, 5, PIECE - 1, PIECE, 3 * PIECE - 1])
def test_a_bad_block_is_found_wherever_it_stands(at: int) -> None:
    size = 3 * PIECE

    error = compare(off_at(at, 1.0, size).reshape(3, PIECE), np.ones((3, PIECE), np.float32), TENTH)

    assert error.worst.start == at // 4 * 4
    assert error.worst.share == pytest.approx(5.0)
    assert error.squared_error == 1.0
    assert error.squared_source == size
    assert error.max_abs_error == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_sums_neither_overflow_nor_vanish(scale: float) -> None:
    rng = np.random.default_rng(0)
    source = (rng.standard_normal((64, 64)) * scale).astype(np.float32)
    values = (source * np.float32(1.01)).astype(np.float32)

    error = compare(values, source, TENTH)

    wide = source.astype(np.float64)
    assert error.squared_source == pytest.approx(float((wide**2).sum()), rel=1e-6)
    assert math.sqrt(error.squared_error / error.squared_source) == pytest.approx(0.01, rel=1e-3)


def test_values_that_are_not_finite_are_counted_and_nothing_of_them_is_summed() -> None:
    values = np.ones((2, 4), np.float32)
    values[1, 1:3] = np.nan, np.inf

    error = compare(values, np.ones((2, 4), np.float32), TENTH)

    assert error.not_finite == 2
    assert math.isnan(error.squared_error)


@pytest.mark.parametrize(
    "bound", [TENTH, BlockBound(values=96, relative=0.1, across_rows=True)], ids=["rows", "across"]
)
def test_rows_that_are_decoded_by_threads_give_what_the_whole_gives(bound: BlockBound) -> None:
    rng = np.random.default_rng(0)
    source = rng.standard_normal((50, PIECE // 7)).astype(np.float32)
    values = source + rng.standard_normal(source.shape).astype(np.float32) * np.float32(0.01)
    asked = []

    def decode(first: int, last: int) -> np.ndarray:
        asked.append((first, last))
        return values[first:last]

    with ThreadPoolExecutor(3) as pool:
        found = compare(DecodedRows(source.shape, decode), source, bound, pool.map)

    assert found == compare(values, source, bound)
    assert len(asked) > 1
    assert sorted(row for rows in asked for row in range(*rows)) == list(range(50))


def test_distinct_values_are_counted_in_the_first_chunk() -> None:
    assert distinct_values(np.arange(2 * CHUNK, dtype=np.float32) % 300) == 300
    assert distinct_values(np.zeros((4, 4), np.float16)) == 1
