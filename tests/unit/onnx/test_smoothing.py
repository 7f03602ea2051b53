"""Channels of unequal size that are brought nearer to each other before they are rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from pydantic import ValidationError
from tests.onnx_models import SmallModel, array, one_product, run, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.testing import Run
from quantmill.verification.compare import compare
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.plugin import ONNX
from quantmill_onnx.smoothing import Channels, smoothing_scales

GENERATOR = np.random.default_rng(5)
UNEVEN = np.exp(GENERATOR.standard_normal(64)).astype(np.float32)
UNEVEN[7] = 60
X = GENERATOR.standard_normal((40, 64)).astype(np.float32) * UNEVEN
W = numpy_helper.to_array(one_product().graph.initializer[0])

Quantized = Callable[..., Path]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("samples") / "x.npz"
    np.savez(path, x=X)
    return str(path)


def channels_of(*batches: np.ndarray) -> Channels:
    found = Channels()
    for each in batches:
        found.add(each)
    return found


# The scales


def test_scales_are_powers_of_two_and_the_largest_channel_has_the_largest() -> None:
    scale = smoothing_scales(channels_of(X), lambda: [W], per_channel=True)

    assert set(np.log2(scale)) <= {-4.0, -3.0, -2.0, -1.0, 0.0}
    assert scale[7] == 1 == scale.max()
    assert scale.dtype == np.float32


def test_even_channels_are_left_as_they_are() -> None:
    even = GENERATOR.standard_normal((500, 64)).astype(np.float32)

    assert (smoothing_scales(channels_of(even), lambda: [W], per_channel=True) == 1).all()


def test_all_weights_that_take_an_activation_have_a_say() -> None:
    steep = np.abs(W) * (UNEVEN[:, None] < 10) + 1e4 * (UNEVEN[:, None] >= 10)  # what is large on both sides stays

    both = smoothing_scales(channels_of(X), lambda: [W, steep.astype(np.float32)], per_channel=True)

    assert not (both == smoothing_scales(channels_of(X), lambda: [W], per_channel=True)).all()


@pytest.mark.parametrize("x", [np.zeros((3, 64), np.float32), np.full((1, 64), 1e-38, np.float32), X])
@pytest.mark.parametrize("w", [np.zeros((64, 8), np.float32), np.full((64, 8), 1e-38, np.float32), W])
def test_channels_that_are_never_used_have_a_scale_too(x: np.ndarray, w: np.ndarray) -> None:
    scale = smoothing_scales(channels_of(x), lambda: [w], per_channel=False)

    assert np.isfinite(scale).all()
    assert scale.min() >= 1 / 16
    assert scale.max() == 1


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 39))
def test_channels_depend_neither_on_the_order_nor_on_the_batches(order: list[int], cut: int) -> None:
    batches = np.array_split(X, 6)
    whole, parts = channels_of(X[:cut], X[cut:]), channels_of(*(batches[number] for number in order))

    assert (whole.low == parts.low).all()
    assert (whole.high == parts.high).all()
    assert np.allclose(whole.squares, parts.squares)
    assert whole.rows == parts.rows == 40


# The product


def in_eight_bits(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_a_static_product_is_that_of_what_the_codes_stand_for(quantized: Quantized, samples: str, op_type: str) -> None:
    folder = quantized(one_product(op_type), mode="static", samples=samples)
    factors, weight = array(folder, "x_smoothing"), dict(ONNX.weights(folder))["w"]

    restored = in_eight_bits(X * factors, array(folder, "x_scale"), array(folder, "x_zero_point").astype(np.int32))
    expected = restored.astype(np.float64) @ (weight / factors[:, None])

    assert np.allclose(run(folder, x=X), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_dynamic_product_is_that_of_what_the_codes_stand_for(quantized: Quantized, samples: str) -> None:
    folder = quantized(one_product(), activations="tensor", samples=samples, smoothing=True)
    factors, weight = array(folder, "x_smoothing"), dict(ONNX.weights(folder))["w"]
    smooth = X * factors
    step = np.float32((smooth.max() - smooth.min()) / 255)

    restored = in_eight_bits(smooth, step, np.rint(-smooth.min() / step))
    expected = restored.astype(np.float64) @ (weight / factors[:, None])

    assert np.allclose(run(folder, x=X), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("params", [{"mode": "static"}, {"activations": "tensor", "smoothing": True}])
def test_uneven_channels_lose_less(quantized: Quantized, tmp_path: Path, samples: str, params: dict[str, Any]) -> None:
    plain = loss(quantized(one_product(), samples=samples, **{**params, "smoothing": False}))
    for name in ("source", "artifact"):
        (tmp_path / name).rename(tmp_path / f"plain-{name}")

    assert loss(quantized(one_product(), samples=samples, **params)) < 0.6 * plain


def loss(folder: Path) -> float:
    expected = X.astype(np.float64) @ W
    return float(np.linalg.norm(run(folder, x=X) - expected) / np.linalg.norm(expected))


# The graph


def test_an_activation_that_a_table_s_head_takes_is_not_smoothed(tmp_path: Path) -> None:
    samples = Path(__file__).parents[2] / "data" / "onnx_samples.npz"
    with open_checkpoint(SmallModel(tied=True).write(tmp_path / "model")) as checkpoint:
        plan = Run(ONNX, OnnxParams(mode="static", samples=str(samples)), checkpoint).plan

    assert plan.by_name["in.0"].scheme == "INT8-CHANNEL-SMOOTH"
    assert plan.by_name["table"].scheme == "INT8-ROW"


def test_a_weight_of_two_activations_keeps_both_as_they_are(tmp_path: Path) -> None:
    model = one_product(weight=np.eye(64, dtype=np.float32))
    model.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"], name="again"))
    model.graph.output[0].name = "z"
    np.savez(tmp_path / "x.npz", x=X)
    with open_checkpoint(save(model, tmp_path / "model")) as checkpoint:
        plan = Run(ONNX, OnnxParams(mode="static", samples=str(tmp_path / "x.npz")), checkpoint).plan

    assert plan.by_name["w"].scheme == "INT8-CHANNEL"


@pytest.mark.parametrize(
    ("params", "scheme"),
    [
        ({}, "INT8-CHANNEL-SMOOTH"),
        ({"symmetric": False}, "INT8-CHANNEL-ASYM-SMOOTH"),
        ({"target": "avx2"}, "INT8-CHANNEL-REDUCED-SMOOTH"),
        ({"per_channel": False}, "INT8-TENSOR-SMOOTH"),
    ],
)
def test_weights_are_read_back_within_the_bounds_of_their_scheme(
    tmp_path: Path, params: dict[str, Any], scheme: str
) -> None:
    x = GENERATOR.standard_normal((30, 1024)).astype(np.float32) * np.exp(2 * GENERATOR.standard_normal(1024))
    source = GENERATOR.standard_t(4, (1024, 128)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32))
    model = one_product(weight=source)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1024
    with open_checkpoint(save(model, tmp_path / "model")) as checkpoint:
        made = Run(ONNX, OnnxParams(mode="static", samples=str(tmp_path / "x.npz"), **params), checkpoint)
        made.write(made.quantize(), tmp_path / "artifact")

    read = next(iter(ONNX.read.load()(tmp_path / "artifact")))

    assert read.scheme == scheme
    assert compare(read.values.T, source.T, ONNX.block_bounds[scheme]).worst.share <= 1
    error = np.sqrt(np.mean((read.values - source) ** 2.0) / np.mean(source**2.0))
    assert 0.01 * ONNX.error_bounds[scheme] <= error <= ONNX.error_bounds[scheme]


def test_blocks_of_weights_alone_are_not_smoothed() -> None:
    with pytest.raises(ValidationError, match="smoothing is for activations in 8 bits"):
        OnnxParams(mode="weight_only", smoothing=True)
