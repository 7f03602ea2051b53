"""GPTQ on one Linear: from its weight and the Hessian of its inputs to codes, scales and zero points.

Frantar et al. 2022, arXiv 2210.17323. The order within groups: Gafni et al. 2025, arXiv 2505.14638.
The Hessian here is the mean of x x^T over tokens; GPTQ does not depend on its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.hessians import Order, inverse_factor
from quantmill.contract.tensors import FloatArray
from quantmill_gptq.bounds import tolerance
from quantmill_gptq.layout import ScaleDtype
from quantmill_gptq.params import GptqParams

FARTHER = 10.0  # damping grows so while weights are further from the source's than verification accepts
MOST_DAMPING = 1000.0


@dataclass(frozen=True)
class Solution:
    """A weight is scales[:, group_index] * (codes - zeros[:, group_index]).

    codes        uint8 (out, in), in the checkpoint's order
    scales       float32 (out, groups), already rounded to the dtype that will be stored
    zeros        uint8 (out, groups)
    group_index  int32 (in,)
    damp         share of its mean that was added to the Hessian's diagonal; infinite for rounding to nearest
    """

    codes: NDArray[np.uint8]
    scales: FloatArray
    zeros: NDArray[np.uint8]
    group_index: NDArray[np.int32]
    damp: float

    def weights(self) -> FloatArray:
        """The weight that a reader computes, float32 (out, in)."""
        values = self.codes.astype(np.float32)
        values -= self.zeros[:, self.group_index]
        values *= self.scales[:, self.group_index]
        return values


class Columns(Protocol):
    """The column solver: quantmill_kernels itself, or `columns.TorchColumns`."""

    @property
    def find_gptq_scales(self) -> Callable[..., Any]: ...

    @property
    def solve_gptq(self) -> Callable[..., Any]: ...


def columns_on(device: str) -> Columns:
    """The kernels on a CPU, torch elsewhere."""
    if device.partition(":")[0] == "cpu":
        return quantmill_kernels
    import torch

    from quantmill_gptq.columns import TorchColumns

    return TorchColumns(torch.device(device))


class Inputs:
    """What Linears with the same input share: the order of its features, and the factor of their Hessian's inverse,
    which is computed on `device`."""

    def __init__(self, hessian: FloatArray, params: GptqParams, device: str = "cpu") -> None:
        self.columns = columns_on(device)
        self.order = ORDERS[params.order](np.diagonal(hessian), _size(len(hessian), params.group_size))
        self._hessian = hessian
        self._device = device
        self._increment = params.damp_auto_increment
        self._factors: dict[float, tuple[float, FloatArray]] = {}

    def factor(self, damp: float) -> tuple[float, FloatArray]:
        """The damping that was needed, at least `damp`, and U as `solve_gptq` takes it; the last one is kept."""
        if damp not in self._factors:
            self._factors.clear()
            self._factors[damp] = inverse_factor(self._hessian, self.order, damp, self._increment, self._device)
        return self._factors[damp]


def solve(
    weights: FloatArray, inputs: Inputs, params: GptqParams, scale_dtype: ScaleDtype, threads: int = 1
) -> Solution:
    """The codes of `weights`, float32 (out, in), whose outputs on `inputs` are closest to its own.

    GPTQ bounds the error of the outputs, not that of the weights: where features are nearly linear combinations of
    others, a weight may go far from the source's. With more damping it stays closer, in the limit as close as rounding
    to nearest; it grows until the weights are within what the scheme is accepted for. Scales are rounded to
    `scale_dtype`. Raises ValueError for a value that no scale of it reaches.
    """
    accepted = tolerance(params.bits, params.group_size)
    damp = params.damp_percent
    while damp <= MOST_DAMPING:
        used, factor = inputs.factor(damp)
        solution = _solve(inputs.columns, weights, inputs.order, factor, used, params, scale_dtype, threads)
        if accepted.accepts(weights, solution.weights()):
            return solution
        damp = max(damp, used) * FARTHER
    return nearest(weights, inputs.order, params, scale_dtype, threads)  # whatever the device: it is soon done


def nearest(
    weights: FloatArray, order: Order, params: GptqParams, scale_dtype: ScaleDtype, threads: int = 1
) -> Solution:
    """Rounding to nearest, with groups formed as `order` and `params` have it."""
    identity = np.eye(len(order), dtype=np.float32)
    return _solve(quantmill_kernels, weights, order, identity, np.inf, params, scale_dtype, threads)


def _solve(
    columns: Columns,
    weights: FloatArray,
    order: Order,
    factor: FloatArray,
    damp: float,
    params: GptqParams,
    scale_dtype: ScaleDtype,
    threads: int,
) -> Solution:
    inputs = weights.shape[1]
    size, inverse = _size(inputs, params.group_size), np.argsort(order)
    grid: dict[str, Any] = {
        "bits": params.bits,
        "group_size": size,
        "symmetric": params.sym,
        "scale_dtype": scale_dtype,
        "threads": threads,
    }
    groups = (np.arange(inputs) // size).astype(np.int32)
    ordered = np.ascontiguousarray(weights[:, order])
    if params.finds_scales_first:
        scales, zeros = columns.find_gptq_scales(weights, mse=params.mse, **grid)
        given: dict[str, Any] = {"scales": scales, "zeros": zeros, "group_index": groups[order]}
        codes, scales, zeros, _ = columns.solve_gptq(ordered, factor, **given, **grid)
    else:
        codes, scales, zeros, _ = columns.solve_gptq(ordered, factor, mse=params.mse, **grid)
        if params.order == "descending":
            groups = groups[inverse]
        else:  # whole groups have changed places: give them the checkpoint's numbers back
            places = np.argsort(order[::size] // size)
            scales, zeros = np.ascontiguousarray(scales[:, places]), np.ascontiguousarray(zeros[:, places])
    return Solution(np.ascontiguousarray(codes[:, inverse]), scales, zeros, groups, damp)


def _size(inputs: int, group_size: int) -> int:
    return inputs if group_size == -1 else group_size


# Orders


def _descending(diagonal: FloatArray, size: int) -> Order:
    """Largest mean square first; equal ones in the checkpoint's order."""
    return np.argsort(-diagonal, kind="stable")


def _within_groups(diagonal: FloatArray, size: int) -> Order:
    """Largest first within each group, and the groups by their largest."""
    grouped = diagonal.reshape(-1, size)
    within = np.argsort(-grouped, axis=1, kind="stable") + size * np.arange(len(grouped))[:, None]
    return within[np.argsort(-grouped.max(axis=1), kind="stable")].reshape(-1)


def _as_it_is(diagonal: FloatArray, size: int) -> Order:
    return np.arange(len(diagonal))


ORDERS: Mapping[str, Callable[[FloatArray, int], Order]] = MappingProxyType(
    {"descending": _descending, "within_groups": _within_groups, "checkpoint": _as_it_is}
)

# What is lost


def output_error(errors: FloatArray, hessian: FloatArray) -> float:
    """Mean square of the outputs of `errors` (out, in), summed over outputs: tr(E H E^T)."""
    return float(np.einsum("ij,ij->", errors @ hessian, errors, dtype=np.float64))
