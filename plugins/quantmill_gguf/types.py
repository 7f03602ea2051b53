"""GGML's tensor types, under the name by which this plugin's rooms know them."""

from quantmill.contract.gguf import BY_ID, TYPES, TensorType

__all__ = ["BY_ID", "TYPES", "TensorType"]
