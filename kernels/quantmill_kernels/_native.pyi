from typing import Any

import numpy
import numpy.typing


def isa() -> str:
    """
    The instruction set that runs: scalar, avx2, avx512 or neon. QUANTMILL_ISA forces one; read at import.
    """

class Format:
    """
    A storage format: how many values share a block, and how long the block is.
    """

    @property
    def name(self) -> str:
        """GGML's own spelling, for instance Q4_K."""

    @property
    def block_values(self) -> int:
        """Values that share a block; columns are a multiple of this."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per value, scales included."""

    def __repr__(self) -> str: ...

def formats() -> dict[str, Format]:
    """Every known format by name."""

def encode(format: str, values: numpy.typing.NDArray[Any], *, imatrix: numpy.typing.NDArray[numpy.float32] | None = None, threads: int = 1) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Quantize each row of a matrix: (rows, cols) values to (rows, row_bytes) bytes.

    `values` is float32, float16 or bfloat16 (ml_dtypes.bfloat16, or its bits as uint16), C-contiguous, finite; cols is a
    multiple of the format's block_values. `imatrix`, float32 (cols,), finite and not negative, weights the squared error of
    each column; formats that know no importance matrix ignore it. The bytes do not depend on `threads`.

    Raises ValueError for a shape, a value or a name that does not fit, TypeError for a dtype.
    """

def decode(format: str, packed: numpy.typing.NDArray[numpy.uint8], cols: int, *, threads: int = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    Values of packed rows: (rows, row_bytes) uint8, C-contiguous, to (rows, cols) float32.

    Any bytes are accepted; a scale that is not finite gives values that are not finite.

    Raises ValueError for a shape or a name that does not fit, TypeError for a dtype.
    """
