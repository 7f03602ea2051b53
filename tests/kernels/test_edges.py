"""What every format makes of zeros, of values alone in their block, of subnormals, of huge ranges, of NaN and infinity.

GGML's bytes for such rows are in test_golden.py; sanitizers and instruction sets meet them in native/codec_laws.cpp.
"""

import numpy as np
import pytest

import quantmill_kernels as kernels

FORMATS = list(kernels.formats())
SMALLEST = {"F16": 2**-24, "BF16": 2**-133}  # subnormal of a format that has no scales
HOLD_EVERY_FLOAT32 = {"F32", "MXFP4"}
SCALED = [name for name in FORMATS if name not in {"F32", *SMALLEST}]
# Of the largest value of a block. MXFP4 has scales that are powers of two, and steps of 2 between its codes 4, 6 and 8.
MXFP4_ERROR, ERROR = 0.25, 0.005
COLS = 256


def through(name: str, values: np.ndarray) -> np.ndarray:
    """(rows, COLS) float32, encoded and decoded."""
    return kernels.decode(name, kernels.encode(name, values), COLS)


def error_of(name: str) -> float:
    return MXFP4_ERROR if name == "MXFP4" else ERROR


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zero(name: str, zero: float) -> None:
    zeros = np.full((2, COLS), zero, np.float32)

    decoded = through(name, zeros)

    np.testing.assert_array_equal(decoded, np.zeros((2, COLS)))


@pytest.mark.parametrize("value", [1.0, -1.0, 0.3, -100.0])
@pytest.mark.parametrize("name", FORMATS)
def test_a_block_of_one_value_keeps_it(name: str, value: float) -> None:
    same = np.full((1, COLS), value, np.float32)

    decoded = through(name, same)

    np.testing.assert_allclose(decoded, same, rtol=error_of(name))


@pytest.mark.parametrize("value", [1.0, -1.0, 100.0, -100.0])
@pytest.mark.parametrize("name", FORMATS)
def test_a_value_alone_in_its_block_is_kept_and_its_neighbours_stay_near_zero(name: str, value: float) -> None:
    row = np.zeros((1, COLS), np.float32)
    row[0, 37] = value

    decoded = through(name, row)[0]

    assert decoded[37] == pytest.approx(value, rel=error_of(name))
    assert np.abs(np.delete(decoded, 37)).max() <= abs(value) / 120  # IQ4_NL has no code for 0, its least is 1 of 127


@pytest.mark.parametrize("name", FORMATS)
def test_a_value_a_hundred_million_times_its_neighbours_is_kept(name: str) -> None:
    row = np.full((1, COLS), 3e-4, np.float32)
    row[0, 100] = 3e4

    decoded = through(name, row)[0]

    assert decoded[100] == pytest.approx(3e4, rel=error_of(name))
    assert np.abs(np.delete(decoded, 100)).max() <= 3e4 / 120


@pytest.mark.parametrize("name", SMALLEST)
def test_subnormals_are_kept_and_round_to_even(name: str) -> None:
    row = np.zeros((1, COLS), np.float32)
    row[0, :4] = np.array([1, -1, 0.5, 1.5]) * SMALLEST[name]

    decoded = through(name, row)[0]

    assert (decoded[:4] / SMALLEST[name]).tolist() == [1, -1, 0, 2]


@pytest.mark.parametrize("value", [6e-8, -3e-9, 1e-20, 1e-42, -1e-45])
@pytest.mark.parametrize("name", SCALED)
def test_what_is_too_small_for_a_scale_comes_close_to_zero(name: str, value: float) -> None:
    smallest_scale = 2.0**-24

    decoded = through(name, np.full((1, COLS), value, np.float32))

    assert np.abs(decoded - value).max() <= abs(value) + smallest_scale


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("bad", "word"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_a_value_that_is_not_finite_is_refused_with_its_row_and_column(name: str, bad: float, word: str) -> None:
    values = np.zeros((3, COLS), np.float32)
    values[1, 255] = values[2, 0] = bad

    with pytest.raises(ValueError) as refused:
        kernels.encode(name, values)

    assert str(refused.value) == f"row 1, column 255 is {word}, only finite values can be encoded"


LARGEST_FLOAT32 = np.finfo(np.float32).max


@pytest.mark.parametrize("name", sorted({*FORMATS} - HOLD_EVERY_FLOAT32))
def test_the_largest_float32_is_refused_with_its_place_and_the_limit(name: str) -> None:
    values = np.zeros((2, COLS), np.float32)
    values[1, 3] = LARGEST_FLOAT32

    with pytest.raises(
        ValueError, match=rf"^row 1, column 3 is 3\.4028235e\+38, the largest magnitude {name} can hold is \d"
    ):
        kernels.encode(name, values)


@pytest.mark.parametrize("name", sorted(HOLD_EVERY_FLOAT32))
def test_a_format_of_wide_scales_holds_the_largest_float32(name: str) -> None:
    decoded = through(name, np.full((1, COLS), LARGEST_FLOAT32, np.float32))

    np.testing.assert_allclose(decoded, LARGEST_FLOAT32, rtol=error_of(name))


@pytest.mark.parametrize("name", FORMATS)
def test_one_block_alone_is_the_first_of_many(name: str) -> None:
    block = kernels.formats()[name].block_values
    values = (np.random.default_rng(6).standard_t(4, (1, 5 * block)) * 0.02).astype(np.float32)

    alone = kernels.encode(name, values[:, :block])

    np.testing.assert_array_equal(alone[0], kernels.encode(name, values)[0, : alone.shape[1]])
