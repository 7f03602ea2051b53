"""How much of a Linear's outputs is lost at each bit width, by the statistics of what it is fed.

For bit budgets and for reports: a method may ask for it with the statistics that a session gives, and every calibrated
job has it of the Linears whose statistics its method asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from quantmill.contract.calibration import Statistic, Statistics
from quantmill.contract.tensors import FloatArray

BITS = (2, 3, 4, 8)
GROUP_SIZE = 128
ROWS = 128  # of a weight that are looked at: of outputs, whose losses are independent of each other
MOST_VALUES = 1 << 20  # in these rows; wide weights are looked at in fewer
DIGITS = 4


@dataclass(frozen=True)
class Sensitivity:
    """What a Linear's outputs lose when its weight is rounded to nearest.

    by      hessian, or second_moment: then as if its inputs were independent of each other
    losses  tr(E H E^T) / tr(W H W^T) by bits, E the error of the weight W and H the mean of x x^T: the mean square of
            what is lost as a share of that of the outputs
    """

    by: Statistic
    losses: Mapping[int, float]


def sensitivity(
    weight: FloatArray,
    statistics: Statistics,
    *,
    bits: Collection[int] = BITS,
    group_size: int = GROUP_SIZE,
    rows: int = ROWS,
) -> Sensitivity | None:
    """Of a weight (out, in), any float dtype, by at most `rows` of its rows, evenly spread.

    Each group of `group_size` neighbours of a row, the last one maybe shorter, is rounded to 2^bits values from its
    smallest to its largest one. None where there is neither statistic, or where all inputs were 0. Reads the chosen
    rows only; takes a `rows` x in x in product for each of `bits` where the Hessian is known.
    """
    by: Statistic = "second_moment" if statistics.hessian is None else "hessian"
    moments = statistics.second_moment if statistics.hessian is None else statistics.hessian
    if moments is None:
        return None
    most = min(rows, len(weight), max(1, MOST_VALUES // weight.shape[1]))
    chosen = np.linspace(0, len(weight) - 1, most).astype(np.intp)
    values = np.asarray(weight[chosen], np.float32)
    whole = _energy(values, moments)
    if whole <= 0:
        return None
    lost = {each: _energy(values - _rounded(values, each, group_size), moments) / whole for each in sorted(bits)}
    return Sensitivity(by, {each: float(f"{max(0.0, loss):.{DIGITS}g}") for each, loss in lost.items()})


def _energy(values: FloatArray, moments: FloatArray) -> float:
    """tr(V H V^T) of values (rows, in); of second moments (in,) with the diagonal alone."""
    products = values @ moments if moments.ndim == 2 else values * moments
    return float(np.einsum("ij,ij->", products, values, dtype=np.float64))


def _rounded(values: FloatArray, bits: int, group_size: int) -> FloatArray:
    starts = np.arange(0, values.shape[1], group_size)
    sizes = np.diff(np.append(starts, values.shape[1]))
    low, high = (np.repeat(reach.reduceat(values, starts, axis=1), sizes, axis=1) for reach in (np.minimum, np.maximum))
    step = (high - low) / (2**bits - 1)
    step[step == 0] = 1
    rounded: FloatArray = low + np.rint((values - low) / step) * step
    return rounded
