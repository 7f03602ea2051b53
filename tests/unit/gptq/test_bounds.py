"""The bounds that verification uses hold for weights of many shapes, whatever their inputs, and are not idle."""

from __future__ import annotations

import numpy as np
import pytest

from quantmill.verification.compare import compare
from quantmill_gptq.bounds import BLOCK_BOUNDS, ERROR_BOUNDS
from quantmill_gptq.layout import scheme
from quantmill_gptq.params import GptqParams
from quantmill_gptq.solution import Inputs, nearest, solve

SHAPE = (128, 1024)


def relative_rmse(read: np.ndarray, source: np.ndarray) -> float:
    return float(np.sqrt(np.sum((read - source) ** 2, dtype=np.float64) / np.sum(source**2, dtype=np.float64)))


def inputs_of(kind: str, params: GptqParams) -> Inputs:
    """Correlated features; few directions; every hundredth a few hundred times the others."""
    rng = np.random.default_rng(1)
    tokens, cols = 1500, SHAPE[1]
    inputs = rng.standard_normal((tokens, cols))
    if kind == "correlated":
        inputs = (inputs @ (np.eye(cols) + 0.5 * rng.standard_normal((cols, cols)) / cols**0.5)) * rng.random(cols) ** 2
    elif kind == "few directions":
        inputs = rng.standard_normal((tokens, 16)) @ rng.standard_normal((16, cols))
    else:
        inputs += 3 * rng.standard_normal((tokens, 1))
        inputs[:, ::100] *= 300
    return Inputs((inputs.T @ inputs / tokens).astype(np.float32), params)


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_to_nearest_is_within_the_bound_and_comes_near(
    distributions: dict[str, np.ndarray], bits: int, group_size: int
) -> None:
    params = GptqParams(bits=bits, group_size=group_size)
    found = {}
    for name, each in distributions.items():
        values = each.reshape(SHAPE).astype(np.float32)
        read = nearest(values, np.arange(SHAPE[1]), params, "float16").weights()
        found[name] = relative_rmse(read, values)
        bound = BLOCK_BOUNDS[scheme(bits, group_size, True)]
        assert compare(read, values, bound).worst.share <= 1, name

    least = 0.33 if group_size == -1 else 0.4  # rows of ten times as many weights lose more
    assert least * ERROR_BOUNDS[scheme(bits, group_size, True)] <= max(found.values()), found
    assert max(found.values()) <= ERROR_BOUNDS[scheme(bits, group_size, True)], found


@pytest.mark.parametrize("kind", ["correlated", "few directions", "outliers"])
@pytest.mark.parametrize(
    ("bits", "group_size", "sym"), [(2, -1, True), (2, 32, False), (3, 128, True), (4, 128, True), (8, -1, True)]
)
def test_no_inputs_drive_weights_beyond_the_bounds(
    distributions: dict[str, np.ndarray], bits: int, group_size: int, sym: bool, kind: str
) -> None:
    params = GptqParams(bits=bits, group_size=group_size, sym=sym, format="gptq_v2", damp_percent=0.01)
    inputs, name = inputs_of(kind, params), scheme(bits, group_size, sym)
    for shape in ("student t, 3", "100-fold outliers", "uniform"):
        values = distributions[shape].reshape(SHAPE).astype(np.float32)

        read = solve(values, inputs, params, "float16").weights()

        assert relative_rmse(read, values) <= ERROR_BOUNDS[name], shape
        assert compare(read, values, BLOCK_BOUNDS[name]).worst.share <= 1, shape
