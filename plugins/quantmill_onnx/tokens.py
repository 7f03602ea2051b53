"""Windows of a calibration text as samples for a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantmill.contract.graph_text import Feed, Ids, feed_of, foreign_inputs
from quantmill.contract.onnx import OnnxGraph
from quantmill.contract.tensors import ModelIndex
from quantmill_onnx.samples import reject

TOKENIZER = "tokenizer.json"
NO_TOKENIZER = f"the folder has no {TOKENIZER} that makes tokens of a text; put it there, or give an .npz file"


@dataclass(frozen=True)
class TokenSamples:
    """Windows of tokens for a graph that `require_text` has found to take them; each is a sample."""

    graph: OnnxGraph
    windows: Sequence[Ids]

    @property
    def count(self) -> int:
        return len(self.windows)

    def feeds(self) -> Iterator[Feed]:
        return (feed_of(self.graph, ids) for ids in self.windows)

    def largest(self) -> Feed:
        return feed_of(self.graph, max(self.windows, key=len))


def require_text(index: ModelIndex, graph: OnnxGraph) -> None:
    """Raises ParamsRejected where a text cannot be turned into what the graph takes, saying why."""
    for what in foreign_inputs(graph):
        reject(f"{what}; give its inputs as an .npz file, or, of a model of images, a folder of these")
    if TOKENIZER not in index.files:
        reject(NO_TOKENIZER)
