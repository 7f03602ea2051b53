"""From a GGUF file's tensors back to the checkpoint's: names, order of rows, parts.

Verification and evaluation see the artifact through this room. Its names are those of `contract.gguf_names`, not the
writer's, and it undoes each arrangement by its own code, so that an error of the writer shows as a difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.gguf import Scalar, StoredTensor
from quantmill.contract.gguf_names import COLUMNS_FIRST, KINDS_FIRST, NAMES, TURNED_BY_NEIGHBOURS, WITH_ONE_ADDED
from quantmill.contract.tensors import FloatArray

GENERATED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # in no checkpoint
PREFIX = "quantmill.source_prefix"
COPIED = "quantmill.output_is_copied"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

PLUS_ONE = "F32+1"  # the plan's name for F32 values with one added


@dataclass(frozen=True)
class Restored:
    """One source tensor as the file has it: where its bytes are, and how they become the source's values.

    `scheme` is the plan's word for how it is stored. `transposed` says that the file's rows are the source's columns.
    `copy` names a tensor of the file that must hold the same once more. `arrange` is None where the file has them as
    the source does. `part` is its number among those that the file has as one tensor.
    """

    name: str
    stored: StoredTensor
    scheme: str
    transposed: bool
    arrange: Callable[[FloatArray], FloatArray] | None
    copy: str = ""
    part: int = 0


class Unchanged:
    """Of a file that was made from another one: its tensors are that file's, by its names."""

    def of(self, tensor: StoredTensor) -> Iterator[Restored]:
        yield Restored(tensor.name, tensor, tensor.type.name, False, None)


def names_of(metadata: Mapping[str, Scalar], tensors: int) -> Unchanged | Names:
    """What the tensors of a file of `tensors` are called in its source. Raises as `Names` does."""
    return Unchanged() if metadata.get("quantmill.source.format") == "gguf" else Names(metadata, tensors)


class Names:
    """What a file's tensors are called in the checkpoint. Raises VerificationFailed for impossible metadata."""

    def __init__(self, metadata: Mapping[str, Scalar], tensors: int) -> None:
        name = metadata.get("general.architecture")
        if name not in NAMES:
            raise VerificationFailed(f"general.architecture is {name!r}; known: {', '.join(sorted(NAMES))}")
        self._architecture = str(name)
        self._metadata = metadata
        self._blocks = self._number("block_count", tensors)
        self._heads = self._number("attention.head_count", 2**31)
        self._kv_heads = self._number("attention.head_count_kv", self._heads)
        self._prefix = str(metadata.get(PREFIX, ""))
        self._copied = metadata.get(COPIED) is True

    def of(self, tensor: StoredTensor) -> Iterator[Restored]:
        """The source tensors that `tensor` is made of; none where it was generated or is a copy.

        Raises VerificationFailed for a tensor that the architecture does not have.
        """
        if tensor.name in GENERATED or (self._copied and tensor.name == OUTPUT):
            return
        role, block, ending = self._split(tensor.name)
        template = NAMES[self._architecture].get(role)
        if template is None or ("#" in template) != (block is not None):
            raise self._unknown(tensor)
        name = template.replace("^", self._prefix).replace("#", str(block)) + ending
        transposed = ending == ".weight" and role in COLUMNS_FIRST.get(self._architecture, ())
        plus_one = self._architecture in WITH_ONE_ADDED and role.endswith("norm")
        scheme = PLUS_ONE if plus_one else tensor.type.name
        arrange = self._arrangement(tensor, role, transposed, plus_one)
        if "@" not in template:
            copy = OUTPUT if self._copied and tensor.name == EMBEDDING else ""
            yield Restored(name, tensor, scheme, transposed, arrange, copy)
            return
        if len(tensor.shape) < 2:
            raise VerificationFailed(f"{tensor.name} of shape {tensor.shape} has no parts", tensor=tensor.name)
        for number in range(tensor.shape[0]):
            part = _part(tensor, number)
            yield Restored(name.replace("@", str(number)), part, scheme, transposed, arrange, part=number)

    def _split(self, name: str) -> tuple[str, int | None, str]:
        """GGUF's name as role, block and ending."""
        found = re.fullmatch(r"(?:blk\.(0|[1-9]\d{0,9})\.)?([a-z0-9_]+)(\.weight|\.bias)", name, re.ASCII)
        if found is None or (found[1] is not None and int(found[1]) >= self._blocks):
            raise VerificationFailed(f"{name!r} is no tensor of the architecture {self._architecture}", tensor=name)
        return found[2], None if found[1] is None else int(found[1]), found[3]

    def _arrangement(
        self, tensor: StoredTensor, role: str, transposed: bool, plus_one: bool
    ) -> Callable[[FloatArray], FloatArray] | None:
        """How the values of one part, in the file's shape, become the source's."""
        if plus_one:
            return lambda values: values - np.float32(1)
        if transposed:
            return lambda values: np.ascontiguousarray(values.T)
        if role == "ffn_gate_inp_shexp":
            return lambda values: values.reshape(1, -1)
        if self._architecture in TURNED_BY_NEIGHBOURS and role in ("attn_q", "attn_k"):
            heads = self._heads if role == "attn_q" else self._kv_heads
            return lambda values: _halves(_of_heads(values, tensor, heads, 2))
        if role in KINDS_FIRST.get(self._architecture, ()):
            return lambda values: _by_head(_of_heads(values, tensor, self._heads, 3), self._heads)
        return None

    def _number(self, key: str, most: int) -> int:
        value = self._metadata.get(f"{self._architecture}.{key}")
        if not isinstance(value, int) or not 0 < value <= most:
            raise VerificationFailed(f"{self._architecture}.{key} is {value!r}, not a number from 1 to {most}")
        return value

    def _unknown(self, tensor: StoredTensor) -> VerificationFailed:
        return VerificationFailed(
            f"{tensor.name!r} is no tensor of the architecture {self._architecture}", tensor=tensor.name
        )


def _part(tensor: StoredTensor, number: int) -> StoredTensor:
    part = StoredTensor(tensor.name, tensor.type, tensor.shape[1:], tensor.start)
    return StoredTensor(tensor.name, tensor.type, part.shape, tensor.start + number * part.nbytes)


def _of_heads(values: FloatArray, tensor: StoredTensor, heads: int, parts: int) -> FloatArray:
    """(rows, ...) -> (heads, rows of a head, columns), which divide into `parts`."""
    rows = values.shape[0]
    if rows % (parts * heads):
        raise VerificationFailed(f"{tensor.name}: {rows} rows are not {heads} heads of a multiple of {parts}")
    return values.reshape(heads, rows // heads, *values.shape[1:])


def _halves(heads: FloatArray) -> FloatArray:
    """Row s * size / 2 + p of a head lies at row 2p + s; in place."""
    for head in heads:
        pairs = head.copy()
        half = len(head) // 2
        head[:half], head[half:] = pairs[0::2], pairs[1::2]
    return heads.reshape(-1, *heads.shape[2:])


def _by_head(values: FloatArray, heads: int) -> FloatArray:
    """All queries, then all keys, then all values -> the three of each head."""
    rows = values.reshape(-1, *values.shape[2:])
    kinds = rows.reshape(3, heads, -1, *rows.shape[1:])
    return np.stack([kinds[0], kinds[1], kinds[2]], axis=1).reshape(rows.shape)
