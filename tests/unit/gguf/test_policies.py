"""Which type each tensor gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quantmill_gguf.policies import Choice, Place, choose, more_bits


def test_more_bits_picks_llama_cpp_s_blocks() -> None:
    assert blocks_with_more_bits(32) == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert blocks_with_more_bits(16) == [0, 1, 4, 7, 10, 13, 14, 15]


def blocks_with_more_bits(blocks: int) -> list[int]:
    return [block for block in range(blocks) if more_bits(Place("ffn_down", block, blocks, (256, 256)))]


@pytest.mark.parametrize(
    ("file_type", "role", "block", "type_"),
    [
        ("F16", "attn_v", 0, "F16"),
        ("Q8_0", "ffn_down", 0, "Q8_0"),
        ("Q4_0", "attn_v", 0, "Q4_0"),
        ("Q4_K_S", "attn_v", 3, "Q5_K"),
        ("Q4_K_S", "attn_v", 4, "Q4_K"),
        ("Q4_K_S", "ffn_down", 3, "Q5_K"),
        ("Q4_K_S", "ffn_down", 4, "Q4_K"),
        ("Q4_K_M", "attn_v", 6, "Q6_K"),
        ("Q4_K_M", "attn_v", 7, "Q4_K"),
        ("Q4_K_M", "ffn_down", 31, "Q6_K"),
        ("Q4_K_M", "attn_output", 0, "Q4_K"),
        ("Q5_K_M", "ffn_down", 9, "Q6_K"),
        ("Q5_K_M", "ffn_gate", 9, "Q5_K"),
        ("Q6_K", "attn_q", 0, "Q6_K"),
        ("Q2_K", "attn_v", 0, "Q3_K"),
        ("Q2_K", "attn_q", 0, "Q2_K"),
        ("Q3_K_S", "ffn_down", 0, "Q3_K"),
        ("Q3_K_M", "attn_v", 1, "Q5_K"),
        ("Q3_K_M", "attn_v", 2, "Q4_K"),
        ("Q3_K_M", "ffn_down", 1, "Q5_K"),
        ("Q3_K_M", "ffn_down", 2, "Q4_K"),
        ("Q3_K_L", "attn_output", 31, "Q5_K"),
        ("IQ4_XS", "attn_v", 0, "IQ4_XS"),
        ("IQ4_XS", "ffn_down", 3, "Q5_K"),
        ("IQ4_NL", "ffn_down", 4, "IQ4_NL"),
        ("TQ1_0", "token_embd", 0, "Q4_K"),
        ("BF16", "token_embd", 0, "BF16"),
    ],
)
def test_a_mix_raises_some_blocks(file_type: str, role: str, block: int, type_: str) -> None:
    assert choose(file_type, Place(role, block, 32, (256, 256))).type == type_


@pytest.mark.parametrize(
    ("file_type", "type_"), [("F16", "F16"), ("Q8_0", "Q8_0"), ("Q4_0", "Q6_K"), ("Q4_K_M", "Q6_K")]
)
def test_the_output_matrix_gets_its_own_type(file_type: str, type_: str) -> None:
    assert choose(file_type, Place("output", 0, 32, (512, 256), is_output=True)).type == type_


def test_an_embedding_that_serves_as_output_gets_the_output_s_type_and_says_so() -> None:
    choice = choose("Q4_K_M", Place("token_embd", 0, 32, (512, 256), is_output=True))
    assert choice.type == "Q6_K"
    assert choice.reason.startswith("tied")


def test_attn_v_of_a_70b_model_is_shared_and_gets_more_bits() -> None:
    assert choose("Q4_K_M", Place("attn_v", 13, 80, (256, 256), sharing=8)).type == "Q5_K"
    assert choose("Q2_K", Place("attn_v", 13, 80, (256, 256), sharing=8)).type == "Q5_K"
    assert choose("Q4_K_M", Place("attn_v", 13, 80, (256, 256))).type == "Q4_K"


@pytest.mark.parametrize(
    ("file_type", "cols", "type_"),
    [
        ("Q4_K_M", 288, "Q5_0"),
        ("Q5_K_S", 288, "Q5_1"),
        ("Q4_K_M", 80, "F16"),
        ("Q6_K", 96, "Q8_0"),
        ("Q4_0", 80, "F16"),
        ("Q8_0", 33, "F16"),
        ("Q2_K", 288, "Q4_0"),
        ("TQ1_0", 288, "Q4_0"),
        ("IQ4_XS", 288, "IQ4_NL"),
        ("IQ4_XS", 80, "F16"),
    ],
)
def test_a_row_that_does_not_divide_falls_back_and_says_so(file_type: str, cols: int, type_: str) -> None:
    choice = choose(file_type, Place("attn_q", 0, 32, (256, cols)))
    assert (choice.type, choice.fell_back) == (type_, True)
    assert f"rows of {cols} values" in choice.reason


@pytest.mark.parametrize(("file_type", "type_"), [("Q2_K", "Q4_K"), ("IQ4_XS", "Q5_K"), ("IQ4_NL", "Q5_K")])
def test_attn_v_that_four_heads_share_gets_more_bits(file_type: str, type_: str) -> None:
    assert choose(file_type, Place("attn_v", 9, 32, (256, 256), sharing=4)).type == type_
    assert choose(file_type, Place("attn_v", 9, 32, (256, 256), sharing=3)).type != type_


def test_a_pure_mix_has_one_type_and_still_falls_back() -> None:
    output = Place("output", 0, 32, (512, 256), is_output=True)
    assert choose("Q4_K_M", output, pure=True) == Choice("Q4_K")
    assert choose("Q4_K_M", replace(output, shape=(512, 288)), pure=True).type == "Q5_0"


def test_what_is_asked_for_goes_before_the_mix_and_falls_back_too() -> None:
    place = Place("ffn_down", 0, 32, (256, 288))
    assert choose("Q4_K_M", place, asked=Choice("Q8_0", "asked")) == Choice("Q8_0", "asked")
    assert choose("Q4_K_M", place, asked=Choice("Q2_K", "asked")).type == "Q4_0"


def test_vectors_stay_f32() -> None:
    assert choose("Q4_K_M", Place("attn_norm", 0, 32, (256,))).reason == "norms stay F32"
    assert choose("Q4_K_M", Place("attn_q", 0, 32, (256,))).type == "F32"
