"""Windows of tokens as what an ONNX graph of text takes: ids, masks, positions, and caches that hold nothing yet.

Inputs and outputs are known by the names that transformers and its exporters give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.errors import RequestRejected, SourceRejected
from quantmill.contract.onnx import OnnxGraph, ValueInfo
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import ModelIndex

Ids = NDArray[np.int64]
Feed = Mapping[str, NDArray[Any]]

NUMPY: Mapping[int, np.dtype[Any]] = {  # by TensorProto.DataType
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
}
FLOAT = 1
LENGTH_LIMIT = 1 << 20  # tokens of a graph of a fixed length: shorter windows are filled up

# What stands for each token of a window
OF_TOKENS: Mapping[str, Callable[[Ids], NDArray[Any]]] = {
    "input_ids": lambda ids: ids,
    "attention_mask": np.ones_like,
    "token_type_ids": np.zeros_like,
    "position_ids": lambda ids: np.arange(len(ids)),
}
CACHES = ("past_key_values.", "past_key_values_", "past_key.", "past_value.", "past.")
LOGITS, HIDDEN = "logits", "last_hidden_state"
GRAPH_OF = "graph_of"  # in the index of a graph: the architecture that a config.json beside it says
CAUSAL = ("ForCausalLM", "LMHeadModel")


def own_inputs(graph: OnnxGraph) -> list[ValueInfo]:
    """The inputs that no initializer fills."""
    return [each for each in graph.inputs if each.name not in graph.weights and each.name not in graph.constants]


def takes_text(graph: OnnxGraph) -> bool:
    """Whether all of its inputs follow from a window of tokens."""
    return next(foreign_inputs(graph), None) is None


def foreign_inputs(graph: OnnxGraph) -> Iterator[str]:
    """Why no text can be run, in words, for each input that stands in the way."""
    inputs = own_inputs(graph)
    names = [each.name for each in inputs]
    if "input_ids" not in names:
        yield f"the graph has no input input_ids, so that no text can be run; it takes {shown(names[:8])}"
    for each in inputs:
        if not (_is_of_tokens(each) or _is_cache(each)):
            yield f"the input {shown(each.name)} of shape {shown(each.shape)} does not follow from a text"


def _is_of_tokens(info: ValueInfo) -> bool:
    shape = info.shape
    if info.name not in OF_TOKENS or info.dtype not in NUMPY or shape is None or len(shape) != 2:
        return False
    return _one(shape[0]) and (isinstance(shape[1], str) or shape[1] <= LENGTH_LIMIT)


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
    assert info.shape is not None  # `takes_text` has seen it
    if _is_cache(info):
        _, heads, _, values = info.shape
        return np.zeros((1, int(heads), 0, int(values)), NUMPY[info.dtype])
    made = OF_TOKENS[info.name](ids)
    length = info.shape[1]
    if isinstance(length, int) and length > 0:
        if len(ids) > length:
            raise SourceRejected(
                f"a window has {len(ids)} tokens, {shown(info.name)} takes {length}; use a window of {length}"
            )
        made = np.pad(made, (0, length - len(ids)))
    return made[None].astype(NUMPY[info.dtype])


def measured_on_text(index: ModelIndex) -> Literal["predictions", "embeddings"]:
    """What a text says of a graph: how it predicts the next token, or what it makes of a window.

    Raises RequestRejected where it takes no text, or gives neither.
    """
    graph = index.graph
    assert graph is not None
    for what in foreign_inputs(graph):
        raise RequestRejected(f"{what}; leave evaluation_text out: verification compares the graphs' outputs")
    outputs = {each.name for each in graph.outputs if each.dtype == FLOAT and len(each.shape or (0, 0, 0)) == 3}
    architecture = str(index.config.get(GRAPH_OF, ""))
    cached = any(each.name.startswith(CACHES) for each in graph.inputs)
    if LOGITS in outputs and (cached or architecture.endswith(CAUSAL)):
        return "predictions"
    if HIDDEN in outputs:
        return "embeddings"
    raise RequestRejected(
        f"a text is evaluated on {LOGITS} of a decoder or on {HIDDEN}; this graph gives {shown(sorted(outputs)[:4])}"
        + ("" if architecture else ", and no config.json beside it says what it is")
        + ". Leave evaluation_text out: verification compares the graphs' outputs"
    )
