import threading

import ml_dtypes
import numpy as np
import pytest

import quantmill_kernels as kernels

QUANTIZED = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"]  # error rises from left to right


def weights(rows: int = 16, cols: int = 512, seed: int = 5) -> np.ndarray:
    """Heavy-tailed like real weights, (rows, cols) float32."""
    return (np.random.default_rng(seed).standard_t(5, (rows, cols)) * 0.02).astype(np.float32)


def relative_error(name: str, values: np.ndarray, imatrix: np.ndarray | None = None) -> float:
    decoded = kernels.decode(name, kernels.encode(name, values, imatrix=imatrix), values.shape[1])
    weight = np.ones(values.shape[1]) if imatrix is None else imatrix
    return float(np.sqrt((weight * (decoded - values) ** 2).sum() / (weight * values**2).sum()))


NO_SCALE = "the 256 values from there on need a scale that float16 cannot hold"

# ---- sources ----


@pytest.mark.parametrize("name", kernels.formats())
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_16_bit_source_gives_the_bytes_of_its_float32_values(name: str, dtype: type) -> None:
    source = weights().astype(dtype)

    packed = kernels.encode(name, source)

    np.testing.assert_array_equal(packed, kernels.encode(name, source.astype(np.float32)))


@pytest.mark.parametrize("name", kernels.formats())
def test_uint16_is_read_as_the_bits_of_bfloat16(name: str) -> None:
    source = weights().astype(ml_dtypes.bfloat16)

    packed = kernels.encode(name, source.view(np.uint16))

    np.testing.assert_array_equal(packed, kernels.encode(name, source))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_source_may_be_read_only_and_at_any_address(dtype: type) -> None:
    source = weights().astype(dtype)
    shifted = np.frombuffer(b"\0" + source.tobytes(), np.uint8, offset=1).view(dtype).reshape(source.shape)
    assert not shifted.flags.aligned
    assert not shifted.flags.writeable

    packed = kernels.encode("Q4_K", shifted, imatrix=np.ones(512, np.float32))

    np.testing.assert_array_equal(packed, kernels.encode("Q4_K", source, imatrix=np.ones(512, np.float32)))


# ---- rounding ----


def test_float16_rounds_to_nearest_even_as_numpy_does() -> None:
    rng = np.random.default_rng(8)
    values = (rng.standard_normal((512, 512)) * 2.0 ** rng.integers(-30, 14, (512, 512))).astype(np.float32)

    packed = kernels.encode("F16", values)

    np.testing.assert_array_equal(packed.view(np.float16), values.astype(np.float16))


def test_bfloat16_rounds_to_nearest_even_as_ml_dtypes_does() -> None:
    bits = np.random.default_rng(9).integers(0, 2**32, (512, 512), dtype=np.uint32)
    values = np.where(bits & 0x7FFFFFFF > 0x7F7F7FFF, 0, bits).astype(np.uint32).view(np.float32)  # what it can hold

    packed = kernels.encode("BF16", values)

    np.testing.assert_array_equal(packed.view(np.uint16), values.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_float32_is_stored_as_it_is() -> None:
    values = weights()

    packed = kernels.encode("F32", values)

    np.testing.assert_array_equal(packed, values.view(np.uint8))


def test_q8_0_rounds_half_away_from_zero() -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, :5] = [127, 2.5, -2.5, 0.5, -0.5]  # the scale is 1

    packed = kernels.encode("Q8_0", values)

    assert packed[0, 2:7].view(np.int8).tolist() == [127, 3, -3, 1, -1]


# ---- error ----


def test_error_falls_as_bits_rise() -> None:
    errors = [relative_error(name, weights()) for name in QUANTIZED]

    assert errors == sorted(errors)
    assert errors[-1] < 0.35


@pytest.mark.parametrize(
    "name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
)
def test_an_importance_matrix_lowers_the_error_it_weights(name: str) -> None:
    values = weights()
    imatrix = np.random.default_rng(6).random(512).astype(np.float32) ** 4
    plain = kernels.decode(name, kernels.encode(name, values), 512)

    weighted = relative_error(name, values, imatrix)

    assert weighted < np.sqrt((imatrix * (plain - values) ** 2).sum() / (imatrix * values**2).sum())


# ---- blocks ----


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("cols", [256, 768, 4096, 4352, 9216])
@pytest.mark.parametrize("name", kernels.formats())
def test_a_block_has_the_same_bytes_wherever_it_stands(name: str, cols: int, dtype: type) -> None:
    values = weights(rows=3, cols=cols).astype(dtype)
    imatrix = np.random.default_rng(6).random(cols).astype(np.float32)
    columns = [slice(first, first + 256) for first in range(0, cols, 256)]

    packed = kernels.encode(name, values, imatrix=imatrix)

    alone = [kernels.encode(name, np.ascontiguousarray(values[:, part]), imatrix=imatrix[part]) for part in columns]
    np.testing.assert_array_equal(packed, np.hstack(alone))


# ---- threads ----


@pytest.mark.parametrize("name", kernels.formats())
def test_bytes_and_values_do_not_depend_on_threads(name: str) -> None:
    values = weights(rows=300, cols=256)

    packed = [kernels.encode(name, values, threads=threads) for threads in (1, 3, 16)]
    decoded = [kernels.decode(name, packed[0], 256, threads=threads) for threads in (1, 3, 16)]

    for other in packed[1:]:
        np.testing.assert_array_equal(other, packed[0])
    for other in decoded[1:]:
        np.testing.assert_array_equal(other, decoded[0])


def test_python_threads_may_encode_at_the_same_time() -> None:
    values = weights(rows=64)
    expected = kernels.encode("Q4_K", values)
    results: list[np.ndarray] = []
    workers = [
        threading.Thread(target=lambda: results.append(kernels.encode("Q4_K", values, threads=2))) for _ in range(4)
    ]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [np.array_equal(result, expected) for result in results] == [True] * 4


# ---- refusals ----


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("Q4_K", np.nan, "row 13, column 9 is nan, only finite values can be encoded"),
        ("Q4_K", -np.inf, "row 13, column 9 is -inf, only finite values can be encoded"),
        ("F32", np.inf, "row 13, column 9 is inf, only finite values can be encoded"),
        ("F16", 70000, "row 13, column 9 is 70000, the largest magnitude F16 can hold is 65519.996"),
        ("BF16", 3.4e38, "row 13, column 9 is 3.4e+38, the largest magnitude BF16 can hold is 3.3961773e+38"),
        ("Q8_0", -1e7, "row 13, column 9 is -1e+07, the largest magnitude Q8_0 can hold is 8320913"),
        ("Q6_K", 1e12, "row 13, column 9 is 1e+12, the largest magnitude Q6_K can hold is 268304384"),
        ("Q4_K", -5e7, f"row 13, column 0: {NO_SCALE}, so Q4_K cannot hold them"),
    ],
)
def test_what_cannot_be_stored_is_refused_at_its_first_position(
    name: str, bad: float, message: str, threads: int
) -> None:
    values = weights(rows=200)
    values[13, 9] = values[14, 0] = values[199, 300] = bad

    with pytest.raises(ValueError) as refused:
        kernels.encode(name, values, threads=threads)

    assert str(refused.value) == message


OVERFLOW = f"row 1, column 4096: {NO_SCALE}, so Q4_K cannot hold them"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({(1, 9000): np.nan}, "row 1, column 9000 is nan, only finite values can be encoded"),
        ({(1, 4100): -5e7, (1, 9000): np.nan}, OVERFLOW),
        ({(1, 4100): -5e7, (1, 4400): np.nan, (2, 0): np.nan}, OVERFLOW),
        ({(1, 4000): np.nan, (1, 4100): -5e7}, "row 1, column 4000 is nan, only finite values can be encoded"),
    ],
)
def test_in_a_long_row_the_first_position_is_named(bad: dict[tuple[int, int], float], message: str) -> None:
    values = weights(rows=3, cols=9216)
    for position, value in bad.items():
        values[position] = value

    with pytest.raises(ValueError) as refused:
        kernels.encode("Q4_K", values)

    assert str(refused.value) == message


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_16_bit_source_that_is_not_finite_is_refused(dtype: type) -> None:
    values = weights().astype(dtype)
    values[2, 7] = np.nan

    with pytest.raises(ValueError, match=r"row 2, column 7 is -?nan"):
        kernels.encode("Q8_0", values)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[1.0]], TypeError, "values must be a numpy array, got list"),
        (np.zeros((1, 32)), TypeError,
         "values must be float32, float16 or bfloat16 (also as uint16 bits), got float64"),
        (np.zeros((1, 32), ">f4"), TypeError, "values has a dtype that cannot be read in place: dtype('>f4')"),
        (np.zeros((1, 32), object), TypeError, "values has a dtype that cannot be read in place: dtype('O')"),
        (np.zeros(32, np.float32), ValueError, "values must have 2 dimensions, got 1"),
        (np.zeros((32, 32), np.float32).T[::2], ValueError, "values must be C-contiguous"),
        (np.zeros((1, 33), np.float32), ValueError,
         "Q8_0 packs blocks of 32 values, 33 columns are not a multiple of that"),
    ],
    ids=["list", "float64", "big-endian", "object", "one dimension", "strided", "33 columns"],
)  # fmt: skip
def test_values_of_another_kind_are_refused(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        kernels.encode("Q8_0", values)

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("imatrix", "error", "message"),
    [
        (np.ones(256, np.float32), ValueError, "imatrix has 256 values for 512 columns"),
        (np.ones(512), TypeError, "imatrix must be float32, got float64"),
        (np.ones((1, 512), np.float32), ValueError, "imatrix must have 1 dimensions, got 2"),
        (-np.ones(512, np.float32), ValueError, "imatrix must be finite and not negative, column 0 is -1"),
        (np.where(np.arange(512) == 7, np.nan, 1).astype(np.float32), ValueError,
         "imatrix must be finite and not negative, column 7 is nan"),
        ([1.0] * 512, TypeError, "imatrix must be a numpy array, got list"),
    ],
    ids=["short", "float64", "two dimensions", "negative", "nan", "list"],
)  # fmt: skip
def test_an_importance_matrix_of_another_kind_is_refused(imatrix: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        kernels.encode("Q4_K", weights(), imatrix=imatrix)

    assert str(refused.value) == message


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "IQ4_XS", "Q4_0"])
def test_an_importance_that_overflows_float32_still_gives_the_codes_of_the_range(name: str) -> None:
    packed = kernels.encode(name, np.ones((1, 256), np.float32), imatrix=np.full(256, 1e38, np.float32))

    np.testing.assert_allclose(kernels.decode(name, packed, 256), 1, rtol=1e-3)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_number_of_threads_out_of_range_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be 1 to 1024, got {threads}"):
        kernels.encode("Q8_0", weights(), threads=threads)


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError) as refused:
        kernels.encode("Q4_X", weights())

    assert str(refused.value) == (
        "unknown format 'Q4_X', the known ones are: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, "
        "Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4"
    )


def test_no_rows_and_no_columns_encode_to_nothing() -> None:
    assert kernels.encode("Q4_K", np.zeros((0, 256), np.float32)).shape == (0, 144)
    assert kernels.encode("Q4_K", np.zeros((3, 0), np.float32), imatrix=np.zeros(0, np.float32)).shape == (3, 0)
