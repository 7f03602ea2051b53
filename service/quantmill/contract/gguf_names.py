"""What GGUF files call a checkpoint's modules, and what they arrange otherwise, by general.architecture.

For those who read such files. Writers of the method `gguf` have a table of their own, so that an error in either shows.
"""

from __future__ import annotations

from collections.abc import Mapping

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

# Of queries and keys: row p of a head's first half stands before row p of its second
TURNED_BY_NEIGHBOURS = ("llama", "granite")
# Norms are stored plus one
WITH_ONE_ADDED = ("gemma2", "gemma3")
COLUMNS_FIRST = {"gpt2": ("attn_qkv", "attn_output", "ffn_up", "ffn_down")}
KINDS_FIRST = {"gptneox": ("attn_qkv",)}
