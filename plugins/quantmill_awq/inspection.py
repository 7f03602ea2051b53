"""What vLLM, transformers and GPTQModel will find in the settings, and what the parameters say it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantmill.contract.model_folder import QUANTIZATION, ModelFolder
from quantmill.contract.observed import (
    carried_observed,
    compressed_tensors_observed,
    config_observed,
    excluded_observed,
    integers_expected,
    kept_observed,
    keys_observed,
    one_group_observed,
    scales_observed,
)
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_awq.params import AwqParams

PACKED = "pack-quantized"


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: AwqParams) -> Inspection:
    """The files, the quantization settings, the list of what is not quantized, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(QUANTIZATION, {})
        own = _gemm(found, artifact, plan, index, params)
        if params.format == "compressed-tensors":
            own = _compressed_tensors(found, artifact, plan, index, params)
        observations = [*own, *config_observed(artifact, index), *carried_observed(folder, index)]
        return Inspection((*artifact.files(), *index.files), observations)


def _gemm(
    found: Mapping[str, Any], artifact: ModelFolder, plan: Plan, index: ModelIndex, params: AwqParams
) -> Iterator[Observation]:
    expected: dict[str, str | int | bool] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": params.group_size,
        "zero_point": True,
        "version": "gemm",
    }
    yield from keys_observed(found, expected)
    yield from kept_observed(found.get("modules_to_not_convert"), plan, index)
    yield from excluded_observed(found, plan, listed=False)
    yield from scales_observed(artifact, plan, "scales", "F16")


def _compressed_tensors(
    found: Mapping[str, Any], artifact: ModelFolder, plan: Plan, index: ModelIndex, params: AwqParams
) -> Iterator[Observation]:
    size = None if params.group_size < 0 else params.group_size
    yield from compressed_tensors_observed(found, PACKED)
    yield from one_group_observed(found, PACKED, integers_expected(params.bits, size, symmetric=not params.zero_point))
    yield from kept_observed(found.get("ignore"), plan, index)
    yield from scales_observed(artifact, plan)
