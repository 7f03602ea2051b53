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
        TensorType("Q4_0", 2, 32, 18),
        TensorType("Q8_0", 8, 32, 34),
        TensorType("Q4_K", 12, 256, 144),
        TensorType("Q5_K", 13, 256, 176),
        TensorType("Q6_K", 14, 256, 210),
    )
}

BY_ID = {type_.id: type_ for type_ in TYPES.values()}
