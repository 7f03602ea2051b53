"""Experts of a mixture that a checkpoint holds in one tensor, and how an artifact holds them one by one.

transformers computes all experts of a block from two tensors of three dimensions, and some checkpoints are stored so.
vLLM and compressed-tensors know experts by their numbers, as Linears: `experts.7.gate_proj.weight`. An artifact that is
written for them says in its files' metadata which of its tensors are a stack of the source, and which have another name
there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import SourceRejected
from quantmill.contract.tensors import ModelIndex, Plan, SourceTensor, TensorInfo, TensorPlan

GATE_UP, DOWN = "gate_up_proj", "down_proj"
EXPERTS = ".experts"  # what the module of all experts is called in the one that holds it
EXPERTS_LIMIT = 4096  # of a block; public models have up to 512

STACKS, NAMES = "quantmill.stacks", "quantmill.names"  # keys in a file's metadata


@dataclass(frozen=True)
class Layout:
    """How an architecture stacks its experts, and what consumers call an expert's Linears.

    The rows of an expert's gate come before those of up. `transposed` stacks are (experts, in, out). `holder` is what
    transformers calls the module that holds experts and router, and what consumers call it; empty where it is the same.
    """

    gate_up: tuple[str, str] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    transposed: bool = False
    holder: tuple[str, str] | None = None

    def published(self, module: str) -> str:
        """What consumers call this module of all experts."""
        if self.holder is None:
            return module
        ours, theirs = (f".{name}{EXPERTS}" for name in self.holder)
        return f"{module.removesuffix(ours)}{theirs}" if module.endswith(ours) else module


# transformers 5.23, models/*/modeling_*.py, and the names in conversion_mapping.py
LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "MixtralForCausalLM": Layout(("w1", "w3"), "w2", holder=("mlp", "block_sparse_moe")),
        "Qwen2MoeForCausalLM": Layout(),
        "Qwen3MoeForCausalLM": Layout(),
        "Llama4ForCausalLM": Layout(transposed=True),
        "Llama4ForConditionalGeneration": Layout(transposed=True),
    }
)


@dataclass(frozen=True)
class Stack:
    """One tensor with a matrix of each expert of a block: (experts, out, in), or (experts, in, out) if `transposed`.

    weights   what an expert's weights are called, `*` for its number; several where their rows follow each other
    together  the names of the stacks of this block, itself among them: consumers need one scheme for all of them
    """

    tensor: TensorInfo
    weights: tuple[str, ...]
    transposed: bool
    together: tuple[str, ...]

    @property
    def experts(self) -> int:
        return self.tensor.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features) of each of an expert's weights."""
        outputs, inputs = reversed(self.tensor.shape[1:]) if self.transposed else self.tensor.shape[1:]
        return outputs // len(self.weights), inputs

    def names(self, expert: int) -> tuple[str, ...]:
        """What the weights of this expert are called."""
        return tuple(name.replace("*", str(expert)) for name in self.weights)

    @property
    def module(self) -> str:
        """What consumers call the module of all experts."""
        return self.weights[0].partition(".*.")[0]

    def is_one_by_one(self, row: TensorPlan) -> bool:
        """Whether the stack's row in a plan has its experts one by one in the artifact."""
        return row.output == self.weights[0]

    @property
    def modules(self) -> Iterator[str]:
        """The Linears of all experts."""
        for expert in range(self.experts):
            yield from (name.removesuffix(".weight") for name in self.names(expert))

    def infos(self, expert: int) -> Iterator[TensorInfo]:
        """The weights of an expert as a checkpoint that holds them one by one would describe them."""
        nbytes = self.tensor.nbytes // self.experts // len(self.weights)
        return (TensorInfo(name, self.tensor.dtype, self.shape, nbytes) for name in self.names(expert))

    def of_expert(self, values: NDArray[Any], expert: int) -> tuple[SourceTensor, ...]:
        """The weights of an expert, (out_features, in_features) each, of the values of the stack."""
        rows = values[expert].T if self.transposed else values[expert]
        parts = np.split(np.ascontiguousarray(rows), len(self.weights))
        return tuple(SourceTensor(info, part) for info, part in zip(self.infos(expert), parts, strict=True))


def is_stacked(info: TensorInfo) -> bool:
    """Whether a tensor has the name and the dimensions of stacked experts, of whatever layout."""
    experts, _, last = info.name.rpartition(".")
    return len(info.shape) == 3 and experts.endswith(EXPERTS) and last in (GATE_UP, DOWN)


def stacks(index: ModelIndex) -> Mapping[str, Stack]:
    """The stacks whose layout is known, by name; both of a block, or none of it."""
    found: dict[str, Stack] = {}
    for name in index.tensors:
        module, _, last = name.rpartition(".")
        if last == GATE_UP and f"{module}.{DOWN}" in index.tensors and index.architecture in LAYOUTS:
            found |= _of_block(index, module, LAYOUTS[index.architecture])
    return {name: found[name] for name in index.tensors if name in found}


def weights_of_experts(index: ModelIndex) -> Mapping[str, TensorInfo]:
    """The weights of all experts that the checkpoint holds in stacks, as if it held them one by one."""
    return {
        info.name: info
        for stack in stacks(index).values()
        for expert in range(stack.experts)
        for info in stack.infos(expert)
    }


def _of_block(index: ModelIndex, module: str, layout: Layout) -> dict[str, Stack]:
    """Both stacks of a block, where their shapes fit each other."""
    together = (f"{module}.{DOWN}", f"{module}.{GATE_UP}")
    down, gate_up = (index.tensors[name] for name in together)
    if not (is_stacked(down) and is_stacked(gate_up)) or not 0 < down.shape[0] <= EXPERTS_LIMIT:
        return {}
    leaves, published = {GATE_UP: layout.gate_up, DOWN: (layout.down,)}, layout.published(module)
    made = {
        info.name: Stack(
            info, tuple(f"{published}.*.{leaf}.weight" for leaf in leaves[last]), layout.transposed, together
        )
        for last, info in ((DOWN, down), (GATE_UP, gate_up))
    }
    hidden, inner = made[together[0]].shape
    fits = made[together[1]].shape == (inner, hidden) and gate_up.values == 2 * down.values > 0
    return made if fits else {}


def with_published_names(plan: Plan, index: ModelIndex) -> Plan:
    """The plan with what is kept of stacks, and beside them, under the names that consumers know.

    A stack that is kept has its experts one by one, too, unless it is transposed: consumers take that form as it is.
    Raises SourceRejected where the source has a tensor of such a name already.
    """
    found = stacks(index)
    holders = {_holder(name): _holder(stack.weights[0]) for name, stack in found.items()}
    rows = tuple(_published(row, holders, found) for row in plan.tensors)
    stored = [(name, row.name) for row in rows for name in _names(row, found) if name != row.name]
    for name, own in stored:
        if name in index.tensors:
            message = f"the source has {name} beside {own}, which would be stored as that"
            raise SourceRejected(f"{message}; leave one of them out of the checkpoint", tensor=name)
    return replace(plan, tensors=rows)


def _holder(name: str) -> str:
    """The module that holds the experts that this tensor is of."""
    return name.rpartition(f"{EXPERTS}.")[0]


def _names(row: TensorPlan, found: Mapping[str, Stack]) -> Iterator[str]:
    """What the files call a tensor, or the experts of a stack."""
    stack = found.get(row.name)
    if stack is None or not stack.is_one_by_one(row):
        yield row.output
        return
    for expert in range(stack.experts):
        yield from stack.names(expert)


def _published(row: TensorPlan, holders: Mapping[str, str], found: Mapping[str, Stack]) -> TensorPlan:
    if row.action != "keep":
        return row
    if row.name in found and not found[row.name].transposed:
        return replace(row, output=found[row.name].weights[0], reason=f"{row.reason}; stored as experts one by one")
    modules = accumulate(row.name.split("."), "{}.{}".format)
    holder = next((module for module in modules if module in holders), None)
    return row if holder is None else replace(row, output=holders[holder] + row.name.removeprefix(holder))


def stacked_metadata(plan: Plan, found: Mapping[str, Stack]) -> dict[str, str]:
    """What the files of an artifact say of the stacks that it holds one by one; nothing where there is none.

    quantmill.stacks  JSON: the stack's name -> its number of experts, what their weights are called, whether it is
                      transposed
    quantmill.names   JSON: the source's name of a tensor that is kept under another -> its name here
    """
    said = {
        name: {"experts": stack.experts, "weights": list(stack.weights), "transposed": stack.transposed}
        for name, stack in found.items()
        if stack.is_one_by_one(plan.by_name[name])
    }
    kept = (row for row in plan.tensors if row.action == "keep" and row.name not in said)
    names = {row.name: row.output for row in kept if row.output != row.name}
    return {key: json.dumps(what, separators=(",", ":")) for key, what in ((STACKS, said), (NAMES, names)) if what}
