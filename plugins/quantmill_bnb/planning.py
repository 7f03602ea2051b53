"""The plan of a bitsandbytes folder: which weights are quantized, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.linears import Linear, plan_linears, promote_linears
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill_bnb.layout import DTYPES, STORAGE, parts_of
from quantmill_bnb.params import BnbParams

EXPERTS = ".experts."
JOINED = "transformers joins a mixture's experts in one tensor, which bitsandbytes does not quantize"


def plan(index: ModelIndex, params: BnbParams) -> Plan:
    """Quantizes the Linears of the decoder blocks that `skip_modules` does not name; all else is stored as it is.

    Raises what `plan_linears` does, and ParamsRejected for a `quant_storage` that does not divide a weight.
    """
    return plan_linears(
        index,
        params.skip_modules,
        lambda linear: _row(linear, params),
        of_stack=lambda stack: JOINED,
        allow_requantize=params.allow_requantize,
    )


def promote(index: ModelIndex, plan: Plan, params: BnbParams, names: Collection[str]) -> Mapping[str, Any]:
    """More bits for single Linears: they keep their weights."""
    return promote_linears(index, plan, params.skip_modules, names)


def scheme_of(params: BnbParams) -> str:
    """INT8, or the 4-bit type, its block size and DQ for double quantization: NF4-64-DQ."""
    if params.quant_type == "int8":
        return "INT8"
    return f"{params.quant_type.upper()}-{params.block_size}{'-DQ' if params.doubles else ''}"


def _row(linear: Linear, params: BnbParams) -> TensorPlan | str:
    info = linear.tensor
    if EXPERTS in linear.module:
        return JOINED
    if info.dtype not in DTYPES:
        return f"{info.dtype}; bitsandbytes quantizes {', '.join(DTYPES)}"
    row = TensorPlan(info.name, info.shape, info.dtype, "quantize", scheme_of(params), info.name, 0)
    _check_storage(row, params)
    return replace(row, nbytes=sum(part.nbytes for part in parts_of(row, params)))


def _check_storage(row: TensorPlan, params: BnbParams) -> None:
    codes = 2 * STORAGE[params.quant_storage][1]
    if params.quant_storage != "uint8" and prod(row.shape) % codes:
        message = f"{row.name} has {prod(row.shape)} values, which {codes} codes a {params.quant_storage} do not divide"
        raise ParamsRejected(
            f"{message}; use quant_storage=uint8",
            [{"pointer": "/params/quant_storage", "code": "indivisible", "message": message}],
        )
