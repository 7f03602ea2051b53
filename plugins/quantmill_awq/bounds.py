"""How far a quantized weight may be from the scaled one: what verification accepts, and the search keeps to.

Narrower ranges clip the largest weights of a group, so its error may be more than that of rounding to nearest.
tests/unit/awq/test_bounds.py measures both on many distributions.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantmill.contract.reading import WHOLE_ROW, BlockBound
from quantmill_awq.layout import scheme

# Largest relative RMSE of one tensor: about 1.5 times that of rounding to nearest on the worst of the distributions.
# Whole rows lose most to outliers.
RELATIVE_RMSE = {  # group_size -> bits -> bound
    32: {3: 0.5, 4: 0.25, 8: 0.025},
    64: {3: 0.55, 4: 0.3, 8: 0.036},
    128: {3: 0.6, 4: 0.36, 8: 0.045},
    -1: {3: 1.05, 4: 0.9, 8: 0.16},
}
BLOCK = 32  # weights of a row
STEPS = 1.0  # of a range of twice the largest weight of a group: the rms error of a block. Rounding alone leaves 0.3


@dataclass(frozen=True)
class Tolerance:
    """What the weights of one scheme are accepted for.

    relative_rmse  rms(read - scaled) / rms(scaled) of a tensor
    of_peak        rms(read - scaled) of a block, over the largest |scaled| of its group
    """

    relative_rmse: float
    of_peak: float


def tolerance(bits: int, group_size: int) -> Tolerance:
    return Tolerance(RELATIVE_RMSE[group_size][bits], STEPS * 2 / (2**bits - 1))


def _schemes() -> dict[str, tuple[int, Tolerance]]:
    return {
        scheme(bits, group_size, zero_point): (group_size, tolerance(bits, group_size))
        for group_size, by_bits in RELATIVE_RMSE.items()
        for bits in by_bits
        for zero_point in (True, False)
    }


ERROR_BOUNDS = {name: each.relative_rmse for name, (_, each) in _schemes().items()}
BLOCK_BOUNDS = {
    name: BlockBound(BLOCK, 0.0, WHOLE_ROW if size == -1 else size, each.of_peak)
    for name, (size, each) in _schemes().items()
}
