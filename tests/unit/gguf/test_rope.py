"""Rope as config.json asks for it; the literal divisors are those of transformers' llama3 rope."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from quantmill.checkpoints import Checkpoint
from quantmill.contract.errors import SourceRejected
from quantmill.contract.tensors import ModelIndex
from quantmill_gguf.families import describe
from quantmill_gguf.families.config import Config
from quantmill_gguf.families.rope import Rope, llama3_divisors, longrope_magnitude, rope_of

Change = Callable[..., ModelIndex]
LLAMA_3 = Rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
ALL = ("default", "linear", "llama3", "longrope")


def rope(values: dict[str, Any], head_dim: int = 64) -> Rope:
    return rope_of(Config({"max_position_embeddings": 512, **values}), ALL, head_dim)


def test_llama_3_slows_long_waves_and_keeps_short_ones() -> None:
    divisors = llama3_divisors(LLAMA_3, 128)
    assert len(divisors) == 64
    assert divisors[:29] == [1.0] * 29
    assert divisors[35:] == [8.0] * 29
    assert [round(value, 4) for value in divisors[29:35]] == [1.2075, 1.5534, 2.0263, 2.6945, 3.6843, 5.2573]


def test_transformers_4_and_5_say_rope_differently_and_mean_the_same(with_config: Change) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    before = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **scaling}}
    after = {"rope_theta": None, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", **scaling}}
    for written in (before, after):
        assert describe(with_config(**written)).model.rope == LLAMA_3


def test_the_base_defaults_to_ten_thousand(small: Checkpoint, with_config: Change) -> None:
    found = describe(with_config(rope_theta=None)).model.rope
    assert found is not None
    assert math.isclose(found.base, 10000.0)


def test_blocks_with_a_sliding_window_may_have_a_base_of_their_own() -> None:
    by_kind = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert rope({"rope_parameters": by_kind}) == Rope(1e6, "default", local_base=1e4)
    assert rope({"rope_theta": 1e6, "rope_local_base_freq": 1e4}) == Rope(1e6, "default", local_base=1e4)


def test_longrope_has_two_lists_of_divisors_and_a_magnitude() -> None:
    factors = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    found = rope({"original_max_position_embeddings": 128, "rope_scaling": {"type": "su", **factors}})
    assert (found.type, found.factor, found.original_context) == ("longrope", 4.0, 128)
    assert (found.short[0], found.long[31]) == (1.0, 2.0)
    assert round(longrope_magnitude(found), 6) == round(math.sqrt(1 + math.log(4) / math.log(128)), 6)
    assert longrope_magnitude(rope({"rope_scaling": {"type": "longrope", **factors}})) == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partial_rotary_factor": 1.5}, "is above 1"),
        ({"partial_rotary_factor": 0.01}, "an even number of a head's 0 values"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "long_factor must be a list of 32 numbers"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [0.0] * 32}}, "long_factor must be a positive number"),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 4.0}}, "must be above"),
        ({"rope_parameters": {"full_attention": {}, "sliding_attention": []}}, "sliding_attention must be an object"),
    ],
)
def test_impossible_rope_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceRejected, match=message):
        rope(values)
