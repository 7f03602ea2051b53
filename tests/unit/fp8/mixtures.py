"""A small random mixture of experts, as checkpoints store it: one expert after the other, or all in one tensor."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

HIDDEN, INNER, EXPERTS, VOCAB = 128, 256, 3, 64
# How an architecture names the module of router and experts, with these in stacks and one by one; an expert's gate, up
# and down; whether stacks are (in, out)
FAMILIES = {
    "Qwen3MoeForCausalLM": ("mlp", "mlp", ("gate_proj", "up_proj", "down_proj"), False),
    "MixtralForCausalLM": ("mlp", "block_sparse_moe", ("w1", "w3", "w2"), False),
    "Llama4ForCausalLM": ("feed_forward", "feed_forward", ("gate_proj", "up_proj", "down_proj"), True),
}


def experts(seed: int = 0) -> dict[str, np.ndarray]:
    """Gate, up (experts, inner, hidden) and down (experts, hidden, inner), no two experts of one size."""
    generator = np.random.default_rng(seed)
    sizes = np.array([0.02, 0.05, 0.01], np.float32)[:, None, None]
    shapes = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
    return {
        name: (generator.standard_normal((EXPERTS, *shape), np.float32) * sizes).astype(ml_dtypes.bfloat16)
        for name, shape in shapes.items()
    }


def tensors(architecture: str, *, fused: bool) -> dict[str, np.ndarray]:
    """One block, an embedding, a router and a head."""
    in_stacks, one_by_one, leaves, transposed = FAMILIES[architecture]
    parent = in_stacks if fused else one_by_one
    generator = np.random.default_rng(1)

    def matrix(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)

    block = "model.layers.0"
    found = {
        "model.embed_tokens.weight": matrix(VOCAB, HIDDEN),
        **{f"{block}.self_attn.{name}_proj.weight": matrix(HIDDEN, HIDDEN) for name in "qkvo"},
        f"{block}.input_layernorm.weight": matrix(HIDDEN),
        f"{block}.{parent}.gate.weight": matrix(EXPERTS, HIDDEN),
        "lm_head.weight": matrix(VOCAB, HIDDEN),
    }
    gate, up, down = experts().values()
    module = f"{block}.{parent}.experts"
    if fused:
        stacks = {"gate_up_proj": np.concatenate([gate, up], axis=1), "down_proj": down}
        return found | {
            f"{module}.{name}": np.ascontiguousarray(values.swapaxes(1, 2) if transposed else values)
            for name, values in stacks.items()
        }
    return found | {
        f"{module}.{expert}.{leaf}.weight": values[expert]
        for expert in range(EXPERTS)
        for leaf, values in zip(leaves, (gate, up, down), strict=True)
    }


def write(folder: Path, architecture: str, *, fused: bool) -> Path:
    """A checkpoint's config.json and weights."""
    folder.mkdir(parents=True)
    config = {"architectures": [architecture], "hidden_size": HIDDEN, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors(architecture, fused=fused), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
