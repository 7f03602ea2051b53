"""What transformers or vLLM will find beside the weights, and what the parameters say it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.contract.model_folder import QUANTIZATION, ModelFolder
from quantmill.contract.observed import (
    carried_observed,
    compressed_tensors_observed,
    config_observed,
    group_observed,
    integers_expected,
    kept_observed,
    keys_observed,
    scales_observed,
)
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan
from quantmill_hqq.params import HqqParams

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
        found = artifact.config.get(QUANTIZATION, {})
        compressed = params.format == "compressed-tensors"
        observations = [
            *(_compressed_tensors(found, plan, params) if compressed else _hqq(found, params)),
            *(scales_observed(artifact, plan) if compressed else _metadata(artifact, plan, params)),
            *kept_observed(found.get("ignore" if compressed else "skip_modules"), plan, index),
            *config_observed(artifact, index),
            *carried_observed(folder, index),
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
    yield from keys_observed(found, {"quant_method": "hqq"})
    yield from keys_observed(weights, expected, prefix="weight_quant_params.")
    yield from keys_observed(settings, {"scale_quant_params": None, "zero_quant_params": None, "offload_meta": False})


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
    yield from compressed_tensors_observed(found, PACKED)
    groups = found.get("config_groups", {})
    for row in plan.tensors:
        if row.action == "quantize":
            yield from _scheme_of(row, row.name.removesuffix(".weight"), groups, params)


def _scheme_of(row: TensorPlan, module: str, groups: Mapping[str, Any], params: HqqParams) -> Iterator[Observation]:
    """The settings that a consumer finds for a module: those of the one group that names it."""
    naming = [group for group in groups.values() if {"Linear", module} & set(group.get("targets", ()))]
    yield Observation("config_groups", f"{module}: groups", len(naming), 1)
    group = naming[0] if naming else {}
    nbits, size = _settings_of(module, params)
    cols = row.shape[1]
    whole = size == -1 or size == cols
    grouped = not whole or cols in (8, 16, 32, 64, 128, 256)
    expected = integers_expected(nbits, (cols if whole else size) if grouped else None, symmetric=False)
    yield from group_observed(group, PACKED, expected, "config_groups", f"{module}: ")


def _settings_of(module: str, params: HqqParams) -> tuple[int, int]:
    asked = [each for pattern, each in params.overrides.items() if fnmatchcase(module, pattern)]
    nbits = asked[0].nbits if asked and asked[0].nbits else params.nbits
    return nbits, asked[0].group_size if asked and asked[0].group_size else params.group_size
