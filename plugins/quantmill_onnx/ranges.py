"""The range of an activation's codes, from a histogram that grows as samples pass.

Bins are [i, i + 1) * 2**exponent on both sides of zero. When a value lies beyond them, the width is doubled and
neighbours are joined: powers of two make that exact, so that the counts depend neither on the order of the samples nor
on how they are cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE_BITS = 12
SIDE = 1 << SIDE_BITS  # bins on each side of zero; at least half of one side are in use
LEAST_EXPONENT = -126 - SIDE_BITS
CHUNK_VALUES = 1 << 18  # counted at once
LEVELS = 255  # steps of eight bits
LEAST_STEP = np.finfo(np.float32).tiny  # a range whose steps are smaller has no width
CANDIDATES = 128  # magnitudes that are tried for where to cut
FIRST_CANDIDATE = 8
MOMENTUM = 0.01  # how far the average goes towards each further sample

Range = tuple[float, float]


class Histogram:
    """How often an activation had a value: `counts` int64 (2 * SIDE), zero at SIDE.

    `average` is the moving average of the least and greatest value of each sample, the first's at the beginning.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * SIDE, np.int64)
        self.exponent = LEAST_EXPONENT
        self.average: Range | None = None

    def add(self, values: NDArray[np.float32]) -> None:
        """Count all values of a sample, which may have none. Raises ValueError where one is not finite."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        for start in range(0, flat.size, CHUNK_VALUES):
            chunk = flat[start : start + CHUNK_VALUES]
            peak = max(float(chunk.max()), -float(chunk.min()))
            if not np.isfinite(peak):
                raise ValueError("a value is not finite")
            self._grow(peak)
            bins = np.floor(np.ldexp(chunk.astype(np.float64), -self.exponent)).astype(np.int64)
            self.counts += np.bincount(bins + SIDE, minlength=2 * SIDE)
        seen = float(flat.min()), float(flat.max())
        low, high = self.average or seen
        self.average = low + MOMENTUM * (seen[0] - low), high + MOMENTUM * (seen[1] - high)

    def _grow(self, peak: float) -> None:
        """Widen the bins until they hold the magnitude."""
        beyond = int(np.frexp(peak)[1]) - SIDE_BITS - self.exponent if peak else 0
        if beyond > 0:
            joined = (np.arange(-SIDE, SIDE) >> min(beyond, 62)) + SIDE
            counts = np.zeros_like(self.counts)
            np.add.at(counts, joined, self.counts)
            self.counts, self.exponent = counts, self.exponent + beyond

    def state(self) -> Mapping[str, NDArray[Any]]:
        """All that has been counted, as arrays."""
        return {
            "counts": self.counts,
            "exponent": np.array([self.exponent]),
            "average": np.array([] if self.average is None else self.average, np.float64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what another one had counted."""
        self.counts, (self.exponent,) = state["counts"], state["exponent"].tolist()
        average = state["average"].tolist()
        self.average = (average[0], average[1]) if average else None

    @property
    def width(self) -> float:
        return float(np.ldexp(1.0, self.exponent))


def minmax(histogram: Histogram, percentile: float) -> Range:
    """All values, to whole bins; zero is within."""
    seen = np.flatnonzero(histogram.counts) - SIDE
    return min(0.0, float(seen[0]) * histogram.width), max(0.0, float(seen[-1] + 1) * histogram.width)


def moving_average(histogram: Histogram, percentile: float) -> Range:
    """The samples' own ranges, averaged as torch.ao's MovingAverageMinMaxObserver does; zero is within."""
    low, high = histogram.average or (0.0, 0.0)
    return min(0.0, low), max(0.0, high)


def by_percentile(histogram: Histogram, percentile: float) -> Range:
    """All but (100 - percentile) %, half of them at each end."""
    seen = np.cumsum(histogram.counts)
    cut = seen[-1] * (100 - percentile) / 200
    low = int(np.searchsorted(seen, cut, side="right")) - SIDE
    high = int(np.searchsorted(seen, seen[-1] - cut, side="left")) + 1 - SIDE
    return min(0.0, low * histogram.width), max(0.0, high * histogram.width)


def by_mse(histogram: Histogram, percentile: float) -> Range:
    """The cut at which rounding and clipping together have the least squared error."""
    return _least(histogram, _squared_error)


def by_entropy(histogram: Histogram, percentile: float) -> Range:
    """The cut at which the codes' distribution has the least Kullback-Leibler divergence from the values'.

    Migacz, 8-bit inference with TensorRT, GTC 2017: what lies outside counts at the edges.
    """
    return _least(histogram, _divergence)


RANGES: Mapping[str, Callable[[Histogram, float], Range]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": by_percentile,
    "mse": by_mse,
    "entropy": by_entropy,
}


def _least(histogram: Histogram, loss: Callable[[Histogram, int, int], float]) -> Range:
    """The range with the least loss among cuts at the same magnitude on both sides; the widest of equals."""
    seen = np.flatnonzero(histogram.counts) - SIDE
    first, last = min(0, int(seen[0])), max(0, int(seen[-1]) + 1)
    peak = max(-first, last)
    cuts = dict.fromkeys(max(1, peak * k // CANDIDATES) for k in range(CANDIDATES, FIRST_CANDIDATE - 1, -1))
    ranges = [(max(first, -cut), min(last, cut)) for cut in cuts]
    low, high = min(ranges, key=lambda each: loss(histogram, *each))
    return low * histogram.width, high * histogram.width


def _squared_error(histogram: Histogram, low: int, high: int) -> float:
    """Of the bins' middles, in squared bins."""
    middles = np.arange(-SIDE, SIDE) + 0.5
    step = (high - low) / LEVELS
    rounded = np.clip(np.rint((middles - low) / step) * step + low, low, high)
    return float(histogram.counts @ (rounded - middles) ** 2)


def _divergence(histogram: Histogram, low: int, high: int) -> float:
    """KL(P || Q) over the bins within: P with what lies outside at the edges, Q a level's mean over its filled bins."""
    inside = histogram.counts[low + SIDE : high + SIDE].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += histogram.counts[: low + SIDE].sum()
    clipped[-1] += histogram.counts[high + SIDE :].sum()
    level = np.minimum(np.arange(inside.size) * (LEVELS + 1) // inside.size, LEVELS)
    filled = clipped > 0
    sums = np.bincount(level, inside, LEVELS + 1)
    share = sums / np.maximum(np.bincount(level, filled, LEVELS + 1), 1)
    found, expected = clipped[filled] / clipped.sum(), share[level][filled] / max(inside.sum(), 1)
    return float(np.sum(found * np.log(found / np.maximum(expected, 1e-12))))


def qparams(found: Range, signed: bool) -> tuple[NDArray[np.float32], NDArray[np.uint8] | NDArray[np.int8]]:
    """Scale and zero point, (): value ~ scale * (code - zero point); a range without width has the scale 1."""
    low, high = found
    scale = np.float32((high - low) / LEVELS)
    if scale < LEAST_STEP:
        scale = np.float32(1)
    zero = int(np.clip(np.rint(-low / float(scale)), 0, LEVELS))
    code = np.array(zero - 128, np.int8) if signed else np.array(zero, np.uint8)
    return np.array(scale, np.float32), code
