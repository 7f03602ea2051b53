"""Clips between zero and a constant, ReLU6 among them, which codes can stand for."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from quantmill.contract import protobuf
from quantmill.contract.onnx import Node, OnnxGraph
from quantmill_onnx.ranges import LEVELS, Range

FLOAT = 1  # TensorProto.DataType
TENSOR = 5  # field of AttributeProto


def ceilings(graph: OnnxGraph) -> Mapping[bytes, float]:
    """The upper end of each Clip whose lower end is zero, by the node's bytes."""
    makers = {name: node for node in graph.nodes if node.op_type == "Constant" for name in node.outputs}
    found: dict[bytes, float] = {}
    for node in graph.nodes:
        if node.op_type == "Clip" and not node.domain and len(node.inputs) == 3:
            low, high = (_scalar(_tensor(graph, makers, name)) for name in node.inputs[1:])
            if low == 0 and high is not None and 0 < high < np.inf:
                found[node.raw] = high
    return found


def beneath(found: Range, ceiling: float | None) -> Range:
    """The range, ended where its last code stands for no more than the ceiling: the Clip then changes nothing."""
    low, high = found
    if ceiling is None or low < 0:
        return found
    scale = np.float32(min(high, ceiling) / LEVELS)
    while scale * np.float32(LEVELS) > np.float32(ceiling):
        scale = np.nextafter(scale, np.float32(0))
    return 0.0, float(scale) * LEVELS


def _tensor(graph: OnnxGraph, makers: Mapping[str, Node], name: str) -> bytes:
    """The TensorProto of a constant; empty where it is none."""
    if name not in makers:
        return graph.constants.get(name, b"")
    data = memoryview(makers[name].raw)
    for attribute in protobuf.fields(data):
        if attribute.number == 5:
            for each in protobuf.fields(data, attribute.begin, attribute.end):
                if each.number == TENSOR and each.wire == protobuf.BYTES:
                    return bytes(data[each.begin : each.end])
    return b""


def _scalar(tensor: bytes) -> float | None:
    """The value of a float32 with one element, if it is one."""
    data, dims, dtype, value = memoryview(tensor), list[int](), 0, b""
    for each in protobuf.fields(data):
        if each.number == 1:
            dims += protobuf.integers(data, each)
        elif each.number == 2:
            dtype = each.value
        elif each.number in (4, 9):
            value = bytes(data[each.begin : each.end])
    if dtype != FLOAT or prod(dims) != 1 or len(value) != 4:
        return None
    return float(np.frombuffer(value, "<f4")[0])
