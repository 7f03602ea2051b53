"""Running samples through the source graph, and what comes out of the activations that products take.

The graph is run as it stands, without the runtime's own rewriting, up to the last activation that is asked for; weights
are mapped from the source's files. Activations come out a few at a time, so that memory depends on one sample and
on the number of activations, never on the number of samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.graph_text import Feed
from quantmill.contract.onnx import GRAPH, MODEL, Node, OnnxGraph, Stored, require_names
from quantmill.contract.protobuf import bytes_field, number_field
from quantmill_onnx.layout import ONNX_TYPES
from quantmill_onnx.protos import external_tensor, node_proto, opset_proto, value_info_proto
from quantmill_onnx.samples import Feeds

FLOAT, INT64 = 1, 7  # TensorProto.DataType
SLICE_BYTES = 64 << 20  # of activations that come out of one run
LANES = 4  # samples that run at once
SEEN = "quantmill_seen"
VALUES, SIZE, MOMENTS = "Identity", "Size", "Gemm"  # what comes out of an activation: all of it, its size, x^T x


def sizes_of(graph: OnnxGraph, names: Sequence[str], samples: Feeds) -> Mapping[str, int]:
    """Bytes of each activation of the largest sample."""
    largest = next(run_all(graph, [(name, SIZE) for name in names], iter([samples.largest()]), 1))
    return {name: 4 * int(size) for (name, _), size in largest.items()}


def slices(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """The names in runs of at most SLICE_BYTES, or one."""
    some: list[str] = []
    taken = 0
    for name in names:
        if some and taken + sizes[name] > SLICE_BYTES:
            yield some
            some, taken = [], 0
        some.append(name)
        taken += sizes[name]
    if some:
        yield some


Asked = Sequence[tuple[str, str]]  # activations, and what is to come out of each


def run_all(
    graph: OnnxGraph, asked: Asked, feeds: Iterator[Feed], lanes: int
) -> Iterator[Mapping[tuple[str, str], NDArray[Any]]]:
    """What is asked of activations, sample by sample; `lanes` samples at once, each on one core."""
    session = _open(graph, asked)

    def run(feed: Feed) -> Mapping[tuple[str, str], NDArray[Any]]:
        return dict(zip(asked, session.run(None, dict(feed)), strict=True))

    with ThreadPoolExecutor(lanes) as pool:
        while group := list(islice(feeds, lanes)):
            try:
                yield from pool.map(run, group)
            except Exception as error:
                raise SourceRejected(f"ONNX Runtime cannot run the source on the samples: {error}"[:600]) from error


def _open(graph: OnnxGraph, asked: Asked) -> Any:
    """A session that keeps no memory between runs and copies no weight."""
    folder, model = _observing(graph, asked)
    return open_model(folder, model, as_it_stands=True)


def open_model(folder: Path, model: bytes, as_it_stands: bool = False) -> Any:
    """A session on one core of a model whose weights lie below the folder.

    `as_it_stands`: without the runtime's rewriting and its copies of weights, and nothing is kept between runs. Raises
    SourceRejected where the runtime does not load it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if as_it_stands:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SourceRejected(f"ONNX Runtime does not load the source: {error}"[:600]) from error


# The graph that is run


def _observing(graph: OnnxGraph, asked: Asked) -> tuple[Path, bytes]:
    """The folder that weights lie below, and the model whose outputs are what is asked of the activations."""
    nodes, used = _before(graph, [name for name, _ in asked])
    outputs = {f"{SEEN}_{number}": what for number, (_, what) in enumerate(asked)}
    require_names(graph, [*outputs, *(f"{output}_rows" for output in outputs)])
    watchers = [
        node for (name, what), output in zip(asked, outputs, strict=True) for node in _watch(name, what, output)
    ]
    weights = {name: weight for name, weight in graph.weights.items() if name in used}
    folder, files = folder_of(graph, weights)
    body = b"".join(
        [
            *(bytes_field(GRAPH.node, node.raw) for node in nodes),
            *(bytes_field(GRAPH.node, node) for node in watchers),
            graph.rest,
            *(bytes_field(GRAPH.initializer, proto) for proto in graph.constants.values()),
            *(bytes_field(GRAPH.initializer, mapped(each, files[each.file])) for each in weights.values()),
            *(bytes_field(GRAPH.input, each.raw) for each in graph.inputs if each.name not in graph.weights),
            *(
                bytes_field(GRAPH.output, value_info_proto(output, INT64 if what == SIZE else FLOAT))
                for output, what in outputs.items()
            ),
        ]
    )
    head = number_field(MODEL.ir_version, max(graph.ir_version, 4)) + graph.model_rest
    opsets = b"".join(bytes_field(MODEL.opset_import, opset_proto(*each)) for each in graph.opsets.items())
    return folder, head + opsets + bytes_field(MODEL.graph, body)


def _watch(name: str, what: str, output: str) -> Sequence[bytes]:
    """The nodes that make it of the activation."""
    if what != MOMENTS:
        return [node_proto(what, [name], [output], "", {})]
    rows = f"{output}_rows"  # (rows, channels)
    product = node_proto("Gemm", [rows, rows], [output], "", {"transA": 1})
    return [node_proto("Flatten", [name], [rows], "", {"axis": -1}), product]


def _before(graph: OnnxGraph, names: Sequence[str]) -> tuple[Sequence[Node], set[str]]:
    """The nodes that the values are made by, in the graph's order, and all names that they use."""
    used = set(names)
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if used.intersection(node.outputs):
            nodes.append(node)
            used.update(node.inputs, node.captured)
    return nodes[::-1], used


def folder_of(graph: OnnxGraph, weights: Mapping[str, Stored]) -> tuple[Path, Mapping[str, str]]:
    """The folder of the weights' files, links followed, and each file's path in it."""
    real = {file: (graph.path.parent / (file or graph.path.name)).resolve() for file in _files(weights)}
    folder = Path(os.path.commonpath([graph.path.resolve().parent, *(path.parent for path in real.values())]))
    return folder, {file: str(path.relative_to(folder)) for file, path in real.items()}


def _files(weights: Mapping[str, Stored]) -> set[str]:
    return {weight.file for weight in weights.values()}


def mapped(weight: Stored, file: str) -> bytes:
    info = weight.info
    return external_tensor(info.name, ONNX_TYPES[info.dtype], info.shape, file, weight.begin, info.nbytes)
