"""What vLLM and transformers will find in config.json, and what the parameters say it must be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.contract.model_folder import QUANTIZATION, ModelFolder
from quantmill.contract.observed import (
    all_linears_observed,
    carried_observed,
    compressed_tensors_observed,
    config_observed,
    kept_module_observed,
    kept_observed,
    keys_observed,
)
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill_fp8.params import Fp8Params

FLOATS = "float-quantized"

PER_TENSOR = "FP8, strategy tensor"

# layout -> format, bits, strategy, group size; of the activations strategy and group size
EXPECTED: Mapping[str, tuple[str, int, str, int | None, str | None, int | None]] = {
    "FP8_DYNAMIC": (FLOATS, 8, "channel", None, "token", None),
    "FP8": (FLOATS, 8, "channel", None, "tensor", None),
    PER_TENSOR: (FLOATS, 8, "tensor", None, "tensor", None),
    "FP8_BLOCK": (FLOATS, 8, "block", None, "group", 128),
    "FP8A16": ("naive-quantized", 8, "channel", None, None, None),
    "MXFP8": ("mxfp8-quantized", 8, "group", 32, "group", 32),
    "MXFP8A16": ("mxfp8-quantized", 8, "group", 32, None, None),
    "NVFP4A16": ("nvfp4-pack-quantized", 4, "tensor_group", 16, None, None),
    "MXFP4A16": ("mxfp4-pack-quantized", 4, "group", 32, None, None),
}

SOURCE = "the source's"

# layout -> arrays of a weight: their names, dtypes, and how many rows and columns share one of their values
ARRAYS: Mapping[str, Mapping[str, tuple[str, int, int]]] = {
    "FP8_DYNAMIC": {"weight": ("F8_E4M3", 1, 1), "weight_scale": (SOURCE, 1, 0)},
    "FP8": {"weight": ("F8_E4M3", 1, 1), "weight_scale": (SOURCE, 1, 0), "input_scale": (SOURCE, 0, 0)},
    PER_TENSOR: {"weight": ("F8_E4M3", 1, 1), "weight_scale": (SOURCE, 0, 0), "input_scale": (SOURCE, 0, 0)},
    "FP8A16": {"weight": ("F8_E4M3", 1, 1), "weight_scale": (SOURCE, 1, 0)},
    "FP8_BLOCK": {"weight": ("F8_E4M3", 1, 1), "weight_scale": (SOURCE, 128, 128)},
    "FP8_NATIVE": {"weight": ("F8_E4M3", 1, 1), "weight_scale_inv": ("F32", 128, 128)},
    "MXFP8": {"weight": ("F8_E4M3", 1, 1), "weight_scale": ("U8", 1, 32)},
    "MXFP8A16": {"weight": ("F8_E4M3", 1, 1), "weight_scale": ("U8", 1, 32)},
    "NVFP4A16": {
        "weight_packed": ("U8", 1, 2),
        "weight_scale": ("F8_E4M3", 1, 16),
        "weight_global_scale": ("F32", 0, 0),
    },
    "MXFP4A16": {"weight_packed": ("U8", 1, 2), "weight_scale": ("U8", 1, 32)},
}

# Modules that vLLM computes in one product, with one scale of the tensor; experts have one scale of their inputs
FUSED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj", "w3": "w1"}
EXPERT = re.compile(r"\.experts\.\d+\.")
INPUT_SCALE = "input_scale"
KEYS = re.compile(r"^(?!.*(?:vision|visual|image|audio))(.+\.self_attn)\.(?:k|qkv)_proj\.weight$")  # of decoders

# What consumers call the Linears of an expert that the source has in one tensor with all others of its block
EXPERTS = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")
USUAL_NAMES = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
NAMES = {"MixtralForCausalLM": {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}}
# What transformers and they call the module of router and experts
HOLDERS = {"MixtralForCausalLM": (".mlp.", ".block_sparse_moe.")}
TRANSPOSED = "Llama4"
ONE_SCALE = ("weight_global_scale", "weight_scale", INPUT_SCALE)


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: Fp8Params) -> Inspection:
    """The files, the quantization settings, the list of what is not quantized, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(QUANTIZATION, {})
        native = params.scheme == "FP8_NATIVE"
        observations = [
            *(_native(found) if native else _compressed_tensors(found, params)),
            *_ignored(found.get("modules_to_not_convert" if native else "ignore"), plan, index),
            *_names(artifact, plan, index),
            *_stored(artifact, plan, index, params),
            *_shared_scales(artifact),
            *_input_scales(artifact),
            *_cache_scales(artifact, plan, index, params),
            *config_observed(artifact, index),
            *carried_observed(folder, index),
        ]
        return Inspection((*artifact.files(), *index.files), observations)


def _layout(params: Fp8Params) -> str:
    return PER_TENSOR if params.strategy == "tensor" else params.scheme


def _native(found: Mapping[str, Any]) -> Iterator[Observation]:
    yield from keys_observed(found, {"quant_method": "fp8", "activation_scheme": "dynamic"})
    yield Observation(QUANTIZATION, "weight_block_size", str(found.get("weight_block_size")), "[128, 128]")


def _compressed_tensors(found: Mapping[str, Any], params: Fp8Params) -> Iterator[Observation]:
    layout, bits, strategy, group_size, activations, activation_group = EXPECTED[_layout(params)]
    group = found.get("config_groups", {}).get("group_0", {})
    weights, inputs = group.get("weights", {}), group.get("input_activations") or {}
    yield from compressed_tensors_observed(found, layout, absent=("sparsity_config", "transform_config"))
    yield from all_linears_observed(found)
    wanted: dict[str, str | int | bool | None] = {
        "num_bits": bits,
        "type": "float",
        "strategy": strategy,
        "group_size": group_size,
        "symmetric": True,
        "dynamic": False,
        "actorder": None,
    }
    yield from keys_observed(weights, wanted, prefix="weights.")
    blocks = [128, 128] if strategy == "block" else None
    yield Observation(QUANTIZATION, "weights.block_structure", str(weights.get("block_structure")), str(blocks))
    wanted |= {"num_bits": 8, "strategy": activations, "group_size": activation_group}
    wanted["dynamic"] = params.scheme != "FP8"
    of_inputs = wanted if activations else dict.fromkeys(wanted)
    yield from keys_observed(inputs, of_inputs, prefix="input_activations.")
    yield from _cache_settings(found.get("kv_cache_scheme"), params)


def _cache_settings(found: Any, params: Fp8Params) -> Iterator[Observation]:
    if params.kv_cache_scheme is None:  # it would make the consumer expect more
        yield Observation(QUANTIZATION, "kv_cache_scheme", str(found or None), "None")
        return
    settings = found if isinstance(found, Mapping) else {}
    wanted: dict[str, str | int | bool] = {
        "num_bits": 8,
        "type": "float",
        "strategy": "tensor",
        "symmetric": True,
        "dynamic": False,
    }
    yield from keys_observed(settings, wanted, prefix="kv_cache_scheme.")


def _cache_scales(artifact: ModelFolder, plan: Plan, index: ModelIndex, params: Fp8Params) -> Iterator[Observation]:
    """Keys and values are divided by them: one of each for an attention, and none where there is no setting."""
    attentions = {match[1]: row.source_dtype for row in plan.tensors if (match := KEYS.search(row.name))}
    for attention, dtype in attentions.items():
        for name in (f"{attention}.k_scale", f"{attention}.v_scale"):
            expected = None if params.kv_cache_scheme is None else f"{dtype} [1], positive"
            if name not in index.tensors:  # a source's own
                yield Observation("cache_scales", name, _positive(artifact, name), expected)


def _positive(artifact: ModelFolder, name: str) -> str | None:
    """dtype and shape of a scale, and whether it can be divided by; None where it is not stored."""
    if name not in artifact.tensors:
        return None
    info, scale = artifact.tensors[name], artifact.values(name).astype(np.float32)
    usable = scale.size > 0 and bool(np.all(np.isfinite(scale) & (scale > 0)))
    return f"{info.dtype} {list(info.shape)}, {'positive' if usable else scale.reshape(-1)[:4].tolist()}"


def _ignored(listed: Any, plan: Plan, index: ModelIndex) -> Iterator[Observation]:
    """As other methods' lists, and stacks of experts by the name of the module that they are in."""
    for row in plan.tensors:
        if _is_stack(row):
            yield kept_module_observed(_module(row, index), listed, row.action == "keep")
    yield from kept_observed(listed, plan, index, called=lambda row: _name(row, plan, index))


def _names(artifact: ModelFolder, plan: Plan, index: ModelIndex) -> Iterator[Observation]:
    """What lies beside experts and consumers call otherwise: under their name alone."""
    for row in plan.tensors:
        name = _name(row, plan, index)
        if name != row.name:
            found = [each for each in (row.name, name) if each in artifact.tensors]
            yield Observation("stored_names", row.name, str(found), str([name]))


def _name(row: TensorPlan, plan: Plan, index: ModelIndex) -> str:
    """What a kept tensor is called in the files."""
    ours, theirs = HOLDERS.get(index.architecture, ("", ""))
    holder, found, rest = row.name.partition(ours) if ours else (row.name, "", "")
    stacked = all(f"{holder}{ours}experts.{last}" in plan.by_name for last in USUAL_NAMES)
    renamed = found and stacked and row.action == "keep" and not _is_stack(row)
    return f"{holder}{theirs}{rest}" if renamed else row.name


def _module(row: TensorPlan, index: ModelIndex) -> str:
    """What consumers call the module of the experts in one tensor."""
    ours, theirs = HOLDERS.get(index.architecture, ("", ""))
    module = f"{row.name.rpartition('.')[0]}."
    return (module.replace(ours, theirs) if ours else module).removesuffix(".")


def _is_stack(row: TensorPlan) -> bool:
    return len(row.shape) == 3 and EXPERTS.search(row.name) is not None


def _stored(artifact: ModelFolder, plan: Plan, index: ModelIndex, params: Fp8Params) -> Iterator[Observation]:
    """The arrays of each quantized weight, by dtype and shape; those of experts one by one."""
    for row in plan.tensors:
        if row.action == "quantize":
            for module, shape in _matrices(row, index):
                for part, wanted in ARRAYS[_layout(params)].items():
                    name = f"{module}.{part}"
                    info = artifact.tensors.get(name)
                    found = None if info is None else f"{info.dtype} {list(info.shape)}"
                    yield Observation("stored_arrays", name, found, _array(shape, row.source_dtype, *wanted))


def _matrices(row: TensorPlan, index: ModelIndex) -> Iterator[tuple[str, tuple[int, int]]]:
    """The modules that a row is stored as, each with its (out_features, in_features)."""
    if len(row.shape) == 2:
        yield row.name.removesuffix(".weight"), (row.shape[0], row.shape[1])
        return
    module, last = _module(row, index), row.name.rpartition(".")[2]
    leaves = NAMES.get(index.architecture, USUAL_NAMES)[last]
    experts, outputs, inputs = row.shape
    if index.architecture.startswith(TRANSPOSED):
        outputs, inputs = inputs, outputs
    for expert in range(experts):
        for leaf in leaves:
            yield f"{module}.{expert}.{leaf}", (outputs // len(leaves), inputs)


def _array(of: tuple[int, int], source_dtype: str, dtype: str, rows: int, cols: int) -> str:
    """One value for so many rows and columns; 0 columns: for all of a row, 0 rows: for the whole tensor."""
    height, width = of
    shape = [-(-height // rows), -(-width // cols) if cols else 1] if rows else [1]
    return f"{source_dtype if dtype == SOURCE else dtype} {shape}"


def _shared_scales(artifact: ModelFolder) -> Iterator[Observation]:
    for name, info in sorted(artifact.tensors.items()):
        module, _, ending = name.rpartition(".")
        if ending in ONE_SCALE and info.shape == (1,):
            first = f"{_first(module, of_experts=ending == INPUT_SCALE)}.{ending}"
            if first != name and first in artifact.tensors:
                yield Observation("shared_scales", name, _scale(artifact, name), _scale(artifact, first))


def _first(module: str, *, of_experts: bool) -> str:
    """Of the modules that share a scale."""
    parent, _, leaf = module.rpartition(".")
    first = f"{parent}.{FUSED.get(leaf, leaf)}"
    return EXPERT.sub(".experts.0.", first) if of_experts else first


def _input_scales(artifact: ModelFolder) -> Iterator[Observation]:
    """Activations are divided by them."""
    for name in sorted(artifact.tensors):
        if name.endswith(f".{INPUT_SCALE}"):
            scale = artifact.values(name).astype(np.float32)
            usable = scale.size > 0 and bool(np.all(np.isfinite(scale) & (scale > 0)))
            yield Observation("input_scales", name, "positive" if usable else _scale(artifact, name), "positive")


def _scale(artifact: ModelFolder, name: str) -> str:
    """As text: a scale that is NaN is the same as itself, and its tensor is not finite."""
    return str(artifact.values(name).tolist())
