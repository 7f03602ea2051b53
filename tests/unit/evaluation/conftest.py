from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}
SHAPES = {
    "model.embed_tokens.weight": (32, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
    "model.layers.0.mlp.gate_proj.weight": (16, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.norm.weight": (8,),
}


@pytest.fixture
def millstone() -> Path:
    return Path(__file__).parents[2] / "data" / "millstone-4m"


@pytest.fixture
def evaluation_text() -> str:
    return (Path(__file__).parents[2] / "data" / "text" / "evaluation.txt").read_text()


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """Random weights of a Llama with one block."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def make_model(tmp_path: Path, weights: dict[str, np.ndarray]) -> Callable[..., Path]:
    """The folder of a tiny Llama whose tokens are the letters a to z, `<s>` 30 and `?` 31."""

    def make(
        *, prefix: bool = False, tokens: int = 26, tensors: dict[str, np.ndarray] | None = None, **keys: Any
    ) -> Path:
        folder = tmp_path / "tiny"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG | keys))
        save_file(weights if tensors is None else tensors, folder / "model.safetensors")
        letters = {chr(ord("a") + number): number for number in range(tokens)}
        tokenizer = Tokenizer(models.WordLevel({**letters, "<s>": 30, "?": 31}, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.add_special_tokens(["<s>"])
        if prefix:
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 30)])
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make
