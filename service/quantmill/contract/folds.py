"""Sources as the folds of a plan have changed them, by scales that are recovered from the artifact itself.

A norm that was divided says exactly by what: source / artifact, channel by channel. A Linear that was, says it by least
squares over each of its rows, as far as it is rounded. Plain numpy; no method's code has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import FloatArray, Fold, Plan

MOST = 4096.0  # a scale is at most this and at least one over it: what float16 weights can take
OF_A_BIAS = 0.05  # relative error of a bias that its producer's scales, as they are recovered, leave

Values = NDArray[Any]


class FoldedSource:
    """A source's tensors as an artifact should hold them, up to rounding.

    `source` gives a tensor's values. Call `learn` with what the artifact has of each of the `waves`, one wave after the
    other; then `values` has what each tensor should be. `faults` says, by tensor, which scales cannot be recovered.
    """

    def __init__(self, plan: Plan, source: Callable[[str], Values]) -> None:
        self.faults: dict[str, str] = {}
        self._source = source
        self._folds = plan.folds
        self._shapes = {row.name: row.shape for row in plan.tensors}
        self._of_columns: dict[str, FloatArray] = {}  # by which columns are multiplied, by consumer
        self._of_rows: dict[str, FloatArray] = {}  # by which rows are divided, by producer
        self._whole: dict[str, FloatArray] = {}  # norms and biases as they should be

    @property
    def waves(self) -> tuple[frozenset[str], ...]:
        """What `learn` has to see: norms, then Linears, whose columns norms' scales may be in, then biases."""
        norms = frozenset(fold.producer for fold in self._folds if len(self._shapes[fold.producer]) == 1)
        linears = frozenset(fold.producer for fold in self._folds) - norms
        biases = frozenset(fold.bias for fold in self._folds if fold.bias)
        return tuple(wave for wave in (norms, linears, biases) if wave)

    def learn(self, read: ReadTensor) -> None:
        """Recover the scales of the folds that this tensor is the producer of, or hold its bias against them."""
        for fold in self._folds:
            if read.name == fold.producer:
                self._learn_scales(fold, read.values)
            elif read.name == fold.bias:
                self._whole[read.name] = self._bias(fold, read.values)

    def scales(self, fold: Fold) -> FloatArray:
        """By which the consumers' columns are multiplied, float32 (n,); ones before the producer has been seen."""
        found = self._of_columns.get(fold.consumers[0])
        return np.ones(self._shapes[fold.consumers[0]][1], np.float32) if found is None else found

    def values(self, name: str) -> Values:
        """What the artifact should hold; the source's own array where no fold touches it."""
        if name in self._whole:
            return self._whole[name]
        source, columns, rows = self._source(name), self._of_columns.get(name), self._of_rows.get(name)
        if columns is None and rows is None:
            return source
        values = source.astype(np.float32)
        if columns is not None:
            values *= columns
        if rows is not None:
            values /= rows[:, None]
        return values

    def _learn_scales(self, fold: Fold, read: FloatArray) -> None:
        ones, shape = self.scales(fold), self._shapes[fold.producer]
        if read.shape != shape:
            return  # a fault of its own
        of_a_norm = len(shape) == 1
        found = self._of_a_norm(fold, read) if of_a_norm else self._of_a_linear(fold, read, len(ones))
        with np.errstate(invalid="ignore"):
            wrong = ~((found >= 1 / MOST) & (found <= MOST))
        if wrong.any():
            channel = int(wrong.argmax())
            self.faults[fold.producer] = (
                f"channel {channel} was divided by {float(found[channel]):.6g}, which is no scale "
                f"({int(wrong.sum())} of {len(found)} channels)"
            )
            found = np.where(wrong, ones, found)
        self._of_columns |= dict.fromkeys(fold.consumers, found)
        if of_a_norm:
            divided = (self._source(fold.producer).astype(np.float32) + fold.offset) / found - fold.offset
            self._whole[fold.producer] = np.where(wrong, divided, read)
        else:
            rows = self._of_rows.setdefault(fold.producer, np.ones(shape[0], np.float32))
            rows[fold.first_row : fold.first_row + len(found)] = found

    def _of_a_norm(self, fold: Fold, read: FloatArray) -> FloatArray:
        """A channel that is 0 in both says nothing and needs no scale."""
        source, read = self._source(fold.producer).astype(np.float32) + fold.offset, read + np.float32(fold.offset)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((source == 0) & (read == 0), np.float32(1), source / read)

    def _of_a_linear(self, fold: Fold, read: FloatArray, channels: int) -> FloatArray:
        """By least squares; the columns of `read` may have been multiplied themselves. Rows of zeros say nothing."""
        own = slice(fold.first_row, fold.first_row + channels)
        expected = self.values(fold.producer)[own].astype(np.float32)
        squares = np.einsum("ij,ij->i", expected, expected, dtype=np.float64)
        products = np.einsum("ij,ij->i", read[own], expected, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(squares == 0, 1.0, squares / products).astype(np.float32)

    def _bias(self, fold: Fold, read: FloatArray) -> FloatArray:
        """Itself where it is near enough to the source's divided by the scales."""
        own = slice(fold.first_row, fold.first_row + len(self.scales(fold)))
        expected = self._source(fold.bias).astype(np.float32)
        if read.shape != expected.shape:
            return expected
        expected[own] /= self.scales(fold)
        near = np.abs(read - expected) <= OF_A_BIAS * np.abs(expected)
        near[: own.start] = near[own.stop :] = False
        return np.where(near, read, expected)
