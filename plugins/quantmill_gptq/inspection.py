"""What vLLM, transformers and GPTQModel will find in the settings, and what the parameters say it must be."""

from __future__ import annotations

import json
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
from quantmill.contract.strictjson import parse_object
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_gptq.params import GptqParams

CHECK = "quantization_config"
PACKED = "pack-quantized"
FOR_GPTQMODEL = "quantize_config.json"
LARGEST = 100_000_000  # bytes of quantize_config.json


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: GptqParams) -> Inspection:
    """The files, the quantization settings, the lists of what is not quantized, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(CHECK, {})
        if params.format == "compressed-tensors":
            extra: tuple[str, ...] = ()
            observations = [
                *_compressed_tensors(found, params),
                *_ignored(found.get("ignore"), plan, index),
                *_stored_scales(artifact, plan),
            ]
        else:
            extra = (FOR_GPTQMODEL,)
            observations = [*_gptq(found, plan, params), *excluded_observations(found, plan, listed=True)]
            observations += _twice(folder / FOR_GPTQMODEL, found)
        observations += [*config_observations(artifact, index), *carried_observations(folder, index)]
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
    for key, value in expected.items():
        yield Observation(CHECK, key, found.get(key), value)


def _twice(path: Path, found: Mapping[str, Any]) -> Iterator[Observation]:
    """GPTQModel reads a file of its own and ignores config.json where it is there."""
    text = None
    if path.is_file() and path.stat().st_size <= LARGEST:
        text = json.dumps(parse_object(path.read_bytes()), sort_keys=True)
    yield Observation(FOR_GPTQMODEL, CHECK, text, json.dumps(found, sort_keys=True))


def _compressed_tensors(found: Mapping[str, Any], params: GptqParams) -> Iterator[Observation]:
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
        "symmetric": params.sym,
        "dynamic": False,
        "actorder": "static" if params.desc_act or params.act_group_aware is not False else None,
    }
    for key, value in expected.items():
        yield Observation(CHECK, f"weights.{key}", weights.get(key), value)
    for key in ("input_activations", "output_activations"):
        yield Observation(CHECK, key, str(group.get(key)), "None")


def _stored_scales(artifact: ModelFolder, plan: Plan) -> Iterator[Observation]:
    """Scales are in the source's dtype, in which consumers compute; shapes are the reader's business."""
    for row in plan.tensors:
        if row.action == "quantize":
            name = f"{row.name.removesuffix('.weight')}.weight_scale"
            stored = artifact.tensors[name].dtype if name in artifact.tensors else None
            yield Observation("stored_arrays", name, stored, row.source_dtype)


def _ignored(listed: Any, plan: Plan, index: ModelIndex) -> Iterator[Observation]:
    """Each matrix that is not quantized must be listed, or the consumer would look for its scales."""
    for row in plan.tensors:
        if row.name.endswith(".weight") and len(row.shape) == 2:
            module = row.name.removesuffix(".weight")
            yield Observation("ignored_modules", module, module in (listed or ()), row.action == "keep")
    for name in index.tied:
        yield Observation("ignored_modules", name, name.removesuffix(".weight") in (listed or ()), True)
