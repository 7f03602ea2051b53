"""What is refused when a job is submitted, and what the plan says of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.tensors import ModelIndex, Plan, TensorInfo
from quantmill_hqq.params import HqqParams
from quantmill_hqq.planning import plan
from quantmill_hqq.plugin import HQQ

BLOCK = "model.layers.0"
SHAPES = {
    f"{BLOCK}.self_attn.q_proj": (96, 96),
    f"{BLOCK}.self_attn.k_proj": (33, 96),
    f"{BLOCK}.mlp.down_proj": (96, 320),
    "model.embed_tokens": (128, 96),
}
COMPRESSED = {"format": "compressed-tensors", "skip_modules": ("*.k_proj",)}


def index(dtype: str = "BF16", **shapes: tuple[int, int]) -> ModelIndex:
    named = {f"{name}.weight": shape for name, shape in (SHAPES | shapes).items()}
    tensors = {name: TensorInfo(name, dtype, shape, 2 * shape[0] * shape[1]) for name, shape in sorted(named.items())}
    return ModelIndex({"architectures": ["LlamaForCausalLM"]}, tensors, {}, {})


def planned(**params: Any) -> Plan:
    return plan(index(), HqqParams(**params))


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (
            {"group_size": 128, "skip_modules": ("*.k_proj",)},
            "q_proj is 96 x 96: groups of 128 are longer than its rows of 96",
        ),
        ({"group_size": 64, "axis": 0}, "k_proj is 33 x 96: groups of 64 are longer than its columns of 33"),
        ({"group_size": 64}, "k_proj is 33 x 96: groups of 64 do not divide its 3168 values"),
        ({"group_size": 32}, "k_proj is 33 x 96: 2 rows of 4 bits share a byte, and grouped it has 99 rows"),
        ({"group_size": -1, "axis": 0}, "k_proj is 33 x 96: 2 rows of 4 bits share a byte, and grouped it has 33 rows"),
        ({**COMPRESSED, "skip_modules": (), "group_size": 32}, "8 codes of 4 bits in a word"),
        ({**COMPRESSED, "group_size": 64}, "q_proj is 96 x 96: groups of 64 do not divide its rows of 96"),
        ({"overrides": {"*.up_proj": {"nbits": 8}}, "skip_modules": ("*.k_proj",)}, "matches no Linear"),
        (
            {"nbits": 3, "group_size": 32, "overrides": {"*.q_proj": {"nbits": 8}, "*attn*": {"nbits": 3}}},
            "different settings",
        ),
        (
            {**COMPRESSED, "group_size": 32, "overrides": {"*.q_proj": {"nbits": 8}}, "skip_modules": ()},
            "8 codes of 4 bits",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_with_the_reason(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(ParamsRejected, match=r"hqq: ") as refused:
        planned(**params)

    assert reason in refused.value.detail
    assert refused.value.fields["errors"][0]["pointer"].startswith("/params/")


@pytest.mark.parametrize(
    "params",
    [
        {"nbits": 7},
        {"group_size": 48},
        {"axis": 2},
        {"lp_norm": 0},
        {"lp_norm": 1.5},
        {"beta": 0},
        {"iters": 0},
        {"format": "compressed-tensors", "axis": 0},
        {"format": "compressed-tensors", "nbits": 3},
        {"format": "compressed-tensors", "round_zero": False},
        {"format": "compressed-tensors", "compute_dtype": "float16"},
        {"format": "compressed-tensors", "overrides": {"*": {"nbits": 2}}},
        {"overrides": {"*": {"bits": 2}}},
        {"overrides": {"a/b": {"nbits": 2}}},
    ],
)
def test_parameters_that_no_format_knows_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HqqParams(**params)


def test_fused_modules_need_one_scheme_for_compressed_tensors() -> None:
    params = HqqParams(format="compressed-tensors", group_size=32, overrides={"*.q_proj": {"nbits": 8}})

    with pytest.raises(ParamsRejected, match="in one product"):
        plan(index(**{f"{BLOCK}.self_attn.k_proj": (32, 96)}), params)


def test_a_kept_module_whose_name_another_one_contains_is_refused() -> None:
    shapes = {f"{BLOCK}.mlp.gate": (8, 96), f"{BLOCK}.mlp.gate_proj": (96, 96)}

    with pytest.raises(ParamsRejected, match="would skip"):
        plan(index(**shapes), HqqParams(group_size=16, nbits=3))


@pytest.mark.parametrize(
    ("params", "schemes"),
    [
        ({"nbits": 8}, {"q_proj": "HQQ8-64", "down_proj": "HQQ8-64", "k_proj": "BF16"}),
        ({"group_size": -1}, {"q_proj": "HQQ4-ROW", "down_proj": "HQQ4-ROW"}),
        ({"group_size": -1, "axis": 0}, {"q_proj": "HQQ4-COL", "down_proj": "HQQ4-COL"}),
        ({"axis": 0, "group_size": 32}, {"q_proj": "HQQ4-32-AXIS0", "down_proj": "HQQ4-32-AXIS0"}),
        (
            {"overrides": {"*.down_proj": {"nbits": 3, "group_size": 16}}},
            {"q_proj": "HQQ4-64", "down_proj": "HQQ3-16"},
        ),
    ],
)
def test_the_plan_names_bits_groups_and_axis(params: dict[str, Any], schemes: dict[str, str]) -> None:
    rows = planned(skip_modules=("*.k_proj",), **params).tensors

    found = {row.name.split(".")[-2]: row.scheme for row in rows}
    assert schemes.items() <= found.items()


def test_the_plan_says_that_compressed_tensors_has_whole_zeros() -> None:
    whole = index(**{f"{BLOCK}.self_attn.k_proj": (32, 96)})
    params = HqqParams(format="compressed-tensors", group_size=32, overrides={"*.down_proj": {"nbits": 8}})

    found = plan(whole, params)

    schemes = {row.name.split(".")[-2]: row.scheme for row in found.tensors if row.action == "quantize"}
    assert schemes == {"q_proj": "INT4-32-ASYM", "k_proj": "INT4-32-ASYM", "down_proj": "INT8-32-ASYM"}
    assert "whole numbers" in found.warnings[0]
    assert planned(skip_modules=("*.k_proj",)).warnings == ()


@pytest.mark.parametrize(
    ("layout", "commands"),
    [
        ("hqq", ["AutoModelForCausalLM.from_pretrained('{folder}')"]),
        (
            "compressed-tensors",
            [
                "AutoModelForCausalLM.from_pretrained('{folder}', "
                "quantization_config=CompressedTensorsConfig(dequantize=True))",
                "vllm serve {folder}",
            ],
        ),
    ],
)
def test_a_user_is_told_what_loads_the_format(layout: str, commands: list[str]) -> None:
    params = HqqParams(format=layout).model_dump(mode="json")

    assert [runtime.command for runtime in HQQ.runtimes_of(params)] == commands


def test_the_bytes_of_a_weight_are_those_of_its_arrays() -> None:
    row = planned(skip_modules=("*.k_proj",)).by_name[f"{BLOCK}.self_attn.q_proj.weight"]

    codes, scales, texts = 96 * 96 // 2, 2 * 2 * 96 * 96 // 64, len("4bit_u8") + len("torch.uint8torch.bfloat16")
    assert row.nbytes == codes + scales + texts + 16 + 3 * 4 + 9  # shape, three integers, nine flags
