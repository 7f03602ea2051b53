"""The plan of an FP8 folder: which weights are quantized, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from quantmill.contract.calibration import CalibrationNeed
from quantmill.contract.errors import ParamsRejected
from quantmill.contract.experts import Stack, stacks, with_published_names
from quantmill.contract.linears import Linear, plan_linears, promote_linears, torn_apart
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill_fp8.caches import attentions, carried
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.schemes import SCALE_DTYPES, Fp8Scheme, cache_parts, parts_of, parts_of_expert, scheme_of

EXPERT = ".experts."
# What one of the consumers makes of experts, by scheme and strategy; docs/conformance.md has each
LARGER = "transformers 5 cannot load experts that are larger than one block of 128 x 128"
UNKNOWN_TO_TRANSFORMERS = "transformers 5 cannot load experts of this scheme"
OF_EXPERTS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("FP8", "channel"): "vLLM takes static scales of experts with strategy=tensor alone",
        ("FP8_BLOCK", "channel"): LARGER,
        ("MXFP8", "channel"): UNKNOWN_TO_TRANSFORMERS,
        ("MXFP8A16", "channel"): UNKNOWN_TO_TRANSFORMERS,
        ("NVFP4A16", "channel"): "transformers 5 loads experts without their global scale and predicts nonsense",
    }
)


def plan(index: ModelIndex, params: Fp8Params) -> Plan:
    """Quantizes the Linears of the decoder blocks that `skip_modules` does not name; all else is stored as it is.

    Experts in one tensor are stored one by one, as consumers know them. Static scales of activations ask for what
    Linears are fed in the source model.

    Raises what `plan_linears`, `with_published_names` and `carried` do, and ParamsRejected for a Linear whose features
    the scheme's blocks do not divide, for one of a block's two tensors of experts that is skipped without the other,
    and for static scales of experts in one tensor that is transposed.
    """
    scheme = scheme_of(params)
    made = plan_linears(
        index,
        params.skip_modules,
        lambda linear: _row(linear, scheme, params.scheme),
        of_stack=lambda stack: _stack_row(stack, scheme, params.scheme),
        allow_requantize=params.allow_requantize,
    )
    _check_blocks(made, index)
    made = with_published_names(_with_warnings(made, index, params), index)
    made = _with_cache_scales(made, carried(index, made, params))
    return replace(made, calibration=_needed(made, index, params)) if is_calibrated(params) else made


def _with_warnings(plan: Plan, index: ModelIndex, params: Fp8Params) -> Plan:
    """The plan with what one of the consumers cannot load."""
    said = OF_EXPERTS.get((params.scheme, params.strategy))
    experts = any(EXPERT in row.output for row in plan.tensors if row.action == "quantize")
    return replace(plan, warnings=(*plan.warnings, *([said] if said and experts else []), *torn_apart(plan, index)))


def is_calibrated(params: Fp8Params) -> bool:
    """Whether a scale follows from calibration text."""
    return scheme_of(params).is_static or params.kv_cache_scheme is not None


def _with_cache_scales(plan: Plan, names: Mapping[str, str]) -> Plan:
    """The plan with the bytes of the scales of keys and values, which are among a weight's arrays."""
    rows = (
        replace(row, nbytes=row.nbytes + sum(part.nbytes for part in cache_parts(names[row.name], row)))
        if row.name in names
        else row
        for row in plan.tensors
    )
    return replace(plan, tensors=tuple(rows))


def _needed(plan: Plan, index: ModelIndex, params: Fp8Params) -> CalibrationNeed:
    found = stacks(index)
    rows = [row.name for row in plan.tensors if row.action == "quantize"]
    quantized = tuple(
        name
        for row in rows
        for name in ([f"{module}.weight" for module in found[row].modules] if row in found else [row])
    )
    return CalibrationNeed(
        ("absmax" if params.percentile == 100 else "magnitudes",),
        weights=quantized if scheme_of(params).is_static else (),
        caches=attentions(index) if params.kv_cache_scheme is not None else (),
    )


def promote(index: ModelIndex, plan: Plan, params: Fp8Params, names: Collection[str]) -> Mapping[str, Any]:
    """More bits for single Linears: they keep their weights."""
    return promote_linears(index, plan, params.skip_modules, names)


def _row(linear: Linear, scheme: Fp8Scheme, name: str) -> TensorPlan | str:
    info = linear.tensor
    if info.dtype not in SCALE_DTYPES:
        return _other_dtype(info.dtype)
    _require_blocks(linear.module, info.shape, scheme, name)
    row = TensorPlan(info.name, info.shape, info.dtype, "quantize", scheme.label, info.name, 0)
    return replace(row, nbytes=sum(part.nbytes for part in parts_of(row, scheme)))


def _stack_row(stack: Stack, scheme: Fp8Scheme, name: str) -> TensorPlan | str:
    info = stack.tensor
    if info.dtype not in SCALE_DTYPES:
        return _other_dtype(info.dtype)
    if scheme.is_static and stack.transposed:
        message = f"{info.name} holds all experts of a block as (in, out), whose inputs calibration does not tell apart"
        raise ParamsRejected(
            f"{message}; choose FP8_DYNAMIC or name the tensor in skip_modules",
            [{"pointer": "/params/scheme", "code": "stacked_experts", "message": message}],
        )
    _require_blocks(info.name, stack.shape, scheme, name)
    expert = sum(part.nbytes for part in parts_of_expert(stack, 0, scheme))
    names = (name.removesuffix(".weight").rpartition(".")[2] for name in stack.weights)
    reason = f"stored as experts one by one: {', '.join(names)}"
    return TensorPlan(
        info.name, info.shape, info.dtype, "quantize", scheme.label, stack.weights[0], stack.experts * expert, reason
    )


def _check_blocks(plan: Plan, index: ModelIndex) -> None:
    for stack in stacks(index).values():
        kept = [each for each in stack.together if plan.by_name[each].action == "keep"]
        if len(kept) == 1:
            message = f"{kept[0]} is kept without the other tensor of its experts, which engines need in one scheme"
            raise ParamsRejected(
                f"{message}; name both or none in skip_modules",
                [{"pointer": "/params/skip_modules", "code": "torn_apart", "message": message}],
            )


def _other_dtype(dtype: str) -> str:
    return f"{dtype}; fp8 quantizes {', '.join(SCALE_DTYPES)}"


def _require_blocks(module: str, shape: tuple[int, ...], scheme: Fp8Scheme, name: str) -> None:
    outputs, inputs = shape
    if outputs % scheme.outputs or inputs % scheme.inputs:
        blocks = f"{scheme.outputs} x {scheme.inputs}"
        message = f"{module} is {outputs} x {inputs}, which blocks of {blocks} ({name}) do not divide"
        raise ParamsRejected(
            f"{message}; choose FP8_DYNAMIC or name the module in skip_modules",
            [{"pointer": "/params/scheme", "code": "indivisible", "message": message}],
        )
