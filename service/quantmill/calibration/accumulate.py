"""Sums over the inputs of Linears, window after window.

Each sum takes the windows in their order, and each operation runs in one thread: what comes out does not depend on how
many threads work on how many sums. Sums lie on the device of the inputs; what comes out is on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from quantmill.contract.calibration import (
    MAGNITUDE_BUCKETS,
    SAMPLED_TOKENS,
    Statistic,
    Statistics,
    magnitude_buckets,
)

CPU = torch.device("cpu")
PANEL = 512  # columns of a Hessian that are one piece of work

Work = Callable[[Sequence[torch.Tensor]], None]  # takes windows' inputs (tokens, in), in order


class Accumulator(Protocol):
    """One kind of statistic of one Linear."""

    def work(self) -> list[Work]:
        """Pieces that may run at the same time; each has to see all windows in order."""

    def result(self, tokens: int) -> NDArray[np.generic]: ...


class SecondMoment:
    """Mean of x^2, summed in float64."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._sum = torch.zeros(inputs, dtype=torch.float64, device=device)

    def work(self) -> list[Work]:
        return [self._add]

    def _add(self, windows: Sequence[torch.Tensor]) -> None:
        for x in windows:
            self._sum += (x * x).sum(0, dtype=torch.float64)

    def result(self, tokens: int) -> NDArray[np.generic]:
        return (self._sum / max(tokens, 1)).float().cpu().numpy()


class MeanAbs(SecondMoment):
    """Mean of |x|, summed in float64."""

    def _add(self, windows: Sequence[torch.Tensor]) -> None:
        for x in windows:
            self._sum += x.abs().sum(0, dtype=torch.float64)


class AbsMax:
    """Largest |x|."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._max = torch.zeros(inputs, device=device)

    def work(self) -> list[Work]:
        return [self._add]

    def _add(self, windows: Sequence[torch.Tensor]) -> None:
        for x in windows:
            if len(x):
                self._max = torch.maximum(self._max, x.abs().amax(0))

    def result(self, tokens: int) -> NDArray[np.generic]:
        return self._max.cpu().numpy()


class Hessian:
    """Sum of x x^T / tokens in float32, one window's product added to the next, the upper triangle only.

    A panel is PANEL rows of it from the diagonal on: half of the arithmetic of the whole product.
    """

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._sum = torch.zeros(inputs, inputs, device=device)

    def work(self) -> list[Work]:
        return [self._panel(start) for start in range(0, len(self._sum), PANEL)]

    def _panel(self, start: int) -> Work:
        end = min(start + PANEL, len(self._sum))
        panel = self._sum[start:end, start:]

        def add(windows: Sequence[torch.Tensor]) -> None:
            for x in windows:
                panel.addmm_(x[:, start:end].T, x[:, start:])

        return add

    def result(self, tokens: int) -> NDArray[np.generic]:
        size = len(self._sum)
        self._sum /= max(tokens, 1)
        for start in range(0, size, PANEL):
            end = min(start + PANEL, size)
            corner = self._sum[start:end, start:end]
            corner.copy_(torch.triu(corner) + torch.triu(corner, 1).T)
            self._sum[end:, start:end] = self._sum[start:end, end:].T
        return self._sum.cpu().numpy()


class Magnitudes:
    """How many |x| are in each bucket of Statistics.percentile."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._counts = np.zeros(MAGNITUDE_BUCKETS, np.int64)

    def work(self) -> list[Work]:
        return [self._add]

    def _add(self, windows: Sequence[torch.Tensor]) -> None:
        for x in windows:
            buckets = magnitude_buckets(np.ascontiguousarray(x.cpu().numpy()))
            self._counts += np.bincount(buckets.reshape(-1), minlength=MAGNITUDE_BUCKETS)

    def result(self, tokens: int) -> NDArray[np.generic]:
        return self._counts


class Samples:
    """Inputs of tokens that are evenly spread, whatever their number turns out to be.

    Every stride-th token is kept; the stride doubles, and every other one is let go, when twice SAMPLED_TOKENS are.
    """

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._kept = torch.zeros(0, inputs, device=device)
        self._stride = 1
        self._seen = 0

    def work(self) -> list[Work]:
        return [self._add]

    def _add(self, windows: Sequence[torch.Tensor]) -> None:
        for x in windows:
            self._kept = torch.cat([self._kept, x[-self._seen % self._stride :: self._stride]])
            self._seen += len(x)
            while len(self._kept) >= 2 * SAMPLED_TOKENS:
                self._kept = self._kept[::2].clone()
                self._stride *= 2

    def result(self, tokens: int) -> NDArray[np.generic]:
        chosen = np.linspace(0, len(self._kept) - 1, min(SAMPLED_TOKENS, len(self._kept))).astype(np.int64)
        return np.ascontiguousarray(self._kept.cpu().numpy()[chosen])


KINDS: dict[Statistic, Callable[[int, torch.device], Accumulator]] = {
    "second_moment": SecondMoment,
    "mean_abs": MeanAbs,
    "absmax": AbsMax,
    "hessian": Hessian,
    "magnitudes": Magnitudes,
    "samples": Samples,
}


class Gathering:
    """All kinds that are wanted of the inputs of one Linear."""

    def __init__(self, inputs: int, kinds: Collection[Statistic], device: torch.device = CPU) -> None:
        self._kinds = {kind: KINDS[kind](inputs, device) for kind in kinds}
        self._tokens = 0
        self.work = [work for kind in self._kinds.values() for work in kind.work()]

    def count(self, tokens: int) -> None:
        self._tokens += tokens

    def result(self) -> Statistics:
        """Call once: the sums become means in place."""
        found = {kind: accumulator.result(self._tokens) for kind, accumulator in self._kinds.items()}
        return Statistics(self._tokens, **found)  # type: ignore[arg-type]
