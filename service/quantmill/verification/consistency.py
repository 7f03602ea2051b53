"""Scales that were moved between weights: are they in all of them?

Error bounds alone would let a weight pass that scales near 1 were forgotten in. The share of them that a weight has,
all of its columns taken together, is known far better than any single one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.folds import FoldedSource
from quantmill.contract.reading import ReadTensor
from quantmill.contract.tensors import FloatArray, Fold, Plan

Sums = NDArray[np.float64]

LEAST_SPREAD = 1e-4  # mean square of log s, energy by energy: below it the scales are 1 but for a percent
SHARES = (0.75, 1.25)  # of the logarithms of the scales that a consumer's columns may have been multiplied by
WEIGHTED_SHARES = (0.5, 1.5)  # where columns are traded for each other: those of little importance come out smaller
DEVIATION = 0.25  # of its scheme's bound: how far columns may be from their scales. Rounding averages out over rows


class Moved:
    """The source as folds have changed it, and what each consumer of a fold shows of its scales."""

    def __init__(self, plan: Plan, source: FoldedSource) -> None:
        self.source = source
        self._fold_of: dict[str, Fold] = {name: fold for fold in plan.folds for name in fold.consumers}
        self._weighted = {row.name for row in plan.tensors if row.block_slack > 1}

    def fault(self, tensor: ReadTensor, expected: FloatArray, bound: float) -> str | None:
        """Why the columns of a weight (out, in) do not have the scales of its fold; None where they do.

        `expected` is the source with them, `bound` the relative RMSE that the weight's scheme is accepted for.
        """
        fold = self._fold_of.get(tensor.name)
        if fold is None:
            return None
        read = tensor.values
        energy = np.einsum("ij,ij->j", expected, expected, dtype=np.float64)
        found = np.einsum("ij,ij->j", read, expected, dtype=np.float64)
        share = _share(found, energy, self.source.scales(fold))
        least, most = WEIGHTED_SHARES if tensor.name in self._weighted else SHARES
        if share is not None and not least <= share <= most:
            return f"its columns have {share:.0%} of what {fold.producer} was divided by"
        deviation = _deviation(found, energy)
        if deviation > DEVIATION * bound:
            return f"its columns are {deviation:.1%} off what {fold.producer} was divided by"
        return None


def _share(found: Sums, energy: Sums, scales: FloatArray) -> float | None:
    """Least squares of read = source * s^share around share 1 and 0, by columns of equal weight; None if all s are 1.

    `found` and `energy` are the products of each column of source * s with the one that was read, and with itself.
    """
    root, log = np.sqrt(scales, dtype=np.float64), np.log(scales, dtype=np.float64)
    plain = energy / root**4  # of the source's own columns
    spread = float((plain * (root - 1 / root) * log).sum())
    if spread <= LEAST_SPREAD * plain.sum():
        return None
    return float(((found / root**2 - plain) / root * log).sum()) / spread


def _deviation(found: Sums, energy: Sums) -> float:
    """How far the columns' factors are from each other, rms by energy; a factor of all of them is none of a fold."""
    total = float(energy.sum())
    if total == 0.0:
        return 0.0
    factors = np.divide(found, energy, out=np.ones_like(found), where=energy > 0)
    mean = float((energy * factors).sum()) / total
    return float(np.sqrt((energy * (factors - mean) ** 2).sum() / total))
