"""Writing the folder that transformers with hqq, or vLLM, loads."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from quantmill.contract.compressed_tensors import PACKED, group, integers, settings
from quantmill.contract.linears import kept_modules
from quantmill.contract.model_folder import place_model_folder, quantized_config
from quantmill.contract.placement import Placement, write_placed
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor
from quantmill_hqq.layout import SIZES, grouping_of, parts_of
from quantmill_hqq.params import WHOLE, HqqParams


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: HqqParams, folder: Path
) -> list[Path]:
    """Write shards, config.json with its `quantization_config`, and the tokenizer; holds one tensor at a time."""
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: HqqParams) -> Placement:
    """Where `write` puts each byte."""
    quantization = (_hqq if params.format == "hqq" else _compressed_tensors)(plan, index, params)
    return place_model_folder(plan, partial(parts_of, params=params), index, quantized_config(index, quantization))


def _hqq(plan: Plan, index: ModelIndex, params: HqqParams) -> dict[str, Any]:
    """transformers' HqqConfig; what a module has of its own stands beside its weight."""
    weights = {
        "nbits": params.nbits,
        "channel_wise": True,
        "group_size": None if params.group_size == WHOLE else params.group_size,
        "optimize": True,
        "round_zero": params.whole_zeros,
        "axis": params.axis,
        "view_as_float": False,
    }
    return {
        "quant_method": "hqq",
        "quant_config": {
            "weight_quant_params": weights,
            "scale_quant_params": None,
            "zero_quant_params": None,
            "offload_meta": False,
        },
        "skip_modules": kept_modules(plan, index),
    }


def _compressed_tensors(plan: Plan, index: ModelIndex, params: HqqParams) -> dict[str, Any]:
    modules: dict[tuple[int, int], list[str]] = {}
    for row in plan.tensors:
        if row.action == "quantize":
            grouping = grouping_of(row, params)
            size = grouping.group_size if grouping.group_size in SIZES else WHOLE
            modules.setdefault((grouping.nbits, size), []).append(row.name.removesuffix(".weight"))
    groups = [
        group(PACKED, _weights(nbits, size), targets=["Linear"] if len(modules) == 1 else names)
        for (nbits, size), names in sorted(modules.items())
    ]
    return settings(groups, kept_modules(plan, index))


def _weights(nbits: int, size: int) -> dict[str, Any]:
    return integers(nbits, None if size == WHOLE else size, symmetric=False)
