"""Writing the folder that vLLM, transformers and GPTQModel load."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from quantmill.contract.compressed_tensors import PACKED, group, integers, settings
from quantmill.contract.linears import awq_exclusions, kept_modules
from quantmill.contract.model_folder import place_model_folder, quantized_config
from quantmill.contract.placement import Placement, write_placed
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor
from quantmill_awq.layout import parts_of
from quantmill_awq.params import AwqParams


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: AwqParams, folder: Path
) -> list[Path]:
    """Write shards, config.json with its `quantization_config`, and the tokenizer; holds one tensor at a time."""
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: AwqParams) -> Placement:
    """Where `write` puts each byte."""
    config = quantized_config(index, SETTINGS[params.format](params, kept_modules(plan, index)))
    return place_model_folder(plan, partial(parts_of, params=params), index, config)


def gemm_config(params: AwqParams, kept: list[str]) -> dict[str, Any]:
    """AutoAWQ's settings, whose keys vLLM, transformers and GPTQModel read."""
    return {
        "quant_method": "awq",
        "bits": params.bits,
        "group_size": params.group_size,
        "zero_point": params.zero_point,
        "version": "gemm",
        "modules_to_not_convert": kept,
        **awq_exclusions(kept),
    }


def compressed_tensors_config(params: AwqParams, kept: list[str]) -> dict[str, Any]:
    """compressed-tensors' QuantizationConfig with one group of Linears."""
    size = None if params.group_size == -1 else params.group_size
    weights = integers(params.bits, size, symmetric=not params.zero_point)
    return settings([group(PACKED, weights)], kept)


SETTINGS = {"gemm": gemm_config, "compressed-tensors": compressed_tensors_config}
