"""Rope scaling; the literal divisors are those of transformers' llama3 rope."""

from __future__ import annotations

import math

from quantmill.checkpoints import Checkpoint
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.architectures import Rope, model_of, rope_divisors

LLAMA_3 = Rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)


def test_llama_3_slows_long_waves_and_keeps_short_ones() -> None:
    divisors = rope_divisors(LLAMA_3, 128)
    assert len(divisors) == 64
    assert divisors[:29] == [1.0] * 29
    assert divisors[35:] == [8.0] * 29
    assert [round(value, 4) for value in divisors[29:35]] == [1.2075, 1.5534, 2.0263, 2.6945, 3.6843, 5.2573]


def test_transformers_4_and_5_say_rope_differently_and_mean_the_same(small: Checkpoint) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    before = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **scaling}}
    after = {"rope_theta": None, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", **scaling}}
    for written in (before, after):
        config = {**small.index.config, **written}
        assert model_of(ModelIndex(config, small.index.tensors, {}, {})).rope == LLAMA_3


def test_the_base_defaults_to_ten_thousand(small: Checkpoint) -> None:
    config = {key: value for key, value in small.index.config.items() if key != "rope_theta"}
    assert math.isclose(model_of(ModelIndex(config, small.index.tensors, {}, {})).rope.base, 10000.0)
