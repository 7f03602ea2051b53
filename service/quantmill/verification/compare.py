"""One tensor against its source: sums over all values, and the block that is furthest off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.reading import BlockBound, DecodedRows, matrix_of
from quantmill.contract.tensors import FloatArray

CHUNK = 1 << 16  # the first values of a tensor, which say how many different ones it has
PIECE = 1 << 17  # values compared at a time; what this many are decoded to stays in the processor's cache
COMPARABLE = ("float32", "float16", "bfloat16")  # dtypes that the kernel reads; others are converted for it

Piece = tuple[int, int]  # first row, and the one after the last
Mapped = Callable[[Callable[[Piece], "TensorError"], Iterable[Piece]], Iterable["TensorError"]]


@dataclass(frozen=True)
class Block:
    """A block's first value (counted over the whole tensor), its rms error and what is allowed there."""

    start: int
    values: int
    rms_error: float
    allowed: float

    @property
    def share(self) -> float:
        """How much of what is allowed is used up; NaN where the error is one."""
        if self.rms_error == 0.0:
            return 0.0
        return self.rms_error / self.allowed if self.allowed else math.inf


@dataclass
class TensorError:
    """Sums over the values of one tensor, and its worst block."""

    worst: Block
    not_finite: int = 0
    squared_error: float = 0.0
    squared_source: float = 0.0
    product: float = 0.0
    max_abs_error: float = 0.0

    def add(self, other: TensorError) -> None:
        """Take the values of another piece in; of equal blocks the first one counts as the worst."""
        self.not_finite += other.not_finite
        self.squared_error += other.squared_error
        self.squared_source += other.squared_source
        self.product += other.product
        self.max_abs_error = max(self.max_abs_error, other.max_abs_error)
        if other.worst.share > self.worst.share:
            self.worst = other.worst

    @property
    def relative_rmse(self) -> float:
        """rms(values - source) / rms(source); a tensor of zeros has no error or an infinite one."""
        return ratio(self.squared_error, self.squared_source)

    @property
    def slope(self) -> float:
        """The factor that brings the source nearest to the values; 1 for a tensor of zeros."""
        return self.product / self.squared_source if self.squared_source else 1.0


def compare(
    values: FloatArray | DecodedRows, source: NDArray[Any] | DecodedRows, bound: BlockBound, mapped: Mapped = map
) -> TensorError:
    """The error of `values` against `source` (any dtype, the same shape), block by block.

    Both are looked at piece by piece; `mapped` may do so in threads, like ThreadPoolExecutor.map. The pieces, and the
    order in which their sums are added, do not depend on it.
    """
    rows, cols = matrix_of(values.shape)
    lengths = bound.lengths(cols)
    decode, wanted = _rows_of(values), _rows_of(source)
    pieces = [*_pieces(rows, cols, lengths[1])]
    floor = bound.absolute + (bound.tensor_relative * _peak(wanted, pieces) if bound.tensor_relative else 0.0)

    def error_of(piece: Piece) -> TensorError:
        first, last = piece
        return _error(decode(first, last), wanted(first, last), bound, floor, lengths, first * cols)

    error = TensorError(worst=Block(0, lengths[0], 0.0, 0.0))
    for found in mapped(error_of, pieces):
        error.add(found)
    return error


def _rows_of(values: NDArray[Any] | DecodedRows) -> Callable[[int, int], NDArray[Any]]:
    if isinstance(values, DecodedRows):
        return values.decode
    matrix = values.reshape(matrix_of(values.shape))
    return lambda first, last: matrix[first:last]


def _pieces(rows: int, cols: int, group: int) -> Iterator[Piece]:
    """Rows by about PIECE values; each piece begins where a group does."""
    whole = group // math.gcd(group, cols)
    step = max(1, PIECE // max(1, cols * whole)) * whole
    for first in range(0, rows if cols else 0, step):
        yield first, min(rows, first + step)


def _error(
    values: FloatArray, source: NDArray[Any], bound: BlockBound, floor: float, lengths: tuple[int, int], start: int
) -> TensorError:
    block, group = lengths
    squared_error, squared_source, product, largest, not_finite, at, squares, allowed = quantmill_kernels.compare(
        np.ascontiguousarray(values).reshape(-1),
        _comparable(source).reshape(-1),
        block=block,
        group=group,
        relative=bound.relative,
        group_relative=bound.group_relative,
        floor=floor,
    )
    worst = Block(start + at, block, math.sqrt(squares / block), allowed)
    return TensorError(worst, not_finite, squared_error, squared_source, product, largest)


def _comparable(source: NDArray[Any]) -> NDArray[Any]:
    """Rows of the source as the kernels read them."""
    return np.ascontiguousarray(source if source.dtype.name in COMPARABLE else source.astype(np.float32))


def ratio(squared_error: float, squared_source: float) -> float:
    """The root of their ratio; nothing has no error, or an infinite one."""
    if squared_source == 0.0:
        return 0.0 if squared_error == 0.0 else math.inf
    return math.sqrt(squared_error / squared_source)


def distinct_values(source: NDArray[Any] | DecodedRows) -> int:
    """How many different values a tensor's first CHUNK values hold."""
    rows, cols = matrix_of(source.shape)
    first = _rows_of(source)(0, min(rows, -(-CHUNK // max(1, cols))))
    return len(np.unique(first.reshape(-1)[:CHUNK].astype(np.float32)))


def _peak(source: Callable[[int, int], NDArray[Any]], pieces: Iterable[Piece]) -> float:
    """The largest magnitude of a tensor."""
    found = (quantmill_kernels.absmax(_comparable(source(first, last))) for first, last in pieces)
    return max(found, default=0.0)
