"""SmoothQuant: the channels of an activation are brought nearer to each other, and the weight takes what they lose.

x W = (x / s) (s W) with s = max|x|^a / max|W|^(1 - a) of each input channel (Xiao et al. 2022, arXiv 2211.10438,
section 4.2, formula 4). Here s is a power of two, so that nothing is rounded but by the codes, and no last digit of a
maximum decides; and none is less than the largest / RATIO, so that none of the weight's rows loses all its codes.
Of some a, and s = 1, that one is taken with which rounding is thought to add least noise to the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.tensors import FloatArray

RATIO = 16
ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)
LEAST = 2.0**-10  # of the largest maximum: what counts for channels that are smaller
DIGITS = 4  # that noise is compared by, so that no processor's order of additions decides
ACTIVATION_STEPS, WEIGHT_STEPS = 255, 127

Doubles = NDArray[np.float64]


class Channels:
    """What the channels of an activation were: `low` and `high`, zero among them, and their sums of `squares`."""

    def __init__(self) -> None:
        self.low: Doubles = np.zeros(1)
        self.high: Doubles = np.zeros(1)
        self.squares: Doubles = np.zeros(1)
        self.rows = 0

    def add(self, values: FloatArray) -> None:
        """values (..., channels), of no row where a sample has none. Raises ValueError where one is not finite."""
        rows = values.reshape(-1, values.shape[-1])
        if not len(rows):
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("a value is not finite")
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.squares = self.squares + np.einsum("rc,rc->c", rows, rows, dtype=np.float64)
        self.rows += len(rows)

    def state(self) -> Mapping[str, NDArray[Any]]:
        """All that has been seen, as arrays."""
        return {"low": self.low, "high": self.high, "squares": self.squares, "rows": np.array([self.rows])}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what another one had seen."""
        self.low, self.high, self.squares = state["low"], state["high"], state["squares"]
        (self.rows,) = state["rows"].tolist()

    @property
    def peaks(self) -> Doubles:
        return np.maximum(-self.low, self.high)


def smoothing_scales(channels: Channels, weights: Callable[[], Iterable[FloatArray]], per_channel: bool) -> FloatArray:
    """s, float32 (channels,), from 1 / RATIO to 1, the same for all `weights` (channels, out) that take the activation.

    `weights` gives them one at a time, as often as it is called.
    """
    peaks = np.max([np.abs(each).max(axis=1) for each in weights()], axis=0)
    ones = np.ones(len(peaks))
    tried = [ones, *(_scales(channels.peaks, peaks, alpha) for alpha in ALPHAS)]
    noise = np.sum([[_noise(channels, each, scale, per_channel) for scale in tried] for each in weights()], axis=0)
    rounded = [float(f"{each:.{DIGITS}g}") for each in noise]
    return np.asarray(tried[rounded.index(min(rounded))], np.float32)


def _scales(peaks: Doubles, weights: Doubles, alpha: float) -> Doubles:
    x, w = _floored(peaks), _floored(weights)
    logarithm = alpha * np.log2(x) - (1 - alpha) * np.log2(w)
    return np.asarray(np.exp2(np.rint(np.maximum(logarithm - logarithm.max(), -np.log2(RATIO)))))


def _floored(peaks: Doubles) -> Doubles:
    return np.maximum(peaks, LEAST * (float(peaks.max()) or 1.0))


def _noise(channels: Channels, weight: FloatArray, scale: Doubles, per_channel: bool) -> float:
    """The variance that rounding x / s and s W adds to a row of the product: steps squared, but for a twelfth.

    Each of the activation's values is off by the step of one range, and meets the weight; each of the weight's by the
    step of its output's range, and meets the activation.
    """
    scaled = weight * scale[:, None].astype(np.float32)
    step = ((channels.high / scale).max() - (channels.low / scale).min()) / ACTIVATION_STEPS
    largest = np.abs(scaled).max(axis=0).astype(np.float64) / WEIGHT_STEPS
    steps = largest if per_channel else np.full_like(largest, largest.max())
    squares = channels.squares / max(1, channels.rows) / scale**2
    return float(step**2 * np.einsum("io,io->", scaled, scaled, dtype=np.float64) + squares.sum() * (steps**2).sum())
