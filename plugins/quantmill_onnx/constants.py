"""The values of a graph's small constants: initializers that belong to it, and Constant nodes."""

from __future__ import annotations

from math import prod

import numpy as np

from quantmill.contract import protobuf
from quantmill.contract.errors import SourceRejected
from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import FloatArray

FLOAT = 1  # TensorProto.DataType
ATTRIBUTE, TENSOR = 5, 5  # fields of NodeProto and AttributeProto
FLOAT_DATA, RAW_DATA = 4, 9  # fields of TensorProto


class Constants:
    """Of one graph, by their names."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self._makers = {name: node for node in graph.nodes if node.op_type == "Constant" for name in node.outputs}

    def floats(self, name: str) -> FloatArray | None:
        """(values,) of a float32 constant of one dimension or none; None where it is none of these.

        Raises SourceRejected for one that is damaged.
        """
        try:
            return _floats(self._tensor(name))
        except ValueError as error:
            raise SourceRejected(f"the constant {shown(name)} is damaged: {error}", name=name) from error

    def _tensor(self, name: str) -> bytes:
        if name not in self._makers:
            return self.graph.constants.get(name, b"")
        data = memoryview(self._makers[name].raw)
        for attribute in protobuf.fields(data):
            if attribute.number == ATTRIBUTE and attribute.wire == protobuf.BYTES:
                for each in protobuf.fields(data, attribute.begin, attribute.end):
                    if each.number == TENSOR and each.wire == protobuf.BYTES:
                        return bytes(data[each.begin : each.end])
        return b""


def _floats(tensor: bytes) -> FloatArray | None:
    data, dims, dtype, values = memoryview(tensor), list[int](), 0, list[memoryview]()
    for each in protobuf.fields(data):
        if each.number == 1:
            dims += protobuf.integers(data, each)
        elif each.number == 2:
            dtype = each.value
        elif each.number in (FLOAT_DATA, RAW_DATA):
            values.append(data[each.begin : each.end])
    stored = b"".join(values)
    if dtype != FLOAT or len(dims) > 1 or len(stored) != 4 * prod(dims):
        return None
    return np.frombuffer(stored, "<f4")
