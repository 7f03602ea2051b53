"""The architectures that llama.cpp and transformers both have, a row each.

Sources: llama.cpp's conversion/*.py (names, orders of rows, keys) and src/models/*.cpp (what its graphs compute);
transformers' modeling and configuration files (defaults). A test holds the names to the `gguf` package's own map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quantmill.contract.errors import ArchitectureUnsupported
from quantmill_gguf.families.config import Config
from quantmill_gguf.families.layout import Architecture, Metadata, Model, Order, Requirement, Slot, Tie

EMBEDDING = "token_embd"
OUTPUT = "output"

LAYER = "model.layers.{n}."
BLOCK = "blk.{n}."

SILU = Requirement("hidden_act", ("silu", "swish"))
GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")  # llama.cpp has one: by tanh
NO_WINDOW = {"sliding_window": "llama.cpp attends to the whole context in this architecture, not to a sliding window"}


def _head(source: str = "model.embed_tokens") -> tuple[Slot, ...]:
    return (Slot(source, EMBEDDING, ("vocab", "hidden")),)


def _tail(norm: str = "model.norm", head: str = "lm_head", *, bias: bool = False) -> tuple[Slot, ...]:
    return (Slot(norm, "output_norm", ("hidden",), bias=bias), Slot(head, OUTPUT, ("vocab", "hidden")))


def _norm(source: str, output: str, size: str = "hidden", *, bias: bool = False) -> Slot:
    return Slot(LAYER + source, BLOCK + output, (size,), bias=bias)


def _attention(
    qkv_bias: str | bool = False, out_bias: str | bool = False, order: Order = Order.SOURCE
) -> tuple[Slot, ...]:
    """Queries, keys and values apart, as Llama has them."""
    source, output = LAYER + "self_attn.", BLOCK + "attn_"
    return (
        Slot(source + "q_proj", output + "q", ("q", "hidden"), "heads", order, qkv_bias),
        Slot(source + "k_proj", output + "k", ("kv", "hidden"), "kv_heads", order, qkv_bias),
        Slot(source + "v_proj", output + "v", ("kv", "hidden"), bias=qkv_bias),
        Slot(source + "o_proj", output + "output", ("hidden", "q"), bias=out_bias),
    )


def _gated(
    source: str = "mlp.", suffix: str = "", ffn: str = "ffn", parts: str = "", bias: str | bool = False
) -> tuple[Slot, ...]:
    """A feed-forward network with a gate, or all experts of a mixture."""
    return tuple(
        Slot(f"{LAYER}{source}{kind}_proj", f"{BLOCK}ffn_{kind}{suffix}", shape, parts=parts, bias=bias)
        for kind, shape in (("gate", (ffn, "hidden")), ("up", (ffn, "hidden")), ("down", ("hidden", ffn)))
    )


def _router(source: str) -> Slot:
    return Slot(LAYER + source, BLOCK + "ffn_gate_inp", ("experts", "hidden"))


ATTN_NORM = _norm("input_layernorm", "attn_norm")
FFN_NORM = _norm("post_attention_layernorm", "ffn_norm")
HEAD_NORMS = tuple(_norm(f"self_attn.{kind}_norm", f"attn_{kind}_norm", "head_dim") for kind in "qk")
LLAMA_ATTENTION = _attention("attention_bias", "attention_bias", Order.NEIGHBOURS)

LLAMA = Architecture(
    name="llama",
    head=_head(),
    block=(ATTN_NORM, *LLAMA_ATTENTION, FFN_NORM, *_gated(bias="mlp_bias")),
    tail=_tail(),
    ropes=("default", "linear", "llama3"),
    any_head_dim=True,
    requires=(SILU,),
    defaults={"rms_norm_eps": 1e-6},
)

MISTRAL = replace(LLAMA, ignored=NO_WINDOW)


def _expert_counts(config: Config, model: Model) -> Metadata:
    return {"expert_count": model.experts, "expert_used_count": model.experts_used}


MIXTRAL = replace(
    MISTRAL,
    block=(
        ATTN_NORM,
        *LLAMA_ATTENTION,
        FFN_NORM,
        _router("block_sparse_moe.gate"),
        *(
            Slot(f"{LAYER}block_sparse_moe.experts.{{e}}.{source}", f"{BLOCK}ffn_{kind}_exps", shape, parts="experts")
            for source, kind, shape in (
                ("w1", "gate", ("ffn", "hidden")),
                ("w3", "up", ("ffn", "hidden")),
                ("w2", "down", ("hidden", "ffn")),
            )
        ),
    ),
    aliases={"num_experts": "num_local_experts"},
    defaults={"rms_norm_eps": 1e-5, "num_experts": 8, "num_experts_per_tok": 2},
    metadata=_expert_counts,
)

QWEN2 = replace(
    LLAMA,
    name="qwen2",
    block=(ATTN_NORM, *_attention(True), FFN_NORM, *_gated()),
    ropes=("default", "linear"),
    any_head_dim=False,
    ignored={"use_sliding_window": NO_WINDOW["sliding_window"]},
)

# Of a mixture: every block is one, and weights of experts are normed as the architecture says
EVERY_BLOCK = (Requirement("decoder_sparse_step", (1,)), Requirement("mlp_only_layers", ([],)))


def _qwen_moe(config: Config, model: Model) -> Metadata:
    keys: Metadata = {**_expert_counts(config, model), "expert_feed_forward_length": model.expert_ffn}
    return {**keys, "expert_shared_feed_forward_length": model.shared_ffn} if model.shared_ffn else keys


QWEN2_MOE = replace(
    QWEN2,
    name="qwen2moe",
    tie=Tie.COPIED,
    block=(
        ATTN_NORM,
        *_attention("qkv_bias"),
        FFN_NORM,
        _router("mlp.gate"),
        *_gated("mlp.experts.{e}.", "_exps", "expert_ffn", "experts"),
        Slot(LAYER + "mlp.shared_expert_gate", BLOCK + "ffn_gate_inp_shexp", ("one", "hidden"), flat=True),
        *_gated("mlp.shared_expert.", "_shexp", "shared_ffn"),
    ),
    requires=(SILU, *EVERY_BLOCK, Requirement("norm_topk_prob", (False,))),
    defaults={
        "rms_norm_eps": 1e-6,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": False,
        "qkv_bias": True,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    metadata=_qwen_moe,
)

QWEN3 = replace(
    QWEN2,
    name="qwen3",
    block=(ATTN_NORM, *_attention("attention_bias"), *HEAD_NORMS, FFN_NORM, *_gated()),
    any_head_dim=True,
)

QWEN3_MOE = replace(
    QWEN3,
    name="qwen3moe",
    block=(
        ATTN_NORM,
        *_attention("attention_bias"),
        *HEAD_NORMS,
        FFN_NORM,
        _router("mlp.gate"),
        *_gated("mlp.experts.{e}.", "_exps", "expert_ffn", "experts"),
    ),
    requires=(SILU, *EVERY_BLOCK, Requirement("norm_topk_prob", (True,))),
    aliases={"num_experts": "num_local_experts"},
    defaults={
        "rms_norm_eps": 1e-6,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": False,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    metadata=_qwen_moe,
)

# Gemma

GEMMA_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GEMMA_FORMS = (Requirement("hidden_activation", ("gelu_pytorch_tanh",)), Requirement("tie_word_embeddings", (True,)))


def _gemma_norm(source: str, output: str, size: str = "hidden") -> Slot:
    return Slot(LAYER + source, BLOCK + output, (size,), plus_one=True)


def _gemma_block(*norms_of_heads: Slot) -> tuple[Slot, ...]:
    before, after, before_ffn, after_ffn = (_gemma_norm(*names) for names in GEMMA_NORMS.items())
    return (before, *_attention("attention_bias"), *norms_of_heads, after, before_ffn, *_gated(), after_ffn)


def _check_scale(config: Config, model: Model, blocks_of_27b: int) -> None:
    """llama.cpp knows the scale of attention scores by the number of blocks."""
    scalar = model.hidden // model.heads if model.blocks == blocks_of_27b else model.head_dim
    if config.positive("query_pre_attn_scalar") != scalar:
        raise ArchitectureUnsupported(
            f"config.json: query_pre_attn_scalar {config.get('query_pre_attn_scalar')} is not {scalar}, by which "
            "llama.cpp scales the attention of this model"
        )


def _windows(config: Config, model: Model, period: int) -> int:
    """The sliding window. Every block has it but the last of each `period`, as llama.cpp supposes."""
    wanted = ["full_attention" if (n + 1) % period == 0 else "sliding_attention" for n in range(model.blocks)]
    if config.get("layer_types", wanted) != wanted:
        raise ArchitectureUnsupported(
            f"config.json: layer_types must have full_attention in every block of number {period} and no other, "
            "as llama.cpp has it"
        )
    return config.count("sliding_window")


def _gemma2(config: Config, model: Model) -> Metadata:
    _check_scale(config, model, blocks_of_27b=46)
    return {
        "attn_logit_softcapping": config.positive("attn_logit_softcapping"),
        "final_logit_softcapping": config.positive("final_logit_softcapping"),
        "attention.sliding_window": _windows(config, model, period=2),
    }


GEMMA2 = Architecture(
    name="gemma2",
    head=_head(),
    block=_gemma_block(),
    tail=(Slot("model.norm", "output_norm", ("hidden",), plus_one=True),),
    ropes=("default",),
    any_head_dim=True,
    tie=Tie.MUST,
    requires=GEMMA_FORMS,
    defaults={
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    metadata=_gemma2,
)


def _gemma3(config: Config, model: Model) -> Metadata:
    _check_scale(config, model, blocks_of_27b=62)
    keys: dict[str, float | int] = {"attention.sliding_window": _windows(config, model, period=6)}
    if config.get("final_logit_softcapping") is not None:
        keys["final_logit_softcapping"] = config.positive("final_logit_softcapping")
    return keys


GEMMA3 = replace(
    GEMMA2,
    name="gemma3",
    block=_gemma_block(
        _gemma_norm("self_attn.q_norm", "attn_q_norm", "head_dim"),
        _gemma_norm("self_attn.k_norm", "attn_k_norm", "head_dim"),
    ),
    ropes=("default", "linear"),
    requires=(
        *GEMMA_FORMS,
        Requirement("attn_logit_softcapping", (None,)),
        Requirement("use_bidirectional_attention", (None, False)),
        Requirement("sliding_window_pattern", (6,)),
    ),
    defaults={
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "max_position_embeddings": 131072,
    },
    metadata=_gemma3,
)

# Phi, Granite, OLMo


def _phi3(config: Config, model: Model) -> Metadata:
    return {"attention.sliding_window": 0}


PHI3 = Architecture(
    name="phi3",
    head=_head(),
    block=(
        ATTN_NORM,
        Slot(LAYER + "self_attn.qkv_proj", BLOCK + "attn_qkv", ("qkv", "hidden")),
        Slot(LAYER + "self_attn.o_proj", BLOCK + "attn_output", ("hidden", "q")),
        FFN_NORM,
        Slot(LAYER + "mlp.gate_up_proj", BLOCK + "ffn_up", ("gate_up", "hidden")),
        Slot(LAYER + "mlp.down_proj", BLOCK + "ffn_down", ("hidden", "ffn")),
    ),
    tail=_tail(),
    ropes=("default", "longrope"),
    requires=(SILU,),
    defaults={"rms_norm_eps": 1e-5},
    metadata=_phi3,
    ignored=NO_WINDOW,
)


def _granite(config: Config, model: Model) -> Metadata:
    return {
        "attention.scale": config.positive("attention_multiplier"),
        "embedding_scale": config.positive("embedding_multiplier"),
        "residual_scale": config.positive("residual_multiplier"),
        "logit_scale": config.positive("logits_scaling"),
    }


GRANITE = replace(
    LLAMA,
    name="granite",
    any_head_dim=False,
    defaults={
        "rms_norm_eps": 1e-6,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    metadata=_granite,
)

OLMO2 = replace(
    QWEN2,
    name="olmo2",
    tie=Tie.COPIED,
    block=(
        *_attention(),
        _norm("self_attn.q_norm", "attn_q_norm", "q"),
        _norm("self_attn.k_norm", "attn_k_norm", "kv"),
        _norm("post_attention_layernorm", "post_attention_norm"),
        *_gated(),
        _norm("post_feedforward_layernorm", "post_ffw_norm"),
    ),
    requires=(SILU, Requirement("attention_bias", (False,))),
    defaults={"rms_norm_eps": 1e-5, "attention_bias": False},
    ignored={},
)

# Norms that subtract the mean, and have biases


def _parallel(config: Config, model: Model) -> Metadata:
    return {"use_parallel_residual": config.flag("use_parallel_residual")}


STABLELM = Architecture(
    name="stablelm",
    head=_head(),
    block=(
        _norm("input_layernorm", "attn_norm", bias=True),
        *_attention("use_qkv_bias"),
        *(
            Slot(
                f"{LAYER}self_attn.{kind}_layernorm.norms.{{e}}",
                f"{BLOCK}attn_{kind}_norm",
                ("head_dim",),
                parts=heads,
                when="qk_layernorm",
            )
            for kind, heads in (("q", "heads"), ("k", "kv_heads"))
        ),
        replace(_norm("post_attention_layernorm", "ffn_norm", bias=True), unless="use_parallel_residual"),
        *_gated(),
    ),
    tail=_tail(bias=True),
    epsilon="layer_norm_eps",
    rms=False,
    ropes=("default",),
    tie=Tie.COPIED,
    requires=(SILU,),
    defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25},
    metadata=_parallel,
)

STARCODER2 = Architecture(
    name="starcoder2",
    head=_head(),
    block=(
        _norm("input_layernorm", "attn_norm", bias=True),
        *_attention(True, True),
        _norm("post_attention_layernorm", "ffn_norm", bias=True),
        Slot(LAYER + "mlp.c_fc", BLOCK + "ffn_up", ("ffn", "hidden"), bias=True),
        Slot(LAYER + "mlp.c_proj", BLOCK + "ffn_down", ("hidden", "ffn"), bias=True),
    ),
    tail=_tail(bias=True),
    epsilon="norm_epsilon",
    rms=False,
    ropes=("default", "linear"),
    requires=(Requirement("hidden_act", GELU), Requirement("use_bias", (True,))),
    defaults={"norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh", "use_bias": True},
    ignored=NO_WINDOW,
)

NEOX = "gpt_neox.layers.{n}."

GPT_NEOX = Architecture(
    name="gptneox",
    head=_head("gpt_neox.embed_in"),
    block=(
        Slot(NEOX + "input_layernorm", BLOCK + "attn_norm", ("hidden",), bias=True),
        Slot(NEOX + "attention.query_key_value", BLOCK + "attn_qkv", ("qkv", "hidden"), "heads", Order.QKV, bias=True),
        Slot(NEOX + "attention.dense", BLOCK + "attn_output", ("hidden", "q"), bias=True),
        Slot(NEOX + "post_attention_layernorm", BLOCK + "ffn_norm", ("hidden",), bias=True),
        Slot(NEOX + "mlp.dense_h_to_4h", BLOCK + "ffn_up", ("ffn", "hidden"), bias=True),
        Slot(NEOX + "mlp.dense_4h_to_h", BLOCK + "ffn_down", ("hidden", "ffn"), bias=True),
    ),
    tail=_tail("gpt_neox.final_layer_norm", "embed_out", bias=True),
    epsilon="layer_norm_eps",
    rms=False,
    ropes=("default", "linear"),
    tie=Tie.COPIED,
    requires=(Requirement("hidden_act", GELU), Requirement("attention_bias", (True,))),
    aliases={"partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"},
    defaults={
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "attention_bias": True,
        "use_parallel_residual": True,
        "partial_rotary_factor": 0.25,
    },
    metadata=_parallel,
    dropped={
        ".attention.bias": "llama.cpp masks the future itself",
        ".attention.masked_bias": "llama.cpp masks the future itself",
    },
)

GPT2_BLOCK = "{p}h.{n}."

GPT2 = Architecture(
    name="gpt2",
    head=(
        Slot("{p}wte", EMBEDDING, ("vocab", "hidden")),
        Slot("{p}wpe", "position_embd", ("context", "hidden")),
    ),
    block=(
        Slot(GPT2_BLOCK + "ln_1", BLOCK + "attn_norm", ("hidden",), bias=True),
        Slot(GPT2_BLOCK + "attn.c_attn", BLOCK + "attn_qkv", ("hidden", "qkv"), bias=True, transposed=True),
        Slot(GPT2_BLOCK + "attn.c_proj", BLOCK + "attn_output", ("q", "hidden"), bias=True, transposed=True),
        Slot(GPT2_BLOCK + "ln_2", BLOCK + "ffn_norm", ("hidden",), bias=True),
        Slot(GPT2_BLOCK + "mlp.c_fc", BLOCK + "ffn_up", ("hidden", "ffn"), bias=True, transposed=True),
        Slot(GPT2_BLOCK + "mlp.c_proj", BLOCK + "ffn_down", ("ffn", "hidden"), bias=True, transposed=True),
    ),
    tail=_tail("{p}ln_f", bias=True),
    epsilon="layer_norm_epsilon",
    rms=False,
    ropes=(),
    requires=(
        Requirement("activation_function", GELU),
        Requirement("scale_attn_weights", (True,)),
        Requirement("scale_attn_by_inverse_layer_idx", (False,)),
        Requirement("add_cross_attention", (False,)),
    ),
    aliases={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    defaults={
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    dropped={
        ".attn.bias": "llama.cpp masks the future itself",
        ".attn.masked_bias": "llama.cpp masks the future itself",
    },
    prefixes=("transformer.", ""),
)

FALCON_BLOCK = "transformer.h.{n}."

FALCON = Architecture(
    name="falcon",
    head=_head("transformer.word_embeddings"),
    block=(
        Slot(FALCON_BLOCK + "input_layernorm", BLOCK + "attn_norm", ("hidden",), bias=True),
        Slot(FALCON_BLOCK + "self_attention.query_key_value", BLOCK + "attn_qkv", ("qkv", "hidden")),
        Slot(FALCON_BLOCK + "self_attention.dense", BLOCK + "attn_output", ("hidden", "q")),
        Slot(FALCON_BLOCK + "mlp.dense_h_to_4h", BLOCK + "ffn_up", ("ffn", "hidden")),
        Slot(FALCON_BLOCK + "mlp.dense_4h_to_h", BLOCK + "ffn_down", ("hidden", "ffn")),
    ),
    tail=_tail("transformer.ln_f", bias=True),
    epsilon="layer_norm_epsilon",
    rms=False,
    requires=(
        Requirement("new_decoder_architecture", (False,)),
        Requirement("multi_query", (True,)),
        Requirement("parallel_attn", (True,)),
        Requirement("bias", (False,)),
        Requirement("alibi", (False,)),
        Requirement("activation", GELU),
    ),
    aliases={"intermediate_size": "ffn_hidden_size"},
    defaults={
        "layer_norm_epsilon": 1e-5,
        "num_key_value_heads": 1,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "alibi": False,
        "activation": "gelu",
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
)

# Encoders, for embeddings

BERT_LAYER = "{p}encoder.layer.{n}."


def _bert(config: Config, model: Model) -> Metadata:
    return {"attention.causal": False}


BERT = Architecture(
    name="bert",
    head=(
        Slot("{p}embeddings.word_embeddings", EMBEDDING, ("vocab", "hidden")),
        Slot("{p}embeddings.position_embeddings", "position_embd", ("context", "hidden")),
        Slot("{p}embeddings.token_type_embeddings", "token_types", ("token_types", "hidden")),
        Slot("{p}embeddings.LayerNorm", "token_embd_norm", ("hidden",), bias=True),
    ),
    block=(
        *(
            Slot(f"{BERT_LAYER}attention.self.{source}", f"{BLOCK}attn_{output}", ("q", "hidden"), bias=True)
            for source, output in (("query", "q"), ("key", "k"), ("value", "v"))
        ),
        Slot(BERT_LAYER + "attention.output.dense", BLOCK + "attn_output", ("hidden", "q"), bias=True),
        Slot(BERT_LAYER + "attention.output.LayerNorm", BLOCK + "attn_output_norm", ("hidden",), bias=True),
        Slot(BERT_LAYER + "intermediate.dense", BLOCK + "ffn_up", ("ffn", "hidden"), bias=True),
        Slot(BERT_LAYER + "output.dense", BLOCK + "ffn_down", ("hidden", "ffn"), bias=True),
        Slot(BERT_LAYER + "output.LayerNorm", BLOCK + "layer_output_norm", ("hidden",), bias=True),
    ),
    tail=(),
    epsilon="layer_norm_eps",
    rms=False,
    ropes=(),
    tie=Tie.HEADLESS,
    requires=(
        Requirement("hidden_act", GELU),
        Requirement("position_embedding_type", ("absolute",)),
        Requirement("is_decoder", (False,)),
        Requirement("add_cross_attention", (False,)),
    ),
    defaults={
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "type_vocab_size": 2,
    },
    metadata=_bert,
    dropped={
        "embeddings.position_ids": "positions count from 0",
        "pooler.dense.weight": "embeddings are made of the last block's outputs",
        "pooler.dense.bias": "embeddings are made of the last block's outputs",
    },
    prefixes=("", "bert."),
)

# config.json's `architectures[0]` -> what GGUF makes of it
ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": MISTRAL,
    "MixtralForCausalLM": MIXTRAL,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2MoeForCausalLM": QWEN2_MOE,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Phi3ForCausalLM": PHI3,
    "GraniteForCausalLM": GRANITE,
    "Olmo2ForCausalLM": OLMO2,
    "StableLmForCausalLM": STABLELM,
    "Starcoder2ForCausalLM": STARCODER2,
    "GPTNeoXForCausalLM": GPT_NEOX,
    "GPT2LMHeadModel": GPT2,
    "FalconForCausalLM": FALCON,
    "BertModel": BERT,
}
