"""How far a quantized weight may be from its source: what verification accepts, and the solver keeps to.

GPTQ makes up for errors in other weights, so its own are larger than those of rounding to nearest, and nothing but
damping bounds them where inputs are nearly dependent. tests/unit/gptq/test_bounds.py measures both on many
distributions and Hessians.
"""

from __future__ import annotations

from quantmill.contract.hessians import Tolerance
from quantmill.contract.reading import WHOLE_ROW, BlockBound
from quantmill_gptq.layout import scheme

# Largest relative RMSE of one tensor: about 1.5 times that of rounding to nearest on the worst of the distributions.
# Whole rows lose most to outliers.
RELATIVE_RMSE = {  # group_size -> bits -> bound
    32: {2: 0.95, 3: 0.5, 4: 0.25, 8: 0.025},
    64: {2: 1.02, 3: 0.55, 4: 0.3, 8: 0.036},
    128: {2: 1.1, 3: 0.6, 4: 0.36, 8: 0.045},
    -1: {2: 1.25, 3: 1.05, 4: 0.9, 8: 0.16},
}
STEPS = 1.5  # of the largest scale that a row can have: the rms error of a block. Rounding alone leaves 0.4


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
BLOCK_BOUNDS = {
    name: BlockBound(Tolerance.block, 0.0, WHOLE_ROW, each.of_row_peak) for name, each in _schemes().items()
}
