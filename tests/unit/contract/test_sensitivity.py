"""How much of a Linear's outputs is lost at each bit width."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.contract.calibration import Statistics
from quantmill.contract.sensitivity import Sensitivity, sensitivity


def inputs(tokens: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated, and of unlike magnitudes."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((tokens, width)) @ (np.eye(width) + rng.standard_normal((width, width)) / width**0.5)
    return (mixed * (rng.random(width) ** 2 + 0.05)).astype(np.float32)


def weights(rows: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(5, (rows, width)).astype(np.float32)


def statistics_of(x: np.ndarray, *kinds: str) -> Statistics:
    known = {"hessian": x.T @ x / len(x), "second_moment": (x * x).mean(0)}
    return Statistics(len(x), **{kind: known[kind] for kind in kinds})


def slowly_rounded(weight: np.ndarray, bits: int, size: int) -> np.ndarray:
    out = np.empty(weight.shape)
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], size):
            group = weight[row, start : start + size].astype(np.float64)
            step = (group.max() - group.min()) / (2**bits - 1)
            out[row, start : start + size] = group.min() + np.round((group - group.min()) / step) * step
    return out


@pytest.mark.parametrize(("width", "size"), [(256, 128), (200, 128), (96, 128), (96, 32)])
def test_it_is_what_the_outputs_lose(width: int, size: int) -> None:
    weight, x = weights(24, width), inputs(400, width)

    found = sensitivity(weight, statistics_of(x, "hessian", "second_moment"), group_size=size)

    outputs = x @ weight.T
    for bits in (2, 3, 4, 8):
        lost = outputs - x @ slowly_rounded(weight, bits, size).T
        assert found.losses[bits] == pytest.approx((lost**2).sum() / (outputs**2).sum(), rel=2e-3), bits
    assert (found.by, [*found.losses]) == ("hessian", [2, 3, 4, 8])


def test_by_second_moments_it_is_that_of_independent_inputs() -> None:
    weight, x = weights(24, 256), inputs(400, 256)
    diagonal = Statistics(400, hessian=np.diag((x * x).mean(0)))

    found = sensitivity(weight, statistics_of(x, "second_moment"), bits=(2, 4))

    assert found == Sensitivity("second_moment", sensitivity(weight, diagonal, bits=(2, 4)).losses)


@given(st.integers(4, 40), st.integers(128, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_more_bits_lose_less(rows: int, width: int, seed: int) -> None:
    """A few values may happen to lie on the coarser grid; hundreds do not."""
    found = sensitivity(weights(rows, width, seed), statistics_of(inputs(50, width, seed), "second_moment"))

    losses = [*found.losses.values()]
    assert losses == sorted(losses, reverse=True)


def test_some_rows_tell_about_all_of_them() -> None:
    weight, known = weights(2048, 256), statistics_of(inputs(400, 256), "hessian")

    some, all_ = sensitivity(weight, known), sensitivity(weight, known, rows=2048)

    assert {bits: some.losses[bits] / all_.losses[bits] for bits in some.losses} == pytest.approx(
        dict.fromkeys(some.losses, 1), abs=0.1
    )


def test_a_stored_dtype_counts_as_the_values_it_stands_for() -> None:
    weight, known = weights(16, 128).astype(ml_dtypes.bfloat16), statistics_of(inputs(100, 128), "hessian")

    assert sensitivity(weight, known) == sensitivity(weight.astype(np.float32), known)


@pytest.mark.parametrize(
    "statistics",
    [Statistics(0, second_moment=np.zeros(128, np.float32)), Statistics(9, absmax=np.ones(128, np.float32))],
    ids=["no token came", "not asked for"],
)
def test_where_nothing_is_known_nothing_is_said(statistics: Statistics) -> None:
    assert sensitivity(weights(16, 128), statistics) is None


def test_a_weight_of_equal_values_loses_nothing() -> None:
    found = sensitivity(np.full((4, 128), 0.5, np.float32), statistics_of(inputs(100, 128), "second_moment"))

    assert set(found.losses.values()) == {0.0}
