"""Model architectures: which tensors a checkpoint has, what GGUF makes of them, and what llama.cpp must be told."""

from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.families.layout import Architecture, ExpectedTensor, Model, Order, Tie
from quantmill_gguf.families.model import COPIED_KEY, PREFIX_KEY, Described, describe_checkpoint
from quantmill_gguf.families.stored import describe_file
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


def describe(index: ModelIndex) -> Described:
    """The source as its architecture sees it. Raises what `describe_checkpoint` raises."""
    return describe_checkpoint(index) if index.gguf is None else describe_file(index, index.gguf)
