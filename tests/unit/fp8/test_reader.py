"""The reader against the formats' definitions, one value at a time."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from quantmill_fp8 import reader
from quantmill_fp8.reader import DECODERS

CODES = np.random.default_rng(0).permutation(np.arange(256, dtype=np.uint8).repeat(40))


def e4m3(rows: int, cols: int) -> np.ndarray:
    return np.resize(CODES, (rows, cols)).view(ml_dtypes.float8_e4m3fn)


@pytest.mark.parametrize("cols", [1, 7, 128, 131, 200, 256])
def test_rows_are_codes_times_their_scale(cols: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK_VALUES", 300)  # several chunks
    codes, scale = e4m3(9, cols), np.linspace(0.5, 2, 9, dtype=np.float32)[:, None]

    scheme, values = DECODERS[".weight", ".weight_scale"](codes, scale)

    assert scheme == "FP8"
    np.testing.assert_array_equal(values, codes.astype(np.float32) * scale)


@pytest.mark.parametrize("rows", [1, 9])
def test_the_scale_of_the_inputs_is_none_of_the_weights(rows: int) -> None:
    codes, scale = e4m3(rows, 32), np.array([0.5], np.float32)

    scheme, values = DECODERS[".weight", ".weight_scale", ".input_scale"](codes, scale, np.array([3], np.float32))

    assert scheme == "FP8-tensor"
    np.testing.assert_array_equal(values, codes.astype(np.float32) * np.float32(0.5))


@pytest.mark.parametrize(("rows", "cols"), [(128, 256), (130, 200), (1, 131)])
def test_blocks_at_the_edge_may_be_smaller(rows: int, cols: int) -> None:
    codes = e4m3(rows, cols)
    scale = np.arange(1, 1 + -(-rows // 128) * -(-cols // 128), dtype=np.float32).reshape(-(-rows // 128), -1)

    scheme, values = DECODERS[".weight", ".weight_scale_inv"](codes, scale)

    assert scheme == "FP8-128x128"
    row, col = np.indices((rows, cols))
    np.testing.assert_array_equal(values, codes.astype(np.float32) * scale[row // 128, col // 128])


def test_the_first_of_two_four_bit_codes_is_in_the_low_nibble() -> None:
    packed = np.resize(np.array([0x2A, 0x75], np.uint8), (1, 16))  # -1, 1; 3, 6
    exponent = np.array([[128]], np.uint8)

    _, values = DECODERS[".weight_packed", ".weight_scale"](packed, exponent)

    assert values[0, :4].tolist() == [-2.0, 2.0, 6.0, 12.0]
