"""What vLLM, transformers and GPTQModel will find in the settings, and what the parameters say it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantmill.contract.model_folder import (
    ModelFolder,
    carried_observations,
    config_observations,
    excluded_observations,
)
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_awq.params import AwqParams

CHECK = "quantization_config"
PACKED = "pack-quantized"


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: AwqParams) -> Inspection:
    """The files, the quantization settings, the list of what is not quantized, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(CHECK, {})
        gemm = params.format == "gemm"
        observations = [
            *(_gemm(found, params) if gemm else _compressed_tensors(found, params)),
            *_kept(found.get("modules_to_not_convert" if gemm else "ignore"), plan, index),
            *(excluded_observations(found, plan, listed=False) if gemm else ()),
            *_stored_scales(artifact, plan, gemm),
            *config_observations(artifact, index),
            *carried_observations(folder, index),
        ]
        return Inspection((*artifact.files(), *index.files), observations)


def _gemm(found: Mapping[str, Any], params: AwqParams) -> Iterator[Observation]:
    expected: dict[str, str | int | bool] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": params.group_size,
        "zero_point": True,
        "version": "gemm",
    }
    for key, value in expected.items():
        yield Observation(CHECK, key, found.get(key), value)


def _compressed_tensors(found: Mapping[str, Any], params: AwqParams) -> Iterator[Observation]:
    groups = found.get("config_groups", {})
    group = groups.get("group_0", {})
    weights = group.get("weights", {})
    yield Observation(CHECK, "quant_method", found.get("quant_method"), "compressed-tensors")
    yield Observation(CHECK, "quantization_status", found.get("quantization_status"), "compressed")
    yield Observation(CHECK, "format", found.get("format"), PACKED)
    for key in ("kv_cache_scheme", "sparsity_config", "transform_config"):  # would make the consumer expect more
        yield Observation(CHECK, key, str(found.get(key) or None), "None")
    yield Observation(CHECK, "config_groups", len(groups), 1)
    yield Observation(CHECK, "the group's format", group.get("format", PACKED), PACKED)
    yield Observation(CHECK, "targets", str(group.get("targets")), "['Linear']")
    by_rows = params.group_size < 0
    expected: dict[str, str | int | bool | None] = {
        "num_bits": params.bits,
        "type": "int",
        "strategy": "channel" if by_rows else "group",
        "group_size": None if by_rows else params.group_size,
        "symmetric": not params.zero_point,
        "dynamic": False,
        "actorder": None,
    }
    for key, value in expected.items():
        yield Observation(CHECK, f"weights.{key}", weights.get(key), value)
    for key in ("input_activations", "output_activations"):
        yield Observation(CHECK, key, str(group.get(key)), "None")


def _stored_scales(artifact: ModelFolder, plan: Plan, gemm: bool) -> Iterator[Observation]:
    """Scales are in float16, or in the source's dtype, in which consumers compute; shapes are the reader's business."""
    for row in plan.tensors:
        if row.action == "quantize":
            name = f"{row.name.removesuffix('.weight')}.{'scales' if gemm else 'weight_scale'}"
            stored = artifact.tensors[name].dtype if name in artifact.tensors else None
            yield Observation("stored_arrays", name, stored, "F16" if gemm else row.source_dtype)


def _kept(listed: Any, plan: Plan, index: ModelIndex) -> Iterator[Observation]:
    """Each matrix that is not quantized must be listed, or the consumer would look for its scales."""
    for row in plan.tensors:
        if row.name.endswith(".weight") and len(row.shape) == 2:
            module = row.name.removesuffix(".weight")
            yield Observation("kept_modules", module, module in (listed or ()), row.action == "keep")
    for name in index.tied:
        yield Observation("kept_modules", name, name.removesuffix(".weight") in (listed or ()), True)
