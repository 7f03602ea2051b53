"""The pass that has one block in memory at a time gives what the whole model gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from quantmill.calibration import forward as forward_module
from quantmill.calibration import source_weights
from quantmill.calibration.decoder import Decoder
from quantmill.calibration.forward import Forward
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, RequestRejected
from quantmill.contract.tensors import FloatArray

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 12, "num_experts_per_tok": 2, "moe_intermediate_size": 32}  # more than ten: 10 follows 9
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + number / 8 for number in range(8)],
    "long_factor": [2.0 + number for number in range(8)],
    "original_max_position_embeddings": 8,
}
# name: model_type, and how it differs from SMALL
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma2": ("gemma2", {"sliding_window": 5, "head_dim": 16, "final_logit_softcapping": 3.0}),
    "Gemma3": (
        "gemma3_text",
        {"sliding_window": 5, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "GPT-2": ("gpt2", {"n_positions": 64}),
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-NeoX, one after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "Granite": ("granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}),
    "Llama": ("llama", {}),
    "Llama, tied": ("llama", {"tie_word_embeddings": True}),
    "Llama, long": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "Mistral": ("mistral", {"sliding_window": 5}),
    "Mixtral": ("mixtral", {"num_local_experts": 12, "sliding_window": 5}),
    "OLMo2": ("olmo2", {}),
    "Phi3": ("phi3", {}),
    "Phi3, long": ("phi3", {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 8}),
    "Qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen2 MoE": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 48}),
    "Qwen3": ("qwen3", {"head_dim": 16}),
    "Qwen3 MoE": ("qwen3_moe", {**EXPERTS, "head_dim": 16}),
    "Qwen3 MoE, one block dense": ("qwen3_moe", {**EXPERTS, "head_dim": 16, "mlp_only_layers": [0]}),
    "StableLM": ("stablelm", {"use_qkv_bias": True}),
    "StableLM, one beside the other": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
}


def save_random(folder: Path, name: str) -> Any:
    """A checkpoint of the family with random weights, as transformers writes it; its model."""
    torch.manual_seed(0)
    model_type, keys = FAMILIES[name]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{"model_type": model_type, **SMALL, **keys}))
    with torch.no_grad():
        for values in model.parameters():
            values.add_(0.2 * torch.randn_like(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A checkpoint with random weights, and transformers' own model of it."""
    return tmp_path / "model", save_random(tmp_path / "model", request.param)


def ids_of(windows: int, window: int = 12) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 64, (windows, window))


def logits_of(folder: Path, ids: np.ndarray, **how: Any) -> np.ndarray:
    with open_checkpoint(folder) as checkpoint:
        passed = Forward(Decoder.of(checkpoint.index, **how), source_weights(checkpoint), ids)
        assert list(passed.run()) == list(range(len(passed.decoder.blocks)))
        with passed.decoder.loaded(passed.decoder.head_names(), passed.weights), torch.inference_mode():
            return passed.decoder.logits(torch.from_numpy(passed.hidden).flatten(0, 1).to(passed.decoder.dtype)).numpy()


def test_block_by_block_gives_the_logits_of_the_whole_model(
    family: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = family
    ids = ids_of(5)
    monkeypatch.setattr(forward_module, "BATCH_TOKENS", 24)  # two windows, so that the last batch is smaller

    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)).logits.flatten(0, 1).numpy()

    np.testing.assert_allclose(logits_of(folder, ids), expected, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_too(family: tuple[Path, Any]) -> None:
    folder, _ = family
    ids = ids_of(2)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)).logits.flatten(0, 1).float().numpy()
    found = logits_of(folder, ids, dtype=torch.bfloat16)

    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.01


def test_bfloat16_is_near_float32(millstone: Path) -> None:
    ids = ids_of(2)

    exact, near = logits_of(millstone, ids), logits_of(millstone, ids, dtype=torch.bfloat16)

    assert 0 < np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.05


def renamed(folder: Path, change: Callable[[str], str | None]) -> None:
    """Store each tensor under another name, or not at all."""
    path = folder / "model.safetensors"
    stored = {new: values for name, values in load_file(path).items() if (new := change(name)) is not None}
    save_file(stored, path, metadata={"format": "pt"})


def test_names_without_the_inner_model_s_prefix_are_known(tmp_path: Path) -> None:
    save_random(tmp_path / "model", "GPT-2")
    expected = logits_of(tmp_path / "model", ids_of(2))

    renamed(tmp_path / "model", lambda name: name.removeprefix("transformer."))

    np.testing.assert_array_equal(logits_of(tmp_path / "model", ids_of(2)), expected)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("Mixtral", lambda name: None if ".experts.11." in name else name, r"makes .*experts.* \[12, .* is \[11, "),
        ("Mixtral", lambda name: None if ".experts.11.w1" in name else name, r"experts\.0\.w1.* do not make .*gate_up"),
        ("Mixtral", lambda name: name.replace(".w1.", ".w9."), r"has no tensor .*experts\.0\.w9"),
        ("Mixtral", lambda name: name.replace("experts.11.w2", "experts.12.w3"), r"do not make .*gate_up_proj"),
        (
            "GPT-NeoX",
            lambda name: name.replace("embed_out", "gpt_neox.embed_out"),
            r"has no tensor gpt_neox\.embed_out",
        ),
    ],
    ids=["an expert is missing", "a part of an expert is missing", "an unknown part", "too many parts", "a name"],
)
def test_experts_and_old_names_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, change: Callable[[str], str | None], reason: str
) -> None:
    save_random(tmp_path / "model", name)
    renamed(tmp_path / "model", change)

    with open_checkpoint(tmp_path / "model") as checkpoint, pytest.raises(ArchitectureUnsupported, match=reason):
        Decoder.of(checkpoint.index)


def test_two_tensors_for_one_place_are_refused(tmp_path: Path) -> None:
    save_random(tmp_path / "model", "GPT-2")
    path = tmp_path / "model" / "model.safetensors"
    stored = load_file(path)
    save_file({**stored, "ln_f.bias": stored["transformer.ln_f.bias"] + 1}, path, metadata={"format": "pt"})

    with (
        open_checkpoint(tmp_path / "model") as checkpoint,
        pytest.raises(ArchitectureUnsupported, match=r"both ln_f\.bias"),
    ):
        Decoder.of(checkpoint.index)


def test_weights_that_lack_an_expert_are_refused_by_its_name(tmp_path: Path) -> None:
    save_random(tmp_path / "model", "Mixtral")
    lost = "model.layers.1.block_sparse_moe.experts.10.w3.weight"
    with open_checkpoint(tmp_path / "model") as checkpoint:
        stored = source_weights(checkpoint)
        passed = Forward(
            Decoder.of(checkpoint.index), lambda names: stored([each for each in names if each != lost]), ids_of(1)
        )

        with pytest.raises(ArchitectureUnsupported, match=f"the weights lack {lost}"):
            list(passed.run())


@pytest.mark.parametrize("device", ["cuda", "tpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(millstone: Path, device: str) -> None:
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("it is there")
    with open_checkpoint(millstone) as checkpoint, pytest.raises(RequestRejected, match="use 'cpu'"):
        Decoder.of(checkpoint.index, device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(millstone: Path) -> None:
    np.testing.assert_allclose(
        logits_of(millstone, ids_of(2), device="cuda"), logits_of(millstone, ids_of(2)), rtol=1e-3, atol=1e-3
    )


def test_no_weight_is_asked_for_twice_or_before_its_block(millstone: Path) -> None:
    asked: list[set[str]] = []
    with open_checkpoint(millstone) as checkpoint:
        stored = source_weights(checkpoint)

        def weights(names: Collection[str]) -> Iterator[tuple[str, FloatArray]]:
            asked.append(set(names) & set(checkpoint.index.tensors))
            return stored(names)

        passed = Forward(Decoder.of(checkpoint.index), weights, ids_of(1))
        list(passed.run())

    assert [sorted({name.split(".")[2] for name in part if "layers" in name}) for part in asked] == [
        [],
        ["0"],
        ["1"],
        ["2"],
        ["3"],
    ]


def test_no_part_keeps_its_weights(millstone: Path) -> None:
    with open_checkpoint(millstone) as checkpoint:
        passed = Forward(Decoder.of(checkpoint.index), source_weights(checkpoint), ids_of(1))
        list(passed.run())

        assert {values.device.type for values in passed.decoder.model.parameters()} == {"meta"}


def test_many_hidden_states_lie_in_a_file_and_are_the_same(
    millstone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits_of(millstone, ids_of(2))
    monkeypatch.setattr(forward_module, "KEPT_BYTES", 0)

    assert isinstance(forward_module.room_for((2, 3), tmp_path), np.memmap)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(logits_of(millstone, ids_of(2)), expected)


def test_blocks_that_are_not_one_list_are_refused(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 0}))

    with open_checkpoint(folder) as checkpoint, pytest.raises(ArchitectureUnsupported):
        Decoder.of(checkpoint.index)
