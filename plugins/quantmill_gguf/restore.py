"""From a GGUF file's tensors back to the checkpoint's: names, order of rows, parts.

Verification and evaluation see the artifact through this room. It has its own table of names and undoes each
arrangement by its own code, so that an error of the writer shows as a difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from quantmill.contract.errors import VerificationFailed
from quantmill.contract.gguf import Scalar, StoredTensor
from quantmill.contract.tensors import FloatArray

GENERATED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # in no checkpoint
PREFIX = "quantmill.source_prefix"
COPIED = "quantmill.output_is_copied"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

# Names of modules by GGUF's: `#` is the block's number, `@` the number of a part, `^` the checkpoint's prefix.

LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "model.layers.#.input_layernorm",
    "attn_q": "model.layers.#.self_attn.q_proj",
    "attn_k": "model.layers.#.self_attn.k_proj",
    "attn_v": "model.layers.#.self_attn.v_proj",
    "attn_output": "model.layers.#.self_attn.o_proj",
    "ffn_norm": "model.layers.#.post_attention_layernorm",
    "ffn_gate": "model.layers.#.mlp.gate_proj",
    "ffn_up": "model.layers.#.mlp.up_proj",
    "ffn_down": "model.layers.#.mlp.down_proj",
}
MIXTRAL = {
    "ffn_gate_inp": "model.layers.#.block_sparse_moe.gate",
    "ffn_gate_exps": "model.layers.#.block_sparse_moe.experts.@.w1",
    "ffn_down_exps": "model.layers.#.block_sparse_moe.experts.@.w2",
    "ffn_up_exps": "model.layers.#.block_sparse_moe.experts.@.w3",
}
QK_NORMS = {
    "attn_q_norm": "model.layers.#.self_attn.q_norm",
    "attn_k_norm": "model.layers.#.self_attn.k_norm",
}
QWEN_EXPERTS = {
    "ffn_gate_inp": "model.layers.#.mlp.gate",
    "ffn_gate_exps": "model.layers.#.mlp.experts.@.gate_proj",
    "ffn_down_exps": "model.layers.#.mlp.experts.@.down_proj",
    "ffn_up_exps": "model.layers.#.mlp.experts.@.up_proj",
}
SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "model.layers.#.mlp.shared_expert_gate",
    "ffn_gate_shexp": "model.layers.#.mlp.shared_expert.gate_proj",
    "ffn_down_shexp": "model.layers.#.mlp.shared_expert.down_proj",
    "ffn_up_shexp": "model.layers.#.mlp.shared_expert.up_proj",
}
GEMMA = LLAMA | {
    "post_attention_norm": "model.layers.#.post_attention_layernorm",
    "ffn_norm": "model.layers.#.pre_feedforward_layernorm",
    "post_ffw_norm": "model.layers.#.post_feedforward_layernorm",
}
OLMO2 = QK_NORMS | {
    "post_attention_norm": "model.layers.#.post_attention_layernorm",
    "post_ffw_norm": "model.layers.#.post_feedforward_layernorm",
}
PHI3 = {"attn_qkv": "model.layers.#.self_attn.qkv_proj", "ffn_up": "model.layers.#.mlp.gate_up_proj"}
STABLELM = {
    "attn_q_norm": "model.layers.#.self_attn.q_layernorm.norms.@",
    "attn_k_norm": "model.layers.#.self_attn.k_layernorm.norms.@",
}
STARCODER2 = {"ffn_up": "model.layers.#.mlp.c_fc", "ffn_down": "model.layers.#.mlp.c_proj"}
GPT_NEOX = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "attn_norm": "gpt_neox.layers.#.input_layernorm",
    "attn_qkv": "gpt_neox.layers.#.attention.query_key_value",
    "attn_output": "gpt_neox.layers.#.attention.dense",
    "ffn_norm": "gpt_neox.layers.#.post_attention_layernorm",
    "ffn_up": "gpt_neox.layers.#.mlp.dense_h_to_4h",
    "ffn_down": "gpt_neox.layers.#.mlp.dense_4h_to_h",
}
GPT2 = {
    "token_embd": "^wte",
    "position_embd": "^wpe",
    "output_norm": "^ln_f",
    "output": "lm_head",
    "attn_norm": "^h.#.ln_1",
    "attn_qkv": "^h.#.attn.c_attn",
    "attn_output": "^h.#.attn.c_proj",
    "ffn_norm": "^h.#.ln_2",
    "ffn_up": "^h.#.mlp.c_fc",
    "ffn_down": "^h.#.mlp.c_proj",
}
FALCON = {
    "token_embd": "transformer.word_embeddings",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "transformer.h.#.input_layernorm",
    "attn_qkv": "transformer.h.#.self_attention.query_key_value",
    "attn_output": "transformer.h.#.self_attention.dense",
    "ffn_up": "transformer.h.#.mlp.dense_h_to_4h",
    "ffn_down": "transformer.h.#.mlp.dense_4h_to_h",
}
BERT = {
    "token_embd": "^embeddings.word_embeddings",
    "position_embd": "^embeddings.position_embeddings",
    "token_types": "^embeddings.token_type_embeddings",
    "token_embd_norm": "^embeddings.LayerNorm",
    "attn_q": "^encoder.layer.#.attention.self.query",
    "attn_k": "^encoder.layer.#.attention.self.key",
    "attn_v": "^encoder.layer.#.attention.self.value",
    "attn_output": "^encoder.layer.#.attention.output.dense",
    "attn_output_norm": "^encoder.layer.#.attention.output.LayerNorm",
    "ffn_up": "^encoder.layer.#.intermediate.dense",
    "ffn_down": "^encoder.layer.#.output.dense",
    "layer_output_norm": "^encoder.layer.#.output.LayerNorm",
}

NAMES: Mapping[str, Mapping[str, str]] = {  # by general.architecture
    "llama": LLAMA | MIXTRAL,
    "qwen2": LLAMA,
    "qwen2moe": LLAMA | QWEN_EXPERTS | SHARED_EXPERT,
    "qwen3": LLAMA | QK_NORMS,
    "qwen3moe": LLAMA | QK_NORMS | QWEN_EXPERTS,
    "gemma2": GEMMA,
    "gemma3": GEMMA | QK_NORMS,
    "phi3": LLAMA | PHI3,
    "granite": LLAMA,
    "olmo2": LLAMA | OLMO2,
    "stablelm": LLAMA | STABLELM,
    "starcoder2": LLAMA | STARCODER2,
    "gptneox": GPT_NEOX,
    "gpt2": GPT2,
    "falcon": FALCON,
    "bert": BERT,
}

PLUS_ONE = "F32+1"  # the plan's name for F32 values with one added

TURNED_BY_NEIGHBOURS = ("llama", "granite")
WITH_ONE_ADDED = ("gemma2", "gemma3")
COLUMNS_FIRST = {"gpt2": ("attn_qkv", "attn_output", "ffn_up", "ffn_down")}
KINDS_FIRST = {"gptneox": ("attn_qkv",)}


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
