"""What the matcher must know of a model: how many weights of which kind, the Linears' shapes, and its KV cache."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from quantmill.contract.errors import SourceRejected
from quantmill.contract.facts import Scheme
from quantmill.contract.tensors import ModelIndex

LARGEST = 2**31 - 1
FLOAT_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
SPLIT_BY_INPUTS = ("o_proj", "down_proj", "out_proj", "c_proj", "dense_4h_to_h", "w2")
REPLICATED = ("q_a_proj", "kv_a_proj_with_mqa")  # MLA's small projections: each device has them whole
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")
OUTPUTS = ("lm_head", "embed_out")
GGUF_EMBEDDING, GGUF_OUTPUT = "token_embd.weight", "output.weight"
EXPERTS = re.compile(r"(^|\.)experts\.|_exps$")


@dataclass(frozen=True)
class Linear:
    """A weight of shape (outputs, inputs), `count` times in the model; a token uses `active` of them."""

    name: str
    inputs: int
    outputs: int
    count: int
    active: int

    @property
    def split_by_inputs(self) -> bool:
        """Whether tensor parallelism cuts it along its inputs, as what writes to the residual stream is cut."""
        return self.name.rpartition(".")[2] in SPLIT_BY_INPUTS

    @property
    def is_expert(self) -> bool:
        return self.active < self.count

    def shard(self, devices: int) -> tuple[float, float]:
        """Inputs and outputs of the part that one of `devices` holds."""
        if self.name.rpartition(".")[2] in REPLICATED:
            return float(self.inputs), float(self.outputs)
        if self.split_by_inputs:
            return self.inputs / devices, float(self.outputs)
        return float(self.inputs), self.outputs / devices


@dataclass(frozen=True)
class Cache:
    """The KV cache of one token in values. `latent` is what a runtime that caches MLA's compressed form keeps.

    Layers beyond `full` and `windowed` keep a state that does not grow.
    """

    full: int
    windowed: int
    window: int
    values_per_layer: int
    latent: int | None

    def values(self, context: int, *, compressed: bool) -> int:
        each = self.latent if compressed and self.latent is not None else self.values_per_layer
        return each * (self.full * context + self.windowed * min(context, self.window))


@dataclass(frozen=True)
class Weights:
    """A model's bytes in a scheme: the blocks, and what stands outside them. `exact`: from a method's own plan."""

    blocks: int
    outside: int
    active: float  # share of the blocks' bytes that one token reads
    exact: bool

    @property
    def nbytes(self) -> int:
        return self.blocks + self.outside


@dataclass(frozen=True)
class ModelShape:
    """A model by its dimensions. `heads`, `kv_heads` and `cache` are None where config.json does not tell."""

    name: str
    architecture: str
    layers: int
    hidden: int
    ffn: int
    vocab: int
    heads: int | None
    kv_heads: int | None
    context: int | None
    cache: Cache | None
    linears: tuple[Linear, ...]
    embedding: int
    output: int  # 0 where the embedding serves as output matrix
    other: int
    from_headers: bool

    @property
    def parameters(self) -> int:
        return self.linear_values + self.embedding + self.output + self.other

    @property
    def linear_values(self) -> int:
        return sum(each.inputs * each.outputs * each.count for each in self.linears)

    @property
    def active_share(self) -> float:
        active = sum(each.inputs * each.outputs * each.active for each in self.linears)
        return active / self.linear_values if self.linear_values else 1.0

    def weights(self, scheme: Scheme) -> Weights:
        """The bytes by the scheme's bits per weight. An embedding that is the output matrix too takes the more bits."""
        embedding_bits = scheme.embedding_bits if self.output else max(scheme.embedding_bits, scheme.output_bits)
        outside = self.embedding * embedding_bits + self.output * scheme.output_bits + self.other * 32
        blocks = self.linear_values * scheme.linear_bits
        return Weights(_bytes(blocks), _bytes(outside), self.active_share, exact=False)

    def exact_weights(self, nbytes: int, outside: int) -> Weights:
        """The bytes as a plan counts them: all, and those outside the blocks."""
        return Weights(nbytes - outside, outside, self.active_share, exact=True)


def shape_of(config: Mapping[str, Any], index: ModelIndex | None = None, name: str = "") -> ModelShape:
    """A model's shape by its config.json, with the weights as headers have them where `index` is given.

    Raises SourceRejected, naming the key, for figures that no model has and where there is too little to go by.
    """
    text = _text_config(config)
    architecture = _architecture(config)
    layers, hidden = _count(text, "num_hidden_layers", "n_layer"), _count(text, "hidden_size", "n_embd")
    vocab, ffn = _count(text, "vocab_size"), _count(text, "intermediate_size", "n_inner", default=4 * hidden)
    if index is None:
        linears = tuple(_linears(text, layers, hidden, ffn))
        embedding, other = vocab * hidden, (2 * layers + 1) * hidden
        output = 0 if text.get("tie_word_embeddings", config.get("tie_word_embeddings")) else vocab * hidden
    else:
        linears, embedding, output, other = _from_headers(index, _active_experts(text))
    heads = _count(text, "num_attention_heads", "n_head", default=0) or None
    kv_heads = None if heads is None else _count(text, "num_key_value_heads", default=heads)
    if heads is not None and kv_heads is not None and (kv_heads > heads or heads % kv_heads):
        raise SourceRejected(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads")
    return ModelShape(
        name=name or architecture,
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        ffn=ffn,
        vocab=vocab,
        heads=heads,
        kv_heads=kv_heads,
        context=_count(text, "max_position_embeddings", "n_positions", default=0) or None,
        cache=_cache(text, layers, hidden, heads, kv_heads),
        linears=linears,
        embedding=embedding,
        output=output,
        other=other,
        from_headers=index is not None,
    )


def _cache(text: Mapping[str, Any], layers: int, hidden: int, heads: int | None, kv_heads: int | None) -> Cache | None:
    if heads is None or kv_heads is None:
        return None
    types = text.get("layer_types")
    known = isinstance(types, list) and len(types) == layers
    window = _count(text, "sliding_window", default=0)
    windowed = sum(kind == "sliding_attention" for kind in types) if known and types and window else 0
    full = sum(kind == "full_attention" for kind in types) if known and types and window else layers
    rank = _count(text, "kv_lora_rank", default=0)
    rope = _count(text, "qk_rope_head_dim", default=0)
    if rank:  # MLA: every head has its own key and value unless the latent itself is cached
        keys = _count(text, "qk_nope_head_dim", default=128) + rope
        values_per_layer = heads * (keys + _count(text, "v_head_dim", default=128))
    else:
        head_dim = _count(text, "head_dim", default=max(hidden // heads, 1))
        values_per_layer = 2 * kv_heads * head_dim
    return Cache(full, windowed, window, values_per_layer, rank + rope if rank else None)


def _linears(text: Mapping[str, Any], layers: int, hidden: int, ffn: int) -> Iterator[Linear]:
    """The Linears of a Llama-like decoder, experts and latent attention included, where no header can be read."""
    yield from _attention(text, layers, hidden)
    experts, used = _experts(text)
    dense = min(_count(text, "first_k_dense_replace", default=0, zero=True), layers) if experts else layers
    if dense:
        yield from _feed_forward("mlp", hidden, ffn, dense, dense)
    if experts:
        width = _count(text, "moe_intermediate_size", default=ffn)
        sparse = layers - dense
        yield from _feed_forward("mlp.experts", hidden, width, sparse * experts, sparse * used)
        shared = _count(text, "n_shared_experts", default=0, zero=True) * width
        shared = _count(text, "shared_expert_intermediate_size", default=shared, zero=True)
        if shared:
            yield from _feed_forward("mlp.shared_expert", hidden, shared, sparse, sparse)


def _attention(text: Mapping[str, Any], layers: int, hidden: int) -> Iterator[Linear]:
    heads = _count(text, "num_attention_heads")
    rank = _count(text, "kv_lora_rank", default=0)
    if rank:
        nope, rope = _count(text, "qk_nope_head_dim", default=128), _count(text, "qk_rope_head_dim", default=64)
        value, q_rank = _count(text, "v_head_dim", default=128), _count(text, "q_lora_rank", default=0)
        if q_rank:
            yield Linear("self_attn.q_a_proj", hidden, q_rank, layers, layers)
        yield Linear("self_attn.q_b_proj", q_rank or hidden, heads * (nope + rope), layers, layers)
        yield Linear("self_attn.kv_a_proj_with_mqa", hidden, rank + rope, layers, layers)
        yield Linear("self_attn.kv_b_proj", rank, heads * (nope + value), layers, layers)
        yield Linear("self_attn.o_proj", heads * value, hidden, layers, layers)
        return
    head_dim = _count(text, "head_dim", default=max(hidden // heads, 1))
    kv = _count(text, "num_key_value_heads", default=heads) * head_dim
    yield Linear("self_attn.q_proj", hidden, heads * head_dim, layers, layers)
    yield Linear("self_attn.k_proj", hidden, kv, layers, layers)
    yield Linear("self_attn.v_proj", hidden, kv, layers, layers)
    yield Linear("self_attn.o_proj", heads * head_dim, hidden, layers, layers)


def _feed_forward(name: str, hidden: int, width: int, count: int, active: int) -> Iterator[Linear]:
    yield Linear(f"{name}.gate_proj", hidden, width, count, active)
    yield Linear(f"{name}.up_proj", hidden, width, count, active)
    yield Linear(f"{name}.down_proj", width, hidden, count, active)


def _experts(text: Mapping[str, Any]) -> tuple[int, int]:
    """Routed experts of a layer, and how many of them a token uses."""
    experts = _count(text, "num_local_experts", "n_routed_experts", "num_experts", default=0, zero=True)
    used = _count(text, "num_experts_per_tok", "num_experts_per_token", default=1)
    if experts and used > experts:
        raise SourceRejected(f"config.json: a token uses {used} experts of {experts}", key="num_experts_per_tok")
    return experts, used


def _active_experts(text: Mapping[str, Any]) -> float:
    experts, used = _experts(text)
    return used / experts if experts else 1.0


def _from_headers(index: ModelIndex, active: float) -> tuple[tuple[Linear, ...], int, int, int]:
    """Linears, embedding, output and other values as the checkpoint stores them."""
    found: dict[tuple[str, int, int], int] = {}
    embedding = output = other = 0
    for tensor in index.tensors.values():
        parts = tensor.name.split(".")
        if len(tensor.shape) < 2:
            other += tensor.values
        elif tensor.name == GGUF_EMBEDDING or any(part in EMBEDDINGS for part in parts):
            embedding += tensor.values
        elif tensor.name == GGUF_OUTPUT or any(part in OUTPUTS for part in parts):
            output += tensor.values
        else:
            *stacked, outputs, inputs = tensor.shape
            key = (_without_numbers(tensor.name), inputs, outputs)
            found[key] = found.get(key, 0) + prod(stacked)
    linears = tuple(
        Linear(name, inputs, outputs, count, max(1, round(count * active)) if EXPERTS.search(name) else count)
        for (name, inputs, outputs), count in sorted(found.items())
        if inputs and outputs and count
    )
    return linears, embedding, output, other


def _without_numbers(name: str) -> str:
    return re.sub(r"\.\d+", "", name.removesuffix(".weight").removeprefix("model."))


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures") or [config.get("model_type") or "unknown"]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise SourceRejected("config.json: architectures must be a list of names", key="architectures")
    return named[0][:100]


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a model that also sees or hears: the part that reads text."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, Mapping) else config


def _count(config: Mapping[str, Any], *keys: str, default: int | None = None, zero: bool = False) -> int:
    """The first of `keys` that is given, a positive integer (or 0 where `zero`)."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not (0 if zero else 1) <= value <= LARGEST:
            raise SourceRejected(f"config.json: {key} must be a positive integer, not {str(value)[:40]!r}", key=key)
        return value
    if default is None:
        raise SourceRejected(f"config.json has no {' or '.join(keys)}", key=keys[0])
    return default


def _bytes(bits: float) -> int:
    return int(-(-bits // 8))
