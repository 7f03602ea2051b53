"""GPTQ's mathematics on one Linear, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.contract.hessians import inverse_factor
from quantmill_gptq.bounds import tolerance
from quantmill_gptq.params import GptqParams
from quantmill_gptq.solution import ORDERS, Inputs, Solution, nearest, output_error, solve

V2 = {"format": "gptq_v2"}
SETTINGS: dict[str, dict[str, Any]] = {
    "of itself": {},
    "within groups": {"static_groups": False},
    "checkpoint's order": {"act_group_aware": False, "static_groups": False},
    "descending": {"desc_act": True},
    "descending, static": {"desc_act": True, "static_groups": True},
    "rows": {"group_size": -1},
    "zero points": {"sym": False, **V2},
    "not searched": {"mse": 0},
}


def params(**given: Any) -> GptqParams:
    return GptqParams(**{"group_size": 32, **V2, **given})


def weights_of(rows: int, cols: int, seed: int = 3) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(5, (rows, cols)) * 0.02).astype(np.float32)


def hessian_of(cols: int, tokens: int = 1000, dead: tuple[int, ...] = (), seed: int = 4) -> np.ndarray:
    """Of correlated inputs of unlike magnitudes."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((tokens, cols)) @ (np.eye(cols) + rng.standard_normal((cols, cols)) / cols**0.5)
    inputs *= rng.random(cols) ** 2 + 0.05
    inputs[:, dead] = 0
    return (inputs.T @ inputs / tokens).astype(np.float32)


def solved(weights: np.ndarray, hessian: np.ndarray, chosen: GptqParams) -> Solution:
    return solve(weights, Inputs(hessian, chosen), chosen, "float16")


def rounded(weights: np.ndarray, chosen: GptqParams) -> Solution:
    return nearest(weights, np.arange(weights.shape[1]), chosen, "float16")


# ---- what is lost ----


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_outputs_are_closer_than_those_of_rounding_to_nearest(bits: int, setting: str) -> None:
    weights, hessian = weights_of(48, 128), hessian_of(128)
    chosen = params(bits=bits, **SETTINGS[setting])

    errors = weights - solved(weights, hessian, chosen).weights()

    assert output_error(errors, hessian) < 0.75 * output_error(weights - rounded(weights, chosen).weights(), hessian)


def test_the_order_of_the_activations_helps() -> None:
    weights, hessian = weights_of(64, 256), hessian_of(256)
    lost = {
        name: output_error(weights - solved(weights, hessian, params(bits=3, **setting)).weights(), hessian)
        for name, setting in SETTINGS.items()
    }

    assert lost["within groups"] < lost["checkpoint's order"]
    assert lost["descending"] < lost["checkpoint's order"]


@given(st.integers(1, 6), st.sampled_from([2, 3, 4, 8]), st.sampled_from(sorted(SETTINGS)), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_every_code_is_one_of_the_bits_and_every_input_has_a_group(
    groups: int, bits: int, setting: str, seed: int
) -> None:
    chosen = params(bits=bits, **SETTINGS[setting])
    weights, hessian = weights_of(5, 32 * groups, seed), hessian_of(32 * groups, 40, seed=seed)

    solution = solved(weights, hessian, chosen)

    size = 32 * groups if chosen.group_size == -1 else 32
    assert solution.codes.max() < 2**bits
    assert np.array_equal(np.bincount(solution.group_index), np.full(32 * groups // size, size))
    if not chosen.reorders_groups:
        assert np.array_equal(solution.group_index, np.arange(32 * groups) // size)


# ---- orders ----


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("checkpoint", [0, 1, 2, 3, 4, 5]),
        ("descending", [4, 2, 0, 5, 1, 3]),
        ("within_groups", [4, 5, 3, 2, 0, 1]),
    ],
)
def test_an_order_is_that_of_the_mean_squares(order: str, expected: list[int]) -> None:
    mean_squares = np.array([3, 2, 4, 1, 9, 3], np.float32)

    assert ORDERS[order](mean_squares, 3).tolist() == expected


# ---- the factor ----


@pytest.mark.parametrize("cols", [1, 5, 64, 65, 200])
def test_the_factor_is_that_of_the_damped_inverse(cols: int) -> None:
    hessian, order = hessian_of(cols), np.random.default_rng(0).permutation(cols)

    damp, factor = inverse_factor(hessian, order, 0.05, 0.01)

    ordered = hessian[np.ix_(order, order)].astype(np.float64)
    damped = ordered + 0.05 * np.diag(ordered).mean() * np.eye(cols)
    assert damp == 0.05
    assert np.array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(cols), atol=2e-4)


def test_damping_grows_until_a_singular_hessian_has_a_factor() -> None:
    hessian = np.outer(np.arange(1, 65), np.arange(1, 65)).astype(np.float32)
    hessian -= 40 * np.eye(64, dtype=np.float32)  # below zero, as sums in float32 can be

    damp, factor = inverse_factor(hessian, np.arange(64), 0.01, 0.01)

    assert damp == pytest.approx(0.03)  # 40 of a mean of 1357
    assert np.isfinite(factor).all()


def test_what_has_no_factor_with_any_damping_is_refused() -> None:
    hessian = np.full((4, 4), np.nan, np.float32)

    with pytest.raises(ValueError, match="4 inputs has no factor"):
        inverse_factor(hessian, np.arange(4), 0.05, 0.01)


def test_one_thread_of_torch_is_used_and_given_back() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()

    inverse_factor(hessian_of(64), np.arange(64), 0.05, 0.01)

    assert torch.get_num_threads() == before


# ---- inputs that calibration did not reach ----


def test_features_that_are_always_zero_are_rounded_to_nearest() -> None:
    dead = (0, 31, 32, 95)
    weights, hessian, chosen = weights_of(16, 96), hessian_of(96, dead=(0, 31, 32, 95)), params(static_groups=True)

    solution = solved(weights, hessian, chosen)

    assert np.array_equal(solution.weights()[:, dead], rounded(weights, chosen).weights()[:, dead])


def test_an_expert_that_saw_no_token_is_rounded_to_nearest() -> None:
    weights, chosen = weights_of(16, 96), params(act_group_aware=False)

    solution = solved(weights, np.zeros((96, 96), np.float32), chosen)

    assert np.array_equal(solution.codes, rounded(weights, chosen).codes)


def test_fewer_tokens_than_features_are_enough() -> None:
    weights, hessian, chosen = weights_of(16, 96), hessian_of(96, tokens=3), params()

    errors = weights - solved(weights, hessian, chosen).weights()

    assert output_error(errors, hessian) < 0.1 * output_error(weights - rounded(weights, chosen).weights(), hessian)


# ---- how far weights may go ----


def nearly_dependent(cols: int) -> np.ndarray:
    """One strong feature that all the faint ones follow: to make up for its error, they would have to go far."""
    strengths = np.full(cols, 1e-3)
    strengths[0] = 1
    return (np.outer(strengths, strengths) + 1e-12 * np.eye(cols)).astype(np.float32)


def test_weights_that_would_go_too_far_are_damped_more() -> None:
    weights, hessian = weights_of(32, 96), nearly_dependent(96)
    chosen = params(bits=2, damp_percent=1e-7, damp_auto_increment=1e-7)

    solution = solved(weights, hessian, chosen)

    assert solution.damp > 1e-6
    assert tolerance(2, 32).accepts(weights, solution.weights())


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_code(threads: int) -> None:
    weights, hessian, chosen = weights_of(160, 256), hessian_of(256), params()

    one, more = (solve(weights, Inputs(hessian, chosen), chosen, "float16", each) for each in (1, threads))

    assert np.array_equal(one.codes, more.codes)
    assert np.array_equal(one.scales, more.scales)


def test_a_weight_beyond_the_scales_dtype_is_refused() -> None:
    weights = weights_of(4, 32)
    weights[2, 7] = 1e9

    with pytest.raises(ValueError, match="row 2"):
        solved(weights, hessian_of(32), params())
