"""The sizes that the matcher is told are those of the mixes on Llama-3-8B."""

from __future__ import annotations

from typing import get_args

import pytest

from quantmill_gguf.facts import GGUF_FACTS, SIZES
from quantmill_gguf.params import FileType
from quantmill_gguf.policies import Place, choose
from quantmill_gguf.types import TYPES

BLOCKS, SHARING, VOCABULARY, HIDDEN = 32, 4, 128256, 4096
SHAPES = {
    "attn_q": (4096, 4096),
    "attn_k": (1024, 4096),
    "attn_v": (1024, 4096),
    "attn_output": (4096, 4096),
    "ffn_gate": (14336, 4096),
    "ffn_up": (14336, 4096),
    "ffn_down": (4096, 14336),
}


def bits(type_: str, place: Place) -> int:
    """Of the whole tensor."""
    rows, cols = place.shape
    return 8 * rows * TYPES[choose(type_, place).type].row_bytes(cols)


@pytest.mark.parametrize("type_", SIZES)
def test_a_type_s_bits_are_its_mix_s(type_: str) -> None:
    _, linear, embedding, output, _ = SIZES[type_]
    places = [Place(role, n, BLOCKS, shape, sharing=SHARING) for n in range(BLOCKS) for role, shape in SHAPES.items()]
    values = BLOCKS * sum(rows * cols for rows, cols in SHAPES.values())
    ends = (VOCABULARY, HIDDEN)
    assert linear == pytest.approx(sum(bits(type_, place) for place in places) / values, abs=0.001)
    assert embedding == bits(type_, Place("token_embd", 0, BLOCKS, ends)) / (VOCABULARY * HIDDEN)
    assert output == bits(type_, Place("output", 0, BLOCKS, ends, is_output=True)) / (VOCABULARY * HIDDEN)


def test_all_types_are_told_but_those_that_suit_few_models() -> None:
    told = {scheme.params["type"] for scheme in GGUF_FACTS.schemes}
    assert told == {*get_args(FileType)} - {"Q2_K_S", "MXFP4_MOE", "TQ1_0", "TQ2_0"}
