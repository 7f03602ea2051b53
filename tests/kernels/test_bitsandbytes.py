import threading
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import quantmill_kernels as kernels

TYPES = ["nf4", "fp4"]
SOURCES = [np.float32, np.float16, ml_dtypes.bfloat16]


def weights(rows: int = 6, cols: int = 150) -> NDArray:
    return (np.random.default_rng(50).standard_t(4, (rows, cols)) * 0.05).astype(np.float32)


def blocks_of(values: NDArray, block_size: int) -> list[NDArray]:
    flat = values.astype(np.float32).reshape(-1)
    return [flat[first : first + block_size] for first in range(0, flat.size, block_size)]


def codes_by_definition(quant_type: str, values: NDArray, block_size: int) -> NDArray:
    """The nearest value of the table; the lower one of two that are equally near."""
    table = kernels.quant_map(quant_type)
    order = np.argsort(table, kind="stable")
    bounds = (table[order[:-1]] + table[order[1:]]) / np.float32(2)
    scaled = []
    for block in blocks_of(values, block_size):
        absmax = np.maximum(np.abs(block).max(), np.float32(1e-38))
        scaled.append(block * (np.float32(1) / absmax) if block.size == block_size else block / absmax)
    return order[np.searchsorted(bounds, np.concatenate(scaled))]


def unpacked(packed: NDArray, n: int) -> NDArray:
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:n]


# ---- 4-bit blocks ----


@pytest.mark.parametrize("block_size", [32, 64, 128, 4096])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("quant_type", TYPES)
def test_a_value_gets_the_nearest_code_of_its_block(quant_type: str, source: type, block_size: int) -> None:
    values = weights(rows=37, cols=251).astype(source)

    packed, absmax = kernels.encode_4bit(quant_type, values, block_size=block_size)

    np.testing.assert_array_equal(absmax, [np.abs(block).max() for block in blocks_of(values, block_size)])
    np.testing.assert_array_equal(
        unpacked(packed, values.size), codes_by_definition(quant_type, values, block_size).astype(np.uint8)
    )


def test_the_first_of_two_values_stands_in_the_high_half_of_a_byte() -> None:
    packed, absmax = kernels.encode_4bit("nf4", np.array([[0.5, -1, 0, 2]], np.float32))

    assert (packed.tolist(), absmax.tolist()) == ([0xA2, 0x7F], [2])


@pytest.mark.parametrize(("quant_type", "code_of_zero"), [("nf4", 7), ("fp4", 0)])
def test_an_odd_number_of_values_ends_with_the_code_of_zero(quant_type: str, code_of_zero: int) -> None:
    packed, _ = kernels.encode_4bit(quant_type, np.ones((1, 33), np.float32))

    assert packed.shape == (17,)
    assert packed[-1] & 15 == code_of_zero


def test_blocks_run_across_rows() -> None:
    values = weights(rows=32, cols=6)

    packed, absmax = kernels.encode_4bit("nf4", values)

    flat, flat_absmax = kernels.encode_4bit("nf4", values.reshape(1, -1))
    assert absmax.shape == (3,)
    np.testing.assert_array_equal(packed, flat)
    np.testing.assert_array_equal(absmax, flat_absmax)


@pytest.mark.parametrize("n", [64, 63])
def test_a_block_of_zeros_is_zero_again(n: int) -> None:
    values = kernels.decode_4bit("nf4", *kernels.encode_4bit("nf4", np.zeros((1, n), np.float32)), (1, n))

    assert values.tolist() == [[0] * n]


def test_the_code_of_a_scaled_value_depends_on_its_rounding_only_at_a_bound() -> None:
    """Every float32 near a bound, on both sides of it."""
    table = kernels.quant_map("nf4")
    bounds = (table[:-1] + table[1:]) / np.float32(2)
    steps = np.arange(-200, 200)
    near = (bounds.view(np.int32)[:, None] + steps).astype(np.int32).view(np.float32).reshape(-1)
    values = np.concatenate([near, np.ones(-near.size % 63, np.float32)]).reshape(-1, 63)
    values = np.ascontiguousarray(np.pad(values, ((0, 0), (1, 0)), constant_values=1))  # each block's absmax is 1

    packed, _ = kernels.encode_4bit("nf4", values)

    np.testing.assert_array_equal(unpacked(packed, values.size), np.searchsorted(bounds, values.reshape(-1)))


@pytest.mark.parametrize("quant_type", TYPES)
def test_every_pair_of_codes_comes_back(quant_type: str) -> None:
    packed = np.arange(256, dtype=np.uint8)
    absmax = np.full(8, 3, np.float32)

    values = kernels.decode_4bit(quant_type, packed, absmax, (16, 32))

    np.testing.assert_array_equal(values.reshape(-1), kernels.quant_map(quant_type)[unpacked(packed, 512)] * 3)


@pytest.mark.parametrize("block_size", [32, 64, 1024])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (33, 97), (64, 64)])
@pytest.mark.parametrize("quant_type", TYPES)
def test_any_bytes_decode(quant_type: str, shape: tuple[int, int], block_size: int) -> None:
    rng = np.random.default_rng(51)
    n = shape[0] * shape[1]
    packed = rng.integers(0, 256, (n + 1) // 2, dtype=np.uint8)
    absmax = rng.integers(0, 2**32, -(-n // block_size), dtype=np.uint32).view(np.float32)

    values = kernels.decode_4bit(quant_type, packed, absmax, shape, block_size=block_size)

    with np.errstate(all="ignore"):
        expected = kernels.quant_map(quant_type)[unpacked(packed, n)] * np.repeat(absmax, block_size)[:n]
    np.testing.assert_array_equal(values.reshape(-1), expected)


def test_smaller_blocks_are_closer_and_nf4_is_closer_than_fp4() -> None:
    values = np.random.default_rng(52).standard_normal((64, 256)).astype(np.float32)

    def error(quant_type: str, block_size: int) -> float:
        packed, absmax = kernels.encode_4bit(quant_type, values, block_size=block_size)
        decoded = kernels.decode_4bit(quant_type, packed, absmax, values.shape, block_size=block_size)
        return float(np.sqrt(((decoded - values) ** 2).mean()))

    errors = [error("nf4", 32), error("nf4", 64), error("nf4", 4096), error("fp4", 4096)]
    assert errors == sorted(errors)
    assert errors[1] < 0.1


# ---- double quantization ----


def test_absmax_read_back_is_within_half_a_step() -> None:
    absmax = np.random.default_rng(53).uniform(0.01, 0.09, 1000).astype(np.float32)
    steps = np.diff(kernels.dynamic_map()).max()

    codes, nested_absmax, offset = kernels.encode_absmax(absmax)

    read = kernels.decode_absmax(codes, nested_absmax, offset)
    assert (codes.shape, nested_absmax.shape) == ((1000,), (4,))
    assert offset == pytest.approx(absmax.mean())
    assert np.abs(read - absmax).max() <= 0.51 * steps * nested_absmax.max()


def test_equal_absmax_come_back_as_they_were() -> None:
    absmax = np.full(64, 0.25, np.float32)

    codes, nested_absmax, offset = kernels.encode_absmax(absmax)

    assert (codes.tolist(), nested_absmax.tolist(), offset) == ([0] * 64, [0], 0.25)
    np.testing.assert_array_equal(kernels.decode_absmax(codes, nested_absmax, offset), absmax)


def test_every_code_of_absmax_has_its_value() -> None:
    codes = np.arange(256, dtype=np.uint8)

    absmax = kernels.decode_absmax(codes, np.array([2, 3], np.float32), 1.5, block_size=128)

    np.testing.assert_array_equal(absmax, kernels.dynamic_map() * np.repeat([2, 3], 128).astype(np.float32) + 1.5)


def test_the_maps_are_copies() -> None:
    kernels.quant_map("nf4")[:] = 0
    kernels.dynamic_map()[:] = 0

    assert kernels.quant_map("nf4")[15] == 1
    assert kernels.dynamic_map()[255] == 1


# ---- int8 rows ----


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("cols", [1, 15, 16, 100, 257])
def test_int8_codes_are_rounded_half_to_even(cols: int, source: type) -> None:
    values = weights(rows=9, cols=cols).astype(source)

    codes, absmax = kernels.encode_int8_rows(values)

    factor = np.float32(1) / np.abs(values.astype(np.float32)).max(axis=1) * np.float32(127)
    np.testing.assert_array_equal(absmax, np.abs(values).max(axis=1).astype(np.float32))
    np.testing.assert_array_equal(codes, np.rint(values.astype(np.float32) * factor[:, None]).astype(np.int8))


def test_an_int8_row_is_its_codes_times_a_127th_of_absmax() -> None:
    codes, absmax = kernels.encode_int8_rows(np.array([[0.5, -2, 1]], np.float32))

    assert (codes.tolist(), absmax.tolist()) == ([[32, -127, 64]], [2])
    np.testing.assert_allclose(kernels.decode_int8_rows(codes, absmax), [[64 / 127, -2, 128 / 127]], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e-37])
def test_a_row_whose_factor_overflows_has_the_codes_0(value: float) -> None:
    codes, absmax = kernels.encode_int8_rows(np.full((1, 20), value, np.float32))

    assert codes.tolist() == [[0] * 20]
    assert absmax.tolist() == [np.float32(value)]


def test_every_int8_code_has_its_value() -> None:
    codes = np.arange(-128, 128, dtype=np.int8).reshape(2, 128)

    values = kernels.decode_int8_rows(codes, np.array([127, 254], np.float32))

    np.testing.assert_allclose(values, codes * np.array([[1.0], [2.0]]), rtol=1e-6)


# ---- what holds for all of them ----


def encoded(values: NDArray, threads: int = 1) -> list[NDArray]:
    pairs = [kernels.encode_4bit(quant_type, values, threads=threads) for quant_type in TYPES]
    return [array for pair in (*pairs, kernels.encode_int8_rows(values, threads=threads)) for array in pair]


def decoded(values: NDArray, threads: int) -> list[NDArray]:
    packed, absmax = kernels.encode_4bit("nf4", values)
    four_bits = kernels.decode_4bit("nf4", packed, absmax, values.shape, threads=threads)
    return [four_bits, kernels.decode_int8_rows(*kernels.encode_int8_rows(values), threads=threads)]


def assert_equal(ours: list[NDArray], expected: list[NDArray]) -> None:
    assert [np.array_equal(a, b) for a, b in zip(ours, expected, strict=True)] == [True] * len(expected)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_results_do_not_depend_on_threads(threads: int) -> None:
    values = weights(rows=331, cols=1021)

    assert_equal(encoded(values, threads), encoded(values))
    assert_equal(decoded(values, threads), decoded(values, 1))


def test_python_threads_may_encode_at_the_same_time() -> None:
    values = weights(rows=64, cols=1024)
    results: list[list[NDArray]] = []
    workers = [threading.Thread(target=lambda: results.append(encoded(values, threads=2))) for _ in range(4)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    for result in results:
        assert_equal(result, encoded(values))


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_may_stand_at_any_address_and_be_read_only(source: type) -> None:
    values = weights().astype(source)
    shifted = np.frombuffer(b"\0" + values.tobytes(), np.uint8, offset=1).view(source).reshape(values.shape)
    assert not shifted.flags.aligned
    assert not shifted.flags.writeable

    assert_equal(encoded(shifted), encoded(values))


def test_absmax_may_stand_at_any_address() -> None:
    packed, absmax = kernels.encode_4bit("nf4", weights())
    shifted = np.frombuffer(b"\0" + absmax.tobytes(), np.uint8, offset=1).view(np.float32)

    values = kernels.decode_4bit("nf4", packed, shifted, weights().shape)

    np.testing.assert_array_equal(values, kernels.decode_4bit("nf4", packed, absmax, weights().shape))
    assert_equal(list(kernels.encode_absmax(shifted)[:2]), list(kernels.encode_absmax(absmax)[:2]))


def test_bfloat16_may_come_as_its_bits() -> None:
    values = weights().astype(ml_dtypes.bfloat16)

    assert_equal(encoded(values.view(np.uint16)), encoded(values))


@pytest.mark.parametrize("cols", [0, 5])
def test_nothing_encodes_to_nothing(cols: int) -> None:
    values = np.zeros((0 if cols else 3, cols), np.float32)

    packed, absmax = kernels.encode_4bit("nf4", values)
    codes, row_absmax = kernels.encode_int8_rows(values)

    assert (packed.shape, absmax.shape) == ((0,), (0,))
    assert (codes.shape, row_absmax.shape) == (values.shape, (values.shape[0],))
    assert kernels.decode_4bit("nf4", packed, absmax, values.shape).shape == values.shape
    assert kernels.decode_int8_rows(codes, row_absmax).shape == values.shape


# ---- refusals ----


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named(bad: float, source: type, threads: int) -> None:
    values = weights(rows=300, cols=501).astype(source)
    values[13, 9] = values[13, 11] = values[14, 0] = values[299, 500] = bad

    for encode in (lambda: kernels.encode_4bit("nf4", values, threads=threads),
                   lambda: kernels.encode_int8_rows(values, threads=threads)):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^row 13, column 9 is -?{abs(bad)}, only finite values can be encoded$"):
            encode()


def test_a_shorter_last_block_is_checked_too() -> None:
    values = np.ones((3, 43), np.float32)
    values[2, 42] = np.nan

    with pytest.raises(ValueError, match="row 2, column 42 is nan"):
        kernels.encode_4bit("fp4", values)


F32, U8 = np.zeros((2, 48), np.float32), np.zeros(48, np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.encode_4bit("nf5", F32), ValueError, "quant_type must be nf4 or fp4, got 'nf5'"),
        (lambda: kernels.quant_map("int4"), ValueError, "quant_type must be nf4 or fp4, got 'int4'"),
        (lambda: kernels.encode_4bit("nf4", F32, block_size=48), ValueError,
         "block_size must be a power of two from 32 to 4096, got 48"),
        (lambda: kernels.encode_4bit("nf4", F32, block_size=16), ValueError,
         "block_size must be a power of two from 32 to 4096, got 16"),
        (lambda: kernels.encode_absmax(F32[0], block_size=8192), ValueError,
         "block_size must be a power of two from 32 to 4096, got 8192"),
        (lambda: kernels.encode_4bit("nf4", F32, threads=0), ValueError, "threads must be 1 to 1024, got 0"),
        (lambda: kernels.encode_4bit("nf4", F32[0]), ValueError, "values must have 2 dimensions, got 1"),
        (lambda: kernels.encode_int8_rows(F32.T), ValueError, "values must be C-contiguous"),
        (lambda: kernels.encode_int8_rows(F32.astype(np.float64)), TypeError,
         "values must be float32, float16 or bfloat16 (also as uint16 bits), got float64"),
        (lambda: kernels.decode_4bit("nf4", U8[:47], F32[0, :2], (2, 48)), ValueError,
         "96 values have 48 bytes, got 47"),
        (lambda: kernels.decode_4bit("nf4", U8, F32[0, :3], (2, 48)), ValueError,
         "96 values in blocks of 64 have 2 absmax, got 3"),
        (lambda: kernels.decode_4bit("nf4", U8, F32[0, :2], (-2, -48)), ValueError,
         "shape must be two sizes, got (-2, -48)"),
        (lambda: kernels.decode_4bit("nf4", U8, F32[0, :2], (2**32, 2**32)), ValueError,
         "shape must be two sizes, got (4294967296, 4294967296)"),
        (lambda: kernels.decode_4bit("nf4", U8.view(np.int8), F32[0, :2], (2, 48)), TypeError,
         "packed must be uint8, got int8"),
        (lambda: kernels.decode_4bit("nf4", U8, F32[0, :2].astype(np.float16), (2, 48)), TypeError,
         "absmax must be float32, got float16"),
        (lambda: kernels.encode_absmax(np.zeros(0, np.float32)), ValueError,
         "absmax has 0 values, their mean is not defined"),
        (lambda: kernels.encode_absmax(np.array([1, np.inf], np.float32)), ValueError,
         "absmax of block 1 is inf, only finite values can be encoded"),
        (lambda: kernels.encode_absmax(np.full(9, 3e38, np.float32)), ValueError,
         "the sum of absmax is above what float32 can hold"),
        (lambda: kernels.decode_absmax(U8, F32[0, :2], 0.0), ValueError,
         "48 codes in blocks of 256 have 1 nested_absmax, got 2"),
        (lambda: kernels.decode_int8_rows(np.zeros((2, 3), np.int8), F32[0, :3]), ValueError,
         "2 rows have 2 absmax, got 3"),
        (lambda: kernels.decode_int8_rows(np.zeros((2, 3), np.uint8), F32[0, :2]), TypeError,
         "codes must be int8, got uint8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_both_numbers(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        call()

    assert str(refused.value) == message
