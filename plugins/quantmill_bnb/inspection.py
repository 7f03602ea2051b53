"""What transformers will find in config.json, and what the parameters say it must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantmill.contract.model_folder import ModelFolder, carried_observations, config_observations
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import ModelIndex, Plan
from quantmill_bnb.params import BnbParams

CHECK = "quantization_config"


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: BnbParams) -> Inspection:
    """The files, every key of the quantization settings, the model's own settings and the tokenizer's bytes."""
    with ModelFolder(folder) as artifact:
        observations = [
            *_settings(artifact, params),
            *_skipped(artifact, plan, index),
            *config_observations(artifact, index),
            *carried_observations(folder, index),
        ]
        return Inspection((*artifact.files(), *index.files), observations)


def _settings(artifact: ModelFolder, params: BnbParams) -> Iterator[Observation]:
    found = artifact.config.get("quantization_config", {})
    four_bit = params.quant_type in ("nf4", "fp4")
    expected: dict[str, str | float | bool] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": four_bit,
        "load_in_8bit": not four_bit,
        "bnb_4bit_compute_dtype": params.compute_dtype,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
    }
    if four_bit:
        doubles = True if params.double_quant is None else params.double_quant
        expected |= {
            "bnb_4bit_quant_type": params.quant_type,
            "bnb_4bit_use_double_quant": doubles,
            "bnb_4bit_quant_storage": params.quant_storage,
        }
    for name, value in expected.items():
        yield Observation(CHECK, name, found.get(name), value)


def _skipped(artifact: ModelFolder, plan: Plan, index: ModelIndex) -> Iterator[Observation]:
    """Each matrix that is not quantized must be in the list, or transformers would make it a quantized module."""
    listed = set(artifact.config.get("quantization_config", {}).get("llm_int8_skip_modules") or ())
    for row in plan.tensors:
        if row.name.endswith(".weight") and len(row.shape) == 2:
            module = row.name.removesuffix(".weight")
            yield Observation("skip_modules", module, module in listed, row.action == "keep")
    for name in index.tied:
        yield Observation("skip_modules", name, name.removesuffix(".weight") in listed, True)
