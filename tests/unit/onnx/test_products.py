"""What ONNX Runtime computes with a quantized graph, beside plain definitions in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.onnx_models import SmallModel, one_product, run

from quantmill_onnx.inspection import cosine

Quantized = Callable[..., Path]
Weights = Callable[[Path], dict[str, np.ndarray]]

# Rows of different sizes, one of zeros, one with an outlier
X = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
X *= np.array([1, 100, 0.01, 0, 1], np.float32)[:, None]
X[4, 7] = 50


def in_eight_bits(x: np.ndarray) -> np.ndarray:
    """What DynamicQuantizeLinear's codes stand for (onnx, docs/Operators.md)."""
    least, most = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((most - least) / 255)
    zero = np.clip(np.rint(-least / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def by_row(x: np.ndarray) -> np.ndarray:
    row = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(1e-30))
    return in_eight_bits(x / row) * row


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"symmetric": False},
        {"per_channel": False},
        {"target": "avx2"},
        {"target": "avx2", "weight_type": "u8"},
        {"symmetric": False, "weight_type": "u8"},
        {"per_channel": False, "weight_type": "u8"},
    ],
)
@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_a_product_is_that_of_what_the_codes_stand_for(
    quantized: Quantized, weights: Weights, op_type: str, params: dict[str, Any]
) -> None:
    folder = quantized(one_product(op_type), **params)

    expected = by_row(X).astype(np.float64) @ weights(folder)["w"]

    assert np.allclose(run(folder, x=X), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(axis=1, keepdims=True))


def test_a_range_for_all_values_is_that_of_onnxruntime_s_own_tool(quantized: Quantized, weights: Weights) -> None:
    folder = quantized(one_product(), activations="tensor")

    assert np.allclose(run(folder, x=X), in_eight_bits(X) @ weights(folder)["w"], rtol=1e-3, atol=1e-2)


def test_a_product_of_a_product_is_quantized(quantized: Quantized, weights: Weights) -> None:
    model = one_product(weight=np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32))
    again = onnx.helper.make_node("MatMul", ["y", "w"], ["z"], name="again")
    model.graph.node.append(again)
    model.graph.output[0].name = "z"

    folder = quantized(model)

    w = weights(folder)["w"]
    expected = by_row(by_row(X) @ w) @ w
    assert cosine(run(folder, x=X)[0], expected[0]) > 0.9999


@pytest.mark.parametrize(("runtime", "ir_version"), [("1.16", 9), ("1.20", 10), ("1.23", 11), ("1.31", 12)])
def test_the_ir_version_is_one_that_the_runtime_takes(quantized: Quantized, runtime: str, ir_version: int) -> None:
    model = one_product()
    model.ir_version = 12

    folder = quantized(model, runtime=runtime)

    assert onnx.load(str(folder / "model.onnx")).ir_version == ir_version


def test_small_rows_beside_large_ones_keep_their_values(quantized: Quantized) -> None:
    model = one_product()
    expected = X[2] @ onnx.numpy_helper.to_array(model.graph.initializer[0])

    assert cosine(run(quantized(model), x=X)[2], expected) > 0.999


@pytest.mark.parametrize("algorithm", ["rtn", "hqq"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [64, 72])
def test_blocks_are_read_as_the_kernel_computes_with_them(
    quantized: Quantized, weights: Weights, bits: int, algorithm: str, rows: int
) -> None:
    weight = np.random.default_rng(2).standard_normal((rows, 32)).astype(np.float32)
    model = one_product(weight=weight)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = rows
    params = {"mode": "weight_only", "weight_bits": bits, "algorithm": algorithm, "symmetric": algorithm == "rtn"}
    folder = quantized(model, **params, accuracy_level=1)

    x = np.random.default_rng(3).standard_normal((3, rows)).astype(np.float32)

    assert np.allclose(run(folder, x=x), x @ weights(folder)["w"], rtol=1e-4, atol=1e-4)


def test_the_codes_of_four_bits_are_the_nearest(quantized: Quantized, weights: Weights) -> None:
    model = one_product()
    source = onnx.numpy_helper.to_array(model.graph.initializer[0])
    folder = quantized(model, mode="weight_only", weight_bits=4, block_size=64)

    blocks, found = source.T.reshape(32, 1, 64), weights(folder)["w"].T.reshape(32, 1, 64)
    step = 2 * np.abs(blocks).max(axis=2, keepdims=True) / 15

    assert (np.abs(found - blocks) <= step / 2 * 1.001).all()


@pytest.mark.parametrize("params", [{}, {"mode": "weight_only"}, {"embeddings": "keep"}])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_look_ups_gemms_and_transposes_stays_itself(
    quantized: Quantized, params: dict[str, Any], tied: bool
) -> None:
    model = SmallModel(tied=tied)
    folder = quantized(model.proto(), **params)
    source = folder.parent / "source"

    ids = np.random.default_rng(0).integers(0, model.vocab, (2, 9))

    assert cosine(run(folder, ids=ids), run(source, ids=ids)) > 0.9995


def test_the_same_source_and_parameters_give_the_same_bytes(quantized: Quantized, tmp_path: Path) -> None:
    first = (quantized(SmallModel().proto()) / "model.onnx").read_bytes()
    for folder in ("source", "artifact"):
        (tmp_path / folder).rename(tmp_path / f"first-{folder}")

    assert (quantized(SmallModel().proto()) / "model.onnx").read_bytes() == first
