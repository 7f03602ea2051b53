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
from transformers import AutoConfig, AutoModelForCausalLM

from quantmill.calibration import forward as forward_module
from quantmill.calibration import source_weights
from quantmill.calibration.decoder import Decoder
from quantmill.calibration.forward import Forward
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.tensors import FloatArray

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "llama, long": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": {"sliding_window": 5},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "gemma2": {"sliding_window": 5, "head_dim": 8, "final_logit_softcapping": 3.0},
    "phi3": {},
    "granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "olmo2": {},
}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A checkpoint with random weights, and transformers' own model of it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{"model_type": request.param, **SMALL, **FAMILIES[request.param]})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for values in model.parameters():
            values.add_(0.2 * torch.randn_like(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


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


def test_bfloat16_is_near(millstone: Path) -> None:
    ids = ids_of(2)

    exact, near = logits_of(millstone, ids), logits_of(millstone, ids, dtype=torch.bfloat16)

    assert near.dtype == np.float32
    assert 0 < np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.05


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
    from quantmill.contract.errors import ArchitectureUnsupported

    folder = make_model()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 0}))

    with open_checkpoint(folder) as checkpoint, pytest.raises(ArchitectureUnsupported):
        Decoder.of(checkpoint.index)
