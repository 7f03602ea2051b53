"""FP8, NVFP4, MXFP4, MXFP8: what compressed-tensors writes (make_golden_small_floats.py), and plain numpy beside it."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import quantmill_kernels as kernels

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "compressed_tensors.npz"
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


@cache
def golden() -> dict[str, NDArray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


def golden_results() -> list[str]:
    return [key.removesuffix(".codes") for key in golden() if key.endswith(".codes")]


def source(case: str, dtype: str) -> NDArray:
    values = golden()[case]
    return (values if values.dtype == np.float32 else values.view(ml_dtypes.bfloat16)).astype(DTYPES[dtype])


def encoded(values: NDArray, scheme: str, threads: int = 1) -> dict[str, Any]:
    if scheme == "nvfp4":
        parts = kernels.encode_nvfp4(values, threads=threads)
    elif scheme == "nvfp4 given":
        parts = kernels.encode_nvfp4(values, global_scale=448.0, threads=threads)
    elif scheme in ("mxfp4", "mxfp8"):
        parts = getattr(kernels, f"encode_{scheme}")(values, threads=threads)
    elif scheme == "float32 scale":
        parts = kernels.encode_fp8(values, threads=threads)
    else:
        dtype = values.dtype.name
        parts = kernels.encode_fp8(values, strategy=scheme, scale_dtype=dtype, threads=threads)
    return dict(zip(("codes", "scale", "global_scale"), parts, strict=False))


def decoded(parts: dict[str, Any], scheme: str) -> NDArray:
    if scheme == "nvfp4":
        return kernels.decode_nvfp4(parts["codes"], parts["scale"], parts["global_scale"])
    if scheme in ("mxfp4", "mxfp8"):
        return getattr(kernels, f"decode_{scheme}")(parts["codes"], parts["scale"])
    return kernels.decode_fp8(parts["codes"], parts["scale"], strategy=scheme)


def heavy_tailed(rows: int = 24, cols: int = 160, seed: int = 3) -> NDArray:
    return (np.random.default_rng(seed).standard_t(4, (rows, cols)) * 0.02).astype(np.float32)


def e4m3(codes: NDArray) -> NDArray:
    return codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)


# ---- bytes of compressed-tensors ----


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("key", golden_results())
def test_bytes_are_those_of_compressed_tensors(key: str, threads: int) -> None:
    case, dtype, scheme = key.split(".")
    expected = golden()[f"{key}.codes"]

    parts = encoded(source(case, dtype), scheme, threads)

    np.testing.assert_array_equal(parts["scale"], golden()[f"{key}.scale"], strict=True)
    if "global_scale" in parts:
        assert parts["global_scale"] == golden()[f"{key}.global_scale"]
    if expected.ndim == 2:
        names = golden()[f"{case}.names"]
        assert names[(parts["codes"] != expected).any(axis=1)].tolist() == []
    else:
        assert hashlib.sha256(parts["codes"].tobytes()).digest() == expected.tobytes()


def test_float16_keeps_a_global_scale_that_it_cannot_hold() -> None:
    assert kernels.nvfp4_global_scale(0.02, dtype="float16") == kernels.nvfp4_global_scale(0.02) == 134400.0


@pytest.mark.parametrize(
    ("absmax", "dtype", "scale"),
    [(0.75, "float32", 3584.0), (6.0, "bfloat16", 448.0), (1.0375, "bfloat16", 2592.0), (0.0, "float32", 1.0)],
)
def test_the_global_scale_is_448_times_6_over_the_largest_magnitude(absmax: float, dtype: str, scale: float) -> None:
    assert kernels.nvfp4_global_scale(absmax, dtype=dtype) == scale


@pytest.mark.parametrize(
    ("absmax", "dtype", "scale"),
    [
        (448, "float32", 1.0),
        (0, "float32", 2.0**-23),
        (0, "bfloat16", 2.0**-7),
        (0, "float16", 2.0**-10),
        (1e-6, "float16", 2.0**-10),  # rounds to 0 too
        (1, "bfloat16", 0.002227783203125),
        (3e38, "float16", 65504.0),
    ],
)
def test_the_scale_of_fp8_is_the_largest_magnitude_over_448(absmax: float, dtype: str, scale: float) -> None:
    assert kernels.fp8_scale(absmax, scale_dtype=dtype) == scale


# ---- the casts ----


def cast(values: NDArray) -> NDArray:
    return kernels.encode_fp8(values.reshape(1, -1), strategy="tensor", scale=np.ones(1, np.float32))[0][0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_value_casts_as_ml_dtypes_casts_it_clamped_to_448(dtype: str) -> None:
    every = np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])
    values = every[np.isfinite(every.astype(np.float32))]

    codes = cast(values)

    clamped = np.clip(values.astype(np.float32), -448, 448)
    np.testing.assert_array_equal(codes, clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


def test_float32_around_every_code_and_midpoint_casts_as_ml_dtypes_casts_it() -> None:
    magnitudes = e4m3(np.arange(0x7F, dtype=np.uint8)).astype(np.float32)
    points = np.concatenate([magnitudes, (magnitudes[1:] + magnitudes[:-1]) / 2, np.float32([1e-45, 1e-38, 460, 3e38])])
    around = np.concatenate([np.nextafter(points, -np.inf), points, np.nextafter(points, np.inf)])
    values = np.concatenate([around, -around]).astype(np.float32)

    codes = cast(values)

    clamped = np.clip(values, -448, 448)
    np.testing.assert_array_equal(codes, clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


def test_every_code_of_fp8_keeps_its_value() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 256)

    values = kernels.decode_fp8(every, np.ones(1, np.float32), strategy="tensor")

    np.testing.assert_array_equal(values, e4m3(every))
    assert np.isnan(values[0, [0x7F, 0xFF]]).all()


def test_every_code_of_fp4_keeps_its_value() -> None:
    packed = np.arange(256, dtype=np.uint8).reshape(16, 16)

    values = kernels.decode_mxfp4(packed, np.full((16, 1), 128, np.uint8))

    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(16, 32)
    np.testing.assert_array_equal(values, 2 * E2M1[codes & 7] * np.where(codes & 8, -1, 1))


def test_fp4_pairs_stand_with_the_even_column_low() -> None:
    values = np.array([[0.5, -1, 3, 6, -1e-9, 1.5, -4, 2] + [0] * 24], np.float32)

    packed, exponents = kernels.encode_mxfp4(values)

    assert bytes(packed[0, :4]).hex(" ") == "a1 75 38 4e"
    assert exponents.tolist() == [[127]]


@pytest.mark.parametrize(
    ("absmax", "exponent"),
    [(6, 127), (6.99, 127), (7, 128), (1, 125), (0.3, 123), (0, 0), (1e-45, 0), (3.4e38, 253), (2**-125, 0)],
)
def test_the_exponent_of_mxfp4_rounds_up_from_seven_quarters(absmax: float, exponent: int) -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, 17] = -absmax

    assert kernels.encode_mxfp4(values)[1].tolist() == [[exponent]]


def test_every_exponent_decodes_to_its_power_of_two() -> None:
    exponents = np.arange(256, dtype=np.uint8).reshape(256, 1)
    ones = np.full((256, 32), 0x38, np.uint8)

    values = kernels.decode_mxfp8(ones, exponents)

    np.testing.assert_array_equal(values[:255, 0], np.ldexp(np.float32(1), np.arange(255) - 127))
    assert np.isnan(values[255]).all()


# ---- against plain numpy ----


def test_block_scales_cover_ragged_edges() -> None:
    values = heavy_tailed(rows=130, cols=300)

    codes, scale = kernels.encode_fp8(values, strategy="block")

    assert scale.shape == (2, 3)
    for row, col in np.ndindex(2, 3):
        tile = np.s_[128 * row : 128 * (row + 1), 128 * col : 128 * (col + 1)]
        absmax = np.abs(values[tile]).max()
        assert scale[row, col] == absmax / np.float32(448)
        expected = (values[tile] / scale[row, col]).astype(ml_dtypes.float8_e4m3fn)
        np.testing.assert_array_equal(codes[tile], expected.view(np.uint8))
    tiled = np.repeat(np.repeat(scale, 128, 0), 128, 1)[:130, :300]
    np.testing.assert_array_equal(kernels.decode_fp8(codes, scale, strategy="block"), e4m3(codes) * tiled)


def test_a_given_scale_is_rounded_to_its_dtype_and_used() -> None:
    values = heavy_tailed()
    given = np.full((24, 1), 0.0017, np.float32)

    codes, scale = kernels.encode_fp8(values, scale=given, scale_dtype="bfloat16")

    np.testing.assert_array_equal(scale, given.astype(ml_dtypes.bfloat16).astype(np.float32))
    clamped = np.clip(values / scale, -448, 448)
    np.testing.assert_array_equal(codes, clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


def test_tensors_that_share_an_absmax_share_the_scale() -> None:
    parts = [heavy_tailed(seed=seed) for seed in (1, 2)]
    absmax = max(kernels.absmax(part) for part in parts)

    fused = kernels.encode_fp8(np.concatenate(parts), strategy="tensor", scale_dtype="bfloat16")
    scale = np.float32([kernels.fp8_scale(absmax, scale_dtype="bfloat16")])
    alone = [kernels.encode_fp8(part, strategy="tensor", scale_dtype="bfloat16", scale=scale)[0] for part in parts]

    assert fused[1] == scale
    np.testing.assert_array_equal(np.concatenate(alone), fused[0])


def test_nvfp4_values_are_codes_times_scale_over_global_scale() -> None:
    packed, scale, global_scale = kernels.encode_nvfp4(heavy_tailed())

    values = kernels.decode_nvfp4(packed, scale, global_scale)

    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(24, 10, 16)
    factors = e4m3(scale) / np.float32(global_scale)
    expected = (E2M1[codes & 7] * np.where(codes & 8, -1, 1)).astype(np.float32) * factors[..., None]
    np.testing.assert_array_equal(values, expected.reshape(24, 160))


@pytest.mark.parametrize(
    ("scheme", "relative"),
    [("channel", 0.03), ("tensor", 0.03), ("block", 0.03), ("mxfp8", 0.03), ("nvfp4", 0.12), ("mxfp4", 0.15)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_that_of_the_codes(scheme: str, relative: float, dtype: str) -> None:
    values = heavy_tailed().astype(DTYPES[dtype])

    again = decoded(encoded(values, scheme), scheme)

    wide = values.astype(np.float32)
    assert np.sqrt(((again - wide) ** 2).sum() / (wide**2).sum()) < relative


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_values_of_fp8_encode_to_the_same_codes_under_their_scale(strategy: str) -> None:
    codes, scale = kernels.encode_fp8(heavy_tailed(), strategy=strategy)

    values = kernels.decode_fp8(codes, scale, strategy=strategy)

    np.testing.assert_array_equal(kernels.encode_fp8(values, strategy=strategy, scale=scale)[0], codes)


# ---- sources, threads ----

SCHEMES = ["tensor", "channel", "block", "nvfp4", "mxfp4", "mxfp8"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bytes_and_values_do_not_depend_on_threads(scheme: str) -> None:
    values = heavy_tailed(rows=700, cols=96)

    results = [encoded(values, scheme, threads) for threads in (1, 2, 7)]

    for other in results[1:]:
        for part, expected in results[0].items():
            np.testing.assert_array_equal(other[part], expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_uint16_is_read_as_bfloat16_at_any_address(scheme: str) -> None:
    values = heavy_tailed().astype(ml_dtypes.bfloat16)
    bits = np.frombuffer(b"\0" + values.tobytes(), np.uint8, offset=1).view(np.uint16).reshape(values.shape)

    parts = encoded(values, scheme)
    shifted = encoded_bits(bits, scheme)

    np.testing.assert_array_equal(shifted["codes"], parts["codes"])


def encoded_bits(bits: NDArray, scheme: str) -> dict[str, Any]:
    if scheme in ("tensor", "channel", "block"):
        return {"codes": kernels.encode_fp8(bits, strategy=scheme, scale_dtype="bfloat16")[0]}
    return encoded(bits, scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("rows", "cols"), [(0, 64), (3, 0), (0, 0)])
def test_no_rows_and_no_columns_encode_to_nothing(scheme: str, rows: int, cols: int) -> None:
    parts = encoded(np.zeros((rows, cols), np.float32), scheme)

    assert decoded(parts, scheme).shape == (rows, cols)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("cols", [1, 3, 15, 17, 33, 129])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fp8_takes_any_number_of_columns(rows: int, cols: int, dtype: str) -> None:
    values = heavy_tailed(rows, cols).astype(DTYPES[dtype])

    codes, scale = kernels.encode_fp8(values)

    expected = (values.astype(np.float32) / scale).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(codes, expected.view(np.uint8))


def test_the_largest_magnitude_is_exact() -> None:
    values = heavy_tailed(rows=300)
    values[250, 7] = -123.456

    assert [kernels.absmax(values, threads=threads) for threads in (1, 4)] == [float(np.float32(123.456))] * 2
    assert kernels.absmax(np.zeros((0, 3), np.float16)) == 0.0


# ---- refusals ----


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scheme", [*SCHEMES, "absmax"])
def test_a_value_that_is_not_finite_is_refused_at_its_first_position(scheme: str, bad: float, threads: int) -> None:
    values = heavy_tailed(rows=400, cols=192)
    values[213, 9] = values[214, 0] = values[399, 100] = bad

    with pytest.raises(ValueError) as refused:
        kernels.absmax(values, threads=threads) if scheme == "absmax" else encoded(values, scheme, threads)

    assert str(refused.value) == f"row 213, column 9 is {bad}, only finite values can be encoded"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_16_bit_source_that_is_not_finite_is_refused(scheme: str, dtype: str) -> None:
    values = heavy_tailed().astype(DTYPES[dtype])
    values[2, 7] = np.nan

    with pytest.raises(ValueError, match=r"row 2, column 7 is -?nan"):
        encoded(values, scheme)


ONES, BYTES = np.ones((4, 64), np.float32), np.zeros((4, 64), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.encode_fp8(np.ones((4, 64))), TypeError,
         "values must be float32, float16 or bfloat16 (also as uint16 bits), got float64"),
        (lambda: kernels.encode_fp8(ONES, strategy="row"), ValueError,
         "strategy must be one of tensor, channel, block, got 'row'"),
        (lambda: kernels.encode_fp8(ONES, scale_dtype="float8"), ValueError,
         "scale_dtype must be one of float32, float16, bfloat16, got 'float8'"),
        (lambda: kernels.encode_fp8(ONES, threads=0), ValueError, "threads must be 1 to 1024, got 0"),
        (lambda: kernels.encode_fp8(ONES, scale=np.ones((64, 1), np.float32)), ValueError,
         "scale must have the shape (4, 1), got (64, 1)"),
        (lambda: kernels.encode_fp8(ONES, strategy="tensor", scale=np.ones(4, np.float32)), ValueError,
         "scale must have the shape (1,), got (4,)"),
        (lambda: kernels.encode_fp8(ONES, scale=np.ones((4, 1))), TypeError, "scale must be float32, got float64"),
        (lambda: kernels.encode_fp8(ONES, scale=np.float32([[1], [2], [0], [1]])), ValueError,
         "scale must be finite and positive in its dtype, entry 2 is 0"),
        (lambda: kernels.encode_fp8(ONES, scale=np.full((4, 1), 1e5, np.float32), scale_dtype="float16"), ValueError,
         "scale must be finite and positive in its dtype, entry 0 is 1e+05"),
        (lambda: kernels.decode_fp8(BYTES, np.ones((2, 2), np.float32), strategy="block"), ValueError,
         "scale must have the shape (1, 1), got (2, 2)"),
        (lambda: kernels.decode_fp8(ONES, np.ones((4, 1), np.float32)), TypeError, "codes must be uint8, got float32"),
        (lambda: kernels.decode_fp8(BYTES[:, ::2], np.ones((4, 1), np.float32)), ValueError,
         "codes must be C-contiguous"),
        (lambda: kernels.fp8_scale(-1), ValueError, "absmax must be finite and not negative, got -1"),
        (lambda: kernels.nvfp4_global_scale(np.nan), ValueError, "absmax must be finite and not negative, got nan"),
        (lambda: kernels.encode_nvfp4(ONES[:, :40].copy()), ValueError,
         "NVFP4 has groups of 16 values, 40 columns are not a multiple of that"),
        (lambda: kernels.encode_nvfp4(ONES, global_scale=0.0), ValueError,
         "global_scale must be finite and positive, got 0"),
        (lambda: kernels.encode_mxfp4(ONES[:, :48].copy()), ValueError,
         "MXFP4 has groups of 32 values, 48 columns are not a multiple of that"),
        (lambda: kernels.encode_mxfp8(ONES[:, :48].copy()), ValueError,
         "MXFP8 has groups of 32 values, 48 columns are not a multiple of that"),
        (lambda: kernels.decode_nvfp4(BYTES, BYTES, 1.0), ValueError,
         "scale must have one entry for each group of 16 of the 4 x 128 codes, got (4, 64)"),
        (lambda: kernels.decode_mxfp4(BYTES, BYTES[:3, :4].copy()), ValueError,
         "exponents must have one entry for each group of 32 of the 4 x 128 codes, got (3, 4)"),
        (lambda: kernels.decode_mxfp8(BYTES, BYTES[:, :4].copy()), ValueError,
         "exponents must have one entry for each group of 32 of the 4 x 64 codes, got (4, 4)"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_with_both_numbers(
    call: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        call()

    assert str(refused.value) == message
