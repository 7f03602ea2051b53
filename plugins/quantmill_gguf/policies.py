"""Which tensor type each tensor gets: llama-quantize's mixes as a table.

Source: llama.cpp src/llama-quant.cpp, `llama_tensor_get_type`. A golden table in tests/data/golden/gguf, made by
llama.cpp itself, holds these rows to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quantmill_gguf.types import TYPES


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in its model: all that a mix looks at."""

    role: str  # GGUF's name without block and suffix: attn_q, ffn_down_exps, token_embd, output
    block: int
    blocks: int
    shape: tuple[int, ...]
    is_output: bool = False  # the output matrix, or the embedding where there is none
    sharing: int = 1  # query heads to each key/value head
    weighted: bool = False  # the file is made with an importance matrix
    architecture: str = "llama"  # general.architecture
    experts: int = 0

    @property
    def kind(self) -> str:
        """What mixes call it: a fused matrix of queries, keys and values is treated as its values are."""
        return KINDS.get(self.role, self.role)


KINDS = {"attn_qkv": "attn_v"} | {
    f"ffn_{part}{suffix}": f"ffn_{part}" for part in ("gate", "up", "down") for suffix in ("_exps", "_shexp")
}


# Where a mix spends more bits


def everywhere(place: Place) -> bool:
    return True


def first(count: int) -> Callable[[Place], bool]:
    return lambda place: place.block < count


def first_share(parts: int) -> Callable[[Place], bool]:
    """The blocks of the first of `parts` equal parts."""
    return lambda place: place.block < place.blocks // parts


def more_bits(place: Place) -> bool:
    """The first and the last eighth, and every third block between."""
    block, blocks = place.block, place.blocks
    return block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2


def shared_by_four(place: Place) -> bool:
    return place.sharing >= 4


def first_share_weighted(parts: int, *, weighted: bool) -> Callable[[Place], bool]:
    """As `first_share`, in files made with an importance matrix, or in those made without."""
    return lambda place: place.weighted == weighted and place.block < place.blocks // parts


def of_experts(place: Place) -> bool:
    return place.role.endswith("_exps")


ANY = ""


@dataclass(frozen=True)
class Rule:
    """Another type than the mix's base for one kind of tensor, in some blocks; for every kind where it is ANY."""

    kind: str
    type: str
    where: Callable[[Place], bool] = everywhere


@dataclass(frozen=True)
class Mix:
    """A file type: the type most tensors get, and its exceptions; of several rules the first that applies counts."""

    file_type: int  # general.file_type
    base: str
    output: str  # of the output matrix, or of the embedding where it serves as one
    rules: tuple[Rule, ...] = ()


MORE_BITS = (Rule("attn_v", "Q6_K", more_bits), Rule("ffn_down", "Q6_K", more_bits))
SMALL_FOUR_BITS = (
    Rule("attn_v", "Q5_K", shared_by_four),
    Rule("ffn_down", "Q5_K", first_share_weighted(8, weighted=False)),
)
TERNARY = (Rule("token_embd", "Q4_K"),)

# What llama.cpp takes a file for that says no file type, by the type of most of its tensors (llama_model_loader)
GUESSED: Mapping[str, str] = {
    "Q2_K": "Q2_K",
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    **{
        type_: type_
        for type_ in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q6_K", "IQ4_NL", "IQ4_XS")
    },
    "TQ1_0": "TQ1_0",
    "TQ2_0": "TQ2_0",
    "MXFP4": "MXFP4_MOE",
}

# File types that llama-quantize makes with an importance matrix only, and the tensor type that needs one there.
NEED_IMATRIX: Mapping[str, str] = {"Q2_K_S": "Q2_K"}

MIXES: Mapping[str, Mix] = {
    "F32": Mix(0, "F32", "F32"),
    "F16": Mix(1, "F16", "F16"),
    "BF16": Mix(32, "BF16", "BF16"),
    "Q4_0": Mix(2, "Q4_0", "Q6_K", (Rule("ffn_down", "Q4_1", first_share_weighted(8, weighted=True)),)),
    "Q4_1": Mix(3, "Q4_1", "Q6_K"),
    "Q5_0": Mix(8, "Q5_0", "Q6_K", (Rule("ffn_down", "Q5_1", first_share_weighted(8, weighted=True)),)),
    "Q5_1": Mix(9, "Q5_1", "Q6_K"),
    "Q8_0": Mix(7, "Q8_0", "Q8_0"),
    "Q2_K": Mix(
        10,
        "Q2_K",
        "Q6_K",
        (
            Rule("attn_v", "Q4_K", shared_by_four),
            Rule("attn_v", "Q3_K"),
            Rule("attn_output", "Q3_K"),
            Rule("ffn_down", "Q3_K"),
        ),
    ),
    "Q2_K_S": Mix(
        21, "Q2_K", "Q6_K", (Rule("attn_v", "Q4_K", shared_by_four), Rule("ffn_down", "Q4_K", first_share(8)))
    ),
    "Q3_K_S": Mix(11, "Q3_K", "Q6_K"),
    "Q3_K_M": Mix(
        12,
        "Q3_K",
        "Q6_K",
        (
            Rule("attn_v", "Q5_K", first(2)),
            Rule("attn_v", "Q4_K"),
            Rule("attn_output", "Q4_K"),
            Rule("ffn_down", "Q5_K", first_share(16)),
            Rule("ffn_down", "Q4_K"),
        ),
    ),
    "Q3_K_L": Mix(13, "Q3_K", "Q6_K", (Rule("attn_v", "Q5_K"), Rule("attn_output", "Q5_K"), Rule("ffn_down", "Q5_K"))),
    "Q4_K_S": Mix(14, "Q4_K", "Q6_K", (Rule("attn_v", "Q5_K", first(4)), Rule("ffn_down", "Q5_K", first_share(8)))),
    "Q4_K_M": Mix(15, "Q4_K", "Q6_K", MORE_BITS),
    "Q5_K_S": Mix(16, "Q5_K", "Q6_K"),
    "Q5_K_M": Mix(17, "Q5_K", "Q6_K", MORE_BITS),
    "Q6_K": Mix(18, "Q6_K", "Q6_K"),
    "IQ4_NL": Mix(25, "IQ4_NL", "Q6_K", SMALL_FOUR_BITS),
    "IQ4_XS": Mix(30, "IQ4_XS", "Q6_K", SMALL_FOUR_BITS),
    "TQ1_0": Mix(36, "TQ1_0", "Q6_K", TERNARY),
    "TQ2_0": Mix(37, "TQ2_0", "Q6_K", TERNARY),
    "MXFP4_MOE": Mix(38, "MXFP4", "Q8_0", (Rule(ANY, "MXFP4", of_experts), Rule(ANY, "Q8_0"))),
}

# In a model of 80 blocks whose query heads share attn_v, attn_v is small, so better bits there cost little. llama.cpp
# looks at the sharing in Llama and takes it for granted in Qwen 2.
SHARED_IN_80_BLOCKS = {"Q3_K": "Q5_K", "Q4_K": "Q5_K"}

# Of eight experts (Mixtral) the attention is so small a part that better bits there cost little.
EIGHT_EXPERTS = (Rule("attn_v", "Q8_0"), Rule("attn_k", "Q8_0"))
EIGHT_EXPERTS_OUTPUT: Mapping[str, str] = dict.fromkeys(
    ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"), "Q5_K"
)

# Falcon has its own exceptions for these two kinds; where a mix is not named it has none for them.
FALCON_OUTPUT = "Q8_0"
FALCON_KINDS = ("attn_output", "ffn_down")
FALCON: Mapping[str, tuple[Rule, ...]] = {
    "Q2_K": (Rule("ffn_down", "Q3_K"),),
    "Q3_K_M": (
        Rule("ffn_down", "Q5_K", first_share(16)),
        Rule("ffn_down", "Q4_K", more_bits),
    ),
    "Q3_K_L": (Rule("ffn_down", "Q4_K"), Rule("attn_output", "Q4_K")),
    "Q4_K_M": (
        Rule("ffn_down", "Q6_K", first_share(16)),
        Rule("ffn_down", "Q5_K", more_bits),
    ),
    "Q5_K_M": (Rule("ffn_down", "Q6_K", more_bits),),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), (Rule("ffn_down", "Q5_K", first_share_weighted(8, weighted=False)),)),
    "Q2_K_S": (Rule("ffn_down", "Q4_K", first_share(8)),),
    "Q4_0": (Rule("ffn_down", "Q4_1", first_share_weighted(8, weighted=True)),),
    "Q5_0": (Rule("ffn_down", "Q5_1", first_share_weighted(8, weighted=True)),),
}

# Matrices that llama.cpp's quantizer leaves alone
KEPT = {
    "ffn_gate_inp": "the router stays F32",
    "position_embd": "position embeddings stay F32",
    "token_types": "token type embeddings stay F32",
}

# The type that takes over where a row does not divide into blocks. llama.cpp has no fallback from blocks of 32 that
# a mix begins with, and refuses there.
FALLBACKS: Mapping[str, str] = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"), "F16"),
}


@dataclass(frozen=True)
class Choice:
    """A tensor's type; `reason` is empty where it is the mix's base, `fell_back` says that the row forced it.

    `candidates` are what measuring the weights will choose among.
    """

    type: str
    reason: str = ""
    fell_back: bool = False
    candidates: tuple[str, ...] = ()


def choose(file_type: str, place: Place, *, pure: bool = False, asked: Choice | None = None) -> Choice:
    """The tensor type that the mix `file_type` gives to the tensor at `place`, with the reason.

    `pure` gives the mix's base to every matrix; `asked` goes before the mix.
    """
    kept = kept_at(place)
    if kept is not None:
        return kept
    mixed = Choice(MIXES[file_type].base) if pure else _by_mix(file_type, place)
    return fall_back(asked or mixed, place.shape[-1])


def kept_at(place: Place) -> Choice | None:
    """F32, of what no file type quantizes; None of the others."""
    if place.role.endswith("norm"):
        return Choice("F32", "norms stay F32")
    if place.role in KEPT:
        return Choice("F32", KEPT[place.role])
    return Choice("F32", "vectors stay F32") if len(place.shape) == 1 else None


def _by_mix(file_type: str, place: Place) -> Choice:
    mix = MIXES[file_type]
    if mix.base in ("F32", "F16", "BF16"):
        return Choice(mix.base)
    if place.is_output:
        wanted = FALCON_OUTPUT if place.architecture == "falcon" else mix.output
        return Choice(wanted, _output_reason(file_type, place, wanted) if wanted != mix.base else "")
    wanted = _by_rule(_rules(file_type, place), place, mix.base)
    where = f" of block {place.block}" if place.role != "token_embd" else ""
    reason = f"{file_type} gives {place.role}{where} {wanted}"
    if place.kind == "attn_v" and _small_values(place) and wanted in SHARED_IN_80_BLOCKS:
        wanted = SHARED_IN_80_BLOCKS[wanted]
        reason = f"80 blocks with shared key/value heads: {place.role} gets {wanted}"
    return Choice(wanted, reason if wanted != mix.base else "")


def _small_values(place: Place) -> bool:
    shared = {"llama": place.sharing > 1, "qwen2": True}
    return place.blocks == 80 and place.experts != 8 and shared.get(place.architecture, False)


def _rules(file_type: str, place: Place) -> tuple[Rule, ...]:
    """The mix's rules, or those that take their place in this model."""
    rules = MIXES[file_type].rules
    if place.experts == 8 and file_type != "MXFP4_MOE":
        output = EIGHT_EXPERTS_OUTPUT.get(file_type)
        others = tuple(rule for rule in rules if rule.kind != "attn_output")
        return (*EIGHT_EXPERTS, *((Rule("attn_output", output),) if output else ()), *others)
    if place.architecture == "falcon" and place.kind in FALCON_KINDS and file_type != "MXFP4_MOE":
        return FALCON.get(file_type, ())
    return rules


def _by_rule(rules: tuple[Rule, ...], place: Place, base: str) -> str:
    applying = (rule.type for rule in rules if rule.kind in (place.kind, ANY) and rule.where(place))
    return next(applying, base)


def _output_reason(file_type: str, place: Place, type_: str) -> str:
    if place.role == "output":
        return f"{file_type} keeps the output matrix at {type_}"
    if place.architecture == "bert":
        return f"an encoder has no output matrix: {file_type} gives its embedding the type of one, {type_}"
    return f"tied: the embedding is also the output matrix, which {file_type} keeps at {type_}"


def fall_back(choice: Choice, cols: int) -> Choice:
    """Go to wider types until one divides a row of `cols` values."""
    wanted = type_ = choice.type
    while not TYPES[type_].divides(cols):
        type_ = FALLBACKS[type_]
    if type_ == wanted:
        return choice
    blocks = TYPES[wanted].block_values
    return Choice(type_, f"rows of {cols} values do not divide into {wanted} blocks of {blocks}: {type_} instead", True)
