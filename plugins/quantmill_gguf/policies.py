"""Which tensor type each tensor gets: llama-quantize's mixes as a table.

Source: llama.cpp src/llama-quant.cpp, `llama_tensor_get_type`. A golden table in tests/data/golden/gguf, made by
llama.cpp itself, holds these rows to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quantmill_gguf.types import TYPES

# Where a mix spends more bits: (block index, number of blocks) -> bool


def more_bits(block: int, blocks: int) -> bool:
    """The first and the last eighth, and every third block between."""
    return block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2


def first_four(block: int, blocks: int) -> bool:
    return block < 4


def first_eighth(block: int, blocks: int) -> bool:
    return block < blocks // 8


@dataclass(frozen=True)
class Raise:
    """One kind of tensor gets a better type in some blocks."""

    type: str
    where: Callable[[int, int], bool]


@dataclass(frozen=True)
class Mix:
    """A file type: the type most tensors get, and its exceptions by the tensor's role."""

    file_type: int  # general.file_type
    base: str
    output: str  # of the output matrix, or of the embedding where it serves as one
    raised: Mapping[str, Raise] = field(default_factory=dict)


MIXES: Mapping[str, Mix] = {
    "F16": Mix(1, "F16", "F16"),
    "Q4_0": Mix(2, "Q4_0", "Q6_K"),
    "Q8_0": Mix(7, "Q8_0", "Q8_0"),
    "Q4_K_S": Mix(14, "Q4_K", "Q6_K", {"attn_v": Raise("Q5_K", first_four), "ffn_down": Raise("Q5_K", first_eighth)}),
    "Q4_K_M": Mix(15, "Q4_K", "Q6_K", {"attn_v": Raise("Q6_K", more_bits), "ffn_down": Raise("Q6_K", more_bits)}),
    "Q5_K_M": Mix(17, "Q5_K", "Q6_K", {"attn_v": Raise("Q6_K", more_bits), "ffn_down": Raise("Q6_K", more_bits)}),
    "Q6_K": Mix(18, "Q6_K", "Q6_K"),
}

# The type that takes over where a row does not divide into blocks: llama.cpp's choice where the kernels have it
# (Q6_K -> Q8_0), otherwise the next wider type they have (llama.cpp: Q4_K -> Q5_0, Q5_K -> Q5_1).
FALLBACKS: Mapping[str, str] = {"Q4_K": "Q8_0", "Q5_K": "Q8_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q8_0": "F16"}


@dataclass(frozen=True)
class Choice:
    """A tensor's type; `reason` is empty where it is the mix's base, `fell_back` says that the row forced it."""

    type: str
    reason: str = ""
    fell_back: bool = False


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in its model: all that a mix looks at."""

    role: str  # GGUF's name without block and suffix: attn_q, ffn_down, token_embd, output
    block: int
    blocks: int
    shape: tuple[int, ...]
    is_output: bool = False  # the output matrix, or the embedding that serves as one
    shared_kv: bool = False  # several query heads share a key/value head


def choose(file_type: str, place: Place) -> Choice:
    """The tensor type that the mix `file_type` gives to the tensor at `place`, with the reason."""
    if len(place.shape) == 1:
        return Choice("F32", "norms stay F32" if place.role.endswith("norm") else "vectors stay F32")
    return _fall_back(_by_mix(file_type, place), place.shape[-1])


def _by_mix(file_type: str, place: Place) -> Choice:
    mix = MIXES[file_type]
    if place.is_output:
        wanted, reason = mix.output, _output_reason(file_type, place)
    elif place.role in mix.raised and mix.raised[place.role].where(place.block, place.blocks):
        wanted = mix.raised[place.role].type
        reason = f"{file_type} gives {place.role} of block {place.block} more bits"
    elif place.role == "attn_v" and mix.base == "Q4_K" and place.blocks == 80 and place.shared_kv:
        # llama.cpp's rule for 70B models: eight query heads share one attn_v, so better bits there cost little
        wanted, reason = "Q5_K", "80 blocks with shared key/value heads: attn_v gets Q5_K"
    else:
        wanted, reason = mix.base, ""
    return Choice(wanted, reason if wanted != mix.base else "")


def _output_reason(file_type: str, place: Place) -> str:
    if place.role == "output":
        return f"{file_type} keeps the output matrix at {MIXES[file_type].output}"
    return f"tied: the embedding is also the output matrix, which {file_type} keeps at {MIXES[file_type].output}"


def _fall_back(choice: Choice, cols: int) -> Choice:
    """Go to wider types until one divides a row of `cols` values."""
    wanted = type_ = choice.type
    while not TYPES[type_].divides(cols):
        type_ = FALLBACKS[type_]
    if type_ == wanted:
        return choice
    blocks = TYPES[wanted].block_values
    return Choice(type_, f"rows of {cols} values do not divide into {wanted} blocks of {blocks}: {type_} instead", True)
