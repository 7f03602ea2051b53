from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

Tensors = Mapping[str, np.ndarray]
MakeModel = Callable[..., Path]

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}


@pytest.fixture
def millstone() -> Path:
    return Path(__file__).parents[2] / "data" / "millstone-4m"


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """A small model folder: its config, and its weights in one file or, given a list, in shards with an index."""

    def make(weights: Tensors | list[Tensors] | None = None, config: Any = CONFIG, name: str = "model") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        if weights is None:
            weights = {"model.embed_tokens.weight": np.ones((4, 2), np.float32)}
        if isinstance(weights, dict):
            save_file(weights, folder / "model.safetensors")
            return folder
        weight_map = {}
        for number, shard in enumerate(weights, 1):
            file = f"model-{number:05}-of-{len(weights):05}.safetensors"
            save_file(shard, folder / file)
            weight_map.update(dict.fromkeys(shard, file))
        write_index(folder, weight_map)
        return folder

    return make


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
