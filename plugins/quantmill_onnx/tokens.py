"""Windows of tokens as what a graph of text takes: ids, masks, positions, and caches that hold nothing yet.

Inputs are known by the names that transformers and its exporters give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import ParamsRejected, SourceRejected
from quantmill.contract.onnx import OnnxGraph, ValueInfo
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import ModelIndex
from quantmill_onnx.samples import NUMPY, Feed

Ids = NDArray[np.int64]

# What stands for each token of a window
OF_TOKENS: Mapping[str, Callable[[Ids], NDArray[Any]]] = {
    "input_ids": lambda ids: ids,
    "attention_mask": np.ones_like,
    "token_type_ids": np.zeros_like,
    "position_ids": lambda ids: np.arange(len(ids)),
}
CACHES = ("past_key_values.", "past_key_values_", "past_key.", "past_value.", "past.")
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class TokenSamples:
    """Windows of tokens for a graph that `require_text` has found to take them; each is a sample."""

    graph: OnnxGraph
    windows: Sequence[Ids]

    def feeds(self) -> Iterator[Feed]:
        return (feed_of(self.graph, ids) for ids in self.windows)

    def largest(self) -> Feed:
        return feed_of(self.graph, max(self.windows, key=len))


def own_inputs(graph: OnnxGraph) -> list[ValueInfo]:
    """The inputs that no initializer fills."""
    return [each for each in graph.inputs if each.name not in graph.weights and each.name not in graph.constants]


def takes_text(graph: OnnxGraph) -> bool:
    """Whether all of its inputs follow from a window of tokens."""
    return not any(True for _ in _foreign(graph))


def require_text(index: ModelIndex, graph: OnnxGraph) -> None:
    """Raises ParamsRejected where a text cannot be turned into what the graph takes, saying why."""
    for what in _foreign(graph):
        _reject(f"{what}; give them as an .npz file")
    if TOKENIZER not in index.files:
        _reject(f"the folder has no {TOKENIZER} that makes tokens of a text; put it there, or give an .npz file")


def _reject(what: str) -> None:
    message = f"samples: {what}"
    raise ParamsRejected(f"onnx: {message}", [{"pointer": "/params/samples", "code": "samples", "message": message}])


def _foreign(graph: OnnxGraph) -> Iterator[str]:
    inputs = own_inputs(graph)
    if not any(each.name == "input_ids" for each in inputs):
        yield f"the graph has no input input_ids, so that no text can be run; it takes {shown(_names(inputs)[:8])}"
    for each in inputs:
        if not (_is_of_tokens(each) or _is_cache(each)):
            yield f"the input {shown(each.name)} of shape {shown(each.shape)} does not follow from a text"


def _names(inputs: Sequence[ValueInfo]) -> list[str]:
    return [each.name for each in inputs]


def _is_of_tokens(info: ValueInfo) -> bool:
    shape = info.shape
    return info.name in OF_TOKENS and info.dtype in NUMPY and shape is not None and len(shape) == 2 and _one(shape[0])


def _is_cache(info: ValueInfo) -> bool:
    """(batch, heads, tokens before, values), of which the first and the third are open."""
    shape = info.shape
    if not info.name.startswith(CACHES) or info.dtype not in NUMPY or shape is None or len(shape) != 4:
        return False
    fixed = [isinstance(each, int) and each > 0 for each in shape]
    return _one(shape[0]) and fixed[1:] == [True, False, True]


def _one(dimension: int | str) -> bool:
    return isinstance(dimension, str) or dimension <= 1


def feed_of(graph: OnnxGraph, ids: Ids) -> Feed:
    """One window as a batch of one; ids (tokens,). A graph of a fixed length takes shorter ones filled up, masked.

    Raises SourceRejected for a window that is longer.
    """
    return {each.name: _values(each, ids) for each in own_inputs(graph)}


def _values(info: ValueInfo, ids: Ids) -> NDArray[Any]:
    assert info.shape is not None  # `require_text` has seen it
    if _is_cache(info):
        _, heads, _, values = info.shape
        return np.zeros((1, int(heads), 0, int(values)), NUMPY[info.dtype])
    made = OF_TOKENS[info.name](ids)
    length = info.shape[1]
    if isinstance(length, int) and length > 0:
        if len(ids) > length:
            raise SourceRejected(
                f"a window has {len(ids)} tokens, {shown(info.name)} takes {length}; calibrate with window={length}"
            )
        made = np.pad(made, (0, length - len(ids)))
    return made[None].astype(NUMPY[info.dtype])
