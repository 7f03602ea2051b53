"""The column solver in torch chooses what the kernels' solver chooses, but for what rounds otherwise in sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.unit.gptq.test_solution import SETTINGS, hessian_of, params, weights_of

import quantmill_kernels
from quantmill_gptq.columns import TorchColumns
from quantmill_gptq.solution import Inputs, columns_on, output_error, solve

ON_TORCH = TorchColumns(torch.device("cpu"))
ROWS, COLS = 48, 192  # more columns than a panel


@pytest.mark.parametrize(
    ("setting", "bits"), [*((setting, 3) for setting in SETTINGS), *(("of itself", bits) for bits in (2, 4, 8))]
)
def test_nearly_all_codes_and_what_the_outputs_lose_are_the_kernels(setting: str, bits: int) -> None:
    weights, hessian = weights_of(ROWS, COLS), hessian_of(COLS, dead=(3, 150))
    chosen = params(bits=bits, **SETTINGS[setting])
    inputs, on_torch = Inputs(hessian, chosen), Inputs(hessian, chosen)
    on_torch.columns = ON_TORCH

    expected, found = (solve(weights, each, chosen, "float16") for each in (inputs, on_torch))

    assert (found.codes != expected.codes).mean() < 0.01
    assert np.array_equal(found.group_index, expected.group_index)
    lost = [output_error(weights - each.weights(), hessian) for each in (expected, found)]
    assert lost[1] == pytest.approx(lost[0], rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("mse", [0.0, 2.4])
def test_scales_of_weights_as_they_are_are_the_kernels(dtype: str, symmetric: bool, mse: float) -> None:
    weights = weights_of(ROWS, COLS)
    weights[0, :32], weights[1, 32:64] = 0, np.abs(weights[1, 32:64])
    grid = {"bits": 4, "group_size": 32, "symmetric": symmetric, "mse": mse, "scale_dtype": dtype}

    expected = quantmill_kernels.find_gptq_scales(weights, **grid)
    found = ON_TORCH.find_gptq_scales(weights, **grid)

    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert (ours != theirs).mean() <= (0.005 if mse else 0)  # of two ranges that lose nearly the same


def test_losses_are_the_kernels() -> None:
    weights, factor = weights_of(ROWS, COLS), Inputs(hessian_of(COLS), params()).factor(0.05)[1]
    grid = {"bits": 3, "group_size": 64}

    *_, expected = quantmill_kernels.solve_gptq(weights, factor, **grid)
    *_, found = ON_TORCH.solve_gptq(weights, factor, **grid)

    np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.parametrize("static", [False, True])
def test_a_scale_beyond_its_dtype_is_refused(static: bool) -> None:
    weights, factor = np.full((4, 64), 1e7, np.float32), np.eye(64, dtype=np.float32)
    grid = {"bits": 4, "group_size": 32, "scale_dtype": "float16"}

    with pytest.raises(ValueError, match="row 0, column 0 is beyond float16"):
        ON_TORCH.find_gptq_scales(weights, **grid) if static else ON_TORCH.solve_gptq(weights, factor, **grid)


def test_a_cpu_has_the_kernels_and_another_device_torch() -> None:
    assert columns_on("cpu") is columns_on("cpu:0") is quantmill_kernels
    assert columns_on("cuda:1") == TorchColumns(torch.device("cuda:1"))
