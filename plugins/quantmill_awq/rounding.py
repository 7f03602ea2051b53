"""Rounding a weight to the codes of its groups: scale * (code - zero), with ranges as wide as the weights or narrower.

The range of a group always holds 0, so that a group of one sign keeps a zero point that its bits hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from quantmill.contract.tensors import FloatArray

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SMALLEST_SCALE = 2.0**-24  # float16's smallest value: groups of nothing but tiny weights become zeros


@dataclass(frozen=True)
class Grid:
    """How a weight is stored: bits of a code, inputs that share a scale, symmetric ranges or not, scales' dtype."""

    bits: int
    group_size: int
    symmetric: bool
    scale_dtype: str

    @property
    def levels(self) -> int:
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class Rounded:
    """A weight is scales * (codes - zeros), group by group.

    codes   uint8 (out, in)
    scales  float32 (out, groups), rounded to the dtype that will be stored
    zeros   uint8 (out, groups)
    """

    codes: NDArray[np.uint8]
    scales: FloatArray
    zeros: NDArray[np.uint8]

    def weights(self) -> FloatArray:
        """The weight that a reader computes, float32 (out, in)."""
        rows, groups = self.scales.shape
        values = self.codes.reshape(rows, groups, -1).astype(np.float32)
        values -= self.zeros[:, :, None]
        values *= self.scales[:, :, None]
        return values.reshape(rows, -1)


def ranges(groups: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The least and the largest of each group (rows, groups, size) and 0: float32 (rows, groups)."""
    return np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)


def shrunk(low: FloatArray, high: FloatArray, share: FloatArray | float) -> tuple[FloatArray, FloatArray]:
    """The ranges of weights that are clipped to `share` of their group's largest magnitude."""
    limit = np.maximum(-low, high) * np.float32(share)
    return np.maximum(low, -limit), np.minimum(high, limit)


def scales_of(low: FloatArray, high: FloatArray, grid: Grid) -> tuple[FloatArray, FloatArray]:
    """Scales and zero points, both float32, of ranges. Infinite where the scale's dtype does not reach."""
    levels = np.float32(grid.levels)
    if grid.symmetric:
        scale = _stored(np.float32(2) * np.maximum(-low, high) / levels, grid)
        return scale, np.full_like(low, 1 << (grid.bits - 1))
    scale = _stored((high - low) / levels, grid)
    return scale, np.clip(np.rint(-low / scale), 0, grid.levels)


def _stored(scale: FloatArray, grid: Grid) -> FloatArray:
    with np.errstate(over="ignore"):
        rounded = scale.astype(DTYPES[grid.scale_dtype]).astype(np.float32)
    return np.maximum(rounded, np.float32(SMALLEST_SCALE))


def read_back(groups: FloatArray, scale: FloatArray, zero: FloatArray, grid: Grid) -> FloatArray:
    """What a reader computes of `groups` (rows, groups, size) that are rounded to nearest."""
    scale, zero = scale[:, :, None], zero[:, :, None]
    steps = groups / scale
    np.rint(steps, out=steps)
    np.clip(steps, -zero, grid.levels - zero, out=steps)
    steps *= scale
    return steps


def rounded(weight: FloatArray, grid: Grid, share: FloatArray | float = 1.0) -> Rounded:
    """The codes of `weight`, float32 (out, in), whose groups are clipped to `share`, (out, groups) or one for all."""
    groups = weight.reshape(len(weight), -1, grid.group_size)
    scale, zero = scales_of(*shrunk(*ranges(groups), share), grid)
    steps = groups / scale[:, :, None]
    np.rint(steps, out=steps)
    steps += zero[:, :, None]
    np.clip(steps, 0, grid.levels, out=steps)
    return Rounded(steps.astype(np.uint8).reshape(weight.shape), scale, zero.astype(np.uint8))
