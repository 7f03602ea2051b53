"""The graph with some of its weights quantized, run on samples in ONNX Runtime beside the source's.

A trial is the graph as it would be written: quantized weights are made once and kept, float ones are mapped from the
source's files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.graph_text import Feed
from quantmill.contract.onnx import GRAPH, MODEL, OnnxGraph
from quantmill.contract.protobuf import bytes_field
from quantmill_onnx.calibration import FLOAT, LANES, folder_of, mapped, open_model
from quantmill_onnx.export import graph_body, model_head
from quantmill_onnx.gates import Measured, Outputs, measure
from quantmill_onnx.graph import SIDE, Rewritten, rewrite, rewrite_beside
from quantmill_onnx.layout import ONNX_TYPES, activation_parts, parts_of
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.protos import node_proto, tensor_proto, value_info_proto
from quantmill_onnx.sites import Site, activations, smoothed

Arrays = Mapping[str, NDArray[Any]]
Sites = Mapping[str, Site | str]

SAMPLES = 32  # that a trial runs on, from the first on
KEPT_BYTES = 256 << 20  # of samples and the source's outputs: fewer samples where these take more
LEAST = 1e-300  # of a sum of squares, where there is no noise
FLOATS = (1, 10, 11)  # TensorProto.DataType


class Trials:
    """The source's outputs on samples, and what becomes of them with quantized weights.

    `arrays` holds the initializers of all that may be quantized, by their names in the graph.
    """

    def __init__(
        self, graph: OnnxGraph, params: OnnxParams, arrays: Arrays, feeds: Iterator[Feed], threads: int
    ) -> None:
        self.graph, self.params, self.arrays = graph, params, arrays
        self.lanes = min(threads, LANES)
        self.outputs = [each.name for each in graph.outputs if each.dtype in FLOATS]
        if not self.outputs:
            raise SourceRejected("the graph has no output of floats, which gates could be measured on")
        self.feeds, self.expected = self._source(feeds)

    def measured(self, sites: Sites) -> Sequence[Measured]:
        """Each sample's measures with these sites quantized."""
        rewritten = rewrite(self.graph, sites, self.params)
        outputs = b"".join(bytes_field(GRAPH.output, each.raw) for each in self.graph.outputs)
        found = self._run(self._model(rewritten, sites, outputs), self.outputs, self.feeds)
        return [measure(*each) for each in zip(found, self.expected, self.feeds, strict=True)]

    def noise(self, sites: Sites) -> Mapping[str, float]:
        """Each site's signal-to-noise ratio in decibels: of what its nodes make of the source's own values."""
        beside = rewrite_beside(self.graph, sites, self.params)
        used = [
            (name, use.node.outputs[0]) for name, site in sites.items() if isinstance(site, Site) for use in site.uses
        ]
        names: list[str] = []
        for _, output in used:
            off = f"{output}_{SIDE}_off"
            beside.nodes.append(node_proto("Sub", [f"{output}_{SIDE}", output], [off], "", {}))
            for value in (output, off):
                names.append(f"{value}_{SIDE}_squares")
                beside.nodes.append(node_proto("ReduceSumSquare", [value], [names[-1]], "", {"keepdims": 0}))
        outputs = b"".join(bytes_field(GRAPH.output, value_info_proto(name, FLOAT)) for name in names)
        opened = self._model(beside, sites, outputs, both=True)
        sums = np.sum(np.asarray(self._run(opened, names, self.feeds), np.float64), axis=0).reshape(-1, 2)
        ratios: dict[str, float] = {}
        for (name, _), (signal, noise) in zip(used, sums, strict=True):
            decibels = 10 * math.log10(max(signal, LEAST) / max(noise, LEAST))
            ratios[name] = min(ratios.get(name, math.inf), decibels)
        return ratios

    def _source(self, feeds: Iterator[Feed]) -> tuple[list[Feed], list[Outputs]]:
        """The samples, and the source's outputs on them: SAMPLES, or as many as fit KEPT_BYTES."""
        body = Rewritten(nodes=[node.raw for node in self.graph.nodes])
        outputs = b"".join(bytes_field(GRAPH.output, each.raw) for each in self.graph.outputs)
        session = self._model(body, dict.fromkeys(self.graph.weights, "float"), outputs)()
        taken: list[Feed] = []
        expected: list[Outputs] = []
        size = 0
        for feed in islice(feeds, SAMPLES):
            (found,) = self._run(lambda: session, self.outputs, [feed])
            if not all(np.isfinite(each).all() for each in found):
                raise SourceRejected(f"sample {len(taken)} makes outputs that are not finite", sample=len(taken))
            size += sum(each.nbytes for each in (*found, *feed.values()))
            if taken and size > KEPT_BYTES:
                break
            taken.append(feed)
            expected.append(found)
        return taken, expected

    def _model(self, rewritten: Rewritten, sites: Sites, outputs: bytes, both: bool = False) -> Callable[[], Any]:
        """What opens the graph with these sites' arrays; `both`: with the source's weights of them as well."""
        weights = self.graph.weights.items()
        kept = {name: each for name, each in weights if both or not isinstance(sites[name], Site)}
        folder, files = folder_of(self.graph, kept)
        initializers = [mapped(weight, files[weight.file]) for weight in kept.values()]
        initializers += [self._stored(name) for name in self._names(sites)]
        body = b"".join(bytes_field(GRAPH.initializer, each) for each in initializers)
        graph = graph_body(self.graph, rewritten) + outputs + body
        return lambda: open_model(
            folder, model_head(self.graph, rewritten, self.params) + bytes_field(MODEL.graph, graph)
        )

    def _names(self, sites: Sites) -> Iterator[str]:
        for site in sites.values():
            yield from (part.name for part in parts_of(site, self.params)) if isinstance(site, Site) else ()
        even = smoothed(self.graph, self.params)
        for names in activations(sites).values():
            yield from (part.name for part in activation_parts(names, self.params, even))

    def _stored(self, name: str) -> bytes:
        values = self.arrays[name]
        return tensor_proto(name, NUMBERS[values.dtype.name], values.shape, np.ascontiguousarray(values).tobytes())

    def _run(self, open_session: Callable[[], Any], names: Sequence[str], feeds: Sequence[Feed]) -> list[Outputs]:
        session = open_session()

        def run(feed: Feed) -> Outputs:
            found: Outputs = session.run(list(names), dict(feed))
            return found

        try:
            with ThreadPoolExecutor(self.lanes) as pool:
                return list(pool.map(run, feeds))
        except Exception as error:
            raise SourceRejected(f"ONNX Runtime cannot run the graph on the samples: {error}"[:600]) from error


NUMBERS = {"float32": ONNX_TYPES["F32"], "uint8": ONNX_TYPES["U8"], "int8": ONNX_TYPES["I8"]}
