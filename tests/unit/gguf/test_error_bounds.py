"""The bounds that verification uses hold for weights of many shapes, and are not idle."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import quantmill_kernels
from quantmill.checkpoints import Checkpoint
from quantmill_gguf.decode import DECODERS
from quantmill_gguf.plugin import ERROR_BOUNDS
from quantmill_gguf.types import TYPES

SHAPE = (64, 2048)


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(SHAPE)
    rare = rng.random(SHAPE)
    return {
        "uniform": rng.uniform(-1, 1, SHAPE),
        "normal": normal,
        "laplace": rng.laplace(size=SHAPE),
        "student t, 5": rng.standard_t(5, SHAPE),
        "student t, 3": rng.standard_t(3, SHAPE),
        "student t, 2": rng.standard_t(2, SHAPE),
        "log-normal": rng.lognormal(size=SHAPE) * rng.choice([-1, 1], SHAPE),
        "shifted": normal + 3,
        "one in a hundred": normal * (rare < 0.01),
        "20-fold outliers": normal * np.where(rare < 0.001, 20, 1),
        "100-fold outliers": normal * np.where(rare < 1 / 256, 100, 1),
    }


def relative_error(scheme: str, values: np.ndarray) -> float:
    packed = quantmill_kernels.encode(scheme, values, threads=2).reshape(-1, TYPES[scheme].block_bytes)
    source = values.astype(np.float64)
    return float(np.sqrt(np.mean((DECODERS[scheme](packed).reshape(values.shape) - source) ** 2) / np.mean(source**2)))


@pytest.mark.parametrize("scheme", ERROR_BOUNDS)
def test_no_distribution_exceeds_the_bound_and_one_comes_near(scheme: str) -> None:
    errors = {name: relative_error(scheme, values.astype(np.float32)) for name, values in distributions().items()}
    assert max(errors.values()) <= ERROR_BOUNDS[scheme], errors
    assert max(errors.values()) >= 0.4 * ERROR_BOUNDS[scheme], errors


@pytest.mark.parametrize("scheme", ERROR_BOUNDS)
def test_trained_weights_stay_within_the_bound(scheme: str, millstone: Checkpoint) -> None:
    values = millstone.tensor("model.layers.1.mlp.down_proj.weight").values
    assert values.dtype == ml_dtypes.bfloat16
    assert relative_error(scheme, values) <= ERROR_BOUNDS[scheme]
