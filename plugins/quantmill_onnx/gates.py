"""What outputs must keep of the source's: `cosine.mean >= 0.999`.

cosine    of all values of a sample's outputs with the source's
pooled    the same of outputs averaged over their second axis, where the input attention_mask is not 0: embeddings
mean, min over the samples
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.graph_text import Feed
from quantmill_onnx.params import GATE

MASK = "attention_mask"

Outputs = Sequence[NDArray[np.floating]]
Measured = Mapping[str, float]  # of one sample, by the measure's name


@dataclass(frozen=True)
class Gate:
    """A condition on one measure."""

    text: str
    measure: str
    statistic: str
    limit: float

    def observed(self, samples: Sequence[Measured]) -> float:
        values = [each[self.measure] for each in samples]
        return float(np.mean(values)) if self.statistic == "mean" else min(values)


def parse(text: str) -> Gate:
    found = re.fullmatch(GATE, text)
    if found is None:
        raise ValueError(f"{text!r} is not a gate")
    measure, statistic, limit = found.groups()
    return Gate(text, measure, statistic, float(limit))


def loss(gates: Sequence[Gate], samples: Sequence[Measured]) -> float:
    """How much is lost of what the gates allow, by the one that allows least: they are met up to 1."""
    return max((1 - gate.observed(samples)) / (1 - gate.limit) for gate in gates)


def shown(gates: Sequence[Gate], samples: Sequence[Measured]) -> str:
    """What was observed: "cosine.mean 0.99912"."""
    return ", ".join(f"{gate.measure}.{gate.statistic} {gate.observed(samples):.5f}" for gate in gates)


def measure(found: Outputs, expected: Outputs, feed: Feed) -> Measured:
    """Of the float outputs of one sample, the one that is farthest from the source's."""
    pairs = list(zip(found, expected, strict=True))
    mask = feed.get(MASK)
    return {
        "cosine": min(_cosine(ours, theirs) for ours, theirs in pairs),
        "pooled": min(_cosine(_pooled(ours, mask), _pooled(theirs, mask)) for ours, theirs in pairs),
    }


def _pooled(values: NDArray[np.floating], mask: NDArray[np.generic] | None) -> NDArray[np.float64]:
    """The mean over the second axis of (batch, sequence, hidden) where the mask (batch, sequence) is not 0."""
    wide = values.astype(np.float64)
    if wide.ndim != 3:
        return wide
    weights = np.ones(wide.shape[:2]) if mask is None or mask.shape != wide.shape[:2] else (mask != 0).astype(float)
    sums = np.einsum("bsh,bs->bh", wide, weights)
    return np.asarray(sums / np.maximum(weights.sum(axis=1, keepdims=True), 1))


def _cosine(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    """-1 where ours are not finite or of another shape; 1 where both are zero."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return -1.0
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))
