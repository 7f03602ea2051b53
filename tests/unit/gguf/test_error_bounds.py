"""The bounds that verification uses hold for weights of many shapes, and are not idle."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import quantmill_kernels
from quantmill.checkpoints import Checkpoint
from quantmill.contract.ggml import DECODERS
from quantmill.verification.compare import compare
from quantmill_gguf.importance import BLOCK_SLACK, IGNORE_IMPORTANCE
from quantmill_gguf.plugin import BLOCK_BOUNDS, ERROR_BOUNDS
from quantmill_gguf.types import PLUS_ONE, TYPES

Arrays = dict[str, np.ndarray]


def decoded(scheme: str, values: np.ndarray) -> np.ndarray:
    """The values as the scheme keeps them."""
    if scheme == PLUS_ONE.name:
        return (values.astype(np.float32) + np.float32(1)) - np.float32(1)
    packed = quantmill_kernels.encode(scheme, values, threads=2).reshape(-1, TYPES[scheme].block_bytes)
    return DECODERS[scheme](packed).reshape(values.shape)


def relative_error(scheme: str, values: np.ndarray) -> float:
    source = values.astype(np.float64)
    return float(np.sqrt(np.mean((decoded(scheme, values) - source) ** 2) / np.mean(source**2)))


@pytest.mark.parametrize("scheme", ERROR_BOUNDS)
def test_no_distribution_exceeds_the_bound_and_one_comes_near(scheme: str, distributions: Arrays) -> None:
    errors = {name: relative_error(scheme, values.astype(np.float32)) for name, values in distributions.items()}
    assert max(errors.values()) <= ERROR_BOUNDS[scheme], errors
    assert max(errors.values()) >= 0.4 * ERROR_BOUNDS[scheme] or scheme == PLUS_ONE.name, errors


@pytest.mark.parametrize("scheme", ERROR_BOUNDS)
def test_trained_weights_stay_within_the_bound(scheme: str, millstone: Checkpoint) -> None:
    values = millstone.tensor("model.layers.1.mlp.down_proj.weight").values
    assert values.dtype == ml_dtypes.bfloat16
    assert relative_error(scheme, values) <= ERROR_BOUNDS[scheme]


@pytest.mark.parametrize("scheme", BLOCK_BOUNDS)
def test_no_block_exceeds_its_bound_and_one_comes_near(
    scheme: str, distributions: Arrays, unequal_blocks: Arrays
) -> None:
    shares = {
        name: compare(decoded(scheme, values), values, BLOCK_BOUNDS[scheme]).worst.share
        for name, each in (distributions | unequal_blocks).items()
        for values in [each.astype(np.float32)]
    }

    assert max(shares.values()) <= 0.95, shares
    assert max(shares.values()) >= 0.4 or scheme in ("F32", PLUS_ONE.name), shares


IMPORTANCE = {
    "log-normal": lambda cols: np.random.default_rng(0).lognormal(0, 3, cols),
    "one outlier": lambda cols: np.where(np.arange(cols) == 7, 1e4, 1.0),
    "one used column in 64": lambda cols: np.where(np.arange(cols) % 64 == 0, 1.0, 1e-6),
}


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("scheme", [name for name in ERROR_BOUNDS if name not in IGNORE_IMPORTANCE])
def test_unequal_importance_stays_within_the_tensor_s_bound_and_the_block_s_slack(
    scheme: str, importance: str, millstone: Checkpoint
) -> None:
    values = millstone.tensor("model.layers.1.mlp.down_proj.weight").values.astype(np.float32)
    weights = IMPORTANCE[importance](values.shape[1]).astype(np.float32)
    packed = quantmill_kernels.encode(scheme, values, imatrix=weights, threads=2)
    read = DECODERS[scheme](packed.reshape(-1, TYPES[scheme].block_bytes)).reshape(values.shape)

    error = compare(read, values, BLOCK_BOUNDS[scheme].relaxed(BLOCK_SLACK))

    assert error.squared_error / error.squared_source <= ERROR_BOUNDS[scheme] ** 2
    assert error.worst.share <= 0.8


# By how much a single block's scale may be off before it is found, for weights as models have them.
# docs/verification.md states these numbers.
FOUND = {"F16": 0.003, "BF16": 0.01, "Q8_0": 0.02, "Q6_K": 0.06, "Q5_1": 0.15, "Q5_K": 0.18, "Q4_K": 0.25, "Q4_1": 0.3}
FOUND |= {"Q5_0": 0.3, "IQ4_XS": 0.3, "IQ4_NL": 0.4, "Q3_K": 0.45, "Q4_0": 0.6, "Q2_K": 0.9}


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("scheme", FOUND)
def test_any_block_with_a_wrong_scale_is_found(scheme: str, sign: int, millstone: Checkpoint) -> None:
    values = millstone.tensor("model.layers.1.mlp.down_proj.weight").values[:16].astype(np.float32)
    bound, kept = BLOCK_BOUNDS[scheme], decoded(scheme, values)
    size = max(bound.group, bound.values)

    for start in range(0, values.size, size):
        wrong = kept.copy().reshape(-1)
        wrong[start : start + size] *= 1 + sign * FOUND[scheme]
        error = compare(wrong.reshape(values.shape), values, bound)
        assert error.worst.share > 1, start
        assert start <= error.worst.start < start + size
