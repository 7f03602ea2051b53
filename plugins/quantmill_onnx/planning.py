"""The plan of a quantized graph: which weights become integers, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.graph_text import NUMPY, own_inputs, takes_text
from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan, Unit
from quantmill_onnx.hessians import hessian_bytes
from quantmill_onnx.images import given_samples
from quantmill_onnx.layout import HALF, activation_parts, parts_of, scheme_of
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.samples import FEED_LIMIT
from quantmill_onnx.sites import Site, activations, find_sites, smoothed
from quantmill_onnx.tasks import forecast
from quantmill_onnx.tokens import require_text
from quantmill_onnx.versions import LATEST, RUNTIMES, RuntimeVersion

LEAST_OPSET = 11  # MatMulInteger and DynamicQuantizeLinear
LEAST_OPSET_STATIC = 13  # DequantizeLinear with a scale for each output
# What ONNX Runtime takes beside the weights, which it maps: itself, and a sample's activations in four lanes
CALIBRATION_BYTES = 768 << 20
# Of the weights while gates are met: quantized, again in a model, and as ONNX Runtime keeps source and model
SEARCH_COPIES = 4
SOLVING = 24  # bytes for each value of a weight: in the order of solving, restored, and how far that is from the source
RUN_LIMIT = 2 << 30  # bytes of a source that verification runs: it is in memory beside the artifact
DYNAMIC_LIMIT = 2  # dimensions whose sizes can be chosen freely; with more, some of them hang together
LEADING, OTHER = 2, 16  # sizes that they are given
DOMAINS = ("", "com.microsoft")  # what ONNX Runtime brings with it
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
QUANTIZED_PREFIXES = (
    "DynamicQuantize",
    "GatherBlockQuantized",
    "MatMulBnb4",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QEmbedLayerNormalization",
    "QGemm",
    "QLinear",
    "QMoE",
    "QOrdered",
)
OUR_METADATA = "quantmill."

OVERFLOW = (
    "the processor's products of 8-bit weights may overflow 16 bits without VNNI: reduce_range is off for target avx2"
)


def require_loads(graph: OnnxGraph, runtime: RuntimeVersion) -> None:
    """Raises SourceRejected for a graph that the version of ONNX Runtime does not load."""
    opset, latest = graph.opsets[""], RUNTIMES[runtime].opset
    if opset > latest:
        raise SourceRejected(
            f"the graph has opset {opset}, ONNX Runtime {runtime} takes at most {latest}; export it again with opset "
            f"{latest}, convert it with onnx.version_converter, or name a later runtime",
            opset=opset,
        )


def require_graph(index: ModelIndex) -> OnnxGraph:
    """The source's graph. Raises SourceRejected where it is no ONNX model, or one that this method cannot work on."""
    if index.graph is None:
        raise SourceRejected(
            "the source is no ONNX model; export it first, for instance with torch.onnx.export or optimum-cli"
        )
    graph = index.graph
    opset = graph.opsets.get("", 0)
    if opset < LEAST_OPSET:
        raise SourceRejected(
            f"the graph has opset {opset}, integer products need {LEAST_OPSET}; export it again, or convert it with "
            "onnx.version_converter",
            opset=opset,
        )
    latest = RUNTIMES[LATEST]
    if opset > latest.opset or graph.ir_version > latest.ir_version:
        raise SourceRejected(
            f"the graph has opset {opset} and IR version {graph.ir_version}; ONNX Runtime {LATEST} takes at most "
            f"{latest.opset} and {latest.ir_version}",
            opset=opset,
        )
    for problem in _problems(graph):
        raise SourceRejected(problem)
    return graph


def _problems(graph: OnnxGraph) -> Iterator[str]:
    made = {"", *graph.weights, *graph.constants, *(each.name for each in graph.inputs)}
    for key in sorted(graph.metadata):
        if key.startswith(OUR_METADATA):
            yield "the graph is quantized already: its metadata says by what; give the model that it was made from"
    for node in graph.nodes:
        for domain, op_type in ((node.domain, node.op_type), *sorted(node.inner)):
            is_or_has = "is" if (domain, op_type) == (node.domain, node.op_type) else "has in a graph of its own"
            if op_type in QUANTIZED or op_type.startswith(QUANTIZED_PREFIXES):
                yield (
                    f"the graph is quantized already: node {shown(node.label)} {is_or_has} a {op_type}; give the model "
                    "that it was made from"
                )
            if domain not in DOMAINS and (domain, op_type) not in graph.local:
                yield (
                    f"node {shown(node.label)} {is_or_has} the custom operator {shown(domain)} {shown(op_type)}, which "
                    "ONNX Runtime does not bring with it, so that the result could not be run and checked"
                )
        for name in node.inputs:
            if name not in made:
                yield f"node {shown(node.label)} takes {shown(name)}, which nothing before it makes"
        made.update(node.outputs)


def plan(index: ModelIndex, params: OnnxParams) -> Plan:
    """Quantizes the constant matrices of products, tables that are looked up, and in mode static convolutions' filters;
    all else stays as it is.

    Of a checkpoint of transformers a forecast: its graph is planned once it has been made.

    Raises SourceRejected for a model that is no ONNX graph, quantized already or without anything to quantize,
    ParamsRejected for a pattern that matches no node.
    """
    if index.graph is None:
        return forecast(index, params)
    graph = require_graph(index)
    require_loads(graph, params.runtime)
    _check_patterns(graph, params)
    sites = find_sites(graph, params)
    inputs, need = _samples(index, graph, params) if params.reads_samples else ({}, None)
    rows = rows_of(index, graph, sites, params)
    if not any(row.action == "quantize" for row in rows):
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in rows[:3])
        raise SourceRejected(f"the graph has nothing that this method quantizes ({reasons})")
    if params.gates:
        _require_runnable(index)
    rows = tuple(_left_open(index, row, params) for row in rows)
    working = [_working_bytes(index, row, sites[row.name], params) for row in rows]
    copies = SEARCH_COPIES if params.gates else 1
    calibrating = copies * index.nbytes + CALIBRATION_BYTES if params.reads_samples else 0
    calibrating += hessian_bytes(sites) if params.solves else 0
    return Plan(
        tensors=rows,
        units=tuple(Unit(row.name, (row.name,)) for row in rows),
        peak_memory_bytes=max(working) + calibrating + 2 * graph.nbytes,
        warnings=tuple(_warnings(index, graph, params)),
        inputs=inputs,
        calibration=need,
    )


def rows_of(
    index: ModelIndex, graph: OnnxGraph, sites: Mapping[str, Site | str], params: OnnxParams
) -> tuple[TensorPlan, ...]:
    """What becomes of each weight, in the order of their names."""
    taken, even = activations(sites), smoothed(graph, params)
    return tuple(_row(index, name, sites[name], params, taken.get(name, ()), even) for name in index.tensors)


def halves(index: ModelIndex, name: str, params: OnnxParams) -> bool:
    """Whether the weight is to be stored as float16 where it stays float. One that the caller sees is not."""
    assert index.graph is not None
    seen = {each.name for each in (*index.graph.inputs, *index.graph.outputs)}
    return params.rest == "float16" and index.tensors[name].dtype == "F32" and name not in seen


def _left_open(index: ModelIndex, row: TensorPlan, params: OnnxParams) -> TensorPlan:
    """The row of a weight that may yet stay float, or not become float16."""
    held = (HALF, row.source_dtype) if halves(index, row.name, params) else (row.source_dtype,)
    if row.action == "quantize":
        return replace(row, candidates=(row.scheme, *held)) if params.gates else row
    return replace(row, candidates=held) if len(held) > 1 else row


def _require_runnable(index: ModelIndex) -> None:
    if index.nbytes > RUN_LIMIT:
        message = f"gates are measured by running the graph, whose weights take more than {RUN_LIMIT} bytes"
        raise ParamsRejected(
            f"onnx: {message}; leave them out, and name the nodes that stay float with exclude",
            [{"pointer": "/params/gates", "code": "too_large", "message": message}],
        )


def _samples(
    index: ModelIndex, graph: OnnxGraph, params: OnnxParams
) -> tuple[Mapping[str, str], CalibrationNeed | None]:
    """The digest of samples that fit the graph, or that windows of a text are needed, which fit it too."""
    if params.mode == "static" and graph.opsets[""] < LEAST_OPSET_STATIC:
        raise SourceRejected(
            f"the graph has opset {graph.opsets['']}, mode static needs {LEAST_OPSET_STATIC}; export it again, convert "
            "it with onnx.version_converter, or choose mode dynamic",
            opset=graph.opsets[""],
        )
    if params.samples is not None:
        return {"samples": given_samples(Path(params.samples), index, graph).digest}, None
    require_text(index, graph)
    return {}, CalibrationNeed(windows=True)


def _row(
    index: ModelIndex,
    name: str,
    site: Site | str,
    params: OnnxParams,
    activations: tuple[str, ...],
    smoothed: Mapping[str, int],
) -> TensorPlan:
    info = index.tensors[name]
    if isinstance(site, str) and halves(index, name, params):
        return TensorPlan(name, info.shape, info.dtype, "keep", HALF, name, info.nbytes // 2, site)
    if isinstance(site, str):
        return TensorPlan(name, info.shape, info.dtype, "keep", info.dtype, name, info.nbytes, site)
    nbytes = sum(part.nbytes for part in parts_of(site, params))
    scheme = scheme_of(site, params, smoothed)
    reason = "a table that is looked up: a scale for each row" if site.is_table else ""
    beside = sum(part.nbytes for part in activation_parts(activations, params, smoothed))
    return TensorPlan(name, info.shape, info.dtype, "quantize", scheme, name, nbytes, reason, beside=beside)


def _working_bytes(index: ModelIndex, row: TensorPlan, site: Site | str, params: OnnxParams) -> int:
    """The source, a copy of it turned or filled up to whole blocks, rounding, the codes before they are packed."""
    source = index.tensors[row.name].nbytes
    if isinstance(site, str):
        return source + row.nbytes if row.scheme == HALF else source
    if params.mode == "weight_only" and not site.is_table:
        inputs, outputs = row.shape[:: -1 if site.turned else 1]
        padded = outputs * -(-inputs // params.block_size) * params.block_size
        solving = SOLVING * padded if params.solves else 0
        return source + 4 * padded + 2 * padded + solving + row.nbytes
    return (2 if params.smooths else 1) * source + row.values + row.nbytes


def _warnings(index: ModelIndex, graph: OnnxGraph, params: OnnxParams) -> Iterator[str]:
    if params.mode != "weight_only" and params.target == "avx2" and not params.reduced:
        yield OVERFLOW
    if params.samples is not None and not params.reads_samples:
        yield "nothing here reads the samples: they are for mode static, smoothing, gptq and gates"
    if params.least_cosine is None:
        yield "verification loads the graph and does not run it, as least_cosine asks for it"
    elif index.nbytes > RUN_LIMIT:
        yield f"verification does not run the graph: its weights take more than {RUN_LIMIT} bytes"
    elif not (params.runs_samples or takes_text(graph)) and (why := next(unlike_random(graph), "")):
        yield f"verification loads the graph and does not run it: {why}"


def dynamic_dimensions(graph: OnnxGraph) -> set[str]:
    """The names of the inputs' dimensions that have no size."""
    return {each for info in graph.inputs for each in info.shape or () if isinstance(each, str)}


def unlike_random(graph: OnnxGraph) -> Iterator[str]:
    """Why no random inputs are made for the graph, in words, for each input that stands in the way."""
    if len(dynamic_dimensions(graph)) > DYNAMIC_LIMIT:
        yield "its inputs have more than two dynamic dimensions"
    for each in own_inputs(graph):
        if each.shape is None:
            yield f"its input {shown(each.name)} has no shape"
        elif each.dtype not in NUMPY:
            yield f"its input {shown(each.name)} is of another type than random numbers"
        elif prod(size if isinstance(size, int) and size > 0 else OTHER for size in each.shape) > FEED_LIMIT // 8:
            yield f"its input {shown(each.name)} has the shape {shown(each.shape)}"


def _check_patterns(graph: OnnxGraph, params: OnnxParams) -> None:
    for pattern in params.exclude:
        if not any(fnmatchcase(node.label, pattern) for node in graph.nodes):
            message = f"{pattern!r} matches no node of this graph"
            raise ParamsRejected(
                f"onnx: {message}", [{"pointer": "/params/exclude", "code": "matches_nothing", "message": message}]
            )
