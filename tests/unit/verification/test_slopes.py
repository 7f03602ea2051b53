"""A tensor that is its source times a factor is refused, where its own error is no reason for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmill.contract.reading import BlockBound
from quantmill.verification.check import slope_limits
from quantmill.verification.compare import compare

BOUND = BlockBound(values=32, relative=1.0, absolute=0.0)
WEIGHTS = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32)


def rounded(step: float, clip: float = np.inf) -> np.ndarray:
    return np.clip(np.round(WEIGHTS / step) * step, -clip, clip).astype(np.float32)


@pytest.mark.parametrize("step", [0.01, 0.1, 0.3, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("clip", [np.inf, 3.0, 2.0, 1.5])
def test_rounded_and_clipped_weights_are_within_the_limits(step: float, clip: float) -> None:
    error = compare(rounded(step, clip), WEIGHTS, BOUND)

    least, most = slope_limits(error.relative_rmse, WEIGHTS.size)
    assert least < error.slope < most


@pytest.mark.parametrize("step", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("factor", [0.75, 1.08, 1.2])
def test_a_factor_is_refused(step: float, factor: float) -> None:
    error = compare(rounded(step) * np.float32(factor), WEIGHTS, BOUND)

    least, most = slope_limits(error.relative_rmse, WEIGHTS.size)
    assert not least < error.slope < most


@given(exponent=st.integers(-100, 100), factor=st.floats(0.25, 4.0))
def test_the_slope_is_the_factor_whatever_the_size_of_the_weights(exponent: int, factor: float) -> None:
    source = np.ldexp(WEIGHTS[0], exponent)

    error = compare(source * np.float32(factor), source, BOUND)

    assert error.slope == pytest.approx(factor, rel=1e-5)
