"""The reader against the formats' definitions, one value at a time."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from quantmill.contract.reading import DecodedRows
from quantmill_fp8 import reader
from quantmill_fp8.reader import DECODERS

CODES = np.random.default_rng(0).permutation(np.arange(256, dtype=np.uint8).repeat(40))


def whole(rows: DecodedRows) -> np.ndarray:
    return rows.decode(0, rows.shape[0])


def e4m3(rows: int, cols: int) -> np.ndarray:
    return np.resize(CODES, (rows, cols)).view(ml_dtypes.float8_e4m3fn)


@pytest.mark.parametrize("cols", [1, 7, 128, 131, 200, 256])
def test_rows_are_codes_times_their_scale(cols: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK_VALUES", 300)  # several chunks
    codes, scale = e4m3(9, cols), np.linspace(0.5, 2, 9, dtype=np.float32)[:, None]

    scheme, rows = DECODERS[".weight", ".weight_scale"](codes, scale)

    assert scheme == "FP8"
    np.testing.assert_array_equal(whole(rows), codes.astype(np.float32) * scale)


@pytest.mark.parametrize("height", [1, 9])
def test_the_scale_of_the_inputs_is_none_of_the_weights(height: int) -> None:
    codes, scale = e4m3(height, 32), np.array([0.5], np.float32)

    scheme, rows = DECODERS[".weight", ".weight_scale", ".input_scale"](codes, scale, np.array([3], np.float32))

    assert scheme == "FP8-tensor"
    np.testing.assert_array_equal(whole(rows), codes.astype(np.float32) * np.float32(0.5))


@pytest.mark.parametrize(("height", "cols"), [(128, 256), (130, 200), (1, 131)])
def test_blocks_at_the_edge_may_be_smaller(height: int, cols: int) -> None:
    codes = e4m3(height, cols)
    scale = np.arange(1, 1 + -(-height // 128) * -(-cols // 128), dtype=np.float32).reshape(-(-height // 128), -1)

    scheme, rows = DECODERS[".weight", ".weight_scale_inv"](codes, scale)

    assert scheme == "FP8-128x128"
    row, col = np.indices((height, cols))
    np.testing.assert_array_equal(whole(rows), codes.astype(np.float32) * scale[row // 128, col // 128])


def test_the_first_of_two_four_bit_codes_is_in_the_low_nibble() -> None:
    packed = np.resize(np.array([0x2A, 0x75], np.uint8), (1, 16))  # -1, 1; 3, 6
    exponent = np.array([[128]], np.uint8)

    _, rows = DECODERS[".weight_packed", ".weight_scale"](packed, exponent)

    assert whole(rows)[0, :4].tolist() == [-2.0, 2.0, 6.0, 12.0]


def test_every_exponent_is_a_power_of_two_and_the_last_is_no_number() -> None:
    exponents = np.arange(256, dtype=np.uint8)[:, None]
    ones = np.full((256, 16), 0x22, np.uint8)

    _, rows = DECODERS[".weight_packed", ".weight_scale"](ones, exponents)

    assert [math.ldexp(1.0, exponent) for exponent in range(-127, 128)] == whole(rows)[:255, 0].tolist()
    assert np.isnan(whole(rows)[255]).all()


@pytest.mark.parametrize("parts", DECODERS)
def test_any_rows_are_those_of_the_whole(parts: tuple[str, ...]) -> None:
    four_bits = parts[0] == ".weight_packed"
    codes = (
        np.resize(CODES, (300, 64)) if four_bits else np.resize(CODES & 0x77, (300, 64)).view(ml_dtypes.float8_e4m3fn)
    )
    exponents = (np.arange(1200, dtype=np.uint32) % 200).astype(np.uint8).reshape(300, 4)
    scales = {".weight_packed .weight_scale": exponents, ".weight .weight_scale": exponents[:, :2]}
    by_blocks = np.linspace(0.5, 2, 3, dtype=np.float32)[:, None]
    companions = {
        ".weight_scale": scales.get(" ".join(parts), np.resize(CODES & 0x77, (300, 8)).view(ml_dtypes.float8_e4m3fn)),
        ".weight_scale_inv": by_blocks,
        ".weight_global_scale": np.array([3], np.float32),
        ".input_scale": np.array([3], np.float32),
    }
    if ".input_scale" in parts:
        companions[".weight_scale"] = np.array([0.5], np.float32)

    _, rows = DECODERS[parts](codes, *(companions[part] for part in parts[1:]))

    np.testing.assert_array_equal(rows.decode(100, 203), whole(rows)[100:203])
    assert rows.decode(7, 7).shape == (0, rows.shape[1])
