"""Confidence intervals by bootstrap over windows.

Tokens of one window depend on each other, windows hardly do: so whole windows are drawn, with replacement, and what
is compared is drawn together (paired). Seeded: the same measurement has the same interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0

Doubles = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Bootstrap:
    """How often each resample has each window: int64 of shape (RESAMPLES, windows)."""

    counts: NDArray[np.int64]

    @classmethod
    def over(cls, windows: int) -> Bootstrap:
        rng = np.random.default_rng(SEED)
        return cls(rng.multinomial(windows, np.full(windows, 1 / windows), size=RESAMPLES))

    def of_mean(
        self, values: NDArray[np.generic], scored: NDArray[np.bool_], then: Callable[[Doubles], Doubles] = np.positive
    ) -> Interval | None:
        """Of `then` of the mean over all scored tokens; None with one window, which says nothing about others.

        `values` and `scored` have a row for each window.
        """
        return self.of_ratio(np.where(scored, values, 0), scored, then)

    def of_ratio(
        self, above: NDArray[np.generic], below: NDArray[np.generic], then: Callable[[Doubles], Doubles] = np.positive
    ) -> Interval | None:
        """Of `then` of one total over another; both have a row for each window. None where a resample has none of
        what is below."""
        tops, bottoms = (values.sum(axis=1, dtype=np.float64) for values in (above, below))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self._interval(then((self.counts @ tops) / (self.counts @ bottoms)))

    def of_quantile(self, values: NDArray[np.float32], scored: NDArray[np.bool_], quantile: float) -> Interval | None:
        """Of the value below which this share of all scored tokens lies."""
        windows = np.nonzero(scored)[0]
        order = np.argsort(values[scored], kind="stable")
        by_size, windows = values[scored][order], windows[order]
        found = np.empty(len(self.counts))
        for number, drawn in enumerate(self.counts):
            reached = np.cumsum(drawn[windows])
            found[number] = by_size[np.searchsorted(reached, quantile * reached[-1])]
        return self._interval(found)

    def _interval(self, resampled: Doubles) -> Interval | None:
        if self.counts.shape[1] < 2 or not np.isfinite(resampled).all():
            return None
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return float(low), float(high)
