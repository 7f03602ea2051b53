"""How far weights in blocks may be from their source: what verification accepts, and GPTQ's solver keeps to.

tests/unit/onnx/test_error_bounds.py and test_gptq.py measure them again.
"""

from __future__ import annotations

from quantmill.contract.hessians import Tolerance

SIZES = (16, 32, 64, 128, 256)
IN_BLOCKS = {  # in the order of SIZES, without and with zero points
    (8, ""): (0.0125, 0.017, 0.023, 0.032, 0.044),
    (8, "-ASYM"): (0.0063, 0.0087, 0.0123, 0.0178, 0.0255),
    (4, ""): (0.165, 0.2, 0.245, 0.29, 0.35),
    (4, "-ASYM"): (0.11, 0.145, 0.187, 0.233, 0.287),
}

# GPTQ makes up for errors in other weights, so that its own are larger; the solver keeps to these
SOLVED = 1.5  # times the bound of rounding to nearest
SOLVED_STEPS = 1.5  # of the largest scale that a row can have: the rms error of a block


def solved(bits: int, size: int, symmetric: bool) -> Tolerance:
    """What GPTQ's weights in blocks of this size are accepted for."""
    nearest = IN_BLOCKS[bits, "" if symmetric else "-ASYM"][SIZES.index(size)]
    return Tolerance(SOLVED * nearest, SOLVED_STEPS * 2 / (2**bits - 1))
