"""GPTQ's column solver in torch, for devices that the kernels do not know: the same columns in the same order.

Products add in torch's order, the kernels in that of the columns: nearly all codes are the same, not all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quantmill.contract.tensors import FloatArray

PANEL = 128  # columns that are solved before their errors reach the columns after them, unless a group has more
SHARES = [step / 100 for step in range(99, 20, -1)]  # of the whole range that the search tries, after the whole
STORED = {  # dtype of scales -> torch's, and its smallest value
    "float32": (torch.float32, 2.0**-149),
    "float16": (torch.float16, 2.0**-24),
    "bfloat16": (torch.bfloat16, 2.0**-133),
}


class Grid(NamedTuple):
    """How scale and zero point of a group follow from its weights; as in `quantmill_kernels.solve_gptq`."""

    bits: int
    group_size: int
    symmetric: bool
    mse: float
    scale_dtype: str

    @property
    def highest(self) -> int:
        return (1 << self.bits) - 1


Scales = tuple[torch.Tensor, torch.Tensor]  # scales and zero points, float32 (rows, groups)


@dataclass(frozen=True)
class TorchColumns:
    """`find_gptq_scales` and `solve_gptq` of quantmill_kernels, with their arguments and answers, on a torch device.

    `threads` means nothing here: the device has its own.
    """

    device: torch.device

    def find_gptq_scales(
        self,
        weights: FloatArray,
        *,
        bits: int,
        group_size: int = -1,
        symmetric: bool = True,
        mse: float = 0.0,
        scale_dtype: str = "float32",
        threads: int = 1,
    ) -> tuple[FloatArray, NDArray[np.uint8]]:
        """Raises ValueError for a scale that its dtype cannot hold."""
        grid = Grid(bits, _size(weights, group_size), symmetric, mse, scale_dtype)
        with torch.inference_mode():
            values = self._here(weights)
            return _answer(*scales_of(values.reshape(len(values), -1, grid.group_size), grid), grid)

    def solve_gptq(
        self,
        weights: FloatArray,
        factor: FloatArray,
        *,
        bits: int,
        group_size: int = -1,
        symmetric: bool = True,
        scales: FloatArray | None = None,
        zeros: NDArray[np.uint8] | None = None,
        group_index: NDArray[np.int32] | None = None,
        mse: float = 0.0,
        scale_dtype: str = "float32",
        threads: int = 1,
    ) -> tuple[NDArray[np.uint8], FloatArray, NDArray[np.uint8], FloatArray]:
        """Raises ValueError for a scale that its dtype cannot hold."""
        grid = Grid(bits, _size(weights, group_size), symmetric, mse, scale_dtype)
        groups = np.arange(weights.shape[1]) // grid.group_size if group_index is None else group_index
        with torch.inference_mode():
            given = None if scales is None or zeros is None else (self._here(scales), self._here(zeros).float())
            codes, found, losses = solved(self._here(weights), self._here(factor), given, groups.tolist(), grid)
            return codes.cpu().numpy(), *_answer(*found, grid), losses.cpu().numpy()

    def _here(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(self.device)


def solved(
    weights: torch.Tensor, factor: torch.Tensor, given: Scales | None, groups: list[int], grid: Grid
) -> tuple[torch.Tensor, Scales, torch.Tensor]:
    """Codes uint8 (rows, cols), scales and zero points, and losses (rows,) of float32 weights, one column after the
    other. Scales are `given`, or found when a group's first column is reached; `groups` are those of the columns."""
    rows, cols = weights.shape
    weights = weights.clone()
    codes = torch.empty(rows, cols, dtype=torch.uint8, device=weights.device)
    scales, zeros = given or (weights.new_empty(rows, cols // grid.group_size) for _ in range(2))
    losses = weights.new_zeros(rows)
    width = PANEL if given is not None else max(grid.group_size, PANEL // grid.group_size * grid.group_size)
    for start in range(0, cols, width):
        end = min(start + width, cols)
        panel, within = weights[:, start:end], factor[start:end, start:end]
        errors = torch.empty_like(panel)
        for at in range(end - start):
            group = groups[start + at]
            if given is None and (start + at) % grid.group_size == 0:
                scales[:, group : group + 1], zeros[:, group : group + 1] = scales_of(
                    panel[:, None, at : at + grid.group_size], grid
                )
            scale, zero = scales[:, group], zeros[:, group]
            steps = rounded(panel[:, at], scale, zero, grid)
            codes[:, start + at] = (steps + zero).to(torch.uint8)
            errors[:, at] = (panel[:, at] - scale * steps) / within[at, at]
            panel[:, at + 1 :].addr_(errors[:, at], within[at, at + 1 :], alpha=-1)
        weights[:, end:].addmm_(errors, factor[start:end, end:], alpha=-1)
        losses += errors.square().sum(1) / 2
    return codes, (scales, zeros), losses


def scales_of(groups: torch.Tensor, grid: Grid) -> Scales:
    """Of groups (rows, groups, size): those of the range of their weights and 0, or of the part of it that leaves the
    least sum of |error|^mse."""
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    if grid.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    empty = high - low <= 0
    low, high = low.masked_fill(empty, -1), high.masked_fill(empty, 1)
    scale, zero = of_range(low, high, grid)
    if grid.mse == 0:
        return scale, zero
    least = _lost(groups, scale, zero, grid)
    for share in SHARES:
        narrower = of_range(low * share, high * share, grid)
        lost = _lost(groups, *narrower, grid)
        better = lost < least
        scale, zero = torch.where(better, narrower[0], scale), torch.where(better, narrower[1], zero)
        least = torch.where(better, lost, least)
    return scale, zero


def of_range(low: torch.Tensor, high: torch.Tensor, grid: Grid) -> Scales:
    dtype, smallest = STORED[grid.scale_dtype]
    scale = ((high - low) / grid.highest).to(dtype).float().clamp(min=smallest)
    if grid.symmetric:
        return scale, torch.full_like(scale, (grid.highest + 1) // 2)
    return scale, (-low / scale).round().clamp(0, grid.highest)


def rounded(weights: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Codes less their zero point."""
    return torch.minimum(torch.maximum(weights / scale, -zero), grid.highest - zero).round()


def _lost(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, grid: Grid) -> torch.Tensor:
    steps = rounded(groups, scale[:, :, None], zero[:, :, None], grid)
    return steps.mul_(scale[:, :, None]).sub_(groups).abs_().pow_(grid.mse).sum(2)


def _size(weights: FloatArray, group_size: int) -> int:
    return weights.shape[1] if group_size == -1 else group_size


def _answer(scales: torch.Tensor, zeros: torch.Tensor, grid: Grid) -> tuple[FloatArray, NDArray[np.uint8]]:
    found: FloatArray = scales.cpu().numpy()
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        row, group = bad[0].tolist()
        raise ValueError(f"the scale of row {row}, column {group * grid.group_size} is beyond {grid.scale_dtype}")
    return found, zeros.to(torch.uint8).cpu().numpy()
