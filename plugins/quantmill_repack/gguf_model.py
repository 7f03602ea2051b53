"""A GGUF file in NVFP4 as the checkpoint that it was made from: names, dimensions, order of rows. Headers alone.

The file may be anybody's. Whatever it has that a checkpoint of its architecture does not, and the other way round, is
refused by name: what would be left over would compute other numbers without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantmill.contract.errors import ArchitectureUnsupported, SourceRejected
from quantmill.contract.gguf import MAX_TENSORS, NVFP4, GgufSource, TensorType, side_of
from quantmill.contract.gguf_names import NAMES, TURNED_BY_NEIGHBOURS
from quantmill.contract.strictjson import shown
from quantmill.contract.tensors import ModelIndex, TensorInfo

LARGEST = 2**31 - 1
PLAIN = ("F32", "F16", "BF16")
EMBEDDING, OUTPUT, NORM, ROPE_FACTORS = "token_embd", "output", "output_norm", "rope_freqs.weight"
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
GATED = ("ffn_gate", "ffn_up", "ffn_down")
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")  # of a block in one tensor
MIXTURE = ("ffn_gate_inp", *EXPERTS)

# Dimensions of each role's weight; a bias has the first
SHAPES: Mapping[str, tuple[str, ...]] = {
    EMBEDDING: ("vocab", "hidden"),
    OUTPUT: ("vocab", "hidden"),
    NORM: ("hidden",),
    **dict.fromkeys(("attn_norm", "ffn_norm"), ("hidden",)),
    **dict.fromkeys(HEAD_NORMS, ("head_dim",)),
    "attn_q": ("q", "hidden"),
    **dict.fromkeys(("attn_k", "attn_v"), ("kv", "hidden")),
    "attn_output": ("hidden", "q"),
    **dict.fromkeys(("ffn_gate", "ffn_up"), ("ffn", "hidden")),
    "ffn_down": ("hidden", "ffn"),
    "ffn_gate_inp": ("experts", "hidden"),
    **dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), ("experts", "expert_ffn", "hidden")),
    "ffn_down_exps": ("experts", "hidden", "expert_ffn"),
}
LINEARS = frozenset((*ATTENTION, *GATED, *EXPERTS, OUTPUT))


@dataclass(frozen=True)
class Family:
    """An architecture whose files become checkpoints.

    classes     config.json's `architectures` that have these tensors and compute the same; the first one is rebuilt
    model_type  of the first
    biased      roles that always have a bias
    may_bias    key of config.json -> roles that have biases where it is true
    norms       further norms of a block
    network     roles of its feed-forward network
    experts     key of config.json for their number, empty where there are none
    expert_ffn  GGUF's key and config.json's for their width, where it is not that of a network
    fixed       what config.json says of every model that llama.cpp computes by this architecture
    defaults    of transformers, for keys that its config.json may leave out
    """

    classes: tuple[str, ...]
    model_type: str
    biased: tuple[str, ...] = ()
    may_bias: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norms: tuple[str, ...] = ()
    network: tuple[str, ...] = GATED
    experts: str = ""
    expert_ffn: tuple[str, str] = ("feed_forward_length", "intermediate_size")
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def block(self, present: Mapping[str, bool]) -> Iterator[str]:
        """Names below blk.N. that a block has."""
        for role in ("attn_norm", *ATTENTION, *self.norms, "ffn_norm", *self.network):
            yield f"{role}.weight"
        for role in (*self.biased, *(role for key, roles in self.may_bias.items() if present[key] for role in roles)):
            yield f"{role}.bias"


FAMILIES: Mapping[str, Family] = {  # by general.architecture, and with experts by how that is told apart
    "llama": Family(
        ("LlamaForCausalLM", "MistralForCausalLM"),
        "llama",
        may_bias={"attention_bias": ATTENTION, "mlp_bias": GATED},
    ),
    "qwen2": Family(("Qwen2ForCausalLM",), "qwen2", biased=("attn_q", "attn_k", "attn_v")),
    "qwen3": Family(
        ("Qwen3ForCausalLM",),
        "qwen3",
        may_bias={"attention_bias": ATTENTION},
        norms=HEAD_NORMS,
        defaults={"head_dim": 128},
    ),
    "llama with experts": Family(("MixtralForCausalLM",), "mixtral", network=MIXTURE, experts="num_local_experts"),
    "qwen3moe with experts": Family(
        ("Qwen3MoeForCausalLM",),
        "qwen3_moe",
        may_bias={"attention_bias": ATTENTION},
        norms=HEAD_NORMS,
        network=MIXTURE,
        experts="num_experts",
        expert_ffn=("expert_feed_forward_length", "moe_intermediate_size"),
        fixed={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        defaults={"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
}


@dataclass(frozen=True)
class Held:
    """One tensor of the checkpoint, and where the file has it.

    source  the tensor of the file, which `info` describes
    name    in the checkpoint
    shape   in the checkpoint
    part    which of the file's matrices it is
    heads   whose rows the file has in another order; 0 where it has the checkpoint's
    """

    source: str
    name: str
    type: TensorType
    info: TensorInfo
    shape: tuple[int, ...]
    part: int = 0
    heads: int = 0

    @property
    def quantized(self) -> bool:
        return self.type == NVFP4

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")

    def rows(self) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
        """Which row of the matrix in the file each of its rows is; None where they have the same order."""
        if not self.heads:
            return None
        # (heads, pairs, halves) in the file, (heads, halves, pairs) in the checkpoint
        stored = np.arange(self.shape[0]).reshape(self.heads, -1, 2)
        return np.ascontiguousarray(stored.swapaxes(1, 2)).reshape(-1)


@dataclass(frozen=True)
class Described:
    """A file that can become a checkpoint.

    biases   keys of config.json that say whether there are biases
    held     the checkpoint's tensors, in the order of the file
    dropped  the others, with the reason
    scaled   whether rope's frequencies are divided by a tensor of the file
    """

    family: Family
    blocks: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    experts: int
    expert_ffn: int
    biases: Mapping[str, bool]
    held: tuple[Held, ...]
    dropped: Mapping[str, str]
    scaled: bool

    @property
    def tied(self) -> bool:
        """Whether the embedding is also the output matrix."""
        return not any(each.name == "lm_head.weight" for each in self.held)


def describe(index: ModelIndex, source: GgufSource) -> Described:
    """What the file is as a checkpoint.

    Raises ArchitectureUnsupported for an architecture that is not in the table, SourceRejected for a file that is not
    in NVFP4, has other blocks beside them, or not exactly the tensors of its architecture in their shapes.
    """
    experts = source.number("expert_count") or 0
    family = FAMILIES.get(f"{source.architecture} with experts" if experts else source.architecture)
    if family is None:
        raise ArchitectureUnsupported(
            f"GGUF files of the architecture {source.architecture!r}{' with experts' if experts else ''} are not "
            f"repacked; known: {', '.join(FAMILIES)}",
            architecture=source.architecture,
        )
    sizes = _sizes(index, source, family)
    first = {name.removeprefix("blk.0.").removesuffix(".bias") for name in source.types if name.endswith(".bias")}
    biases = {key: not first.isdisjoint(roles) for key, roles in family.may_bias.items()}
    dropped = {side: _why_dropped(side, name) for side, name in source.sides.items()}
    if ROPE_FACTORS in source.types:
        dropped[ROPE_FACTORS] = "made of rope_scaling, which config.json says"
    names = {name: index.tensors[name] for name in source.types if name not in dropped}
    _check_names(names, family, biases, sizes["blocks"])
    _check_count(names, sizes["experts"])
    held = tuple(held for info in names.values() for held in _held(source, info, sizes))
    if not any(each.quantized for each in held):
        raise SourceRejected("the GGUF file holds no matrix in NVFP4; other blocks are not repacked")
    dimensions = {key: size for key, size in sizes.items() if key not in ("q", "kv")}
    return Described(family, **dimensions, biases=biases, held=held, dropped=dropped, scaled=ROPE_FACTORS in dropped)


def _why_dropped(side: str, name: str) -> str:
    if side == side_of(name):
        return f"it becomes the weight_global_scale of {name}"
    return f"it scales the inputs of {name}, which NVFP4A16 leaves as they are"


def _sizes(index: ModelIndex, source: GgufSource, family: Family) -> dict[str, int]:
    """The dimensions that the file states, by the words of SHAPES."""
    embedding = index.tensors.get(f"{EMBEDDING}.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise SourceRejected("the GGUF file has no matrix token_embd.weight", tensor="token_embd.weight")
    hidden, heads = number(source, "embedding_length"), number(source, "attention.head_count")
    kv_heads = number(source, "attention.head_count_kv", heads)
    head_dim = number(source, "attention.key_length", max(1, hidden // heads))
    blocks = number(source, "block_count")
    if blocks > len(source.types):
        raise SourceRejected(f"{source.architecture}.block_count is {blocks}, in a file of {len(source.types)} tensors")
    if heads % kv_heads or head_dim % 2:
        raise SourceRejected(f"{heads} heads of {head_dim} values with {kv_heads} key/value heads: no model has these")
    return {
        "blocks": blocks,
        "hidden": hidden,
        "ffn": number(source, "feed_forward_length"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "q": heads * head_dim,
        "kv": kv_heads * head_dim,
        "vocab": embedding.shape[0],
        "experts": number(source, "expert_count") if family.experts else 0,
        "expert_ffn": number(source, family.expert_ffn[0]) if family.experts else 0,
    }


def number(source: GgufSource, key: str, default: int | None = None) -> int:
    """A positive number below the architecture's name. Raises SourceRejected for anything else."""
    name = f"{source.architecture}.{key}"
    value = source.metadata.get(name, default if name not in source.keys else None)
    if type(value) is not int or not 0 < value <= LARGEST:
        raise SourceRejected(f"the GGUF file's {name} is {shown(value)}, not one positive number", key=name)
    return value


def _check_names(names: Mapping[str, TensorInfo], family: Family, biases: Mapping[str, bool], blocks: int) -> None:
    if missing := next((name for name in _wanted(family, biases, blocks) if name not in names), None):
        raise SourceRejected(f"the GGUF file lacks {missing}", tensor=missing)
    wanted = {*_wanted(family, biases, blocks), f"{OUTPUT}.weight"}  # no more than the file has
    if unknown := sorted(names.keys() - wanted):
        raise SourceRejected(
            f"the GGUF file holds {shown(unknown[0])}, which no {family.classes[0]} has; other parts are not repacked",
            tensor=unknown[0],
        )


def _wanted(family: Family, biases: Mapping[str, bool], blocks: int) -> Iterator[str]:
    yield from (f"{EMBEDDING}.weight", f"{NORM}.weight")
    for block in range(blocks):
        for name in family.block(biases):
            yield f"blk.{block}.{name}"


def _check_count(names: Collection[str], experts: int) -> None:
    """A sparse file takes no room on the disk, and may hold thousands of millions of experts."""
    stacked = sum(name.rsplit(".", 2)[-2] in EXPERTS for name in names)
    made = len(names) + stacked * max(0, experts - 1)
    if made > MAX_TENSORS:
        raise SourceRejected(f"the GGUF file would become {made} tensors; at most {MAX_TENSORS} are made")


_NAME = re.compile(r"(?:blk\.(?P<block>\d+)\.)?(?P<role>[a-z_]+)\.(?P<ending>weight|bias)", re.ASCII)


def _held(source: GgufSource, info: TensorInfo, sizes: Mapping[str, int]) -> Iterator[Held]:
    """What the checkpoint has of a tensor: one, or one for each expert."""
    match = _NAME.fullmatch(info.name)
    assert match is not None  # the names have been checked
    role, ending = match["role"], match["ending"]
    shape = tuple(sizes[each] for each in SHAPES[role][: 1 if ending == "bias" else None])
    if info.shape != shape:
        raise SourceRejected(
            f"{info.name} is {list(info.shape)}, and the GGUF file's dimensions say {list(shape)}", tensor=info.name
        )
    type_ = source.types[info.name]
    if type_ != NVFP4 and type_.name not in PLAIN:
        raise SourceRejected(
            f"{info.name} is stored as {type_.name}, which the result does not hold beside NVFP4; known: NVFP4, "
            f"{', '.join(PLAIN)}; give a file that keeps it in one of these",
            tensor=info.name,
        )
    if type_ == NVFP4 and (role not in LINEARS or ending == "bias"):
        raise SourceRejected(
            f"{info.name} is stored as NVFP4, which compressed-tensors holds for Linears only", tensor=info.name
        )
    turned = source.architecture in TURNED_BY_NEIGHBOURS and role in ("attn_q", "attn_k")
    heads = sizes["heads" if role == "attn_q" else "kv_heads"] if turned else 0
    name = NAMES[source.architecture][role].replace("#", match["block"] or "")
    parts = shape[0] if role in EXPERTS else 1  # no more than the file has
    for part in range(parts):
        each = f"{name.replace('@', str(part))}.{ending}"
        yield Held(info.name, each, type_, info, shape[1:] if role in EXPERTS else shape, part, heads)
