"""Writing the folder that vLLM, transformers and GPTQModel load."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from quantmill.contract.compressed_tensors import PACKED, group, integers, settings
from quantmill.contract.linears import HEAD, gptq_exclusions, kept_modules
from quantmill.contract.model_folder import place_model_folder, quantized_config
from quantmill.contract.placement import Placement, write_placed
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor
from quantmill_gptq.layout import parts_of
from quantmill_gptq.params import GptqParams

QUANTIZE_CONFIG = "quantize_config.json"  # where GPTQModel looks first


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: GptqParams, folder: Path
) -> list[Path]:
    """Write shards, config.json with its `quantization_config`, and the tokenizer; holds one tensor at a time."""
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: GptqParams) -> Placement:
    """Where `write` puts each byte; the gptq formats have their settings in quantize_config.json too."""
    compressed = params.format == "compressed-tensors"
    quantization = (compressed_tensors_config if compressed else gptq_config)(plan, index, params)
    placed = place_model_folder(plan, partial(parts_of, params=params), index, quantized_config(index, quantization))
    own = {} if compressed else {QUANTIZE_CONFIG: (json.dumps(quantization, indent=2) + "\n").encode()}
    return replace(placed, plain={**placed.plain, **own})


def gptq_config(plan: Plan, index: ModelIndex, params: GptqParams) -> dict[str, Any]:
    """GPTQModel's QuantizeConfig, whose keys vLLM and transformers read.

    `desc_act` says what a reader has to know: whether groups are out of order. Modules in blocks that are not
    quantized stand where each reader looks for them.
    """
    config: dict[str, Any] = {
        "quant_method": "gptq",
        "bits": params.bits,
        "group_size": params.group_size,
        "desc_act": params.reorders_groups,
        "sym": params.sym,
        "lm_head": any(row.name == f"{HEAD}.weight" and row.action == "quantize" for row in plan.tensors),
        "checkpoint_format": params.format,
        "pack_dtype": "int32",
        "true_sequential": params.sequential,
        "static_groups": params.finds_scales_first,
        "damp_percent": params.damp_percent,
    }
    return config | gptq_exclusions(plan, kept_modules(plan, index))


def compressed_tensors_config(plan: Plan, index: ModelIndex, params: GptqParams) -> dict[str, Any]:
    """compressed-tensors' QuantizationConfig with one group of Linears."""
    size = None if params.group_size == -1 else params.group_size
    order = None if params.order == "checkpoint" else "static"
    weights = integers(params.bits, size, symmetric=params.sym, actorder=order)
    return settings([group(PACKED, weights)], kept_modules(plan, index))
