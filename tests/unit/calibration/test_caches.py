"""What attentions cache, block by block, is what transformers' own cache holds after the whole model has run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.evaluation.test_forward import save_random
from transformers import DynamicCache

from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import open_checkpoint
from quantmill.contract.calibration import CalibrationNeed, Statistic, cached_names
from quantmill.contract.errors import ArchitectureUnsupported, CalibrationMissing
from quantmill.contract.tensors import ModelIndex, Plan, TensorPlan, Unit

FAMILIES = ("Llama", "Mixtral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi3", "StableLM")
LENGTHS = (12, 12, 7, 3)


def windows() -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, 64, length) for length in LENGTHS]


def plan_of(
    index: ModelIndex,
    caches: tuple[str, ...],
    weights: tuple[str, ...] = (),
    kinds: tuple[Statistic, ...] = ("absmax", "second_moment"),
) -> Plan:
    info = next(iter(index.tensors.values()))
    row = TensorPlan(info.name, info.shape, info.dtype, "keep", info.dtype, info.name, info.nbytes, "a test")
    return Plan((row,), (Unit("all", (row.name,)),), 0, calibration=CalibrationNeed(kinds, weights, caches=caches))


def reference(model: Any) -> list[dict[str, np.ndarray]]:
    """Of each block keys and values of all windows, (tokens, heads * head_dim)."""
    found: list[dict[str, list[np.ndarray]]] = []
    for ids in windows():
        cache = DynamicCache()  # one that keeps every token, whatever the model's windows are
        with torch.no_grad():
            model(torch.from_numpy(ids[None]), past_key_values=cache, use_cache=True)
        found = found or [{"keys": [], "values": []} for _ in cache.layers]
        for seen, layer in zip(found, cache.layers, strict=True):
            for name in seen:
                seen[name].append(getattr(layer, name)[0].transpose(0, 1).flatten(1).numpy())
    return [{name: np.concatenate(states) for name, states in seen.items()} for seen in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_those_of_transformers_cache(name: str, tmp_path: Path) -> None:
    wanted = reference(save_random(tmp_path / "model", name))
    attentions = tuple(f"model.layers.{number}.self_attn" for number in range(len(wanted)))

    with (
        open_checkpoint(tmp_path / "model") as source,
        calibrate(source, plan_of(source.index, attentions), windows(), folder=tmp_path, threads=2) as engine,
    ):
        found = [[engine.statistics(each) for each in cached_names(attention)] for attention in attentions]

    for states, seen in zip(found, wanted, strict=True):
        for statistics, values in zip(states, seen.values(), strict=True):
            assert statistics.tokens == sum(LENGTHS)
            np.testing.assert_allclose(statistics.absmax, np.abs(values).max(0), rtol=1e-4)
            np.testing.assert_allclose(statistics.second_moment, (values**2).mean(0), rtol=1e-3)


def test_weights_statistics_are_the_same_with_them_and_threads_change_nothing(tmp_path: Path) -> None:
    save_random(tmp_path / "model", "Llama")
    attention, weight = "model.layers.1.self_attn", "model.layers.1.mlp.down_proj.weight"

    def gathered(folder: str, caches: tuple[str, ...], threads: int) -> list[np.ndarray]:
        (tmp_path / folder).mkdir()
        with (
            open_checkpoint(tmp_path / "model") as source,
            calibrate(
                source, plan_of(source.index, caches, (weight,)), windows(), folder=tmp_path / folder, threads=threads
            ) as engine,
        ):
            names = [weight, *(each for name in caches for each in cached_names(name))]
            return [np.array(engine.statistics(name).second_moment) for name in names]

    alone, one, three = gathered("a", (), 1), gathered("b", (attention,), 1), gathered("c", (attention,), 3)

    assert np.array_equal(alone[0], one[0])
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.parametrize(
    ("family", "caches", "asked", "error"),
    [
        ("Llama", ("model.layers.0.self_attn",), "model.layers.1.self_attn.keys", CalibrationMissing),
        ("Llama", ("model.layers.9.self_attn",), "model.layers.9.self_attn.keys", CalibrationMissing),
        ("GPT-NeoX", ("gpt_neox.layers.0.attention",), "gpt_neox.layers.0.attention.keys", ArchitectureUnsupported),
    ],
)
def test_what_is_not_there_is_refused(
    family: str, caches: tuple[str, ...], asked: str, error: type[Exception], tmp_path: Path
) -> None:
    save_random(tmp_path / "model", family)
    with (
        open_checkpoint(tmp_path / "model") as source,
        calibrate(source, plan_of(source.index, caches), windows(), folder=tmp_path) as engine,
        pytest.raises(error),
    ):
        engine.statistics(asked)


def test_a_need_survives_json() -> None:
    need = CalibrationNeed(("absmax",), ("a.weight",), (), ("model.layers.0.self_attn",))

    assert CalibrationNeed.from_json(json.loads(json.dumps(need.to_json()))) == need
    assert CalibrationNeed.from_json({"of_source": ["absmax"], "weights": [], "of_blocks": []}).caches == ()
