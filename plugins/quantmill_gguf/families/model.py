"""One checkpoint as its architecture sees it: dimensions, tensors and metadata, from config.json and the headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from quantmill.contract.errors import ArchitectureUnsupported, SourceRejected
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.families.config import Config
from quantmill_gguf.families.layout import Architecture, ExpectedTensor, Metadata, Model, Tie
from quantmill_gguf.families.rope import generated_tensors, rope_metadata, rope_of
from quantmill_gguf.families.table import ARCHITECTURES, EMBEDDING, OUTPUT

COPIED_KEY = "quantmill.output_is_copied"  # output.weight is no tensor of the checkpoint, but its embedding once more
PREFIX_KEY = "quantmill.source_prefix"  # what all names in the checkpoint begin with, where checkpoints differ in it

# Endings of source tensors that llama.cpp computes by itself, in any architecture
REBUILT = {".rotary_emb.inv_freq": "llama.cpp computes the rope frequencies itself"}


@dataclass(frozen=True)
class Described:
    """A checkpoint's architecture with its dimensions, checked.

    serves_as_output  the embedding is also the output matrix: the checkpoint does not store one
    metadata          keys below the architecture's name, but for the tokenizer's
    dropped           source tensors that are left out, with the reason
    warnings          what of config.json llama.cpp cannot follow
    """

    architecture: Architecture
    model: Model
    config: Config
    prefix: str
    serves_as_output: bool
    metadata: Metadata
    dropped: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def has_no_output(self) -> bool:
        """Whether the file will have no output matrix, of an encoder or because the embedding serves as one."""
        return self.serves_as_output or self.architecture.tie is Tie.HEADLESS

    @property
    def copies_output(self) -> bool:
        """Whether the file will have the embedding once more, as an output matrix."""
        return self.serves_as_output and self.architecture.tie is Tie.COPIED

    def tensors(self) -> Iterator[ExpectedTensor]:
        """Every tensor that the checkpoint must have, in the order of the file."""
        for tensor in self.architecture.tensors(self.model, self.config, self.prefix):
            if self.copies_output and tensor.role == EMBEDDING:
                yield replace(tensor, copy=f"{OUTPUT}.weight")
            elif not (self.serves_as_output and tensor.role == OUTPUT):
                yield tensor

    def generated(self) -> Mapping[str, list[float]]:
        """Vectors that the file has and the checkpoint has not."""
        return generated_tensors(self.model.rope, self.model.head_dim) if self.model.rope else {}


def describe_checkpoint(index: ModelIndex) -> Described:
    """What the table says about this checkpoint.

    Raises ArchitectureUnsupported for an architecture that is not in the table, listing what is, and for a value of
    config.json that llama.cpp's graph does not compute; SourceRejected for a missing or impossible one.
    """
    architecture = _architecture_of(index)
    config = architecture.config(index.config)
    for requirement in architecture.requires:
        if config.get(requirement.key, requirement.values[0]) not in requirement.values:
            wanted = " or ".join(map(repr, requirement.values))
            raise ArchitectureUnsupported(
                f"config.json: {requirement.key} {config.get(requirement.key)!r} is not {wanted}, "
                f"and llama.cpp computes nothing else for {index.architecture}"
            )
    model = _model(architecture, config, len(index.tensors))
    prefix = architecture.prefix_of(index.tensors)
    ignored = (f"{key}: {what}" for key, what in architecture.ignored.items() if config.get(key))
    return Described(
        architecture,
        model,
        config,
        prefix,
        _tied(architecture, index, config),
        _metadata(architecture, config, model),
        _dropped(architecture, index),
        tuple(ignored),
    )


def _architecture_of(index: ModelIndex) -> Architecture:
    if index.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ArchitectureUnsupported(
            f"gguf does not know the architecture {index.architecture!r}; it knows: {known}",
            architecture=index.architecture,
        )
    return ARCHITECTURES[index.architecture]


def _model(architecture: Architecture, config: Config, tensors: int) -> Model:
    heads = config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads)
    hidden = config.count("hidden_size")
    blocks = config.count("num_hidden_layers")
    head_dim = config.count("head_dim", max(hidden // heads, 1))
    if heads % kv_heads:
        raise SourceRejected(f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads")
    if architecture.ropes and head_dim % 2:
        raise SourceRejected(f"config.json: rope needs an even head_dim, not {head_dim}")
    if not architecture.any_head_dim and heads * head_dim != hidden:
        raise ArchitectureUnsupported(
            f"config.json: {heads} heads of {head_dim} values are not hidden_size {hidden}, which llama.cpp takes for "
            "granted in this architecture"
        )
    if blocks > tensors:
        raise SourceRejected(f"config.json: {blocks} layers, but the checkpoint has {tensors} tensors")
    return Model(
        vocab=config.count("vocab_size"),
        hidden=hidden,
        ffn=config.count("intermediate_size", 4 * hidden),
        blocks=blocks,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=config.count("max_position_embeddings"),
        norm_epsilon=config.positive(architecture.epsilon),
        rope=rope_of(config, architecture.ropes, head_dim) if architecture.ropes else None,
        **_optional(config, tensors),
    )


def _optional(config: Config, tensors: int) -> dict[str, int]:
    """Dimensions that only some architectures have, by the keys that their rows have defaults for."""
    keys = {
        "experts": "num_experts",
        "experts_used": "num_experts_per_tok",
        "expert_ffn": "moe_intermediate_size",
        "shared_ffn": "shared_expert_intermediate_size",
        "token_types": "type_vocab_size",
    }
    found = {field: config.count(key) for field, key in keys.items() if config.get(key) is not None}
    experts = found.get("experts", 0)
    if experts > tensors:
        raise SourceRejected(f"config.json: {experts} experts, but the checkpoint has {tensors} tensors")
    if found.get("experts_used", 0) > experts:
        raise SourceRejected(f"config.json: {found['experts_used']} experts a token, of {experts}")
    return found


def _tied(architecture: Architecture, index: ModelIndex, config: Config) -> bool:
    """Whether the embedding serves as the output matrix."""
    if architecture.tie in (Tie.MUST, Tie.HEADLESS):
        return architecture.tie is Tie.MUST
    name = next(f"{slot.source}.weight" for slot in architecture.tail if slot.output == OUTPUT)
    if name in index.tensors:
        return False
    return name in index.tied or config.get("tie_word_embeddings") is True  # else it is missing, and is named as such


def _metadata(architecture: Architecture, config: Config, model: Model) -> Metadata:
    epsilon = "attention.layer_norm_rms_epsilon" if architecture.rms else "attention.layer_norm_epsilon"
    rope = rope_metadata(model.rope, model.head_dim) if model.rope else {}
    return {
        "vocab_size": model.vocab,
        "context_length": model.context,
        "embedding_length": model.hidden,
        "block_count": model.blocks,
        "feed_forward_length": model.ffn,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        epsilon: model.norm_epsilon,
        **rope,
        **architecture.metadata(config, model),
    }


def _dropped(architecture: Architecture, index: ModelIndex) -> dict[str, str]:
    endings = {**REBUILT, **architecture.dropped}
    return {name: reason for name in index.tensors for ending, reason in endings.items() if name.endswith(ending)}
