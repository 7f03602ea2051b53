"""Writing the folder in its new layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from quantmill.contract.compressed_tensors import arguments, group, integers, settings
from quantmill.contract.linears import awq_exclusions, gptq_exclusions, kept_modules
from quantmill.contract.model_folder import place_model_folder, quantized_config
from quantmill.contract.placement import Placement, write_placed
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, StoredWeight
from quantmill_repack.layouts import NVFP4_PACKED, is_out_of_order, parts_of
from quantmill_repack.params import RepackParams, Target


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: RepackParams, folder: Path
) -> list[Path]:
    """Write shards, config.json with its `quantization_config`, and the tokenizer; holds one tensor at a time."""
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: RepackParams) -> Placement:
    """Where `write` puts each byte."""
    kept = kept_modules(plan, index)
    quantization = SETTINGS[params.to](next(iter(index.stored.values())), kept)
    if params.to == "gptq":
        quantization["desc_act"] = any(is_out_of_order(weight, index) for weight in index.stored.values())
        quantization |= gptq_exclusions(plan, kept)
    layout = partial(parts_of, index=index, to=params.to)
    return place_model_folder(plan, layout, index, quantized_config(index, quantization))


def _gptq(weight: StoredWeight, kept: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "bits": weight.bits,
        "group_size": weight.group_size,
        "sym": True,
        "lm_head": "lm_head" not in kept,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "static_groups": False,
        "true_sequential": True,
    }


def _awq(weight: StoredWeight, kept: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": weight.group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": kept,
        **awq_exclusions(kept),
    }


def _native_fp8(weight: StoredWeight, kept: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": kept,
    }


def _pack_quantized(weight: StoredWeight, kept: list[str]) -> dict[str, Any]:
    weights = integers(weight.bits, weight.group_size, symmetric=weight.symmetric)
    return settings([group("pack-quantized", weights)], kept)


def _float_quantized(weight: StoredWeight, kept: list[str]) -> dict[str, Any]:
    weights = arguments(8, "float", "block", block_structure=[128, 128])
    activations = arguments(8, "float", "group", group_size=128, dynamic=True, observer=None)
    return settings([group("float-quantized", weights, activations)], kept)


def nvfp4_pack_quantized(kept: list[str]) -> dict[str, Any]:
    """The settings of weights in NVFP4 whose inputs stay as they are; `kept` are modules without codes."""
    e4m3 = {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
    weights = arguments(4, "float", "tensor_group", group_size=16, **e4m3)
    return settings([group(NVFP4_PACKED, weights)], kept)


SETTINGS: Mapping[Target, Callable[[StoredWeight, list[str]], dict[str, Any]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _native_fp8,
    "pack-quantized": _pack_quantized,
    NVFP4_PACKED: lambda weight, kept: nvfp4_pack_quantized(kept),
    "float-quantized": _float_quantized,
}
