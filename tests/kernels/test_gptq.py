"""The column solver of GPTQ, against the plain algorithm in numpy."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

import quantmill_kernels as kernels

DAMP = 0.01
SMALLEST = {np.float32: 2.0**-149, np.float16: 2.0**-24, ml_dtypes.bfloat16: 2.0**-133}


class Solution(NamedTuple):
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    losses: np.ndarray

    def weights(self) -> np.ndarray:
        steps = self.codes.reshape(*self.scales.shape, -1) - self.zeros[..., None].astype(np.float32)
        return (self.scales[..., None] * steps).reshape(self.codes.shape)


def solve(weights: np.ndarray, factor: np.ndarray, **options: object) -> Solution:
    return Solution(*kernels.solve_gptq(weights, factor, **options))


def weights_of(rows: int, cols: int, seed: int = 3) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(5, (rows, cols)) * 0.02).astype(np.float32)


def hessian_of(cols: int, dead: tuple[int, ...] = (), seed: int = 4) -> np.ndarray:
    """Of correlated inputs of unlike magnitudes, damped, float64."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((3 * cols, cols)) @ (
        np.eye(cols) + 0.5 * rng.standard_normal((cols, cols)) / cols**0.5
    )
    inputs *= rng.random(cols) ** 2 + 0.05
    inputs[:, dead] = 0
    hessian = 2 / len(inputs) * inputs.T @ inputs
    hessian[dead, dead] = 1
    return hessian + np.eye(cols) * DAMP * np.diag(hessian).mean()


@cache
def factor_for(cols: int) -> np.ndarray:
    factor = factor_of(hessian_of(cols))
    factor.flags.writeable = False
    return factor


def factor_of(hessian: np.ndarray) -> np.ndarray:
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    return np.ascontiguousarray(upper, dtype=np.float32)


def scales_by_definition(
    group: np.ndarray, bits: int, symmetric: bool, stored: type = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    kind, highest = group.dtype.type, group.dtype.type(2**bits - 1)
    low, high = np.minimum(group.min(axis=1), 0), np.maximum(group.max(axis=1), 0)
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    flat = low == high
    low, high = np.where(flat, kind(-1), low), np.where(flat, kind(1), high)
    scales = np.maximum(((high - low) / highest).astype(stored).astype(kind), SMALLEST[stored])
    zeros = np.full(len(group), 2 ** (bits - 1)) if symmetric else np.clip(np.rint(-low / scales), 0, highest)
    return scales, zeros.astype(np.uint8)


def solve_by_definition(
    weights: np.ndarray,
    factor: np.ndarray,
    bits: int,
    group_size: int = -1,
    symmetric: bool = True,
    scales: np.ndarray | None = None,
    zeros: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
    stored: type = np.float32,
) -> Solution:
    """One column after the other, in the float type of `weights`."""
    work, (rows, cols) = weights.copy(), weights.shape
    size = cols if group_size == -1 else group_size
    groups = np.arange(cols) // size if group_index is None else group_index
    given, codes, losses = scales is not None, np.zeros((rows, cols), np.uint8), np.zeros(rows, work.dtype)
    scales = scales.copy() if given else np.zeros((rows, cols // size), work.dtype)
    zeros = zeros.copy() if given else np.zeros((rows, cols // size), np.uint8)
    for col in range(cols):
        group = groups[col]
        if not given and col % size == 0:
            scales[:, group], zeros[:, group] = scales_by_definition(work[:, col : col + size], bits, symmetric, stored)
        scale, zero = scales[:, group], zeros[:, group].astype(work.dtype)
        code = np.clip(np.rint(work[:, col] / scale) + zero, 0, 2**bits - 1)
        error = (work[:, col] - scale * (code - zero)) / factor[col, col]
        losses += work.dtype.type(0.5) * (error * error)
        work[:, col + 1 :] -= error[:, None] * factor[col, col + 1 :]
        codes[:, col] = code
    return Solution(codes, scales, zeros, losses)


def assert_equal(solution: Solution, expected: Solution) -> None:
    for part, wanted in zip(solution, expected, strict=True):
        np.testing.assert_array_equal(part, wanted)


# ---- the algorithm ----


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("rows", "cols", "group_size"),
    [(33, 256, 128), (40, 192, 64), (5, 160, 32), (6, 320, 160), (7, 100, -1), (3, 60, 20), (2, 1, -1)],
)
def test_the_solution_is_that_of_one_column_after_the_other_to_the_bit(
    rows: int, cols: int, group_size: int, symmetric: bool, bits: int
) -> None:
    weights, factor = weights_of(rows, cols), factor_for(cols)

    solution = solve(weights, factor, bits=bits, group_size=group_size, symmetric=symmetric)

    assert_equal(solution, solve_by_definition(weights, factor, bits, group_size, symmetric))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_float64_gives_hardly_another_loss(bits: int) -> None:
    weights, factor = weights_of(64, 384), factor_for(384)

    solution = solve(weights, factor, bits=bits, group_size=128)

    exact = solve_by_definition(weights.astype(np.float64), factor.astype(np.float64), bits, 128)
    assert solution.losses.sum() == pytest.approx(exact.losses.sum(), rel=2e-3)


def test_a_loss_is_half_the_error_of_the_outputs() -> None:
    weights, hessian = weights_of(64, 384), hessian_of(384)

    solution = solve(weights, factor_of(hessian), bits=4, group_size=128)

    errors = (weights - solution.weights()).astype(np.float64)
    np.testing.assert_allclose(solution.losses, 0.5 * np.sum((errors @ hessian) * errors, axis=1), rtol=1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_error_of_the_outputs_is_below_that_of_rounding_to_nearest(bits: int) -> None:
    weights, hessian = weights_of(64, 384), hessian_of(384)
    identity, (scales, _) = np.eye(384, dtype=np.float32), kernels.find_gptq_scales(weights, bits=bits, group_size=128)

    solution = solve(weights, factor_of(hessian), bits=bits, group_size=128, scales=scales)

    nearest = weights - solve(weights, identity, bits=bits, group_size=128).weights()
    assert 2 * solution.losses.sum() < 0.85 * np.sum((nearest @ hessian) * nearest)


def test_a_column_that_no_input_reaches_leaves_the_others_as_they_are() -> None:
    dead = (0, 31, 32, 95)
    weights, hessian = weights_of(16, 96), hessian_of(96, dead)
    weights[:, dead] = 0

    solution = solve(weights, factor_of(hessian), bits=4, group_size=32)

    assert np.all(solution.codes[:, dead] == 8)
    assert_equal(solution, solve_by_definition(weights, factor_of(hessian), 4, 32))


# ---- scales ----


@pytest.mark.parametrize("symmetric", [True, False])
def test_columns_in_another_order_keep_the_groups_of_the_checkpoint(symmetric: bool) -> None:
    weights, hessian = weights_of(20, 256), hessian_of(256)
    order = np.argsort(-np.diag(hessian))
    scales, zeros = kernels.find_gptq_scales(weights, bits=4, group_size=64, symmetric=symmetric)
    ordered, factor = np.ascontiguousarray(weights[:, order]), factor_of(hessian[order][:, order])
    group_index = (order // 64).astype(np.int32)
    given = {"scales": scales, "zeros": zeros, "group_index": group_index}

    solution = solve(ordered, factor, bits=4, group_size=64, symmetric=symmetric, **given)

    assert_equal(solution, solve_by_definition(ordered, factor, 4, 64, symmetric, **given))


def test_the_zero_point_of_symmetric_scales_need_not_be_given() -> None:
    weights, factor = weights_of(8, 64), factor_for(64)
    scales, zeros = kernels.find_gptq_scales(weights, bits=3, group_size=32)

    solution = solve(weights, factor, bits=3, group_size=32, scales=scales)

    assert_equal(solution, solve(weights, factor, bits=3, group_size=32, scales=scales, zeros=zeros))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_found_scales_span_the_range_of_their_group(bits: int, symmetric: bool) -> None:
    weights = weights_of(37, 96)

    scales, zeros = kernels.find_gptq_scales(weights, bits=bits, group_size=32, symmetric=symmetric)

    for group in range(3):
        expected = scales_by_definition(weights[:, 32 * group : 32 * group + 32], bits, symmetric)
        np.testing.assert_array_equal(scales[:, group], expected[0])
        np.testing.assert_array_equal(zeros[:, group], expected[1])


def test_a_symmetric_scale_of_4_bits_is_a_fifteenth_of_twice_the_largest_weight() -> None:
    weights = np.array([[-0.9, -0.36, 0, 0.7, 0.9]], np.float32)

    solution = solve(weights, np.eye(5, dtype=np.float32), bits=4)

    assert solution.scales == np.float32(0.12)
    np.testing.assert_array_equal(solution.codes, [[0, 5, 8, 14, 15]])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_mse_takes_the_part_of_the_range_with_the_least_error(bits: int, symmetric: bool) -> None:
    weights = weights_of(24, 128)

    scales, zeros = kernels.find_gptq_scales(weights, bits=bits, symmetric=symmetric, mse=2.4)

    parts = [np.float32(step) / np.float32(100) for step in range(100, 20, -1)]
    candidates = [scales_by_definition(weights * part, bits, symmetric) for part in parts]
    errors = np.array([power_error(weights, *candidate, bits) for candidate in candidates])  # (80, rows)
    chosen = power_error(weights, scales[:, 0], zeros[:, 0], bits)
    np.testing.assert_allclose(chosen, errors.min(axis=0), rtol=1e-4)
    assert errors.min(axis=0).sum() < 0.95 * errors[0].sum()


def power_error(weights: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int) -> np.ndarray:
    codes = np.clip(np.rint(weights / scales[:, None]) + zeros[:, None], 0, 2**bits - 1)
    decoded = scales[:, None].astype(np.float64) * (codes - zeros[:, None])
    return np.sum(np.abs(decoded - weights) ** 2.4, axis=1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_codes_are_chosen_for_the_scale_that_will_be_stored(dtype: type) -> None:
    weights, factor = weights_of(20, 128), factor_for(128)
    weights[3, 64:] *= np.float32(1e-6)  # float16 holds that scale as a subnormal number
    weights[4, 64:] *= np.float32(1e-9)  # and that one not at all

    solution = solve(weights, factor, bits=4, group_size=64, symmetric=False, scale_dtype=np.dtype(dtype).name)

    np.testing.assert_array_equal(solution.scales, solution.scales.astype(dtype).astype(np.float32))
    assert_equal(solution, solve_by_definition(weights, factor, 4, 64, False, stored=dtype))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "row",
    [
        np.zeros(64),
        -np.zeros(64),
        np.full(64, 0.1),
        np.full(64, -3e-5),
        np.full(64, 1e-44),
        np.full(64, 1e36),
        np.linspace(1e-40, 5e-40, 64),
        np.where(np.arange(64) == 40, 1e30, 1e-30),
        np.exp(np.linspace(-80, 80, 64)) * np.where(np.arange(64) % 2, 1, -1),
    ],
    ids=["zero", "-0", "one value", "negative", "subnormal", "huge", "small range", "outlier", "every magnitude"],
)
def test_unusual_rows_are_solved_like_others(row: np.ndarray, symmetric: bool) -> None:
    weights, factor = np.tile(row, (2, 1)).astype(np.float32), factor_for(64)

    solution = solve(weights, factor, bits=4, group_size=32, symmetric=symmetric)

    with np.errstate(all="ignore"):
        expected = solve_by_definition(weights, factor, 4, 32, symmetric)
    assert_equal(solution, expected)
    assert np.all(np.isfinite(solution.scales))


# ---- what does not change the result ----


@pytest.mark.parametrize("options", [{}, {"mse": 2.4}, {"group_size": -1}])
def test_a_solution_does_not_depend_on_threads(options: dict[str, object]) -> None:
    weights, factor = weights_of(300, 96), factor_for(96)
    asked = {"bits": 4, "group_size": 32} | options

    assert_equal(solve(weights, factor, **asked, threads=4), solve(weights, factor, **asked))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_16_bit_source_gives_the_solution_of_its_float32_values(dtype: type) -> None:
    source, factor = weights_of(40, 64).astype(dtype), factor_for(64)

    solution = solve(source, factor, bits=4)

    assert_equal(solution, solve(source.astype(np.float32), factor, bits=4))


def test_what_is_below_the_diagonal_of_the_factor_is_not_read() -> None:
    weights, factor = weights_of(20, 300), factor_for(300)
    poisoned = np.where(np.tri(300, k=-1) > 0, np.float32(np.nan), factor)

    assert_equal(solve(weights, poisoned, bits=4), solve(weights, factor, bits=4))


def test_the_weights_are_left_as_they_are() -> None:
    weights, factor = weights_of(4, 64), factor_for(64)
    weights.flags.writeable = False

    solve(weights, factor, bits=4)

    np.testing.assert_array_equal(weights, weights_of(4, 64))


def test_no_rows_have_no_codes() -> None:
    solution = solve(np.zeros((0, 64), np.float32), factor_for(64), bits=4, group_size=32)

    assert [part.shape for part in solution] == [(0, 64), (0, 2), (0, 2), (0,)]


# ---- what is refused ----


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "row 170, column 7 is nan, only finite values can be quantized"),
        (-np.inf, "row 170, column 7 is -inf, only finite values can be quantized"),
        (2e36, "row 170, column 7 is 2e+36, the largest magnitude is 1.3292280e+36"),
    ],
)
def test_the_first_weight_that_cannot_be_quantized_is_named(value: float, message: str, threads: int) -> None:
    weights = weights_of(400, 32)
    weights[170, 7], weights[171, 0], weights[390, 3] = value, np.inf, np.nan

    with pytest.raises(ValueError) as refused:
        solve(weights, np.eye(32, dtype=np.float32), bits=4, threads=threads)

    assert str(refused.value) == message.replace("1.3292280e+36", "1.329228e+36")


@pytest.mark.parametrize(("row", "col", "value"), [(3, 5, np.nan), (0, 31, np.inf), (9, 9, 0.0), (9, 9, -1.0)])
def test_a_factor_that_is_none_is_refused(row: int, col: int, value: float) -> None:
    factor = factor_for(32).copy()
    factor[row, col] = value

    with pytest.raises(ValueError, match=rf"finite and positive on the diagonal, row {row}, column {col} is {value:g}"):
        solve(weights_of(3, 32), factor, bits=4)


def test_a_scale_that_float16_cannot_hold_is_refused() -> None:
    weights = weights_of(40, 64)
    weights[33, 50] = 1e6

    with pytest.raises(ValueError) as refused:
        solve(weights, np.eye(64, dtype=np.float32), bits=4, group_size=32, scale_dtype="float16")

    assert str(refused.value) == "row 33, column 32: the group from there on needs a scale that float16 cannot hold"


W, U = weights_of(4, 32), np.eye(32, dtype=np.float32)
SCALES, ZEROS = np.ones((4, 2), np.float32), np.full((4, 2), 8, np.uint8)


def with_value(array: np.ndarray, row: int, col: int, value: float) -> np.ndarray:
    changed = array.copy()
    changed[row, col] = value
    return changed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(W, U, bits=1), "bits must be 2 to 8, got 1"),
        (lambda: solve(W, U, bits=4, mse=-1), "mse must be 0 to 8, got -1"),
        (lambda: solve(W, U, bits=4, group_size=24), "group_size must be -1 or divide the 32 columns, got 24"),
        (lambda: solve(W, U, bits=4, group_size=0), "group_size must be -1 or divide the 32 columns, got 0"),
        (
            lambda: solve(W, U[:16, :16].copy(), bits=4),
            "factor must be 32 x 32 like the columns of the weights, got 16 x 16",
        ),
        (lambda: solve(W, U[:, ::-1], bits=4), "factor must be C-contiguous"),
        (lambda: solve(W, U, bits=4, scales=SCALES, group_size=8), "scales must be 4 x 4, got 4 x 2"),
        (
            lambda: solve(W, U, bits=4, scales=SCALES, symmetric=False, group_size=16),
            "scales without zeros are for symmetric ranges",
        ),
        (lambda: solve(W, U, bits=4, zeros=ZEROS), "zeros are given without scales"),
        (
            lambda: solve(W, U, bits=4, scales=with_value(SCALES, 2, 1, 0), group_size=16),
            "scales must be finite and positive, row 2, group 1 is 0",
        ),
        (
            lambda: solve(W, U, bits=3, scales=SCALES, zeros=ZEROS, group_size=16),
            "zeros must be 0 to 7, row 0, group 0 is 8",
        ),
        (
            lambda: solve(W, U, bits=4, group_index=np.zeros(32, np.int32)),
            "group_index is given without scales: groups whose columns are not together have no first column",
        ),
        (
            lambda: solve(W, U, bits=4, scales=SCALES, group_size=16, group_index=np.zeros(31, np.int32)),
            "group_index has 31 values for 32 columns",
        ),
        (
            lambda: solve(W, U, bits=4, scales=SCALES, group_size=16, group_index=np.full(32, 2, np.int32)),
            "group_index must be 0 to 1, column 0 is 2",
        ),
        (
            lambda: solve(W, U, bits=4, scale_dtype="float64"),
            "scale_dtype must be float32, float16 or bfloat16, got 'float64'",
        ),
        (lambda: solve(W, U, bits=4, threads=0), "threads must be 1 to 1024, got 0"),
        (lambda: kernels.find_gptq_scales(W[:, :0].copy(), bits=4), "weights have no columns"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        call()

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(W.astype(np.float64), U, bits=4), "values must be float32, float16 or bfloat16 (also as uint16"),
        (lambda: solve(W, U.astype(np.float64), bits=4), "factor must be float32, got float64"),
        (lambda: solve(W, U, bits=4, scales=SCALES.astype(np.float16)), "scales must be float32, got float16"),
    ],
)
def test_a_dtype_is_never_converted(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError) as refused:
        call()

    assert str(refused.value).startswith(message)
