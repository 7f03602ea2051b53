"""The search of AWQ: by what inputs are multiplied before they are quantized, and how far groups are clipped.

Lin et al. 2023, arXiv 2306.00978; candidates as AutoAWQ 0.2.9 has them. The loss of a candidate is the mean square of
what it changes in the outputs of the Linears, which the Hessian H = mean of x x^T gives without running them: with E
the error of a weight, it is tr(E H E^T). Inputs times s and weights divided by it have no effect on it.

Pieces of work are fixed by shapes, and torch computes each in one thread: threads do not change a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.tensors import FloatArray
from quantmill_awq.bounds import Tolerance
from quantmill_awq.rounding import Grid, ranges, read_back, scales_of, shrunk

CHUNK_VALUES = 1 << 19  # of a weight, looked at at once
MOST_CLIPPED = 0.5  # AutoAWQ's max_shrink

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Runs pieces of work side by side, each in one thread of torch's; answers come in the order of the questions."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "awq", initializer=_one_thread)

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        return list(self._pool.map(work, items))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@contextmanager
def workers(threads: int) -> Iterator[Workers]:
    made = Workers(threads)
    try:
        yield made
    finally:
        made.close()


# By what inputs are multiplied


def find_scales(
    weights: Sequence[FloatArray],
    hessian: FloatArray,
    tried: Sequence[FloatArray],
    grid: Grid,
    accepted: Tolerance,
    pool: Workers,
) -> FloatArray:
    """Which of `tried` loses least in the outputs of all `weights`, float32 (out, in) each, that share an input.

    The first one is taken where none of the others is within what verification accepts.
    """
    losses = pool.map(lambda scales: scaled_loss(weights, hessian, scales, grid, accepted), tried)
    return tried[int(np.argmin(losses))]


def scaled_loss(
    weights: Sequence[FloatArray], hessian: FloatArray, scales: FloatArray, grid: Grid, accepted: Tolerance
) -> float:
    """Mean square of what the outputs change; infinite where a weight is further off than verification accepts."""
    loss, back = 0.0, 1 / scales
    for weight in weights:
        squares = of_all = 0.0
        for chunk in _chunks(weight):
            scaled = weight[chunk] * scales
            groups = scaled.reshape(len(scaled), -1, grid.group_size)
            error = read_back(groups, *scales_of(*ranges(groups), grid), grid).reshape(scaled.shape)
            error -= scaled
            squares += _dot(error, error)
            of_all += _dot(scaled, scaled)
            error *= back
            loss += _dot(_product(error, hessian), error)
        if not squares <= (0.999 * accepted.relative_rmse) ** 2 * of_all:
            return np.inf
    return loss


# How far groups are clipped


def find_clipping(
    weight: FloatArray,
    scales: FloatArray,
    hessian: FloatArray,
    n_grid: int,
    grid: Grid,
    accepted: Tolerance,
    pool: Workers,
) -> FloatArray:
    """The share of its largest magnitude that each group of weight * scales is clipped to: float32 (out, groups).

    Of 1, 1 - 1/n, ... down to half, the one whose group alone changes the output least; a clipped group stays
    within `accepted`.
    """
    size, groups = grid.group_size, weight.shape[1] // grid.group_size
    diagonal = np.stack([hessian[at : at + size, at : at + size] for at in range(0, groups * size, size)])
    back = (1 / scales).reshape(1, groups, size)
    shares = 1 - np.arange(int(MOST_CLIPPED * n_grid)) / n_grid

    def one(chunk: slice) -> FloatArray:
        scaled = (weight[chunk] * scales).reshape(-1, groups, size)
        low, high = ranges(scaled)
        limit = np.square(0.999 * accepted.of_peak * np.maximum(-low, high))
        best, found = np.full(low.shape, np.inf), np.ones(low.shape, np.float32)
        for share in shares:
            error = read_back(scaled, *scales_of(*shrunk(low, high, share), grid), grid)
            error -= scaled
            within = _worst_block(error) <= limit
            error *= back
            losses = _by_group(error, diagonal)
            better = (losses < best) & (within | (share == 1))
            best[better], found[better] = losses[better], share
        return found

    return np.concatenate(pool.map(one, list(_chunks(weight))))


def _worst_block(error: FloatArray) -> FloatArray:
    """The largest mean square of a block of 32 in each group of (rows, groups, size)."""
    blocks = error.reshape(*error.shape[:2], -1, 32 if error.shape[2] % 32 == 0 else error.shape[2])
    worst: FloatArray = np.einsum("rgbi,rgbi->rgb", blocks, blocks).max(axis=2)
    worst /= blocks.shape[3]
    return worst


def _by_group(error: FloatArray, diagonal: FloatArray) -> NDArray[np.float32]:
    """e H e^T of each group: (rows, groups, size) and (groups, size, size) to (rows, groups)."""
    import torch

    turned = torch.from_numpy(error).transpose(0, 1)  # (groups, rows, size)
    losses: NDArray[np.float32] = (torch.bmm(turned, torch.from_numpy(diagonal)) * turned).sum(2).T.numpy()
    return losses


def _chunks(weight: NDArray[Any]) -> Iterator[slice]:
    step = max(16, CHUNK_VALUES // weight.shape[1])
    return (slice(start, min(start + step, len(weight))) for start in range(0, len(weight), step))


def _product(left: FloatArray, right: FloatArray) -> FloatArray:
    import torch

    product: FloatArray = torch.from_numpy(left).matmul(torch.from_numpy(right)).numpy()
    return product


def _dot(left: FloatArray, right: FloatArray) -> float:
    return float(np.einsum("ij,ij->i", left, right).sum(dtype=np.float64))
