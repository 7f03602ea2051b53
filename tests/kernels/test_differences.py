"""Values beside those that they stand for, against plain numpy."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import quantmill_kernels as kernels

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def pair(n: int, dtype: type = np.float32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    source = (rng.standard_t(4, n) * 0.1).astype(dtype)
    return source.astype(np.float32) + rng.standard_normal(n).astype(np.float32) * np.float32(0.01), source


def by_definition(
    values: np.ndarray, source: np.ndarray, block: int, group: int, relative: float, share: float, floor: float
) -> list[tuple[float, float]]:
    """Of each block the sum of its squared differences, and what it is allowed."""
    wanted = source.astype(np.float32)
    squares = (values - wanted).astype(np.float64) ** 2
    found = []
    for start in range(0, len(values), block):
        around = start // group * group
        peak = float(np.abs(wanted[start : start + block]).max())
        of_group = float(np.abs(wanted[around : around + group]).max())
        found.append((squares[start : start + block].sum(), relative * peak + share * of_group + floor))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "block", "group"), [(4096, 32, 256), (1000, 16, 16), (1037, 64, 128), (700, 700, 700)])
def test_sums_and_the_worst_block_are_those_of_the_definition(dtype: type, n: int, block: int, group: int) -> None:
    values, source = pair(n, dtype)
    wanted = source.astype(np.float64)

    error, squared_source, product, largest, not_finite, start, squares, allowed = kernels.compare(
        values, source, block=block, group=group, relative=0.02, group_relative=0.01, floor=1e-4
    )

    blocks = by_definition(values, source, block, group, 0.02, 0.01, 1e-4)
    worst = max(range(len(blocks)), key=lambda at: blocks[at][0] / blocks[at][1] ** 2)
    assert (error, squared_source) == (pytest.approx(sum(each for each, _ in blocks)), pytest.approx((wanted**2).sum()))
    assert product == pytest.approx((wanted * values).sum(), rel=1e-6)
    assert (largest, not_finite) == (float(np.abs(values - source.astype(np.float32)).max()), 0)
    assert (start, squares, allowed) == (
        worst * block,
        pytest.approx(blocks[worst][0]),
        pytest.approx(blocks[worst][1]),
    )


def test_without_a_difference_no_block_is_the_worst() -> None:
    source = pair(100)[1]

    assert kernels.compare(source, source, block=10, group=10, relative=0.0)[3:] == (0.0, 0, 0, 0.0, 0.0)


def test_a_block_that_is_allowed_nothing_is_worse_than_all_that_are_allowed_something() -> None:
    source = np.array([9, 9, 0, 0, 1, 1], np.float32)
    values = source + np.array([5, 5, 0.1, 0, 0.9, 0.9], np.float32)

    assert kernels.compare(values, source, block=2, group=2, relative=0.1)[5] == 2


def test_of_values_that_are_not_finite_the_number_is_given() -> None:
    values = np.ones(40, np.float32)
    values[[3, 17, 39]] = np.nan, np.inf, -np.inf

    error, _, _, _, not_finite, *_ = kernels.compare(values, np.ones(40, np.float32), block=8, group=8, relative=0.1)

    assert not_finite == 3
    assert math.isnan(error)


def test_sources_at_any_address_are_read() -> None:
    values, source = pair(64, ml_dtypes.bfloat16)
    shifted = np.frombuffer(b"\0" + source.tobytes(), np.uint16, 64, offset=1)

    assert kernels.compare(values, shifted, block=8, group=8, relative=0.1) == kernels.compare(
        values, source, block=8, group=8, relative=0.1
    )


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"block": 0}, "block must be at least 1"),
        ({"group": 12}, "block must divide group, got 8 and 12"),
        ({"relative": -1.0}, "relative must not be negative"),
        ({"floor": math.nan}, "floor must not be negative"),
        ({"source": np.ones(63, np.float32)}, "the same length, got 64 and 63"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict, error: str) -> None:
    values, source = pair(64)
    arguments = {"values": values, "source": source, "block": 8, "group": 8, "relative": 0.1} | changed

    with pytest.raises(ValueError, match=error):
        kernels.compare(**arguments)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match="values must be float32, got float64"):
        kernels.compare(np.ones(8), np.ones(8, np.float32), block=8, group=8, relative=0.1)
    with pytest.raises(TypeError, match="float32, float16 or bfloat16"):
        kernels.compare(np.ones(8, np.float32), np.ones(8), block=8, group=8, relative=0.1)
