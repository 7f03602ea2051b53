"""GPTQ on one weight: codes whose products on samples are nearest to the source's.

Frantar et al. 2022, arXiv 2210.17323. Scales of all blocks are found before the first code, so that the inputs with the
largest activations can be solved first and blocks stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

import quantmill_kernels
from quantmill.contract.errors import QuantmillError
from quantmill.contract.hessians import inverse_factor
from quantmill.contract.tensors import FloatArray
from quantmill_onnx.bounds import solved
from quantmill_onnx.params import OnnxParams

INCREMENT = 0.01  # added to the damping while the Hessian has no Cholesky factor
NORM = 2.4  # of the errors whose least sum a block's range is searched for
FARTHER = 10.0  # damping grows so while weights are further from the source's than verification accepts
MOST_DAMPING = 1000.0


class Inputs:
    """What products take: the order in which their channels are solved, and the factor of their Hessian's inverse.

    hessian  mean of x x^T, float32 (channels, channels)
    rows     how many x were seen
    """

    def __init__(self, hessian: FloatArray, rows: int) -> None:
        self.hessian, self.rows = hessian, rows
        self._factors: dict[tuple[int, float], tuple[float, FloatArray]] = {}

    @property
    def dead(self) -> int:
        """Channels that were always 0."""
        return int(np.count_nonzero(np.diagonal(self.hessian) <= 0))

    def order(self, channels: int) -> NDArray[np.intp]:
        """Largest mean square first; those that fill up the last block come last."""
        squares = np.zeros(channels, np.float32)
        squares[: len(self.hessian)] = np.diagonal(self.hessian)
        return np.argsort(-squares, kind="stable")

    def factor(self, channels: int, damp: float) -> tuple[float, FloatArray]:
        """The damping that was needed, at least `damp`, and U as `solve_gptq` takes it; the last one is kept."""
        if (channels, damp) not in self._factors:
            self._factors.clear()
            missing = channels - len(self.hessian)
            whole = np.pad(self.hessian, (0, missing)) if missing else self.hessian
            self._factors[channels, damp] = inverse_factor(whole, self.order(channels), damp, INCREMENT)
        return self._factors[channels, damp]


@dataclass(frozen=True)
class Solution:
    """A weight is scales * (codes - zeros) in each block.

    codes   uint8 (out, in), in whole blocks
    scales  float32 (out, blocks)
    zeros   uint8 (out, blocks)
    damp    share of its mean that was added to the Hessian's diagonal; infinite for rounding to nearest
    """

    codes: NDArray[np.uint8]
    scales: FloatArray
    zeros: NDArray[np.uint8]
    damp: float

    def weights(self, block_size: int) -> FloatArray:
        """The weight that a reader computes, float32 (out, in)."""
        values = self.codes.astype(np.float32)
        blocks = values.reshape(len(values), -1, block_size)
        blocks -= self.zeros[:, :, None]
        blocks *= self.scales[:, :, None]
        return values


def require_torch() -> None:
    """Raises QuantmillError where this worker lacks what Hessians are factored by."""
    if find_spec("torch") is None:
        raise QuantmillError("this worker has no torch to solve with: install quantmill[worker,onnx] there")


def solve(weight: FloatArray, inputs: Inputs, params: OnnxParams, threads: int = 1) -> Solution:
    """The codes of `weight`, float32 (out, in) in whole blocks.

    Where channels are nearly linear combinations of others, a weight may go far from the source's; with more damping
    it stays closer, in the limit as close as rounding to nearest. It grows until the weights are within what the scheme
    is accepted for. Raises ValueError for a value that no scale reaches.
    """
    channels = weight.shape[1]
    accepted = solved(params.weight_bits, params.block_size, params.symmetric)
    damp = params.damp_percent
    while damp <= MOST_DAMPING:
        used, factor = inputs.factor(channels, damp)
        solution = _solution(weight, inputs.order(channels), factor, used, params, threads)
        if accepted.accepts(weight, solution.weights(params.block_size)):
            return solution
        damp = max(damp, used) * FARTHER
    return _solution(weight, np.arange(channels), np.eye(channels, dtype=np.float32), np.inf, params, threads)


def _solution(
    weight: FloatArray,
    order: NDArray[np.intp],
    factor: FloatArray,
    damp: float,
    params: OnnxParams,
    threads: int,
) -> Solution:
    bits, size, symmetric = params.weight_bits, params.block_size, params.symmetric
    scales, zeros = quantmill_kernels.find_gptq_scales(
        weight, bits=bits, group_size=size, symmetric=symmetric, mse=NORM, threads=threads
    )
    codes, *_ = quantmill_kernels.solve_gptq(
        np.ascontiguousarray(weight[:, order]),
        factor,
        bits=bits,
        group_size=size,
        symmetric=symmetric,
        scales=scales,
        zeros=zeros,
        group_index=(order // size).astype(np.int32),
        threads=threads,
    )
    return Solution(np.ascontiguousarray(codes[:, np.argsort(order)]), scales, zeros, damp)
