"""Files that parameters name."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from quantmill.contract.inputs import InputFile, InputPath, may_be_folder, named_files


class Params(BaseModel):
    matrix: Literal["none", "auto"] | InputFile = "none"
    text: InputFile | None = None
    samples: InputPath | None = None
    name: str = ""


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, {}),
        ({"matrix": "none", "name": "a.txt"}, {}),
        ({"matrix": "auto", "text": None}, {}),
        ({"matrix": "a.gguf"}, {"matrix": "a.gguf"}),
        ({"matrix": "./none", "text": "b.txt"}, {"matrix": "./none", "text": "b.txt"}),
        ({"samples": "photos"}, {"samples": "photos"}),
        ({"unknown": "c"}, {}),
    ],
)
def test_what_names_a_file_is_known_from_the_schema(params: dict[str, Any], named: dict[str, str]) -> None:
    assert named_files(Params.model_json_schema(), params) == named


@pytest.mark.parametrize(("name", "may"), [("samples", True), ("text", False), ("matrix", False), ("unknown", False)])
def test_what_may_be_a_folder_is_known_from_the_schema(name: str, may: bool) -> None:
    assert may_be_folder(Params.model_json_schema(), name) == may
