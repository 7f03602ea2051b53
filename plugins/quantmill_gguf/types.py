"""GGML's tensor types, under the name by which this plugin's rooms know them."""

from collections.abc import Mapping
from dataclasses import replace

from quantmill.contract.gguf import BY_ID, TYPES, TensorType

# F32 that holds the source's values plus one: the norms of Gemma. A scheme of its own, because adding one rounds.
PLUS_ONE = replace(TYPES["F32"], name="F32+1")

SCHEMES: Mapping[str, TensorType] = {**TYPES, PLUS_ONE.name: PLUS_ONE}  # what a plan may say of a tensor

UNQUANTIZED = ("F32", "F16", "BF16", PLUS_ONE.name)

# Parts of a quantized tensor
PACKED, COPY = "packed", "copy"
SUMS, COUNTS = "in_sum2", "counts"  # of its computed importance

__all__ = ["BY_ID", "COPY", "COUNTS", "PACKED", "PLUS_ONE", "SCHEMES", "SUMS", "TYPES", "UNQUANTIZED", "TensorType"]
