"""What a method says about an artifact that lies in a folder: its tensors, what is observed, and the error bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod

from quantmill.contract.tensors import FloatArray


@dataclass(frozen=True)
class DecodedRows:
    """Values that are decoded when somebody asks for them, so that no tensor has to be in memory as float32.

    `decode(first, last)` gives rows `first` to `last` of the (rows, cols) that `matrix_of` makes of `shape`. Threads
    may call it at once, for any rows.
    """

    shape: tuple[int, ...]
    decode: Callable[[int, int], FloatArray]


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """All but the last dimension as rows; a vector is one row."""
    return (prod(shape[:-1]), shape[-1]) if shape else (1, 1)


@dataclass(frozen=True)
class ReadTensor:
    """One tensor as the artifact stores it.

    name     the source's
    scheme   how it is stored, as its own label in the file says; the plan's name for it
    nbytes   what it takes in the file, without the container's overhead
    content  float32 values in the source's shape and row order, or how to have them row by row

    `transposed` says that the artifact's rows are the source's columns: its blocks run along those. Of a tensor with
    more than two dimensions it is the last two.
    """

    name: str
    scheme: str
    nbytes: int
    content: FloatArray | DecodedRows
    transposed: bool = False

    @property
    def values(self) -> FloatArray:
        """All values, float32 in the source's shape."""
        if isinstance(self.content, DecodedRows):
            shape = self.content.shape
            return self.content.decode(0, matrix_of(shape)[0]).reshape(shape)
        return self.content


@dataclass(frozen=True)
class Observation:
    """One thing that the consumer will find in the artifact, beside what the source or the plan says it must be.

    `check` groups observations under one line of the report. Both values are None (absent), or of one plain type: it
    holds where type and value are the same.
    """

    check: str
    name: str
    found: str | int | float | bool | None
    expected: str | int | float | bool | None

    @property
    def holds(self) -> bool:
        return type(self.found) is type(self.expected) and self.found == self.expected


@dataclass(frozen=True)
class Inspection:
    """`files` are the paths, below the folder, of all files that the artifact consists of."""

    files: tuple[str, ...]
    observations: Iterable[Observation]


WHOLE_ROW = -1


@dataclass(frozen=True)
class BlockBound:
    """How far a single block may be from its source, so that one with a wrong scale shows in a tensor of millions.

    A block is `values` neighbours of a row, a group the `group` values around it (0: the block itself, WHOLE_ROW: its
    row). With peak = the largest |source|,

        rms(read - source) <= relative * peak of the block + group_relative * peak of the group
                              + tensor_relative * peak of the tensor + absolute

    `relative` is near half a step of the format over the largest value that it stores; `group_relative` is for
    formats whose blocks share a scale, or a scale of their scales; `tensor_relative` for those with a scale of the
    whole tensor; `absolute` is where scales underflow. A row that does not divide into blocks is one block, but where
    blocks run `across_rows`: there the last one of the tensor may be shorter.
    """

    values: int
    relative: float
    group: int = 0
    group_relative: float = 0.0
    tensor_relative: float = 0.0
    absolute: float = 0.0
    across_rows: bool = False

    def relaxed(self, factor: float) -> BlockBound:
        """The same blocks with `factor` times the error."""
        return replace(
            self,
            relative=self.relative * factor,
            group_relative=self.group_relative * factor,
            tensor_relative=self.tensor_relative * factor,
            absolute=self.absolute * factor,
        )

    def lengths(self, cols: int) -> tuple[int, int]:
        """The block and the group for rows of `cols` values; the block divides the group, and both divide `cols`.

        Blocks that run across rows have the same length whatever `cols` is.
        """
        if self.across_rows:
            return self.values, self.group or self.values
        group = cols if self.group == WHOLE_ROW else self.group
        block = self.values if cols % self.values == 0 else cols
        return block, group if group and cols % group == 0 and group % block == 0 else block
