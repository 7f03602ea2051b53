"""The nodes that compute with quantized weights, in place of those that computed with the source's."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from quantmill.contract.errors import SourceRejected
from quantmill.contract.onnx import Node, OnnxGraph, consumers, require_names
from quantmill.contract.strictjson import shown
from quantmill_onnx.layout import CODES, RESTORED, SCALE, SMOOTHING, ZERO
from quantmill_onnx.params import OnnxParams
from quantmill_onnx.protos import node_proto, rewired, tensor_proto
from quantmill_onnx.sites import Site, Use, smoothed

# Below this a row counts as zeros: no activation of a model is as small, and its reciprocal is still a float32
LEAST_ROW = 1e-30
MICROSOFT = "com.microsoft"
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7  # TensorProto.DataType
AXES_AS_INPUT = 18  # opset from which ReduceMax and ReduceMin take their axes as an input
LEAST, LAST_AXIS, FLAT = "quantmill_least_row", "quantmill_last_axis", "quantmill_flat"
FIRST, SECOND = "quantmill_first", "quantmill_second"
CHOOSING = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique"))  # by values, maybe nothing
NO_OFFSET, MIDDLE = "quantmill_zeros", "quantmill_middle"
UNROUNDED = "unrounded"


@dataclass
class Rewritten:
    """NodeProtos in their order, small initializers (TensorProtos by name), values that no node makes any more."""

    nodes: list[bytes] = field(default_factory=list)
    constants: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)


def rewrite(graph: OnnxGraph, sites: Mapping[str, Site | str], params: OnnxParams) -> Rewritten:
    """The graph's nodes with those of the sites replaced. Raises SourceRejected where names of ours are taken."""
    uses = {use.node.raw: (site, use) for site in sites.values() if isinstance(site, Site) for use in site.uses}
    through = {use.through.raw for _, use in uses.values() if use.through is not None}
    behind = {use.behind.raw for _, use in uses.values() if use.behind is not None}
    rounded = {use.rounded for _, use in uses.values() if use.rounded}
    unread = frozenset(_codes_only(graph, rounded, uses)) if params.format == "qoperator" else frozenset[str]()
    writer = _Writer(graph, params, frozenset(rounded), unread)
    for node in graph.nodes:
        if node.raw in through:
            writer.result.gone.update(node.outputs)
        elif node.raw in behind and params.format == "qoperator":
            writer.result.gone.add(node.inputs[0])  # the range of what the convolution gives stands for it
        elif node.raw in behind:
            writer.round_behind(node, node.inputs)
        elif node.raw in uses:
            writer.replace(*uses[node.raw])
        else:
            writer.result.nodes.append(node.raw)
    replaced = rounded.union(*(use.node.outputs for _, use in uses.values()))
    require_names(graph, [name for name in writer.made if name not in replaced])
    for name, count in Counter(writer.made).items():
        if count > 1:
            raise SourceRejected(
                f"the quantized graph would have two values {shown(name)}; rename the source's", name=name
            )
    return writer.result


def _codes_only(graph: OnnxGraph, rounded: Set[str], uses: Collection[bytes]) -> Iterator[str]:
    """The values that only operators of integers take, as their activation: nothing needs their floats."""
    users, outputs = consumers(graph), {each.name for each in graph.outputs}
    for name in sorted(rounded - outputs):
        if all(
            each.raw in uses and each.inputs[0] == name and each.inputs.count(name) == 1 for each in users.get(name, ())
        ):
            yield name


SIDE = "quantmill_beside"


def rewrite_beside(graph: OnnxGraph, sites: Mapping[str, Site | str], params: OnnxParams) -> Rewritten:
    """The graph as it is, and each use of a site once more with the quantized weight: its output ends in SIDE.

    These take what the source's nodes take, so that what one weight loses is seen alone.
    """
    writer = _Writer(graph, params)
    writer.result.nodes += [node.raw for node in graph.nodes]
    uses = [(site, use) for site in sites.values() if isinstance(site, Site) for use in site.uses]
    for site, use in uses:
        node = replace(use.node, outputs=(f"{use.node.outputs[0]}_{SIDE}",))
        writer.replace(site, replace(use, node=node))
    require_names(graph, writer.made)
    return writer.result


class _Writer:
    """`rounded` are values that are brought to eight bits where they are made: all that take them see them so.

    Of `unread` among them nothing needs the floats.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        params: OnnxParams,
        rounded: frozenset[str] = frozenset(),
        unread: frozenset[str] = frozenset(),
    ) -> None:
        self.params = params
        self.rounded, self.unread = rounded, unread
        self.opset = graph.opsets[""]
        self._may_be_empty = any(node.op_type in CHOOSING for node in graph.nodes)
        self.result = Rewritten()
        self.made: list[str] = []
        self._activations: dict[str, _Activation] = {}
        self._smoothed = smoothed(graph, params)
        self._turned: dict[str, tuple[str, str]] = {}
        self._fuses = params.mode == "static" and params.format == "qdq"

    def replace(self, site: Site, use: Use) -> None:
        node, weight = use.node, site.weight.info.name
        if use.form == "table":
            self._look_up(weight, node)
            return
        if use.form == "filters" and self.params.format == "qoperator" and use.rounded in self.rounded:
            self._integer_convolution(site, use)
            return
        if use.form == "filters":
            self._convolution(site, node)
            return
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else ""
        output = f"{node.outputs[0]}_linear" if bias else node.outputs[0]
        if self.params.mode == "weight_only" and not site.is_table:
            self._blocks(site, node.inputs[0], output)
        elif self._fuses:
            self._static_product(site, node.inputs[0], output)
        else:
            self._integer_product(site, node.inputs[0], output)
        if bias and self._fuses:
            self._less(output, bias, node.outputs[0])
        elif bias:
            self._emit("Add", [output, bias], node.outputs[0])

    def _less(self, product: str, bias: str, output: str) -> None:
        """Product plus bias. ONNX Runtime makes a float Gemm of MatMul and Add, where it would fuse the MatMul."""
        negative = f"{bias}_negative"
        if negative not in self.made:
            self._emit("Neg", [bias], negative)
        self._emit("Sub", [product, negative], output)

    def _look_up(self, weight: str, node: Node) -> None:
        output, indices = node.outputs[0], node.inputs[1]
        self._emit("Gather", [f"{weight}_{CODES}", indices], f"{output}_codes", axis=0)
        self._emit("Cast", [f"{output}_codes"], f"{output}_float", to=FLOAT)
        self._emit("Gather", [f"{weight}_{SCALE}", indices], f"{output}_step", axis=0)
        self._emit("Mul", [f"{output}_float", f"{output}_step"], output)

    def _blocks(self, site: Site, activation: str, output: str) -> None:
        rows, cols = site.weight.info.shape
        inputs, outputs = (cols, rows) if site.turned else (rows, cols)
        name = site.weight.info.name
        zero = [] if self.params.symmetric else [f"{name}_{ZERO}"]
        self._emit(
            "MatMulNBits",
            [activation, f"{name}_{CODES}", f"{name}_{SCALE}", *zero],
            output,
            domain=MICROSOFT,
            K=inputs,
            N=outputs,
            accuracy_level=self.params.accuracy_level,
            bits=self.params.weight_bits,
            block_size=self.params.block_size,
        )

    def _integer_product(self, site: Site, activation: str, output: str) -> None:
        quantized = self._activation(activation)
        name = site.weight.info.name
        codes, scale = self._matrix(name) if site.is_table else (f"{name}_{CODES}", f"{name}_{SCALE}")
        plain = self.params.symmetric and not self.params.unsigned
        zero = [] if plain or site.is_table else [self._zero_points(site)]
        self._emit("MatMulInteger", [quantized.codes, codes, quantized.zero_point, *zero], f"{output}_integer")
        self._emit("Cast", [f"{output}_integer"], f"{output}_float", to=FLOAT)
        self._emit("Mul", [quantized.scale, scale], f"{output}_step")
        product = f"{output}_of_units" if quantized.row else output
        self._emit("Mul", [f"{output}_float", f"{output}_step"], product)
        if quantized.row:
            self._emit("Mul", [product, quantized.row], output)

    def _static_product(self, site: Site, activation: str, output: str) -> None:
        """A product between QuantizeLinear and DequantizeLinear, which ONNX Runtime fuses into one of integers."""
        name = site.weight.info.name
        weight = f"{name}_{RESTORED}"
        if weight not in self.made:
            by_output = site.is_table or self.params.per_channel
            codes, scale = self._matrix(name) if site.is_table else (f"{name}_{CODES}", f"{name}_{SCALE}")
            self._emit("DequantizeLinear", [codes, scale, self._zero_points(site)], weight, axis=1 if by_output else 0)
        self._emit("MatMul", [self._static_activation(activation), weight], output)

    def _integer_convolution(self, site: Site, use: Use) -> None:
        """A QLinearConv with the Relu or Clip behind it, which its range stands for: codes in, codes out."""
        node, output = use.node, use.rounded
        codes, *range_of = _quantized(output)
        wires = [*self._codes(node.inputs[0]), *self._filters_of(site), *range_of]
        self._rewire(node, "QLinearConv", [*wires, *self._bias_in_steps(node, output, wires[1], wires[4])], codes)
        self.made += range_of
        if output in self.unread:
            self.result.gone.add(output)
        else:
            self._emit("DequantizeLinear", _quantized(output), output)

    def _bias_in_steps(self, node: Node, output: str, activation: str, filters: str) -> Sequence[str]:
        """A convolution's bias as int32, in steps of input times filters, which runtimes compute when they load it."""
        if not any(node.inputs[2:]):
            return ()
        step, steps, whole, bias = (f"{output}_bias_{each}" for each in ("step", "steps", "whole", CODES))
        self._emit("Mul", [activation, filters], step)
        self._emit("Div", [node.inputs[2], step], steps)
        self._emit("Round", [steps], whole)
        self._emit("Cast", [whole], bias, to=INT32)
        return (bias,)

    def _filters_of(self, site: Site) -> Sequence[str]:
        """Codes of filters, their scales and zero points."""
        name, outputs = site.weight.info.name, site.outputs if self.params.per_channel else None
        return f"{name}_{CODES}", f"{name}_{SCALE}", self._zeros(outputs)

    def _convolution(self, site: Site, node: Node) -> None:
        """A Conv whose filters, input and output have eight bits, which ONNX Runtime fuses into a QLinearConv.

        The bias stays float: ONNX Runtime rounds it to 32 bits by itself.
        """
        activation, filters, *bias = node.inputs
        restored = f"{filters}_{RESTORED}"
        if restored not in self.made:
            self._emit("DequantizeLinear", self._filters_of(site), restored, axis=0)
        inputs = [self._static_activation(activation), restored, *bias]
        if node.outputs[0] in self.rounded:
            self.round_behind(node, inputs)
        else:
            self._rewire(node, node.op_type, inputs, node.outputs[0])

    def round_behind(self, node: Node, inputs: Sequence[str]) -> None:
        """The node with these inputs, its output brought to eight bits."""
        (output,) = node.outputs
        self._rewire(node, node.op_type, inputs, f"{output}_{UNROUNDED}")
        self._round(f"{output}_{UNROUNDED}", output)
        self._emit("DequantizeLinear", _quantized(output), output)

    def _rewire(self, node: Node, op_type: str, inputs: Sequence[str], output: str) -> None:
        self.result.nodes.append(rewired(node.raw, op_type, inputs, output))
        self.made.append(output)

    def _round(self, values: str, name: str) -> None:
        """The values in eight bits, by the range of the activation `name`."""
        codes, *range_of = _quantized(name)
        self._emit("QuantizeLinear", [values, *range_of], codes)
        self.made += range_of

    def _zero_points(self, site: Site) -> str:
        """Of a product's matrix."""
        if not self.params.symmetric and not site.is_table:
            return f"{site.weight.info.name}_{ZERO}"
        by_output = site.is_table or self.params.per_channel
        return self._zeros(site.outputs if by_output else None, self.params.unsigned and not site.is_table)

    def _zeros(self, outputs: int | None, unsigned: bool = False) -> str:
        """Zero points of nothing: 0, of unsigned codes 128. ONNX Runtime fuses a product only where it finds some."""
        stem, kind, zero = (MIDDLE, UINT8, b"\x80") if unsigned else (NO_OFFSET, INT8, b"\0")
        name = f"{stem}_{outputs}" if outputs else stem
        if name not in self.result.constants:
            shape = (outputs,) if outputs else ()
            self._constant(name, tensor_proto(name, kind, shape, zero * (outputs or 1)))
        return name

    def _static_activation(self, name: str) -> str:
        """The activation in eight bits, by the range that samples gave it; once for all products that take it."""
        if name in self.rounded:
            return name
        restored = f"{name}_{RESTORED}"
        if restored not in self.made:
            self._emit("DequantizeLinear", self._codes(name), restored)
        return restored

    def _codes(self, name: str) -> Sequence[str]:
        """The activation's codes, made once, their scale and zero point."""
        found = _quantized(name)
        if found[0] not in self.made:
            self._round(self._smooth(name), name)
        return found

    def _smooth(self, name: str) -> str:
        """The activation with its channels divided by s."""
        if name not in self._smoothed:
            return name
        self._emit("Mul", [name, f"{name}_{SMOOTHING}"], f"{name}_smooth")
        self.made.append(f"{name}_{SMOOTHING}")
        return f"{name}_smooth"

    def _matrix(self, table: str) -> tuple[str, str]:
        """A table's codes as (in, out), its scales as those of the outputs."""
        if table not in self._turned:
            turned, flat = f"{table}_{CODES}_turned", f"{table}_{SCALE}_flat"
            self._emit("Transpose", [f"{table}_{CODES}"], turned, perm=(1, 0))
            self._emit("Reshape", [f"{table}_{SCALE}", self._integers(FLAT, [-1])], flat)
            self._turned[table] = turned, flat
        return self._turned[table]

    def _activation(self, name: str) -> _Activation:
        """The codes of an activation, made once for all products that take it."""
        if self.params.format == "qoperator":
            codes, scale, zero = self._codes(name)
            return _Activation(codes, scale, zero, "")
        if name not in self._activations:
            by_row, smooth = self.params.activations == "row", self._smooth(name)
            row = self._row(smooth) if by_row else ""
            values = f"{smooth}_unit" if by_row else smooth
            found = _Activation(f"{values}_{CODES}", f"{values}_{SCALE}", f"{values}_{ZERO}", row)
            self._emit("DynamicQuantizeLinear", [values], found.codes, found.scale, found.zero_point)
            self._activations[name] = found
        return self._activations[name]

    def _row(self, name: str) -> str:
        """Bring each row of an activation to a largest magnitude of 1: one range serves all. Gives the factors."""
        for op_type, output in (("ReduceMax", f"{name}_most"), ("ReduceMin", f"{name}_least")):
            if self.opset >= AXES_AS_INPUT:
                self._emit(op_type, [name, self._integers(LAST_AXIS, [-1])], output, keepdims=1)
            else:
                self._emit(op_type, [name], output, keepdims=1, axes=(-1,))
        self._emit("Neg", [f"{name}_least"], f"{name}_least_magnitude")
        if LEAST not in self.result.constants:
            self._constant(LEAST, tensor_proto(LEAST, FLOAT, (), struct.pack("<f", LEAST_ROW)))
        row, whole = f"{name}_row", f"{name}_whole_row" if self._may_be_empty else f"{name}_row"
        self._emit("Max", [f"{name}_most", f"{name}_least_magnitude", LEAST], whole)
        if whole != row:  # ONNX Runtime 1.31 leaves the last axis of what has no rows as it was, (0, channels)
            ends = [self._integers(FIRST, [0]), self._integers(SECOND, [1]), self._integers(LAST_AXIS, [-1])]
            self._emit("Slice", [whole, *ends], row)
        self._emit("Div", [name, row], f"{name}_unit")
        return row

    def _integers(self, name: str, values: Sequence[int]) -> str:
        if name not in self.result.constants:
            data = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
            self._constant(name, tensor_proto(name, INT64, (len(values),), data))
        return name

    def _constant(self, name: str, proto: bytes) -> None:
        self.result.constants[name] = proto
        self.made.append(name)

    def _emit(
        self, op_type: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: int | tuple[int, ...]
    ) -> None:
        if domain:
            self.result.domains.add(domain)
        self.result.nodes.append(node_proto(op_type, inputs, outputs, domain, attributes))
        self.made += outputs


def _quantized(name: str) -> Sequence[str]:
    """What the codes of an activation, their scale and zero point are called."""
    return [f"{name}_{each}" for each in (CODES, SCALE, ZERO)]


@dataclass(frozen=True)
class _Activation:
    """Names of an activation's codes, scale and zero point; `row` is what the product is multiplied by, or empty."""

    codes: str
    scale: str
    zero_point: str
    row: str
