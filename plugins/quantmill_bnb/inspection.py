"""What transformers will find in config.json, and what the parameters say it must be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.contract.model_folder import QUANTIZATION, ModelFolder
from quantmill.contract.observed import carried_observed, config_observed, kept_observed, keys_observed
from quantmill.contract.reading import Inspection, Observation
from quantmill.contract.tensors import FloatArray, ModelIndex, Plan, TensorPlan
from quantmill_bnb.params import BnbParams

STORAGE = {"uint8": ("U8", 1), "bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NESTED_BLOCK = 256
FREE = ("nested_offset",)  # of a quantization state, what depends on the weights

# What the 16 codes stand for. Dettmers et al. 2023, QLoRA, appendix E; bitsandbytes functional.get_4bit_type.
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)  # over 12; the codes from 8 on are negative


def inspect(folder: Path, plan: Plan, index: ModelIndex, params: BnbParams) -> Inspection:
    """The files, every key of the quantization settings, the model's own settings and the tokenizer's bytes."""
    with ModelFolder(folder) as artifact:
        found = artifact.config.get(QUANTIZATION, {})
        observations = [
            *_settings(found, params),
            *kept_observed(found.get("llm_int8_skip_modules"), plan, index),
            *_stored(artifact, plan, params),
            *config_observed(artifact, index),
            *carried_observed(folder, index),
        ]
        return Inspection((*artifact.files(), *index.files), observations)


def _settings(found: Mapping[str, Any], params: BnbParams) -> Iterator[Observation]:
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
    yield from keys_observed(found, expected)


def _stored(artifact: ModelFolder, plan: Plan, params: BnbParams) -> Iterator[Observation]:
    """Of each quantized weight its arrays by dtype and shape, its state and its tables."""
    for row in plan.tensors:
        if row.action == "quantize":
            arrays = _int8_arrays(row) if params.quant_type == "int8" else _four_bit_arrays(row, params)
            for name, wanted in arrays.items():
                yield Observation("stored_arrays", name, _array(artifact, name), wanted)
            if params.quant_type != "int8":
                yield from _state(artifact, row, params)
                yield from _tables(artifact, row, params)


def _int8_arrays(row: TensorPlan) -> Mapping[str, str]:
    module = row.name.removesuffix(".weight")
    return {
        row.name: f"I8 {list(row.shape)}",
        f"{module}.SCB": f"F32 {[row.shape[0]]}",
        f"{module}.weight_format": "U8 []",
    }


def _four_bit_arrays(row: TensorPlan, params: BnbParams) -> Mapping[str, str]:
    dtype, itemsize = STORAGE[params.quant_storage]
    values = prod(row.shape)
    blocks = -(-values // params.block_size)
    arrays = {
        row.name: f"{dtype} {[-(-values // (2 * itemsize)), 1]}",
        f"{row.name}.absmax": f"{'U8' if params.doubles else 'F32'} {[blocks]}",
        f"{row.name}.quant_map": "F32 [16]",
    }
    if params.doubles:
        arrays[f"{row.name}.nested_absmax"] = f"F32 {[-(-blocks // NESTED_BLOCK)]}"
        arrays[f"{row.name}.nested_quant_map"] = "F32 [256]"
    return arrays


def _array(artifact: ModelFolder, name: str) -> str | None:
    info = artifact.tensors.get(name)
    return None if info is None else f"{info.dtype} {list(info.shape)}"


def _state(artifact: ModelFolder, row: TensorPlan, params: BnbParams) -> Iterator[Observation]:
    name = f"{row.name}.quant_state.bitsandbytes__{params.quant_type}"
    wanted: dict[str, Any] = {
        "quant_type": params.quant_type,
        "blocksize": params.block_size,
        "dtype": TORCH[row.source_dtype],
        "shape": list(row.shape),
    }
    if params.doubles:
        wanted |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32"}
    found = json.loads(artifact.values(name).tobytes()) if name in artifact.tensors else {}
    fixed = {key: value for key, value in found.items() if key not in FREE}
    yield Observation("quant_states", name, json.dumps(fixed, sort_keys=True), json.dumps(wanted, sort_keys=True))


def _tables(artifact: ModelFolder, row: TensorPlan, params: BnbParams) -> Iterator[Observation]:
    four_bit = NF4 if params.quant_type == "nf4" else [sign * each / 12 for sign in (1, -1) for each in FP4_MAGNITUDES]
    tables = {"quant_map": np.array(four_bit, np.float32)}
    if params.doubles:
        tables["nested_quant_map"] = dynamic_map()
    for part, wanted in tables.items():
        name = f"{row.name}.{part}"
        if name in artifact.tensors:
            yield Observation("quant_maps", f"wrong entries of {name}", _wrong(artifact, name, wanted), 0)


def _wrong(artifact: ModelFolder, name: str, wanted: FloatArray) -> int:
    found = artifact.values(name)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return wanted.size
    return wanted.size - int(np.count_nonzero(np.isclose(found, wanted, rtol=1e-6, atol=0)))


def dynamic_map() -> FloatArray:
    """What the 256 codes of an absmax stand for: ever more values between ever larger powers of ten.

    bitsandbytes functional.create_dynamic_map(signed=True); Dettmers 2016, 8-bit approximations, section 3.
    """
    values = [0.0, 1.0]
    for digits in range(7):
        edges = np.linspace(0.1, 1.0, 2**digits + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (digits - 6)
        values += [*middles, *-middles]
    return np.sort(np.array(values, np.float32))
