"""Scales that go where the table says leave what transformers' own models compute as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.random_models import RANDOM_MODELS

from quantmill.calibration import source_weights
from quantmill.calibration.decoder import Decoder
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.linears import ARCHITECTURES
from quantmill.contract.scaling import FAMILIES
from quantmill_awq.params import AwqParams
from quantmill_awq.planning import NO_PRODUCER, plan

PARAMS = AwqParams(group_size=32, format="compressed-tensors")
# model -> folds of its first block: norms' and Linears'
EXPECTED = {
    "llama": (2, 1),
    "llama, wide heads and biases": (2, 1),
    "qwen2": (2, 1),
    "qwen3": (2, 1),
    "qwen2moe": (1, 5),
    "qwen3moe": (1, 4),
    "mixtral, 4 experts": (1, 4),
    "gemma2": (2, 1),
    "gemma3": (2, 1),
    "phi3": (2, 1),
    "granite": (2, 1),
    "olmo2": (0, 1),
    "stablelm": (2, 1),
    "stablelm, parallel": (1, 1),
    "starcoder2": (2, 0),
    "gptneox": (2, 0),
    "gptneox, not parallel": (2, 0),
}


def test_every_architecture_with_linears_has_its_row() -> None:
    assert {name.split()[0] for name in FAMILIES} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", EXPECTED)
def test_scales_leave_the_outputs_as_they_were(name: str, tmp_path: Path) -> None:
    folder = RANDOM_MODELS[name].write(tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        planned = plan(checkpoint.index, PARAMS)
        norms = [fold for fold in planned.folds if len(planned.by_name[fold.producer].shape) == 1]
        first = [
            sum(".layers.0." in fold.producer for fold in folds) for folds in (norms, set(planned.folds) - set(norms))
        ]
        weights = {each: checkpoint.tensor(each).values.astype(np.float32) for each in checkpoint.index.tensors}
        rng = np.random.default_rng(0)
        for fold in planned.folds:
            scales = rng.uniform(0.5, 2, planned.by_name[fold.consumers[0]].shape[1]).astype(np.float32)
            own = slice(fold.first_row, fold.first_row + len(scales))
            divided = weights[fold.producer][own].T + np.float32(fold.offset)
            weights[fold.producer][own] = (divided / scales - np.float32(fold.offset)).T
            if fold.bias:
                weights[fold.bias][own] /= scales
            for consumer in fold.consumers:
                weights[consumer] *= scales
        decoder = Decoder.of(checkpoint.index)
        ids = torch.from_numpy(rng.integers(2, 300, (2, 24)))
        with torch.inference_mode():
            with decoder.whole(source_weights(checkpoint)) as model:
                before = model(ids, use_cache=False).logits
            with decoder.whole(lambda names: ((each, weights[each]) for each in names if each in weights)) as model:
                after = model(ids, use_cache=False).logits

    assert tuple(first) == EXPECTED[name]
    assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))


def test_a_linear_without_a_producer_says_so(tmp_path: Path) -> None:
    folder = RANDOM_MODELS["olmo2"].write(tmp_path / "model", filled=False)
    with open_checkpoint(folder) as checkpoint:
        planned = plan(checkpoint.index, PARAMS)

    assert planned.by_name["model.layers.0.self_attn.q_proj.weight"].reason == NO_PRODUCER
    assert planned.by_name["model.layers.0.mlp.down_proj.weight"].reason == ""


def test_a_group_of_which_one_keeps_its_weights_has_no_scales(tmp_path: Path) -> None:
    folder = RANDOM_MODELS["llama"].write(tmp_path / "model", filled=False)
    with open_checkpoint(folder) as checkpoint:
        planned = plan(checkpoint.index, PARAMS.model_copy(update={"skip_modules": ("*.up_proj",)}))

    assert {fold.producer.split(".")[3] for fold in planned.folds} == {"input_layernorm"}
    assert planned.by_name["model.layers.0.mlp.gate_proj.weight"].reason == NO_PRODUCER
    assert planned.by_name["model.layers.0.mlp.down_proj.weight"].reason == NO_PRODUCER
