"""What consumers will find in config.json, and what the source's weights say it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantmill.contract.model_folder import QUANTIZATION, ModelFolder
from quantmill.contract.observed import (
    all_linears_observed,
    carried_observed,
    compressed_tensors_observed,
    config_observed,
    excluded_observed,
    kept_module_observed,
    keys_observed,
)
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_repack.params import RepackParams

METHODS = {
    "gptq": "gptq",
    "awq": "awq",
    "fp8": "fp8",
    "pack-quantized": "compressed-tensors",
    "float-quantized": "compressed-tensors",
    "nvfp4-pack-quantized": "compressed-tensors",
}
LISTS = {"awq": "modules_to_not_convert", "fp8": "modules_to_not_convert", "compressed-tensors": "ignore"}


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: RepackParams) -> Inspection:
    """The files, the quantization settings, the list of what is not quantized, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(QUANTIZATION, {})
        observations = [
            Observation(QUANTIZATION, "quant_method", found.get("quant_method"), METHODS[params.to]),
            *_codes(found, index, params),
            *(_compressed_tensors(found, params) if METHODS[params.to] == "compressed-tensors" else ()),
            *_kept(found, plan),
            *(excluded_observed(found, plan, listed=params.to == "gptq") if params.to in ("gptq", "awq") else ()),
            *config_observed(artifact, index),
            *carried_observed(folder, index),
        ]
        return Inspection((*artifact.files(), *index.files), observations)


def _codes(found: Mapping[str, Any], index: ModelIndex, params: RepackParams) -> Iterator[Observation]:
    """Bits and groups, wherever the layout's settings have them."""
    if params.to == "fp8":
        yield Observation(QUANTIZATION, "weight_block_size", str(found.get("weight_block_size")), "[128, 128]")
        return
    group = found.get("config_groups", {}).get("group_0", {}).get("weights", {})
    settings = group if METHODS[params.to] == "compressed-tensors" else found
    bits, size = settings.get("num_bits" if settings is group else "bits"), settings.get("group_size")
    for name, weight in index.stored.items():
        yield Observation(QUANTIZATION, f"bits of {name}", bits, weight.bits)
        if params.to != "float-quantized":
            yield Observation(QUANTIZATION, f"group_size of {name}", size, weight.group_size)
    if params.to == "gptq":
        yield Observation(QUANTIZATION, "checkpoint_format", found.get("checkpoint_format"), "gptq")
        yield Observation(QUANTIZATION, "sym", found.get("sym"), True)
        settings = index.config[QUANTIZATION]
        reordered = settings.get("desc_act") is True or any("weight_g_idx" in w.parts for w in index.stored.values())
        yield Observation(QUANTIZATION, "desc_act", found.get("desc_act"), reordered)


def _compressed_tensors(found: Mapping[str, Any], params: RepackParams) -> Iterator[Observation]:
    """What would make the consumer expect more than weights; blocks of FP8 come with activations in groups of 128."""
    yield from compressed_tensors_observed(found, params.to)
    yield from all_linears_observed(found)
    group = found.get("config_groups", {}).get("group_0", {})
    inputs = group.get("input_activations") or {}
    of_inputs: dict[str, str | int | bool | None] = dict.fromkeys(("num_bits", "strategy", "group_size", "dynamic"))
    if params.to == "float-quantized":
        of_inputs = {"num_bits": 8, "strategy": "group", "group_size": 128, "dynamic": True}
    yield from keys_observed(inputs, of_inputs, prefix="input_activations.")
    yield Observation(QUANTIZATION, "output_activations", str(group.get("output_activations")), "None")
    yield Observation(QUANTIZATION, "actorder", group.get("weights", {}).get("actorder"), None)
    yield Observation(QUANTIZATION, "the group's format", group.get("format"), params.to)
    if params.to == "nvfp4-pack-quantized":
        floats = {"type": "float", "strategy": "tensor_group", "scale_dtype": "torch.float8_e4m3fn"}
        yield from keys_observed(group.get("weights", {}), floats, prefix="weights.")


def _kept(found: Mapping[str, Any], plan: Plan) -> Iterator[Observation]:
    """Each matrix is listed as not quantized or is quantized; GPTQ's settings have no such list."""
    key = LISTS.get(str(found.get("quant_method")))
    for row in plan.tensors:
        if key and row.name.endswith(".weight") and len(row.shape) == 2:
            module = row.name.removesuffix(".weight")
            yield kept_module_observed(module, found.get(key), row.action == "keep")
