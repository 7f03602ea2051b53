"""What methods that solve by Hessians share: the factor that a solver takes, and how far what it finds may be.

Frantar et al. 2022, arXiv 2210.17323. The Hessian of a product's inputs is the mean of x x^T over tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from quantmill.contract.tensors import FloatArray

if TYPE_CHECKING:
    import torch

Order = NDArray[np.intp]

LEAF = 64  # triangles this small are inverted at once


@dataclass(frozen=True)
class Tolerance:
    """What the weights of one scheme are accepted for.

    relative_rmse  rms(read - source) / rms(source) of a tensor
    of_row_peak    rms(read - source) of a block, over the largest |source| of its row
    """

    block: ClassVar[int] = 32  # weights of a row

    relative_rmse: float
    of_row_peak: float

    def accepts(self, source: FloatArray, read: FloatArray) -> bool:
        """Whether `read` is close enough to `source`, both (out, in); a little closer than verification asks for."""
        squares = np.square(read - source, dtype=np.float64)
        if squares.sum() > (0.999 * self.relative_rmse) ** 2 * np.sum(np.square(source, dtype=np.float64)):
            return False
        width = self.block if source.shape[1] % self.block == 0 else source.shape[1]
        blocks = squares.reshape(len(source), -1, width).mean(axis=2).max(axis=1)
        return bool(np.all(blocks <= (0.999 * self.of_row_peak * np.abs(source).max(axis=1)) ** 2))


def inverse_factor(
    hessian: FloatArray, order: Order, damp: float, increment: float, device: str = "cpu"
) -> tuple[float, FloatArray]:
    """The upper triangular U with U^T U = H^-1 for H in another order, float32 (in, in), and the damping it took.

    A feature that is always 0 has no say in the outputs: its row of H becomes one of the identity, and its weights are
    rounded to nearest. H of fewer tokens than features is singular; damping is what it has a factor by (GPTQ,
    "Cholesky reformulation"); while it has none, `increment` is added. With J the reversal of rows and columns,
    J H J = L L^T makes H = (J L J)(J L J)^T, and U is J L^-1 J.

    Raises ValueError for a Hessian that has none with its mean diagonal added either.
    """
    import torch

    backwards = order[::-1]
    damped = hessian[np.ix_(backwards, backwards)]
    diagonal = np.diagonal(damped).copy()
    mean = np.mean(diagonal, dtype=np.float64) or 1.0
    diagonal[diagonal <= 0] = mean
    places = np.arange(len(damped))
    with _one_thread():
        while True:
            damped[places, places] = diagonal + np.float32(damp * mean)
            lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(damped).to(device))
            if not failed.item():
                return damp, np.ascontiguousarray(_inverse_of_lower(lower).cpu().numpy()[::-1, ::-1])
            if damp >= 1:
                raise ValueError(f"the Hessian of {len(damped)} inputs has no factor, whatever the damping")
            damp = min(1.0, damp + increment)


def _inverse_of_lower(matrix: torch.Tensor) -> torch.Tensor:
    """By halves: the corner of [[A, 0], [B, D]] becomes -D^-1 B A^-1."""
    import torch

    n = len(matrix)
    half, inverse = n // 2, torch.zeros_like(matrix)
    if n <= LEAF:
        torch.linalg.solve_triangular(matrix, torch.eye(n, device=matrix.device), upper=False, out=inverse)
        return inverse
    inverse[:half, :half] = _inverse_of_lower(matrix[:half, :half])
    inverse[half:, half:] = _inverse_of_lower(matrix[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ (matrix[half:, :half] @ inverse[:half, :half])
    return inverse


@contextmanager
def _one_thread() -> Iterator[None]:
    """The bits of a factor depend on how torch splits it among threads, so it is not split."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
