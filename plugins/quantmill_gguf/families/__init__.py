"""Model architectures: which tensors a checkpoint has, what GGUF makes of them, and what llama.cpp must be told."""

from quantmill_gguf.families.layout import Architecture, ExpectedTensor, Model, Order, Tie
from quantmill_gguf.families.model import COPIED_KEY, PREFIX_KEY, Described, describe
from quantmill_gguf.families.table import ARCHITECTURES, EMBEDDING, OUTPUT

__all__ = [
    "ARCHITECTURES",
    "COPIED_KEY",
    "EMBEDDING",
    "OUTPUT",
    "PREFIX_KEY",
    "Architecture",
    "Described",
    "ExpectedTensor",
    "Model",
    "Order",
    "Tie",
    "describe",
]
