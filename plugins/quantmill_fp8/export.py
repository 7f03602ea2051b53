"""Writing the folder that vLLM and transformers load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from quantmill.contract.compressed_tensors import group, settings
from quantmill.contract.experts import stacked_metadata, stacks
from quantmill.contract.linears import kept_modules
from quantmill.contract.model_folder import StoredPart, place_model_folder, quantized_config
from quantmill.contract.placement import Placement, write_placed
from quantmill.contract.tensors import ModelIndex, Plan, QuantizedTensor, TensorPlan
from quantmill_fp8.caches import carried
from quantmill_fp8.params import Fp8Params
from quantmill_fp8.schemes import BLOCK, STATIC, Fp8Scheme, cache_parts, parts_of, scheme_of


def write(
    tensors: Iterable[QuantizedTensor], plan: Plan, index: ModelIndex, params: Fp8Params, folder: Path
) -> list[Path]:
    """Write shards, config.json with its `quantization_config`, and the tokenizer; holds one tensor at a time."""
    return write_placed(tensors, plan, place(plan, index, params), folder)


def place(plan: Plan, index: ModelIndex, params: Fp8Params) -> Placement:
    """Where `write` puts each byte."""
    scheme = scheme_of(params)
    quantization = _compressed_tensors(scheme, plan, index, params) if scheme.format else _native(plan, index)
    found, caches = stacks(index), carried(index, plan, params)

    def parts(row: TensorPlan) -> Sequence[StoredPart]:
        own = parts_of(row, scheme, found.get(row.name))
        return [*own, *cache_parts(caches[row.name], row)] if row.name in caches else own

    return place_model_folder(
        plan,
        parts,
        index,
        quantized_config(index, quantization),
        stacked_metadata(plan, found),
    )


def _compressed_tensors(scheme: Fp8Scheme, plan: Plan, index: ModelIndex, params: Fp8Params) -> dict[str, Any]:
    caches = None if params.kv_cache_scheme is None else STATIC
    return settings([group(scheme.format, scheme.weights, scheme.activations)], kept_modules(plan, index), caches)


def _native(plan: Plan, index: ModelIndex) -> dict[str, Any]:
    return {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": kept_modules(plan, index),
    }
