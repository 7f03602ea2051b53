"""Types by name, and the two parameters for the embedding and the output matrix."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from quantmill.checkpoints import Checkpoint
from quantmill.contract.errors import ParamsRejected
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan


def schemes(checkpoint: Checkpoint, **params: object) -> dict[str, str]:
    planned = plan(checkpoint.index, GgufParams.model_validate(params))
    return {row.output.removesuffix(".weight"): row.scheme for row in planned.tensors}


@pytest.mark.parametrize("pattern", ["blk.?.ffn_down.weight", "*.mlp.down_proj.weight", "blk.[0-9].ffn_d*"])
def test_a_pattern_gives_its_type_by_either_name(small: Checkpoint, pattern: str) -> None:
    types = schemes(small, type="Q4_K_S", overrides={pattern: "Q8_0"})
    assert (types["blk.0.ffn_down"], types["blk.0.ffn_up"]) == ("Q8_0", "Q4_K")


def test_an_override_says_so_and_falls_back(small: Checkpoint) -> None:
    params = GgufParams(type="F16", overrides={"output.weight": "MXFP4"})
    row = plan(small.index, params).by_name["lm_head.weight"]
    assert (row.scheme, row.action, row.reason) == ("MXFP4", "quantize", "overrides give output.weight MXFP4")


def test_vectors_stay_f32_whatever_a_pattern_says(small: Checkpoint) -> None:
    types = schemes(small, overrides={"blk.0.*": "Q8_0"})
    assert (types["blk.0.attn_norm"], types["blk.0.attn_q"]) == ("F32", "Q8_0")


@pytest.mark.parametrize("pattern", ["blk.7.*", "BLK.0.*", "ffn_down", "blk.0.attn_norm.weight"])
def test_a_pattern_that_matches_no_matrix_is_refused(small: Checkpoint, pattern: str) -> None:
    with pytest.raises(
        ParamsRejected, match=r"matches no matrix of this model; its matrices are token_embd\.weight"
    ) as e:
        schemes(small, overrides={pattern: "Q8_0"})
    assert e.value.fields["errors"][0]["pointer"] == f"/params/overrides/{pattern}"


def test_two_patterns_may_not_give_one_tensor_two_types(small: Checkpoint) -> None:
    with pytest.raises(ParamsRejected, match=r"give blk\.0\.ffn_down\.weight different types"):
        schemes(small, overrides={"blk.*.ffn_*": "Q5_K", "*ffn_down.weight": "Q6_K"})
    assert schemes(small, overrides={"blk.*.ffn_*": "Q6_K", "*ffn_down.weight": "Q6_K"})["blk.0.ffn_down"] == "Q6_K"


@pytest.mark.parametrize(
    "overrides", [{"": "Q8_0"}, {"a b": "Q8_0"}, {"x" * 201: "Q8_0"}, {"*": "Q9"}, {"*": "Q4_K_M"}]
)
def test_an_impossible_override_is_refused(overrides: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        GgufParams.model_validate({"overrides": overrides})


def test_embedding_and_output_have_parameters_of_their_own(small: Checkpoint) -> None:
    types = schemes(small, type="Q2_K", output_type="Q8_0", token_embedding_type="Q4_1")
    assert (types["output"], types["token_embd"], types["blk.0.attn_q"]) == ("Q8_0", "Q4_1", "Q2_K")


def test_an_embedding_that_serves_as_output_takes_its_own_parameter_first(millstone: Checkpoint) -> None:
    assert schemes(millstone, output_type="Q8_0")["token_embd"] == "Q8_0"
    assert schemes(millstone, output_type="Q8_0", token_embedding_type="Q5_0")["token_embd"] == "Q5_0"


def test_a_pure_file_has_one_type(small: Checkpoint) -> None:
    assert set(schemes(small, type="Q3_K_M", pure=True).values()) == {"Q3_K", "F32"}
