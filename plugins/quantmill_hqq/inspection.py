"""What transformers or vLLM will find beside the weights, and what the parameters say it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.contract.model_folder import ModelFolder, carried_observations, config_observations
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill_hqq.params import HqqParams

CHECK = "quantization_config"
PACKED = "pack-quantized"
TORCH = {"F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16"}

# What every module says of itself; hqq reads bools as bytes
FLAGS = {
    "view_as_float": 0,
    "quant_scale": 0,
    "quant_zero": 0,
    "offload_meta": 0,
    "encoded_state_dict": 1,
    "stores_quant_config": 1,
    "channel_wise": 1,
    "optimize": 1,
}


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: HqqParams) -> Inspection:
    """The files, the quantization settings, each module's metadata, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(CHECK, {})
        compressed = params.format == "compressed-tensors"
        observations = [
            *(_compressed_tensors(found, plan, params) if compressed else _hqq(found, params)),
            *(_stored_scales(artifact, plan) if compressed else _metadata(artifact, plan, params)),
            *_kept(found.get("ignore" if compressed else "skip_modules"), plan, index),
            *config_observations(artifact, index),
            *carried_observations(folder, index),
        ]
        return Inspection((*artifact.files(), *index.files), observations)


def _hqq(found: Mapping[str, Any], params: HqqParams) -> Iterator[Observation]:
    settings = found.get("quant_config", {})
    weights = settings.get("weight_quant_params", {})
    expected: dict[str, str | int | bool | None] = {
        "nbits": params.nbits,
        "group_size": None if params.group_size == -1 else params.group_size,
        "axis": params.axis,
        "channel_wise": True,
        "optimize": True,
        "round_zero": bool(params.round_zero),
        "view_as_float": False,
    }
    yield Observation(CHECK, "quant_method", found.get("quant_method"), "hqq")
    for key, value in expected.items():
        yield Observation(CHECK, f"weight_quant_params.{key}", weights.get(key), value)
    for key in ("scale_quant_params", "zero_quant_params"):
        yield Observation(CHECK, key, settings.get(key), None)
    yield Observation(CHECK, "offload_meta", settings.get("offload_meta"), False)


def _metadata(artifact: ModelFolder, plan: Plan, params: HqqParams) -> Iterator[Observation]:
    """Flags and dtypes beside each weight; bits, groups and shape are the reader's business."""
    for row in plan.tensors:
        if row.action == "quantize":
            module = row.name.removesuffix(".weight")
            for key, flag in {**FLAGS, "round_zero": int(bool(params.round_zero))}.items():
                yield Observation("metadata", f"{module}.{key}", _flag(artifact, f"{module}.{key}"), flag)
            dtype = _dtype_name(row, params)
            yield Observation("metadata", f"{module}.compute_dtype", _text(artifact, f"{module}.compute_dtype"), dtype)
            for key in ("scale", "zero"):
                name = f"{module}.{key}"
                stored = TORCH.get(artifact.tensors[name].dtype) if name in artifact.tensors else None
                yield Observation("metadata", name, stored, dtype)


def _dtype_name(row: TensorPlan, params: HqqParams) -> str:
    return TORCH[row.source_dtype] if params.compute_dtype is None else f"torch.{params.compute_dtype}"


def _flag(artifact: ModelFolder, name: str) -> int | None:
    if name not in artifact.tensors:
        return None
    value = artifact.values(name)
    return int(value) if value.shape == () and value.dtype == np.uint8 else None


def _text(artifact: ModelFolder, name: str) -> str | None:
    if name not in artifact.tensors or artifact.tensors[name].nbytes > 32:
        return None
    return artifact.values(name).tobytes().decode("ascii", "replace")


def _compressed_tensors(found: Mapping[str, Any], plan: Plan, params: HqqParams) -> Iterator[Observation]:
    yield Observation(CHECK, "quant_method", found.get("quant_method"), "compressed-tensors")
    yield Observation(CHECK, "quantization_status", found.get("quantization_status"), "compressed")
    yield Observation(CHECK, "format", found.get("format"), PACKED)
    for key in ("kv_cache_scheme", "sparsity_config", "transform_config"):  # would make the consumer expect more
        yield Observation(CHECK, key, str(found.get(key) or None), "None")
    groups = found.get("config_groups", {})
    for row in plan.tensors:
        if row.action == "quantize":
            yield from _scheme_of(row, row.name.removesuffix(".weight"), groups, params)


def _scheme_of(row: TensorPlan, module: str, groups: Mapping[str, Any], params: HqqParams) -> Iterator[Observation]:
    """The settings that a consumer finds for a module: those of the one group that names it."""
    naming = [group for group in groups.values() if {"Linear", module} & set(group.get("targets", ()))]
    yield Observation("config_groups", f"{module}: groups", len(naming), 1)
    group = naming[0] if naming else {}
    weights = group.get("weights", {})
    nbits, size = _settings_of(module, params)
    cols = row.shape[1]
    whole = size == -1 or size == cols
    grouped = not whole or cols in (8, 16, 32, 64, 128, 256)
    expected: dict[str, str | int | bool | None] = {
        "num_bits": nbits,
        "type": "int",
        "symmetric": False,
        "strategy": "group" if grouped else "channel",
        "group_size": (cols if whole else size) if grouped else None,
        "dynamic": False,
        "actorder": None,
    }
    for key, value in expected.items():
        yield Observation("config_groups", f"{module}: {key}", weights.get(key), value)
    yield Observation("config_groups", f"{module}: format", group.get("format", PACKED), PACKED)
    for key in ("input_activations", "output_activations"):
        yield Observation("config_groups", f"{module}: {key}", str(group.get(key)), "None")


def _stored_scales(artifact: ModelFolder, plan: Plan) -> Iterator[Observation]:
    """Scales are in the source's dtype, in which consumers compute; shapes are the reader's business."""
    for row in plan.tensors:
        if row.action == "quantize":
            name = f"{row.name.removesuffix('.weight')}.weight_scale"
            stored = artifact.tensors[name].dtype if name in artifact.tensors else None
            yield Observation("stored_arrays", name, stored, row.source_dtype)


def _settings_of(module: str, params: HqqParams) -> tuple[int, int]:
    asked = [each for pattern, each in params.overrides.items() if fnmatchcase(module, pattern)]
    nbits = asked[0].nbits if asked and asked[0].nbits else params.nbits
    return nbits, asked[0].group_size if asked and asked[0].group_size else params.group_size


def _kept(listed: Any, plan: Plan, index: ModelIndex) -> Iterator[Observation]:
    """Each matrix that is not quantized must be listed, or the consumer would look for its scales."""
    for row in plan.tensors:
        if row.name.endswith(".weight") and len(row.shape) == 2:
            module = row.name.removesuffix(".weight")
            yield Observation("skip_modules", module, module in (listed or ()), row.action == "keep")
    for name in index.tied:
        yield Observation("skip_modules", name, name.removesuffix(".weight") in (listed or ()), True)
