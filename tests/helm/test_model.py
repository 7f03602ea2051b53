"""Schema, table and values.yaml say the same as the model in helm/model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from helm.model.generate import REMARK, defaults, generated, leaves, remarks, schema

CHART = Path(__file__).parents[2] / "helm" / "quantmill"


@pytest.mark.parametrize("name", ["values.schema.json", "README.md"])
def test_what_is_made_from_the_model_is_current(name: str) -> None:
    assert (CHART / name).read_text() == generated()[CHART / name], "run `make chart`"


def test_the_schema_is_itself_valid_draft_07() -> None:
    jsonschema.Draft7Validator.check_schema(schema())


def test_the_defaults_keep_to_the_schema() -> None:
    jsonschema.Draft7Validator(schema()).validate(defaults())


def test_every_object_in_the_schema_is_closed_or_says_what_its_keys_hold() -> None:
    still_open = {path for path, node in _objects(schema()) if node.get("additionalProperties") in (None, True)}

    assert still_open == {"/definitions/Global"}  # globals belong to every chart of a release


def test_beside_a_reference_nothing_stands_that_draft_07_would_not_read() -> None:
    assert [node for _, node in _maps(schema()) if "$ref" in node and len(node) > 1] == []


def test_values_yaml_sets_and_explains_each_value_of_the_model_once() -> None:
    explained = [line.split()[1] for line in _remark_lines()]

    assert sorted(explained) == sorted(leaves())
    assert sorted(_leaves(defaults(), set(explained))) == sorted(explained)


def test_remarks_stand_right_above_the_value_they_explain() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    below = {line.split()[2]: after.strip() for line, after in itertools.pairwise(lines) if REMARK in line}

    assert [path for path, line in below.items() if not line.startswith(path.rpartition(".")[2] + ":")] == []


def test_editors_are_told_what_each_value_does() -> None:
    whole = schema()

    assert whole["properties"]["config"]["description"] == remarks()["config"]
    assert whole["definitions"]["Pool"]["properties"]["slots"]["description"] == "jobs that one pod runs at a time"


def _remark_lines() -> list[str]:
    lines = (CHART / "values.yaml").read_text().splitlines()
    return [line.strip().removeprefix("## ") for line in lines if line.strip().startswith(REMARK)]


def _maps(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        return [found for i, item in enumerate(node) for found in _maps(item, f"{path}/{i}")]
    if not isinstance(node, dict):
        return []
    return [(path, node)] + [found for key, item in node.items() for found in _maps(item, f"{path}/{key}")]


def _objects(node: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(path, node) for path, node in _maps(node) if node.get("type") == "object"]


def _leaves(node: Any, explained: set[str], path: str = "") -> list[str]:
    if path in explained or not isinstance(node, dict):
        return [path]
    return [leaf for key, item in node.items() for leaf in _leaves(item, explained, f"{path}.{key}".lstrip("."))]
