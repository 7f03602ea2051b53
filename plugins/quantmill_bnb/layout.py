"""How bitsandbytes stores a weight: names, dtypes and shapes of its arrays.

bitsandbytes 0.50: functional.QuantState.as_dict, nn.Linear8bitLt._save_to_state_dict.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from typing import Any

from quantmill.contract.model_folder import StoredPart, kept_part
from quantmill.contract.tensors import TensorPlan
from quantmill_bnb.params import BnbParams

NESTED_BLOCK = 256  # absmax values that share a scale when they are quantized themselves
STORAGE = {"uint8": ("U8", 1), "bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of sources, as torch says it
LONGEST_FLOAT = len("-1.7976931348623157e-308")


def parts_of(row: TensorPlan, params: BnbParams) -> Sequence[StoredPart]:
    """The arrays that the files hold for a tensor of the plan."""
    if row.action == "keep":
        return (kept_part(row),)
    return _int8(row) if params.quant_type == "int8" else _four_bit(row, params)


def _int8(row: TensorPlan) -> Sequence[StoredPart]:
    module = row.name.removesuffix(".weight")
    return (
        StoredPart("weight", row.name, "I8", row.shape),
        StoredPart("SCB", f"{module}.SCB", "F32", (row.shape[0],)),
        StoredPart("weight_format", f"{module}.weight_format", "U8", ()),
    )


def _four_bit(row: TensorPlan, params: BnbParams) -> Sequence[StoredPart]:
    dtype, itemsize = STORAGE[params.quant_storage]
    blocks = -(-prod(row.shape) // params.block_size)
    state = f"quant_state.bitsandbytes__{params.quant_type}"
    parts = [
        StoredPart("weight", row.name, dtype, (-(-prod(row.shape) // (2 * itemsize)), 1)),
        StoredPart("absmax", f"{row.name}.absmax", "U8" if params.doubles else "F32", (blocks,)),
        StoredPart("quant_map", f"{row.name}.quant_map", "F32", (16,)),
        StoredPart("quant_state", f"{row.name}.{state}", "U8", (state_length(row, params),)),
    ]
    if params.doubles:
        nested = -(-blocks // NESTED_BLOCK)
        parts.append(StoredPart("nested_absmax", f"{row.name}.nested_absmax", "F32", (nested,)))
        parts.append(StoredPart("nested_quant_map", f"{row.name}.nested_quant_map", "F32", (256,)))
    return parts


def quant_state(row: TensorPlan, params: BnbParams, offset: float) -> bytes:
    """What is no array, as JSON in UTF-8; `offset` is what was taken from the absmax before they were quantized.

    Filled up with blanks: how many digits `offset` has shall not change a plan's bytes.
    """
    return _state_text(row, params, offset).ljust(state_length(row, params)).encode()


def state_length(row: TensorPlan, params: BnbParams) -> int:
    return len(_state_text(row, params, 0.0)) - len("0.0") + (LONGEST_FLOAT if params.doubles else len("0.0"))


def _state_text(row: TensorPlan, params: BnbParams, offset: float) -> str:
    state: dict[str, Any] = {
        "quant_type": params.quant_type,
        "blocksize": params.block_size,
        "dtype": DTYPES[row.source_dtype],
        "shape": list(row.shape),
    }
    if params.doubles:
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
    return json.dumps(state)
