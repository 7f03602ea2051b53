"""GGML's tensor types, under the name by which this plugin's rooms know them."""

from collections.abc import Mapping
from dataclasses import replace

from quantmill.contract.gguf import BY_ID, NVFP4, TYPES, TensorType

# F32 that holds the source's values plus one: the norms of Gemma. A scheme of its own, because adding one rounds.
PLUS_ONE = replace(TYPES["F32"], name="F32+1")

# What a plan may say of a tensor
SCHEMES: Mapping[str, TensorType] = {**TYPES, NVFP4.name: NVFP4, PLUS_ONE.name: PLUS_ONE}

UNQUANTIZED = ("F32", "F16", "BF16", PLUS_ONE.name)

# Parts of a quantized tensor
PACKED, COPY = "packed", "copy"
FACTOR, FACTOR_BYTES = "scale", 4  # of NVFP4, in a tensor of its own
SUMS, COUNTS = "in_sum2", "counts"  # of its computed importance

__all__ = [
    "BY_ID",
    "COPY",
    "COUNTS",
    "FACTOR",
    "FACTOR_BYTES",
    "NVFP4",
    "PACKED",
    "PLUS_ONE",
    "SCHEMES",
    "SUMS",
    "TYPES",
    "UNQUANTIZED",
    "TensorType",
]
