"""How far a quantized weight may be from its source: what verification accepts, and the solver keeps to.

GPTQ makes up for errors in other weights, so its own are larger than those of rounding to nearest, and nothing but
damping bounds them where inputs are nearly dependent. tests/unit/gptq/test_bounds.py measures both on many
distributions and Hessians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantmill.contract.reading import WHOLE_ROW, BlockBound
from quantmill.contract.tensors import FloatArray
from quantmill_gptq.layout import scheme

# Largest relative RMSE of one tensor: about 1.5 times that of rounding to nearest on the worst of the distributions.
# Whole rows lose most to outliers.
RELATIVE_RMSE = {  # group_size -> bits -> bound
    32: {2: 0.95, 3: 0.5, 4: 0.25, 8: 0.025},
    64: {2: 1.02, 3: 0.55, 4: 0.3, 8: 0.036},
    128: {2: 1.1, 3: 0.6, 4: 0.36, 8: 0.045},
    -1: {2: 1.25, 3: 1.05, 4: 0.9, 8: 0.16},
}
BLOCK = 32  # weights of a row
STEPS = 1.5  # of the largest scale that a row can have: the rms error of a block. Rounding alone leaves 0.4


@dataclass(frozen=True)
class Tolerance:
    """What the weights of one scheme are accepted for.

    relative_rmse  rms(read - source) / rms(source) of a tensor
    of_row_peak    rms(read - source) of a block, over the largest |source| of its row
    """

    relative_rmse: float
    of_row_peak: float

    def accepts(self, source: FloatArray, read: FloatArray) -> bool:
        """Whether `read` is close enough to `source`, both (out, in); a little closer than verification asks for."""
        squares = np.square(read - source, dtype=np.float64)
        if squares.sum() > (0.999 * self.relative_rmse) ** 2 * np.sum(np.square(source, dtype=np.float64)):
            return False
        width = BLOCK if source.shape[1] % BLOCK == 0 else source.shape[1]
        blocks = squares.reshape(len(source), -1, width).mean(axis=2).max(axis=1)
        return bool(np.all(blocks <= (0.999 * self.of_row_peak * np.abs(source).max(axis=1)) ** 2))


def tolerance(bits: int, group_size: int) -> Tolerance:
    return Tolerance(RELATIVE_RMSE[group_size][bits], STEPS * 2 / (2**bits - 1))


def _schemes() -> dict[str, Tolerance]:
    return {
        scheme(bits, group_size, sym): tolerance(bits, group_size)
        for group_size, by_bits in RELATIVE_RMSE.items()
        for bits in by_bits
        for sym in (True, False)
    }


ERROR_BOUNDS = {name: each.relative_rmse for name, each in _schemes().items()}
BLOCK_BOUNDS = {name: BlockBound(BLOCK, 0.0, WHOLE_ROW, each.of_row_peak) for name, each in _schemes().items()}
