"""Towers of other senses, projectors, buffers and tied heads keep their bytes, and plans say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantmill.checkpoints import open_checkpoint
from quantmill.contract.linears import NO_LINEAR
from quantmill.contract.method import Method
from quantmill.contract.model_folder import ModelFolder
from quantmill.contract.synthetic import SyntheticLlama
from quantmill.contract.testing import Run
from quantmill.verification import verify
from quantmill_bnb.plugin import BNB
from quantmill_fp8.plugin import FP8
from quantmill_hqq.plugin import HQQ

LINEARS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
# As their publishers name them, as transformers 5 does, and with another sense; each has a decoder and other parts
MODELS: Mapping[str, tuple[str, str, Mapping[str, tuple[int, ...]]]] = {
    "Gemma3ForConditionalGeneration": (
        "language_model.model.layers.0",
        "language_model.model.embed_tokens.weight",
        {
            "vision_tower.vision_model.embeddings.patch_embedding.weight": (64, 3, 4, 4),
            "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (64, 64),
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (128, 64),
            "multi_modal_projector.mm_input_projection_weight": (64, 64),
            "multi_modal_projector.mm_soft_emb_norm.weight": (64,),
        },
    ),
    "LlavaForConditionalGeneration": (
        "model.language_model.layers.0",
        "model.language_model.embed_tokens.weight",
        {
            "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (64, 64),
            "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.bias": (64,),
            "model.multi_modal_projector.linear_1.weight": (64, 64),
            "model.image_newline": (64,),
        },
    ),
    "Qwen2AudioForConditionalGeneration": (
        "language_model.model.layers.0",
        "language_model.model.embed_tokens.weight",
        {
            "audio_tower.layers.0.self_attn.q_proj.weight": (64, 64),
            "audio_tower.conv1.weight": (64, 8, 3),
            "multi_modal_projector.linear.weight": (64, 64),
        },
    ),
}
METHODS = pytest.mark.parametrize("method", [FP8, BNB, HQQ], ids=lambda method: method.name)


def write(folder: Path, architecture: str) -> Path:
    """A checkpoint of random numbers with a decoder block of 64 wide, in bfloat16, and a buffer of integers."""
    block, embedding, others = MODELS[architecture]
    generator = np.random.default_rng(0)
    shapes = {**{f"{block}.{name}.weight": (64, 64) for name in LINEARS}, embedding: (96, 64), **others}
    tensors: dict[str, np.ndarray] = {
        name: generator.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()
    }
    tensors["vision_tower.vision_model.embeddings.position_ids"] = np.arange(16, dtype=np.int64)[None]
    folder.mkdir()
    config = {"architectures": [architecture], "text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 64}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def artifact(run: Run, folder: Path) -> dict[str, Any]:
    """Write and verify the artifact; gives its config.json."""
    run.write(run.quantize(), folder)
    verify(run.source, run.plan, run.method, run.params, folder)  # type: ignore[arg-type]
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@METHODS
@pytest.mark.parametrize("architecture", MODELS)
def test_other_parts_of_a_model_keep_their_bytes(architecture: str, method: Method, tmp_path: Path) -> None:
    block = MODELS[architecture][0]
    with open_checkpoint(write(tmp_path / "source", architecture)) as checkpoint:
        run = Run(method, method.params(), checkpoint)
        artifact(run, tmp_path / "artifact")

        quantized = {row.name for row in run.plan.tensors if row.action == "quantize"}
        kept = [row for row in run.plan.tensors if row.action == "keep"]
        assert quantized == {f"{block}.{name}.weight" for name in LINEARS}
        assert {row.reason for row in kept} == {NO_LINEAR}
        with ModelFolder(tmp_path / "artifact") as found:
            for row in kept:
                source = checkpoint.tensor(row.name)
                assert found.tensors[row.name].dtype == source.info.dtype
                assert found.values(row.name).tobytes() == source.values.tobytes()


@METHODS
def test_matrices_of_other_parts_are_named_to_consumers(method: Method, tmp_path: Path) -> None:
    key = {"fp8": "ignore", "bnb": "llm_int8_skip_modules", "hqq": "skip_modules"}[method.name]
    with open_checkpoint(write(tmp_path / "source", "LlavaForConditionalGeneration")) as checkpoint:
        config = artifact(Run(method, method.params(), checkpoint), tmp_path / "artifact")

    assert set(config["quantization_config"][key]) == {
        "model.language_model.embed_tokens",
        "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "model.multi_modal_projector.linear_1",
    }


@METHODS
def test_a_tied_head_is_stored_once_and_named_to_consumers(method: Method, tmp_path: Path) -> None:
    key = {"fp8": "ignore", "bnb": "llm_int8_skip_modules", "hqq": "skip_modules"}[method.name]
    source = SyntheticLlama(hidden=64, ffn=64, heads=2, kv_heads=2, blocks=1, tied=True)
    with open_checkpoint(source.write(tmp_path / "source")) as checkpoint:
        run = Run(method, method.params(), checkpoint)
        config = artifact(run, tmp_path / "artifact")

        assert {"lm_head", "model.embed_tokens"} <= set(config["quantization_config"][key])
        with ModelFolder(tmp_path / "artifact") as found:
            assert "lm_head.weight" not in found.tensors
            embedding = found.values("model.embed_tokens.weight")
            assert embedding.tobytes() == checkpoint.tensor("model.embed_tokens.weight").values.tobytes()
