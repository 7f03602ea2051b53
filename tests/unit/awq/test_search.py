"""The search against a slow one that follows the formulas, token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantmill.contract.scaling import candidates, magnitudes
from quantmill_awq.bounds import Tolerance, tolerance
from quantmill_awq.rounding import Grid, rounded
from quantmill_awq.search import find_clipping, find_scales, scaled_loss, workers

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "awq.npz"  # make_golden.py
GROUP = 32
ANY = Tolerance(np.inf, np.inf)
ASYMMETRIC, SYMMETRIC = Grid(4, GROUP, False, "F32"), Grid(4, GROUP, True, "F32")


@pytest.fixture
def inputs() -> np.ndarray:
    """float64 (tokens, 64); every eighth channel is twelve times as large."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 64)) + rng.standard_normal((300, 1))
    x[:, ::8] *= 12
    return x


@pytest.fixture
def weights() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((rows, 64)).astype(np.float32) for rows in (24, 40)]


def hessian(x: np.ndarray) -> np.ndarray:
    return (x.T @ x / len(x)).astype(np.float32)


def slowly_rounded(weight: np.ndarray, grid: Grid, share: float = 1.0) -> np.ndarray:
    read = np.empty_like(weight, np.float64)
    for row, start in np.ndindex(len(weight), weight.shape[1] // grid.group_size):
        at = slice(start * grid.group_size, (start + 1) * grid.group_size)
        group = weight[row, at].astype(np.float32)  # as the kernels: else halves round to other sides
        limit = np.abs(group).max() * np.float32(share)
        low, high = max(min(group.min(), np.float32(0)), -limit), min(max(group.max(), np.float32(0)), limit)
        if grid.symmetric:
            scale, zero = np.float32(2) * max(-low, high) / np.float32(15), 8
        else:
            scale = (high - low) / np.float32(15)
            zero = min(max(np.rint(-low / scale), 0), 15)
        read[row, at] = scale * (np.clip(np.rint(group / scale) + zero, 0, 15) - zero)
    return read


def loss_of_outputs(weights: list[np.ndarray], x: np.ndarray, scales: np.ndarray, grid: Grid) -> float:
    """Mean square, over tokens, of what the outputs of all weights change."""
    lost = 0.0
    for weight in weights:
        error = slowly_rounded(weight * scales, grid) / scales - weight
        lost += float(np.square(x @ error.T).sum(axis=1).mean())
    return lost


@pytest.mark.parametrize("grid", [ASYMMETRIC, SYMMETRIC])
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_groups_are_rounded_as_the_formulas_have_it(weights: list[np.ndarray], grid: Grid, share: float) -> None:
    read = rounded(weights[0], grid, share).weights()

    assert np.allclose(read, slowly_rounded(weights[0], grid, share), atol=1e-5)


def test_a_group_is_rounded_to_the_words_of_the_example() -> None:
    group = np.zeros((1, 32), np.float32)
    group[0, :4] = -0.9, -0.3, 0, 0.7

    found = rounded(group, ASYMMETRIC)

    assert found.codes[0, :4].tolist() == [0, 5, 8, 15]
    assert found.zeros.tolist() == [[8]]
    assert np.allclose(found.scales, 1.6 / 15)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_group_of_one_sign_keeps_a_zero_point_that_its_bits_hold(sign: int) -> None:
    group = (sign * np.linspace(1.0, 1.1, 32, dtype=np.float32))[None]

    assert np.abs(rounded(group, ASYMMETRIC).weights() - group).max() < 1.1 / 15


@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_a_group_of_next_to_nothing_becomes_zeros(value: float) -> None:
    grid = Grid(4, GROUP, False, "F16")

    assert not rounded(np.full((1, 32), value, np.float32), grid).weights().any()


@pytest.mark.parametrize("grid", [ASYMMETRIC, SYMMETRIC])
def test_the_hessian_gives_the_loss_that_running_the_linears_gives(
    inputs: np.ndarray, weights: list[np.ndarray], grid: Grid
) -> None:
    scales = np.random.default_rng(2).uniform(0.5, 2, 64).astype(np.float32)

    loss = scaled_loss(weights, hessian(inputs), scales, grid, ANY)

    assert loss == pytest.approx(loss_of_outputs(weights, inputs, scales, grid), rel=1e-4)


def test_the_scales_that_lose_least_are_found(inputs: np.ndarray, weights: list[np.ndarray]) -> None:
    mean_abs = np.abs(inputs).mean(axis=0).astype(np.float32)
    tried = list(candidates(mean_abs, magnitudes(weights, GROUP), 8, "both"))
    with workers(2) as pool:
        found = find_scales(weights, hessian(inputs), tried, ASYMMETRIC, ANY, pool)

    losses = [loss_of_outputs(weights, inputs, scales, ASYMMETRIC) for scales in tried]
    assert loss_of_outputs(weights, inputs, found, ASYMMETRIC) == pytest.approx(min(losses), rel=1e-4)
    assert min(losses) < 0.8 * losses[0]  # no scales at all


def test_candidates_are_those_of_autoawq(inputs: np.ndarray, weights: list[np.ndarray]) -> None:
    x_mean, joined = np.abs(inputs).mean(axis=0), np.concatenate(weights).astype(np.float64)
    groups = np.abs(joined).reshape(-1, GROUP)
    w_mean = (groups / (groups.max(axis=1, keepdims=True) + 1e-6)).reshape(joined.shape).mean(axis=0)
    expected = []
    for ratio in (0, 0.25, 0.5, 0.75):
        scales = np.maximum(x_mean**ratio / (w_mean ** (1 - ratio) + 1e-4), 1e-4)
        expected.append(scales / np.sqrt(scales.max() * scales.min()))

    found = list(candidates(x_mean.astype(np.float32), magnitudes(weights, GROUP), 4, True))

    assert np.array_equal(found[0], np.ones(64))
    assert np.allclose(found[1:], expected, rtol=1e-4)


def test_a_channel_that_is_always_zero_has_a_scale_all_the_same() -> None:
    for scales in candidates(np.zeros(32, np.float32), np.ones(32, np.float32), 4, "both"):
        assert np.isfinite(scales).all()
        assert (scales > 0).all()


def test_each_group_is_clipped_to_where_its_output_changes_least(inputs: np.ndarray, weights: list[np.ndarray]) -> None:
    weight, scales = weights[0].copy(), np.ones(64, np.float32)
    weight[3, 5] = 9.0  # an outlier that clipping is good for
    with workers(1) as pool:
        found = find_clipping(weight, scales, hessian(inputs), 20, ASYMMETRIC, ANY, pool)

    for row, group in np.ndindex(found.shape):
        at = slice(GROUP * group, GROUP * (group + 1))
        losses = []
        for step in range(10):
            error = slowly_rounded(weight[row : row + 1, at], ASYMMETRIC, 1 - step / 20) - weight[row : row + 1, at]
            losses.append(np.square(inputs[:, at] @ error.T).mean())
        assert losses[round((1 - float(found[row, group])) * 20)] == pytest.approx(min(losses), rel=1e-3)
    assert found.min() < 1


def test_no_clipping_goes_beyond_what_verification_accepts(inputs: np.ndarray) -> None:
    """Channels without activations could be clipped at no loss; verification looks at weights."""
    weight = np.random.default_rng(3).standard_normal((16, 64)).astype(np.float32)
    with workers(1) as pool:
        found = find_clipping(
            weight, np.ones(64, np.float32), np.zeros((64, 64), np.float32), 20, ASYMMETRIC, tolerance(4, 32), pool
        )

    assert (found == 1).all()


def test_scales_that_weights_would_not_survive_are_not_taken(weights: list[np.ndarray]) -> None:
    mean_abs = np.ones(64, np.float32)
    mean_abs[::16] = 1e5
    strict = Tolerance(0.11, 1.0)
    tried = list(candidates(mean_abs, magnitudes(weights, GROUP), 20, False))
    with workers(1) as pool:
        found = find_scales(weights, np.diag(np.square(mean_abs)), tried, ASYMMETRIC, strict, pool)

    for weight in weights:
        scaled = weight * found
        error = rounded(scaled, ASYMMETRIC).weights() - scaled
        assert np.square(error).sum() <= 0.11**2 * np.square(scaled).sum()


@pytest.mark.parametrize("name", ["o_proj", "down_proj"])
def test_scales_are_those_that_llm_compressor_finds(name: str) -> None:
    with np.load(GOLDEN) as stored:
        x, weight, expected = (stored[f"{name}.{part}"] for part in ("inputs", "weight", "scales"))
    tried = list(candidates(np.abs(x).mean(axis=0), magnitudes([weight], GROUP), 18, True))  # its ratios below 1

    with workers(1) as pool:
        found = find_scales([weight], hessian(x.astype(np.float64)), tried, SYMMETRIC, ANY, pool)

    assert np.ptp(expected) > 1
    assert np.allclose(found, expected, rtol=1e-3)
