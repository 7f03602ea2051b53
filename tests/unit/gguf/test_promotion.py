"""More bits for single tensors."""

from __future__ import annotations

import pytest

from quantmill.checkpoints import Checkpoint
from quantmill_gguf.params import GgufParams
from quantmill_gguf.planning import plan
from quantmill_gguf.promotion import LARGER, promote
from quantmill_gguf.types import TYPES

DOWN0 = "model.layers.0.mlp.down_proj.weight"


def promoted(checkpoint: Checkpoint, *names: str, **given: object) -> tuple[GgufParams, dict[str, str]]:
    """The parameters after it, and the scheme of each tensor that they give another one."""
    params = GgufParams.model_validate(given)
    before = plan(checkpoint.index, params)
    change = promote(checkpoint.index, before, params, names)
    after = GgufParams.model_validate({**params.model_dump(mode="json"), **change})
    rows = plan(checkpoint.index, after).tensors
    return after, {row.name: row.scheme for row in rows if row.scheme != before.by_name[row.name].scheme}


def test_a_tensor_gets_the_next_larger_type_and_all_others_stay(small: Checkpoint) -> None:
    assert promoted(small, DOWN0, type="Q4_K_S")[1] == {DOWN0: "Q5_K"}
    assert promoted(small, DOWN0, type="Q4_0")[1] == {DOWN0: "Q5_K"}


def test_a_tensor_can_be_promoted_again_up_to_the_source_s_dtype(small: Checkpoint) -> None:
    seen, params = [], GgufParams(type="Q4_0")
    for _ in range(5):
        params, changed = promoted(small, DOWN0, **params.model_dump(mode="json"))
        seen += changed.values()

    assert seen == ["Q5_K", "Q6_K", "Q8_0", small.index.tensors[DOWN0].dtype]


def test_what_a_pattern_of_the_user_s_gives_a_type_keeps_it(small: Checkpoint) -> None:
    asked = {"*.down_proj.weight": "Q4_K"}

    params, changed = promoted(small, DOWN0, type="Q4_0", overrides=asked)

    assert (params.overrides, changed) == (asked, {})


def test_a_budget_has_nothing_to_give(small: Checkpoint) -> None:
    params = GgufParams(target_bpw=5)

    assert promote(small.index, plan(small.index, params), params, [DOWN0]) == {}


@pytest.mark.parametrize(("smaller", "larger"), LARGER.items())
def test_the_larger_type_takes_more_bits(smaller: str, larger: str) -> None:
    bits = {name: TYPES[name].row_bytes(256) for name in (smaller, larger)}

    assert bits[smaller] < bits[larger]
