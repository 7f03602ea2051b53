"""How a request says what is measured."""

from __future__ import annotations

from typing import Any

import pytest

from quantmill.contract.errors import RequestRejected
from quantmill.domain.evaluation import EvaluationOptions


def test_only_what_was_asked_for_is_kept_and_comes_back() -> None:
    options = EvaluationOptions(window=256, tasks=("piqa",))

    assert options.asked() == {"window": 256, "tasks": ["piqa"]}
    assert EvaluationOptions.of(options.asked()) == options
    assert EvaluationOptions().asked() == {}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is not one of float32, bfloat16"),
        ({"window": 1}, "window must be an integer of at least 2, not 1"),
        ({"stride": "8"}, "stride must be an integer of at least 1, not '8'"),
        ({"prompts": -1}, "prompts must be an integer of at least 0"),
        ({"prompts": True}, "prompts must be an integer of at least 0, not True"),
        ({"windows": 4}, "an evaluation has no option windows"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestRejected, match=reason):
        EvaluationOptions.of(given)
