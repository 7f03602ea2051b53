"""AWQ's scales before encoding: columns are multiplied by them, what stands before is divided. The file stays plain.

A candidate's loss is the mean square of what it changes in the outputs of the Linears, as far as the errors of columns
are independent: sum over columns of E[x^2] / s^2 times the squared error of what the format makes of weight * s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.scaling import candidates, magnitudes
from quantmill.contract.session import Session
from quantmill.contract.tensors import FloatArray, Fold, SourceTensor
from quantmill_gguf.folding import SAMPLE_VALUES
from quantmill_gguf.importance import IGNORE_IMPORTANCE

GROUP = 32  # values that share a scale in every block format
RATIOS = 20

Importance = Callable[[str], FloatArray | None]


@dataclass(frozen=True)
class Prescaling:
    """The scales of a plan's folds, found when they are first needed: any unit can be made by itself.

    `importance` gives what a weight's columns are encoded with, by the weight's name, as the source has them.
    """

    session: Session
    importance: Importance
    found: dict[str, FloatArray] = field(default_factory=dict)

    def columns(self, name: str) -> FloatArray | None:
        """By what the columns of a weight are multiplied, float32 (in,); None where they stay."""
        fold = next((fold for fold in self.session.plan.folds if name in fold.consumers), None)
        return self._scales(fold) if fold is not None else None

    def scaled(self, source: SourceTensor) -> SourceTensor:
        """The tensor as the file is to have it, float32 where anything changes."""
        name, columns = source.info.name, self.columns(source.info.name)
        divided = [fold for fold in self.session.plan.folds if name in (fold.producer, fold.bias)]
        if columns is None and not divided:
            return source
        values: FloatArray = source.values.astype(np.float32)
        if columns is not None:
            values *= columns
        for fold in divided:
            values = _divided(values, self._scales(fold), fold)
        return replace(source, values=values)

    def _scales(self, fold: Fold) -> FloatArray:
        if fold.producer not in self.found:
            self.found[fold.producer] = self._search(fold)
        return self.found[fold.producer]

    def _search(self, fold: Fold) -> FloatArray:
        """The candidate of which the consumers lose least; 1 for channels that are 0 before it and after it."""
        statistics = self.session.statistics(fold.consumers[0])
        assert statistics.mean_abs is not None  # both are asked for by the plan
        assert statistics.second_moment is not None
        weights = [_sample(self.session.tensor(name).values) for name in fold.consumers]
        tried = list(candidates(statistics.mean_abs, magnitudes(weights, GROUP), RATIOS, True))
        energy = statistics.second_moment.astype(np.float64)
        losses = [
            sum(self._loss(name, weight, scales, energy) for name, weight in zip(fold.consumers, weights, strict=True))
            for scales in tried
        ]
        scales = tried[int(np.argmin(losses))]
        producer = self.session.tensor(fold.producer).values[fold.first_row : fold.first_row + len(scales)]
        silent = np.abs(producer.astype(np.float32) + np.float32(fold.offset)).reshape(len(scales), -1).max(axis=1) == 0
        return np.where(silent, np.float32(1), scales)

    def _loss(self, name: str, weight: FloatArray, scales: FloatArray, energy: NDArray[np.float64]) -> float:
        """Infinite where the format cannot hold the scaled weight."""
        scheme, threads = self.session.plan.by_name[name].scheme, self.session.threads
        importance = None if scheme in IGNORE_IMPORTANCE else of_scaled(self.importance(name), scales)
        scaled = weight * scales
        try:
            packed = quantmill_kernels.encode(scheme, scaled, imatrix=importance, threads=threads)
        except ValueError:
            return np.inf
        error = quantmill_kernels.decode(scheme, packed, weight.shape[1], threads=threads) - scaled
        squares = np.einsum("ij,ij->j", error, error, dtype=np.float64) / len(weight)
        return float((squares * energy / np.square(scales, dtype=np.float64)).sum())


def of_scaled(importance: FloatArray | None, scales: FloatArray) -> FloatArray | None:
    """Mean squares of inputs that are divided by what columns are multiplied by."""
    if importance is None:
        return None
    return (importance / np.square(scales)).astype(np.float32)


def _sample(values: NDArray[Any]) -> FloatArray:
    """Rows (rows, in), evenly spaced, SAMPLE_VALUES in all."""
    count = min(len(values), max(1, SAMPLE_VALUES // values.shape[1]))
    return np.ascontiguousarray(values[(np.arange(count) * len(values)) // count], np.float32)


def _divided(values: FloatArray, scales: FloatArray, fold: Fold) -> FloatArray:
    """A norm, a bias or a weight whose rows from `first_row` on are divided; in place."""
    own = slice(fold.first_row, fold.first_row + len(scales))
    values[own] = ((values[own].T + np.float32(fold.offset)) / scales - np.float32(fold.offset)).T
    return values
