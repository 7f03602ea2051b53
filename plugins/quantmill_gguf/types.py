"""GGML's tensor types: their ids and how a row of values becomes blocks of bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorType:
    """A row is stored as whole blocks: `block_values` values in `block_bytes` bytes each."""

    name: str
    id: int
    block_values: int
    block_bytes: int

    def divides(self, cols: int) -> bool:
        return cols % self.block_values == 0

    def row_bytes(self, cols: int) -> int:
        return cols // self.block_values * self.block_bytes


TYPES = {
    type_.name: type_
    for type_ in (
        TensorType("F32", 0, 1, 4),
        TensorType("F16", 1, 1, 2),
        TensorType("BF16", 30, 1, 2),
        TensorType("Q4_0", 2, 32, 18),
        TensorType("Q4_1", 3, 32, 20),
        TensorType("Q5_0", 6, 32, 22),
        TensorType("Q5_1", 7, 32, 24),
        TensorType("Q8_0", 8, 32, 34),
        TensorType("Q2_K", 10, 256, 84),
        TensorType("Q3_K", 11, 256, 110),
        TensorType("Q4_K", 12, 256, 144),
        TensorType("Q5_K", 13, 256, 176),
        TensorType("Q6_K", 14, 256, 210),
        TensorType("IQ4_NL", 20, 32, 18),
        TensorType("IQ4_XS", 23, 256, 136),
        TensorType("TQ1_0", 34, 256, 54),
        TensorType("TQ2_0", 35, 256, 66),
        TensorType("MXFP4", 39, 32, 17),
    )
}

BY_ID = {type_.id: type_ for type_ in TYPES.values()}
