"""Writing the folder that transformers and bitsandbytes load."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from quantmill.contract.linears import kept_modules
from quantmill.contract.model_folder import place_model_folder, quantized_config
from quantmill.contract.placement import Placement, write_placed
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor
from quantmill_bnb.layout import parts_of
from quantmill_bnb.params import BnbParams


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: BnbParams, folder: Path
) -> list[Path]:
    """Write shards, config.json with its `quantization_config`, and the tokenizer; holds one tensor at a time."""
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: BnbParams) -> Placement:
    """Where `write` puts each byte."""
    config = quantized_config(index, quantization_config(plan, index, params))
    return place_model_folder(plan, partial(parts_of, params=params), index, config)


def quantization_config(plan: Plan, index: ModelIndex, params: BnbParams) -> dict[str, Any]:
    """transformers' BitsAndBytesConfig, every key given: its defaults are not the library's."""
    is_int8 = params.quant_type == "int8"
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": not is_int8,
        "load_in_8bit": is_int8,
        "bnb_4bit_quant_type": "nf4" if is_int8 else params.quant_type,
        "bnb_4bit_use_double_quant": params.doubles,
        "bnb_4bit_compute_dtype": params.compute_dtype,
        "bnb_4bit_quant_storage": params.quant_storage,
        "llm_int8_threshold": 6.0,
        "llm_int8_skip_modules": kept_modules(plan, index),
        "llm_int8_has_fp16_weight": False,
        "llm_int8_enable_fp32_cpu_offload": False,
    }
