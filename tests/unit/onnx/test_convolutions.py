"""Convolutions of integers, with ranges that samples have given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.onnx_models import array, fused, run, save

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import SourceRejected, VerificationFailed
from quantmill.contract.tensors import Plan
from quantmill.contract.testing import Run
from quantmill.verification.compare import compare
from quantmill_onnx.inspection import cosine
from quantmill_onnx.plugin import ONNX

FLOAT = onnx.TensorProto.FLOAT
SAMPLES = 6


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: tuple[int, ...],
    outputs: Iterable[str] = ("y",),
    rank: int = 4,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual() -> onnx.ModelProto:
    """A stem with a bias, a bottleneck of 1x1, depthwise and grouped filters around which a sum goes, a classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "stem", "stem.bias"], ["a"], name="stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["ar"], name="stem/Relu"),
        helper.make_node("Conv", ["ar", "wide"], ["b"], name="wide"),
        helper.make_node("Relu", ["b"], ["br"]),
        helper.make_node("Conv", ["br", "deep", "deep.bias"], ["c"], name="deep", pads=[1, 1, 1, 1], group=32),
        helper.make_node("Relu", ["c"], ["cr"]),
        helper.make_node("Conv", ["cr", "grouped"], ["d"], name="grouped", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Add", ["d", "ar"], ["e"]),
        helper.make_node("Relu", ["e"], ["er"]),
        helper.make_node("GlobalAveragePool", ["er"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "head.bias"], ["y"], name="head"),
    ]
    weights = {
        "stem": normal(16, 3, 3, 3) / 5,
        "stem.bias": normal(16),
        "wide": normal(32, 16, 1, 1) / 4,
        "deep": normal(32, 1, 3, 3) / 3,
        "deep.bias": normal(32),
        "grouped": normal(16, 16, 3, 3) / 12,
        "head": normal(16, 20),
        "head.bias": normal(20),
    }
    return model(nodes, weights, (3, 16, 16), rank=2)


FILTERS = ["deep", "grouped", "stem", "wide"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("samples") / "images.npz"
    np.savez(path, x=normal(SAMPLES, 3, 16, 16, seed=1))
    return str(path)


def made(proto: onnx.ModelProto, folder: Path, **params: Any) -> tuple[Plan, Path, list[str]]:
    """The plan, the artifact, and what of its inspection does not hold."""
    with open_checkpoint(save(proto, folder / "source")) as checkpoint:
        run = Run(ONNX, ONNX.params(mode="static", **params), checkpoint)
        run.write(run.quantize(), folder / "artifact")
        return run.plan, folder / "artifact", wrong(run, folder / "artifact")


def wrong(run: Run, folder: Path) -> list[str]:
    assert ONNX.inspect is not None
    inspection = ONNX.inspect.load()(folder, run.plan, run.source.index, run.params)
    return [f"{each.name}: {each.found}" for each in inspection.observations if not each.holds]


def convolution(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, stride: int, pad: int, group: int) -> np.ndarray:
    """Slowly: x (batch, in, ...), w (out, in of a group, ...)."""
    spatial = w.ndim - 2
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *[(pad, pad)] * spatial])
    sizes = [(x.shape[2 + axis] - w.shape[2 + axis]) // stride + 1 for axis in range(spatial)]
    y = np.zeros((len(x), len(w), *sizes))
    inputs, outputs = w.shape[1], len(w) // group
    for at in np.ndindex(*sizes):
        window = tuple(slice(i * stride, i * stride + k) for i, k in zip(at, w.shape[2:], strict=True))
        for out, filters in enumerate(w.astype(np.float64)):
            first = out // outputs * inputs
            seen = x[(slice(None), slice(first, first + inputs), *window)]
            y[(slice(None), out, *at)] = (seen * filters).reshape(len(x), -1).sum(axis=1)
    return y if bias is None else y + bias.reshape(1, -1, *[1] * spatial)


# outputs, inputs of a group, sizes; stride, pad, groups
SHAPES: dict[str, tuple[tuple[int, ...], int, int, int]] = {
    "3x3": ((8, 8, 3, 3), 1, 1, 1),
    "strided": ((8, 8, 3, 3), 2, 0, 1),
    "1x1": ((40, 8, 1, 1), 1, 0, 1),
    "groups": ((16, 4, 3, 3), 1, 1, 2),
    "depthwise": ((32, 1, 3, 3), 1, 1, 32),
    "one dimension": ((16, 8, 5), 2, 2, 1),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "u8": {},
    "s8": {"activation_type": "s8"},
    "one scale": {"per_channel": False},
    "7 bits": {"target": "avx2"},
    "weights of other nodes with zero points": {"symmetric": False},
    "qoperator": {"format": "qoperator"},
    "qoperator, s8": {"format": "qoperator", "activation_type": "s8"},
    "qoperator, one scale": {"format": "qoperator", "per_channel": False},
}
CASES = [
    *((shape, each, bias) for shape in SHAPES for each in ("u8", "qoperator") for bias in (True, False)),
    *(("3x3", each, True) for each in SETTINGS),
]


@pytest.mark.parametrize(("shape", "setting", "biased"), CASES)
def test_a_convolution_is_that_of_what_the_codes_stand_for(
    tmp_path: Path, shape: str, setting: str, biased: bool
) -> None:
    size, stride, pad, group = SHAPES[shape]
    spatial = len(size) - 2
    weights = {"w": normal(*size), **({"bias": normal(size[0])} if biased else {})}
    node = helper.make_node(
        "Conv", ["x", *weights], ["y"], strides=[stride] * spatial, pads=[pad] * 2 * spatial, group=group
    )
    x = normal(3, size[1] * group, *[7] * spatial, seed=2)
    np.savez(tmp_path / "x.npz", x=x)

    _, folder, problems = made(
        model([node], weights, x.shape[1:], rank=x.ndim), tmp_path, samples=str(tmp_path / "x.npz"), **SETTINGS[setting]
    )

    low, high = (-128, 127) if "s8" in setting else (0, 255)
    scale, zero = array(folder, "x_scale"), array(folder, "x_zero_point")
    seen = (np.clip(np.rint(x / scale) + zero, low, high) - zero) * scale
    expected = convolution(seen, dict(ONNX.weights(folder))["w"], weights.get("bias"), stride, pad, group)
    step, offset = float(array(folder, "y_scale")), int(array(folder, "y_zero_point"))
    expected = np.clip(expected, (low - offset) * step, (high - offset) * step)
    assert problems == []
    assert step < np.ptp(expected) / 200
    assert np.abs(run(folder, x=x) - expected).max() <= 0.51 * step


def test_every_filter_of_a_residual_network_becomes_integers_and_the_outputs_stay_near(
    tmp_path: Path, images: str
) -> None:
    plan, folder, problems = made(residual(), tmp_path, samples=images)
    x = normal(4, 3, 16, 16, seed=3)

    assert {row.name: row.scheme for row in plan.tensors if row.action == "quantize"} == {
        **dict.fromkeys(FILTERS, "INT8-FILTER"),
        "head": "INT8-CHANNEL-SMOOTH",
    }
    assert plan.by_name["grouped"].nbytes == 16 * 16 * 9 + 16 * 4
    assert problems == []
    assert cosine(run(folder, x=x), run(folder.parent / "source", x=x)) > 0.999


def test_the_runtime_fuses_every_convolution(tmp_path: Path, images: str) -> None:
    _, folder, _ = made(residual(), tmp_path, samples=images)

    found = fused(folder, tmp_path / "fused.onnx")

    assert found["QLinearConv"] == 4
    assert found["Relu"] == 1  # that of the sum
    assert not {"Conv", "FusedConv"} & set(found)


def test_operators_of_integers_have_the_codes_of_qdq_and_need_no_fusing(tmp_path: Path, images: str) -> None:
    _, qdq, _ = made(residual(), tmp_path / "qdq", samples=images)
    _, folder, problems = made(residual(), tmp_path / "qoperator", samples=images, format="qoperator")
    x = normal(4, 3, 16, 16, seed=3)

    assert problems == []
    assert Counter(node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node) == {
        **dict.fromkeys(("MatMulInteger", "Relu", "GlobalAveragePool", "Flatten"), 1),
        **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "Add", "Div", "Round"), 2),
        "Cast": 3,
        "QLinearConv": 4,
        "Mul": 5,
    }
    for name in (*FILTERS, "head"):
        assert np.array_equal(array(folder, f"{name}_quantized"), array(qdq, f"{name}_quantized"))
    assert np.allclose(run(folder, x=x), run(qdq, x=x), atol=0.02 * np.abs(run(qdq, x=x)).max())


@pytest.mark.parametrize("bias", ["a constant", "a weight"])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_filters_that_are_nearly_zero_keep_their_bias(tmp_path: Path, form: str, bias: str) -> None:
    outputs = 16 if bias == "a constant" else 300  # above 1 KiB it is a weight
    weights = {"w": normal(outputs, 3, 3, 3), "bias": np.full(outputs, 5, np.float32)}
    weights["w"][5] *= np.float32(1e-9)
    weights["w"][7] = 0
    x = normal(3, 3, 6, 6, seed=2)
    np.savez(tmp_path / "x.npz", x=x)
    proto = model([helper.make_node("Conv", ["x", "w", "bias"], ["y"])], weights, (3, 6, 6))

    with open_checkpoint(save(proto, tmp_path / "source")) as checkpoint:
        params = ONNX.params(mode="static", samples=str(tmp_path / "x.npz"), format=form)
        each = Run(ONNX, params, checkpoint)
        each.write(each.quantize(), tmp_path / "artifact")
        problems = wrong(each, tmp_path / "artifact")

    found, step = run(tmp_path / "artifact", x=x), float(array(tmp_path / "artifact", "y_scale"))
    assert problems == []
    assert np.abs(found[:, [5, 7]] - 5).max() <= 0.51 * step
    notes = [(note.tensor, note.figures["outputs"]) for note in each.notes if note.found == "steps raised for the bias"]
    assert notes == [("w", 1)]


def clipped(low: float, high: float, as_nodes: bool = False, second: str = "high") -> onnx.ModelProto:
    """Two convolutions with Clips behind them, as MobileNetV2 has them."""
    nodes = [
        helper.make_node("Conv", ["x", "first", "bias"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["a", "low", "high"], ["ar"]),
        helper.make_node("Conv", ["ar", "deep"], ["b"], name="deep", group=32),
        helper.make_node("Clip", ["b", "low", second], ["y"]),
    ]
    ends = {"low": np.array(low, np.float32), "high": np.array(high, np.float32)}
    weights = {"first": normal(32, 3, 3, 3), "bias": normal(32), "deep": normal(32, 1, 3, 3)}
    if as_nodes:
        nodes = [
            *(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(each))
                for name, each in ends.items()
            ),
            *nodes,
        ]
    return model(nodes, weights if as_nodes else {**weights, **ends}, (3, 16, 16))


@pytest.mark.parametrize("as_nodes", [False, True])
@pytest.mark.parametrize("kind", ["u8", "s8"])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_clip_behind_a_convolution_is_what_its_codes_reach(
    tmp_path: Path, images: str, form: str, kind: str, as_nodes: bool
) -> None:
    given = {"samples": images, "format": form, "activation_type": kind}
    _, folder, problems = made(clipped(0, 6, as_nodes), tmp_path, **given)
    x = normal(4, 3, 16, 16, seed=3)

    expected, found = run(folder.parent / "source", x=x), run(folder, x=x)

    assert problems == []
    assert 5.99 < array(folder, "ar_scale") * np.float32(255) <= 6
    assert int(array(folder, "ar_zero_point")) == (0 if kind == "u8" else -128)
    assert found.min() == 0
    assert 5.99 < found.max() <= 6
    assert cosine(found, expected) > 0.999


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_the_runtime_needs_no_clip(tmp_path: Path, images: str, form: str) -> None:
    _, folder, _ = made(clipped(0, 6), tmp_path, samples=images, format=form)

    found = fused(folder, tmp_path / "fused.onnx")

    assert found["QLinearConv"] == 2
    assert not {"Clip", "Conv", "FusedConv"} & set(found)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_range_that_samples_never_enter_is_the_clip_s(tmp_path: Path, images: str, form: str) -> None:
    proto = clipped(0, 6)
    (bias,) = (each for each in proto.graph.initializer if each.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(32, -1000, np.float32), "bias"))

    _, folder, problems = made(proto, tmp_path, samples=images, format=form)

    assert problems == []
    assert 5.99 < array(folder, "ar_scale") * np.float32(255) <= 6


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, float("inf")), (0, float("nan")), (0, -1), (0, 1e-40)])
def test_a_clip_that_no_range_of_codes_stands_for_stays(tmp_path: Path, images: str, low: float, high: float) -> None:
    _, folder, problems = made(clipped(low, high), tmp_path, samples=images, format="qoperator", least_cosine=None)

    assert problems == []
    assert [node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node].count("Clip") == 2


def test_a_constant_that_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    data = clipped(0, 6, as_nodes=True).SerializeToString()
    tensor = numpy_helper.from_array(np.array(6, np.float32)).SerializeToString()
    folder = save(clipped(0, 6), tmp_path / "source")
    (folder / "model.onnx").write_bytes(data.replace(tensor, b"\x4a\x7f" + tensor[2:]))

    with (
        open_checkpoint(folder) as checkpoint,
        pytest.raises(SourceRejected, match="the constant 'high' is damaged: a field at byte 0 claims 127 bytes"),
    ):
        ONNX.plan.load()(checkpoint.index, ONNX.params(mode="static"))


def test_a_clip_whose_end_is_computed_stays(tmp_path: Path, images: str) -> None:
    proto = clipped(0, 6, second="later")
    proto.graph.node.insert(0, helper.make_node("Identity", ["high"], ["later"]))

    _, folder, problems = made(proto, tmp_path, samples=images)

    rounded = [
        node.input[0] for node in onnx.load(str(folder / "model.onnx")).graph.node if node.op_type == "QuantizeLinear"
    ]
    assert problems == []
    assert rounded == ["x", "ar_unrounded", "b_unrounded"]


def test_a_range_that_goes_beyond_the_clip_is_found(tmp_path: Path, images: str) -> None:
    with open_checkpoint(save(clipped(0, 6), tmp_path / "source")) as checkpoint:
        run = Run(ONNX, ONNX.params(mode="static", samples=images, format="qoperator", least_cosine=None), checkpoint)
        run.write(run.quantize(), tmp_path / "artifact")
        proto = onnx.load(str(tmp_path / "artifact" / "model.onnx"))
        scale = next(each for each in proto.graph.initializer if each.name == "ar_scale")
        scale.raw_data = np.float32(0.03).tobytes()
        onnx.save(proto, str(tmp_path / "artifact" / "model.onnx"))

        assert wrong(run, tmp_path / "artifact")


@pytest.mark.parametrize("mode", ["dynamic", "weight_only"])
def test_other_modes_keep_filters_with_the_reason(tmp_path: Path, mode: str) -> None:
    with open_checkpoint(save(residual(), tmp_path / "source")) as checkpoint:
        plan = ONNX.plan.load()(checkpoint.index, ONNX.params(mode=mode))

    assert {plan.by_name[name].reason for name in FILTERS} == {
        "filters of a convolution, which become integers in mode static only"
    }


def test_an_excluded_convolution_stays_float_and_nothing_behind_it_is_rounded(tmp_path: Path, images: str) -> None:
    plan, folder, problems = made(residual(), tmp_path, samples=images, exclude=["stem", "grouped"])
    graph = onnx.load(str(folder / "model.onnx")).graph

    assert plan.by_name["stem"].reason == "node stem is excluded"
    assert problems == []
    assert [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"] == [
        "ar",
        "br_unrounded",
        "cr_unrounded",
        "flat_smooth",
    ]


def test_a_value_that_others_take_too_is_rounded_before_its_relu(tmp_path: Path, images: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["y"]),
        helper.make_node("Conv", ["x", "w"], ["again"], name="second", strides=[2, 2]),
    ]
    proto = model(nodes, {"w": normal(16, 3, 3, 3)}, (3, 16, 16), ("y", "c", "again"))

    _, folder, problems = made(proto, tmp_path, samples=images)

    graph = onnx.load(str(folder / "model.onnx")).graph
    rounded = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounded == ["x", "c_unrounded", "again_unrounded"]
    assert problems == []


def test_a_convolution_with_two_outputs_is_kept(tmp_path: Path, images: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Conv", ["x", "odd"], ["z", "more"], name="odd"),
    ]
    proto = model(nodes, {"w": normal(16, 3, 3, 3), "odd": normal(16, 3, 3, 3)}, (3, 16, 16))

    with open_checkpoint(save(proto, tmp_path / "source")) as checkpoint:
        plan = ONNX.plan.load()(checkpoint.index, ONNX.params(mode="static", samples=images))

    assert plan.by_name["odd"].reason == "used by Conv odd"


def test_ranges_are_noted_of_what_filters_take_and_give(tmp_path: Path, images: str) -> None:
    with open_checkpoint(save(residual(), tmp_path / "source")) as checkpoint:
        run = Run(ONNX, ONNX.params(mode="static", samples=images), checkpoint)
        list(run.quantize())

    notes = {(note.tensor, note.found): float(note.figures["low"]) for note in run.notes}
    assert notes["stem", "range of its input"] < 0
    assert notes["stem", "range of its output"] == 0  # behind the Relu


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_gates_are_met_with_some_weights_float(tmp_path: Path, images: str, form: str) -> None:
    params = {"samples": images, "format": form}
    loose, _, _ = made(residual(), tmp_path / "loose", **params, gates=["cosine.min >= 0.9"])
    tight, folder, problems = made(residual(), tmp_path / "tight", **params, gates=["cosine.min >= 0.99999"])
    x = np.load(images)["x"]

    weights = {*FILTERS, "head"}
    assert not [row.name for row in loose.tensors if row.name in weights and row.action == "keep"]
    kept = {row.name for row in tight.tensors if row.name in weights and row.action == "keep"}
    assert 0 < len(kept) < len(weights)
    assert problems == []
    assert cosine(run(folder, x=x), run(folder.parent / "source", x=x)) >= 0.99999


@pytest.mark.parametrize("scheme", ["INT8-FILTER", "INT8-FILTER-REDUCED", "INT8-TENSOR"])
def test_no_filter_exceeds_its_bound(
    scheme: str, distributions: dict[str, np.ndarray], tmp_path: Path, images: str
) -> None:
    params = {"target": "avx2" if "REDUCED" in scheme else "vnni", "per_channel": "FILTER" in scheme}
    weights = {
        name: np.ascontiguousarray(each.ravel()[: 96 * 3 * 9].reshape(96, 3, 3, 3), np.float32)
        for name, each in distributions.items()
    }
    nodes = [helper.make_node("Conv", ["x", name], [f"y {name}"]) for name in weights]
    proto = model(nodes, weights, (3, 16, 16), [f"y {name}" for name in weights])

    _, folder, _ = made(proto, tmp_path, samples=images, least_cosine=None, **params)

    for read in ONNX.read.load()(folder):
        error = np.sqrt(np.mean((read.values - weights[read.name]) ** 2.0) / np.mean(weights[read.name] ** 2.0))
        assert read.scheme == scheme
        assert error <= ONNX.error_bounds[scheme]
        assert compare(read.values, weights[read.name], ONNX.block_bounds[scheme]).worst.share <= 1


def another_stride(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.output[0] == "a").attribute[1].ints[:] = [1, 1]


def no_bias(graph: onnx.GraphProto) -> None:
    del next(each for each in graph.node if each.output[0] == "c").input[2]


def not_rounded(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.output[0] == "d").input[0] = "d_unrounded"


def another_axis(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.output[0] == "wide_dequantized").attribute[0].i = 1


def zero_points(graph: onnx.GraphProto) -> None:
    each = next(each for each in graph.initializer if each.name == "quantmill_zeros_32")
    each.raw_data = b"\x01" * 32


def no_bias_of_integers(graph: onnx.GraphProto) -> None:
    del next(each for each in graph.node if each.op_type == "QLinearConv" and len(each.input) > 8).input[8]


def another_bias(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.op_type == "Div").input[0] = "quantmill_zeros"


def a_bias_in_other_steps(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.op_type == "Mul" and "stem_scale" in each.input).input[0] = "ar_scale"


def a_bias_that_is_not_rounded(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.op_type == "Round").op_type = "Floor"


def another_stride_of_integers(graph: onnx.GraphProto) -> None:
    strided = next(each for each in graph.node if each.output[0] == "ar_quantized")
    next(each for each in strided.attribute if each.name == "strides").ints[:] = [1, 1]


def below_zero_behind_a_relu(graph: onnx.GraphProto) -> None:
    next(each for each in graph.initializer if each.name == "br_zero_point").raw_data = b"\x05"


def another_scale_of_codes(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.output[0] == "br_quantized").input[1] = "br_scale"


def another_scale_of_filters(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node if each.output[0] == "br_quantized").input[4] = "deep_scale"


OF_INTEGERS = [
    no_bias_of_integers,
    another_bias,
    a_bias_in_other_steps,
    a_bias_that_is_not_rounded,
    another_stride_of_integers,
    below_zero_behind_a_relu,
    another_scale_of_codes,
    another_scale_of_filters,
]


@pytest.mark.parametrize("change", [another_stride, no_bias, not_rounded, another_axis, zero_points, *OF_INTEGERS])
def test_a_convolution_that_computes_something_else_is_found(
    tmp_path: Path, images: str, change: Callable[[onnx.GraphProto], None]
) -> None:
    form = "qoperator" if change in OF_INTEGERS else "qdq"
    with open_checkpoint(save(residual(), tmp_path / "source")) as checkpoint:
        run = Run(ONNX, ONNX.params(mode="static", samples=images, format=form, least_cosine=None), checkpoint)
        run.write(run.quantize(), tmp_path / "artifact")
        proto = onnx.load(str(tmp_path / "artifact" / "model.onnx"))
        change(proto.graph)
        onnx.save(proto, str(tmp_path / "artifact" / "model.onnx"))

        assert list(found(run, tmp_path / "artifact"))


def found(run: Run, folder: Path) -> Iterator[str]:
    """What inspection and reading say against the artifact."""
    yield from wrong(run, folder)
    try:
        list(ONNX.read.load()(folder))
    except VerificationFailed as error:
        yield str(error)
