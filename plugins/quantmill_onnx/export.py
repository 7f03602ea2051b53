"""Writing the quantized model: one file, or the graph and beside it a file of weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantmill.contract.errors import PluginBroken
from quantmill.contract.onnx import GRAPH, MODEL, OnnxGraph, require_names
from quantmill.contract.placement import Place, Placement, WeightFile, write_placed
from quantmill.contract.protobuf import bytes_field, length_prefix, number_field
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, TensorPlan
from quantmill_onnx.graph import Rewritten, rewrite
from quantmill_onnx.layout import HALF, HALVES, ONNX_TYPES, Part, activation_parts, kept_part, parts_of
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.planning import require_graph
from quantmill_onnx.protos import external_tensor, metadata_proto, node_proto, opset_proto, tensor_head
from quantmill_onnx.sites import Site, activations, settled_sites, smoothed
from quantmill_onnx.versions import ir_version

MODEL_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
INLINE_LIMIT = 256 << 20  # bytes of weights in the graph's own file; protobuf ends at 2 GiB, and loaders copy all of it
ALIGNMENT = 64  # of weights in a file of their own


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: OnnxParams, folder: Path
) -> list[Path]:
    """Write the model, its file of weights where it has one, and the files that belong to it; holds one tensor."""
    return write_placed(tensors, plan, place(plan, index, params), folder)


@dataclass(frozen=True)
class _Weight:
    """An array of the plan's tensor `row`, as an initializer."""

    row: TensorPlan
    part: Part


def place(plan: Plan, index: ModelIndex, params: OnnxParams) -> Placement:
    """Where `write` puts each byte."""
    graph = require_graph(index)
    sites = settled_sites(graph, params, plan)
    taken, even = activations(sites), smoothed(graph, params)
    weights = [
        _Weight(row, part)
        for row in plan.tensors
        for part in (
            *_parts(sites[row.name], row, index, params),
            *activation_parts(taken.get(row.name, ()), params, even),
        )
    ]
    rewritten = rewrite(graph, sites, params)
    _cast(graph, rewritten, plan)
    if params.external_data == "always" or plan.nbytes > INLINE_LIMIT:
        return _beside(weights, graph, rewritten, plan, index, params)
    return _within(weights, graph, rewritten, plan, index, params)


def _cast(graph: OnnxGraph, rewritten: Rewritten, plan: Plan) -> None:
    """Begin with what makes float32 of the weights that are stored as float16."""
    halved = {row.name: f"{row.name}_{HALVES}" for row in plan.tensors if row.scheme == HALF}
    require_names(graph, halved.values())
    casts = [node_proto("Cast", [half], [name], "", {"to": ONNX_TYPES["F32"]}) for name, half in halved.items()]
    rewritten.nodes[:0] = casts


def _parts(site: Site | str, row: TensorPlan, index: ModelIndex, params: OnnxParams) -> Sequence[Part]:
    parts = [kept_part(index.tensors[row.name], row.scheme)] if isinstance(site, str) else parts_of(site, params)
    if sum(part.nbytes for part in parts) != row.nbytes:
        raise PluginBroken(f"{row.name}: its parts do not take the {row.nbytes} bytes of the plan", tensor=row.name)
    return parts


def _beside(
    weights: Sequence[_Weight],
    graph: OnnxGraph,
    rewritten: Rewritten,
    plan: Plan,
    index: ModelIndex,
    params: OnnxParams,
) -> Placement:
    places: dict[str, list[Place]] = {}
    initializers = bytearray()
    end = 0
    for weight in weights:
        part, begin = weight.part, end + -end % ALIGNMENT
        proto = external_tensor(part.name, ONNX_TYPES[part.dtype], part.shape, DATA_FILE, begin, part.nbytes)
        initializers += bytes_field(GRAPH.initializer, proto)
        places.setdefault(weight.row.name, []).append(Place(part.part, part.name, DATA_FILE, begin, part.nbytes))
        end = begin + part.nbytes
    body = _graph(graph, rewritten) + bytes(initializers)
    model = _model(graph, rewritten, plan, params) + length_prefix(MODEL.graph, len(body)) + body
    return Placement({DATA_FILE: WeightFile(b"", end)}, _fixed(places), {MODEL_FILE: bytes(model)}, dict(index.files))


def _within(
    weights: Sequence[_Weight],
    graph: OnnxGraph,
    rewritten: Rewritten,
    plan: Plan,
    index: ModelIndex,
    params: OnnxParams,
) -> Placement:
    """The weights end the graph, which ends the model."""
    body = _graph(graph, rewritten)
    heads = [_head(weight.part) for weight in weights]
    length = len(body) + sum(len(head) + weight.part.nbytes for head, weight in zip(heads, weights, strict=True))
    start = _model(graph, rewritten, plan, params) + length_prefix(MODEL.graph, length) + body
    position = len(start)
    between: dict[int, bytes] = {}
    places: dict[str, list[Place]] = {}
    for head, weight in zip(heads, weights, strict=True):
        part = weight.part
        between[position] = head
        position += len(head)
        places.setdefault(weight.row.name, []).append(Place(part.part, part.name, MODEL_FILE, position, part.nbytes))
        position += part.nbytes
    return Placement({MODEL_FILE: WeightFile(start, position, between)}, _fixed(places), {}, dict(index.files))


def _head(part: Part) -> bytes:
    """An initializer up to its values."""
    head = tensor_head(part.name, ONNX_TYPES[part.dtype], part.shape, part.nbytes)
    return length_prefix(GRAPH.initializer, len(head) + part.nbytes) + head


def _fixed(places: dict[str, list[Place]]) -> dict[str, tuple[Place, ...]]:
    return {name: tuple(found) for name, found in places.items()}


def _model(graph: OnnxGraph, rewritten: Rewritten, plan: Plan, params: OnnxParams) -> bytes:
    """All of the ModelProto but its graph."""
    metadata = (bytes_field(MODEL.metadata, metadata_proto(*each)) for each in _metadata(graph, plan, params))
    return model_head(graph, rewritten, params) + b"".join(metadata)


def model_head(graph: OnnxGraph, rewritten: Rewritten, params: OnnxParams) -> bytes:
    """The ModelProto's versions, opsets among them, and what else the source's holds."""
    missing = {domain: 1 for domain in sorted(rewritten.domains) if domain not in graph.opsets}
    opsets = {**graph.opsets, **missing}
    return b"".join(
        [
            number_field(MODEL.ir_version, ir_version(graph.ir_version, params.runtime)),
            graph.model_rest,
            *(bytes_field(MODEL.opset_import, opset_proto(*each)) for each in opsets.items()),
        ]
    )


def _metadata(graph: OnnxGraph, plan: Plan, params: OnnxParams) -> Iterator[tuple[str, str]]:
    """What a reader cannot see in the graph: which weights are stored as the source's transpose, which were solved for
    with GPTQ, and whether integers were kept to 7 bits."""
    sites = settled_sites(graph, params, plan)
    turned = [name for name, site in sites.items() if isinstance(site, Site) and is_transposed(site, params)]
    yield "quantmill.transposed", json.dumps(sorted(turned), ensure_ascii=False)
    if params.solves:
        yield "quantmill.gptq", json.dumps([row.name for row in plan.tensors if row.scheme.endswith("-GPTQ")])
    yield "quantmill.float16", json.dumps(sorted(row.name for row in plan.tensors if row.scheme == HALF))
    yield "quantmill.reduced", json.dumps([row.name for row in plan.tensors if "-REDUCED" in row.scheme])
    if params.mode == "static":
        cut = {"percentile": params.percentile} if params.calibration_method == "percentile" else {}
        told: dict[str, str | float] = {"method": params.calibration_method, **cut}
        if params.samples is not None:
            told["samples"] = plan.inputs["samples"]
        yield "quantmill.calibration", json.dumps(told, sort_keys=True)


def is_transposed(site: Site, params: OnnxParams) -> bool:
    """Whether the source has rows where the artifact, read as its node reads it, has columns.

    MatMulNBits stores (out, in), products of integers (in, out); tables stay as they are.
    """
    return not site.is_table and site.turned != (params.mode == "weight_only")


def _graph(graph: OnnxGraph, rewritten: Rewritten) -> bytes:
    """All of the GraphProto but its weights."""
    return graph_body(graph, rewritten) + b"".join(bytes_field(GRAPH.output, each.raw) for each in graph.outputs)


def graph_body(graph: OnnxGraph, rewritten: Rewritten) -> bytes:
    """All of the GraphProto but its weights and outputs."""
    weights = graph.weights.keys()
    values = {name: info for name, info in graph.value_info.items() if name not in rewritten.gone}
    return b"".join(
        [
            *(bytes_field(GRAPH.node, node) for node in rewritten.nodes),
            graph.rest,
            *(bytes_field(GRAPH.initializer, proto) for proto in graph.constants.values()),
            *(bytes_field(GRAPH.initializer, proto) for proto in rewritten.constants.values()),
            *(bytes_field(GRAPH.input, each.raw) for each in graph.inputs if each.name not in weights),
            *(bytes_field(GRAPH.value_info, info) for info in values.values()),
        ]
    )
