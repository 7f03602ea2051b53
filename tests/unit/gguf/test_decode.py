"""The numpy decoders against the gguf package, the native ones, and the format's worked examples."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import quantmill_kernels
from quantmill.contract.ggml import DECODERS
from quantmill_gguf.types import TYPES

# Bytes of a block that are float16, or an exponent; elsewhere the first two
HALVES = {
    "F32": [0, 1, 2, 3],
    "Q4_1": [0, 1, 2, 3],
    "Q5_1": [0, 1, 2, 3],
    "Q2_K": [80, 81, 82, 83],
    "Q3_K": [108, 109],
    "Q4_K": [0, 1, 2, 3],
    "Q5_K": [0, 1, 2, 3],
    "Q6_K": [208, 209],
    "TQ1_0": [52, 53],
    "TQ2_0": [64, 65],
    "MXFP4": [0],
}


@pytest.fixture
def blocks(request: pytest.FixtureRequest) -> np.ndarray:
    """Random blocks of one type: every bit of the layout takes both values. Half-floats stay finite."""
    type_ = TYPES[request.param]
    values = np.random.default_rng(3).standard_normal((64, type_.block_values)).astype(np.float32)
    packed = quantmill_kernels.encode(type_.name, values).reshape(-1, type_.block_bytes)
    noise = np.random.default_rng(4).integers(0, 256, packed.shape, np.uint8)
    keep = HALVES.get(type_.name, [0, 1])
    noise[:, keep] = packed[:, keep]
    return noise


@pytest.mark.parametrize(("blocks", "name"), [(name, name) for name in TYPES], indirect=["blocks"])
def test_random_blocks_decode_as_the_gguf_package_decodes_them(blocks: np.ndarray, name: str) -> None:
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    np.testing.assert_allclose(DECODERS[name](blocks), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("blocks", "name"), [(name, name) for name in TYPES], indirect=["blocks"])
def test_random_blocks_decode_as_the_kernels_decode_them(blocks: np.ndarray, name: str) -> None:
    expected = quantmill_kernels.decode(name, blocks, TYPES[name].block_values)
    np.testing.assert_allclose(DECODERS[name](blocks), expected, rtol=1e-6, atol=1e-9)


def block(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(1, -1)


def test_q4_0_holds_far_halves_in_one_byte() -> None:
    decoded = DECODERS["Q4_0"](block("0038" + "00112233445566778899aabbccddeeff"))
    assert decoded[0].tolist() == [(j % 16 - 8) / 2 for j in range(32)]


def test_q8_0_is_a_scale_and_signed_bytes() -> None:
    decoded = DECODERS["Q8_0"](block("003c" + bytes(range(112, 144)).hex()))  # d = 1
    assert decoded[0].tolist() == [*range(112, 128), *range(-128, -112)]


def test_q4_k_unpacks_six_bit_scales_and_minima() -> None:
    packed = "81 82 83 c4 45 86 c7 c8 01 02 03 ff"  # scales 1 2 3 4 33 34 35 63, minima 5 6 7 8 16 32 48 63
    decoded = DECODERS["Q4_K"](block("003c 003c" + packed + "11" * 128))[0].reshape(8, 32)
    scales, minima = [1, 2, 3, 4, 33, 34, 35, 63], [5, 6, 7, 8, 16, 32, 48, 63]
    assert decoded[:, 0].tolist() == [scale - low for scale, low in zip(scales, minima, strict=True)]
