"""What a plan of gptq quantizes, and what it refuses or warns of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.tensors import ModelIndex
from quantmill_gptq.params import GptqParams
from quantmill_gptq.planning import plan

Make = Callable[..., ModelIndex]
UP = "model.layers.0.mlp.up_proj.weight"


def test_a_unit_is_a_block_and_what_is_kept_follows(index: Make) -> None:
    made = plan(index(), GptqParams(group_size=32))

    assert [(unit.key, unit.block, len(unit.tensors)) for unit in made.units[:2]] == [
        ("block.0", 0, 7),
        ("block.1", 1, 7),
    ]
    assert all(unit.tensors == (unit.key,) and unit.block is None for unit in made.units[2:])
    assert [row.name for row in made.tensors] == [name for unit in made.units for name in unit.tensors]


def test_blocks_are_walked_in_the_order_of_their_numbers(index: Make) -> None:
    more = {f"model.layers.{number}.mlp.up_proj.weight": (96, 64) for number in (10, 2)}

    made = plan(index(**more), GptqParams(group_size=32))

    assert [unit.block for unit in made.units if unit.block is not None] == [0, 1, 2, 10]


def test_the_head_is_one_block_more(index: Make) -> None:
    made = plan(index(), GptqParams(group_size=32, lm_head=True))

    assert (made.units[2].tensors, made.units[2].block) == (("lm_head.weight",), 2)


def test_the_source_model_s_pass_is_made_block_by_block(index: Make) -> None:
    made = plan(index(), GptqParams(group_size=32, predecessors="source"))

    assert made.calibration is not None
    assert (made.calibration.of_blocks, made.calibration.of_source) == ((), ("hessian",))
    assert set(made.calibration.weights) == {row.name for row in made.tensors if row.action == "quantize"}
    assert made.calibration.walks_the_source(made.units)
    assert [unit.block for unit in made.units if unit.block is not None] == [0, 1]


@pytest.mark.parametrize(
    ("asked", "scheme", "nbytes"),
    [
        # codes, scales and zeros of 2 groups of 96 outputs, g_idx of 64 inputs
        ({"group_size": 32}, "INT4-g32", 96 * 64 // 2 + 2 * (96 * 2 + 96 // 2) + 4 * 64),
        ({"group_size": -1, "bits": 3}, "INT3-row", 96 * 64 * 3 // 8 + 96 * 2 + 96 * 3 // 8 + 4 * 64),
        ({"group_size": 32, "format": "compressed-tensors"}, "INT4-g32", 96 * 64 // 2 + 2 * 96 * 2 + 16),
        (
            {"group_size": 64, "bits": 8, "sym": False, "format": "compressed-tensors"},
            "INT8-g64-asym",
            96 * 64 + 96 * 2 + 96 + 16,
        ),
    ],
)
def test_the_bytes_are_those_of_the_layout(index: Make, asked: dict[str, Any], scheme: str, nbytes: int) -> None:
    row = plan(index(), GptqParams(**asked, skip_modules=("*.down_proj",))).by_name[UP]

    assert (row.scheme, row.nbytes) == (scheme, nbytes)


@pytest.mark.parametrize(
    ("asked", "changed", "pointer", "remedy"),
    [
        ({"group_size": 128}, {}, "/params/group_size", "choose another group_size"),
        ({"group_size": -1}, {UP: (90, 64)}, "/params/format", "compressed-tensors"),
        ({"group_size": -1}, {UP: (96, 60)}, "/params/format", "multiples of 32"),
    ],
)
def test_a_layer_that_does_not_divide_is_refused_by_name(
    index: Make, asked: dict[str, Any], changed: dict[str, tuple[int, ...]], pointer: str, remedy: str
) -> None:
    with pytest.raises(ParamsRejected, match=remedy) as refused:
        plan(index(**changed), GptqParams(**asked))

    assert refused.value.fields["errors"][0]["pointer"] == pointer


def test_a_tied_head_cannot_be_asked_for(index: Make) -> None:
    with pytest.raises(ParamsRejected, match="head is its embedding"):
        plan(index(tied=True), GptqParams(group_size=32, lm_head=True))


def test_a_head_that_was_not_asked_for_says_so(index: Make) -> None:
    row = plan(index(), GptqParams(group_size=32)).by_name["lm_head.weight"]

    assert (row.action, row.reason) == ("keep", "lm_head: not asked for")


@pytest.mark.parametrize(
    ("asked", "warning"),
    [
        ({"desc_act": True}, "vLLM 0.32 loads no groups out of order"),
        ({"bits": 3}, "vLLM 0.32 loads 4 and 8 symmetric bits"),
        ({"sym": False, "format": "gptq_v2"}, "vLLM 0.32 loads 4 and 8 symmetric bits"),
        ({"lm_head": True}, "transformers loads no quantized head"),
        ({"skip_modules": ("*.q_proj",)}, "quantized all or none"),
    ],
)
def test_what_a_program_cannot_load_is_in_the_plan(index: Make, asked: dict[str, Any], warning: str) -> None:
    assert any(warning in each for each in plan(index(), GptqParams(group_size=32, **asked)).warnings)


def test_what_every_program_loads_needs_no_warning(index: Make) -> None:
    assert plan(index(), GptqParams(group_size=32)).warnings == ()
