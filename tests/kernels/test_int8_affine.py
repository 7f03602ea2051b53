"""INT8 affine: what ONNX Runtime's quantizer writes (make_golden_int8.py), and plain numpy beside it."""

from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import quantmill_kernels as kernels

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "onnxruntime_int8.npz"


@cache
def golden() -> dict[str, NDArray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


def golden_results() -> list[str]:
    return [key.removesuffix(".codes") for key in golden() if key.endswith(".codes")]


def weights(rows: int = 33, cols: int = 130, seed: int = 6) -> NDArray:
    return (np.random.default_rng(seed).standard_t(4, (rows, cols)) * 0.02 + 0.01).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("key", golden_results())
def test_codes_and_scales_are_those_of_onnxruntime(key: str, threads: int) -> None:
    case, dtype, kind, width, axis = key.split(".")

    parts = kernels.encode_int8_affine(
        golden()[case],
        axis=None if axis == "None" else int(axis),
        symmetric=kind == "symmetric",
        dtype=dtype,
        reduce_range=width == "reduced",
        threads=threads,
    )

    for what, part in zip(("scale", "zero_point", "codes"), (parts[1], parts[2], parts[0]), strict=True):
        np.testing.assert_array_equal(part, golden()[f"{key}.{what}"], strict=True)


def test_a_symmetric_int8_takes_127_steps_to_each_side() -> None:
    codes, scale, zero_point = kernels.encode_int8_affine(np.float32([[-0.9, -0.3, 0, 0.7]]))

    assert codes.tolist() == [[-127, -42, 0, 99]]
    assert (scale.tolist(), zero_point.tolist()) == ([float(np.float32(0.9 / 127))], [0])


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_values_are_scale_times_code_less_zero_point(axis: int | None, dtype: str) -> None:
    codes, scale, zero_point = kernels.encode_int8_affine(weights(), axis=axis, symmetric=False, dtype=dtype)

    values = kernels.decode_int8_affine(codes, scale, zero_point, axis=axis)

    along = {None: (1, 1), 0: (-1, 1), 1: (1, -1)}[axis]
    offsets = codes.astype(np.float32) - zero_point.astype(np.float32).reshape(along)
    np.testing.assert_array_equal(values, offsets * scale.reshape(along))
    assert np.abs(values - weights()).max() <= 0.51 * scale.max()


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_results_do_not_depend_on_threads(axis: int | None) -> None:
    values = weights(rows=500, cols=300)

    results = [kernels.encode_int8_affine(values, axis=axis, symmetric=False, threads=threads) for threads in (1, 2, 7)]
    decoded = [kernels.decode_int8_affine(*results[0], axis=axis, threads=threads) for threads in (1, 5)]

    for other in results[1:]:
        for part, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(*decoded)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_16_bit_source_gives_the_codes_of_its_float32_values(dtype: type, axis: int | None) -> None:
    values = weights().astype(dtype)

    parts = kernels.encode_int8_affine(values, axis=axis)

    for part, expected in zip(parts, kernels.encode_int8_affine(values.astype(np.float32), axis=axis), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_at_its_first_position(
    bad: float, axis: int | None, threads: int
) -> None:
    values = weights(rows=400, cols=192)
    values[213, 150] = values[214, 0] = values[399, 100] = bad

    with pytest.raises(ValueError) as refused:
        kernels.encode_int8_affine(values, axis=axis, threads=threads)

    assert str(refused.value) == f"row 213, column 150 is {bad}, only finite values can be encoded"


@pytest.mark.parametrize(("rows", "cols"), [(0, 5), (3, 0)])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_scale_of_no_values_is_one(axis: int | None, rows: int, cols: int) -> None:
    codes, scale, zero_point = kernels.encode_int8_affine(np.zeros((rows, cols), np.float32), axis=axis)

    assert codes.shape == kernels.decode_int8_affine(codes, scale, zero_point, axis=axis).shape == (rows, cols)
    assert (scale == 1).all()
    assert (zero_point == 0).all()


CODES, SCALE, ZERO = np.zeros((3, 4), np.int8), np.ones(3, np.float32), np.zeros(3, np.int8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.encode_int8_affine(np.ones((3, 4))), TypeError,
         "values must be float32, float16 or bfloat16 (also as uint16 bits), got float64"),
        (lambda: kernels.encode_int8_affine(weights(), axis=2), ValueError, "axis must be None, 0 or 1, got 2"),
        (lambda: kernels.encode_int8_affine(weights(), dtype="int4"), ValueError,
         "dtype must be one of int8, uint8, got 'int4'"),
        (lambda: kernels.decode_int8_affine(CODES.astype(np.int16), SCALE, ZERO, axis=0), TypeError,
         "codes must be int8 or uint8, got int16"),
        (lambda: kernels.decode_int8_affine(CODES, SCALE, ZERO.astype(np.uint8), axis=0), TypeError,
         "zero_point must have the dtype of codes"),
        (lambda: kernels.decode_int8_affine(CODES, SCALE, ZERO, axis=1), ValueError,
         "scale must have 4 entries, got 3"),
        (lambda: kernels.decode_int8_affine(CODES, SCALE, ZERO[:2], axis=0), ValueError,
         "zero_point must have 3 entries, got 2"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_with_both_numbers(
    call: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        call()

    assert str(refused.value) == message
