"""What ONNX Runtime will find beside the weights, and how far the outputs are from the source's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.graph_text import NUMPY, feed_of, own_inputs, takes_text
from quantmill.contract.observed import carried_observed
from quantmill.contract.onnx import OnnxGraph, ValueInfo
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_onnx.definitions import UNROUNDED, with_limits
from quantmill_onnx.images import given_samples
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.planning import LEADING, OTHER, RUN_LIMIT, unlike_random
from quantmill_onnx.reader import CHUNK_VALUES, DATA, MODEL, Artifact
from quantmill_onnx.versions import RUNTIMES

Inputs = Mapping[str, NDArray[Any]]


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: OnnxParams) -> Inspection:
    """The files, the graph by onnx's checker, what must be as in the source, and a run beside the source's."""
    graph = index.graph
    assert graph is not None  # the plan was made from it
    artifact = Artifact(folder)
    external = [DATA] if any(each.data_location for each in artifact.initializers.values()) else []
    return Inspection(
        (MODEL, *external, *index.files),
        [
            *_checked(artifact),
            *_interface(artifact.model, graph, params),
            *_operators(artifact, graph, plan, params),
            *(_activations(artifact, plan, params) if params.mode == "static" else ()),
            *_constants(artifact, graph),
            *_halves(artifact, graph, plan),
            *_runs(folder, graph, index, params),
            *carried_observed(folder, index),
        ],
    )


def _checked(artifact: Artifact) -> Iterator[Observation]:
    """onnx's checker with shape inference. Weights of another file stand as inputs: the reader is what checks them."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(artifact.model)
    external = [each for each in model.graph.initializer if each.data_location]
    for each in external:
        model.graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims))
        model.graph.initializer.remove(each)
    _give_ranks(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
        found = "valid"
    except Exception as error:
        found = f"{type(error).__name__}: {error}"[:300]
    yield Observation("onnx_checker", MODEL, found, "valid")


def _give_ranks(graph: Any) -> None:
    """What has a rank in place of inputs and outputs without one, which onnx's checker refuses and runtimes take."""
    from onnx import TensorProto, helper

    for each in [*filter(_lacks_rank, graph.output)]:
        graph.output.remove(each)
        graph.node.append(helper.make_node("Shape", [each.name], [f"{each.name}_sizes"]))
        graph.output.append(helper.make_tensor_value_info(f"{each.name}_sizes", TensorProto.INT64, [None]))
    for each in [*filter(_lacks_rank, graph.input)]:
        graph.input.remove(each)
        values, sizes = f"{each.name}_values", f"{each.name}_sizes"
        graph.input.append(helper.make_tensor_value_info(values, each.type.tensor_type.elem_type, [None]))
        graph.input.append(helper.make_tensor_value_info(sizes, TensorProto.INT64, [None]))
        graph.node.insert(0, helper.make_node("Reshape", [values, sizes], [each.name]))


def _lacks_rank(info: Any) -> bool:
    return info.type.WhichOneof("value") == "tensor_type" and not info.type.tensor_type.HasField("shape")


def _interface(model: Any, graph: OnnxGraph, params: OnnxParams) -> Iterator[Observation]:
    """Inputs and outputs with their types, versions of the operators."""
    for kind, found, expected in (
        ("input", model.graph.input, [each for each in graph.inputs if each.name not in graph.weights]),
        ("output", model.graph.output, graph.outputs),
    ):
        yield Observation("interface", f"{kind}s", len(found), len(expected))
        for ours, theirs in zip(found, expected, strict=False):
            same = ours == _value_info(theirs)
            yield Observation(
                "interface", f"{kind} {theirs.name}", ours.name if same else f"another {ours.name}", theirs.name
            )
    versions = {("" if each.domain == "ai.onnx" else each.domain): each.version for each in model.opset_import}
    for domain, version in graph.opsets.items():
        yield Observation("interface", f"opset {domain or 'ai.onnx'}", versions.get(domain), version)
    latest = RUNTIMES[params.runtime].ir_version
    yield Observation("interface", "IR version", model.ir_version, min(max(4, graph.ir_version), latest))


def _value_info(info: ValueInfo) -> Any:
    import onnx

    return onnx.ValueInfoProto.FromString(info.raw)


# What products and look-ups are made of when their weight is quantized
INTEGER = ("DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul")
ROWS = ("ReduceMax", "ReduceMin", "Neg", "Max", "Slice", "Div")
ADDED = frozenset((*INTEGER, *ROWS, "MatMulNBits", "Gather", "Add", "Transpose", "Reshape"))
AROUND = ("QuantizeLinear", "DequantizeLinear", "MatMul", "Conv")  # a product of static ranges
LIMITS = ("Relu", "Clip")  # of a convolution's output
ADDED_STATIC = frozenset((*AROUND, *LIMITS, "Gather", "Cast", "Mul", "Neg", "Sub", "Transpose", "Reshape"))
ADDED_OF_INTEGERS = (ADDED_STATIC - {"Neg", "Sub"}) | {"Add"}  # operators of integers, taken apart
REPLACED = frozenset(("MatMul", "Gemm", "Gather", "Transpose", "Conv"))


def _operators(artifact: Artifact, graph: OnnxGraph, plan: Plan, params: OnnxParams) -> Iterator[Observation]:
    """Every node of the source is there as it was, or takes a quantized weight; none was added but for those."""
    quantized = {row.name for row in plan.tensors if row.action == "quantize"}
    theirs = [_node(node.raw) for node in graph.nodes]
    nodes = with_limits(artifact.nodes, theirs, artifact.stands_for) if params.format == "qoperator" else artifact.nodes
    taken = quantized | _made_of(theirs, "Transpose", quantized)
    yield from _kept_or_replaced(nodes, theirs, taken, _made_of(theirs, "Conv", quantized))
    yield from _added(nodes, theirs, params)
    products = sum(bool(set(node.input) & taken) and node.op_type in ("MatMul", "Gemm", "Conv") for node in theirs)
    yield Observation("operators", "integer products", _integer_products(nodes), products)


def _made_of(nodes: Sequence[Any], op_type: str, quantized: set[str]) -> set[str]:
    """What nodes of this kind make of quantized weights."""
    return {out for node in nodes if node.op_type == op_type and set(node.input) & quantized for out in node.output}


def _serialized(node: Any) -> bytes:
    found: bytes = node.SerializeToString(deterministic=True)
    return found


def _kept_or_replaced(
    nodes: Sequence[Any], theirs: Sequence[Any], taken: set[str], convolved: set[str]
) -> Iterator[Observation]:
    """Of each node of the source. `taken` are quantized weights, and transposes of such."""
    unrounded = _rounded(nodes)
    missing = Counter(map(_serialized, theirs))
    missing.subtract(map(_serialized, nodes))
    for node in theirs:
        replaced = bool(set(node.input) & taken) and node.op_type in REPLACED
        replaced = replaced or (node.op_type in LIMITS and node.output[0] in unrounded and node.input[0] in convolved)
        absent = missing[_serialized(node)] > 0
        yield Observation(
            "operators",
            node.name or node.output[0],
            "replaced" if absent else "as it was",
            "replaced" if replaced else "as it was",
        )
        if absent and node.op_type in ("Conv", *LIMITS):
            same = _computed(node) == unrounded.get(node.output[0])
            yield Observation("operators", f"{node.output[0]} rounded", "as it was" if same else None, "as it was")


def _added(nodes: Sequence[Any], theirs: Sequence[Any], params: OnnxParams) -> Iterator[Observation]:
    """Nodes that are neither the source's nor what quantized weights are computed with."""
    static = ADDED_OF_INTEGERS if params.format == "qoperator" else ADDED_STATIC
    expected = static if params.mode == "static" else ADDED
    known = set(map(_serialized, theirs))
    for node in nodes:
        if _serialized(node) not in known and node.op_type not in expected:
            yield Observation("operators", node.name, node.op_type, None)


def _integer_products(nodes: Sequence[Any]) -> int:
    """Those of integers, and those between what brings both sides from codes."""
    restored = {node.output[0]: node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    measured = {node.output[0] for node in nodes if node.op_type == "QuantizeLinear"}
    weights = {output for output, codes in restored.items() if codes not in measured}
    return sum(
        node.op_type in ("MatMulInteger", "MatMulNBits")
        or (node.op_type in ("MatMul", "Conv") and node.input[0] in restored and node.input[1] in weights)
        for node in nodes
    )


def _rounded(nodes: Sequence[Any]) -> Mapping[str, Any]:
    """What nodes compute whose outputs are rounded and restored right behind them, by what is restored."""
    makers = {out: node for node in nodes for out in node.output}
    found: dict[str, Any] = {}
    for node in nodes:
        rounding = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if rounding is not None and rounding.op_type == "QuantizeLinear":
            maker = makers.get(rounding.input[0])
            if maker is not None and maker.output[0] == f"{node.output[0]}{UNROUNDED}":
                found[node.output[0]] = _computed(maker)
                before = makers.get(maker.input[0]) if maker.op_type in LIMITS else None
                if before is not None:
                    found[before.output[0]] = _computed(before)
    return found


def _computed(node: Any) -> tuple[Any, ...]:
    """The operator with its attributes; a convolution's bias, what a Relu takes."""
    given = tuple(sorted(each.SerializeToString(deterministic=True) for each in node.attribute))
    return node.op_type, given, tuple(node.input[2:] if node.op_type == "Conv" else node.input)


ACTIVATIONS = {"u8": np.uint8, "s8": np.int8}


def _activations(artifact: Artifact, plan: Plan, params: OnnxParams) -> Iterator[Observation]:
    """Each activation is rounded by a positive scale and restored by the same; the samples are named."""
    restoring: dict[str, set[tuple[str, ...]]] = {}
    for node in artifact.nodes:
        if node.op_type == "DequantizeLinear":
            restoring.setdefault(node.input[0], set()).add(tuple(node.input[1:]))
    for node in artifact.nodes:
        if node.op_type == "QuantizeLinear":
            scale, zero = (artifact.array(name) for name in node.input[1:])
            sound = scale.shape == zero.shape == () and zero.dtype == ACTIVATIONS[params.activation_type]
            positive = sound and scale.dtype == np.float32 and bool(np.isfinite(scale)) and float(scale) > 0
            same = restoring.get(node.output[0]) == {tuple(node.input[1:])}
            found = "a range" if positive and same else "another scale behind it" if positive else "no range"
            yield Observation("activations", node.input[0], found, "a range")
    metadata = {each.key: each.value for each in artifact.model.metadata_props}
    found_samples = json.loads(metadata.get("quantmill.calibration", "{}")).get("samples")
    yield Observation("activations", "samples", found_samples, plan.inputs.get("samples"))


def _node(raw: bytes) -> Any:
    import onnx

    return onnx.NodeProto.FromString(raw)


def _constants(artifact: Artifact, graph: OnnxGraph) -> Iterator[Observation]:
    """The initializers that belong to the graph, by their bytes."""
    import onnx

    for name, raw in graph.constants.items():
        ours, theirs = artifact.initializers.get(name), onnx.TensorProto.FromString(raw)
        found = None if ours is None else "as it was" if ours == theirs else "changed"
        yield Observation("constants", name, found, "as it was")


def _halves(artifact: Artifact, graph: OnnxGraph, plan: Plan) -> Iterator[Observation]:
    """The weights that are stored as float16 are those of the plan, each value the source's nearest."""
    planned = {row.name for row in plan.tensors if row.scheme == "F16-ROUNDED"}
    for name in sorted(planned ^ artifact.halved):
        yield Observation("float16", name, name in artifact.halved, name in planned)
    for name in sorted(planned & artifact.halved):
        weight = graph.weights[name]
        path = graph.path.parent / (weight.file or graph.path.name)
        source = np.memmap(path, "<f4", "r", weight.begin, weight.info.shape).reshape(-1)
        stored = artifact.half(name).reshape(-1)
        off = abs(stored.size - source.size)
        for start in range(0, min(stored.size, source.size), CHUNK_VALUES):
            chunk = slice(start, start + CHUNK_VALUES)
            off += int(np.count_nonzero(stored[chunk] != source[chunk].astype("<f2")))
        yield Observation("float16", name, f"{off} values are not the nearest", "0 values are not the nearest")


# Running


def _runs(folder: Path, graph: OnnxGraph, index: ModelIndex, params: OnnxParams) -> Iterator[Observation]:
    """The written model gives finite outputs that are near the source's, in ONNX Runtime on one core."""
    if index.nbytes > RUN_LIMIT:
        return
    try:
        session = open_session(folder / MODEL)
    except Exception as error:
        yield Observation("runs", "loads", f"{type(error).__name__}: {error}"[:300], "loads")
        return
    yield Observation("runs", "loads", "loads", "loads")
    if params.least_cosine is None:
        return
    if params.runs_samples:
        first = next(given_samples(Path(str(params.samples)), index, graph).feeds())
        yield from _divergence(session, graph, params.least_cosine, first, "the first sample")
    elif takes_text(graph):
        yield from _divergence(session, graph, params.least_cosine, random_tokens(graph), "random tokens")
    elif not any(unlike_random(graph)):
        yield from _divergence(session, graph, params.least_cosine, random_inputs(graph), "random inputs")


def _divergence(session: Any, graph: OnnxGraph, least: float, inputs: Inputs, called: str) -> Iterator[Observation]:
    outputs = []
    for name, each in (("the source", open_session(graph.path)), ("the artifact", session)):
        try:
            outputs.append(each.run(None, dict(inputs)))
            found = "runs"
        except Exception as error:
            found = f"{type(error).__name__}: {error}"[:300]
        yield Observation("runs", f"{name} on {called} (least_cosine null leaves it out)", found, "runs")
    if len(outputs) < 2:
        return
    for info, theirs, ours in zip(graph.outputs, *outputs, strict=True):
        yield Observation("runs", f"shape of {info.name}", str(ours.shape), str(theirs.shape))
        compared = np.isfinite(theirs) if np.issubdtype(theirs.dtype, np.floating) else np.zeros(theirs.shape, bool)
        if ours.shape == theirs.shape and compared.any():
            near = cosine(ours[compared], theirs[compared])
            text = f"at least {least:g}"
            yield Observation("divergence", info.name, text if near >= least else f"{near:.6f}", text)


def open_session(path: Path, threads: int = 1) -> Any:
    """ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def random_inputs(graph: OnnxGraph) -> Inputs:
    """Inputs that the graph takes: indices below the rows of what they look up, ones for other integers, normal floats.

    The same for each call.
    """
    generator = np.random.default_rng(0)
    sizes: dict[str, int] = {}
    found: dict[str, NDArray[Any]] = {}
    for info in own_inputs(graph):
        shape = [_size(each, axis, sizes) for axis, each in enumerate(info.shape or ())]
        rows = _rows_looked_up(graph, info.name)
        kind = NUMPY[info.dtype]
        if rows:
            found[info.name] = generator.integers(0, rows, shape).astype(kind)
        elif np.issubdtype(kind, np.floating):
            found[info.name] = generator.standard_normal(shape).astype(kind)
        else:
            found[info.name] = np.ones(shape, kind)
    return found


def random_tokens(graph: OnnxGraph) -> Inputs:
    """A window of OTHER tokens, the same for each call."""
    rows = _rows_looked_up(graph, "input_ids") or 1
    return feed_of(graph, np.random.default_rng(0).integers(0, rows, OTHER))


def _size(dimension: int | str, axis: int, sizes: dict[str, int]) -> int:
    if isinstance(dimension, int):
        return max(1, dimension)
    return sizes.setdefault(dimension, LEADING if axis == 0 else OTHER)


def _rows_looked_up(graph: OnnxGraph, name: str) -> int:
    """The rows of the smallest table that the input is an index of; 0 where it is none."""
    rows = [
        graph.weights[node.inputs[0]].info.shape[0]
        for node in graph.nodes
        if node.op_type == "Gather" and node.inputs[1] == name and node.inputs[0] in graph.weights
    ]
    return min(rows, default=0)


def cosine(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Of all values together; NaN where an output is not finite, 1 where both are zero."""
    ours, theirs = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / norms if norms else float(np.array_equal(ours, theirs))
