"""Scales that a fold moved are recovered from what was stored."""

from __future__ import annotations

import numpy as np
import pytest

from quantmill.contract.folds import FoldedSource
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import Fold, Plan, TensorPlan

RNG = np.random.default_rng(0)
SOURCE = {
    "norm.weight": RNG.uniform(0.5, 1.5, 8).astype(np.float32),
    "norm.bias": RNG.standard_normal(8).astype(np.float32),
    "up.weight": RNG.standard_normal((12, 8)).astype(np.float32),
    "up.bias": RNG.standard_normal(12).astype(np.float32),
    "down.weight": RNG.standard_normal((8, 6)).astype(np.float32),
}
OF_THE_NORM = Fold("norm.weight", ("up.weight",), "norm.bias")
OF_THE_LAST_ROWS = Fold("up.weight", ("down.weight",), "up.bias", first_row=6)
SCALES = RNG.uniform(0.5, 2, 8).astype(np.float32)
ROWS = RNG.uniform(0.5, 2, 6).astype(np.float32)


def folded(artifact: dict[str, np.ndarray], *folds: Fold) -> FoldedSource:
    rows = [TensorPlan(name, v.shape, "F32", "keep", "F32", name, v.nbytes) for name, v in SOURCE.items()]
    found = FoldedSource(Plan(tuple(rows), (), 0, folds=folds), SOURCE.__getitem__)
    for wave in found.waves:
        for name in sorted(wave):
            found.learn(ReadTensor(name, "F32", 0, artifact[name]))
    return found


def artifact() -> dict[str, np.ndarray]:
    """Both folds made, and up and down rounded a little."""
    made = {name: values.copy() for name, values in SOURCE.items()}
    made["norm.weight"] /= SCALES
    made["norm.bias"] /= SCALES
    made["up.weight"] *= SCALES
    made["up.weight"][6:] /= ROWS[:, None]
    made["up.bias"][6:] /= ROWS
    made["down.weight"] *= ROWS
    made["up.weight"] *= 1 + 0.01 * RNG.standard_normal((12, 8)).astype(np.float32)
    return made


def test_what_an_artifact_should_hold_is_the_source_with_its_scales() -> None:
    made = artifact()

    found = folded(made, OF_THE_NORM, OF_THE_LAST_ROWS)

    assert found.faults == {}
    for name, values in made.items():
        assert np.allclose(found.values(name), values, rtol=0.05, atol=0.02), name
    assert np.array_equal(found.values("norm.weight"), made["norm.weight"])
    assert np.allclose(found.scales(OF_THE_NORM), SCALES, rtol=1e-6)
    assert np.allclose(found.scales(OF_THE_LAST_ROWS), ROWS, rtol=0.02)


def test_a_tensor_of_no_fold_is_the_source_s_own_array() -> None:
    assert folded(artifact(), OF_THE_NORM).values("down.weight") is SOURCE["down.weight"]


def test_a_norm_that_multiplies_by_one_more_is_divided_so() -> None:
    made = {**SOURCE, "norm.weight": (SOURCE["norm.weight"] + 1) / SCALES - 1}

    found = folded(made, Fold("norm.weight", ("up.weight",), offset=1.0))

    assert np.allclose(found.scales(Fold("norm.weight", ("up.weight",))), SCALES, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-9])
def test_a_channel_that_no_positive_number_explains_is_named(value: float) -> None:
    made = artifact()
    made["norm.weight"][3] = value

    found = folded(made, OF_THE_NORM)

    assert found.faults["norm.weight"].startswith("channel 3 was divided by ")
    assert not np.array_equal(found.values("norm.weight"), made["norm.weight"])


def test_a_bias_that_was_not_divided_is_not_what_it_should_be() -> None:
    made = artifact()
    made["up.bias"] = SOURCE["up.bias"]

    found = folded(made, OF_THE_NORM, OF_THE_LAST_ROWS)

    assert np.allclose(found.values("up.bias")[6:], SOURCE["up.bias"][6:] / ROWS, rtol=0.05)
    assert np.array_equal(found.values("up.bias")[:6], SOURCE["up.bias"][:6])
