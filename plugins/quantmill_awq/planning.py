"""The plan of an AWQ folder: which weights are quantized, where their scales go, and why others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from quantmill.contract.calibration import CalibrationNeed, Statistic
from quantmill.contract.errors import ParamsRejected
from quantmill.contract.linears import HEAD, Linear, linears, plan_linears, promote_linears, torn_apart
from quantmill.contract.scaling import folds_of
from quantmill.contract.tensors import Fold, ModelIndex, Plan, TensorPlan, Unit
from quantmill_awq.layout import SOURCES, parts_of, scheme_of
from quantmill_awq.params import AwqParams

NO_PRODUCER = "quantized without scales: nothing before it could be divided by them"
STATISTICS: tuple[Statistic, ...] = ("hessian", "mean_abs")
WORD = 32  # inputs and outputs of GPTQModel's and vLLM's kernels come in whole words of codes


def plan(index: ModelIndex, params: AwqParams) -> Plan:
    """Quantizes the Linears of the decoder blocks; norms that their scales go to are stored divided by them.

    A unit is a block with its norms, and the others one tensor each. Raises what `plan_linears` does, and
    ParamsRejected for a Linear that groups or words do not divide.
    """
    found = linears(index)
    flat = plan_linears(index, params.skip_modules, lambda linear: _row(linear, params))
    quantized = frozenset(row.name for row in flat.tensors if row.action == "quantize")
    folds = tuple(folds_of(index, quantized))
    consumers = {name: fold for fold in folds for name in fold.consumers}
    block_of = {name: found[name].block or 0 for name in quantized}
    divided = {name: fold for fold in folds for name in (fold.producer, fold.bias) if name}
    block_of |= {name: block_of[fold.consumers[0]] for name, fold in divided.items()}
    rows = [_explained(row, divided, consumers) for row in flat.tensors]
    walked = sorted((row for row in rows if row.name in block_of), key=lambda row: (block_of[row.name], row.name))
    others = [row for row in rows if row.name not in block_of]
    blocks = [
        Unit(f"block.{number}", tuple(row.name for row in group), number)
        for number, group in groupby(walked, key=lambda row: block_of[row.name])
    ]
    need = CalibrationNeed(of_blocks=STATISTICS)
    if params.predecessors == "source":
        need = CalibrationNeed(of_source=STATISTICS, weights=tuple(row.name for row in walked if row.name in quantized))
    return Plan(
        tensors=(*walked, *others),
        units=(*blocks, *(Unit(row.name, (row.name,)) for row in others)),
        peak_memory_bytes=max(_working_memory(walked, blocks), flat.peak_memory_bytes),
        warnings=(*flat.warnings, *torn_apart(flat, index)),
        calibration=need,
        folds=folds,
    )


def promote(index: ModelIndex, plan: Plan, params: AwqParams, names: Collection[str]) -> Mapping[str, Any]:
    """More bits for single Linears: they keep their weights."""
    return promote_linears(index, plan, params.skip_modules, names)


def _row(linear: Linear, params: AwqParams) -> TensorPlan | str:
    info = linear.tensor
    if linear.module == HEAD:
        return "the head is not calibrated with a block"
    if info.dtype not in SOURCES:
        return f"{info.dtype}; awq quantizes {', '.join(SOURCES)}"
    _check_divides(linear, params)
    row = TensorPlan(info.name, info.shape, info.dtype, "quantize", scheme_of(params), info.name, 0)
    return replace(row, nbytes=sum(part.nbytes for part in parts_of(row, params)))


def _check_divides(linear: Linear, params: AwqParams) -> None:
    outputs, inputs = linear.tensor.shape
    where, code = f"{linear.module} is {outputs} x {inputs}", "indivisible"
    if params.group_size != -1 and inputs % params.group_size:
        message = f"{where}, and {params.group_size} does not divide its {inputs} inputs"
        raise ParamsRejected(
            f"{message}; choose another group_size or name the module in skip_modules",
            [{"pointer": "/params/group_size", "code": code, "message": message}],
        )
    if inputs % WORD or (params.format == "gemm" and outputs % WORD):
        message = f"{where}; format {params.format} needs multiples of {WORD}"
        raise ParamsRejected(
            f"{message}: name the module in skip_modules",
            [{"pointer": "/params/format", "code": code, "message": message}],
        )


def _explained(row: TensorPlan, divided: Mapping[str, Fold], consumers: Mapping[str, Fold]) -> TensorPlan:
    """A row with what folds have to say of it: that its scales have no place to go, or whose scales divide it."""
    if row.action == "quantize":
        return row if row.name in consumers else replace(row, reason=NO_PRODUCER)
    if row.name not in divided:
        return row
    return replace(row, reason=f"divided by the scales of {', '.join(divided[row.name].consumers)}")


def _working_memory(walked: list[TensorPlan], blocks: list[Unit]) -> int:
    """The largest block as it is stored with its weights as they become, and for one weight five of its size; a
    candidate's errors and products, for one of its chunks, in each of a few threads."""
    sizes = {row.name: row.nbytes + 8 * row.values for row in walked}
    largest = max(sum(sizes[name] for name in block.tensors) for block in blocks)
    widest = max(row.shape[-1] ** 2 for row in walked if row.action == "quantize")
    return largest + max(20 * row.values for row in walked) + 4 * widest + (64 << 20)
