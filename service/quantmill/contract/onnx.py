"""ONNX models, read without trusting them: the graph without its weights, and where the weights lie.

Initializers in F32, F16 or BF16 of more than CONSTANT_BYTES are the model's tensors; all others, and whatever hangs on
the nodes, belong to the graph, whose bytes are kept as they are. Everything that refers to bytes elsewhere is checked
before it is used.

Specification: onnx/onnx.proto and docs/ExternalData.md of https://github.com/onnx/onnx, IR version 3 to 13.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path
from typing import NamedTuple

from quantmill.contract import protobuf
from quantmill.contract.errors import SourceRejected
from quantmill.contract.protobuf import BYTES, FIXED32, VARINT, Field
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import TensorInfo

CONSTANT_BYTES = 1024  # initializers up to this size belong to the graph: shapes, ranges, masks' values
GRAPH_LIMIT = 256 << 20  # bytes of all that is no weight; real graphs stay below 30 MB
COUNT_LIMIT = 1_000_000  # nodes, initializers
NESTING_LIMIT = 16  # of graphs in nodes
DIMENSIONS_LIMIT = 16
RANK_LIMIT = 64  # of inputs, outputs and values: numpy's
NAME_LIMIT = 4096  # characters

DTYPES = {1: ("F32", 4), 10: ("F16", 2), 16: ("BF16", 2)}  # TensorProto.DataType: the dtypes of weights
EXTERNAL = 1  # TensorProto.DataLocation


class Model(NamedTuple):
    """Field numbers of ModelProto."""

    ir_version: int = 1
    graph: int = 7
    opset_import: int = 8
    metadata: int = 14
    training: int = 20
    functions: int = 25


class Graph(NamedTuple):
    """Field numbers of GraphProto."""

    node: int = 1
    initializer: int = 5
    input: int = 11
    output: int = 12
    value_info: int = 13
    sparse_initializer: int = 15


MODEL, GRAPH = Model(), Graph()

AttributeValue = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operation. `raw` is the whole NodeProto; `captured` are the names that graphs in its attributes use, `inner`
    (domain, op_type) of the nodes there."""

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: frozenset[str]
    raw: bytes = field(repr=False)
    inner: frozenset[tuple[str, str]] = frozenset()

    @property
    def label(self) -> str:
        """Its name, or where it has none what it makes."""
        return self.name or next((name for name in self.outputs if name), self.op_type)

    @cached_property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """The numbers, strings and lists of integers among its attributes."""
        data = memoryview(self.raw)
        found = (_attribute(data, each) for each in protobuf.fields(data) if each.number == 5 and each.wire == BYTES)
        return {name: value for name, value in found if value is not None}


@dataclass(frozen=True)
class Stored:
    """A weight. Its bytes are `info.nbytes` of `file` (empty: the model's own) from `begin` on, row by row."""

    info: TensorInfo
    file: str
    begin: int


@dataclass(frozen=True)
class ValueInfo:
    """A graph's input or output: its element type as TensorProto numbers it, and its dimensions, by name or size."""

    name: str
    dtype: int
    shape: tuple[int | str, ...] | None
    raw: bytes = field(repr=False)


@dataclass(frozen=True)
class OnnxGraph:
    """A model without its weights.

    path         of the model's file
    opsets       versions by domain; "" is ONNX's own
    constants    name -> TensorProto of the initializers that belong to the graph
    value_info   name -> ValueInfoProto of values within the graph
    rest         what else the graph holds, as fields of GraphProto
    model_rest   what else the model holds, as fields of ModelProto
    metadata     keys of the model's own metadata
    local        (domain, name) of the functions that the model defines itself
    """

    path: Path
    ir_version: int
    opsets: Mapping[str, int]
    nodes: tuple[Node, ...]
    weights: Mapping[str, Stored]
    constants: Mapping[str, bytes]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    value_info: Mapping[str, bytes]
    rest: bytes
    model_rest: bytes
    metadata: frozenset[str]
    local: frozenset[tuple[str, str]]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is no weight."""
        parts = (*(node.raw for node in self.nodes), *self.constants.values(), *self.value_info.values())
        return sum(map(len, parts)) + len(self.rest) + len(self.model_rest)

    @property
    def names(self) -> set[str]:
        """Everything that has a name which new values must not take."""
        made = {name for node in self.nodes for name in node.outputs}
        return {*made, *self.weights, *self.constants, *(each.name for each in self.inputs)}


def read_graph(data: memoryview, path: Path) -> OnnxGraph:
    """The graph of the model whose file's bytes are `data`. Raises SourceRejected, naming what is wrong with it."""
    try:
        return _Reader(data, path).model()
    except ValueError as error:
        raise SourceRejected(f"{path.name} is not an ONNX model that can be read: {error}.", file=path.name) from error


class _Reader:
    def __init__(self, data: memoryview, path: Path) -> None:
        self.data = data
        self.path = path
        self.kept = 0  # bytes taken out of the file

    def raw(self, begin: int, end: int) -> bytes:
        self.kept += end - begin
        if self.kept > GRAPH_LIMIT:
            raise ValueError(f"more than {GRAPH_LIMIT} bytes of it are no weights; fold constants into initializers")
        return bytes(self.data[begin:end])

    def whole(self, each: Field) -> bytes:
        """A field with its tag."""
        return self.raw(each.start, each.end)

    def inner(self, each: Field) -> bytes:
        return self.raw(each.begin, each.end)

    def model(self) -> OnnxGraph:
        version, opsets, rest = 0, {}, bytearray()
        metadata, local = set(), set()
        graph: Field | None = None
        for each in protobuf.fields(self.data):
            if each.number == MODEL.graph and each.wire == BYTES:
                if graph is not None:
                    raise ValueError("it has two graphs")
                graph = each
                continue
            if each.number == MODEL.training:
                raise ValueError("it holds a training graph; export it for inference")
            if each.number == MODEL.ir_version:
                version = each.value
                continue
            if each.number == MODEL.opset_import:
                domain, opset = self._opset(each)
                opsets[domain] = opset
                continue
            if each.number == MODEL.metadata:
                metadata.add(self._strings(each).get(1, ""))
            elif each.number == MODEL.functions:
                function = self._strings(each)
                local.add((function.get(10, ""), function.get(1, "")))
            rest += self.whole(each)
        if graph is None or not version or not opsets:
            raise ValueError("it has no graph, no IR version or no opset")
        return self._graph(graph, version, opsets, bytes(rest), frozenset(metadata), frozenset(local))

    def _graph(
        self,
        graph: Field,
        version: int,
        opsets: Mapping[str, int],
        model_rest: bytes,
        metadata: frozenset[str],
        local: frozenset[tuple[str, str]],
    ) -> OnnxGraph:
        nodes: list[Node] = []
        weights: dict[str, Stored] = {}
        constants: dict[str, bytes] = {}
        inputs: list[ValueInfo] = []
        outputs: list[ValueInfo] = []
        value_info: dict[str, bytes] = {}
        rest = bytearray()
        for count, each in enumerate(protobuf.fields(self.data, graph.begin, graph.end)):
            if count > COUNT_LIMIT:
                raise ValueError(f"it has more than {COUNT_LIMIT} nodes and initializers")
            if each.wire != BYTES:
                rest += self.whole(each)
            elif each.number == GRAPH.node:
                nodes.append(self._node(self.inner(each)))
            elif each.number == GRAPH.initializer:
                self._initializer(each, weights, constants)
            elif each.number == GRAPH.input:
                inputs.append(_value_info(self.inner(each)))
            elif each.number == GRAPH.output:
                outputs.append(_value_info(self.inner(each)))
            elif each.number == GRAPH.value_info:
                info = self.inner(each)
                value_info[_value_info(info).name] = info
            elif each.number == GRAPH.sparse_initializer:
                raise ValueError("it has sparse initializers; make them dense")
            else:
                rest += self.whole(each)
        return OnnxGraph(
            self.path,
            version,
            opsets,
            tuple(nodes),
            dict(sorted(weights.items())),
            constants,
            tuple(inputs),
            tuple(outputs),
            value_info,
            bytes(rest),
            model_rest,
            metadata,
            local,
        )

    def _node(self, raw: bytes) -> Node:
        data = memoryview(raw)
        texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
        captured: set[str] = set()
        inner: set[tuple[str, str]] = set()
        for each in protobuf.fields(data):
            if each.number in texts:
                texts[each.number].append(_name(data, each))
            elif each.number == 5 and each.wire == BYTES:
                captured.update(_used(data, each, NESTING_LIMIT))
                inner.update(_inner(data, each))
        last = {number: found[-1] if found else "" for number, found in texts.items()}
        return Node(
            last[4],
            _domain(last[7]),
            last[3],
            tuple(texts[1]),
            tuple(texts[2]),
            frozenset(captured),
            raw,
            frozenset(inner),
        )

    def _initializer(self, message: Field, weights: dict[str, Stored], constants: dict[str, bytes]) -> None:
        tensor = _Tensor.read(self.data, message)
        if not tensor.name or tensor.name in weights or tensor.name in constants:
            raise ValueError(f"an initializer's name {shown(tensor.name)} is empty or there twice")
        dtype, size = DTYPES.get(tensor.dtype, ("", 0))
        nbytes = prod(tensor.shape) * size
        if dtype and nbytes > CONSTANT_BYTES:
            info = TensorInfo(tensor.name, dtype, tensor.shape, nbytes)
            weights[tensor.name] = _stored(info, tensor)
        elif tensor.external:
            raise ValueError(f"the small or integer initializer {shown(tensor.name)} lies outside of the model's file")
        else:
            constants[tensor.name] = self.inner(message)

    def _opset(self, each: Field) -> tuple[str, int]:
        domain, version = "", 0
        for part in protobuf.fields(self.data, each.begin, each.end):
            if part.number == 1:
                domain = _name(self.data, part)
            elif part.number == 2 and part.wire == VARINT:
                version = part.value
        return "" if domain == "ai.onnx" else domain, version

    def _strings(self, each: Field) -> dict[int, str]:
        """The first strings of a message, by their numbers: a name, a key, a domain."""
        found: dict[int, str] = {}
        for part in protobuf.fields(self.data, each.begin, each.end):
            if part.number in (1, 10) and part.wire == BYTES:
                found.setdefault(part.number, _name(self.data, part))
        return found


@dataclass
class _Tensor:
    """A TensorProto. `inline` is where its values lie in the file, `other` whether fields of another kind hold them."""

    name: str = ""
    dtype: int = 0
    shape: tuple[int, ...] = ()
    inline: tuple[int, int] | None = None
    other: bool = False
    external: bool = False
    location: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, data: memoryview, message: Field) -> _Tensor:
        tensor, dims = cls(), list[int]()
        for each in protobuf.fields(data, message.begin, message.end):
            if each.number == 1:
                if each.end - each.begin > protobuf.VARINT_BYTES * DIMENSIONS_LIMIT or len(dims) > DIMENSIONS_LIMIT:
                    raise ValueError(f"an initializer has more than {DIMENSIONS_LIMIT} dimensions")
                dims += protobuf.integers(data, each)
            elif each.number == 2:
                tensor.dtype = each.value
            elif each.number == 8:
                tensor.name = _name(data, each)
            elif each.number == 13:
                entry = {part.number: _name(data, part) for part in protobuf.fields(data, each.begin, each.end)}
                tensor.location[entry.get(1, "")] = entry.get(2, "")
            elif each.number == 14:
                tensor.external = each.value == EXTERNAL
            elif each.number == 9 or (each.number == 4 and each.wire == BYTES and tensor.inline is None):
                tensor.inline = (each.begin, each.end)  # float_data, packed, is stored as raw_data is
            elif each.number in (3, 4, 5, 6, 7, 10, 11):
                tensor.other = True
        if len(dims) > DIMENSIONS_LIMIT or any(not 0 <= size < 2**48 for size in dims) or prod(dims) >= 2**48:
            raise ValueError(f"the initializer {shown(tensor.name)} has the shape {shown(dims)}")
        tensor.shape = tuple(dims)
        return tensor


def _stored(info: TensorInfo, tensor: _Tensor) -> Stored:
    if not tensor.external:
        if tensor.inline is None or tensor.other:
            raise ValueError(f"the initializer {shown(info.name)} is not stored as raw data; save the model again")
        begin, end = tensor.inline
        if end - begin != info.nbytes:
            raise ValueError(f"the initializer {shown(info.name)} has {end - begin} bytes instead of {info.nbytes}")
        return Stored(info, "", begin)
    sizes = {"offset": "0", "length": str(info.nbytes)}
    sizes.update({key: value for key, value in tensor.location.items() if key in sizes})
    if not all(size.isascii() and size.isdigit() and len(size) < 20 for size in sizes.values()):
        raise ValueError(f"the initializer {shown(info.name)} lies at {shown(sizes)} of its file")
    if int(sizes["length"]) != info.nbytes:
        raise ValueError(f"the initializer {shown(info.name)} has {sizes['length']} bytes instead of {info.nbytes}")
    location = tensor.location.get("location", "")
    if not location:
        raise ValueError(f"the initializer {shown(info.name)} lies in a file that has no name")
    return Stored(info, location, int(sizes["offset"]))


def _name(data: memoryview, each: Field) -> str:
    if each.end - each.begin > NAME_LIMIT:
        raise ValueError(f"a name is longer than {NAME_LIMIT} bytes")
    return protobuf.text(data, each)


def _used(data: memoryview, attribute: Field, depth: int) -> Iterator[str]:
    """The names that the graphs in an attribute use."""
    for each in protobuf.fields(data, attribute.begin, attribute.end):
        if each.number in (6, 11) and each.wire == BYTES:  # g, graphs
            if not depth:
                raise ValueError(f"its graphs are nested more than {NESTING_LIMIT} deep")
            for node in protobuf.fields(data, each.begin, each.end):
                if node.number == GRAPH.node and node.wire == BYTES:
                    for part in protobuf.fields(data, node.begin, node.end):
                        if part.number == 1:
                            yield _name(data, part)
                        elif part.number == 5 and part.wire == BYTES:
                            yield from _used(data, part, depth - 1)
                elif node.number == GRAPH.output and node.wire == BYTES:
                    yield _value_info(bytes(data[node.begin : node.end])).name


def _inner(data: memoryview, attribute: Field) -> Iterator[tuple[str, str]]:
    """(domain, op_type) of the nodes of the graphs in an attribute, which `_used` has found not to be nested deep."""
    for each in protobuf.fields(data, attribute.begin, attribute.end):
        if each.number in (6, 11) and each.wire == BYTES:
            for node in protobuf.fields(data, each.begin, each.end):
                if node.number == GRAPH.node and node.wire == BYTES:
                    texts = {4: "", 7: ""}
                    for part in protobuf.fields(data, node.begin, node.end):
                        if part.number in texts:
                            texts[part.number] = _name(data, part)
                        elif part.number == 5 and part.wire == BYTES:
                            yield from _inner(data, part)
                    yield _domain(texts[7]), texts[4]


def _domain(stated: str) -> str:
    return "" if stated == "ai.onnx" else stated


def _attribute(data: memoryview, attribute: Field) -> tuple[str, AttributeValue | None]:
    name = ""
    value: AttributeValue | None = None
    numbers: list[int] = []
    for each in protobuf.fields(data, attribute.begin, attribute.end):
        if each.number == 1:
            name = _name(data, each)
        elif each.number == 2 and each.wire == FIXED32:
            value = protobuf.single(data, each)
        elif each.number == 3 and each.wire == VARINT:
            value = protobuf.signed(each.value)
        elif each.number == 4 and each.wire == BYTES and each.end - each.begin <= NAME_LIMIT:
            value = bytes(data[each.begin : each.end]).decode("utf-8", "replace")
        elif each.number == 8:
            numbers += protobuf.integers(data, each)
    return name, tuple(numbers) if numbers else value


def _value_info(raw: bytes) -> ValueInfo:
    data = memoryview(raw)
    name, dtype, shape = "", 0, None
    for each in protobuf.fields(data):
        if each.number == 1:
            name = _name(data, each)
        elif each.number == 2:
            for kind in protobuf.fields(data, each.begin, each.end):
                if kind.number == 1 and kind.wire == BYTES:  # tensor_type
                    dtype, shape = _tensor_type(data, kind)
    return ValueInfo(name, dtype, shape, raw)


def _tensor_type(data: memoryview, message: Field) -> tuple[int, tuple[int | str, ...] | None]:
    dtype, shape = 0, None
    for each in protobuf.fields(data, message.begin, message.end):
        if each.number == 1:
            dtype = each.value
        elif each.number == 2:
            dims = (dim for dim in protobuf.fields(data, each.begin, each.end) if dim.number == 1)
            shape = tuple(_dimension(data, dim) for dim in islice(dims, RANK_LIMIT + 1))
            if len(shape) > RANK_LIMIT:
                raise ValueError(f"a value has more than {RANK_LIMIT} dimensions")
    return dtype, shape


def _dimension(data: memoryview, message: Field) -> int | str:
    for each in protobuf.fields(data, message.begin, message.end):
        if each.number == 1:
            return protobuf.signed(each.value)
        if each.number == 2:
            return _name(data, each)
    return "?"


def consumers(graph: OnnxGraph) -> Mapping[str, tuple[Node, ...]]:
    """The nodes that take a value as an input; one that uses it in a graph of its own is among them."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys((*node.inputs, *sorted(node.captured))):
            found.setdefault(name, []).append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}


def require_names(graph: OnnxGraph, names: Collection[str]) -> None:
    """Raises SourceRejected where the graph has one of the names already."""
    for name in sorted(graph.names.intersection(names)):
        raise SourceRejected(f"the graph has a value {shown(name)} already; it may be quantized already", name=name)
