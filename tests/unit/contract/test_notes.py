"""What a method may say of a tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from quantmill.contract.errors import PluginBroken
from quantmill.contract.session import Note, checked_note
from quantmill.contract.tensors import Plan, TensorPlan, Unit

PLAN = Plan((TensorPlan("a", (1, 32), "F32", "quantize", "Q8_0", "a", 34),), (Unit("a", ("a",)),), 0)


def test_a_note_is_of_a_tensor_of_the_plan() -> None:
    assert checked_note(PLAN, "a", "damping raised", {"used": 0.06, "why": "x"}) == Note(
        "a", "damping raised", {"used": 0.06, "why": "x"}
    )
    with pytest.raises(PluginBroken, match="'b', which the plan does not have"):
        checked_note(PLAN, "b", "damping raised", {})


@pytest.mark.parametrize("value", [math.nan, math.inf, None, [1], np.float32(1)])
def test_figures_are_plain_finite_numbers_or_texts(value: Any) -> None:
    with pytest.raises(PluginBroken, match=r"'damping raised' was noted of 'a' with used = "):
        checked_note(PLAN, "a", "damping raised", {"used": value})
