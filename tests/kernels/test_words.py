"""Word packing: GPTQ, AWQ GEMM and compressed-tensors pack-quantized."""

from collections.abc import Callable
from math import ceil
from pathlib import Path

import numpy as np
import pytest

import quantmill_kernels as kernels

GOLDEN = dict(np.load(Path(__file__).parents[1] / "data" / "golden" / "words.npz", allow_pickle=False))
GPTQ_BITS = (2, 3, 4, 8)
EVERY_BITS = tuple(range(1, 9))


def codes_of(bits: int, rows: int, cols: int, seed: int = 17) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, (rows, cols), dtype=np.uint8)


def signed(codes: np.ndarray, bits: int) -> np.ndarray:
    return (codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint32).view(np.int32)


def stream_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Each row as a little-endian stream of bits, by the definition: (rows, n) to (rows, ceil(n * bits / 32))."""
    stream = (codes[:, :, None] >> np.arange(bits)) & 1  # (rows, n, bits)
    stream = stream.reshape(len(codes), -1).astype(np.uint8)
    padded = np.zeros((len(codes), ceil(stream.shape[1] / 32) * 32), np.uint8)
    padded[:, : stream.shape[1]] = stream
    return np.packbits(padded, axis=1, bitorder="little").view(np.int32)


# ---- the words of the field's own packers ----


@pytest.mark.parametrize("bits", GPTQ_BITS)
def test_qweight_is_that_of_gptqmodel(bits: int) -> None:
    packed = kernels.pack_gptq(GOLDEN[f"codes.{bits}"], bits)

    np.testing.assert_array_equal(packed, GOLDEN[f"gptq.{bits}.qweight"])


@pytest.mark.parametrize("bits", GPTQ_BITS)
@pytest.mark.parametrize(("form", "golden"), [("gptq", "qzeros"), ("gptq_v2", "qzeros_v2")])
def test_qzeros_are_those_of_gptqmodel(bits: int, form: str, golden: str) -> None:
    packed = kernels.pack_gptq_zeros(GOLDEN[f"zeros.{bits}"], bits, format=form)

    np.testing.assert_array_equal(packed, GOLDEN[f"gptq.{bits}.{golden}"])


@pytest.mark.parametrize(("source", "golden"), [("codes.4", "awq.qweight"), ("zeros.4", "awq.qzeros")])
def test_awq_words_are_those_of_autoawq(source: str, golden: str) -> None:
    packed = kernels.pack_awq(GOLDEN[source])

    np.testing.assert_array_equal(packed, GOLDEN[golden])


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_weight_packed_is_that_of_compressed_tensors(bits: int) -> None:
    golden = GOLDEN[f"quantized.{bits}.weight_packed"]
    codes = np.ascontiguousarray(GOLDEN[f"codes.{bits}"][:, :77])

    packed = kernels.pack_quantized(signed(codes, bits), bits)

    np.testing.assert_array_equal(packed, golden)


@pytest.mark.parametrize("bits", EVERY_BITS)
def test_weight_zero_point_is_that_of_compressed_tensors(bits: int) -> None:
    golden = GOLDEN[f"quantized.{bits}.weight_zero_point"]
    zeros = GOLDEN[f"zeros.{bits}"][:77]

    packed = kernels.pack_quantized_zeros(signed(zeros, bits), bits)

    np.testing.assert_array_equal(packed, golden)


# ---- the layouts, word by word ----


def test_eight_codes_of_gptq_are_one_word_from_the_low_end() -> None:
    assert kernels.pack_gptq(np.arange(1, 9, dtype=np.uint8)[None], 4) == words(0x87654321)


def test_thirty_two_codes_of_3_bits_are_three_words() -> None:
    packed = kernels.pack_gptq((np.arange(32, dtype=np.uint8) % 8)[None], 3)

    np.testing.assert_array_equal(packed[:, 0], words(0x88FAC688, 0xC688FAC6, 0xFAC688FA))


def test_awq_interleaves_eight_outputs() -> None:
    outputs = np.arange(1, 9, dtype=np.uint8)[:, None]

    assert kernels.pack_awq(outputs) == words(0x86427531)
    assert kernels.pack_awq(outputs - 1) == words(0x75316420)


def test_pack_quantized_stores_signed_codes_above_zero() -> None:
    codes = np.array([[-8, -7, 0, 1, 7, -1, 2, 3]], np.int8)

    assert kernels.pack_quantized(codes, 4) == words(0xBA7F9810)


@pytest.mark.parametrize(
    ("form", "bits", "zero", "word"),
    [
        ("gptq", 2, 2, 0x55555555),
        ("gptq", 4, 8, 0x77777777),
        ("gptq", 8, 128, 0x7F7F7F7F),
        ("gptq", 4, 0, 0xFFFFFFFF),
        ("gptq_v2", 2, 2, 0xAAAAAAAA),
        ("gptq_v2", 4, 8, 0x88888888),
        ("gptq_v2", 8, 128, 0x80808080),
        ("gptq_v2", 4, 0, 0),
    ],
)
def test_the_zero_point_is_stored_by_the_convention_of_the_format(form: str, bits: int, zero: int, word: int) -> None:
    zeros = np.full((32, 1), zero, np.uint8)

    packed = kernels.pack_gptq_zeros(zeros, bits, format=form)

    np.testing.assert_array_equal(packed, np.broadcast_to(words(word), (1, bits)))


# ---- any size ----

SIZES = [(1, 1), (3, 8), (1, 100), (31, 33), (130, 65), (200, 1100)]


@pytest.mark.parametrize("bits", EVERY_BITS)
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_rows_of_any_length_are_streams_of_bits(bits: int, rows: int, cols: int) -> None:
    codes = codes_of(bits, rows, cols)

    packed = kernels.pack_quantized(codes, bits)

    np.testing.assert_array_equal(packed, stream_words(codes, bits))
    np.testing.assert_array_equal(kernels.unpack_quantized(packed, bits, cols), signed(codes, bits))


@pytest.mark.parametrize("bits", EVERY_BITS)
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_columns_of_any_length_are_streams_of_bits(bits: int, rows: int, cols: int) -> None:
    zeros = codes_of(bits, rows, cols)

    packed = kernels.pack_quantized_zeros(zeros, bits)

    np.testing.assert_array_equal(packed, stream_words(np.ascontiguousarray(zeros.T), bits).T)
    np.testing.assert_array_equal(kernels.unpack_quantized_zeros(packed, bits, rows), signed(zeros, bits))


@pytest.mark.parametrize("bits", GPTQ_BITS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (5, 96), (37, 1056), (200, 64)])
def test_qweight_of_any_size_holds_every_code(bits: int, rows: int, cols: int) -> None:
    codes = codes_of(bits, rows, cols)

    packed = kernels.pack_gptq(codes, bits)

    np.testing.assert_array_equal(packed, stream_words(codes, bits).T)
    np.testing.assert_array_equal(kernels.unpack_gptq(packed, bits), codes)


@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", GPTQ_BITS)
@pytest.mark.parametrize(("rows", "cols"), [(32, 1), (160, 5), (416, 70)])
def test_qzeros_of_any_size_hold_every_zero_point(form: str, bits: int, rows: int, cols: int) -> None:
    zeros = codes_of(bits, rows, cols)
    stored = (zeros - (form == "gptq")).astype(np.uint8) & (2**bits - 1)

    packed = kernels.pack_gptq_zeros(zeros, bits, format=form)

    np.testing.assert_array_equal(packed, stream_words(np.ascontiguousarray(stored.T), bits))
    np.testing.assert_array_equal(kernels.unpack_gptq_zeros(packed, bits, format=form), zeros)


@pytest.mark.parametrize(("rows", "cols"), [(8, 1), (24, 130), (136, 67)])
def test_awq_words_of_any_size_hold_every_code(rows: int, cols: int) -> None:
    codes = codes_of(4, rows, cols)
    interleaved = codes.T.reshape(cols, -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(cols, rows)

    packed = kernels.pack_awq(codes)

    np.testing.assert_array_equal(packed, stream_words(interleaved, 4))
    np.testing.assert_array_equal(kernels.unpack_awq(packed), codes)


Pack = Callable[..., np.ndarray]
PACKERS = [kernels.pack_gptq, kernels.pack_gptq_zeros, kernels.pack_quantized, kernels.pack_quantized_zeros]
UNPACKERS = [kernels.unpack_gptq, kernels.unpack_gptq_zeros]


@pytest.mark.parametrize("pack", PACKERS)
def test_no_codes_are_no_words(pack: Pack) -> None:
    assert pack(np.zeros((0, 32), np.uint8), 4).size == 0
    assert pack(np.zeros((32, 0), np.uint8), 4).size == 0


@pytest.mark.parametrize("pack", PACKERS)
def test_words_do_not_depend_on_threads(pack: Pack) -> None:
    codes = codes_of(3, 320, 2080)

    np.testing.assert_array_equal(pack(codes, 3, threads=4), pack(codes, 3))


@pytest.mark.parametrize("unpack", UNPACKERS)
def test_codes_do_not_depend_on_threads(unpack: Pack) -> None:
    packed = np.random.default_rng(2).integers(-(2**31), 2**31, (300, 330), dtype=np.int32)

    np.testing.assert_array_equal(unpack(packed, 3, threads=4), unpack(packed, 3))


def test_codes_and_words_may_stand_at_any_address() -> None:
    codes = codes_of(4, 16, 64)
    shifted = np.frombuffer(b"\0" + codes.tobytes(), np.uint8, offset=1).reshape(codes.shape)
    packed = kernels.pack_gptq(codes, 4)
    words_shifted = np.frombuffer(b"\0" + packed.tobytes(), np.uint8, offset=1).view(np.int32).reshape(packed.shape)

    np.testing.assert_array_equal(kernels.pack_gptq(shifted, 4), packed)
    np.testing.assert_array_equal(kernels.unpack_gptq(words_shifted, 4), codes)


# ---- what is refused ----


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pack", PACKERS)
def test_the_first_code_that_bits_do_not_hold_is_named(pack: Pack, threads: int) -> None:
    codes = codes_of(3, 320, 96)
    codes[170, 5], codes[171, 0], codes[319, 95] = 8, 9, 255

    with pytest.raises(ValueError) as refused:
        pack(codes, 3, threads=threads)

    assert str(refused.value) == "row 170, column 5 is 8, 3-bit uint8 codes are 0 to 7"


@pytest.mark.parametrize(("code", "bits"), [(8, 4), (-9, 4), (1, 1), (64, 7), (-128, 7)])
def test_a_signed_code_that_bits_do_not_hold_is_refused(code: int, bits: int) -> None:
    codes = np.zeros((2, 40), np.int8)
    codes[1, 39] = code

    with pytest.raises(ValueError) as refused:
        kernels.pack_quantized(codes, bits)

    span = f"{-(2 ** (bits - 1))} to {2 ** (bits - 1) - 1}"
    assert str(refused.value) == f"row 1, column 39 is {code}, {bits}-bit int8 codes are {span}"


def test_a_code_above_15_is_no_code_of_awq() -> None:
    codes = np.full((8, 3), 16, np.uint8)

    with pytest.raises(ValueError, match="row 0, column 0 is 16, 4-bit uint8 codes are 0 to 15"):
        kernels.pack_awq(codes)


SQUARE = np.zeros((32, 32), np.uint8)
WORDS = np.zeros((4, 4), np.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.pack_gptq(SQUARE, 5), "GPTQ has codes of 2, 3, 4, 8 bits, got 5"),
        (lambda: kernels.pack_quantized(SQUARE, 9), "pack-quantized has codes of 1, 2, 3, 4, 5, 6, 7, 8 bits, got 9"),
        (
            lambda: kernels.pack_gptq(np.zeros((2, 28), np.uint8), 3),
            "GPTQ fills whole words with 3-bit codes, 28 columns are not a multiple of 32",
        ),
        (
            lambda: kernels.pack_gptq_zeros(np.zeros((12, 2), np.uint8), 4),
            "GPTQ fills whole words with 4-bit codes, 12 rows are not a multiple of 8",
        ),
        (
            lambda: kernels.pack_awq(np.zeros((12, 2), np.uint8)),
            "AWQ fills whole words with 4-bit codes, 12 rows are not a multiple of 8",
        ),
        (
            lambda: kernels.pack_gptq_zeros(SQUARE, 4, format="gptq_v3"),
            "unknown format 'gptq_v3', the known ones are: gptq, gptq_v2",
        ),
        (lambda: kernels.unpack_gptq(WORDS, 3), "GPTQ fills 3 words with 32 codes, 4 words are not a multiple of that"),
        (lambda: kernels.unpack_quantized(WORDS, 4, 33), "33 columns of 4 bits do not fill 4 words"),
        (lambda: kernels.unpack_quantized(WORDS, 4, 24), "24 columns of 4 bits do not fill 4 words"),
        (lambda: kernels.unpack_quantized(WORDS, 8, 10**9), "1000000000 columns of 8 bits do not fill 4 words"),
        (lambda: kernels.unpack_quantized_zeros(WORDS, 4, -1), "rows must not be negative, got -1"),
        (lambda: kernels.pack_awq(SQUARE[:, ::2]), "codes must be C-contiguous"),
        (lambda: kernels.pack_awq(SQUARE[0]), "codes must have 2 dimensions, got 1"),
        (lambda: kernels.pack_awq(SQUARE, threads=0), "threads must be 1 to 1024, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        call()

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.pack_gptq(SQUARE.astype(np.int8), 4), "codes must be uint8, got int8"),
        (lambda: kernels.pack_gptq_zeros(SQUARE.astype(np.int32), 4), "zeros must be uint8, got int32"),
        (lambda: kernels.pack_quantized(SQUARE.astype(np.int32), 4), "codes must be int8 or uint8, got int32"),
        (lambda: kernels.unpack_awq(SQUARE), "words must be int32, got uint8"),
        (lambda: kernels.pack_awq([[1]]), "codes must be a numpy array, got list"),
    ],
)
def test_a_dtype_is_never_converted(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError) as refused:
        call()

    assert str(refused.value) == message
