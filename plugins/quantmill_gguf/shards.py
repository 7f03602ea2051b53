"""One GGUF model in several files, as llama.cpp names and numbers them (tools/gguf-split)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantmill_gguf.params import GgufParams

MEGABYTE = 10**6
MOST_FILES = 99_999  # five digits


@dataclass(frozen=True)
class Piece:
    """A part of what one source tensor was quantized to, `nbytes` long."""

    tensor: str
    part: str
    nbytes: int


@dataclass(frozen=True)
class Stored:
    """One tensor of a file and the pieces that it is made of, one after the other."""

    name: str
    scheme: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)


def split(tensors: Iterable[Stored], params: GgufParams) -> list[list[Stored]]:
    """The tensors of each file, in their order: as many as `split_max_size_mb` holds, and one at least.

    The limit counts tensors' bytes, as llama-gguf-split's does; all metadata is in the first file.
    """
    most = None if params.split_max_size_mb is None else params.split_max_size_mb * MEGABYTE
    files: list[list[Stored]] = [[]]
    filled = 0
    for tensor in tensors:
        if most is not None and files[-1] and filled + tensor.nbytes > most:
            files.append([])
            filled = 0
        files[-1].append(tensor)
        filled += tensor.nbytes
    return files


def file_names(params: GgufParams, count: int) -> Sequence[str]:
    stem = f"model-{params.label}"
    if count == 1:
        return (f"{stem}.gguf",)
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
