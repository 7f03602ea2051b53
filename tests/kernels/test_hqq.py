"""hqq's layouts, packings and errors (tests/kernels/make_golden_hqq.py), and what is refused."""

from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import quantmill_kernels as kernels

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hqq.npz"
PACKINGS = ["8bit_u8", "4bit_u8", "3bit_32", "2bit_u8", "1bit_u8"]
NBITS = [1, 2, 3, 4, 5, 6, 8]
FACTOR = {"weights": 1, "large": 64}


@cache
def golden() -> dict[str, NDArray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


def weights(rows: int = 16, cols: int = 512) -> NDArray[np.float32]:
    return (np.random.default_rng(50).standard_t(5, (rows, cols)) * 0.02).astype(np.float32)


def errors(values: NDArray[np.float32], **options: object) -> tuple[float, float]:
    """mean |error|^0.7 and root mean square error"""
    left = np.abs(kernels.decode_hqq(*kernels.solve_hqq(values, **options), values.shape).astype(np.float64) - values)
    return float((left**0.7).mean()), float(np.sqrt((left**2).mean()))


# ---- against hqq ----


@pytest.mark.parametrize("key", [key for key in golden() if key.startswith("errors.")])
def test_both_errors_are_below_those_of_hqq(key: str) -> None:
    _, case, nbits, group_size, axis = key.split(".")
    values = golden()["values"].astype(np.float32) * np.float32(FACTOR[case])

    ours = errors(values, nbits=int(nbits), group_size=int(group_size) or None, axis=int(axis))

    assert (np.array(ours) / golden()[key] < [0.985, 0.985]).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_groups_are_those_of_hqq(axis: int) -> None:
    values = golden()["values"][:2].astype(np.float32)

    codes, scale, zero = kernels.solve_hqq(values, nbits=4, group_size=64, axis=axis)

    assert codes.shape == golden()[f"rounded.{axis}.codes"].shape
    assert scale.shape == zero.shape == golden()[f"rounded.{axis}.scale"].shape
    np.testing.assert_allclose(scale, golden()[f"rounded.{axis}.scale"], rtol=0.3)
    assert np.abs(codes.astype(int) - golden()[f"rounded.{axis}.codes"]).max() <= 3


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_values_are_hqqs_to_the_bit(axis: int, threads: int) -> None:
    stored = [golden()[f"rounded.{axis}.{name}"] for name in ("codes", "scale", "zero")]

    values = kernels.decode_hqq(*stored, (2, 512), threads=threads)

    np.testing.assert_array_equal(values, golden()[f"rounded.{axis}.decoded"])


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_rows_are_hqqs(packing: str, threads: int) -> None:
    codes, packed = golden()[f"{packing}.codes"], golden()[f"{packing}.packed"]

    ours = kernels.pack_hqq(packing, codes, threads=threads)

    assert ours.dtype == packed.dtype
    np.testing.assert_array_equal(ours, packed)
    np.testing.assert_array_equal(kernels.unpack_hqq(packing, packed, len(codes), threads=threads), codes)


@pytest.mark.parametrize(
    ("packing", "codes", "packed"),
    [
        ("4bit_u8", [1, 2, 3, 4], [0x13, 0x24]),
        ("3bit_32", [0, 1, 2, 3, 4, 5, 6, 7, 1, 2], [0x014E5DCA]),
        ("2bit_u8", [0, 1, 2, 3], [0b00011011]),
        ("1bit_u8", [1, 0, 0, 0, 0, 0, 1, 1], [0b10000011]),
        ("8bit_u8", [7, 200], [7, 200]),
    ],
)
def test_the_first_row_takes_the_highest_bits(packing: str, codes: list[int], packed: list[int]) -> None:
    column = np.array(codes, np.uint8)[:, None]

    assert kernels.pack_hqq(packing, column)[:, 0].tolist() == packed


# ---- what is stored ----


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("group_size", [16, 64, None])
def test_both_errors_fall_as_bits_rise(group_size: int | None, axis: int) -> None:
    by_nbits = [errors(weights(32), nbits=nbits, group_size=group_size, axis=axis) for nbits in NBITS]

    for measure in zip(*by_nbits, strict=True):
        assert list(measure) == sorted(measure, reverse=True)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("nbits", NBITS)
@pytest.mark.parametrize("compute_dtype", ["float32", "float16", "bfloat16"])
def test_codes_are_the_nearest_for_scale_and_zero_as_stored(nbits: int, axis: int, compute_dtype: str) -> None:
    values = weights()

    codes, scale, zero = kernels.solve_hqq(values, nbits=nbits, group_size=32, axis=axis, compute_dtype=compute_dtype)

    for stored in (scale, zero):
        np.testing.assert_array_equal(stored.astype(compute_dtype).astype(np.float32), stored)
    grouped = values.reshape(codes.shape)
    left = np.abs((codes - zero) * scale - grouped)
    for other in (codes.astype(np.float32) - 1, codes.astype(np.float32) + 1):
        known = (other >= 0) & (other < 2**nbits)
        assert (left <= np.abs((other - zero) * scale - grouped) + 1e-6 * scale)[known].all()


@pytest.mark.parametrize("nbits", NBITS)
def test_integer_zeros_are_codes(nbits: int) -> None:
    _, _, zero = kernels.solve_hqq(weights() + np.float32(0.03), nbits=nbits, group_size=16, integer_zero=True)

    assert (zero == np.rint(zero)).all()
    assert zero.min() >= 0
    assert zero.max() <= 2**nbits - 1


def test_an_integer_zero_costs_some_error() -> None:
    free, rounded = (errors(weights(), nbits=4, group_size=64, integer_zero=whole)[1] for whole in (False, True))

    assert free < rounded < 1.1 * free


@pytest.mark.parametrize("compute_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("integer_zero", [False, True])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 0.15625, -3.0, 2048.0])
def test_a_constant_group_is_exact(value: float, integer_zero: bool, compute_dtype: str) -> None:
    values = np.full((2, 16), value, np.float32)

    stored = kernels.solve_hqq(values, nbits=2, integer_zero=integer_zero, compute_dtype=compute_dtype)

    np.testing.assert_array_equal(kernels.decode_hqq(*stored, (2, 16)), values)


@pytest.mark.parametrize("base", [1, -300, 1e6, 1e-20, -1e30])
def test_a_group_far_from_zero_keeps_the_precision_of_its_storage(base: float) -> None:
    values = (base * (1 + 1e-5 * np.random.default_rng(51).random((4, 64)))).astype(np.float32)

    stored = kernels.solve_hqq(values, nbits=4)

    np.testing.assert_allclose(kernels.decode_hqq(*stored, (4, 64)), values, rtol=1e-6)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-30, 1e-10, 1e10, 1e29])
def test_magnitudes_from_subnormals_to_the_largest_are_finite_and_near(magnitude: float) -> None:
    values = (np.random.default_rng(52).uniform(-magnitude, magnitude, (8, 64))).astype(np.float32)

    codes, scale, zero = kernels.solve_hqq(values, nbits=8)

    decoded = kernels.decode_hqq(codes, scale, zero, values.shape)
    assert np.isfinite(scale).all()
    assert np.isfinite(zero).all()
    assert np.abs(decoded - values).max() <= max(magnitude / 128, 2.0**-100)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_16_bit_source_gives_what_its_float32_values_give(dtype: type, axis: int) -> None:
    source = weights(17, 40).astype(dtype)

    for group_size in (8, None):
        solved = kernels.solve_hqq(source, nbits=3, group_size=group_size, axis=axis)

        expected = kernels.solve_hqq(source.astype(np.float32), nbits=3, group_size=group_size, axis=axis)
        for ours, other in zip(solved, expected, strict=True):
            np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_source_may_be_read_only_and_at_any_address(dtype: type, axis: int) -> None:
    source = weights(4, 64).astype(dtype)
    shifted = np.frombuffer(b"\0" + source.tobytes(), np.uint8, offset=1).view(dtype).reshape(source.shape)

    solved = kernels.solve_hqq(shifted, nbits=4, group_size=32, axis=axis)

    for ours, other in zip(solved, kernels.solve_hqq(source, nbits=4, group_size=32, axis=axis), strict=True):
        np.testing.assert_array_equal(ours, other)


def test_packed_words_may_stand_at_any_address() -> None:
    codes, packed = golden()["3bit_32.codes"], golden()["3bit_32.packed"]
    shifted = np.frombuffer(b"\0" + packed.tobytes(), np.uint8, offset=1).view(np.int32).reshape(packed.shape)

    np.testing.assert_array_equal(kernels.unpack_hqq("3bit_32", shifted, len(codes)), codes)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("group_size", [8, 64, None])
def test_nothing_depends_on_threads(group_size: int | None, axis: int) -> None:
    values = weights(200, 1024) * np.float32(10)  # large enough for several ranges, and for half-quadratic rounds

    solved = [
        kernels.solve_hqq(values, nbits=2, group_size=group_size, axis=axis, threads=threads) for threads in (1, 3)
    ]
    decoded = [kernels.decode_hqq(*solved[0], values.shape, threads=threads) for threads in (1, 3)]

    for one, three in zip(*solved, strict=True):
        np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(*decoded)


def test_an_empty_matrix_has_no_groups() -> None:
    codes, scale, zero = kernels.solve_hqq(np.zeros((0, 64), np.float32), nbits=4, group_size=32)

    assert (codes.shape, scale.shape, zero.shape) == ((0, 32), (0, 1), (0, 1))
    assert kernels.decode_hqq(codes, scale, zero, (0, 64)).shape == (0, 64)
    assert kernels.pack_hqq("4bit_u8", codes).shape == (0, 32)
    assert kernels.unpack_hqq("3bit_32", np.zeros((0, 7), np.int32), 0).shape == (0, 7)


# ---- refusals ----


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (np.nan, {}, "row 13, column 9 is nan, only finite values can be quantized"),
        (-np.inf, {}, "row 13, column 9 is -inf, only finite values can be quantized"),
        (2e30, {}, "row 13, column 9 is 2e+30, the largest magnitude that can be quantized is 1.2676506e+30"),
        (-4e4, {"compute_dtype": "float16"},
         "row 13, column 9 is -40000, the largest magnitude that can be quantized is 32752"),
    ],
    ids=["nan", "infinity", "2e30", "float16"],
)  # fmt: skip
def test_a_value_that_cannot_be_quantized_is_refused_at_its_first_position(
    bad: float, options: dict[str, str], message: str, axis: int, threads: int
) -> None:
    values = weights(200, 512)
    values[13, 9] = values[14, 0] = values[199, 300] = bad

    with pytest.raises(ValueError) as refused:
        kernels.solve_hqq(values, nbits=4, group_size=64, axis=axis, threads=threads, **options)

    assert str(refused.value) == message


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_16_bit_source_that_is_not_finite_is_refused(dtype: type, axis: int) -> None:
    values = weights().astype(dtype)
    values[15, 511] = np.inf

    with pytest.raises(ValueError, match="row 15, column 511 is inf"):
        kernels.solve_hqq(values, nbits=4, group_size=64, axis=axis)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nbits": 7}, "nbits must be 1, 2, 3, 4, 5, 6 or 8, got 7"),
        ({"group_size": 12}, "group_size must be a positive multiple of 8, got 12"),
        ({"group_size": 0}, "group_size must be a positive multiple of 8, got 0"),
        ({"group_size": 96}, "16 rows of 512 columns are 8192 values, not a multiple of group_size 96"),
        ({"axis": 2}, "axis must be 0 or 1, got 2"),
        ({"lp_norm": 0.0}, "lp_norm must be above 0 and at most 1, got 0"),
        ({"lp_norm": 1.5}, "lp_norm must be above 0 and at most 1, got 1.5"),
        ({"beta": -1.0}, "beta must be 1e-30 to 1e30, got -1"),
        ({"kappa": float("nan")}, "kappa must be 1e-30 to 1e30, got nan"),
        ({"iters": 1001}, "iters must be 0 to 1000, got 1001"),
        ({"compute_dtype": "float64"}, "compute_dtype must be float32, float16 or bfloat16, got 'float64'"),
        ({"threads": 0}, "threads must be 1 to 1024, got 0"),
    ],
    ids=str,
)
def test_an_option_that_does_not_fit_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        kernels.solve_hqq(weights(), **({"nbits": 4, "group_size": 64} | changed))

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.zeros((2, 8)), TypeError, "values must be float32, float16 or bfloat16 (also as uint16 bits), got float64"),
        (np.zeros(8, np.float32), ValueError, "values must have 2 dimensions, got 1"),
        (np.zeros((8, 8), np.float32).T[::2], ValueError, "values must be C-contiguous"),
    ],
    ids=["float64", "one dimension", "strided"],
)
def test_values_of_another_kind_are_refused(values: NDArray, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        kernels.solve_hqq(values, nbits=4)

    assert str(refused.value) == message


ONE_PER_ROW = np.ones((4, 1), np.float32)


@pytest.mark.parametrize(
    ("scale", "zero", "shape", "error", "message"),
    [
        (np.ones((3, 1), np.float32), ONE_PER_ROW, (8, 4), ValueError,
         "codes of shape (4, 8) need a scale of shape (4, 1) or (1, 8), got (3, 1)"),
        (ONE_PER_ROW, np.ones((1, 8), np.float32), (8, 4), ValueError, "scale has shape (4, 1), zero has (1, 8)"),
        (ONE_PER_ROW, ONE_PER_ROW, (8, 5), ValueError, "shape (8, 5) does not hold 32 codes"),
        (ONE_PER_ROW, ONE_PER_ROW, (-4, -8), ValueError, "shape (-4, -8) does not hold 32 codes"),
        (ONE_PER_ROW, ONE_PER_ROW, (2**62, 2**62), ValueError,
         "shape (4611686018427387904, 4611686018427387904) does not hold 32 codes"),
        (ONE_PER_ROW.astype(np.float16), ONE_PER_ROW, (4, 8), TypeError, "scale must be float32, got float16"),
    ],
    ids=["three scales", "other zeros", "too large", "negative", "overflow", "float16"],
)  # fmt: skip
def test_shapes_that_do_not_fit_each_other_are_refused(
    scale: NDArray, zero: NDArray, shape: tuple[int, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        kernels.decode_hqq(np.zeros((4, 8), np.uint8), scale, zero, shape)

    assert str(refused.value) == message


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("packing", "largest"), [("4bit_u8", 15), ("3bit_32", 7), ("2bit_u8", 3), ("1bit_u8", 1)])
def test_a_code_that_is_too_large_is_refused_at_its_first_position(packing: str, largest: int, threads: int) -> None:
    codes = np.full((240, 1000), largest, np.uint8)
    codes[200, 7] = codes[201, 3] = largest + 1

    with pytest.raises(ValueError) as refused:
        kernels.pack_hqq(packing, codes, threads=threads)

    assert str(refused.value) == f"row 200, column 7 is {largest + 1}, the largest code of {packing} is {largest}"


@pytest.mark.parametrize(
    ("packing", "rows", "message"),
    [
        ("4bit_u8", 5, "4bit_u8 packs 2 rows into one, 5 rows are not a multiple of that"),
        ("1bit_u8", 12, "1bit_u8 packs 8 rows into one, 12 rows are not a multiple of that"),
        ("5bit_u8", 8, "unknown packing '5bit_u8', the known ones are: 8bit_u8, 4bit_u8, 3bit_32, 2bit_u8, 1bit_u8"),
    ],
)
def test_rows_that_do_not_fill_a_packed_row_are_refused(packing: str, rows: int, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        kernels.pack_hqq(packing, np.zeros((rows, 3), np.uint8))

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("packing", "dtype", "rows", "error", "message"),
    [
        ("3bit_32", np.int32, 30, ValueError, "4 rows of 3bit_32 hold 40 rows of codes, not 30"),
        ("3bit_32", np.int32, 41, ValueError, "4 rows of 3bit_32 hold 40 rows of codes, not 41"),
        ("4bit_u8", np.uint8, 7, ValueError, "4 rows of 4bit_u8 hold 8 rows of codes, not 7"),
        ("2bit_u8", np.uint8, -1, ValueError, "4 rows of 2bit_u8 hold 16 rows of codes, not -1"),
        ("3bit_32", np.uint8, 40, TypeError, "packed must be int32, got uint8"),
        ("4bit_u8", np.int32, 8, TypeError, "packed must be uint8, got int32"),
    ],
)
def test_packed_rows_of_another_size_or_dtype_are_refused(
    packing: str, dtype: type, rows: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        kernels.unpack_hqq(packing, np.zeros((4, 3), dtype), rows)

    assert str(refused.value) == message
