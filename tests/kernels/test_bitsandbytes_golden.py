"""What bitsandbytes made of a few matrices (tests/kernels/make_bitsandbytes_golden.py): ours has the same bits."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import quantmill_kernels as kernels

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "bitsandbytes"
TYPES = ["nf4", "fp4"]
BLOCK_SIZES = [32, 64, 4096]


@cache
def load(name: str) -> dict[str, NDArray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


MATRICES = [case for case in load("inputs") if not case.startswith("absmax.")]
STATISTICS = [case for case in load("inputs") if case.startswith("absmax.")]


def assert_same_bits(ours: NDArray, theirs: NDArray) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_array_equal(ours.view(np.uint8), theirs.view(np.uint8))


def digest(values: NDArray) -> bytes:
    return hashlib.sha256(values.tobytes()).digest()


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("quant_type", TYPES)
@pytest.mark.parametrize("case", MATRICES)
def test_4bit_codes_and_absmax_are_bitsandbytes(case: str, quant_type: str, block_size: int) -> None:
    packed, absmax = kernels.encode_4bit(quant_type, load("inputs")[case], block_size=block_size)

    assert_same_bits(absmax, load("results")[f"{case}.{quant_type}.{block_size}.absmax"])
    assert_same_bits(packed, load("results")[f"{case}.{quant_type}.{block_size}.packed"])


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("quant_type", TYPES)
@pytest.mark.parametrize("case", MATRICES)
def test_4bit_values_are_bitsandbytes(case: str, quant_type: str, block_size: int) -> None:
    theirs = {name: load("results")[f"{case}.{quant_type}.{block_size}.{name}"] for name in ("packed", "absmax")}

    values = kernels.decode_4bit(quant_type, **theirs, shape=load("inputs")[case].shape, block_size=block_size)

    assert digest(values) == load("results")[f"{case}.{quant_type}.{block_size}.decoded_sha256"].tobytes()


@pytest.mark.parametrize("case", MATRICES)
def test_int8_codes_and_absmax_are_bitsandbytes(case: str) -> None:
    codes, absmax = kernels.encode_int8_rows(load("inputs")[case])

    assert_same_bits(absmax, load("results")[f"{case}.int8.absmax"])
    assert_same_bits(codes, load("results")[f"{case}.int8.codes"])


@pytest.mark.parametrize("case", MATRICES)
def test_int8_values_are_bitsandbytes(case: str) -> None:
    values = kernels.decode_int8_rows(*(load("results")[f"{case}.int8.{name}"] for name in ("codes", "absmax")))

    assert digest(values) == load("results")[f"{case}.int8.decoded_sha256"].tobytes()


@pytest.mark.parametrize("case", STATISTICS)
def test_double_quantized_absmax_is_bitsandbytes(case: str) -> None:
    codes, nested_absmax, offset = kernels.encode_absmax(load("inputs")[case])

    assert np.float32(offset).tobytes() == load("results")[f"{case}.offset"].tobytes()
    assert_same_bits(nested_absmax, load("results")[f"{case}.nested"])
    assert_same_bits(codes, load("results")[f"{case}.codes"])


@pytest.mark.parametrize("case", STATISTICS)
def test_absmax_read_back_is_bitsandbytes(case: str) -> None:
    theirs = [load("results")[f"{case}.{name}"] for name in ("codes", "nested", "offset")]

    absmax = kernels.decode_absmax(*theirs[:2], float(theirs[2]))

    assert digest(absmax) == load("results")[f"{case}.decoded_sha256"].tobytes()


@pytest.mark.parametrize("quant_type", TYPES)
def test_the_values_of_4bit_codes_are_bitsandbytes(quant_type: str) -> None:
    assert_same_bits(kernels.quant_map(quant_type), load("results")[f"quant_map.{quant_type}"])


def test_the_values_of_absmax_codes_are_bitsandbytes() -> None:
    assert_same_bits(kernels.dynamic_map(), load("results")["dynamic_map"])
