"""Small checkpoints of many architectures, made by transformers' own classes and filled with seeded numbers.

The values are numpy's, by the tensor's name: they are the same on every machine, whatever torch's generator gives.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.contract.gguf import GgufContainer
from quantmill.contract.synthetic import tokenizer

COUNTS = {
    "vocab_size": 320,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
ALONE = {"hidden_size": 1, "intermediate_size": 1.5, "num_attention_heads": 1 / 16}
SHARED = {**ALONE, "num_key_value_heads": 1 / 32}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class RandomModel:
    """One checkpoint: transformers' classes and the values of its configuration.

    sizes  those that are multiples of the hidden size
    norm   around which the weights of norms lie
    """

    model: str
    config: str
    values: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=lambda: ALONE)
    norm: float = 1.0

    def write(
        self, folder: Path, hidden: int = 64, *, filled: bool = True, dtype: str = "float32", in_stacks: bool = False
    ) -> Path:
        """Write the checkpoint, with a byte-level BPE tokenizer; gives `folder`.

        Where it is not `filled`, the weights are whatever was in memory: for tests that read headers alone. `in_stacks`
        stores experts as transformers computes with them, all of a block in one tensor, by its own names.
        """
        import torch
        import transformers
        from transformers.initialization import no_init_weights

        sizes = {name: int(times * hidden) for name, times in self.sizes.items()}
        config = getattr(transformers, self.config)(**{**COUNTS, **sizes, **self.values})
        with nullcontext() if filled else no_init_weights():
            model = getattr(transformers, self.model)(config)
        with torch.no_grad():
            for name, tensor in model.state_dict(keep_vars=True).items() if filled else ():
                tensor.copy_(torch.from_numpy(self._random(name, tuple(tensor.shape))))
        model.tie_weights()
        model.to(getattr(torch, dtype)).save_pretrained(folder, save_original_format=not in_stacks)
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer(COUNTS["vocab_size"])))
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
        return folder

    def _random(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Matrices keep the size of what goes through them; norms lie around `norm`, biases around 0."""
        uniform = np.random.default_rng([*name.encode()]).random(shape, np.float32)  # exact on every machine
        values = (uniform - np.float32(0.5)) * np.float32(math.sqrt(12))
        if len(shape) > 1:
            return values / np.float32(math.sqrt(shape[-1]))
        return values * np.float32(0.1) + np.float32(0 if name.endswith("bias") else self.norm)


def causal(name: str, config: str = "", **values: Any) -> RandomModel:
    return RandomModel(f"{name}ForCausalLM", config or f"{name}Config", values, SHARED)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.5 + 0.5 * i for i in range(8)],
    "original_max_position_embeddings": 32,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "tie_word_embeddings": True, "sliding_window": 16}

RANDOM_MODELS = {
    "llama": causal("Llama"),
    "llama, tied": causal("Llama", tie_word_embeddings=True),
    "llama, wide heads and biases": causal("Llama", head_dim=24, attention_bias=True, mlp_bias=True),
    "llama, rope llama3": causal("Llama", rope_parameters=LLAMA3),
    "llama, rope linear": causal("Llama", rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}),
    "mistral": causal("Mistral", sliding_window=None),
    "mixtral, 4 experts": causal("Mixtral", num_local_experts=4),
    "mixtral, 8 experts": causal("Mixtral", num_local_experts=8),
    "qwen2": causal("Qwen2"),
    "qwen2moe": causal(
        "Qwen2Moe", **QWEN_EXPERTS, moe_intermediate_size=32, shared_expert_intermediate_size=64, norm_topk_prob=False
    ),
    "qwen2moe, tied": causal(
        "Qwen2Moe",
        **QWEN_EXPERTS,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=64,
        norm_topk_prob=False,
        tie_word_embeddings=True,
    ),
    "qwen3": causal("Qwen3", head_dim=24, tie_word_embeddings=True),
    "qwen3moe": causal("Qwen3Moe", **QWEN_EXPERTS, moe_intermediate_size=32, head_dim=24, norm_topk_prob=True),
    "gemma2": RandomModel("Gemma2ForCausalLM", "Gemma2Config", GEMMA, SHARED, norm=0.0),
    "gemma3": RandomModel("Gemma3ForCausalLM", "Gemma3TextConfig", {**GEMMA, "num_hidden_layers": 7}, SHARED, norm=0.0),
    "phi3": causal("Phi3", sliding_window=None),
    "phi3, longrope": causal("Phi3", rope_parameters=LONGROPE, original_max_position_embeddings=32),
    "granite": causal(
        "Granite", attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0
    ),
    "olmo2": causal("Olmo2"),
    "olmo2, tied": causal("Olmo2", tie_word_embeddings=True),
    "stablelm": causal("StableLm", use_qkv_bias=True),
    "stablelm, parallel": causal("StableLm", qk_layernorm=True, use_parallel_residual=True),
    "stablelm, tied": causal("StableLm", tie_word_embeddings=True),
    "starcoder2": causal("Starcoder2"),
    "gptneox": RandomModel("GPTNeoXForCausalLM", "GPTNeoXConfig", {"hidden_act": "gelu_fast"}),
    "gptneox, not parallel": RandomModel(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", {"hidden_act": "gelu", "use_parallel_residual": False}
    ),
    "gptneox, tied": RandomModel(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", {"hidden_act": "gelu_fast", "tie_word_embeddings": True}
    ),
    "gpt2": RandomModel(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_layer": 2, "n_positions": 256, "tie_word_embeddings": True},
        {"n_embd": 1, "n_head": 1 / 16},
    ),
    "falcon": RandomModel(
        "FalconForCausalLM",
        "FalconConfig",
        {"tie_word_embeddings": True},
        {"hidden_size": 1, "num_attention_heads": 1 / 16},
    ),
    "bert": RandomModel("BertModel", "BertConfig"),
}

# Deep enough for each exception of llama-quantize's mixes; the feed-forward networks are narrow
NARROW = {**ALONE, "intermediate_size": 1}
DEEP = {"num_hidden_layers": 32}
TYPED_MODELS = {
    "mixtral, 8 experts": RandomModel(
        "MixtralForCausalLM",
        "MixtralConfig",
        {"num_hidden_layers": 16, "num_local_experts": 8},
        {**NARROW, "num_key_value_heads": 1 / 64},
    ),
    "qwen2moe, 4 experts": RandomModel(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {**DEEP, **QWEN_EXPERTS, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256},
        {**NARROW, "num_key_value_heads": 1 / 32},
    ),
    "phi3": RandomModel("Phi3ForCausalLM", "Phi3Config", DEEP, {**NARROW, "num_key_value_heads": 1 / 64}),
    "gptneox": RandomModel("GPTNeoXForCausalLM", "GPTNeoXConfig", DEEP, NARROW),
    "falcon": RandomModel(
        "FalconForCausalLM",
        "FalconConfig",
        {**DEEP, "ffn_hidden_size": 256},
        {"hidden_size": 1, "num_attention_heads": 1 / 16},
    ),
    "gemma2": RandomModel(
        "Gemma2ForCausalLM", "Gemma2Config", {**GEMMA, **DEEP}, {**NARROW, "num_key_value_heads": 1 / 32}, norm=0.0
    ),
    "bert": RandomModel("BertModel", "BertConfig", {"num_hidden_layers": 16}, NARROW),
}


def pinned(path: Path) -> dict[str, Any]:
    """What of a GGUF file decides its logits: the model's metadata, and a digest of its tensors.

    The digest is over name, type, shape and bytes of each.
    """
    digest = hashlib.sha256()
    with GgufContainer(path) as file:
        prefix = f"{file.metadata['general.architecture']}."
        for tensor in file.tensors.values():
            digest.update(f"{tensor.name} {tensor.type.name} {tensor.shape}\n".encode())
            digest.update(file.packed(tensor).tobytes())
        settings = {key: value for key, value in file.metadata.items() if key.startswith(prefix)}
    return {"metadata": settings, "tensors": f"sha256:{digest.hexdigest()}"}
