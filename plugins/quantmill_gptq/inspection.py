"""What vLLM, transformers and GPTQModel will find in the settings, and what the parameters say it must be."""

from __future__ import annotations

import json
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
from quantmill.contract.strictjson import parse_object
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_gptq.params import GptqParams

PACKED = "pack-quantized"
FOR_GPTQMODEL = "quantize_config.json"
LARGEST = 100_000_000  # bytes of quantize_config.json


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: GptqParams) -> Inspection:
    """The files, the quantization settings, the lists of what is not quantized, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(QUANTIZATION, {})
        if params.format == "compressed-tensors":
            extra: tuple[str, ...] = ()
            observations = [*_compressed_tensors(found, artifact, plan, index, params)]
        else:
            extra = (FOR_GPTQMODEL,)
            observations = [*_gptq(found, plan, params), *_twice(folder / FOR_GPTQMODEL, found)]
        observations += [*config_observed(artifact, index), *carried_observed(folder, index)]
        return Inspection((*artifact.files(), *extra, *index.files), observations)


def _gptq(found: Mapping[str, Any], plan: Plan, params: GptqParams) -> Iterator[Observation]:
    out_of_order = params.desc_act and not params.static_groups and params.group_size > 0
    head = plan.by_name.get("lm_head.weight")
    expected: dict[str, str | int | bool] = {
        "quant_method": "gptq",
        "bits": params.bits,
        "group_size": params.group_size,
        "desc_act": out_of_order,
        "sym": params.sym,
        "lm_head": head is not None and head.action == "quantize",
        "checkpoint_format": params.format,
        "pack_dtype": "int32",
    }
    yield from keys_observed(found, expected)
    yield from excluded_observed(found, plan, listed=True)


def _twice(path: Path, found: Mapping[str, Any]) -> Iterator[Observation]:
    """GPTQModel reads a file of its own and ignores config.json where it is there."""
    text = None
    if path.is_file() and path.stat().st_size <= LARGEST:
        text = json.dumps(parse_object(path.read_bytes()), sort_keys=True)
    yield Observation(FOR_GPTQMODEL, QUANTIZATION, text, json.dumps(found, sort_keys=True))


def _compressed_tensors(
    found: Mapping[str, Any], artifact: ModelFolder, plan: Plan, index: ModelIndex, params: GptqParams
) -> Iterator[Observation]:
    size = None if params.group_size < 0 else params.group_size
    order = "static" if params.desc_act or params.act_group_aware is not False else None
    yield from compressed_tensors_observed(found, PACKED)
    expected = integers_expected(params.bits, size, symmetric=params.sym, actorder=order)
    yield from one_group_observed(found, PACKED, expected)
    yield from kept_observed(found.get("ignore"), plan, index)
    yield from scales_observed(artifact, plan)
