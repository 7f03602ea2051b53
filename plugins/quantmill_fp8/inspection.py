"""What vLLM and transformers will find in config.json, and what the parameters say it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantmill.contract.model_folder import ModelFolder, carried_observations, config_observations
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_fp8.params import Fp8Params

CHECK = "quantization_config"
FLOATS = "float-quantized"

# scheme -> format, bits, strategy, group size, activations' strategy
EXPECTED: Mapping[str, tuple[str, int, str, int | None, str | None]] = {
    "FP8_DYNAMIC": (FLOATS, 8, "channel", None, "token"),
    "FP8_BLOCK": (FLOATS, 8, "block", None, "group"),
    "FP8A16": ("naive-quantized", 8, "channel", None, None),
    "MXFP8": ("mxfp8-quantized", 8, "group", 32, "group"),
    "MXFP8A16": ("mxfp8-quantized", 8, "group", 32, None),
    "NVFP4A16": ("nvfp4-pack-quantized", 4, "tensor_group", 16, None),
    "MXFP4A16": ("mxfp4-pack-quantized", 4, "group", 32, None),
}


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: Fp8Params) -> Inspection:
    """The files, the quantization settings, the list of what is not quantized, the model's settings, the tokenizer."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(CHECK, {})
        native = params.scheme == "FP8_NATIVE"
        observations = [
            *(_native(found) if native else _compressed_tensors(found, params)),
            *_ignored(found.get("modules_to_not_convert" if native else "ignore"), plan, index),
            *config_observations(artifact, index),
            *carried_observations(folder, index),
        ]
        return Inspection((*artifact.files(), *index.files), observations)


def _native(found: Mapping[str, Any]) -> Iterator[Observation]:
    yield Observation(CHECK, "quant_method", found.get("quant_method"), "fp8")
    yield Observation(CHECK, "activation_scheme", found.get("activation_scheme"), "dynamic")
    yield Observation(CHECK, "weight_block_size", str(found.get("weight_block_size")), "[128, 128]")


def _compressed_tensors(found: Mapping[str, Any], params: Fp8Params) -> Iterator[Observation]:
    layout, bits, strategy, group_size, activations = EXPECTED[params.scheme]
    group = found.get("config_groups", {}).get("group_0", {})
    weights, inputs = group.get("weights", {}), group.get("input_activations") or {}
    yield Observation(CHECK, "quant_method", found.get("quant_method"), "compressed-tensors")
    yield Observation(CHECK, "quantization_status", found.get("quantization_status"), "compressed")
    yield Observation(CHECK, "format", found.get("format"), layout)
    yield Observation(CHECK, "targets", str(group.get("targets")), "['Linear']")
    wanted: dict[str, str | int | bool | None] = {
        "num_bits": bits,
        "type": "float",
        "strategy": strategy,
        "group_size": group_size,
        "symmetric": True,
    }
    for key, value in wanted.items():
        yield Observation(CHECK, f"weights.{key}", weights.get(key), value)
    yield Observation(CHECK, "input_activations.strategy", inputs.get("strategy"), activations)
    yield Observation(CHECK, "input_activations.dynamic", inputs.get("dynamic"), True if activations else None)


def _ignored(listed: Any, plan: Plan, index: ModelIndex) -> Iterator[Observation]:
    """Each matrix that is not quantized must be listed, or the consumer would look for its scales."""
    for row in plan.tensors:
        if row.name.endswith(".weight") and len(row.shape) == 2:
            module = row.name.removesuffix(".weight")
            yield Observation("ignored_modules", module, module in (listed or ()), row.action == "keep")
    for name in index.tied:
        yield Observation("ignored_modules", name, name.removesuffix(".weight") in (listed or ()), True)
