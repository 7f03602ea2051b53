"""The plan of a GPTQ folder: which weights are quantized, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.errors import ParamsRejected
from quantmill.contract.linears import HEAD, Linear, linears, plan_linears, promote_linears, torn_apart
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan, Unit
from quantmill_gptq.layout import SCALE_DTYPES, parts_of, scheme_of
from quantmill_gptq.params import GptqParams

WORD = 32  # GPTQModel's kernels take inputs and outputs in whole words of any bits


def plan(index: ModelIndex, params: GptqParams) -> Plan:
    """Quantizes the Linears of the decoder blocks, and with `lm_head` the head; all else is stored as it is.

    A unit is a block, and the others one tensor each. Raises what `plan_linears` does, and ParamsRejected for a
    Linear that groups or words do not divide, and for `lm_head` of a model that has none of its own.
    """
    found = linears(index)
    _check_head(found, params)
    flat = plan_linears(index, params.skip_modules, lambda linear: _row(linear, params))
    quantized = [row for row in flat.tensors if row.action == "quantize"]
    kept = [row for row in flat.tensors if row.action != "quantize"]
    quantized.sort(key=lambda row: (_block(found, row), row.name))
    blocks = [
        Unit(f"block.{number}", tuple(row.name for row in rows), number)
        for number, rows in groupby(quantized, key=lambda row: _block(found, row))
    ]
    need = CalibrationNeed(of_blocks=("hessian",))
    if params.predecessors == "source":
        need = CalibrationNeed(of_source=("hessian",), weights=tuple(row.name for row in quantized))
    return Plan(
        tensors=(*quantized, *kept),
        units=(*blocks, *(Unit(row.name, (row.name,)) for row in kept)),
        peak_memory_bytes=max(_working_memory(quantized, blocks), flat.peak_memory_bytes),
        warnings=(*flat.warnings, *_warnings(params), *torn_apart(flat, index)),
        calibration=need,
    )


def promote(index: ModelIndex, plan: Plan, params: GptqParams, names: Collection[str]) -> Mapping[str, Any]:
    """More bits for single Linears: they keep their weights."""
    return promote_linears(index, plan, params.skip_modules, names)


def _check_head(found: Mapping[str, Linear], params: GptqParams) -> None:
    if params.lm_head and f"{HEAD}.weight" not in found:
        message = "this model's head is its embedding, which is not quantized"
        raise ParamsRejected(
            f"lm_head: {message}", [{"pointer": "/params/lm_head", "code": "tied", "message": message}]
        )


def _row(linear: Linear, params: GptqParams) -> TensorPlan | str:
    info = linear.tensor
    if linear.module == HEAD and not params.lm_head:
        return "lm_head: not asked for"
    if info.dtype not in SCALE_DTYPES:
        return f"{info.dtype}; gptq quantizes {', '.join(SCALE_DTYPES)}"
    _check_divides(linear, params)
    row = TensorPlan(info.name, info.shape, info.dtype, "quantize", scheme_of(params), info.name, 0)
    return replace(row, nbytes=sum(part.nbytes for part in parts_of(row, params)))


def _check_divides(linear: Linear, params: GptqParams) -> None:
    outputs, inputs = linear.tensor.shape
    where, code = f"{linear.module} is {outputs} x {inputs}", "indivisible"
    if params.group_size != -1 and inputs % params.group_size:
        message = f"{where}, and {params.group_size} does not divide its {inputs} inputs"
        raise ParamsRejected(
            f"{message}; choose another group_size or name the module in skip_modules",
            [{"pointer": "/params/group_size", "code": code, "message": message}],
        )
    if params.format != "compressed-tensors" and (inputs % WORD or outputs % WORD):
        message = f"{where}; format {params.format} needs multiples of {WORD}"
        raise ParamsRejected(
            f"{message}: choose format=compressed-tensors or name the module in skip_modules",
            [{"pointer": "/params/format", "code": code, "message": message}],
        )


def _block(found: Mapping[str, Linear], row: TensorPlan) -> int:
    """The block's number; the head is one more than the last block."""
    number = found[row.name].block
    return 1 + max(linear.block or 0 for linear in found.values()) if number is None else number


def _working_memory(quantized: list[TensorPlan], blocks: list[Unit]) -> int:
    """The largest block as it is stored, and for one weight: H and four of its size, copies of weight and codes."""
    stored = {row.name: row.nbytes for row in quantized}
    largest = max(sum(stored[name] for name in block.tensors) for block in blocks)
    return largest + max(20 * row.shape[1] ** 2 + 40 * row.values for row in quantized)


def _warnings(params: GptqParams) -> Iterator[str]:
    """What some of the programs cannot load."""
    gptq = params.format != "compressed-tensors"
    if params.reorders_groups:
        yield "desc_act: vLLM 0.32 loads no groups out of order; GPTQModel does. static_groups=true keeps them in order"
    if gptq and (params.bits in (2, 3) or not params.sym):
        yield "vLLM 0.32 loads 4 and 8 symmetric bits of this format; format=compressed-tensors the others too"
    if params.lm_head and gptq:
        yield "lm_head: transformers loads no quantized head; vLLM and GPTQModel do"
