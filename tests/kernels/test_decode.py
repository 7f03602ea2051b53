import gguf
import numpy as np
import pytest

import quantmill_kernels as kernels

BLOCKS = 6


def random_bytes(name: str, rows: int, blocks: int) -> np.ndarray:
    rng = np.random.default_rng(31)
    return rng.integers(0, 256, (rows, blocks * kernels.formats()[name].block_bytes), dtype=np.uint8)


@pytest.mark.parametrize("name", kernels.formats())
def test_any_bytes_decode_to_what_gguf_py_reads_in_them(name: str) -> None:
    packed = random_bytes(name, rows=40, blocks=BLOCKS)
    kind = gguf.GGMLQuantizationType[name]

    values = kernels.decode(name, packed, BLOCKS * kernels.formats()[name].block_values)

    with np.errstate(all="ignore"):
        expected = gguf.dequantize(packed, kind)
    np.testing.assert_array_equal(values, expected.astype(np.float32, copy=False))


@pytest.mark.parametrize("name", kernels.formats())
def test_sizes_are_those_of_gguf_py(name: str) -> None:
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (
        kernels.formats()[name].block_values,
        kernels.formats()[name].block_bytes,
    )


@pytest.mark.parametrize("name", kernels.formats())
def test_packed_bytes_may_stand_at_any_address(name: str) -> None:
    packed = random_bytes(name, rows=3, blocks=BLOCKS)
    cols = BLOCKS * kernels.formats()[name].block_values
    shifted = np.frombuffer(b"\0" + packed.tobytes(), np.uint8, offset=1).reshape(packed.shape)

    values = kernels.decode(name, shifted, cols)

    np.testing.assert_array_equal(values, kernels.decode(name, packed, cols))


def test_every_float16_keeps_its_value() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)

    values = kernels.decode("F16", every.view(np.uint8), 256)

    np.testing.assert_array_equal(values, every.view(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("cols", "message"),
    [
        (480, "480 columns of Q8_0 are 15 blocks of 34 bytes, a row of packed has 544 bytes"),
        (2**40, "1099511627776 columns of Q8_0 are 34359738368 blocks of 34 bytes, a row of packed has 544 bytes"),
        (500, "Q8_0 packs blocks of 32 values, 500 columns are not a multiple of that"),
        (-32, "Q8_0 packs blocks of 32 values, -32 columns are not a multiple of that"),
    ],
)
def test_columns_that_do_not_fit_the_bytes_are_refused_with_both_numbers(cols: int, message: str) -> None:
    packed = random_bytes("Q8_0", rows=2, blocks=16)

    with pytest.raises(ValueError) as refused:
        kernels.decode("Q8_0", packed, cols)

    assert str(refused.value) == message


def test_bytes_that_are_no_whole_number_of_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="32 columns of Q8_0 are 1 blocks of 34 bytes, a row of packed has 35 bytes"):
        kernels.decode("Q8_0", np.zeros((2, 35), np.uint8), 32)


@pytest.mark.parametrize(
    ("packed", "error", "message"),
    [
        (b"\0" * 34, TypeError, "packed must be a numpy array, got bytes"),
        (np.zeros((1, 34), np.int8), TypeError, "packed must be uint8, got int8"),
        (np.zeros(34, np.uint8), ValueError, "packed must have 2 dimensions, got 1"),
        (np.zeros((2, 68), np.uint8)[:, ::2], ValueError, "packed must be C-contiguous"),
    ],
    ids=["not an array", "not bytes", "one dimension", "strided"],
)
def test_packed_of_another_kind_is_refused(packed: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        kernels.decode("Q8_0", packed, 32)

    assert str(refused.value) == message


def test_no_rows_and_no_columns_decode_to_nothing() -> None:
    assert kernels.decode("Q4_K", np.zeros((0, 144), np.uint8), 256).shape == (0, 256)
    assert kernels.decode("Q4_K", np.zeros((5, 0), np.uint8), 0).shape == (5, 0)
