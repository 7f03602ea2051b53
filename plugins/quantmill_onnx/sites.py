"""Which weights of a graph can be quantized: how each is used, and why the others stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from quantmill.contract.onnx import Node, OnnxGraph, Stored, consumers
from quantmill.contract.tensors import Plan
from quantmill_onnx.clips import ceilings
from quantmill_onnx.params import OnnxParams

# How a node uses a weight: B of a product as (in, out), B as (out, in), rows of it, or a convolution's filters
Form = Literal["in_out", "out_in", "table", "filters"]
FILTERS = (3, 4)  # dimensions: (outputs, inputs of a group, width), or height and width
IR_WITH_CONSTANTS = 4  # from here on an initializer that is also an input may be replaced by the caller


@dataclass(frozen=True)
class Use:
    """`node` computes with the weight; `through` is the Transpose between them, if there is one.

    `behind` is the Relu, or the Clip from zero to `ceiling`, that a convolution's output goes to, where it goes nowhere
    else.
    """

    node: Node
    form: Form
    through: Node | None = None
    behind: Node | None = None
    ceiling: float | None = None

    @property
    def rounded(self) -> str:
        """What static ranges round behind the weight: a convolution's output; empty for all else."""
        return (self.behind or self.node).outputs[0] if self.form == "filters" else ""


@dataclass(frozen=True)
class Site:
    """A weight that can be quantized, (rows, cols) as the source has it, and all its uses.

    A table that is looked up may be the matrix of products as well: tied embeddings. A convolution's filters have
    another dimension or two.
    """

    weight: Stored
    uses: tuple[Use, ...]

    @property
    def is_table(self) -> bool:
        return any(use.form == "table" for use in self.uses)

    @property
    def is_product(self) -> bool:
        """Whether it is the matrix of one, tables among them."""
        return any(use.form != "table" for use in self.uses)

    @property
    def is_filters(self) -> bool:
        return self.uses[0].form == "filters"

    @property
    def outputs(self) -> int:
        """Of the products: a scale for each."""
        if self.is_filters:
            return self.weight.info.shape[0]
        rows, cols = self.weight.info.shape
        return rows if self.is_table or self.turned else cols

    @property
    def inputs(self) -> int:
        """Of the products: the channels of the activations that they take."""
        rows, cols = self.weight.info.shape
        return cols if self.is_table or self.turned else rows

    @property
    def activation(self) -> str:
        """What its first product takes; empty for a table that is only looked up."""
        return next((use.node.inputs[0] for use in self.uses if use.form != "table"), "")

    @property
    def turned(self) -> bool:
        """Whether the source has it as (out, in): integer products then take the transpose."""
        return not self.is_table and self.uses[0].form == "out_in"


def find_sites(graph: OnnxGraph, params: OnnxParams) -> Mapping[str, Site | str]:
    """Each weight's site, or the reason why it stays as it is."""
    users = consumers(graph)
    clips = ceilings(graph)
    outputs = {each.name for each in graph.outputs}
    inputs = {each.name for each in graph.inputs} if graph.ir_version >= IR_WITH_CONSTANTS else set[str]()
    found: dict[str, Site | str] = {}
    for name, weight in graph.weights.items():
        if name in outputs or name in inputs:
            found[name] = "an input or output of the graph"
        else:
            found[name] = _site(weight, users, outputs, clips, params)
    return found


def smoothed(graph: OnnxGraph, params: OnnxParams) -> Mapping[str, int]:
    """The activations whose channels are brought nearer to each other, and how many channels they have.

    All quantized weights that take one must take no other: their rows are multiplied by what it is divided by.
    """
    if not params.smooths:
        return {}
    channels: dict[str, int] = {}
    others: set[str] = set()
    for site in find_sites(graph, params).values():
        if isinstance(site, Site):
            inputs = [use.node.inputs[0] for use in site.uses if use.form != "table"]
            if site.is_filters:
                others.update(inputs, (use.rounded for use in site.uses))
                continue
            if site.is_table or len(inputs) > 1:
                others.update(inputs)
            channels.update(dict.fromkeys(inputs, site.inputs))
    return {name: count for name, count in channels.items() if name not in others}


def settled_sites(graph: OnnxGraph, params: OnnxParams, plan: Plan) -> Mapping[str, Site | str]:
    """Each weight's site, or the reason why it stays as it is, as the plan has settled it."""
    return {
        name: plan.by_name[name].reason if isinstance(site, Site) and plan.by_name[name].action == "keep" else site
        for name, site in find_sites(graph, params).items()
    }


def _site(
    weight: Stored,
    users: Mapping[str, tuple[Node, ...]],
    outputs: set[str],
    clips: Mapping[bytes, float],
    params: OnnxParams,
) -> Site | str:
    name, info = weight.info.name, weight.info
    filters = len(info.shape) in FILTERS and any(node.op_type == "Conv" for node in users.get(name, ()))
    if len(info.shape) != 2 and not filters:
        return f"{len(info.shape)} dimensions"
    if info.dtype != "F32":
        return f"{info.dtype}; integer products give float32"
    uses: list[Use] = []
    for node in users.get(name, ()):
        for use in _uses(name, node, users, outputs, clips):
            if isinstance(use, str):
                return use
            if filters != (use.form == "filters"):
                return f"used by {node.op_type} {node.label}"
            if filters and params.mode != "static":
                return "filters of a convolution, which become integers in mode static only"
            if use.node.op_type not in params.op_types:
                return f"used by {use.node.op_type} {use.node.label}, which op_types leaves out"
            if any(fnmatchcase(use.node.label, pattern) for pattern in params.exclude):
                return f"node {use.node.label} is excluded"
            if use.form == "table" and params.embeddings == "keep":
                return "an embedding table, which is kept"
            uses.append(use)
    if not uses:
        return "no node uses it"
    forms = {use.form for use in uses}
    if len(forms) > 1 and "in_out" in forms:
        return "nodes use it in two orientations"
    return Site(weight, tuple(uses))


def _uses(
    name: str, node: Node, users: Mapping[str, tuple[Node, ...]], outputs: set[str], clips: Mapping[bytes, float]
) -> Iterator[Use | str]:
    """What a node does with the weight; through a Transpose, what is done with its output."""
    if node.domain or name in node.captured or node.inputs.count(name) != 1:
        yield f"used by {node.op_type} {node.label}"
    elif node.op_type == "Transpose" and node.attributes.get("perm", (1, 0)) == (1, 0):
        (turned,) = node.outputs
        after = users.get(turned, ())
        if turned in outputs or not after:
            yield f"used by {node.op_type} {node.label}"
        for each in after:
            if each.op_type == "MatMul" and not each.domain and each.inputs[1] == turned != each.inputs[0]:
                yield Use(each, "out_in", through=node)
            else:
                yield f"used by {each.op_type} {each.label} behind a Transpose"
    else:
        form = _form(name, node)
        behind = _behind(node, users, outputs, clips) if form == "filters" else None
        ceiling = clips.get(behind.raw) if behind else None
        yield Use(node, form, behind=behind, ceiling=ceiling) if form else f"used by {node.op_type} {node.label}"


def _behind(
    node: Node, users: Mapping[str, tuple[Node, ...]], outputs: set[str], clips: Mapping[bytes, float]
) -> Node | None:
    """The Relu or Clip that alone takes the node's output. ONNX Runtime leaves it out before a rounding that ends where
    it does."""
    (output,) = node.outputs
    after = users.get(output, ())
    if len(after) != 1 or output in outputs:
        return None
    (found,) = after
    stands = (found.op_type == "Relu" and not found.domain) or (found.raw in clips and found.inputs[0] == output)
    return found if stands and len(found.outputs) == 1 else None


def _form(name: str, node: Node) -> Form | None:
    at = node.inputs.index(name)
    if node.op_type == "MatMul" and at == 1:
        return "in_out"
    if node.op_type == "Conv" and at == 1 and len(node.outputs) == 1:
        return "filters"
    if node.op_type == "Gather" and at == 0 and node.attributes.get("axis", 0) in (0, -2):
        return "table"
    if node.op_type == "Gemm" and at == 1:
        plain = {"alpha": 1.0, "transA": 0, "beta": 1.0}
        if all(node.attributes.get(key, value) == value for key, value in plain.items()):
            return "out_in" if node.attributes.get("transB", 0) else "in_out"
    return None


def activations(sites: Mapping[str, Site | str]) -> Mapping[str, tuple[str, ...]]:
    """The inputs of the products, and what convolutions round behind them, each by the first weight that it meets."""
    found: dict[str, tuple[str, ...]] = {}
    known: set[str] = set()
    for name, site in sites.items():
        if isinstance(site, Site):
            inputs = [use.node.inputs[0] for use in site.uses if use.form != "table"]
            values = dict.fromkeys((*inputs, *(use.rounded for use in site.uses if use.rounded)))
            found[name] = tuple(each for each in values if each not in known)
            known.update(values)
    return found
