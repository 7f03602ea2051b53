"""One tensor against its source: sums over all values, and the block that is furthest off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.reading import BlockBound
from quantmill.contract.tensors import FloatArray

CHUNK = 1 << 16  # values compared at a time; the copies of this many stay in the processor's cache
TRANSPOSED = 256  # blocks up to this long are reduced across, which numpy does faster than along

Sums = NDArray[np.float64]


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

    @property
    def relative_rmse(self) -> float:
        """rms(values - source) / rms(source); a tensor of zeros has no error or an infinite one."""
        return ratio(self.squared_error, self.squared_source)

    @property
    def slope(self) -> float:
        """The factor that brings the source nearest to the values; 1 for a tensor of zeros."""
        return self.product / self.squared_source if self.squared_source else 1.0


def ratio(squared_error: float, squared_source: float) -> float:
    """The root of their ratio; nothing has no error, or an infinite one."""
    if squared_source == 0.0:
        return 0.0 if squared_error == 0.0 else math.inf
    return math.sqrt(squared_error / squared_source)


def compare(values: FloatArray, source: NDArray[Any], bound: BlockBound) -> TensorError:
    """The error of `values` (float32) against `source` (any dtype, the same shape), block by block."""
    block, group = bound.lengths(values.shape[-1] if values.ndim else 1)
    flat_values, flat_source = values.reshape(-1), source.reshape(-1)
    error = TensorError(worst=Block(0, block, 0.0, 0.0))
    step = max(1, CHUNK // group) * group
    floor = bound.absolute + (bound.tensor_relative * _peak(flat_source) if bound.tensor_relative else 0.0)
    for start in range(0, flat_values.size, step):
        chunk = _whole(flat_values[start : start + step], group)
        wanted = _whole(flat_source[start : start + step].astype(np.float32), group)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in `largest`
            difference = chunk - wanted
        largest = float(np.maximum(difference.max(), -difference.min()))
        if not math.isfinite(largest):
            error.max_abs_error = error.squared_error = error.squared_source = error.product = math.nan
            error.not_finite += chunk.size - int(np.count_nonzero(np.isfinite(chunk)))
            continue
        error.max_abs_error = max(error.max_abs_error, largest)
        peaks = _peaks(wanted, block)
        scaled_source, of_source = _near_one(wanted, float(peaks.max()))
        squared_source = float(_sums_of_squares(scaled_source, block).sum()) * of_source**2
        error.squared_source += squared_source
        error.product += squared_source
        if largest == 0.0:  # as in all chunks of what is stored as it is
            continue
        scaled, of_error = _near_one(difference, largest)
        squared_errors = _sums_of_squares(scaled, block) * of_error**2
        error.squared_error += float(squared_errors.sum())
        error.product += float(np.einsum("i,i", scaled, scaled_source)) * of_error * of_source
        found = _worst(squared_errors, peaks, bound, floor, (block, group), start)
        if found.share > error.worst.share:
            error.worst = found
    return error


def distinct_values(source: NDArray[Any]) -> int:
    """How many different values a tensor's first CHUNK values hold."""
    return len(np.unique(source.reshape(-1)[:CHUNK].astype(np.float32)))


def _whole(values: FloatArray, group: int) -> FloatArray:
    """`values`, filled up with zeros where the last group of a tensor is shorter: they add to no sum."""
    missing = -values.size % group
    return np.pad(values, (0, missing)) if missing else values


def _peak(source: NDArray[Any]) -> float:
    """The largest magnitude of a tensor."""
    chunks = (source[start : start + CHUNK].astype(np.float32) for start in range(0, source.size, CHUNK))
    return max((float(np.abs(chunk).max()) for chunk in chunks), default=0.0)


def _worst(
    squares: Sums, peaks: FloatArray, bound: BlockBound, floor: float, lengths: tuple[int, int], start: int
) -> Block:
    """The block whose error is the largest share of what is allowed there."""
    block, group = lengths
    groups = peaks.astype(np.float64).reshape(-1, group // block)
    allowed = bound.relative * groups
    if bound.group_relative:
        allowed += bound.group_relative * groups.max(axis=1, keepdims=True)
    allowed = allowed.reshape(-1) + floor
    with np.errstate(divide="ignore"):
        shares = np.divide(squares, allowed * allowed, out=np.zeros_like(squares), where=squares > 0)
    at = int(shares.argmax())
    return Block(start + at * block, block, math.sqrt(squares[at] / block), float(allowed[at]))


def _near_one(values: FloatArray, largest: float) -> tuple[FloatArray, float]:
    """Values by a power of two, so that their products neither overflow nor vanish; and the inverse of that power."""
    exponent = min(max(math.frexp(largest)[1], -120), 120)
    return values * np.float32(2.0**-exponent), 2.0**exponent


def _sums_of_squares(values: FloatArray, block: int) -> Sums:
    """Of each block, in float32 and in an order that BLAS and its threads have no part in."""
    blocks = values.reshape(-1, block)
    sums: Sums = np.einsum("ij,ij->i", blocks, blocks).astype(np.float64)
    return sums


def _peaks(values: FloatArray, block: int) -> FloatArray:
    """The largest magnitude of each block."""
    blocks = values.reshape(-1, block)
    peaks: FloatArray
    if block > TRANSPOSED:
        peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    else:
        peaks = np.abs(blocks.T, order="C").max(axis=0)
    return peaks
