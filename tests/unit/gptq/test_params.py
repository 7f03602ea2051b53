"""What may be asked of gptq, and what no program could load."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from quantmill_gptq.params import GptqParams


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"sym": False}, "cannot hold 0"),
        ({"desc_act": True, "format": "compressed-tensors"}, "static_groups=true"),
        ({"desc_act": True, "act_group_aware": True}, "two orders"),
        ({"predecessors": "source", "true_sequential": True}, "predecessors=source does not"),
        ({"bits": 5}, "2, 3, 4 or 8"),
        ({"group_size": 48}, "-1, 32, 64 or 128"),
        ({"damp_percent": 0}, "greater than 0"),
        ({"damp_percent": 1}, "less than 1"),
        ({"mse": -1}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        GptqParams(**asked)


@pytest.mark.parametrize(
    ("asked", "order", "reorders_groups"),
    [
        ({}, "descending", False),
        ({"static_groups": False}, "within_groups", False),
        ({"act_group_aware": False}, "checkpoint", False),
        ({"desc_act": True}, "descending", True),
        ({"desc_act": True, "static_groups": True}, "descending", False),
        ({"desc_act": True, "group_size": -1}, "descending", False),
        ({"desc_act": True, "group_size": -1, "format": "compressed-tensors"}, "descending", False),
    ],
)
def test_the_order_is_what_the_switches_say(asked: dict[str, Any], order: str, reorders_groups: bool) -> None:
    params = GptqParams(**asked)

    assert (params.order, params.reorders_groups) == (order, reorders_groups)
