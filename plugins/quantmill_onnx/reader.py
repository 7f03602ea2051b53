"""Reading quantized ONNX models back, without the encoder's code: onnx's parser, operators' definitions in numpy.

MatMulInteger, DequantizeLinear, Gather: onnx, docs/Operators.md. MatMulNBits: onnxruntime 1.31,
docs/ContribOperators.md. QOperator's are read as what defines them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import FloatArray
from quantmill_onnx.definitions import expanded

MODEL, DATA = "model.onnx", "model.onnx.data"
KEPT: dict[int, tuple[str, np.dtype[Any]]] = {
    1: ("F32", np.dtype("<f4")),
    10: ("F16", np.dtype("<f2")),
    16: ("BF16", np.dtype("<u2")),
}
WEIGHT_BYTES = 1024  # kept initializers up to this size belong to the graph
DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1")}
CHUNK_VALUES = 1 << 18
# What takes codes of a product's matrix or of filters: the inputs that it has, without zero points and with them
TAKING = {"DequantizeLinear": (2, 3), "MatMulInteger": (3, 4)}
SMOOTHING = "_smoothing"
ROUNDING = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "Div")  # of an activation


def read(folder: Path, names: Collection[str] | None = None) -> Iterator[ReadTensor]:
    """Each weight as float32, in the order of the names. Raises VerificationFailed for one that is not whole."""
    artifact = Artifact(folder)
    quantized = artifact.quantized()
    kept = artifact.kept()
    for name in sorted({*quantized, *kept}):
        if names is None or name in names:
            if name in kept:
                yield artifact.plain(name)
            else:
                yield artifact.restored(name, quantized[name])


class Artifact:
    """A written model: its graph, its nodes with operators of integers taken apart, and its initializers by name."""

    def __init__(self, folder: Path) -> None:
        import onnx

        self.folder = folder
        self.model = onnx.load(str(folder / MODEL), load_external_data=False)
        self.initializers = {each.name: each for each in self.model.graph.initializer}
        if len(self.initializers) < len(self.model.graph.initializer):
            raise VerificationFailed("an initializer is stored twice")
        self.nodes = expanded(self.model.graph.node)
        self._makers = {value: node for node in self.nodes for value in node.output}
        self._taking: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input[0:1] if node.op_type == "DequantizeLinear" else node.input[1:2]:
                if node.op_type in TAKING:
                    self._taking.setdefault(name, []).append(node)
        metadata = {each.key: each.value for each in self.model.metadata_props}
        self._transposed = _listed(metadata, "quantmill.transposed")
        self._reduced = _listed(metadata, "quantmill.reduced")
        self.halved = _listed(metadata, "quantmill.float16")
        self._solved = _listed({"quantmill.gptq": "[]", **metadata}, "quantmill.gptq")

    def quantized(self) -> Mapping[str, Any]:
        """The first node that computes with each quantized weight; one that looks it up comes before the others."""
        found: dict[str, Any] = {}
        for node in self.nodes:
            at = {"Gather": 0, "DequantizeLinear": 0, "MatMulInteger": 1, "MatMulNBits": 1}.get(node.op_type)
            if at is None or len(node.input) <= at or not node.input[at].endswith("_quantized"):
                continue
            if node.input[at] in self.initializers:
                name = node.input[at].removesuffix("_quantized")
                if name not in found or node.op_type == "Gather":
                    found[name] = node
        return found

    def kept(self) -> set[str]:
        """The weights that are stored as they are: what no quantized one is made of."""
        companions = {f"{name}{suffix}" for name in self.quantized() for suffix in ("_scale", "_zero_point")}
        large = {
            name for name, each in self.initializers.items() if each.data_type in KEPT and _nbytes(each) > WEIGHT_BYTES
        }
        halves = {f"{name}_float16" for name in self.halved}
        return {name for name in large - companions - halves if not self._is_smoothing(name)} | self.halved

    def _is_smoothing(self, name: str) -> bool:
        """Whether activations are multiplied by it, and nothing else uses it."""
        users = [node for node in self.nodes if name in node.input]
        return bool(users) and all(node.op_type == "Mul" and node.output[0].endswith("_smooth") for node in users)

    def stands_for(self, rounding: Any, limit: Any) -> bool:
        """Whether codes of that QuantizeLinear reach from zero, of a Clip no further than it does."""
        scale, zero = (self.array(name) for name in rounding.input[1:3])
        if zero.dtype not in (np.uint8, np.int8) or zero.shape or scale.shape:
            return False
        least, most = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
        if int(zero) != least or limit.op_type == "Relu":
            return int(zero) == least
        ends = [self._scalar(name) for name in limit.input[1:]]
        return len(ends) == 2 and ends[0] == 0 and float(scale * np.float32(most - least)) <= ends[1]

    def _scalar(self, name: str) -> float:
        """A constant of one float32; NaN where it is none."""
        from onnx import numpy_helper

        maker = self._makers.get(name)
        values = [each.t for each in maker.attribute if each.name == "value"] if maker is not None else []
        found = self.initializers.get(name) if maker is None else next(iter(values), None)
        array = np.empty(0) if found is None or found.data_location else numpy_helper.to_array(found)
        return float(array.reshape(())) if array.size == 1 else np.nan

    def plain(self, name: str) -> ReadTensor:
        if name in self.halved:
            values = self.half(name)
            return ReadTensor(name, "F16-ROUNDED", values.nbytes, values.astype(np.float32))
        dtype, stored = KEPT[self.initializers[name].data_type]
        values = self._values(name, stored)
        if dtype == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        return ReadTensor(name, dtype, _nbytes(self.initializers[name]), values.astype(np.float32, copy=False))

    def half(self, name: str) -> NDArray[np.float16]:
        """What is stored of a weight that the graph casts to float32, and nothing else takes."""
        stored = f"{name}_float16"
        users = [node for node in self.nodes if stored in node.input]
        casts = [(node.domain, node.op_type, [each.i for each in node.attribute], [*node.output]) for node in users]
        _require(name, casts == [("", "Cast", [1], [name])], f"{stored} is taken by {casts}")
        _require(name, stored in self.initializers and self.initializers[stored].data_type == 10, f"no {stored}")
        return self._values(stored, np.dtype("<f2"))

    def restored(self, name: str, node: Any) -> ReadTensor:
        codes = self.array(f"{name}_quantized")
        scale = self.array(f"{name}_scale")
        zero = self.array(f"{name}_zero_point") if f"{name}_zero_point" in self.initializers else None
        nbytes = sum(each.nbytes for each in (codes, scale, *([] if zero is None else [zero])))
        asymmetric = "" if zero is None else "-ASYM"
        for each in self._taking.get(f"{name}_quantized", ()):
            self._require_restored(name, each, zero is not None, codes.dtype)
        sign = "U" if codes.dtype == np.uint8 and codes.ndim == 2 and node.op_type in TAKING else ""
        if sign:
            codes, zero = _signed(codes), None if zero is None else _signed(zero)
        if node.op_type == "MatMulNBits":
            label, values = _blocks(name, node, codes, scale, zero)
            scheme = f"{label}{asymmetric}{'-GPTQ' if name in self._solved else ''}"
        else:
            affine = _filters if codes.ndim > 2 else _affine
            label, values = affine(name, node, codes, scale, zero)
            reduced = name in self._reduced
            _require(
                name,
                not reduced or int(np.abs(codes.view(np.int8).astype(np.int16)).max(initial=0)) <= 64,
                "codes of 8 bits",
            )
            factors = self._smoothing(node)
            if factors is not None:
                fit = factors.shape == values.shape[:1] and bool((factors > 0).all())
                _require(name, fit, f"factors {factors.shape}")
                values *= factors[:, None]
            smooth = "" if factors is None else "-SMOOTH"
            scheme = f"{sign}{label}{asymmetric}{'-REDUCED' if reduced else ''}{smooth}"
        turned = name in self._transposed
        by_columns = node.op_type in ("MatMulInteger", "DequantizeLinear") and values.ndim == 2 and not turned
        return ReadTensor(
            name,
            scheme,
            nbytes,
            values.T if turned else values,
            transposed=by_columns or (node.op_type == "MatMulNBits" and turned),
        )

    def _require_restored(self, name: str, node: Any, asymmetric: bool, dtype: np.dtype[Any]) -> None:
        """A node restores the weight by its own scale and zero points, or by such as stand for none: 0, 128 of uint8.

        A MatMulInteger gives steps: another node has their scale.
        """
        least, most = TAKING[node.op_type]
        _require(name, least <= len(node.input) <= most, f"{node.output[0]} has {len(node.input)} inputs")
        zero = node.input[most - 1 :]
        if node.op_type == "DequantizeLinear":
            _require(name, node.input[1] == f"{name}_scale", f"{node.output[0]} is restored by {node.input[1]}")
        own, none = list(zero) == [f"{name}_zero_point"], 128 if dtype == np.uint8 else 0
        if zero and not own:
            _require(name, bool((self.array(zero[0]) == none).all()), f"{zero[0]} has zero points that are not {none}")
        _require(name, own == asymmetric and (bool(zero) or not none), f"{node.output[0]} has the zero points {zero}")

    def _smoothing(self, node: Any) -> NDArray[Any] | None:
        """What the activation's channels are multiplied by before it is rounded for this product, if they are.

        Backwards through what brings it into eight bits; a table's own look-up has none.
        """
        if node.op_type == "DequantizeLinear":
            node = next((each for each in self.nodes if node.output[0] in each.input[1:2]), None)
        value = node.input[0] if node is not None and node.op_type in ("MatMul", "MatMulInteger") else ""
        passed: set[str] = set()  # a damaged graph may lead back to where it came from
        while value not in passed and (maker := self._makers.get(value)) is not None:
            passed.add(value)
            if maker.op_type == "Mul" and maker.input[1].endswith(SMOOTHING):
                return self.array(maker.input[1])
            if maker.op_type not in ROUNDING:
                return None
            value = maker.input[0]
        return None

    def array(self, name: str) -> NDArray[Any]:
        """An initializer of float32, uint8 or int8."""
        if name not in self.initializers:
            raise VerificationFailed(f"the graph has no initializer {name}", tensor=name)
        dtype = DTYPES.get(self.initializers[name].data_type)
        if dtype is None:
            raise VerificationFailed(f"the initializer {name} has another type than its node takes", tensor=name)
        return self._values(name, dtype)

    def _values(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        tensor = self.initializers[name]
        shape, nbytes = tuple(tensor.dims), _nbytes(tensor)
        if not tensor.data_location:
            _require(name, len(tensor.raw_data) == nbytes, f"{len(tensor.raw_data)} bytes instead of {nbytes}")
            return np.frombuffer(tensor.raw_data, dtype).reshape(shape)
        where = {entry.key: entry.value for entry in tensor.external_data}
        _require(name, where.get("location") == DATA, f"it lies in {where.get('location')!r}")
        _require(name, int(where.get("length", -1)) == nbytes, f"{where.get('length')} bytes instead of {nbytes}")
        begin = int(where.get("offset", -1))
        path = self.folder / DATA
        _require(name, 0 <= begin <= path.stat().st_size - nbytes, f"it lies at byte {begin} of {path.stat().st_size}")
        return np.memmap(path, dtype, "r", begin, shape) if nbytes else np.empty(shape, dtype)


ITEM = {1: 4, 2: 1, 3: 1, 10: 2, 16: 2}


def _nbytes(tensor: Any) -> int:
    count = ITEM.get(tensor.data_type, 0)
    for size in tensor.dims:
        count *= size
    return count


def _listed(metadata: Mapping[str, str], key: str) -> frozenset[str]:
    names = json.loads(metadata.get(key, "null"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise VerificationFailed(f"the model's metadata has no list {key}")
    return frozenset(names)


def _affine(
    name: str, node: Any, codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None
) -> tuple[str, FloatArray]:
    """(code - zero point) * scale; a scale stands for a column of a product's matrix, for a row of a table."""
    _require(name, codes.dtype == np.int8 and codes.ndim == 2 and scale.dtype == np.float32, f"codes {codes.dtype}")
    rows, cols = codes.shape
    shapes = {(rows, 1): "ROW"} if node.op_type == "Gather" else {(cols,): "CHANNEL", (): "TENSOR"}
    _require(name, scale.shape in shapes, f"scale {scale.shape} for codes {codes.shape}")
    if node.op_type == "DequantizeLinear" and scale.ndim:
        axis = [each.i for each in node.attribute if each.name == "axis"]
        _require(name, axis == [1], f"its scales stand for axis {axis}")
    if zero is not None:
        _require(name, zero.shape == scale.shape and zero.dtype == np.int8, f"zero points {zero.shape}")
    values = np.empty(codes.shape, np.float32)
    step = max(1, CHUNK_VALUES // max(1, cols))
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        whole = codes[chunk].astype(np.float32)
        if zero is not None:
            whole -= zero.astype(np.float32)
        np.multiply(whole, scale[chunk] if scale.ndim == 2 else scale, out=values[chunk])
    return f"INT8-{shapes[scale.shape]}", values


def _filters(
    name: str, node: Any, codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None
) -> tuple[str, FloatArray]:
    """code * scale; a scale stands for the filters of an output."""
    shapes = {codes.shape[:1]: "FILTER", (): "TENSOR"}
    axis = [each.i for each in node.attribute if each.name == "axis"]
    _require(name, node.op_type == "DequantizeLinear" and axis == [0], f"{node.op_type} by axis {axis}")
    _require(name, codes.dtype == np.int8 and scale.dtype == np.float32 and zero is None, f"codes {codes.dtype}")
    _require(name, scale.shape in shapes, f"scale {scale.shape} for codes {codes.shape}")
    by_output = scale.reshape(-1, *[1] * (codes.ndim - 1))  # (outputs or 1, 1, 1, 1)
    return f"INT8-{shapes[scale.shape]}", np.multiply(codes, by_output, dtype=np.float32)


def _blocks(
    name: str, node: Any, codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None
) -> tuple[str, FloatArray]:
    """(code - zero point) * scale of each block along the inputs; (out, in)."""
    given = {each.name: int(each.i) for each in node.attribute}
    bits, size, inputs, outputs = (given.get(key, 0) for key in ("bits", "block_size", "K", "N"))
    _require(name, bits in (4, 8) and size >= 16 and inputs > 0, f"attributes {given}")
    blocks = -(-inputs // size)
    _require(name, codes.dtype == np.uint8 and codes.shape == (outputs, blocks, size * bits // 8), f"{codes.shape}")
    _require(name, scale.dtype == np.float32 and scale.shape == (outputs, blocks), f"scale {scale.shape}")
    zeros = np.full((outputs, blocks), 1 << (bits - 1), np.uint8)
    if zero is not None:
        _require(name, zero.dtype == np.uint8 and zero.shape == (outputs, -(-blocks * bits // 8)), f"{zero.shape}")
        zeros = _unpacked(zero, bits)[:, :blocks]
    values = np.empty((outputs, inputs), np.float32)
    step = max(1, CHUNK_VALUES // inputs)
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        whole = _unpacked(codes[rows], bits).astype(np.float32)
        whole -= zeros[rows, :, None]
        whole *= scale[rows, :, None]
        values[rows] = whole.reshape(len(whole), -1)[:, :inputs]
    return f"INT{bits}-{size}", values


def _signed(codes: NDArray[Any]) -> NDArray[np.int8]:
    """uint8 codes less 128."""
    return (codes ^ np.uint8(128)).view(np.int8)


def _unpacked(packed: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """The codes of bytes along the last axis, the low half first."""
    if bits == 8:
        return np.asarray(packed, np.uint8)
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _require(name: str, holds: bool, found: str) -> None:
    if not holds:
        raise VerificationFailed(f"the arrays of {name} do not fit: {found}", tensor=name)
