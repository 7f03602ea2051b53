"""Model architectures: which tensors a checkpoint has, what GGUF calls them, and what llama.cpp must be told.

An architecture is a row of ARCHITECTURES. Source: formats.md 1.8 and 1.9, and llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantmill.contract.errors import ArchitectureUnsupported, SourceRejected
from quantmill.contract.tensors import ModelIndex


@dataclass(frozen=True)
class Slot:
    """A module of the architecture, by its names in the checkpoint and in GGUF; `{n}` is the block's number.

    `shape` names dimensions of `Model`. `heads` names the dimension that counts the rope heads whose rows GGUF
    interleaves. `bias` names the key of config.json that says whether the module has one.
    """

    source: str
    output: str
    shape: tuple[str, ...]
    heads: str = ""
    bias: str = ""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding as config.json asks for it."""

    base: float
    type: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class Model:
    """The dimensions of one model, checked."""

    vocab: int
    hidden: int
    ffn: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_epsilon: float
    rope: Rope

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    def size(self, dimension: str) -> int:
        return int(getattr(self, dimension))


@dataclass(frozen=True)
class ExpectedTensor:
    """One tensor that a model of this architecture has.

    `role` is the GGUF name without block and suffix. `heads` is 0 where the rows keep their order.
    """

    name: str
    output: str
    role: str
    block: int
    shape: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class Architecture:
    name: str  # general.architecture
    head: tuple[Slot, ...]  # before the blocks
    block: tuple[Slot, ...]
    tail: tuple[Slot, ...]

    def tensors(self, model: Model, config: Mapping[str, Any]) -> Iterator[ExpectedTensor]:
        """Every tensor of the model, in the order in which the file holds them."""
        for slot in self.head:
            yield from _expected(slot, 0, model, config)
        for n in range(model.blocks):
            for slot in self.block:
                yield from _expected(slot, n, model, config)
        for slot in self.tail:
            yield from _expected(slot, 0, model, config)

    def source_names(self, blocks: int) -> dict[str, tuple[str, str]]:
        """GGUF name -> (source name, dimension that counts its heads), biases included."""
        names = {}
        for slot in (*self.head, *self.block, *self.tail):
            for n in range(blocks if "{n}" in slot.output else 1):
                for suffix in (".weight", ".bias") if slot.bias else (".weight",):
                    names[slot.output.format(n=n) + suffix] = (slot.source.format(n=n) + suffix, slot.heads)
        return names


def _expected(slot: Slot, n: int, model: Model, config: Mapping[str, Any]) -> Iterator[ExpectedTensor]:
    shape = tuple(model.size(dimension) for dimension in slot.shape)
    source, output = slot.source.format(n=n), slot.output.format(n=n)
    role = output.rpartition(".")[2]
    heads = model.size(slot.heads) if slot.heads else 0
    yield ExpectedTensor(f"{source}.weight", f"{output}.weight", role, n, shape, heads)
    if slot.bias and config.get(slot.bias):
        yield ExpectedTensor(f"{source}.bias", f"{output}.bias", role, n, shape[:1], heads)


EMBEDDING = "token_embd"
OUTPUT = "output"
ROPE_FREQS = "rope_freqs.weight"  # generated, not in any checkpoint

LLAMA = Architecture(
    name="llama",
    head=(Slot("model.embed_tokens", EMBEDDING, ("vocab", "hidden")),),
    block=(
        Slot("model.layers.{n}.input_layernorm", "blk.{n}.attn_norm", ("hidden",)),
        Slot("model.layers.{n}.self_attn.q_proj", "blk.{n}.attn_q", ("q", "hidden"), "heads", "attention_bias"),
        Slot("model.layers.{n}.self_attn.k_proj", "blk.{n}.attn_k", ("kv", "hidden"), "kv_heads", "attention_bias"),
        Slot("model.layers.{n}.self_attn.v_proj", "blk.{n}.attn_v", ("kv", "hidden"), bias="attention_bias"),
        Slot("model.layers.{n}.self_attn.o_proj", "blk.{n}.attn_output", ("hidden", "q"), bias="attention_bias"),
        Slot("model.layers.{n}.post_attention_layernorm", "blk.{n}.ffn_norm", ("hidden",)),
        Slot("model.layers.{n}.mlp.gate_proj", "blk.{n}.ffn_gate", ("ffn", "hidden"), bias="mlp_bias"),
        Slot("model.layers.{n}.mlp.up_proj", "blk.{n}.ffn_up", ("ffn", "hidden"), bias="mlp_bias"),
        Slot("model.layers.{n}.mlp.down_proj", "blk.{n}.ffn_down", ("hidden", "ffn"), bias="mlp_bias"),
    ),
    tail=(
        Slot("model.norm", "output_norm", ("hidden",)),
        Slot("lm_head", OUTPUT, ("vocab", "hidden")),
    ),
)

# config.json's `architectures[0]` -> what GGUF makes of it
ARCHITECTURES: Mapping[str, Architecture] = {"LlamaForCausalLM": LLAMA}

BY_NAME: Mapping[str, Architecture] = {architecture.name: architecture for architecture in ARCHITECTURES.values()}


def architecture_of(index: ModelIndex) -> Architecture:
    """The row for this checkpoint.

    Raises ArchitectureUnsupported, listing what is known.
    """
    if index.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ArchitectureUnsupported(
            f"gguf does not know the architecture {index.architecture!r}; it knows: {known}",
            architecture=index.architecture,
        )
    return ARCHITECTURES[index.architecture]


def model_of(index: ModelIndex) -> Model:
    """The dimensions of a Llama-like model from its config.json.

    Raises SourceRejected for a missing or impossible value, ArchitectureUnsupported for an activation or rope
    scaling that llama.cpp's graph for this architecture does not compute.
    """
    config = index.config
    if config.get("hidden_act", "silu") != "silu":
        raise ArchitectureUnsupported(f"config.json: hidden_act {config['hidden_act']!r} is not silu")
    heads = _count(config, "num_attention_heads")
    kv_heads = _count(config, "num_key_value_heads", heads)
    hidden = _count(config, "hidden_size")
    blocks = _count(config, "num_hidden_layers")
    head_dim = _count(config, "head_dim", max(hidden // heads, 1))
    if heads % kv_heads:
        raise SourceRejected(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads")
    if head_dim % 2:
        raise SourceRejected(f"config.json: rope needs an even head_dim, not {head_dim}")
    if blocks > len(index.tensors):
        raise SourceRejected(f"config.json: {blocks} layers, but the checkpoint has {len(index.tensors)} tensors")
    return Model(
        vocab=_count(config, "vocab_size"),
        hidden=hidden,
        ffn=_count(config, "intermediate_size"),
        blocks=blocks,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=_count(config, "max_position_embeddings"),
        norm_epsilon=_positive(config, "rms_norm_eps", 1e-6),
        rope=_rope(config),
    )


ROPE_TYPES = ("default", "linear", "llama3")


def _rope(config: Mapping[str, Any]) -> Rope:
    """transformers 5 writes `rope_parameters`, earlier versions `rope_scaling` beside `rope_theta`."""
    asked = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(asked, Mapping):
        raise SourceRejected("config.json: the rope parameters must be an object")
    type_ = asked.get("rope_type", asked.get("type", "default"))
    if type_ not in ROPE_TYPES:
        raise ArchitectureUnsupported(f"config.json: rope type {type_!r} is not one of {', '.join(ROPE_TYPES)}")
    base = _positive(asked, "rope_theta", _positive(config, "rope_theta", 10000.0))
    if type_ == "default":
        return Rope(base, type_)
    rope = Rope(
        base,
        type_,
        factor=_positive(asked, "factor"),
        low_freq_factor=_positive(asked, "low_freq_factor", 1.0),
        high_freq_factor=_positive(asked, "high_freq_factor", 4.0),
        original_context=_count(asked, "original_max_position_embeddings", 8192),
    )
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise SourceRejected("config.json: rope's high_freq_factor must be above its low_freq_factor")
    return rope


def rope_divisors(rope: Rope, head_dim: int) -> list[float]:
    """Llama 3's rope scaling as the divisor of each of head_dim / 2 frequencies.

    Short waves keep their frequency, long ones are slowed by `factor`, those between go from one to the other.
    """
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope.base ** (i / head_dim)
        turns = rope.original_context / wavelength
        share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        share = min(max(share, 0.0), 1.0)  # 1: keep, 0: slow down fully
        divisors.append(1 / ((1 - share) / rope.factor + share))
    return divisors


# Values of config.json, which anybody may have written

MAX_COUNT = 2**31 - 1  # GGUF stores them as u32, llama.cpp reads them into int32


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_COUNT:
        raise SourceRejected(f"config.json: {key} must be a positive integer, not {value!r}", key=key)
    return value


def _positive(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise SourceRejected(f"config.json: {key} must be a positive number, not {value!r}", key=key)
    return float(value)
